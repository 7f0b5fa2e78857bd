"""
What Envoy is told: listener and routes as JSON resources, made of routes without any I/O.

A model's part of the route table are the routes named `MODEL/...` and its entry under the route table's metadata
`model_release`, which is the record that `Router.read` returns.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from model_release.traffic.envoy_clusters import (
    FAILED_HEADER,
    GRPC_NOT_FOUND,
    MIRRORED,
    OR_STABLE,
    RECORD,
    TYPES,
    Json,
    cluster_name,
    socket_address,
)
from model_release.traffic.envoy_users import access_log, share_of, takes_no_shares
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

TABLE = "models"
REQUEST_TIMEOUT = "60s"
MOST_KEPT_BYTES = 16 * 2**20
"""A larger request is not kept until it is answered, so it is neither tried again nor mirrored."""

NOT_ROUTED = (
    "this router serves models by name: HTTP /v2/models/MODEL/infer, or gRPC inference with the authority "
    "MODEL.<domain> or the metadata x-model: MODEL. Only inference, metadata and readiness of a released model are "
    "routed."
)

# An inference changes nothing, so a request that a dying replica dropped may go to its neighbour, and so may one that a
# replica does not know the model of: HTTP's 404, gRPC's NOT_FOUND. It is still counted against the arm.
_DROPPED = "connect-failure,refused-stream,reset"
_RETRIED: dict[str, Json] = {
    "http": {"retry_on": f"{_DROPPED},retriable-status-codes,retriable-headers", "retriable_status_codes": [404]},
    "grpc": {"retry_on": f"{_DROPPED},retriable-headers"},
}
_RETRIED_HEADERS: dict[str, list[Json]] = {
    "http": [],
    "grpc": [{"name": "grpc-status", "string_match": {"exact": str(GRPC_NOT_FOUND)}}],
}
_FAILED: Json = {"name": FAILED_HEADER, "present_match": True}
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


def listener(directory: Path, address: str, port: int, user_log: Path | None = None) -> Json:
    """
    Return the one listener, of HTTP/1.1 and HTTP/2 on one port, whose routes are in the directory's rds.json.

    With a `user_log` it writes there whose requests of sticky routes fail or are slow.
    """
    manager = {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": TABLE,
        "codec_type": "AUTO",
        **({"access_log": [access_log(user_log)]} if user_log else {}),
        "rds": {"route_config_name": TABLE, "config_source": file_source(directory / "rds.json")},
        "http_filters": [
            *([takes_no_shares()] if user_log else []),
            # Without a list of methods the gRPC statuses are counted by cluster alone.
            {
                "name": "grpc_stats",
                "typed_config": {
                    "@type": f"{TYPES}.extensions.filters.http.grpc_stats.v3.FilterConfig",
                    "individual_method_stats_allowlist": {},
                },
            },
            {
                "name": "router",
                "typed_config": {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"},
            },
        ],
    }
    return {
        "@type": f"{TYPES}.config.listener.v3.Listener",
        "name": "clients",
        "address": socket_address(address, port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def file_source(path: Path) -> Json:
    """Return the config source of a file that is replaced by renaming."""
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def empty_table() -> Json:
    """Return the route table before any model has a route."""
    return {
        "@type": f"{TYPES}.config.route.v3.RouteConfiguration",
        "name": TABLE,
        "metadata": {"filter_metadata": {RECORD: {}}},
        "virtual_hosts": [_host([_not_routed()])],
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
    before = table["virtual_hosts"][0]["routes"][:-1]
    others = [held for held in before if not held["name"].startswith(f"{route.model}/")]
    routes = [*others, *model_routes(route), _not_routed()]
    return {
        **table,
        "metadata": {"filter_metadata": {RECORD: entries}},
        "virtual_hosts": [_host(routes)],
    }


def _host(routes: list[Json]) -> Json:
    """The only one, whoever a request says that it is for."""
    return {"name": "all", "domains": ["*"], "routes": routes, "request_body_buffer_limit": MOST_KEPT_BYTES}


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
    name = f"{route.model}/{form}"
    if not route.released:
        yield {"name": name, "match": match, **_answer(503, nothing_released(route.model))}
        return
    if route.sticky_header is not None:
        # An empty value has a hash too, which would have all who send one come and go together.
        nobody = {"name": route.sticky_header, "string_match": {"safe_regex": {"regex": r"\s*"}}}
        of_nobody = {**match, "headers": [*match["headers"], nobody]}
        yield {"name": f"{name}/nobody", "match": of_nobody, **_shared(route, form, protocol, by_hash=False)}
    yield {"name": name, "match": match, **_shared(route, form, protocol)}


def _shared(route: Route, form: str, protocol: str, *, by_hash: bool = True) -> Json:
    """Return what shares a form of request by weight."""
    if "stream" in form or not route.falls_back:
        # A stream is neither tried again nor given up after a time, and sent nobody a second time.
        return {"route": _action(route, form, dict(route.weights), protocol, by_hash=by_hash)}
    shared = _action(route, form, dict(route.weights), protocol, kind=OR_STABLE, by_hash=by_hash)
    # Where no replica answered, none told whose answer it is: the canary was asked.
    whose = _said(route, str(route.canary), "ADD_IF_ABSENT")
    return {"route": {**shared, **_mirrors(route, protocol)}, "response_headers_to_add": whose}


def _action(
    route: Route, form: str, weights: dict[str, int], protocol: str, kind: str = "", *, by_hash: bool = True
) -> Json:
    """
    Return the action that shares requests by weight and says on each response whose it is.

    `kind` is that of the canary's cluster; `by_hash` is for requests whose sticky header names a user, the others go by
    chance. Stable comes first: as the canary's share grows from the end of the range, whoever hashes into it stays in
    it.
    """
    arms = [fleet for fleet in (route.stable, route.canary) if fleet is not None and weights.get(fleet)]
    is_sticky = route.sticky_header is not None and len(arms) > 1
    clusters = [
        {
            "name": cluster_name(route.model, fleet, protocol, kind if fleet == route.canary else ""),
            "weight": weights[fleet],
            "response_headers_to_add": _told() if kind and fleet == route.canary else _said(route, fleet),
            "response_headers_to_remove": [FAILED_HEADER],
            **({"request_headers_to_add": share_of(route, fleet)} if is_sticky else {}),
        }
        for fleet in arms
    ]
    hashed = _by_hash(route) if is_sticky and by_hash else {}
    return {
        "weighted_clusters": {"clusters": clusters, **({"use_hash_policy": True} if hashed else {})},
        **hashed,
        "timeout": "0s" if "stream" in form else REQUEST_TIMEOUT,
        "retry_policy": _retry_policy(protocol, to_stable=bool(kind)),
    }


def _by_hash(route: Route) -> Json:
    """Go by the header's value and the canary's version together, so that each version has others who come first."""
    salted = {"pattern": {"regex": "^.*$"}, "substitution": f"{route.versions[str(route.canary)]} \\0"}
    return {"hash_policy": [{"header": {"header_name": route.sticky_header, "regex_rewrite": salted}}]}


def _retry_policy(protocol: str, *, to_stable: bool) -> Json:
    """Try once more: on a neighbour, or `to_stable` what the canary failed to answer."""
    policy: Json = {
        **_RETRIED[protocol],
        "retriable_headers": [*_RETRIED_HEADERS[protocol], _FAILED],
        "num_retries": 1,
        "retry_host_predicate": [
            {
                "name": "previous_hosts",
                "typed_config": {"@type": f"{TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "host_selection_retry_max_attempts": 3,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.025s"},
    }
    if to_stable:
        config = f"{TYPES}.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
        policy["retry_priority"] = {
            "name": "previous_priorities",
            "typed_config": {"@type": config, "update_frequency": 1},
        }
    return policy


def _mirrors(route: Route, protocol: str) -> Json:
    """Send a share of the requests to other fleets too."""
    policies = [
        {
            "cluster": cluster_name(route.model, fleet, protocol, MIRRORED),
            "runtime_fraction": {"default_value": {"numerator": percent, "denominator": "HUNDRED"}},
            "disable_shadow_host_suffix_append": True,
        }
        for fleet, percent in sorted(route.mirrored.items())
    ]
    return {"request_mirror_policies": policies} if policies else {}


def _said(route: Route, fleet: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> list[Json]:
    """Say on an answer that it is a fleet's."""
    said = {ARM_HEADER: str(route.arm(fleet)), VERSION_HEADER: str(route.versions[fleet])}
    return [_header(name, value, action) for name, value in said.items()]


def _told() -> list[Json]:
    """Say on an answer whose it is, as the replica that answered tells."""
    names = (ARM_HEADER, VERSION_HEADER)
    return [_header(name, f"%UPSTREAM_METADATA({RECORD}:{name})%", "OVERWRITE_IF_EXISTS_OR_ADD") for name in names]


def _header(name: str, value: str, action: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": action}


def _answer(status: int, sentence: str) -> Json:
    return {"direct_response": {"status": status, "body": {"inline_string": sentence}}}


def _not_routed() -> Json:
    return {"name": "not-routed", "match": {"prefix": "/"}, **_answer(404, NOT_ROUTED)}
