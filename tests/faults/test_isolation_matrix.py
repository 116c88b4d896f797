"""Whoever fails, at whatever message: the others go on, it comes back, and the counters add up.

Each entry point of every actor and of what stands beside them is made to raise once, in the middle
of a life of many requests. One fault each by default, all of them with `--campaign`: an
`Exception`, a `MemoryError`, a `SystemExit`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.actors import (
    admission,
    anchors,
    appends,
    canvas,
    committer,
    cron,
    desk,
    directory,
    door,
    entity,
    feed,
    group,
    latency,
    memory,
    reader,
    scheduler,
    session,
    settling,
    writer,
)
from palyra_actors.api.events import new_id
from palyra_actors.engine import Works
from palyra_actors.storage import journal, upkeep
from tests.faults.rig import NO_BUDGET, Asked, Rig, rig
from tests.faults.test_isolation import raising
from tests.figures import Tell
from tests.system.harness import event, house
from tests.system.test_session_model import rebuilt_differences

FAULTS: list[BaseException] = [RuntimeError("boom"), MemoryError(), SystemExit(3)]
CONFIG = NO_BUDGET.replaced("storage", wal_keep_bytes=0)
Where = tuple[Any, str]

ENTRIES: list[Where] = [
    (admission.Gate, "lets_in"),
    (admission.Admission, "may_go_on"),
    (admission.Admission, "charge"),
    (appends.Appends, "look"),
    (appends.Appends, "write"),
    (appends.Appends, "check_and_write"),
    (desk, "decode"),
    (desk.Desk, "pump"),
    (desk.Desk, "to_reader"),
    (directory.Directory, "session"),
    (directory.Directory, "entity"),
    (directory.Directory, "_wake"),
    (directory.Directory, "_sweep"),
    (entity.Entity, "on_receive"),
    (entity.Entity, "on_failed"),
    (session.SessionActor, "_goes_on"),
    (session.SessionActor, "_decide"),
    (session.SessionActor, "_unborn"),
    (entity.Entity, "_wake"),
    (entity.Entity, "written"),
    (entity.CommandEntity, "_decide"),
    (canvas.CanvasActor, "_choose"),
    (canvas.CanvasActor, "fold"),
    (cron.CronActor, "_choose"),
    (cron.CronActor, "fold"),
    (memory.MemoryActor, "_choose"),
    (memory.MemoryActor, "fold"),
    (memory.MemoryActor, "written"),
    (scheduler.Scheduler, "on_receive"),
    (appends.Appends, "hand_out"),
    (writer.Writer, "submit"),
    (writer.Writer, "submit_all"),
    (writer.Writer, "_answer"),
    (settling, "answer"),
    (writer.Writer, "on_receive"),
    (writer.Writer, "_take"),
    (writer.Writer, "_stage"),
    (writer.Writer, "_finish"),
    (settling.Settling, "settle"),
    (settling.Settling, "_tell_entities"),
    (writer, "lay_out"),
    (writer, "prepare_answers"),
    (group.Group, "forget_units"),
    (committer.Committer, "commit_here"),
    (journal.JournalWriter, "stage"),
    (journal.JournalWriter, "commit"),
    (journal.JournalWriter, "known"),
    (journal.JournalReader, "page"),
    (journal.JournalReader, "check"),
    (journal.JournalReader, "stream"),
    (reader.Reader, "_read_page"),
    (reader.Reader, "_look"),
    (reader.Reader, "_ask"),
    (reader.Reader, "_trickle"),
    (reader.Reader, "_catch_up"),
    (reader.Reader, "_verify"),
    (feed.Feed, "publish"),
    (feed.Feed, "subscribe"),
    (feed.Feed, "recent"),
    (feed.Feed, "_tell_heads"),
    (latency.Latency, "on_receive"),
    (latency.Latency, "statistics"),
    (anchors.Anchors, "note"),
    (anchors.Anchors, "step"),
    (upkeep.Checkpointer, "step"),
    (Works, "_open_checkpointer"),
    (Works, "health"),
    (Works, "hello"),
    (Works, "_look_after_file"),
]


def life(works: Rig) -> list[Asked]:
    """Requests of every kind, sent without waiting for each other."""
    a, b, c, canvas_id = (new_id() for _ in range(4))
    run, approval, job = new_id(), new_id(), new_id()
    asked = [works.append(event(session)) for session in (a, b, c, a, b)]
    asked.append(works.append(event(a), event(b), event(a, run_id=run)))
    ask = works.ask
    asked += [
        ask("session.update", {"session_id": a, "title": "a name"}),
        ask("canvas.create", {"canvas_id": canvas_id, "session_id": b, "state": {"n": 1}}),
        ask(
            "canvas.patch",
            {
                "canvas_id": canvas_id,
                "expected_version": 1,
                "patch": [{"op": "replace", "path": "/n", "value": 2}],
            },
        ),
        ask(
            "approval.request",
            {
                "approval_id": approval,
                "session_id": a,
                "run_id": run,
                "subject_type": "tool",
                "subject_id": "bash",
                "summary": "may it?",
            },
        ),
        ask("cron.create", {"job_id": job, "name": "often", "schedule": {"every_ms": 3_600_000}}),
        ask("memory.ingest", {"source": "manual", "content": "the sky is high", "session_id": a}),
    ]
    works.settle()
    asked += [
        ask("journal.read"),
        ask("journal.recent"),
        ask("journal.head"),
        ask("journal.verify"),
        ask("engine.hello"),
        ask("engine.health"),
        ask("engine.stats"),
        ask("session.list"),
        ask("memory.search", {"query": "sky"}),
        ask("approval.export", {"format": "ndjson"}),
    ]
    asked += [works.append(event(session)) for session in (a, b, c)]
    return asked


def is_ours(reply: dict[str, Any]) -> bool:
    """An answer that a client may get while something fails: typed, and it can be sent again."""
    if "ok" in reply:
        return True
    return reply["err"]["code"] in {
        "internal", "unavailable", "overloaded",
        "not_found", "conflict",  # of what the failed request was to make
    }  # fmt: skip


def fault_in(works: Rig, where: Where, error: BaseException, patch: pytest.MonkeyPatch) -> None:
    owner, name = where
    real = getattr(owner, name)
    subscribed = works.other_caller().ask("journal.subscribe", {"after_seq": 0, "credit": 10_000})
    works.settle()
    with patch.context() as patched:
        if owner is session.SessionActor:
            patched.setattr(appends, "compiled", None)  # else it is not asked
        patched.setattr(owner, name, raising(error, real))
        asked = life(works)
        replies = [one.reply() for one in asked]
    assert [reply for reply in replies if not is_ours(reply)] == []
    works.until("ready")
    again = life(works)
    assert [one.reply() for one in again if "ok" not in one.reply()] == []
    works.settle()
    works.assert_states_equal_the_file()
    count = len(works.journal())
    works.eventually(
        lambda: (
            bool(subscribed.replies) or sum("event" in item for item in subscribed.items) == count
        ),
        "it goes on, or says that it ends",
    )
    seqs = [item["event"]["seq"] for item in subscribed.items if "event" in item]
    assert seqs == list(range(1, len(seqs) + 1)), "a subscription has no gap"
    works.on_loop(lambda: works.works.feed.drop_peer(subscribed))
    tally = works.tally
    works.eventually(
        lambda: (
            tally.received
            == tally.ok + tally.refused + tally.unknown + tally.closed + tally.under_way
        ),
        "the counters add up",
    )
    assert works.on_loop(lambda: tally.under_way) <= 1, "nobody waits but the subscription"


@pytest.mark.parametrize(
    "where", ENTRIES, ids=lambda one: f"{one[0].__name__.rsplit('.')[-1]}.{one[1]}"
)
def test_whoever_fails_the_others_go_on_and_it_comes_back(
    database: Path, campaign: bool, monkeypatch: pytest.MonkeyPatch, where: Where, figure: Tell
) -> None:
    chosen = FAULTS if campaign else [FAULTS[ENTRIES.index(where) % len(FAULTS)]]
    for error in chosen:
        path = database.with_name(f"{type(error).__name__}.db")
        with rig(path, CONFIG) as works:
            fault_in(works, where, error, monkeypatch)
        different = rebuilt_differences(path)
        figure(14, "faults in entry points", 1)
        figure(14, "rows that differ after them", different, most=0)
        assert different == 0


@pytest.mark.parametrize("name", ["receive", "flush", "_send", "_send_many"])
def test_a_door_that_fails_stays_open_and_who_is_there_is_answered_or_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, campaign: bool
) -> None:
    session = new_id()
    with house(tmp_path) as home:
        first = home.connect()
        first.append(event(session))
        for error in FAULTS if campaign else FAULTS[2:]:
            with monkeypatch.context() as patched:
                patched.setattr(door.Door, name, raising(error, getattr(door.Door, name)))
                sent = first.send("journal.append", {"events": [event(session)]})
                other = home.connect()
                assert "seq" in other.ok("journal.head"), "a newcomer is served"
            assert first.receive()["id"] == sent
            first.append(event(session))
        sys.stdout.write(f"{name}: {home.engine.stats().raw['requests']}\n")


def test_a_newcomer_that_cannot_be_met_takes_none_of_its_round_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with house(tmp_path) as home:
        first, session = home.connect(), new_id()
        first.append(event(session))
        for error in FAULTS:
            with monkeypatch.context() as patched:
                patched.setattr(door.Door, "_meet", raising(error, door.Door._meet))
                unlucky = home.connect()
                unlucky.send("journal.head")
                first.append(event(session))
                unlucky.send("journal.head")
                assert unlucky.receive()["id"] == 2, "and the next frame of it is served"


def test_a_source_a_turn_or_a_reply_that_always_fails_takes_no_other_along(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor fails at each message, and the sweep at each of its times: nobody notices."""

    def always(*_: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(latency.Latency, "on_receive", always)
    monkeypatch.setattr(feed.Feed, "_tell_heads", always)
    with rig(database, CONFIG) as works:
        for _ in range(2):
            replies = [one.reply() for one in life(works)]
            assert all("ok" in reply for reply in replies)
        works.assert_states_equal_the_file()


def test_secrets_are_looked_for_anew_where_the_look_at_a_whole_round_failed(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier round had found, that there is nothing, says nothing about this one."""
    real: Callable[..., Any] = appends.Appends.look
    with rig(database, CONFIG) as works:
        works.append(event(new_id())).ok()
        sealer = works.works.desk._appends._sealer
        monkeypatch.setattr(
            sealer, "nothing_in", raising(MemoryError(), sealer.nothing_in), raising=False
        )
        asked = works.append(event(new_id(), payload={"password": "tiger-tiger-burning"}))
        assert asked.results()[0]["redacted"] is True
    assert b"tiger-tiger-burning" not in database.read_bytes()
    assert real is appends.Appends.look
