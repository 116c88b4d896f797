"""The hash chain over every event of the journal, in `seq` order. Pure.

    payload_sha256 = SHA-256(stored payload bytes)
    hash = SHA-256(prev_hash || msgpack([seq, event_id, stream, stream_id, stream_seq, session_id,
                   run_id, kind, actor, principal, ts_ms, recorded_ms, redacted, traceparent,
                   payload_sha256]))

with shortest encodings. The chain covers the payload's digest and not the payload, so that a
payload can be destroyed and the chain still verifies. The hash before event 1 is 32 zero bytes.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from palyra_actors.domain.catalog import ACTOR_NAMES, KIND_NAMES
from palyra_actors.domain.session import Draft
from palyra_actors.domain.swift import compiled

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


class Stretch(NamedTuple):
    """Drafts that follow each other in the journal and in one stream.

    `number` is the first one's in its stream, `last` the seq of the stream's event before, 0 where
    there is none. `sessions`: what each concerns where the stream is no session's. `principal` is
    the stored number.
    """

    drafts: Sequence[Draft]
    stream: int
    stream_name: str
    stream_id: bytes
    number: int
    last: int
    sessions: Sequence[bytes | None] | None
    principal: int
    principal_name: str
    traceparent: str | None


Row: TypeAlias = tuple[Any, ...]
"""An event as its table has it, column by column."""


def chain_rows_plainly(
    stretches: list[Stretch], seq: int, prev_hash: bytes, recorded_ms: int
) -> tuple[list[Row], bytes]:
    """The rows of these drafts, numbered from `seq` + 1 on and chained; and the last one's hash."""
    rows: list[Row] = []
    kinds: dict[Any, Any] = KIND_NAMES  # a client's own kind is its name already
    for drafts, stream, stream_name, stream_id, first, before, sessions, *who in stretches:
        principal, principal_name, traceparent = who
        number, last = first, before
        concerns = iter([stream_id] * len(drafts)) if sessions is None else iter(sessions)
        for event_id, run_id, kind, actor, ts_ms, payload, redacted in drafts:
            seq += 1
            session_id = next(concerns)
            prev_hash = link(
                prev_hash,
                (
                    seq, event_id, stream_name, stream_id, number, session_id, run_id,
                    kinds.get(kind, kind), ACTOR_NAMES[actor], principal_name, ts_ms, recorded_ms,
                    redacted, traceparent, sha256(payload).digest(),
                ),
            )  # fmt: skip
            rows.append(
                (
                    seq, event_id, stream, number, seq - last if last else 0,
                    None if sessions is None else session_id, run_id, kind, actor, principal, ts_ms,
                    recorded_ms, 1 if redacted else 0, traceparent, payload, None, prev_hash,
                )
            )  # fmt: skip
            last = seq
            number += 1
    return rows, prev_hash


chain_rows = chain_rows_plainly if compiled is None else compiled.chain_rows


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
