"""The export of approvals: records on a chain of their own, as lines or as one JSON array. Pure.

    hash = SHA-256(prev_hash || RFC 8785 bytes of record)    the first prev_hash: 32 zero bytes

A line is the canonical JSON of {record, prev_hash, hash}, hashes in hex. The last one is
{"trailer": {count, head_hash, filters, through_seq}}. The same journal and filters give the same
bytes, so that two exports can be compared, and one checked by whoever has never seen the engine.

The chain covers the records. The trailer is held to them, and to nothing else: that `filters` let
through what was left out, or that `through_seq` was another, shows only beside a second export.
"""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

import rfc8785

from palyra_actors.domain.canonical_text import read

SEED: Final = "0" * 64
CHUNK_BYTES_MAX: Final = 64 * 1024
FILTERS: Final = ("decision", "principal", "since_ms", "subject_id", "subject_type", "until_ms")
_TRAILER: Final = {"count", "head_hash", "filters", "through_seq"}


class Export:
    """Turns records into the bytes of an export, in pieces of at most 64 KiB."""

    def __init__(self, form: str, filters: Mapping[str, Any], through_seq: int) -> None:
        self._json = form == "json"
        self._filters = dict(filters)
        self._through_seq = through_seq
        self._waiting = bytearray(b"[" if self._json else b"")
        self.head_hash = SEED
        self.count = 0

    def add(self, record: Mapping[str, Any]) -> Iterator[bytes]:
        """One more record; the pieces that are full."""
        body = rfc8785.dumps(dict(record))
        digest = sha256(bytes.fromhex(self.head_hash) + body).hexdigest()
        yield from self._put({"record": dict(record), "prev_hash": self.head_hash, "hash": digest})
        self.head_hash = digest
        self.count += 1

    def end(self) -> Iterator[bytes]:
        """The trailer, and what is left."""
        trailer = {
            "count": self.count,
            "head_hash": self.head_hash,
            "filters": self._filters,
            "through_seq": self._through_seq,
        }
        yield from self._put({"trailer": trailer})
        if self._json:
            self._waiting[-2:] = b"]\n"
        yield bytes(self._waiting)

    def _put(self, line: Mapping[str, Any]) -> Iterator[bytes]:
        self._waiting += rfc8785.dumps(dict(line)) + (b",\n" if self._json else b"\n")
        while len(self._waiting) > CHUNK_BYTES_MAX:
            yield bytes(self._waiting[: CHUNK_BYTES_MAX - 2])  # the end still needs its last two
            del self._waiting[: CHUNK_BYTES_MAX - 2]


class Flaw(Exception):
    """An export is not what it says. `line` counts from 1."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")
        self.line = line


def check(lines: Iterable[bytes]) -> Mapping[str, Any]:
    """The trailer of an export whose every record is in its place.

    Raises:
        Flaw: a record or a hash was changed, left out or put in, or the trailer is missing,
            or tells of filters that would not have let a record through.
    """
    head, count, number = SEED, 0, 0
    trailer: Mapping[str, Any] | None = None
    seen = _Seen()
    for number, text in enumerate(_entries(lines), 1):
        if trailer is not None:
            raise Flaw(number, "something follows the trailer")
        try:
            entry = read(text)
            canonical = rfc8785.dumps(entry)
        except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
            raise Flaw(number, f"no JSON that could be checked: {error}") from error
        if canonical != text:
            raise Flaw(number, "not in canonical form")
        if set(entry) == {"trailer"}:
            trailer = entry["trailer"]
            continue
        if set(entry) != {"record", "prev_hash", "hash"}:
            raise Flaw(number, "neither a record nor the trailer")
        if entry["prev_hash"] != head:
            raise Flaw(number, "it does not follow the line before it")
        head = sha256(bytes.fromhex(head) + rfc8785.dumps(entry["record"])).hexdigest()
        if entry["hash"] != head:
            raise Flaw(number, "its hash is not that of its record")
        count += 1
        seen.add(entry["record"])
    if not isinstance(trailer, dict):
        raise Flaw(number + 1, "the trailer is missing: the export is cut off")
    if set(trailer) != _TRAILER:
        raise Flaw(number, f"the trailer has to hold {', '.join(sorted(_TRAILER))}")
    if (trailer["count"], trailer["head_hash"]) != (count, head):
        raise Flaw(number, "the trailer counts other records")
    # every approval takes an event of its own
    if type(trailer["through_seq"]) is not int or trailer["through_seq"] < count:
        raise Flaw(number, "through_seq is not the number of an event behind all of them")
    seen.hold(trailer["filters"], number)
    return trailer


class _Seen:
    """What the records have in common, as far as filters can ask for it."""

    def __init__(self) -> None:
        self._values: dict[str, set[Any]] = {name: set() for name in FILTERS}
        self._times: list[int] = []  # the first and the last

    def add(self, record: Any) -> None:
        if not isinstance(record, dict):
            return
        for name, values in self._values.items():
            value = record.get(name)
            if len(values) < 2 and (value is None or isinstance(value, str)):
                values.add("pending" if name == "decision" and value is None else value)
        asked = record.get("requested_ms")
        if type(asked) is int:
            self._times = [min([*self._times, asked]), max([*self._times, asked])]

    def hold(self, filters: Any, line: int) -> None:
        """Raises Flaw where one of the records would not have come through these."""
        if not isinstance(filters, dict) or not set(filters) <= set(FILTERS):
            raise Flaw(line, f"filters can be {', '.join(FILTERS)}")
        for name, value in filters.items():
            if name == "since_ms":
                fits = type(value) is int and (not self._times or value <= self._times[0])
            elif name == "until_ms":
                fits = type(value) is int and (not self._times or self._times[1] <= value)
            else:
                fits = isinstance(value, str) and self._values[name] <= {value}
            if not fits:
                raise Flaw(line, f"a record does not come through the filter {name}")


def _entries(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The entries of either form, without what stands between them."""
    is_array = False
    for number, line in enumerate(lines):
        text = line.rstrip(b"\n")
        if number == 0 and text.startswith(b"["):
            is_array, text = True, text[1:]
        if is_array and text[-1:] in (b",", b"]"):
            text = text[:-1]
        yield text
