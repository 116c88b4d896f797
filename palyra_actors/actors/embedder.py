"""A thread that waits for an embedding provider, so that nobody else does."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
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

QUERIES_MAX: Final = 1024
"""The same of queries, which the provider is asked for together."""

QUERIES_AT_ONCE: Final = 16
"""Queries in one call of the provider, where so many wait."""

LONG_S: Final = 60.0
"""At one task, beyond what it may take: then something is wrong with the provider."""

NEAR_TEXTS: Final = 4
"""For so many the interpreter is held, about 0.1 ms. Were it held for longer, the loop would wait
for it after every call that lets go of it, and it does so with every statement."""


class Embedded(NamedTuple):
    """Vectors of length 1, a row for each text, and which of the texts have one."""

    vectors: Matrix
    good: Any


class Busy(ProviderFault):
    """Too many texts wait; the provider itself may be well."""


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
        tasks_max: int = TASKS_MAX,
    ) -> None:
        self._provider = provider
        self._call_soon = call_soon
        self._tasks: queue.Queue[Task | None] = queue.Queue(tasks_max)
        self._began_s: float | None = None
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
        """Have texts embedded. Where too many wait already, `done` gets that it is Busy."""
        try:
            self._tasks.put_nowait(Task(texts, done, query, alone))
        except queue.Full:
            fault = Busy("too many texts wait for the provider")
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
    def at_it_s(self) -> float:
        """For how long it has been at one task, in seconds."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

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
            self._began_s = time.monotonic()
            more = self._more_queries() if task.query else []
            together = [one for one in more if one is not None]
            if together:
                self._serve_together([task, *together])
            else:
                self._serve(task)
            self._began_s = None
            if len(together) < len(more):
                return  # it is to stop

    def _more_queries(self) -> list[Task | None]:
        """Those that wait besides, up to the sign to stop."""
        more: list[Task | None] = []
        while len(more) < QUERIES_AT_ONCE - 1 and (not more or more[-1] is not None):
            try:
                more.append(self._tasks.get_nowait())
            except queue.Empty:
                break
        return more

    def _serve_together(self, tasks: Sequence[Task]) -> None:
        """Queries of one text each, in one call; each by itself where one of them is at fault."""
        texts = [task.texts[0] for task in tasks]
        result = self._result(Task(texts, _nobody, True, False))
        if isinstance(result, Embedded) and all(result.good):
            for task, vector in zip(tasks, result.vectors, strict=True):
                one = Embedded(vector[None, :], result.good[:1])
                self._call_soon(partial(task.done, one))
        elif isinstance(result, Embedded) or result.lasting:
            for task in tasks:
                self._serve(task)
        else:
            for task in tasks:
                self._call_soon(partial(task.done, result))

    def _serve(self, task: Task) -> None:
        self._call_soon(partial(task.done, self._result(task)))

    def _result(self, task: Task) -> Embedded | ProviderFault:
        try:
            return self._embedded(task)
        except ProviderFault as fault:
            return fault
        except BaseException as error:  # noqa: BLE001 - a provider's fault ends no thread
            return ProviderFault(f"{type(error).__name__}")


def _nobody(_: object) -> None:
    """Each of the tasks is told by itself."""
