"""ULIDs: 128 bits, 26 characters of Crockford base32, sorted by time. Pure; see `Ulids`.

On the wire an id is text, in the file and in memory 16 bytes. Only the canonical form is read:
upper case, no I L O U, first character 0..7 (130 bits of text hold 128); nothing is repaired.

Parsing goes through `int(…, 32)` and formatting through a table of 1,024 pairs, which takes
1 µs and 3 µs against 12 µs and 8 µs for python-ulid (`bench/bench_codec.py`); the tests hold
both against python-ulid.
"""

from collections.abc import Callable
from typing import Final

from palyra_actors.errors import InvalidId

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
TEXT_CHARACTERS: Final = 26
BYTES: Final = 16

_PAIRS: Final = tuple(first + second for first in ALPHABET for second in ALPHABET)
_INT_DIGITS: Final = "0123456789abcdefghijklmnopqrstuv"  # what int(…, 32) reads
_TO_INT_DIGITS: Final = bytes(
    ord(_INT_DIGITS[ALPHABET.index(chr(byte))]) if chr(byte) in ALPHABET else ord("!")
    for byte in range(256)
)
_RANDOM_BITS: Final = 80
_RANDOM_MAX: Final = (1 << _RANDOM_BITS) - 1


def parse_ulid(text: str, field: str = "id") -> bytes:
    """The 16 bytes of a canonical ULID.

    Raises:
        InvalidId: it is anything else; `field` names where it stood.
    """
    if len(text) == TEXT_CHARACTERS and text[0] <= "7":
        try:
            return int(text.encode().translate(_TO_INT_DIGITS), 32).to_bytes(BYTES, "big")
        except (ValueError, OverflowError):
            pass  # a character outside the alphabet became "!", or was no UTF-8 at all
    raise InvalidId(
        f"{text[:40]!r} is not a canonical ULID",
        field=field,
        hint="26 characters of Crockford base32: upper case, no I L O U, first one 0..7",
    )


def format_ulid(raw: bytes) -> str:
    """The 26 characters for 16 bytes."""
    value = int.from_bytes(raw, "big")
    pairs = _PAIRS
    high, low = value >> 70, value & 0x3FFFFFFFFFFFFFFFFF
    return (
        f"{pairs[high >> 50]}{pairs[high >> 40 & 1023]}{pairs[high >> 30 & 1023]}"
        f"{pairs[high >> 20 & 1023]}{pairs[high >> 10 & 1023]}{pairs[high & 1023]}"
        f"{pairs[low >> 60]}{pairs[low >> 50 & 1023]}{pairs[low >> 40 & 1023]}"
        f"{pairs[low >> 30 & 1023]}{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}"
        f"{pairs[low & 1023]}"
    )


def ulid_time_ms(raw: bytes) -> int:
    """Milliseconds since 1970 in the first 48 bits."""
    return int.from_bytes(raw[:6], "big")


class Ulids:
    """Makes ids that rise strictly, also within one millisecond and when the clock steps back.

    One thread at a time. `now_ms` is the wall clock in milliseconds, `entropy(n)` gives n random
    bytes (`os.urandom`). Within one millisecond the random part counts up by one.
    """

    def __init__(self, now_ms: Callable[[], int], entropy: Callable[[int], bytes]) -> None:
        self._now_ms = now_ms
        self._entropy = entropy
        self._last = 0

    def __call__(self) -> bytes:
        floor = self._last >> _RANDOM_BITS
        now = self._now_ms()
        if now > floor:
            random = int.from_bytes(self._entropy(10), "big") & (_RANDOM_MAX >> 1)
            self._last = (now << _RANDOM_BITS) | random
        else:
            self._last += 1
        return self._last.to_bytes(BYTES, "big")
