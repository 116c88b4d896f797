"""How stored events are shown on the wire."""

from typing import Any

import msgspec

from palyra_actors.domain.chain import Stored
from palyra_actors.ids import format_ulid
from palyra_actors.storage.port import Head


def head_view(head: Head) -> dict[str, Any]:
    return {"seq": head.seq, "hash": head.hash}


def event_view(event: Stored, raw: bool = False) -> dict[str, Any]:
    """An event as a reply shows it: ids as text, the payload as data, or as bytes with `raw`."""
    payload: Any = event.payload
    if payload is not None and not raw:
        payload = msgspec.Raw(payload)
    return {
        "event_id": format_ulid(event.event_id),
        "session_id": None if event.session_id is None else format_ulid(event.session_id),
        "run_id": None if event.run_id is None else format_ulid(event.run_id),
        "kind": event.kind,
        "actor": event.actor,
        "ts_ms": event.ts_ms,
        "payload": payload,
        "seq": event.seq,
        "stream": event.stream,
        "stream_id": format_ulid(event.stream_id),
        "stream_seq": event.stream_seq,
        "principal": event.principal,
        "recorded_ms": event.recorded_ms,
        "redacted": event.redacted,
        "traceparent": event.traceparent,
        "payload_sha256": event.payload_sha256,
        "hash": event.hash,
        "prev_hash": event.prev_hash,
    }
