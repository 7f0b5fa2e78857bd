"""
What Envoy is told: listener, clusters and routes as JSON resources, made of routes without any I/O.

A model's clusters are `MODEL/FLEET/PROTOCOL`; its part of the route table are the routes named `MODEL/...` and its
entry under the route table's metadata `model_release`, which is the record that `Router.read` returns.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from model_release.environment import FLEETS, FleetPair
from model_release.traffic.router import (
    ARM_HEADER,
    ARMS,
    FORCE_HEADER,
    MODEL_HEADER,
    VERSION_HEADER,
    Route,
    no_pins,
    nothing_released,
)

Json = dict[str, Any]

TABLE = "models"
RECORD = "model_release"
PROTOCOLS = ("http", "grpc")
REQUEST_TIMEOUT = "60s"
CONNECT_TIMEOUT = "1s"

NOT_ROUTED = (
    "this router serves models by name: HTTP /v2/models/MODEL/infer, or gRPC inference with the authority "
    "MODEL.<domain> or the metadata x-model: MODEL. Only inference, metadata and readiness of a released model are "
    "routed."
)

_TYPES = "type.googleapis.com/envoy"
# An inference changes nothing, so a request that a dying replica dropped may go to its neighbour, and so may one that a
# replica does not know the model of: HTTP's 404, gRPC's NOT_FOUND. It is still counted against the arm.
_DROPPED = "connect-failure,refused-stream,reset"
_RETRIED: dict[str, Json] = {
    "http": {"retry_on": f"{_DROPPED},retriable-status-codes", "retriable_status_codes": [404]},
    "grpc": {
        "retry_on": f"{_DROPPED},retriable-headers",
        "retriable_headers": [{"name": "grpc-status", "string_match": {"exact": "5"}}],
    },
}
_UNARY = "/inference.GRPCInferenceService/(ModelInfer|ModelMetadata|ModelReady)"
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def latency_bounds_ms() -> list[float]:
    """
    Return the upper bounds of Envoy's latency buckets.

    Steps of about 10 % from 20 ms to 10 s and of 2 ms below: Envoy measures in whole ms and keeps two digits.
    """
    bounds = [float(bound) for bound in range(2, 21, 2)]
    while bounds[-1] < 10_000:
        above = bounds[-1] * 1.1
        digit = 10 ** max(0, len(str(int(above))) - 2)
        bounds.append(float(max(round(above / digit) * digit, bounds[-1] + max(2, digit))))
    return bounds


# --- files -------------------------------------------------------------------------------------


def response(resources: list[Json]) -> Json:
    """Return a discovery response whose version is a digest of its content."""
    digest = hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]
    return {"version_info": digest, "resources": resources}


def listener(directory: Path, address: str, port: int) -> Json:
    """Return the one listener, of HTTP/1.1 and HTTP/2 on one port, whose routes are in the directory's rds.json."""
    manager = {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": TABLE,
        "codec_type": "AUTO",
        "rds": {"route_config_name": TABLE, "config_source": file_source(directory / "rds.json")},
        "http_filters": [
            # Without a list of methods the gRPC statuses are counted by cluster alone.
            {
                "name": "grpc_stats",
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.filters.http.grpc_stats.v3.FilterConfig",
                    "individual_method_stats_allowlist": {},
                },
            },
            {
                "name": "router",
                "typed_config": {"@type": f"{_TYPES}.extensions.filters.http.router.v3.Router"},
            },
        ],
    }
    return {
        "@type": f"{_TYPES}.config.listener.v3.Listener",
        "name": "clients",
        "address": _address(address, port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def file_source(path: Path) -> Json:
    """Return the config source of a file that is replaced by renaming."""
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def empty_table() -> Json:
    """Return the route table before any model has a route."""
    return {
        "@type": f"{_TYPES}.config.route.v3.RouteConfiguration",
        "name": TABLE,
        "metadata": {"filter_metadata": {RECORD: {}}},
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_not_routed()]}],
    }


def records(table: Json) -> dict[str, Route]:
    """
    Return the routes that a route table was made of, by model.

    Raises KeyError, ValueError or TypeError when it is no table of this module.
    """
    entries = table["metadata"]["filter_metadata"].get(RECORD, {})
    return {model: Route.from_dict(entry) for model, entry in entries.items()}


def with_route(table: Json, route: Route) -> Json:
    """Return the route table with one model's part replaced and every other model's part as it is."""
    entries = {**table["metadata"]["filter_metadata"].get(RECORD, {}), route.model: route.to_dict()}
    host = table["virtual_hosts"][0]
    others = [held for held in host["routes"][:-1] if not held["name"].startswith(f"{route.model}/")]
    routes = [*others, *model_routes(route), _not_routed()]
    return {
        **table,
        "metadata": {"filter_metadata": {RECORD: entries}},
        "virtual_hosts": [{**host, "routes": routes}],
    }


def with_clusters(clusters: Iterable[Json], model: str, pair: FleetPair) -> list[Json]:
    """Return the clusters with one model's replaced and every other model's as they are."""
    others = [held for held in clusters if not held["name"].startswith(f"{model}/")]
    own = [_cluster(model, fleet, protocol, pair) for fleet in FLEETS for protocol in PROTOCOLS]
    return sorted([*others, *own], key=lambda cluster: str(cluster["name"]))


# --- clusters ----------------------------------------------------------------------------------


def cluster_name(model: str, fleet: str, protocol: str) -> str:
    """Return a cluster's name, which is also its name in Envoy's statistics."""
    return f"{model}/{fleet}/{protocol}"


def _cluster(model: str, fleet: str, protocol: str, pair: FleetPair) -> Json:
    name = cluster_name(model, fleet, protocol)
    replicas = pair.fleet(fleet).replicas
    hosts = [split_host(replica.grpc if protocol == "grpc" else replica.http) for replica in replicas]
    endpoints = [{"endpoint": {"address": _address(host, port)}} for host, port in hosts]
    version: Json = {"http2_protocol_options": {}} if protocol == "grpc" else {"http_protocol_options": {}}
    return {
        "@type": f"{_TYPES}.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC" if all(_is_ip(host) for host, _ in hosts) else "STRICT_DNS",
        "lb_policy": "ROUND_ROBIN",
        "connect_timeout": CONNECT_TIMEOUT,
        # The defaults are meant for one small service; here the queue limit is Triton's own.
        "circuit_breakers": {
            "thresholds": [{"max_requests": 8192, "max_pending_requests": 8192, "max_retries": 1024}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": version,
            }
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def split_host(address: str) -> tuple[str, int]:
    """Split host:port. Raises ValueError without a port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


# --- routes ------------------------------------------------------------------------------------


def model_routes(route: Route) -> list[Json]:
    """Return a model's part of the route table: per form of a request the forced arms, then the weights."""
    made = [each for form, match, protocol in _forms(route.model) for each in _routes_of(route, form, match, protocol)]
    pinned = {"safe_regex": {"regex": f"/v2/models/{route.model}/versions/.*"}}
    return [*made, {"name": f"{route.model}/http-version", "match": pinned, **_answer(404, no_pins(route.model))}]


def _forms(model: str) -> Iterator[tuple[str, Json, str]]:
    """Yield every form in which a request names the model: name of the form, match, protocol."""
    path = f"/v2/models/{model}(/infer|/ready)?"
    yield "http", {"safe_regex": {"regex": path}, "headers": []}, "http"
    by_metadata = [{"name": MODEL_HEADER, "string_match": {"exact": model}}]
    hosts = "|".join(sorted({re.escape(model), re.escape(model.replace("_", "-"))}))
    by_authority = [
        {"name": MODEL_HEADER, "present_match": True, "invert_match": True},
        {"name": ":authority", "string_match": {"safe_regex": {"regex": rf"({hosts})\..+"}}},
    ]
    for selector, headers in (("metadata", by_metadata), ("authority", by_authority)):
        yield f"grpc-{selector}", {"safe_regex": {"regex": _UNARY}, "grpc": {}, "headers": headers}, "grpc"
        yield f"grpc-stream-{selector}", {"path": _STREAM, "grpc": {}, "headers": headers}, "grpc"


def _routes_of(route: Route, form: str, match: Json, protocol: str) -> Iterator[Json]:
    """Yield the routes of one form of request, the most special first."""
    for arm, fleet in zip(ARMS, (route.stable, route.canary), strict=True):
        if fleet is None or route.versions[fleet] is None:
            continue
        forced = {"name": FORCE_HEADER, "string_match": {"exact": arm}}
        yield {
            "name": f"{route.model}/{form}/forced-{arm}",
            "match": {**match, "headers": [*match["headers"], forced]},
            "route": _action(route, form, {fleet: 100}, protocol),
        }
    plain: Json = {"name": f"{route.model}/{form}", "match": match}
    if route.released:
        yield {**plain, "route": _action(route, form, dict(route.weights), protocol)}
    else:
        yield {**plain, **_answer(503, nothing_released(route.model))}


def _action(route: Route, form: str, weights: dict[str, int], protocol: str) -> Json:
    """Return the action that shares requests by weight and says on each response whose it is."""
    clusters = [
        {
            "name": cluster_name(route.model, fleet, protocol),
            "weight": weight,
            "response_headers_to_add": [
                _header(ARM_HEADER, str(route.arm(fleet))),
                _header(VERSION_HEADER, str(route.versions[fleet])),
            ],
        }
        for fleet, weight in sorted(weights.items())
        if weight
    ]
    return {
        "weighted_clusters": {"clusters": clusters},
        "timeout": "0s" if "stream" in form else REQUEST_TIMEOUT,
        "retry_policy": {
            **_RETRIED[protocol],
            "num_retries": 1,
            "retry_host_predicate": [
                {
                    "name": "previous_hosts",
                    "typed_config": {
                        "@type": f"{_TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    },
                }
            ],
            "host_selection_retry_max_attempts": 3,
        },
    }


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _answer(status: int, sentence: str) -> Json:
    return {"direct_response": {"status": status, "body": {"inline_string": sentence}}}


def _not_routed() -> Json:
    return {"name": "not-routed", "match": {"prefix": "/"}, **_answer(404, NOT_ROUTED)}
