"""
Who is affected, while arms are sticky, by the logs of Envoys (`envoy_users`).

What counts is as with the router's counters, but that a stable replica which has lost the model fails its users too, as
a canary's does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model_release.errors import RouterUnavailable
from model_release.traffic.envoy_clusters import GRPC_ERRORS, GRPC_NOT_FOUND
from model_release.traffic.envoy_users import NOT_FOUND, SERVER_ERROR
from model_release.traffic.rotated_log import Part, parted
from model_release.traffic.router import NOTHING_SLOW, AffectedUsers, Slow
from model_release.traffic.user_times import UserTimes

log = logging.getLogger(__name__)

_BEFORE_MODEL, _FIELDS = 8, 12
_NOTHING = b"-"
_MOST_KEPT = 16
#: Envoy's timers count from the beginning of a turn of its loop: a try of 2 s was seen to end after 1.998 s.
_EARLY_MS, _EARLY_SHARE = 5.0, 0.05

Upto = Mapping[str, Sequence[int]]


def affected_users(
    files: Sequence[Path], model: str, version: int, percent: int, since: Upto, slow: Slow = NOTHING_SLOW
) -> AffectedUsers:
    """
    Read the logs of all Envoys; `since` is `upto` of an earlier reading, or empty: the release begins now.

    Slow requests count from `slow.from_s` on at the weight now; those at earlier weights, from the first on. Who goes
    on where this process read last time reads no more than what is new.

    Raises RouterUnavailable when a log cannot be read.
    """
    release, key, asked = f" {model} {version} ".encode(), (*files, model), (version, percent, slow)
    known = _known.pop(key, None)
    if known is not None and (known.asked, known.upto) == (asked, since):
        places: Upto = {name: [*place[2:], *place[2:]] for name, place in since.items()}
    else:
        known, places = _Known(*asked), since
    parts = {str(path): _parted(path, places.get(str(path))) for path in files}
    for part in parts.values():
        known.add(_lines(part.before, release))
    before = known.told
    known.count_anew()
    for part in parts.values():
        known.add(_lines(part.new, release))
    known.upto = {name: [*since.get(name, part.upto)[:2], *part.upto[2:]] for name, part in parts.items()}
    _known[key] = known
    if len(_known) > _MOST_KEPT:
        del _known[next(iter(_known))]  # the one that was asked for longest ago
    return AffectedUsers(
        known.failed.counted, tuple(times.counted for times in known.waited), known.upto, known.told - before
    )


class _Known:
    """What the logs said of a stage up to a place in them."""

    def __init__(self, version: int, percent: int, slow: Slow) -> None:
        self.asked = version, percent, slow
        self.failed, self.waited = UserTimes(percent), [UserTimes(percent) for _ in slow.bounds_ms]
        self.upto: Upto = {}
        self.told = 0
        self._percent, self._slow = percent, slow

    def add(self, lines: Iterable[_Affected]) -> None:
        """Add requests."""
        for one in lines:
            self.told += 1
            whose = one.arm, one.percent, one.user, one.began_s
            if one.failed:
                self.failed.add(*whose)
            if one.percent == self._percent and one.began_s < self._slow.from_s:
                continue
            waited_ms = one.waited_ms_of(self._slow.tried_for_s)
            for bound, times in zip(self._slow.bounds_ms, self.waited, strict=True):
                if waited_ms > bound.of(one.arm):
                    times.add(*whose)

    def count_anew(self) -> None:
        """Count users from here on."""
        for times in (self.failed, *self.waited):
            times.count_anew()


_known: dict[tuple[Any, ...], _Known] = {}
"""By logs and model, the one asked for last at the end."""


def _parted(path: Path, since: Sequence[int] | None) -> Part:
    """Raises RouterUnavailable."""
    try:
        return parted(path, since)
    except FileNotFoundError:
        why = (
            "there is no log of affected users, which Envoy begins when it has the listener that "
            "`model_release.traffic.envoy.initialise` writes (docs/traffic.md)"
        )
        raise RouterUnavailable(str(path), why) from None
    except OSError as error:
        raise RouterUnavailable(str(path), f"its log of affected users cannot be read: {error.strerror}") from None


class _Affected(NamedTuple):
    """
    A request that an arm failed or may have been slow to answer, when, and whose it was.

    `waited_ms` is how long the client waited, of stable's and of what the canary answered itself how long they took.
    """

    began_s: int
    arm: str
    percent: int
    user: bytes
    failed: bool
    waited_ms: float

    def waited_ms_of(self, tried_for_s: float) -> float:
        """
        Return how long the arm kept its user waiting, where the canary is tried for so long.

        What stable failed is in the router's latencies too, and what of the canary's was answered for it is not.
        """
        tried_ms = tried_for_s * 1000
        whole_try_ms = min(tried_ms - _EARLY_MS, tried_ms * (1 - _EARLY_SHARE))
        instead = self.arm == "canary" and self.failed and self.waited_ms < whole_try_ms
        return 0.0 if instead else self.waited_ms

    @classmethod
    def read(cls, line: bytes) -> _Affected | None:
        """
        Read a line; None for one that says nothing of an arm.

        A NOT_FOUND that the second asked says too is the client's, who pins a version. Raises ValueError, KeyError.
        """
        began, status, grpc, tries, answered, took_us, all_ms, arm, _, _, percent, user = line.split(b" ", _FIELDS - 1)
        code = -1 if grpc == _NOTHING else int(grpc)
        if code == GRPC_NOT_FOUND:
            return None
        bad = code in GRPC_ERRORS or int(status) >= SERVER_ERROR or int(status) == NOT_FOUND
        helped = int(tries) > 1 or (arm == b"canary" and answered == b"stable")
        failed = bad or helped
        # One that its client gave up was waited for as long as it lasted.
        lasted = took_us == _NOTHING or (arm == b"canary" and failed)
        waited_ms = int(all_ms) if lasted else int(took_us) / 1000
        named = {b"canary": "canary", b"stable": "stable"}[arm]
        return cls(int(began), named, int(percent), user, failed, waited_ms)


def _lines(held: bytes, release: bytes) -> Iterator[_Affected]:
    place = 0
    while (end := held.find(b"\n", place)) >= 0:
        line, place = held[place:end], end + 1
        if release not in line:
            continue
        try:
            is_own = line.split(b" ", _BEFORE_MODEL)[_BEFORE_MODEL].startswith(release[1:])
            one = _Affected.read(line) if is_own else None
        except (ValueError, KeyError, IndexError):
            log.warning("no line of affected users: %r", line[:200])
            continue
        if one is not None:
            yield one
