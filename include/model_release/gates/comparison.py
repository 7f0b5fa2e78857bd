"""One kind of bad request over a release: the canary's share against stable's, or against a limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model_release.gates import sequential
from model_release.gates.dispersion import Dispersion
from model_release.gates.noninferiority import Proof
from model_release.gates.wealth import Wealth

Count = tuple[int, int]
"""Requests, and the bad ones among them."""


@dataclass
class Comparison:
    """
    Counts and proof of one stage, evidence and dispersion of the release so far.

    `words` say what is bad, as in "3 of 100 canary requests failed"; `key` names the same kind in other stages. `most`
    is the log of the factor that one look may be worth, so that no single look decides: it could be one crash. Only one
    of a gate's comparisons `proves` that the canary may advance.
    """

    words: str
    margin: float
    most: float
    odds_ratio: float = 1.0
    limit: float | None = None
    key: str = ""
    proves: bool = True
    wealth: Wealth = field(default_factory=Wealth)
    dispersion: Dispersion = field(default_factory=Dispersion)
    canary: Count = (0, 0)
    stable: Count = (0, 0)
    phi_used: float = 1.0
    proof: Proof = field(init=False)
    before: Count = (0, 0)

    def __post_init__(self) -> None:
        self.proof = Proof(self.margin, self.limit)
        self.key = self.key or self.words

    def take(self, canary: Count, stable: Count, replicas: Sequence[Count] = ()) -> None:
        """Add one look; its own bad events come into the dispersion last."""
        ratios = self._ratios(canary, stable)
        self.wealth.take(ratios, self.most)
        if self.proves:
            self.proof.take(canary, stable, self.dispersion.phi)
        self.canary = (self.canary[0] + canary[0], self.canary[1] + canary[1])
        self.stable = (self.stable[0] + stable[0], self.stable[1] + stable[1])
        self.observe(canary if self.limit is not None else stable, replicas)

    def _ratios(self, canary: Count, stable: Count) -> sequential.State:
        if self.limit is not None:
            self.phi_used = self.dispersion.for_look(canary[1])
            return sequential.one_arm(sequential.START, canary, self.limit, self.phi_used)
        self.phi_used = self.dispersion.for_look(canary[1] + stable[1])
        return sequential.two_arms(sequential.START, canary, stable, self.odds_ratio, self.phi_used)

    def observe(self, arm: Count, replicas: Sequence[Count] = ()) -> None:
        """Learn how bad events clump, from a look that judges nothing too."""
        self.dispersion.take(arm, replicas)

    @property
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""
        return self.wealth.total

    def sentence(self) -> str:
        """Say both numbers."""
        (n, bad), (stable_n, stable_bad) = self.canary, self.stable
        seen = f"{bad} of {n} canary requests ({_percent(bad, n)}) {self.words}"
        if self.limit is not None:
            return f"{seen}, objective {self.limit:.2%}"
        return f"{seen}, {stable_bad} of {stable_n} of stable ({_percent(stable_bad, stable_n)})"

    def proved(self, alpha: float) -> str:
        """Say how far the canary may still be above stable, or above the limit."""
        excess, over = self.proof.excess(alpha), self.limit or 0.0
        allowed = f"{self.margin * 100:.2f} allowed" if self.limit is None else f"{over + self.margin:.2%} allowed"
        if excess is None or excess > self.margin:
            evidence = math.exp(min(self.proof.log_evidence, 700.0))
            return f"not yet proved, evidence {evidence:.3g} of {1 / alpha:g} for at most {allowed}"
        if self.limit is None:
            return f"at most {excess * 100:.2f} points above stable, {allowed}"
        return f"at most {over + excess:.2%}, {allowed}"

    def arms(self, alpha: float) -> dict[str, Any]:
        """Return both arms' counts, estimates and intervals, each of which holds at every look with 1 - alpha."""
        phi = self.dispersion.phi
        return {"canary": arm_report(self.canary, phi, alpha), "stable": arm_report(self.stable, phi, alpha)}

    def carried(self) -> dict[str, Any]:
        """Return what later stages need, as JSON values."""
        return {
            "key": self.key,
            "limit": self.limit,
            "wealth": self.wealth.to_dict(),
            "dispersion": self.dispersion.to_dict(),
            "stable": [own + before for own, before in zip(self.stable, self.before, strict=True)],
        }

    def carry(self, gate: Mapping[str, Any]) -> None:
        """
        Go on from an earlier stage's gate.

        The bets go on where they are about the same; else what the gate's bets came to is bet anew, as a whole.
        """
        same = next((each for each in gate["comparisons"] if each["key"] == self.key), None)
        if same is not None:
            self.dispersion = Dispersion.from_dict(same["dispersion"])
        if same is not None and same["limit"] == self.limit:
            self.wealth = Wealth.from_dict(same["wealth"])
            self.wealth.begin_stage()
            self.before = (int(same["stable"][0]), int(same["stable"][1]))
            self.proof = Proof(self.margin, self.limit, self.before)
        else:
            self.wealth = Wealth(float(gate["log_evidence"]), float(gate["log_peak"]))


def arm_report(count: Count, phi: float = 1.0, alpha: float = 0.05) -> dict[str, Any]:
    """Return an arm's counts, its share of bad requests and the share's interval."""
    n, bad = count
    if not n:
        return {"n": n, "bad": bad, "estimate": None, "interval": None}
    low = sequential.lower_bound(n / phi, bad / phi, alpha / 2)
    high = sequential.upper_bound(n / phi, bad / phi, alpha / 2)
    return {"n": n, "bad": bad, "estimate": bad / n, "interval": [low, high]}


def _percent(bad: int, n: int) -> str:
    return f"{bad / n:.2%}" if n else "no data"
