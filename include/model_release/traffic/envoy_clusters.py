"""
The clusters that Envoy is told of, as JSON resources, made of a route and the addresses of its fleets.

A model always has one a fleet and protocol, `MODEL/FLEET/PROTOCOL`. Others stand beside it, named `.../KIND`, as long
as a route needs them. Each counts by itself, so that no request is counted as what it was not:

- `tried`: the canary, given `try_timeout_s`.
- `instead`: stable, where it is asked in the canary's place.
- `or-stable`: the canary's share of the requests. It is the first of these, and on a retry the second; the filters that
  look at their answers are its own.
- `mirror`: a fleet that is sent requests a second time.

None of them has a health check or ejects outliers: `or-stable` would then go to stable at once, without a try, and hide
a dead canary behind good answers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from model_release.environment import FLEETS, FleetPair, Replica
from model_release.traffic.router import ARM_HEADER, VERSION_HEADER, Route

Json = dict[str, Any]

TYPES = "type.googleapis.com/envoy"
RECORD = "model_release"
"""Under this name routes and replicas carry what is ours."""

PROTOCOLS = ("http", "grpc")
CONNECT_TIMEOUT = "1s"
TRIED, INSTEAD, OR_STABLE, MIRRORED = "tried", "instead", "or-stable", "mirror"

FAILED_HEADER = "x-model-failed"
"""Within Envoy alone: on a canary's answer that stable is to be asked for instead."""

# UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: the arm's
# fault. The others (bad argument, not found, cancelled, not allowed) are the client's, and are no errors of the arm.
GRPC_ERRORS = frozenset({2, 4, 8, 10, 12, 13, 14, 15})
GRPC_NOT_FOUND = 5

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def cluster_name(model: str, fleet: str, protocol: str, kind: str = "") -> str:
    """Return a cluster's name, which is also its name in Envoy's statistics."""
    return "/".join(filter(None, (model, fleet, protocol, kind)))


def with_clusters(clusters: Iterable[Json], route: Route, pair: FleetPair, held: Route | None = None) -> list[Json]:
    """
    Return the clusters with one model's replaced and every other model's as they are.

    Those that the `held` route needs stay too: Envoy goes by it until it has the new one.
    """
    before = {cluster["name"]: cluster for cluster in clusters}
    others = {name: cluster for name, cluster in before.items() if not name.startswith(f"{route.model}/")}
    names_held = {cluster["name"] for cluster in _of_route(held, pair)} if held is not None else set()
    kept = {name: cluster for name, cluster in before.items() if name in names_held}
    own = {cluster["name"]: cluster for cluster in _of_route(route, pair)}
    return [cluster for _, cluster in sorted({**others, **kept, **own}.items())]


def _of_route(route: Route, pair: FleetPair) -> list[Json]:
    """Return the clusters that a route needs."""
    made = [_cluster(route, fleet, protocol, pair) for fleet in FLEETS for protocol in PROTOCOLS]
    for protocol in PROTOCOLS:
        if route.falls_back:
            canary, stable = str(route.canary), str(route.stable)
            made += [
                _cluster(route, canary, protocol, pair, TRIED, timed=True),
                _cluster(route, stable, protocol, pair, INSTEAD),
                _or_stable(route, canary, stable, protocol),
            ]
        for fleet in route.mirrored:
            filters = [_tells_grpc_errors()] if protocol == "grpc" else []
            made.append(_cluster(route, fleet, protocol, pair, MIRRORED, filters, timed=True))
    return made


def _cluster(
    route: Route,
    fleet: str,
    protocol: str,
    pair: FleetPair,
    kind: str = "",
    filters: Iterable[Json] = (),
    *,
    timed: bool = False,
) -> Json:
    """Return a cluster of a fleet's replicas; a `timed` one gives up a request after the route's `try_timeout_s`."""
    name = cluster_name(route.model, fleet, protocol, kind)
    hosts = [_host(replica, protocol) for replica in pair.fleet(fleet).replicas]
    said = {} if not kind else {"metadata": {"filter_metadata": _about_replicas(route, fleet, kind)}}
    endpoints = [{"endpoint": {"address": socket_address(host, port)}, **said} for host, port in hosts]
    limit = route.try_timeout_s if timed else None
    limited: Json = {"common_http_protocol_options": {"max_stream_duration": f"{limit:g}s"}} if limit else {}
    return {
        "@type": f"{TYPES}.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC" if all(_is_ip(host) for host, _ in hosts) else "STRICT_DNS",
        "lb_policy": "ROUND_ROBIN",
        "connect_timeout": CONNECT_TIMEOUT,
        "circuit_breakers": _circuit_breakers(),
        "typed_extension_protocol_options": _options({"explicit_http_config": _version(protocol), **limited}, filters),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _or_stable(route: Route, canary: str, stable: str, protocol: str) -> Json:
    """Return the cluster of the canary's share: first the canary, and where that fails stable."""
    members = [
        cluster_name(route.model, canary, protocol, TRIED),
        cluster_name(route.model, stable, protocol, INSTEAD),
    ]
    return {
        "@type": f"{TYPES}.config.cluster.v3.Cluster",
        "name": cluster_name(route.model, canary, protocol, OR_STABLE),
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": CONNECT_TIMEOUT,
        "circuit_breakers": _circuit_breakers(),
        "typed_extension_protocol_options": _options(
            {"explicit_http_config": _version(protocol)}, [_marks_failed(protocol)]
        ),
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {
                "@type": f"{TYPES}.extensions.clusters.aggregate.v3.ClusterConfig",
                "clusters": members,
            },
        },
    }


def _about_replicas(route: Route, fleet: str, kind: str) -> Json:
    """
    Return what is said of a fleet's replicas: to the route, for their answers, and of the canary's to Envoy.

    Envoy times the answers of a host that it knows as a canary by themselves too (`canary.upstream_rq_time`).
    """
    said = {RECORD: {ARM_HEADER: str(route.arm(fleet)), VERSION_HEADER: str(route.versions[fleet])}}
    return {**said, "envoy.lb": {"canary": True}} if kind == TRIED else said


def _version(protocol: str) -> Json:
    return {"http2_protocol_options": {}} if protocol == "grpc" else {"http_protocol_options": {}}


def _options(options: Json, filters: Iterable[Json]) -> Json:
    """Return the options of HTTP, with filters that look at each answer."""
    chain = [*filters, _codec()] if filters else []
    return {
        _HTTP_OPTIONS: {
            "@type": f"{TYPES}.{_HTTP_OPTIONS.removeprefix('envoy.')}",
            **options,
            **({"http_filters": chain} if chain else {}),
        }
    }


def _circuit_breakers() -> Json:
    """The defaults are meant for one small service; here the queue limit is Triton's own."""
    return {"thresholds": [{"max_requests": 8192, "max_pending_requests": 8192, "max_retries": 1024}]}


# --- what a cluster does to the answers of its replicas ------------------------------------------


def _marks_failed(protocol: str) -> Json:
    """Mark what failed: over HTTP also 404, over gRPC also NOT_FOUND, since the replica may have lost the model."""
    if protocol == "http":
        return _lua(f'if status >= 500 or status == 404 then headers:add("{FAILED_HEADER}", "1") end')
    failed = _is_one_of([*GRPC_ERRORS, GRPC_NOT_FOUND])
    return _lua(f'if status >= 500 or {failed} then headers:add("{FAILED_HEADER}", "1") end')


def _tells_grpc_errors() -> Json:
    """Make a failed call count as one: Envoy counts gRPC's own statuses of clients' requests alone."""
    return _lua(f'if {_is_one_of(GRPC_ERRORS)} then headers:replace(":status", "500") end')


def _is_one_of(statuses: Iterable[int]) -> str:
    return "(" + " or ".join(f'grpc == "{status}"' for status in sorted(statuses)) + ")"


def _lua(statement: str) -> Json:
    """Return a filter that does something with an answer: `headers`, `status`, and gRPC's status where it failed."""
    code = (
        "function envoy_on_response(handle)\n"
        "  local headers = handle:headers()\n"
        '  local status, grpc = tonumber(headers:get(":status")), headers:get("grpc-status")\n'
        f"  {statement}\n"
        "end\n"
    )
    return {
        "name": "lua",
        "typed_config": {
            "@type": f"{TYPES}.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": code},
        },
    }


def _codec() -> Json:
    """The last of a cluster's filters, by Envoy's rule."""
    return {
        "name": "upstream_codec",
        "typed_config": {"@type": f"{TYPES}.extensions.filters.http.upstream_codec.v3.UpstreamCodec"},
    }


# --- addresses -----------------------------------------------------------------------------------


def _host(replica: Replica, protocol: str) -> tuple[str, int]:
    return split_host(replica.grpc if protocol == "grpc" else replica.http)


def split_host(address: str) -> tuple[str, int]:
    """Split host:port. Raises ValueError without a port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def socket_address(host: str, port: int) -> Json:
    """Return an address as Envoy writes it."""
    return {"socket_address": {"address": host, "port_value": port}}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
