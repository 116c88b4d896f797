"""Workers of this package: in the engine's process and over a door. In real time, of which
nothing is assumed: what has to happen is waited for.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.cron import CronRunInfo, JobInfo
from palyra_actors.api.events import new_id
from palyra_actors.api.operations import Operations
from palyra_actors.api.worker import RunContext
from palyra_actors.client import Client
from palyra_actors.engine import Engine
from palyra_actors.errors import IdReused, Invalid, InvalidId, NotFound, Unavailable
from tests.system.harness import DEADLINE_S, NO_BUDGET

FAR: dict[str, Any] = {"at_ms": 4_000_000_000_000}
"""A job that is run by hand only."""


@pytest.fixture(params=["embedded", "client"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Operations]:
    with Engine.open(tmp_path / "jobs.db", NO_BUDGET) as opened:
        if request.param == "embedded":
            yield opened
            return
        with Client(opened.serve(f"ipc://{tmp_path}/door")) as client:
            yield client


def until(engine: Operations, job: JobInfo, true: Callable[[CronRunInfo], bool]) -> CronRunInfo:
    """The job's last run as soon as `true` is true of it."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        run = next(engine.cron.runs(job.job_id, page=1), None)
        if run is not None and true(run):
            return run
        assert time.monotonic() < deadline, run


def ended(run: CronRunInfo) -> bool:
    return run.status not in ("queued", "running")


def test_a_function_does_what_is_due_and_what_it_returns_is_kept(engine: Operations) -> None:
    job = engine.cron.create("count", {"every_ms": 20}, {"upto": 3})
    seen: queue.SimpleQueue[RunContext] = queue.SimpleQueue()

    def count(run: RunContext) -> dict[str, int]:
        seen.put(run)
        return {"counted": run.payload["upto"]}

    worker = engine.cron.handle("count", count)
    runs = [seen.get(timeout=DEADLINE_S) for _ in range(4)]
    assert {run.job_id for run in runs} == {job.job_id}
    assert len({run.scheduled_ms for run in runs}) == 4
    engine.cron.disable(job.job_id)
    done = until(engine, job, lambda run: run.status == "succeeded")
    assert done.usage == {"counted": 3}
    assert worker.stop(DEADLINE_S)


def test_what_a_function_raises_makes_its_run_fail_and_the_next_attempt_comes(
    engine: Operations,
) -> None:
    job = engine.cron.create("flaky", FAR, retry={"max_attempts": 3, "backoff_ms": 1})

    def flaky(run: RunContext) -> None:
        if run.attempt < 3:
            raise ValueError(f"attempt {run.attempt} with ghp_abcdefghijklmnopqrstuvwxyz0123456789")

    engine.cron.handle("flaky", flaky)
    engine.cron.run_now(job.job_id)
    until(engine, job, lambda run: run.attempt == 3 and ended(run))
    runs = list(engine.cron.runs(job.job_id))
    assert [run.status for run in runs] == ["succeeded", "failed", "failed"]
    assert runs[2].error == {"type": "ValueError", "message": "attempt 1 with <redacted>"}


class Mute(Exception):
    """One that cannot be told."""

    def __str__(self) -> str:
        raise ValueError


def raises(error: BaseException) -> Any:
    raise error


def test_a_worker_has_stopped_when_its_runs_have(engine: Operations) -> None:
    begun, free = threading.Event(), threading.Event()

    def wait(run: RunContext) -> None:
        begun.set()
        assert free.wait(DEADLINE_S)

    job = engine.cron.create("slow", FAR, lease_ms=86_400_000)
    worker = engine.cron.handle("slow", wait)
    engine.cron.run_now(job.job_id)
    assert begun.wait(DEADLINE_S)
    worker.tell_to_stop()
    worker._thread.join(DEADLINE_S)
    assert not worker.stop(0.0)
    assert worker.running == 1
    free.set()
    assert worker.stop(DEADLINE_S)
    assert worker.running == 0


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (lambda run: object(), ("Invalid", "what the function returned cannot be kept")),
        (lambda run: {1: 2}, ("Invalid", "what the function returned cannot be kept")),
        (lambda run: "x" * 20_000, ("TooLarge", "what the function returned cannot be kept")),
        (lambda run: raises(SystemExit(3)), ("SystemExit", "3")),
        (lambda run: raises(KeyboardInterrupt()), ("KeyboardInterrupt", "")),
        (lambda run: raises(Mute()), ("Mute", "it says nothing")),
        (lambda run: raises(ValueError("a \ud800 b")), ("ValueError", "a \\ud800 b")),
    ],
)
def test_however_a_function_ends_its_run_ends_with_it_and_the_next_one_comes(
    engine: Operations, ends: Callable[[RunContext], Any], told: tuple[str, str]
) -> None:
    job = engine.cron.create("odd", FAR, lease_ms=86_400_000)
    worker = engine.cron.handle("odd", ends, at_once=1)
    for _ in range(2):
        engine.cron.run_now(job.job_id)
        run = until(engine, job, ended)
        assert run.status == "failed"
        assert run.error["type"] == told[0]
        assert run.error["message"].startswith(told[1])
    assert worker.stop(DEADLINE_S)
    assert worker.running == 0


def test_a_lease_is_renewed_for_as_long_as_the_function_runs(engine: Operations) -> None:
    job = engine.cron.create("slow", FAR, lease_ms=150)

    def slow(run: RunContext) -> str:
        return "cancelled" if run.wait(0.6) else "slept"

    engine.cron.handle("slow", slow)
    engine.cron.run_now(job.job_id)
    run = until(engine, job, ended)
    assert (run.status, run.usage) == ("succeeded", "slept")


def test_cancelling_reaches_the_function(engine: Operations) -> None:
    job = engine.cron.create("long", FAR, concurrency_policy="replace")
    begun: queue.SimpleQueue[RunContext] = queue.SimpleQueue()
    reasons: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def long(run: RunContext) -> None:
        begun.put(run)
        assert run.wait(DEADLINE_S)
        reasons.put(run.reason)

    worker = engine.cron.handle("long", long)
    engine.cron.run_now(job.job_id)
    begun.get(timeout=DEADLINE_S)
    engine.cron.run_now(job.job_id)
    assert reasons.get(timeout=DEADLINE_S) == "replaced"
    begun.get(timeout=DEADLINE_S)
    engine.cron.delete(job.job_id)
    assert reasons.get(timeout=DEADLINE_S) == "deleted"
    assert worker.stop(DEADLINE_S)


def test_no_more_run_at_once_than_were_asked_for(engine: Operations) -> None:
    jobs = [engine.cron.create("work", FAR) for _ in range(6)]
    go = threading.Event()
    now, most, lock = 0, 0, threading.Lock()

    def work(run: RunContext) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        if now == 2:
            go.set()
        go.wait(DEADLINE_S)
        with lock:
            now -= 1
        assert run.name == "work"

    engine.cron.handle("work", work, at_once=2)
    for job in jobs:
        engine.cron.run_now(job.job_id)
    for job in jobs:
        assert until(engine, job, ended).status == "succeeded"
    assert most == 2


def test_a_run_writes_to_the_session_of_its_job(engine: Operations) -> None:
    job = engine.cron.create("write", FAR, {"text": "good morning"}, session_key="alice")

    def write(run: RunContext) -> None:
        run.session().append("x.greeting", run.payload, actor="agent")

    engine.cron.handle("write", write)
    engine.cron.run_now(job.job_id)
    assert until(engine, job, ended).status == "succeeded"
    session = engine.sessions.resolve("alice", create=False)
    assert [one.payload for one in session.events() if one.kind == "x.greeting"] == [
        {"text": "good morning"}
    ]


def test_a_worker_of_another_principal_does_its_jobs_only(engine: Operations) -> None:
    mine = engine.cron.create("n", FAR)
    theirs = engine.cron.create("n", FAR, principal="alice")
    seen: queue.SimpleQueue[str] = queue.SimpleQueue()
    engine.cron.handle("n", lambda run: seen.put(run.job_id), principal="alice")
    for job in (mine, theirs):
        engine.cron.run_now(job.job_id)
    assert seen.get(timeout=DEADLINE_S) == theirs.job_id
    assert until(engine, theirs, ended).status == "succeeded"
    assert next(engine.cron.runs(mine.job_id)).status == "running"
    with pytest.raises(NotFound):
        engine.cron.get(mine.job_id, principal="alice")


def test_jobs_are_listed_changed_and_explained(engine: Operations) -> None:
    job = engine.cron.create("n", {"cron": "0 7 * * *", "tz": "Europe/Prague"}, enabled=False)
    changed = engine.cron.update(job.job_id, {"name": "m", "payload": None})
    assert changed.name == "m"
    changed = engine.cron.update(job.job_id, name="k", lease_ms=500, session_key=None)
    assert (changed.name, changed.lease_ms) == ("k", 500)
    assert [one.job_id for one in engine.cron.list(enabled=False)] == [job.job_id]
    assert engine.cron.enable(job.job_id).next_run_ms is not None
    times = engine.cron.explain(job.job_id, after_ms=1_774_656_000_000, count=2)
    assert [one.local for one in times] == [
        "2026-03-28T07:00:00+01:00", "2026-03-29T07:00:00+02:00",
    ]  # fmt: skip
    assert engine.cron.explain(schedule={"every_ms": 50}, after_ms=0, count=1)[0].at_ms == 50


def test_what_is_no_map_is_refused_by_its_field(engine: Operations) -> None:
    said: Any
    for said in ("* * * * *", None, 60_000):
        with pytest.raises(Invalid) as refused:
            engine.cron.create("n", said)
        assert refused.value.field == "schedule"
    said = "* * * * *"
    with pytest.raises(Invalid) as refused:
        engine.cron.explain(schedule=said)
    assert refused.value.field == "schedule"
    said = 3
    with pytest.raises(Invalid) as refused:
        engine.cron.create("n", FAR, retry=said)
    assert refused.value.field == "retry"


@pytest.mark.parametrize(
    ("name", "function", "at_once", "field"),
    [
        ("", print, 4, "name"),
        ("n" * 129, print, 4, "name"),
        ("n", None, 4, "function"),
        ("n", print, 0, "at_once"),
        ("n", print, 10_001, "at_once"),
    ],
)
def test_a_worker_that_would_never_do_anything_is_refused(
    engine: Operations, name: str, function: Any, at_once: int, field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        engine.cron.handle(name, function, at_once=at_once)
    assert refused.value.field == field


def test_a_worker_finds_its_way_back_to_an_engine_that_comes_back(tmp_path: Path) -> None:
    """It goes on with what it does, tells its end, and takes the next run."""
    endpoint = f"ipc://{tmp_path}/door"
    first = Engine.open(tmp_path / "jobs.db", NO_BUDGET)
    first.serve(endpoint)
    job = first.cron.create("n", FAR)
    begun: queue.SimpleQueue[str] = queue.SimpleQueue()
    go = threading.Event()

    def work(run: RunContext) -> None:
        begun.put(run.run_id)
        assert go.wait(DEADLINE_S)

    with Client(endpoint) as client:
        client.cron.handle("n", work, at_once=1)
        first.cron.run_now(job.job_id)
        begun.get(timeout=DEADLINE_S)
        first.close()
        with Engine.open(tmp_path / "jobs.db", NO_BUDGET) as second:
            second.serve(endpoint)
            go.set()
            assert until(second, job, ended).status == "succeeded"
            run = second.cron.run_now(job.job_id)
            assert begun.get(timeout=DEADLINE_S) == run.run_id


def test_closing_tells_the_functions_and_ends_the_workers(tmp_path: Path) -> None:
    told = threading.Event()
    begun = threading.Event()

    def work(run: RunContext) -> None:
        begun.set()
        if run.wait(DEADLINE_S):
            told.set()

    with Engine.open(tmp_path / "jobs.db", NO_BUDGET) as engine:
        job = engine.cron.create("n", FAR)
        worker = engine.cron.handle("n", work)
        engine.cron.run_now(job.job_id)
        assert begun.wait(DEADLINE_S)
    assert told.wait(DEADLINE_S)
    assert not worker.alive
    with pytest.raises(Unavailable):
        engine.cron.get(job.job_id)


def test_a_call_that_is_made_again_under_its_event_id_does_its_work_once(
    engine: Operations,
) -> None:
    event_id = new_id()
    job = engine.cron.create("n", FAR, event_id=event_id)
    assert engine.cron.create("n", FAR, event_id=event_id) == job
    assert [one.job_id for one in engine.cron.list()] == [job.job_id]
    calls: list[Callable[..., Any]] = [
        engine.cron.run_now,
        lambda job_id, **options: engine.cron.update(job_id, name="m", lease_ms=9_000, **options),
        engine.cron.disable,
        engine.cron.enable,
        engine.cron.delete,
    ]
    for call in calls:
        event_id = new_id()
        first, head = call(job.job_id, event_id=event_id), engine.head()
        assert call(job.job_id, event_id=event_id) == first
        assert engine.head() == head
    with pytest.raises(IdReused):
        engine.cron.create("n", FAR, event_id=event_id)
    with pytest.raises(InvalidId):
        engine.cron.create("n", FAR, event_id="no ulid")
