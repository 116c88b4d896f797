"""pykka's words on pooled actors: start, tell, ask, proxy, stop, and what a failure means."""

import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pykka
import pytest

from palyra_actors.clock import SystemClock
from palyra_actors.runtime.actor import ActorDead, PooledActor
from palyra_actors.runtime.dispatcher import Loop, Pool
from palyra_actors.runtime.mailbox import MailboxFull

DEADLINE_S = 20.0


@pytest.fixture(params=["loop", "pool"])
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Loop | Pool]:
    """Both kinds of threads that give turns."""
    made: Loop | Pool = (
        Loop("test-loop", SystemClock()) if request.param == "loop" else Pool("test-pool", 3)
    )
    made.start()
    yield made
    assert made.stop(DEADLINE_S)
    for ref in pykka.ActorRegistry.get_all():
        pykka.ActorRegistry.unregister(ref)


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool("test-pool", 4)
    made.start()
    yield made
    assert made.stop(DEADLINE_S)


class Recorder(PooledActor):
    """Remembers its messages; a callable is called, and what it returns is the answer."""

    def __init__(self, dispatcher: Any, **options: Any) -> None:
        super().__init__(dispatcher, **options)
        self.seen: list[Any] = []
        self.failures: list[BaseException] = []
        self.stopped = threading.Event()

    def on_receive(self, message: Any) -> Any:
        self.seen.append(message)
        return message() if callable(message) else message

    def on_stop(self) -> None:
        self.stopped.set()

    def count(self) -> int:
        return len(self.seen)


class Survivor(Recorder):
    """Goes on after a failure."""

    def on_failed(self, message: Any, error: BaseException) -> None:
        self.failures.append(error)


class Unlisted(Recorder):
    listed: ClassVar[bool] = False


def _raise(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_an_ask_gets_the_answer_of_the_actor(dispatcher: Any) -> None:
    ref = Recorder.start(dispatcher)
    assert ref.ask("question", timeout=DEADLINE_S) == "question"
    future = ref.ask("later", block=False)
    assert future.get(timeout=DEADLINE_S) == "later"


def test_messages_of_one_sender_are_handled_in_the_order_sent(dispatcher: Any) -> None:
    actor = Recorder.launch(dispatcher)
    for number in range(500):
        actor.actor_ref.tell(number)
    actor.actor_ref.ask("end", timeout=DEADLINE_S)
    assert actor.seen == [*range(500), "end"]


def test_a_proxy_calls_methods_and_reads_attributes(dispatcher: Any) -> None:
    ref = Recorder.start(dispatcher)
    proxy = ref.proxy()
    ref.tell("one")
    assert proxy.count().get(timeout=DEADLINE_S) == 1
    assert proxy.seen.get(timeout=DEADLINE_S) == ["one"]


def test_a_stopped_actor_is_dead_and_has_cleaned_up(dispatcher: Any) -> None:
    actor = Recorder.launch(dispatcher)
    ref = actor.actor_ref
    assert ref.is_alive()
    ref.stop(timeout=DEADLINE_S)
    assert actor.stopped.wait(DEADLINE_S)
    assert not ref.is_alive()
    with pytest.raises(ActorDead):
        ref.tell("too late")
    with pytest.raises(ActorDead):
        ref.ask("too late", timeout=DEADLINE_S)


def test_what_was_sent_before_a_stop_is_handled_and_what_was_sent_after_it_is_not(
    dispatcher: Any,
) -> None:
    actor = Recorder.launch(dispatcher)
    gate = threading.Event()
    actor.actor_ref.tell(lambda: gate.wait(DEADLINE_S))
    actor.actor_ref.tell("before")
    actor.actor_ref.stop(block=False)
    actor.actor_ref.tell("after")
    asked = actor.actor_ref.ask("after, too", block=False)
    gate.set()
    with pytest.raises(ActorDead):
        asked.get(timeout=DEADLINE_S)
    assert actor.stopped.wait(DEADLINE_S)
    assert actor.seen[1:] == ["before"]


def test_an_actor_that_is_listed_can_be_found_and_is_gone_after_its_end(dispatcher: Any) -> None:
    ref = Recorder.start(dispatcher)
    unlisted = Unlisted.launch(dispatcher)
    assert pykka.ActorRegistry.get_by_class(Recorder) == [ref]
    assert pykka.ActorRegistry.get_by_class(Unlisted) == []
    ref.stop(timeout=DEADLINE_S)
    unlisted.actor_ref.stop(timeout=DEADLINE_S)
    assert pykka.ActorRegistry.get_by_class(Recorder) == []
    assert not unlisted.actor_ref.is_alive()


def test_an_exception_under_ask_is_raised_at_the_caller_and_the_actor_goes_on(
    dispatcher: Any,
) -> None:
    ref = Recorder.start(dispatcher)
    with pytest.raises(KeyError, match="mine"):
        ref.ask(_raise(KeyError("mine")), timeout=DEADLINE_S)
    assert ref.ask("still here", timeout=DEADLINE_S) == "still here"


def test_an_exception_under_tell_stops_the_actor_where_nobody_decides_otherwise(
    dispatcher: Any,
) -> None:
    actor = Recorder.launch(dispatcher)
    gate = threading.Event()
    actor.actor_ref.tell(lambda: gate.wait(DEADLINE_S))
    actor.actor_ref.tell(_raise(ValueError("boom")))
    actor.actor_ref.tell("not handled any more")
    asked = actor.actor_ref.ask("nor this", block=False)
    gate.set()
    with pytest.raises(ActorDead):
        asked.get(timeout=DEADLINE_S)
    assert len(actor.seen) == 2
    assert not actor.actor_ref.is_alive()


def test_an_actor_that_decides_to_go_on_after_a_failure_does(dispatcher: Any) -> None:
    actor = Survivor.launch(dispatcher)
    actor.actor_ref.tell(_raise(ValueError("boom")))
    assert actor.actor_ref.ask("still here", timeout=DEADLINE_S) == "still here"
    assert [str(error) for error in actor.failures] == ["boom"]


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), MemoryError(), SystemError()]
)
def test_nothing_that_an_actor_raises_stops_another(dispatcher: Any, error: BaseException) -> None:
    others = [Recorder.start(dispatcher) for _ in range(3)]
    failing = Survivor.launch(dispatcher)
    failing.actor_ref.tell(_raise(error))
    for other in others:
        assert other.ask("alive", timeout=DEADLINE_S) == "alive"
    assert failing.actor_ref.ask("alive", timeout=DEADLINE_S) == "alive"
    assert failing.failures == [error]


def test_what_is_no_exception_under_ask_reaches_the_caller_and_fails_the_actor(
    dispatcher: Any,
) -> None:
    failing = Survivor.launch(dispatcher)
    with pytest.raises(SystemExit):
        failing.actor_ref.ask(_raise(SystemExit(3)), timeout=DEADLINE_S)
    assert failing.actor_ref.ask("alive", timeout=DEADLINE_S) == "alive"
    assert len(failing.failures) == 1


def test_an_actor_that_fails_while_failing_stops_alone(dispatcher: Any) -> None:
    class Hopeless(Recorder):
        def on_failed(self, message: Any, error: BaseException) -> None:
            raise RuntimeError("again")

    other, hopeless = Recorder.start(dispatcher), Hopeless.launch(dispatcher)
    hopeless.actor_ref.tell(_raise(ValueError()))
    assert other.ask("alive", timeout=DEADLINE_S) == "alive"
    hopeless.actor_ref.actor_stopped.wait(DEADLINE_S)
    assert not hopeless.actor_ref.is_alive()


def test_a_full_mailbox_refuses_a_tell_and_forgets_nothing(dispatcher: Any) -> None:
    actor = Recorder.launch(dispatcher, messages_max=5)
    gate, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        gate.wait(DEADLINE_S)

    actor.actor_ref.tell(wait)
    assert begun.wait(DEADLINE_S)
    drained = threading.Event()
    for message in (0, 1, 2, 3, drained.set):
        actor.actor_ref.tell(message)
    with pytest.raises(MailboxFull):
        actor.actor_ref.tell("one too many")
    gate.set()
    assert drained.wait(DEADLINE_S)
    actor.actor_ref.ask("end", timeout=DEADLINE_S)
    assert actor.seen[1:] == [0, 1, 2, 3, drained.set, "end"]


def test_an_actor_is_never_in_two_threads_at_once(pool: Pool) -> None:
    class Guarded(PooledActor):
        """Notices a second thread, and loses counts if there is one."""

        def __init__(self) -> None:
            super().__init__(pool, messages_max=100_000)
            self.inside = threading.Lock()
            self.together = 0
            self.count_handled = 0

        def on_receive(self, message: Any) -> None:
            if not self.inside.acquire(False):
                self.together += 1
                return
            self.count_handled += 1
            self.inside.release()

    actors = [Guarded.launch() for _ in range(5)]

    def tell_all() -> None:
        for _ in range(2000):
            for actor in actors:
                actor.actor_ref.tell(1)

    senders = [threading.Thread(target=tell_all) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    for actor in actors:
        actor.actor_ref.ask("flush", timeout=DEADLINE_S)
    assert [actor.together for actor in actors] == [0] * 5
    assert [actor.count_handled for actor in actors] == [8001] * 5


def test_a_message_handed_over_within_the_thread_is_handled_at_once(pool: Pool) -> None:
    loop = Loop("test-loop", SystemClock())  # never started: this thread stands for it
    actor = Survivor.launch(loop)
    actor.hand("now")
    assert actor.seen == ["now"]
    actor.hand(_raise(ValueError("boom")))
    assert len(actor.failures) == 1
    actor.actor_ref.tell("waits")
    actor.hand("behind it")
    assert len(actor.seen) == 2
    actor.take_turn(10)
    assert actor.seen[2:] == ["waits", "behind it"]


def test_ten_thousand_actors_cost_no_thread(dispatcher: Any) -> None:
    before = threading.active_count()
    actors = [Unlisted.launch(dispatcher) for _ in range(10_000)]
    assert threading.active_count() == before
    assert [actor.actor_ref.ask(1, timeout=DEADLINE_S) for actor in actors[::1000]] == [1] * 10
    assert threading.active_count() == before
