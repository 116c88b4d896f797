"""Load that does not wait: requests are sent when they are due, whatever became of those before.

    a row of bytes ──due──▶ many frames ──▶ raw sockets          replies ──▶ columns of numbers

A stalled server cannot slow its own load here: a latency counts from the moment when the request
was due, and one whose connection has not taken the frames before it is counted as `unsent` and not
forgotten. ZMTP is spoken by hand over unix sockets, many frames a system call, and the loop is in C
(`openloop.c`): it takes a tenth of a core and tells what it took and how late it was itself.
"""

import ctypes
import os
import socket
import struct
import subprocess
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from load import FIRST_ID, PAYLOAD

from palyra_actors.ids import Ulids, format_ulid

OK, REFUSED, FAILED, WAITING, UNSENT = 0, 1, 2, 3, 4
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
SEND_BYTES = 64 * 1024  # of one connection, in its socket
LOAD_SEND_BYTES, LOAD_SEND_FRAMES = 8 * 1024, 4
"""What a connection of the load may have there: the larger of the two. Whoever wants to hear of a
refusal soon keeps a short queue of its own, for what lies in it nobody can refuse."""

NICE = 10
NORMAL_S = 0.5
NORMAL_BAD = 0.01
SLICE_S = 0.0005
DRAIN_S_MAX = 5.0
QUIET_S = 0.3
CROCKFORD = np.frombuffer(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", np.uint8)  # bench_growth


class Connection:
    """A DEALER, as far as requests of one frame need one. Never blocks once it is open."""

    def __init__(
        self, endpoint: str, read: bool = True, receive_bytes: int | None = None,
        send_bytes: int = SEND_BYTES,
    ) -> None:  # fmt: skip
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(endpoint.removeprefix("ipc://"))
        self.socket.sendall(GREETING)
        _exactly(self.socket, 64)
        self.socket.sendall(READY)
        _, size = _exactly(self.socket, 2)
        _exactly(self.socket, size)
        self.socket.setblocking(False)
        self.reads = read
        self.closed = False
        self._out: deque[memoryview] = deque()
        self.out_bytes = 0
        self._rest = b""

    def close(self) -> None:
        self.socket.close()

    def send(self, frames: bytes) -> None:
        self._out.append(memoryview(frames))
        self.out_bytes += len(frames)

    def flush(self) -> None:
        out = self._out
        while out:
            try:
                taken = self.socket.send(out[0])
            except BlockingIOError:
                return
            except OSError:
                self.closed = True
                self._out.clear()
                self.out_bytes = 0
                return
            self.out_bytes -= taken
            if taken == len(out[0]):
                out.popleft()
            else:
                out[0] = out[0][taken:]

    def receive(self) -> list[bytes]:
        """The messages that have come; commands are answered."""
        try:
            data = self._rest + self.socket.recv(1 << 18)
        except BlockingIOError:
            return []
        except OSError:
            self.closed = True
            return []
        if len(data) == len(self._rest):
            self.closed = True
            return []
        messages, at, end = [], 0, len(data)
        while end - at >= 2:
            flags, size, begins = data[at], data[at + 1], at + 2
            if flags & 2:
                if end - at < 9:
                    break
                size, begins = int.from_bytes(data[at + 1 : at + 9], "big"), at + 9
            if begins + size > end:
                break
            body = data[begins : begins + size]
            if flags & 4:
                if body.startswith(b"\x04PING"):
                    pong = b"\x04PONG" + body[7:]
                    self.send(bytes((4, len(pong))) + pong)
            else:
                messages.append(body)
            at = begins + size
        self._rest = data[at:]
        return messages


def be_nice() -> None:
    """This process makes way for others. After the engine was started, which would inherit it."""
    os.nice(NICE)


def _exactly(stream: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        more = stream.recv(count - len(got))
        if not more:
            raise RuntimeError("the engine closed the connection")
        got += more
    return got


def zmtp(frame: bytes) -> bytes:
    """A message of one frame, as it goes over the wire."""
    short = len(frame) < 256
    return (bytes((0, len(frame))) if short else b"\x02" + struct.pack(">Q", len(frame))) + frame


class Template:
    """Appends of one event each (or `events`): the row of bytes that all of them are, and where in
    it ids stand."""

    def __init__(self, sessions: int, events: int = 1, budget_ms: int | None = None) -> None:
        ids = Ulids(lambda: time.time_ns() // 1_000_000, os.urandom)
        self.names = [format_ulid(ids()).encode() for _ in range(sessions)]
        run = format_ulid(ids())
        start = format_ulid(ids())[:16] + "0" * 10
        body = {
            "events": [
                {
                    "event_id": start, "session_id": "S" * 26, "run_id": None,
                    "kind": "tool_executed", "actor": "agent",
                    "ts_ms": time.time_ns() // 1_000_000, "payload": PAYLOAD | {"run": run},
                }
                for _ in range(events)
            ]
        }  # fmt: skip
        request: dict[str, Any] = {"v": 1, "id": FIRST_ID, "op": "journal.append", "body": body}
        if budget_ms is not None:
            request["budget_ms"] = budget_ms
        frame = msgspec.msgpack.encode(request)
        self.row = zmtp(frame)
        self.id_at = self.row.index(struct.pack(">I", FIRST_ID))
        self.event_at = _places(self.row, start.encode())
        self.session_at = _places(self.row, b"S" * 26)


def _places(row: bytes, text: bytes) -> list[int]:
    found, at = [], row.find(text)
    while at >= 0:
        found.append(at)
        at = row.find(text, at + 1)
    return found


@dataclass
class Outcome:
    """What became of the requests of one run, a row each. Times in seconds since its beginning.

    `total_ms` is the engine's own measure (nan where it refused), `within` whether it called that
    within the budget, `given_up` whether what it refused had been let in before. `client_share` is
    what the load itself took of a core.
    """

    due: Any
    sent: Any
    answered: Any
    code: Any
    total_ms: Any
    within: Any
    given_up: Any
    seconds: float
    client_s: float = 0.0
    client_share: float = 0.0

    @classmethod
    def of(cls, due: Any, seconds: float) -> "Outcome":
        """Nothing has been sent yet."""
        count = len(due)
        return cls(
            due, np.full(count, np.nan), np.full(count, np.nan), np.full(count, WAITING, np.int8),
            np.full(count, np.nan), np.zeros(count, bool), np.zeros(count, bool), seconds,
        )  # fmt: skip

    def latency_ms(self, code: int, since: Any = None) -> Any:
        """From due (or `since`) to answered, sorted."""
        chosen = self.code == code
        since = self.due if since is None else since
        return np.sort((self.answered[chosen] - since[chosen]) * 1000)

    def summary(self) -> dict[str, Any]:
        """The figures that every bench shows."""
        ok = self.code == OK
        totals = np.sort(self.total_ms[ok])
        gone = (self.code == REFUSED) & self.given_up
        took_ms = (self.answered - self.due) * 1000
        late = int((~self.within[ok]).sum())
        return {
            "offered_per_second": round(len(self.code) / self.seconds),
            "goodput_per_second": round(int((ok & self.within).sum()) / self.seconds),
            "acked_per_second": round(int(ok.sum()) / self.seconds),
            "refused_per_second": round(int((self.code == REFUSED).sum()) / self.seconds),
            "unsent": int((self.code == UNSENT).sum()),
            "failed": int((self.code == FAILED).sum()),
            "hung": int((self.code == WAITING).sum()),
            "over_budget": round(late / max(1, int(ok.sum())), 5),
            "accepted_p50_ms": at(totals, 0.5),
            "accepted_p99_ms": at(totals, 0.99),
            "accepted_max_ms": at(totals, 1.0),
            "client_p99_ms": at(self.latency_ms(OK), 0.99),
            "refusal_p50_ms": at(self.latency_ms(REFUSED), 0.5),
            "refusal_p99_ms": at(self.latency_ms(REFUSED), 0.99),
            "door_p99_ms": at(np.sort(took_ms[(self.code == REFUSED) & ~self.given_up]), 0.99),
            "given_up_per_second": round(int(gone.sum()) / self.seconds, 1),
            "given_up_p99_ms": at(np.sort(took_ms[gone]), 0.99),
            "refusal_from_sent_p99_ms": at(self.latency_ms(REFUSED, self.sent), 0.99),
            "sent_late_p99_ms": at(
                np.sort((self.sent - self.due)[self.code != WAITING]) * 1000, 0.99
            ),
            "client_share": round(self.client_share, 3),
        }


def at(sorted_values: Any, share: float) -> float | None:
    """The value below which that share lies; None where there are none."""
    if not len(sorted_values):
        return None
    return round(
        float(sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]), 3
    )


def normal_after_s(outcome: Outcome, moment: float) -> float | None:
    """How long after a moment, in steps of 50 ms, until a half second begins in which of all that
    falls due at most one in a hundred is refused, late or not sent. None: it never does."""
    good = (outcome.code == OK) & outcome.within
    start = moment
    while start + NORMAL_S <= outcome.seconds:
        mine = (outcome.due >= start) & (outcome.due < start + NORMAL_S)
        if mine.any() and good[mine].mean() >= 1 - NORMAL_BAD:
            return round(start - moment, 3)
        start += 0.05
    return None


class OpenLoop:
    """Sends what is due over all its connections in turn, and notes what comes back."""

    def __init__(
        self, endpoint: str, *, connections: int = 16, sessions: int = 256, events: int = 1,
        budget_ms: int | None = None, send_bytes: int = LOAD_SEND_BYTES,
    ) -> None:  # fmt: skip
        made = Template(sessions, events, budget_ms)
        send_bytes = max(send_bytes, LOAD_SEND_FRAMES * len(made.row))
        self.connections = [Connection(endpoint, send_bytes=send_bytes) for _ in range(connections)]
        self._next_id = ctypes.c_uint32(FIRST_ID)
        self._load = _compiled().load_new(
            connections, _ints([one.socket.fileno() for one in self.connections], ctypes.c_int),
            made.row, len(made.row), made.id_at,
            len(made.session_at), _ints(made.session_at, ctypes.c_int64),
            len(made.event_at), _ints(made.event_at, ctypes.c_int64),
        )  # fmt: skip
        assert self._load
        self.use(made.names)

    def use(self, sessions: list[bytes]) -> None:
        """Append to these from now on, by their ids as text."""
        _compiled().load_use(self._load, b"".join(sessions), len(sessions))

    def close(self) -> None:
        _compiled().load_free(self._load)
        self._load = None
        for one in self.connections:
            one.close()

    def run(self, rate: float, seconds: float, drain: bool = True) -> Outcome:
        """`rate` requests a second for so long, then what is still under way."""
        return self.steps([(rate, seconds)], drain)

    def steps(self, schedule: list[tuple[float, float]], drain: bool = True) -> Outcome:
        """Rates one after the other, without a pause between them."""
        due = np.concatenate(_dues(schedule))
        seconds = sum(step[1] for step in schedule)
        outcome = Outcome.of(due, seconds)
        columns = Columns.of(outcome, self._next_id.value)
        self._next_id.value += len(due)
        began = time.perf_counter()
        outcome.client_s = _compiled().load_run(
            self._load, ctypes.byref(columns), SLICE_S, seconds + (DRAIN_S_MAX if drain else 0)
        )
        outcome.client_share = outcome.client_s / (time.perf_counter() - began)
        return outcome

    def closed(self, window: int, seconds: float) -> float:
        """See `capacity`."""
        busy, took = min(window, len(self.connections)), ctypes.c_double()
        oks = _compiled().load_closed(
            self._load, busy, window // busy, ctypes.byref(self._next_id), seconds,
            ctypes.byref(took),
        )  # fmt: skip
        _compiled().load_drain(self._load, QUIET_S, DRAIN_S_MAX)
        return float(oks / took.value)


class Tape:
    """Frames of requests whose ids rise by one, as they go over the wire. Half a gigabyte, maybe:
    make it before the clock starts, and keep no other copy. Memory that is held here is memory that
    the machine has to fetch for the engine, on a virtual one maybe for the first time."""

    def __init__(self, made: list[bytes]) -> None:
        rows = [zmtp(frame) for frame in made]
        self.ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        self.data = b"".join(rows)
        self.first_id = int(msgspec.msgpack.decode(made[0])["id"])

    def __len__(self) -> int:
        return len(self.ends)


def play(endpoint: str, tape: Tape, window: int, seconds: float) -> dict[str, Any]:
    """`load.Load.run` by a client in C, which stays away after a refusal as long as it was told."""
    connection = Connection(endpoint)
    outcome = Outcome.of(np.full(len(tape), np.nan), seconds)
    columns = Columns.of(outcome, tape.first_id)
    began = time.perf_counter()
    done = _compiled().load_play(
        connection.socket.fileno(), tape.data, tape.ends.ctypes.data, window, seconds,
        ctypes.byref(columns),
    )  # fmt: skip
    took = time.perf_counter() - began
    connection.close()
    latencies = np.sort(outcome.answered[:done] - outcome.sent[:done]) * 1000
    return {
        "requests": done,
        "refused": int((outcome.code[:done] != OK).sum()),
        "seconds": took,
        "per_second": done / took,
        "p50_ms": at(latencies, 0.5),
        "p99_ms": at(latencies, 0.99),
        "max_ms": at(latencies, 1.0),
    }


class Columns(ctypes.Structure):
    """The columns of an `Outcome`, for `openloop.c`."""

    _fields_ = (
        ("count", ctypes.c_int64), ("base", ctypes.c_int64), ("due", ctypes.c_void_p),
        ("sent", ctypes.c_void_p), ("answered", ctypes.c_void_p), ("total_ms", ctypes.c_void_p),
        ("code", ctypes.c_void_p), ("within", ctypes.c_void_p),
        ("given_up", ctypes.c_void_p),
    )  # fmt: skip

    @classmethod
    def of(cls, outcome: Outcome, first_id: int) -> "Columns":
        """To be filled in by requests whose ids rise by one from this one."""
        each = (outcome.due, outcome.sent, outcome.answered, outcome.total_ms, outcome.code,
                outcome.within, outcome.given_up)  # fmt: skip
        return cls(len(outcome.due), first_id, *(one.ctypes.data for one in each))


@cache
def _compiled() -> Any:
    """`openloop.c`, by the compiler that makes the engine's hot path."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "openloop.so"
        source = Path(__file__).with_suffix(".c")
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", made, source], check=True
        )
        library = ctypes.CDLL(str(made))
    at, long, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    library.load_new.restype = at
    library.load_new.argtypes = [ctypes.c_int, at, ctypes.c_char_p, *[long] * 3, at, long, at]
    library.load_use.argtypes = [at, ctypes.c_char_p, long]
    library.load_run.restype = real
    library.load_run.argtypes = [at, at, real, real]
    library.load_closed.restype = long
    library.load_closed.argtypes = [at, ctypes.c_int, long, at, real, at]
    library.load_play.restype = long
    library.load_play.argtypes = [ctypes.c_int, ctypes.c_char_p, at, long, real, at]
    library.load_drain.argtypes = [at, real, real]
    library.load_free.argtypes = [at]
    return library


def _ints(values: list[int], kind: Any) -> Any:
    return (kind * len(values))(*values)


def _dues(schedule: list[tuple[float, float]]) -> list[Any]:
    parts, start = [], 0.0
    for rate, seconds in schedule:
        parts.append(start + np.arange(int(rate * seconds)) / rate)
        start += seconds
    return parts


def capacity(load: OpenLoop, window: int, seconds: float) -> float:
    """Requests a second of a closed loop: as many as are answered are sent, `window` in flight."""
    return load.closed(window, seconds)
