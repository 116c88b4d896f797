"""A payload on its way into the journal: checked, freed of secrets, as the bytes that are hashed.

    raw bytes ──first look──▶ nothing suspicious ──checked──▶ stored as sent, byte for byte
                    └────────▶ suspicious ──checked, second look──▶ nothing found: as sent
                                                              └──▶ stored as it was examined

What is stored after a find is encoded from the very value that was examined, so a repeated key
cannot carry a secret past the second look; nor can it where nothing was found, because a payload
with a repeated key is then encoded anew as well.
"""

from collections.abc import Sequence

import ormsgpack

from palyra_actors.domain.redact import (
    MODEL_TOKEN,
    NON_FINITE,
    SECRET,
    TOKEN_TEXT,
    FirstLook,
    redact,
)
from palyra_actors.domain.values import (
    CONTAINERS,
    UNREADABLE,
    check_end,
    confirm,
    count_pairs,
    decode,
    may_be_odd,
    refusal,
    too_large,
    unpack,
    walk,
)
from palyra_actors.errors import Invalid
from palyra_actors.limits import PAYLOAD_BYTES_MAX, VALUE_DEPTH_MAX


class Sealer:
    """Seals the payloads of requests. One thread at a time: it owns a `FirstLook`.

    Payloads are decoded one at a time and dropped, because a megabyte of empty maps becomes 73
    megabytes of objects.
    """

    def __init__(self) -> None:
        self._look = FirstLook()

    def seal(
        self, raws: Sequence[bytes | memoryview], kinds: Sequence[str]
    ) -> list[tuple[bytes, bool]]:
        """For each event of a request, in order: the bytes to store, and whether redacted.

        Nothing suspicious costs 3 µs for 256 bytes in a request of 64 (`bench/bench_codec.py`).

        Args:
            raws: the payloads, each exactly one MessagePack map of at most 256 KiB.
            kinds: the events' kinds, as many as payloads.

        Raises:
            TooLarge: a payload is over the limit, as sent or after redaction.
            Invalid: a payload is no map or holds what `domain.values` does not allow; `field` is
                `events[i].payload` and the path from there.
        """
        blobs = [bytes(raw) for raw in raws]
        for index, blob in enumerate(blobs):
            if len(blob) > PAYLOAD_BYTES_MAX:
                raise too_large(len(blob), PAYLOAD_BYTES_MAX, _field(index))
        joined = b"".join(blobs)
        flags = self._look(joined)
        marks = joined.translate(CONTAINERS)
        plain = flags == 0
        sealed: list[tuple[bytes, bool]] = []
        at = 0
        for blob, kind in zip(blobs, kinds, strict=True):
            end = at + len(blob)
            try:
                value = unpack(blob)
                check_end(blob)
            except UNREADABLE as error:
                raise refusal(blob, _field(len(sealed)), error) from error
            if type(value) is not dict:
                raise _no_map(len(sealed))
            if marks.count(1, at, end) > VALUE_DEPTH_MAX:
                confirm(value, blob, _field(len(sealed)))
            if plain or (flags == TOKEN_TEXT and only_model_text(blob, value, kind)):
                sealed.append((blob, False))
            else:
                sealed.append(self._examine(blob, value, kind, len(sealed)))
            del value
            at = end
        return sealed

    def nothing_in(self, payloads: bytes, odd_tokens: bool) -> bool:
        """Whether nothing is suspicious in these, one after the other; all are checked and hold
        no float that is not finite. `odd_tokens`: some text begins with `token` that is not the
        model's own.
        """
        flags = self._look(payloads)
        return not flags & SECRET and not (flags & TOKEN_TEXT and odd_tokens)

    def _examine(
        self, blob: bytes, value: dict[str, object], kind: str, index: int
    ) -> tuple[bytes, bool]:
        """One payload of a request in which something was suspicious, by itself."""
        flags = self._look(blob)
        if flags & NON_FINITE:
            confirm(value, blob, _field(index))
        if not flags & (SECRET | TOKEN_TEXT):
            return blob, False
        clean, redacted = redact(value, kind=kind)
        stored = ormsgpack.packb(clean)
        if not redacted and (stored == blob or walk(blob, _field(index)) == count_pairs(value)):
            return blob, False
        if len(stored) > PAYLOAD_BYTES_MAX:
            raise too_large(len(stored), PAYLOAD_BYTES_MAX, _field(index))
        return stored, redacted


def same_content(stored: bytes, other: bytes) -> bool:
    """Whether two payloads are equal as data: a retry, and not a reused id.

    The order of keys does not matter, nor how a number is encoded; its type does (1 is neither
    1.0 nor true), and so does the sign of a zero. Both have passed `Sealer.seal`.
    """
    return stored == other or _canonical(stored) == _canonical(other)


def sound_map(blob: bytes) -> dict[str, object] | None:
    """The map in `blob`, whose depth and floats are beyond doubt; None: `Sealer.seal` has to say
    what it is."""
    if len(blob) > PAYLOAD_BYTES_MAX or may_be_odd(blob):
        return None
    try:
        value = unpack(blob)
        check_end(blob)
    except UNREADABLE:
        return None
    return value if type(value) is dict else None


def check_value(raw: bytes | memoryview, field: str, bytes_max: int) -> object:
    """The decoded value of a state or another value that is no payload; see `values.decode`.

    Raises:
        TooLarge: it is longer than `bytes_max` bytes.
        Invalid: it holds what `domain.values` does not allow.
    """
    return decode(raw, field, bytes_max=bytes_max)


def _canonical(raw: bytes) -> bytes:
    return ormsgpack.packb(ormsgpack.unpackb(raw), option=ormsgpack.OPT_SORT_KEYS)


def only_model_text(blob: bytes, value: dict[str, object], kind: str) -> bool:
    """Whether every `token` at the start of a text is the model's own key at the top level.

    model_token events are the most common ones, and all of them would look suspicious.
    """
    lower = blob.lower()
    seen = lower.count(b"\xa5token") + lower.count(b"\xa6token")
    return seen == 0 or (kind == MODEL_TOKEN and seen == ("token" in value) + ("tokens" in value))


def _field(index: int) -> str:
    return f"events[{index}].payload"


def _no_map(index: int) -> Invalid:
    return Invalid("the payload is no map", field=_field(index), hint="send a MessagePack map")
