"""The engine from outside: raw frames over a real door, and nothing of the package's own client.

`Wire` speaks MessagePack over a DEALER or REQ socket, so that a test says byte for byte what a
client in another language would send. Every wait has a deadline.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack
import zmq

from palyra_actors.api.events import new_id
from palyra_actors.config import Config
from palyra_actors.engine import Engine
from palyra_actors.keys import KeyFolder, read_client_key

DEADLINE_S = 30.0
WITHOUT_WARM_HEADS = (
    "INSERT OR REPLACE INTO heads SELECT * FROM ends; DROP VIEW ends; DROP TABLE warm_heads;"
)
"""Takes a file of version 20 back to what it was before."""

NO_BUDGET = Config().replaced("budget", write_ms=0)
"""The machine that runs the tests may be slower than any budget; what is tested here is not."""

Reply = dict[str, Any]


class Silent(Exception):
    """No frame came before the deadline."""


def pack(value: object) -> bytes:
    packed = msgpack.packb(value, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def unpack(frame: bytes) -> Any:
    return msgpack.unpackb(frame, raw=False, strict_map_key=True)


def event(session_id: str, /, **changes: Any) -> dict[str, Any]:
    """A valid event with a new id; `changes` replace fields, or drop those that are `...`."""
    made = {
        "event_id": new_id(),
        "session_id": session_id,
        "run_id": None,
        "kind": "message_received",
        "actor": "user",
        "ts_ms": 1_700_000_000_000,
        "payload": {"text": "hello"},
        **changes,
    }
    return {key: value for key, value in made.items() if value is not ...}


class Wire:
    """One connection. `delimiter`: send the empty frame first, and expect it back."""

    def __init__(
        self,
        endpoint: str,
        *,
        delimiter: bool = False,
        kind: int = zmq.DEALER,
        **options: int | bytes,
    ) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(endpoint)
        self.delimiter = delimiter
        self._ids = count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send_parts(self, *parts: bytes) -> None:
        self.socket.send_multipart(list(parts))

    def send_frame(self, frame: bytes) -> None:
        self.send_parts(*([b"", frame] if self.delimiter else [frame]))

    def send(self, op: Any, body: object = None, **envelope: Any) -> Any:
        """Send a request; its id. `envelope` adds keys, replaces them, or drops those of `...`."""
        request = {"v": 1, "id": next(self._ids), "op": op, "body": body or {}, **envelope}
        self.send_frame(pack({k: v for k, v in request.items() if v is not ...}))
        return request["id"]

    def receive_frame(self, wait_s_max: float = DEADLINE_S) -> bytes:
        if not self.socket.poll(int(wait_s_max * 1000)):
            raise Silent(f"nothing within {wait_s_max} s")
        parts = self.socket.recv_multipart()
        if self.delimiter:
            assert parts.pop(0) == b""
        assert len(parts) == 1
        return parts[0]

    def receive(self, wait_s_max: float = DEADLINE_S) -> Reply:
        """The next frame: an ok, an err or an item."""
        reply = unpack(self.receive_frame(wait_s_max))
        assert reply["v"] == 1
        assert len(reply) == 3
        assert len({"ok", "err", "item"} & set(reply)) == 1
        return dict(reply)

    def call(self, op: Any, body: object = None, **envelope: Any) -> Reply:
        """Send a request and take its one reply."""
        request_id = self.send(op, body, **envelope)
        reply = self.receive()
        assert reply["id"] == request_id
        return reply

    def ok(self, op: Any, body: object = None, **envelope: Any) -> Reply:
        reply = self.call(op, body, **envelope)
        assert "ok" in reply, reply
        return dict(reply["ok"])

    def err(self, op: Any, body: object = None, **envelope: Any) -> Reply:
        reply = self.call(op, body, **envelope)
        assert "err" in reply, reply
        return dict(reply["err"])

    def raw(self, frame: bytes) -> Reply:
        """Send any bytes and take the one reply."""
        self.send_frame(frame)
        return self.receive()

    def append(self, *events: dict[str, Any], **body: Any) -> list[Reply]:
        """Append, and the results."""
        return list(self.ok("journal.append", {"events": list(events), **body})["results"])

    def refuse(self, *events: dict[str, Any], **body: Any) -> Reply:
        """Append what has to be refused, and the error; nothing may have been stored."""
        before = self.head()
        error = self.err("journal.append", {"events": list(events), **body})
        assert self.head() == before
        return error

    def head(self) -> tuple[int, bytes]:
        head = self.ok("journal.head")
        return head["seq"], head["hash"]

    def read(self, **body: Any) -> list[Reply]:
        """One page's events."""
        return list(self.ok("journal.read", {"limit": 1000, **body})["events"])

    def read_all(self, limit: int = 1000, **body: Any) -> list[Reply]:
        """Every page's events."""
        events: list[Reply] = []
        after_seq = body.pop("after_seq", 0)
        while True:
            page = self.ok("journal.read", {**body, "after_seq": after_seq, "limit": limit})
            events += page["events"]
            if page["end"]:
                return events
            assert page["next_after_seq"] > after_seq
            after_seq = page["next_after_seq"]

    def items_until(self, done: Callable[[list[Reply]], bool], sub: Any) -> list[Reply]:
        """A subscription's events until `done` says so; heads are left out."""
        events: list[Reply] = []
        deadline = time.monotonic() + DEADLINE_S
        while not done(events):
            reply = self.receive(deadline - time.monotonic())
            assert reply["id"] == sub, reply
            assert "item" in reply, reply
            if "event" in reply["item"]:
                events.append(reply["item"]["event"])
        return events

    def quiet(self) -> None:
        """Nothing is on its way to this connection: an answer overtakes nothing of the loop."""
        request_id = self.send("engine.health")
        while True:
            reply = self.receive()
            if reply["id"] == request_id:
                return
            raise AssertionError(f"not quiet: {reply}")


class House:
    """An engine with a door on a socket in `folder`; `connect` gives connections to it.

    `keys`: the folder of key files, for a door that is locked.
    """

    def __init__(
        self, folder: Path, config: Config = NO_BUDGET, *, keys: Path | None = None, **options: Any
    ) -> None:
        self.database = folder / "journal.db"
        self.engine = Engine.open(self.database, config, **options)
        self.keys = None if keys is None else KeyFolder(keys)
        try:
            self.endpoint = self.engine.serve(f"ipc://{folder}/door", keys=keys)
        except BaseException:
            self.engine.close()
            raise
        self._wires: list[Wire] = []

    def connect_as(self, name: str, **options: Any) -> "Wire":
        """A connection with the key of a principal, which is made a writer if there is none."""
        assert self.keys is not None
        secret = self.keys.secrets / f"{name}.secret"
        if not secret.exists():
            self.keys.new(name, "writer")
        return self.connect(**curve(secret), **options)

    def connect(self, **options: Any) -> Wire:
        wire = Wire(self.endpoint, **options)
        self._wires.append(wire)
        return wire

    def close(self) -> None:
        for wire in self._wires:
            wire.close()
        self.engine.close()


def curve(secret: Path) -> dict[str, Any]:
    """A secret file as socket options."""
    key = read_client_key(secret)
    assert key.server is not None
    return {
        "CURVE_SERVERKEY": key.server.encode(),
        "CURVE_PUBLICKEY": key.pair.public.encode(),
        "CURVE_SECRETKEY": key.pair.secret.encode(),
    }


@contextlib.contextmanager
def house(folder: Path, config: Config = NO_BUDGET, **options: Any) -> Iterator[House]:
    """An engine with a door, closed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = House(folder, config, **options)
    try:
        yield opened
    finally:
        opened.close()


@contextlib.contextmanager
def served(folder: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """An engine in a process of its own: its endpoint and the process."""
    command = [sys.executable, "-m", "palyra_actors.cli", "serve"]
    process = subprocess.Popen(
        [
            *command,
            "--db",
            str(folder / "journal.db"),
            "--endpoint",
            f"ipc://{folder}/door",
            *arguments,
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert "endpoint=" in ready, ready
        yield ready.split("endpoint=")[1].split()[0], process
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def eventually(wire: Wire, true: Callable[[Reply], bool]) -> Reply:
    """The first `engine.stats` that make `true` true: for what no message announces."""
    deadline = time.monotonic() + DEADLINE_S
    while not true(stats := wire.ok("engine.stats")):
        assert time.monotonic() < deadline, stats
    return stats
