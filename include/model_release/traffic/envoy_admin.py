"""One Envoy's admin: what it serves by, and what it counted."""

from __future__ import annotations

import http.client
import json
import math
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

    def _get(self, path: str) -> Any:
        """Return the JSON at a path. Raises RouterUnavailable."""
        host, port = split_host(self.address)
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise RouterUnavailable(self.address, f"its admin said {answer.status} to {path}")
            return json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RouterUnavailable(self.address, f"{type(error).__name__}: {error}") from None
        finally:
            connection.close()

    def route_table(self) -> dict[str, Any] | None:
        """Return the route table that Envoy serves by; None before it has one."""
        dump = self._get("/config_dump?resource=dynamic_route_configs")
        tables = [entry["route_config"] for entry in dump.get("configs", []) if "route_config" in entry]
        return next((table for table in tables if table.get("name") == TABLE), None)

    def update(self, file: str) -> Update:
        """Return how Envoy took `cds` or `rds`."""
        prefix = {"cds": "cluster_manager.cds", "rds": f"http.{TABLE}.rds.{TABLE}"}[file]
        stats = self._stats(rf"^{prefix}\.(version_text|update_rejected)$", "&type=All")
        version, rejected = stats.get(f"{prefix}.version_text", ""), stats.get(f"{prefix}.update_rejected", 0)
        return Update(str(version), int(rejected))

    def generation(self) -> str:
        """Return a name of this process: the instant at which it read its bootstrap."""
        dump = self._get("/config_dump?name_regex=" + quote("^$"))
        starts = [entry["last_updated"] for entry in dump.get("configs", []) if "bootstrap" in entry]
        return f"{self.address}@{''.join(starts)}"

    def arms(self, model: str) -> dict[str, ArmCounters]:
        """Return the counters of a model by fleet, of one scrape."""
        generation = self.generation()
        names = "upstream_rq_completed|upstream_rq_5xx|upstream_rq_retry|upstream_rq_tx_reset|upstream_rq_time"
        pattern = rf"^cluster\.{model}/[a-z]+/[a-z]+\.({names}|upstream_cx_destroy_local_with_active_rq|grpc\.\d+)$"
        stats = self._stats(pattern, "&histogram_buckets=cumulative")
        return {fleet: _arm(stats, model, fleet, generation) for fleet in FLEETS}

    def _stats(self, pattern: str, options: str) -> dict[str, Any]:
        """Return the statistics whose names match, histograms as their buckets."""
        found: dict[str, Any] = {}
        for entry in self._get(f"/stats?format=json{options}&filter={quote(pattern, safe='')}")["stats"]:
            if "histograms" in entry:
                found.update({histogram["name"]: histogram["buckets"] for histogram in entry["histograms"]})
            elif "name" in entry:
                found[entry["name"]] = entry["value"]
        return found


def _arm(stats: Mapping[str, Any], model: str, fleet: str, generation: str) -> ArmCounters:
    """
    Add up one fleet over its protocols.

    A retried attempt is a failed request of the arm, though the client never saw it.
    """
    requests = errors = unanswered = 0
    buckets: Counter[str] = Counter()
    for protocol in PROTOCOLS:
        prefix = f"cluster.{cluster_name(model, fleet, protocol)}."
        own = {name.removeprefix(prefix): value for name, value in stats.items() if name.startswith(prefix)}
        retried = own.get("upstream_rq_retry", 0)
        if protocol == "grpc":
            statuses = {int(name.removeprefix("grpc.")): value for name, value in own.items() if name[:5] == "grpc."}
            requests += sum(statuses.values()) + retried
            errors += sum(count for status, count in statuses.items() if status in GRPC_ERRORS) + retried
            unanswered += own.get("upstream_rq_tx_reset", 0)
        else:
            requests += own.get("upstream_rq_completed", 0) + retried
            errors += own.get("upstream_rq_5xx", 0) + retried
            unanswered += own.get("upstream_cx_destroy_local_with_active_rq", 0)
        for bucket in own.get("upstream_rq_time", []):
            buckets[_bound(bucket["upper_bound"])] += bucket["cumulative"]
    if buckets:
        # Envoy times answers alone; a request that was given up, by its client or by a timeout, was slower than any.
        buckets[INFINITE] += unanswered
    return ArmCounters(requests, errors, dict(buckets), generation)


def _bound(upper: Any) -> str:
    """Return a bucket's bound as every look writes it: 5, 5.5, +Inf."""
    number = float(upper)
    return INFINITE if math.isinf(number) else f"{number:g}"


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
