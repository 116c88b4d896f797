"""What is logged, and what never is."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from palyra_actors.cli.logs import TEXT_CHARACTERS_MAX, log_to_stderr
from tests.system.harness import Wire, event, house

SECRET = "sk-" + "q7Zt" * 10
PHRASE = "the-payload-that-nobody-may-read"


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(capsys).splitlines()]


def fail_with_a_payload(payload: dict[str, str]) -> None:
    local_copy = dict(payload)
    raise ValueError(f"{len(local_copy)} no good: api_key={SECRET}")


@pytest.mark.parametrize("kind", ["console", "json"])
def test_neither_a_secret_nor_a_local_variable_reaches_the_log(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr(kind, "debug")
    log = logging.getLogger("somewhere")
    log.warning("a peer said Bearer %s", SECRET, extra={"request_id": SECRET})
    log.info("postgres://me:%s@db.example/x", PHRASE)
    try:
        fail_with_a_payload({"text": PHRASE})
    except ValueError:
        log.exception("it failed", extra={"traceparent": f"token={SECRET}"})
    text = said(capsys)
    assert "fail_with_a_payload" in text
    assert "<redacted>" in text
    assert SECRET not in text
    assert PHRASE not in text


def test_json_is_one_object_a_line_with_level_logger_time_and_the_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to_stderr("json", "info")
    log = logging.getLogger("palyra_actors.somewhere")
    log.debug("not said")
    log.info("two\nlines", extra={"request_id": 7, "traceparent": None, "other": "not said"})
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "two\nlines",
        "level": "info",
        "logger": "palyra_actors.somewhere",
        "request_id": 7,
    }


def test_a_console_line_holds_nothing_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_to_stderr("console", "info")
    logging.getLogger("x").info("\x1b]0;title\x07", extra={"request_id": "\x1b[2J"})
    text = said(capsys)
    assert "title" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_a_text_without_end_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("json", "info")
    logging.getLogger("x").info("a" * 10 * TEXT_CHARACTERS_MAX)
    assert len(said(capsys)) < 2 * TEXT_CHARACTERS_MAX


@pytest.mark.parametrize("kind", ["console", "json"])
def test_an_engine_at_work_and_in_trouble_logs_no_secret(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with house(tmp_path) as home:
        log_to_stderr(kind, "debug")
        wire, session = home.connect(), new_id()
        wire.append(event(session, payload={"password": PHRASE, "text": SECRET}))
        wire.call("journal.append", {"events": [event(session)]}, traceparent=SECRET)
        wire.call("journal.append", {"events": [event(session, kind=SECRET)]}, id=SECRET)
        wire.raw(SECRET.encode())
        _let_one_request_fail(home.engine._works.desk, monkeypatch, wire, session)
    text = said(capsys)
    assert "a request could not be served" in text
    assert SECRET not in text
    assert PHRASE not in text


def _let_one_request_fail(
    desk: Any, monkeypatch: pytest.MonkeyPatch, wire: Wire, session: str
) -> None:
    def fail(unit: Any, session_id: str, command: Any) -> None:
        content = command.drafts[0].payload
        raise RuntimeError(f"no good: {SECRET}" if content else "empty")

    monkeypatch.setattr(desk._appends, "hand_out", lambda _, start: start)  # not in one go
    monkeypatch.setattr(desk._appends, "_hand_out_one", fail)
    request_id = f"a {SECRET}"
    reply = wire.call(
        "journal.append", {"events": [event(session, payload={"text": PHRASE})]}, id=request_id
    )
    assert reply["err"]["code"] == "internal"
    assert SECRET not in str(reply["err"])
