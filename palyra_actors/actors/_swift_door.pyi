from typing import Any

VERSION: int

def setup(functions: tuple[int, ...], /) -> None: ...
def receive(
    socket: int, frames_max: int, bytes_max: int, /
) -> list[tuple[bytes, bool, bytes, bool, int]]: ...
def send(
    socket: int, replies: list[tuple[bytes, bool, bytes]], porter: Any = None, /
) -> tuple[int, int]: ...
def porter(
    socket: int,
    descriptor: int,
    append_bytes_max: int,
    head: bytes,
    middle: bytes,
    wait_s_max: float,
    /,
) -> Any: ...
def collect(
    porter: Any, frames_max: int, /
) -> tuple[
    list[tuple[tuple[bytes, bool, bytes, bool, int], float, bool]],
    bool,
    list[tuple[bytes, bool, int, int, int, int, int]],
    list[tuple[bytes, bool, bytes]],
    float,
]: ...
def tell(
    porter: Any,
    sifts: bool,
    room: float,
    most: float,
    before: float,
    through_at: float,
    served_at: float,
    load_s: float,
    called: bool,
    accounts: list[tuple[bytes, bool, float]],
    /,
) -> None: ...
def bell(porter: Any, /) -> int: ...
def rest(porter: Any, /) -> bool: ...
def wake(porter: Any, since: float, /) -> None: ...
def close(porter: Any, /) -> None: ...
