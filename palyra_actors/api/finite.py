"""A stream that ends by itself: an export, as its items come."""

import queue
from collections.abc import Iterator, Mapping
from typing import Any

from palyra_actors.api.calls import Calls
from palyra_actors.errors import NoReply, PalyraError
from palyra_actors.wire import frames


class _Lost(Exception):
    pass


class _Items:
    """What the connection's thread hears, for the one who iterates."""

    def __init__(self) -> None:
        self.heard: queue.SimpleQueue[bytes | PalyraError | _Lost | None] = queue.SimpleQueue()

    def item(self, frame: bytes, first_key: str | None) -> None:
        del first_key
        self.heard.put(frame)

    def ended(self, error: PalyraError | None) -> None:
        self.heard.put(error)

    def lost(self) -> None:
        self.heard.put(_Lost())


def items(
    calls: Calls, op: str, body: Mapping[str, Any], *, silence_s: float, principal: str | None
) -> Iterator[dict[str, Any]]:
    """The items of a stream to its end.

    Raises:
        NoReply: nothing came for `silence_s`, or the connection was lost; ask again.
        PalyraError: what the stream ended with.
    """
    source = _Items()
    options = {} if principal is None else {"principal": principal}
    request_id = calls.open_stream(op, frames.pack(body, "body"), source, **options)
    try:
        while True:
            try:
                heard = source.heard.get(timeout=silence_s)
            except queue.Empty:
                heard = _Lost()
            if heard is None:
                return
            if isinstance(heard, _Lost):
                raise NoReply(f"{op} was cut off", hint="ask again: it only reads")
            if isinstance(heard, PalyraError):
                raise heard
            yield frames.read_item(heard)
    finally:
        calls.drop_stream(request_id)
