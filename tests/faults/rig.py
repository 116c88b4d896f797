"""An engine with its lid off: requests without a socket, and a COMMIT that waits for the test.

    rig.hold()                      the next COMMIT stands still once it is reached
    asked = [rig.ask(...), ...]     requests gather behind it
    rig.let_go()                    it goes on; what gathered is the next group
    [one.reply() for one in asked]

Frames take the same way as a client's, from the desk on.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack

from palyra_actors.actors import writer as writer_module
from palyra_actors.actors.entity import ASLEEP
from palyra_actors.actors.work import Tally
from palyra_actors.config import Config
from palyra_actors.domain.catalog import SESSION
from palyra_actors.engine import Engine
from palyra_actors.ids import format_ulid
from palyra_actors.storage.connection import open_reader
from palyra_actors.storage.journal import JournalReader
from palyra_actors.storage.port import CommitUnknown, Selection
from tests.system.harness import DEADLINE_S, event

NO_BUDGET = Config().replaced("budget", write_ms=0)


class Asked:
    """A request under way."""

    def __init__(self) -> None:
        self._come = threading.Event()
        self.items: list[Any] = []
        self._reply: dict[str, Any] = {}
        self.replies = 0

    def hear(self, message: dict[str, Any]) -> None:
        if "item" in message:
            self.items.append(message["item"])
            return
        self.replies += 1
        self._reply = message
        self._come.set()

    @property
    def answered(self) -> bool:
        return self._come.is_set()

    def reply(self) -> dict[str, Any]:
        assert self._come.wait(DEADLINE_S), "no reply"
        return self._reply

    def ok(self) -> dict[str, Any]:
        reply = self.reply()
        assert "ok" in reply, reply
        body: dict[str, Any] = reply["ok"]
        return body

    def results(self) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = self.ok()["results"]
        return results

    def numbers(self) -> list[int]:
        """The session_seq of each event."""
        return [result["session_seq"] for result in self.results()]

    def err(self) -> dict[str, Any]:
        reply = self.reply()
        assert "err" in reply, reply
        body: dict[str, Any] = reply["err"]
        return body

    def code(self) -> tuple[str, str | None]:
        """The error's code and outcome."""
        error = self.err()
        return error["code"], error.get("detail", {}).get("outcome")


class Caller:
    """A peer of the desk: somebody with requests."""

    principal = "local"
    role = "admin"

    def __init__(self, rig: "Rig") -> None:
        self.under_way = 0
        self.backlog_bytes = 0
        self._rig = rig
        self._asked: dict[int, Asked] = {}

    def send(self, frame: bytes) -> None:
        message = msgpack.unpackb(frame)
        self._asked[message["id"]].hear(message)

    def prepare(
        self, op: str, body: dict[str, Any] | None = None, **envelope: Any
    ) -> tuple[Asked, bytes]:
        """A request, and its frame that is not sent yet."""
        asked = Asked()
        number = len(self._asked) + 1
        self._asked[number] = asked
        frame = msgpack.packb({"v": 1, "id": number, "op": op, "body": body or {}, **envelope})
        return asked, frame

    def ask(self, op: str, body: dict[str, Any] | None = None, **envelope: Any) -> Asked:
        asked, frame = self.prepare(op, body, **envelope)
        works = self._rig.works
        works.loop.call_soon(lambda: works.desk.serve([(self, frame)]))
        return asked

    def append(self, *events: dict[str, Any], **body: Any) -> Asked:
        return self.ask("journal.append", {"events": list(events), **body})


class Rig:
    """An engine, and handles on its writer. Commits never run on the loop's own thread here.

    They go through apsw, where they can be held; `beside`: those that are not held, and nothing is
    to happen at, are written beside the interpreter. `begun` counts those.
    """

    def __init__(self, path: Path, config: Config, beside: bool = False, **options: Any) -> None:
        self.path = path
        self.engine = Engine.open(path, config, **options)
        self.works: Any = self.engine._works
        self.writer: Any = self.works.writer
        self.caller = Caller(self)
        self.ask = self.caller.ask
        self.append = self.caller.append
        self._answer_lost = False
        self.begun = 0
        self._hooks: deque[Callable[[], object]] = deque()
        self._gate = threading.Event()
        self._gate.set()
        self._reached = threading.Event()
        storage: Any = self.writer._storage
        commit = storage.commit

        def held_commit() -> None:
            self._reached.set()
            assert self._gate.wait(DEADLINE_S)
            if self._hooks:
                self._hooks.popleft()()
            commit()
            if self._answer_lost:
                self._answer_lost = False
                raise CommitUnknown("its answer was lost")

        storage.commit = held_commit
        self._passed_on = threading.Event()
        committer: Any = self.writer._committer
        begin = committer.begin

        def may_begin(storage: Any, batch: Any, here: bool) -> bool:
            held = not self._gate.is_set() or self._hooks or self._answer_lost
            begun = beside and not held and begin(storage, batch, here)
            self.begun += bool(begun)
            return bool(begun)

        committer.begin = may_begin
        pass_on = committer._done

        def noted(result: Any) -> None:
            pass_on(result)
            self._passed_on.set()

        committer._done = noted

    @property
    def tally(self) -> Tally:
        tally: Tally = self.works.tally
        return tally

    def other_caller(self, principal: str = "local", role: str = "admin") -> Caller:
        caller = Caller(self)
        caller.principal, caller.role = principal, role
        return caller

    def hold(self) -> Asked:
        """A group is on its way to the disk and stands still there; its request."""
        self._reached.clear()
        self._gate.clear()
        plug = self.append(event(PLUG_SESSION))
        assert self._reached.wait(DEADLINE_S), "no COMMIT was reached"
        return plug

    def let_go(self) -> None:
        self._gate.set()

    def lose_answer(self) -> None:
        """For `before_commit`: the COMMIT is done, and its caller hears that it failed."""
        self._answer_lost = True

    def before_commits(self, call: Callable[[], object], commits: int) -> None:
        """`call` runs in the committer before each of the next so many COMMITs."""
        self._hooks.extend([call] * commits)

    def forget_hooks(self) -> None:
        """What was to happen at a COMMIT that did not come."""
        self._hooks.clear()
        self._answer_lost = False

    def end_commit(self) -> None:
        """On the loop's thread: `let_go`, and wait until the loop's next round begins with it."""
        self._passed_on.clear()
        self.let_go()
        assert self._passed_on.wait(DEADLINE_S)

    def settle(self) -> None:
        """Whatever was asked so far has come as far as it can while the COMMIT stands still."""
        for _ in range(4):  # desk, entities, a second entity, the writer
            self.on_loop(lambda: None)

    @contextlib.contextmanager
    def group(self, before_commit: Callable[[], object] | None = None) -> Iterator[None]:
        """What is asked inside becomes one group. `before_commit` runs in the committer."""
        self.hold()
        yield
        self.settle()
        if before_commit is not None:
            self._hooks.extend((lambda: None, before_commit))  # the plug's, and the group's
        self.let_go()

    def eventually(self, look: Callable[[], bool], what: str) -> None:
        """Wait until the loop's thread, between its rounds, finds it true."""
        done = threading.Event()

        def again() -> None:
            if look():
                done.set()
            else:
                self.works.loop.call_later(LOOK_S, again)

        self.works.loop.call_soon(again)
        assert done.wait(DEADLINE_S), f"never came true: {what}"

    def status(self) -> str:
        """What the engine says of its health."""
        return str(self.works.health()["status"])

    def until(self, status: str) -> None:
        self.eventually(lambda: self.status() == status, status)

    def let_pass(self, seconds: float) -> None:
        """Wait for a timer of the loop that was set after all that are due by then."""
        done = threading.Event()
        self.on_loop(lambda: self.works.loop.call_later(seconds, done.set))
        assert done.wait(DEADLINE_S)

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Run it between two of the loop's rounds; what it returned."""
        done, result = threading.Event(), []

        def run() -> None:
            result.append(call())
            done.set()

        self.works.loop.call_soon(run)
        assert done.wait(DEADLINE_S)
        return result[0]

    def journal(self) -> list[Any]:
        """Every event, as a connection of its own reads it."""
        reader = JournalReader(open_reader(str(self.path), cache_bytes=1 << 20))
        try:
            head = reader.head()
            checked = reader.check(1, head.seq, None) if head.seq else None
            assert checked is None or checked.first_bad_seq is None
            return reader.page(Selection(), 100_000, 1 << 30).events
        finally:
            reader.close()

    def sessions(self) -> dict[str, list[str]]:
        """Event ids by session, in the order of their numbers, which have no gap."""
        found: dict[str, list[str]] = {}
        for stored in self.journal():
            ids = found.setdefault(format_ulid(stored.stream_id), [])
            ids.append(format_ulid(stored.event_id))
            assert stored.stream_seq == len(ids), "numbers without gap, in the order of seq"
        found.pop(PLUG_SESSION, None)
        return found

    def assert_states_equal_the_file(self) -> None:
        """Each session that is awake believes what the file says."""
        self.settle()
        reader = JournalReader(open_reader(str(self.path), cache_bytes=1 << 20))
        try:
            for session_id, actor in self.works.directory._awake.items():
                row = reader.stream(SESSION, actor.stream_id)
                state = actor._state
                if actor.kind != SESSION or state is ASLEEP:
                    continue
                assert state.last_seq == (row.stream_seq if row else 0), session_id
                if row is not None and actor._tail is not None and actor._tail.exists:
                    assert actor._tail.seq == row.tail_seq, session_id
                for run_id, run in state.runs.items():
                    stored = reader.run(run_id)
                    assert stored is not None
                    assert stored.run is not None
                    assert stored.run[:10] == tuple(run[:10])
        finally:
            reader.close()

    def assert_at_rest(self) -> None:
        """Every request got one answer, and the counters say so."""
        tally = self.tally
        self.eventually(lambda: tally.under_way == 0, "rest")
        assert tally.received == tally.ok + tally.refused + tally.unknown + tally.closed
        for asked in self.caller._asked.values():
            assert asked.replies <= 1


LOOK_S = 0.005
PLUG_SESSION = "01HQRD00000000000000000000"


@contextlib.contextmanager
def rig(
    path: Path, config: Config = NO_BUDGET, *, beside: bool = False, **options: Any
) -> Iterator[Rig]:
    """A rig whose engine is closed at the end, whatever is held."""
    here = writer_module.COMMIT_HERE
    writer_module.COMMIT_HERE = False  # type: ignore[misc]
    opened = Rig(path, config, beside, **options)
    try:
        yield opened
    finally:
        opened.let_go()
        opened.engine.close()
        writer_module.COMMIT_HERE = here  # type: ignore[misc]
