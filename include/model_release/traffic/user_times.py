"""How often each user was affected: in so many spans of the clock, in a stage and in windows of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from model_release.traffic.router import ARMS, SPAN_S, USER_LEVELS, WINDOW_MINUTES, ByArm, Window, levels_within

#: Envoys' lines come one log after another, so some are of windows before the newest.
_WINDOWS_KEPT = 3


class UserTimes:
    """In how many spans of the clock each user was affected, at each weight; the weight now is `percent`."""

    def __init__(self, percent: int) -> None:
        self._percent = percent
        self._spans: defaultdict[tuple[str, int], dict[bytes, set[int]]] = defaultdict(dict)
        self._windows = [_Windows(minutes) for minutes in WINDOW_MINUTES]
        self.count_anew()

    def count_anew(self) -> None:
        """Count from here on who comes to a level."""
        self._counts = _by_arm(USER_LEVELS)
        for windows in self._windows:
            windows.counts.clear()

    @property
    def counted(self) -> ByArm:
        """Users by arm and level."""
        return ByArm(*_levels_of(self._counts), tuple(each for windows in self._windows for each in windows.counted))

    def add(self, arm: str, percent: int, user: bytes, began_s: int) -> None:
        """Add a request that began then (Unix time), and count its user at the levels that he comes to by it."""
        is_now, span = percent == self._percent, began_s // SPAN_S
        if not user.strip():
            if is_now:
                self._count(arm, 1)
                for windows in self._windows:
                    windows.count(arm, began_s, 1)
            return
        if arm == "stable" and not is_now:
            return
        # Lines come in the order of the requests' ends, and one Envoy's after another's.
        spans = self._spans[arm, percent].setdefault(user, set())
        if span in spans:
            return
        spans.add(span)
        if is_now:
            if arm == "stable" or len(spans) > self._most_before(user):
                self._count(arm, len(spans))
            for windows in self._windows:
                windows.add(arm, user, began_s)

    def _count(self, arm: str, level: int) -> None:
        if level in self._counts[arm]:
            self._counts[arm][level] += 1

    def _most_before(self, user: bytes) -> int:
        """Return in how many spans the canary affected a user at any other weight of the release."""
        before = [
            spans for (arm, percent), spans in self._spans.items() if arm == "canary" and percent != self._percent
        ]
        return max((len(spans[user]) for spans in before if user in spans), default=0)


class _Windows:
    """The same in windows of some minutes, in each of which all users begin anew."""

    def __init__(self, minutes: int) -> None:
        self.counts: dict[int, dict[str, dict[int, int]]] = {}
        self._minutes, self._levels = minutes, levels_within(minutes)
        self._times: defaultdict[int, Counter[tuple[str, bytes]]] = defaultdict(Counter)

    @property
    def counted(self) -> list[Window]:
        """Users by window."""
        return [Window(self._minutes, number, *_levels_of(self.counts[number])) for number in sorted(self.counts)]

    def add(self, arm: str, user: bytes, began_s: int) -> None:
        """Add a span in which a user was affected; of a window that is long over nobody is told."""
        number = self._number(began_s)
        if number <= max(self._times, default=number) - _WINDOWS_KEPT:
            return
        self._times[number][arm, user] += 1
        for old in [each for each in self._times if each <= number - _WINDOWS_KEPT]:
            del self._times[old]
        self.count(arm, began_s, self._times[number][arm, user])

    def count(self, arm: str, began_s: int, level: int) -> None:
        """Count a user who comes to a level."""
        if level in self._levels:
            self.counts.setdefault(self._number(began_s), _by_arm(self._levels))[arm][level] += 1

    def _number(self, began_s: int) -> int:
        return began_s // (60 * self._minutes)


def _by_arm(levels: Sequence[int]) -> dict[str, dict[int, int]]:
    return {arm: dict.fromkeys(levels, 0) for arm in ARMS}


def _levels_of(counts: Mapping[str, Mapping[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(counts["canary"].values()), tuple(counts["stable"].values())
