"""A canvas: the state of a screen that an agent and its user edit together. Pure.

    (none) ──created──▶ version 1 ──patched──▶ 2 ──▶ 3 … ──closed──▶ read for ever
                                     │
                                     ├─ snapshotted: the whole state again: loading stays quick
                                     ├─ compacted: the same, and what lies before it is dropped
                                     ├─ trimmed: what lies before an older whole state is dropped
                                     └─ erased, with its session: nothing of it can be read

Versions count states, not events: a snapshot is an event and no version. The event of a patch holds
the patch, that of a snapshot the state, and nothing is kept a second time: the rows of
`canvas_snapshots` say where to find them.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeAlias

from palyra_actors.domain.canonical import Text, canonical, is_plain, state_hash
from palyra_actors.domain.document import (
    apply_patch_document,
    check_size,
    encoded_size,
    smaller_patch,
)
from palyra_actors.domain.fact import Change, Decision, Fact, New
from palyra_actors.domain.redact import redact_value
from palyra_actors.errors import Conflict, Gone, Invalid, InvalidTransition, NotFound
from palyra_actors.ids import format_ulid

SNAPSHOT_PATCHES: Final = 100
"""Patches after which the state is written whole: replaying as many takes 3 ms
(`bench/bench_canvas.py`), and a load is to take 5."""

SNAPSHOT_BYTES: Final = 256 * 1024
"""Bytes of patches after which it is, if they outweigh the state."""

EXPIRED: Final = "expired"
ERASED: Final = "erased"


class Canvas(NamedTuple):
    """`document` is None where a replay cannot know it: its events were compacted.

    `plain`: see `document.is_plain`. `since` and `since_bytes` count what was patched since the
    last whole state, `history_bytes` what all events since the horizon hold. `marks` are the
    whole states since then: version, and what the events before it hold. Times are milliseconds.
    """

    version: int
    document: dict[str, Any] | None
    sha256: bytes
    plain: bool
    session_id: bytes | None
    schema_version: int
    created_ms: int
    updated_ms: int
    expires_ms: int | None
    closed: bool = False
    close_reason: str | None = None
    since: int = 0
    since_bytes: int = 0
    history_bytes: int = 0
    horizon: int = 1
    marks: tuple[tuple[int, int], ...] = ((1, 0),)

    @property
    def erased(self) -> bool:
        """No version of it can be read."""
        return self.horizon > self.version


class Keep(NamedTuple):
    """How much history a canvas keeps by itself: the last so many versions at least (0: all), and
    at most so many whole states."""

    versions: int = 0
    snapshots: int = 10_000


class Create(NamedTuple):
    """`source`: of which canvas and version it is a fork."""

    document: dict[str, Any]
    session_id: bytes
    schema_version: int
    expires_ms: int | None
    redacted: bool
    plain: bool
    source: tuple[bytes, int] | None = None


class Patch(NamedTuple):
    """`plain`: all that it brings is, as `is_plain` says. `moved`: it moves or copies something to
    where texts are secrets."""

    expected_version: int
    operations: Sequence[Mapping[str, Any]]
    redacted: bool
    plain: bool
    moved: bool = False


class Replace(NamedTuple):
    expected_version: int
    document: dict[str, Any]
    redacted: bool
    plain: bool


class Close(NamedTuple):
    """`only_if_due`: its time is over; nothing happens if it is closed already."""

    reason: str | None
    redacted: bool
    only_if_due: bool = False


class Compact(NamedTuple):
    """Drop what lies before the present version."""


class Erase(NamedTuple):
    """Its session is erased, and takes it along; nothing happens if that was so before."""


class Look(NamedTuple):
    """The canvas after all that was asked before, or as it was at that version: what a fork starts
    from."""

    version: int | None = None


Command: TypeAlias = Create | Patch | Replace | Close | Compact | Erase | Look


class Said(dict[str, Any]):
    """A payload that remembers what it made of the state, so that the live fold need not repeat
    what deciding has done."""

    made: dict[str, Any] | None = None
    plain: bool | None = None


class Who(NamedTuple):
    """`text`: of the state that was decided last; where there is none, each is written anew."""

    canvas_id: bytes
    owner: str
    now_ms: int
    keep: Keep = Keep()
    text: Text | None = None


def decide(canvas: Canvas | None, command: Command, who: Who) -> Decision:
    """What the command causes.

    Raises:
        NotFound: there is no such canvas.
        Conflict: there is one already, or it has another version; `detail.actual`.
        InvalidTransition: it is closed.
        Invalid, TooLarge: the patch does not apply, or what it makes is too large.
    """
    if isinstance(command, Create):
        return _create(canvas, command, who)
    if canvas is None:
        raise NotFound("there is no such canvas", field="canvas_id")
    if canvas.erased and not isinstance(command, Erase):
        raise Gone("the canvas was erased with its session", field="canvas_id")
    match command:
        case Erase():
            new = New("canvas.erased", {"v": 1}, session_id=canvas.session_id)
            return Decision(() if canvas.erased else [new], lambda after: {})
        case Look():
            return Decision((), lambda _: {"canvas": canvas})
        case Close():
            if command.only_if_due and canvas.closed:
                return Decision((), lambda after: {})
            if canvas.closed:
                raise InvalidTransition(
                    "the canvas is closed already",
                    field="canvas_id",
                    hint="it needs no closing, and reads for ever",
                    detail={"from": "closed", "to": "closed"},
                )
            new = New(
                "canvas.closed", {"v": 1, "reason": command.reason}, session_id=canvas.session_id,
                redacted=command.redacted,
            )  # fmt: skip
            return Decision([new], lambda after: {"canvas": view(after, who)}, {"closed": True})
        case Compact():
            return _compact(canvas)
        case _:
            return _change(canvas, command, who)


def _create(canvas: Canvas | None, command: Create, who: Who) -> Decision:
    if canvas is not None:
        raise Conflict(
            "there is a canvas of that id already",
            field="canvas_id" if command.source is None else "new_canvas_id",
            hint="take a new id",
            detail={"actual": canvas.version},
        )
    if command.expires_ms is not None and command.expires_ms <= who.now_ms:
        raise Invalid("this time is past", field="expires_ms", hint="leave it out, or take a later")
    check_size(command.document, "state")
    said = Said(
        v=1,
        state=command.document,
        schema_version=command.schema_version,
        expires_ms=command.expires_ms,
        sha256=state_hash(command.document, plain=command.plain),
    )
    said.plain = command.plain
    if command.source is not None:
        said["fork"] = {"canvas_id": format_ulid(command.source[0]), "version": command.source[1]}
    new = New("canvas.created", said, session_id=command.session_id, redacted=command.redacted)
    recall = {"version": 1, "sha256": said["sha256"]}
    return Decision([new], lambda after: {"canvas": view(after, who)}, recall)


def as_of(canvas: Canvas, now_ms: int) -> Canvas:
    """The canvas at that time: closed, if its own is over, even before that is written."""
    if canvas.closed or canvas.expires_ms is None or now_ms < canvas.expires_ms:
        return canvas
    return canvas._replace(closed=True, close_reason=EXPIRED)


def _open(canvas: Canvas, now_ms: int) -> None:
    if as_of(canvas, now_ms).closed:
        raise InvalidTransition(
            "the canvas is closed and takes no more patches",
            field="canvas_id",
            hint="fork it to go on",
            detail={"from": "closed", "to": "open"},
        )


def _change(canvas: Canvas, command: Patch | Replace, who: Who) -> Decision:
    _open(canvas, who.now_ms)
    if command.expected_version != canvas.version:
        raise Conflict(
            f"the canvas is at version {canvas.version}, not {command.expected_version}",
            field="expected_version",
            hint="read what was changed meanwhile and patch that",
            detail={"actual": canvas.version},
        )
    assert canvas.document is not None
    redacted, text = command.redacted, None
    if isinstance(command, Patch):
        operations: Sequence[Mapping[str, Any]] = command.operations
        made = apply_patch_document(canvas.document, operations)
        unchanged = command.plain and all(one["path"].isascii() for one in operations)
        plain = canvas.plain and unchanged
        if command.moved:
            clean, found = redact_value(made)
            if found:  # the patch as it came would move it there again
                assert isinstance(clean, dict)
                made, redacted, plain = clean, True, is_plain(clean)
                operations = smaller_patch(canvas.document, made)
        elif unchanged and who.text is not None:
            text = who.text.after(canvas.document, operations)
    else:
        made, plain = command.document, command.plain
        operations = smaller_patch(canvas.document, made)
    if text is None:
        text = canonical(made, plain=plain)
    if who.text is not None:
        who.text.keep(made, text)
    check_size(made, "patch" if isinstance(command, Patch) else "state", len(text))
    digest = sha256(text).digest()
    version = canvas.version + 1
    said = Said(v=1, version=version, patch=list(operations), sha256=digest)
    said.made, said.plain = made, plain
    events = [New("canvas.patched", said, session_id=canvas.session_id, redacted=redacted)]
    size = encoded_size(said["patch"])
    if canvas.since + 1 >= SNAPSHOT_PATCHES or canvas.since_bytes + size >= max(
        SNAPSHOT_BYTES, len(text)
    ):
        whole = canvas._replace(version=version, document=made, sha256=digest)
        events += _trim(canvas, version, who.keep)
        events.append(_whole("canvas.snapshotted", whole))  # the last: its patches follow it
    return Decision(events, lambda after: {"version": version, "state_sha256": digest})


def _trim(canvas: Canvas, version: int, keep: Keep) -> Sequence[New]:
    """What has become of the oldest versions, as there is to be a whole state of that one."""
    starts = [*(at for at, _ in canvas.marks), version]
    horizon = canvas.horizon
    if keep.versions:
        horizon = max((at for at in starts if at <= version - keep.versions), default=horizon)
    if len(starts) > keep.snapshots:
        horizon = max(horizon, starts[-keep.snapshots])
    if horizon <= canvas.horizon:
        return ()
    said = {"v": 1, "horizon": horizon}
    return [New("canvas.trimmed", said, session_id=canvas.session_id)]


def _whole(kind: str, canvas: Canvas) -> New:
    said = Said(
        v=1,
        version=canvas.version,
        state=canvas.document,
        sha256=canvas.sha256,
        schema_version=canvas.schema_version,
        expires_ms=canvas.expires_ms,
        created_ms=canvas.created_ms,
        close_reason=canvas.close_reason,
    )
    return New(kind, said, session_id=canvas.session_id)


def _compact(canvas: Canvas) -> Decision:
    before, dropped = canvas.history_bytes, canvas.version - canvas.horizon

    def answer(after: Canvas) -> Mapping[str, Any]:
        return {
            "snapshots": 1,
            "patches_dropped": dropped,
            "bytes_before": before,
            "bytes_after": after.history_bytes,
        }

    if not dropped:
        return Decision((), answer)
    return Decision([_whole("canvas.compacted", canvas)], answer)


def fold(canvas: Canvas | None, fact: Fact, stream: int) -> tuple[Canvas, Sequence[Change]]:
    """The canvas after one event, and the rows that follow.

    What was compacted has no payload any more; the event that compacted it says all that counts.
    """
    said: Mapping[str, Any] = fact.payload or {}
    size = 0 if fact.payload is None else encoded_size(said)
    if fact.kind == "canvas.created":
        document = said.get("state")
        made = Canvas(
            1,
            document,
            said.get("sha256", b""),
            document is None or _plain_of(said, document),
            fact.session_id,
            said.get("schema_version", 1),
            fact.ts_ms,
            fact.ts_ms,
            said.get("expires_ms"),
            history_bytes=size,
        )
        row = (
            stream, made.session_id, fact.principal, 1, made.sha256, made.schema_version,
            made.created_ms, made.updated_ms, made.expires_ms, size,
        )  # fmt: skip
        return made, [
            ("canvas.insert", row),
            ("canvas.insert_snapshot", (stream, 1, fact.stream_seq, fact.seq, 0)),
        ]
    assert canvas is not None
    match fact.kind:
        case "canvas.patched":
            return _fold_patch(canvas, fact, said, size, stream)
        case "canvas.snapshotted":
            before = canvas.history_bytes
            after = _restated(canvas, said)._replace(
                history_bytes=before + size, marks=(*canvas.marks, (canvas.version, before))
            )
            place = (stream, canvas.version, fact.stream_seq, fact.seq, before)
            return after, [
                ("canvas.weigh", (after.history_bytes, stream)),
                ("canvas.insert_snapshot", place),
            ]
        case "canvas.trimmed":
            return _fold_trim(canvas, said, size, stream)
        case "canvas.compacted":
            return _fold_compaction(canvas, fact, said, size, stream)
        case "canvas.erased":
            return _fold_erasure(canvas, fact, stream)
        case _:
            after = canvas._replace(
                closed=True, close_reason=said.get("reason"), updated_ms=fact.ts_ms,
            )  # fmt: skip
            return after, [("canvas.close", (after.close_reason, fact.ts_ms, stream))]


def _fold_patch(
    canvas: Canvas, fact: Fact, said: Mapping[str, Any], size: int, stream: int
) -> tuple[Canvas, Sequence[Change]]:
    document = said.made if isinstance(said, Said) else None
    if document is None and canvas.document is not None and said:
        document = apply_patch_document(canvas.document, said["patch"], limited=False)
    after = canvas._replace(
        version=canvas.version + 1,
        document=document,
        sha256=said.get("sha256", b""),
        plain=document is None or _plain_of(said, document, canvas),
        updated_ms=fact.ts_ms,
        since=canvas.since + 1,
        since_bytes=canvas.since_bytes + size,
        history_bytes=canvas.history_bytes + size,
    )
    row = (after.version, after.sha256, fact.ts_ms, after.history_bytes, stream)
    return after, [("canvas.step", row)]


def _plain_of(
    said: Mapping[str, Any], document: Mapping[str, Any], before: Canvas | None = None
) -> bool:
    if isinstance(said, Said) and said.plain is not None:
        return said.plain
    if before is not None and before.plain and before.document is not None:
        return _still_plain(said["patch"]) or is_plain(document)
    return is_plain(document)


def _still_plain(operations: Sequence[Mapping[str, Any]]) -> bool:
    return all(one["path"].isascii() for one in operations) and is_plain(
        [one.get("value") for one in operations]
    )


def _fold_compaction(
    canvas: Canvas, fact: Fact, said: Mapping[str, Any], size: int, stream: int
) -> tuple[Canvas, Sequence[Change]]:
    if not said:  # compacted again since
        return canvas, ()
    after = _restated(canvas, said)._replace(
        history_bytes=size, horizon=canvas.version, marks=((canvas.version, 0),)
    )
    return after, [
        ("canvas.restate", _restatement(after, stream)),
        ("canvas.drop_snapshots", (stream, canvas.version)),
        ("canvas.insert_snapshot", (stream, canvas.version, fact.stream_seq, fact.seq, 0)),
        ("erasure.insert", (stream, fact.seq)),
    ]


def _restated(canvas: Canvas, said: Mapping[str, Any]) -> Canvas:
    """The canvas as an event with the whole state says it: what was said before may be gone."""
    if not said:
        return canvas._replace(since=0, since_bytes=0)
    document = said["state"]
    return canvas._replace(
        document=document,
        sha256=said["sha256"],
        plain=is_plain(document) if canvas.document is None else canvas.plain,
        schema_version=said["schema_version"],
        expires_ms=said["expires_ms"],
        created_ms=said["created_ms"],
        close_reason=said.get("close_reason", canvas.close_reason),
        since=0,
        since_bytes=0,
    )


def _restatement(canvas: Canvas, stream: int) -> tuple[Any, ...]:
    return (
        canvas.sha256, canvas.schema_version, canvas.created_ms, canvas.expires_ms,
        canvas.close_reason, canvas.history_bytes, canvas.horizon, stream,
    )  # fmt: skip


def _fold_trim(
    canvas: Canvas, said: Mapping[str, Any], size: int, stream: int
) -> tuple[Canvas, Sequence[Change]]:
    if not said:  # what was trimmed or compacted later says more
        return canvas, ()
    horizon = said["horizon"]
    dropped = dict(canvas.marks)[horizon]
    after = canvas._replace(
        history_bytes=canvas.history_bytes + size - dropped,
        horizon=horizon,
        marks=tuple((at, before - dropped) for at, before in canvas.marks if at >= horizon),
    )
    return after, [
        ("canvas.restate", _restatement(after, stream)),
        ("erasure.between_snapshots", (stream, horizon, canvas.horizon)),
        ("canvas.drop_snapshots", (stream, horizon)),
        ("canvas.rebase_snapshots", (dropped, stream)),
    ]


def _fold_erasure(canvas: Canvas, fact: Fact, stream: int) -> tuple[Canvas, Sequence[Change]]:
    after = canvas._replace(
        document=None, sha256=b"", schema_version=1, updated_ms=fact.ts_ms, expires_ms=None,
        closed=True, close_reason=ERASED, history_bytes=0, horizon=canvas.version + 1, marks=(),
    )  # fmt: skip
    return after, [
        ("canvas.erase", (fact.ts_ms, ERASED, stream)),
        ("canvas.drop_snapshots", (stream, canvas.version + 1)),
        ("answer.erase", (stream, fact.event_id)),
        ("answer.erase_idle", (stream,)),
        ("erasure.insert", (stream, fact.seq)),
    ]


def view(canvas: Canvas, who: Who) -> dict[str, Any]:
    """The canvas as it is shown."""
    return {
        "canvas_id": format_ulid(who.canvas_id),
        "session_id": None if canvas.session_id is None else format_ulid(canvas.session_id),
        "version": canvas.version,
        "schema_version": canvas.schema_version,
        "state": canvas.document,
        "state_sha256": canvas.sha256,
        "closed": canvas.closed,
        "close_reason": canvas.close_reason,
        "created_ms": canvas.created_ms,
        "updated_ms": canvas.updated_ms,
        "expires_ms": canvas.expires_ms,
    }
