"""Commands that read: tail, show, verify, stats."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from palyra_actors.api.operations import Operations
from palyra_actors.api.results import Head, StoredEvent, Verification
from palyra_actors.api.subscription import Subscription
from palyra_actors.cli.shape import console, print_json
from palyra_actors.errors import Invalid, NoReply, NotFound

CACHE_BYTES: Final = 16 * 1024 * 1024
LOOK_S: Final = 6.0
"""Without an event, after which it is asked whether the engine still lets one in: it says where its
head is every five."""


def parse_head(text: str) -> Head:
    """`SEQ:HASH`, as `verify` prints it.

    Raises:
        Invalid: it is not.
    """
    seq, _, digest = text.partition(":")
    try:
        head = Head(int(seq), bytes.fromhex(digest))
    except ValueError:
        head = Head(-1, b"")
    if head.seq < 0 or len(head.hash) != 32:
        raise Invalid("a head is SEQ:HASH, the hash 64 hexadecimal digits", field="--expect")
    return head


def tail(
    engine: Operations,
    *,
    after: int | None,
    session: str | None,
    kinds: Sequence[str] | None,
    count: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Prints events as they come, or to the journal's end."""
    if follow:
        with engine.subscribe(after_seq=after, session_id=session, kinds=kinds) as live:
            _print_events(_followed(engine, live), count, as_json=as_json)
        return
    stored = engine.events(after_seq=after or 0, session_id=session, kinds=kinds)
    _print_events(stored, count, as_json=as_json)


def _followed(engine: Operations, live: Subscription) -> Iterator[StoredEvent]:
    """Events as they come, whatever becomes of the engine meanwhile.

    Raises:
        NoReply: the key does not open the door any more; it would be silent for ever.
    """
    heard = live.head
    while live.open:
        event = live.next(LOOK_S)
        if event is not None:
            yield event
        elif live.head is heard:  # nothing at all came, not even where the journal's head is
            try:
                engine.hello()
            except NoReply as error:
                if error.field == "key_file":
                    raise
        heard = live.head


def _print_events(events: Iterable[StoredEvent], count: int | None, *, as_json: bool) -> None:
    if count is not None and count <= 0:
        return
    terminal = None if as_json else console()
    for number, event in enumerate(events, 1):
        if terminal is None:
            print_json(event)
        else:
            from palyra_actors.cli.show import event_line

            terminal.print(event_line(event), soft_wrap=True)
        if number == count:
            return


def show(engine: Operations, session: str, *, full: bool, as_json: bool) -> bool:
    """Prints a session; whether there was anything to print."""
    events = engine.sessions.open(session).history()
    first = next(events, None)
    if first is None:
        return False

    def all_events() -> Iterable[StoredEvent]:
        yield first
        yield from events

    if as_json:
        _print_events(all_events(), None, as_json=True)
        return True
    from palyra_actors.cli.show import print_conversation

    print_conversation(console(), session, all_events(), full=full)
    return True


def verify_file(
    db: Path,
    anchor_path: Path | None,
    from_seq: int | None,
    to_seq: int | None,
    expect: Head | None,
) -> Verification:
    """Checks a file without an engine: it reads, and no more.

    Raises:
        NotFound: there is no such file.
        OpenRefused: it is no database of ours.
    """
    from palyra_actors.storage import anchor
    from palyra_actors.storage.audit import audit, making_way
    from palyra_actors.storage.connection import open_visitor
    from palyra_actors.storage.journal import JournalReader
    from palyra_actors.storage.port import Head as StoredHead

    if not db.exists():
        raise NotFound(f"there is no database {db}", field="--db")
    if from_seq is not None and to_seq is not None and to_seq < from_seq - 1:
        raise Invalid("to_seq lies before from_seq", field="to_seq")
    with closing(JournalReader(open_visitor(db, cache_bytes=CACHE_BYTES))) as reader:
        found = audit(
            reader,
            anchored=anchor.read(str(anchor_path or anchor.beside(db))),
            expect=None if expect is None else StoredHead(expect.seq, expect.hash),
            from_seq=from_seq or 1,
            to_seq=to_seq,
            pages=False,
            rest=making_way(db),
        )
    head = Head(found.head.seq, found.head.hash)
    return Verification(
        found.first_bad_seq is None, found.checked, found.erased, head, found.first_bad_seq
    )


def show_verification(found: Verification, *, as_json: bool) -> bool:
    """Prints what the chain's check found; whether it holds."""
    if as_json:
        print_json(found)
        return found.valid
    from rich.text import Text

    head = f"head {found.head.seq}:{found.head.hash.hex()}"
    erased = f", {found.erased:,} erased" if found.erased else ""
    line = Text()
    if found.valid:
        line.append("valid", style="bold green")
        line.append(f": {found.checked:,} events checked{erased}; {head}")
    else:
        line.append("damaged", style="bold red")
        where = "" if found.first_bad_seq is None else f" at seq {found.first_bad_seq}"
        line.append(f"{where}: {found.checked:,} events checked{erased}; {head}")
    console().print(line, soft_wrap=True)
    return found.valid


def stats(engine: Operations, *, as_json: bool) -> None:
    """Prints health and counters."""
    health, counters = engine.health(), engine.stats()
    if as_json:
        print_json({"health": health, "stats": counters.raw})
        return
    from rich.text import Text

    from palyra_actors.cli.show import stats_table

    terminal = console()
    colour = {"ready": "bold green", "degraded": "bold yellow"}.get(health.status, "bold red")
    line = Text(health.status, style=colour)
    line.append("".join(f"  {reason}" for reason in health.reasons), style="not bold")
    terminal.print(line)
    terminal.print(stats_table(counters))
