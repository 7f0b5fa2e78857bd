"""
What befalls users, where arms are sticky: one for whom a model always fails, or whose requests are heavy, counts as
often as he asks, and all of it on one arm.

So requests are no independent events; users are. The hash that shares them knows nothing of who will be affected: while
the canary affects nobody whom stable would not, those who are affected for the first time fall on the arms as the
weights say, one independently of the other, whoever they are and however busy. So do those who are for the second time,
the third, and so on: each such level is an e-process of its own. Times are spans of the clock,
not requests, so that one crash reaches the first level alone, which one look may lift by so much only, as that of
requests.

Bets are laid once and never moved, so that the evidence is of how many came to a level by now, and not of when. Users
of a canary that is better than stable come later, when stable's have come already: whoever bets on those alone takes
lateness for harm. What turns bad late, when all were affected before, is found by counting users of both arms anew in
windows of the clock of some lengths. Each window is one more e-process, and the evidence is a mean of all of them
with that of the whole stages: they are not multiplied, since the users for whom it always fails are the same in each.
So the mean is an e-process no more, in the strict sense; that it keeps to alpha is by simulation, which tests repeat.

Where `odds_ratio` times stable's odds are allowed of each request, up to so many times the users come to the first
level by a time, and to the level k by a power of it: how often a user is affected lies sqrt(k) about k, so what is
allowed shifts it by a multiple of that. _GROWS was found by simulation, which a test repeats.

A level counts once a release for each user of the canary, and once a stage for one of stable: with another weight some
users meet the canary for the first time, while those of stable's have been affected before. That is the safe side.

A gate takes the lesser of this evidence and that of requests, which say how much harm there is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model_release.gates import sequential
from model_release.gates.looks import WHOLE
from model_release.gates.wealth import PRIOR
from model_release.traffic.router import USER_LEVELS, WINDOW_MINUTES, Levels, Window, levels_within

_OF_STAGES = _OF_FIRST_LEVEL = 0.5
_WINDOWS_OPEN = 2
_GROWS, _MOST_ODDS = 1.5, 1e9


def are_shared(stage: int) -> bool:
    """Whether users are shared between two arms: not in a shadow or at 100 %, where mirroring draws by request."""
    return 0 < stage < WHOLE


def at_risk(stage: int) -> tuple[int, int] | None:
    """Return which shares (percent) of the users are on canary and stable, where users are shared; else None."""
    return (stage, WHOLE - stage) if are_shared(stage) else None


class Came:
    """What it is worth who came to some levels: the log of the likelihood ratio, by level and effect."""

    def __init__(self, levels: Sequence[int]) -> None:
        self._levels, rest = levels, (1 - _OF_FIRST_LEVEL) / (len(levels) - 1)
        self._ratios = [sequential.START] * len(levels)
        self._weights = (_OF_FIRST_LEVEL, *[rest] * (len(levels) - 1))

    def take(self, at_risk: tuple[float, float], own: Levels, other: Levels, odds_ratio: float, most: float) -> None:
        """Add one look; what it is worth to the first level beyond `most` (log) is given away, as an e-process may."""
        for place, (level, affected, of_stable) in enumerate(zip(self._levels, own, other, strict=False)):
            if not affected and not of_stable:
                continue
            before, arms = self._ratios[place], ((at_risk[0], affected), (at_risk[1], of_stable))
            power = 1 + _GROWS * (math.sqrt(level) - 1)
            after = sequential.two_arms(before, *arms, min(odds_ratio**power, _MOST_ODDS))
            beyond = 0.0 if place else max(0.0, _mean(after) - _mean(before) - most)
            self._ratios[place] = tuple(ratio - beyond for ratio in after)

    @property
    def log_evidence(self) -> float:
        """The log of the e-value."""
        return sequential.log_mean([_mean(ratios) for ratios in self._ratios], self._weights)

    def to_list(self) -> list[list[float]]:
        """Return JSON values."""
        return [list(ratios) for ratios in self._ratios]

    @classmethod
    def from_list(cls, levels: Sequence[int], values: Sequence[Sequence[float]]) -> Came:
        """Read what `to_list` wrote."""
        came = cls(levels)
        came._ratios = [tuple(map(float, ratios)) for ratios in values]
        return came


def _mean(ratios: sequential.State) -> float:
    return sequential.log_mean(ratios, PRIOR)


class Windows:
    """The same of windows of one length: a stake on each, which shrinks from one to the next."""

    def __init__(self, minutes: int, over: float = -math.inf, ended: int = 0) -> None:
        self._levels = levels_within(minutes)
        self._open: dict[int, Came] = {}
        self._over, self._ended = over, ended

    def take(self, at_risk: tuple[float, float], window: Window, odds_ratio: float, most: float) -> None:
        """Add one look; who is told of when his window is over comes too late."""
        if window.number not in self._open:
            if self._open and window.number < max(self._open):
                return
            self._open[window.number] = Came(self._levels)
            while len(self._open) > _WINDOWS_OPEN:
                ended = min(self._open)
                self._over = _log_sum([self._over, self._worth[ended]])
                self._ended += 1
                del self._open[ended]
        self._open[window.number].take(at_risk, window.canary, window.stable, odds_ratio, most)

    @property
    def _worth(self) -> dict[int, float]:
        """The log of what each open window's stake is worth by now; all stakes, with those to come, sum to one."""
        return {
            number: came.log_evidence - math.log(nth * (nth + 1))
            for nth, (number, came) in enumerate(self._open.items(), self._ended + 1)
        }

    @property
    def log_evidence(self) -> float:
        """The log of the e-value."""
        to_come = 1 / (self._ended + len(self._open) + 1)
        return _log_sum([self._over, *self._worth.values(), math.log(to_come)])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with all windows ended."""
        over = _log_sum([self._over, *self._worth.values()])
        return {"over": None if over == -math.inf else over, "ended": self._ended + len(self._open)}

    @classmethod
    def from_dict(cls, minutes: int, values: Mapping[str, Any]) -> Windows:
        """Read what `to_dict` wrote."""
        over = values["over"]
        return cls(minutes, -math.inf if over is None else float(over), int(values["ended"]))


def _log_sum(logs: Sequence[float]) -> float:
    highest = max(logs)
    return highest + math.log(math.fsum(math.exp(each - highest) for each in logs)) if highest > -math.inf else highest


@dataclass
class UserEvidence:
    """
    Users who were affected on either arm, by level, and what that is worth against the canary over a release.

    `befell` says what happened to them, as in "3 failed"; `most` is the log of the factor that one look may be worth to
    a first level.
    """

    befell: str
    odds_ratio: float
    most: float = math.inf
    stages: Came = field(default_factory=lambda: Came(USER_LEVELS))
    windows: dict[int, Windows] = field(default_factory=lambda: {each: Windows(each) for each in WINDOW_MINUTES})
    given_away: float = 0.0
    canary: int = 0
    stable: int = 0

    def take(self, at_risk: tuple[float, float], own: Levels, other: Levels, windows: Sequence[Window] = ()) -> None:
        """
        Add one look: who was affected on the canary and on stable, of so many (or of such shares of them) `at_risk`.

        Where nobody counts the users the weights stand for them: the counts of requests would do worse, since they are
        as uneven as the users are busy.
        """
        self.stages.take(at_risk, own, other, self.odds_ratio, self.most)
        for window in sorted(windows):
            if window.minutes in self.windows:
                self.windows[window.minutes].take(at_risk, window, self.odds_ratio, self.most)
        self.canary, self.stable = self.canary + sum(own[:1]), self.stable + sum(other[:1])

    @property
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""
        logs = [self.stages.log_evidence, *(each.log_evidence for each in self.windows.values())]
        lately = (1 - _OF_STAGES) / len(self.windows)
        return sequential.log_mean(logs, [_OF_STAGES, *[lately] * len(self.windows)]) - self.given_away

    def carried(self) -> dict[str, Any]:
        """Return what later stages need, as JSON values."""
        windows = {str(minutes): each.to_dict() for minutes, each in self.windows.items()}
        return {"stages": self.stages.to_list(), "windows": windows}

    def sentence(self) -> str:
        """Say both numbers."""
        return f"by user: {self.canary} {self.befell} for the first time on the canary, {self.stable} on stable"

    @classmethod
    def begin(
        cls, befell: Sequence[str], odds_ratio: float, most: float, gate: Mapping[str, Any] | None
    ) -> list[UserEvidence]:
        """Go on from what the gate came to in earlier stages, one by what befell; bets go on where there were any."""
        begun = [cls(each, odds_ratio, most) for each in befell]
        if not gate:
            return begun
        for evidence, before in zip(begun, gate.get("by_user", []), strict=False):
            evidence.stages = Came.from_list(USER_LEVELS, before["stages"])
            evidence.windows = {
                minutes: Windows.from_dict(minutes, before["windows"][str(minutes)]) for minutes in WINDOW_MINUTES
            }
        for evidence in begun:
            evidence.given_away = evidence.log_evidence - float(gate["log_evidence"])
        return begun
