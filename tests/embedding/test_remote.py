"""An endpoint as OpenAI's, as good and as bad as endpoints are."""

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from palyra_actors.embedding.provider import Model, ProviderFault, embed_checked
from palyra_actors.embedding.remote import HttpEmbeddingProvider

KEY = "sk-test-0123456789abcdef"


def provider(answer: Callable[[httpx.Request], httpx.Response]) -> HttpEmbeddingProvider:
    return HttpEmbeddingProvider(
        url="http://endpoint.test/v1/", name="small", dimensions=3, key_env="A_KEY",
        timeout_s=60.0, texts_max=2, transport=httpx.MockTransport(answer),
    )  # fmt: skip


def vectors(request: httpx.Request) -> list[dict[str, Any]]:
    texts = json.loads(request.content)["input"]
    return [{"index": n, "embedding": [len(text), 1, 0]} for n, text in enumerate(texts)]


def test_texts_go_in_batches_with_the_key_and_come_back_in_their_order(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"data": vectors(request)[::-1]})

    caplog.set_level(logging.DEBUG)
    made = provider(answer).embed(["a", "bb", "ccc"])
    assert made.tolist() == [[1, 1, 0], [2, 1, 0], [3, 1, 0]]
    assert [str(request.url) for request in seen] == ["http://endpoint.test/v1/embeddings"] * 2
    assert {request.headers["authorization"] for request in seen} == {f"Bearer {KEY}"}
    assert json.loads(seen[0].content)["model"] == "small"
    assert KEY not in caplog.text


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)

    def answer(request: httpx.Request) -> httpx.Response:
        assert "authorization" not in request.headers
        return httpx.Response(200, json={"data": vectors(request)})

    assert len(provider(answer).embed(["a"])) == 1


def times_out(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout(f"with {KEY}", request=request)


def refuses_to_connect(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError(f"with {KEY}", request=request)


@pytest.mark.parametrize(
    ("answer", "lasting"),
    [
        (times_out, False),
        (refuses_to_connect, False),
        (lambda _: httpx.Response(500, text=KEY), False),
        (lambda _: httpx.Response(429), False),
        (lambda _: httpx.Response(401, text=KEY), False),
        (lambda _: httpx.Response(400), True),
        (lambda _: httpx.Response(200, text="<html>"), False),
        (lambda _: httpx.Response(200, content=b"\xff\xfe"), False),
        (lambda _: httpx.Response(200, json=[]), False),
        (lambda _: httpx.Response(200, json={"data": [{"index": 0}]}), False),
        (lambda _: httpx.Response(200, json={"data": []}), False),
        (lambda _: httpx.Response(200, json={"data": [{"index": 0, "embedding": "x"}]}), False),
        (lambda _: httpx.Response(200, json={"data": [{"index": 0, "embedding": [1, 2]}]}), False),
        (
            lambda _: httpx.Response(
                200, text='{"data": [{"index": 0, "embedding": [NaN, 1, 2]}]}'
            ),
            True,
        ),
        (
            lambda _: httpx.Response(200, json={"data": [{"index": 0, "embedding": [0, 0, 0]}]}),
            True,
        ),
        (
            lambda _: httpx.Response(
                200, text='{"data": [{"index": 0, "embedding": [1e39, 1, 2]}]}'
            ),
            True,
        ),
    ],
)
def test_whatever_an_endpoint_does_is_one_fault_that_tells_no_secret(
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[httpx.Request], httpx.Response],
    lasting: bool,
) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    with pytest.raises(ProviderFault) as caught:
        embed_checked(provider(answer), ["a"])
    assert caught.value.lasting is lasting
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None or KEY not in str(caught.value.__cause__)


def test_one_bad_vector_leaves_the_good_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        data = vectors(request)
        data[0]["embedding"] = [0, 0, 0]
        return httpx.Response(200, json={"data": data})

    made, good = embed_checked(provider(answer), ["a", "bb"])
    assert good.tolist() == [False, True]
    assert np.linalg.norm(made[1]) == pytest.approx(1.0)


def test_the_key_may_end_with_a_line_and_one_that_cannot_be_sent_is_said_to_be_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        return httpx.Response(200, json={"data": vectors(request)})

    monkeypatch.setenv("A_KEY", KEY + "\n")
    assert len(provider(answer).embed(["a"])) == 1
    for key in (KEY + "\u00e9", KEY[:4] + "\n" + KEY[4:]):
        monkeypatch.setenv("A_KEY", key)
        with pytest.raises(ProviderFault, match="the key in A_KEY has characters") as caught:
            provider(answer).embed(["a"])
        assert KEY[4:] not in str(caught.value)


def test_an_exception_of_a_providers_own_tells_its_kind_only() -> None:
    class Broken:
        model = Model("own", "broken", 3, 1)
        near = False

        def embed(self, texts: Sequence[str], *, query: bool = False) -> Any:
            raise RuntimeError(f"{KEY} {texts[0]}")

        def close(self) -> None: ...

    with pytest.raises(ProviderFault) as caught:
        embed_checked(Broken(), ["a text"])
    assert str(caught.value) == "broken failed: RuntimeError"
    assert caught.value.__cause__ is None


@contextmanager
def dribbling(first: bytes, again: bytes) -> Iterator[int]:
    """The port of an endpoint that answers with `first`, and then `again` and again, for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            stop = threading.Event()
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    try:
                        peer.recv(65536)
                        peer.sendall(first)
                        while not stop.wait(0.01):
                            peer.sendall(again)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    ],
)
def test_an_endpoint_that_dribbles_is_left_when_its_time_is_over(
    first: bytes, again: bytes
) -> None:
    with dribbling(first, again) as port:
        slow = HttpEmbeddingProvider(
            url=f"http://127.0.0.1:{port}/v1", name="small", dimensions=3, key_env="A_KEY",
            timeout_s=0.3, texts_max=2,
        )  # fmt: skip
        for _ in range(2):  # it asks anew afterwards
            with pytest.raises(ProviderFault, match="the endpoint took more than"):
                slow.embed(["a"])
        slow.close()


def test_a_call_that_is_cut_off_leaves_that_of_another_thread_alone() -> None:
    cut, done = threading.Event(), threading.Event()

    class Transport(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if json.loads(request.content)["input"] == ["slow"]:
                assert cut.wait(30)
                assert done.wait(30)
            return httpx.Response(200, json={"data": vectors(request)})

        def close(self) -> None:
            cut.set()

    shared = HttpEmbeddingProvider(
        url="http://endpoint.test/v1", name="small", dimensions=3, key_env="A_KEY",
        timeout_s=0.2, texts_max=2, transport=Transport(),
    )  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(shared.embed, ["slow"])
        assert cut.wait(30)
        shared._timeout_s = 60.0  # however slow this machine is
        try:
            assert len(shared.embed(["fast"])) == 1
        finally:
            done.set()
        with pytest.raises(ProviderFault, match="took more than"):
            slow.result()
    shared.close()


def test_a_timer_that_fires_as_its_call_ends_leaves_the_next_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is past being cancelled when it is."""
    late: list[Callable[[], None]] = []

    class Timer(threading.Timer):
        def start(self) -> None:
            late.append(self.function)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"data": vectors(request)})

    monkeypatch.setattr(threading, "Timer", Timer)
    asked = provider(answer)
    for _ in range(2):
        assert len(asked.embed(["a"])) == 1
        late.pop()()
