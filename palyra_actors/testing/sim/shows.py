"""Lists, histories, exports, memories and streams of canvases, as they are shown, held against the
model.

`exact`: what was read is what the model says now. Else it is as things were at some moment of this
round, and only what is true at all of them is looked at.
"""

from collections.abc import Mapping
from typing import Any, Final

import jsonpatch

from palyra_actors.domain.export import check
from palyra_actors.testing.sim import rules
from palyra_actors.testing.sim.events import require
from palyra_actors.testing.sim.memories import Memory
from palyra_actors.testing.sim.model import Approval, Model, Run
from palyra_actors.testing.sim.peers import Asked

LIST_LIMIT: Final = 100
"""Of a page that does not say: more than there is here."""


def equal(told: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """What is shown is what the model says, in all that the model knows of."""
    shown = {name: told[name] for name in expected}
    require(shown == expected, "what is shown is what the model says", shown, expected)


# -- sessions -------------------------------------------------------------------------------------


def sessions(model: Model, asked: Asked, told: Mapping[str, Any], exact: bool) -> None:
    """`session.list`: each as it is, none twice, and all that match where the page is the whole."""
    order, body = asked.order, asked.order.body
    names = [one["session_id"] for one in told["sessions"]]
    require(len(set(names)) == len(names), "no session is listed twice", names)
    require(len(names) <= body.get("limit", LIST_LIMIT), "a page has its limit", body, names)
    for one in told["sessions"]:
        require(order.admin or one["principal"] == order.principal, "a list is one's own", one)
        if exact:
            equal(one, rules.shown_session(model, one["session_id"]))
            require(_matches(model, one["session_id"], body), "a list shows what matches", body,
                    one)  # fmt: skip
    if exact and told["end"] and "after" not in body:
        expected = {
            name
            for name, session in model.sessions.items()
            if (order.admin or session.owner == order.principal) and _matches(model, name, body)
        }
        require(set(names) == expected, "a list has all that match", body, names, expected)


def _matches(model: Model, name: str, body: Mapping[str, Any]) -> bool:
    session = model.sessions[name]
    wanted = body.get("query", "").split()
    # a title and a key are words, and a word is found by its beginning
    has = f"{session.title or ''} {session.key or ''}".split()
    return (
        session.status != "erased"
        and body.get("status") in (None, session.status)
        and all(any(one.startswith(word) for one in has) for word in wanted)
    )


def history(model: Model, asked: Asked, told: Mapping[str, Any], exact: bool) -> None:
    """`session.history`: its parents' events, then its own, each once."""
    body = asked.order.body
    events = model.history(body["session_id"])
    after, limit = body.get("after", 0), body.get("limit", LIST_LIMIT)
    expected = [one.stored.seq for one in events if one.stored.stream_seq > after][:limit]
    seqs = [one["seq"] for one in told["events"]]
    require(
        seqs == expected[: len(seqs)], "a history is the session's events", body, seqs, expected
    )
    if exact:
        require(seqs == expected or not told["end"], "a history has all of them", body, seqs,
                expected)  # fmt: skip
    acked = [seq for seq in expected if seq <= asked.since]
    require(
        not told["end"] or len(seqs) >= len(acked), "a history that begins after an ack has it",
        body, seqs, acked,
    )  # fmt: skip


# -- runs and approvals ---------------------------------------------------------------------------


def not_there(model: Model, asked: Asked, code: str) -> None:
    """`run.get`, `run.tape` and `approval.get` have found nothing, in what the model is now."""
    order, body = asked.order, asked.order.body
    known: Run | Approval | None
    if order.op == "approval.get":
        known = model.approvals.get(body["approval_id"])
        was = model.gone_approvals.get(body["approval_id"])
    else:
        known, was = model.runs.get(body["run_id"]), model.gone_runs.get(body["run_id"])
    hidden = known is None or not (order.admin or known.owner == order.principal)
    require(hidden, "what is there is found", order.op, body, code)
    require(code == rules.missing(order, was), "what was erased is gone", order.op, body, code, was)


def export(model: Model, asked: Asked, told: Mapping[str, Any], exact: bool) -> None:
    """`approval.export`: it proves itself, and its records are those of one seq."""
    order, body, through = asked.order, asked.order.body, told["through_seq"]
    text = b"".join(item["item"]["chunk"] for item in asked.items)
    trailer = check(text.splitlines(keepends=True))
    require(
        (trailer["count"], trailer["head_hash"], trailer["through_seq"])
        == (told["count"], told["head_hash"].hex(), through),
        "an export's answer is its trailer", trailer, told,
    )  # fmt: skip
    require(asked.since <= through <= len(model.events), "an export is of what there is", told)
    if not exact:
        return
    expected = 0
    for one in model.approvals.values():
        decided = one.decided_seq is not None and one.decided_seq <= through
        decision = one.decision if decided else "pending"
        if (order.admin or one.owner == order.principal) and one.seq <= through:
            expected += body.get("decision") in (None, decision)
    require(told["count"] == expected, "an export has all that match", body, told, expected)


# -- memories -------------------------------------------------------------------------------------


def memory(model: Model, asked: Asked, told: Mapping[str, Any], exact: bool) -> None:
    """`memory.get`."""
    if exact:
        name, order = told["item"]["memory_id"], asked.order
        found = model.memories.holders(order, name)
        if order.admin and any(one.said["expires_ms"] is not None for one in found):
            found = [one for one in model.memories.seen_by(order) if one.said["memory_id"] == name]
        shown = [one.shown() for one in found]
        require(told["item"] in shown, "a memory is shown as it is", told["item"], shown)


def no_memory(model: Model, asked: Asked, code: str) -> None:
    """`memory.get` has found nothing, in what the model is now: nor is there anything."""
    found = model.memories.holders(asked.order, asked.order.body["memory_id"])
    sure = [one for one in found if one.said["expires_ms"] is None]
    require(not sure, "a memory that is there is found", asked.order.body, sure)
    told = rules.no_memory(model, asked.order)
    require(code == told, "a memory that was removed is gone", asked.order.body, code, told)


def memories(model: Model, asked: Asked, told: Mapping[str, Any], exact: bool) -> None:
    """`memory.list`."""
    body = asked.order.body
    _found(model, asked, told["items"], exact)
    for one in told["items"]:
        require(body.get("channel") in (None, one["channel"]), "a list has what matches", one)
        require(set(body.get("tags", ())) <= set(one["tags"]), "a list has what matches", one)
    if told["end"]:
        has = {_name(one) for one in told["items"]}
        for one in _present(model, asked):
            if body.get("channel") in (None, one.said["channel"]) and set(
                body.get("tags", ())
            ) <= set(one.said["tags"]):
                require(_name(one.shown()) in has, "a list has all that match", body, one)


def hits(model: Model, asked: Asked, told: Mapping[str, Any], exact: bool) -> None:
    """`memory.search`: nothing that is gone, and by words all that have the word."""
    body, found = asked.order.body, told["hits"]
    _found(model, asked, [one["item"] for one in found], exact)
    scores = [one["score"] for one in found]
    require(scores == sorted(scores, reverse=True), "the best come first", scores)
    require(all(-1e-6 <= one <= 1 + 1e-6 for one in scores), "a score lies in 0..1", scores)
    if body["mode"] == "lexical":
        has = {_name(one["item"]) for one in found}
        for one in found:
            words = one["item"]["content"].split()
            require(body["query"] in words, "what is found has the word", body, one)
        for one in _present(model, asked):
            if body["query"] in one.said["content"].split():
                require(_name(one.shown()) in has, "a search finds all", body, one)


def _found(model: Model, asked: Asked, items: list[Any], exact: bool) -> None:
    """Items of a list or search: one's own, each once, each as it is; one that is superseded only
    where nobody had been told of that when it was asked."""
    order, names = asked.order, [_name(one) for one in items]
    require(len(set(names)) == len(names), "no memory is shown twice", names)
    for one in items:
        require(order.admin or one["principal"] == order.principal, "memories are one's own", one)
        if exact:
            kept = model.memories.items.get(_name(one))
            require(
                kept is not None and kept.shown() == one
                and (kept.superseded_seq is None or kept.superseded_seq > asked.since),
                "a memory is shown as it is", one, kept,
            )  # fmt: skip


def _name(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["principal"], item["memory_id"]


def _present(model: Model, asked: Asked) -> list[Memory]:
    """What has to be found: acknowledged before it was asked, and there for good."""
    return [
        one
        for one in model.memories.seen_by(asked.order)
        if one.superseded_by is None and one.said["expires_ms"] is None and one.seq <= asked.since
    ]


# -- canvases -------------------------------------------------------------------------------------


def compacted(first: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    """A canvas's creation told again after a compaction: a large state may be gone by then."""
    state = again["state"] if again["state"] is not None else first["state"]
    require({**again, "state": state} == first, "the same request gets the first answer", again)


# -- streams of canvases --------------------------------------------------------------------------


def watched(model: Model, asked: Asked, item: Mapping[str, Any]) -> None:
    """An item of `canvas.subscribe`: a snapshot where none can be continued, then each patch, once
    and in order. `order.about` is the version that the stream has come to."""
    order = asked.order
    name, last = order.body["canvas_id"], order.about
    canvas = model.canvases[name]
    require(
        order.admin or canvas.owner == order.principal, "a stream is one's own", name, order.body,
        order.principal, canvas.owner, item,
    )  # fmt: skip
    if "snapshot" in item:
        told = item["snapshot"]
        version = told["version"]
        require(told["state"] == canvas.states.get(version), "a snapshot is the state", name, told)
        require(
            last is None or canvas.horizon > last or last > version,
            "a stream that can go on goes on", name, last,
        )  # fmt: skip
    else:
        version = item["version"]
        require(last is not None and version == last + 1, "a stream has no gap", name, last, item)
        made = jsonpatch.apply_patch(canvas.states[last], item["patch"])
        require(made == canvas.states.get(version), "a patch leads to the next state", name, item)
    order.about = version


def watched_all(model: Model, asked: Asked) -> None:
    """At rest: who has credit has come to the present."""
    canvas = model.canvases.get(asked.order.body["canvas_id"])
    if canvas is not None and asked.credit > 0 and asked.outcome == "open":
        require(
            asked.order.about == canvas.version, "a stream comes to the present",
            asked.order.body, asked.order.about, canvas.version,
        )  # fmt: skip
