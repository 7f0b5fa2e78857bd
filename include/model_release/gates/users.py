"""
What befalls users, where arms are sticky: one for whom a model always fails, or whose requests are heavy, counts as
often as he asks, and all of it on one arm.

So requests are no independent events; users are. The hash that shares them knows nothing of who will be affected: while
the canary affects nobody whom stable would not, those who are affected for the first time fall on the arms as the
weights say, one independently of the other, whoever they are and however busy. So do those who are for the second time,
the third, and so on: each such level is an e-process of its own, and their mean is one. The higher ones see what the
first cannot: an outage of a canary all of whose users were affected already. Times are spans of the clock, not
requests, so that one crash reaches the first level alone, which one look may lift by so much only, as that of requests.

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
from model_release.gates.looks import WHOLE
from model_release.gates.wealth import Wealth
from model_release.traffic.router import USER_LEVELS

_WEIGHTS = (0.5, *[0.5 / (len(USER_LEVELS) - 1)] * (len(USER_LEVELS) - 1))

Levels = Sequence[int]
"""How many users came to each of USER_LEVELS."""


def are_shared(stage: int) -> bool:
    """Whether users are shared between two arms: not in a shadow or at 100 %, where mirroring draws by request."""
    return 0 < stage < WHOLE


def at_risk(stage: int) -> tuple[int, int] | None:
    """Return which shares (percent) of the users are on canary and stable, where users are shared; else None."""
    return (stage, WHOLE - stage) if are_shared(stage) else None


@dataclass
class UserEvidence:
    """
    Users who were affected on either arm, by level, and what that is worth against the canary over a release.

    `befell` says what happened to them, as in "3 failed"; `most` is the log of the factor that one look may be worth to
    the first level.
    """

    befell: str
    odds_ratio: float
    most: float = math.inf
    levels: list[Wealth] = field(default_factory=lambda: [Wealth() for _ in USER_LEVELS])
    canary: int = 0
    stable: int = 0

    def take(self, at_risk: tuple[float, float], own: Levels, other: Levels) -> None:
        """
        Add one look: who was affected on the canary and on stable, of so many (or of such shares of them) `at_risk`.

        Where nobody counts the users the weights stand for them: the counts of requests would do worse, since they are
        as uneven as the users are busy.
        """
        for place, (wealth, affected, of_stable) in enumerate(zip(self.levels, own, other, strict=False)):
            ratios = sequential.START
            if affected or of_stable:  # mostly nobody is
                arms = (at_risk[0], affected), (at_risk[1], of_stable)
                ratios = sequential.two_arms(ratios, *arms, self.odds_ratio)
            wealth.take(ratios, math.inf if place else self.most)
        self.canary, self.stable = self.canary + sum(own[:1]), self.stable + sum(other[:1])

    @property
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""
        return sequential.log_mean([wealth.total for wealth in self.levels], _WEIGHTS)

    def carried(self) -> list[dict[str, Any]]:
        """Return what later stages need, as JSON values."""
        return [wealth.to_dict() for wealth in self.levels]

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
            evidence.levels = [Wealth.from_dict(values) for values in before]
            for wealth in evidence.levels:
                wealth.begin_stage()
        for evidence in begun:
            less = evidence.log_evidence - float(gate["log_evidence"])
            for wealth in evidence.levels:
                wealth.total -= less
        return begun
