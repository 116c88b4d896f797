from typing import Any

VERSION: int

def setup(
    request: type,
    unit: type,
    portion: type,
    tail: type,
    entity: type,
    mailbox: type,
    account: type,
    blank: Any,
    /,
) -> None: ...
def take_in(
    arrivals: list[tuple[Any, bytes]],
    stamps: list[tuple[float, bool]],
    start: int,
    requests: list[tuple[Any, Any, bytes]],
    desk: tuple[Any, ...],
    terms: tuple[float, float, float, float, float, float, float, float, bool],
    load: int,
    room: int,
    under_way: int,
    last_peer: Any,
    /,
) -> tuple[int, Any, int, int, bool, Any, bool, bool]: ...
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
