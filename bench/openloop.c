/* The loop of `openloop.py`: frames out when they are due, replies into columns of numbers.
 *
 * In C, so that it takes a few per cent of a core and is itself in time: a reply that waits for its
 * reader would count against the engine. A frame is a row of bytes in which ids are columns.
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { OK, REFUSED, FAILED, WAITING, UNSENT };
enum { IN_BYTES = 1 << 20, PLACES_MAX = 1024, ID_BYTES = 26, PLAY_LATE_S = 60 };

/* What follows the id in a refusal, up to its milliseconds. */
enum { REST_AT = 12, MS_BYTES_MAX = 3 };
static uint8_t usual[512];
static size_t usual_bytes;

typedef struct {
    int fd, closed;
    uint8_t *out, *in;
    size_t out_begin, out_end, out_room, in_end;
} Connection;

typedef struct {
    int connections;
    Connection *each;
    struct pollfd *polled;
    uint8_t *row, *names;
    int64_t row_bytes, id_at, names_count, events, next;
    int64_t session_at[PLACES_MAX], event_at[PLACES_MAX], sessions, turn;
} Load;

/* What became of the requests: columns of `count` rows, or NULL where nobody asks. */
typedef struct {
    int64_t count, base;
    const double *due;
    double *sent, *answered, *total_ms;
    int8_t *code;
    uint8_t *within, *given_up;
} Columns;

/* Those who were refused and have to stay away: until when. */
typedef struct {
    double *back;
    int64_t count;
} Refusals;

static double
now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

Load *
load_new(int connections, const int *fds, const uint8_t *row, int64_t row_bytes, int64_t id_at,
         int64_t sessions, const int64_t *session_at, int64_t events, const int64_t *event_at)
{
    if (sessions > PLACES_MAX || events > PLACES_MAX)
        return NULL;
    Load *load = calloc(1, sizeof(Load));
    load->connections = connections;
    load->each = calloc((size_t)connections, sizeof(Connection));
    load->polled = calloc((size_t)connections, sizeof(struct pollfd));
    for (int i = 0; i < connections; i++) {
        load->each[i].fd = fds[i];
        load->each[i].in = malloc(IN_BYTES);
        load->polled[i] = (struct pollfd){fds[i], POLLIN, 0};
    }
    load->row = malloc((size_t)row_bytes);
    memcpy(load->row, row, (size_t)row_bytes);
    load->row_bytes = row_bytes;
    load->id_at = id_at;
    load->sessions = sessions;
    memcpy(load->session_at, session_at, sizeof(int64_t) * (size_t)sessions);
    load->events = events;
    memcpy(load->event_at, event_at, sizeof(int64_t) * (size_t)events);
    return load;
}

void
load_use(Load *load, const uint8_t *names, int64_t count)
{
    free(load->names);
    load->names = malloc((size_t)(count * ID_BYTES));
    memcpy(load->names, names, (size_t)(count * ID_BYTES));
    load->names_count = count;
}

void
load_free(Load *load)
{
    for (int i = 0; i < load->connections; i++) {
        free(load->each[i].out);
        free(load->each[i].in);
    }
    free(load->each);
    free(load->polled);
    free(load->row);
    free(load->names);
    free(load);
}

/* The next frame, with this id, behind what the connection has to send. */
static void
make(Load *load, Connection *one, uint32_t id)
{
    static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    size_t bytes = (size_t)load->row_bytes;
    if (one->out_begin == one->out_end)
        one->out_begin = one->out_end = 0;
    if (one->out_end + bytes > one->out_room) {
        one->out_room = 2 * (one->out_end + bytes);
        one->out = realloc(one->out, one->out_room);
    }
    uint8_t *frame = one->out + one->out_end;
    one->out_end += bytes;
    memcpy(frame, load->row, bytes);
    for (int i = 0; i < 4; i++)
        frame[load->id_at + i] = (uint8_t)(id >> (24 - 8 * i));
    int64_t serial = load->next++;
    const uint8_t *name = load->names + serial % load->names_count * ID_BYTES;
    for (int64_t i = 0; i < load->sessions; i++)
        memcpy(frame + load->session_at[i], name, ID_BYTES);
    for (int64_t i = 0; i < load->events; i++) {
        uint64_t event = (uint64_t)(serial * load->events + i);
        uint8_t *last = frame + load->event_at[i] + ID_BYTES - 1;
        for (int digit = 0; digit < 9; digit++, event >>= 5)
            *last-- = (uint8_t)digits[event & 31];
    }
}

static void
flush(Connection *one)
{
    while (one->out_begin < one->out_end && !one->closed) {
        ssize_t taken = send(one->fd, one->out + one->out_begin, one->out_end - one->out_begin,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
        if (taken < 0) {
            if (errno == EINTR)
                continue;
            one->closed = errno != EAGAIN;
            return;
        }
        one->out_begin += (size_t)taken;
    }
}

/* Whether it says what the refusal before it said, but for when to come back: most do, and to search
 * each for its words takes half of what the load takes. */
static int
is_usual_refusal(const uint8_t *reply, size_t bytes)
{
    return usual_bytes && bytes >= REST_AT + usual_bytes &&
           !memcmp(reply + REST_AT, usual, usual_bytes);
}

static void
remember_refusal(const uint8_t *reply, size_t bytes)
{
    if (bytes <= REST_AT + MS_BYTES_MAX || bytes > REST_AT + sizeof usual)
        return;
    usual_bytes = bytes - REST_AT - MS_BYTES_MAX;
    memcpy(usual, reply + REST_AT, usual_bytes);
}

/* One reply into its row. 1: it has one. */
static int
take(const Columns *to, const uint8_t *reply, size_t bytes, double now, int *ok)
{
    *ok = bytes > 15 && !memcmp(reply + 12, "\xa2ok", 3);
    if (to->code == NULL)
        return 1;
    if (bytes < 15)
        return 0;
    uint32_t id = (uint32_t)reply[8] << 24 | (uint32_t)reply[9] << 16 | (uint32_t)reply[10] << 8 |
                  reply[11];
    int64_t place = (int64_t)id - to->base;
    if (place < 0 || place >= to->count)
        return 0; /* of a run before */
    to->answered[place] = now;
    if (*ok) {
        to->code[place] = OK;
        for (size_t at = bytes; at-- > 20;)
            if (!memcmp(reply + at - 9, "total_ms\xcb", 9)) {
                uint64_t bits = 0;
                for (int i = 0; i < 8; i++)
                    bits = bits << 8 | reply[at + (size_t)i];
                memcpy(&to->total_ms[place], &bits, 8);
                break;
            }
        to->within[place] = reply[bytes - 1] == 0xC3;
    } else if (is_usual_refusal(reply, bytes))
        to->code[place] = REFUSED;
    else {
        to->code[place] = memmem(reply, bytes, "overloaded", 10) ? REFUSED : FAILED;
        to->given_up[place] = memmem(reply, bytes, "waited too long", 15) != NULL;
        if (to->code[place] == REFUSED && !to->given_up[place])
            remember_refusal(reply, bytes);
    }
    return 1;
}

/* When whoever got this refusal may come back, in seconds from now. */
static double
come_back_s(const uint8_t *reply, size_t bytes)
{
    static const char key[] = "retry_after_ms";
    const uint8_t *at = memmem(reply, bytes, key, sizeof key - 1);
    if (at == NULL || (at += sizeof key - 1) + 3 > reply + bytes)
        return 0;
    int ms = *at == 0xCD ? at[1] << 8 | at[2] : *at == 0xCC ? at[1] : *at;
    return ms * 1e-3;
}

/* What has come on a connection; how many replies that is. */
static int64_t
receive(Connection *one, const Columns *to, double began, int64_t *oks, Refusals *refusals)
{
    ssize_t got = recv(one->fd, one->in + one->in_end, IN_BYTES - one->in_end, MSG_DONTWAIT);
    if (got <= 0) {
        one->closed = got == 0 || (errno != EAGAIN && errno != EINTR);
        return 0;
    }
    one->in_end += (size_t)got;
    double now = now_s() - began;
    int64_t count = 0;
    size_t at = 0;
    while (one->in_end - at >= 2) {
        const uint8_t *head = one->in + at;
        size_t size = head[1], around = 2;
        if (head[0] & 2) {
            if (one->in_end - at < 9)
                break;
            size = 0;
            for (int i = 1; i < 9; i++)
                size = size << 8 | head[i];
            around = 9;
        }
        if (size > IN_BYTES - 9) {
            one->closed = 1;
            break;
        }
        if (one->in_end - at < around + size)
            break;
        int ok;
        if (!(head[0] & 4) && take(to, head + around, size, now, &ok)) {
            count++;
            *oks += ok;
            if (!ok && refusals != NULL)
                refusals->back[refusals->count++] = now + come_back_s(head + around, size);
        }
        at += around + size;
    }
    one->in_end -= at;
    memmove(one->in, one->in + at, one->in_end);
    return count;
}

/* What is due, over the connections in turn, a part to each; how many found no room. */
static int64_t
send_due(Load *load, const Columns *to, int64_t from, int64_t end, double now)
{
    int64_t lost = 0, share = (end - from) / load->connections;
    share = share ? share : 1;
    while (from < end) {
        Connection *one = &load->each[load->turn++ % load->connections];
        int64_t count = end - from < share ? end - from : share;
        int room = !one->closed && one->out_begin == one->out_end;
        for (int64_t i = from; i < from + count; i++) {
            to->sent[i] = now;
            if (room)
                make(load, one, (uint32_t)(to->base + i));
            else
                to->code[i] = UNSENT;
        }
        if (room)
            flush(one);
        else
            lost += count;
        from += count;
    }
    return lost;
}

static void
look(Load *load, double wait_s)
{
    for (int i = 0; i < load->connections; i++) {
        Connection *one = &load->each[i];
        load->polled[i].fd = one->closed ? -1 : one->fd;
        load->polled[i].events = one->out_begin < one->out_end ? POLLIN | POLLOUT : POLLIN;
    }
    wait_s = wait_s < 0 ? 0 : wait_s > 0.02 ? 0.02 : wait_s;
    struct timespec wait = {0, (long)(wait_s * 1e9)};
    ppoll(load->polled, (nfds_t)load->connections, &wait, NULL);
}

/* Open loop: requests are sent when they are due, looked for every `slice_s`, and answers waited
 * for until `ends_s`. Seconds of processor time that it took. */
double
load_run(Load *load, const Columns *to, double slice_s, double ends_s)
{
    struct timespec cpu;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    double before = (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9, began = now_s();
    int64_t sent = 0, left = to->count, oks = 0;
    for (;;) {
        double now = now_s() - began;
        if (now > ends_s || (sent == to->count && !left))
            break;
        int64_t due = sent;
        while (due < to->count && to->due[due] <= now)
            due++;
        left -= send_due(load, to, sent, due, now);
        sent = due;
        double wait = sent < to->count ? to->due[sent] - (now_s() - began) : 0.02;
        look(load, wait > slice_s ? wait : slice_s);
        for (int i = 0; i < load->connections; i++) {
            Connection *one = &load->each[i];
            flush(one);
            if (load->polled[i].revents & (POLLIN | POLLHUP | POLLERR))
                left -= receive(one, to, began, &oks, NULL);
        }
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    return (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9 - before;
}

/* Closed loop over the first `busy` connections: as many as are answered are sent, `share` in
 * flight on each. How many were answered `ok`. */
int64_t
load_closed(Load *load, int busy, int64_t share, uint32_t *next_id, double seconds, double *took)
{
    const Columns nowhere = {0};
    int64_t oks = 0;
    double began = now_s();
    for (int i = 0; i < busy; i++) {
        for (int64_t n = 0; n < share; n++)
            make(load, &load->each[i], (*next_id)++);
        flush(&load->each[i]);
    }
    while ((*took = now_s() - began) < seconds) {
        look(load, 0.02);
        for (int i = 0; i < load->connections; i++) {
            Connection *one = &load->each[i];
            if (load->polled[i].revents & (POLLIN | POLLHUP | POLLERR)) {
                int64_t count = receive(one, &nowhere, began, &oks, NULL);
                for (int64_t n = 0; n < count; n++)
                    make(load, one, (*next_id)++);
            }
            flush(one);
        }
    }
    return oks;
}

/* Read until nothing has come for `quiet_s`. */
void
load_drain(Load *load, double quiet_s, double most_s)
{
    const Columns nowhere = {0};
    double ends = now_s() + most_s, quiet_at = now_s() + quiet_s;
    int64_t oks = 0;
    while (now_s() < quiet_at && now_s() < ends) {
        look(load, 0.02);
        for (int i = 0; i < load->connections; i++) {
            flush(&load->each[i]);
            if (load->polled[i].revents && receive(&load->each[i], &nowhere, 0, &oks, NULL))
                quiet_at = now_s() + quiet_s;
        }
    }
}

/* Closed loop of frames that are made already, one behind the other: frame i ends at `ends[i]`, and
 * `window` of them are in flight on this connection, until `seconds` are over or all are sent. Who is
 * refused sends the next one when it was told to come back. When each was sent and answered, and
 * what became of it, is in `to`. How many were answered. */
int64_t
load_play(int fd, const uint8_t *frames, const int64_t *ends, int64_t window, double seconds,
          const Columns *to)
{
    Connection one = {.fd = fd, .in = malloc(IN_BYTES)};
    Refusals away = {malloc(sizeof(double) * (size_t)window), 0};
    struct pollfd polled = {fd, POLLIN, 0};
    int64_t sent = 0, done = 0, out = 0;
    double began = now_s();
    while (!one.closed) {
        double now = now_s() - began, next = 0.02;
        if (now > seconds + PLAY_LATE_S || (now > seconds && done == sent))
            break;
        for (int64_t i = 0; i < away.count;) {
            if (away.back[i] <= now)
                away.back[i] = away.back[--away.count];
            else
                next = fmin(next, away.back[i++] - now);
        }
        int64_t most = done + window - away.count;
        while (now < seconds && sent < most && sent < to->count)
            to->sent[sent++] = now;
        int64_t end = sent ? ends[sent - 1] : 0;
        while (out < end) {
            ssize_t taken =
                send(fd, frames + out, (size_t)(end - out), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (taken <= 0)
                break;
            out += taken;
        }
        if (sent == to->count && done == sent)
            break;
        struct timespec wait = {0, (long)(next * 1e9)};
        polled.events = out < end ? POLLIN | POLLOUT : POLLIN;
        ppoll(&polled, 1, &wait, NULL);
        if (polled.revents & (POLLIN | POLLHUP | POLLERR)) {
            int64_t oks = 0;
            done += receive(&one, to, began, &oks, &away);
        }
    }
    free(one.in);
    free(away.back);
    return done;
}
