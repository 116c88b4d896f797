"""A connection that is lost, comes back, or never was; and the process around a client."""

import gc
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from palyra_actors.api.calls import Calls, UsedAfterFork
from palyra_actors.api.events import Event, new_id
from palyra_actors.client import Client, _Wire
from palyra_actors.errors import NoReply
from tests.client.fake_engine import DEADLINE_S, HEAD, FakeEngine, Request, pack

SESSION = "01J00000000000000000000000"


@pytest.fixture(params=["tcp", "ipc"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeEngine]:
    endpoint = "tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/door"
    with FakeEngine(lambda asked: [asked.ok(**HEAD)], endpoint) as fake:
        yield fake


def test_a_request_waits_for_an_engine_that_is_not_there_yet(tmp_path: Path) -> None:
    engine = FakeEngine(lambda request: [request.ok(**HEAD)], f"ipc://{tmp_path}/door")
    answers: list[int] = []
    with Client(engine.endpoint, timeout_s=DEADLINE_S) as client:
        asking = threading.Thread(target=lambda: answers.append(client.head().seq))
        asking.start()
        with engine:
            asking.join(DEADLINE_S)
    assert answers == [7]


def test_nobody_there_at_all_is_no_reply_that_says_nothing_was_sent(tmp_path: Path) -> None:
    with (
        Client(f"ipc://{tmp_path}/nobody") as client,
        pytest.raises(NoReply) as caught,
    ):
        client.head(timeout_s=0.1)
    assert caught.value.detail["attempts"] == 0
    assert "is it running" in (caught.value.hint or "")


def test_unanswered_requests_are_sent_again_in_their_order_when_the_engine_comes_back(
    engine: FakeEngine,
) -> None:
    engine.script = lambda request: []
    with Client(engine.endpoint, timeout_s=DEADLINE_S) as client:
        calls = []
        for _ in range(5):
            packed = {"session_id": SESSION, "kind": "x.a", "actor": "agent", "payload": {}}
            body = pack({"events": [{**packed, "event_id": new_id()}]})
            calls.append(client._calls.start("journal.append", body, timeout_s=DEADLINE_S))
        first = [request.frame for request in engine.wait_for("journal.append", 5)]
        assert [request.id for request in engine.requests] == [1, 2, 3, 4, 5]
        engine.stop()
        engine.requests.clear()
        engine.script = lambda request: [request.appended(duplicate=True)]
        engine.start()
        assert all(call.result()["results"][0]["duplicate"] for call in calls)
    assert [request.frame for request in engine.requests] == first
    assert client.statistics().connections == 2


def test_a_request_without_ids_is_not_sent_twice_and_its_outcome_is_unknown(
    engine: FakeEngine,
) -> None:
    engine.script = lambda request: []
    with Client(engine.endpoint, timeout_s=DEADLINE_S) as client:
        call = client._calls.start("x", pack({}), timeout_s=DEADLINE_S, repeatable=False)
        engine.wait_for("x")
        engine.stop()
        engine.script = lambda request: [request.ok(**HEAD)]
        engine.start()
        client.head()
        with pytest.raises(NoReply) as caught:
            call.result()
        assert caught.value.outcome == "unknown"
    assert [request.op for request in engine.requests] == ["x", "journal.head"]


def test_a_request_without_ids_that_was_never_sent_waits_for_the_connection(
    engine: FakeEngine,
) -> None:
    with Client(engine.endpoint, timeout_s=DEADLINE_S) as client:
        client.head()
        engine.stop()
        while client._calls._up:
            assert client._calls.pause(0.01) is False
        call = client._calls.start("x", pack({}), timeout_s=DEADLINE_S, repeatable=False)
        engine.start()
        assert call.result() == HEAD
    assert len(engine.wait_for("x")) == 1


def test_an_engine_that_dies_again_and_again_loses_no_call(engine: FakeEngine) -> None:
    answered: list[str] = []
    seen: set[str] = set()
    lock = threading.Lock()

    def script(request: Request) -> list[bytes]:
        event_id = request.body["events"][0]["event_id"]
        again = event_id in seen
        seen.add(event_id)
        # every other first attempt dies unanswered with the engine
        if not again and len(seen) % 2:
            return []
        return [request.appended(duplicate=again)]

    engine.script = script
    with Client(engine.endpoint, timeout_s=DEADLINE_S) as client:

        def work() -> None:
            for _ in range(10):
                result = client.append(Event(SESSION, "x.a", {}))
                with lock:
                    answered.append(result.results[0].event_id)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            heard = len(engine.requests)
            engine.stop()
            engine.start()
            with engine._heard:
                engine._heard.wait_for(lambda at=heard: len(engine.requests) > at, 0.5)  # type: ignore[misc]
        for thread in threads:
            thread.join(DEADLINE_S)
    assert len(answered) == len(set(answered)) == 40
    assert set(answered) == seen


def test_a_frame_given_to_a_lost_connection_is_not_left_for_the_next_one(tmp_path: Path) -> None:
    wire = _Wire(f"ipc://{tmp_path}/nobody", Calls("nobody"))
    wire.send(b"frame")
    wire._lose()
    assert not wire._outbox
    wire._release()


def test_a_peer_that_speaks_no_zeromq_is_given_up_and_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE_S)
        port = server.getsockname()[1]
        with Client(f"tcp://127.0.0.1:{port}", timeout_s=DEADLINE_S) as client:
            for _ in range(3):
                peer, _ = server.accept()
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8)
                peer.close()
            with pytest.raises(NoReply):
                client.head(timeout_s=0.05)
            assert client.statistics().connections == 0


def run_python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_importing_the_client_loads_nothing_of_the_engine() -> None:
    code = """
import sys, palyra_actors.client
heavy = {"apsw", "pykka", "msgspec", "ormsgpack", "numpy", "typer", "rich", "hyperscan"}
print(sorted(heavy & set(sys.modules)))
print(sorted(n for n in sys.modules if n.startswith(
    ("palyra_actors.engine", "palyra_actors.storage", "palyra_actors.runtime"))))
"""
    done = run_python(code)
    assert (done.stdout, done.stderr) == ("[]\n[]\n", "")


def test_a_client_that_nobody_closes_does_not_hang_or_warn_at_the_interpreters_end(
    engine: FakeEngine,
) -> None:
    code = """
import sys
from palyra_actors.client import Client, _Wire
client = Client(sys.argv[1])
print(client.head().seq)
"""
    done = run_python(code, engine.endpoint)
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)


def test_a_client_that_is_dropped_ends_its_thread(engine: FakeEngine) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = Client(engine.endpoint)
        client.head()
        thread = next(each for each in threading.enumerate() if each.name == "palyra-client")
        del client
        gc.collect()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_opening_and_closing_clients_leaves_no_thread_and_no_descriptor_behind(
    engine: FakeEngine,
) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    for _ in range(2):
        with Client(engine.endpoint) as client:
            client.head()
    before, threads = descriptors(), threading.active_count()
    for _ in range(10):
        with Client(engine.endpoint) as client:
            client.head()
    # the engine's side of the last connections may not have noticed their end yet
    assert descriptors() < before + 10
    assert threading.active_count() == threads


def test_a_client_refuses_to_be_used_after_a_fork_and_the_parents_still_works(
    engine: FakeEngine,
) -> None:
    code = """
import os, sys, warnings
from palyra_actors.client import Client, _Wire
from palyra_actors.api.calls import Calls, UsedAfterFork
client = Client(sys.argv[1])
client.head()
child = os.fork()
if child == 0:
    try:
        client.head()
    except UsedAfterFork as error:
        print(str(error).split(";")[1], flush=True)
    client.close()
    with Client(sys.argv[1]) as own:
        print(own.head().seq, flush=True)
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(client.head().seq)
client.close()
"""
    done = run_python(code, engine.endpoint)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [" open a new one after a fork", "7", "3", "7"]
    assert issubclass(UsedAfterFork, RuntimeError)


def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    code = """
import os, palyra_actors.api.events as events
events.now_ms = lambda: 0
events._ulids._now_ms = lambda: 0
events.new_id()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, events.new_id().encode())
    os._exit(0)
os.wait()
print(os.read(read, 26).decode() != events.new_id())
"""
    assert run_python(code).stdout == "True\n"
