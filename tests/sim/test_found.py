"""What random lives have found, told again by hand: each was wrong once."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from palyra_actors.actors.clerks import memory
from palyra_actors.actors.clerks.session import host
from palyra_actors.actors.memory import MemoryActor
from palyra_actors.domain.catalog import SESSION
from palyra_actors.errors import StorageUnavailable
from palyra_actors.ids import parse_ulid
from palyra_actors.storage.port import CommitUnknown
from palyra_actors.testing.faults import Fault
from palyra_actors.testing.sim import Order, Peer, World

S1, S2, S3 = (f"01M3250V00000000000000000{letter}" for letter in "STV")
X, A, C, J = (f"01M3250V0000000000000000{name}" for name in ("X1", "A1", "C1", "J1"))
IDS = iter(f"01M3250V00000000000000{number:04d}" for number in range(9_999))
TITLE = {"canvas_id": C, "expected_version": 1, "patch": [{"op": "test", "path": "/a", "value": 1}]}


@pytest.fixture
def world() -> Iterator[World]:
    with World(seed=1) as made:
        yield made


def append(session: str, **more: Any) -> dict[str, Any]:
    event = {
        "event_id": next(IDS), "session_id": session, "run_id": None, "kind": "message_received",
        "actor": "user", "ts_ms": 0, "payload": {}, **more,
    }  # fmt: skip
    return {"events": [event]}


def approval(session: str, name: str = A) -> dict[str, Any]:
    return {
        "approval_id": name, "session_id": session, "subject_type": "tool", "subject_id": "t",
        "summary": "?",
    }  # fmt: skip


def code(reply: dict[str, Any]) -> str | None:
    found: str | None = reply.get("err", {}).get("code")
    return found


def together(world: World, peer: Peer, *asks: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Requests that arrive in one round, and their replies."""
    sent = [world.send(peer, Order(op, body, peer.principal, True)) for op, body in asks]
    world.settle(lambda: all(asked.replies for asked in sent))
    return [asked.replies[0] for asked in sent]


def test_a_key_that_was_refused_is_still_to_be_had(world: World) -> None:
    peer = world.connect()
    world.ask(peer, "session.resolve", {"session_id": S1, "session_key": "a"})
    refused = world.ask(peer, "session.resolve", {"session_id": S1, "session_key": "b"})
    assert code(refused) == "conflict"
    assert world.ask(peer, "session.resolve", {"session_key": "b"})["ok"]["created"]


@pytest.mark.parametrize("create", [False, True])
def test_who_looks_for_a_key_while_another_is_refused_it_is_told_what_is_so(
    world: World, create: bool
) -> None:
    peer = world.connect()
    world.ask(peer, "session.resolve", {"session_id": S1})
    session: Any = world.running.directory.resident(SESSION, parse_ulid(S1))
    session.actor_inbox.hold()  # it waits for something, and so do those who ask it
    sent = [
        world.send(peer, Order("session.resolve", body, "local", True))
        for body in (
            {"session_id": S1, "session_key": "a"},
            {"session_key": "a", "create": create},
        )
    ]
    world.turn_loop()
    session.actor_inbox.release()
    world.settle(lambda: all(asked.replies for asked in sent))
    told = [code(asked.replies[0]) for asked in sent]
    assert told == ["conflict", None if create else "not_found"]


def test_an_admins_look_at_a_session_of_that_key_gives_him_no_key_of_that_name(
    world: World,
) -> None:
    ana, admin = world.connect("ana", "writer"), world.connect()
    hers = world.ask(ana, "session.resolve", {"session_key": "a"})["ok"]["session"]["session_id"]
    world.ask(admin, "session.resolve", {"session_id": hers, "session_key": "a"})
    assert world.ask(admin, "session.resolve", {"session_key": "a"})["ok"]["created"]


def test_an_approval_and_a_run_are_found_whatever_was_refused_of_their_ids(world: World) -> None:
    peer = world.connect()
    world.ask(peer, "approval.request", approval(S1))
    world.ask(peer, "run.start", {"run_id": X, "session_id": S1})
    assert code(world.ask(peer, "approval.request", approval(S2)))
    assert code(world.ask(peer, "run.start", {"run_id": X, "session_id": S2}))
    decided = world.ask(peer, "approval.decide", {"approval_id": A, "decision": "allow"})
    assert decided["ok"]["approval"]["decision"] == "allow"
    moved = world.ask(peer, "run.transition", {"run_id": X, "to": "in_progress"})
    assert moved["ok"]["run"]["state"] == "in_progress"


def test_a_branch_is_not_refused_for_an_event_that_was_never_written(world: World) -> None:
    """What its parent's last event is rests on an event whose id turns out to be another's."""
    peer = world.connect()
    taken = append(S3)
    world.ask(peer, "journal.append", taken)
    clashing = append(S1, event_id=taken["events"][0]["event_id"])
    branch = {"session_id": S1, "new_session_id": S2, "at_session_seq": 2}
    told = together(world, peer, ("journal.append", clashing), ("session.branch", branch))
    assert [code(one) for one in told] == ["id_reused", "overloaded"]
    assert code(world.ask(peer, "session.branch", branch)) == "not_found"


def test_a_run_that_an_event_begins_can_be_moved_in_the_same_round(world: World) -> None:
    peer = world.connect()
    moved = {"run_id": X, "to": "cancelled"}
    replies = together(
        world, peer, ("journal.append", append(S1, run_id=X)), ("run.transition", moved)
    )
    assert [code(reply) for reply in replies] == [None, None]


def test_a_run_that_starts_and_goes_on_in_one_group_has_its_entries(world: World) -> None:
    peer = world.connect()
    world.ask(peer, "journal.append", append(S2))
    together(
        world, peer, ("run.start", {"run_id": X, "session_id": S1}),
        ("journal.append", append(S1, run_id=X)),
    )  # fmt: skip
    assert world.ask(peer, "run.get", {"run_id": X})["ok"]["run"]["tape_entries"] == 1


def test_two_approvals_of_one_id_in_one_group_cost_no_neighbour_its_answer(world: World) -> None:
    peer = world.connect()
    world.ask(peer, "journal.append", append(S3))
    replies = together(
        world, peer, ("approval.request", approval(S1)), ("approval.request", approval(S2)),
        ("journal.append", append(S3)),
    )  # fmt: skip
    assert [code(reply) for reply in replies] == [None, "conflict", None]


def test_a_retry_gets_its_first_answer_whatever_came_since(world: World) -> None:
    peer = world.connect()
    create = {"canvas_id": C, "session_id": S2, "state": {"a": 1}, "event_id": next(IDS)}
    branch = {"session_id": S1, "new_session_id": S3, "event_id": next(IDS)}
    world.ask(peer, "journal.append", append(S1))
    first = [
        world.ask(peer, op, body)["ok"]
        for op, body in (("canvas.create", create), ("session.branch", branch))
    ]
    world.ask(peer, "canvas.close", {"canvas_id": C})
    world.ask(peer, "session.erase", {"session_id": S1})
    again = [
        world.ask(peer, op, body)["ok"]
        for op, body in (("canvas.create", create), ("session.branch", branch))
    ]
    assert [one["canvas" if "canvas" in one else "session"] for one in again] == [
        one["canvas" if "canvas" in one else "session"] for one in first
    ]


def test_nothing_is_decided_in_a_session_that_is_erased(world: World) -> None:
    peer = world.connect()
    world.ask(peer, "approval.request", approval(S1))
    decide = {"approval_id": A, "decision": "allow"}
    replies = together(
        world, peer, ("session.erase", {"session_id": S1}), ("approval.decide", decide)
    )
    assert [code(reply) for reply in replies] == [None, "gone"]


def test_an_erased_canvas_tells_no_stranger_that_it_was(world: World) -> None:
    ana = world.connect("ana", "writer")
    world.ask(ana, "journal.append", append(S1))
    world.ask(ana, "canvas.create", {"canvas_id": C, "session_id": S1, "state": {"a": 1}})
    world.ask(ana, "session.erase", {"session_id": S1})
    world.stop()
    assert world.start()
    ben = world.connect("ben", "writer")
    assert code(world.ask(ben, "canvas.patch", TITLE)) == "not_found"


def test_a_disk_that_cannot_be_read_is_no_fault_of_the_engines(world: World) -> None:
    peer = world.connect()
    world.ask(peer, "run.start", {"run_id": X, "session_id": S1})
    world.stop()
    assert world.start()
    world.disk.inject(Fault("read", times=None))
    told = world.ask(world.connect(), "run.transition", {"run_id": X, "to": "in_progress"})
    assert code(told) == "unavailable"


def test_a_refusal_does_not_rest_on_a_commit_that_may_not_be_stored(world: World) -> None:
    peer = world.connect()
    world.ask(peer, "journal.append", append(S1))
    for action in ("sync", "open"):
        world.disk.inject(Fault(action, times=None))
    archived = world.ask(peer, "session.archive", {"session_id": S1})
    renamed = world.ask(peer, "session.update", {"session_id": S1, "title": "t"})
    assert (code(archived), code(renamed)) == ("unavailable", "unavailable")


@pytest.mark.timeout(30)
def test_an_erasure_that_waits_for_a_failing_disk_does_not_stop_the_loop(world: World) -> None:
    peer = world.connect()
    world.ask(peer, "journal.append", append(S1))
    seq = world.running.writer.head.seq
    erasing = world.send(peer, Order("session.erase", {"session_id": S1}, "local", True))
    world.settle(lambda: world.running.writer.head.seq > seq)
    for action in ("sync", "open"):
        world.disk.inject(Fault(action, times=None))
    assert code(world.ask(peer, "journal.append", append(S2))) == "unavailable"
    upto = world.clock.monotonic() + 1.0
    world.settle(lambda: world.clock.monotonic() > upto)
    assert not erasing.replies
    world.disk.heal()
    world.settle(lambda: bool(erasing.replies))
    assert "ok" in erasing.replies[0]


def test_an_erasure_is_done_also_where_its_client_was_told_that_nobody_knows(world: World) -> None:
    peer = world.connect()
    world.ask(peer, "journal.append", append(S1))
    storage: Any = world.running.writer._storage
    commit = storage.commit

    def lose_the_answer() -> None:
        storage.commit = commit
        commit()
        raise CommitUnknown("it was done, and nobody was told")

    storage.commit = lose_the_answer
    assert code(world.ask(peer, "session.erase", {"session_id": S1})) == "unavailable"
    upto = world.clock.monotonic() + 1.0
    world.settle(lambda: world.clock.monotonic() > upto)
    (event,) = world.ask(peer, "journal.read", {"limit": 1})["ok"]["events"]
    assert event["payload"] is None


def test_a_stream_of_a_session_is_what_reading_it_shows(world: World) -> None:
    ana, admin = world.connect("ana", "writer"), world.connect()
    world.ask(ana, "journal.append", append(S1))
    body = {"session_id": S1, "credit": 10}
    stream = world.send(ana, Order("journal.subscribe", body, "ana", False))
    world.ask(ana, "canvas.create", {"canvas_id": C, "session_id": S1, "state": {}})
    world.ask(admin, "journal.append", append(S1))
    world.settle()
    read = world.ask(ana, "journal.read", {"session_id": S1, "after_seq": 1})["ok"]["events"]
    heard = [item["item"]["event"]["seq"] for item in stream.items if "event" in item["item"]]
    assert heard == [event["seq"] for event in read] == [3]


def test_runs_without_their_process_end_also_where_the_disk_fails_at_first(world: World) -> None:
    world.ask(world.connect(), "run.start", {"run_id": X, "session_id": S1})
    world.crash()
    assert world.start()
    world.disk.inject(Fault("sync", "wal"))
    upto = world.clock.monotonic() + 3.0
    world.settle(lambda: world.clock.monotonic() > upto)
    told = world.ask(world.connect(), "run.get", {"run_id": X})["ok"]["run"]
    assert told["state"] == "failed"


def test_jobs_are_due_in_time_although_the_first_look_for_them_failed(world: World) -> None:
    job = {"job_id": J, "name": "n", "schedule": {"every_ms": 1_000}}
    world.ask(world.connect(), "cron.create", job)
    world.crash()
    assert world.start()
    reads = world.disk.inject(Fault("read", times=None))
    world.settle(lambda: reads.fired > 0 and not world.running.pool.busy)
    world.disk.heal()
    upto = world.clock.monotonic() + 4.0
    world.settle(lambda: world.clock.monotonic() > upto)
    runs = world.ask(world.connect(), "cron.runs", {"job_id": J})["ok"]["runs"]
    assert len(runs) >= 2


def test_a_look_whether_the_disk_takes_writes_again_that_loses_the_file_is_not_the_last(
    world: World,
) -> None:
    """Its connection is dropped, and no other can be had: whoever writes is told so, and the next
    look finds the file again."""
    storage: Any = world.running.writer._storage
    for action in ("sync", "open"):
        world.disk.inject(Fault(action, times=None))
    with pytest.raises(StorageUnavailable):
        storage.probe(100)
    with pytest.raises(StorageUnavailable):
        storage.apply([])
    world.disk.heal()
    with pytest.raises(StorageUnavailable):
        storage.probe(100)  # it finds no connection, and opens one
    storage.probe(100)
    assert code(world.ask(world.connect(), "journal.append", append(S1))) is None


def test_a_memory_that_was_on_its_way_while_its_session_was_erased_goes_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = world.connect()
    world.ask(peer, "journal.append", append(S1))
    world.ask(peer, "session.erase", {"session_id": S1})
    kept = {"source": "manual", "content": "needle", "session_id": S1}
    assert code(world.ask(peer, "memory.ingest", kept)) == "gone"
    monkeypatch.setattr(
        memory, "host", lambda *_, **__: host(parse_ulid(S2), new=False)
    )  # it let it pass
    assert code(world.ask(peer, "memory.ingest", kept)) is None
    world.settle()
    assert world.ask(peer, "memory.list")["ok"]["items"] == []


def test_a_memory_of_an_event_that_was_on_its_way_while_that_was_erased_goes_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = world.connect()
    said = append(S1)
    world.ask(peer, "journal.append", said)
    world.ask(peer, "session.erase", {"session_id": S1})
    from_event = said["events"][0]["event_id"]
    kept = {"source": "manual", "content": "needle", "from_event_id": from_event}
    assert code(world.ask(peer, "memory.ingest", kept)) == "gone"
    monkeypatch.setattr(
        memory, "host", lambda *_, **__: host(parse_ulid(S2), new=False)
    )  # it let it pass
    assert code(world.ask(peer, "memory.ingest", kept)) is None
    world.settle()
    assert world.ask(peer, "memory.list")["ok"]["items"] == []


def test_a_memory_that_was_kept_of_an_erased_event_right_before_a_crash_goes_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = world.connect()
    said = append(S1)
    world.ask(peer, "journal.append", said)
    world.ask(peer, "session.erase", {"session_id": S1})
    from_event = said["events"][0]["event_id"]
    with monkeypatch.context() as patched:
        patched.setattr(memory, "host", lambda *_, **__: host(parse_ulid(S2), new=False))
        patched.setattr(memory.MemoryClerk, "_forget_if_erased", lambda *_: None)
        kept = {"source": "manual", "content": "needle", "from_event_id": from_event}
        assert code(world.ask(peer, "memory.ingest", kept)) is None
        world.crash()
    assert world.start()
    peer = world.connect()
    world.settle()
    assert world.ask(peer, "memory.list")["ok"]["items"] == []


def test_nobody_hears_of_anothers_canvas_who_did_not_take_replies_when_the_stream_began(
    world: World,
) -> None:
    admin, ben = world.connect(), world.connect("ben", "writer")
    canvas = {"canvas_id": C, "session_id": S1, "state": {"a": 1}}
    world.ask(admin, "canvas.create", canvas)
    ben.backlog_bytes = 3 * 1024 * 1024
    watch = {"canvas_id": C, "after_version": 1, "credit": 10}
    stream = world.send(ben, Order("canvas.subscribe", watch, "ben", False))
    world.turn_loop()
    ben.backlog_bytes = 0
    world.ask(admin, "canvas.patch", TITLE)
    world.settle(lambda: bool(stream.replies))
    assert code(stream.replies[0]) == "not_found"
    assert stream.items == []


def test_an_admin_who_repeats_an_update_of_anothers_memory_is_answered_as_before(
    world: World,
) -> None:
    ana, admin = world.connect("ana", "writer"), world.connect()
    kept = {"source": "manual", "content": "one", "memory_id": X}
    world.ask(ana, "memory.ingest", kept)
    update = {"memory_id": X, "content": "two", "event_id": next(IDS)}
    first = world.ask(admin, "memory.update", update)["ok"]["item"]
    world.ask(ana, "memory.delete", {"memory_id": X})
    assert world.ask(admin, "memory.update", update)["ok"]["item"] == first


def test_a_disk_that_cannot_be_read_for_a_first_answer_is_no_fault_of_the_engines(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = world.connect()
    update = {"memory_id": X, "content": "two", "event_id": next(IDS)}
    world.ask(peer, "memory.ingest", {"source": "manual", "content": "one", "memory_id": X})
    world.ask(peer, "memory.update", update)

    def fail(*_: Any) -> Any:
        raise OSError("the disk")

    monkeypatch.setattr(MemoryActor, "recall", fail)
    monkeypatch.setattr(memory.MemoryClerk, "_content", Mock(side_effect=StorageUnavailable("x")))
    assert code(world.ask(peer, "memory.update", update)) == "unavailable"


def test_a_memory_that_was_removed_is_not_told_as_another_that_has_its_id_now(world: World) -> None:
    peer = world.connect()
    kept = {"source": "manual", "content": "one", "memory_id": X, "event_id": next(IDS)}
    world.ask(peer, "memory.ingest", kept)
    world.ask(peer, "memory.delete", {"memory_id": X})
    world.wait(5)
    other = {"source": "manual", "content": "two", "memory_id": X}
    world.ask(peer, "memory.ingest", other)
    assert code(world.ask(peer, "memory.ingest", kept)) == "gone"
