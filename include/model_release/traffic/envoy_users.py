"""
Whose requests failed, while arms are sticky: what Envoy is told to log of them, and what its logs then say.

The route notes on each request, in a header, which arm's share it is and whose. Envoy writes a line for what failed of
them: also what stable answered in the canary's place, or a neighbour in a replica's. What counts is as with the
router's counters, but that a stable replica which has lost the model fails its users too, as a canary's does.

A log is read with the one that was renamed from it, `FILE.1`: it may be rotated, once, while a release goes on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from model_release.errors import RouterUnavailable
from model_release.traffic.envoy_clusters import GRPC_ERRORS, GRPC_NOT_FOUND, TYPES, Json
from model_release.traffic.router import ARM_HEADER, FailedUsers, Route

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
    "%RESPONSE_CODE% %GRPC_STATUS_NUMBER% %UPSTREAM_REQUEST_ATTEMPT_COUNT% "
    f"%RESP({ARM_HEADER})% %REQ({SHARE_HEADER})%\n"
)
_FIELDS = 9


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
    failed_before: dict[str, set[bytes]] = {"canary": set(), "stable": set()}
    counts, told = {"canary": 0, "stable": 0}, 0
    for held, is_new in [*((part.before, False) for part in parts), *((part.new, True) for part in parts)]:
        for failure in _failures(held, release):
            told += 1
            before, now = failed_before[failure.arm], failure.percent == percent
            counts[failure.arm] += is_new and now and failure.user not in before
            if failure.user and (now or failure.arm == "canary"):
                before.add(failure.user)
    upto = {str(path): part.upto for path, part in zip(files, parts, strict=True)}
    return FailedUsers(**counts, upto=upto, told=told)


class _Failure(NamedTuple):
    """A request that an arm failed, and whose it was."""

    arm: str
    percent: int
    user: bytes

    @classmethod
    def read(cls, line: bytes) -> _Failure | None:
        """
        Read a line; None for one that is no failure of the arm.

        A NOT_FOUND that the second asked says too is the client's, who pins a version. Raises ValueError, KeyError.
        """
        status, grpc, tries, answered, _, _, percent, arm, user = line.split(b" ", _FIELDS - 1)
        code = -1 if grpc == b"-" else int(grpc)
        if code == GRPC_NOT_FOUND:
            return None
        bad = code in GRPC_ERRORS or int(status) >= _SERVER_ERROR or int(status) == _NOT_FOUND
        helped = int(tries) > 1 or (arm == b"canary" and answered == b"stable")
        return cls({b"canary": "canary", b"stable": "stable"}[arm], int(percent), user) if bad or helped else None


def _failures(held: bytes, release: bytes) -> Iterator[_Failure]:
    place = 0
    while (end := held.find(b"\n", place)) >= 0:
        line, place = held[place:end], end + 1
        if release not in line:
            continue
        try:
            failure = _Failure.read(line) if line.split(b" ", 4)[4].startswith(release[1:]) else None
        except (ValueError, KeyError, IndexError):
            log.warning("no line of failed users: %r", line[:200])
            continue
        if failure is not None:
            yield failure


# --- where a reading goes on ---------------------------------------------------------------------


class _Part(NamedTuple):
    """What a log held of a release at the reading before, what it holds since, and the next reading's `since`."""

    before: bytes
    new: bytes
    upto: list[int]
    """Inode and offset where the release began, and where this reading ended."""


class _Log(NamedTuple):
    """A file's whole lines from an offset on."""

    inode: int
    start: int
    held: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.held)


def _parted(path: Path, since: Sequence[int] | None) -> _Part:
    began, place = (tuple(since[:2]), tuple(since[2:])) if since else ((0, 0), (0, 0))
    logs = _read(path, {began[0]: began[1]})
    end = [logs[-1].inode, logs[-1].end]
    if not since:
        return _Part(b"", b"", [*end, *end])
    if logs[-1].inode == began[0] and logs[-1].start == began[1]:
        logs = logs[-1:]  # nothing of the release is in the file before
    whole = b"".join(each.held for each in logs)
    began_at, place_at = _found(logs, *began), _found(logs, *place)
    if began_at is None or place_at is None:
        log.warning("%s was cut, or rotated twice in a release: some failed users count again, or not at all", path)
        began_at = began_at or 0
        place_at = len(whole) - len(logs[-1].held) if place_at is None else place_at
    return _Part(whole[began_at:place_at], whole[place_at:], [*began, *end])


def _found(logs: Sequence[_Log], inode: int, offset: int) -> int | None:
    """Return where a position lies in logs one after the other."""
    passed = 0
    for each in logs:
        if each.inode == inode and each.start <= offset <= each.end:
            return passed + offset - each.start
        passed += len(each.held)
    return None


def _read(path: Path, starts: Mapping[int, int]) -> list[_Log]:
    """Return the file that was renamed, if any, and the current one; `starts` by inode. Raises RouterUnavailable."""
    rotated = path.with_name(f"{path.name}.1")
    try:
        current = _read_one(path, starts)
        renamed = _read_one(rotated, starts) if rotated.exists() else None
        if renamed is not None and renamed.inode == current.inode:  # rotated just now
            current = _read_one(path, starts)
    except FileNotFoundError:
        why = "there is no log of failed users, which Envoy begins when it has the listener that `initialise` writes"
        raise RouterUnavailable(str(path), why) from None
    except OSError as error:
        raise RouterUnavailable(str(path), f"its log of failed users cannot be read: {error.strerror}") from None
    return [current] if renamed is None else [renamed, current]


def _read_one(path: Path, starts: Mapping[int, int]) -> _Log:
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        start = starts.get(about.st_ino, 0)
        start = 0 if start > about.st_size else start  # it was cut
        file.seek(start)
        held = file.read()
    return _Log(about.st_ino, start, held[: held.rfind(b"\n") + 1])
