"""Finding memories: by words, by meaning, by how new they are. In a reader's thread.

    score = (w_lexical · lexical + w_vector · vector + w_recency · recency) / (sum of the weights)

    lexical   BM25 of the query's words, divided by the most that the query could have: 1 is a short
              text with every word of it
    vector    the cosine of query and text, 0 where it is negative
    recency   2^(-age / half-life)

All three lie in 0..1 and depend on nothing but query, item and scope, never on what else was found:
a score means the same from query to query. `lexical` and `vector` alone are scores of their own.
Filters come first; what passes them is ranked, all of it, exactly. Only of a scope whose vectors
do not fit into memory it is guessed from codes who may be among the best, and those are ranked.

The index is SQLite's FTS5; the weights of words are the scope's own, and not those of FTS5's
`bm25()`, which counts everybody's texts: one principal's scores would tell of another's words.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from math import log, log1p
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from palyra_actors.actors.memory import present, sizes
from palyra_actors.actors.shelf import NEVER, NOTHING, Block, Names, Shelf, Shelves, from_file
from palyra_actors.actors.signs import CANDIDATES
from palyra_actors.domain.catalog import MEMORY_SOURCES
from palyra_actors.domain.memory import view
from palyra_actors.domain.words import COMMON, scoped, stem, term, terms, words
from palyra_actors.embedding.provider import Model
from palyra_actors.storage.port import ReadSide

K1: Final = 1.2
B: Final = 0.75
PIVOT_WORDS: Final = 64
"""The length at which a text counts as neither short nor long: fixed, so that a score does not
change with what else is remembered."""

BEST: Final = 1 + K1 * (1 - B)
"""What the part of one word is divided by, so that it is 1 at most."""

TERMS_MAX: Final = 32
WORDS_LOOKED_UP_MAX: Final = 96
"""Distinct words of a query that are counted; the rarest `TERMS_MAX` of them are searched for."""

ROWS_MAX: Final = 8_192
"""Items that have a word, above which it is common: it then only raises what was found by others,
or, where all of a query's words are common, is looked up from the newest on."""

ROWS_SUM_MAX: Final = 24_576
COMMON_TERMS_MAX: Final = 2
"""Of a query's common words, the rarest so many are looked up; how often a text has them is not.
The others count for the best `WEIGHED_ANEW`, whose texts are read."""

WEIGHED_ANEW: Final = 64
"""Hits that may win by common words: about 50 µs each. Without it a long text with all of eight
words came behind short ones with three of them, 7 times in 500 among a million items."""

RUN: Final = 64
"""Scores of which only the best is looked at, to know what the best of all are at least."""

SPARE: Final = 16
"""Hits more than are asked for: some may be removed between ranking and reading."""

SNIPPET_CHARACTERS: Final = 200
SNIPPET_BEFORE: Final = 48
_WORD: Final = re.compile(r"[^\W_]+")
_DAY_MS: Final = 86_400_000


class Weights(NamedTuple):
    """Of the formula; `half_life_days` is recency's."""

    lexical: float
    vector: float
    recency: float
    half_life_days: float


class Question(NamedTuple):
    """`vector`: of the query, None where there is none. `at_ms`: as of then; `now_ms` else."""

    query: str
    mode: str
    top_k: int
    min_score: float
    tags: Sequence[str]
    sources: Sequence[str] | None
    session_id: bytes | None
    channel: str | None
    at_ms: int | None
    now_ms: int
    vector: NDArray[np.float32] | None

    @property
    def moment_ms(self) -> int:
        return self.now_ms if self.at_ms is None else self.at_ms


class Ranked(NamedTuple):
    score: float
    seq: int
    owner: str
    lexical: float
    vector: float
    recency: float


class Lexical(NamedTuple):
    """For each item that has a word of the query: the sums of `idf` over the words that it has
    once, and twice or more. `most`: over all words of the query; `left_out`: terms that were not
    looked up, with their `idf`."""

    seqs: NDArray[np.int64]
    once: NDArray[np.float64]
    often: NDArray[np.float64]
    most: float
    left_out: Sequence[tuple[str, float]] = ()

    @property
    def spread(self) -> float:
        """What a score by words may lack."""
        return sum(idf for _, idf in self.left_out) / self.most


class Hits(NamedTuple):
    """What was found, best first. `without_vector`: items of the scopes that wait for theirs, and
    were not ranked by meaning."""

    hits: list[dict[str, Any]]
    without_vector: int


class Having(NamedTuple):
    """The items that have a term, those of them that have it twice or more, and its weight."""

    seqs: NDArray[np.int64]
    often: NDArray[np.int64]
    idf: float


NOTHING_FOUND: Final = Lexical(NOTHING, np.empty(0, np.float64), np.empty(0, np.float64), 1.0)


class Library(NamedTuple):
    """What all searches run with."""

    shelves: Shelves
    model: Model
    weights: Weights


class Hunt(NamedTuple):
    """One search in one scope. `tagged`: for each tag that is asked for, the items that have it."""

    owner: str
    question: Question
    weights: Weights
    lexical: Lexical
    tagged: Sequence[NDArray[np.int64]]
    names: Names
    wanted: int

    @property
    def vector(self) -> NDArray[np.float32] | None:
        """What it is ranked by, if by meaning."""
        return None if self.question.mode == "lexical" else self.question.vector


def search(
    reader: ReadSide,
    library: Library,
    scopes: Iterable[tuple[int, str]],
    question: Question,
) -> Hits:
    """The hits, best first: exactly `top_k` if as many match."""
    scopes = list(scopes)
    spare = SPARE
    while True:
        wanted, without_vector = question.top_k + spare, 0
        ranked: list[Ranked] = []
        for scope in scopes:
            found, unknown = _rank_scope(reader, library, scope, question, wanted)
            ranked += found
            without_vector += unknown
        ranked.sort(key=_best_first)
        hits = _read(reader, ranked, question)
        if len(hits) == question.top_k or len(ranked) < wanted:
            return Hits(hits, without_vector)
        spare *= 8  # more was removed meanwhile than was spared


def _best_first(one: Ranked) -> tuple[float, int]:
    return -one.score, -one.seq


def _rank_scope(
    reader: ReadSide, library: Library, scope: tuple[int, str], question: Question, wanted: int
) -> tuple[list[Ranked], int]:
    """The best of a scope, and how many items of it were not ranked by meaning, but should be."""
    (stream, owner), model = scope, library.model
    numbers = reader.rows("memory.model", model)
    number = numbers[0][0] if numbers else 0
    shelf = library.shelves.shelf(reader, stream, number)
    names = Names() if shelf is None else shelf.names
    blocks: Iterator[Block]
    if shelf is None:
        count = sum(one.items for one in sizes(reader, (stream,)).values())
        blocks = from_file(reader, stream, number, model.dimensions, names)
    else:
        block = shelf.block()
        count = int(np.count_nonzero(block.alive))
        blocks = iter((block,))
    lexical = NOTHING_FOUND
    if question.mode != "vector":
        lexical = _find_words(reader, stream, question.query, count, shelf)
    tagged = [_tagged(reader, stream, tag, shelf) for tag in question.tags]
    if lexical.left_out:
        wanted = max(wanted, WEIGHED_ANEW)
    hunt = Hunt(owner, question, library.weights, lexical, tagged, names, wanted)
    if shelf and shelf.signs and hunt.vector is not None and len(block.seqs):
        likely = _likely(block, hunt, shelf.signs.likeness(block.vectors, hunt.vector))
        blocks = iter((shelf.exact(reader, number, likely),))
    ranked: list[Ranked] = []
    unknown = 0
    for each in blocks:
        if len(each.seqs):
            ranked += _rank(each, hunt)
            unknown += int(np.count_nonzero(each.alive & ~each.known))
    ranked.sort(key=_best_first)
    if lexical.left_out:
        ranked = _weigh_anew(reader, stream, ranked[:wanted], hunt)
        ranked.sort(key=_best_first)
    return ranked[:wanted], 0 if hunt.vector is None else unknown


def _tagged(reader: ReadSide, stream: int, tag: str, shelf: Shelf | None) -> NDArray[np.int64]:
    """The items that have a tag, in their order."""

    def later(after: int) -> NDArray[np.int64]:
        return _numbers(reader.rows("memory.tagged", (stream, tag, after)))

    return later(0) if shelf is None else shelf.lists.whole(f"#{tag}", later)


def _weigh_anew(
    reader: ReadSide, stream: int, ranked: Sequence[Ranked], hunt: Hunt
) -> list[Ranked]:
    """With the words that were not looked up, taken from the texts."""
    lexical, weights, found = hunt.lexical, hunt.weights, []
    share = 1.0
    if hunt.question.mode == "hybrid":
        share = weights.lexical / (weights.lexical + weights.vector + weights.recency)
    seqs = json.dumps([one.seq for one in ranked])
    items = {item.seq: item for item in present(reader, reader.rows("memory.by_seqs", (seqs,)))}
    for one in ranked:
        more = 0.0
        if one.seq in items:
            text = [*map(terms(stream).__getitem__, words(items[one.seq].content))]
            length = K1 * (1 - B + B * len(text) / PIVOT_WORDS)
            for left_out, idf in lexical.left_out:
                count = min(2, text.count(left_out))
                more += idf * min(1.0, count * BEST / (count + length)) / lexical.most
        changed = one._replace(score=one.score + share * more, lexical=one.lexical + more)
        if changed.score >= hunt.question.min_score:
            found.append(changed)
    return found


def _likely(block: Block, hunt: Hunt, by_meaning: NDArray[np.float32]) -> Block:
    """The items that may be among the best, where it is known about how near they are."""
    by_meaning[~block.known] = 0.0
    total, mask = _totals(block, hunt, _lexical_scores(block, hunt.lexical), by_meaning)
    at = np.sort(_best(total, mask, max(CANDIDATES, hunt.wanted), 0.0))
    return Block._make(array[at] for array in block)


def _rank(block: Block, hunt: Hunt) -> list[Ranked]:
    """The best of a block."""
    question = hunt.question
    by_words = _lexical_scores(block, hunt.lexical)
    by_meaning: NDArray[np.float32] | None = None
    if hunt.vector is not None:
        # not `@`: BLAS shares it among threads, ten times as slow where others work, too
        by_meaning = np.einsum("ij,j->i", block.vectors, hunt.vector)
        np.maximum(by_meaning, 0.0, out=by_meaning)
    elif question.mode == "vector":
        return []
    total, mask = _totals(block, hunt, by_words, by_meaning)
    best = _best(total, mask, hunt.wanted, question.min_score - hunt.lexical.spread)
    fresh = np.exp(np.minimum(block.created[best] - question.moment_ms, 0) * _rate(hunt.weights))
    return [
        Ranked(
            float(total[at]), int(block.seqs[at]), hunt.owner, float(by_words[at]),
            0.0 if by_meaning is None else float(by_meaning[at]), recency,
        )
        for at, recency in zip(best.tolist(), fresh.tolist(), strict=True)
    ]  # fmt: skip


def _totals(
    block: Block,
    hunt: Hunt,
    by_words: NDArray[np.float32],
    by_meaning: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What each item scores, maybe in one of the arrays given, and which of them count."""
    question, weights = hunt.question, hunt.weights
    mask = _filter(block, hunt)
    if question.mode == "lexical":
        mask &= by_words > 0
        return by_words, mask
    if question.mode == "vector":
        assert by_meaning is not None
        mask &= block.known
        return by_meaning, mask
    whole = weights.lexical + weights.vector + weights.recency
    ages = np.minimum(block.created - question.moment_ms, 0).astype(np.float32)
    total = np.exp(ages * np.float32(_rate(weights))) * np.float32(weights.recency / whole)
    total += by_words * np.float32(weights.lexical / whole)
    found = by_words > 0
    if by_meaning is not None:
        total += by_meaning * np.float32(weights.vector / whole)
        found |= block.known
    mask &= found
    return total, mask


def _rate(weights: Weights) -> float:
    return log(2) / (weights.half_life_days * _DAY_MS)


def _filter(block: Block, hunt: Hunt) -> NDArray[np.bool_]:
    question, names, moment_ms = hunt.question, hunt.names, hunt.question.moment_ms
    mask: NDArray[np.bool_]
    if question.at_ms is None:
        mask = block.alive & (block.ended == NEVER)
    else:
        mask = block.alive & (block.ended > moment_ms) & (block.created <= moment_ms)
    mask &= block.expires > moment_ms
    if question.sources is not None:
        mask &= np.isin(block.sources, [MEMORY_SOURCES[one] for one in question.sources])
    if question.session_id is not None:
        mask &= block.sessions == names.numbers.get(question.session_id, -1)
    if question.channel is not None:
        mask &= block.channels == names.numbers.get(question.channel, -1)
    for seqs in hunt.tagged:
        has = np.zeros(len(mask), np.bool_)
        has[block.places(seqs)] = True
        mask &= has
    return mask


def _best(
    total: NDArray[np.float32], mask: NDArray[np.bool_], wanted: int, min_score: float
) -> NDArray[np.int64]:
    """Where the best are; of equal ones the newest. `total` is used up.

    Nothing of the size of the block is partitioned: among many equal scores, which every filter and
    every search by words makes, that takes numpy thirty times as long as among different ones. The
    best of each run give a score that at least `wanted` reach, and few others.
    """
    np.copyto(total, -1.0, where=~mask)
    floor = np.float32(max(min_score, 0.0))
    runs = len(total) // RUN
    if runs >= wanted:
        tops = total[: runs * RUN].reshape(runs, RUN).max(axis=1)
        floor = max(floor, np.sort(tops)[-wanted])
    above = np.nonzero(total > floor)[0]
    if len(above) > wanted:  # by score and place in one number: no two are equal
        scores = total[above] + np.float32(0)  # of -0.0, too
        keys = (scores.view(np.int32).astype(np.int64) << 32) | above
        above = np.partition(keys, -wanted)[-wanted:] & 0xFFFF_FFFF
    elif len(above) < wanted:
        level = np.nonzero(total == floor)[0]
        above = np.concatenate((above, level[len(above) - wanted :]))
    order = np.lexsort((-above, -total[above]))
    return above[order]


def _lexical_scores(block: Block, lexical: Lexical) -> NDArray[np.float32]:
    scores = np.zeros(len(block.seqs), np.float32)
    at = np.searchsorted(block.seqs, lexical.seqs)
    at[at == len(block.seqs)] = 0
    here = block.seqs[at] == lexical.seqs if len(at) else np.zeros(0, np.bool_)
    at = at[here]
    length = K1 * (1 - B + B * block.words[at] / PIVOT_WORDS)
    once = lexical.once[here] * np.minimum(1.0, BEST / (1 + length))
    often = lexical.often[here] * np.minimum(1.0, 2 * BEST / (2 + length))
    scores[at] = (once + often) / lexical.most
    return scores


def _find_words(
    reader: ReadSide, stream: int, query: str, count: int, shelf: Shelf | None
) -> Lexical:
    """Which items have which of the query's words. Bounded, whatever is asked: see `ROWS_MAX`."""
    known = {} if shelf is None else shelf.common
    asked = sorted({term(stream, word): word for word in words(query)}.items(), key=_dullness)
    found: list[tuple[int, str]] = []
    for one, _ in asked[:WORDS_LOOKED_UP_MAX]:
        frequency = known.get(one)
        if frequency is None:
            rows = reader.rows("memory.frequency", (scoped(stream, one),))
            frequency = rows[0][0] if rows else 0
            if frequency > ROWS_MAX and len(known) < 4 * ROWS_MAX:
                known[one] = frequency
        found.append((frequency, one))
    found.sort()
    found = found[:TERMS_MAX]
    most = sum(_idf(count, frequency) for frequency, _ in found)
    rare: list[tuple[int, str]] = []
    left = ROWS_SUM_MAX
    for frequency, one in found:
        if frequency <= min(ROWS_MAX, left):
            left -= frequency
            rare.append((frequency, one))
    common = found[len(rare) :]
    left_out = [(one, _idf(count, frequency)) for frequency, one in common[COMMON_TERMS_MAX:]]
    common = common[:COMMON_TERMS_MAX]
    rare = [(frequency, one) for frequency, one in rare if frequency]
    if not (rare or common) or not most:
        return NOTHING_FOUND
    parts = [
        Having(
            _having(reader, scoped(stream, one), shelf),
            _having(reader, scoped(stream, one, often=True), shelf),
            _idf(count, frequency),
        )
        for frequency, one in rare
    ]
    if rare:
        among = " OR ".join(f'"{scoped(stream, one)}"' for _, one in rare)
        parts += [
            Having(_newest(reader, stream, one, f" AND ({among})"), NOTHING, _idf(count, frequency))
            for frequency, one in common
        ]
    else:  # items with all of them, and the newest with the rarest
        among = "".join(f' AND "{scoped(stream, one)}"' for _, one in common[1:])
        every = _newest(reader, stream, common[0][1], among)
        newest = _newest(reader, stream, common[0][1])
        parts = [Having(every, NOTHING, _idf(count, frequency)) for frequency, _ in common[1:]]
        parts.append(Having(_sorted(every, newest), NOTHING, _idf(count, common[0][0])))
    return _summed(parts, most)._replace(left_out=left_out)


def _dullness(asked: tuple[str, str]) -> tuple[bool, int]:
    """Long words first, the commonest of the language last."""
    return asked[1] in COMMON, -len(asked[1])


def _idf(count: int, frequency: int) -> float:
    return log1p((max(count, frequency) - frequency + 0.5) / (frequency + 0.5))


def _having(reader: ReadSide, term: str, shelf: Shelf | None) -> NDArray[np.int64]:
    """All items that have a term, in order."""

    def later(after: int) -> NDArray[np.int64]:
        return _numbers(reader.rows("memory.having", (f'"{term}"', after)))

    return later(0) if shelf is None else shelf.lists.whole(term, later)


def _newest(reader: ReadSide, stream: int, one: str, among: str = "") -> NDArray[np.int64]:
    """Of the items that have a term the newest, at most `ROWS_MAX`, in order."""
    match = f'"{scoped(stream, one)}"{among}'
    return _numbers(reader.rows("memory.newest_having", (match, ROWS_MAX)))[::-1]


def _numbers(found: Sequence[Sequence[str | None]]) -> NDArray[np.int64]:
    """Of one text: a row each would take five times as long."""
    return np.fromstring(found[0][0] or "", dtype=np.int64, sep=",")


def _sorted(*parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """All of them in order, each once; twenty times as fast as `np.unique`."""
    every = np.concatenate(parts)
    every.sort()
    return every[np.concatenate([[True], every[1:] != every[:-1]])] if len(every) else every


def _summed(parts: Sequence[Having], most: float) -> Lexical:
    seqs = _sorted(*(part.seqs for part in parts), *(part.often for part in parts))
    once, often = np.zeros(len(seqs)), np.zeros(len(seqs))
    for part in parts:
        at = np.searchsorted(seqs, part.seqs)
        once[at] += part.idf
        twice = np.searchsorted(seqs, part.often)
        once[twice] -= part.idf
        often[twice] += part.idf
    return Lexical(seqs, np.maximum(once, 0.0), often, most)


def _read(reader: ReadSide, ranked: Sequence[Ranked], question: Question) -> list[dict[str, Any]]:
    """The items behind the ranks, as far as they are still there."""
    hits: list[dict[str, Any]] = []
    stems = {stem(word) for word in words(question.query)}
    for one in ranked:
        found = present(reader, reader.rows("memory.by_seq", (one.seq,)))
        if found and len(hits) < question.top_k:
            item = found[0]
            hits.append({
                "item": view(item, one.owner),
                "snippet": snippet(item.content, stems),
                "score": one.score,
                "breakdown": {
                    "lexical": one.lexical, "vector": one.vector, "recency": one.recency,
                },
            })  # fmt: skip
        if len(hits) == question.top_k:
            break
    return hits


def snippet(text: str, stems: set[str]) -> str:
    """The stretch of a text that has most of the words, at most 200 characters."""
    if len(text) <= SNIPPET_CHARACTERS:
        return text
    places = [match.start() for match in _WORD.finditer(text) if stem(match[0].lower()) in stems]
    best, most, first = 0, 0, 0
    for last, place in enumerate(places):
        while place - places[first] > SNIPPET_CHARACTERS - SNIPPET_BEFORE:
            first += 1
        if last - first + 1 > most:
            best, most = places[first], last - first + 1
    start = min(max(0, best - SNIPPET_BEFORE), len(text) - SNIPPET_CHARACTERS)
    return text[start : start + SNIPPET_CHARACTERS]
