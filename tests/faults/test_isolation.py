"""What fails, fails alone: an entity, the writer, the feed, the monitor, a reader, the file.

Every part is made to fail by a fault put into its own code, a `SystemExit` among them: what ends
a program elsewhere ends one request here.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors import engine as engine_module
from palyra_actors.actors import appends, feed, writer
from palyra_actors.actors.latency import Latency
from palyra_actors.actors.session import SessionActor
from palyra_actors.api.events import new_id
from palyra_actors.domain import approval
from palyra_actors.ids import format_ulid
from palyra_actors.storage.connection import open_checkpointer
from palyra_actors.storage.journal import JournalReader
from palyra_actors.testing.faults import Fault, FaultVFS
from tests.faults.rig import NO_BUDGET, Rig, rig
from tests.figures import Tell
from tests.system.harness import event

FEED: Any = feed
WRITER: Any = writer
FAULTS = [RuntimeError("boom"), MemoryError(), SystemExit(3), KeyboardInterrupt()]


@pytest.fixture
def works(database: Path) -> Iterator[Rig]:
    with rig(database) as opened:
        yield opened


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    """Undone before the engine is closed. Sessions are served in Python: a fault is put into them
    by the name of what fails."""
    with pytest.MonkeyPatch.context() as opened:
        opened.setattr(appends, "compiled", None)
        yield opened


def raising(
    error: BaseException, real: Callable[..., Any], *, times: int = 1, when: Any = None
) -> Callable[..., Any]:
    """`real`, but for the first `times` calls for which `when` holds."""
    left = [times]

    def call(*arguments: Any, **options: Any) -> Any:
        if left[0] and (when is None or when(*arguments)):
            left[0] -= 1
            raise error
        return real(*arguments, **options)

    return call


def of(session: str) -> Callable[..., bool]:
    """Whether a call is one of that session's actor."""
    return lambda actor, *_: format_ulid(actor.stream_id) == session


# -- a session ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["_goes_on", "_decide", "_unborn"])
def test_a_session_that_fails_takes_its_own_request_along_and_comes_back_equal(
    works: Rig, patch: pytest.MonkeyPatch, place: str, error: BaseException
) -> None:
    broken, sound = new_id(), new_id()
    if place == "_decide":
        patch.setattr(SessionActor, "_goes_on", lambda *_: False)
    if place != "_unborn":
        works.append(event(broken)).ok()
    first = 1 if place == "_unborn" else 2
    patch.setattr(
        SessionActor, place, raising(error, getattr(SessionActor, place), when=of(broken))
    )
    with works.group():
        asked = [works.append(event(broken)), works.append(event(sound))]
        later = [works.append(event(broken)), works.append(event(sound))]
    assert asked[0].code() == ("internal", "none")
    assert asked[1].numbers() == [1]
    assert later[0].numbers() == [first], "it came back, and nothing of the failed one counts"
    assert later[1].numbers() == [2]
    works.assert_states_equal_the_file()
    works.assert_at_rest()
    assert works.ask("engine.stats").ok()["actors"]["restarted"] == 1


def test_a_session_that_fails_with_requests_under_way_waits_for_them_and_numbers_on(
    works: Rig, patch: pytest.MonkeyPatch
) -> None:
    session = new_id()
    with works.group():
        before = [works.append(event(session)) for _ in range(5)]
        works.settle()
        boom = raising(RuntimeError("boom"), SessionActor._goes_on)
        patch.setattr(SessionActor, "_goes_on", boom)
        bad = works.append(event(session))
        after = [works.append(event(session)) for _ in range(5)]
        assert bad.code() == ("internal", "none"), "at once"
        works.let_pass(0.05)  # longer than its back-off, and the COMMIT before it is not through
    assert [one.numbers() for one in before] == [[n] for n in range(1, 6)]
    assert [one.numbers() for one in after] == [[n] for n in range(6, 11)]
    works.sessions()
    works.assert_states_equal_the_file()


def test_a_session_that_fails_in_a_request_of_several_leaves_the_others_as_they_were(
    works: Rig, patch: pytest.MonkeyPatch
) -> None:
    a, broken, c = new_id(), new_id(), new_id()
    works.append(event(a), event(broken), event(c)).ok()
    patch.setattr(
        SessionActor,
        "_decide",
        raising(RuntimeError("boom"), SessionActor._decide, when=of(broken)),
    )
    bad = works.append(event(a), event(broken), event(c))
    good = works.append(event(a), event(broken), event(c))
    assert bad.code() == ("internal", "none")
    assert good.numbers() == [2, 2, 2]
    works.assert_states_equal_the_file()
    works.assert_at_rest()


def test_a_session_that_fails_again_and_again_is_left_alone_and_health_says_so(
    database: Path, patch: pytest.MonkeyPatch
) -> None:
    config = NO_BUDGET.replaced("actors", restarts_max=2, restart_backoff_ms=1)
    broken, sound = new_id(), new_id()
    with rig(database, config) as works:
        works.append(event(broken)).ok()
        real = SessionActor._goes_on
        patch.setattr(
            SessionActor, "_goes_on", raising(RuntimeError("boom"), real, times=99, when=of(broken))
        )
        assert [works.append(event(broken)).code() for _ in range(3)] == [("internal", "none")] * 3
        assert works.status() == "degraded"
        assert "left alone" in works.works.health()["reasons"][0]
        patch.setattr(SessionActor, "_goes_on", real)
        refused = works.append(event(broken))
        assert refused.code() == ("internal", "none")
        assert "left alone" in refused.err()["message"]
        assert works.append(event(sound)).numbers() == [1]
        assert works.ask("engine.stats").ok()["actors"]["given_up"] == 1
        works.assert_at_rest()


def test_a_session_that_was_left_alone_is_tried_again_once_its_window_is_over(
    database: Path, patch: pytest.MonkeyPatch
) -> None:
    config = NO_BUDGET.replaced(
        "actors", restarts_max=0, restart_backoff_ms=1, restart_window_seconds=0.2
    )
    session = new_id()
    with rig(database, config) as works:
        works.append(event(session)).ok()
        patch.setattr(
            SessionActor, "_goes_on", raising(RuntimeError("boom"), SessionActor._goes_on)
        )
        assert works.append(event(session)).code() == ("internal", "none")
        assert works.status() == "degraded"
        works.let_pass(0.25)
        assert works.append(event(session)).numbers() == [2]
        assert works.status() == "ready"
        works.assert_states_equal_the_file()


def test_a_disk_that_cannot_be_read_is_no_fault_of_the_session(
    database: Path,
) -> None:
    """More often than a session may fail: `unavailable`, and at once well again."""
    with FaultVFS("isolation-read") as disk:
        with rig(database, vfs=disk.name) as works:
            works.append(event(new_id())).ok()
        with rig(database, vfs=disk.name) as works:
            session = new_id()
            disk.inject(Fault("read", times=None, code=apsw.SQLITE_IOERR_READ))
            codes = [works.append(event(session)).code() for _ in range(10)]
            disk.heal()
            assert codes == [("unavailable", "none")] * 10
            assert works.append(event(session)).numbers() == [1]
            works.until("ready")  # the checkpoints' connection is opened anew, a second later


# -- the writer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["lay_out", "prepare_answers"])
def test_a_writer_that_fails_leaves_its_group_unknown_and_is_back_at_once(
    works: Rig, patch: pytest.MonkeyPatch, place: str, error: BaseException, figure: Tell
) -> None:
    session = new_id()
    works.append(event(session)).ok()
    events = [event(session) for _ in range(3)]
    real = getattr(WRITER, place)
    held = works.hold()
    patch.setattr(WRITER, place, raising(error, real))
    asked = [works.append(one) for one in events]
    works.settle()
    works.let_go()
    held.ok()
    assert [one.code() for one in asked] == [("unavailable", "unknown")] * 3
    began = time.monotonic()
    again = [works.append(one) for one in events]
    assert [one.numbers() for one in again] == [[2], [3], [4]]
    figure(14, "the writer is back after", time.monotonic() - began, "s", most=1)
    assert works.append(event(session)).numbers() == [5]
    assert works.status() == "ready"
    works.sessions()
    works.assert_states_equal_the_file()
    works.assert_at_rest()


def test_a_writer_that_fails_while_a_commit_is_under_way_lets_it_end(
    works: Rig, patch: pytest.MonkeyPatch
) -> None:
    """Were the connection dropped, or the next group begun, an `ok` could come from the wrong
    COMMIT."""
    session = new_id()
    works.append(event(session)).ok()
    patch.setattr(
        WRITER,
        "prepare_answers",
        raising(RuntimeError("boom"), WRITER.prepare_answers),
    )
    held = works.hold()
    behind = works.append(event(session))
    works.settle()
    assert not held.answered
    assert not behind.answered
    assert works.on_loop(lambda: works.writer._group is not None), "its COMMIT is under way"
    works.let_go()
    assert held.code() == ("unavailable", "unknown")
    assert behind.numbers() == [2]
    assert len(works.journal()) == 3
    works.assert_states_equal_the_file()


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_look_up_that_fails_after_a_clash_refuses_the_group_and_loses_no_request(
    works: Rig, patch: pytest.MonkeyPatch, error: BaseException
) -> None:
    session = new_id()
    stored = event(session)
    works.append(stored).ok()
    patch.setattr(WRITER, "sift", raising(error, WRITER.sift))
    with works.group():
        asked = [works.append(event(session)), works.append(stored), works.append(event(session))]
    codes = {one.code() for one in asked}
    assert codes <= {("unavailable", "none"), ("internal", "none")}
    assert works.append(stored).results()[0]["duplicate"] is True
    assert works.append(event(session)).numbers() == [2]
    works.assert_states_equal_the_file()
    works.assert_at_rest()


# -- those who only listen ------------------------------------------------------------------------


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["publish", "tell"])
def test_a_listener_that_fails_costs_no_reply_and_no_commit(
    works: Rig, patch: pytest.MonkeyPatch, place: str, error: BaseException
) -> None:
    session = new_id()
    name = "_published" if place == "publish" else "_measured"
    settling = works.writer.settling
    fails = raising(error, getattr(settling, name), times=3)
    told: list[Any] = []

    def listen(what: Any) -> None:
        told.append(what)
        fails(what)

    patch.setattr(settling, name, listen)
    opened = works.writer._storage._connection
    for number in range(1, 5):
        assert works.append(event(session)).numbers() == [number]
        works.settle()  # a group is shown after its replies have left
    assert len(told) == 4, "of each group once"
    assert works.writer._storage._connection is opened, "nobody doubted the file"
    assert works.status() == "ready"
    works.assert_at_rest()


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_monitor_that_fails_goes_on_measuring(
    works: Rig, patch: pytest.MonkeyPatch, error: BaseException
) -> None:
    session = new_id()
    patch.setattr(Latency, "on_receive", raising(error, Latency.on_receive))
    for number in range(1, 6):
        assert works.append(event(session)).numbers() == [number]
    works.settle()
    assert works.ask("engine.stats").ok()["appends"]["acked"] == 5
    assert works.engine.statistics().latency.requests == 4


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_feed_that_fails_ends_the_subscription_rather_than_skip_an_event(
    works: Rig, patch: pytest.MonkeyPatch, error: BaseException
) -> None:
    session = new_id()
    subscribed = works.ask("journal.subscribe", {"credit": 100, "after_seq": 0})
    works.append(event(session)).ok()
    works.eventually(lambda: bool(subscribed.items), "the first item")
    patch.setattr(FEED, "event_view", raising(error, FEED.event_view))
    for _ in range(3):
        works.append(event(session)).ok()
    works.settle()
    seqs = [item["event"]["seq"] for item in subscribed.items if "event" in item]
    assert seqs == list(range(1, len(seqs) + 1)), "without gap"
    if len(seqs) < 4:
        assert subscribed.err()["code"] == "internal"
    again = works.ask("journal.subscribe", {"credit": 100, "after_seq": 0})
    works.eventually(lambda: len(again.items) >= 4, "a new subscription")


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_reader_that_fails_answers_and_reads_on(
    works: Rig, patch: pytest.MonkeyPatch, error: BaseException
) -> None:
    works.append(event(new_id())).ok()
    patch.setattr(JournalReader, "page", raising(error, JournalReader.page, times=2))
    asked = [works.ask("journal.read") for _ in range(8)]
    replies = [one.reply() for one in asked]
    failed = [reply["err"]["code"] for reply in replies if "err" in reply]
    assert len(failed) == 2
    assert set(failed) <= {"unavailable", "internal"}
    assert all(len(works.ask("journal.read").ok()["events"]) == 1 for _ in range(8))
    works.assert_at_rest()


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_reader_that_fails_while_a_subscription_catches_up_ends_that_one_with_an_error(
    works: Rig, patch: pytest.MonkeyPatch, error: BaseException
) -> None:
    works.append(event(new_id())).ok()
    works.engine.close()
    with rig(works.path) as reopened:
        patch.setattr(JournalReader, "page", raising(error, JournalReader.page))
        first = reopened.ask("journal.subscribe", {"credit": 10, "after_seq": 0})
        assert first.err()["code"] in {"internal", "unavailable"}
        second = reopened.ask("journal.subscribe", {"credit": 10, "after_seq": 0})
        reopened.eventually(lambda: bool(second.items), "the first item")


# -- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["to its first pages", "in its pages"])
def test_a_file_that_is_damaged_under_an_engine_turns_health_red(works: Rig, where: str) -> None:
    session = new_id()
    for _ in range(30):
        works.append(event(session, payload={"text": "x" * 3000})).ok()
    with closing(open_checkpointer(works.path, synchronous="full")) as other:
        other.set_busy_timeout(30_000)  # a reader of the engine's may be at work
        other.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_RESTART)
    if where == "in its pages":
        pages = works.path.read_bytes()
        works.path.write_bytes(pages[:4096] + b"\xff" * (len(pages) - 4096))
    else:
        os.truncate(works.path, 8192)
    if where == "in its pages":  # else what looks for due things meets it
        works.ask("journal.read", {"limit": 30}).err()
    works.until("failing")
    if where != "in its pages":
        works.let_pass(2 * engine_module.UNREAD_S)
        assert works.status() == "failing", "for as long as it cannot be read"
    assert "palyra-actors doctor" in works.works.health()["reasons"][0]


def unlink(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    other.write_bytes(b"")
    os.replace(other, path)


def put_a_copy(path: Path) -> None:
    """What `cp` and `mv` leave: another file with the same events."""
    other = path.with_name("other.db")
    shutil.copy(path, other)
    os.replace(other, path)


def _told(works: Rig, words: str) -> None:
    """Wait until health says so, beside whatever else."""
    works.eventually(lambda: any(words in one for one in works.works.health()["reasons"]), words)


def unlink_wal(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def put_another_wal(path: Path) -> None:
    put_a_copy(path.with_name(path.name + "-wal"))


@pytest.mark.parametrize("take_away", [unlink, replace, put_a_copy, unlink_wal, put_another_wal])
def test_a_file_that_is_taken_away_stops_all_acks_and_health_says_why(
    works: Rig,
    take_away: Callable[[Path], None],
    figure: Tell,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert engine_module.OWNER_LOOK_S < 1.0, "it is noticed within a second"
    session = new_id()
    works.append(event(session)).ok()
    take_away(works.path)
    began = time.monotonic()
    _told(works, "replaced or unlinked")  # a look for due things may fail before
    figure(16, "taken away, and noticed after", time.monotonic() - began, "s", most=1)
    assert works.status() == "failing"
    asked = [works.append(event(session)) for _ in range(3)]
    assert [one.code() for one in asked] == [("unavailable", "none")] * 3
    works.assert_at_rest()
    assert "writing stops: " in caplog.text


def test_a_file_that_was_taken_away_and_is_put_back_takes_writes_again(
    works: Rig, figure: Tell
) -> None:
    session, away = new_id(), works.path.with_name("away.db")
    works.append(event(session)).ok()
    works.path.rename(away)
    _told(works, "replaced or unlinked")
    assert works.append(event(session)).code() == ("unavailable", "none")
    away.rename(works.path)
    began = time.monotonic()
    works.eventually(lambda: works.status() == "ready", "ready")
    figure(16, "put back, and ready after", time.monotonic() - began, "s", most=1)
    works.append(event(session)).ok()
    assert works.works.writer.head.seq == 2
    works.assert_at_rest()


@pytest.mark.parametrize("change", ["its head", "its bytes"])
def test_a_file_that_was_taken_away_and_is_put_back_as_another_takes_none(
    works: Rig, change: str
) -> None:
    session, away = new_id(), works.path.with_name("away.db")
    works.append(event(session)).ok()
    works.path.rename(away)
    _told(works, "replaced or unlinked")
    if change == "its head":
        head = works.works.writer.head
        works.works.writer._head = head._replace(seq=head.seq + 1)
    else:
        os.utime(away, ns=(1, 1))
    away.rename(works.path)
    works.let_pass(3 * engine_module.OWNER_LOOK_S)
    assert works.status() == "failing"
    assert works.append(event(session)).code() == ("unavailable", "none")


@pytest.mark.parametrize("linked", [False, True])
def test_without_its_wal_an_engine_that_ends_in_order_has_lost_nothing(
    tmp_path: Path, linked: bool
) -> None:
    database = tmp_path / "journal.db"
    if linked:
        (tmp_path / "folder").mkdir(mode=0o700)
        database.symlink_to(tmp_path / "folder" / "journal.db")
    session = new_id()
    with rig(database) as works:
        works.append(event(session)).ok()
        unlink_wal(database.resolve())
        _told(works, "WAL")
        _told(works, "SIGTERM")
        assert works.append(event(session)).code() == ("unavailable", "none")
    with rig(database) as works:
        works.append(event(session)).ok()
        works.let_pass(2 * engine_module.OWNER_LOOK_S)
        assert works.status() == "ready"
        assert works.works.writer.head.seq == 2


@pytest.mark.parametrize("take_away", [unlink, replace, put_a_copy])
def test_a_commit_that_fails_on_a_file_that_was_taken_away_brings_no_ack_back(
    database: Path, take_away: Callable[[Path], None]
) -> None:
    """Reopening would find, or make, another file of that name and go on with it."""
    session = new_id()
    with FaultVFS("isolation-taken") as disk, rig(database, vfs=disk.name) as works:
        works.append(event(session)).ok()

        found: list[bytes | None] = []

        def fail() -> None:
            take_away(database)
            found.append(content(database))
            disk.inject(Fault("sync", "wal", code=apsw.SQLITE_IOERR_FSYNC))

        with works.group(before_commit=fail):
            asked = works.append(event(session))
        assert asked.code() == ("unavailable", "unknown")
        assert works.append(event(session)).code() == ("unavailable", "none")
        works.let_pass(2 * WRITER.REOPEN_S)  # and it was tried again
        assert works.append(event(session)).code() == ("unavailable", "none")
        assert works.status() == "failing"
        assert content(database) == found[0], "it is a stranger's"
        works.assert_at_rest()


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


# -- the counters ---------------------------------------------------------------------------------


def test_at_rest_the_counters_add_up_after_every_kind_of_end(
    works: Rig, patch: pytest.MonkeyPatch
) -> None:
    session = new_id()
    stored = event(session)
    works.append(stored).ok()
    subscriber = works.other_caller()
    subscriber.ask("journal.subscribe", {"credit": 10})
    works.append({**stored, "payload": {"text": "other"}}).err()
    works.append(event("not an id")).err()
    works.ask("journal.nonsense").err()
    works.ask("journal.read").ok()
    patch.setattr(SessionActor, "_goes_on", raising(RuntimeError("boom"), SessionActor._goes_on))
    works.append(event(session)).err()
    patch.setattr(WRITER, "lay_out", raising(RuntimeError("boom"), WRITER.lay_out))
    works.append(event(session)).err()
    works.append(event(session)).ok()
    assert works.tally.under_way == 1, "the subscription"
    works.on_loop(lambda: works.works.feed.drop_peer(subscriber))  # its connection is gone
    tally = works.tally
    works.assert_at_rest()
    assert (tally.ok, tally.refused, tally.unknown, tally.closed) == (3, 4, 1, 1)


# -- an answer that cannot be made -----------------------------------------------------------------


@pytest.mark.parametrize("keyed", [False, True], ids=["unkeyed", "keyed"])
def test_an_answer_that_cannot_be_encoded_is_its_requests_failure_alone(
    works: Rig, patch: pytest.MonkeyPatch, keyed: bool
) -> None:
    """With an event id it is a row of the group; without one it is made behind the COMMIT."""
    patch.setattr(approval, "read", lambda _: 2**70)
    bad, good = new_id(), new_id()
    asked_for = {
        "approval_id": new_id(), "session_id": bad, "subject_type": "tool", "subject_id": "rm",
        "summary": "s", "prompt": 1, **({"event_id": new_id()} if keyed else {}),
    }  # fmt: skip
    with works.group():
        before = works.append(event(good))
        asked = works.ask("approval.request", asked_for)
        behind = [works.append(event(bad)), works.append(event(good))]
    assert asked.code() == ("internal", "none" if keyed else "unknown")
    assert before.numbers() == [1]
    assert [one.numbers() for one in behind] == [[1 if keyed else 2], [2]]
    assert works.status() == "ready"
    works.assert_states_equal_the_file()
    works.assert_at_rest()


def test_a_request_that_changes_nothing_and_has_no_answer_leaves_who_waits_to_the_writer(
    works: Rig, patch: pytest.MonkeyPatch
) -> None:
    named, session = {"approval_id": new_id()}, new_id()
    about = {"subject_type": "tool", "subject_id": "rm", "summary": "s", "prompt": 1}
    works.ask("approval.request", {**named, **about, "session_id": session}).ok()
    works.ask("approval.decide", {**named, "decision": "allow"}).ok()
    patch.setattr(approval, "read", lambda _: 2**70)
    with works.group():
        again = works.ask("approval.decide", {**named, "decision": "allow"})
        others = [works.append(event(new_id())), works.append(event(session))]
    assert again.code() == ("internal", "unknown")
    assert [one.numbers() for one in others] == [[1], [3]]
    works.assert_at_rest()


def test_a_row_that_sqlite_cannot_take_is_its_requests_failure_alone(
    works: Rig, patch: pytest.MonkeyPatch
) -> None:
    real = approval.fold

    def fold(known: Any, fact: Any, stream: int) -> Any:
        after, changes = real(known, fact, stream)
        return after, [(name, (*row[:-1], 2**70)) for name, row in changes]

    patch.setattr(approval, "fold", fold)
    session = new_id()
    with works.group():
        before = works.append(event(session))
        asked = works.ask("approval.request", {
            "approval_id": new_id(), "session_id": new_id(), "subject_type": "tool",
            "subject_id": "rm", "summary": "s",
        })  # fmt: skip
        behind = works.append(event(session))
    assert asked.code() == ("internal", "none")
    assert (before.numbers(), behind.numbers()) == ([1], [2])
    works.assert_states_equal_the_file()
    works.assert_at_rest()


def test_a_first_answer_that_cannot_be_read_is_its_requests_failure_alone(
    works: Rig, database: Path
) -> None:
    body = {"title": "one", "event_id": new_id()}
    works.ask("session.resolve", body).ok()
    writer_side: Any = works.writer._storage
    works.on_loop(
        lambda: writer_side._connection.execute("UPDATE answers SET answer = x'c1'").fetchall()
    )
    with works.group():
        again = works.ask("session.resolve", body)
        other = works.append(event(new_id()))
    assert again.code() == ("internal", "unknown")
    assert other.numbers() == [1]
    works.assert_at_rest()
