"""What does state cost: to find a session, list, branch, wake, make anew, export?

    resolve     a session by a key that is known, and by a new one
    list        a page of 100 out of 1,000,000 sessions (fewer: --sessions): the first, one in the
                middle, by status, by a common and by a rare word
    long        a session of 1,000,000 events (fewer: --events): waking it, a page of its history,
                a branch at its middle, each beside the same with ten events
    rebuild     all projections of that file made anew and compared
    cancel      from sending `run.cancel` to a subscriber's hearing of it
    export      5,000 approvals

Each through an embedded engine, frames and all, beside what SQLite alone takes for the same rows
through apsw: `ratio` is the engine's time to the bare one's. The sessions of `list` are put into
the file by SQL, in rows as the engine writes them, for a fill through the engine takes minutes.

    python bench/bench_state.py [--part NAME] [--sessions N] [--events N] [--dir FOLDER]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from load import emit, workspace

from palyra_actors.actors.session import STATUSES
from palyra_actors.api.events import Event, new_id
from palyra_actors.domain.catalog import SESSION
from palyra_actors.domain.session import About, Session
from palyra_actors.engine import Engine
from palyra_actors.ids import format_ulid, parse_ulid
from palyra_actors.storage.connection import open_reader, open_writer
from palyra_actors.storage.queries import sql
from palyra_actors.storage.rebuild import Rebuild

PAYLOAD = {"tool": "bash", "args": {"command": "ls -la src", "timeout": 30}, "output": "x" * 180}
WORDS = ("rain", "sun", "snow", "wind")
OWNER = "local"


def median_us(call: Callable[[], object], rounds: int) -> float:
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1e6, 1)


def compare(what: str, engine_us: float, bare_us: float, **more: Any) -> None:
    emit(
        "state", what=what, us=engine_us, bare_sql_us=bare_us,
        ratio=round(engine_us / bare_us, 2), **more,
    )  # fmt: skip


class Bare:
    """The same rows in a file of its own, without an engine."""

    def __init__(self, path: Path) -> None:
        with Engine.open(path) as engine:  # the schema, and the principal
            engine.sessions.resolve("first")
        self.connection = open_writer(
            path, synchronous="full", cache_bytes=64 << 20, wal_keep_bytes=64 << 20
        )
        ((self.stream, self.seq),) = self.connection.execute(
            "SELECT max(stream), (SELECT max(seq) FROM events) FROM streams"
        ).fetchall()

    def session(self, key: str | None, title: str | None, status: int = 1) -> None:
        """The rows of a new session. The chain is not the question here: its hashes are noise."""
        self.stream += 1
        self.seq += 1
        do, session_id = self.connection.execute, os.urandom(16)
        do(sql("insert_stream"), (self.stream, 1, session_id, 1, 1))
        do(sql("insert_event"), (
            self.seq, os.urandom(16), self.stream, 1, 0, None, None, 100, 3, 1, 1, 1, 0, None,
            b"\x83\xa1v\x01\xa3key\xc0\xa5title\xc0", None, os.urandom(32),
        ))  # fmt: skip
        do(sql("move_head"), (self.stream, 1, self.seq))
        do(sql("session.insert"), (
            self.stream, session_id, OWNER, key, title, status, None, None, 0, 1, 0, None, 0, 0,
        ))  # fmt: skip
        if title is not None:
            do(sql("session.index"), (title, self.stream))


def resolve(folder: Path, options: argparse.Namespace) -> None:
    del options
    bare = Bare(folder / "bare.db")
    names = iter(range(10**6))

    def bare_new() -> None:
        with bare.connection:
            bare.session(f"key {next(names)}", None)

    path = folder / "engine.db"
    with Engine.open(path) as engine, closing(open_reader(path, cache_bytes=1 << 20)) as reader:
        engine_new = median_us(lambda: engine.sessions.resolve(f"key {next(names)}"), 1_000)
        compare("resolve_new", engine_new, median_us(bare_new, 1_000))

        def find() -> None:
            ((session_id,),) = reader.execute(sql("session.by_key"), (OWNER, known)).fetchall()
            ((stream, *_),) = reader.execute(sql("stream"), (session_id, 1)).fetchall()
            reader.execute(sql("session.by_stream"), (stream,)).fetchall()

        known = "the one"
        engine.sessions.resolve(known)
        compare(
            "resolve_known", median_us(lambda: engine.sessions.resolve(known), 2_000),
            median_us(find, 2_000),
        )  # fmt: skip
    bare.connection.close()


def pages(folder: Path, options: argparse.Namespace) -> None:
    path = folder / "many.db"
    bare = Bare(path)
    began = time.perf_counter()
    for start in range(0, options.sessions, 10_000):
        with bare.connection:
            for n in range(start, min(start + 10_000, options.sessions)):
                rare = " needle" if n % 100_000 == 50_000 else ""
                bare.session(f"key-{n}", f"{WORDS[n % 4]} in Brno{rare}", 2 if n % 10 == 0 else 1)
        bare.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    bare.connection.close()
    took, size = round(time.perf_counter() - began, 1), path.stat().st_size >> 20
    emit("state", what="fill", sessions=options.sessions, seconds=took, file_mib=size)
    with Engine.open(path) as engine, closing(open_reader(path, cache_bytes=16 << 20)) as reader:
        middle = options.sessions // 2
        ((after,),) = reader.execute(
            "SELECT stream_id FROM streams WHERE stream = ?", (middle,)
        ).fetchall()
        shapes: dict[str, tuple[dict[str, Any], str, Sequence[Any]]] = {
            "first_page": ({}, "session.all", (0, 101)),
            "middle_page": ({"after": format_ulid(after)}, "session.all", (middle, 101)),
            "archived": ({"status": "archived"}, "session.with_status", (2, 0, 101)),
            "common_word": (
                {"query": "rain"}, "session.matching", ('words : ("rain"*)', 0, 1, 2, 101),
            ),
            "rare_word": (
                {"query": "needle brno"}, "session.matching",
                ('words : ("needle"* "brno"*)', 0, 1, 2, 101),
            ),
        }  # fmt: skip
        for name, (body, statement, bindings) in shapes.items():
            found = engine.call("session.list", {"limit": 100, **body})["sessions"]

            def page(body: dict[str, Any] = body) -> None:
                engine.call("session.list", {"limit": 100, **body})

            def rows(statement: str = statement, bindings: Sequence[Any] = bindings) -> None:
                reader.execute(sql(statement), tuple(bindings)).fetchall()

            compare(f"list_{name}", median_us(page, 100), median_us(rows, 100), found=len(found),
                    sessions=options.sessions)  # fmt: skip


def a_session(engine: Engine, events: int) -> str:
    session = new_id()
    engine.append_many(
        (Event(session, "tool_executed", PAYLOAD) for _ in range(events)), events_max=1_024
    )
    return session


def long(folder: Path, options: argparse.Namespace) -> None:
    path = folder / "long.db"
    began = time.perf_counter()
    with Engine.open(path) as engine:
        sessions = {events: a_session(engine, events) for events in (10, options.events)}
    took = round(time.perf_counter() - began, 1)
    emit("state", what="fill", events=options.events, seconds=took)
    for events, session in sessions.items():
        of_a_session(path, session, events)
    rebuild(path)


def of_a_session(path: Path, session: str, events: int) -> None:
    first = []
    for _ in range(5):
        with Engine.open(path) as engine:
            began = time.perf_counter()
            engine.sessions.resolve(session_id=session)
            first.append(time.perf_counter() - began)
    middle = {"session_id": session, "after": max(0, events // 2 - 50), "limit": 100}
    session_id = parse_ulid(session)
    with Engine.open(path) as engine, closing(open_reader(path, cache_bytes=1 << 20)) as reader:
        reading, handle = engine._works.reading, engine.sessions.open(session)

        def wake() -> Session:
            row = reading.stream(SESSION, session_id)
            assert row is not None
            ((status, *about),) = reading.rows("session.state", (row.stream,))
            return Session(row.stream_seq, STATUSES[status], {}, About(*about))

        def bare() -> None:
            ((stream, *_),) = reader.execute(sql("stream"), (session_id, 1)).fetchall()
            reader.execute(sql("session.state"), (stream,)).fetchall()

        compare(
            "activation", median_us(wake, 500), median_us(bare, 500), events=events,
            first_answer_after_a_start_ms=round(statistics.median(first) * 1e3, 2),
        )  # fmt: skip
        emit(
            "state", what="branch_and_history", events=events,
            branch_us=median_us(lambda: handle.branch(events // 2), 300),
            page_of_100_us=median_us(lambda: engine.call("session.history", middle), 50),
        )  # fmt: skip


def rebuild(path: Path) -> None:
    with closing(open_reader(path, cache_bytes=16 << 20)) as reader:
        began = time.perf_counter()
        count = sum(1 for _ in reader.execute(sql("rebuild.events"), (0, 2**62)))
        bare = time.perf_counter() - began
    with closing(Rebuild(path)) as made:
        began = time.perf_counter()
        for _ in made.run():
            pass
        folded = time.perf_counter() - began
        found = made.compare()
        compared = time.perf_counter() - began - folded
    assert not found.different
    emit("state", what="rebuild", events=count, events_per_second=round(count / folded),
         bare_read_events_per_second=round(count / bare), ratio=round(folded / bare, 2),
         compare_seconds=round(compared, 2))  # fmt: skip


def export(folder: Path, options: argparse.Namespace) -> None:
    del options
    path = folder / "approvals.db"
    with Engine.open(path) as engine, closing(open_reader(path, cache_bytes=16 << 20)) as reader:
        session = new_id()
        for n in range(5_000):
            asked = engine.approvals.request(
                session, "tool", f"tool-{n}", "remove a file", prompt={"path": f"/tmp/{n}"}
            )
            engine.approvals.decide(asked.approval_id, "allow", reason="looks fine")
        began = time.perf_counter()
        size = sum(map(len, engine.approvals.export()))
        took = time.perf_counter() - began
        bindings = dict.fromkeys(
            ("owner", "subject_type", "subject_id", "since_ms", "until_ms", "decision")
        )
        began = time.perf_counter()
        rows: list[Any] = reader.execute(
            sql("approval.page"), {**bindings, "after": 0, "through": 2**62, "limit": 5_000}
        ).fetchall()
        bare = time.perf_counter() - began
    emit(
        "state", what="export", records=len(rows), records_per_second=round(len(rows) / took),
        mib_per_second=round(size / took / 2**20, 1),
        bare_sql_records_per_second=round(len(rows) / bare), ratio=round(took / bare, 1),
    )  # fmt: skip


def cancel(folder: Path, options: argparse.Namespace) -> None:
    del options
    with Engine.open(folder / "cancel.db") as engine:
        session, heard = new_id(), []
        with engine.subscribe(after_seq=0, kinds=["run.transitioned"]) as events:
            for _ in range(500):
                run = engine.runs.start(session).run_id
                began = time.perf_counter()
                engine.runs.cancel(run)
                told = next(events)
                heard.append(time.perf_counter() - began)
                if told.run_id != run:
                    raise AssertionError(run)
    heard.sort()
    emit(
        "state", what="cancel_heard", p50_ms=round(heard[250] * 1e3, 2),
        p99_ms=round(heard[494] * 1e3, 2), max_ms=round(heard[-1] * 1e3, 2),
    )  # fmt: skip


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "resolve": resolve,
    "list": pages,
    "long": long,
    "cancel": cancel,
    "export": export,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--dir", help="on the disk to measure; default: here")
    options = parser.parse_args()
    for name, part in PARTS.items():
        if options.part in (name, "all"):
            with workspace(options.dir) as folder:
                part(folder, options)


if __name__ == "__main__":
    main()
