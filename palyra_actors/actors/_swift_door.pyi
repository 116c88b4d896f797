from typing import Any

VERSION: int

def setup(*functions: int) -> None: ...
def receive(
    socket: int,
    frames_max: int,
    bytes_max: int,
    surplus_max: int = 0,
    surplus_bytes_max: int = 0,
    append_bytes_max: int = 0,
    /,
) -> tuple[
    list[tuple[bytes, bool, bytes, bool, int]],
    bool,
    tuple[Any, list[tuple[bytes, bool, int, int, int]]] | None,
]: ...
def sift(
    socket: int,
    surplus: Any,
    quotas: list[int],
    head: bytes,
    middle: bytes,
    wait_ms: float,
    load_ms: float,
    wait_ms_max: float,
    /,
) -> tuple[
    list[tuple[bytes, bool, bytes, bool, int]],
    list[tuple[int, int, int, int, int]],
    list[tuple[int, bytes]],
    float,
]: ...
def send(socket: int, replies: list[tuple[bytes, bool, bytes]], /) -> int: ...
