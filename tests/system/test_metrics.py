"""The endpoint for Prometheus: what it says, and what it never says."""

import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from palyra_actors.actors.statistics import EngineStatistics
from palyra_actors.api.events import new_id
from palyra_actors.engine import Engine
from palyra_actors.errors import ConfigInvalid, OpenRefused, StorageUnavailable
from palyra_actors.metrics import EngineCollector, MetricsServer
from tests.system.harness import DEADLINE_S, House, event, house

LOCAL = "127.0.0.1:0"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as opened:
        yield opened


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        return str(answer.read().decode())


def samples(text: str) -> dict[str, float]:
    """Values by name and labels, written as `name{label="value"}`."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def metrics_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "palyra-metrics"]


def test_nobody_listens_unless_asked_to(home: House) -> None:
    assert home.engine.health().status == "ready"
    assert metrics_threads() == []


def test_the_metrics_say_what_was_done(home: House) -> None:
    url = home.engine.serve_metrics(LOCAL)
    wire = home.connect()
    for _ in range(3):
        wire.append(event(new_id()))
    wire.append(*[event(new_id()) for _ in range(4)])
    wire.err("journal.append", {"events": []})
    found = samples(read(url))
    assert found["palyra_up"] == 1
    assert found['palyra_writes_total{result="acked"}'] == 4
    assert found['palyra_writes_total{result="overloaded"}'] == 0
    assert found["palyra_events_total"] == found["palyra_head_seq"] == 7
    assert found['palyra_requests_total{outcome="ok"}'] == 4
    assert found['palyra_requests_total{outcome="refused"}'] == 1
    assert found["palyra_requests_received_total"] == 5
    assert found["palyra_write_seconds_count"] == 4
    assert found['palyra_write_seconds_bucket{le="+Inf"}'] == 4
    assert found["palyra_write_seconds_sum"] > 0
    assert found['palyra_status{status="ready"}'] == 1
    assert found['palyra_status{status="failing"}'] == 0
    assert found["palyra_actors_resident"] == 7
    assert found["process_resident_memory_bytes"] > 0


def test_each_range_of_the_latencies_holds_all_that_took_less(home: House) -> None:
    wire = home.connect()
    for _ in range(20):
        wire.append(event(new_id()))
    found = samples(read(home.engine.serve_metrics(LOCAL)))
    counts = [value for name, value in found.items() if name.startswith("palyra_write_seconds_b")]
    assert counts == sorted(counts)
    assert counts[-1] == 20


def test_no_text_of_a_client_is_in_the_metrics(home: House) -> None:
    session, secret = new_id(), "sk-" + "a1B2" * 10
    wire = home.connect()
    wire.append(event(session, kind="x.very_own_kind", payload={"text": secret, "my_key": 1}))
    wire.call(secret)
    wire.call("journal.append", {"events": [event(session)]}, principal="somebody-else")
    text = read(home.engine.serve_metrics(LOCAL))
    for word in (session, secret, "very_own_kind", "my_key", "somebody", str(home.database)):
        assert word not in text


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.7:9464", "example.org:9464", "[::]:1"])
def test_an_address_that_others_reach_is_refused_unless_it_is_said(listen: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        MetricsServer(_never, listen)
    assert refused.value.field == "metrics.listen"
    MetricsServer(_never, listen, beyond_loopback=True)


@pytest.mark.parametrize("listen", ["9464", ":9464", "127.0.0.1:", "127.0.0.1:99999", "a:b"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(ConfigInvalid, match="no address"):
        MetricsServer(_never, listen)


def test_a_port_that_is_taken_is_refused_by_name(home: House) -> None:
    taken = home.engine.serve_metrics(LOCAL).split("/")[2]
    with pytest.raises(ConfigInvalid, match="cannot listen"):
        MetricsServer(_never, taken).start()
    with pytest.raises(OpenRefused):
        home.engine.serve_metrics(LOCAL)


def test_an_engine_that_ends_closes_the_endpoint(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "a.db") as engine:
        url = engine.serve_metrics(LOCAL)
        assert metrics_threads()
    assert metrics_threads() == []
    with pytest.raises(OSError):
        read(url)


def test_a_loop_that_does_not_answer_is_told_and_does_not_hang_the_scrape(home: House) -> None:
    def unavailable() -> EngineStatistics:
        raise StorageUnavailable("the loop did not answer")

    families = {family.name: family for family in EngineCollector(unavailable).collect()}
    assert [sample.value for sample in families["palyra_up"].samples] == [0]
    busy, free = threading.Event(), threading.Event()

    def block() -> None:
        busy.set()
        free.wait(DEADLINE_S)

    home.engine._works.loop.call_soon(block)
    assert busy.wait(DEADLINE_S)
    with pytest.raises(StorageUnavailable):
        home.engine._works.ask_statistics(0.01)
    free.set()
    assert home.engine.statistics().uptime_s > 0


def test_statistics_are_frozen_and_of_one_moment(home: House) -> None:
    home.connect().append(event(new_id()))
    now = home.engine.statistics()
    with pytest.raises(FrozenInstanceError):
        now.threads = 0  # type: ignore[misc]
    home.connect().append(event(new_id()))
    assert now.writer.events == 1
    assert home.engine.statistics().writer.events == 2


def _never() -> EngineStatistics:
    raise AssertionError("nobody asked")
