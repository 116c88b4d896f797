"""The kept first answers go with an exported journal: a retry after the import gets its own."""

import json
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import apsw
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import Invalid
from palyra_actors.storage.transfer import export, load
from tests.faults.rig import NO_BUDGET
from tests.storage.test_transfer import Lines, exported
from tests.system.harness import Wire, event, house

Sent = list[tuple[str, dict[str, Any], dict[str, Any]]]


def played(folder: Path) -> tuple[Path, Sent]:
    """A journal with an append, commands that changed something or nothing, and erased ones."""
    asked: Sent = []
    with house(folder) as opened, closing(opened.connect()) as wire:

        def ask(op: str, **body: Any) -> dict[str, Any]:
            body["event_id"] = new_id()
            told: dict[str, Any] = wire.ok(op, body)
            asked.append((op, body, told))
            return told

        appended = {"events": [event(new_id())]}
        asked.append(("journal.append", appended, wire.ok("journal.append", appended)))
        ask("session.resolve", session_key="k", title="Zoë")
        wire.ok("session.resolve", {"session_key": "k", "title": "renamed"})
        ask("session.resolve", session_key="k")
        ask("memory.purge", channel="none")
        ask("memory.ingest", source="manual", content="a text")
        gone = wire.ok("session.resolve", {"session_key": "gone"})["session"]["session_id"]
        ask("session.update", session_id=gone, title="Rumpelstiltskin")
        ask("session.resolve", session_key="gone")
        wire.ok("session.erase", {"session_id": gone})
        return opened.database, asked


def written_back(lines: Lines, *, fit: bool = True) -> list[bytes]:
    """As the lines of a file; `fit`: with a trailer that counts and digests the answers anew."""
    texts = [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines]
    if fit:
        answers = [text for text in texts if text.startswith(b'{"answer":')]
        lines[-1]["trailer"]["answers"] = {
            "count": len(answers), "sha256": sha256(b"".join(answers)).hexdigest(),
        }  # fmt: skip
        texts[-1] = json.dumps(lines[-1], separators=(",", ":")).encode()
    return texts


def told(reply: dict[str, Any]) -> Any:
    """What is the same in the first answer and in each later one."""
    if "err" in reply:
        return reply["err"]["code"]
    ok = {name: it for name, it in reply["ok"].items() if name not in {"timing", "duplicate"}}
    for one in ok.get("results", ok.get("events", ())):
        one.pop("duplicate", None)
    return ok


def test_a_retry_after_an_import_gets_the_first_answer_and_changes_nothing(
    tmp_path: Path,
) -> None:
    database, asked = played(tmp_path / "house")
    lines = exported(database)
    moved = load(lines.splitlines(keepends=True), tmp_path / "moved.db")
    assert moved.answers == len(asked) - 1, "an append is its events"
    assert exported(tmp_path / "moved.db") == lines
    assert b"Rumpelstiltskin" not in lines
    with closing(Engine.open(tmp_path / "moved.db", NO_BUDGET)) as engine:
        endpoint = engine.serve(f"ipc://{tmp_path}/door")
        with Wire(endpoint) as wire:
            before = wire.head()
            for op, body, first in asked[:-2]:
                assert told(wire.call(op, body)) == told({"ok": first}), op
            for op, body, _ in asked[-2:]:
                assert told(wire.call(op, body)) == "gone", op
            for _, body, _ in asked[1:]:
                other = {"channel": "another", "event_id": body["event_id"]}
                assert wire.err("memory.purge", other)["code"] == "id_reused"
            assert wire.head() == before


def test_a_file_of_version_1_is_read_without_answers(tmp_path: Path) -> None:
    database, _ = played(tmp_path / "house")
    lines = [json.loads(line) for line in exported(database).splitlines()]
    lines[0]["palyra_actors_journal"] = 1
    lines = [line for line in lines if "answer" not in line]
    del lines[-1]["trailer"]["answers"], lines[-1]["trailer"]["gone"]
    moved = load(written_back(lines, fit=False), tmp_path / "moved.db")
    assert (moved.head.seq, moved.answers) == (len(lines) - 2, 0)


def first(lines: Lines, *, idle: bool) -> dict[str, Any]:
    """The first answer that changed something, or nothing."""
    found: dict[str, Any] = next(
        line["answer"]
        for line in lines
        if "answer" in line
        and line["answer"]["idle"] == idle
        and line["answer"]["stream"] == "session"
    )
    return found


def missing(lines: Lines) -> None:
    del lines[-2]


def doubled(lines: Lines) -> None:
    lines.insert(-1, lines[-2])


def another_answer(lines: Lines) -> None:
    first(lines, idle=True)["answer"]["answer"]["created"] = True


def swapped(lines: Lines) -> None:
    lines[-2], lines[-3] = lines[-3], lines[-2]


def no_sum(lines: Lines) -> None:
    del lines[-1]["trailer"]["answers"]


@pytest.mark.parametrize(
    "change", [missing, doubled, another_answer, swapped, no_sum], ids=lambda it: it.__name__
)
def test_answers_that_the_trailer_does_not_sum_up_are_refused(
    tmp_path: Path, change: Callable[[Lines], None]
) -> None:
    refused_with(tmp_path, change, fit=False)


def named_by_no_event(lines: Lines) -> None:
    first(lines, idle=False)["event_id"] = new_id()


def called_idle(lines: Lines) -> None:
    first(lines, idle=False)["idle"] = True


def idle_called_effective(lines: Lines) -> None:
    first(lines, idle=True)["idle"] = False


def of_another_stream(lines: Lines) -> None:
    one = first(lines, idle=False)
    one["stream_id"] = next(
        line["stream_id"]
        for line in lines
        if line.get("stream") == "session" and line["stream_id"] != one["stream_id"]
    )


def of_no_stream(lines: Lines) -> None:
    first(lines, idle=True)["stream_id"] = new_id()


def of_no_family(lines: Lines) -> None:
    first(lines, idle=True)["stream"] = "kettle"


def no_stream_though_not_idle(lines: Lines) -> None:
    first(lines, idle=False).update(stream=None, stream_id=None)


def no_ulid(lines: Lines) -> None:
    first(lines, idle=True)["event_id"] = "x"


def a_short_digest(lines: Lines) -> None:
    first(lines, idle=True)["digest"] = "00"


def no_answer(lines: Lines) -> None:
    del first(lines, idle=True)["answer"]


def an_answer_that_nobody_can_tell(lines: Lines) -> None:
    first(lines, idle=True)["answer"] = {"answer": 3}


def a_field_more(lines: Lines) -> None:
    first(lines, idle=True)["extra"] = 1


def twice(lines: Lines) -> None:
    lines.insert(-1, lines[-2])


def before_an_event(lines: Lines) -> None:
    at = next(n for n, line in enumerate(lines) if "answer" in line)
    lines[at - 1], lines[at] = lines[at], lines[at - 1]


def in_version_1(lines: Lines) -> None:
    lines[0]["palyra_actors_journal"] = 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (named_by_no_event, ".answer.event_id"),
        (called_idle, ".answer.idle"),
        (idle_called_effective, ".answer.event_id"),
        (of_another_stream, ".answer.stream_id"),
        (of_no_stream, ".answer.stream_id"),
        (of_no_family, ".answer.stream"),
        (no_stream_though_not_idle, ".answer.stream"),
        (no_ulid, ".answer.event_id"),
        (a_short_digest, ""),
        (no_answer, ""),
        (an_answer_that_nobody_can_tell, ".answer.answer"),
        (a_field_more, ""),
        (twice, ".answer.event_id"),
        (before_an_event, ""),
        (in_version_1, ""),
    ],
    ids=lambda it: getattr(it, "__name__", ""),
)
def test_an_answer_that_contradicts_the_events_is_refused_even_if_the_trailer_fits(
    tmp_path: Path, change: Callable[[Lines], None], field: str
) -> None:
    refusal = refused_with(tmp_path, change, fit=True)
    assert str(refusal.field).removeprefix("line ").lstrip("0123456789") == field, refusal


def refused_with(tmp_path: Path, change: Callable[[Lines], None], *, fit: bool) -> Invalid:
    database, _ = played(tmp_path / "house")
    lines = [json.loads(line) for line in exported(database).splitlines()]
    # as json writes it, which is not as the engine does: the trailer fits that until the change
    written_back(lines)
    change(lines)
    with pytest.raises(Invalid) as refused:
        load(written_back(lines, fit=fit), tmp_path / "moved.db")
    assert str(refused.value.field).startswith("line ")
    assert [file.name for file in tmp_path.iterdir()] == ["house"]
    return refused.value


def test_an_answer_whose_event_is_not_there_is_not_exported(tmp_path: Path) -> None:
    database, _ = played(tmp_path / "house")
    stranger = apsw.Connection(str(database))
    stranger.execute("UPDATE answers SET event_id = zeroblob(16) WHERE digest IN "
                     "(SELECT digest FROM answers LIMIT 1)")  # fmt: skip
    stranger.close()
    with pytest.raises(Invalid, match="whose event or stream is not there"):
        exported(database)


def test_what_comes_of_an_event_after_the_head_of_an_export_is_not_in_it(tmp_path: Path) -> None:
    """Neither the event nor the answers to that and to what found a stream that it began."""
    with house(tmp_path / "house") as opened, closing(opened.connect()) as wire:
        begun, since, idle = ({"session_key": it} for it in ("before", "since", "since"))
        for body in (begun, since, idle):
            body["event_id"] = new_id()
        session_id = wire.ok("session.resolve", begun)["session"]["session_id"]
        parts: list[bytes] = []

        def write(line: bytes) -> None:
            if not parts:
                wire.ok("session.resolve", since)
                wire.ok("session.resolve", idle)
                wire.ok("session.archive", {"session_id": session_id, "event_id": new_id()})
            parts.append(line)

        export(opened.database, write)
    load(parts, tmp_path / "moved.db")
    answers = [line["answer"] for line in map(json.loads, parts) if "answer" in line]
    assert [one["event_id"] for one in answers] == [begun["event_id"]]
