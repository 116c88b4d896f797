"""Any bytes get a typed answer: nothing is stored, memory stays bounded, the next one is served."""

import random
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palyra_actors.api.events import new_id
from palyra_actors.errors import WIRE_ERRORS
from palyra_actors.limits import FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX
from tests.figures import Tell
from tests.system.harness import House, Wire, event, pack, served

MIB = 1024 * 1024
_MANY = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _typed(reply: dict[str, Any]) -> str:
    """The code of an answer that is an error of the contract."""
    error = reply["err"]
    assert error["code"] in WIRE_ERRORS
    assert error["code"] != "internal", error
    assert error["retryable"] is False
    return str(error["code"])


@given(frame=st.binary(max_size=300))
@_MANY
def test_random_bytes_are_malformed_and_nothing_is_stored(wire: Wire, frame: bytes) -> None:
    before = wire.head()
    assert _typed(wire.raw(frame)) in ("malformed", "unsupported_version")
    assert wire.head() == before


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from(["journal.append", "journal.read", "journal.verify", "0" * 26]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(
    envelope=st.fixed_dictionaries(
        {},
        optional={
            "v": st.just(1) | _VALUES,
            "id": st.just(1) | _VALUES,
            "op": st.sampled_from(["journal.append", "journal.read", "journal.verify"]) | _VALUES,
            "body": st.dictionaries(
                st.sampled_from(["events", "limit", "session_id", "kinds", "expect", "x"]), _VALUES
            )
            | _VALUES,
            "budget_ms": _VALUES,
            "traceparent": _VALUES,
            "principal": _VALUES,
        },
    )
)
@_MANY
def test_random_maps_get_one_answer_and_nothing_is_stored(
    wire: Wire, envelope: dict[str, Any]
) -> None:
    before = wire.head()
    reply = wire.raw(pack(envelope))
    if "err" in reply:
        _typed(reply)
    assert wire.head() == before


def _append_frame(session: str) -> bytes:
    first = event(session, run_id=new_id(), payload={"a": [1, 2.5, None, "x"], "b": {"c": True}})
    body = {"events": [first, event(session)], "expected_session_seq": 0}
    return pack(
        {"v": 1, "id": 77, "op": "journal.append", "body": body, "budget_ms": 0, "traceparent": "t"}
    )


def test_a_frame_truncated_at_any_byte_is_refused_and_nothing_is_stored(wire: Wire) -> None:
    frame = _append_frame(new_id())
    before = wire.head()
    for length in range(len(frame)):
        assert _typed(wire.raw(frame[:length])) == "malformed"
    assert wire.head() == before
    assert "ok" in wire.raw(frame)


def test_a_frame_with_any_byte_changed_is_refused_or_means_something_else(
    wire: Wire, campaign: bool
) -> None:
    """Some flips leave a valid request; what it stores then is whole, and the chain is valid."""
    chance = random.Random(5)
    stored = 0
    for _ in range(20 if campaign else 2):
        frame = bytearray(_append_frame(new_id()))
        for place in range(len(frame)):
            kept = frame[place]
            frame[place] ^= 1 << chance.randrange(8)
            before = wire.head()[0]
            reply = wire.raw(bytes(frame))
            if "ok" in reply:
                new = [r for r in reply["ok"]["results"] if not r["duplicate"]]
                assert wire.head()[0] == before + len(new)
                stored += len(new)
            else:
                assert _typed(reply) in (
                    "malformed", "unsupported_version", "unknown_op", "invalid", "invalid_id",
                    "id_reused", "conflict", "not_found", "too_large",
                )  # fmt: skip
                assert wire.head()[0] == before
            frame[place] = kept
    assert stored
    assert wire.ok("journal.verify")["valid"] is True


@given(cut=st.integers(0, 10**6), junk=st.binary(min_size=1, max_size=40))
@_MANY
def test_junk_inside_a_frame_never_stores_half_of_it(wire: Wire, cut: int, junk: bytes) -> None:
    session = new_id()
    frame = _append_frame(session)
    place = cut % len(frame)
    before = wire.head()[0]
    reply = wire.raw(frame[:place] + junk + frame[place:])
    added = wire.head()[0] - before
    if "ok" in reply:
        assert added == sum(not r["duplicate"] for r in reply["ok"]["results"])
    else:
        _typed(reply)
        assert added == 0


def _bombs() -> dict[str, bytes]:
    """Frames of 4 MiB that are small in bytes and large or slow in objects."""
    size = FRAME_BYTES_MAX - 1000
    around = {"v": 1, "id": 1, "op": "journal.append"}

    def append_with(payload: bytes) -> bytes:
        frame = pack({**around, "body": {"events": [event(new_id(), payload=b"HERE")]}})
        return frame.replace(pack(b"HERE"), payload)

    def body(raw: bytes) -> bytes:
        return pack({**around, "body": b"HERE"}).replace(pack(b"HERE"), raw)

    def array(item: bytes, header: bytes = b"\xdd") -> bytes:
        count = size // len(item) - 8
        return header + count.to_bytes(4, "big") + item * count

    def many(item: bytes) -> bytes:
        """As many of these as a frame holds, by the payload, each with a secret."""
        count = (PAYLOAD_BYTES_MAX - 100) // len(item)
        raw = b"\x82\xa8password\xa1x\xa1a\xdd" + count.to_bytes(4, "big") + item * count
        events = [event(new_id(), payload=b"HERE") for _ in range(15)]
        request = {**around, "budget_ms": 0, "body": {"events": events}}
        return pack(request).replace(pack(b"HERE"), raw)

    keys = b"".join(b"\xa7k" + b"%06d\x80" % n for n in range(400_000))
    return {
        "zeros": bytes(size),
        "empty maps in a payload": append_with(b"\x81\xa1a" + array(b"\x80")),
        "empty maps as events": body(b"\x81\xa6events" + array(b"\x80")),
        "nils as events": body(b"\x81\xa6events" + array(b"\xc0")),
        "empty lists as kinds": body(b"\x81\xa5kinds" + array(b"\x90")),
        "empty texts as kinds": pack({"v": 1, "id": 1, "op": "journal.read", "body": 0})[:-1]
        + b"\x81\xa5kinds"
        + array(b"\xa0"),
        "a body of keys": body(b"\xdf" + (400_000).to_bytes(4, "big") + keys)[:size],
        "an envelope of keys": b"\xdf" + (400_000).to_bytes(4, "big") + keys,
        "an unknown key full of maps": pack({**around, "z": b"HERE", "body": {}}).replace(
            pack(b"HERE"), array(b"\x80")
        ),
        "lists in lists": body(b"\x91" * size),
        "lists in lists in a payload": append_with(b"\x81\xa1a" + b"\x91" * (size - 500) + b"\xc0"),
        "maps in maps in the envelope": b"\x81\xa1v" * (size // 3),
        "a length that lies": b"\x81\xa1v\xdb\xff\xff\xff\xff" + bytes(size),
        "a count that lies": body(b"\x81\xa6events\xdd\xff\xff\xff\xff" + bytes(size)),
        "events without end": body(
            b"\x81\xa6events" + array(pack(event(new_id(), payload={})), b"\xdd")
        ),
        "long text as an op": pack({**around, "op": "x" * size}),
        "long text as an id": pack({**around, "id": "x" * size}),
        "long text as a session": pack({**around, "body": {"events": [event("0" * (size - 500))]}}),
        "too large": bytes(FRAME_BYTES_MAX + 1),
        "secrets everywhere": append_with(
            pack({"t": "password=" * (25 * 1024)}),
        ),
        "maps that look like secrets": many(b"\x81\xa0\xa1:"),
        "empty maps beside a secret": many(b"\x80"),
        "empty maps below a secret's name": many(b"\x81\xa5token\x80"),
        "texts that look like secrets": many(pack("bearer a")),
        "secrets in texts": many(pack("sk-abcdef123")),
        "secrets in keys": many(pack({"sk-abcdefgh1234567": 1})),
    }


BOMBS = list(_bombs())


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_frame_of_4_mib_gets_an_answer(wire: Wire, name: str, figure: Tell) -> None:
    before = wire.head()
    frame = _bombs()[name]
    assert len(frame) <= FRAME_BYTES_MAX + 1
    began = time.monotonic()
    reply = wire.raw(frame)
    took_ms = (time.monotonic() - began) * 1000
    figure(25, "hostile frames of 4 MiB", 1)
    figure(25, "a frame answered after", took_ms, "ms", most=250)
    if "ok" not in reply or "secret" not in name:
        assert _typed(reply) in ("malformed", "invalid", "too_large", "invalid_id", "unknown_op")
        assert wire.head() == before
    assert "seq" in wire.ok("journal.head")


def test_a_hostile_frame_of_4_mib_takes_at_most_64_mib(tmp_path: Path, figure: Tell) -> None:
    taken: dict[str, float] = {}
    config = tmp_path / "engine.toml"
    config.write_text("[budget]\nwrite_ms = 0\n")  # a slow disk is not what this is about
    serving = served(tmp_path, "--config", str(config))
    with serving as (endpoint, process), Wire(endpoint) as wire:
        wire.append(event(new_id()))
        for _ in range(3):  # what buffers of that size cost once is not what is measured
            wire.raw(pack({"v": 2, "z": bytes(FRAME_BYTES_MAX - 100)}))
        before = psutil.Process(process.pid).memory_info().rss / MIB
        for name, frame in _bombs().items():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # forget the peak so far
            wire.raw(frame)
            taken[name] = _peak_mib(process.pid) - before
        assert wire.ok("engine.health")["status"] == "ready"
    figure(25, "more memory for a frame", max(taken.values()), "MiB", most=64)
    assert {name: mib for name, mib in taken.items() if mib > 64} == {}


def _peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def test_hostile_frames_sent_at_once_by_many_are_all_answered_and_others_are_served(
    own: House,
) -> None:
    good = own.connect()
    hostile = [own.connect() for _ in range(4)]
    frames = [_bombs()[name] for name in ("empty maps in a payload", "zeros", "lists in lists")]
    for wire in hostile:
        for frame in frames * 2:
            wire.send_frame(frame)
    results = good.append(event(new_id()))
    assert results[0]["seq"] == 1
    for wire in hostile:
        for _ in frames * 2:
            _typed(wire.receive())
    assert good.head()[0] == 1
