from collections.abc import Callable
from typing import Any

VERSION: int

def setup(
    *,
    draft: type[tuple[Any, ...]],
    written: type[tuple[Any, ...]],
    session: type[tuple[Any, ...]],
    run: type[tuple[Any, ...]],
    open_status: object,
    tape_entries_max: int,
    sha256: Callable[[bytes], Any],
    kinds: dict[str, int],
    actors: dict[str, int],
    codes: dict[int, str],
    model_token: int,
    ends: tuple[int, int],
    frame_bytes_max: int,
    payload_bytes_max: int,
    events_max: int,
    depth_max: int,
    id_bytes_max: int,
    time_ms_max: int,
    budget_ms_max: int,
    own_sha: bool,
) -> None: ...
def read_append(frame: bytes, /) -> Any: ...
def go_on(session: Any, append: Any, /) -> tuple[Any, Any] | None: ...
def chain_rows(
    stretches: list[tuple[Any, ...]], seq: int, link: bytes, recorded_ms: int, /
) -> tuple[list[tuple[Any, ...]], bytes]: ...
def encode_results(rows: list[tuple[Any, ...]], start: int, stop: int, /) -> bytes: ...
def encode_ok(
    request_id: int | str,
    results: bytes,
    queued_ms: float,
    commit_ms: float,
    total_ms: float,
    within_budget: bool,
    /,
) -> bytes: ...
def skim(
    raw: bytes | memoryview, /
) -> tuple[dict[str | tuple[int, int], tuple[int, int]], int]: ...
def skim_list(raw: bytes | memoryview, most: int, /) -> list[tuple[int, int]] | None: ...
