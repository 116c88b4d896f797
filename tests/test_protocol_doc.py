"""docs/protocol.md, held against the engine: its dialogues are run, its numbers recomputed.

The page's own notation (`diag` blocks) is read here and nowhere else; the engine is spoken to
with a bare socket and a MessagePack library, as the page promises.
"""

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
import zmq

from palyra_actors import limits
from palyra_actors.domain.catalog import CLIENT_KINDS
from palyra_actors.engine import Engine
from palyra_actors.errors import WIRE_ERRORS
from palyra_actors.testing.clock import ManualClock
from palyra_actors.wire import codec
from palyra_actors.wire.operations import BODIES

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "protocol.md").read_text("utf-8")
PAGES = {page.stem: page.read_text("utf-8") for page in sorted(DOCS.glob("protocol*.md"))}
REPLY_MS_MAX = 20_000
SOME = "…"  # a value, or further keys, that differ from run to run
VOLATILE = {"message", "hint", "timing", "uptime_ms", "latency_ms", "batch", "appends", "actors"}
VOLATILE_NUMBERS = {"threads", "queue_depth", "db_bytes", "wal_bytes"}


class Block(NamedTuple):
    line: int
    language: str
    text: str


class Message(NamedTuple):
    sent: bool
    data: dict[str, Any]


def blocks(language: str, page: str = PAGE) -> list[Block]:
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [
        Block(page.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in found
        if match[1] == language
    ]


def read_notation(text: str) -> Any:
    """JSON with `h'…'` for bytes and `…` for something."""
    text = re.sub(r"h'([0-9a-f]*)'", r'{"__bin__": "\1"}', text)
    text = re.sub(r", …}", r', "…": "…"}', text)
    return json.loads(
        text, object_hook=lambda m: bytes.fromhex(m["__bin__"]) if "__bin__" in m else m
    )


def messages(block: Block) -> list[Message]:
    lines = block.text.splitlines()
    assert all(line[:2] in ("→ ", "← ") for line in lines), f"line {block.line}"
    return [Message(line[0] == "→", read_notation(line[2:])) for line in lines]


def every_message(page: str = PAGE) -> Iterator[Message]:
    for block in blocks("diag", page) + blocks("diag example", page):
        yield from messages(block)


def hex_bytes(block: Block) -> bytes:
    """The bytes of a hex block: pairs of digits up to two spaces, then words."""
    return b"".join(bytes.fromhex(line.split("   ")[0]) for line in block.text.splitlines())


class Wire:
    """One DEALER's connection; replies wait in boxes by their request's id."""

    def __init__(self, endpoint: str) -> None:
        self.context = zmq.Context()
        self.socket: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, REPLY_MS_MAX)
        self.socket.connect(endpoint)
        self.boxes: dict[Any, deque[Any]] = {}

    def send(self, data: dict[str, Any]) -> None:
        self.socket.send(msgpack.packb(data))

    def reply_to(self, request_id: Any) -> Any:
        while not self.boxes.get(request_id):
            reply = msgpack.unpackb(self.socket.recv())
            self.boxes.setdefault(reply["id"], deque()).append(reply)
        return self.boxes[request_id].popleft()

    def close(self) -> None:
        self.socket.close()
        self.context.term()


def assert_fits(told: Any, got: Any, place: str) -> None:
    """What the engine said is what the page says, up to what differs from run to run."""
    if not isinstance(told, dict):
        assert type(got) is type(told), place
        if isinstance(told, list):
            assert len(got) == len(told), place
            for index, (one, other) in enumerate(zip(told, got, strict=True)):
                assert_fits(one, other, f"{place}[{index}]")
        else:
            assert got == told, place
        return
    assert isinstance(got, dict), place
    wanted = set(told) - {SOME, "hint"}
    assert wanted <= set(got), place
    if SOME not in told:
        assert set(got) - {"hint"} == wanted, place
    for key in wanted:
        if key in VOLATILE | VOLATILE_NUMBERS:
            assert type(got[key]) is type(told[key]), f"{place}.{key}"
            if isinstance(told[key], dict):
                assert set(told[key]) <= set(got[key]), f"{place}.{key}"
        else:
            assert_fits(told[key], got[key], f"{place}.{key}")


@pytest.mark.parametrize("name", PAGES)
def test_every_dialogue_on_the_page_happens_as_it_is_written(name: str, tmp_path: Path) -> None:
    recorded_ms = int(re.findall(r'"recorded_ms": (\d+)', PAGE)[0])
    clock = ManualClock(wall_ms=recorded_ms)
    with Engine.open(tmp_path / "page.db", clock=clock) as engine:
        wire = Wire(engine.serve("tcp://127.0.0.1:0"))
        try:
            for block in blocks("diag", PAGES[name]):
                for sent, data in messages(block):
                    if sent:
                        wire.send(data)
                    else:
                        reply = wire.reply_to(data["id"])
                        assert_fits(data, reply, f"line {block.line}, id {data['id']!r}")
            assert not any(wire.boxes.values())
        finally:
            wire.close()


def refusal_of(data: dict[str, Any]) -> str | None:
    """The code with which the codec refuses a request, if it does."""
    try:
        codec.decode(msgpack.packb(data))
    except codec.Unusable as unusable:
        return unusable.error.code
    return None


def test_every_request_on_the_page_is_readable_unless_the_page_shows_its_refusal() -> None:
    refused = []
    for block in blocks("diag"):
        shown = messages(block)
        errors = {m.data["id"]: m.data["err"]["code"] for m in shown if "err" in m.data}
        for sent, data in shown:
            code = refusal_of(data) if sent else None
            if code is not None:
                assert code == errors[data.get("id")]
                refused.append(code)
    assert set(refused) == {"malformed", "unsupported_version", "unknown_op", "invalid"}


def test_every_operation_has_a_heading_a_request_and_an_answer() -> None:
    answered: set[str] = set()
    headings: set[str] = set()
    for page in PAGES.values():
        shown = list(every_message(page))
        asked = {m.data["id"]: m.data["op"] for m in shown if m.sent and "id" in m.data}
        answered |= {asked[m.data["id"]] for m in shown if "ok" in m.data}
        headings |= set(
            re.findall(r"[a-z]+\.[a-z_]+", " ".join(re.findall(r"^### .*", page, re.M)))
        )
    assert answered == set(BODIES)
    assert headings == set(BODIES)


def test_every_kind_of_event_is_named() -> None:
    assert [kind for kind in CLIENT_KINDS if f"`{kind}`" not in PAGE] == []


def test_the_error_table_holds_every_code_with_its_retryability() -> None:
    section = PAGE.split("\n| code | what happened |", 1)[1]
    rows = re.findall(r"^\| `(\w+)` \|.*?\| (yes|no) \|", section, re.MULTILINE)
    assert dict(rows) == {
        code: "yes" if kind.retryable else "no" for code, kind in WIRE_ERRORS.items()
    }


def test_every_error_shown_is_one_of_the_table_and_says_the_same_of_itself() -> None:
    errors = [m.data["err"] for m in every_message() if "err" in m.data]
    assert len(errors) > 8
    for error in errors:
        assert error["retryable"] is WIRE_ERRORS[error["code"]].retryable


def test_the_limits_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (-?\d+) \|", "\n".join(PAGES.values()), re.MULTILINE)
    documented = {name: int(value) for name, value in rows}
    wire_limits = {
        name: value
        for name, value in vars(limits).items()
        if name.isupper() and isinstance(value, int)
    }
    inside = {"PROTOCOL_VERSION"}
    assert documented == {k: v for k, v in wire_limits.items() if k not in inside}


def test_the_byte_by_byte_frames_are_those_of_the_dialogue_above_them() -> None:
    request, reply = (message.data for message in messages(blocks("diag")[0]))
    frames = blocks("hex")
    assert hex_bytes(frames[0]) == msgpack.packb(request)
    assert hex_bytes(frames[1]) == msgpack.packb(reply)
    sizes = [int(size) for size in re.findall(r"(\d+) bytes:\n\n```hex", PAGE)]
    assert sizes == [len(hex_bytes(frame)) for frame in frames]


def stored_events() -> dict[int, dict[str, Any]]:
    """The events as the page shows them stored, by seq; payloads as data."""
    found: dict[int, dict[str, Any]] = {}
    for message in every_message():
        body = message.data.get("ok", message.data.get("item", {}))
        for event in [*body.get("events", []), *([body["event"]] if "event" in body else [])]:
            if not isinstance(event["payload"], bytes):
                found[event["seq"]] = event
    return found


CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid_bytes(text: str | None) -> bytes | None:
    """As part 7 says it, without the engine's own code."""
    if text is None:
        return None
    number = 0
    for character in text:
        number = number * 32 + CROCKFORD.index(character)
    return number.to_bytes(16, "big")


def chained(event: dict[str, Any], digest: bytes) -> bytes:
    array = [
        event["seq"], ulid_bytes(event["event_id"]), event["stream"],
        ulid_bytes(event["stream_id"]), event["stream_seq"], ulid_bytes(event["session_id"]),
        ulid_bytes(event["run_id"]), event["kind"], event["actor"], event["principal"],
        event["ts_ms"], event["recorded_ms"], event["redacted"], event["traceparent"], digest,
    ]  # fmt: skip
    packed = msgpack.packb(array)
    assert isinstance(packed, bytes)
    return packed


def test_the_hashes_on_the_page_follow_from_its_formula() -> None:
    previous = bytes(32)
    events = stored_events()
    assert list(events) == [1, 2, 3, 4]
    for event in events.values():
        digest = hashlib.sha256(msgpack.packb(event["payload"])).digest()
        assert event["payload_sha256"] == digest
        assert event["prev_hash"] == previous
        previous = hashlib.sha256(previous + chained(event, digest)).digest()
        assert event["hash"] == previous


@pytest.mark.parametrize("seq", [1, 2])
def test_the_test_vector_holds_step_by_step(seq: int) -> None:
    payload = hex_bytes(blocks(f"hex payload-{seq}")[0])
    array = hex_bytes(blocks(f"hex array-{seq}")[0])
    steps = PAGE.split(f"```hex payload-{seq}", 1)[1]
    digest, previous, result = (
        bytes.fromhex(re.findall(rf"^    {name} +([0-9a-f]{{64}})$", steps, re.MULTILINE)[0])
        for name in ("payload_sha256", "prev_hash", "hash")
    )
    event = stored_events()[seq]
    assert msgpack.unpackb(payload) == event["payload"]
    assert hashlib.sha256(payload).digest() == digest
    assert array == chained(event, digest)
    assert hashlib.sha256(previous + array).digest() == result == event["hash"]


def test_every_page_of_the_protocol_is_named_on_the_first() -> None:
    named = set(re.findall(r"\]\((protocol-[a-z]+)\.md\)", PAGE.split("\n## 10. ", 1)[1]))
    assert named == set(PAGES) - {"protocol"}
