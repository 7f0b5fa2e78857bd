"""
Errors by user, where arms are sticky: one whom the model fails counts as often as he asks, and all of it on one arm.

So requests are no independent events; users are. The hash that shares them knows nothing of who will fail: while the
canary fails nobody whom stable would not, those who fail for the first time fall on the arms as the weights say, one
independently of the other, whoever they are, however busy, and whenever it is. No caution for clumps is needed.

A user counts once in a release against the canary, and once in a stage for it: with another weight some users meet the
canary for the first time, while those whom stable fails have been failed before. That is the safe side.

This evidence alone would be a poor judge: all users of a broken canary fail in one look, which one crash does too, and
a stable that has an incident of its own has fewer left who can fail. Requests see both. A gate therefore takes the
lesser of the two: that of users holds alpha where errors cluster by user, that of requests where they come in clumps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model_release.gates import sequential
from model_release.gates.looks import Look
from model_release.gates.wealth import Wealth

_WHOLE = 100


@dataclass
class FirstFailures:
    """Users whom an arm failed for the first time, and what that is worth against the canary over a release."""

    odds_ratio: float
    wealth: Wealth = field(default_factory=Wealth)
    canary: int = 0
    stable: int = 0

    @staticmethod
    def are_told(look: Look) -> bool:
        """Whether a look tells whose requests failed, at a weight that shares users between two arms."""
        shared = look.canary.users is not None or 0 < look.stage < _WHOLE
        return shared and None not in (look.canary.failed_users, look.stable.failed_users)

    def take(self, look: Look) -> None:
        """
        Add one look.

        Where only failures are logged the weights stand for the users: the counts of requests would do worse, since
        they are as uneven as the users are busy.
        """
        failed, stable_failed = look.canary.failed_users or 0, look.stable.failed_users or 0
        at_risk: tuple[float, float] = (look.stage, _WHOLE - look.stage)
        if look.canary.users is not None and look.stable.users is not None:
            at_risk = (look.canary.users, look.stable.users)
        arms = (at_risk[0], failed), (at_risk[1], stable_failed)
        self.wealth.take(sequential.two_arms(sequential.START, *arms, self.odds_ratio), math.inf)
        self.canary, self.stable = self.canary + failed, self.stable + stable_failed

    @property
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""
        return self.wealth.total

    def sentence(self) -> str:
        """Say both numbers."""
        return f"by user: {self.canary} failed for the first time on the canary, {self.stable} on stable"

    def carried(self) -> dict[str, Any]:
        """Return what later stages need, as JSON values."""
        return self.wealth.to_dict()

    @classmethod
    def begin(cls, odds_ratio: float, gate: Mapping[str, Any] | None) -> FirstFailures:
        """Go on from what the gate came to in earlier stages; the bets go on where there were any."""
        begun = cls(odds_ratio)
        if gate and gate.get("users"):
            begun.wealth = Wealth.from_dict(gate["users"])
            begun.wealth.begin_stage()
        if gate:
            begun.wealth.total = float(gate["log_evidence"])
            begun.wealth.peak = float(gate["log_peak"])
        return begun
