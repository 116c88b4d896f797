"""Sessions, runs and approvals against a model in plain Python, with restarts and kills between.

At every stop the file's projections are made anew from the journal and have to be equal.
"""

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from palyra_actors.api.events import Event, new_id
from palyra_actors.config import Config, StorageConfig
from palyra_actors.engine import Engine
from palyra_actors.errors import (
    Conflict,
    Gone,
    InvalidTransition,
    PalyraError,
)
from palyra_actors.storage.rebuild import Rebuild

RUN_STEPS = {
    "accepted": {"in_progress", "failed", "cancelled"},
    "in_progress": {"done", "failed", "cancelled"},
    "done": set[str](),
    "failed": set[str](),
    "cancelled": set[str](),
}
STATES = ["pending", "accepted", "in_progress", "done", "failed", "cancelled"]
_NTH = st.integers(0, 5)
SMALL = Config(
    storage=StorageConfig(wal_keep_bytes=1024 * 1024, checkpoint_bytes=1024 * 1024, readers=1)
)


def rebuilt_differences(path: Path) -> int:
    with closing(Rebuild(path)) as made:
        for _ in made.run():
            pass
        found = made.compare()
    assert found.differences == []
    return found.different


class Conversations(RuleBasedStateMachine):
    """The model: what each session, run and approval is, as simply as it can be said."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "model.db"
        self.engine = Engine.open(self.path, SMALL)
        self.sessions: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.gone_runs: list[str] = []
        self.gone_approvals: list[str] = []
        self.approvals: dict[str, dict[str, Any]] = {}

    def teardown(self) -> None:
        self.everything_is_as_the_model_says()
        self.engine.close()
        assert rebuilt_differences(self.path) == 0
        self.folder.cleanup()

    def _pick(self, known: dict[str, Any], nth: int) -> str:
        return list(known)[nth % len(known)]

    def _told(self, call: Any, *arguments: Any, **options: Any) -> type[PalyraError] | None:
        """How the engine refused it, if it did."""
        try:
            call(*arguments, **options)
        except PalyraError as error:
            return type(error)
        return None

    def _takes(self, session: dict[str, Any]) -> type[PalyraError] | None:
        return {"archived": InvalidTransition, "erased": Gone}.get(session["status"])

    # -- sessions ---------------------------------------------------------------------------------

    @rule(key=st.sampled_from(["a", "b", "c"]), title=st.none() | st.just("words here"))
    def resolve(self, key: str, title: str | None) -> None:
        session = self.engine.sessions.resolve(key, title=title)
        known = [one for one, it in self.sessions.items() if it["key"] == key]
        assert known in ([], [session.session_id])
        if not known:
            self.sessions[session.session_id] = {
                "key": key, "title": title, "status": "open", "events": 1, "history": 1,
            }  # fmt: skip

    @rule(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        session = new_id()
        self.engine.append([Event(session, "message_received", {"n": n}) for n in range(count)])
        self.sessions[session] = {
            "key": None, "title": None, "status": "open", "events": count, "history": count,
        }  # fmt: skip

    @precondition(lambda self: self.sessions)
    @rule(nth=_NTH, off=st.sampled_from([0, 0, 0, 1]))
    def append(self, nth: int, off: int) -> None:
        name = self._pick(self.sessions, nth)
        session = self.sessions[name]
        refused = self._told(
            self.engine.append,
            Event(name, "tool_executed", {"x": 1}),
            expected_session_seq=session["history"] + off,
        )
        expected = self._takes(session) or (Conflict if off else None)
        assert refused is expected
        if refused is None:
            session["events"] += 1
            session["history"] += 1

    @precondition(lambda self: self.sessions)
    @rule(nth=_NTH, title=st.none() | st.sampled_from(["one", "two words"]))
    def rename(self, nth: int, title: str | None) -> None:
        name = self._pick(self.sessions, nth)
        session = self.sessions[name]
        refused = self._told(self.engine.sessions.open(name).rename, title)
        assert refused is self._takes(session)
        if refused is None:
            session["title"] = title
            session["history"] += 1

    @precondition(lambda self: self.sessions)
    @rule(nth=_NTH)
    def archive(self, nth: int) -> None:
        name = self._pick(self.sessions, nth)
        session = self.sessions[name]
        assert self._told(self.engine.sessions.open(name).archive) is self._takes(session)
        if session["status"] == "open":
            session["status"] = "archived"
            session["history"] += 1

    @precondition(lambda self: self.sessions)
    @rule(nth=_NTH, back=st.integers(0, 2))
    def branch(self, nth: int, back: int) -> None:
        name = self._pick(self.sessions, nth)
        session = self.sessions[name]
        at = max(0, session["history"] - back)
        if session["status"] == "erased":
            assert self._told(self.engine.sessions.open(name).branch, at) is Gone
            return
        child = self.engine.sessions.open(name).branch(at)
        self.sessions[child.session_id] = {
            "key": None, "title": None, "status": "open", "events": 0, "history": at + 1,
        }  # fmt: skip

    @precondition(lambda self: self.sessions)
    @rule(nth=_NTH)
    def erase(self, nth: int) -> None:
        name = self._pick(self.sessions, nth)
        session = self.sessions[name]
        refused = self._told(self.engine.sessions.open(name).erase)
        assert refused is (Gone if session["status"] == "erased" else None)
        session.update(status="erased", key=None, title=None)
        for known, gone in (
            (self.runs, self.gone_runs),
            (self.approvals, self.gone_approvals),
        ):
            for one in [one for one, it in known.items() if it["session"] == name]:
                del known[one]
                gone.append(one)

    # -- runs -------------------------------------------------------------------------------------

    @precondition(lambda self: self.sessions)
    @rule(nth=_NTH)
    def start(self, nth: int) -> None:
        name, run = self._pick(self.sessions, nth), new_id()
        session = self.sessions[name]
        refused = self._told(self.engine.runs.start, name, run_id=run)
        assert refused is self._takes(session)
        if refused is None:
            session["history"] += 1
            self.runs[run] = {"session": name, "state": "accepted", "entries": 0}

    @precondition(lambda self: self.sessions and self.gone_runs)
    @rule(nth=_NTH)
    def start_one_that_is_gone(self, nth: int) -> None:
        name, run = self._pick(self.sessions, nth), self.gone_runs[nth % len(self.gone_runs)]
        refused = self._told(self.engine.runs.start, name, run_id=run)
        assert refused in {Conflict, self._takes(self.sessions[name])}
        assert refused is not None
        assert self._told(self.engine.runs.cancel, run) is Gone

    @precondition(lambda self: self.runs)
    @rule(nth=_NTH, to=st.sampled_from(STATES))
    def move(self, nth: int, to: str) -> None:
        name = self._pick(self.runs, nth)
        run = self.runs[name]
        refused = self._told(self.engine.runs.move, name, to)
        assert refused is (None if to in RUN_STEPS[run["state"]] else InvalidTransition)
        if refused is None:
            run["state"] = to
            self.sessions[run["session"]]["history"] += 1

    @precondition(lambda self: self.runs)
    @rule(nth=_NTH, kind=st.sampled_from(["message_received", "run_completed", "run_failed"]))
    def event_of_a_run(self, nth: int, kind: str) -> None:
        name = self._pick(self.runs, nth)
        run = self.runs[name]
        session = self.sessions[run["session"]]
        refused = self._told(self.engine.append, Event(run["session"], kind, {"a": 1}, run_id=name))
        end = {"run_completed": "done", "run_failed": "failed"}.get(kind)
        expected = self._takes(session)
        if expected is None and end and run["state"] not in ("accepted", "in_progress", end):
            expected = InvalidTransition
        assert refused is expected
        if refused is None:
            session["events"] += 1
            session["history"] += 1
            run["entries"] += 1
            if end is not None and run["state"] in ("accepted", "in_progress"):
                run["state"] = end

    # -- approvals --------------------------------------------------------------------------------

    @precondition(lambda self: self.sessions)
    @rule(nth=_NTH, subject=st.sampled_from(["rm", "mv"]))
    def ask(self, nth: int, subject: str) -> None:
        name, approval = self._pick(self.sessions, nth), new_id()
        session = self.sessions[name]
        refused = self._told(
            self.engine.approvals.request, name, "tool", subject, "may I", approval_id=approval
        )
        assert refused is self._takes(session)
        if refused is None:
            standing = [
                it
                for it in self.approvals.values()
                if (it["session"], it["subject"], it["scope"]) == (name, subject, "session")
            ]
            decision = standing[0]["decision"] if standing else None
            self.approvals[approval] = {
                "session": name, "subject": subject, "decision": decision, "scope": None,
            }  # fmt: skip
            session["history"] += 2 if standing else 1

    @precondition(lambda self: self.approvals)
    @rule(
        nth=_NTH,
        decision=st.sampled_from(["allow", "deny"]),
        scope=st.sampled_from(["once", "session"]),
    )
    def decide(self, nth: int, decision: str, scope: str) -> None:
        name = self._pick(self.approvals, nth)
        approval = self.approvals[name]
        if approval["decision"] is not None:
            with_scope = approval["scope"] or "session"
            same = (approval["decision"], with_scope) == (decision, scope)
            refused = self._told(self.engine.approvals.decide, name, decision, scope=scope)
            assert refused is (None if same else Conflict)
            return
        self.engine.approvals.decide(name, decision, scope=scope)
        if scope == "session" and self._has_standing(approval):
            scope = "later"  # asked before that one was decided; the newest decision answers
        approval.update(decision=decision, scope=scope)
        self.sessions[approval["session"]]["history"] += 1

    def _has_standing(self, approval: dict[str, Any]) -> bool:
        for it in self.approvals.values():
            if (it["session"], it["subject"], it["scope"]) == (
                approval["session"], approval["subject"], "session",
            ):  # fmt: skip
                it["scope"] = "earlier"
                approval["scope"] = "session"
        return False

    # -- what always holds ------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        self.engine.close()
        assert rebuilt_differences(self.path) == 0
        self.engine = Engine.open(self.path, SMALL)

    @rule()
    def everything_is_as_the_model_says(self) -> None:
        listed = {one.session_id: one for one in self.engine.sessions.list()}
        living = {name for name, it in self.sessions.items() if it["status"] != "erased"}
        assert set(listed) == living
        for name, told in listed.items():
            session = self.sessions[name]
            assert (told.session_key, told.title, told.status, told.last_session_seq) == (
                session["key"], session["title"], session["status"], session["history"],
            )  # fmt: skip
        for run, it in self.runs.items():
            info = self.engine.runs.get(run)
            assert (info.state, info.tape_entries) == (it["state"], it["entries"])
        for approval, it in self.approvals.items():
            assert self.engine.approvals.get(approval).decision == it["decision"]
        for run in self.gone_runs:
            assert self._told(self.engine.runs.get, run) is Gone
        for approval in self.gone_approvals:
            assert self._told(self.engine.approvals.get, approval) is Gone


Conversations.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestConversations = pytest.mark.timeout(600)(Conversations.TestCase)
