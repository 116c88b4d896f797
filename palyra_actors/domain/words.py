"""Words: what a text is found by. Pure.

    "The TimeDelta fields' precision"  ──▶  the timedelta time delta fields precision

Letters and digits in lower case, without accents; names are found whole and by their parts; where
words are not parted by spaces (Chinese, Japanese), every two characters that follow each other are
one. In the index a word is a digest of its stem, so that nothing of an erased text can be read from
what an index keeps of it, and no query can hold syntax.
"""

import re
import unicodedata
from collections import Counter
from hashlib import blake2b
from typing import ClassVar, Final

WORD_CHARACTERS_MAX: Final = 64
"""Longer ones (a key, a blob) count as their beginning."""

DIGEST_BYTES: Final = 6
"""Of a word: two of a hundred thousand words are the same once in fifty thousand scopes."""

TERMS_KEPT_MAX: Final = 65_536
"""Of all scopes together."""

_LETTERS: Final = bytes(
    ord(chr(one).lower()) if chr(one).isascii() and chr(one).isalnum() else 32 for one in range(256)
)
_WITHIN: Final = re.compile(r"[0-9A-Za-z][A-Z]|[A-Z][A-Za-z]*[0-9]")
"""In a text without it no word is a name of several parts."""

_WORD: Final = re.compile(r"[^\W_]+")
_PARTS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]")

# The commonest words of English, which say little of what a text is about.
_COMMON: Final = (
    "a about after all also an and any are as at be been but by can could did do does for from "
    "had has have he her his how i if in into is it its just me more my no not now of on one "
    "only or other our out over said she should so some such than that the their them then "
    "there these they this to up us use was we were what when where which who why will with "
    "would you your "
)
COMMON: Final = frozenset(_COMMON.split())


def words(text: str) -> list[str]:
    """The words of a text in their order; the parts of a name follow it."""
    if text.isascii():
        if text.islower() or not _WITHIN.search(text):  # as most are: a tenth of the time
            plain = text.encode().translate(_LETTERS).decode().split()
            if max(map(len, plain), default=0) > WORD_CHARACTERS_MAX:
                plain = [word[:WORD_CHARACTERS_MAX] for word in plain]
            return plain
    else:
        text = "".join(
            one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one)
        )
        text = unicodedata.normalize("NFC", text)
    found: list[str] = []
    for raw in _WORD.findall(text):
        word = raw[:WORD_CHARACTERS_MAX].lower()
        if not word.isascii() and _UNSPACED.search(word):
            found += [word[at : at + 2] for at in range(max(1, len(word) - 1))]
            continue
        found.append(word)
        if word != raw and not raw.istitle() and not raw.isupper():
            parts = _PARTS.findall(raw[:WORD_CHARACTERS_MAX])
            if len(parts) > 1:
                found += [part.lower() for part in parts]
    return found


def stem(word: str) -> str:
    """Without the ending of a plural (Harman's S stemmer)."""
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies") and word[-4] not in "ea":
        return word[:-3] + "y"
    if word.endswith("es") and word[-3] not in "aeo":
        return word[:-1]
    return word if word[-2] in "us" else word[:-1]


class Terms(dict[str, str]):
    """What words are in the index, as far as they were met lately: of one scope, because how long
    it takes would tell whether somebody else uses the word."""

    met: ClassVar[int] = 0
    """In all scopes together."""

    def __missing__(self, word: str) -> str:
        made = blake2b(stem(word).encode(), digest_size=DIGEST_BYTES).hexdigest()
        self[word] = made
        Terms.met += 1
        if Terms.met > TERMS_KEPT_MAX:
            _kept.clear()
            Terms.met = 0
        return made


_kept: dict[int, Terms] = {}


def terms(scope: int) -> Terms:
    """Of any thread."""
    known = _kept.get(scope)
    return _kept.setdefault(scope, Terms()) if known is None else known


def term(scope: int, word: str) -> str:
    """What a word is in the index."""
    return terms(scope)[word]


def scoped(scope: int, named: str, often: bool = False) -> str:
    """A term within a scope; `often`: in a text that has it twice or more."""
    return f"{scope:x}g{named}r" if often else f"{scope:x}g{named}"


def index_line(scope: int, text: str) -> tuple[str, int]:
    """A text as it goes into the index of its scope, and how many words it has."""
    found = words(text)
    counts = Counter(map(terms(scope).__getitem__, found))
    if not counts:
        return "", 0
    prefix = f"{scope:x}g"
    line = prefix + f" {prefix}".join(counts)
    if len(counts) < len(found):
        often = [one for one, count in counts.items() if count > 1]
        line += f" {prefix}" + f"r {prefix}".join(often) + "r"
    return line, len(found)
