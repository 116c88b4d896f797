"""Stored names and the numbers they are kept under. Both are for ever: add, never change.

A kind of the client's own (`x.…`) is stored as its name. Kinds from 100 on are the engine's own.
"""

import re
from typing import Final

# -- streams: one an entity; runs and approvals live in their session's ------------------------
SESSION: Final = 1
CANVAS: Final = 2
CRON: Final = 3
MEMORY: Final = 4
SYSTEM: Final = 5
STREAM_NAMES: Final[dict[int, str]] = {
    SESSION: "session",
    CANVAS: "canvas",
    CRON: "cron",
    MEMORY: "memory",
    SYSTEM: "system",
}

# -- who did it ---------------------------------------------------------------------------------
ACTOR_NAMES: Final[dict[int, str]] = {1: "user", 2: "agent", 3: "system", 4: "plugin"}
ACTOR_NUMBERS: Final[dict[str, int]] = {name: number for number, name in ACTOR_NAMES.items()}
BY_THE_ENGINE: Final = 3

# -- what happened ------------------------------------------------------------------------------
MODEL_TOKEN: Final = 2
RUN_COMPLETED: Final = 6
RUN_FAILED: Final = 7
_CLIENT_NAMES: Final[dict[int, str]] = {
    1: "message_received",
    MODEL_TOKEN: "model_token",
    3: "tool_proposed",
    4: "tool_executed",
    5: "a2ui_updated",
    RUN_COMPLETED: "run_completed",
    RUN_FAILED: "run_failed",
}
CLIENT_KINDS: Final[dict[str, int]] = {name: number for number, name in _CLIENT_NAMES.items()}

# the engine's own: sessions 100-119, runs 120-139, approvals 140-159, canvases 160-179,
# cron 180-199, memory 200-219, the system 220-239
ENGINE_KINDS: Final[dict[str, int]] = {
    "session.opened": 100,
    "session.updated": 101,
    "session.archived": 102,
    "session.branched": 103,  # `chain_after` in storage/sql knows this number
    "session.erased": 104,
    "run.started": 120,
    "run.transitioned": 121,
    "approval.requested": 140,
    "approval.decided": 141,
    "canvas.created": 160,
    "canvas.patched": 161,
    "canvas.snapshotted": 162,
    "canvas.compacted": 163,
    "canvas.closed": 164,
    "canvas.erased": 165,
    "canvas.trimmed": 166,
    "cron.created": 180,
    "cron.updated": 181,
    "cron.deleted": 182,
    "cron.run_started": 183,
    "cron.run_queued": 184,
    "cron.run_skipped": 185,
    "cron.run_leased": 186,
    "cron.run_heartbeat": 187,
    "cron.run_finished": 188,
    "cron.run_retry_scheduled": 189,
    "cron.quarantined": 190,
    "memory.ingested": 200,
    "memory.superseded": 201,
    "memory.deleted": 202,
    "memory.purged": 203,
    "memory.expired": 204,
    "memory.evicted": 205,
}
KIND_NAMES: Final[dict[int, str]] = {
    **_CLIENT_NAMES,
    **{number: name for name, number in ENGINE_KINDS.items()},
}
KIND_NUMBERS: Final[dict[str, int]] = {**CLIENT_KINDS, **ENGINE_KINDS}
_OWN_KIND: Final = re.compile(r"x\.[a-z0-9_.]{1,62}\Z")


def kind_from_client(name: str) -> int | str | None:
    """What a client's kind is stored as, or None if a client may not use that name."""
    number = CLIENT_KINDS.get(name)
    if number is not None:
        return number
    return name if _OWN_KIND.match(name) else None


def kind_to_find(name: str) -> int | str | None:
    """What a kind is stored as, whoever writes it; None: there is no such kind."""
    number = KIND_NUMBERS.get(name)
    return number if number is not None else kind_from_client(name)


def kind_name(stored: int | str) -> str:
    """The name of a stored kind."""
    return stored if isinstance(stored, str) else KIND_NAMES[stored]


# -- what leaves its id behind when its session is erased: see `gone` in storage/sql ------------
RUN: Final = 1
APPROVAL: Final = 2
REMEMBERED: Final = 3
GONE_NAMES: Final[dict[int, str]] = {RUN: "run", APPROVAL: "approval", REMEMBERED: "memory"}

# -- memories -----------------------------------------------------------------------------------
MEMORY_SOURCES: Final[dict[str, int]] = {
    "tape_user_message": 1,
    "tape_tool_result": 2,
    "summary": 3,
    "manual": 4,
    "import": 5,
}

# -- runs ---------------------------------------------------------------------------------------
RUN_IN_PROGRESS: Final = 1
RUN_DONE: Final = 2
RUN_STATE_FAILED: Final = 3
RUN_CANCELLED: Final = 4
RUN_PENDING: Final = 5
RUN_ACCEPTED: Final = 6
RUN_STATES: Final[dict[int, str]] = {
    RUN_IN_PROGRESS: "in_progress",
    RUN_DONE: "done",
    RUN_STATE_FAILED: "failed",
    RUN_CANCELLED: "cancelled",
    RUN_PENDING: "pending",
    RUN_ACCEPTED: "accepted",
}
RUN_ENDS: Final[dict[int | str, int]] = {RUN_COMPLETED: RUN_DONE, RUN_FAILED: RUN_STATE_FAILED}
