"""What is printed: JSON for programs, text for people.

In JSON ids are text, hashes hexadecimal, other bytes base64. Text from the journal was written by
anyone: it reaches a terminal without the control characters that a terminal would obey.
"""

import base64
import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from palyra_actors.errors import Invalid
from palyra_actors.limits import VALUE_DEPTH_MAX

if TYPE_CHECKING:
    from rich.console import Console

_HEX_KEYS: Final = frozenset(
    {"hash", "prev_hash", "payload_sha256", "state_sha256", "content_sha256", "sha256"}
)
# C0, DEL and C1, but for newline and tab; and what turns the direction of writing around
_CONTROLS: Final = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)
} | {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000))


def plain(text: str) -> str:
    """Text with its control characters made visible instead of obeyed."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def to_json(value: Any, key: str | None = None) -> Any:
    """The value as JSON can say it; results of operations as maps of their fields."""
    if isinstance(value, bytes):
        return value.hex() if key in _HEX_KEYS else base64.b64encode(value).decode()
    if is_dataclass(value):
        return {each.name: to_json(getattr(value, each.name), each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_json(each, str(name)) for name, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_json(value._asdict())
    if isinstance(value, list | tuple):
        return [to_json(each, key) for each in value]
    return value


def parse_json(text: str, field: str) -> Any:
    """What a person typed as JSON. Raises Invalid: it is none, says a name twice in a map, or is
    nested deeper than the parser goes, which is far beyond `VALUE_DEPTH_MAX`."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in pairs:
            if name in made:
                raise Invalid(
                    f"{name!r} is there twice in one map", field=field, hint="leave one of them out"
                )
            made[name] = value
        return made

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError as reason:
        raise Invalid(f"nested deeper than {VALUE_DEPTH_MAX} levels", field=field) from reason
    except ValueError as reason:
        raise Invalid(f"this is no JSON: {reason}", field=field) from reason


def print_json(value: Any) -> None:
    """One document on one line, written out at once: a reader may be waiting for it."""
    line = json.dumps(to_json(value), ensure_ascii=False, separators=(",", ":"), default=str)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def console(*, stderr: bool = False) -> "Console":
    """Prints texts as they are: no markup, no emoji codes, nothing highlighted by itself."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            """Whoever runs the command says how it ends: see `exits`."""
            raise BrokenPipeError

    return Plain(stderr=stderr, markup=False, emoji=False, highlight=False)


def moment(ts_ms: int) -> str:
    """A time for a person, UTC. Within a day of 1970 it is a span since a run began."""
    if ts_ms < 86_400_000:
        return f"+{ts_ms / 1000:.3f} s"
    try:
        return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (OverflowError, ValueError):
        return f"{ts_ms} ms"


def span(ms: int) -> str:
    """How long, for a person: the two largest units that count."""
    parts: list[str] = []
    for unit, size in _UNITS:
        if ms >= size or (parts and len(parts) < 2):
            count, ms = divmod(ms, size)
            if count:
                parts.append(f"{count} {unit}")
            elif parts:
                break
        if len(parts) == 2:
            break
    return " ".join(parts) or f"{ms} ms"


def exact_span(ms: int) -> str:
    """How long to the millisecond, for a person."""
    parts: list[str] = []
    for unit, each in (*_UNITS, ("ms", 1)):
        count, ms = divmod(ms, each)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts) or "0 ms"


def size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
