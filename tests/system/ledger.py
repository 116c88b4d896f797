"""Clients that remember, outside the engine, what it told them, and what a journal says to that.

    Gate (an endpoint, or none) ──▶ clients, a thread each ──▶ a file each of what was answered
                                                                      │
    the journal, read through the door ─────────▶ judge ◀─────────────┘

A client writes down each answer as it comes and sends again, with the same ids, whatever had none
when the engine died. `judge` reads nothing but those files and the journal.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import zmq

from palyra_actors.api.events import new_id
from tests.system.harness import DEADLINE_S, Wire, event, pack, unpack

SERVE: Final = (sys.executable, "-m", "palyra_actors.cli", "serve")
WINDOW_REQUESTS: Final = 12
LOOK_MS: Final = 20
OPEN_CODES: Final = frozenset({"overloaded", "unavailable", "internal"})
"""Codes that say nothing about an earlier sending of the same request."""


class EngineProcess:
    """An engine that can be killed. What it says on standard error is in `errors`."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.folder = folder
        self.errors = folder / "engine.err"
        with self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [
                    *command,
                    "--db",
                    str(folder / "journal.db"),
                    "--endpoint",
                    f"ipc://{folder}/door",
                ],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        if "endpoint=" not in ready:
            self.kill()
            raise AssertionError(f"the engine did not start: {ready}{self.errors.read_text()}")
        self.endpoint = ready.split("endpoint=")[1].split()[0]

    def kill(self) -> None:
        """As the kernel would: no handler runs."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(DEADLINE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def stop(self) -> int:
        """As an operator would; the exit status."""
        self._process.terminate()
        status = self._process.wait(DEADLINE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status


class Gate:
    """Where the engine is now, and how many answers came since somebody began to count."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._acks_wanted = 0
        self.endpoint: str | None = None
        self.draining = False

    def opened(self, endpoint: str, acks_wanted: int) -> None:
        """The engine is up; `wait_for_acks` waits for that many acknowledgements."""
        with self._changed:
            self.endpoint, self._acks_wanted = endpoint, acks_wanted
            self._changed.notify_all()

    def closed(self) -> None:
        with self._changed:
            self.endpoint = None
            self._changed.notify_all()

    def drain(self) -> None:
        """No new requests: clients leave once all of theirs are answered."""
        with self._changed:
            self.draining = True
            self._changed.notify_all()

    def wait_until_open(self) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: self.endpoint is not None, DEADLINE_S)
            assert self.endpoint is not None
            return self.endpoint

    def acked(self) -> None:
        with self._changed:
            self._acks_wanted -= 1
            if self._acks_wanted <= 0:
                self._changed.notify_all()

    def wait_for_acks(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._acks_wanted <= 0, DEADLINE_S), "no acks"


@dataclass(slots=True)
class Asked:
    """A request that has no answer yet, or one that had: to be sent again as it is."""

    events: list[dict[str, Any]]
    expected: int | None = None
    budget_ms: int = 0
    sent: int = 0

    @property
    def ids(self) -> list[str]:
        return [one["event_id"] for one in self.events]


class Client(threading.Thread):
    """Sends a random mix until the gate drains. `failure` is what ended it, if not that.

    `runs` names the sessions, which clients share, and the runs of each.
    """

    def __init__(
        self, gate: Gate, runs: Mapping[str, Sequence[str]], seed: int, ledger: Path
    ) -> None:
        super().__init__(name=f"client-{seed}", daemon=True)
        self.failure: BaseException | None = None
        self._gate = gate
        self._runs = runs
        self._sessions = list(runs)
        self._chance = random.Random(seed)
        self._ledger = ledger.open("w")
        self._open: dict[int, Asked] = {}
        self._later: list[Asked] = []
        self._acked: list[Asked] = []
        self._last_id = 0

    def run(self) -> None:
        try:
            while not (self._gate.draining and not self._open and not self._later):
                self._talk(self._gate.wait_until_open())
        except BaseException as failure:  # noqa: BLE001 - the test's thread looks at it
            self.failure = failure
        finally:
            self._ledger.close()

    def _talk(self, endpoint: str) -> None:
        """With one engine, until it is gone. What had no answer is sent again first, in order."""
        unanswered, self._open = list(self._open.values()), {}
        with Wire(endpoint) as wire:
            for asked in unanswered:
                self._send(wire, asked)
            for asked in self._chance.sample(self._acked, min(3, len(self._acked))):
                self._send(wire, asked)
            while self._gate.endpoint == endpoint:
                if self._gate.draining and not self._open and not self._later:
                    return
                while not self._gate.draining and len(self._open) < WINDOW_REQUESTS:
                    self._send(wire, self._think())
                while wire.socket.poll(0 if self._open else LOOK_MS, zmq.POLLIN):
                    self._hear(unpack(wire.receive_frame()))
                if not wire.socket.poll(LOOK_MS, zmq.POLLIN):
                    later, self._later = self._later, []
                    for asked in later:
                        self._send(wire, asked)

    def _send(self, wire: Wire, asked: Asked) -> None:
        asked.sent += 1
        self._last_id += 1
        self._open[self._last_id] = asked
        body: dict[str, Any] = {"events": asked.events}
        if asked.expected is not None:
            body["expected_session_seq"] = asked.expected
        request = {"v": 1, "id": self._last_id, "op": "journal.append", "body": body}
        wire.send_frame(pack({**request, "budget_ms": asked.budget_ms}))

    def _think(self) -> Asked:
        """A new request: mostly good ones, some of several sessions, some to be refused."""
        chance, roll = self._chance, self._chance.random()
        count = 1 if chance.random() < 0.6 else chance.randint(2, 24)
        session = chance.choice(self._sessions)
        events = [self._event(session) for _ in range(count)]
        budget_ms = 0 if chance.random() < 0.9 else 25
        if roll < 0.04 and self._acked:
            reused = {**chance.choice(self._acked).events[0], "payload": {"text": "another"}}
            return Asked([*events, reused], budget_ms=budget_ms)
        if roll < 0.06:
            events[-1]["actor"] = "nobody"
        elif roll < 0.08:
            return Asked(events, expected=1 << 40, budget_ms=budget_ms)
        elif roll < 0.16:
            events = [self._event(chance.choice(self._sessions)) for _ in range(count)]
        return Asked(events, budget_ms=budget_ms)

    def _event(self, session: str) -> dict[str, Any]:
        chance = self._chance
        kind = chance.choice(("model_token", "tool_executed", "x.note", "run_completed"))
        home = session if chance.random() < 0.99 else chance.choice(self._sessions)
        run = chance.choice(self._runs[home]) if chance.random() < 0.5 else None
        text = chance.choice(("a", "bc", "def")) * chance.randint(1, 80)
        if kind == "run_completed" and run is None:
            kind = "message_received"
        return event(session, kind=kind, run_id=run, payload={"text": text})

    def _hear(self, reply: dict[str, Any]) -> None:
        asked = self._open.pop(reply["id"])
        if "ok" in reply:
            results = [
                [r["event_id"], r["seq"], r["session_seq"], r["hash"].hex(), r["duplicate"]]
                for r in reply["ok"]["results"]
            ]
            self._write({"acked": results, "sent": asked.sent})
            if len(self._acked) < 500:
                self._acked.append(asked)
            self._gate.acked()
            return
        error = reply["err"]
        open_still = error.get("detail", {}).get("outcome") == "unknown"
        if open_still or (asked.sent > 1 and error["code"] in OPEN_CODES):
            self._later.append(asked)
        else:
            self._write({"refused": asked.ids, "code": error["code"]})

    def _write(self, line: dict[str, Any]) -> None:
        self._ledger.write(json.dumps(line) + "\n")
        self._ledger.flush()


@dataclass(slots=True)
class Findings:
    """What a campaign found; all but the first four and the last three have to be zero.

    `torn`: of a request that was sent again, a part had been stored. `settled_*`: what a request
    without an answer turned out to be: stored by the dead engine, or written when sent again.
    """

    rounds: int = 0
    acked: int = 0
    events: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicates: int = 0
    gaps: int = 0
    refused_but_present: int = 0
    torn: int = 0
    strangers: int = 0
    settled_stored: int = 0
    settled_written: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return (
            self.lost
            + self.duplicates
            + self.gaps
            + self.refused_but_present
            + self.torn
            + self.strangers
        )

    def __str__(self) -> str:
        refused = ", ".join(f"{code} {count}" for code, count in sorted(self.refused.items()))
        return (
            f"{self.rounds} kills, {self.acked} requests acknowledged, {self.events} events: "
            f"lost {self.lost}, duplicates {self.duplicates}, gaps {self.gaps}, "
            f"refused-but-present {self.refused_but_present} (of {refused or 'none'}), "
            f"torn {self.torn}, strangers {self.strangers}, unknown resolved: "
            f"{self.settled_stored} had been stored, {self.settled_written} written when sent again"
        )


def judge(ledgers: Sequence[Path], journal: Sequence[dict[str, Any]], rounds: int) -> Findings:
    """Hold what clients were told against what the journal says."""
    found = Findings(rounds, events=len(journal))
    times = Counter(stored["event_id"] for stored in journal)
    found.duplicates = sum(count - 1 for count in times.values())
    found.gaps = sum(stored["seq"] != place for place, stored in enumerate(journal, 1))
    ends: Counter[str] = Counter()
    by_id: dict[str, tuple[int, int, str]] = {}
    for stored in journal:
        expected = ends[stored["stream_id"]] + 1
        ends[stored["stream_id"]] = stored["stream_seq"]
        if stored["stream_seq"] != expected:
            found.gaps += 1
            found.examples.append(f"seq {stored['seq']}: {stored['stream_seq']}, not {expected}")
        place = (stored["seq"], stored["stream_seq"], stored["hash"].hex())
        by_id[stored["event_id"]] = place
    told: set[str] = set()
    refused: set[str] = set()
    for line in (json.loads(line) for path in ledgers for line in path.read_text().splitlines()):
        if "refused" in line:
            found.refused[line["code"]] += 1
            refused.update(line["refused"])
            continue
        found.acked += 1
        _judge_ack(found, line, by_id)
        told.update(result[0] for result in line["acked"])
    found.refused_but_present = len((refused - told) & by_id.keys())
    found.strangers = len(by_id.keys() - told - refused)
    return found


def _judge_ack(
    found: Findings, line: dict[str, Any], by_id: dict[str, tuple[int, int, str]]
) -> None:
    results = line["acked"]
    for event_id, *place, _ in results:
        if by_id.get(event_id) != tuple(place):
            found.lost += 1
            found.examples.append(f"{event_id}: told {place}, found {by_id.get(event_id)}")
    if line["sent"] > 1:
        repeated = {duplicate for *_, duplicate in results}
        found.torn += len(repeated) > 1
        found.settled_stored += repeated == {True}
        found.settled_written += repeated == {False}


def kill_again_and_again(
    command: Sequence[str],
    folder: Path,
    *,
    rounds: int,
    seed: int,
    acks_max: int = 900,
    clients: int = 8,
    look: Callable[[str], None] = lambda endpoint: None,
) -> Findings:
    """Kill an engine `rounds` times under load, each time right behind an acknowledgement.

    `look` is called with the last engine's endpoint, when every request is answered.
    """
    chance = random.Random(seed)
    runs = {new_id(): [new_id() for _ in range(4)] for _ in range(6)}
    ledgers = [folder / f"client-{number}.jsonl" for number in range(clients)]
    gate = Gate()
    threads = [Client(gate, runs, seed + n, path) for n, path in enumerate(ledgers)]
    for thread in threads:
        thread.start()
    for _ in range(rounds):
        engine = EngineProcess(command, folder)
        try:
            gate.opened(engine.endpoint, chance.randint(20, acks_max))
            gate.wait_for_acks()
        finally:
            engine.kill()
            gate.closed()
    engine = EngineProcess(command, folder)
    try:
        gate.opened(engine.endpoint, 50)
        gate.wait_for_acks()
        gate.drain()
        deadline = time.monotonic() + DEADLINE_S
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
            assert thread.failure is None, thread.failure
            assert not thread.is_alive(), "a request was never answered"
        with Wire(engine.endpoint) as wire:
            journal = wire.read_all()
        look(engine.endpoint)
    finally:
        status = engine.stop()
    assert status == 0
    return judge(ledgers, journal, rounds)
