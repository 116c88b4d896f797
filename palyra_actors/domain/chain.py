"""The hash chain over every event of the journal, in `seq` order. Pure.

    payload_sha256 = SHA-256(stored payload bytes)
    hash = SHA-256(prev_hash || msgpack([seq, event_id, stream, stream_id, stream_seq, session_id,
                   run_id, kind, actor, principal, ts_ms, recorded_ms, redacted, traceparent,
                   payload_sha256]))

with shortest encodings. The chain covers the payload's digest and not the payload, so that a
payload can be destroyed and the chain still verifies. The hash before event 1 is 32 zero bytes.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

GENESIS: Final = bytes(32)

_encode = msgspec.msgpack.Encoder().encode


class Stored(NamedTuple):
    """An event as the journal holds it. Ids are 16 bytes, hashes 32; payload None: erased."""

    seq: int
    event_id: bytes
    stream: str
    stream_id: bytes
    stream_seq: int
    session_id: bytes | None
    run_id: bytes | None
    kind: str
    actor: str
    principal: str
    ts_ms: int
    recorded_ms: int
    redacted: bool
    traceparent: str | None
    payload: bytes | None
    payload_sha256: bytes
    hash: bytes
    prev_hash: bytes


def link(prev_hash: bytes, fields: tuple[object, ...]) -> bytes:
    """The hash of an event: `fields` are the fifteen of the formula above, in that order."""
    return sha256(prev_hash + _encode(fields)).digest()


def payload_digest(payload: bytes) -> bytes:
    return sha256(payload).digest()


def expected_hash(event: Stored, prev_hash: bytes) -> bytes:
    """What `event.hash` has to be if it follows `prev_hash`, taken from what is stored."""
    digest = event.payload_sha256 if event.payload is None else payload_digest(event.payload)
    return link(prev_hash, (*event[:14], digest))


def lost_from(
    seen: tuple[int, bytes], head: tuple[int, bytes], hash_at: Callable[[int], bytes | None]
) -> int | None:
    """The first `seq` at which a journal is not the one whose head was `seen` once (seq and hash);
    None where it holds all of that. `head` is its own head now."""
    if head[0] < seen[0]:
        return head[0] + 1
    found = head[1] if head[0] == seen[0] else hash_at(seen[0])
    return None if found == seen[1] else max(1, seen[0])
