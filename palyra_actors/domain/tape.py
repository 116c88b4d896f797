"""The tape of a run: its events from clients as entries, made from the events as they are read.

    model_token model_token message model_token   ──▶   [2 tokens] [message] [1 token]

Pure; one `Tape` reads one run, in the order of its events, and counts on from page to page.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from palyra_actors.domain.chain import Stored
from palyra_actors.limits import TAPE_ENTRIES_MAX

MODEL_TOKEN = "model_token"


class Tape:
    """Groups a run's events into entries, numbered from 1.

    An entry is shown as {tape_seq, seq, kind, actor, ts_ms, payload}: of tokens, the first one's
    with `{text, count}`; of an erased event, a payload that is None.
    """

    def __init__(self) -> None:
        self._number = 0
        self._tokens: list[Stored] = []

    def entries(self, events: Iterable[Stored]) -> Iterator[dict[str, Any]]:
        """The entries that these events complete. Call `rest` after the last of them."""
        for event in events:
            if event.kind == MODEL_TOKEN:
                self._tokens.append(event)
                continue
            yield from self.rest()
            entry = self._entry(event, _decoded(event.payload))
            if entry is not None:
                yield entry

    def rest(self) -> Iterator[dict[str, Any]]:
        """The entry of the tokens that nothing followed yet, if there are any."""
        tokens, self._tokens = self._tokens, []
        if not tokens:
            return
        texts = [_text(_decoded(token.payload)) for token in tokens]
        known = [text for text in texts if text is not None]
        erased = all(token.payload is None for token in tokens)
        payload = None if erased else {"text": "".join(known), "count": len(tokens)}
        entry = self._entry(tokens[0], payload)
        if entry is not None:
            yield entry

    def _entry(self, event: Stored, payload: Any) -> dict[str, Any] | None:
        if self._number == TAPE_ENTRIES_MAX:
            return None  # what ends a run whose tape is full
        self._number += 1
        return {
            "tape_seq": self._number,
            "seq": event.seq,
            "kind": event.kind,
            "actor": event.actor,
            "ts_ms": event.ts_ms,
            "payload": payload,
        }


def _decoded(payload: bytes | None) -> Any:
    return None if payload is None else msgspec.msgpack.decode(payload)


def _text(payload: Any) -> str | None:
    """A token's text: its `token` or its `text`, whichever is one."""
    if not isinstance(payload, dict):
        return None
    for name in ("token", "text"):
        if isinstance(payload.get(name), str):
            text: str = payload[name]
            return text
    return None
