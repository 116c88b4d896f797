"""Real recorded runs as sessions: runs, proposals, approvals, executions; then branched."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.events import Event, new_id
from palyra_actors.api.results import StoredEvent
from palyra_actors.engine import Engine
from palyra_actors.errors import PalyraError
from palyra_actors.importer import read_events
from palyra_actors.storage.rebuild import Rebuild
from tests.system.harness import NO_BUDGET


def recorded(shared: Path) -> Iterator[tuple[str, list[Event]]]:
    for path in sorted((shared / "data" / "trajectories").glob("*.traj")):
        yield path.stem, [one.event for one in read_events(path)]


class Told:
    """What was written of one recorded run, as far as it has to be read back."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.approvals: list[tuple[str, str]] = []


def lived_through(engine: Engine, name: str, events: list[Event]) -> tuple[str, str, Told]:
    """The recorded run as if it happened now: the agent asks before each call of a tool, and is
    refused what deletes."""
    session = engine.sessions.resolve(name, title=f"Recorded run {name}")
    run = engine.runs.start(session).run_id
    engine.runs.move(run, "in_progress")
    told = Told()
    for event in events:
        written = engine.append(
            Event(session.session_id, event.kind, event.payload, event.actor, run, event.event_id,
                  event.ts_ms)
        ).results[0]  # fmt: skip
        assert not written.duplicate
        told.events.append((event.kind, event.payload))
        if event.kind == "tool_proposed":
            asked = engine.approvals.request(
                session, "tool", str(event.payload["tool"])[:200], "call a tool", run_id=run,
                prompt={"action": str(event.payload["action"])[:500]},
            )  # fmt: skip
            decision = "deny" if event.payload["tool"] == "rm" else "allow"
            engine.approvals.decide(asked.approval_id, decision, reason="as recorded")
            told.approvals.append((asked.approval_id, decision))
    if engine.runs.get(run).state == "in_progress":
        engine.runs.move(run, "done")
    return session.session_id, run, told


def clients(events: Iterator[StoredEvent]) -> list[tuple[str, Any]]:
    engines = ("session.", "run.", "approval.")
    return [(one.kind, one.payload) for one in events if not one.kind.startswith(engines)]


def is_same(read: list[tuple[str, Any]], written: list[tuple[str, Any]]) -> bool:
    """Equal but for the secrets: a recorded run holds texts that look like some."""
    if [kind for kind, _ in read] != [kind for kind, _ in written]:
        return False
    return all(
        one == other or "<redacted>" in str(one)
        for (_, one), (_, other) in zip(read, written, strict=True)
    )


def test_recorded_runs_are_sessions_that_branch_and_go_on_differently(
    shared: Path, tmp_path: Path
) -> None:
    runs = list(recorded(shared))
    assert runs
    path = tmp_path / "runs.db"
    branches: dict[str, tuple[str, str, Told, int]] = {}
    with Engine.open(path, NO_BUDGET) as engine:
        for name, events in runs:
            session, run, told = lived_through(engine, name, events)
            history = list(engine.sessions.open(session).history())
            middle = history[len(history) // 2].stream_seq
            branch = engine.sessions.open(session).branch(middle, session_key=f"{name}, again")
            other = engine.runs.start(branch, parent_run_id=run).run_id
            branch.append("message_received", {"text": "Try otherwise"}, actor="user", run_id=other)
            branch.append("tool_proposed", {"tool": "ls", "action": "ls"}, run_id=other)
            branch.append("run_failed", {"error": "gave up"}, actor="system", run_id=other)
            engine.sessions.open(session).append("message_received", {"text": "Thanks"})
            branches[name] = (session, branch.session_id, told, middle)
    with Engine.open(path, NO_BUDGET) as engine:  # from the file, not from memory
        for session, branch_id, told, middle in branches.values():
            parent = list(engine.sessions.open(session).history())
            child = list(engine.sessions.open(branch_id).history())
            assert is_same(
                clients(iter(parent)),
                [*told.events, ("message_received", {"text": "Thanks"})],
            )
            assert [one.stream_seq for one in child] == list(range(1, len(child) + 1))
            assert [one.event_id for one in child[:middle]] == [
                one.event_id for one in parent[:middle]
            ]
            assert [one.kind for one in child[middle:]] == [
                "session.branched", "session.updated", "run.started", "message_received",
                "tool_proposed", "run_failed",
            ]  # fmt: skip
            (first,) = engine.runs.list(session_id=session)
            (second,) = engine.runs.list(session_id=branch_id)
            assert first.state in ("done", "failed")
            assert (second.state, second.parent_run_id) == ("failed", first.run_id)
            decided = {one.approval_id: one.decision for one in engine.approvals.list()}
            for approval, decision in told.approvals:
                assert decided[approval] == decision
            proposals = sum(kind == "tool_proposed" for kind, _ in told.events)
            assert len(told.approvals) == proposals
        assert sum(len(told.approvals) for _, _, told, _ in branches.values()) > 50
        assert engine.verify().valid
    with closing(Rebuild(path)) as made:
        for _ in made.run():
            pass
        assert made.compare().differences == []


def test_a_recorded_runs_tape_holds_every_step_of_it(shared: Path, tmp_path: Path) -> None:
    with Engine.open(tmp_path / "runs.db", NO_BUDGET) as engine:
        for name, events in recorded(shared):
            _, run, told = lived_through(engine, name, events)
            tape = list(engine.runs.tape(run))
            assert [one.tape_seq for one in tape] == list(range(1, len(tape) + 1))
            kinds = [kind for kind, _ in told.events]
            for kind in ("message_received", "tool_proposed", "tool_executed"):
                assert [one.kind for one in tape].count(kind) == kinds.count(kind)


def test_a_recorded_run_that_is_imported_twice_is_one_session(shared: Path, tmp_path: Path) -> None:
    with Engine.open(tmp_path / "runs.db", NO_BUDGET) as engine:
        for _ in range(2):
            for _, events in recorded(shared):
                engine.append_many(events)
        sessions = list(engine.sessions.list())
        assert len(sessions) == len(list(recorded(shared)))
        for session in sessions:
            (run,) = engine.runs.list(session_id=session.session_id)
            assert run.tape_entries > 0
            with pytest.raises(PalyraError):
                engine.runs.start(new_id(), run_id=run.run_id)
