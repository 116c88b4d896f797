"""A scripted engine on loopback: a ROUTER that answers as a test tells it to.

A script is called with each request and returns what to send back: any number of raw replies.
What arrived is kept, so that a test can wait for it instead of sleeping.
"""

import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import msgpack
import zmq

DEADLINE_S = 20.0
TIMING = {"queued_ms": 0.1, "commit_ms": 0.2, "total_ms": 0.3, "within_budget": True}
HEAD = {"seq": 7, "hash": b"\x07" * 32}


@dataclass(frozen=True)
class Request:
    """One request as it arrived, and from which connection."""

    peer: bytes
    frame: bytes
    envelope: dict[str, Any]

    @property
    def id(self) -> Any:
        return self.envelope["id"]

    @property
    def op(self) -> str:
        return str(self.envelope["op"])

    @property
    def body(self) -> dict[str, Any]:
        return dict(self.envelope["body"])

    def ok(self, **fields: Any) -> bytes:
        return pack({"v": 1, "id": self.id, "ok": fields})

    def err(self, code: str, *, retryable: bool = False, **fields: Any) -> bytes:
        err = {"code": code, "message": code, "retryable": retryable, **fields}
        return pack({"v": 1, "id": self.id, "err": err})

    def item(self, **fields: Any) -> bytes:
        return pack({"v": 1, "id": self.id, "item": fields})

    def appended(self, *, first_seq: int = 1, **changes: Any) -> bytes:
        results = [
            {
                "event_id": event["event_id"],
                "seq": first_seq + index,
                "session_seq": first_seq + index,
                "hash": bytes(32),
                "duplicate": False,
                "redacted": False,
                **changes,
            }
            for index, event in enumerate(self.body["events"])
        ]
        return self.ok(results=results, timing=TIMING)


Script = Callable[[Request], Iterable[bytes]]


def pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value))


def stored(seq: int, **changes: Any) -> dict[str, Any]:
    """An event as the engine answers it."""
    return {
        "seq": seq,
        "event_id": f"{seq:026d}",
        "stream": "session",
        "stream_id": "0" * 26,
        "stream_seq": seq,
        "session_id": "0" * 26,
        "run_id": None,
        "kind": "message_received",
        "actor": "user",
        "principal": "local",
        "ts_ms": 1,
        "recorded_ms": 2,
        "redacted": False,
        "traceparent": None,
        "payload": {"text": f"{seq}"},
        "payload_sha256": bytes(32),
        "hash": bytes(32),
        "prev_hash": bytes(32),
        **changes,
    }


class FakeEngine:
    """Context manager. `endpoint` stays the same over `stop` and `start`."""

    def __init__(self, script: Script, endpoint: str = "tcp://127.0.0.1:*") -> None:
        self.script = script
        self.endpoint = endpoint
        self.requests: list[Request] = []
        self._starts = itertools.count()
        self._heard = threading.Condition()
        self._context = zmq.Context()
        self._control: zmq.Socket[bytes] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._context.term()

    def start(self) -> None:
        router = self._context.socket(zmq.ROUTER)
        router.linger = 0
        router.bind(self.endpoint)
        bound = router.get(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        self.endpoint = bound.decode().rstrip("\0")
        name = f"inproc://control-{next(self._starts)}"
        control = self._context.socket(zmq.PAIR)
        control.bind(name)
        self._control = self._context.socket(zmq.PAIR)
        self._control.linger = 0
        self._control.connect(name)
        self._thread = threading.Thread(target=self._run, args=(router, control))
        self._thread.start()

    def stop(self) -> None:
        """Dies: every connection is closed, what was not answered never is."""
        if self._thread is not None and self._control is not None:
            self._control.send(b"")
            self._thread.join()
            self._control.close()
            self._thread = None

    def push(self, request: Request, *replies: bytes) -> None:
        """Sends more to the connection a request came from. From the test's thread."""
        assert self._control is not None
        for reply in replies:
            self._control.send_multipart([request.peer, reply])

    def wait_for(self, op: str, count: int = 1) -> list[Request]:
        """The requests for an op, once there are `count` of them."""

        def arrived() -> list[Request]:
            return [request for request in self.requests if request.op == op]

        with self._heard:
            assert self._heard.wait_for(lambda: len(arrived()) >= count, DEADLINE_S), (
                f"{count} × {op} did not arrive: {[request.op for request in self.requests]}"
            )
            return arrived()

    def _run(self, router: "zmq.Socket[bytes]", control: "zmq.Socket[bytes]") -> None:
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(control, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if control in ready:
                told = control.recv_multipart()
                if told == [b""]:
                    break
                router.send_multipart(told)
            if router in ready:
                peer, frame = router.recv_multipart()
                request = Request(peer, frame, msgpack.unpackb(frame))
                with self._heard:
                    self.requests.append(request)
                    self._heard.notify_all()
                for reply in self.script(request):
                    router.send_multipart([peer, reply])
        # the address is free for the next start once the listener is closed, not before
        monitor = router.get_monitor_socket(zmq.EVENT_CLOSED)
        router.unbind(self.endpoint)
        closed = monitor.poll(int(DEADLINE_S * 1000))
        router.disable_monitor()
        monitor.close()
        router.close()
        control.close()
        assert closed, "the listener did not close"
