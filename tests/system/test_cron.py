"""`cron.*` of the contract, through a door, under a clock that only the test turns."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.storage.rebuild import Rebuild
from palyra_actors.testing.clock import ManualClock
from tests.system.harness import DEADLINE_S, NO_BUDGET, House, Reply, Wire, eventually

SECRET = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"
MINUTE = 60_000
START = 1_790_000_040_000  # a full minute


class Clocked(House):
    """An engine under a clock of its own, and a connection to it."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        super().__init__(folder, NO_BUDGET, clock=clock)
        self.clock = clock
        self.wire = self.connect()

    def turn(self, ms: int) -> None:
        self.clock.turn(ms)
        self.wire.ok("engine.health")  # the loop looks at its timers

    def job(self, name: str = "digest", **body: Any) -> str:
        asked = {"name": name, "schedule": {"every_ms": MINUTE}, **body}
        return str(self.wire.ok("cron.create", asked)["job"]["job_id"])

    def told(self, job: str) -> list[tuple[float, str, str, int]]:
        """Minutes since the start, status, reason, missed: the oldest first."""
        found = self.wire.ok("cron.runs", {"job_id": job, "limit": 500})["runs"]
        return [
            ((one["scheduled_ms"] - START) / MINUTE, one["status"], one["reason"], one["missed"])
            for one in reversed(found)
        ]

    def until(self, job: str, true: Callable[[list[Any]], bool]) -> list[Any]:
        """The job's runs as soon as `true` is true of them."""
        deadline = time.monotonic() + DEADLINE_S
        while not true(told := self.told(job)):
            assert time.monotonic() < deadline, told
        return told

    def until_stats(self, wanted: dict[str, int]) -> None:
        eventually(self.wire, lambda stats: {**stats["jobs"], **wanted} == stats["jobs"])

    def becomes(self, job: str, *wanted: tuple[float, str, str, int]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while (told := self.told(job)) != list(wanted):
            assert time.monotonic() < deadline, told


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Clocked]:
    opened = Clocked(tmp_path, ManualClock(wall_ms=START))
    yield opened
    opened.close()
    assert_rebuilt(tmp_path / "journal.db")


def assert_rebuilt(path: Path) -> None:
    """State is a fold: what a replay makes is what is there."""
    rebuild = Rebuild(path)
    with closing(rebuild):
        for _ in rebuild.run():
            pass
        found = rebuild.compare()
    assert found.different == 0, found.differences[:5]


def again(engine: Clocked, folder: Path, *, after_ms: int = 0) -> Clocked:
    """The engine stops, time passes, another one starts on the same file."""
    engine.close()
    engine.clock.turn(after_ms)
    return Clocked(folder, engine.clock)


def work(wire: Wire, credit: int = 10, **body: Any) -> Any:
    return wire.send("cron.work", {"credit": credit, **body})


def next_run(wire: Wire, sub: Any) -> Reply:
    reply = wire.receive()
    assert reply["id"] == sub
    return dict(reply["item"]["run"])


def held(run: Reply) -> dict[str, Any]:
    return {"run_id": run["run_id"], "fence": run["fence"]}


# -- jobs -----------------------------------------------------------------------------------------


def test_a_job_has_the_defaults_of_the_contract(engine: Clocked) -> None:
    ok = engine.wire.ok("cron.create", {"name": "n", "schedule": {"cron": "0 7 * * *"}})
    job = ok["job"]
    assert ok["timing"]["within_budget"] is True
    assert len(job["job_id"]) == 26
    assert job == {
        "job_id": job["job_id"], "name": "n", "schedule": {"cron": "0 7 * * *", "tz": "UTC"},
        "payload": None, "enabled": True, "concurrency_policy": "forbid", "misfire_policy": "skip",
        "misfire_grace_ms": 60_000, "jitter_ms": 0,
        "retry": {"max_attempts": 1, "backoff_ms": 1_000}, "lease_ms": 60_000, "session_key": None,
        "next_run_ms": 1_790_060_400_000, "last_run_ms": None, "created_ms": START,
        "updated_ms": START,
    }  # fmt: skip
    assert engine.wire.ok("cron.get", {"job_id": job["job_id"]})["job"] == job


def test_jobs_are_listed_in_the_order_in_which_they_were_made(engine: Clocked) -> None:
    jobs = [engine.job(f"job {n}", enabled=n % 2 == 0) for n in range(7)]
    found: list[str] = []
    after = None
    for _ in range(10):
        body = {"limit": 3} if after is None else {"limit": 3, "after": after}
        page = engine.wire.ok("cron.list", body)
        found += [one["job_id"] for one in page["jobs"]]
        if page["end"]:
            break
        after = page["next_after"]
    assert found == jobs
    off = engine.wire.ok("cron.list", {"enabled": False})["jobs"]
    assert [one["job_id"] for one in off] == jobs[1::2]


CHANGES: list[tuple[str, Any]] = [
    ("name", "another"), ("schedule", {"every_ms": 5_000}), ("payload", [1, {"a": None}]),
    ("payload", None), ("enabled", False), ("concurrency_policy", "replace"),
    ("misfire_policy", "catch_up"), ("misfire_grace_ms", 0), ("jitter_ms", 60_000),
    ("retry", {"max_attempts": 5, "backoff_ms": 10}), ("lease_ms", 5_000), ("session_key", "alice"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_every_field_can_be_set_and_changed_and_no_other_moves(
    engine: Clocked, field: str, value: Any
) -> None:
    plain = {"name": "n", "schedule": {"every_ms": MINUTE}, "payload": 1, "session_key": "bob"}
    made = engine.wire.ok("cron.create", {**plain, field: value})["job"]
    assert made[field] == value
    other = engine.wire.ok("cron.create", plain)["job"]
    changed = engine.wire.ok("cron.update", {"job_id": other["job_id"], field: value})["job"]
    follow = {field, "next_run_ms"} if field in ("enabled", "schedule", "jitter_ms") else {field}
    assert {name for name in other if other[name] != changed[name]} <= follow
    assert changed[field] == value
    assert engine.wire.ok("cron.get", {"job_id": other["job_id"]})["job"] == changed


def test_a_session_key_is_taken_away_by_nil(engine: Clocked) -> None:
    job = engine.job(session_key="alice")
    assert engine.wire.ok("cron.update", {"job_id": job, "session_key": None})["job"][
        "session_key"
    ] is None  # fmt: skip


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("cron.create", {"schedule": {"every_ms": 50}}, "invalid", "name"),
    ("cron.create", {"name": ""}, "invalid", "name"),
    ("cron.create", {"name": "x" * 129}, "too_large", "name"),
    ("cron.create", {"name": 5}, "invalid", "name"),
    ("cron.create", {"name": "n"}, "invalid", "schedule"),
    ("cron.create", {"name": "n", "schedule": "* * * * *"}, "invalid", "schedule"),
    ("cron.create", {"name": "n", "schedule": {"cron": "nope"}}, "invalid", "schedule.cron"),
    ("cron.create", {"name": "n", "schedule": {"every": 50}}, "invalid", "schedule.every"),
    ("cron.create", {"name": "n", "schedule": {"every_ms": 1}}, "invalid", "schedule.every_ms"),
    (
        "cron.create", {"name": "n", "schedule": {"cron": "* * * * *", "tz": "Mars/Base"}},
        "invalid", "schedule.tz",
    ),
    ("cron.create", {"concurrency_policy": "allow"}, "invalid", "concurrency_policy"),
    ("cron.create", {"misfire_policy": "run"}, "invalid", "misfire_policy"),
    ("cron.create", {"jitter_ms": 60_001}, "invalid", "jitter_ms"),
    ("cron.create", {"jitter_ms": -1}, "invalid", "jitter_ms"),
    ("cron.create", {"misfire_grace_ms": -1}, "invalid", "misfire_grace_ms"),
    ("cron.create", {"lease_ms": 0}, "invalid", "lease_ms"),
    ("cron.create", {"retry": {"max_attempts": 0}}, "invalid", "retry.max_attempts"),
    ("cron.create", {"retry": {"attempts": 2}}, "invalid", "retry.attempts"),
    ("cron.create", {"job_id": "nope"}, "invalid_id", "job_id"),
    ("cron.create", {"payload": "x" * 262_144}, "too_large", "payload"),
    ("cron.create", {"session_key": ""}, "invalid", "session_key"),
    ("cron.create", {"next_run_ms": 5}, "invalid", "next_run_ms"),
    ("cron.update", {"job_id": "nope"}, "invalid_id", "job_id"),
    ("cron.list", {"limit": 501}, "invalid", "limit"),
    ("cron.list", {"after": "nope"}, "invalid_id", "after"),
    ("cron.list", {"after": "01M3250V000000000000000J01"}, "not_found", "after"),
    ("cron.explain", {}, "invalid", "schedule"),
    ("cron.explain", {"schedule": {"every_ms": 50}, "count": 0}, "invalid", "count"),
    ("cron.explain", {"schedule": {"every_ms": 50}, "count": 101}, "invalid", "count"),
    ("cron.explain", {"schedule": {"at_ms": 5}, "after_ms": -1}, "invalid", "after_ms"),
    ("cron.work", {}, "invalid", "credit"),
    ("cron.work", {"credit": 0}, "invalid", "credit"),
    ("cron.work", {"credit": 10_001}, "invalid", "credit"),
    ("cron.work", {"credit": 1, "names": []}, "invalid", "names"),
    ("cron.work", {"credit": 1, "names": ["a", "x" * 1_025]}, "too_large", "names[1]"),
    ("cron.finish", {"status": "skipped"}, "invalid", "status"),
    ("cron.heartbeat", {"run_id": "nope", "fence": 1}, "invalid_id", "run_id"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "body", "code", "field"), REFUSED)
def test_what_is_wrong_with_a_request_is_said_at_its_place_and_nothing_is_stored(
    engine: Clocked, op: str, body: dict[str, Any], code: str, field: str
) -> None:
    base: dict[str, Any] = {}
    if op == "cron.create" and {"name", "schedule"}.isdisjoint(body):
        base = {"name": "n", "schedule": {"every_ms": MINUTE}}
    elif op == "cron.create" and "name" in body and body["name"] != "n":
        base = {"schedule": {"every_ms": MINUTE}}
    elif op == "cron.finish":
        base = {"run_id": new_id(), "fence": 1}
    before = engine.wire.head()
    error = engine.wire.err(op, {**base, **body})
    assert (error["code"], error["field"]) == (code, field)
    assert engine.wire.head() == before


@pytest.mark.parametrize(
    ("op", "more"),
    [
        ("cron.get", {}), ("cron.update", {"name": "x"}), ("cron.delete", {}), ("cron.enable", {}),
        ("cron.disable", {}), ("cron.run_now", {}), ("cron.runs", {}), ("cron.explain", {}),
    ],
)  # fmt: skip
def test_a_job_that_is_not_there_or_is_anothers_is_not_found(
    engine: Clocked, op: str, more: dict[str, Any]
) -> None:
    theirs = engine.wire.ok(
        "cron.create", {"name": "n", "schedule": {"every_ms": MINUTE}}, principal="alice"
    )["job"]["job_id"]
    gone = engine.job()
    engine.wire.ok("cron.delete", {"job_id": gone})
    missing = engine.wire.err(op, {"job_id": new_id(), **more})
    assert (missing["code"], missing["field"]) == ("not_found", "job_id")
    for job, who in ((theirs, "bob"), (gone, "local")):
        error = engine.wire.err(op, {"job_id": job, **more}, principal=who)
        assert error == missing
    assert engine.wire.ok("cron.get", {"job_id": theirs})["job"]["name"] == "n"
    assert [one["job_id"] for one in engine.wire.ok("cron.list", {}, principal="bob")["jobs"]] == []


def test_a_job_has_its_id_for_ever(engine: Clocked) -> None:
    job = engine.job(job_id="01M3250V000000000000000J01")
    body = {"job_id": job, "name": "n", "schedule": {"every_ms": MINUTE}}
    for actual in ("there", "deleted"):
        told = engine.wire.err("cron.create", body)
        assert (told["code"], told["detail"]) == ("conflict", {"actual": actual})
        if actual == "there":
            engine.wire.ok("cron.delete", {"job_id": job})


def test_a_request_that_is_sent_again_gets_the_first_answer_again(engine: Clocked) -> None:
    ids = {op: new_id() for op in ("create", "run_now", "finish")}
    body = {"name": "n", "schedule": {"every_ms": MINUTE}, "event_id": ids["create"]}
    made = engine.wire.ok("cron.create", body)["job"]
    assert engine.wire.ok("cron.create", body)["job"] == made
    assert engine.wire.ok("cron.create", body)["duplicate"] is True
    assert engine.wire.err("cron.create", {**body, "name": "m"})["code"] == "id_reused"
    now = {"job_id": made["job_id"], "event_id": ids["run_now"]}
    run = engine.wire.ok("cron.run_now", now)["run"]
    assert engine.wire.ok("cron.run_now", now)["run"] == run
    worker = engine.connect()
    given = next_run(worker, work(worker))
    end = {**held(given), "status": "succeeded", "usage": {"n": 1}, "event_id": ids["finish"]}
    ended = engine.wire.ok("cron.finish", end)["run"]
    again = engine.wire.ok("cron.finish", end)
    assert (again["run"], again["duplicate"]) == (ended, True)
    assert len(engine.told(made["job_id"])) == 1


def test_secrets_are_taken_out_of_what_is_stored(engine: Clocked) -> None:
    job = engine.job(name=f"token {SECRET}", payload={"api_key": "abc", "text": f"use {SECRET}"})
    shown = engine.wire.ok("cron.get", {"job_id": job})["job"]
    assert shown["payload"] == {"api_key": "<redacted>", "text": "use <redacted>"}
    assert SECRET not in str(engine.wire.read_all())
    engine.wire.ok("cron.run_now", {"job_id": job})
    worker = engine.connect()
    run = next_run(worker, work(worker))
    ended = engine.wire.ok("cron.finish", {**held(run), "status": "failed", "error": SECRET})["run"]
    assert ended["error"] == "<redacted>"
    assert SECRET.encode() not in engine.database.read_bytes()
    assert [one["redacted"] for one in engine.wire.read_all()][-1] is True


def test_explaining_a_job_keeps_to_its_grid(engine: Clocked) -> None:
    job = engine.job(schedule={"every_ms": 7_000})
    engine.turn(3_000)
    told = engine.wire.ok("cron.explain", {"job_id": job, "count": 3})["times"]
    assert [one["at_ms"] - START for one in told] == [7_000, 14_000, 21_000]
    assert told[0]["local"] == "2026-09-21T14:14:07+00:00"
    late = engine.wire.ok("cron.explain", {"job_id": job, "after_ms": START + 7_000, "count": 1})
    assert late["times"][0]["at_ms"] == START + 14_000


# -- ticks ----------------------------------------------------------------------------------------


def test_a_tick_runs_and_its_worker_finishes_it(engine: Clocked) -> None:
    job = engine.job(payload={"topic": "news"}, session_key="alice")
    worker = engine.connect()
    sub = work(worker, names=["digest"])
    engine.turn(MINUTE)
    run = next_run(worker, sub)
    assert run == {
        "run_id": run["run_id"], "job_id": job, "attempt": 1, "status": "running",
        "reason": "tick", "missed": 0, "scheduled_ms": START + MINUTE,
        "started_ms": START + MINUTE, "finished_ms": None, "fence": 1,
        "lease_until_ms": START + 2 * MINUTE, "error": None, "usage": None,
        "payload": {"topic": "news"}, "name": "digest", "session_key": "alice", "lease_ms": 60_000,
    }  # fmt: skip
    engine.turn(30_000)
    beaten = worker.ok("cron.heartbeat", held(run))["run"]
    assert beaten["lease_until_ms"] == START + 2.5 * MINUTE
    ended = worker.ok("cron.finish", {**held(run), "status": "succeeded", "usage": {"n": 3}})["run"]
    assert (ended["status"], ended["finished_ms"]) == ("succeeded", START + 1.5 * MINUTE)
    assert engine.wire.ok("cron.get", {"job_id": job})["job"]["last_run_ms"] == START + MINUTE
    engine.becomes(job, (1, "succeeded", "tick", 0))


def test_a_run_is_in_the_journal_before_its_worker_hears_of_it(engine: Clocked) -> None:
    engine.job()
    worker = engine.connect()
    sub = work(worker)
    worker.ok("journal.head")  # so that it is there before the tick
    engine.turn(MINUTE)
    run = next_run(worker, sub)
    (told,) = engine.wire.read_all(kinds=["cron.run_started"])
    assert told["payload"]["run_id"] == run["run_id"]
    assert told["payload"]["fence"] == run["fence"]
    engine.wire.ok("cron.run_now", {"job_id": engine.job(enabled=False)})
    run = next_run(worker, sub)
    (told,) = engine.wire.read_all(kinds=["cron.run_leased"])
    assert (told["payload"]["run_id"], told["payload"]["fence"]) == (run["run_id"], 1)


def test_ticks_without_a_worker_end_as_no_worker_and_the_next_ones_go_on(engine: Clocked) -> None:
    job = engine.job(lease_ms=30_000)
    engine.turn(MINUTE)
    engine.becomes(job, (1, "running", "tick", 0))
    engine.turn(30_000)
    engine.becomes(job, (1, "failed", "no_worker", 0))
    engine.turn(30_000)
    engine.becomes(job, (1, "failed", "no_worker", 0), (2, "running", "tick", 0))


def test_a_worker_that_falls_silent_loses_its_run_is_told_and_comes_too_late(
    engine: Clocked,
) -> None:
    job = engine.job(lease_ms=10_000, retry={"max_attempts": 2, "backoff_ms": 5_000})
    worker = engine.connect()
    sub = work(worker, credit=1)
    engine.turn(MINUTE)
    run = next_run(worker, sub)
    engine.turn(10_000)
    told = worker.receive()
    assert (told["id"], told["item"]) == (sub, {"cancel": run["run_id"], "reason": "orphaned"})
    late = worker.err("cron.finish", {**held(run), "status": "succeeded"})
    assert (late["code"], late["retryable"]) == ("conflict", False)
    assert worker.err("cron.heartbeat", held(run))["code"] == "conflict"
    engine.turn(5_000)
    engine.becomes(job, (1, "failed", "orphaned", 0), (1, "running", "retry", 0))
    second = engine.connect()
    other = next_run(second, work(second))
    assert (other["attempt"], other["fence"]) == (2, run["fence"] + 1)
    stale = worker.err("cron.finish", {**held(run), "run_id": other["run_id"], "status": "failed"})
    assert (stale["code"], stale["field"], stale["detail"]) == (
        "conflict", "fence", {"actual": other["fence"]},
    )  # fmt: skip


@pytest.mark.parametrize("ends", ["replaced", "deleted"])
def test_the_worker_hears_that_its_run_is_over(engine: Clocked, ends: str) -> None:
    job = engine.job(concurrency_policy="replace", lease_ms=10 * MINUTE)
    worker = engine.connect()
    sub = work(worker, credit=1)
    engine.turn(MINUTE)
    run = next_run(worker, sub)
    if ends == "replaced":
        engine.turn(MINUTE)
    else:
        engine.wire.ok("cron.delete", {"job_id": job})
    assert worker.receive()["item"] == {"cancel": run["run_id"], "reason": ends}
    assert worker.err("cron.finish", {**held(run), "status": "succeeded"})["code"] == "conflict"


def test_a_run_by_hand_is_given_out_like_any_other(engine: Clocked) -> None:
    job = engine.job(enabled=False)
    worker = engine.connect()
    sub = work(worker)
    run = engine.wire.ok("cron.run_now", {"job_id": job})["run"]
    assert run["reason"] == "manual"
    assert next_run(worker, sub)["run_id"] == run["run_id"]
    second = engine.wire.ok("cron.run_now", {"job_id": job})["run"]
    assert (second["status"], second["reason"]) == ("skipped", "overlap")


def test_runs_are_listed_newest_first_in_pages_and_by_status(engine: Clocked) -> None:
    job = engine.job(lease_ms=10 * MINUTE)
    for _ in range(5):
        engine.wire.ok("cron.run_now", {"job_id": job})
    everything = engine.wire.ok("cron.runs", {"job_id": job})["runs"]
    first = engine.wire.ok("cron.runs", {"job_id": job, "limit": 3})
    rest = engine.wire.ok("cron.runs", {"job_id": job, "after": first["next_after"]})
    assert (first["end"], rest["end"]) == (False, True)
    assert first["runs"] + rest["runs"] == everything
    assert [one["status"] for one in everything] == ["skipped"] * 4 + ["running"]
    skipped = engine.wire.ok("cron.runs", {"job_id": job, "status": "skipped"})["runs"]
    assert skipped == everything[:4]
    assert engine.wire.err("cron.runs", {"job_id": job, "after": new_id()})["field"] == "after"
    assert engine.wire.err("cron.runs", {"job_id": job, "status": "done"})["field"] == "status"


# -- workers --------------------------------------------------------------------------------------


def test_credit_is_for_so_many_runs_and_names_are_for_those(engine: Clocked) -> None:
    jobs = {name: engine.job(name, enabled=False) for name in ("a", "b", "c")}
    worker, other = engine.connect(), engine.connect()
    sub = work(worker, credit=1, names=["a", "b"])
    runs = [engine.wire.ok("cron.run_now", {"job_id": job})["run"] for job in jobs.values()]
    assert next_run(worker, sub)["run_id"] == runs[0]["run_id"]
    worker.quiet()
    worker.ok("journal.credit", {"sub": sub, "credit": 5})
    assert next_run(worker, sub)["run_id"] == runs[1]["run_id"]
    worker.quiet()
    assert next_run(other, work(other))["run_id"] == runs[2]["run_id"]


def test_a_run_that_nobody_has_taken_goes_by_the_name_that_its_job_has_now(
    engine: Clocked,
) -> None:
    job = engine.job("before")
    engine.wire.ok("cron.run_now", {"job_id": job})
    engine.wire.ok("cron.update", {"job_id": job, "name": "after"})
    before, after = engine.connect(), engine.connect()
    work(before, names=["before"])
    run = next_run(after, work(after, names=["after"]))
    assert run["name"] == "after"
    waits = engine.connect()
    sub = work(waits, names=["last"])
    other = engine.job("first")
    engine.wire.ok("cron.run_now", {"job_id": other})
    engine.wire.ok("cron.update", {"job_id": other, "name": "last"})
    assert next_run(waits, sub)["name"] == "last"


def test_runs_are_shared_out_among_the_workers_in_turn(engine: Clocked) -> None:
    workers = [engine.connect() for _ in range(3)]
    subs = [work(one) for one in workers]
    for one in workers:
        one.quiet()
    for n in range(6):
        engine.wire.ok("cron.run_now", {"job_id": engine.job(f"job {n}", enabled=False)})
    names = [
        next_run(one, sub)["name"] for one, sub in zip(workers, subs, strict=True) for _ in "12"
    ]
    assert sorted(names) == [f"job {n}" for n in range(6)]


def test_a_worker_sees_runs_of_its_own_principal_only(engine: Clocked) -> None:
    mine = engine.wire.ok(
        "cron.create", {"name": "n", "schedule": {"every_ms": MINUTE}}, principal="alice"
    )["job"]["job_id"]
    alice, bob = engine.connect(), engine.connect()
    theirs = bob.send("cron.work", {"credit": 5}, principal="bob")
    own = alice.send("cron.work", {"credit": 5}, principal="alice")
    engine.wire.ok("cron.run_now", {"job_id": mine}, principal="alice")
    run = next_run(alice, own)
    bob.quiet()
    for op, more in (("cron.heartbeat", {}), ("cron.finish", {"status": "failed"})):
        error = bob.err(op, {**held(run), **more}, principal="bob")
        assert (error["code"], error["field"]) == ("not_found", "run_id")
    assert alice.ok("cron.finish", {**held(run), "status": "succeeded"}, principal="alice")
    assert theirs


def test_a_stream_of_work_ends_when_it_is_told_to_and_its_run_can_still_be_finished(
    engine: Clocked,
) -> None:
    job = engine.job(enabled=False)
    worker = engine.connect()
    sub = work(worker)
    engine.wire.ok("cron.run_now", {"job_id": job})
    run = next_run(worker, sub)
    assert worker.err("cron.work", {"credit": 1}, id=sub)["code"] == "invalid"
    worker.send("journal.unsubscribe", {"sub": sub})
    assert {tuple(worker.receive().items())[1][1] for _ in "12"} >= {sub}
    assert worker.ok("cron.finish", {**held(run), "status": "succeeded"})
    error = worker.err("journal.credit", {"sub": sub, "credit": 1})
    assert error["code"] == "not_found"


def test_a_run_that_cannot_be_sent_goes_to_the_next_worker_at_once(engine: Clocked) -> None:
    """The one that died still has credit: nobody knows before something is sent to it."""
    job = engine.job(lease_ms=10 * MINUTE)
    dead, alive = engine.connect(), engine.connect()
    work(dead)
    dead.quiet()
    dead.close()
    sub = work(alive)
    alive.quiet()
    engine.turn(MINUTE)
    run = next_run(alive, sub)
    assert (run["job_id"], run["fence"]) == (job, 2)
    assert alive.ok("cron.finish", {**held(run), "status": "succeeded"})


def test_a_worker_that_comes_back_hears_of_the_runs_that_it_speaks_of(engine: Clocked) -> None:
    job = engine.job(concurrency_policy="replace", lease_ms=10 * MINUTE)
    first = engine.connect()
    sub = work(first)
    engine.turn(MINUTE)
    run = next_run(first, sub)
    first.close()
    back = engine.connect()
    sub = work(back, credit=1)
    back.ok("cron.heartbeat", held(run))
    back.ok("journal.credit", {"sub": sub, "credit": 1})
    engine.turn(MINUTE)
    items = [back.receive()["item"] for _ in "12"]
    assert {"cancel": run["run_id"], "reason": "replaced"} in items
    assert job


def test_the_statistics_say_what_waits_and_who_works(engine: Clocked) -> None:
    engine.job()
    engine.job("other", lease_ms=10 * MINUTE)
    worker = engine.connect()
    sub = work(worker, names=["digest"])
    engine.turn(MINUTE)
    next_run(worker, sub)
    engine.until_stats({"workers": 1, "held": 1, "untaken": 1, "woken": 2, "failing": 0})


# -- what outlives a restart ----------------------------------------------------------------------


def test_a_run_that_nobody_has_taken_is_offered_again(engine: Clocked, tmp_path: Path) -> None:
    job = engine.job(lease_ms=5 * MINUTE)
    engine.turn(MINUTE)
    engine.becomes(job, (1, "running", "tick", 0))
    second = again(engine, tmp_path)
    worker = second.connect()
    run = next_run(worker, work(worker))
    assert (run["scheduled_ms"], run["fence"]) == (START + MINUTE, 1)
    second.close()


def test_a_run_that_was_taken_waits_for_its_lease(engine: Clocked, tmp_path: Path) -> None:
    job = engine.job(lease_ms=5 * MINUTE)
    worker = engine.connect()
    sub = work(worker)
    engine.turn(MINUTE)
    run = next_run(worker, sub)
    second = again(engine, tmp_path)
    other = second.connect()
    work(other)
    other.quiet()
    assert other.ok("cron.heartbeat", held(run))["run"]["fence"] == run["fence"]
    second.turn(5 * MINUTE)
    second.until(job, lambda told: told[0][1:3] == ("failed", "orphaned"))
    second.close()


def test_what_waits_goes_on_waiting(engine: Clocked, tmp_path: Path) -> None:
    """The tick of `queue_one`, and the next attempt."""
    queued = engine.job(concurrency_policy="queue_one", lease_ms=90_000)
    retried = engine.job(
        schedule={"at_ms": START + MINUTE}, retry={"max_attempts": 2, "backoff_ms": 90_000}
    )
    worker = engine.connect()
    sub = work(worker, credit=2)
    engine.turn(MINUTE)
    for run in (next_run(worker, sub), next_run(worker, sub)):
        if run["job_id"] == retried:
            worker.ok("cron.finish", {**held(run), "status": "failed"})
    engine.turn(MINUTE)
    engine.becomes(queued, (1, "running", "tick", 0), (2, "queued", "tick", 0))
    second = again(engine, tmp_path)
    second.turn(30_000)
    second.becomes(queued, (1, "failed", "orphaned", 0), (2, "running", "tick", 0))
    second.becomes(retried, (1, "failed", "tick", 0), (1, "running", "retry", 0))
    second.close()


def test_ticks_of_the_time_without_an_engine_follow_their_misfire_policy(
    engine: Clocked, tmp_path: Path
) -> None:
    skips = engine.job(misfire_policy="skip")
    catches = engine.job(misfire_policy="catch_up")
    once = engine.job(schedule={"at_ms": START + MINUTE}, misfire_policy="catch_up")
    second = again(engine, tmp_path, after_ms=1000 * MINUTE + 1)
    second.becomes(skips, (1000, "skipped", "misfire", 1000))
    second.becomes(catches, (1000, "running", "catch_up", 999))
    second.becomes(once, (1, "running", "catch_up", 0))
    second.close()


def test_a_clock_set_forward_by_a_day_makes_ticks_late_and_one_set_back_waits(
    engine: Clocked,
) -> None:
    job = engine.job(misfire_policy="catch_up", misfire_grace_ms=MINUTE // 2, lease_ms=10_000)
    day = 24 * 60
    engine.turn(MINUTE)
    engine.becomes(job, (1, "running", "tick", 0))
    engine.clock.jump(START + day * MINUTE + 40_000)
    engine.turn(1_000)  # that is when it is noticed
    engine.becomes(
        job, (1, "failed", "no_worker", 0), (day, "running", "catch_up", day - 2)
    )  # fmt: skip
    engine.clock.jump(START + (day - 60) * MINUTE)
    for _ in range(10):
        engine.turn(6 * MINUTE)
    engine.turn(30_000)
    assert {row[0] for row in engine.told(job)} == {1, day}
    engine.turn(30_000)
    engine.until(job, lambda told: told[-1] == (day + 1, "running", "tick", 0))


# -- broken jobs ----------------------------------------------------------------------------------


def broken(path: Path, job: str, settings: bytes) -> None:
    """Somebody has changed the job's row."""
    number = 0
    for character in job:
        number = number * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character)
    with closing(sqlite3.connect(path)) as file:
        file.execute(
            "UPDATE cron_jobs SET settings = ?"
            " WHERE stream = (SELECT stream FROM streams WHERE stream_id = ?)",
            (settings, number.to_bytes(16, "big")),
        )
        file.commit()


@pytest.mark.parametrize("one_is_unreadable", [True, False])
def test_a_job_that_cannot_go_on_is_quarantined_and_delays_no_other(
    tmp_path: Path, *, one_is_unreadable: bool
) -> None:
    """One whose row cannot be read has all that are woken with it go their own ways. Where there
    is none, the sick one is quarantined amid the others."""
    first = Clocked(tmp_path, ManualClock(wall_ms=START))
    sick, blank = first.job("sick"), first.job("blank")
    fine = [first.job(f"fine {n}") for n in range(20)]
    row = {
        "name": "sick", "schedule": {"cron": "* * * * *", "tz": "Mars/Base"}, "payload": None,
        "concurrency_policy": "forbid", "misfire_policy": "skip", "misfire_grace_ms": 1,
        "jitter_ms": 0, "max_attempts": 1, "backoff_ms": 1, "lease_ms": 1, "session_key": None,
    }  # fmt: skip
    first.close()
    broken(first.database, sick, msgpack.packb(row))
    if one_is_unreadable:
        broken(first.database, blank, b"\xc1")
    second = Clocked(tmp_path, first.clock)
    second.turn(MINUTE)
    for job in fine:
        second.becomes(job, (1, "running", "tick", 0))
    told = second.until(sick, lambda told: len(told) == 1)
    assert told[0][1:3] == ("skipped", "quarantined")
    run = second.wire.ok("cron.runs", {"job_id": sick})["runs"][0]
    assert "Mars/Base" in run["error"]
    assert second.wire.ok("cron.get", {"job_id": sick})["job"]["enabled"] is False
    for op in ("cron.enable", "cron.explain"):
        error = second.wire.err(op, {"job_id": sick})
        assert (error["code"], error["field"]) == ("invalid", "schedule")
    cured = {"job_id": sick, "enabled": True, "schedule": {"every_ms": 86_400_000}}
    assert second.wire.ok("cron.update", cured)["job"]["enabled"] is True
    if one_is_unreadable:
        assert second.wire.err("cron.get", {"job_id": blank})["code"] == "unavailable"
    second.turn(MINUTE)
    for job in fine:
        second.until(job, lambda told: len(told) == 2)
    second.until_stats({"under_way": 0})
    second.close()


# -- the engine's own -----------------------------------------------------------------------------


def until_turns(engine: Clocked, name: str, turns: int) -> dict[str, int]:
    stats = eventually(engine.wire, lambda stats: stats["duties"].get(name, {})["turns"] == turns)
    return dict(stats["duties"][name])


def test_the_engines_own_jobs_go_on_where_they_were_and_write_no_event_in_vain(
    engine: Clocked, tmp_path: Path
) -> None:
    eventually(engine.wire, lambda stats: "memory.maintain" in stats["duties"])
    engine.turn(5 * MINUTE)
    once = until_turns(engine, "memory.maintain", 1)
    assert once["last_ms"] == START + 5 * MINUTE
    assert once["next_ms"] == START + 10 * MINUTE
    eventually(
        engine.wire,
        lambda _: engine.wire.ok("memory.stats")["last_maintenance_ms"] == START + 5 * MINUTE,
    )
    second = again(engine, tmp_path, after_ms=60 * MINUTE)
    eventually(second.wire, lambda stats: "memory.maintain" in stats["duties"])
    assert second.wire.ok("engine.stats")["duties"]["memory.maintain"]["turns"] == 0
    second.turn(1_000)
    assert until_turns(second, "memory.maintain", 1)["last_ms"] == START + 65 * MINUTE + 1_000
    assert second.wire.head()[0] == 0
    second.close()
