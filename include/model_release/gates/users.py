"""
Errors by user, where arms are sticky: one whom the model fails counts as often as he asks, and all of it on one arm.

So requests are no independent events; users are. The hash that shares them knows nothing of who will fail: while the
canary fails nobody whom stable would not, those who fail for the first time fall on the arms as the weights say, one
independently of the other, whoever they are and however busy. So do those who fail for the second time, the fourth, and
so on: each such level is an e-process of its own, and their mean is one. The higher ones see what the first cannot: an
outage of a canary all of whose users have failed once already. Times are spans of the clock, not requests, so that one
crash reaches the first level alone, which one look may lift by so much only, as that of requests.

A level counts once a release for each user of the canary, and once a stage for one of stable: with another weight some
users meet the canary for the first time, while those whom stable fails have been failed before. That is the safe side.

A gate takes the lesser of this evidence and that of requests, which see what users do not: an incident of stable's own,
which leaves it fewer users who can still fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model_release.gates import sequential
from model_release.gates.looks import WHOLE, Look
from model_release.gates.wealth import Wealth
from model_release.traffic.router import FAILURE_LEVELS

_WEIGHTS = (0.5, *[0.5 / (len(FAILURE_LEVELS) - 1)] * (len(FAILURE_LEVELS) - 1))


def are_shared(stage: int) -> bool:
    """Whether users are shared between two arms: not in a shadow or at 100 %, where mirroring draws by request."""
    return 0 < stage < WHOLE


@dataclass
class FailingUsers:
    """
    Users whom the arms failed, by level, and what that is worth against the canary over a release.

    `most` is the log of the factor that one look may be worth to the first level.
    """

    odds_ratio: float
    most: float = math.inf
    levels: list[Wealth] = field(default_factory=lambda: [Wealth() for _ in FAILURE_LEVELS])
    canary: int = 0
    stable: int = 0

    @staticmethod
    def are_told(look: Look) -> bool:
        """Whether a look tells whose requests failed, at a weight that shares users between two arms."""
        shared = look.canary.users is not None or are_shared(look.stage)
        return shared and None not in (look.canary.failed_users, look.stable.failed_users)

    def take(self, look: Look) -> None:
        """
        Add one look.

        Where only failures are logged the weights stand for the users: the counts of requests would do worse, since
        they are as uneven as the users are busy.
        """
        own, other = look.canary.failed_users or (), look.stable.failed_users or ()
        at_risk: tuple[float, float] = (look.stage, WHOLE - look.stage)
        if look.canary.users is not None and look.stable.users is not None:
            at_risk = (look.canary.users, look.stable.users)
        for place, (wealth, failed, stable_failed) in enumerate(zip(self.levels, own, other, strict=False)):
            arms = (at_risk[0], failed), (at_risk[1], stable_failed)
            ratios = sequential.two_arms(sequential.START, *arms, self.odds_ratio)
            wealth.take(ratios, math.inf if place else self.most)
        self.canary, self.stable = self.canary + sum(own[:1]), self.stable + sum(other[:1])

    @property
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""
        return sequential.log_mean([wealth.total for wealth in self.levels], _WEIGHTS)

    def sentence(self) -> str:
        """Say both numbers."""
        return f"by user: {self.canary} failed for the first time on the canary, {self.stable} on stable"

    def carried(self) -> list[dict[str, Any]]:
        """Return what later stages need, as JSON values."""
        return [wealth.to_dict() for wealth in self.levels]

    @classmethod
    def begin(cls, odds_ratio: float, most: float, gate: Mapping[str, Any] | None) -> FailingUsers:
        """Go on from what the gate came to in earlier stages; the bets go on where there were any."""
        begun = cls(odds_ratio, most)
        if gate and gate.get("users"):
            begun.levels = [Wealth.from_dict(values) for values in gate["users"]]
            for wealth in begun.levels:
                wealth.begin_stage()
        if gate:
            less = begun.log_evidence - float(gate["log_evidence"])
            for wealth in begun.levels:
                wealth.total -= less
        return begun
