"""
Who is affected, while arms are sticky: what Envoy is told to log of requests, and what its logs then say of users.

The route notes on each request, in headers, which arm's share it is and whose, and beyond which time it is slow. Envoy
writes a line for what was slow of them and for what failed, also for what stable answered in the canary's place or a
neighbour in a replica's. What counts is as with the router's counters, but that a stable replica which has lost the
model fails its users too, as a canary's does.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from model_release.errors import RouterUnavailable
from model_release.traffic.envoy_clusters import GRPC_ERRORS, GRPC_NOT_FOUND, TYPES, Json
from model_release.traffic.rotated_log import Part, parted
from model_release.traffic.router import (
    ARM_HEADER,
    ARMS,
    NOTHING_SLOW,
    USER_LEVELS,
    AffectedUsers,
    ByArm,
    Route,
    Slow,
)

log = logging.getLogger(__name__)

SHARE_HEADER = "x-model-share"
"""From the route on to the replicas: `MODEL VERSION PERCENT ARM USER`; version and percent are the canary's."""

SLOW_HEADER, OFTEN_HEADER = "x-model-slow", "x-model-often-slow"
"""From the route on to the replicas: beyond which time a request gets a line, or one of a sample, as CEL's `0.054s`."""

OFTEN_SAMPLED_PERCENT = 10

_OURS = (SHARE_HEADER, SLOW_HEADER, OFTEN_HEADER)
_NOT_FOUND, _SERVER_ERROR = 404, 500


def _lasts_longer_than(header: str) -> str:
    return f"('{header}' in request.headers && request.duration > duration(request.headers['{header}']))"


# A little broader than what counts as failed or slow, which `_Affected.read` decides.
_WORTH_A_LINE = (
    f"'{SHARE_HEADER}' in request.headers && ("
    f"response.code == {_NOT_FOUND} || response.code >= {_SERVER_ERROR} || upstream.request_attempt_count > 1 || "
    "('content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc') "
    f"&& response.grpc_status in {sorted(GRPC_ERRORS)}) || "
    f"('{ARM_HEADER}' in response.headers && response.headers['{ARM_HEADER}'] == 'stable' "
    f"&& request.headers['{SHARE_HEADER}'].contains(' canary ')) || "
    f"{_lasts_longer_than(SLOW_HEADER)})"
)
# The first of the times is what Envoy's histograms hold: from the whole request to the whole answer.
_LINE = (
    "%START_TIME(%s)% %RESPONSE_CODE% %GRPC_STATUS_NUMBER% %UPSTREAM_REQUEST_ATTEMPT_COUNT% "
    f"%RESP({ARM_HEADER})% %COMMON_DURATION(DS_RX_END:US_RX_END:us)% %DURATION% %REQ({SHARE_HEADER})%\n"
)
_BEFORE_SHARE, _FIELDS = 7, 12
_NOTHING = b"-"
_SPAN_S = 2


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
    released = f"{route.model} {route.versions[canary]} {route.weights[canary]}"
    said = {SHARE_HEADER: f"{released} {route.arm(fleet)} %REQ({route.sticky_header})%"}
    for name, bound_ms in ((SLOW_HEADER, route.slow_ms), (OFTEN_HEADER, route.often_ms)):
        if bound_ms is not None:
            said[name] = f"{bound_ms / 1000:.6f}s"
    return [
        {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for name, value in said.items()
    ]


def affected_users(
    files: Sequence[Path],
    model: str,
    version: int,
    percent: int,
    since: Mapping[str, Sequence[int]],
    slow: Slow = NOTHING_SLOW,
) -> AffectedUsers:
    """
    Read the logs of all Envoys; `since` is `upto` of an earlier reading, or empty: the release begins now.

    Slow requests count from `slow.from_s` on at the weight now; those at earlier weights, from the first on.

    Raises RouterUnavailable when a log cannot be read.
    """
    parts = [_parted(path, since.get(str(path))) for path in files]
    release = f" {model} {version} ".encode()
    failed, waited, told = _Times(percent), [_Times(percent) for _ in slow.bounds_ms], 0
    for part, is_new in [*((part.before, False) for part in parts), *((part.new, True) for part in parts)]:
        for one in _lines(part, release):
            told += is_new
            if one.failed:
                failed.add(one, count=is_new)
            if one.percent == percent and one.began_s < slow.from_s:
                continue
            for bound_ms, times in zip(slow.bounds_ms, waited, strict=True):
                if one.waited_ms > bound_ms:
                    times.add(one, count=is_new)
    upto = {str(path): part.upto for path, part in zip(files, parts, strict=True)}
    return AffectedUsers(failed.counted, tuple(times.counted for times in waited), upto, told)


def _parted(path: Path, since: Sequence[int] | None) -> Part:
    """Raises RouterUnavailable."""
    try:
        return parted(path, since)
    except FileNotFoundError:
        why = "there is no log of affected users, which Envoy begins when it has the listener that `initialise` writes"
        raise RouterUnavailable(str(path), why) from None
    except OSError as error:
        raise RouterUnavailable(str(path), f"its log of affected users cannot be read: {error.strerror}") from None


class _Times:
    """In how many spans of the clock each user was affected, at each weight; the weight now is `percent`."""

    def __init__(self, percent: int) -> None:
        self._percent = percent
        self._spans: defaultdict[tuple[str, int, bytes], set[int]] = defaultdict(set)
        self._weights: set[int] = set()
        self._counts = {arm: dict.fromkeys(USER_LEVELS, 0) for arm in ARMS}

    @property
    def counted(self) -> ByArm:
        """Users by arm and level."""
        return ByArm(tuple(self._counts["canary"].values()), tuple(self._counts["stable"].values()))

    def add(self, one: _Affected, *, count: bool) -> None:
        """Add a request, and `count` its user at the level that he comes to by it."""
        level = self._level_of(one)
        if count and level is not None:
            self._counts[one.arm][level] += 1

    def _level_of(self, one: _Affected) -> int | None:
        """Return the level that a user comes to at the weight now, if it is to be told."""
        is_now, spans = one.percent == self._percent, self._spans[one.arm, one.percent, one.user]
        if not one.user:
            return 1 if is_now else None
        # Lines come in the order of the requests' ends, and one Envoy's after another's.
        span = one.began_s // _SPAN_S
        if span in spans or (one.arm == "stable" and not is_now):
            return None
        spans.add(span)
        self._weights.add(one.percent)
        count = len(spans)
        told = one.arm == "canary" and count <= self._most_before(one.user)
        return count if is_now and count in USER_LEVELS and not told else None

    def _most_before(self, user: bytes) -> int:
        """Return in how many spans the canary affected a user at any other weight of the release."""
        others = self._weights - {self._percent}
        return max((len(self._spans["canary", weight, user]) for weight in others), default=0)


class _Affected(NamedTuple):
    """
    A request that an arm failed or may have been slow to answer, when, and whose it was.

    `waited_ms` is how long the arm took to answer; 0 for one that was failed by the canary and answered by stable.
    """

    began_s: int
    arm: str
    percent: int
    user: bytes
    failed: bool
    waited_ms: float

    @classmethod
    def read(cls, line: bytes) -> _Affected | None:
        """
        Read a line; None for one that says nothing of an arm.

        A NOT_FOUND that the second asked says too is the client's, who pins a version. Raises ValueError, KeyError.
        """
        began, status, grpc, tries, answered, took_us, all_ms, _, _, percent, arm, user = line.split(b" ", _FIELDS - 1)
        code = -1 if grpc == _NOTHING else int(grpc)
        if code == GRPC_NOT_FOUND:
            return None
        bad = code in GRPC_ERRORS or int(status) >= _SERVER_ERROR or int(status) == _NOT_FOUND
        helped = int(tries) > 1 or (arm == b"canary" and answered == b"stable")
        failed = bad or helped
        # One that its client gave up was waited for as long as it lasted.
        waited_ms = int(all_ms) if took_us == _NOTHING else int(took_us) / 1000
        # What stable failed is in the router's latencies too, and what of the canary's was answered for it is not.
        if arm == b"canary" and failed:
            waited_ms = 0.0
        named = {b"canary": "canary", b"stable": "stable"}[arm]
        return cls(int(began), named, int(percent), user, failed, waited_ms)


def _lines(held: bytes, release: bytes) -> Iterator[_Affected]:
    place = 0
    while (end := held.find(b"\n", place)) >= 0:
        line, place = held[place:end], end + 1
        if release not in line:
            continue
        try:
            is_own = line.split(b" ", _BEFORE_SHARE)[_BEFORE_SHARE].startswith(release[1:])
            one = _Affected.read(line) if is_own else None
        except (ValueError, KeyError, IndexError):
            log.warning("no line of affected users: %r", line[:200])
            continue
        if one is not None:
            yield one
