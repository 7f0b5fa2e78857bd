"""How Envoy is started: one process that reads listener, clusters and routes from files."""

from __future__ import annotations

import json
from pathlib import Path

from model_release.traffic.envoy_resources import file_source, latency_bounds_ms


def write_bootstrap(path: Path, directory: Path, admin_port: int) -> None:
    """Write Envoy's bootstrap: its admin on loopback alone, everything else from files in `directory`."""
    bootstrap = {
        "node": {"id": "sandbox", "cluster": "model-release"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
        "dynamic_resources": {
            "lds_config": file_source(directory / "lds.json"),
            "cds_config": file_source(directory / "cds.json"),
        },
        # Latency buckets become visible with each flush, so it has to be shorter than a look.
        "stats_flush_interval": "0.5s",
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"suffix": "upstream_rq_time"}, "buckets": latency_bounds_ms()},
            ],
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bootstrap, indent=1), encoding="utf-8")


def envoy_command(venv: Path, bootstrap: Path) -> list[str]:
    """Return the command of the Envoy that is installed in a virtual environment."""
    options = ["--config-path", str(bootstrap), "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    # A look is every few seconds, and Envoy keeps lines of a log for ten unless told otherwise.
    options += ["--file-flush-interval-msec", "500"]
    return [str(venv / "bin" / "envoy"), *options]
