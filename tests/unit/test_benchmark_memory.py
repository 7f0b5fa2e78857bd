"""What a version takes of a server's memory, and whether a replica has it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from model_release.benchmark.memory import Watch, fit
from model_release.environment import Replica
from model_release.errors import DoesNotFit
from model_release.triton import gauges
from model_release.triton.gauges import Gauges, Gpu

EXPOSITION = """\
# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-a"} 0.5
nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 8000000000.000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 6000000000.000000
# TYPE nv_cpu_memory_total_bytes gauge
nv_cpu_memory_total_bytes 25276063744.000000
nv_cpu_memory_used_bytes 6665793536.000000
# TYPE nv_inference_count counter
nv_inference_count{model="toy",version="1"} 5
"""
FAR = Replica(name="far", http="10.0.0.1:1", grpc="10.0.0.1:2", metrics="10.0.0.1:3")
FULL = Gauges(6e9, 8e9, {"GPU-a": Gpu(0.5, 6e9, 8e9), "GPU-b": Gpu(0.5, 3e9, 8e9)})


@pytest.fixture
def here() -> Iterator[Replica]:
    """A server of this very process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        yield Replica(name="here", http="127.0.0.1:1", grpc=f"127.0.0.1:{port}", metrics="127.0.0.1:1")


def test_tritons_exposition_is_read() -> None:
    found = gauges.parse(EXPOSITION)

    assert found == Gauges(6665793536.0, 25276063744.0, {"GPU-a": Gpu(0.5, 6e9, 8e9)})
    assert gauges.parse("") == Gauges(None, None, {})


def test_a_metrics_port_that_does_not_answer_tells_nothing(here: Replica) -> None:
    assert gauges.read(here) is None


def test_the_memory_of_a_server_on_this_machine_is_what_its_processes_hold(here: Replica) -> None:
    with Watch(here) as watch:
        block = bytearray(os.urandom(1)) * 60_000_000
        held = watch.held()["host"]
        del block

    assert 40e6 < held < 120e6


def test_of_another_machine_it_is_what_the_metrics_port_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "read", lambda _: Gauges(1e9, 8e9, {"GPU-a": Gpu(0, 1e9, 8e9)}))
    watch = Watch(FAR)
    monkeypatch.setattr(gauges, "read", lambda _: FULL)

    assert watch.held() == {"GPU-a": 5e9, "host": 5e9}


def test_a_version_that_fits_beside_what_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "read", lambda _: FULL)

    assert fit({"host": 1e9, "GPU-x": 4e9}, [FAR]).misfits == []


@pytest.mark.parametrize("needed", [{"host": 1.9e9}, {"host": 1e6, "GPU-x": 4.9e9}])
def test_one_that_does_not_is_named_by_its_replica(monkeypatch: pytest.MonkeyPatch, needed: dict[str, float]) -> None:
    monkeypatch.setattr(gauges, "read", lambda _: FULL)
    (misfit,) = fit(needed, [FAR]).misfits

    error = DoesNotFit("toy", 3, misfit["replica"], needed, misfit["free_bytes"])
    assert "the replica far has 2.00 GB on host, 2.00 GB on GPU-a, 5.00 GB on GPU-b free" in str(error)


def test_what_is_not_known_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "read", lambda _: None)

    found = fit({"host": 1e12}, [FAR])

    assert (found.misfits, found.replicas[0]["fits"]) == ([], None)
