"""What can go wrong, sorted by what the caller does next.

    Refused       change the request: sent again as it is, it will be refused again
    Unavailable   send the same request with the same ids again, later
    Broken        call a person

One class a wire code (docs/protocol.md, part 3); the engine, the client and the command line
raise the same ones. An error carries fields, not prose: `field` names the place in the body,
`hint` says what to do, `detail` holds numbers a program can use.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, TypeAlias

Outcome: TypeAlias = Literal["none", "unknown"]

EMBEDDING_PROVIDER: Final = "embedding_provider"
"""`detail.cause` of an `unavailable` that is another machine's: the engine itself is well."""


class PalyraError(Exception):
    """Anything this package raises on purpose.

    Attributes:
        code: the wire code, one word a class.
        retryable: whether the same request may succeed later.
        message: one sentence for a person.
        field: the body field at fault, dotted (`events[3].payload`), or None.
        hint: what to do about it, or None.
        retry_after_ms: when to come back, in milliseconds, or None.
        detail: numbers and names that a program can use; empty where there are none.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after_ms: int | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint
        self.retry_after_ms = retry_after_ms
        self.detail: dict[str, Any] = dict(detail or {})

    def __str__(self) -> str:
        place = f" [{self.field}]" if self.field else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.code}: {self.message}{place}{hint}"

    @property
    def outcome(self) -> Outcome:
        """`none`: nothing of the request is stored. `unknown`: send it again to find out."""
        return "unknown" if self.detail.get("outcome") == "unknown" else "none"

    @property
    def elsewhere(self) -> bool:
        """Whether what is waited for is neither storage nor the engine: it may take hours."""
        return self.detail.get("cause") == EMBEDDING_PROVIDER

    def to_wire(self) -> dict[str, Any]:
        """The `err` map of a reply; keys that do not apply are left out."""
        wire: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
        }
        if self.field is not None:
            wire["field"] = self.field
        if self.hint is not None:
            wire["hint"] = self.hint
        if self.retry_after_ms is not None:
            wire["retry_after_ms"] = self.retry_after_ms
        if self.detail:
            wire["detail"] = self.detail
        return wire


class Refused(PalyraError):
    """Change the request. Nothing of it is stored."""


class Unavailable(PalyraError):
    """Send the same request with the same ids again."""

    retryable = True


class Broken(PalyraError):
    """Call a person."""


class Malformed(Refused):
    """Not a MessagePack map, or no usable envelope."""

    code = "malformed"


class UnsupportedVersion(Refused):
    """`v` is missing or not 1."""

    code = "unsupported_version"


class UnknownOp(Refused):
    """No such operation."""

    code = "unknown_op"


class Invalid(Refused):
    """A body field is missing, unknown, of the wrong type or out of range."""

    code = "invalid"


class InvalidId(Refused):
    """A ULID is not canonical."""

    code = "invalid_id"


class TooLarge(Refused):
    """Over a documented limit; `detail` holds `limit` and `actual`."""

    code = "too_large"


class NotFound(Refused):
    """No such session, run, canvas, job, memory or approval; or it is somebody else's."""

    code = "not_found"


class Conflict(Refused):
    """The expected version or sequence is not the present one; `detail.actual`."""

    code = "conflict"


class IdReused(Refused):
    """This id was used before with other content."""

    code = "id_reused"


class InvalidTransition(Refused):
    """The state machine has no such step; `detail` holds `from` and `to`."""

    code = "invalid_transition"


class LimitReached(Refused):
    """A cap on growth was hit."""

    code = "limit_reached"


class Gone(Refused):
    """It existed and was compacted, purged or erased."""

    code = "gone"


class Denied(Refused):
    """This principal may not."""

    code = "denied"


class Overloaded(Unavailable):
    """It could not be durable within its budget and was not written; `retry_after_ms`."""

    code = "overloaded"


class StorageUnavailable(Unavailable):
    """Storage is failing or the engine is stopping; `outcome` says whether it may be stored."""

    code = "unavailable"


class NoReply(Unavailable):
    """The caller's deadline passed without an answer: the outcome of a write is unknown.

    Before the deadline where the connection is lost and the request has no ids, and where the
    engine has refused the client's key for two seconds (`field` is `key_file`). Made by the
    client, never sent by the engine. Where `detail.attempts` is 0 nothing was sent.
    """

    code = "no_reply"

    @property
    def outcome(self) -> Outcome:
        return "none" if self.detail.get("attempts") == 0 else "unknown"


class InternalFault(Broken):
    """A fault of the engine's own; `outcome` says whether the write may be stored."""

    code = "internal"
    retryable = True


class OpenRefused(Broken):
    """The database file may not be opened, and was left untouched. The message says why."""

    code = "open_refused"


class ConfigInvalid(Broken):
    """The configuration is wrong; `field` names the key."""

    code = "config_invalid"


WIRE_ERRORS: dict[str, type[PalyraError]] = {
    kind.code: kind
    for kind in (
        Malformed,
        UnsupportedVersion,
        UnknownOp,
        Invalid,
        InvalidId,
        TooLarge,
        NotFound,
        Conflict,
        IdReused,
        InvalidTransition,
        LimitReached,
        Gone,
        Denied,
        Overloaded,
        StorageUnavailable,
        InternalFault,
    )
}


def from_wire(err: Mapping[str, Any]) -> PalyraError:
    """The exception for an `err` map. A code of a newer engine becomes the family it belongs to."""
    kind = WIRE_ERRORS.get(str(err.get("code")))
    if kind is None:
        kind = Unavailable if err.get("retryable") else Refused
    detail = err.get("detail")
    return kind(
        str(err.get("message", "")),
        field=err.get("field"),
        hint=err.get("hint"),
        retry_after_ms=err.get("retry_after_ms"),
        detail=detail if isinstance(detail, Mapping) else None,
    )
