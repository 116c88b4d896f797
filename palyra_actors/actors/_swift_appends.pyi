from typing import Any

VERSION: int

def setup(request: type, unit: type, portion: type, /) -> None: ...
def hand_out(
    requests: list[tuple[Any, Any, bytes]],
    start: int,
    units: list[Any],
    now: float,
    pending_max: int,
    office: tuple[Any, ...],
    /,
) -> int: ...
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
