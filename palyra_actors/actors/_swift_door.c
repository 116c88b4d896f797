/* A round's frames in, and its replies out, each in one call. Optional: `actors/door.py` does the
 * same through pyzmq where this is missing, frame by frame, and holds the interpreter's lock anew
 * after each.
 *
 * What a round takes no more is received all the same, by connection, and stays here as it came:
 * the door says how much of each connection's is to be looked at, and the rest of its plain appends
 * is refused without a Python object being made of it (`sift`).
 *
 * libzmq is the one that pyzmq has loaded; its functions come as addresses. Nothing here decides
 * anything: what cannot be sent is told, and the door does with it what it always did.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum {
    VERSION = 2,
    FRAMES_MAX = 1024,
    SURPLUS_MAX = 2048,
    ODD_MAX = 64, /* frames beyond the round's that are no plain appends: so many end it, or */
    ODD_BYTES_MAX = 256 * 1024, /* so many bytes of them, for each may take long to look at */
    TABLE_SIZE = 4096, /* a power of two, twice SURPLUS_MAX */
    ID_BYTES_MAX = 66, /* of a request's id, encoded: 64 of text and its head */
    REPLY_BYTES_MAX = 512,
    SMALL_BYTES = 223, /* a frame of so many has seven bytes more around it on the wire */
    DONTWAIT = 1, /* these three are libzmq's, for ever */
    SNDMORE = 2,
    SRCFD = 2
};

typedef struct {
    unsigned char opaque[64];
} Message; /* zmq_msg_t, whose size and alignment are part of libzmq's ABI */

static int (*msg_init)(void *);
static int (*msg_recv)(void *, void *, int);
static void *(*msg_data)(void *);
static size_t (*msg_size)(const void *);
static int (*msg_more)(const void *);
static int (*msg_get)(const void *, int);
static int (*msg_close)(void *);
static int (*zmq_send_)(void *, const void *, size_t, int);
static int (*zmq_errno_)(void);

static PyObject *
door_setup(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long at[9];
    if (!PyArg_ParseTuple(args, "KKKKKKKKK:setup", &at[0], &at[1], &at[2], &at[3], &at[4], &at[5],
                          &at[6], &at[7], &at[8]))
        return NULL;
    for (int i = 0; i < 9; i++)
        if (!at[i]) {
            PyErr_SetString(PyExc_ValueError, "a function of libzmq is missing");
            return NULL;
        }
    msg_init = (int (*)(void *))(uintptr_t)at[0];
    msg_recv = (int (*)(void *, void *, int))(uintptr_t)at[1];
    msg_data = (void *(*)(void *))(uintptr_t)at[2];
    msg_size = (size_t (*)(const void *))(uintptr_t)at[3];
    msg_more = (int (*)(const void *))(uintptr_t)at[4];
    msg_get = (int (*)(const void *, int))(uintptr_t)at[5];
    msg_close = (int (*)(void *))(uintptr_t)at[6];
    zmq_send_ = (int (*)(void *, const void *, size_t, int))(uintptr_t)at[7];
    zmq_errno_ = (int (*)(void))(uintptr_t)at[8];
    Py_RETURN_NONE;
}

typedef struct {
    Message identity, payload;
    int delimited, junk, descriptor;
    int group;              /* of the surplus: whose it is */
    int id_begins, id_ends; /* of a plain append: where its id stands; else both are 0 */
} Arrival;

static int
receive_part(Message *part, void *socket)
{
    int got;
    do
        got = msg_recv(part, socket, DONTWAIT);
    while (got < 0 && zmq_errno_() == EINTR);
    return got;
}

/* One message. 1: it is there; 0: nothing is; -1: errno says why not. */
static int
receive_one(Arrival *one, void *socket)
{
    msg_init(&one->identity);
    if (receive_part(&one->identity, socket) < 0) {
        int error = zmq_errno_();
        msg_close(&one->identity);
        errno = error;
        return error == EAGAIN ? 0 : -1;
    }
    msg_init(&one->payload);
    one->delimited = one->junk = 0;
    int got = msg_more(&one->identity) ? receive_part(&one->payload, socket) : 0;
    if (got == 0 && msg_more(&one->payload)) {
        one->delimited = 1;
        msg_close(&one->payload);
        msg_init(&one->payload);
        got = receive_part(&one->payload, socket);
    }
    one->descriptor = got < 0 ? -1 : msg_get(&one->payload, SRCFD);
    int more = got >= 0 && msg_more(&one->payload);
    while (more) {
        Message rest;
        one->junk = 1;
        msg_init(&rest);
        more = receive_part(&rest, socket) >= 0 && msg_more(&rest);
        msg_close(&rest);
    }
    if (got < 0) { /* the rest of a message is there with its first part, or libzmq is broken */
        int error = zmq_errno_();
        msg_close(&one->identity);
        msg_close(&one->payload);
        errno = error;
        return -1;
    }
    return 1;
}

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
 * to be said but that; and where its id stands. Everything else is for Python to look at. */
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
        if (value >= end || (next = after_value(value, end)) == NULL)
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

/* -- what a round takes no more ------------------------------------------------------------------- */

enum { SENT, FULL, GONE };

typedef struct {
    int first; /* of its frames, which knows whose they are */
    int plain, status;
    Py_ssize_t plain_bytes, quota, refused;
    Py_ssize_t left, left_bytes, left_large; /* that are not taken in */
} Group;

typedef struct {
    Py_ssize_t count;
    int groups;
    Group group[SURPLUS_MAX];
    Arrival arrival[SURPLUS_MAX];
} Surplus;

static Surplus *spare; /* one is kept: the interpreter's lock guards it */

static const char SURPLUS[] = "_swift_door.surplus";

static Surplus *
surplus_new(void)
{
    Surplus *surplus = spare ? spare : PyMem_RawMalloc(sizeof(Surplus));
    spare = NULL;
    if (surplus != NULL)
        surplus->count = surplus->groups = 0;
    return surplus;
}

static void
surplus_free(Surplus *surplus)
{
    for (Py_ssize_t i = 0; i < surplus->count; i++) {
        msg_close(&surplus->arrival[i].identity);
        msg_close(&surplus->arrival[i].payload);
    }
    PyMem_RawFree(spare);
    spare = surplus;
}

static void
capsule_free(PyObject *capsule)
{
    Surplus *surplus = PyCapsule_GetPointer(capsule, SURPLUS);
    if (surplus != NULL)
        surplus_free(surplus);
}

static int
same_sender(Arrival *a, Arrival *b)
{
    size_t length = msg_size(&a->identity);
    return a->delimited == b->delimited && length == msg_size(&b->identity) &&
           !memcmp(msg_data(&a->identity), msg_data(&b->identity), length);
}

/* Sort the frames by their senders. */
static void
find_groups(Surplus *surplus)
{
    int16_t table[TABLE_SIZE];
    memset(table, -1, sizeof table);
    for (int i = 0; i < surplus->count; i++) {
        Arrival *one = &surplus->arrival[i];
        const uint8_t *name = msg_data(&one->identity);
        uint32_t hash = 2166136261u ^ (uint32_t)one->delimited;
        for (size_t at = 0; at < msg_size(&one->identity); at++)
            hash = (hash ^ name[at]) * 16777619u;
        uint32_t place = (hash ^ hash >> 16) & (TABLE_SIZE - 1);
        while (table[place] >= 0 &&
               !same_sender(one, &surplus->arrival[surplus->group[table[place]].first]))
            place = (place + 1) & (TABLE_SIZE - 1);
        if (table[place] < 0) {
            table[place] = (int16_t)surplus->groups;
            surplus->group[surplus->groups++] = (Group){.first = i};
        }
        one->group = table[place];
        Group *group = &surplus->group[one->group];
        Py_ssize_t size = (Py_ssize_t)msg_size(&one->payload);
        group->plain += one->id_ends > 0;
        group->plain_bytes += one->id_ends > 0 ? size : 0;
    }
}

/* What is there beyond the round's frames; `empty` and errno in `failed` as in receive. */
static void
receive_surplus(Surplus *surplus, void *socket, Py_ssize_t count, Py_ssize_t bytes_max,
                size_t size_max, int *empty, int *failed)
{
    int odd = 0;
    Py_ssize_t odd_bytes = 0;
    while (surplus->count < count && bytes_max > 0 && odd < ODD_MAX && odd_bytes < ODD_BYTES_MAX) {
        Arrival *one = &surplus->arrival[surplus->count];
        int got = receive_one(one, socket);
        if (got <= 0) {
            *empty = got == 0;
            *failed = got < 0 ? errno : 0;
            break;
        }
        surplus->count++;
        size_t size = msg_size(&one->payload);
        bytes_max -= (Py_ssize_t)size + 1;
        if (one->junk || !is_plain_append(msg_data(&one->payload), size, size_max, one)) {
            one->id_begins = one->id_ends = 0;
            odd++;
            odd_bytes += (Py_ssize_t)size;
        }
    }
    find_groups(surplus);
}

/* (who, whether delimited, the frame, whether there was more, the connection) */
static PyObject *
arrival_object(Arrival *one, PyObject **identity)
{
    const char *name = msg_data(&one->identity);
    Py_ssize_t length = (Py_ssize_t)msg_size(&one->identity);
    if (*identity == NULL || PyBytes_GET_SIZE(*identity) != length ||
        memcmp(PyBytes_AS_STRING(*identity), name, (size_t)length))
        Py_XSETREF(*identity, PyBytes_FromStringAndSize(name, length));
    if (*identity == NULL)
        return NULL;
    return Py_BuildValue("(OOy#Oi)", *identity, one->delimited ? Py_True : Py_False,
                         (const char *)msg_data(&one->payload),
                         (Py_ssize_t)msg_size(&one->payload), one->junk ? Py_True : Py_False,
                         one->descriptor);
}

/* The surplus with what the door has to know of each sender, or None where there is none. */
static PyObject *
surplus_object(Surplus *surplus)
{
    PyObject *groups = PyList_New(surplus->groups);
    for (int i = 0; groups != NULL && i < surplus->groups; i++) {
        Group *group = &surplus->group[i];
        Arrival *first = &surplus->arrival[group->first];
        PyObject *made = Py_BuildValue(
            "(y#Oiin)", (const char *)msg_data(&first->identity),
            (Py_ssize_t)msg_size(&first->identity), first->delimited ? Py_True : Py_False,
            first->descriptor, group->plain, group->plain_bytes);
        if (made == NULL)
            Py_CLEAR(groups);
        else
            PyList_SET_ITEM(groups, i, made);
    }
    PyObject *capsule = groups ? PyCapsule_New(surplus, SURPLUS, capsule_free) : NULL;
    if (capsule == NULL) {
        Py_XDECREF(groups);
        surplus_free(surplus);
        return NULL;
    }
    return Py_BuildValue("(NN)", capsule, groups);
}

static PyObject *
door_receive(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long address;
    Py_ssize_t frames_max, bytes_max, surplus_max = 0, surplus_bytes_max = 0, size_max = 0;
    Py_ssize_t count = 0;
    if (!PyArg_ParseTuple(args, "Knn|nnn:receive", &address, &frames_max, &bytes_max, &surplus_max,
                          &surplus_bytes_max, &size_max))
        return NULL;
    if (msg_recv == NULL || frames_max < 0 || surplus_max < 0 || size_max < 0) {
        PyErr_SetString(PyExc_ValueError, "not set up, or no number of frames");
        return NULL;
    }
    if (frames_max > FRAMES_MAX)
        frames_max = FRAMES_MAX;
    if (surplus_max > SURPLUS_MAX)
        surplus_max = SURPLUS_MAX;
    void *socket = (void *)(uintptr_t)address;
    Arrival *arrivals = PyMem_RawMalloc(sizeof(Arrival) * (size_t)(frames_max ? frames_max : 1));
    if (arrivals == NULL)
        return PyErr_NoMemory();
    int failed = 0, empty = 0;
    Surplus *surplus = surplus_max ? surplus_new() : NULL;
    Py_BEGIN_ALLOW_THREADS
    while (count < frames_max && bytes_max > 0) {
        int got = receive_one(&arrivals[count], socket);
        if (got <= 0) {
            empty = got == 0;
            failed = got < 0 ? errno : 0;
            break;
        }
        bytes_max -= (Py_ssize_t)msg_size(&arrivals[count].payload) + 1;
        count++;
    }
    if (!empty && !failed && surplus != NULL && bytes_max > 0)
        receive_surplus(surplus, socket, surplus_max, surplus_bytes_max, (size_t)size_max, &empty,
                        &failed);
    Py_END_ALLOW_THREADS
    if (surplus != NULL && !surplus->count) {
        surplus_free(surplus);
        surplus = NULL;
    }
    PyObject *list = failed ? NULL : PyList_New(count), *identity = NULL;
    if (failed) {
        errno = failed;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Arrival *one = &arrivals[i];
        if (list != NULL) {
            PyObject *made = arrival_object(one, &identity);
            if (made == NULL)
                Py_CLEAR(list);
            else
                PyList_SET_ITEM(list, i, made);
        }
        msg_close(&one->identity);
        msg_close(&one->payload);
    }
    PyMem_RawFree(arrivals);
    Py_XDECREF(identity);
    PyObject *rest = Py_None;
    if (surplus != NULL && list == NULL)
        surplus_free(surplus);
    else if (surplus != NULL && (rest = surplus_object(surplus)) == NULL)
        Py_CLEAR(list);
    else if (surplus == NULL)
        Py_INCREF(rest);
    return list == NULL ? NULL : Py_BuildValue("(NON)", list, empty ? Py_True : Py_False, rest);
}

typedef struct {
    const char *identity, *frame;
    Py_ssize_t identity_length, length;
    int delimited;
} Reply;

static int
send_part(void *socket, const char *data, Py_ssize_t length, int flags)
{
    int sent;
    do
        sent = zmq_send_(socket, data, (size_t)length, flags);
    while (sent < 0 && zmq_errno_() == EINTR);
    return sent;
}

static PyObject *
door_send(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long address;
    PyObject *replies;
    if (!PyArg_ParseTuple(args, "KO!:send", &address, &PyList_Type, &replies))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(replies), sent = 0;
    void *socket = (void *)(uintptr_t)address;
    if (zmq_send_ == NULL) {
        PyErr_SetString(PyExc_ValueError, "not set up");
        return NULL;
    }
    Reply *all = PyMem_RawMalloc(sizeof(Reply) * (size_t)(count ? count : 1));
    if (all == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        Reply *one = &all[i];
        PyObject *identity, *frame;
        if (!PyTuple_Check(PyList_GET_ITEM(replies, i))) {
            PyErr_SetString(PyExc_TypeError, "a reply is a tuple");
            PyMem_RawFree(all);
            return NULL;
        }
        if (!PyArg_ParseTuple(PyList_GET_ITEM(replies, i), "SpS:send", &identity, &one->delimited,
                              &frame)) {
            PyMem_RawFree(all);
            return NULL;
        }
        one->identity = PyBytes_AS_STRING(identity);
        one->identity_length = PyBytes_GET_SIZE(identity);
        one->frame = PyBytes_AS_STRING(frame);
        one->length = PyBytes_GET_SIZE(frame);
    }
    Py_BEGIN_ALLOW_THREADS
    for (; sent < count; sent++) {
        const Reply *one = &all[sent];
        if (send_part(socket, one->identity, one->identity_length, DONTWAIT | SNDMORE) < 0 ||
            (one->delimited && send_part(socket, "", 0, DONTWAIT | SNDMORE) < 0) ||
            send_part(socket, one->frame, one->length, DONTWAIT) < 0)
            break;
    }
    Py_END_ALLOW_THREADS
    PyMem_RawFree(all);
    return PyLong_FromSsize_t(sent);
}

/* -- refusing ------------------------------------------------------------------------------------- */

typedef struct {
    Py_buffer head, middle; /* of a refusal: before its id, and between that and its milliseconds */
    double wait_ms, load_ms, wait_ms_max;
} Refusal;

static Py_ssize_t
write_refusal(const Refusal *refusal, Arrival *one, double wait_ms, uint8_t *reply)
{
    uint8_t *at = reply;
    Py_ssize_t id_bytes = one->id_ends - one->id_begins;
    memcpy(at, refusal->head.buf, (size_t)refusal->head.len);
    at += refusal->head.len;
    memcpy(at, (const char *)msg_data(&one->payload) + one->id_begins, (size_t)id_bytes);
    at += id_bytes;
    memcpy(at, refusal->middle.buf, (size_t)refusal->middle.len);
    at += refusal->middle.len;
    unsigned ms = wait_ms < 1 ? 1 : wait_ms > 65535 ? 65535 : (unsigned)ceil(wait_ms);
    if (ms >= 0x80)
        *at++ = ms > 0xFF ? 0xCD : 0xCC;
    if (ms > 0xFF)
        *at++ = (uint8_t)(ms >> 8);
    *at++ = (uint8_t)ms;
    return at - reply;
}

/* Send it, or note why not. Those behind it then wait, too. */
static void
send_refusal(void *socket, Group *group, Arrival *one, const uint8_t *reply, Py_ssize_t length)
{
    if (group->status == SENT &&
        (send_part(socket, msg_data(&one->identity), (Py_ssize_t)msg_size(&one->identity),
                   DONTWAIT | SNDMORE) < 0 ||
         (one->delimited && send_part(socket, "", 0, DONTWAIT | SNDMORE) < 0) ||
         send_part(socket, (const char *)reply, length, DONTWAIT) < 0))
        group->status = zmq_errno_() == EAGAIN ? FULL : GONE;
}

/* Refuse what is beyond the quotas. What was not sent is a (group, reply) in `aside`. */
static int
refuse_all(void *socket, Surplus *surplus, Refusal *refusal, PyObject *aside)
{
    uint8_t reply[REPLY_BYTES_MAX];
    Py_ssize_t i = 0;
    while (i < surplus->count) {
        Py_ssize_t length = 0;
        Group *group = NULL;
        Py_BEGIN_ALLOW_THREADS
        for (; i < surplus->count; i++) {
            Arrival *one = &surplus->arrival[i];
            group = &surplus->group[one->group];
            if (!one->id_ends)
                continue; /* it was taken in */
            uint64_t load = 2 + ((uint64_t)msg_size(&one->payload) >> 8);
            refusal->wait_ms += (double)load * refusal->load_ms;
            if (refusal->wait_ms > refusal->wait_ms_max)
                refusal->wait_ms = refusal->wait_ms_max;
            length = write_refusal(refusal, one, refusal->wait_ms, reply);
            group->refused++;
            send_refusal(socket, group, one, reply, length);
            if (group->status == FULL)
                break;
        }
        Py_END_ALLOW_THREADS
        if (i < surplus->count) {
            PyObject *made = Py_BuildValue("(iy#)", (int)surplus->arrival[i].group,
                                           (const char *)reply, length);
            if (made == NULL || PyList_Append(aside, made) < 0) {
                Py_XDECREF(made);
                return -1;
            }
            Py_DECREF(made);
            i++;
        }
    }
    return 0;
}

/* The frames within the quotas, and those that are no plain appends, in their order. What is taken
 * is marked by the end of its id. A sender whose quota is negative is not heard. */
static int
take_in(Surplus *surplus, PyObject *list)
{
    PyObject *identity = NULL;
    int failed = 0;
    for (Py_ssize_t i = 0; i < surplus->count && !failed; i++) {
        Arrival *one = &surplus->arrival[i];
        Group *group = &surplus->group[one->group];
        if (group->quota < 0 || (one->id_ends && !group->quota)) {
            Py_ssize_t size = (Py_ssize_t)msg_size(&one->payload);
            group->left++;
            group->left_bytes += size;
            group->left_large += size >= SMALL_BYTES;
            if (group->quota < 0)
                one->id_ends = 0;
            continue;
        }
        if (one->id_ends)
            group->quota--;
        one->id_ends = 0;
        PyObject *made = arrival_object(one, &identity);
        failed = made == NULL || PyList_Append(list, made) < 0;
        Py_XDECREF(made);
    }
    Py_XDECREF(identity);
    return failed ? -1 : 0;
}

static PyObject *
sift(void *socket, PyObject *capsule, PyObject *quotas, Refusal *refusal)
{
    Surplus *surplus = PyCapsule_GetPointer(capsule, SURPLUS);
    if (surplus == NULL)
        return NULL;
    if (PyList_GET_SIZE(quotas) != surplus->groups ||
        refusal->head.len + refusal->middle.len + ID_BYTES_MAX + 3 > REPLY_BYTES_MAX) {
        PyErr_SetString(PyExc_ValueError, "a quota for each sender, and a short refusal");
        return NULL;
    }
    for (int i = 0; i < surplus->groups; i++) {
        surplus->group[i].quota = PyLong_AsSsize_t(PyList_GET_ITEM(quotas, i));
        if (PyErr_Occurred())
            return NULL;
    }
    PyObject *list = PyList_New(0), *aside = PyList_New(0);
    PyObject *outcome = PyList_New(surplus->groups);
    int failed = list == NULL || aside == NULL || outcome == NULL || take_in(surplus, list) < 0;
    failed = failed || refuse_all(socket, surplus, refusal, aside) < 0;
    for (int i = 0; i < surplus->groups && !failed; i++) {
        Group *group = &surplus->group[i];
        PyObject *made = Py_BuildValue("(nnnni)", group->refused, group->left, group->left_bytes,
                                       group->left_large, group->status);
        failed = made == NULL;
        if (made != NULL)
            PyList_SET_ITEM(outcome, i, made);
    }
    if (!failed)
        return Py_BuildValue("(NNNd)", list, outcome, aside, refusal->wait_ms);
    Py_XDECREF(list);
    Py_XDECREF(aside);
    Py_XDECREF(outcome);
    return NULL;
}

static PyObject *
door_sift(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long address;
    PyObject *capsule, *quotas, *result = NULL;
    Refusal refusal;
    if (!PyArg_ParseTuple(args, "KOO!y*y*ddd:sift", &address, &capsule, &PyList_Type, &quotas,
                          &refusal.head, &refusal.middle, &refusal.wait_ms, &refusal.load_ms,
                          &refusal.wait_ms_max))
        return NULL;
    if (zmq_send_ == NULL)
        PyErr_SetString(PyExc_ValueError, "not set up");
    else
        result = sift((void *)(uintptr_t)address, capsule, quotas, &refusal);
    PyBuffer_Release(&refusal.head);
    PyBuffer_Release(&refusal.middle);
    return result;
}

static PyMethodDef methods[] = {{"setup", door_setup, METH_VARARGS, NULL},
                                {"receive", door_receive, METH_VARARGS, NULL},
                                {"sift", door_sift, METH_VARARGS, NULL},
                                {"send", door_send, METH_VARARGS, NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_swift_door", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC
PyInit__swift_door(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0)
        Py_CLEAR(module);
    return module;
}
