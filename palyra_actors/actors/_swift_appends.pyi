from typing import Any

VERSION: int

def setup(request: type, unit: type, portion: type, tail: type, /) -> None: ...
def hand_out(
    requests: list[tuple[Any, Any, bytes]],
    start: int,
    units: list[Any],
    now: float,
    pending_max: int,
    office: tuple[Any, ...],
    /,
) -> int: ...
def lay_out(
    units: list[Any],
    names: dict[str, int],
    seq: int,
    stretch: type,
    stream_names: dict[int, str],
    mark_every: int,
    /,
) -> tuple[Any, ...] | None: ...
def answer(
    answers: list[tuple[Any, Any]],
    start: int,
    began: float,
    ended: float,
    budget_ms: int,
    pressed: float,
    arrived: list[float],
    /,
) -> tuple[int, int, int, float]: ...
