"""Random appends, groups, retries and failing disks, against a journal of thirty lines.

The model takes requests one after the other; the engine takes them in groups, numbers ahead,
takes back and stages again. Both have to say the same, and to hold the same events.
"""

import itertools
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgpack
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from palyra_actors.errors import StorageUnavailable
from palyra_actors.ids import format_ulid
from palyra_actors.testing.faults import Fault, FaultVFS
from tests.faults.rig import PLUG_SESSION, Asked, Rig, rig
from tests.system.harness import event

SESSIONS = [f"01HQAD0000000000000000000{letter}" for letter in "ABC"]
IDS = 24
FAILURES = ["not synced", "synced", "done"]
MACHINES = itertools.count()


class Said(NamedTuple):
    """An event as a request says it. An id belongs to one session, whatever is said with it, so
    that the order within a session decides everything."""

    event_id: str
    session: str
    text: str


class Request(NamedTuple):
    events: tuple[Said, ...]
    expected: int | None


class Model:
    """A journal without groups, without threads and without a disk."""

    def __init__(self) -> None:
        self.sessions: dict[str, list[str]] = {session: [] for session in SESSIONS}
        self.texts: dict[str, str] = {}

    def answer(self, request: Request, *, store: bool = True) -> Any:
        """The error's code, or for each event its number and whether it was there before."""
        said: dict[str, str] = {}
        for one in request.events:
            first = said.setdefault(one.event_id, one.text)
            if one.text != first or self.texts.get(one.event_id, one.text) != one.text:
                return "id_reused"
        new = {one.event_id for one in request.events} - self.texts.keys()
        present = len(self.sessions[request.events[0].session])
        if new and request.expected not in (None, present):
            return "conflict"
        if not store:
            return "stored" if new else "repeated"
        numbers = []
        for event_id, session, text in request.events:
            repeated = event_id in self.texts
            if not repeated:
                self.texts[event_id] = text
                self.sessions[session].append(event_id)
            numbers.append((self.sessions[session].index(event_id) + 1, repeated))
        return numbers


def outcome(asked: Asked) -> Any:
    """As the model says it, or `unavailable` with its outcome."""
    reply = asked.reply()
    if "ok" in reply:
        return [(one["session_seq"], one["duplicate"]) for one in reply["ok"]["results"]]
    code, left = asked.code()
    return f"unavailable {left}" if code == "unavailable" else code


saids = st.builds(
    lambda number, other: Said(
        f"01HQAE00000000000000000{number:03d}", SESSIONS[number % 3], "other" if other else "text"
    ),
    st.integers(0, IDS - 1),
    st.sampled_from([False, False, False, False, True]),
)
drafts = st.tuples(
    st.lists(saids, min_size=1, max_size=4), st.sampled_from([None, None, None, 0, 0, 5])
)


class Groups(RuleBasedStateMachine):
    """`expected` is drawn as a distance from the right number, 0, or none at all."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.disk = FaultVFS(f"group-model-{next(MACHINES)}")
        self.manager = rig(Path(self.folder.name) / "journal.db", vfs=self.disk.name)
        self.rig: Rig = self.manager.__enter__()
        self.model = Model()

    def teardown(self) -> None:
        self.manager.__exit__(None, None, None)
        self.disk.unregister()
        self.folder.cleanup()

    def request(self, draft: tuple[list[Said], int | None]) -> Request:
        said, distance = draft
        if distance is None or len({one.session for one in said}) > 1:
            return Request(tuple(said), None)
        return Request(tuple(said), len(self.model.sessions[said[0].session]) + distance)

    def send(self, request: Request) -> Asked:
        events = [
            event(one.session, event_id=one.event_id, payload={"text": one.text})
            for one in request.events
        ]
        if request.expected is None:
            return self.rig.append(*events)
        return self.rig.append(*events, expected_session_seq=request.expected)

    def again(self, requests: list[Request]) -> None:
        """With the same ids, one after the other."""
        for request in requests:
            assert outcome(self.send(request)) == self.model.answer(request)

    @rule(draft=drafts)
    def one_request(self, draft: Any) -> None:
        self.again([self.request(draft)])

    @rule(group=st.lists(drafts, min_size=2, max_size=8))
    def a_group(self, group: list[Any]) -> None:
        answers, asked = [], []
        with self.rig.group():
            for draft in group:
                request = self.request(draft)
                answers.append(self.model.answer(request))
                asked.append(self.send(request))
        assert [outcome(one) for one in asked] == answers

    @rule(group=st.lists(drafts, min_size=1, max_size=5))
    def a_group_that_cannot_be_staged(self, group: list[Any]) -> None:
        requests = [self.request(draft) for draft in group]
        storage = self.rig.writer._storage

        def full(batch: object) -> None:
            raise StorageUnavailable("full", detail={"outcome": "none"})

        stage = storage.stage
        storage.stage = full
        asked = [self.send(request) for request in requests]
        replies = [outcome(one) for one in asked]
        storage.stage = stage
        for request, reply in zip(requests, replies, strict=True):
            answer = self.model.answer(request, store=False)
            if reply != "unavailable none":
                assert answer != "stored"
                assert reply == (self.model.answer(request) if answer == "repeated" else answer)
        self.again(requests)

    @rule(group=st.lists(drafts, min_size=1, max_size=6), failure=st.sampled_from(FAILURES))
    def a_group_whose_commit_fails(self, group: list[Any], failure: str) -> None:
        requests = [self.request(draft) for draft in group]
        fault = Fault("sync", "wal", code=apsw.SQLITE_IOERR_FSYNC, performed=failure == "synced")
        before = {session: list(ids) for session, ids in self.model.sessions.items()}
        fail = self.rig.lose_answer if failure == "done" else lambda: self.disk.inject(fault)
        with self.rig.group(before_commit=fail):
            asked = [self.send(request) for request in requests]
        replies = [outcome(one) for one in asked]
        self.rig.forget_hooks()
        self.disk.heal()
        self.rig.until("ready")
        self.learn({one for request in requests for one in request.events})
        for session, ids in before.items():
            assert self.model.sessions[session][: len(ids)] == ids
        for request, reply in zip(requests, replies, strict=True):
            if isinstance(reply, list):
                assert [number for number, _ in reply] == [
                    self.model.sessions[one.session].index(one.event_id) + 1
                    for one in request.events
                ]
            else:
                assert reply in {"unavailable unknown", "id_reused", "conflict"}
        self.again(requests)

    def learn(self, said: set[Said]) -> None:
        """What became of open outcomes is the file's to say, and it may hold only what was said."""
        model = Model()
        for stored in self.rig.journal():
            session, event_id = format_ulid(stored.stream_id), format_ulid(stored.event_id)
            if session == PLUG_SESSION:
                continue
            text = msgpack.unpackb(stored.payload)["text"]
            known = self.model.texts.get(event_id) == text
            assert known or Said(event_id, session, text) in said
            model.sessions[session].append(event_id)
            model.texts[event_id] = text
        self.model = model

    @invariant()
    def the_journal_holds_what_the_model_holds(self) -> None:
        held = {session: ids for session, ids in self.model.sessions.items() if ids}
        assert self.rig.sessions() == held
        self.rig.assert_states_equal_the_file()
        self.rig.assert_at_rest()


@pytest.mark.timeout(1800)
def test_groups_answer_and_store_what_single_requests_would(campaign: bool) -> None:
    run_state_machine_as_test(
        Groups,
        settings=settings(
            max_examples=400 if campaign else 25,
            stateful_step_count=12,
            deadline=None,
            derandomize=not campaign,
            suppress_health_check=list(HealthCheck),
        ),
    )
