"""The chain, against the formula of the contract written out by other means."""

from hashlib import sha256
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palyra_actors.domain.chain import GENESIS, Stored, expected_hash, link, payload_digest

_IDS = st.binary(min_size=16, max_size=16)
_HASHES = st.binary(min_size=32, max_size=32)
_NUMBERS = st.integers(0, 2**63 - 1)

EVENTS = st.builds(
    Stored,
    _NUMBERS,
    _IDS,
    st.sampled_from(["session", "canvas", "cron", "memory", "system"]),
    _IDS,
    _NUMBERS,
    st.none() | _IDS,
    st.none() | _IDS,
    st.sampled_from(["model_token", "x." + "a" * 62, "run.transitioned"]),
    st.sampled_from(["user", "agent", "system", "plugin"]),
    st.text(min_size=1, max_size=64),
    st.integers(0, 2**48),
    st.integers(0, 2**48),
    st.booleans(),
    st.none() | st.text(max_size=60),
    st.none() | st.binary(max_size=300),
    _HASHES,
    _HASHES,
    _HASHES,
)


def _by_the_formula(event: Stored, previous: bytes) -> bytes:
    digest = event.payload_sha256 if event.payload is None else sha256(event.payload).digest()
    fields = [
        event.seq, event.event_id, event.stream, event.stream_id, event.stream_seq,
        event.session_id, event.run_id, event.kind, event.actor, event.principal, event.ts_ms,
        event.recorded_ms, event.redacted, event.traceparent, digest,
    ]  # fmt: skip
    return sha256(previous + msgpack.packb(fields, use_bin_type=True)).digest()


@given(event=EVENTS, previous=_HASHES)
def test_the_hash_is_that_of_the_contract(event: Stored, previous: bytes) -> None:
    assert expected_hash(event, previous) == _by_the_formula(event, previous)


@given(event=EVENTS.filter(lambda event: event.payload is not None), previous=_HASHES)
def test_an_erased_payload_leaves_the_hash_as_it_was(event: Stored, previous: bytes) -> None:
    assert event.payload is not None
    digest = payload_digest(event.payload)
    erased = event._replace(payload=None, payload_sha256=digest)
    assert expected_hash(erased, previous) == expected_hash(event, previous)


@pytest.mark.parametrize("field", [f for f in Stored._fields if f not in ("hash", "prev_hash")])
@given(event=EVENTS, other=EVENTS, previous=_HASHES)
def test_every_field_is_part_of_it(
    field: str, event: Stored, other: Stored, previous: bytes
) -> None:
    changed = event._replace(**{field: getattr(other, field)})
    effective = _effective(event) != _effective(changed)
    assert (expected_hash(changed, previous) != expected_hash(event, previous)) is effective


def _effective(event: Stored) -> tuple[Any, ...]:
    digest = event.payload_sha256 if event.payload is None else payload_digest(event.payload)
    return (*event[:14], digest)


@given(event=EVENTS, previous=_HASHES, bit=st.integers(0, 255))
def test_every_bit_of_the_hash_before_is_part_of_it(
    event: Stored, previous: bytes, bit: int
) -> None:
    flipped = (int.from_bytes(previous, "big") ^ (1 << bit)).to_bytes(32, "big")
    assert expected_hash(event, flipped) != expected_hash(event, previous)


def test_the_first_event_follows_32_zero_bytes() -> None:
    assert bytes(32) == GENESIS


def test_a_known_chain_has_known_hashes() -> None:
    fields = (
        1, b"\x01" * 16, "session", b"\x02" * 16, 1, b"\x02" * 16, None, "message_received",
        "user", "local", 5, 6, False, None, payload_digest(b"\x80"),
    )  # fmt: skip
    packed = (
        b"\x9f\x01\xc4\x10" + b"\x01" * 16 + b"\xa7session\xc4\x10" + b"\x02" * 16
        + b"\x01\xc4\x10" + b"\x02" * 16 + b"\xc0\xb0message_received\xa4user\xa5local\x05\x06"
        + b"\xc2\xc0\xc4\x20" + sha256(b"\x80").digest()
    )  # fmt: skip
    assert link(GENESIS, fields) == sha256(bytes(32) + packed).digest()
