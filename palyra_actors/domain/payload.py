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
from palyra_actors.domain.swift import compiled_redact
from palyra_actors.domain.values import (
    UNREADABLE,
    check_end,
    confirm,
    container_bytes,
    count_pairs,
    decode,
    is_sound,
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
        plain = flags == 0
        sealed: list[tuple[bytes, bool]] = []
        for blob, kind in zip(blobs, kinds, strict=True):
            value = None
            if not (is_sound(blob) and _opens_map(blob)):
                value = self._decoded(blob, len(sealed))
                if container_bytes(blob) > VALUE_DEPTH_MAX:
                    confirm(value, blob, _field(len(sealed)))
            if plain or (flags == TOKEN_TEXT and only_model_text(blob, value, kind)):
                sealed.append((blob, False))
            else:
                sealed.append(self._examine(blob, value, kind, len(sealed)))
            del value
        return sealed

    def nothing_in(self, payloads: bytes, odd_tokens: bool) -> bool:
        """Whether nothing is suspicious in these, one after the other; all are checked and hold
        no float that is not finite. `odd_tokens`: some text begins with `token` that is not the
        model's own.
        """
        flags = self._look(payloads)
        return not flags & SECRET and not (flags & TOKEN_TEXT and odd_tokens)

    @staticmethod
    def _decoded(blob: bytes, index: int) -> dict[str, object]:
        try:
            value: object = unpack(blob)
            check_end(blob)
        except UNREADABLE as error:
            raise refusal(blob, _field(index), error) from error
        if type(value) is not dict:
            raise _no_map(index)
        return value

    def _examine(
        self, blob: bytes, value: dict[str, object] | None, kind: str, index: int
    ) -> tuple[bytes, bool]:
        """One payload of a request in which something was suspicious, by itself. `value`: what is
        in it; None: it is sound, and was not decoded."""
        flags = self._look(blob)
        if value is not None and flags & NON_FINITE:
            confirm(value, blob, _field(index))
        if not flags & (SECRET | TOKEN_TEXT):
            return blob, False
        stored, redacted = None, False
        if value is None:
            stored, redacted = _redact_swiftly(blob, kind)
        if stored is None:
            stored, redacted = redact_plainly(blob, value or self._decoded(blob, index), kind)
        if stored is not blob and len(stored) > PAYLOAD_BYTES_MAX:
            raise too_large(len(stored), PAYLOAD_BYTES_MAX, _field(index))
        return stored, redacted


def redact_plainly(blob: bytes, value: dict[str, object], kind: str) -> tuple[bytes, bool]:
    """A sound payload without its secrets, and whether there were any; the same object where there
    were none and no map names a key twice."""
    clean, redacted = redact(value, kind=kind)
    stored = ormsgpack.packb(clean)
    if not redacted and (stored == blob or walk(blob, "") == count_pairs(value)):
        return blob, False
    return stored, redacted


def _redact_swiftly(blob: bytes, kind: str) -> tuple[bytes | None, bool]:
    """As `redact_plainly`, in C and without decoding it; None: that does not know what to do."""
    models = kind == MODEL_TOKEN
    stored = compiled_redact.redact(blob, models)
    if stored is not None:
        return stored, stored is not blob
    single = ormsgpack.packb(unpack(blob))  # where a key stands twice, its last value counts
    stored = compiled_redact.redact(single, models)
    return stored, stored is not single


def _opens_map(blob: bytes) -> bool:
    return 0x80 <= blob[0] <= 0x8F or blob[0] in (0xDE, 0xDF)


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


def only_model_text(blob: bytes, value: dict[str, object] | None, kind: str) -> bool:
    """Whether every `token` at the start of a text is the model's own key at the top level.
    `value`: what is in it, where that is known.

    model_token events are the most common ones, and all of them would look suspicious.
    """
    lower = blob.lower()
    seen = lower.count(b"\xa5token") + lower.count(b"\xa6token")
    if seen == 0 or kind != MODEL_TOKEN:
        return seen == 0
    own = unpack(blob) if value is None else value
    return seen == ("token" in own) + ("tokens" in own)


def _field(index: int) -> str:
    return f"events[{index}].payload"


def _no_map(index: int) -> Invalid:
    return Invalid("the payload is no map", field=_field(index), hint="send a MessagePack map")
