"""Recorded agent runs as events: what a file says, in the journal's words.

    trajectories   {"trajectory": [step…], "history": [message…], "info": {…}}   SWE-agent's `.traj`
    chats          {"messages": [{role, content, tool_calls}…]}, or the list alone
    events         maps in the contract's shape; also as `show --json` and `tail --json` print them

each as one JSON file, or as JSON lines (one conversation, message or event a line). Shape decides,
not the file's name.

Reading a file twice gives the same events with the same ids, so that importing it again adds
nothing, and an import that was interrupted goes on where it stopped. An id is made of the record's
time and a SHA-256 over the file's content and the record's place in it; for JSON lines over the
first line, the record's own line and its number, so that a log that has grown only adds its new
lines. A record without a time is given the time since its run began, counted from 1970: nothing is
made up that could be taken for a date.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from palyra_actors.api.events import Event
from palyra_actors.errors import Invalid, NotFound, TooLarge
from palyra_actors.ids import format_ulid
from palyra_actors.limits import (
    INTEGER_MAX,
    INTEGER_MIN,
    PAYLOAD_BYTES_MAX,
    TIME_MS_MAX,
    VALUE_DEPTH_MAX,
)
from palyra_actors.wire.frames import pack

FILE_BYTES_MAX: Final = 256 * 1024 * 1024  # of one JSON document, which is read whole
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
CUT_MARK: Final = "import_cut_bytes"
_SECONDS_BELOW: Final = 10**11  # a number below is seconds since 1970, from there on milliseconds

_ACTORS: Final = {"user": "user", "system": "system", "developer": "system", "assistant": "agent"}
_TIME_KEYS: Final = ("ts_ms", "timestamp", "created_at", "created", "time")


@dataclass(frozen=True, slots=True)
class Imported:
    """One event, how far into its file it ends, and the bytes it lost to fit the payload limit."""

    event: Event
    done_bytes: int
    cut_bytes: int


def read_events(path: Path) -> Iterator[Imported]:
    """The events of one file, in order.

    Raises:
        NotFound: the file cannot be read.
        Invalid: it is no recorded run; `field` is the file and, in JSON lines, the line.
        TooLarge: it is a JSON document over 256 MiB, or has a line over 16 MiB.
    """
    try:
        size = path.stat().st_size
        document = _document(path, size)
        if document is None:
            yield from _lines(path)
            return
        content, value = document
        ids = _Ids(hashlib.sha256(content).digest())
        del content, document
        events = list(_events_of(value, ids, str(path)))
        for number, event in enumerate(events, 1):
            yield _fitted(event, size * number // len(events), str(path))
    except OSError as reason:
        raise NotFound(f"{path} cannot be read: {reason.strerror}", field=str(path)) from reason


def _document(path: Path, size: int) -> tuple[bytes, Any] | None:
    """The file as one JSON document; None where it is JSON lines."""
    with path.open("rb") as file:
        head = file.readline(LINE_BYTES_MAX).strip()
    if _parses(head):
        # also where it is the only line: a log that grows must not change its first ids
        return None
    if size > FILE_BYTES_MAX:
        raise TooLarge(
            "a JSON document is read whole, and this one is too large for that",
            field=str(path),
            hint="as JSON lines it may have any size",
            detail={"limit": FILE_BYTES_MAX, "actual": size},
        )
    content = path.read_bytes()
    return content, _parse(content, str(path))


def _lines(path: Path) -> Iterator[Imported]:
    done = 0
    ids: _Ids | None = None
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            done += len(line)
            place = f"{path}:{number}"
            if len(line) > LINE_BYTES_MAX:
                raise TooLarge(
                    "a line is too long",
                    field=place,
                    detail={"limit": LINE_BYTES_MAX, "actual": len(line)},
                )
            text = line.strip()
            if not text:
                continue
            if ids is None:
                ids = _Ids(hashlib.sha256(text).digest())
            for event in _events_of(_parse(text, place), ids.within(number, text), place):
                yield _fitted(event, done, place)


def _events_of(value: Any, ids: "_Ids", place: str) -> Iterator[Event]:
    match value:
        case {"trajectory": list()} | {"history": list()}:
            return _trajectory(value, ids)
        case {"messages": list(messages)}:
            return _chat(messages, ids.of_record())
        case {"events": list(events)}:
            return _stored(events, ids)
        case {"kind": str(), "payload": _}:
            return _stored([value], ids)
        case {"role": str()}:
            return _chat([value], ids)
        case [{"kind": str()}, *_]:
            return _stored(value, ids)
        case [{"role": str()}, *_]:
            return _chat(value, ids)
    raise Invalid(
        "this is no recorded run",
        field=place,
        hint="a .traj, {messages: […]}, or events with kind and payload",
    )


def _trajectory(run: Mapping[str, Any], ids: "_Ids") -> Iterator[Event]:
    """Messages in their order, and each step behind the message that brought it about."""
    session, run_id = ids.make("session"), ids.make("run")
    steps = [step for step in run.get("trajectory") or [] if isinstance(step, dict)]
    clock_ms = 0
    place = 0

    def event(kind: str, payload: dict[str, Any], actor: str) -> Event:
        nonlocal place
        place += 1
        return Event(session, kind, payload, actor, run_id, ids.make(place), clock_ms)

    def step_events(step: Mapping[str, Any]) -> Iterator[Event]:
        nonlocal clock_ms
        thought = step.get("thought") or step.get("response")
        if thought:
            yield event("model_token", {"text": _text(thought)}, "agent")
        action = _text(step.get("action") or "").strip()
        if not action and not step.get("observation"):
            return
        tool = action.split(maxsplit=1)[0] if action else "none"
        yield event("tool_proposed", {"tool": tool, "action": action}, "agent")
        took = step.get("execution_time")
        if isinstance(took, int | float) and 0 <= took < 10**6:
            clock_ms += int(took * 1000)
        told = {key: step[key] for key in ("execution_time", "state") if key in step}
        observed = {"tool": tool, "observation": step.get("observation"), **told}
        yield event("tool_executed", observed, "plugin")

    taken, history = 0, run.get("history")
    for message in history if isinstance(history, list) else []:
        if not isinstance(message, dict):
            continue
        actor = _ACTORS.get(str(message.get("role")), "plugin")
        yield event("message_received", dict(message), actor)
        said = (message.get("action"), message.get("content"))
        if actor == "agent" and not message.get("is_demo") and taken < len(steps):
            step = steps[taken]
            if step.get("action") == said[0] or step.get("response") == said[1]:
                taken += 1
                yield from step_events(step)
    for step in steps[taken:]:
        yield from step_events(step)
    info = run.get("info")
    if isinstance(info, dict) and info.get("exit_status"):
        good = str(info["exit_status"]).startswith("submitted")
        yield event("run_completed" if good else "run_failed", dict(info), "system")


def _chat(messages: Iterable[Any], ids: "_Ids") -> Iterator[Event]:
    session, run_id = ids.make_shared("session"), ids.make_shared("run")
    last_ms = 0
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        role = str(message.get("role"))
        last_ms = _time_ms(message, last_ms)
        content = message.get("content")
        rest = {
            key: value
            for key, value in message.items()
            if key not in ("role", "content", "tool_calls", *_TIME_KEYS)
        }
        told: list[tuple[str, dict[str, Any], str]] = []
        if role == "assistant":
            if content:
                told.append(("model_token", {"text": _text(content), **rest}, "agent"))
            for call in message.get("tool_calls") or []:
                told.append(("tool_proposed", _tool_call(call), "agent"))
        elif role in ("tool", "function"):
            told.append(("tool_executed", {"observation": content, **rest}, "plugin"))
        else:
            actor = _ACTORS.get(role, "plugin")
            told.append(("message_received", {"role": role, "content": content, **rest}, actor))
        for part, (kind, payload, actor) in enumerate(told):
            event_id = ids.make(number, part, time_ms=last_ms)
            yield Event(session, kind, payload, actor, run_id, event_id, last_ms)


def _stored(events: Iterable[Any], ids: "_Ids") -> Iterator[Event]:
    for number, raw in enumerate(events):
        if not isinstance(raw, dict) or not isinstance(raw.get("payload"), dict):
            raise Invalid("an event is a map with a payload", field=f"events[{number}]")
        time_ms = _time_ms(raw, 0)
        yield Event(
            raw.get("session_id") or ids.make_shared("session"),
            str(raw.get("kind")),
            raw["payload"],
            str(raw.get("actor") or "agent"),
            raw.get("run_id"),
            raw.get("event_id") or ids.make(number, time_ms=time_ms),
            time_ms,
        )


def _tool_call(call: Any) -> dict[str, Any]:
    if not isinstance(call, dict):
        return {"tool": "unknown", "call": call}
    function = call.get("function")
    if not isinstance(function, dict):
        function = call
    return {
        "tool": str(function.get("name") or "unknown"),
        "arguments": function.get("arguments"),
        "tool_call_id": call.get("id"),
    }


def _text(content: Any) -> str:
    """The text of a message: itself, or of its parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "\n".join(part for part in parts if isinstance(part, str))
    return json.dumps(content, ensure_ascii=False)


def _time_ms(record: Mapping[str, Any], otherwise: int) -> int:
    """The record's own time, in milliseconds since 1970 UTC."""
    for key in _TIME_KEYS:
        value = record.get(key)
        found: float | None = None
        if isinstance(value, int | float) and not isinstance(value, bool):
            in_ms = key == "ts_ms" or value >= _SECONDS_BELOW
            found = value if in_ms else value * 1000
        elif isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                continue
            # a time that names no zone is taken for UTC: the same everywhere it is imported
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            found = moment.timestamp() * 1000
        if found is not None and 0 <= found <= TIME_MS_MAX:
            return int(found)
    return otherwise


class _Ids:
    """Ids of one file's records, or of one line's."""

    def __init__(self, seed: bytes, shared: bytes | None = None) -> None:
        self._seed = seed
        self._shared = seed if shared is None else shared

    def within(self, number: int, line: bytes) -> "_Ids":
        """Of one line: its own ids come from the line and its number, shared ones from the file."""
        own = hashlib.sha256(b"%d\0" % number + line).digest()
        return _Ids(hashlib.sha256(self._shared + own).digest(), self._shared)

    def of_record(self) -> "_Ids":
        """Where a line is a whole conversation, it shares nothing with its file's other lines."""
        return _Ids(self._seed)

    def make(self, *place: str | int, time_ms: int = 0) -> str:
        return self._make(self._seed, place, time_ms)

    def make_shared(self, *place: str | int) -> str:
        return self._make(self._shared, place, 0)

    @staticmethod
    def _make(seed: bytes, place: tuple[str | int, ...], time_ms: int) -> str:
        named = seed + "\0".join(map(str, place)).encode()
        return format_ulid(time_ms.to_bytes(6, "big") + hashlib.sha256(named).digest()[:10])


def _parses(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    except RecursionError:
        return True  # nobody knows, and it is refused either way: then by the line's number
    return True


def _parse(text: bytes, place: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except RecursionError as reason:
        raise _too_deep(place) from reason
    except ValueError as reason:
        raise Invalid(f"this is no JSON: {reason}", field=place) from reason


def _too_deep(place: str) -> Invalid:
    """The refusal of JSON that no event can hold."""
    return Invalid(f"nested deeper than {VALUE_DEPTH_MAX} levels", field=place)


def _fitted(event: Event, done_bytes: int, place: str) -> Imported:
    """The event with a payload the journal can hold."""
    payload = _cleaned(dict(event.payload), place, 1)
    packed_bytes = len(pack(payload, place))
    cut_bytes = 0
    while packed_bytes > PAYLOAD_BYTES_MAX:
        longest = max(
            (key for key, value in payload.items() if isinstance(value, str)),
            key=lambda key: len(payload[key].encode()),
            default=None,
        )
        # what the text may keep, with room for the mark
        text = b"" if longest is None else payload[longest].encode()
        room = len(text) - (packed_bytes - PAYLOAD_BYTES_MAX) - 64
        if longest is None or not text:
            raise TooLarge(
                "a record does not fit an event",
                field=place,
                detail={"limit": PAYLOAD_BYTES_MAX, "actual": packed_bytes},
            )
        kept = text[: max(room, 0)].decode(errors="ignore")
        cut_bytes += len(text) - len(kept.encode())
        payload |= {longest: kept, CUT_MARK: cut_bytes}
        packed_bytes = len(pack(payload, place))
    return Imported(replace(event, payload=payload), done_bytes, cut_bytes)


def _cleaned(value: Any, place: str, depth: int) -> Any:
    """JSON as MessagePack can hold it: half a surrogate pair becomes U+FFFD, a number beyond 64
    bits its digits."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value
    if isinstance(value, int) and not INTEGER_MIN <= value <= INTEGER_MAX:
        return str(value)
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)  # 1e999 is a number to JSON and too large for a float
    if not isinstance(value, dict | list):
        return value
    if depth > VALUE_DEPTH_MAX:
        raise _too_deep(place)
    if isinstance(value, list):
        return [_cleaned(each, place, depth + 1) for each in value]
    return {
        _cleaned(key, place, depth): _cleaned(each, place, depth + 1) for key, each in value.items()
    }
