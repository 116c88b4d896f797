/* What the actors do with the usual append of a client, compiled: from what was read of it to the
 * writer's queue, and from its durable group to its answer.
 *
 *     take_in    frames of a round  ──▶ requests that are let in
 *     hand_out   appends of a round ──▶ their sessions go on, and the writer has them
 *     lay_out    a group of them    ──▶ what is chained and stored
 *     answer     a durable group    ──▶ its requests are answered
 *
 * The first is the twin of what `Desk.serve` does with each frame, the second of `Appends.write` with
 * `SessionActor.hand_append`, the third of `group.lay_out_plainly`, the last of
 * `answers.answer_plainly`, which say what they mean. All take what is usual and tell where something
 * else stands: the twin goes on there, or does the whole group. Nothing is refused here.
 */
#include "../domain/_swift_reply.h"

#include <stddef.h>
#include <structmember.h>

enum { VERSION = 3 }; /* of what is agreed with actors/swift.py: another one is not used */

#define NAMES(name)                                                                                \
    name(ok) name(under_way) name(acked) name(send) name(give_back_all) name(locked)               \
    name(popleft) name(append) name(role) name(principal) name(admin) name(last) name(entries)     \
    name(open)
#define DECLARE(name) static PyObject *str_##name;
NAMES(DECLARE)

static PyObject *one_index; /* range(1) */

/* -- the slots of requests, units and the like are read and written where they lie ----------------- */

#define OF_REQUEST(slot)                                                                           \
    slot(request, answered) slot(request, budget_ms) slot(request, arrived) slot(request, id)      \
    slot(request, tally) slot(request, peer) slot(request, admission) slot(request, load)          \
    slot(request, principal) slot(request, traceparent) slot(request, admin)
#define OF_UNIT(slot)                                                                              \
    slot(unit, request) slot(unit, settled) slot(unit, portions) slot(unit, events)                \
    slot(unit, payload_bytes) slot(unit, key)
#define OF_PORTION(slot)                                                                           \
    slot(portion, unit) slot(portion, entity) slot(portion, stream_id) slot(portion, command)      \
    slot(portion, indices) slot(portion, drafts) slot(portion, before) slot(portion, tail)         \
    slot(portion, runs) slot(portion, first_seq) slot(portion, next_before)                        \
    slot(portion, decided) slot(portion, changes) slot(portion, facts) slot(portion, sessions)
#define OF_TAIL(slot)                                                                              \
    slot(tail, stream) slot(tail, kind) slot(tail, stream_id) slot(tail, seq) slot(tail, exists)   \
    slot(tail, principal)
#define OF_ENTITY(slot)                                                                            \
    slot(entity, actor_inbox) slot(entity, stream_id) slot(entity, used_at) slot(entity, _next)    \
    slot(entity, _pending) slot(entity, _state) slot(entity, _tail)
#define OF_MAILBOX(slot)                                                                           \
    slot(mailbox, _envelopes) slot(mailbox, _held) slot(mailbox, _turn)
#define OF_ACCOUNT(slot) slot(account, load) slot(account, waiting)
#define PLACE(of, name) static Py_ssize_t of##_##name;
OF_REQUEST(PLACE)
OF_UNIT(PLACE)
OF_PORTION(PLACE)
OF_TAIL(PLACE)
OF_ENTITY(PLACE)
OF_MAILBOX(PLACE)
OF_ACCOUNT(PLACE)

static PyTypeObject *request_type, *unit_type, *portion_type, *tail_type;
static PyTypeObject *entity_type, *mailbox_type, *account_type;
static PyObject *new_request, *new_unit, *new_portion; /* all that is made here begins as a copy of these */

/* The slot's value, which an object of that type always has once it is made. */
#define AT(object, place) (*(PyObject **)((char *)(object) + (place)))

static void
put(PyObject *object, Py_ssize_t place, PyObject *value)
{
    PyObject *before = AT(object, place);
    AT(object, place) = Py_NewRef(value);
    Py_DECREF(before);
}

static Py_ssize_t
place_of(PyTypeObject *type, const char *name)
{
    PyObject *slot = PyObject_GetAttrString((PyObject *)type, name);
    if (slot == NULL)
        return -1;
    Py_ssize_t place = -1;
    if (Py_TYPE(slot) == &PyMemberDescr_Type &&
        ((PyMemberDescrObject *)slot)->d_member->type == T_OBJECT_EX)
        place = ((PyMemberDescrObject *)slot)->d_member->offset;
    else
        PyErr_Format(PyExc_TypeError, "%s.%s is no slot", type->tp_name, name);
    Py_DECREF(slot);
    return place;
}

/* An object that has nothing but slots, each of which is taken. */
static int
is_whole(PyObject *object)
{
    for (Py_ssize_t at = (Py_ssize_t)sizeof(PyObject); at < Py_TYPE(object)->tp_basicsize;
         at += (Py_ssize_t)sizeof(PyObject *))
        if (AT(object, at) == NULL) {
            PyErr_Format(PyExc_TypeError, "%s has an empty slot", Py_TYPE(object)->tp_name);
            return 0;
        }
    return 1;
}

static PyObject *
copy_of(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject *copy = type->tp_alloc(type, 0);
    if (copy != NULL)
        for (Py_ssize_t at = (Py_ssize_t)sizeof(PyObject); at < type->tp_basicsize;
             at += (Py_ssize_t)sizeof(PyObject *))
            AT(copy, at) = Py_NewRef(AT(object, at));
    return copy;
}

/* setup(Request, Unit, Portion, Tail, Entity, Mailbox, Account, a request that is nobody's) */
static PyObject *
swift_setup(PyObject *module, PyObject *args)
{
    (void)module;
    PyTypeObject *request, *unit, *portion, *tail, *entity, *mailbox, *account;
    PyObject *blank;
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!O!O!O:setup", &PyType_Type, &request, &PyType_Type, &unit,
                          &PyType_Type, &portion, &PyType_Type, &tail, &PyType_Type, &entity,
                          &PyType_Type, &mailbox, &PyType_Type, &account, &blank))
        return NULL;
#define FIND(of, name)                                                                             \
    if ((of##_##name = place_of(of, #name)) < 0)                                                   \
        return NULL;
    OF_REQUEST(FIND)
    OF_UNIT(FIND)
    OF_PORTION(FIND)
    OF_TAIL(FIND)
    OF_ENTITY(FIND)
    OF_MAILBOX(FIND)
    OF_ACCOUNT(FIND)
    if (Py_TYPE(blank) != request || !is_whole(blank)) {
        PyErr_SetString(PyExc_TypeError, "not a request");
        return NULL;
    }
    Py_XSETREF(new_request, Py_NewRef(blank));
    Py_XSETREF(new_unit, PyObject_CallFunction((PyObject *)unit, "O", Py_None));
    Py_XSETREF(new_portion, PyObject_CallFunction((PyObject *)portion, "OOOOO", Py_None, Py_None,
                                                  Py_None, Py_None, Py_None));
    if (new_unit == NULL || new_portion == NULL || !is_whole(new_unit) || !is_whole(new_portion))
        return NULL;
    request_type = (PyTypeObject *)Py_NewRef(request);
    unit_type = (PyTypeObject *)Py_NewRef(unit);
    portion_type = (PyTypeObject *)Py_NewRef(portion);
    tail_type = (PyTypeObject *)Py_NewRef(tail);
    entity_type = (PyTypeObject *)Py_NewRef(entity);
    mailbox_type = (PyTypeObject *)Py_NewRef(mailbox);
    account_type = (PyTypeObject *)Py_NewRef(account);
    Py_RETURN_NONE;
}

/* -- answering -------------------------------------------------------------------------------- */

/* Requests that follow each other, of one peer: what their answers change is changed at once. */
typedef struct {
    PyObject *tally, *peer, *admission; /* owned */
    PyObject *frames;
    long load;
} Run;

static int
add_to(PyObject *object, PyObject *name, long more)
{
    PyObject *number = PyObject_GetAttr(object, name);
    if (number == NULL)
        return -1;
    long value = PyLong_AsLong(number);
    Py_DECREF(number);
    if (value == -1 && PyErr_Occurred())
        return -1;
    number = PyLong_FromLong(value + more);
    if (number == NULL)
        return -1;
    int failed = PyObject_SetAttr(object, name, number);
    Py_DECREF(number);
    return failed;
}

/* What the run's answers change, and off they go. */
static int
end_run(Run *run)
{
    if (run->peer == NULL)
        return 0;
    long count = (long)PyList_GET_SIZE(run->frames);
    int failed = add_to(run->tally, str_ok, count) < 0 ||
                 add_to(run->tally, str_under_way, -count) < 0 ||
                 add_to(run->peer, str_under_way, -count) < 0;
    if (!failed && run->admission != Py_None) {
        failed = add_to(run->tally, str_acked, count) < 0;
        PyObject *load = failed || !run->load ? NULL : PyLong_FromLong(run->load);
        if (load != NULL) {
            PyObject *said = PyObject_CallMethodObjArgs(run->admission, str_give_back_all,
                                                        run->peer, load, NULL);
            failed = said == NULL;
            Py_XDECREF(said);
            Py_DECREF(load);
        } else
            failed = failed || PyErr_Occurred();
    }
    if (!failed) {
        PyObject *send = PyObject_GetAttr(run->peer, str_send);
        failed = send == NULL;
        for (Py_ssize_t i = 0; i < count && !failed; i++) {
            PyObject *said = PyObject_CallOneArg(send, PyList_GET_ITEM(run->frames, i));
            failed = said == NULL;
            Py_XDECREF(said);
        }
        Py_XDECREF(send);
    }
    Py_CLEAR(run->tally);
    Py_CLEAR(run->peer);
    Py_CLEAR(run->admission);
    Py_CLEAR(run->frames);
    run->load = 0;
    return failed ? -1 : 0;
}

/* Put an answer into the run, which is another one where it is another peer's. */
static int
add_to_run(Run *run, PyObject *request, PyObject *frame)
{
    PyObject *tally = AT(request, request_tally), *peer = AT(request, request_peer);
    PyObject *admission = AT(request, request_admission);
    long more = PyLong_AsLong(AT(request, request_load));
    if (more < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "not a load");
        return -1;
    }
    if (peer != run->peer || tally != run->tally || admission != run->admission) {
        if (end_run(run) < 0 || (run->frames = PyList_New(0)) == NULL)
            return -1;
        run->tally = Py_NewRef(tally);
        run->peer = Py_NewRef(peer);
        run->admission = Py_NewRef(admission);
    }
    if (PyList_Append(run->frames, frame) < 0)
        return -1;
    put(request, request_answered, Py_True);
    if (more && admission != Py_None) {
        PyObject *nothing = PyLong_FromLong(0);
        if (nothing == NULL)
            return -1;
        run->load += more;
        put(request, request_load, nothing);
        Py_DECREF(nothing);
    }
    return 0;
}

typedef struct {
    double began, ended, pressed;
    long budget_ms, late, many_pressed;
    double slowest_ms;
    PyObject *arrived;
} Times;

/* What is settled leaves its session's `_pending` at once if it is the first there: what it holds is
 * freed while it is at hand. `Entity._prune` does the same later. */
static int
leave_pending(PyObject *portions)
{
    if (!PyList_CheckExact(portions) || PyList_GET_SIZE(portions) != 1)
        return 0;
    PyObject *portion = PyList_GET_ITEM(portions, 0);
    if (Py_TYPE(portion) != portion_type)
        return 0;
    PyObject *entity = AT(portion, portion_entity);
    if (!PyObject_TypeCheck(entity, entity_type))
        return 0;
    PyObject *pending = AT(entity, entity__pending);
    Py_ssize_t size = pending == NULL ? 0 : PyObject_Size(pending);
    if (size <= 0)
        return (int)size;
    PyObject *first = PySequence_GetItem(pending, 0), *gone = NULL;
    if (first == portion) {
        gone = PyObject_CallMethodNoArgs(pending, str_popleft);
        if (gone != NULL)
            put(portion, portion_before, Py_None);
    }
    int failed = first == NULL || (first == portion && gone == NULL);
    Py_XDECREF(first);
    Py_XDECREF(gone);
    return failed ? -1 : 0;
}

/* 1: answered; 0: it is for the twin; -1: failed. */
static int
answer_one(Times *times, Run *run, PyObject *unit, PyObject *results, PyObject *request)
{
    if (AT(request, request_answered) != Py_False)
        return 0;
    PyObject *own = AT(request, request_budget_ms), *came = AT(request, request_arrived);
    long budget_ms = own == Py_None ? times->budget_ms : PyLong_AsLong(own);
    double arrived = PyFloat_AsDouble(came);
    if ((budget_ms == -1 || arrived == -1.0) && PyErr_Occurred())
        return -1;
    double total_ms = (times->ended - arrived) * 1000;
    int within = budget_ms == 0 || total_ms <= (double)budget_ms;
    PyObject *frame = ok_of_append(AT(request, request_id), results,
                                   (times->began - arrived) * 1000,
                                   (times->ended - times->began) * 1000, total_ms, within);
    PyObject *none = frame == NULL ? NULL : PyList_New(0);
    int failed = none == NULL || PyList_Append(times->arrived, came) < 0;
    if (!failed) {
        put(unit, unit_settled, Py_True);
        failed = leave_pending(AT(unit, unit_portions)) < 0 || add_to_run(run, request, frame) < 0;
        put(unit, unit_portions, none);
    }
    Py_XDECREF(none);
    Py_XDECREF(frame);
    if (failed)
        return -1;
    times->late += !within;
    if (budget_ms) {
        times->many_pressed += total_ms > times->pressed * (double)budget_ms;
        if (total_ms > times->slowest_ms)
            times->slowest_ms = total_ms;
    }
    return 1;
}

/* answer(answers, start, began, ended, budget_ms, pressed, arrived)
 *     -> (where it stopped, late, pressed, slowest_ms); arrivals are appended to `arrived` */
static PyObject *
swift_answer(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *answers;
    Py_ssize_t at;
    Times times = {.slowest_ms = 0.0};
    Run run = {NULL, NULL, NULL, NULL, 0};
    if (!PyArg_ParseTuple(args, "O!nddldO!:answer", &PyList_Type, &answers, &at, &times.began,
                          &times.ended, &times.budget_ms, &times.pressed, &PyList_Type,
                          &times.arrived))
        return NULL;
    int went = 1;
    for (; at >= 0 && at < PyList_GET_SIZE(answers); at++) {
        PyObject *pair = PyList_GET_ITEM(answers, at);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2)
            break;
        PyObject *unit = PyTuple_GET_ITEM(pair, 0), *results = PyTuple_GET_ITEM(pair, 1);
        if (Py_TYPE(unit) != unit_type || !PyBytes_CheckExact(results))
            break;
        PyObject *request = AT(unit, unit_request);
        if (Py_TYPE(request) != request_type)
            break;
        Py_INCREF(pair);
        Py_INCREF(request);
        went = answer_one(&times, &run, unit, results, request);
        Py_DECREF(request);
        Py_DECREF(pair);
        if (went <= 0)
            break;
    }
    PyObject *kind, *value, *trace;
    PyErr_Fetch(&kind, &value, &trace); /* who is answered by now is told, come what may */
    int failed = end_run(&run) < 0;
    if (kind != NULL) {
        PyErr_Restore(kind, value, trace);
        return NULL;
    }
    if (failed)
        return NULL;
    return Py_BuildValue("(nlld)", at, times.late, times.many_pressed, times.slowest_ms);
}

/* -- taking in -------------------------------------------------------------------------------- */

/* What `take_in` is told: whose requests these are, what a gate lets in (see admission.Gate), and
 * what has come in by now. `load` and `slice` are as of the beginning of the call. */
typedef struct {
    PyObject *accounts, *tally, *admission, *read_append; /* of the desk */
    Py_ssize_t requests_max, peer_requests_max, walked_bytes;
    long large_load;
    double over, target;
    double budget_s, committing_load, idle_from, promised_from, opens_at, load_per_s; /* of the gate */
    double bulk_room, bulk_room_alone;
    int company_of_bulk;
    long load, slice, under_way;
    PyObject *requests, *last_peer, *written; /* the last one is owned */
    long taken, came; /* requests, and their load */
    int company, large, budgeted;
} Door;

enum { LOAD_OF_REQUEST = 2, LOAD_SHIFT = 8 }; /* steering.load_of */

/* `later_s`: by how much later it would have to have arrived than one with the engine's budget. */
static int
is_let_in(const Door *door, long account_load, int has_account, double arrived, int promised,
          long load, double later_s)
{
    double under_way = (double)(door->load + door->came);
    if (door->budget_s <= 0)
        return 1;
    arrived -= later_s;
    if (under_way <= 0) /* it will never be better */
        return arrived > door->idle_from;
    if (promised)
        return arrived > door->promised_from;
    double before = under_way - door->committing_load;
    double room = (arrived - door->opens_at) * door->load_per_s;
    if (before + (double)load <= room)
        return 1;
    if (before <= 0)
        return room > 0;
    double others = (double)PyDict_GET_SIZE(door->accounts) + (has_account ? 0 : 1);
    return before + (double)load <= room * door->over &&
           (double)(account_load + load) <= room / others;
}

/* Whether one with a budget of its own may go on, as `Admission.may_go_on` says. */
static int
may_go_on(const Door *door, double own_s, long account_load, int has_account, double arrived, long load)
{
    if (door->budget_s <= 0)
        return 1;
    if (own_s > 0 && own_s <= door->budget_s)
        return is_let_in(door, account_load, has_account, arrived, 0, load,
                         door->target * (door->budget_s - own_s));
    double under_way = (double)(door->load + door->came);
    int company = door->company_of_bulk || door->budgeted;
    return under_way + (double)load <= (company ? door->bulk_room : door->bulk_room_alone) ||
           under_way <= (company ? 0 : door->committing_load);
}

/* The request of a frame that was read, as `Request` and `Admission.charge` make it. */
static PyObject *
request_of(const Door *door, PyObject *peer, PyObject *written, PyObject *arrived, long load)
{
    PyObject *principal = PyObject_GetAttr(peer, str_principal);
    PyObject *role = PyObject_GetAttr(peer, str_role), *weight = PyLong_FromLong(load);
    PyObject *request = NULL;
    int admin = role == NULL ? -1 : PyObject_RichCompareBool(role, str_admin, Py_EQ);
    if (principal != NULL && weight != NULL && admin >= 0)
        request = copy_of(new_request);
    if (request != NULL) {
        put(request, request_peer, peer);
        put(request, request_id, PyTuple_GET_ITEM(written, 0));
        put(request, request_arrived, arrived);
        put(request, request_budget_ms, PyTuple_GET_ITEM(written, 1));
        put(request, request_tally, door->tally);
        put(request, request_admission, door->admission);
        put(request, request_load, weight);
        put(request, request_principal, principal);
        put(request, request_admin, admin ? Py_True : Py_False);
    }
    Py_XDECREF(principal);
    Py_XDECREF(role);
    Py_XDECREF(weight);
    return request;
}

/* 1: it came in; 0: it is for the twin, and nothing has changed; -1: failed, and nothing has. */
static int
take_one(Door *door, PyObject *arrival, PyObject *stamp)
{
    if (!PyTuple_CheckExact(arrival) || PyTuple_GET_SIZE(arrival) != 2 ||
        !PyTuple_CheckExact(stamp) || PyTuple_GET_SIZE(stamp) != 2)
        return 0;
    PyObject *peer = PyTuple_GET_ITEM(arrival, 0), *frame = PyTuple_GET_ITEM(arrival, 1);
    PyObject *arrived = PyTuple_GET_ITEM(stamp, 0), *account;
    if (door->slice - door->came <= 0 || !PyBytes_CheckExact(frame) || !PyFloat_CheckExact(arrived) ||
        PyBytes_GET_SIZE(frame) >= door->walked_bytes || /* too long with the interpreter's lock */
        door->under_way + door->taken + 1 > door->requests_max)
        return 0;
    long load = LOAD_OF_REQUEST + (long)(PyBytes_GET_SIZE(frame) >> LOAD_SHIFT), held = 0;
    if ((account = PyDict_GetItemWithError(door->accounts, peer)) != NULL) {
        if (Py_TYPE(account) != account_type)
            return 0;
        held = PyLong_AsLong(AT(account, account_load));
        if (PyLong_AsLong(AT(account, account_waiting)) != 0)
            return PyErr_Occurred() ? -1 : 0;
    }
    if (PyErr_Occurred())
        return -1;
    double since = PyFloat_AS_DOUBLE(arrived);
    if (!is_let_in(door, held, account != NULL, since, PyTuple_GET_ITEM(stamp, 1) == Py_True, load, 0))
        return 0;
    PyObject *under_way = PyObject_GetAttr(peer, str_under_way);
    long many = under_way == NULL ? -1 : PyLong_AsLong(under_way) + 1;
    Py_XDECREF(under_way);
    if (many <= 0 || many > door->peer_requests_max)
        return PyErr_Occurred() ? -1 : 0;
    PyObject *written = PyObject_CallOneArg(door->read_append, frame);
    if (written == NULL)
        return -1;
    PyObject *own = PyTuple_Check(written) && PyTuple_GET_SIZE(written) == 9
                        ? PyTuple_GET_ITEM(written, 1)
                        : NULL;
    double own_s = own == NULL || own == Py_None ? 0 : (double)PyLong_AsLong(own) / 1000;
    int by_ours = own == Py_None || (own_s > 0 && own_s <= door->budget_s);
    if (own == NULL || own_s < 0 ||
        (own != Py_None && !may_go_on(door, own_s, held, account != NULL, since, load))) {
        PyErr_Clear();
        if (own != NULL)
            door->written = Py_NewRef(written);
        Py_DECREF(written);
        return 0;
    }
    int went = -1;
    PyObject *request = request_of(door, peer, written, arrived, load), *entry = NULL;
    PyObject *count = PyLong_FromLong(many), *more = PyLong_FromLong(held + load);
    if (request != NULL && count != NULL && more != NULL)
        entry = PyTuple_Pack(3, request, written, frame);
    if (entry != NULL && account == NULL) {
        PyObject *made = PyObject_CallOneArg((PyObject *)account_type, peer);
        if (made != NULL && PyDict_SetItem(door->accounts, peer, made) == 0)
            account = made;
        Py_XDECREF(made); /* the dict has it */
    }
    if (entry != NULL && account != NULL && PyList_Append(door->requests, entry) == 0) {
        put(account, account_load, more);
        if (PyObject_SetAttr(peer, str_under_way, count) < 0)
            PyErr_Clear(); /* it was read a moment ago */
        door->company |= peer != door->last_peer;
        door->last_peer = peer;
        door->large |= load > door->large_load;
        door->budgeted |= by_ours;
        door->came += load;
        door->taken++;
        went = 1;
    }
    Py_XDECREF(entry);
    Py_XDECREF(request);
    Py_XDECREF(count);
    Py_XDECREF(more);
    Py_DECREF(written);
    return went;
}

/* take_in(arrivals, stamps, start, requests, (accounts, tally, admission, read_append, requests_max,
 *         peer_requests_max, large load, over, target, walked bytes), gate's terms, load, slice,
 *         under_way, last peer)
 *     -> (where it stopped, what was read of that one or None, requests, load, whether one was large,
 *         the last peer, whether several have come, whether one has no budget but the engine's or less) */
static PyObject *
swift_take_in(PyObject *module, PyObject *args)
{
    (void)module;
    Door door = {0};
    PyObject *arrivals, *stamps;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "O!O!nO!(O!OOOnnlddn)(ddddddddp)lllO:take_in", &PyList_Type, &arrivals,
                          &PyList_Type, &stamps, &at, &PyList_Type, &door.requests, &PyDict_Type,
                          &door.accounts, &door.tally, &door.admission, &door.read_append,
                          &door.requests_max, &door.peer_requests_max, &door.large_load,
                          &door.over, &door.target, &door.walked_bytes,
                          &door.budget_s, &door.committing_load, &door.idle_from,
                          &door.promised_from, &door.opens_at, &door.load_per_s, &door.bulk_room,
                          &door.bulk_room_alone, &door.company_of_bulk, &door.load,
                          &door.slice, &door.under_way, &door.last_peer))
        return NULL;
    int went = 1;
    for (; went > 0 && at >= 0 && at < PyList_GET_SIZE(arrivals) && at < PyList_GET_SIZE(stamps);
         at += went > 0) {
        PyObject *arrival = Py_NewRef(PyList_GET_ITEM(arrivals, at));
        PyObject *stamp = Py_NewRef(PyList_GET_ITEM(stamps, at));
        went = take_one(&door, arrival, stamp);
        Py_DECREF(arrival); /* `arrivals` has it still */
        Py_DECREF(stamp);
    }
    if (went < 0)
        PyErr_Clear(); /* the twin fails with it as it should */
    PyObject *read = door.written == NULL ? Py_NewRef(Py_None) : door.written;
    return Py_BuildValue("(nNllOOOO)", at, read, door.taken, door.came,
                         door.large ? Py_True : Py_False, door.last_peer,
                         door.company ? Py_True : Py_False, door.budgeted ? Py_True : Py_False);
}

/* -- handing out ------------------------------------------------------------------------------ */

/* What `hand_out` is told, once for all calls: see actors/appends.py. */
typedef struct {
    PyObject *written, *append, *roles, *session, *awake, *move_to_end, *go_on;
    PyObject *now;
    Py_ssize_t pending_max;
} Office;

/* Forget what is settled of what the session has handed over. */
static int
prune(PyObject *pending)
{
    for (;;) {
        Py_ssize_t size = PyObject_Size(pending);
        if (size <= 0)
            return size < 0 ? -1 : 0;
        PyObject *first = PySequence_GetItem(pending, 0);
        if (first == NULL)
            return -1;
        PyObject *unit = Py_TYPE(first) == portion_type ? AT(first, portion_unit) : NULL;
        int over = unit != NULL && Py_TYPE(unit) == unit_type ? AT(unit, unit_settled) == Py_True
                                                              : -1;
        if (over > 0) {
            PyObject *gone = PyObject_CallMethodNoArgs(pending, str_popleft);
            if (gone == NULL)
                over = -1;
            else
                put(first, portion_before, Py_None);
            Py_XDECREF(gone);
        }
        Py_DECREF(first);
        if (over < 0 && !PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "not a portion");
        if (over <= 0)
            return over;
    }
}

/* Whether nothing waits in the mailbox and nobody has the turn; -1: failed. */
static int
is_free(PyObject *inbox)
{
    if (inbox == NULL || Py_TYPE(inbox) != mailbox_type || AT(inbox, mailbox__held) != Py_False)
        return 0;
    Py_ssize_t waiting = PyObject_Size(AT(inbox, mailbox__envelopes));
    if (waiting)
        return waiting < 0 ? -1 : 0;
    PyObject *locked = PyObject_CallMethodNoArgs(AT(inbox, mailbox__turn), str_locked);
    Py_XDECREF(locked);
    return locked == NULL ? -1 : locked == Py_False;
}

/* The unit of an append to a session that is awake and goes on: 1. 0: it is for the twin. */
static int
go_on_with(const Office *office, PyObject *request, PyObject *written, PyObject *actor,
           PyObject *units)
{
    PyObject *drafts = PyTuple_GET_ITEM(written, 3), *payloads = PyTuple_GET_ITEM(written, 7);
    PyObject *tail = AT(actor, entity__tail), *pending = AT(actor, entity__pending);
    PyObject *next = AT(actor, entity__next), *stream_id = AT(actor, entity_stream_id);
    PyObject *state = AT(actor, entity__state), *principal = AT(request, request_principal);
    if (tail == NULL || Py_TYPE(tail) != tail_type || pending == NULL || state == NULL ||
        next == NULL || stream_id == NULL || AT(actor, entity_used_at) == NULL)
        return 0;
    Py_ssize_t before = PyObject_Size(pending), size = PyList_GET_SIZE(drafts);
    int went = before < 0 ? -1 : before < office->pending_max;
    if (went > 0)
        went = is_free(AT(actor, entity_actor_inbox));
    if (went > 0 && AT(tail, tail_principal) != principal)
        went = PyObject_RichCompareBool(AT(tail, tail_principal), principal, Py_EQ);
    if (went <= 0)
        return went;
    went = -1;
    PyObject *command = NULL, *gone_on = NULL, *unit = NULL, *portion = NULL;
    PyObject *portions = NULL, *count = NULL, *bytes = NULL, *after = NULL, *indices = NULL;
    command = ((PyTypeObject *)office->append)->tp_alloc((PyTypeObject *)office->append, 4);
    if (command == NULL)
        goto end;
    PyTuple_SET_ITEM(command, 0, Py_NewRef(drafts));
    PyTuple_SET_ITEM(command, 1, Py_NewRef(PyTuple_GET_ITEM(written, 6)));
    PyTuple_SET_ITEM(command, 2, Py_NewRef(PyTuple_GET_ITEM(written, 4)));
    PyTuple_SET_ITEM(command, 3, Py_NewRef(PyTuple_GET_ITEM(written, 5)));
    PyObject_GC_UnTrack(command); /* see `go_on` in domain/_swift.c */
    PyObject *asked[] = {state, command};
    gone_on = PyObject_Vectorcall(office->go_on, asked, 2, NULL);
    if (gone_on == NULL)
        goto end;
    if (gone_on == Py_None) {
        went = 0;
        goto end;
    }
    if (prune(pending) < 0)
        goto end;
    unit = copy_of(new_unit);
    portion = copy_of(new_portion);
    portions = PyList_New(0);
    count = PyLong_FromSsize_t(size);
    bytes = PyLong_FromSsize_t(PyBytes_GET_SIZE(payloads));
    indices = size == 1 ? Py_NewRef(one_index)
                        : PyObject_CallOneArg((PyObject *)&PyRange_Type, count);
    after = count == NULL ? NULL : PyNumber_Add(next, count);
    if (unit == NULL || portion == NULL || portions == NULL || bytes == NULL || indices == NULL ||
        after == NULL || !PyTuple_Check(gone_on) || PyTuple_GET_SIZE(gone_on) != 2 ||
        PyList_Append(portions, portion) < 0)
        goto end;
    put(unit, unit_request, request);
    put(unit, unit_events, count);
    put(unit, unit_payload_bytes, bytes);
    put(unit, unit_portions, portions);
    put(portion, portion_unit, unit);
    put(portion, portion_entity, actor);
    put(portion, portion_stream_id, stream_id);
    put(portion, portion_command, command);
    put(portion, portion_indices, indices);
    put(portion, portion_drafts, drafts);
    put(portion, portion_before, state);
    put(portion, portion_tail, tail);
    put(portion, portion_runs, PyTuple_GET_ITEM(gone_on, 1));
    put(portion, portion_first_seq, next);
    put(portion, portion_next_before, next);
    put(portion, portion_decided, Py_True);
    if (PyList_Append(units, unit) < 0)
        goto end;
    PyObject *kept = PyObject_CallMethodOneArg(pending, str_append, portion);
    if (kept == NULL) {
        Py_ssize_t last = PyList_GET_SIZE(units) - 1;
        PyList_SetSlice(units, last, last + 1, NULL);
        goto end;
    }
    Py_DECREF(kept); /* now it is decided */
    put(actor, entity__state, PyTuple_GET_ITEM(gone_on, 0));
    put(actor, entity__next, after);
    went = 1;
end:
    Py_XDECREF(command);
    Py_XDECREF(gone_on);
    Py_XDECREF(unit);
    Py_XDECREF(portion);
    Py_XDECREF(portions);
    Py_XDECREF(count);
    Py_XDECREF(bytes);
    Py_XDECREF(after);
    Py_XDECREF(indices);
    return went;
}

/* 1: handed out; 0: it is for the twin; -1: failed. */
static int
hand_out_one(const Office *office, PyObject *entry, PyObject *units)
{
    if (!PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) != 3)
        return 0;
    PyObject *request = PyTuple_GET_ITEM(entry, 0), *written = PyTuple_GET_ITEM(entry, 1);
    if ((PyObject *)Py_TYPE(written) != office->written || Py_TYPE(request) != request_type)
        return 0;
    PyObject *role = PyObject_GetAttr(AT(request, request_peer), str_role);
    int may = role == NULL ? -1 : PySet_Contains(office->roles, role);
    Py_XDECREF(role);
    if (may <= 0)
        return may;
    PyObject *session_id = PyTuple_GET_ITEM(written, 2);
    PyObject *actor = PyDict_GetItemWithError(office->awake, session_id);
    if (actor == NULL)
        return PyErr_Occurred() ? -1 : 0;
    if ((PyObject *)Py_TYPE(actor) != office->session)
        return 0;
    Py_INCREF(actor);
    PyObject *moved = PyObject_CallOneArg(office->move_to_end, session_id);
    int went = moved == NULL ? -1 : go_on_with(office, request, written, actor, units);
    if (went >= 0 && AT(actor, entity_used_at) != NULL)
        put(actor, entity_used_at, office->now);
    Py_XDECREF(moved);
    Py_DECREF(actor);
    return went;
}

/* hand_out(requests, start, units, now, pending_max, office) -> where it stopped; `units` gets what
 * is the writer's. Whoever something failed with is the twin's, which fails with it as it should. */
static PyObject *
swift_hand_out(PyObject *module, PyObject *args)
{
    (void)module;
    Office office;
    PyObject *requests, *units;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "O!nO!On(OOOOOOO):hand_out", &PyList_Type, &requests, &at,
                          &PyList_Type, &units, &office.now, &office.pending_max, &office.written,
                          &office.append, &office.roles, &office.session, &office.awake, &office.move_to_end, &office.go_on))
        return NULL;
    if (!PyDict_Check(office.awake) || !PyAnySet_Check(office.roles) ||
        !PyType_Check(office.session) ||
        !PyType_IsSubtype((PyTypeObject *)office.session, entity_type)) {
        PyErr_SetString(PyExc_TypeError, "not what hand_out works with");
        return NULL;
    }
    int went = 1;
    for (; at >= 0 && at < PyList_GET_SIZE(requests) && went > 0; at += went > 0) {
        PyObject *entry = Py_NewRef(PyList_GET_ITEM(requests, at));
        went = hand_out_one(&office, entry, units);
        Py_DECREF(entry);
    }
    if (went < 0)
        PyErr_Clear();
    return PyLong_FromSsize_t(at);
}

/* -- laying out ------------------------------------------------------------------------------- */

/* What a group becomes; the names are those of `group.Group` and `port.Batch`. */
typedef struct {
    PyObject *starts, *stretches, *owners, *marks, *tails, *ends, *moves;
    PyObject *names, *stretch, *stream_names;
    long long seq, first_seq, mark_every;
} Laid;

/* Whether a sequence has nothing in it. */
static int
is_empty(PyObject *sequence)
{
    return PyTuple_CheckExact(sequence)  ? !PyTuple_GET_SIZE(sequence)
           : PyList_CheckExact(sequence) ? !PyList_GET_SIZE(sequence)
                                         : 0;
}

static int
add_item(PyObject *list, PyObject *item)
{
    int failed = item == NULL || PyList_Append(list, item) < 0;
    Py_XDECREF(item);
    return failed ? -1 : 0;
}

static int
set_number(PyObject *dict, PyObject *key, long long number)
{
    PyObject *value = PyLong_FromLongLong(number);
    int failed = value == NULL || PyDict_SetItem(dict, key, value) < 0;
    Py_XDECREF(value);
    return failed ? -1 : 0;
}

/* A run that goes on, as its row will say. 1: it does; 0: it begins or ends. */
static int
move_run(Laid *laid, PyObject *entry)
{
    if (!PyTuple_CheckExact(entry) || PyTuple_GET_SIZE(entry) != 3 ||
        PyTuple_GET_ITEM(entry, 2) != Py_False)
        return 0;
    PyObject *run_id = PyTuple_GET_ITEM(entry, 0), *run = PyTuple_GET_ITEM(entry, 1);
    PyObject *last = PyObject_GetAttr(run, str_last);
    Py_XDECREF(last);
    if (last != Py_None)
        return last == NULL ? -1 : 0;
    PyObject *entries = PyObject_GetAttr(run, str_entries), *open = PyObject_GetAttr(run, str_open);
    PyObject *move = entries == NULL || open == NULL
                         ? NULL
                         : Py_BuildValue("(OiO)", entries, PyObject_IsTrue(open), run_id);
    int failed = move == NULL || PyDict_SetItem(laid->moves, run_id, move) < 0;
    Py_XDECREF(entries);
    Py_XDECREF(open);
    Py_XDECREF(move);
    return failed ? -1 : 1;
}

static int
mark(Laid *laid, PyObject *stream, long long number, Py_ssize_t count)
{
    long long every = laid->mark_every, marked = (number + every - 1) / every * every;
    for (; marked < number + count; marked += every)
        if (add_item(laid->marks, Py_BuildValue("(OLL)", stream, marked / every,
                                                laid->seq + 1 + marked - number)) < 0)
            return -1;
    return 0;
}

/* 1: laid out; 0: it is not usual. */
static int
lay_out_one(Laid *laid, PyObject *unit)
{
    if (Py_TYPE(unit) != unit_type || AT(unit, unit_key) != Py_None)
        return 0;
    PyObject *request = AT(unit, unit_request), *portions = AT(unit, unit_portions);
    if (!PyObject_TypeCheck(request, request_type) || !PyList_CheckExact(portions) ||
        PyList_GET_SIZE(portions) != 1)
        return 0;
    PyObject *portion = PyList_GET_ITEM(portions, 0);
    if (Py_TYPE(portion) != portion_type || !is_empty(AT(portion, portion_changes)) ||
        !is_empty(AT(portion, portion_facts)) || AT(portion, portion_sessions) != Py_None)
        return 0;
    PyObject *tail = AT(portion, portion_tail), *drafts = AT(portion, portion_drafts);
    PyObject *name = AT(request, request_principal), *runs = AT(portion, portion_runs);
    if (Py_TYPE(tail) != tail_type || !PyList_CheckExact(drafts) ||
        !(PyList_CheckExact(runs) || PyTuple_CheckExact(runs)))
        return 0;
    PyObject *principal = PyDict_GetItemWithError(laid->names, name); /* all of these are borrowed */
    PyObject *last = PyDict_GetItemWithError(laid->tails, tail);
    PyObject *stream_name = PyDict_GetItemWithError(laid->stream_names, AT(tail, tail_kind));
    if (PyErr_Occurred())
        return -1;
    if (last == NULL && AT(tail, tail_exists) == Py_True)
        last = AT(tail, tail_seq);
    if (principal == NULL || last == NULL || stream_name == NULL)
        return 0;
    if (add_item(laid->starts, PyLong_FromLongLong(laid->seq - laid->first_seq)) < 0)
        return -1;
    Py_ssize_t count = PyList_GET_SIZE(drafts);
    if (!count)
        return 1;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(runs); i++) {
        int went = move_run(laid, PySequence_Fast_GET_ITEM(runs, i));
        if (went <= 0)
            return went;
    }
    PyObject *stream = AT(tail, tail_stream), *first = AT(portion, portion_first_seq);
    long long number = PyLong_AsLongLong(first);
    if (number == -1 && PyErr_Occurred())
        return -1;
    PyObject *fields[] = {drafts, stream, stream_name, AT(tail, tail_stream_id), first,
                          last,   Py_None, principal,  name, AT(request, request_traceparent)};
    PyObject *stretch = ((PyTypeObject *)laid->stretch)->tp_alloc((PyTypeObject *)laid->stretch, 10);
    if (stretch == NULL)
        return -1;
    for (int i = 0; i < 10; i++)
        PyTuple_SET_ITEM(stretch, i, Py_NewRef(fields[i]));
    PyObject *owner = PyTuple_Pack(2, tail, name);
    PyObject_GC_UnTrack(stretch);
    int failed = add_item(laid->stretches, stretch) < 0 || owner == NULL;
    if (owner != NULL)
        PyObject_GC_UnTrack(owner);
    for (Py_ssize_t i = 0; i < count && !failed; i++)
        failed = PyList_Append(laid->owners, owner) < 0;
    Py_XDECREF(owner);
    if (failed || mark(laid, stream, number, count) < 0)
        return -1;
    laid->seq += count;
    if (set_number(laid->tails, tail, laid->seq) < 0 ||
        set_number(laid->ends, tail, number + count - 1) < 0)
        return -1;
    return 1;
}

/* (stream, its last number, its last seq) of each */
static PyObject *
heads_of(const Laid *laid)
{
    PyObject *heads = PyList_New(0), *tail, *end;
    Py_ssize_t at = 0;
    while (heads != NULL && PyDict_Next(laid->ends, &at, &tail, &end))
        if (add_item(heads, PyTuple_Pack(3, AT(tail, tail_stream), end,
                                         PyDict_GetItemWithError(laid->tails, tail))) < 0)
            Py_CLEAR(heads);
    return heads;
}

/* lay_out(units, names, seq, Stretch, stream names, mark every) -> (starts, stretches, owners, marks,
 * tails, heads, run moves, seq), or None: something is not usual, and nothing has changed */
static PyObject *
swift_lay_out(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *units;
    Laid laid = {0};
    if (!PyArg_ParseTuple(args, "O!O!LO!O!L:lay_out", &PyList_Type, &units, &PyDict_Type,
                          &laid.names, &laid.first_seq, &PyType_Type, &laid.stretch, &PyDict_Type,
                          &laid.stream_names, &laid.mark_every))
        return NULL;
    laid.seq = laid.first_seq;
    PyObject **lists[] = {&laid.starts, &laid.stretches, &laid.owners, &laid.marks};
    PyObject **dicts[] = {&laid.tails, &laid.ends, &laid.moves};
    int went = 1;
    for (int i = 0; i < 4 && went > 0; i++)
        went = (*lists[i] = PyList_New(0)) == NULL ? -1 : 1;
    for (int i = 0; i < 3 && went > 0; i++)
        went = (*dicts[i] = PyDict_New()) == NULL ? -1 : 1;
    for (Py_ssize_t i = 0; went > 0 && i < PyList_GET_SIZE(units); i++)
        went = lay_out_one(&laid, PyList_GET_ITEM(units, i));
    PyObject *found = NULL;
    if (went > 0) {
        PyObject *heads = heads_of(&laid), *moves = PyDict_Values(laid.moves);
        if (heads != NULL && moves != NULL)
            found = Py_BuildValue("(OOOOOOOL)", laid.starts, laid.stretches, laid.owners,
                                  laid.marks, laid.tails, heads, moves, laid.seq);
        Py_XDECREF(heads);
        Py_XDECREF(moves);
    } else if (!went)
        found = Py_NewRef(Py_None);
    for (int i = 0; i < 4; i++)
        Py_XDECREF(*lists[i]);
    for (int i = 0; i < 3; i++)
        Py_XDECREF(*dicts[i]);
    return found;
}

static PyMethodDef methods[] = {
    {"setup", swift_setup, METH_VARARGS, NULL},
    {"take_in", swift_take_in, METH_VARARGS, NULL},
    {"hand_out", swift_hand_out, METH_VARARGS, NULL},
    {"lay_out", swift_lay_out, METH_VARARGS, NULL},
    {"answer", swift_answer, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_swift_appends", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC
PyInit__swift_appends(void)
{
#define INTERN(name)                                                                               \
    if ((str_##name = PyUnicode_InternFromString(#name)) == NULL)                                  \
        return NULL;
    NAMES(INTERN)
    if ((one_index = PyObject_CallFunction((PyObject *)&PyRange_Type, "i", 1)) == NULL)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0)
        Py_CLEAR(module);
    return module;
}
