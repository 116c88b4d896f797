"""An engine as a process: one line when it is ready, logs aside, a clean end on a signal."""

import ctypes
import gc
import logging
import os
import platform
import signal
import struct
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from palyra_actors.actors import descriptors
from palyra_actors.cli.logs import log_to_stderr
from palyra_actors.config import Config
from palyra_actors.engine import Engine

GC_THRESHOLDS = (50_000, 20, 100)
SWITCH_S = 0.0005
"""After how long a thread that works lets another one in that waits for the interpreter. A commit
waits for it twice, so with Python's own 5 ms it takes 10 ms more while the loop is busy
(`bench/bench_overload.py`)."""
TURN_NS = 300_000
"""For how long a thread of ours asks to have a processor at a time. Whoever asks for less than the
scheduler's own turns, 1.4 ms on two processors, comes sooner (EEVDF, Linux 6.12 and later). By
turns, two and two, 0.02 and 0.09 % of what `bench/bench_overload.py` had acknowledged was late with
it, and 0.09 and 0.11 % without."""
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the system call's number
DESCRIPTORS_MAX = 65_536
"""Asked for where the system grants more: what there is beyond the peers is room for a crowd, of
whom the door shuts the last ones out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line says in place of the configuration; None: nothing."""

    db: Path | None = None
    endpoint: str | None = None
    config: Path | None = None
    metrics: str | None = None
    beyond_loopback: bool = False
    log_format: str | None = None
    keys: Path | None = None

    def settled(self) -> Config:
        """The configuration with them in it. Raises ConfigInvalid."""
        config = Config() if self.config is None else Config.load(self.config)
        if self.log_format is not None:
            config = config.replaced("log", format=self.log_format)
        if self.metrics is not None:
            config = config.replaced("metrics", listen=self.metrics)
        if self.beyond_loopback:
            config = config.replaced("metrics", beyond_loopback=True)
        return config


def serve(wishes: Wishes) -> None:
    """Runs until SIGTERM or SIGINT; what was accepted is answered before it ends. SIGHUP: the key
    files are read again.

    Raises:
        ConfigInvalid: the configuration, the endpoint or the keys.
        OpenRefused: the database.
    """
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    # from the very start: a signal while a large file is being opened ends it as cleanly
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)
    config = wishes.settled()
    log_to_stderr(config.log.format, config.log.level)
    sys.setswitchinterval(SWITCH_S)
    ask_for_short_turns()
    log = logging.getLogger(__name__)
    descriptors.make_room(DESCRIPTORS_MAX)
    path = config.engine.db if wishes.db is None else wishes.db
    with Engine.open(path, config) as engine:
        try:
            if config.metrics.listen:
                log.info("metrics at %s", engine.serve_metrics())
            bound = engine.serve(wishes.endpoint, keys=wishes.keys)
        except BaseException:
            engine.abandon()
            raise
        signal.signal(signal.SIGHUP, lambda *_: engine.reload_keys())
        spare_the_collector()  # before anybody comes: it stops everything while it looks
        sys.stdout.write(f"ready endpoint={bound} db={path} head={engine.head().seq}\n")
        sys.stdout.flush()
        ended.wait()
    log.info("stopped")


def ask_for_short_turns() -> None:
    """For the calling thread and those that it will start. Where the system knows of no such thing,
    or does not allow it, or where somebody has chosen another policy for us, nothing changes."""
    call = SCHED_SETATTR.get(platform.machine())
    if call is None or not sys.platform.startswith("linux") or sys.maxsize < 1 << 32:
        return
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    # struct sched_attr: size, SCHED_OTHER, flags, nice, priority, runtime, deadline, period
    asked = struct.pack("=IIQiIQQQ", 48, 0, 0, nice, 0, TURN_NS, 0, 0)
    ctypes.CDLL(None).syscall(ctypes.c_long(call), 0, asked, 0)


def spare_the_collector() -> None:
    """A process that is an engine and nothing else: what stands now stands for good, and what
    comes and goes with each request holds no cycles, so a full collection finds nothing and stops
    the loop for as long as it looks.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
