"""Who looks on at a canvas misses nothing, whatever happens while the file is read for them."""

from collections.abc import Callable
from typing import Any

from palyra_actors.actors.clerks.canvas_feed import CanvasFeed, Missing, Watch
from palyra_actors.actors.work import Portion
from palyra_actors.domain.fact import Fact

CANVAS = bytes(16)


class Peer:
    backlog_bytes = 0


class Request:
    """What a feed needs of one."""

    id = 1
    admin = True
    principal = "local"

    def __init__(self) -> None:
        self.peer = Peer()
        self.items: list[Any] = []
        self.end: Any = None

    def item(self, body: Any) -> None:
        self.items.append(next(iter(body)))

    def ok(self, body: Any) -> None:
        assert self.end is None
        self.end = body


class Reader:
    """Reads when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Callable[[Any], None]] = []

    def look(self, find: Any, done: Callable[[Any], None]) -> None:
        del find
        self.asked.append(done)

    def comes(self, snapshot: Any, patches: list[tuple[int, Any]], end: Any = None) -> None:
        self.asked.pop(0)(Missing(snapshot, patches, end))


def patched(version: int, kind: str = "canvas.patched") -> Portion:
    fact = Fact(
        kind, {"version": version, "patch": []}, version, 1, version, 1, None, None,
        bytes(16), "system", "local",
    )  # fmt: skip
    portion = Portion(None, None, CANVAS, None, ())  # type: ignore[arg-type]
    portion.facts = [fact]
    return portion


def looking_on() -> tuple[CanvasFeed, Reader, Request, Watch]:
    reader, request = Reader(), Request()
    feed = CanvasFeed(reader.look, lambda _, call: call())
    watch = Watch(request, CANVAS, None, credit=100)  # type: ignore[arg-type]
    feed.subscribe(watch)
    return feed, reader, request, watch


def test_a_patch_that_is_written_after_the_reader_looked_is_read_in_turn() -> None:
    feed, reader, request, watch = looking_on()
    reader.comes({"version": 3}, [])
    feed.written(patched(4))  # the reader has looked again and found nothing; its word is not here
    reader.comes(None, [])
    assert len(reader.asked) == 1, "so it has to look once more"
    reader.comes(None, [(4, [])])
    reader.comes(None, [])
    assert request.items == ["snapshot", "patch"]
    assert (watch.version, reader.asked) == (4, [])
    feed.written(patched(5))
    assert (request.items[2:], watch.version, reader.asked) == (["patch"], 5, [])


def test_a_patch_that_was_read_already_is_not_sent_again() -> None:
    feed, reader, request, watch = looking_on()
    feed.written(patched(4))
    reader.comes({"version": 4}, [])
    reader.comes(None, [])
    feed.written(patched(4))
    while reader.asked:
        reader.comes(None, [])
    assert (request.items, watch.version) == (["snapshot"], 4)


def test_nothing_is_read_in_circles_for_one_without_credit() -> None:
    feed, reader, request, watch = looking_on()
    watch.credit = 1
    reader.comes({"version": 3}, [])
    feed.written(patched(4))
    assert (request.items, reader.asked, watch.behind) == (["snapshot"], [], False)
    assert feed.add_credit(request.peer, 1, 5)  # type: ignore[arg-type]
    reader.comes(None, [(4, [])])
    reader.comes(None, [])
    assert (request.items, watch.version) == (["snapshot", "patch"], 4)


END = {"closed": True, "close_reason": None, "version": 4}


def test_one_without_credit_is_told_of_the_end_once_it_has_got_all() -> None:
    feed, reader, request, watch = looking_on()
    watch.credit = 1
    reader.comes({"version": 3}, [])
    feed.written(patched(4))
    feed.written(patched(4, "canvas.closed"))
    reader.comes(None, [], END)
    assert (request.items, request.end, reader.asked) == (["snapshot"], None, [])
    assert feed.add_credit(request.peer, 1, 1)  # type: ignore[arg-type]
    reader.comes(None, [(4, [])], END)
    assert (request.items, request.end, len(feed)) == (["snapshot", "patch"], END, 0)


def test_a_canvas_that_closes_while_the_file_is_read_ends_in_turn() -> None:
    feed, reader, request, _ = looking_on()
    feed.written(patched(4, "canvas.closed"))
    reader.comes({"version": 4}, [])  # the reader had looked before
    reader.comes(None, [], END)
    assert (request.items, request.end, reader.asked) == (["snapshot"], END, [])
