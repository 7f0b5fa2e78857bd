"""
What an Envoy's cluster statistics say of a fleet: as an arm that clients ask, and as one that is mirrored to.

The share of the canary is counted by its `or-stable` clusters, whatever its replicas and stable's do with it; what is
sent to the canary directly (by force, as a stream, or where there is no stable to fall back on), and all of stable, by
the fleet's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model_release.environment import FLEETS
from model_release.traffic.envoy_clusters import (
    GRPC_ERRORS,
    INSTEAD,
    MIRRORED,
    OR_STABLE,
    PROTOCOLS,
    TRIED,
    cluster_name,
)
from model_release.traffic.router import ArmCounters

COUNTED = (
    r"upstream_rq_(completed|404|5xx|total|retry|retry_success|tx_reset|time|max_duration_reached)"
    r"|canary\.upstream_rq_time|upstream_cx_destroy_local_with_active_rq|retry\.upstream_rq_(2xx|completed)|grpc\.\d+"
)
"""A regular expression of the statistics that are read here."""

INFINITE = "+Inf"

_BUCKET = "upstream_rq_time_bucket:"
_BUCKET_OF_CANARY = f"canary_{_BUCKET}"

Metrics = Mapping[str, int]
"""Statistics of one cluster: name without prefix, and a status or a bucket's bound after a colon."""


@dataclass
class _Counts:
    requests: int = 0
    errors: int = 0
    buckets: Counter[str] = field(default_factory=Counter)

    def add(self, requests: int, errors: int, timed: Metrics, given_up: int, bucket: str = _BUCKET) -> None:
        """
        Add a cluster's.

        Envoy times answers alone; a request that was given up, by its client or by a timeout, was slower than any.
        """
        self.requests += requests
        self.errors += min(errors, requests)
        for name, count in timed.items():
            if name.startswith(bucket):
                self.buckets[name.removeprefix(bucket)] += count
        self.buckets[INFINITE] += given_up

    @property
    def rising(self) -> dict[str, int]:
        """The buckets, from the lowest bound to the highest."""
        return {bound: self.buckets[bound] for bound in sorted(self.buckets, key=float)}


def arm_of(metrics: Mapping[str, Metrics], model: str, fleet: str, generation: str) -> ArmCounters:
    """Add up one fleet over its protocols; `metrics` by cluster, all of one scrape."""
    arm, mirrored = _Counts(), _Counts()
    other = next(name for name in FLEETS if name != fleet)
    for protocol in PROTOCOLS:

        def of(owner: str, kind: str = "", protocol: str = protocol) -> Metrics:
            return metrics.get(cluster_name(model, owner, protocol, kind), {})

        _add_direct(arm, of(fleet), protocol)
        _add_share(arm, of(fleet, OR_STABLE), of(fleet, TRIED), of(other, INSTEAD), protocol)
        _add_mirrored(mirrored, of(fleet, MIRRORED))
    return ArmCounters(
        requests=arm.requests,
        errors=arm.errors,
        latency_buckets=arm.rising,
        generation=generation,
        mirrored_requests=mirrored.requests,
        mirrored_errors=mirrored.errors,
        mirrored_latency_buckets=mirrored.rising,
    )


def _add_direct(arm: _Counts, own: Metrics, protocol: str) -> None:
    """
    Add what a fleet was asked directly.

    A retried attempt is a failed request of the arm, though the client never saw it. Over HTTP, so is 404: a replica
    does not know the model, since no other path is routed. Over gRPC, NOT_FOUND is also the answer to a client that
    pins a version which is not served; it is retried too, as one that had an answer, but is no fault of the arm.
    """
    retried = own.get("upstream_rq_retry", 0)
    if protocol == "grpc":
        retried -= own.get("retry_upstream_rq_xx:2", 0)
    answered, bad = _answered(own, protocol)
    arm.add(answered + retried, bad + retried, own, _abandoned(own, protocol))


def _add_share(arm: _Counts, share: Metrics, tried: Metrics, instead: Metrics, protocol: str) -> None:
    """
    Add the canary's share: a request failed if it failed in the end, or if stable had to answer it.

    A retry that succeeds shows the latter. So does a request that went to stable without a try, as Envoy does while it
    knows no address of the canary at all. A retry that does not succeed is bad in the end, or what is the client's own
    fault: both arms say NOT_FOUND.

    Only what the canary answered itself is timed: where stable answers, its time has a failed try of the canary in it,
    and a model that fails some requests on both arms would seem slower as the canary. A try that the canary did not
    answer in time was slower than any.
    """
    answered, bad = _answered(share, protocol)
    untried = max(0, instead.get("upstream_rq_total", 0) - share.get("upstream_rq_retry", 0))
    abandoned = _abandoned(tried, protocol) + _abandoned(instead, protocol)
    # Envoy itself gives up a try that is slow or, over HTTP, whose failed answer it has no use for.
    too_slow = tried.get("upstream_rq_max_duration_reached", 0)
    own = too_slow + (share.get("retry_upstream_rq_completed", 0) if protocol == "http" else 0)
    failed = bad + share.get("upstream_rq_retry_success", 0) + untried
    arm.add(answered, failed, share, too_slow + max(0, abandoned - own), _BUCKET_OF_CANARY)


def _add_mirrored(mirrored: _Counts, own: Metrics) -> None:
    """Add what a fleet was sent a second time; the answers over gRPC have been given HTTP's status of their error."""
    slow = own.get("upstream_rq_max_duration_reached", 0)
    answered, bad = _answered(own, "http")
    mirrored.add(answered + slow, bad + slow, own, slow)


def _answered(own: Metrics, protocol: str) -> tuple[int, int]:
    """Return how many requests ended with an answer, and how many of the answers were bad."""
    if protocol == "http":
        return own.get("upstream_rq_completed", 0), own.get("upstream_rq_xx:5", 0) + own.get("upstream_rq:404", 0)
    statuses = {int(name.removeprefix("grpc_")): count for name, count in own.items() if name[:5] == "grpc_"}
    return sum(statuses.values()), sum(count for status, count in statuses.items() if status in GRPC_ERRORS)


def _abandoned(own: Metrics, protocol: str) -> int:
    """Return how many requests Envoy ended before they had an answer, mostly since their client did."""
    return own.get("upstream_rq_tx_reset" if protocol == "grpc" else "upstream_cx_destroy_local_with_active_rq", 0)


def total(counted: Sequence[ArmCounters]) -> ArmCounters:
    """Return the sum over routers."""
    buckets, mirrored = Counter[str](), Counter[str]()
    for one in counted:
        buckets.update(one.latency_buckets)
        mirrored.update(one.mirrored_latency_buckets)
    return ArmCounters(
        requests=sum(one.requests for one in counted),
        errors=sum(one.errors for one in counted),
        latency_buckets=dict(buckets),
        generation=" ".join(one.generation for one in counted),
        mirrored_requests=sum(one.mirrored_requests for one in counted),
        mirrored_errors=sum(one.mirrored_errors for one in counted),
        mirrored_latency_buckets=dict(mirrored),
    )
