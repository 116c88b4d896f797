/* The thread that writes groups and waits for the disk without ever asking for the interpreter's
 * lock. Optional: `storage/journal.py` stages and commits through apsw where this is missing.
 *
 *     begin   rows ──▶ cells ──▶ (its thread: BEGIN, bind, step, COMMIT) ──▶ rings; or the caller's
 *     ended   how it ended, once it has; and the rows are let go
 *
 * It goes on in apsw's connection, with SQLite's functions as SQLite hands them to extensions: there
 * is one SQLite in the process. Rows stay alive because `begin` keeps them; texts and bytes are
 * bound where they lie, for Python never moves them. What cannot be written is rolled back and
 * told: nothing is decided here.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    VERSION = 2,
    STATEMENTS_MAX = 128,
    SIZES_MAX = 4, /* for how many numbers of rows an INSERT is prepared */
    STEPS_MAX = 64,
    MESSAGE_BYTES = 256,
    CONSTRAINT = 19, /* these are SQLite's, for ever */
    OUT_OF_RANGE = 25,
    ROW = 100,
    DONE = 101,
    PERSISTENT = 1
};

/* -- SQLite, as it shows itself to extensions: a table that only ever grows ------------------------ */

typedef int (*Bind_blob)(void *, int, const void *, int, void (*)(void *));
typedef int (*Bind_double)(void *, int, double);
typedef int (*Bind_int64)(void *, int, int64_t);
typedef int (*Bind_null)(void *, int);
typedef const char *(*Errmsg)(void *);
typedef int (*Of_statement)(void *);
typedef int (*Of_database)(void *);
typedef int (*Prepare)(void *, const char *, int, unsigned, void **, const char **);

static const void *const *api;
#define BIND_BLOB ((Bind_blob)api[2])
#define BIND_DOUBLE ((Bind_double)api[3])
#define BIND_INT64 ((Bind_int64)api[5])
#define BIND_NULL ((Bind_null)api[6])
#define BIND_PARAMETER_COUNT ((Of_statement)api[7])
#define BIND_TEXT ((Bind_blob)api[10])
#define ERRMSG ((Errmsg)api[53])
#define FINALIZE ((Of_statement)api[57])
#define GET_AUTOCOMMIT ((Of_database)api[60])
#define RESET ((Of_statement)api[77])
#define STEP ((Of_statement)api[94])
#define EXTENDED_ERRCODE ((Of_database)api[166])
#define PREPARE ((Prepare)api[217])

/* What `load_extension` calls, on a connection that is made for it. */
__attribute__((visibility("default"))) int
palyra_take_sqlite(void *database, char **error, const void *routines)
{
    (void)database;
    (void)error;
    api = routines;
    return 0;
}

/* -- a group ----------------------------------------------------------------------------------------- */

typedef struct {
    enum { NOTHING, INTEGER, REAL, TEXT, BYTES } type;
    int length;
    union {
        int64_t integer;
        double real;
        const char *text;
    } value;
} Cell;

typedef struct {
    int statement[SIZES_MAX]; /* by place: the same one for so many rows at once, the most first */
    int rows_of[SIZES_MAX], sizes;
    int finds; /* it has to find nothing */
    int columns;
    Py_ssize_t rows;
    Cell *cells;
} Step;

typedef struct {
    PyObject **kept; /* what the cells point into */
    Py_ssize_t kept_count;
    Cell *cells;
    int steps;
    Step step[];
} Job;

typedef struct {
    PyObject *sql;
    const char *text;
    void *prepared;
} Statement;

typedef enum { IDLE, HANDED, HERE, ENDED } State; /* HERE: whoever handed it writes it */

typedef struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    State state;
    int leave, left; /* `left`: there is no thread */
    void *database;
    int bell;
    Job *job;
    Statement statement[STATEMENTS_MAX], begin, commit, rollback;
    int statements;
    int staged, failed, code; /* how the job ended */
    char message[MESSAGE_BYTES];
    double ended_at;
} Lane;

static const char LANE[] = "_swift_store.lane";

/* -- its thread: no Python object is touched here ------------------------------------------------- */

static void
note(Lane *lane, int code)
{
    lane->failed = 1;
    lane->code = code;
    strncpy(lane->message, ERRMSG(lane->database), MESSAGE_BYTES - 1);
    lane->message[MESSAGE_BYTES - 1] = 0;
}

static int
prepare(Lane *lane, Statement *one)
{
    if (one->prepared != NULL ||
        PREPARE(lane->database, one->text, -1, PERSISTENT, &one->prepared, NULL) == 0)
        return 1;
    note(lane, EXTENDED_ERRCODE(lane->database));
    return 0;
}

/* A prepared statement to its end. `finds`: a row is a failure. */
static int
run(Lane *lane, Statement *one, int finds)
{
    int code;
    do
        code = STEP(one->prepared);
    while (code == ROW && !finds);
    if (code == ROW)
        note(lane, CONSTRAINT);
    else if (code != DONE)
        note(lane, EXTENDED_ERRCODE(lane->database));
    RESET(one->prepared);
    return code == DONE;
}

static int
bind(void *prepared, const Cell *cell, int count)
{
    int code = 0;
    for (int i = 1; i <= count && !code; i++, cell++)
        switch (cell->type) {
        case NOTHING:
            code = BIND_NULL(prepared, i);
            break;
        case INTEGER:
            code = BIND_INT64(prepared, i, cell->value.integer);
            break;
        case REAL:
            code = BIND_DOUBLE(prepared, i, cell->value.real);
            break;
        case TEXT:
            code = BIND_TEXT(prepared, i, cell->value.text, cell->length, NULL);
            break;
        case BYTES:
            code = BIND_BLOB(prepared, i, cell->value.text, cell->length, NULL);
            break;
        }
    return !code;
}

static int
write_step(Lane *lane, const Step *step)
{
    const Cell *cell = step->cells;
    Py_ssize_t left = step->rows;
    for (int size = 0; size < step->sizes; size++) {
        Statement *one = &lane->statement[step->statement[size]];
        int rows = step->rows_of[size], cells = rows * step->columns;
        if (left < rows)
            continue;
        if (!prepare(lane, one))
            return 0;
        if (BIND_PARAMETER_COUNT(one->prepared) != cells) {
            note(lane, OUT_OF_RANGE); /* one that is not bound would be what it was the last time */
            return 0;
        }
        for (; left >= rows; left -= rows, cell += cells) {
            if (!bind(one->prepared, cell, cells)) {
                note(lane, EXTENDED_ERRCODE(lane->database));
                return 0;
            }
            if (!run(lane, one, step->finds))
                return 0;
        }
    }
    return 1;
}

static void
write_job(Lane *lane)
{
    const Job *job = lane->job;
    lane->staged = lane->failed = lane->code = 0;
    lane->message[0] = 0;
    int well = prepare(lane, &lane->begin) && prepare(lane, &lane->commit) &&
               prepare(lane, &lane->rollback) && run(lane, &lane->begin, 0);
    for (int i = 0; i < job->steps && well; i++)
        well = write_step(lane, &job->step[i]);
    if (well) {
        lane->staged = 1;
        run(lane, &lane->commit, 0);
    } else if (!GET_AUTOCOMMIT(lane->database)) {
        int code = lane->code;
        char message[MESSAGE_BYTES];
        memcpy(message, lane->message, MESSAGE_BYTES);
        run(lane, &lane->rollback, 0);
        lane->code = code;
        memcpy(lane->message, message, MESSAGE_BYTES);
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    lane->ended_at = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void *
live(void *argument)
{
    Lane *lane = argument;
    pthread_mutex_lock(&lane->mutex);
    for (;;) {
        while (lane->state != HANDED && !lane->leave)
            pthread_cond_wait(&lane->changed, &lane->mutex);
        if (lane->state != HANDED)
            break;
        pthread_mutex_unlock(&lane->mutex);
        write_job(lane);
        pthread_mutex_lock(&lane->mutex);
        lane->state = ENDED;
        uint64_t one = 1;
        ssize_t rung = write(lane->bell, &one, sizeof one);
        (void)rung; /* it is full: it rings already */
        pthread_cond_broadcast(&lane->changed);
    }
    lane->left = 1;
    pthread_cond_broadcast(&lane->changed);
    pthread_mutex_unlock(&lane->mutex);
    return NULL;
}

/* -- what the loop does, with the interpreter's lock ----------------------------------------------- */

static void
job_free(Job *job)
{
    if (job == NULL)
        return;
    for (Py_ssize_t i = 0; i < job->kept_count; i++)
        Py_DECREF(job->kept[i]);
    PyMem_RawFree(job->kept);
    PyMem_RawFree(job->cells);
    PyMem_RawFree(job);
}

/* Wait until the thread is idle, or is no more; at most so many seconds, for ever if negative. */
static int
wait_for(Lane *lane, int gone, double seconds)
{
    int there;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    if (seconds >= 0) {
        until.tv_sec += (time_t)seconds;
        until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
        if (until.tv_nsec >= 1000000000L) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000L;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&lane->mutex);
    int late = 0;
    while (!(there = lane->state != HERE && (gone ? lane->left : lane->state != HANDED)) && !late) {
        if (seconds < 0)
            pthread_cond_wait(&lane->changed, &lane->mutex);
        else
            late = pthread_cond_timedwait(&lane->changed, &lane->mutex, &until);
    }
    pthread_mutex_unlock(&lane->mutex);
    Py_END_ALLOW_THREADS
    return there;
}

/* The thread leaves, and nothing of ours is left in the connection. False: it is not through. */
static int
lane_close(Lane *lane, double seconds)
{
    if (lane->database == NULL)
        return 1;
    pthread_mutex_lock(&lane->mutex);
    lane->leave = 1;
    pthread_cond_broadcast(&lane->changed);
    pthread_mutex_unlock(&lane->mutex);
    if (!wait_for(lane, 1, seconds))
        return 0;
    pthread_join(lane->thread, NULL);
    Statement *own[] = {&lane->begin, &lane->commit, &lane->rollback};
    for (int i = 0; i < lane->statements + 3; i++) {
        Statement *one = i < 3 ? own[i] : &lane->statement[i - 3];
        if (one->prepared != NULL)
            FINALIZE(one->prepared);
        one->prepared = NULL;
        Py_CLEAR(one->sql);
    }
    lane->statements = 0;
    close(lane->bell);
    lane->database = NULL;
    job_free(lane->job);
    lane->job = NULL;
    return 1;
}

static void
lane_free(PyObject *capsule)
{
    Lane *lane = PyCapsule_GetPointer(capsule, LANE);
    if (lane == NULL || !lane_close(lane, 0)) {
        PyErr_Clear();
        return; /* its thread is in a COMMIT that does not end: what it works with stays */
    }
    pthread_cond_destroy(&lane->changed);
    pthread_mutex_destroy(&lane->mutex);
    PyMem_RawFree(lane);
}

static PyObject *
store_attach(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long database;
    int bell;
    if (!PyArg_ParseTuple(args, "Ki:attach", &database, &bell))
        return NULL;
    if (api == NULL || !database) {
        PyErr_SetString(PyExc_ValueError, "SQLite's functions are not known, or no connection");
        return NULL;
    }
    Lane *lane = PyMem_RawCalloc(1, sizeof *lane);
    if (lane == NULL)
        return PyErr_NoMemory();
    lane->begin.text = "BEGIN IMMEDIATE";
    lane->commit.text = "COMMIT";
    lane->rollback.text = "ROLLBACK";
    pthread_mutex_init(&lane->mutex, NULL);
    pthread_cond_init(&lane->changed, NULL);
    lane->bell = dup(bell); /* of the same file: the other may be closed before this */
    sigset_t all, before; /* signals are for those who expect them */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = lane->bell < 0 || pthread_create(&lane->thread, NULL, live, lane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        if (lane->bell >= 0)
            close(lane->bell);
        PyMem_RawFree(lane);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    lane->database = (void *)(uintptr_t)database;
    PyObject *capsule = PyCapsule_New(lane, LANE, lane_free);
    return capsule;
}

/* The place of a statement among the lane's; -1: there is no room. */
static int
place_of(Lane *lane, PyObject *sql)
{
    for (int i = 0; i < lane->statements; i++)
        if (lane->statement[i].sql == sql)
            return i;
    if (lane->statements == STATEMENTS_MAX || !PyUnicode_Check(sql))
        return -1;
    Statement *one = &lane->statement[lane->statements];
    if ((one->text = PyUnicode_AsUTF8(sql)) == NULL)
        return -1;
    one->sql = Py_NewRef(sql);
    one->prepared = NULL;
    return lane->statements++;
}

static int
take_cell(PyObject *value, Cell *cell)
{
    Py_ssize_t length = 0;
    if (value == Py_None) {
        cell->type = NOTHING;
    } else if (PyLong_Check(value)) {
        int over;
        cell->type = INTEGER;
        cell->value.integer = PyLong_AsLongLongAndOverflow(value, &over);
        if (over)
            return 0;
    } else if (PyBytes_Check(value)) {
        cell->type = BYTES;
        cell->value.text = PyBytes_AS_STRING(value);
        length = PyBytes_GET_SIZE(value);
    } else if (PyUnicode_Check(value)) {
        cell->type = TEXT;
        if ((cell->value.text = PyUnicode_AsUTF8AndSize(value, &length)) == NULL)
            return 0;
    } else if (PyFloat_Check(value)) {
        cell->type = REAL;
        cell->value.real = PyFloat_AS_DOUBLE(value);
    } else
        return 0;
    cell->length = (int)length;
    return length <= INT32_MAX;
}

/* ((statement, rows), …), rows, whether it has to find nothing. */
static int
take_step(Lane *lane, PyObject *from, Step *step, PyObject **rows)
{
    PyObject *sizes;
    if (!PyTuple_Check(from) ||
        !PyArg_ParseTuple(from, "O!O!p", &PyTuple_Type, &sizes, &PyList_Type, rows, &step->finds))
        return 0;
    step->sizes = (int)PyTuple_GET_SIZE(sizes);
    step->rows = PyList_GET_SIZE(*rows);
    if (step->sizes < 1 || step->sizes > SIZES_MAX)
        return 0;
    for (int i = 0; i < step->sizes; i++) {
        PyObject *sql;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(sizes, i), "Oi", &sql, &step->rows_of[i]) ||
            step->rows_of[i] < 1 || (step->statement[i] = place_of(lane, sql)) < 0)
            return 0;
    }
    if (step->rows_of[step->sizes - 1] != 1)
        return 0;
    for (Py_ssize_t i = 0; i < step->rows; i++) {
        PyObject *row = PyList_GET_ITEM(*rows, i);
        if (!PyTuple_Check(row))
            return 0;
        if (!i)
            step->columns = (int)PyTuple_GET_SIZE(row);
        else if (step->columns != PyTuple_GET_SIZE(row))
            return 0;
    }
    return 1;
}

/* NULL: there is something in it that is apsw's to write, or to refuse. */
static Job *
take_job(Lane *lane, PyObject *steps)
{
    Py_ssize_t count = PyList_GET_SIZE(steps), rows = 0, cells = 0;
    PyObject *lists[STEPS_MAX];
    if (count > STEPS_MAX)
        return NULL;
    Job *job = PyMem_RawCalloc(1, sizeof *job + (size_t)count * sizeof(Step));
    if (job == NULL)
        return NULL;
    for (; job->steps < count; job->steps++) {
        Step *step = &job->step[job->steps];
        if (!take_step(lane, PyList_GET_ITEM(steps, job->steps), step, &lists[job->steps])) {
            job_free(job);
            return NULL;
        }
        rows += step->rows;
        cells += step->rows * step->columns;
    }
    job->kept = PyMem_RawMalloc((size_t)(rows + 1) * sizeof *job->kept);
    job->cells = PyMem_RawMalloc((size_t)(cells + 1) * sizeof *job->cells);
    Cell *cell = job->cells;
    int well = job->kept != NULL && cell != NULL;
    for (int i = 0; i < job->steps && well; i++) {
        Step *step = &job->step[i];
        step->cells = cell;
        for (Py_ssize_t at = 0; at < step->rows && well; at++) {
            PyObject *row = job->kept[job->kept_count++] = Py_NewRef(PyList_GET_ITEM(lists[i], at));
            for (int column = 0; column < step->columns && well; column++)
                well = take_cell(PyTuple_GET_ITEM(row, column), cell++);
        }
    }
    if (!well) {
        job_free(job);
        return NULL;
    }
    return job;
}

static Lane *
lane_of(PyObject *capsule)
{
    Lane *lane = PyCapsule_GetPointer(capsule, LANE);
    if (lane != NULL && lane->database == NULL) {
        PyErr_SetString(PyExc_ValueError, "it is closed");
        return NULL;
    }
    return lane;
}

/* begin(lane, steps, here): `here` it is written in the calling thread, and has ended at the return */
static PyObject *
store_begin(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule, *steps;
    int here;
    if (!PyArg_ParseTuple(args, "OO!p:begin", &capsule, &PyList_Type, &steps, &here))
        return NULL;
    Lane *lane = lane_of(capsule);
    if (lane == NULL)
        return NULL;
    pthread_mutex_lock(&lane->mutex);
    int busy = lane->state != IDLE;
    pthread_mutex_unlock(&lane->mutex);
    if (busy) {
        PyErr_SetString(PyExc_ValueError, "there is a group under way");
        return NULL;
    }
    Job *job = take_job(lane, steps);
    if (job == NULL) {
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    pthread_mutex_lock(&lane->mutex);
    lane->job = job;
    lane->state = here ? HERE : HANDED;
    pthread_mutex_unlock(&lane->mutex);
    if (here) {
        Py_BEGIN_ALLOW_THREADS
        write_job(lane);
        pthread_mutex_lock(&lane->mutex);
        lane->state = ENDED;
        pthread_mutex_unlock(&lane->mutex);
        Py_END_ALLOW_THREADS
    }
    pthread_cond_broadcast(&lane->changed); /* who wakes finds the mutex free */
    Py_RETURN_TRUE;
}

static PyObject *
store_ended(PyObject *module, PyObject *capsule)
{
    (void)module;
    Lane *lane = lane_of(capsule);
    if (lane == NULL)
        return NULL;
    pthread_mutex_lock(&lane->mutex);
    int ended = lane->state == ENDED;
    if (ended)
        lane->state = IDLE;
    pthread_mutex_unlock(&lane->mutex);
    if (!ended)
        Py_RETURN_NONE;
    job_free(lane->job);
    lane->job = NULL;
    PyObject *message = Py_NewRef(Py_None);
    if (lane->failed)
        Py_SETREF(message, PyUnicode_DecodeUTF8(lane->message, (Py_ssize_t)strlen(lane->message),
                                                "replace"));
    return message == NULL ? NULL
                           : Py_BuildValue("(iNid)", lane->staged, message, lane->code,
                                           lane->ended_at);
}

static PyObject *
store_wait(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule;
    double seconds;
    if (!PyArg_ParseTuple(args, "Od:wait", &capsule, &seconds))
        return NULL;
    Lane *lane = lane_of(capsule);
    return lane == NULL ? NULL : PyBool_FromLong(wait_for(lane, 0, seconds));
}

static PyObject *
store_close(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *capsule;
    double seconds;
    if (!PyArg_ParseTuple(args, "Od:close", &capsule, &seconds))
        return NULL;
    Lane *lane = PyCapsule_GetPointer(capsule, LANE);
    return lane == NULL ? NULL : PyBool_FromLong(lane_close(lane, seconds));
}

static PyMethodDef methods[] = {{"attach", store_attach, METH_VARARGS, NULL},
                                {"begin", store_begin, METH_VARARGS, NULL},
                                {"ended", store_ended, METH_O, NULL},
                                {"wait", store_wait, METH_VARARGS, NULL},
                                {"close", store_close, METH_VARARGS, NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_swift_store", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC
PyInit__swift_store(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0)
        Py_CLEAR(module);
    return module;
}
