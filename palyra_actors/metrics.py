"""The endpoint for Prometheus: the engine's statistics as text over HTTP. Off by default.

    scrape ──▶ server's thread ──asks──▶ loop ──▶ EngineStatistics ──▶ text

One thread, one scrape at a time; a caller that says nothing for `REQUEST_S_MAX` is dropped. Labels
come from fixed lists: no text of a client's reaches them. Only this machine is served unless the
operator says otherwise: the numbers tell strangers how much is done here, and when.
"""

import ipaddress
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import accumulate
from socketserver import TCPServer
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from palyra_actors.actors.latency import BOUNDS_MS
from palyra_actors.actors.statistics import EngineStatistics
from palyra_actors.errors import ConfigInvalid, PalyraError

REQUEST_S_MAX: Final = 5.0
PORT_MAX: Final = 65_535
STATUSES: Final = ("ready", "degraded", "failing")


class EngineCollector(Collector):
    """Asks for the statistics at each scrape."""

    def __init__(self, statistics: Callable[[], EngineStatistics]) -> None:
        self._statistics = statistics

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: to register is not to scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        try:
            now = self._statistics()
        except PalyraError:
            yield _gauge("up", "1 where the engine's loop answers.", 0)
            return
        yield _gauge("up", "1 where the engine's loop answers.", 1)
        yield from _requests(now)
        yield from _writes(now)
        yield from _sizes(now)


def _requests(now: EngineStatistics) -> Iterator[Metric]:
    requests, door = now.requests, now.door
    yield _counter("requests_received", "Requests that came.", requests.received)
    yield _counters(
        "requests",
        "Requests by what became of them.",
        "outcome",
        {
            "ok": requests.ok,
            "refused": requests.refused,
            "unknown": requests.unknown,
            "closed": requests.closed,
        },
    )
    yield _gauge("requests_under_way", "Requests not answered yet.", requests.under_way)
    yield _gauge("peers", "Connections.", door.peers)
    yield _counter("peers_cut", "Connections cut because they did not read.", door.cut)
    yield _gauge("backlog_bytes", "Replies that peers have not taken.", door.backlog_bytes)
    yield _gauge("subscriptions", "Subscriptions.", now.subscriptions)


def _writes(now: EngineStatistics) -> Iterator[Metric]:
    requests, writer, latency, plan = now.requests, now.writer, now.latency, now.steering
    yield _counters(
        "writes",
        "Writes that were stored, sent away for lack of room, or stored late.",
        "result",
        {"acked": requests.acked, "overloaded": requests.overloaded, "late": writer.late},
    )
    totals = list(accumulate(latency.counts))
    bounds = [str(bound / 1000) for bound in BOUNDS_MS] + ["+Inf"]
    yield HistogramMetricFamily(
        "palyra_write_seconds",
        "From a write's arrival to the end of its commit.",
        buckets=list(zip(bounds, totals, strict=True)),
        sum_value=latency.sum_ms / 1000,
    )
    yield _gauge("budget_seconds", "The budget of a write; 0: none.", now.budget_ms / 1000)
    yield _counter("groups", "Transactions.", writer.groups)
    yield _counter("events", "Events written.", writer.events)
    yield _gauge("group_events_max", "Events of the largest transaction.", writer.events_max)
    yield _gauge("queue_writes", "Writes that wait for their transaction.", writer.waiting)
    yield _gauge("lobby_writes", "Writes that wait to be let in.", now.lobby.waiting)
    yield _gauge("commit_seconds", "What a commit is expected to take.", plan.commit_s)
    yield _gauge("disk_slow", "1 while a commit alone takes the budget.", plan.slow)


def _sizes(now: EngineStatistics) -> Iterator[Metric]:
    actors = now.actors
    status = GaugeMetricFamily("palyra_status", "1 at what health says.", labels=["status"])
    for name in STATUSES:
        status.add_metric([name], now.status == name)
    yield status
    yield _gauge("uptime_seconds", "Since the start.", now.uptime_s)
    yield _gauge("head_seq", "The journal's last event.", now.head.seq)
    yield _gauge("actors_resident", "Entities in memory.", actors.resident)
    yield _gauge("actors_given_up", "Entities that failed too often.", actors.given_up)
    yield _counters(
        "actors",
        "Entities by what happened to them.",
        "change",
        {
            "activated": actors.activated,
            "passivated": actors.passivated,
            "restarted": actors.restarted,
        },
    )
    failures = {name: duty["failures"] or 0 for name, duty in now.duties.items()}
    yield _counters("duty_failures", "Turns of the engine's upkeep that failed.", "duty", failures)
    yield _gauge("threads", "Threads of the process.", now.threads)
    yield _gauge("db_bytes", "The database file.", now.db_bytes)
    yield _gauge("wal_bytes", "The write-ahead log.", now.wal_bytes)
    yield _gauge("wal_bytes_max", "The size at which writes are refused.", now.wal_bytes_max)


def _gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(f"palyra_{name}", says, value)


def _counter(name: str, says: str, value: float) -> Metric:
    return CounterMetricFamily(f"palyra_{name}", says, value)


def _counters(name: str, says: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"palyra_{name}", says, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S_MAX

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Who scrapes is no news; and what was asked for is a stranger's text."""


class _Server(WSGIServer):
    allow_reuse_address = True

    def server_bind(self) -> None:
        """Without the look-up of this machine's name, which may wait for a network."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()


class MetricsServer:
    """Serves from `start` to `stop`, in a thread of its own.

    Raises:
        ConfigInvalid: `listen` is no HOST:PORT, or not of this machine alone.
    """

    def __init__(
        self,
        statistics: Callable[[], EngineStatistics],
        listen: str,
        *,
        beyond_loopback: bool = False,
    ) -> None:
        self._address = _address(listen, beyond_loopback)
        registry = CollectorRegistry()
        registry.register(EngineCollector(statistics))
        ProcessCollector(registry=registry)
        self._app = make_wsgi_app(registry)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """The URL. Raises ConfigInvalid: the address cannot be bound."""
        host, port = self._address
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            raise ConfigInvalid(
                f"cannot listen on {host}:{port}: {error.strerror}",
                field="metrics.listen",
                hint="choose another port",
            ) from error
        self._server.set_app(self._app)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="palyra-metrics", daemon=True
        )
        self._thread.start()
        return f"http://{host}:{self._server.server_port}/metrics"

    def stop(self, wait_s_max: float) -> None:
        """Idempotent."""
        if self._server is None or self._thread is None:
            return
        threading.Thread(target=self._server.shutdown, daemon=True).start()
        self._thread.join(wait_s_max)
        self._server.server_close()


def _address(listen: str, beyond_loopback: bool) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= PORT_MAX):
        raise ConfigInvalid(
            f"{listen!r} is no address",
            field="metrics.listen",
            hint="HOST:PORT, such as 127.0.0.1:9464",
        )
    loopback = host == "localhost"
    with suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    if not (loopback or beyond_loopback):
        raise ConfigInvalid(
            f"{host!r} is no loopback address, and the metrics are open to whoever reaches them",
            field="metrics.listen",
            hint="127.0.0.1:PORT; or say metrics.beyond_loopback = true",
        )
    return host, int(port)
