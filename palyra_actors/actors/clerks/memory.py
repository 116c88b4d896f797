"""Memories at the desk: kept, found, listed, replaced, forgotten."""

import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from palyra_actors.actors.clerks.counter import Counter
from palyra_actors.actors.clerks.forgetting import Forgetter
from palyra_actors.actors.clerks.memory_upkeep import Upkeep
from palyra_actors.actors.clerks.queries import WITHOUT_MEANING, QueryVectors, no_vector
from palyra_actors.actors.clerks.remembering import Backfill, Remembering
from palyra_actors.actors.clerks.session import clean_text, host, sees
from palyra_actors.actors.memory import present, sizes, was_there
from palyra_actors.actors.retry import answer_told, kept_answer
from palyra_actors.actors.search import Library, Question, search
from palyra_actors.actors.shelf import note_of
from palyra_actors.actors.work import Portion, Request
from palyra_actors.domain import memory as domain
from palyra_actors.domain.catalog import MEMORY, SESSION
from palyra_actors.domain.memory import BEGUN, Item, scope_id, view
from palyra_actors.domain.redact import redact_text
from palyra_actors.embedding.provider import ProviderFault, apart, embed_checked
from palyra_actors.errors import Invalid, PalyraError, TooLarge
from palyra_actors.ids import format_ulid, parse_ulid
from palyra_actors.limits import (
    MEMORY_CHANNEL_BYTES_MAX,
    MEMORY_CONTENT_BYTES_MAX,
    MEMORY_QUERY_BYTES_MAX,
    MEMORY_TAG_BYTES_MAX,
    MEMORY_UPKEEP_MAX,
    REPLY_PAYLOAD_BYTES_MAX,
)
from palyra_actors.storage.port import ReadSide, WriteSide
from palyra_actors.wire.memory import (
    DeleteMemoryBody,
    IngestBody,
    ListMemoriesBody,
    MaintainBody,
    MemoryBody,
    PurgeMemoriesBody,
    SearchBody,
    UpdateMemoryBody,
)
from palyra_actors.wire.messages import NoBody

log = logging.getLogger(__name__)

TAG: Final = re.compile(rf"[a-z0-9:_.-]{{1,{MEMORY_TAG_BYTES_MAX}}}\Z", re.ASCII)
PAGE_ROWS: Final = 500
SCAN_ROWS_MAX: Final = 20_000
"""Rows that one page of a list may look at; a filter that matches less often gets short pages."""

RARE_TAG_ITEMS: Final = 2_000
"""Where a tag has so few, only they are looked at, and not all of the scope."""

FOLLOWERS_AT_ONCE: Final = 128
LOOKED_AT_ONCE: Final = 2_000
AGAIN_S: Final = 1.0


class MemoryClerk:
    """Serves `memory.*`."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._works: Remembering = counter.remembering
        self._forgetter = Forgetter(counter)
        self._backfill = Backfill(counter, self._works)
        queries = self._works.queries
        self._queries = (
            None if queries is None else QueryVectors(counter, self._works, queries, self._backfill)
        )
        self._upkeep = Upkeep(counter, self._works, self._forgetter, self._backfill)
        counter.house.listeners[MEMORY] = self._written
        counter.house.doubters[MEMORY] = self._doubted
        counter.heirlooms.append(self._forget_of)
        counter.after_crash.append(self._forget_left_behind)

    def operations(self) -> Mapping[str, Any]:
        return {
            "memory.ingest": self._ingest,
            "memory.get": self._get,
            "memory.list": self._list,
            "memory.update": self._update,
            "memory.delete": self._delete,
            "memory.purge": self._purge,
            "memory.search": self._search,
            "memory.stats": self._stats,
            "memory.maintain": self._maintain,
            "memory.backfill": self._backfilled,
        }

    # -- writing ----------------------------------------------------------------------------------

    def _ingest(self, request: Request, body: IngestBody) -> None:
        counter = self._counter
        content, redacted = self._content(body.content)
        ulid = counter.ulid
        session_id = None if body.session_id is None else ulid(body.session_id, "session_id")
        item = Item(
            counter.new_id() if body.memory_id is None else ulid(body.memory_id, "memory_id"),
            body.source,
            content,
            () if body.tags is None else _tags(body.tags),
            _share(body.confidence, "confidence"),
            self._channel(body.channel),
            session_id,
            None if body.from_event_id is None else ulid(body.from_event_id, "from_event_id"),
            0,
            body.expires_ms,
            0,
        )
        command = domain.Ingest(item, redacted, fresh=body.memory_id is None)
        own = scope_id(request.principal)
        hosts = [] if session_id is None else [host(session_id, new=False)]
        if item.from_event_id is not None:
            for origin, owner in counter.reader.rows("memory.origin", (item.from_event_id,)):
                if (owner == request.principal or request.admin) and origin != session_id:
                    hosts.append(host(origin, new=False, field="from_event_id"))
        counter.command(
            request, MEMORY, own, command, op="memory.ingest", body=body, witnesses=hosts
        )

    def _update(self, request: Request, body: UpdateMemoryBody) -> None:
        counter = self._counter
        memory_id = counter.ulid(body.memory_id, "memory_id")
        content, redacted = self._content(body.content)
        command = domain.Update(
            memory_id,
            counter.new_id(),
            content,
            None if body.tags is None else _tags(body.tags),
            _share(body.confidence, "confidence"),
            redacted,
        )
        scope = self._scope_of(request, memory_id)
        counter.command(request, MEMORY, scope, command, op="memory.update", body=body)

    def _delete(self, request: Request, body: DeleteMemoryBody) -> None:
        counter = self._counter
        memory_id = counter.ulid(body.memory_id, "memory_id")
        scope = self._scope_of(request, memory_id)
        self._forgetter.answer_when_done(request, None, purge=False)
        command = domain.Delete(memory_id)
        counter.command(request, MEMORY, scope, command, op="memory.delete", body=body)

    def _purge(self, request: Request, body: PurgeMemoriesBody) -> None:
        counter = self._counter
        chosen = [body.session_id is not None, body.channel is not None, body.all]
        if sum(chosen) != 1:
            raise Invalid(
                "a purge names exactly one of session_id, channel, all",
                field="all" if not any(chosen) or body.all else "channel",
                hint='{"all": true} for everything of one\'s own',
            )
        session_id = (
            None if body.session_id is None else counter.ulid(body.session_id, "session_id")
        )
        event_id = None if body.event_id is None else counter.ulid(body.event_id, "event_id")
        self._forgetter.answer_when_done(request, event_id, purge=True)
        command = domain.Purge(session_id, self._channel(body.channel))
        own = scope_id(request.principal)
        counter.command(request, MEMORY, own, command, op="memory.purge", body=body)

    def _written(self, portion: Portion) -> None:
        """Before it is acknowledged: shelves and backfill hear of it."""
        assert portion.tail is not None
        stream = portion.tail.stream
        for fact in portion.facts:
            assert isinstance(fact.seq, int)
            self._works.shelves.note(stream, note_of(fact))
            if fact.kind == "memory.ingested":
                assert fact.payload is not None
                self._backfill.note(fact.seq, stream, fact.payload["content"])
                if fact.session_id is not None:
                    self._forget_left_behind(fact.session_id)
                from_event = fact.payload["from_event_id"]
                if from_event is not None:
                    self._forget_if_erased(parse_ulid(from_event))
            elif fact.kind != "memory.superseded":
                self._forgetter.written(portion.unit.request, fact.seq)

    def _doubted(self, portion: Portion) -> None:
        """What a search finds is what the file says: it is read anew."""
        assert portion.tail is not None
        self._works.shelves.take_down(portion.tail.stream)

    def _forget_of(self, session_id: bytes, done: Callable[[], None]) -> None:
        """A session is erased: so is what was kept of it or from its events, by its owner or by
        others."""
        counter = self._counter
        again = partial(counter.call_later, AGAIN_S, lambda: self._forget_of(session_id, done))

        def come(found: Any) -> None:
            if isinstance(found, PalyraError):
                again()
            elif found is None:
                self._forgetter.when_done(lambda _: done())
            else:
                owner, command = found
                counter.internal(owner, MEMORY, scope_id(owner), command, gone)

        def gone(answer: Mapping[str, Any] | PalyraError) -> None:
            if isinstance(answer, PalyraError):
                again()
            else:
                self._forget_of(session_id, done)

        counter.ask(partial(_followers, session_id=session_id), come)

    def _forget_left_behind(self, session_id: bytes | None = None) -> None:
        """What was on its way while its session was erased goes with it, too. Of that session, or
        of any."""
        counter = self._counter
        try:
            rows = (
                counter.reader.rows("memory.left_behind", (FOLLOWERS_AT_ONCE,))
                if session_id is None
                else counter.reader.rows("memory.left_behind_in", (session_id,))
            )
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("memories of erased sessions could not be read: %s", error)
            counter.call_later(AGAIN_S, lambda: self._forget_left_behind(session_id))
            return

        def done() -> None:
            if session_id is None and len(rows) == FOLLOWERS_AT_ONCE:
                self._forget_left_behind()

        for place, (erased,) in enumerate(rows, 1):
            self._forget_of(erased, done if place == len(rows) else _nothing_more)
        if session_id is None:
            self._forget_those_from_erased(0)

    def _forget_if_erased(self, event_id: bytes) -> None:
        """An item came from this event, whose session was perhaps erased while it was on its
        way."""
        try:
            rows = self._counter.reader.rows("memory.origin", (event_id,))
        except Exception as error:  # noqa: BLE001 - a disk that fails now may not in a while
            log.warning("where a memory came from could not be read: %s", error)
            self._counter.call_later(AGAIN_S, lambda: self._forget_if_erased(event_id))
            return
        for session_id, _ in rows:
            self._forget_left_behind(session_id)

    def _forget_those_from_erased(self, after: int) -> None:
        """The same of all that came from events, some at a time, beside the loop."""
        counter = self._counter

        def come(rows: Any) -> None:
            if isinstance(rows, PalyraError):
                counter.call_later(AGAIN_S, lambda: self._forget_those_from_erased(after))
                return
            for erased in {row[1] for row in rows if row[1] is not None}:
                self._forget_of(erased, _nothing_more)
            if rows:
                self._forget_those_from_erased(rows[-1][0])

        def find(reader: ReadSide) -> Any:
            return reader.rows("memory.left_behind_from", (after, LOOKED_AT_ONCE))

        counter.ask(find, come)

    # -- reading ----------------------------------------------------------------------------------

    def _get(self, request: Request, body: MemoryBody) -> None:
        memory_id, principal = self._counter.ulid(body.memory_id, "memory_id"), sees(request)
        own, now_ms = request.principal, self._counter.now_ms()

        def find(reader: ReadSide) -> Mapping[str, Any]:
            owners = _owners(reader, principal)
            if principal is None:
                rows = [r for r in reader.rows("memory.by_id", (memory_id,)) if r[0] in owners]
            else:  # others' are not even looked at: that takes time
                rows = [
                    row
                    for stream in owners
                    for row in reader.rows("memory.in_scope", (stream, memory_id))
                ]
            rows.sort(key=lambda row: owners[row[0]] != own)
            for row in rows:
                for item in present(reader, (row,)):
                    if not item.over(now_ms):
                        return {"item": view(item, owners[row[0]])}
            if principal is None:
                raise domain.missing(bool(reader.rows("gone.memories", (memory_id,))))
            raise domain.missing(any(was_there(reader, stream, memory_id) for stream in owners))

        self._counter.look(request, find)

    def _list(self, request: Request, body: ListMemoriesBody) -> None:
        counter, principal, now_ms = self._counter, sees(request), self._counter.now_ms()
        after = b"" if body.after is None else counter.ulid(body.after, "after")
        session_id = (
            None if body.session_id is None else counter.ulid(body.session_id, "session_id")
        )
        tags = () if body.tags is None else _tags(body.tags)
        channel = self._channel(body.channel)
        sources = None if body.sources is None else frozenset(body.sources)

        def matches(item: Item) -> bool:
            return (
                not item.over(now_ms)
                and (sources is None or item.source in sources)
                and (session_id is None or item.session_id == session_id)
                and (channel is None or item.channel == channel)
                and set(tags) <= set(item.tags)
            )

        def find(reader: ReadSide) -> Mapping[str, Any]:
            return _page(reader, principal, after, body.limit, tags, matches)

        counter.look(request, find)

    def _search(self, request: Request, body: SearchBody) -> None:
        counter, clock = self._counter, self._counter.loop.clock
        began = clock.monotonic()
        size = len(body.query.encode())
        if size > MEMORY_QUERY_BYTES_MAX:
            raise TooLarge(
                f"a query takes at most {MEMORY_QUERY_BYTES_MAX} bytes",
                field="query",
                detail={"limit": MEMORY_QUERY_BYTES_MAX, "actual": size},
            )
        if not body.query.strip():
            raise Invalid("the query is empty", field="query", hint="memory.list shows all")
        session_id = (
            None if body.session_id is None else counter.ulid(body.session_id, "session_id")
        )
        question = Question(
            body.query,
            body.mode,
            body.top_k,
            _share(body.min_score, "min_score") or 0.0,
            () if body.tags is None else _tags(body.tags),
            None if body.sources is None else list(dict.fromkeys(body.sources)),
            session_id,
            self._channel(body.channel),
            body.as_of_ms,
            counter.now_ms(),
            None,
        )
        principal, works = sees(request), self._works

        def find(asked: Question, reader: ReadSide) -> Mapping[str, Any]:
            if works.provider.near and asked.mode != "lexical":
                asked = asked._replace(vector=self._near_vector(asked))
            scopes = list(_owners(reader, principal).items())
            library = Library(works.shelves, works.provider.model, works.weights)
            hits, without_vector = search(reader, library, scopes, asked)
            found = {"hits": hits, "took_ms": (clock.monotonic() - began) * 1000}
            if asked.vector is None and asked.mode == "hybrid":
                found["note"] = WITHOUT_MEANING
            elif without_vector:
                found["note"] = f"{without_vector} memories wait for their vectors"
            return found

        if self._queries is None or body.mode == "lexical":
            counter.look(request, partial(find, question))
            return

        def come(result: NDArray[np.float32] | PalyraError) -> None:
            asked = question
            try:
                if not isinstance(result, PalyraError):
                    asked = question._replace(vector=result)
                elif body.mode == "vector":
                    raise result
                counter.look(request, partial(find, asked))
            except PalyraError as refusal:
                request.fail(refusal)

        self._queries.ask(body.query, come)

    def _near_vector(self, asked: Question) -> NDArray[np.float32] | None:
        """In a reader's thread. None: the provider made none, and the search can do without.
        Raises StorageUnavailable: it cannot."""
        works, loop = self._works, self._counter.loop
        try:
            vectors, _ = embed_checked(apart(works.provider), [asked.query], query=True)
        except ProviderFault as error:
            now_s, fault = loop.clock.monotonic(), error
            loop.call_soon(lambda: works.failed(fault, now_s))
            if asked.mode == "vector":
                raise no_vector(works, now_s) from None
            return None
        if works.failure is not None:
            loop.call_soon(self._backfill.recovered)
        vector: NDArray[np.float32] = vectors[0]
        return vector

    def _stats(self, request: Request, body: NoBody) -> None:
        del body
        principal, works = sees(request), self._works
        self._counter.look(request, lambda reader: _statistics(reader, works, principal))

    # -- upkeep -----------------------------------------------------------------------------------

    def _maintain(self, request: Request, body: MaintainBody) -> None:
        owner, limit = sees(request), body.limit or MEMORY_UPKEEP_MAX
        self._once(
            request, body, "memory.maintain", lambda done: self._upkeep.maintain(owner, limit, done)
        )

    def _backfilled(self, request: Request, body: MaintainBody) -> None:
        principal, works = sees(request), self._works
        stream: int | None = None
        if principal is not None:
            row = self._counter.reader.stream(MEMORY, scope_id(principal))
            stream = 0 if row is None else row.stream

        def work(done: Callable[[Any], None]) -> None:
            def counted(count: int) -> None:
                def find(reader: ReadSide) -> Mapping[str, Any]:
                    found = _statistics(reader, works, principal)
                    return {"embedded": count, "pending": found["pending_embeddings"]}

                self._counter.ask(find, done)

            self._upkeep.backfill(stream, body.limit or MEMORY_UPKEEP_MAX, counted)

        self._once(request, body, "memory.backfill", work)

    def _once(
        self,
        request: Request,
        body: MaintainBody,
        op: str,
        work: Callable[[Callable[[Any], None]], None],
    ) -> None:
        """Upkeep of one request: its id is taken, then it is done, then its answer is kept. Sent
        again before that, after a crash too, it goes on with what is left; after that it gets the
        first answer. `work` hands over what it came to, or the error.
        """
        counter = self._counter
        event_id = None if body.event_id is None else counter.ulid(body.event_id, "event_id")

        def begun(told: Mapping[str, Any]) -> None:
            request.hold = None
            if BEGUN not in told:
                request.ok(told)
                return
            rest = {name: it for name, it in told.items() if name != BEGUN}

            def done(sums: Any) -> None:
                if isinstance(sums, PalyraError):
                    request.fail(sums)
                elif event_id is None:
                    request.ok({**sums, **rest})
                else:
                    self._settle(event_id, sums, lambda kept: request.ok({**kept, **rest}))

            work(done)

        request.hold = begun
        command, own = domain.Begin(), scope_id(request.principal)
        counter.command(request, MEMORY, own, command, op=op, body=body)

    def _settle(
        self,
        event_id: bytes,
        sums: Mapping[str, Any],
        then: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """Keep what an upkeep came to; `then` hears what is kept, which is what the first of two
        under one id came to."""
        counter = self._counter
        row = {"id": event_id, "answer": kept_answer(sums), "begun": kept_answer({BEGUN: True})}

        def chore(storage: WriteSide) -> None:
            kept: Mapping[str, Any] | None = None
            try:
                storage.apply([("answer.settle", [row])])
                kept = answer_told(storage, event_id)
            except PalyraError as error:
                log.warning("what an upkeep came to could not be kept: %s", error)
            counter.loop.call_soon(lambda: then(sums if kept is None else kept))

        counter.chore(chore)

    # -- own --------------------------------------------------------------------------------------

    def _scope_of(self, request: Request, memory_id: bytes) -> bytes:
        """The scope that has the item, as far as the request may see it; else its own."""
        own = scope_id(request.principal)
        if request.admin:
            reader = self._counter.reader
            streams = [row[0] for row in reader.rows("memory.by_id", (memory_id,))]
            streams += [row[0] for row in reader.rows("gone.memories", (memory_id,))]
            mine = reader.stream(MEMORY, own)
            if streams and (mine is None or mine.stream not in streams):
                owners = dict(reader.rows("memory.scopes"))
                return scope_id(str(owners[streams[0]]))
        return own

    def _content(self, text: str) -> tuple[str, bool]:
        content, redacted = clean_text(self._counter, text, "content", MEMORY_CONTENT_BYTES_MAX)
        if not content.strip():
            raise Invalid("there is nothing to remember", field="content")
        return content, redacted

    def _channel(self, name: str | None) -> str | None:
        if name is None:
            return None
        clean, redacted = clean_text(self._counter, name, "channel", MEMORY_CHANNEL_BYTES_MAX)
        if redacted or not clean:
            raise Invalid(
                "a channel is a name of at least one character that holds no secret",
                field="channel",
            )
        return clean


def _nothing_more() -> None:
    """Nobody waits for it."""


def _tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Each once, in their order. Raises Invalid."""
    for place, tag in enumerate(tags):
        if not TAG.match(tag):
            raise Invalid(
                f"{tag[:40]!r} is no tag",
                field=f"tags[{place}]",
                hint=f"1..{MEMORY_TAG_BYTES_MAX} of a-z, 0-9 and : _ . -",
            )
        if redact_text(tag) != tag:
            raise Invalid(
                "the tag looks like a secret",
                field=f"tags[{place}]",
                hint="a tag is shown in lists; take a name",
            )
    return tuple(dict.fromkeys(tags))


def _share(value: float | None, field: str) -> float | None:
    if value is not None and math.isnan(value):
        raise Invalid("a number between 0 and 1 is needed", field=field)
    return value


def _owners(reader: ReadSide, principal: str | None) -> dict[int, str]:
    """The scopes that a principal sees, by stream; None sees all."""
    if principal is None:
        return dict(reader.rows("memory.scopes"))
    row = reader.stream(MEMORY, scope_id(principal))
    return {} if row is None else {row.stream: row.principal}


def _page(  # noqa: PLR0917 - who, from where, how many and which
    reader: ReadSide,
    principal: str | None,
    after: bytes,
    limit: int,
    tags: Sequence[str],
    matches: Callable[[Item], bool],
) -> Mapping[str, Any]:
    owners = _owners(reader, principal)
    scopes = json.dumps(list(owners))
    rare = _rare_tag(reader, scopes, tags)
    shown: list[dict[str, Any]] = []
    position, looked_at, left = after, 0, REPLY_PAYLOAD_BYTES_MAX
    end = not owners
    while not end and looked_at < SCAN_ROWS_MAX:
        if rare is not None:
            rows = reader.rows("memory.page_of_tag", (scopes, rare, position, PAGE_ROWS))
        elif principal is None:
            rows = reader.rows("memory.page_of_all", (position, PAGE_ROWS))
        else:
            rows = reader.rows("memory.page", (next(iter(owners)), position, PAGE_ROWS))
        looked_at += len(rows)
        for row, item in [(each, one) for each in rows for one in present(reader, (each,))]:
            if matches(item):
                left -= len(item.content) * 4
                if len(shown) == limit or (shown and left < 0):
                    return _listed(shown, position, end=False)
                shown.append(view(item, owners[row[0]]))
            position = item.memory_id
        end = len(rows) < PAGE_ROWS
    return _listed(shown, position, end=end)


def _rare_tag(reader: ReadSide, scopes: str, tags: Sequence[str]) -> str | None:
    """One of the tags that few items of the scopes have, if one is."""
    for tag in tags:
        ((count,),) = reader.rows("memory.tag_count", (scopes, tag, RARE_TAG_ITEMS + 1))
        if count <= RARE_TAG_ITEMS:
            return tag
    return None


def _listed(shown: list[dict[str, Any]], position: bytes, *, end: bool) -> dict[str, Any]:
    return {"items": shown, "next_after": format_ulid(position) if position else None, "end": end}


def _followers(reader: ReadSide, *, session_id: bytes) -> tuple[str, domain.Command] | None:
    """What is left of an erased session in somebody's scope: whose, and the command that removes
    it."""
    session = reader.stream(SESSION, session_id)
    if session is None:
        return None
    for _, owner in reader.rows("memory.scopes_of_session", (session_id,)):
        return owner, domain.Purge(session_id, None)
    for scope, owner in reader.rows("memory.scopes_from_session", (session.stream, session_id)):
        asked = (scope, session.stream, session_id, FOLLOWERS_AT_ONCE)
        found = [row[0] for row in reader.rows("memory.from_session", asked)]
        if found:  # else a neighbour of it was quicker: the next look tells
            return owner, domain.Drop("memory.deleted", found)
    return None


def _statistics(reader: ReadSide, works: Remembering, principal: str | None) -> Mapping[str, Any]:
    owners = _owners(reader, principal)
    held = sizes(reader, owners).values()
    kept = sum(one.items for one in held)
    superseded = sum(one.superseded for one in held)
    model = works.provider.model
    numbers = reader.rows("memory.model", model)
    number, destroying = numbers[0][0] if numbers else 0, 0
    if reader.rows("memory.work_left"):
        destroying = sum(reader.rows("memory.count", (one,))[0][0] for one in owners) - kept
        beside = reader.rows("memory.vectors_beside_work", (number,))
        vectors = sum(count for stream, count in beside if stream in owners)
    else:
        vectors = sum(reader.rows("memory.vectors_of", (number, one))[0][0] for one in owners)
    upkeep = dict(reader.rows("memory.upkeep"))
    return {
        "items": kept - superseded,
        "superseded": superseded,
        "bytes": sum(one.bytes for one in held),
        "pending_embeddings": max(0, kept - vectors),
        "pending_destructions": max(0, destroying),
        "provider": model.provider,
        "model": model.name,
        "dimensions": model.dimensions,
        "version": model.version,
        "last_maintenance_ms": upkeep.get("maintenance"),
        "last_backfill_ms": upkeep.get("backfill"),
        "last_vacuum_ms": upkeep.get("merging"),
    }
