"""
Whose requests failed, while arms are sticky: what Envoy is told to log of them, and what its logs then say.

The route notes on each request, in a header, which arm's share it is and whose. Envoy writes a line for what failed of
them: also what stable answered in the canary's place, or a neighbour in a replica's. What counts is as with the
router's counters, but that a stable replica which has lost the model fails its users too, as a canary's does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from model_release.errors import RouterUnavailable
from model_release.traffic.envoy_clusters import GRPC_ERRORS, GRPC_NOT_FOUND, TYPES, Json
from model_release.traffic.rotated_log import Part, parted
from model_release.traffic.router import ARM_HEADER, ARMS, FAILURE_LEVELS, FailedUsers, Route

log = logging.getLogger(__name__)

SHARE_HEADER = "x-model-share"
"""From the route on to the replicas: `MODEL VERSION PERCENT ARM USER`; version and percent are the canary's."""

_NOT_FOUND, _SERVER_ERROR = 404, 500
# A little broader than what counts as failed, which `_Failure.read` decides.
_WORTH_A_LINE = (
    f"'{SHARE_HEADER}' in request.headers && ("
    f"response.code == {_NOT_FOUND} || response.code >= {_SERVER_ERROR} || upstream.request_attempt_count > 1 || "
    "('content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc') "
    f"&& response.grpc_status in {sorted(GRPC_ERRORS)}) || "
    f"('{ARM_HEADER}' in response.headers && response.headers['{ARM_HEADER}'] == 'stable' "
    f"&& request.headers['{SHARE_HEADER}'].contains(' canary ')))"
)
_LINE = (
    "%START_TIME(%s)% %RESPONSE_CODE% %GRPC_STATUS_NUMBER% %UPSTREAM_REQUEST_ATTEMPT_COUNT% "
    f"%RESP({ARM_HEADER})% %REQ({SHARE_HEADER})%\n"
)
_FIELDS = 10
_SPAN_S = 2


def access_log(path: Path) -> Json:
    """Return the log of a listener that writes a line for each request of a sticky route that failed."""
    return {
        "name": "failed-users",
        "filter": {
            "extension_filter": {
                "name": "cel",
                "typed_config": {
                    "@type": f"{TYPES}.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                    "expression": _WORTH_A_LINE,
                },
            }
        },
        "typed_config": {
            "@type": f"{TYPES}.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"text_format_source": {"inline_string": _LINE}},
        },
    }


def log_paths(listener: Json) -> list[str]:
    """Return where a listener, as Envoy shows it, logs."""
    filters = [each for chain in listener.get("filter_chains", []) for each in chain.get("filters", [])]
    logs = [each for one in filters for each in one.get("typed_config", {}).get("access_log", [])]
    return [str(each.get("typed_config", {}).get("path")) for each in logs]


def takes_no_shares() -> Json:
    """Return the filter that forgets what a client says of its share: that is the route's to say."""
    return {
        "name": "header_mutation",
        "typed_config": {
            "@type": f"{TYPES}.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [{"remove": SHARE_HEADER}]},
        },
    }


def share_of(route: Route, fleet: str) -> Json:
    """Return what the route adds to a request of an arm's share; a user without the header's value is nobody."""
    canary = str(route.canary)
    released = f"{route.model} {route.versions[canary]} {route.weights[canary]}"
    whose = f"{released} {route.arm(fleet)} %REQ({route.sticky_header})%"
    return {"header": {"key": SHARE_HEADER, "value": whose}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def failed_users(
    files: Sequence[Path], model: str, version: int, percent: int, since: Mapping[str, Sequence[int]]
) -> FailedUsers:
    """
    Read the logs of all Envoys; `since` is `upto` of an earlier reading, or empty: the release begins now.

    Raises RouterUnavailable when a log cannot be read.
    """
    parts = [_parted(path, since.get(str(path))) for path in files]
    release = f" {model} {version} ".encode()
    times, told = _Times(percent), 0
    for part in parts:
        for failure in _failures(part.before, release):
            times.level_of(failure)
    counts = {arm: dict.fromkeys(FAILURE_LEVELS, 0) for arm in ARMS}
    for part in parts:
        for failure in _failures(part.new, release):
            told += 1
            level = times.level_of(failure)
            if level is not None:
                counts[failure.arm][level] += 1
    upto = {str(path): part.upto for path, part in zip(files, parts, strict=True)}
    return FailedUsers(tuple(counts["canary"].values()), tuple(counts["stable"].values()), upto, told)


def _parted(path: Path, since: Sequence[int] | None) -> Part:
    """Raises RouterUnavailable."""
    try:
        return parted(path, since)
    except FileNotFoundError:
        why = "there is no log of failed users, which Envoy begins when it has the listener that `initialise` writes"
        raise RouterUnavailable(str(path), why) from None
    except OSError as error:
        raise RouterUnavailable(str(path), f"its log of failed users cannot be read: {error.strerror}") from None


class _Times:
    """How many spans of the clock each user has failed in, at each weight; the weight now is `percent`."""

    def __init__(self, percent: int) -> None:
        self._percent = percent
        self._spans: dict[tuple[str, int, bytes], tuple[int, int]] = {}
        self._weights: set[int] = set()

    def level_of(self, failure: _Failure) -> int | None:
        """Add a failure; returns the level that its user comes to by it at the weight now, if it is to be told."""
        is_now, key = failure.percent == self._percent, (failure.arm, failure.percent, failure.user)
        if not failure.user:
            return 1 if is_now else None
        count, last = self._spans.get(key, (0, -1))
        if failure.span <= last or (failure.arm == "stable" and not is_now):
            return None
        count += 1
        self._spans[key] = count, failure.span
        self._weights.add(failure.percent)
        told = failure.arm == "canary" and count <= self._most_before(failure.user)
        return count if is_now and count in FAILURE_LEVELS and not told else None

    def _most_before(self, user: bytes) -> int:
        """Return in how many spans the canary failed a user at any other weight of the release."""
        others = self._weights - {self._percent}
        return max((self._spans.get(("canary", weight, user), (0, -1))[0] for weight in others), default=0)


class _Failure(NamedTuple):
    """A request that an arm failed, when, and whose it was."""

    span: int
    arm: str
    percent: int
    user: bytes

    @classmethod
    def read(cls, line: bytes) -> _Failure | None:
        """
        Read a line; None for one that is no failure of the arm.

        A NOT_FOUND that the second asked says too is the client's, who pins a version. Raises ValueError, KeyError.
        """
        began, status, grpc, tries, answered, _, _, percent, arm, user = line.split(b" ", _FIELDS - 1)
        code = -1 if grpc == b"-" else int(grpc)
        if code == GRPC_NOT_FOUND:
            return None
        bad = code in GRPC_ERRORS or int(status) >= _SERVER_ERROR or int(status) == _NOT_FOUND
        helped = int(tries) > 1 or (arm == b"canary" and answered == b"stable")
        if not bad and not helped:
            return None
        return cls(int(began) // _SPAN_S, {b"canary": "canary", b"stable": "stable"}[arm], int(percent), user)


def _failures(held: bytes, release: bytes) -> Iterator[_Failure]:
    place = 0
    while (end := held.find(b"\n", place)) >= 0:
        line, place = held[place:end], end + 1
        if release not in line:
            continue
        try:
            failure = _Failure.read(line) if line.split(b" ", 5)[5].startswith(release[1:]) else None
        except (ValueError, KeyError, IndexError):
            log.warning("no line of failed users: %r", line[:200])
            continue
        if failure is not None:
            yield failure
