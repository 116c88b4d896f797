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
from functools import lru_cache
from hashlib import blake2b
from typing import Final

WORD_CHARACTERS_MAX: Final = 64
"""Longer ones (a key, a blob) count as their beginning."""

DIGEST_BYTES: Final = 6
"""Of a word: two of a hundred thousand words are the same once in fifty thousand scopes."""

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
    if not text.isascii():
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


@lru_cache(maxsize=65_536)
def term(scope: int, word: str) -> str:
    """What a word is in the index. Remembered for each scope by itself: how long it takes would
    tell whether somebody else uses the word."""
    del scope
    return blake2b(stem(word).encode(), digest_size=DIGEST_BYTES).hexdigest()


def scoped(scope: int, named: str, often: bool = False) -> str:
    """A term within a scope; `often`: in a text that has it twice or more."""
    return f"{scope:x}g{named}r" if often else f"{scope:x}g{named}"


def index_line(scope: int, text: str) -> tuple[str, int]:
    """A text as it goes into the index of its scope, and how many words it has."""
    found = words(text)
    terms, prefix = Counter([term(scope, one) for one in found]), f"{scope:x}g"
    line = [prefix + one for one in terms]
    line += [f"{prefix}{one}r" for one, count in terms.items() if count > 1]
    return " ".join(line), len(found)
