"""The engine's operations, typed, over any connection; shared by client and embedded engine.

Operations   every operation as a method      Event         what is appended
Calls        requests in flight               Connection    what an engine is reached through
"""

from palyra_actors.api.batch import Batch, BatchSummary
from palyra_actors.api.calls import Calls, Connection, UsedAfterFork
from palyra_actors.api.events import Event, new_id
from palyra_actors.api.operations import Operations
from palyra_actors.api.results import (
    Appended,
    AppendResult,
    Head,
    Health,
    Hello,
    Page,
    Stats,
    StoredEvent,
    Timing,
    Verification,
)
from palyra_actors.api.sessions import ApprovalInfo, RunInfo, Session, SessionInfo, TapeEntry
from palyra_actors.api.subscription import Subscription

__all__ = [
    "AppendResult",
    "Appended",
    "ApprovalInfo",
    "Batch",
    "BatchSummary",
    "Calls",
    "Connection",
    "Event",
    "Head",
    "Health",
    "Hello",
    "Operations",
    "Page",
    "RunInfo",
    "Session",
    "SessionInfo",
    "Stats",
    "StoredEvent",
    "Subscription",
    "TapeEntry",
    "Timing",
    "UsedAfterFork",
    "Verification",
    "new_id",
]
