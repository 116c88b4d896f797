"""The hot path of appends, compiled where a compiler was at hand when the package was installed.

`_swift.c` holds six functions. Each has a twin in Python that says what it means, and the twin is
what runs where the module is missing: `domain.chain.chain_rows_plainly`, in `wire.append`
`decode_plainly`, `encode_results_plainly`, `encode_ok_plainly`, and in `wire.codec`
`envelope_plainly`; that of `go_on` is `domain.session.appended` with `changed_runs`, which an actor
asks where it says None. Nothing else depends on which of the two it is; `tests/wire/test_swift.py`
holds them equal.

`_swift_json.c` is the same for large values: its twins are `domain.survey.survey_plainly` and
`domain.canonical.by_value`, and the test `tests/domain/test_swift_json.py`. What it splices into a
text is what `domain.canonical.canonical` writes anew.

`_swift_redact.c` takes secrets out of a payload without decoding it: its twins are
`domain.redact.redact` and `redact_text_plainly`, and the test `tests/domain/test_swift_redact.py`.
"""

from hashlib import sha256
from typing import Any, Final, NamedTuple

from palyra_actors import limits
from palyra_actors.domain.catalog import (
    ACTOR_NUMBERS,
    CLIENT_KINDS,
    KIND_NAMES,
    MODEL_TOKEN,
    RUN_COMPLETED,
    RUN_ENDS,
    RUN_FAILED,
)
from palyra_actors.domain.run import Run
from palyra_actors.domain.session import Draft, Session, Status

try:
    from palyra_actors.domain import _swift
except ImportError:  # no compiler when it was installed, or none for this Python
    compiled: Any = None
else:
    compiled = _swift if _swift.VERSION == 4 else None  # a build that was left from before
try:
    from palyra_actors.domain import _swift_json
except ImportError:
    compiled_json: Any = None
else:
    compiled_json = _swift_json if _swift_json.VERSION == 2 else None
try:
    from palyra_actors.domain import _swift_redact
except ImportError:
    compiled_redact: Any = None
else:
    compiled_redact = _swift_redact if _swift_redact.VERSION == 1 else None


class Written(NamedTuple):
    """An append as it was read in one go: what `codec.decode` and the checks behind it make of the
    usual frame. All events are of one session, no id stands twice; `payloads` are all of them, one
    after the other. `odd_tokens`: some text begins with `token` that is not a model's own.
    """

    id: int | str
    budget_ms: int | None
    session_id: str
    drafts: list[Draft]
    run_ids: tuple[bytes, ...]
    ends: bool
    expected_seq: int | None
    payloads: bytes
    odd_tokens: bool


if sorted(RUN_ENDS) != [RUN_COMPLETED, RUN_FAILED] or RUN_FAILED != RUN_COMPLETED + 1:
    raise AssertionError("the kinds that end a run are told as one range")

SETTINGS: Final[dict[str, Any]] = {
    "draft": Draft,
    "written": Written,
    "session": Session,
    "run": Run,
    "open_status": Status.OPEN,
    "tape_entries_max": limits.TAPE_ENTRIES_MAX,
    "sha256": sha256,
    "kinds": CLIENT_KINDS,
    "actors": ACTOR_NUMBERS,
    "codes": KIND_NAMES,
    "model_token": MODEL_TOKEN,
    "ends": (RUN_COMPLETED, RUN_FAILED),
    "frame_bytes_max": limits.FRAME_BYTES_MAX,
    "payload_bytes_max": limits.PAYLOAD_BYTES_MAX,
    "events_max": limits.APPEND_EVENTS_MAX,
    "depth_max": limits.VALUE_DEPTH_MAX,
    "id_bytes_max": limits.REQUEST_ID_BYTES_MAX,
    "time_ms_max": limits.TIME_MS_MAX,
    "budget_ms_max": limits.BUDGET_MS_MAX,
    "own_sha": True,  # where the processor has instructions for it; else it is hashlib's business
}
"""Names and limits, which are defined in Python and told to the compiled half."""

if compiled is not None:
    compiled.setup(**SETTINGS)
