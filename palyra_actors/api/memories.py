"""Memories of one engine: kept, found by words and by meaning, replaced, forgotten.

memory = engine.memories.add("Alice prefers metric units", tags=["user:alice"])
for hit in engine.memories.search("which units does Alice like?"): ...
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from palyra_actors.api.results import read
from palyra_actors.api.sessions import _FromWire
from palyra_actors.limits import LIST_LIMIT_MAX

if TYPE_CHECKING:
    from palyra_actors.api.operations import Operations


@dataclass(frozen=True, slots=True)
class Memory(_FromWire):
    """One item. `superseded_by`: the item that took its place. `duplicate`: of what `add` gives,
    whether it was there already, with the tags and all else that it was first given; else None."""

    memory_id: str
    principal: str
    channel: str | None
    session_id: str | None
    source: str
    content: str
    tags: Sequence[str]
    confidence: float | None
    created_ms: int
    updated_ms: int
    expires_ms: int | None
    content_sha256: bytes
    superseded_by: str | None
    from_event_id: str | None
    duplicate: bool | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory that was found. `score` and the parts of it lie between 0 and 1 and mean the same
    from search to search; `snippet` is where most of the words are."""

    item: Memory
    snippet: str
    score: float
    lexical: float
    vector: float
    recency: float

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        parts = raw["breakdown"]
        return cls(
            Memory.of(raw["item"]), raw["snippet"], raw["score"], parts["lexical"],
            parts["vector"], parts["recency"],
        )  # fmt: skip


class Hits(list[Hit]):
    """Best first. `note`: what the search had to do without, None where it lacked nothing."""

    def __init__(self, hits: Iterable[Hit], note: str | None = None) -> None:
        super().__init__(hits)
        self.note = note


class Memories:
    """What one principal remembers."""

    def __init__(self, operations: "Operations") -> None:
        self._operations = operations

    def add(
        self,
        content: str,
        *,
        source: str = "manual",
        memory_id: object | None = None,
        session_id: object | None = None,
        channel: str | None = None,
        tags: Sequence[str] | None = None,
        confidence: float | None = None,
        expires_ms: int | None = None,
        from_event_id: object | None = None,
        **options: Any,
    ) -> Memory:
        """Keeps a text; where channel and session have it already, that item.

        Raises:
            IdReused: the id is another item's.
            TooLarge: the content is over 16 KiB, or there are over 32 tags.
        """
        body = {
            "source": source,
            "content": content,
            **_given(
                memory_id=memory_id,
                session_id=session_id,
                channel=channel,
                tags=tags,
                confidence=confidence,
                expires_ms=expires_ms,
                from_event_id=from_event_id,
            ),
        }
        return _item(self._operations.call("memory.ingest", body, **options))

    def get(self, memory_id: object, **options: Any) -> Memory:
        """Raises NotFound."""
        return _item(self._operations.call("memory.get", {"memory_id": str(memory_id)}, **options))

    def update(
        self,
        memory_id: object,
        content: str,
        *,
        tags: Sequence[str] | None = None,
        confidence: float | None = None,
        **options: Any,
    ) -> Memory:
        """A new item that takes the place of the old, which is still found as of before.

        Raises:
            Conflict: it was superseded already; `detail.actual` says by which one.
        """
        given = _given(tags=tags, confidence=confidence)
        body = {"memory_id": str(memory_id), "content": content, **given}
        return _item(self._operations.call("memory.update", body, **options))

    def delete(self, memory_id: object, **options: Any) -> int:
        """Destroys an item and what it superseded; how many items that were."""
        ok = self._operations.call("memory.delete", {"memory_id": str(memory_id)}, **options)
        return int(ok["deleted"])

    def purge(
        self,
        *,
        session_id: object | None = None,
        channel: str | None = None,
        everything: bool = False,
        **options: Any,
    ) -> int:
        """Destroys all of a session, of a channel, or everything; how many items that were."""
        body: dict[str, Any] = _given(session_id=session_id, channel=channel)
        if everything:
            body["all"] = True
        return int(self._operations.call("memory.purge", body, **options)["deleted"])

    def search(
        self,
        query: str,
        *,
        mode: str = "hybrid",
        top_k: int | None = None,
        min_score: float | None = None,
        tags: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
        session_id: object | None = None,
        channel: str | None = None,
        as_of_ms: int | None = None,
        **options: Any,
    ) -> Hits:
        """The best matches, best first.

        Args:
            mode: `hybrid`, `vector` or `lexical`.
            tags: items that have all of them.
            as_of_ms: what was known then; what is deleted since is not found.

        Raises:
            StorageUnavailable: a search by meaning alone (`vector`) whose embedding provider does
                not answer. It is not asked again within the caller's time: `retry_after_ms` says
                when that may help. A hybrid one goes without, and its `note` says so.
        """
        body = {
            "query": query,
            "mode": mode,
            **_given(
                top_k=top_k,
                min_score=min_score,
                tags=tags,
                sources=sources,
                session_id=session_id,
                channel=channel,
                as_of_ms=as_of_ms,
            ),
        }
        ok = self._operations.call("memory.search", body, **options)
        return Hits([read("hit", Hit.of, raw) for raw in ok["hits"]], ok.get("note"))

    def all(
        self,
        *,
        tags: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
        session_id: object | None = None,
        channel: str | None = None,
        **options: Any,
    ) -> Iterator[Memory]:
        """Every item that is not superseded, by id."""
        body: dict[str, Any] = {
            "limit": LIST_LIMIT_MAX,
            **_given(
                tags=tags,
                sources=sources,
                session_id=session_id,
                channel=channel,
            ),
        }
        while True:
            ok = self._operations.call("memory.list", body, **options)
            for raw in ok["items"]:
                yield read("memory", Memory.of, raw)
            if ok["end"]:
                return
            body["after"] = ok["next_after"]

    def stats(self, **options: Any) -> dict[str, Any]:
        """How much there is, what has no vector yet, and when it was looked after."""
        return self._operations.call("memory.stats", {}, **options)

    def maintain(self, *, limit: int | None = None, **options: Any) -> dict[str, Any]:
        """Removes what is over or too much, now."""
        return self._operations.call("memory.maintain", _given(limit=limit), **options)

    def backfill(self, *, limit: int | None = None, **options: Any) -> dict[str, Any]:
        """Makes the vectors that are missing, now."""
        return self._operations.call("memory.backfill", _given(limit=limit), **options)


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not None; sequences as lists, handles as the ids that they are."""
    plain = (str, int, float)
    return {
        name: value
        if isinstance(value, plain)
        else [str(one) for one in value]
        if isinstance(value, Sequence)
        else str(value)
        for name, value in values.items()
        if value is not None
    }


def _item(ok: Mapping[str, Any]) -> Memory:
    raw = {**ok["item"], "duplicate": ok.get("duplicate")}
    memory: Memory = read("memory", Memory.of, raw)
    return memory
