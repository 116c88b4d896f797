"""One group, many fates: what fails in a group fails alone, and the sessions number on.

The rig holds one COMMIT, so that all requests of a test stand in the next group.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import apsw
import pytest

from palyra_actors import engine
from palyra_actors.actors import rejection, writer
from palyra_actors.actors.steering import Measured, Times
from palyra_actors.api.events import new_id
from palyra_actors.storage.beside import compiled
from palyra_actors.testing.clock import ManualClock
from palyra_actors.testing.faults import Fault, FaultVFS
from tests.faults.rig import Asked, Rig, rig
from tests.figures import Tell
from tests.system.harness import DEADLINE_S, event
from tests.system.test_session_model import rebuilt_differences


@pytest.fixture(params=[False, True], ids=["here", "beside"])
def beside(request: pytest.FixtureRequest) -> bool:
    """Whether groups are written beside the interpreter: what becomes of them is the same."""
    return bool(request.param)


@pytest.fixture
def works(database: Path, beside: bool) -> Iterator[Rig]:
    with rig(database, beside=beside) as opened:
        yield opened


@pytest.fixture
def disk() -> Iterator[FaultVFS]:
    with FaultVFS("group-failures") as opened:
        yield opened


@pytest.fixture
def faulty(database: Path, disk: FaultVFS, beside: bool) -> Iterator[Rig]:
    with rig(database, vfs=disk.name, beside=beside) as opened:
        yield opened


def test_a_group_that_is_not_held_is_written_beside_the_interpreter(
    works: Rig, beside: bool
) -> None:
    works.append(event(new_id())).ok()
    assert (works.begun > 0) == (beside and compiled is not None)


def test_a_group_that_is_through_before_the_loop_goes_on_took_its_time_all_the_same(
    works: Rig,
) -> None:
    committer, settling, seen = works.writer._committer, works.writer.settling, list[Times]()
    measured = settling._measured
    begin = committer.begin

    def begin_and_wait(storage: Any, batch: Any, here: bool) -> bool:
        return bool(begin(storage, batch, here) and storage._beside.wait(DEADLINE_S))

    def note(one: Measured) -> None:
        seen.append(one.times)
        measured(one)

    committer.begin, settling._measured = begin_and_wait, note
    works.append(event(new_id())).ok()
    works.on_loop(lambda: None)
    assert len(seen) == 1
    assert seen[0].began <= seen[0].staged <= seen[0].ended


def test_what_the_loop_did_before_a_request_came_is_not_counted_as_work_for_it(works: Rig) -> None:
    """Else a write after reads, or the first of an engine, would make all others look dear."""
    settling, seen = works.writer.settling, list[Times]()
    measured = settling._measured

    def note(one: Measured) -> None:
        seen.append(one.times)
        measured(one)

    def work() -> float:
        until = monotonic() + 0.02
        while monotonic() < until:
            pass
        return until

    settling._measured = note
    came = works.on_loop(work)
    works.append(event(new_id())).ok()
    works.on_loop(lambda: None)
    assert [one.busy_s <= one.ended - came for one in seen] == [True]


def changed(original: dict[str, object]) -> dict[str, object]:
    return {**original, "payload": {"text": "something else"}}


# -- requests that fail ---------------------------------------------------------------------------


def test_each_bad_request_of_a_group_fails_alone_and_its_neighbours_are_stored(
    works: Rig, figure: Tell
) -> None:
    a, b, run = new_id(), new_id(), new_id()
    stored = event(a, run_id=run)
    works.append(stored).ok()
    good = [event(a) for _ in range(4)] + [event(b) for _ in range(2)]
    of_two = event(a), event(b), event(b, run_id=run)
    with works.group():
        asked = [
            works.append(good[0]),
            works.append(event(a), changed(stored)),  # an id with other content
            works.append(good[1]),
            works.append(stored),  # a retry
            works.append(event(b), event(b, run_id=run)),  # another session's run
            works.append(good[4]),
            works.append(good[2], stored),  # half of it a retry
            works.append(event(a), expected_session_seq=99),
            works.append(*of_two),  # refused by one of two
            works.append(good[3], good[5]),  # of both sessions
        ]
    figure(5, "bad requests in one group, of ten", sum("err" in one.reply() for one in asked))
    figure(5, "neighbours that failed with them", sum("err" in asked[n].reply() for n in
           (0, 2, 3, 5, 6, 9)), most=0)  # fmt: skip
    assert asked[1].err()["code"] == "id_reused"
    assert asked[1].err()["field"] == "events[1].event_id"
    assert asked[4].err()["code"] == "invalid"
    assert asked[7].err()["code"] == "conflict"
    assert asked[7].err()["detail"] == {"actual": 4}, "what was before it in the group counts"
    assert asked[8].err()["code"] == "overloaded", "it may rest on what was taken back"
    assert works.append(*of_two).err()["code"] == "invalid"
    assert asked[0].numbers() == [2]
    assert asked[2].numbers() == [3]
    assert asked[3].numbers() == [1]
    assert asked[3].results()[0]["duplicate"] is True
    assert asked[6].numbers() == [4, 1]
    assert [result["duplicate"] for result in asked[6].results()] == [False, True]
    assert asked[5].numbers() == [1]
    assert asked[9].numbers() == [5, 2]
    ids = [one["event_id"] for one in good]
    assert works.sessions() == {a: [stored["event_id"], *ids[:4]], b: ids[4:]}
    works.assert_states_equal_the_file()
    works.assert_at_rest()


def test_requests_numbered_ahead_of_a_failure_are_renumbered_and_stored_in_order(
    works: Rig,
) -> None:
    session, reused = new_id(), event(new_id())
    works.append(reused).ok()
    later = [event(session) for _ in range(50)]
    with works.group():
        first = works.append(event(session))
        bad = works.append(event(session), event(session), changed(reused))
        asked = [works.append(one) for one in later]
    assert first.numbers() == [1]
    assert bad.err()["code"] == "id_reused"
    assert [one.numbers() for one in asked] == [[2 + place] for place in range(50)]
    assert works.sessions()[session][1:] == [one["event_id"] for one in later]
    works.assert_states_equal_the_file()


def test_a_shared_request_is_not_completed_on_numbers_that_are_being_taken_back(
    works: Rig,
) -> None:
    """`a` is sent back while it waits for `b`, and in the same round `b` decides its share."""
    a, b, reused = new_id(), new_id(), event(new_id())
    works.append(reused).ok()
    works.append(event(b)).ok()
    inbox = works.works.directory._awake[b].actor_inbox
    works.hold()
    bad = works.append(event(a), changed(reused))
    good = works.append(event(a))
    works.on_loop(inbox.hold)  # `b` has no time now
    shared = works.append(event(a), event(b))
    later = works.append(event(b))
    works.settle()

    def wake_b_and_end_the_commit() -> None:
        works.works.loop.call_soon(inbox.release)
        works.end_commit()  # the clash comes up in the round in which `b` wakes, and before it

    works.on_loop(wake_b_and_end_the_commit)
    assert bad.err()["code"] == "id_reused"
    assert (good.numbers(), shared.numbers(), later.numbers()) == ([1], [2, 2], [3])
    works.sessions()
    works.assert_states_equal_the_file()
    works.assert_at_rest()


def test_a_request_of_many_sessions_that_one_refuses_leaves_no_trace_in_the_others(
    works: Rig,
) -> None:
    sessions = [new_id() for _ in range(5)]
    foreign = new_id()
    works.append(event(new_id(), run_id=foreign)).ok()
    with works.group():
        before = [works.append(event(one)) for one in sessions]
        bad = works.append(
            *(event(one) for one in sessions[:3]),
            event(sessions[3], run_id=foreign),
            event(sessions[4]),
        )
        after = works.append(*(event(one) for one in sessions))
    assert bad.err()["code"] == "invalid"
    assert [one.numbers() for one in before] == [[1]] * 5
    assert after.numbers() == [2] * 5
    assert {len(ids) for session, ids in works.sessions().items() if session in sessions} == {2}
    works.assert_states_equal_the_file()


def test_one_id_twice_in_a_group_is_one_event(works: Rig) -> None:
    session, other = new_id(), new_id()
    once = event(session)
    mine, theirs = works.caller, works.other_caller()
    with works.group():
        asked = [mine.append(once), theirs.append(once), theirs.append(changed(once))]
        moved = mine.append({**once, "session_id": other})
    assert asked[0].results()[0]["duplicate"] is False
    assert asked[1].results()[0]["duplicate"] is True
    assert asked[1].numbers() == asked[0].numbers() == [1]
    assert asked[2].err()["code"] == "id_reused"
    assert moved.err()["code"] == "id_reused"
    assert works.sessions() == {session: [once["event_id"]]}
    works.assert_states_equal_the_file()


def test_a_run_that_begins_twice_in_a_group_belongs_to_the_first_session(works: Rig) -> None:
    first, second, run = new_id(), new_id(), new_id()
    with works.group():
        won = works.append(event(first, run_id=run))
        lost = works.append(event(second), event(second, run_id=run))
        after = works.append(event(second))
        ended = works.append(event(first, run_id=run, kind="run_completed"))
        again = works.append(event(first, run_id=run, kind="run_failed"))
    assert won.numbers() == [1]
    assert lost.err()["code"] == "invalid"
    assert after.numbers() == [1]
    assert ended.numbers() == [2]
    assert again.err()["code"] == "invalid_transition"
    works.assert_states_equal_the_file()


def test_a_refusal_that_rests_on_what_fails_is_decided_anew(works: Rig) -> None:
    """`expected_session_seq` was wrong only as long as a request counted that then failed."""
    session, reused = new_id(), event(new_id())
    works.append(reused).ok()
    with works.group():
        bad = works.append(event(session), changed(reused))
        right = works.append(event(session), expected_session_seq=0)
        wrong = works.append(event(session), expected_session_seq=2)
    assert bad.err()["code"] == "id_reused"
    assert right.numbers() == [1]
    assert wrong.err()["detail"] == {"actual": 1}
    works.assert_states_equal_the_file()


def test_nobody_hears_of_a_run_before_it_is_durable(works: Rig) -> None:
    heard: list[int] = []
    worker = works.ask("cron.work", {"credit": 1})
    never = {"at_ms": 4_000_000_000_000}
    job = works.ask("cron.create", {"name": "digest", "schedule": never}).ok()["job"]["job_id"]
    works.before_commits(lambda: heard.append(len(worker.items)), 3)
    works.ask("cron.run_now", {"job_id": job}).ok()
    works.eventually(lambda: len(worker.items) == 1, "its run is a worker's")
    works.forget_hooks()
    assert heard == [0, 0], "its start, and its lease"


def test_a_run_of_a_refused_event_alone_is_not_there_though_its_session_is_going(
    works: Rig,
) -> None:
    session, run, reused = new_id(), new_id(), event(new_id())
    works.append(reused, event(session)).ok()
    with works.group():
        bad = works.append(event(session, run_id=run), changed(reused))
        erased = works.ask("session.erase", {"session_id": session})
        moved = works.ask("run.transition", {"run_id": run, "to": "failed"})
    assert bad.err()["code"] == "id_reused"
    assert erased.ok()["erased"] == 1
    assert moved.err()["code"] == "not_found"
    works.assert_states_equal_the_file()


# -- a disk that fails ----------------------------------------------------------------------------


def test_what_cannot_be_staged_is_refused_with_nothing_stored_and_writing_resumes_by_itself(
    works: Rig,
) -> None:
    session = new_id()
    works.append(event(session)).ok()
    connection = works.writer._storage._connection
    large = [event(session, payload={"text": "x" * 60_000}) for _ in range(3)]

    def pages_max(count: int) -> None:
        works.on_loop(lambda: connection.execute(f"PRAGMA max_page_count = {count}").fetchall())

    pages_max(1)  # no more than there are: SQLITE_FULL at the first INSERT that needs one
    asked = [works.append(one) for one in large]
    assert [one.code() for one in asked] == [("unavailable", "none")] * 3
    assert works.status() == "failing"
    assert works.ask("journal.head").ok()["seq"] == 1
    assert len(works.ask("journal.read").ok()["events"]) == 1, "reading goes on"
    pages_max(1 << 20)
    assert [works.append(one).numbers() for one in large] == [[2], [3], [4]]
    assert works.status() == "ready"
    works.assert_states_equal_the_file()
    works.assert_at_rest()


def test_health_turns_ready_by_itself_once_the_disk_takes_writes_again(works: Rig) -> None:
    """Nobody has to write to find that out."""
    assert rejection.PROBE_S + engine.OWNER_LOOK_S < 1.0, "within a second"
    session = new_id()
    works.append(event(session)).ok()
    connection = works.writer._storage._connection

    def pages_max(count: int) -> None:
        works.on_loop(lambda: connection.execute(f"PRAGMA max_page_count = {count}").fetchall())

    pages_max(1)
    assert works.append(event(session, payload={"text": "x" * 60_000})).code()[0] == "unavailable"
    works.let_pass(3 * rejection.PROBE_S)
    assert works.status() == "failing", "it is tried, and does not go"
    pages_max(1 << 20)
    works.until("ready")
    assert works.append(event(session)).numbers() == [2]
    works.assert_states_equal_the_file()
    works.assert_at_rest()


def test_a_commit_that_outlasts_the_stop_is_answered_unknown_and_what_waits_behind_it_none(
    works: Rig, figure: Tell
) -> None:
    session = new_id()
    works.append(event(session)).ok()
    under_way = works.hold()
    behind = [works.append(event(session)) for _ in range(3)]
    works.settle()
    works.engine.close(wait_s_max=0.2)
    assert under_way.code() == ("unavailable", "unknown")
    assert [one.code() for one in behind] == [("unavailable", "none")] * 3
    tally = works.tally
    figure(8, "requests that a stop met, without an answer", tally.under_way, most=0)
    assert tally.received == tally.ok + tally.refused + tally.unknown + tally.closed
    works.let_go()
    assert works.writer.close(DEADLINE_S), "the disk is back: what was left open is closed"
    works.works.lock.release()
    with rig(works.path) as again:
        assert len(again.journal()) == 2, "nothing of what was refused"


@pytest.mark.parametrize("code", [apsw.SQLITE_FULL, apsw.SQLITE_IOERR_WRITE], ids=["full", "ioerr"])
def test_a_write_that_the_disk_refuses_is_not_there_afterwards(
    faulty: Rig, disk: FaultVFS, code: int
) -> None:
    session = new_id()
    faulty.append(event(session)).ok()
    fault = disk.inject(Fault("write", "wal", times=None, code=code))
    events = [event(session) for _ in range(4)]
    with faulty.group():
        asked = [faulty.append(one) for one in events]
    codes = [one.code() for one in asked]
    assert {name for name, _ in codes} == {"unavailable"}
    assert fault.fired > 0
    disk.heal()
    faulty.until("ready")
    again = [faulty.append(one) for one in events]
    assert [one.numbers() for one in again] == [[2], [3], [4], [5]]
    assert faulty.sessions()[session][1:] == [one["event_id"] for one in events]
    faulty.assert_states_equal_the_file()
    faulty.assert_at_rest()


@pytest.mark.parametrize("failure", ["not-synced", "synced", "done"])
def test_a_commit_that_fails_half_way_is_unknown_and_the_same_ids_give_one_event_each(
    faulty: Rig, disk: FaultVFS, failure: str
) -> None:
    session = new_id()
    faulty.append(event(session)).ok()
    events = [event(session) for _ in range(3)]
    opened = disk.counts["open", "wal"]
    fault = Fault("sync", "wal", code=apsw.SQLITE_IOERR_FSYNC, performed=failure == "synced")
    with faulty.group(
        before_commit=faulty.lose_answer if failure == "done" else lambda: disk.inject(fault)
    ):
        asked = [faulty.append(one) for one in events]
    assert [one.code() for one in asked] == [("unavailable", "unknown")] * 3
    assert fault.fired == (failure != "done")
    faulty.until("ready")
    assert disk.counts["open", "wal"] > opened, "the file was opened anew"
    assert rebuilt_differences(faulty.path) == 0, "all of it is there, or nothing"
    again = [faulty.append(one) for one in events]
    assert [one.numbers() for one in again] == [[2], [3], [4]]
    if failure == "done":
        assert all(one.results()[0]["duplicate"] for one in again)
    assert faulty.append(event(session)).numbers() == [5]
    assert len(faulty.sessions()[session]) == 5
    faulty.assert_states_equal_the_file()
    faulty.assert_at_rest()


def test_a_file_that_cannot_be_opened_anew_is_tried_until_it_can(
    faulty: Rig, disk: FaultVFS
) -> None:
    """Nobody has to write, and nobody has to start the engine again."""
    session = new_id()
    faulty.append(event(session)).ok()

    def fail() -> None:
        disk.inject(Fault("open", "db", times=None))
        disk.inject(Fault("sync", "wal", code=apsw.SQLITE_IOERR_FSYNC))

    with faulty.group(before_commit=fail):
        under_way = faulty.append(event(session))
    assert under_way.code() == ("unavailable", "unknown")
    assert faulty.append(event(session)).code() == ("unavailable", "none")
    faulty.let_pass(2 * writer.REOPEN_S)
    assert faulty.status() == "failing", "it was tried, and did not go"
    disk.heal()
    faulty.let_pass(2 * writer.REOPEN_S)
    assert faulty.append(event(session)).numbers() == [2]
    faulty.assert_states_equal_the_file()
    faulty.assert_at_rest()


def test_a_search_finds_what_the_file_holds_though_nobody_knows_yet_whether_it_is_durable(
    faulty: Rig, disk: FaultVFS
) -> None:
    """The scope is in memory, and the file cannot be opened for writing, but read it can be."""

    def found() -> list[str]:
        asked = faulty.ask("memory.search", {"query": "maple", "mode": "lexical"})
        return sorted(hit["item"]["content"] for hit in asked.ok()["hits"])

    def keep(content: str) -> Asked:
        return faulty.ask("memory.ingest", {"source": "manual", "content": content})

    def fail() -> None:
        disk.inject(Fault("open", "db", times=None))
        faulty.lose_answer()

    keep("a maple").ok()
    assert found() == ["a maple"]
    with faulty.group(before_commit=fail):
        asked = keep("one more maple")
    assert asked.code() == ("unavailable", "unknown")
    assert faulty.status() == "failing"
    assert faulty.ask("journal.verify").ok()["checked"] > 1, "it is in the file"
    assert found() == ["a maple", "one more maple"]
    disk.heal()
    faulty.let_pass(2 * writer.REOPEN_S)
    faulty.until("ready")
    assert found() == ["a maple", "one more maple"]


def test_the_rest_of_a_checkpoint_is_moved_before_large_requests_have_made_it_long(
    database: Path,
) -> None:
    """Though others wait, and no time goes by."""
    with rig(database, clock=ManualClock()) as works:
        session = new_id()
        works.append(event(session)).ok()
        storage, moved_at, moved = works.writer._storage, list[int](), threading.Event()
        tidy = storage.tidy

        def note() -> None:
            moved_at.append(works.writer.head.seq)
            tidy()
            moved.set()

        storage.tidy = note
        with works.group():
            large = {"text": "x" * 60_000}
            asked = [works.append(event(session, payload=large)) for _ in range(160)]
            works.settle()
            works.on_loop(works.writer.tidy)
        for one in asked:
            one.ok()
        assert moved.wait(DEADLINE_S)
        assert 2 < moved_at[0] < 162, "not at the end"
