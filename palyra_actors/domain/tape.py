"""The tape of a run: its events from clients as entries, made from the events as they are read.

    model_token model_token message model_token   ──▶   [2 tokens] [message] [1 token]

Pure; one `Tape` reads one run, in the order of its events, and counts on from page to page. It
holds at most `TAPE_TEXT_BYTES_MAX` bytes of text, however long a model talks.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from palyra_actors.domain.chain import Stored
from palyra_actors.limits import TAPE_ENTRIES_MAX, TAPE_TEXT_BYTES_MAX

MODEL_TOKEN = "model_token"


class Tape:
    """Groups a run's events into entries, numbered from 1.

    An entry is shown as {tape_seq, seq, kind, actor, ts_ms, payload}: of tokens, the first one's
    with `{text, count}`; of an erased event, a payload that is None. A text that would be longer
    than `TAPE_TEXT_BYTES_MAX` holds the first `joined` of its tokens, and goes on in the run's
    tokens behind the event `next_after_seq`.
    """

    def __init__(self) -> None:
        self._number = 0
        self._talk: _Talk | None = None

    def entries(self, events: Iterable[Stored]) -> Iterator[dict[str, Any]]:
        """The entries that these events complete. Call `rest` after the last of them."""
        for event in events:
            if event.kind == MODEL_TOKEN:
                if self._talk is None:
                    self._talk = _Talk(event)
                self._talk.add(event)
                continue
            yield from self.rest()
            entry = self._entry(event, _decoded(event.payload))
            if entry is not None:
                yield entry

    def rest(self) -> Iterator[dict[str, Any]]:
        """The entry of the tokens that nothing followed yet, if there are any."""
        talk, self._talk = self._talk, None
        entry = None if talk is None else self._entry(talk.first, talk.payload())
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


class _Talk:
    """Tokens that nothing came between."""

    def __init__(self, first: Stored) -> None:
        self.first = first
        self._texts: list[str] = []
        self._bytes = self._count = self._joined = 0
        self._last_joined = first.seq
        self._whole = True
        self._erased = True

    def add(self, token: Stored) -> None:
        self._count += 1
        self._erased &= token.payload is None
        if not self._whole:
            return
        text = _text(_decoded(token.payload)) or ""
        size = len(text.encode())
        if self._joined and self._bytes + size > TAPE_TEXT_BYTES_MAX:
            self._whole = False
            return
        self._texts.append(text)
        self._bytes += size
        self._joined += 1
        self._last_joined = token.seq

    def payload(self) -> dict[str, Any] | None:
        if self._erased:
            return None
        shown = {"text": "".join(self._texts), "count": self._count}
        if self._whole:
            return shown
        return {**shown, "joined": self._joined, "next_after_seq": self._last_joined}


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
