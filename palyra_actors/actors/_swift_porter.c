/* The porter: who looks at the door's socket while the loop is busy with a round.
 *
 *     frames ──within what is open?──▶ batch ──collect, once a round──▶ the loop
 *                └─ no ──▶ `overloaded`, at once
 *
 * A refusal that waits for the round that is going on is late. So what comes meanwhile is received
 * here, by a thread that never holds the interpreter's lock: a plain append for which there is no
 * room is refused without an object being made of it, and everything else is put into the batch.
 * How much room there is the loop tells, as often as it changes (`porter_tell`); nothing is decided
 * here but who of those who come first is within it.
 *
 * A socket of libzmq may be used by one thread at a time. Whoever has the porter's lock has the
 * socket; the loop goes first (`porter_stop`). While little is to be done the porter is not called:
 * a lone frame is received by the loop itself, without a thread between them. While it is called,
 * the loop sleeps until something is taken in, and hears of refusals when it wakes anyway.
 */
#define _GNU_SOURCE
#include "_swift_door.h"
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    BATCH_MAX = 1024,
    BATCH_BYTES_MAX = 4 * 1024 * 1024,
    UNKNOWN_MAX = 512, /* frames of which nothing is known but their size, and */
    UNKNOWN_BYTES_MAX = 1024 * 1024,
    ODD_MAX = 192, /* the same beside plain appends: each may take long to look at */
    ODD_BYTES_MAX = 512 * 1024,
    ASIDE_MAX = 512,
    DUE_MAX = 256, /* refusals that are sent together */
    SENDERS_MAX = 2048,
    LINES_MAX = 1024, /* senders that are known on for what was refused to them: others come, too */
    TABLE_SIZE = 4096, /* a power of two, twice SENDERS_MAX */
    NAME_BYTES_MAX = 64,
    BURST = 32, /* frames for which the loop may have to wait: about a tenth of a millisecond */
    ID_BYTES_MAX = 66, /* of a request's id, encoded: 64 of text and its head */
    REPLY_BYTES_MAX = 512,
    SMALL_BYTES = 223 /* a frame of so many has seven bytes more around it on the wire */
};

/* -- what a frame is ------------------------------------------------------------------------------ */

static uint64_t
number_at(const uint8_t *at, int width)
{
    uint64_t value = 0;
    for (int i = 0; i < width; i++)
        value = value << 8 | at[i];
    return value;
}

/* Where the value that begins here ends, whatever it is; NULL: it does not end within the frame. */
static const uint8_t *
after_value(const uint8_t *at, const uint8_t *end)
{
    for (uint64_t left = 1; left; left--) {
        if (at >= end)
            return NULL;
        uint8_t head = *at++;
        uint64_t bytes = 0;
        int width = 0, children = 0;
        if (head < 0x80 || head >= 0xE0) {
        } else if (head < 0x90)
            left += 2 * (uint64_t)(head & 0x0F);
        else if (head < 0xA0)
            left += head & 0x0F;
        else if (head < 0xC0)
            bytes = head & 0x1F;
        else if (head == 0xC1)
            return NULL;
        else if (head >= 0xC4 && head <= 0xC9) { /* bin, ext */
            width = 1 << ((head - 0xC4) % 3);
            bytes = head >= 0xC7;
        } else if (head >= 0xCA && head <= 0xD3) /* float, uint, int */
            bytes = head < 0xCC ? 4u << (head - 0xCA) : 1u << ((head - 0xCC) % 4);
        else if (head >= 0xD4 && head <= 0xD8) /* fixext */
            bytes = (1u << (head - 0xD4)) + 1;
        else if (head >= 0xD9 && head <= 0xDB)
            width = 1 << (head - 0xD9);
        else if (head >= 0xDC) {
            width = head & 1 ? 4 : 2;
            children = head >= 0xDE ? 2 : 1;
        }
        if ((uint64_t)(end - at) < (uint64_t)width)
            return NULL;
        uint64_t number = number_at(at, width);
        at += width;
        if (children)
            left += (uint64_t)children * number;
        else
            bytes += number;
        if ((uint64_t)(end - at) < bytes)
            return NULL;
        at += bytes;
    }
    return at;
}

/* Whether an id is one that a reply can repeat as it stands here: a number, or a short plain text. */
static int
is_usable_id(const uint8_t *at, const uint8_t *end)
{
    uint8_t head = *at;
    if (head < 0x80 || (head >= 0xCC && head <= 0xCF))
        return 1;
    const uint8_t *text = at + (head == 0xD9 ? 2 : 1);
    if (!(head > 0xA0 && head < 0xC0) && head != 0xD9)
        return 0;
    for (at = text; at < end; at++)
        if (*at & 0x80)
            return 0;
    return end - text >= 1 && end - text <= ID_BYTES_MAX - 2;
}

/* Whether a frame is an append under the engine's own budget, in an envelope of which nothing has
 * to be said but that; and where its id stands. Everything else is for Python to look at. A body
 * that comes last is not looked into: one of 64 events would take ten times the rest. */
static int
is_plain_append(const uint8_t *frame, size_t size, size_t size_max, Arrival *one)
{
    static const char op[] = "\xaejournal.append";
    const uint8_t *end = frame + size, *at = frame + 1;
    if (size < 2 || size > size_max || (*frame & 0xF0) != 0x80)
        return 0;
    int seen = 0;
    for (int keys = *frame & 0x0F; keys; keys--) {
        if (at >= end || (*at & 0xE0) != 0xA0)
            return 0;
        const uint8_t *key = at + 1, *value = key + (*at & 0x1F), *next;
        size_t length = *at & 0x1F;
        if (value >= end)
            return 0;
        int is_rest = keys == 1 && length == 4 && !memcmp(key, "body", 4);
        if ((next = is_rest ? end : after_value(value, end)) == NULL)
            return 0;
        int known = 0;
        if (length == 1 && *key == 'v') {
            if (*value != 1)
                return 0;
            known = 1;
        } else if (length == 2 && !memcmp(key, "id", 2)) {
            if (!is_usable_id(value, next))
                return 0;
            one->id_begins = (int)(value - frame);
            one->id_ends = (int)(next - frame);
            known = 2;
        } else if (length == 2 && !memcmp(key, "op", 2)) {
            if ((size_t)(next - value) != sizeof op - 1 || memcmp(value, op, sizeof op - 1))
                return 0;
            known = 4;
        } else if (length == 9 && !memcmp(key, "budget_ms", 9))
            return 0;
        if (seen & known)
            return 0;
        seen |= known;
        at = next;
    }
    return seen == 7 && at == end;
}

/* -- who comes -------------------------------------------------------------------------------- */

enum { SENT, FULL, GONE };

typedef struct {
    uint8_t name[NAME_BYTES_MAX];
    uint8_t length, delimited;
    int descriptor, status;
    double held;   /* load of it that the loop has */
    double queued; /* and that is in the batch */
    double line_at; /* when those of it that were refused could be served beside all other lines */
    Py_ssize_t refused, refused_bytes, refused_large;
    int16_t first, last; /* of the refusals that are due to it; without any, first is -1 */
} Sender;

typedef struct {
    int16_t sender, next; /* next: of those that are due to the same sender, or -1 */
    int length;
    uint8_t reply[REPLY_BYTES_MAX];
} Refusal;

typedef struct {
    int count, odd, senders, asides, busy, lines; /* busy: senders with load; lines: see `refuse` */
    Py_ssize_t bytes, odd_bytes, refused;
    double load;
    int16_t table[TABLE_SIZE];
    Sender sender[SENDERS_MAX];
    Arrival arrival[BATCH_MAX];
    Refusal aside[ASIDE_MAX];
} Batch;

struct Porter {
    void *socket;
    int descriptor, bell, loop_bell;
    pthread_t thread;
    pthread_mutex_t next, held; /* see porter_stop */
    int running, called, asleep, closing, full, empty, failed;
    double since; /* what is received next may have been there since then */
    Batch *batch, *spare;
    size_t size_max;
    int due_count, due_senders; /* refusals to be sent, and to whom */
    int16_t due_to[DUE_MAX];
    Refusal due[DUE_MAX];
    /* what the loop told */
    int sifts;
    double room, most, before, load_s, wait_s_max, through_at, served_at;
    uint8_t head[REPLY_BYTES_MAX], middle[REPLY_BYTES_MAX];
    Py_ssize_t head_length, middle_length;
};

static const char PORTER[] = "_swift_door.porter";

static double
now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The thread lets the loop go first: whoever waits for `held` has `next`. */
void
porter_stop(Porter *porter)
{
    pthread_mutex_lock(&porter->next);
    pthread_mutex_lock(&porter->held);
    pthread_mutex_unlock(&porter->next);
}

static int
has_input(Porter *porter)
{
    int events = 0;
    size_t size = sizeof events;
    return zmq_getsockopt_(porter->socket, EVENTS, &events, &size) == 0 && events & EVENT_IN;
}

static void
ring(int bell)
{
    uint64_t one = 1;
    while (write(bell, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* Whether the loop has something to do: what was refused it may hear of later. */
static int
has_work(const Porter *porter)
{
    return porter->batch->count || porter->batch->asides || porter->full || porter->failed;
}

static int
works(Porter *porter)
{
    return porter->called && !porter->full && !porter->closing;
}

/* What the loop sent may have taken along the signal that something has come. */
void
porter_go_on(Porter *porter)
{
    int look = works(porter) && has_input(porter);
    pthread_mutex_unlock(&porter->held);
    if (look)
        ring(porter->bell);
}

static void
batch_clear(Batch *batch)
{
    batch->count = batch->odd = batch->senders = batch->asides = batch->busy = batch->lines = 0;
    batch->bytes = batch->odd_bytes = batch->refused = 0;
    batch->load = 0;
    memset(batch->table, -1, sizeof batch->table);
}

/* Its place among those who have come, or -1: its name is too long, or there are too many. */
static int
find_sender(Batch *batch, const uint8_t *name, size_t length, int delimited)
{
    if (length > NAME_BYTES_MAX)
        return -1;
    uint32_t hash = 2166136261u ^ (uint32_t)delimited;
    for (size_t at = 0; at < length; at++)
        hash = (hash ^ name[at]) * 16777619u;
    uint32_t place = (hash ^ hash >> 16) & (TABLE_SIZE - 1);
    for (; batch->table[place] >= 0; place = (place + 1) & (TABLE_SIZE - 1)) {
        Sender *one = &batch->sender[batch->table[place]];
        if (one->length == length && one->delimited == delimited &&
            !memcmp(one->name, name, length))
            return batch->table[place];
    }
    if (batch->senders == SENDERS_MAX)
        return -1;
    Sender *made = &batch->sender[batch->senders];
    *made = (Sender){.length = (uint8_t)length, .delimited = (uint8_t)delimited, .descriptor = -1,
                      .first = -1};
    memcpy(made->name, name, length);
    batch->table[place] = (int16_t)batch->senders;
    return batch->senders++;
}

static void
hold(Batch *batch, Sender *sender, double held, double queued)
{
    batch->busy += sender->held + sender->queued <= 0 && held + queued > 0;
    sender->held += held;
    sender->queued += queued;
}

/* Whether it lies within the room, or within `most` and its sender has less than an equal share of
 * the room; as `admission._fits`. */
static int
fits(Porter *porter, Sender *sender, double load)
{
    Batch *batch = porter->batch;
    double before = porter->before + batch->load, held = sender->held + sender->queued;
    if (before <= 0 || before + load <= porter->room)
        return porter->room > 0;
    return before + load <= porter->most &&
           held + load <= porter->room / (batch->busy + (held <= 0));
}

/* -- refusing --------------------------------------------------------------------------------- */

static int
write_refusal(const Porter *porter, Arrival *one, double wait_s, uint8_t *reply)
{
    uint8_t *at = reply;
    Py_ssize_t id_bytes = one->id_ends - one->id_begins;
    memcpy(at, porter->head, (size_t)porter->head_length);
    at += porter->head_length;
    memcpy(at, (const char *)msg_data(&one->payload) + one->id_begins, (size_t)id_bytes);
    at += id_bytes;
    memcpy(at, porter->middle, (size_t)porter->middle_length);
    at += porter->middle_length;
    double wait_ms = fmin(ceil(wait_s * 1000), porter->wait_s_max * 1000); /* it was rounded */
    unsigned ms = wait_ms < 1 ? 1 : wait_ms > 65535 ? 65535 : (unsigned)wait_ms;
    if (ms >= 0x80)
        *at++ = ms > 0xFF ? 0xCD : 0xCC;
    if (ms > 0xFF)
        *at++ = (uint8_t)(ms >> 8);
    *at++ = (uint8_t)ms;
    return (int)(at - reply);
}

/* A reply that its pipe does not take is for the loop to keep, and those behind it. */
static void
send_refusal(Porter *porter, Sender *sender, const Refusal *due)
{
    if (sender->status == SENT &&
        (send_part(porter->socket, (const char *)sender->name, sender->length,
                   DONTWAIT | SNDMORE) < 0 ||
         (sender->delimited && send_part(porter->socket, "", 0, DONTWAIT | SNDMORE) < 0) ||
         send_part(porter->socket, (const char *)due->reply, due->length, DONTWAIT) < 0))
        sender->status = zmq_errno_() == EAGAIN ? FULL : GONE;
    if (sender->status == FULL)
        porter->batch->aside[porter->batch->asides++] = *due;
}

/* Those of one sender one behind the other: a thread of libzmq that sleeps is woken for the first
 * of them, which takes as long as to refuse ten. */
static void
send_due(Porter *porter)
{
    for (int i = 0; i < porter->due_senders; i++) {
        Sender *sender = &porter->batch->sender[porter->due_to[i]];
        for (int at = sender->first; at >= 0; at = porter->due[at].next)
            send_refusal(porter, sender, &porter->due[at]);
        sender->first = -1;
    }
    porter->due_count = porter->due_senders = 0;
}

/* Those who are refused are told to come back one after the other, once what is under way is
 * through, but nobody behind more of another connection's than of its own; as
 * `admission._retry_ms`. */
static void
refuse(Porter *porter, Arrival *one, int place, double load)
{
    if (porter->due_count == DUE_MAX)
        send_due(porter);
    Sender *sender = &porter->batch->sender[place];
    double now = now_s(), last = now + porter->wait_s_max, work_s = load * porter->load_s;
    double through_at = fmax(now, porter->through_at);
    porter->served_at = fmin(fmax(porter->served_at, through_at) + work_s, last);
    porter->batch->lines += sender->line_at <= 0;
    sender->line_at =
        fmin(fmax(sender->line_at, through_at) + work_s * porter->batch->lines, last);
    Refusal *due = &porter->due[porter->due_count];
    due->sender = (int16_t)place;
    due->length = write_refusal(porter, one, fmin(sender->line_at, porter->served_at) - now,
                                due->reply);
    due->next = -1;
    if (sender->first < 0) {
        porter->due_to[porter->due_senders++] = (int16_t)place;
        sender->first = (int16_t)porter->due_count;
    } else
        porter->due[sender->last].next = (int16_t)porter->due_count;
    sender->last = (int16_t)porter->due_count++;
    size_t size = msg_size(&one->payload);
    sender->refused++;
    sender->refused_bytes += (Py_ssize_t)size;
    sender->refused_large += size >= SMALL_BYTES;
    porter->batch->refused++;
}

/* -- receiving -------------------------------------------------------------------------------- */

static int
is_full(const Porter *porter)
{
    const Batch *batch = porter->batch;
    return batch->count == BATCH_MAX || batch->bytes >= BATCH_BYTES_MAX ||
           batch->asides + porter->due_count >= ASIDE_MAX ||
           batch->odd >= (porter->sifts ? ODD_MAX : UNKNOWN_MAX) ||
           batch->odd_bytes >= (porter->sifts ? ODD_BYTES_MAX : UNKNOWN_BYTES_MAX);
}

/* Receive up to so many. 1: there may be more. The lock is held. What is left behind counts from the
 * beginning of this. */
static int
receive_some(Porter *porter, int most)
{
    Batch *batch = porter->batch;
    double began = now_s();
    porter->empty = 0;
    for (int i = 0; i < most; i++) {
        if ((porter->full = is_full(porter))) {
            porter->since = began;
            return 0;
        }
        Arrival *one = &batch->arrival[batch->count];
        int got = receive_one(one, porter->socket);
        if (got <= 0) {
            porter->empty = got == 0;
            porter->failed = got < 0 ? errno : 0;
            porter->since = now_s();
            return 0;
        }
        one->arrived = porter->since;
        size_t size = msg_size(&one->payload);
        int place = find_sender(batch, msg_data(&one->identity), msg_size(&one->identity),
                                one->delimited);
        int plain = porter->sifts && place >= 0 && !one->junk &&
                    is_plain_append(msg_data(&one->payload), size, porter->size_max, one);
        one->promised = plain;
        if (place >= 0)
            batch->sender[place].descriptor = one->descriptor;
        if (!plain) {
            batch->odd++;
            batch->odd_bytes += (Py_ssize_t)size;
        } else {
            double load = (double)(2 + (size >> 8)); /* `steering.load_of` */
            if (!fits(porter, &batch->sender[place], load)) {
                refuse(porter, one, place, load);
                msg_close(&one->identity);
                msg_close(&one->payload);
                continue;
            }
            batch->load += load;
            hold(batch, &batch->sender[place], 0, load);
        }
        batch->count++;
        batch->bytes += (Py_ssize_t)size + 1;
    }
    porter->since = began;
    return 1;
}

static void *
run(void *argument)
{
    Porter *porter = argument;
    int more = 0, look = 0;
    for (;;) {
        if (!more) {
            struct pollfd polled[] = {{porter->bell, POLLIN, 0}, {porter->descriptor, POLLIN, 0}};
            if (poll(polled, look ? 2 : 1, -1) < 0 && errno != EINTR)
                return NULL;
            uint64_t rung;
            if (polled[0].revents && read(porter->bell, &rung, sizeof rung) < 0 && errno != EAGAIN)
                return NULL;
        }
        pthread_mutex_lock(&porter->next);
        pthread_mutex_lock(&porter->held);
        pthread_mutex_unlock(&porter->next);
        if (porter->closing) {
            pthread_mutex_unlock(&porter->held);
            return NULL;
        }
        if (!more && look && porter->empty)
            porter->since = now_s(); /* it came just now: until then it was waited for */
        more = works(porter) ? receive_some(porter, BURST) : 0;
        if (!more || porter->due_count > DUE_MAX - BURST)
            send_due(porter);
        look = works(porter) && !porter->failed;
        int wake = porter->asleep && has_work(porter);
        porter->asleep &= !wake;
        pthread_mutex_unlock(&porter->held);
        if (wake)
            ring(porter->loop_bell);
    }
}

/* -- what the loop calls ---------------------------------------------------------------------- */

Porter *
porter_of(PyObject *capsule)
{
    return PyCapsule_GetPointer(capsule, PORTER);
}

/* `says`: those that were refused are told so still, for which the socket has to be there. */
static void
end(Porter *porter, int says)
{
    if (!porter->running)
        return;
    porter->running = 0;
    porter_stop(porter);
    porter->closing = 1;
    pthread_mutex_unlock(&porter->held);
    ring(porter->bell);
    pthread_join(porter->thread, NULL);
    if (says)
        send_due(porter);
    porter->due_count = porter->due_senders = 0;
    Batch *batch = porter->batch;
    for (int i = 0; i < batch->count; i++) {
        msg_close(&batch->arrival[i].identity);
        msg_close(&batch->arrival[i].payload);
    }
    batch_clear(batch);
}

static void
porter_free(PyObject *capsule)
{
    Porter *porter = porter_of(capsule);
    if (porter == NULL)
        return;
    end(porter, 0);
    close(porter->bell);
    close(porter->loop_bell);
    pthread_mutex_destroy(&porter->next);
    pthread_mutex_destroy(&porter->held);
    PyMem_RawFree(porter->batch);
    PyMem_RawFree(porter->spare);
    PyMem_RawFree(porter);
}

/* (socket, its descriptor, bytes of the largest plain append, a refusal's head and middle, the most
 * seconds that anyone is told to wait, the thread's name) */
PyObject *
porter_new(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long address;
    int descriptor;
    Py_ssize_t size_max;
    Py_buffer head, middle;
    double wait_s_max;
    const char *name;
    if (!PyArg_ParseTuple(args, "Kiny*y*ds:porter", &address, &descriptor, &size_max, &head,
                          &middle, &wait_s_max, &name))
        return NULL;
    PyObject *capsule = NULL;
    Porter *porter = PyMem_RawCalloc(1, sizeof(Porter));
    if (porter == NULL) {
        PyErr_NoMemory();
    } else if (msg_recv == NULL || head.len + middle.len + ID_BYTES_MAX + 3 > REPLY_BYTES_MAX) {
        PyErr_SetString(PyExc_ValueError, "not set up, or the refusal is too long");
    } else {
        porter->socket = (void *)(uintptr_t)address;
        porter->descriptor = descriptor;
        porter->size_max = (size_t)size_max;
        porter->wait_s_max = wait_s_max;
        porter->asleep = 1;
        porter->since = now_s();
        porter->batch = PyMem_RawMalloc(sizeof(Batch));
        porter->spare = PyMem_RawMalloc(sizeof(Batch));
        porter->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        porter->loop_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        memcpy(porter->head, head.buf, (size_t)head.len);
        memcpy(porter->middle, middle.buf, (size_t)middle.len);
        porter->head_length = head.len;
        porter->middle_length = middle.len;
        pthread_mutex_init(&porter->next, NULL);
        pthread_mutex_init(&porter->held, NULL);
        if (porter->batch == NULL || porter->spare == NULL || porter->bell < 0 ||
            porter->loop_bell < 0) {
            PyErr_NoMemory();
        } else {
            batch_clear(porter->batch);
            capsule = PyCapsule_New(porter, PORTER, porter_free);
        }
    }
    PyBuffer_Release(&head);
    PyBuffer_Release(&middle);
    if (capsule == NULL) {
        if (porter != NULL) {
            PyMem_RawFree(porter->batch);
            PyMem_RawFree(porter->spare);
        }
        PyMem_RawFree(porter);
        return NULL;
    }
    sigset_t all, before; /* signals are for the threads that know of them */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&porter->thread, NULL, run, porter);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    porter->running = !failed;
    if (!failed)
        pthread_setname_np(porter->thread, name); /* longer than 15 bytes it is not taken */
    else {
        Py_DECREF(capsule);
        errno = failed;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return capsule;
}

PyObject *
porter_close(PyObject *module, PyObject *capsule)
{
    (void)module;
    Porter *porter = porter_of(capsule);
    if (porter == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    end(porter, 1);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* The batch goes to the loop; what the loop has of each sender is known until it tells anew, and
 * until when those of it wait that were refused. */
static Batch *
take_batch(Porter *porter)
{
    Batch *batch = porter->batch, *next = porter->spare;
    batch_clear(next);
    double now = now_s();
    for (int i = 0; i < batch->senders; i++) {
        const Sender *one = &batch->sender[i];
        int waits = one->line_at > now && next->lines < LINES_MAX;
        if (one->held + one->queued <= 0 && !waits)
            continue;
        Sender *kept = &next->sender[find_sender(next, one->name, one->length, one->delimited)];
        if (one->held + one->queued > 0)
            hold(next, kept, one->held + one->queued, 0);
        kept->line_at = waits ? one->line_at : 0;
        next->lines += waits;
    }
    porter->before += batch->load;
    porter->batch = next;
    porter->spare = batch;
    porter->full = 0;
    return batch;
}

static PyObject *
batch_arrivals(Batch *batch)
{
    PyObject *list = PyList_New(batch->count), *identity = NULL;
    for (int i = 0; i < batch->count; i++) {
        Arrival *one = &batch->arrival[i];
        PyObject *made = list == NULL ? NULL : arrival_object(one, &identity);
        PyObject *all = made == NULL ? NULL
                                     : Py_BuildValue("(NdO)", made, one->arrived,
                                                     one->promised ? Py_True : Py_False);
        if (all == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, all);
        msg_close(&one->identity);
        msg_close(&one->payload);
    }
    Py_XDECREF(identity);
    batch->count = 0;
    return list;
}

static PyObject *
batch_refused(Batch *batch)
{
    PyObject *list = PyList_New(0);
    for (int i = 0; batch->refused && list != NULL && i < batch->senders; i++) {
        Sender *one = &batch->sender[i];
        if (!one->refused)
            continue;
        PyObject *made =
            Py_BuildValue("(y#Oinnni)", (const char *)one->name, (Py_ssize_t)one->length,
                          one->delimited ? Py_True : Py_False, one->descriptor, one->refused,
                          one->refused_bytes, one->refused_large, one->status);
        if (made == NULL || PyList_Append(list, made) < 0)
            Py_CLEAR(list);
        Py_XDECREF(made);
    }
    return list;
}

static PyObject *
batch_aside(Batch *batch)
{
    PyObject *list = PyList_New(batch->asides);
    for (int i = 0; list != NULL && i < batch->asides; i++) {
        Refusal *aside = &batch->aside[i];
        Sender *one = &batch->sender[aside->sender];
        PyObject *made =
            Py_BuildValue("(y#Oy#)", (const char *)one->name, (Py_ssize_t)one->length,
                          one->delimited ? Py_True : Py_False, (const char *)aside->reply,
                          (Py_ssize_t)aside->length);
        if (made == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, made);
    }
    return list;
}

/* (porter, frames) → (what has come, up to about so many beyond what the porter had; whether
 * nothing is left; who was refused how much; replies that were not taken; when the last of the
 * refused may be served) */
PyObject *
porter_collect(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule;
    int most;
    if (!PyArg_ParseTuple(args, "Oi:collect", &capsule, &most))
        return NULL;
    Porter *porter = porter_of(capsule);
    if (porter == NULL)
        return NULL;
    Batch *batch = NULL;
    int empty, failed, look;
    double served_at;
    Py_BEGIN_ALLOW_THREADS
    porter_stop(porter);
    receive_some(porter, most);
    send_due(porter);
    empty = porter->empty;
    failed = porter->failed;
    porter->failed = 0;
    served_at = porter->served_at;
    batch = take_batch(porter);
    look = works(porter) && !empty;
    pthread_mutex_unlock(&porter->held);
    if (look)
        ring(porter->bell);
    Py_END_ALLOW_THREADS
    PyObject *came = batch_arrivals(batch);
    if (failed && came != NULL && !PyList_GET_SIZE(came)) {
        Py_DECREF(came);
        errno = failed;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *refused = came ? batch_refused(batch) : NULL;
    PyObject *aside = refused ? batch_aside(batch) : NULL;
    if (aside == NULL) {
        Py_XDECREF(came);
        Py_XDECREF(refused);
        return NULL;
    }
    return Py_BuildValue("(NONNd)", came, empty ? Py_True : Py_False, refused, aside, served_at);
}

/* (porter, whether to refuse at all, room, the most for whoever has less than its share, load before what comes next, when that is through, when
 * who was refused last may be served, seconds a unit of load takes, whether the thread is called,
 * [(identity, delimited, load that the loop has of it)]) */
PyObject *
porter_tell(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule, *accounts;
    int sifts, called;
    double room, most, before, through_at, served_at, load_s;
    if (!PyArg_ParseTuple(args, "OpddddddpO!:tell", &capsule, &sifts, &room, &most, &before, &through_at,
                          &served_at, &load_s, &called, &PyList_Type, &accounts))
        return NULL;
    Porter *porter = porter_of(capsule);
    if (porter == NULL)
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(accounts);
    for (Py_ssize_t i = 0; i < count; i++) { /* before anything is changed */
        PyObject *identity;
        int delimited;
        double load;
        PyObject *one = PyList_GET_ITEM(accounts, i);
        if (!PyTuple_Check(one)) {
            PyErr_SetString(PyExc_TypeError, "an account is a tuple");
            return NULL;
        }
        if (!PyArg_ParseTuple(one, "Spd:tell", &identity, &delimited, &load))
            return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    porter_stop(porter);
    Py_END_ALLOW_THREADS
    Batch *batch = porter->batch;
    porter->sifts = sifts;
    porter->room = room;
    porter->most = most;
    porter->before = before;
    porter->through_at = through_at;
    porter->served_at = fmax(porter->served_at, served_at);
    porter->load_s = load_s;
    batch->busy = 0;
    for (int i = 0; i < batch->senders; i++) {
        batch->sender[i].held = 0;
        batch->busy += batch->sender[i].queued > 0;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *one = PyList_GET_ITEM(accounts, i), *identity = PyTuple_GET_ITEM(one, 0);
        int place = find_sender(batch, (const uint8_t *)PyBytes_AS_STRING(identity),
                                (size_t)PyBytes_GET_SIZE(identity),
                                PyObject_IsTrue(PyTuple_GET_ITEM(one, 1)));
        if (place >= 0)
            hold(batch, &batch->sender[place], PyFloat_AsDouble(PyTuple_GET_ITEM(one, 2)), 0);
    }
    int look = called && !porter->called;
    porter->called = called;
    look = look && works(porter);
    pthread_mutex_unlock(&porter->held);
    if (look)
        ring(porter->bell);
    Py_RETURN_NONE;
}

/* What the loop is to be woken by where the thread works while it sleeps. */
PyObject *
porter_bell(PyObject *module, PyObject *capsule)
{
    (void)module;
    Porter *porter = porter_of(capsule);
    return porter == NULL ? NULL : PyLong_FromLong(porter->loop_bell);
}

/* The loop is about to sleep. True: nothing is left for it. */
PyObject *
porter_rest(PyObject *module, PyObject *capsule)
{
    (void)module;
    Porter *porter = porter_of(capsule);
    if (porter == NULL)
        return NULL;
    int nothing;
    Py_BEGIN_ALLOW_THREADS
    porter_stop(porter);
    nothing = !has_work(porter) && (porter->called || !has_input(porter));
    porter->asleep = nothing;
    pthread_mutex_unlock(&porter->held);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(nothing);
}

/* (porter, since when what is there now may have been there): the loop is awake. */
PyObject *
porter_wake(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule;
    double since;
    if (!PyArg_ParseTuple(args, "Od:wake", &capsule, &since))
        return NULL;
    Porter *porter = porter_of(capsule);
    if (porter == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    porter_stop(porter);
    if (!porter->called)
        porter->since = since;
    porter->asleep = 0;
    pthread_mutex_unlock(&porter->held);
    uint64_t rung;
    while (read(porter->loop_bell, &rung, sizeof rung) < 0 && errno == EINTR)
        ;
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}
