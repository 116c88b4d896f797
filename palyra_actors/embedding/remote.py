"""An endpoint that speaks as OpenAI's does: `POST …/embeddings {model, input}`.

OpenAI, Voyage, and what many run themselves (llama.cpp, vLLM, Ollama, text-embeddings-inference).
The key is read from the environment when it is needed and is in no message, no log and no error.
"""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from palyra_actors.embedding.provider import Matrix, Model, ProviderFault
from palyra_actors.errors import ConfigInvalid

VERSION: Final = 1
REPLY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one answer; 256 vectors of 3,072 numbers are about 16 MiB of JSON."""

CLIENTS_FAULT: Final = frozenset((400, 413, 422))
"""Statuses that say the texts are at fault: asking again would not help."""


class HttpEmbeddingProvider:
    """`url`: up to and without `/embeddings`. `key_env`: the variable that holds the key; one that
    is not set means that none is sent. `timeout_s`: of one call from its beginning to its end, in
    seconds, however an endpoint dribbles. Raises ConfigInvalid: httpx is not installed.
    """

    near = False

    def __init__(
        self,
        *,
        url: str,
        name: str,
        dimensions: int,
        key_env: str,
        timeout_s: float,
        texts_max: int,
        transport: Any = None,
    ) -> None:
        try:
            import httpx
        except ImportError as cause:
            raise ConfigInvalid(
                "an http provider needs httpx",
                field="memory.provider",
                hint="pip install 'palyra_actors[http]'",
            ) from cause
        self.model = Model("http", name, dimensions, VERSION)
        self._url = url.rstrip("/") + "/embeddings"
        self._key_env = key_env
        self._texts_max = texts_max
        self._timeout_s = timeout_s
        self._httpx = httpx
        self._transport = transport
        self._clients: dict[int, Any] = {}

    def _client(self, *, anew: bool = False) -> Any:
        """The calling thread's own: closing one leaves the call of another thread alone."""
        thread = threading.get_ident()
        if anew or thread not in self._clients:
            self._clients[thread] = self._httpx.Client(
                timeout=self._timeout_s, follow_redirects=False, transport=self._transport
            )
        return self._clients[thread]

    def embed(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
        """In as many calls as `texts_max` makes of them. Raises ProviderFault."""
        del query  # the common ground of these endpoints knows no difference
        parts = [
            self._ask(texts[at : at + self._texts_max])
            for at in range(0, len(texts), self._texts_max)
        ]
        if not parts:
            return np.empty((0, self.model.dimensions), np.float32)
        try:
            return np.concatenate(parts)
        except ValueError as error:
            raise ProviderFault("the endpoint's vectors are not of one length") from error

    def close(self) -> None:
        for client in list(self._clients.values()):
            client.close()

    def _ask(self, texts: Sequence[str]) -> Matrix:
        body = {"model": self.model.name, "input": list(texts), "encoding_format": "float"}
        ask = self._client().stream("POST", self._url, json=body, headers=self._headers())
        try:
            with self._in_time(), ask as reply:
                if reply.status_code != 200:
                    raise ProviderFault(
                        f"the endpoint answered {reply.status_code}",
                        lasting=reply.status_code in CLIENTS_FAULT,
                    )
                read = self._read(reply)
        except self._httpx.HTTPError as error:  # its text may hold the request: only its kind
            raise ProviderFault(f"the endpoint failed: {type(error).__name__}") from None
        return self._vectors(read, len(texts))

    def _headers(self) -> dict[str, str]:
        """Raises ProviderFault: the key is none that can be sent; it is not told what it is."""
        key = os.environ.get(self._key_env, "").strip()  # one from a file ends with a line's end
        if not key:
            return {}
        if not (key.isascii() and key.isprintable()):
            raise ProviderFault(f"the key in {self._key_env} has characters that cannot be sent")
        return {"Authorization": "Bearer " + key}

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """httpx's timeout is of one read: an endpoint that sends a byte now and then never reaches
        it. So when the time of a call is over its connections are closed under it; the next byte,
        or httpx's timeout, ends it then."""
        client, over, lock = self._client(), threading.Event(), threading.Lock()
        ended, failure = False, None

        def close() -> None:
            with lock:
                if not ended:  # or it would be the next call's client that is closed
                    over.set()
                    client.close()

        timer = threading.Timer(self._timeout_s, close)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below, if it is not of our making
            failure = error
        finally:
            timer.cancel()
            with lock:
                ended = True
        if over.is_set():
            self._client(anew=True)
            raise ProviderFault(f"the endpoint took more than {self._timeout_s:g} s")
        if failure is not None:
            raise failure

    @staticmethod
    def _read(reply: Any) -> bytes:
        read = bytearray()
        for chunk in reply.iter_bytes():
            read += chunk
            if len(read) > REPLY_BYTES_MAX:
                raise ProviderFault(f"the endpoint answered more than {REPLY_BYTES_MAX} bytes")
        return bytes(read)

    @staticmethod
    def _vectors(body: bytes, count: int) -> Matrix:
        try:
            data = sorted(json.loads(body)["data"], key=lambda one: one["index"])
            if [one["index"] for one in data] != list(range(count)):
                raise ProviderFault(f"the endpoint did not answer each of {count} texts once")
            return np.array([one["embedding"] for one in data], dtype=np.float32)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            fault = f"the endpoint's answer has no vectors: {type(error).__name__}"
            raise ProviderFault(fault) from None
