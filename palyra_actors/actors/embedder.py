"""A thread that waits for an embedding provider, so that nobody else does."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from palyra_actors.embedding.provider import (
    Matrix,
    MemoryEmbeddingProvider,
    ProviderFault,
    apart,
    embed_checked,
)

log = logging.getLogger(__name__)

TASKS_MAX: Final = 64
"""Texts or batches that wait; whoever comes then goes on without a vector."""


NEAR_TEXTS: Final = 4
"""For so many the interpreter is held, about 0.1 ms. Were it held for longer, the loop would wait
for it after every call that lets go of it, and it does so with every statement."""


class Embedded(NamedTuple):
    """Vectors of length 1, a row for each text, and which of the texts have one."""

    vectors: Matrix
    good: Any


Done: TypeAlias = Callable[["Embedded | ProviderFault"], None]


class Task(NamedTuple):
    """`alone`: somebody waits who may not hear, by the time it takes, what others embedded."""

    texts: Sequence[str]
    done: Done
    query: bool
    alone: bool


class Embedder:
    """`done` is called on the loop's thread, through `call_soon`."""

    def __init__(
        self,
        name: str,
        provider: MemoryEmbeddingProvider,
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._provider = provider
        self._call_soon = call_soon
        self._tasks: queue.Queue[Task | None] = queue.Queue(TASKS_MAX)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait_s_max: float) -> bool:
        """Leave after what is under way. False: the provider did not answer within that time; the
        thread holds nothing that has to be closed."""
        try:
            while True:
                self._tasks.get_nowait()
        except queue.Empty:
            self._tasks.put(None)
        if self._thread.ident is not None:
            self._thread.join(wait_s_max)
        return not self._thread.is_alive()

    def embed(
        self, texts: Sequence[str], done: Done, *, query: bool = False, alone: bool = False
    ) -> None:
        """Have texts embedded. Where too many wait already, `done` gets a ProviderFault."""
        try:
            self._tasks.put_nowait(Task(texts, done, query, alone))
        except queue.Full:
            fault = ProviderFault("too many texts wait for the provider")
            self._call_soon(lambda: done(fault))

    def _embedded(self, task: Task) -> Embedded:
        """A near provider computes here: others are let in between a few texts and the next."""
        texts = task.texts
        provider = apart(self._provider) if task.alone else self._provider
        step = NEAR_TEXTS if provider.near else max(1, len(texts))
        parts = []
        for at in range(0, max(1, len(texts)), step):
            parts.append(embed_checked(provider, texts[at : at + step], query=task.query))
            if provider.near:
                time.sleep(0)
        return Embedded(
            np.concatenate([vectors for vectors, _ in parts]),
            np.concatenate([good for _, good in parts]),
        )

    @property
    def busy(self) -> bool:
        """Whether anything waits."""
        return not self._tasks.empty()

    def step(self) -> bool:
        """Do what the thread would do next, where it was never started; False: nothing waits."""
        if self._tasks.empty():
            return False
        task = self._tasks.get_nowait()
        if task is not None:
            self._serve(task)
        return True

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._serve(task)

    def _serve(self, task: Task) -> None:
        result: Embedded | ProviderFault
        try:
            result = self._embedded(task)
        except ProviderFault as fault:
            result = fault
        except BaseException as error:  # noqa: BLE001 - a provider's fault ends no thread
            result = ProviderFault(f"{type(error).__name__}")
        self._call_soon(lambda: task.done(result))
