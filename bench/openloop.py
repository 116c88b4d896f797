"""Load that does not wait: requests are sent when they are due, whatever became of those before.

    numpy rows ──due──▶ bytes of many frames ──▶ raw sockets          replies ──▶ columns of numbers

A stalled server cannot slow its own load here: a latency counts from the moment when the request
was due, and one whose connection has not taken the frames before it is counted as `unsent` and not
forgotten. ZMTP is spoken by hand over unix sockets, many frames a system call, so that a core of a
small machine can offer several times what the engine on its other core can serve; and the load
yields to the engine (`be_nice`), as it would on another machine.
"""

import gc
import os
import select
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from load import PAYLOAD

from palyra_actors.ids import Ulids, format_ulid

OK, REFUSED, FAILED, WAITING, UNSENT = 0, 1, 2, 3, 4
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
ID_FIRST = 1 << 24  # so that every id takes five bytes
SEND_BYTES = 64 * 1024  # of one connection, in its socket
NICE = 10
NORMAL_S = 0.5
NORMAL_BAD = 0.01
SLICE_S = 0.001
DRAIN_S_MAX = 5.0
CROCKFORD = np.frombuffer(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", np.uint8)


class Connection:
    """A DEALER, as far as requests of one frame need one. Never blocks once it is open."""

    def __init__(self, endpoint: str, read: bool = True, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
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


class Template:
    """Appends of one event each (or `events`), made by the thousand: a frame is a row of bytes in
    which ids are columns."""

    def __init__(self, sessions: int, events: int = 1, budget_ms: int | None = None) -> None:
        ids = Ulids(lambda: time.time_ns() // 1_000_000, os.urandom)
        names = [format_ulid(ids()).encode() for _ in range(sessions)]
        self._names = np.array([list(name) for name in names], np.uint8)
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
        request: dict[str, Any] = {"v": 1, "id": ID_FIRST, "op": "journal.append", "body": body}
        if budget_ms is not None:
            request["budget_ms"] = budget_ms
        frame = msgspec.msgpack.encode(request)
        head = (
            b"\x02" + struct.pack(">Q", len(frame)) if len(frame) > 255 else bytes((0, len(frame)))
        )
        row = head + frame
        self._row = np.frombuffer(row, np.uint8)
        self._id_at = row.index(struct.pack(">I", ID_FIRST))
        self._event_at = _places(row, start.encode())
        self._session_at = _places(row, b"S" * 26)
        self._events = events
        self._next = 0
        self.frame_bytes = len(row)

    def use(self, sessions: list[bytes]) -> None:
        """Append to these from now on, by their ids as text."""
        self._names = np.array([list(name) for name in sessions], np.uint8)

    def make(self, first_id: int, count: int) -> bytes:
        """`count` frames with ids from `first_id` on, over the sessions in turn."""
        rows = np.tile(self._row, (count, 1))
        numbers = np.arange(first_id, first_id + count, dtype=">u4")
        rows[:, self._id_at : self._id_at + 4] = numbers.view(np.uint8).reshape(count, 4)
        serial = self._next + np.arange(count, dtype=np.int64)
        names = self._names[serial % len(self._names)]
        for place in self._session_at:
            rows[:, place : place + 26] = names
        for number, place in enumerate(self._event_at):
            event = serial * self._events + number
            for digit in range(9):
                rows[:, place + 25 - digit] = CROCKFORD[(event >> (5 * digit)) & 31]
        self._next += count
        return rows.tobytes()


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
    within the budget.
    """

    due: Any
    answered: Any
    code: Any
    total_ms: Any
    within: Any
    seconds: float
    hints_ms: list[int] = field(default_factory=list)

    def latency_ms(self, code: int) -> Any:
        """From due to answered, sorted."""
        chosen = self.code == code
        return np.sort((self.answered[chosen] - self.due[chosen]) * 1000)

    def summary(self) -> dict[str, Any]:
        """The figures that every bench shows."""
        ok = self.code == OK
        totals = np.sort(self.total_ms[ok])
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
        budget_ms: int | None = None,
    ) -> None:  # fmt: skip
        self.connections = [Connection(endpoint) for _ in range(connections)]
        self.template = Template(sessions, events, budget_ms)
        self._next_id = ID_FIRST
        self._turn = 0

    def close(self) -> None:
        for one in self.connections:
            one.close()

    def run(self, rate: float, seconds: float, drain: bool = True) -> Outcome:
        """`rate` requests a second for so long, then what is still under way."""
        return self.steps([(rate, seconds)], drain)

    def steps(self, schedule: list[tuple[float, float]], drain: bool = True) -> Outcome:
        """Rates one after the other, without a pause between them."""
        due = np.concatenate(_dues(schedule))
        count, seconds = len(due), sum(step[1] for step in schedule)
        outcome = Outcome(
            due, np.full(count, np.nan), np.full(count, WAITING, np.int8),
            np.full(count, np.nan), np.zeros(count, bool), seconds,
        )  # fmt: skip
        base = self._next_id
        self._next_id += count
        sockets = {one.socket.fileno(): one for one in self.connections}
        poller = select.poll()
        for descriptor in sockets:
            poller.register(descriptor, select.POLLIN)
        gc.disable()
        began, sent, ends = time.perf_counter(), 0, seconds
        left = count
        while True:
            now = time.perf_counter() - began
            if now > ends + (DRAIN_S_MAX if drain else 0) or (sent == count and not left):
                break
            ready = int(np.searchsorted(due, now, side="right"))
            if ready > sent:
                left -= self._send(outcome, base, sent, ready)
                sent = ready
            for one in self.connections:
                if one.out_bytes:
                    one.flush()
            wait = due[sent] - (time.perf_counter() - began) if sent < count else 0.05
            wait_ms = max(0, min(int(max(wait, SLICE_S) * 1000), 20))
            for descriptor, _ in poller.poll(wait_ms):
                one = sockets[descriptor]
                messages = one.receive()
                left -= _take(outcome, base, messages, time.perf_counter() - began)
                if one.closed:
                    poller.unregister(descriptor)
        gc.enable()
        return outcome

    def _send(self, outcome: Outcome, base: int, start: int, end: int) -> int:
        """Give each connection its part; how many found no room."""
        lost, share = 0, max(1, (end - start) // len(self.connections))
        while start < end:
            one = self.connections[self._turn % len(self.connections)]
            self._turn += 1
            count = min(share, end - start)
            if one.closed or one.out_bytes:
                outcome.code[start : start + count] = UNSENT
                lost += count
            else:
                one.send(self.template.make(base + start, count))
                one.flush()
            start += count
        return lost


def _dues(schedule: list[tuple[float, float]]) -> list[Any]:
    parts, start = [], 0.0
    for rate, seconds in schedule:
        parts.append(start + np.arange(int(rate * seconds)) / rate)
        start += seconds
    return parts


def _take(outcome: Outcome, base: int, messages: list[bytes], now: float) -> int:
    code, answered, total_ms, within = (
        outcome.code, outcome.answered, outcome.total_ms, outcome.within,
    )  # fmt: skip
    count, known = 0, len(code)
    for message in messages:
        place = int.from_bytes(message[8:12], "big") - base
        if not 0 <= place < known:
            continue  # of a run before
        count += 1
        answered[place] = now
        if message[12:15] == b"\xa2ok":
            code[place] = OK
            found = message.rfind(b"total_ms\xcb")
            total_ms[place] = struct.unpack_from(">d", message, found + 9)[0]
            within[place] = message[-1] == 0xC3
        elif b"overloaded" in message:
            code[place] = REFUSED
        else:
            code[place] = FAILED
    return count


def capacity(load: OpenLoop, window: int, seconds: float) -> float:
    """Requests a second of a closed loop: as many as are answered are sent, `window` in flight."""
    sockets = {one.socket.fileno(): one for one in load.connections}
    poller = select.poll()
    for descriptor in sockets:
        poller.register(descriptor, select.POLLIN)
    made, done = load.template, 0
    busy = load.connections[:window]
    share = window // len(busy)
    gc.disable()
    for one in busy:
        one.send(made.make(load._next_id, share))
        load._next_id += share
        one.flush()
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for descriptor, _ in poller.poll(100):
            one = sockets[descriptor]
            answers = one.receive()
            if answers:
                done += sum(answer[12:15] == b"\xa2ok" for answer in answers)
                one.send(made.make(load._next_id, len(answers)))
                load._next_id += len(answers)
            one.flush()
    gc.enable()
    _let_drain(load)
    return done / took


def _let_drain(load: OpenLoop) -> None:
    quiet_at = time.perf_counter() + 0.3
    ends = time.perf_counter() + DRAIN_S_MAX
    while time.perf_counter() < min(quiet_at, ends):
        for one in load.connections:
            one.flush()
            if one.receive():
                quiet_at = time.perf_counter() + 0.3
        time.sleep(0.002)
