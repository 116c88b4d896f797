"""What the engine logs, on standard error: lines for a person, or JSON, one object a line.

    record ──▶ event, level, logger, time, request_id, traceparent ──▶ redacted ──▶ line

A message or an exception may quote what a client sent, so whatever is about to be written is looked
through for secrets, and in a console's line what a terminal would obey is made visible. Tracebacks
show code, and never the values of variables: those are payloads.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from palyra_actors.cli.shape import plain
from palyra_actors.domain.redact import redact_text

TEXT_CHARACTERS_MAX: Final = 16_384
"""Of one value, a traceback included; the rest is cut off."""

CONTEXT: Final = ("request_id", "traceparent")
"""What a message may carry beside its text: how the caller knows the request."""


def log_to_stderr(kind: str, level: str) -> None:
    """Sends what is logged to standard error, as `kind` (`console` or `json`) from `level` on."""
    before: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow=CONTEXT),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=repr, ensure_ascii=False)
        if kind == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _drop_nothings,
            _redact if kind == "json" else _redact_for_terminals,
            last,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    if level != "debug":  # a line for each call of an embedding endpoint
        logging.getLogger("httpx").setLevel(logging.WARNING)


def _drop_nothings(
    logger: Any, name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    del logger, name
    return {key: value for key, value in event.items() if value is not None}


def _redact(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Every text without the secrets in it, and no longer than `TEXT_CHARACTERS_MAX`."""
    del logger, name
    for key, value in event.items():
        if isinstance(value, bool | int | float):
            continue
        text = value if isinstance(value, str) else repr(value)
        if len(text) > TEXT_CHARACTERS_MAX:
            text = text[:TEXT_CHARACTERS_MAX] + " …"
        event[key] = redact_text(text)
    return event


def _redact_for_terminals(
    logger: Any, name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event = _redact(logger, name, event)
    return {key: plain(one) if isinstance(one, str) else one for key, one in event.items()}
