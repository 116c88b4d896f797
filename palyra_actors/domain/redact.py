"""Secrets are taken out before anything is stored or hashed (docs/protocol.md, part 4). Pure.

Two looks. The first is one Hyperscan pass over the bytes of a whole request (`FirstLook`): it may
be wrong in one direction only, it never misses what the second look would take out. The second
(`redact`) walks the decoded value and decides.

What counts as a secret:

    under a key that names one    every text below it, and bytes, which become text
    text of a secret's shape      anywhere, in keys too; only the shape is replaced
    NAME=value, NAME: value       in text, when the name is a secret's: name and value are replaced

Numbers, booleans and nil are never secrets; in text this holds for `true`, `null` and the like,
and for plain numbers behind a name that counts tokens (`max_tokens=4096`).
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final

import hyperscan
import msgspec
import ormsgpack

from palyra_actors.domain.swift import compiled_redact
from palyra_actors.domain.values import NON_FINITE_BYTES

REDACTED: Final = "<redacted>"

SECRET: Final = 1
NON_FINITE: Final = 2
TOKEN_TEXT: Final = 4

MODEL_TOKEN: Final = "model_token"
MODEL_TEXT_KEYS: Final = frozenset(("token", "tokens", "text"))

# `api-key`, `api key`, `apiKey` and `api.key` are one name: up to three characters that are
# neither letters nor digits may stand between its words.
_GAP: Final = r"[^a-z0-9]{0,3}"
_NAMES_BUT_TOKEN: Final = (
    rf"secret|passwd|pass{_GAP}word|api{_GAP}key|authorization|cookie|credential"
    rf"|private{_GAP}key|signature"
)
# tokenize, tokenizer, tokenisation; but not tokenIssuer, which is a compound.
_TOKEN: Final = r"token(?!(?:(?-i:i[sz])|(?<=(?-i:N))(?-i:I[SZ]))(?:e|ing|ation|able))"
_NAME: Final = rf"(?:{_NAMES_BUT_TOKEN}|{_TOKEN})"
_FLAGS: Final = re.IGNORECASE | re.ASCII | re.DOTALL

_SECRET_KEY: Final = re.compile(_NAME, _FLAGS)
_NAMED_OTHERWISE: Final = re.compile(_NAMES_BUT_TOKEN, _FLAGS)

_PEM: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[^-]{0,20}-----.*?"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY[^-]{0,20}-----|\Z)",
    re.ASCII | re.DOTALL,
)
_URL_LOGIN: Final = re.compile(r"(?P<scheme>:\\?/\\?/)[^\s/?#\"'<>@:]*+:[^\s/?#\"'<>]+@", re.ASCII)
# The tail is optional so that a run is read once whether or not it turns out to be a JWT.
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]{6,}+(?P<tail>(?:\.[A-Za-z0-9_-]*+){2,4}+)?", re.ASCII)
_BEARER: Final = re.compile(
    r"bearer(?:[ \t:=\"'+]|%20)++(?P<token>[A-Za-z0-9._~+/=-]++)", re.IGNORECASE | re.ASCII
)
_KEYS: Final = re.compile(
    r"(?<![A-Za-z0-9])sk-(?P<sk>[A-Za-z0-9_-]{4,}+)"
    r"|gh[a-z]_[A-Za-z0-9]{4,}+|github_pat_[A-Za-z0-9_]{4,}+"
    r"|A[KS]IA[0-9A-Z]{12,}+",
    re.ASCII,
)
_KEY_MARKS: Final = ("sk-", "AKIA", "ASIA", "gh", "github_pat_")
# Words that follow "bearer" in prose. Anything else behind it is taken for a token.
_BEARER_PROSE: Final = re.compile(
    r"(?:an?|and|are|as|at|auth|authenti[cz]ation|authori[sz]ation|by|can|for|from|has|headers?|in"
    r"|is|it|may|must|no|not|of|on|only|or|s|schemes?|should|that|the|to|tokens?|type|was|will|with"
    r")\.?",
    re.ASCII,
)

# Always matches the rest of the word, so that a word of many names is read once.
_ASSIGNED: Final = re.compile(
    rf"{_NAME}[\w.-]*+"
    r"(?P<sep>(?P<close>\\{0,8}[\"'`])?\]?[ \t*]*+(?::(?!:[A-Za-z_])[:=]?|=[=>]{0,2})[ \t*]*+"
    r"(?P<value>"
    r"(?=[\[{])"
    r"|\"(?:[^\"\\]++|\\.?)*+\"?|'(?:[^'\\]++|\\.?)*+'?|`[^`]*+`?"
    r"|(?P<escaped>\\{1,8}[\"'])(?:(?!(?<!\\)(?P=escaped)).)*+(?P=escaped)?"
    r"|(?:(?:bearer|basic|digest|token|negotiate|apikey)[ \t]+)?[^\s\"'`&,;)\]}]++"
    r"))?",
    _FLAGS,
)
# These two carry a whole line: a scheme and credentials, or pairs parted by semicolons.
_HEADER: Final = re.compile(r"(?:[^\r\n\"'\\]++|(?<==)\"[^\"\r\n]*+\"|\\(?![rn\"']))*+", re.ASCII)
_HEADER_NAME: Final = re.compile(r"(?:authorization|cookies?)\Z", re.IGNORECASE | re.ASCII)
_COUNTS_TOKENS: Final = re.compile(
    r"tokens|token[_.-]?(?:count|limit|budget|usage|total|size)", re.IGNORECASE | re.ASCII
)
_NUMBER: Final = re.compile(r"[\\\"'`]*[+-]?[0-9][0-9_.]*%?[\\\"'`]*", re.ASCII)
_LITERAL: Final = re.compile(r"(?:true|false|null|nil|none|undefined|nan)\b[.]?", _FLAGS)
_BRACKETS: Final = re.compile(r"[\[{]|(?P<shut>[\]}])|\"(?:[^\"\\]++|\\.?)*+\"?", re.DOTALL)
_BARE_BRACKETS: Final = re.compile(r"[\[{]|(?P<shut>[\]}])")
_NO_TEXT_INSIDE: Final = re.compile(
    r"(?:[\s{}\[\],0-9.eE+-]|true|false|null|\"[^\"\\:=]*+\"\s*+:)*+", re.DOTALL
)
_WORD_CHARACTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
)
# Where a name may begin. Finding these by themselves takes a tenth of searching for `_ASSIGNED`.
_NAMES_BEGIN: Final = (
    "secret",
    "pass",
    "api",
    "authorization",
    "cookie",
    "credential",
    "private",
    "signature",
    "token",
)

# In raw MessagePack the byte before a text is the end of its header: one of the lengths, which
# may look like a letter. The first look must not take it for one.
_EDGE: Final = rb"(?:^|[^A-Za-z0-9]|[\xd9\xc4].|[\xda\xc5]..|[\xdb\xc6]....)"
_ANY_CASE: Final = hyperscan.HS_FLAG_CASELESS
_PATTERNS: Final[tuple[tuple[bytes, int, int], ...]] = (
    # A gap of three characters is up to twelve bytes.
    (_NAMES_BUT_TOKEN.replace("{0,3}", "{0,12}").encode(), SECRET, _ANY_CASE),
    (rb"(?:^|[^\xa5\xa6])token", SECRET, _ANY_CASE),
    (rb"[\xa5\xa6]token", TOKEN_TEXT, _ANY_CASE),
    (rb"bearer[^a-z0-9]", SECRET, _ANY_CASE),
    (_EDGE + rb"sk-[A-Za-z0-9_-]{4}", SECRET, 0),
    (rb"gh[a-z]_[A-Za-z0-9]{4}|github_pat_", SECRET, 0),
    (rb"A[KS]IA[0-9A-Z]{12}", SECRET, 0),
    (rb"eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*\.", SECRET, 0),
    (rb":\\?/\\?/[^ /?#@:]*:[^ /?#]+@", SECRET, 0),
    (NON_FINITE_BYTES, NON_FINITE, 0),
)


@cache
def _compile() -> hyperscan.Database:
    """The patterns' database, which nobody changes: 40 milliseconds, once a process. Threads that
    come for it at the same moment may each compile one, and any is as good as the others."""
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    always = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_DOTALL
    database.compile(
        expressions=[pattern for pattern, _, _ in _PATTERNS],
        ids=list(range(len(_PATTERNS))),
        flags=[flags | always for _, _, flags in _PATTERNS],
    )
    return database


class FirstLook:
    """One pass over raw MessagePack bytes: what may be in there. One thread at a time.

    Hyperscan's scratch space belongs to one scan at a time, so every thread makes a FirstLook of
    its own. The database of the patterns is all threads' together.

    Calling it gives flags, 0 where nothing is suspicious:

        SECRET       the second look has to look
        NON_FINITE   some bytes may be a float that is not finite
        TOKEN_TEXT   some text of five or six bytes begins with `token`: in a model_token event
                     the model's own key, anywhere else as suspicious as SECRET
    """

    def __init__(self) -> None:
        self._database = _compile()
        self._scratch = self._database.scratch.clone()
        self._flags = 0
        self._bits = tuple(bit for _, bit, _ in _PATTERNS)
        self._on_match = self._note

    def __call__(self, blob: bytes) -> int:
        self._flags = 0
        self._database.scan(blob, match_event_handler=self._on_match, scratch=self._scratch)
        return self._flags

    def _note(self, pattern: int, _start: int, _end: int, _flags: int, _context: object) -> None:
        self._flags |= self._bits[pattern]


def redact(
    value: object, *, kind: str, look: Callable[[bytes], bool] | None = None
) -> tuple[object, bool]:
    """A decoded value without its secrets, and whether any were found. The argument stays whole.

    `look` says of MessagePack whether a secret may be in it (`FirstLook`): with it, what is long
    is looked at by stretches first, and only those are walked that need be. 700 KB in which one
    key names a token take 3 ms then, and 40 without.

    `kind` is the event's: in a `model_token` the top-level keys `token`, `tokens` and `text` hold
    the model's text, which is only looked at for shapes. At most 64 levels deep (`values.decode`).
    A key that loses a secret and would then equal another gets a number behind it.
    """
    walk = _Walk(look)
    if kind == MODEL_TOKEN and isinstance(value, dict):
        return walk.map(value, False, MODEL_TEXT_KEYS), walk.found
    return walk.value(value, False), walk.found


def redact_value(
    value: object, blob: bytes | None = None, *, look: Callable[[bytes], bool] | None = None
) -> tuple[object, bool]:
    """`redact` for what is in no event: in C where that is compiled, over `blob` if that is the
    value's MessagePack; else with `look`."""
    if compiled_redact is not None:
        for given in (blob, None):
            packed = ormsgpack.packb(value) if given is None else given  # no key stands twice
            stored = compiled_redact.redact(packed, False)
            if stored is not None:
                return (value, False) if stored is packed else (ormsgpack.unpackb(stored), True)
    return redact(value, kind="", look=look)


def _examine_key(key: str) -> tuple[bool, str]:
    """Whether a map key names a secret (anywhere in it, in any case), and the key without one."""
    return _SECRET_KEY.search(key) is not None, redact_text(key)


# Short keys only: clients choose them, and the cache lives as long as the process.
_KEY_CHARACTERS_CACHED: Final = 32
_examine_short_key = lru_cache(maxsize=2048)(_examine_key)


STRETCH: Final = 64
"""Items of a list, or pairs of a map, that are looked at together."""

_encode = msgspec.msgpack.Encoder().encode

_NEVER_SECRET: Final = frozenset((int, float, bool, type(None)))
_CONTAINERS: Final = frozenset((dict, list))


class _Walk:
    """One walk over one value; `found` says whether anything was taken out."""

    __slots__ = ("_look", "found")

    def __init__(self, look: Callable[[bytes], bool] | None = None) -> None:
        self._look = look
        self.found = False

    def value(self, value: object, named: bool) -> object:
        """`named`: a key above names a secret."""
        if isinstance(value, str):
            return self.named() if named else self.text(value)
        if isinstance(value, dict):
            return self.map(value, named, frozenset()) if value else value
        if isinstance(value, list):
            return self.items(value, named) if value else value
        if isinstance(value, bytes):
            return self.named() if named else self.binary(value)
        return value

    def items(self, items: list[object], named: bool) -> list[object]:
        """Most of what a large list holds is no secret by its type, or empty: no call for it."""
        below = self.value
        if self._look is not None and not named and len(items) > STRETCH:
            made: list[object] = []
            for at in range(0, len(items), STRETCH):
                stretch = items[at : at + STRETCH]
                clear = not self._look(_encode(stretch))
                made += stretch if clear else [below(item, False) for item in stretch]
            return made
        return [
            item
            if type(item) in _NEVER_SECRET or (not item and type(item) in _CONTAINERS)
            else below(item, named)
            for item in items
        ]

    def named(self) -> str:
        self.found = True
        return REDACTED

    def text(self, text: str) -> str:
        clean = redact_text(text)
        if clean is not text:
            self.found = True
        return clean

    def binary(self, blob: bytes) -> bytes:
        """Bytes that read as text are looked at as text, and stay bytes."""
        try:
            text = blob.decode()
        except UnicodeDecodeError:
            return blob
        clean = self.text(text)
        return blob if clean is text else clean.encode()

    def map(self, pairs: dict[str, object], named: bool, exempt: frozenset[str]) -> object:
        clean: dict[str, object] = {}
        numbers: dict[str, int] = {}
        look = self._look if len(pairs) > STRETCH and not named else None
        many = list(pairs.items()) if look is not None else []
        clear = False
        for place, (key, value) in enumerate(pairs.items()):
            if look is not None and not place % STRETCH:
                clear = not look(_encode(many[place : place + STRETCH]))
            if clear:
                clean[key] = value
                continue
            short = len(key) <= _KEY_CHARACTERS_CACHED
            names_secret, plain = _examine_short_key(key) if short else _examine_key(key)
            if plain != key:
                self.found = True
                plain = _free_name(plain, numbers, pairs, clean)
            if type(value) in _NEVER_SECRET:
                clean[plain] = value
            else:
                clean[plain] = self.value(value, named or (names_secret and key not in exempt))
        return clean


def _free_name(
    name: str, numbers: dict[str, int], before: dict[str, object], after: dict[str, object]
) -> str:
    """`name`, with the next number behind it if it is taken."""
    free = name
    while free in before or free in after:
        numbers[name] = numbers.get(name, 1) + 1
        free = f"{name} {numbers[name]}"
    return free


def redact_text_plainly(text: str) -> str:
    """Text without what has a secret's shape; the same object where there is none.

    Time is linear in the length of the text, whatever it holds.
    """
    clean = text
    if "PRIVATE KEY" in clean:
        clean = _PEM.sub(REDACTED, clean)
    if "@" in clean and "//" in clean.replace("\\", ""):
        clean = _URL_LOGIN.sub(rf"\g<scheme>{REDACTED}", clean)
    if "eyJ" in clean:
        clean = _JWT.sub(lambda match: REDACTED if match["tail"] else match[0], clean)
    if "bearer" in clean.lower():
        clean = _BEARER.sub(_bearer, clean)
    if any(mark in clean for mark in _KEY_MARKS):
        clean = _KEYS.sub(_key, clean)
    if ":" in clean or "=" in clean:
        clean = _redact_assigned(clean)
    return text if clean == text else clean


def redact_text_swiftly(text: str) -> str:
    """As `redact_text_plainly`, in C."""
    clean: str | None = compiled_redact.redact_text(text)
    return redact_text_plainly(text) if clean is None else clean


redact_text = redact_text_plainly if compiled_redact is None else redact_text_swiftly


def _bearer(match: re.Match[str]) -> str:
    return match[0] if _BEARER_PROSE.fullmatch(match["token"]) else REDACTED


def _key(match: re.Match[str]) -> str:
    """Short `sk-` words without a digit are words: sk-learn, the locale sk-SK."""
    word = match["sk"]
    if word is not None and len(word) < 8 and not any(letter.isdigit() for letter in word):
        return match[0]
    return REDACTED


def _redact_assigned(text: str) -> str:
    """NAME=value and NAME: value, in prose, shell, headers, URLs and JSON inside text."""
    kept: list[str] = []
    done = at = 0
    for place in _name_places(text):
        match = _ASSIGNED.match(text, place) if place >= at else None
        if match is None:
            continue
        at = match.end()
        if match["sep"] is None:
            continue
        start, end = match.span()
        name = text[start : match.start("sep")]
        value = match["value"]
        if value == "":
            end = _closing(text, end, bare=(match["close"] or "").startswith("\\"))
            at = end
            if _NO_TEXT_INSIDE.fullmatch(text, match.end(), end):
                continue
        elif _LITERAL.fullmatch(value) or (_NUMBER.fullmatch(value) and _counts_tokens(name)):
            continue
        elif value[0] not in "\"'`\\" and _HEADER_NAME.search(name):
            line = _HEADER.match(text, match.start("value"))
            at = end = max(end, line.end() if line else end)
        start = _word_start(text, start, done)
        close = match["close"]
        if close and text.endswith(close, done, start):
            start -= len(close)
        kept += (text[done:start], REDACTED)
        done = end
    if not kept:
        return text
    kept.append(text[done:])
    return "".join(kept)


def _name_places(text: str) -> list[int]:
    """Where a secret's name may begin, in order."""
    # The one letter that becomes two in lower case would shift every place behind it.
    lower = text.replace("\u0130", "i").lower()
    places: list[int] = []
    for name in _NAMES_BEGIN:
        place = lower.find(name)
        while place >= 0:
            places.append(place)
            place = lower.find(name, place + 1)
    places.sort()
    return places


def _counts_tokens(name: str) -> bool:
    """Whether a plain number behind `name` counts tokens and is none itself."""
    return bool(_COUNTS_TOKENS.search(name)) and not _NAMED_OTHERWISE.search(name)


def _word_start(text: str, start: int, floor: int) -> int:
    """Where the word begins in which a name was found: the `DB_` of `DB_PASSWORD`."""
    while start > floor and text[start - 1] in _WORD_CHARACTERS:
        start -= 1
    return start


def _closing(text: str, start: int, *, bare: bool) -> int:
    """Behind the bracket that closes the one at `start`; the end of the text if none does.

    `bare`: quotes mean nothing, because the JSON here is escaped inside other text.
    """
    depth = 0
    for bracket in (_BARE_BRACKETS if bare else _BRACKETS).finditer(text, start):
        if bracket["shut"]:
            depth -= 1
            if depth == 0:
                return bracket.end()
        elif bracket[0][0] != '"':
            depth += 1
    return len(text)
