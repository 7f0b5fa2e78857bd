"""One Envoy's admin: what it serves by, and what it counted."""

from __future__ import annotations

import http.client
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from model_release.environment import FLEETS
from model_release.errors import RouterUnavailable
from model_release.traffic.envoy_resources import PROTOCOLS, TABLE, cluster_name, split_host
from model_release.traffic.router import ArmCounters

INFINITE = "+Inf"

_BUCKET = "upstream_rq_time_bucket:"
_SAMPLE = re.compile(r"^envoy_cluster_(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

# UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: the arm's
# fault. The others (bad argument, not found, cancelled, not allowed) are the client's, and are no errors of the arm.
GRPC_ERRORS = frozenset({2, 4, 8, 10, 12, 13, 14, 15})


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
        names = "upstream_rq_(completed|404|5xx|retry|tx_reset|time)|retry\\.upstream_rq_2xx"
        pattern = rf"^cluster\.{model}/[a-z]+/[a-z]+\.({names}|upstream_cx_destroy_local_with_active_rq|grpc\.\d+)$"
        metrics = _parse(self._get(f"/stats/prometheus?filter={quote(pattern, safe='')}"))
        return {fleet: _arm(metrics, model, fleet, generation) for fleet in FLEETS}


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


def _arm(metrics: Mapping[str, Mapping[str, int]], model: str, fleet: str, generation: str) -> ArmCounters:
    """
    Add up one fleet over its protocols.

    A retried attempt is a failed request of the arm, though the client never saw it. Over HTTP, so is 404: a replica
    does not know the model, since no other path is routed. Over gRPC, NOT_FOUND is also the answer to a client that
    pins a version which is not served; it is retried too, as one that had an answer, but is no fault of the arm.
    """
    requests = errors = 0
    buckets: Counter[str] = Counter()
    for protocol in PROTOCOLS:
        own = metrics.get(cluster_name(model, fleet, protocol), {})
        retried = own.get("upstream_rq_retry", 0)
        if protocol == "grpc":
            retried -= own.get("retry_upstream_rq_xx:2", 0)
            statuses = {int(name.removeprefix("grpc_")): count for name, count in own.items() if name[:5] == "grpc_"}
            requests += sum(statuses.values()) + retried
            errors += sum(count for status, count in statuses.items() if status in GRPC_ERRORS) + retried
            given_up = own.get("upstream_rq_tx_reset", 0)
        else:
            requests += own.get("upstream_rq_completed", 0) + retried
            errors += own.get("upstream_rq_xx:5", 0) + own.get("upstream_rq:404", 0) + retried
            given_up = own.get("upstream_cx_destroy_local_with_active_rq", 0)
        for name, count in own.items():
            if name.startswith(_BUCKET):
                buckets[name.removeprefix(_BUCKET)] += count
        # Envoy times answers alone; a request that was given up, by its client or by a timeout, was slower than any.
        buckets[INFINITE] += given_up
    return ArmCounters(requests, errors, dict(buckets), generation)


def total(counted: Sequence[ArmCounters]) -> ArmCounters:
    """Return the sum over routers."""
    buckets: Counter[str] = Counter()
    for one in counted:
        buckets.update(one.latency_buckets)
    return ArmCounters(
        requests=sum(one.requests for one in counted),
        errors=sum(one.errors for one in counted),
        latency_buckets=dict(buckets),
        generation=" ".join(one.generation for one in counted),
    )
