/* A round's frames in, and its replies out, each in one call. Optional: `actors/door.py` does the
 * same through pyzmq where this is missing, frame by frame, and holds the interpreter's lock anew
 * after each.
 *
 * libzmq is the one that pyzmq has loaded; its functions come as addresses. Nothing here decides
 * anything: what cannot be sent is told, and the door does with it what it always did.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

enum {
    VERSION = 1,
    FRAMES_MAX = 1024,
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

static PyObject *
door_receive(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long socket;
    Py_ssize_t frames_max, bytes_max, count = 0;
    if (!PyArg_ParseTuple(args, "Knn:receive", &socket, &frames_max, &bytes_max))
        return NULL;
    if (msg_recv == NULL || frames_max < 0) {
        PyErr_SetString(PyExc_ValueError, "not set up, or no number of frames");
        return NULL;
    }
    if (frames_max > FRAMES_MAX)
        frames_max = FRAMES_MAX;
    Arrival *arrivals = PyMem_RawMalloc(sizeof(Arrival) * (size_t)(frames_max ? frames_max : 1));
    if (arrivals == NULL)
        return PyErr_NoMemory();
    int failed = 0, empty = 0;
    Py_BEGIN_ALLOW_THREADS
    while (count < frames_max && bytes_max > 0) {
        int got = receive_one(&arrivals[count], (void *)(uintptr_t)socket);
        if (got <= 0) {
            empty = got == 0;
            failed = got < 0 ? errno : 0;
            break;
        }
        bytes_max -= (Py_ssize_t)msg_size(&arrivals[count].payload) + 1;
        count++;
    }
    Py_END_ALLOW_THREADS
    PyObject *list = failed ? NULL : PyList_New(count), *identity = NULL;
    if (failed) {
        errno = failed;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Arrival *one = &arrivals[i];
        if (list != NULL) {
            const char *name = msg_data(&one->identity);
            Py_ssize_t length = (Py_ssize_t)msg_size(&one->identity);
            if (identity == NULL || PyBytes_GET_SIZE(identity) != length ||
                memcmp(PyBytes_AS_STRING(identity), name, (size_t)length))
                Py_XSETREF(identity, PyBytes_FromStringAndSize(name, length));
            PyObject *made =
                identity == NULL
                    ? NULL
                    : Py_BuildValue("(OOy#Oi)", identity, one->delimited ? Py_True : Py_False,
                                    (const char *)msg_data(&one->payload),
                                    (Py_ssize_t)msg_size(&one->payload),
                                    one->junk ? Py_True : Py_False, one->descriptor);
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
    return list == NULL ? NULL : Py_BuildValue("(NO)", list, empty ? Py_True : Py_False);
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

static PyMethodDef methods[] = {{"setup", door_setup, METH_VARARGS, NULL},
                                {"receive", door_receive, METH_VARARGS, NULL},
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
