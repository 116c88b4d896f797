/* A round's frames in, and its replies out, each in one call. Optional: `actors/door.py` does the
 * same through pyzmq where this is missing, frame by frame, and holds the interpreter's lock anew
 * after each.
 *
 * libzmq is the one that pyzmq has loaded; its functions come as addresses. Nothing here decides
 * anything: what cannot be sent is told, and the door does with it what it always did.
 */
#include "_swift_door.h"

enum { VERSION = 4, FUNCTIONS = 10, FRAMES_MAX = 1024 };

int (*msg_init)(void *);
int (*msg_recv)(void *, void *, int);
void *(*msg_data)(void *);
size_t (*msg_size)(const void *);
int (*msg_more)(const void *);
int (*msg_get)(const void *, int);
int (*msg_close)(void *);
int (*zmq_send_)(void *, const void *, size_t, int);
int (*zmq_errno_)(void);
int (*zmq_getsockopt_)(void *, int, void *, size_t *);

static PyObject *
door_setup(PyObject *module, PyObject *addresses)
{
    (void)module;
    unsigned long long at[FUNCTIONS];
    if (!PyTuple_Check(addresses) || PyTuple_GET_SIZE(addresses) != FUNCTIONS) {
        PyErr_SetString(PyExc_TypeError, "the addresses of libzmq's functions");
        return NULL;
    }
    for (int i = 0; i < FUNCTIONS; i++) {
        at[i] = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(addresses, i));
        if (PyErr_Occurred())
            return NULL;
        if (!at[i]) {
            PyErr_SetString(PyExc_ValueError, "a function of libzmq is missing");
            return NULL;
        }
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
    zmq_getsockopt_ = (int (*)(void *, int, void *, size_t *))(uintptr_t)at[9];
    Py_RETURN_NONE;
}

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
int
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

/* (who, whether delimited, the frame, whether there was more, the connection) */
PyObject *
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

static PyObject *
door_receive(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long address;
    Py_ssize_t frames_max, bytes_max, count = 0;
    if (!PyArg_ParseTuple(args, "Knn:receive", &address, &frames_max, &bytes_max))
        return NULL;
    if (msg_recv == NULL || frames_max < 0) {
        PyErr_SetString(PyExc_ValueError, "not set up, or no number of frames");
        return NULL;
    }
    if (frames_max > FRAMES_MAX)
        frames_max = FRAMES_MAX;
    void *socket = (void *)(uintptr_t)address;
    Arrival *arrivals = PyMem_RawMalloc(sizeof(Arrival) * (size_t)(frames_max ? frames_max : 1));
    if (arrivals == NULL)
        return PyErr_NoMemory();
    int failed = 0;
    Py_BEGIN_ALLOW_THREADS
    while (count < frames_max && bytes_max > 0) {
        int got = receive_one(&arrivals[count], socket);
        if (got <= 0) {
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
    return list;
}

typedef struct {
    const char *identity, *frame;
    Py_ssize_t identity_length, length;
    int delimited;
} Reply;

int
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
    PyObject *replies, *beside = Py_None;
    if (!PyArg_ParseTuple(args, "KO!|O:send", &address, &PyList_Type, &replies, &beside))
        return NULL;
    Porter *porter = NULL;
    if (beside != Py_None && (porter = porter_of(beside)) == NULL)
        return NULL;
    int failed = 0;
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
    if (porter != NULL)
        porter_stop(porter);
    for (; sent < count; sent++) {
        const Reply *one = &all[sent];
        if (send_part(socket, one->identity, one->identity_length, DONTWAIT | SNDMORE) < 0 ||
            (one->delimited && send_part(socket, "", 0, DONTWAIT | SNDMORE) < 0) ||
            send_part(socket, one->frame, one->length, DONTWAIT) < 0)
            break;
    }
    failed = sent < count ? zmq_errno_() : 0;
    if (porter != NULL)
        porter_go_on(porter);
    Py_END_ALLOW_THREADS
    PyMem_RawFree(all);
    return Py_BuildValue("(ni)", sent, failed);
}


static PyMethodDef methods[] = {{"setup", door_setup, METH_O, NULL},
                                {"receive", door_receive, METH_VARARGS, NULL},
                                {"send", door_send, METH_VARARGS, NULL},
                                {"porter", porter_new, METH_VARARGS, NULL},
                                {"collect", porter_collect, METH_VARARGS, NULL},
                                {"tell", porter_tell, METH_VARARGS, NULL},
                                {"rest", porter_rest, METH_O, NULL},
                                {"bell", porter_bell, METH_O, NULL},
                                {"wake", porter_wake, METH_VARARGS, NULL},
                                {"close", porter_close, METH_O, NULL},
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
