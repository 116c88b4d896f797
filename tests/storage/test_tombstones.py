"""The ids of what went with an erased session go with an exported journal."""

import json
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import apsw
import pytest

from palyra_actors.api.events import new_id
from palyra_actors.errors import Invalid
from palyra_actors.storage.queries import sql
from palyra_actors.storage.transfer import load
from tests.storage.test_transfer import Lines, exported
from tests.system.harness import Wire, house


def asked(wire: Wire, session: str) -> str:
    approval = new_id()
    wire.ok("approval.request", {
        "approval_id": approval, "session_id": session, "subject_type": "tool",
        "subject_id": "rm", "summary": "x",
    })  # fmt: skip
    return approval


def played(folder: Path) -> tuple[Path, list[str]]:
    """A journal with three approvals that went with their session, and one that is there."""
    with house(folder) as opened, closing(opened.connect()) as wire:
        gone, kept = new_id(), new_id()
        went = [asked(wire, gone) for _ in range(3)]
        asked(wire, kept)
        wire.ok("session.erase", {"session_id": gone})
        return opened.database, went


def read(database: Path) -> Lines:
    return [json.loads(line) for line in exported(database).splitlines()]


def written_back(lines: Lines, *, fit: bool) -> list[bytes]:
    texts = [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines]
    if fit:
        gone = [text for text in texts if text.startswith(b'{"gone":')]
        digest = sha256(b"".join(gone)).hexdigest()
        lines[-1]["trailer"]["gone"] = {"count": len(gone), "sha256": digest}
        texts[-1] = json.dumps(lines[-1], separators=(",", ":")).encode()
    return texts


def one(lines: Lines) -> dict[str, object]:
    found: dict[str, object] = next(line["gone"] for line in lines if "gone" in line)
    return found


def test_they_are_in_the_lines_by_their_ids_and_come_back(tmp_path: Path) -> None:
    database, went = played(tmp_path / "house")
    lines = read(database)
    assert [line["gone"]["id"] for line in lines if "gone" in line] == sorted(went)
    load(exported(database).splitlines(keepends=True), tmp_path / "moved.db")
    assert exported(tmp_path / "moved.db") == exported(database)


def test_what_goes_after_the_head_of_an_export_is_not_in_it(tmp_path: Path) -> None:
    database, _ = played(tmp_path / "house")
    with closing(apsw.Connection(str(database))) as connection:
        ((head,),) = connection.execute("SELECT max(seq) FROM events").fetchall()
        for through, count in ((head, 3), (int(str(head)) - 1, 0)):
            rows = connection.execute(sql("gone.carried"), (through, b"", 0, b"", 9)).fetchall()
            assert len(rows) == count


def test_a_file_of_version_2_is_read_without_them(tmp_path: Path) -> None:
    database, _ = played(tmp_path / "house")
    lines = [line for line in read(database) if "gone" not in line]
    lines[0]["palyra_actors_journal"] = 2
    del lines[-1]["trailer"]["gone"]
    moved = load(written_back(lines, fit=False), tmp_path / "moved.db")
    assert moved.head.seq == len(lines) - 2


def missing(lines: Lines) -> None:
    del lines[-2]


def another_id(lines: Lines) -> None:
    one(lines)["id"] = new_id()


def no_sum(lines: Lines) -> None:
    del lines[-1]["trailer"]["gone"]


def in_version_2(lines: Lines) -> None:
    lines[0]["palyra_actors_journal"] = 2


@pytest.mark.parametrize(
    "change", [missing, another_id, no_sum, in_version_2], ids=lambda it: it.__name__
)
def test_those_that_the_trailer_does_not_sum_up_are_refused(
    tmp_path: Path, change: Callable[[Lines], None]
) -> None:
    refused_with(tmp_path, change, fit=False)


def of_a_session_that_is_there(lines: Lines) -> None:
    one(lines)["stream_id"] = next(
        line["stream_id"]
        for line in lines
        if line.get("stream") == "session" and line["stream_id"] != one(lines)["stream_id"]
    )


def of_something_else(lines: Lines) -> None:
    one(lines)["what"] = "kettle"


def a_run(lines: Lines) -> None:
    one(lines)["what"] = "run"


def that_is_there(lines: Lines) -> None:
    one(lines)["id"] = next(
        line["payload"]["approval_id"]
        for line in lines
        if line.get("kind") == "approval.requested" and line["payload"]
    )


def no_place(lines: Lines) -> None:
    one(lines)["place"] = 0


def no_ulid(lines: Lines) -> None:
    one(lines)["id"] = "x"


def before_an_event(lines: Lines) -> None:
    at = next(n for n, line in enumerate(lines) if "gone" in line)
    lines[at - 1], lines[at] = lines[at], lines[at - 1]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (of_a_session_that_is_there, ".gone.stream_id"),
        (of_something_else, ".gone.what"),
        (a_run, ".gone.what"),
        (that_is_there, ".gone.id"),
        (no_place, ""),
        (no_ulid, ".gone.id"),
        (before_an_event, ".gone.stream_id"),
    ],
    ids=lambda it: getattr(it, "__name__", ""),
)
def test_one_that_contradicts_the_events_is_refused_even_if_the_trailer_fits(
    tmp_path: Path, change: Callable[[Lines], None], field: str
) -> None:
    refusal = refused_with(tmp_path, change, fit=True)
    assert str(refusal.field).removeprefix("line ").lstrip("0123456789") == field, refusal


def refused_with(tmp_path: Path, change: Callable[[Lines], None], *, fit: bool) -> Invalid:
    database, _ = played(tmp_path / "house")
    lines = read(database)
    written_back(lines, fit=True)
    change(lines)
    with pytest.raises(Invalid) as refused:
        load(written_back(lines, fit=fit), tmp_path / "moved.db")
    assert [file.name for file in tmp_path.iterdir()] == ["house"]
    return refused.value
