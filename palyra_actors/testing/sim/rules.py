"""For what reasons a request may be refused as things stand in the model, as error codes.

None means that it has to be `ok`. Where several apply, which of them is told is the engine's
choice. What the disk, the budget or a stop may add is not of this place.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from palyra_actors.ids import format_ulid
from palyra_actors.testing.sim.model import RUN_ENDS, RUN_STEPS, Canvas, Model, Session, changed
from palyra_actors.testing.sim.peers import Order

PERHAPS: Final = "~"
"""Before a code that may be told and need not: what it rests on may have come at the same time."""

EVENT_FIELDS: Final = ("session_id", "run_id", "kind", "actor", "ts_ms", "payload")


def refusals(model: Model, order: Order, now_ms: int) -> set[str]:
    """All codes that apply; `now_ms` is the wall clock when it is decided."""
    if order.op == "journal.append":
        return set(_append(model, order))
    named = order.body.get("event_id")
    if named in model.by_id:
        if model.orders.get(named) is not order:
            return {"id_reused"}
        gone = {PERHAPS + "gone", PERHAPS + "not_found"}
        return gone if _answer_is_gone(model, named) else set()
    codes = set(_RULES[order.op](model, order, now_ms))
    first = model.orders.get(named) if named is not None else None
    if first is None or not first.may_be_idle:
        return codes
    if first is not order:
        return {"id_reused"} if first.idle else {*codes, PERHAPS + "id_reused"}
    gone = {PERHAPS + "gone", PERHAPS + "not_found"}
    return gone if first.idle else codes | gone


def known(model: Model, order: Order) -> bool:
    """Whether all of it is stored, under the ids that its client gave."""
    ids = order.event_ids
    return bool(ids) and all(
        name in model.by_id and model.orders.get(name) is order for name in ids
    )


def _answer_is_gone(model: Model, event_id: str) -> bool:
    """Whether what the request was answered has been destroyed since."""
    event = model.by_id[event_id]
    if event.stored.stream == "cron":
        return False
    if event.stored.stream == "memory":
        return model.memories.made_by(event_id) is None
    if event.stored.stream == "canvas":
        canvas = model.canvases[event.stream_id]
        return canvas.erased or canvas.horizon > 1
    return model.sessions[event.stream_id].status == "erased"


def changes_nothing(model: Model, order: Order) -> bool:
    """Whether the order is `ok` now without an event."""
    body = order.body
    match order.op:
        case "session.resolve":
            name, key = body.get("session_id"), (order.principal, body.get("session_key"))
            return name in model.sessions or (name is None and key in model.keys)
        case "approval.decide":
            approval = model.approvals.get(body["approval_id"])
            return approval is not None and approval.decision is not None
        case "cron.enable" | "cron.disable":
            job = model.cron.jobs.get(body["job_id"])
            return job is not None and job.enabled == (order.op == "cron.enable")
        case "memory.ingest":
            return model.memories.same(order.principal, _place(body)) is not None
        case "memory.purge":
            return not model.memories.selected(order.principal, body)
        case "canvas.compact":
            canvas = model.canvases.get(body["canvas_id"])
            return canvas is not None and canvas.horizon == canvas.version
    return False


def _mine(order: Order, owner: str) -> bool:
    return order.admin or order.principal == owner


def _session(
    model: Model, order: Order, name: str, *, missing: bool, archived: bool
) -> Iterator[str]:
    """What a session has against it; `missing` and `archived`: whether that is among it."""
    session = model.sessions.get(name)
    if session is None:
        if missing:
            yield "not_found"
    elif not _mine(order, session.owner):
        yield "not_found"
    elif session.status == "erased":
        yield "gone"
    elif session.status == "archived" and archived:
        yield "invalid_transition"


# -- events ---------------------------------------------------------------------------------------


def _append(model: Model, order: Order) -> Iterator[str]:
    new: list[Mapping[str, Any]] = []
    for event in order.body["events"]:
        stored = model.by_id.get(event["event_id"])
        if stored is None:
            new.append(event)
        elif not _same(model, order, event):
            yield "id_reused"
    expected = order.body.get("expected_session_seq")
    states = {name: run.state for name, run in model.runs.items()}
    places = {name: run.session for name, run in model.runs.items()}
    for event in new:
        name, run_id = event["session_id"], event["run_id"]
        yield from _session(model, order, name, missing=False, archived=True)
        last = model.sessions[name].last_seq if name in model.sessions else 0
        if expected not in (None, last):
            yield "conflict"
        if run_id is None:
            continue
        yield from _run_elsewhere(model, run_id, name, order)
        if places.setdefault(run_id, name) != name:
            yield "invalid"
        end = RUN_ENDS.get(event["kind"])
        state = states.setdefault(run_id, "in_progress")
        if end is not None:
            if not RUN_STEPS[state] and state != end:
                yield "invalid_transition"
            states[run_id] = end


def _same(model: Model, order: Order, event: Mapping[str, Any]) -> bool:
    first = model.orders[event["event_id"]]
    if first.op != "journal.append" or first.principal != order.principal:
        return False
    said = next(one for one in first.body["events"] if one["event_id"] == event["event_id"])
    return all(said[name] == event[name] for name in EVENT_FIELDS)


def _run_elsewhere(model: Model, run_id: str, session: str, order: Order) -> Iterator[str]:
    """A run lives in one session for ever, also where that was erased; who does not own that one
    hears of no run."""
    run = model.runs.get(run_id)
    held_by = model.gone_runs.get(run_id)
    if run is not None and run.session != session:
        held_by = run.owner
    if held_by is not None:
        here = model.sessions.get(session)
        owner = order.principal if here is None else here.owner
        other = "conflict" if order.op == "run.start" else "invalid"
        yield other if held_by == owner else "not_found"


# -- sessions -------------------------------------------------------------------------------------


def _resolve(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    body = order.body
    name, key = body.get("session_id"), body.get("session_key")
    create = body.get("create", True)
    holder = None if key is None else model.keys.get((order.principal, key))
    if name is None:
        name = holder
    elif holder not in (None, name):
        yield "conflict"
    session = None if name is None else model.sessions.get(name)
    if session is None:
        if not create:
            yield "not_found" if key is not None or name is not None else "invalid"
        return
    yield from _session(model, order, str(name), missing=True, archived=False)
    if key is not None and session.key != key:
        yield "conflict"


def _update(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    yield from _session(model, order, order.body["session_id"], missing=True, archived=True)


def _erase(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    yield from _session(model, order, order.body["session_id"], missing=True, archived=False)


def _branch(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    body = order.body
    yield from _session(model, order, body["session_id"], missing=True, archived=False)
    parent = model.sessions.get(body["session_id"])
    if parent is not None and body.get("at_session_seq", 0) > parent.last_seq:
        yield "invalid"
    child = model.sessions.get(body["new_session_id"])
    if child is not None:
        yield from _session(model, order, body["new_session_id"], missing=True, archived=False)
        yield "conflict"
    holder = model.keys.get((order.principal, body.get("session_key", "")))
    if holder not in (None, body["new_session_id"]):
        yield "conflict"


# -- runs -----------------------------------------------------------------------------------------


def _start(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    body = order.body
    yield from _session(model, order, body["session_id"], missing=False, archived=True)
    run = model.runs.get(body["run_id"])
    if run is not None and run.session == body["session_id"]:
        yield "conflict"
    yield from _run_elsewhere(model, body["run_id"], body["session_id"], order)
    parent = body.get("parent_run_id")
    if parent is not None:
        for code in _run(model, order, parent):
            yield PERHAPS + code.removeprefix(PERHAPS)  # it may be erased while this is on its way


def _run(model: Model, order: Order, name: str) -> Iterator[str]:
    run = model.runs.get(name)
    if run is None:
        yield missing(order, model.gone_runs.get(name))
    elif not _mine(order, run.owner):
        yield "not_found"


def missing(order: Order, owner: str | None) -> str:
    """What is told of what is not there; `owner`: whose it was, if it ever was."""
    return "gone" if owner is not None and _mine(order, owner) else "not_found"


def _move(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    name, to = order.body["run_id"], order.body.get("to", "cancelled")
    yield from _run(model, order, name)
    if name in model.runs and to not in RUN_STEPS[model.runs[name].state]:
        yield "invalid_transition"


# -- approvals ------------------------------------------------------------------------------------


def _request(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    body = order.body
    yield from _session(model, order, body["session_id"], missing=False, archived=True)
    found = model.approvals.get(body["approval_id"])
    held_by = model.gone_approvals.get(body["approval_id"]) if found is None else found.owner
    if held_by is not None:
        here = model.sessions.get(body["session_id"])
        owner = order.principal if here is None else here.owner
        yield "conflict" if held_by == owner else "not_found"
    if body.get("run_id") is not None:
        for code in _run_elsewhere(model, body["run_id"], body["session_id"], order):
            yield PERHAPS + code


def _decide(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    found = model.approvals.get(order.body["approval_id"])
    if found is None:
        yield missing(order, model.gone_approvals.get(order.body["approval_id"]))
    elif not _mine(order, found.owner):
        yield "not_found"
    elif found.decision is not None:
        said = order.body["decision"], order.body.get("scope", "once")
        if (found.decision, found.scope) != said:
            yield "conflict"
    elif found.expires_ms is not None and found.expires_ms <= now_ms:
        yield "conflict"


# -- canvases -------------------------------------------------------------------------------------


def _canvas(model: Model, order: Order) -> Canvas | None:
    canvas = model.canvases.get(order.body["canvas_id"])
    return canvas if canvas is not None and _mine(order, canvas.owner) else None


def _create(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    until = order.body.get("expires_ms")
    if until is not None:
        yield "invalid" if until <= now_ms else PERHAPS + "invalid"
    found = model.canvases.get(order.body["canvas_id"])
    if found is not None:
        yield "conflict" if _mine(order, found.owner) else "not_found"
        if found.erased:
            yield PERHAPS + "gone"
    yield from _session(model, order, order.body["session_id"], missing=False, archived=True)


def _change(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    canvas = _canvas(model, order)
    if canvas is None:
        yield "not_found"
        return
    if canvas.erased:
        yield "gone"
    elif canvas.closed or (canvas.expires_ms is not None and canvas.expires_ms <= now_ms):
        yield "invalid_transition"
    elif canvas.expires_ms is not None:
        yield PERHAPS + "invalid_transition"  # by a clock that was set since
    if order.body["expected_version"] != canvas.version:
        yield "conflict"
    elif changed(canvas.state, order) is None:
        yield "invalid"


def _fork(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    canvas, at = _canvas(model, order), order.body.get("at_version")
    if canvas is None or (at is not None and at > canvas.version):
        yield "not_found"
    if canvas is None:
        return
    if canvas.erased or (at is not None and at < canvas.horizon):
        yield "gone"
    yield from _session(model, order, canvas.session, missing=False, archived=True)
    found = model.canvases.get(order.body["new_canvas_id"])
    if found is not None:
        yield "conflict" if _mine(order, found.owner) else "not_found"


def _close(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    canvas = _canvas(model, order)
    if canvas is None:
        yield "not_found"
    elif canvas.erased:
        yield "gone"
    elif canvas.closed:
        yield "invalid_transition"


def _compact(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    canvas = _canvas(model, order)
    if canvas is None:
        yield "not_found"
    elif canvas.erased:
        yield "gone"


# -- jobs -----------------------------------------------------------------------------------------


def _create_job(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    found = model.cron.jobs.get(order.body["job_id"])
    if found is not None:
        yield "conflict" if _mine(order, found.owner) else "not_found"
        if found.deleted:
            yield from (PERHAPS + "gone", PERHAPS + "not_found")


def _job(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    job = model.cron.jobs.get(order.body["job_id"])
    if job is None or job.deleted or not _mine(order, job.owner):
        yield "not_found"


def _run_of_job(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    """A fence that is too old is a conflict, and so is a lease that is over: the clock knows."""
    run = model.cron.runs.get(order.body["run_id"])
    if run is None or not _mine(order, model.cron.jobs[run.job].owner):
        yield "not_found"
        return
    if model.cron.jobs[run.job].deleted:
        yield PERHAPS + "not_found"
    stale = run.status != "running" or run.fence != order.body["fence"]
    yield "conflict" if stale else PERHAPS + "conflict"


# -- memories -------------------------------------------------------------------------------------


def _place(body: Mapping[str, Any]) -> tuple[Any, ...]:
    return body.get("channel"), body.get("session_id"), body["content"]


def _ingest(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    body, memories = order.body, model.memories
    until = body.get("expires_ms")
    if until is not None:
        yield "invalid" if until <= now_ms else PERHAPS + "invalid"
    if body.get("session_id") is not None:
        for code in _session(model, order, body["session_id"], missing=False, archived=False):
            yield PERHAPS + code
    origin = model.by_id.get(body.get("from_event_id") or "")
    if origin is not None and origin.stored.session_id is not None:
        session = model.sessions.get(format_ulid(origin.stored.session_id))
        if session is not None and session.status == "erased":
            yield PERHAPS + "gone"
    named = order.principal, body.get("memory_id")
    if named in memories.items or named in memories.removed:
        same = memories.same(order.principal, _place(body))
        if same is None or same.over(now_ms):
            yield "id_reused"
        elif same.said["expires_ms"] is not None:
            yield PERHAPS + "id_reused"


def no_memory(model: Model, order: Order) -> str:
    """What is told of an item that is not there, or over."""
    memories, name = model.memories, order.body["memory_id"]
    went = memories.went(order, name) or memories.holders(order, name)
    return "gone" if went else "not_found"


def _no_memory(model: Model, order: Order) -> Iterator[str]:
    yield no_memory(model, order)
    if order.admin:
        yield from (PERHAPS + "gone", PERHAPS + "not_found")


def _update_memory(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    """Which of several an admin means is chosen when the request comes, and done later."""
    found = model.memories.holders(order, order.body["memory_id"])
    if not found:
        yield from _no_memory(model, order)
    sure = PERHAPS if order.admin else ""
    if order.admin:
        yield PERHAPS + "gone"
    for one in found:
        if one.superseded_by is not None:
            yield sure + "conflict"
        if one.said["expires_ms"] is not None:
            yield (sure if one.over(now_ms) else PERHAPS) + "gone"


def _delete_memory(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    if not model.memories.holders(order, order.body["memory_id"]):
        yield from _no_memory(model, order)
    elif order.admin:
        yield PERHAPS + "gone"


def _purge(model: Model, order: Order, now_ms: int) -> Iterator[str]:
    """Whatever it selects, it may be nothing."""
    yield from ()


_RULES: Final[dict[str, Callable[[Model, Order, int], Iterator[str]]]] = {
    "session.resolve": _resolve,
    "session.update": _update,
    "session.archive": _update,
    "session.branch": _branch,
    "session.erase": _erase,
    "run.start": _start,
    "run.transition": _move,
    "run.cancel": _move,
    "approval.request": _request,
    "approval.decide": _decide,
    "canvas.create": _create,
    "canvas.patch": _change,
    "canvas.replace": _change,
    "canvas.fork": _fork,
    "canvas.close": _close,
    "canvas.compact": _compact,
    "cron.create": _create_job,
    "cron.enable": _job,
    "cron.disable": _job,
    "cron.delete": _job,
    "cron.run_now": _job,
    "cron.heartbeat": _run_of_job,
    "cron.finish": _run_of_job,
    "memory.ingest": _ingest,
    "memory.update": _update_memory,
    "memory.delete": _delete_memory,
    "memory.purge": _purge,
}
WRITES: Final = frozenset({"journal.append", *_RULES})


# -- reading: what is shown -----------------------------------------------------------------------


def shown_session(model: Model, name: str) -> dict[str, Any]:
    """`session.get`, without token counts."""
    session: Session = model.sessions[name]
    branch = None
    if session.parent is not None:
        branch = {"parent_session_id": session.parent, "at_session_seq": session.at}
    return {
        "session_id": name,
        "session_key": session.key,
        "title": session.title,
        "status": session.status,
        "branch_state": branch,
        "principal": session.owner,
        "created_ms": session.created_ms,
        "updated_ms": session.updated_ms,
        "last_session_seq": session.last_seq,
        "last_run_id": session.runs[-1] if session.runs else None,
        "runs": len(session.runs),
    }


def shown_run(model: Model, name: str) -> dict[str, Any]:
    """`run.get`, without token counts."""
    run = model.runs[name]
    return {
        "run_id": name,
        "session_id": run.session,
        "parent_run_id": run.parent,
        "state": run.state,
        "reason": run.reason,
        "created_ms": run.created_ms,
        "ended_ms": run.ended_ms,
        "tape_entries": len(model.entries(run)),
    }


def shown_approval(model: Model, name: str) -> dict[str, Any]:
    """`approval.get`, without the words of people."""
    approval = model.approvals[name]
    return {
        "approval_id": name,
        "session_id": approval.session,
        "principal": approval.owner,
        "subject_type": approval.subject[0],
        "subject_id": approval.subject[1],
        "requested_ms": approval.requested_ms,
        "expires_ms": approval.expires_ms,
        "decision": approval.decision,
        "scope": approval.scope,
        "scope_until_ms": approval.until_ms,
        "decided_ms": approval.decided_ms,
        "decided_through": approval.standing,
    }


def shown_canvas(model: Model, name: str) -> dict[str, Any]:
    """`canvas.get`, as it is now. One whose time is over is closed before its event says so: where
    it has a time, the clock knows."""
    canvas = model.canvases[name]
    shown = {
        "canvas_id": name,
        "session_id": canvas.session,
        "version": canvas.version,
        "state": canvas.state,
        "expires_ms": canvas.expires_ms,
    }
    sure = canvas.closed or canvas.expires_ms is None
    return {**shown, "closed": canvas.closed} if sure else shown
