/* What `_swift_door.c` and `_swift_porter.c` share. */
#ifndef SWIFT_DOOR_H
#define SWIFT_DOOR_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

enum {
    DONTWAIT = 1, /* these are libzmq's, for ever */
    SNDMORE = 2,
    SRCFD = 2,
    EVENTS = 15,
    EVENT_IN = 1
};

typedef struct {
    unsigned char opaque[64];
} Message; /* zmq_msg_t, whose size and alignment are part of libzmq's ABI */

typedef struct {
    Message identity, payload;
    int delimited, junk, descriptor;
    int id_begins, id_ends; /* of a plain append: where its id stands; else both are 0 */
    int promised;           /* it was taken in within what is open */
    double arrived;         /* monotonic seconds */
} Arrival;

extern int (*msg_init)(void *);
extern int (*msg_recv)(void *, void *, int);
extern void *(*msg_data)(void *);
extern size_t (*msg_size)(const void *);
extern int (*msg_more)(const void *);
extern int (*msg_get)(const void *, int);
extern int (*msg_close)(void *);
extern int (*zmq_send_)(void *, const void *, size_t, int);
extern int (*zmq_errno_)(void);
extern int (*zmq_getsockopt_)(void *, int, void *, size_t *);

int receive_one(Arrival *one, void *socket);
int send_part(void *socket, const char *data, Py_ssize_t length, int flags);
PyObject *arrival_object(Arrival *one, PyObject **identity);

typedef struct Porter Porter;

Porter *porter_of(PyObject *capsule);
void porter_stop(Porter *porter);
void porter_go_on(Porter *porter);
PyObject *porter_new(PyObject *module, PyObject *args);
PyObject *porter_collect(PyObject *module, PyObject *args);
PyObject *porter_tell(PyObject *module, PyObject *args);
PyObject *porter_rest(PyObject *module, PyObject *capsule);
PyObject *porter_bell(PyObject *module, PyObject *capsule);
PyObject *porter_wake(PyObject *module, PyObject *args);
PyObject *porter_close(PyObject *module, PyObject *capsule);

#endif
