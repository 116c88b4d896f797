"""What an operator may set, with units in the names. Only `engine` and `cli` see it.

    configs/default.toml ──tomllib──▶ mapping ──sections, ranges──▶ Config ──dependencies──▶ Config

Everyone below gets plain values. `Config()` is the default; `configs/default.toml` says the same
with the reasons, by test. A value is checked wherever it comes from: a file, a mapping or a
constructor call.
"""

import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Meta, Struct, field, inspect

from palyra_actors.errors import ConfigInvalid
from palyra_actors.limits import (
    APPEND_EVENTS_MAX,
    BUDGET_MS_DEFAULT,
    BUDGET_MS_MAX,
    FRAME_BYTES_MAX,
)

MIB: Final = 1024 * 1024
ENDPOINT_SCHEMES: Final = ("tcp://", "ipc://")

Synchronous = Literal["full", "extra", "normal", "off"]
DURABLE: Final[frozenset[str]] = frozenset({"full", "extra"})

Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file. Every value is held against its declared type and range.

    Raises:
        ConfigInvalid: a value is of the wrong type or out of range; `field` is `section.key`.
    """

    def __post_init__(self) -> None:
        section = _section_name(type(self))
        for one in _fields(type(self)):
            value = getattr(self, one.name)
            if isinstance(one.type, inspect.StructType):
                self._take_table(one.name, value, one.type.cls)
                continue
            _check(f"{section}.{one.name}", value, one.type)
            if isinstance(one.type, inspect.FloatType):
                msgspec.structs.force_setattr(self, one.name, float(value))

    def _take_table(self, name: str, value: object, kind: Any) -> None:
        """A section within this one, given as such or as a table of a file."""
        if isinstance(value, kind):
            return
        place = f"{_section_name(type(self))}.{name}"
        if not isinstance(value, Mapping):
            raise ConfigInvalid(f"{place} is a section, not a value", field=place)
        for key in value:
            if key not in _names(kind):
                raise _unknown(key, _names(kind), "key", section=place)
        msgspec.structs.force_setattr(self, name, kind(**value))


class EngineConfig(_Section, frozen=True, kw_only=True):
    """`[engine]`: what is kept where."""

    db: Text = "palyra.db"
    anchor: Annotated[str, Meta(max_length=4096)] = ""


class DoorConfig(_Section, frozen=True, kw_only=True):
    """`[door]`: who may come in, and how much may be under way."""

    endpoint: Text = "tcp://127.0.0.1:7447"
    keys: Annotated[str, Meta(max_length=4096)] = ""
    must_cut: bool = True
    peers_max: Annotated[int, Meta(ge=1, le=65_536)] = 4096
    peer_reply_bytes_max: Annotated[int, Meta(ge=FRAME_BYTES_MAX, le=1024 * MIB)] = 16 * MIB
    peer_requests_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    requests_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 65_536

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.endpoint.startswith(ENDPOINT_SCHEMES):
            raise ConfigInvalid(
                f"{self.endpoint!r} is no endpoint",
                field="door.endpoint",
                hint="allowed: tcp://HOST:PORT or ipc://PATH",
            )


class StorageConfig(_Section, frozen=True, kw_only=True):
    """`[storage]`: how SQLite keeps it."""

    synchronous: Synchronous = "full"
    cache_bytes: Annotated[int, Meta(ge=MIB, le=65_536 * MIB)] = 64 * MIB
    wal_keep_bytes: Annotated[int, Meta(ge=0, le=4096 * MIB)] = 16 * MIB
    checkpoint_bytes: Annotated[int, Meta(ge=MIB, le=4096 * MIB)] = 4 * MIB
    wal_bytes_max: Annotated[int, Meta(ge=8 * MIB, le=65_536 * MIB)] = 256 * MIB
    readers: Annotated[int, Meta(ge=1, le=64)] = 2
    read_seconds_max: Annotated[float, Meta(gt=0, le=600)] = 5.0
    quick_check_bytes_max: Annotated[int, Meta(ge=0, le=65_536 * MIB)] = 64 * MIB

    @property
    def durable(self) -> bool:
        """Whether an `ok` survives a power cut. `normal` and `off` lose acknowledged events."""
        return self.synchronous in DURABLE


class BudgetConfig(_Section, frozen=True, kw_only=True):
    """`[budget]`: how long a write may take, and how much goes into one commit."""

    write_ms: Annotated[int, Meta(ge=0, le=BUDGET_MS_MAX)] = BUDGET_MS_DEFAULT
    group_events_max: Annotated[int, Meta(ge=APPEND_EVENTS_MAX, le=65_536)] = 2048
    group_ms_max: Annotated[int, Meta(ge=1, le=10_000)] = 8


class ActorsConfig(_Section, frozen=True, kw_only=True):
    """`[actors]`: who stays in memory, what may wait, and what happens after a crash."""

    resident_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    idle_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    mailbox_messages_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    turn_messages_max: Annotated[int, Meta(ge=1, le=100_000)] = 64
    reader_queue_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    restart_backoff_ms: Annotated[int, Meta(ge=1, le=60_000)] = 10
    restart_backoff_ms_max: Annotated[int, Meta(ge=1, le=600_000)] = 5000
    restarts_max: Annotated[int, Meta(ge=0, le=1000)] = 5
    restart_window_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 60.0


class CanvasConfig(_Section, frozen=True, kw_only=True):
    """`[canvas]`: how much of a canvas's history is kept."""

    history_versions_max: Annotated[int, Meta(ge=0, le=2**53)] = 0
    snapshots_max: Annotated[int, Meta(ge=2, le=10_000)] = 10_000


class RetentionConfig(_Section, frozen=True, kw_only=True):
    """`[memory.retention]`: how much is kept. Nothing is set: nothing goes by itself."""

    PLACE: ClassVar[str] = "memory.retention"

    max_entries: Annotated[int, Meta(ge=0, le=10**9)] = 0
    max_bytes: Annotated[int, Meta(ge=0, le=2**50)] = 0
    ttl_days: Annotated[float, Meta(ge=0, le=36_500)] = 0.0
    scope_max_entries: Annotated[int, Meta(ge=0, le=10**9)] = 0
    scope_max_bytes: Annotated[int, Meta(ge=0, le=2**50)] = 0
    vacuum_schedule: Annotated[str, Meta(min_length=0, max_length=256)] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vacuum_schedule:
            try:
                CronSim(self.vacuum_schedule, datetime(2026, 1, 1, tzinfo=UTC))
            except CronSimError as cause:
                raise ConfigInvalid(
                    f"{self.vacuum_schedule!r} is no schedule",
                    field="memory.retention.vacuum_schedule",
                    hint="five fields as in a crontab, in UTC",
                ) from cause


class MemoryConfig(_Section, frozen=True, kw_only=True):
    """`[memory]`: what makes vectors, how hits are weighed, how often is tidied up."""

    provider: Literal["hash", "http", "local"] = "hash"
    dimensions: Annotated[int, Meta(ge=1, le=16_384)] = 64
    model: Annotated[str, Meta(min_length=0, max_length=4096)] = ""
    url: Annotated[str, Meta(min_length=0, max_length=4096)] = ""
    key_env: Text = "PALYRA_EMBEDDING_KEY"
    timeout_seconds: Annotated[float, Meta(gt=0, le=600)] = 10.0
    batch_texts: Annotated[int, Meta(ge=1, le=2048)] = 64
    lexical_weight: Annotated[float, Meta(ge=0, le=1)] = 0.5
    vector_weight: Annotated[float, Meta(ge=0, le=1)] = 0.4
    recency_weight: Annotated[float, Meta(ge=0, le=1)] = 0.1
    half_life_days: Annotated[float, Meta(gt=0, le=36_500)] = 30.0
    resident_bytes_max: Annotated[int, Meta(ge=0, le=2**50)] = 512 * MIB
    approximate: bool = True
    maintenance_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    backfill_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    retention: RetentionConfig = field(default_factory=RetentionConfig)


class CronConfig(_Section, frozen=True, kw_only=True):
    """`[cron]`: whether jobs are woken when they are due."""

    enabled: bool = True


class LogConfig(_Section, frozen=True, kw_only=True):
    """`[log]`: what is said on standard error, and how."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsConfig(_Section, frozen=True, kw_only=True):
    """`[metrics]`: the endpoint for Prometheus."""

    listen: Annotated[str, Meta(min_length=0, max_length=4096)] = ""
    beyond_loopback: bool = False


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. Immutable; `replaced` makes another one.

    Raises:
        ConfigInvalid: limits that depend on each other do not fit; `field` is the one to change.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    door: DoorConfig = field(default_factory=DoorConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    canvas: CanvasConfig = field(default_factory=CanvasConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    cron: CronConfig = field(default_factory=CronConfig)
    log: LogConfig = field(default_factory=LogConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        for key, fits, rule in _dependencies(self):
            if not fits:
                raise ConfigInvalid("this limit does not fit another one", field=key, hint=rule)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The configuration in a TOML file; keys that it leaves out keep their defaults.

        Raises:
            ConfigInvalid: the file cannot be read, is not TOML, or holds an unknown key or a value
                out of range.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as cause:
            raise ConfigInvalid(
                f"{path} cannot be read: {cause}", hint="name a TOML file in UTF-8"
            ) from cause
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as cause:
            raise ConfigInvalid(f"{path} is not TOML: {cause}") from cause
        return cls.from_mapping(values)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The configuration in nested mappings, section by section, as `load` reads them.

        Raises:
            ConfigInvalid: as `load`.
        """
        sections: dict[str, _Section] = {}
        for name, table in values.items():
            kind = SECTIONS.get(name)
            if kind is None:
                raise _unknown(name, SECTIONS, "section")
            if not isinstance(table, Mapping):
                raise ConfigInvalid(
                    f"{name} is a section, not a value", field=name, hint=f"write [{name}]"
                )
            keys = _names(kind)
            for key in table:
                if key not in keys:
                    raise _unknown(key, keys, "key", section=name)
            sections[name] = kind(**table)
        return cls(**sections)  # type: ignore[arg-type]

    def replaced(self, section: str, **values: Any) -> Self:
        """This configuration with some keys of one section changed, checked like a file's.

        Raises:
            ConfigInvalid: as `load`.
        """
        return self.from_mapping(self.to_mapping() | {section: self._table(section) | values})

    def to_mapping(self) -> dict[str, dict[str, Any]]:
        """Nested dicts of plain values: what `from_mapping` reads."""
        return {name: self._table(name) for name in SECTIONS}

    def _table(self, section: str) -> dict[str, Any]:
        if section not in SECTIONS:
            return {}
        table = msgspec.structs.asdict(getattr(self, section))
        return {
            name: msgspec.structs.asdict(value) if isinstance(value, _Section) else value
            for name, value in table.items()
        }


SECTIONS: Final[dict[str, type[_Section]]] = {
    "engine": EngineConfig,
    "door": DoorConfig,
    "storage": StorageConfig,
    "budget": BudgetConfig,
    "actors": ActorsConfig,
    "canvas": CanvasConfig,
    "memory": MemoryConfig,
    "cron": CronConfig,
    "log": LogConfig,
    "metrics": MetricsConfig,
}


def _dependencies(config: Config) -> list[tuple[str, bool, str]]:
    """Every pair of limits that has to fit: the key to change, whether it fits, the rule."""
    door, storage, budget, actors = config.door, config.storage, config.budget, config.actors
    memory = config.memory
    return [
        (
            "memory.lexical_weight",
            memory.lexical_weight + memory.vector_weight + memory.recency_weight > 0,
            "a hit has to weigh something: one of the three weights is above 0",
        ),
        (
            "memory.url",
            memory.provider != "http" or memory.url.startswith(("http://", "https://")),
            "an http provider has an address: http:// or https://, up to and without /embeddings",
        ),
        (
            "memory.model",
            memory.provider == "hash" or bool(memory.model),
            "a name that the endpoint knows, or the folder of a local model",
        ),
        (
            "door.peer_requests_max",
            door.peer_requests_max <= door.requests_max,
            "one peer may not have more in flight than all peers: at most door.requests_max",
        ),
        (
            "storage.wal_keep_bytes",
            storage.wal_keep_bytes <= storage.wal_bytes_max,
            "what is kept may not exceed the cap: at most storage.wal_bytes_max",
        ),
        (
            "storage.checkpoint_bytes",
            storage.checkpoint_bytes < storage.wal_bytes_max,
            "a checkpoint has to begin before the cap: below storage.wal_bytes_max",
        ),
        (
            "storage.checkpoint_bytes",
            not storage.wal_keep_bytes or storage.checkpoint_bytes <= storage.wal_keep_bytes,
            "a checkpoint has to begin before the kept file is full: at most "
            "storage.wal_keep_bytes",
        ),
        (
            "budget.group_ms_max",
            not budget.write_ms or budget.group_ms_max < budget.write_ms,
            "a group has to close within the budget of its first write: below budget.write_ms",
        ),
        (
            "actors.turn_messages_max",
            actors.turn_messages_max <= actors.mailbox_messages_max,
            "a turn cannot take more than waits: at most actors.mailbox_messages_max",
        ),
        (
            "actors.restart_backoff_ms",
            actors.restart_backoff_ms <= actors.restart_backoff_ms_max,
            "the first pause may not be longer than the last: at most "
            "actors.restart_backoff_ms_max",
        ),
    ]


@cache
def _fields(kind: type[_Section]) -> tuple[inspect.Field, ...]:
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return described.fields


def _section_name(kind: type[_Section]) -> str:
    return getattr(kind, "PLACE", kind.__name__.removesuffix("Config").lower())


def _check(place: str, value: object, kind: inspect.Type) -> None:
    wrong: str | None = None
    match kind:
        case inspect.LiteralType(values=allowed):
            wrong = None if value in allowed else " | ".join(f'"{one}"' for one in allowed)
        case inspect.StrType(min_length=low, max_length=high):
            fits = isinstance(value, str) and (low or 0) <= len(value) <= (high or 0)
            wrong = None if fits else f"a string of {low}..{high} characters"
        case inspect.BoolType():
            wrong = None if isinstance(value, bool) else "true | false"
        case inspect.IntType(ge=low, le=high):
            fits = type(value) is int and (low or 0) <= value <= (high or 0)
            wrong = None if fits else f"a whole number in {low}..{high}"
        case inspect.FloatType(ge=low, le=high) if low is not None:
            fits = type(value) in (int, float) and low <= value <= (high or 0)  # type: ignore[operator]
            wrong = None if fits else f"a number in {low}..{high}"
        case inspect.FloatType(gt=low, le=high):
            fits = type(value) in (int, float) and (low or 0) < value <= (high or 0)  # type: ignore[operator]
            wrong = None if fits else f"a number above {low}, at most {high}"
        case _:
            raise AssertionError(f"{place}: no rule for {kind}")
    if wrong is not None:
        unit = _unit(place)
        raise ConfigInvalid(
            f"{place} = {repr(value)[:80]} is not allowed",
            field=place,
            hint=f"allowed: {wrong}{f', in {unit}' if unit else ''}",
        )


def _unit(place: str) -> str:
    words = set(place.rsplit(".", 1)[1].split("_"))
    return next((unit for unit in ("bytes", "ms", "seconds") if unit in words), "")


def _unknown(
    name: str, known: Mapping[str, object] | list[str], what: str, section: str | None = None
) -> ConfigInvalid:
    """The error for a name that is not there, naming the one that was probably meant."""
    place = f"{section}.{name}" if section else str(name)
    close = get_close_matches(str(name), list(known), n=1)
    if close:
        hint = f"did you mean {close[0]!r}?"
    elif home := next((one for one, kind in SECTIONS.items() if name in _names(kind)), None):
        hint = f"it belongs to [{home}]"
    else:
        hint = f"known: {', '.join(known)}"
    return ConfigInvalid(f"there is no {what} {place!r}", field=place, hint=hint)


def _names(kind: type[_Section]) -> list[str]:
    return [one.name for one in _fields(kind)]


if set(get_args(Synchronous)) < DURABLE:
    raise AssertionError("every durable setting is a setting")
