"""One Envoy's admin: what it serves by, and what it counted."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from model_release.environment import FLEETS
from model_release.errors import RouterUnavailable
from model_release.traffic.envoy_clusters import TRIED, split_host
from model_release.traffic.envoy_counts import COUNTED, arm_of
from model_release.traffic.envoy_resources import TABLE
from model_release.traffic.router import ArmCounters

_SAMPLE = re.compile(r"^envoy_cluster_(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Update:
    """The version that Envoy serves by, and how many files it has rejected since it started."""

    version: str
    rejected: int

    @property
    def remark(self) -> str:
        """What a person should know when the version is not the written one."""
        return f", and it rejected {self.rejected} updates: its log says why" if self.rejected else ""


class EnvoyAdmin:
    """The admin listener of one Envoy process."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self.address = address
        self._timeout_s = timeout_s

    def _get(self, path: str) -> str:
        """Return the body at a path. Raises RouterUnavailable."""
        host, port = split_host(self.address)
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RouterUnavailable(self.address, f"{type(error).__name__}: {error}") from None
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise RouterUnavailable(self.address, f"its admin said {answer.status} to {path}")
        return body

    def _dump(self, query: str) -> list[dict[str, Any]]:
        """Return entries of the config dump."""
        entries: list[dict[str, Any]] = self._get_json(f"/config_dump?{query}").get("configs", [])
        return entries

    def _get_json(self, path: str) -> dict[str, Any]:
        body = self._get(path)
        try:
            content: dict[str, Any] = json.loads(body)
        except ValueError:
            raise RouterUnavailable(self.address, f"it is no Envoy's admin: it said {body[:80]!r} to {path}") from None
        return content

    def route_table(self) -> dict[str, Any] | None:
        """Return the route table that Envoy serves by; None before it has one."""
        dump = self._dump("resource=dynamic_route_configs")
        tables = [entry["route_config"] for entry in dump if "route_config" in entry]
        return next((table for table in tables if table.get("name") == TABLE), None)

    def listeners(self) -> list[dict[str, Any]]:
        """Return the listeners that Envoy serves by."""
        dump = self._dump("resource=dynamic_listeners")
        return [entry["active_state"]["listener"] for entry in dump if "listener" in entry.get("active_state", {})]

    def update(self, file: str) -> Update:
        """Return how Envoy took `cds` or `rds`."""
        prefix = {"cds": "cluster_manager.cds", "rds": f"http.{TABLE}.rds.{TABLE}"}[file]
        pattern = rf"^{prefix}\.(version_text|update_rejected)$"
        shown = self._get_json(f"/stats?format=json&type=All&filter={quote(pattern, safe='')}")["stats"]
        values = {entry["name"]: entry["value"] for entry in shown if "value" in entry}
        version, rejected = values.get(f"{prefix}.version_text", ""), values.get(f"{prefix}.update_rejected", 0)
        return Update(str(version), int(rejected))

    def generation(self) -> str:
        """Return a name of this process: the instant at which it read its bootstrap."""
        starts = [entry["last_updated"] for entry in self._dump("name_regex=" + quote("^$")) if "bootstrap" in entry]
        return f"{self.address}@{''.join(starts)}"

    def arms(self, model: str) -> dict[str, ArmCounters]:
        """Return the counters of a model by fleet, of one scrape."""
        generation = self.generation()
        pattern = rf"^cluster\.{model}/[a-z]+/[a-z]+(/[a-z-]+)?\.({COUNTED})$"
        metrics = _parse(self._get(f"/stats/prometheus?filter={quote(pattern, safe='')}"))
        return {fleet: arm_of(metrics, model, fleet, generation) for fleet in FLEETS}

    def hosts(self, model: str) -> list[tuple[str, str, int, int]]:
        """Return for each host of a model's own clusters: fleet, host:port, requests, and those that failed."""
        found = []
        for cluster in self._get_json("/clusters?format=json").get("cluster_statuses", []):
            parts = str(cluster.get("name", "")).split("/")
            if parts[0] != model or parts[3:] not in ([], [TRIED]):
                continue  # what stable answers in the canary's place, and what is mirrored, is no arm's own
            for host in cluster.get("host_statuses", []):
                stats = {each["name"]: int(each.get("value", 0)) for each in host.get("stats", []) if "name" in each}
                requests = stats.get("rq_total", 0)
                failed = min(requests, stats.get("rq_error", 0))
                found.append((parts[1], _address(host), requests, failed))
        return found


def _address(host: Mapping[str, Any]) -> str:
    """Return host:port, by name where the cluster has names."""
    socket = host.get("address", {}).get("socket_address", {})
    return f"{host.get('hostname') or socket.get('address', '')}:{socket.get('port_value', 0)}"


def _parse(text: str) -> dict[str, dict[str, int]]:
    """
    Return Envoy's metrics by cluster: their names without prefix, and a status or a bucket's bound after a colon.

    The JSON of /stats would do, but has no bucket for what is slower than the last bound.
    """
    metrics: dict[str, dict[str, int]] = {}
    for name, labels, value in _SAMPLE.findall(text):
        given = dict(_LABEL.findall(labels))
        special = given.get("envoy_response_code_class") or given.get("envoy_response_code") or given.get("le")
        own = metrics.setdefault(given.get("envoy_cluster_name", ""), {})
        own[f"{name}:{special}" if special else name] = int(float(value))
    return metrics
