"""
What Envoy is told to log of affected users, while arms are sticky; `user_log` reads it.

The route notes on each request, in headers, which arm's share it is and whose, and beyond which time it is slow. Envoy
writes a line for what was slow of them and for what failed, also for what stable answered in the canary's place or a
neighbour in a replica's.
"""

from __future__ import annotations

from pathlib import Path

from model_release.traffic.envoy_clusters import GRPC_ERRORS, TYPES, Json
from model_release.traffic.router import ARM_HEADER, Route

SHARE_HEADER = "x-model-share"
"""From the route on to the replicas: `ARM MODEL VERSION PERCENT USER`; version and percent are the canary's."""

SLOW_HEADER, OFTEN_HEADER = "x-model-slow", "x-model-often-slow"
"""From the route on to the replicas: beyond which time a request gets a line, or one of a sample, as CEL's `0.054s`."""

OFTEN_SAMPLED_PERCENT = 25

NOT_FOUND, SERVER_ERROR = 404, 500
_OURS = (SHARE_HEADER, SLOW_HEADER, OFTEN_HEADER)


def _lasts_longer_than(header: str) -> str:
    return f"('{header}' in request.headers && request.duration > duration(request.headers['{header}']))"


# A little broader than what counts as failed or slow, which `user_log` decides.
_WORTH_A_LINE = (
    f"'{SHARE_HEADER}' in request.headers && ("
    f"response.code == {NOT_FOUND} || response.code >= {SERVER_ERROR} || upstream.request_attempt_count > 1 || "
    "('content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc') "
    f"&& response.grpc_status in {sorted(GRPC_ERRORS)}) || "
    f"('{ARM_HEADER}' in response.headers && response.headers['{ARM_HEADER}'] == 'stable' "
    f"&& request.headers['{SHARE_HEADER}'].startsWith('canary ')) || "
    f"{_lasts_longer_than(SLOW_HEADER)})"
)
# The first of the times is what Envoy's histograms hold: from the whole request to the whole answer.
_LINE = (
    "%START_TIME(%s)% %RESPONSE_CODE% %GRPC_STATUS_NUMBER% %UPSTREAM_REQUEST_ATTEMPT_COUNT% "
    f"%RESP({ARM_HEADER})% %COMMON_DURATION(DS_RX_END:US_RX_END:us)% %DURATION% %REQ({SHARE_HEADER})%\n"
)


def _cel(expression: str) -> Json:
    """Return the filter of a log that lets through what an expression is true of."""
    config = {"@type": f"{TYPES}.extensions.access_loggers.filters.cel.v3.ExpressionFilter", "expression": expression}
    return {"extension_filter": {"name": "cel", "typed_config": config}}


def access_log(path: Path) -> Json:
    """Return the log of a listener that writes a line for each request of a sticky route that failed or was slow."""
    sampled = {
        "runtime_key": "model_release.often_slow",
        "percent_sampled": {"numerator": OFTEN_SAMPLED_PERCENT},
        "use_independent_randomness": True,
    }
    often = {"and_filter": {"filters": [{"runtime_filter": sampled}, _cel(_lasts_longer_than(OFTEN_HEADER))]}}
    return {
        "name": "affected-users",
        "filter": {"or_filter": {"filters": [_cel(_WORTH_A_LINE), often]}},
        "typed_config": {
            "@type": f"{TYPES}.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"text_format_source": {"inline_string": _LINE}},
        },
    }


def writes(listener: Json, path: Path) -> bool:
    """Return whether a listener, as Envoy shows it, writes this log at a path, and not one of another version of it."""
    asked = access_log(path)
    filters = [each for chain in listener.get("filter_chains", []) for each in chain.get("filters", [])]
    logs = [each for one in filters for each in one.get("typed_config", {}).get("access_log", [])]
    return any(all(each.get(part) == asked[part] for part in ("filter", "typed_config")) for each in logs)


def takes_no_shares() -> Json:
    """Return the filter that forgets what a client says of its share: that is the route's to say."""
    return {
        "name": "header_mutation",
        "typed_config": {
            "@type": f"{TYPES}.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [{"remove": name} for name in _OURS]},
        },
    }


def share_of(route: Route, fleet: str) -> list[Json]:
    """Return what the route adds to a request of an arm's share; a user without the header's value is nobody."""
    canary = str(route.canary)
    arm = route.arm(fleet)
    share = f"{arm} {route.model} {route.versions[canary]} {route.weights[canary]}"
    said = {SHARE_HEADER: f"{share} %REQ({route.sticky_header})%"}
    for name, bound in ((SLOW_HEADER, route.slow_ms), (OFTEN_HEADER, route.often_ms)):
        if bound is not None:
            said[name] = f"{bound.of(arm) / 1000:.6f}s"
    return [
        {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for name, value in said.items()
    ]
