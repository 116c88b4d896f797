"""The usual append, compiled and in Python: the same journal, the same answers, the same counts."""

import random
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.actors import answers, appends, desk, group, writer
from palyra_actors.actors.admission import OVER, Account, Admission
from palyra_actors.actors.group import Group
from palyra_actors.actors.steering import TARGET, Plan, load_of
from palyra_actors.actors.swift import compiled
from palyra_actors.actors.work import Request, Tally
from palyra_actors.api.events import new_id
from palyra_actors.ids import format_ulid
from tests.faults.rig import NO_BUDGET, Caller, Rig, rig
from tests.system.harness import event

pytestmark = pytest.mark.skipif(compiled is None, reason="no compiler when it was installed")

SEEDS = range(6)


def plan(
    seed: int, among: int = 5, one_is_odd_in: int = 12
) -> list[list[tuple[int, dict[str, Any]]]]:
    """Rounds of requests, each with the caller whose it is; most are usual, and some are not."""
    rnd = random.Random(seed)
    sessions = [new_id() for _ in range(among)]
    runs = {session: new_id() for session in sessions}
    stored: list[dict[str, Any]] = []
    rounds = []
    for _ in range(12):
        asked = []
        for _ in range(rnd.randrange(1, 20)):
            session = rnd.choice(sessions)
            events = [event(session) for _ in range(rnd.choice([1, 1, 1, 2, 5]))]
            for one in events:
                if rnd.random() < 0.5:
                    one["run_id"] = runs[session]
            match rnd.randrange(5 * one_is_odd_in):
                case 0:
                    events.append(event(rnd.choice(sessions)))
                case 1 if stored:
                    events = [rnd.choice(stored)]
                case 2:
                    events[0]["payload"] = {"api_key": "sk-abcdefghijklmnop0123456789"}
                case 3:
                    events[0] |= {"kind": "run_completed", "run_id": runs[session]}
                    runs[session] = new_id()
                case 4:
                    events[0]["session_id"] = new_id()
                case 5:
                    events[0]["actor"] = "nobody"
            body: dict[str, Any] = {"events": events}
            if rnd.random() < 0.1:
                body["expected_session_seq"] = rnd.randrange(4)
            stored += events
            asked.append((rnd.randrange(3), body))
        rounds.append(asked)
    return rounds


def told(reply: dict[str, Any]) -> Any:
    """A reply without what differs from run to run."""
    if "ok" not in reply:
        return reply["err"]["code"], reply["err"].get("field")
    timing = reply["ok"]["timing"]
    assert timing["total_ms"] >= timing["commit_ms"] >= 0
    assert set(timing) == {"queued_ms", "commit_ms", "total_ms", "within_budget"}
    return [
        (one["event_id"], one["seq"], one["session_seq"], one["duplicate"], one["redacted"])
        for one in reply["ok"]["results"]
    ]


def live(works: Rig, rounds: list[list[tuple[int, dict[str, Any]]]]) -> list[Any]:
    """Each round reaches the desk at once, and is answered before the next one does."""
    callers = [Caller(works) for _ in range(3)]
    heard: list[Any] = []
    for asked in rounds:
        made = [
            (callers[who], *callers[who].prepare("journal.append", body)) for who, body in asked
        ]
        under_way = [one for _, one, _ in made]
        frames = [(caller, frame) for caller, _, frame in made]
        works.on_loop(partial(works.works.desk.serve, frames))
        heard += [told(one.reply()) for one in under_way]
    works.settle()
    works.assert_states_equal_the_file()
    works.assert_at_rest()
    written = [
        (one.seq, format_ulid(one.event_id), one.stream_seq, one.run_id, one.kind)
        for one in works.journal()
    ]
    left = [caller.under_way for caller in callers]
    return [heard, left, works.works.desk.admission.load, works.tally.statistics(), written]


@pytest.fixture(params=SEEDS)
def rounds(request: pytest.FixtureRequest) -> list[list[tuple[int, dict[str, Any]]]]:
    return plan(request.param)


def test_what_is_compiled_writes_answers_and_counts_as_its_twin_does(
    tmp_path: Path, rounds: list[list[tuple[int, dict[str, Any]]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[int] = []
    taken: list[int] = []
    real = compiled.hand_out

    class Counted:
        answer = compiled.answer

        @staticmethod
        def take_in(*said: Any) -> Any:
            found = compiled.take_in(*said)
            taken.append(found[2])
            return found

        @staticmethod
        def hand_out(requests: list[Any], start: int, *rest: Any) -> int:
            stopped: int = real(requests, start, *rest)
            handed.append(stopped - start)
            return stopped

    with rig(tmp_path / "compiled.db", NO_BUDGET) as works:
        monkeypatch.setattr(appends, "compiled", Counted)
        monkeypatch.setattr(desk, "swift", Counted)
        quick = live(works, rounds)
    assert sum(taken) > 50, "much of it was let in by the compiled one"
    monkeypatch.setattr(desk, "swift", None)
    monkeypatch.setattr(appends, "compiled", None)
    monkeypatch.setattr(answers, "compiled", None)
    monkeypatch.setattr(group, "compiled", None)
    with rig(tmp_path / "plain.db", NO_BUDGET) as works:
        plain = live(works, rounds)
    assert quick == plain
    assert sum(handed) > 30, "much of it was compiled"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_is_laid_out_as_its_twin_does(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual: list[bool] = []
    marks = 0

    class Noted:
        @staticmethod
        def lay_out(*said: Any) -> Any:
            laid = compiled.lay_out(*said)
            usual.append(laid is not None)
            return laid

    def both(made: Group, names: dict[str, int]) -> None:
        plain = Group(made.units, made.before, made.began, made.recorded_ms)
        group.lay_out(made, names)
        if usual[-1]:
            nonlocal marks
            group.lay_out_plainly(plain, names)
            assert made == plain
            marks += len(made.batch.marks)

    monkeypatch.setattr(group, "compiled", Noted)
    monkeypatch.setattr(writer, "lay_out", both)
    with rig(tmp_path / "j.db", NO_BUDGET) as works:
        live(works, plan(seed, among=1, one_is_odd_in=100))
    assert sum(usual) > 5, "some of it was compiled"
    assert marks


def test_what_is_answered_is_held_by_no_session(tmp_path: Path) -> None:
    """Until its next request, which might be long: it is freed while it is at hand."""
    with rig(tmp_path / "j.db", NO_BUDGET) as works:
        session = new_id()
        live(works, [[(0, {"events": [event(session)]}) for _ in range(4)] for _ in range(3)])
        actor = works.works.directory.awake()[0][session]
        assert not actor._pending


class Nobody:
    """A connection that is only counted."""

    principal, role = "local", "writer"

    def __init__(self) -> None:
        self.under_way = self.backlog_bytes = 0

    def send(self, frame: bytes) -> None:
        raise AssertionError("nobody is answered here")


BUDGETS_MS = (0, 5, 24, 25, 26, 1000)


def read(frame: bytes) -> Any:
    """A stand-in for what reads frames: an append, one with a budget, or what is none."""
    match frame[:1]:
        case b"a":
            return (7, None, "", [], (), False, None, b"", False)
        case b"b":
            return (8, BUDGETS_MS[frame[1]], "", [], (), False, None, b"", False)
    return None


@pytest.mark.parametrize("seed", range(20))
def test_frames_are_let_in_as_the_gate_lets_them_in(seed: int) -> None:
    rnd = random.Random(seed)
    for _ in range(60):
        take_in_and_compare(rnd)


def take_in_and_compare(rnd: random.Random) -> None:
    """One round of frames, let in by the compiled one and by its twin."""
    now = 1000.0
    plan = Plan(rnd.choice([0.0, 0.025, 0.025, 0.025]), load_s=rnd.choice([5e-6, 5e-5, 1e-3]))
    plan.commit_s, plan.trust = rnd.choice([0.001, 0.012]), rnd.choice([1.0, 0.4])
    plan.committing_load = rnd.choice([0, 0, 9, 60, 300])
    plan.committing_since = now - 0.0005 if plan.committing_load else None
    peers = [Nobody() for _ in range(rnd.choice([1, 3, 6, 40]))]
    odd, spread_s = rnd.choice([b"bc", b"", b"b" * 60]), rnd.choice([0.0, 0.0, 0.001, 0.03])
    budgets = [rnd.randrange(len(BUDGETS_MS)) for _ in range(rnd.choice([1, 2, 6]))]
    biased = [*peers, *peers[:1] * rnd.choice([0, 3])]
    kinds = b"a" * 30 + odd

    def frame_of() -> bytes:
        made = bytes([rnd.choice(kinds), rnd.choice(budgets)])
        return made + bytes(rnd.randrange(2000))

    frames = [(rnd.choice(biased), frame_of()) for _ in range(200)]
    promised = rnd.choice([0.0, 0.0, 0.5, 1.0])
    stamps = [(now - rnd.random() * spread_s, rnd.random() < promised) for _ in frames]
    requests_max, peer_max, room = rnd.choice([40, 1000]), rnd.choice([30, 1000]), 600
    bulk_alone = rnd.random() < 0.5
    waits = peers[-1] if rnd.random() < 0.3 and len(peers) > 1 else None

    def office() -> tuple[Admission, Tally]:
        for peer in peers:
            peer.under_way = 0
        admission, tally = Admission(plan, Request.shed), Tally()
        if plan.committing_load:
            admission.charge(Request(peers[0], 1, now, tally), plan.committing_load, now)
        if waits is not None:
            account = admission.accounts[waits] = Account(waits)
            account.waiting = 1
        if bulk_alone:
            admission._budgeted_at = -inf
        return admission, tally

    def state(admission: Admission, tally: Tally, at: int, left: int, large: bool) -> Any:
        held: Any = admission.accounts.items()
        accounts = {peers.index(one): (account.load, account.waiting) for one, account in held}
        counts = [peer.under_way for peer in peers]
        company = (admission.alone(peers[0], now + 2), admission.last_peer, admission.load)
        later = [
            moment for moment in (now, now + 0.9) if (admission.gate(moment).terms or [False])[-1]
        ]
        return at, left, large, tally.statistics(), accounts, counts, company, later

    # the compiled one
    admission, tally = office()
    requests: list[Any] = []
    terms = admission.gate(now).terms
    assert terms is not None
    desk_of = (
        admission.accounts,
        tally,
        admission,
        read,
        requests_max,
        peer_max,
        4,
        OVER,
        TARGET,
        1990,
    )
    at, whole, count, load, large, peer, company, budgeted = compiled.take_in(
        frames, stamps, 0, requests, desk_of, terms, admission.load, room, tally.under_way,
        admission.last_peer,
    )  # fmt: skip
    if count:
        tally.received += count
        tally.under_way += count
        admission.charged(load, peer, company, budgeted, now)
    quick = state(admission, tally, at, room - load, large)

    # its twin, as the desk has it
    admission, tally = office()
    gate, left, large, made, place = admission.gate(now), room, False, [], -1
    for (peer, frame), (arrived, known) in zip(frames, stamps, strict=True):
        place += 1
        written = read(frame)
        lets = left > 0 and gate.lets_in(peer, len(frame), arrived, known)
        full = tally.under_way >= requests_max or peer.under_way >= peer_max
        if not lets or full or written is None or len(frame) >= 1990:
            assert whole is None
            break
        request = Request(peer, written[0], arrived, Tally())
        request.budget_ms, request.tally = written[1], tally
        if not admission.may_go_on(request, len(frame), now):
            peer.under_way -= 1
            assert whole == written
            break
        tally.received += 1
        tally.under_way += 1
        admission.charge(request, load_of(len(frame)), now)
        left -= request.load
        large = large or request.load > 4
        made.append((request, written, frame))
    assert quick == state(admission, tally, place, left, large)
    assert len(requests) == len(made)
    slots = [slot for slot in Request.__slots__ if slot not in {"tally", "admission"}]
    for (one, *rest), (other, *same) in zip(requests, made, strict=True):
        assert rest == same
        assert [getattr(one, slot) for slot in slots] == [getattr(other, slot) for slot in slots]
