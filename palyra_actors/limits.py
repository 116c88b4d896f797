"""Every limit of the contract, with its unit in its name, and what depends on what.

The numbers come from the wire contract (docs/protocol.md) unless a line says otherwise.
"""

from typing import Final

PROTOCOL_VERSION: Final = 1

# -- frames -----------------------------------------------------------------------------------
FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
SOCKET_FRAME_BYTES_MAX: Final = 2 * FRAME_BYTES_MAX
"""Ours. Above this libzmq closes the connection; between the contract's limit and this one the peer
gets its `too_large`."""
IN_FLIGHT_BYTES_MAX: Final = 16 * 1024 * 1024  # ours: what a client sends ahead of its answers
REQUEST_ID_BYTES_MAX: Final = 64
TEXT_BYTES_MAX: Final = 64 * 1024  # ours: of a text that is no value; each has a limit below it
TRACEPARENT_BYTES_MAX: Final = 128  # W3C Trace Context, version 00 has 55; ours leaves room
PRINCIPAL_BYTES_MAX: Final = 64  # ours
BUDGET_MS_DEFAULT: Final = 25
BUDGET_MS_MAX: Final = 600_000  # ours: ten minutes

# -- values -----------------------------------------------------------------------------------
PAYLOAD_BYTES_MAX: Final = 256 * 1024
VALUE_DEPTH_MAX: Final = 64
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**64 - 1
TIME_MS_MAX: Final = 2**48 - 1  # what a ULID can hold, the year 10889

# -- journal ----------------------------------------------------------------------------------
APPEND_EVENTS_MAX: Final = 1024
READ_LIMIT_DEFAULT: Final = 100
READ_LIMIT_MAX: Final = 1000
RECENT_LIMIT_MAX: Final = 100
KINDS_FILTER_MAX: Final = 64  # ours
FILTER_TEXT_BYTES_MAX: Final = 1024
"""Ours: of a name or a subject that is asked for. What is stored has less room, but grows where a
secret in it is replaced, and has to be found by what is shown."""
SUBSCRIBE_CREDIT_MAX: Final = 10_000
SUBSCRIPTION_HEAD_SECONDS_MAX: Final = 5
SUBSCRIPTIONS_PER_PEER_MAX: Final = 64  # ours

# -- sessions and runs ------------------------------------------------------------------------
SESSION_KEY_BYTES_MAX: Final = 256  # ours
TITLE_BYTES_MAX: Final = 1024  # ours
REASON_BYTES_MAX: Final = 1024  # ours
QUERY_BYTES_MAX: Final = 256  # ours: the text query of a list
LIST_LIMIT_DEFAULT: Final = 100
LIST_LIMIT_MAX: Final = 500
BRANCH_DEPTH_MAX: Final = 1000  # ours: forks of forks; each costs a page of history a lookup
TAPE_ENTRIES_MAX: Final = 1024
TAPE_TEXT_BYTES_MAX: Final = 1024 * 1024  # ours: of the tokens that are shown as one entry

# -- approvals --------------------------------------------------------------------------------
APPROVAL_SUBJECT_BYTES_MAX: Final = 256  # ours
APPROVAL_SUMMARY_BYTES_MAX: Final = 1024
APPROVAL_PROMPT_BYTES_MAX: Final = 64 * 1024  # ours
APPROVAL_TTL_MS_MAX: Final = 30 * 24 * 3600 * 1000  # ours: thirty days
APPROVAL_EXPORT_MAX: Final = 5000

# -- canvases ---------------------------------------------------------------------------------
CANVAS_STATE_BYTES_MAX: Final = 1024 * 1024
CANVAS_PATCH_BYTES_MAX: Final = 256 * 1024
CANVAS_PATCH_OPERATIONS_MAX: Final = 1000
CANVAS_COPY_BYTES_MAX: Final = 1024 * 1024  # ours: what the `copy`s of one patch may add up to
CANVAS_WORK_MAX: Final = 50_000  # ours: what one patch does, in units of about 0.1 µs

# -- cron -------------------------------------------------------------------------------------
CRON_NAME_BYTES_MAX: Final = 128  # ours
CRON_EXPRESSION_BYTES_MAX: Final = 256  # ours
CRON_EVERY_MS_MIN: Final = 10  # ours
CRON_EVERY_MS_MAX: Final = 3_153_600_000_000  # ours: a hundred years
CRON_TIME_MS_MAX: Final = 253_402_300_799_999  # ours: the end of the year 9999
CRON_JITTER_MS_MAX: Final = 60_000
CRON_GRACE_MS_MAX: Final = 31_536_000_000  # ours: a year
CRON_ATTEMPTS_MAX: Final = 100  # ours
CRON_BACKOFF_MS_MAX: Final = 86_400_000  # ours: a day, also of what doubling makes of it
CRON_LEASE_MS_MAX: Final = 86_400_000  # ours: a day
CRON_RESULT_BYTES_MAX: Final = 16 * 1024  # ours: a run's error, and its usage
CRON_NAMES_MAX: Final = 64  # ours: what one worker asks for
CRON_EXPLAIN_MAX: Final = 100

# -- memories ---------------------------------------------------------------------------------
MEMORY_CONTENT_BYTES_MAX: Final = 16 * 1024
MEMORY_TAGS_MAX: Final = 32
MEMORY_TAG_BYTES_MAX: Final = 64
MEMORY_CHANNEL_BYTES_MAX: Final = 256  # ours
MEMORY_QUERY_BYTES_MAX: Final = 4 * 1024
MEMORY_TOP_K_DEFAULT: Final = 8
MEMORY_TOP_K_MAX: Final = 64
MEMORY_UPKEEP_MAX: Final = 1_000_000  # ours: items that one maintain or backfill may take

# -- a reply must fit a frame, too: pages of large events end early (ours) ---------------------
REPLY_PAYLOAD_BYTES_MAX: Final = 3 * 1024 * 1024

if REPLY_PAYLOAD_BYTES_MAX + PAYLOAD_BYTES_MAX > FRAME_BYTES_MAX:
    raise AssertionError("one page and one more payload have to fit a frame")
if TAPE_TEXT_BYTES_MAX + PAYLOAD_BYTES_MAX > REPLY_PAYLOAD_BYTES_MAX:
    raise AssertionError("an entry of a tape has to fit a page")
