"""Check a journal from outside, by the wire contract alone: `check_chain ENDPOINT`; exit 0 or 1."""

import sys
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import msgpack
import zmq

ULID = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ENDS = "stream_seq session_id run_id kind actor principal ts_ms recorded_ms redacted traceparent"


def ask(door: "zmq.Socket[bytes]", op: str, **body: Any) -> Any:
    door.send(msgpack.packb({"v": 1, "id": 1, "op": op, "body": body}))
    if not door.poll(30_000):
        raise SystemExit(f"no answer to {op}")
    return msgpack.unpackb(door.recv())["ok"]


def raw_id(text: str | None) -> bytes | None:
    if text is None:
        return None
    return sum(ULID.index(c) << 5 * n for n, c in enumerate(reversed(text))).to_bytes(16, "big")


def faults(door: "zmq.Socket[bytes]") -> Iterator[str]:
    """Whatever is wrong, as sentences. Prints at its end what it went through."""
    head, page, seq, link = ask(door, "journal.head"), {"end": False}, 0, bytes(32)
    ends: Counter[tuple[str, str]] = Counter()
    while not page["end"]:
        page = ask(door, "journal.read", after_seq=seq, limit=1000, raw=True)
        for event in page["events"]:
            seq, stream, digest = seq + 1, event["stream"], event["payload_sha256"]
            place = ends[stream, event["stream_id"]] + 1
            ends[stream, event["stream_id"]] = event["stream_seq"]
            if event["payload"] is not None and sha256(event["payload"]).digest() != digest:
                yield f"event {seq}: the payload has another digest"
            if (event["seq"], event["stream_seq"]) != (seq, place):
                yield f"event {seq}: numbered {event['seq']}, and {place} is {event['stream_seq']}"
            values = [raw_id(event[k]) if k.endswith("_id") else event[k] for k in ENDS.split()]
            ids = raw_id(event["event_id"]), stream, raw_id(event["stream_id"])
            before, link = link, sha256(link + msgpack.packb([seq, *ids, *values, digest])).digest()
            if (event["prev_hash"], event["hash"]) != (before, link):
                yield f"event {seq}: the chain breaks"
                link = event["hash"]
            if seq == head["seq"] and link != head["hash"]:
                yield f"event {seq}: the head has another hash"
    if seq < head["seq"]:
        yield f"the head is {head['seq']}, and reading ends at {seq}"
    print(f"{seq} events of {len(ends)} streams, head {link.hex()}")  # noqa: T201


if __name__ == "__main__":
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.setsockopt(zmq.LINGER, 0)
        client.connect(sys.argv[1])
        sys.exit("\n".join(faults(client)) or 0)
