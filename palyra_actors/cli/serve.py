"""An engine as a process: one line when it is ready, logs aside, a clean end on a signal."""

import gc
import logging
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from palyra_actors.config import Config
from palyra_actors.engine import Engine

GC_THRESHOLDS = (50_000, 20, 100)


def serve(db: Path | None, endpoint: str | None, config_path: Path | None) -> None:
    """Runs until SIGTERM or SIGINT; what was accepted is answered before it ends.

    Raises:
        ConfigInvalid: the configuration or the endpoint.
        OpenRefused: the database.
    """
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    # from the very start: a signal while a large file is being opened ends it as cleanly
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)
    config = Config() if config_path is None else Config.load(config_path)
    log_to_stderr(config.log.format, config.log.level)
    path = config.engine.db if db is None else db
    with Engine.open(path, config) as engine:
        bound = engine.serve(endpoint or config.door.endpoint)
        sys.stdout.write(f"ready endpoint={bound} db={path} head={engine.head().seq}\n")
        sys.stdout.flush()
        spare_the_collector()
        ended.wait()
    logging.getLogger(__name__).info("stopped")


def spare_the_collector() -> None:
    """A process that is an engine and nothing else: what stands now stands for good, and what
    comes and goes with each request holds no cycles, so a full collection finds nothing and stops
    the loop for as long as it looks.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def log_to_stderr(kind: str, level: str) -> None:
    """Sends what the engine logs to standard error, as lines for a person or as JSON."""
    import structlog

    before: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if kind == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
