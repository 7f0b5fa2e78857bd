"""
What befalls users, where arms are sticky: one for whom a model always fails, or whose requests are heavy, counts as
often as he asks, and all of it on one arm.

So requests are no independent events; users are. The hash that shares them knows nothing of who will be affected: while
the canary affects nobody whom stable would not, those who are affected for the first time fall on the arms as the
weights say, one independently of the other, whoever they are and however busy. So do those who are for the second time,
the third, and so on: each such level is an e-process of its own, and their mean is one. Times are spans of the clock,
not requests, so that one crash reaches the first level alone, which one look may lift by so much only, as that of
requests.

Bets are laid once and never moved, so that the evidence is of how many came to a level by now, however they came. Users
of a canary that is better than stable come later, when stable's have come already: whoever bets on those alone takes
lateness for harm. What turns bad late is found by counting all users anew, of both arms, in each minute of the clock:
each minute is one more e-process, and the mean of all of them with that of the whole stages is the evidence. They are
not multiplied, since the users for whom it always fails are the same in each.

A level counts once a release for each user of the canary, and once a stage for one of stable: with another weight some
users meet the canary for the first time, while those of stable's have been affected before. That is the safe side.

A gate takes the lesser of this evidence and that of requests, which see what users do not: an incident of stable's own,
which leaves it fewer users who can still be affected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model_release.gates import sequential
from model_release.gates.looks import WHOLE, Minutes
from model_release.gates.wealth import PRIOR
from model_release.traffic.router import MINUTE_LEVELS, USER_LEVELS, Levels

_OF_STAGES = _OF_FIRST_LEVEL = 0.5
_MINUTES_OPEN = 2


def are_shared(stage: int) -> bool:
    """Whether users are shared between two arms: not in a shadow or at 100 %, where mirroring draws by request."""
    return 0 < stage < WHOLE


def at_risk(stage: int) -> tuple[int, int] | None:
    """Return which shares (percent) of the users are on canary and stable, where users are shared; else None."""
    return (stage, WHOLE - stage) if are_shared(stage) else None


class Came:
    """What it is worth who came to some levels: the log of the likelihood ratio, by level and effect."""

    def __init__(self, levels: int) -> None:
        self._ratios = [sequential.START] * levels
        rest = (1 - _OF_FIRST_LEVEL) / (levels - 1)
        self._weights = (_OF_FIRST_LEVEL, *[rest] * (levels - 1))

    def take(self, at_risk: tuple[float, float], own: Levels, other: Levels, odds_ratio: float, most: float) -> None:
        """Add one look; what it is worth to the first level beyond `most` (log) is given away, as an e-process may."""
        for place, (affected, of_stable) in enumerate(zip(own, other, strict=False)):
            if not affected and not of_stable:
                continue
            before, arms = self._ratios[place], ((at_risk[0], affected), (at_risk[1], of_stable))
            after = sequential.two_arms(before, *arms, odds_ratio)
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
    def from_list(cls, values: Sequence[Sequence[float]]) -> Came:
        """Read what `to_list` wrote."""
        came = cls(len(values))
        came._ratios = [tuple(map(float, ratios)) for ratios in values]
        return came


def _mean(ratios: sequential.State) -> float:
    return sequential.log_mean(ratios, PRIOR)


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
    stages: Came = field(default_factory=lambda: Came(len(USER_LEVELS)))
    minutes: dict[int, Came] = field(default_factory=dict)
    begun: int = 0
    """How many minutes of the release so far."""
    over: float = -math.inf
    """The log of what those are worth that are over."""
    given_away: float = 0.0
    canary: int = 0
    stable: int = 0

    def take(self, at_risk: tuple[float, float], own: Levels, other: Levels, minutes: Minutes | None = None) -> None:
        """
        Add one look: who was affected on the canary and on stable, of so many (or of such shares of them) `at_risk`.

        Where nobody counts the users the weights stand for them: the counts of requests would do worse, since they are
        as uneven as the users are busy.
        """
        self.stages.take(at_risk, own, other, self.odds_ratio, self.most)
        for minute, (own_then, other_then) in sorted((minutes or {}).items()):
            if minute not in self.minutes:
                if self.minutes and minute < max(self.minutes):
                    continue  # it is over
                self.minutes[minute] = Came(len(MINUTE_LEVELS))
                self._end_first_minutes()
            self.minutes[minute].take(at_risk, own_then, other_then, self.odds_ratio, self.most)
        self.canary, self.stable = self.canary + sum(own[:1]), self.stable + sum(other[:1])

    def _end_first_minutes(self) -> None:
        while len(self.minutes) > _MINUTES_OPEN:
            ended = min(self.minutes)
            self.over = _log_sum([self.over, self._worth_of_minutes()[ended]])
            self.begun += 1
            del self.minutes[ended]

    def _worth_of_minutes(self) -> dict[int, float]:
        """Return the log of what each open minute is worth: its stake, which shrinks from one to the next, by then."""
        shares = {minute: _stake(number) for number, minute in enumerate(self.minutes, self.begun + 1)}
        return {minute: math.log(shares[minute]) + came.log_evidence for minute, came in self.minutes.items()}

    @property
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""
        to_come = (1 - _OF_STAGES) / (self.begun + len(self.minutes) + 1)
        of_stages = math.log(_OF_STAGES) + self.stages.log_evidence
        parts = [of_stages, self.over, *self._worth_of_minutes().values(), math.log(to_come)]
        return _log_sum(parts) - self.given_away

    def carried(self) -> dict[str, Any]:
        """Return what later stages need, as JSON values."""
        over = _log_sum([self.over, *self._worth_of_minutes().values()])
        begun = self.begun + len(self.minutes)
        return {"stages": self.stages.to_list(), "over": None if over == -math.inf else over, "begun": begun}

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
            evidence.stages, evidence.begun = Came.from_list(before["stages"]), int(before["begun"])
            evidence.over = -math.inf if before["over"] is None else float(before["over"])
        for evidence in begun:
            evidence.given_away = evidence.log_evidence - float(gate["log_evidence"])
        return begun


def _stake(number: int) -> float:
    """Return the share of all bets that is laid on a minute, by its number; with what is to come they sum to one."""
    return (1 - _OF_STAGES) / (number * (number + 1))


def _log_sum(logs: Sequence[float]) -> float:
    highest = max(logs)
    return highest + math.log(math.fsum(math.exp(each - highest) for each in logs)) if highest > -math.inf else highest
