"""The users' own counters from a real Prometheus: at one instant; an outage, staleness and zero are told apart."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model_release.environment import PrometheusMetrics
from model_release.errors import MetricsUnavailable
from model_release.gates.looks import Proportion
from model_release.gates.sources import ArmOf, since
from model_release.gates.sources.prometheus import PrometheusSource
from model_release.spec import PromqlSource
from tests.sandbox.releasing import await_true

ARMS = {"canary": ArmOf("shop", 2, "green"), "stable": ArmOf("shop", 1, "blue")}
CLICKS = PromqlSource(
    promql_good='clicks_total{model="$model",version="$version",result="good"}',
    promql_total='sum by (pod) (clicks_total{model="$model",version="$version"})',
)


class App:
    """A users' application with counters by version and pod, scraped by Prometheus."""

    def __init__(self) -> None:
        self.counters: dict[tuple[int, str, str], int] = {}
        self.down = False
        app = self

        class Metrics(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(503 if app.down else 200)
                self.end_headers()
                for (version, pod, result), count in app.counters.items():
                    labels = f'model="shop",version="{version}",pod="{pod}",result="{result}"'
                    self.wfile.write(f"clicks_total{{{labels}}} {count}\n".encode())

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base's name
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def count(self, version: int, good: int, bad: int, pod: str = "a") -> None:
        for result, n in (("good", good), ("bad", bad)):
            key = (version, pod, result)
            self.counters[key] = self.counters.get(key, 0) + n


def binary() -> str:
    found = shutil.which("prometheus") or shutil.which("prometheus", path=str(Path(sys.executable).parent))
    assert found, "no prometheus: run make install, or install Debian's package"
    return found


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    made = App()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def prometheus(app: App, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Prometheus that scrapes the application every second."""
    folder = tmp_path_factory.mktemp("prometheus")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    target = f"127.0.0.1:{app.server.server_address[1]}"
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: app, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    command = [
        binary(),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        await_true(ready, "Prometheus is ready")
        yield url
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def source(prometheus: str) -> PrometheusSource:
    return PrometheusSource(PrometheusMetrics(url=prometheus), timeout_s=5)


def totals(source: PrometheusSource) -> dict[str, float]:
    return {
        arm: sum(counted.total.values()) for arm, counted in source.read({"clicks": CLICKS}, ARMS)["clicks"].items()
    }


def test_a_look_is_the_difference_of_both_arms_at_one_instant(app: App, source: PrometheusSource) -> None:
    app.counters.clear()
    app.count(2, good=80, bad=20)
    app.count(1, good=900, bad=100)
    await_true(lambda: totals(source) == {"canary": 100, "stable": 1000}, "the counters are scraped")
    before = source.read({"clicks": CLICKS}, ARMS)["clicks"]
    app.count(2, good=5, bad=5)
    app.count(1, good=90, bad=10)
    await_true(lambda: totals(source) == {"canary": 110, "stable": 1100}, "they are scraped again")
    after = source.read({"clicks": CLICKS}, ARMS)["clicks"]
    assert since(before, after) == {"canary": Proportion(5, 10), "stable": Proportion(90, 100)}


def test_a_counter_that_stands_still_is_zero_and_one_that_nobody_raised_is_absent(
    app: App, source: PrometheusSource
) -> None:
    app.counters.clear()
    app.count(1, good=9, bad=1)
    await_true(lambda: totals(source) == {"canary": 0, "stable": 10}, "stable alone is counted")
    reading = source.read({"clicks": CLICKS}, ARMS)["clicks"]
    assert reading["canary"].total == {}
    assert since(reading, reading) == {"canary": Proportion(0, 0), "stable": Proportion(0, 0)}


def test_a_pod_that_began_anew_or_is_gone_drops_the_look_for_both_arms(app: App, source: PrometheusSource) -> None:
    app.counters.clear()
    for pod in ("a", "b"):
        app.count(1, good=50, bad=50, pod=pod)
        app.count(2, good=5, bad=5, pod=pod)
    await_true(lambda: totals(source) == {"canary": 20, "stable": 200}, "two pods are counted")
    before = source.read({"clicks": CLICKS}, ARMS)["clicks"]
    app.count(1, good=500, bad=0, pod="a")
    app.counters[1, "b", "good"] = 1  # it restarted; the sum of all pods still rises
    app.counters[1, "b", "bad"] = 0
    await_true(lambda: totals(source)["stable"] == 601, "one pod began anew")
    assert since(before, source.read({"clicks": CLICKS}, ARMS)["clicks"]) is None
    for result in ("good", "bad"):
        del app.counters[1, "b", result]
    await_true(lambda: totals(source)["stable"] == 600, "the pod is gone")
    assert since(before, source.read({"clicks": CLICKS}, ARMS)["clicks"]) is None


def test_an_answer_from_old_samples_is_an_outage(app: App, source: PrometheusSource, prometheus: str) -> None:
    app.counters.clear()
    app.count(1, good=9, bad=1)
    await_true(lambda: totals(source)["stable"] == 10, "stable is counted")
    impatient = PrometheusSource(PrometheusMetrics(url=prometheus, stale_after_s=0.001), timeout_s=5)
    with pytest.raises(MetricsUnavailable, match="the newest sample of clicks_total"):
        impatient.read({"clicks": CLICKS}, {"stable": ARMS["stable"]})


def test_a_target_that_is_down_leaves_nothing_and_is_no_zero(app: App, source: PrometheusSource) -> None:
    app.counters.clear()
    app.count(1, good=9, bad=1)
    await_true(lambda: totals(source)["stable"] == 10, "stable is counted")
    before = source.read({"clicks": CLICKS}, ARMS)["clicks"]
    app.down = True
    try:
        await_true(lambda: totals(source)["stable"] == 0, "the target's series are gone")
        assert since(before, source.read({"clicks": CLICKS}, ARMS)["clicks"]) is None
    finally:
        app.down = False


def test_a_query_that_prometheus_refuses_and_a_prometheus_that_is_down_are_told_in_a_sentence(
    source: PrometheusSource,
) -> None:
    with pytest.raises(MetricsUnavailable, match="parse error"):
        source.read({"clicks": PromqlSource(promql_good="clicks{", promql_total="clicks")}, ARMS)
    dead = PrometheusSource(PrometheusMetrics(url="http://127.0.0.1:1"), timeout_s=1)
    began = time.monotonic()
    with pytest.raises(MetricsUnavailable, match=r"no metrics from http://127\.0\.0\.1:1"):
        dead.read({"clicks": CLICKS}, ARMS)
    assert time.monotonic() - began < 5
