"""One kind of bad request over a release: the canary's share against stable's, or against a limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model_release.gates import sequential
from model_release.gates.dispersion import Dispersion
from model_release.gates.noninferiority import Proof
from model_release.gates.wealth import PRIOR, Wealth

_FORESEEN_LOOKS = 240
_ENOUGH_SEEN = 1000
_LEAST = 0.03

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
    unit: str = "requests"
    seen: Count = (0, 0)
    _laid_out: bool = False

    def __post_init__(self) -> None:
        self.proof = Proof(self.margin, self.limit)
        self.key = self.key or self.words

    def take(
        self,
        canary: Count,
        stable: Count,
        replicas: Sequence[Count] = (),
        strata: Sequence[tuple[Count, Count]] = (),
        suspected: Sequence[tuple[Count, Count]] = (),
    ) -> None:
        """
        Add one look; its own bad events come into the dispersion last.

        `strata` are the arms part by part, where parts of a look are compared by themselves. `suspected` are counts
        that are more careful to hold anything against the canary: evidence is of them, where there are any.
        """
        compared = strata or ((canary, stable),)
        if not self._laid_out and self.limit is None and canary[0] and stable[0]:
            self._lay_out(canary[0], stable[0])
        ratios = self._ratios(suspected or compared, canary[1], canary[1] + stable[1])
        self.wealth.take(ratios, self.most)
        if self.proves:
            for own, other in compared:
                self.proof.take(own, other, self.dispersion.phi)
        self.canary = (self.canary[0] + canary[0], self.canary[1] + canary[1])
        self.stable = (self.stable[0] + stable[0], self.stable[1] + stable[1])
        self.observe(canary if self.limit is not None else stable, replicas)

    def _lay_out(self, n: int, stable_n: int) -> None:
        """
        Bet, with the first look's requests, on the effects that this much traffic can show at all.

        Only requests count for it and what stable did before, so that no bad event chooses the bets on itself.
        """
        self._laid_out = True
        if self.seen[0] < _ENOUGH_SEEN:
            return
        share = (self.seen[1] + 0.5) / (self.seen[0] + 1)
        growth = sequential.growth(n * _FORESEEN_LOOKS, stable_n * _FORESEEN_LOOKS, share, self.odds_ratio)
        worth = [_LEAST + min(1.0, each / self.most) ** 2 for each in growth]
        prior = [share * each for share, each in zip(PRIOR, worth, strict=True)]
        self.wealth.lay_out([each / sum(prior) for each in prior])

    def _ratios(self, compared: Sequence[tuple[Count, Count]], bad: int, all_bad: int) -> sequential.State:
        self.phi_used = self.dispersion.for_look(bad if self.limit is not None else all_bad)
        state = sequential.START
        for canary, stable in compared:
            if self.limit is not None:
                state = sequential.one_arm(state, canary, self.limit, self.phi_used)
            else:
                state = sequential.two_arms(state, canary, stable, self.odds_ratio, self.phi_used)
        return state

    def observe(self, arm: Count, replicas: Sequence[Count] = ()) -> None:
        """Learn how bad events clump, from a look that judges nothing too."""
        self.dispersion.take(arm, replicas)
        self.seen = (self.seen[0] + arm[0], self.seen[1] + arm[1])

    @property
    def log_evidence(self) -> float:
        """The log of the e-value against the canary."""
        return self.wealth.total

    def log_proof(self) -> float:
        """Return the log of the e-value that the canary is worse by less than the margin."""
        return self.proof.log_evidence

    def excess(self, alpha: float) -> float | None:
        """Return the least tested excess that is refuted at alpha, or None."""
        return self.proof.excess(alpha)

    @property
    def phi(self) -> float:
        """How bad events clump on stable, as far as is known."""
        return self.dispersion.phi

    def sentence(self) -> str:
        """Say both numbers."""
        (n, bad), (stable_n, stable_bad) = self.canary, self.stable
        seen = f"{bad} of {n} canary {self.unit} ({_percent(bad, n)}) {self.words}"
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
        canary, stable = (arm_report(arm, self.phi, alpha) for arm in (self.canary, self.stable))
        return {"canary": canary, "stable": stable, "difference": difference_of(canary, stable)}

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
            self.wealth, self._laid_out = Wealth.from_dict(same["wealth"]), True
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


def difference_of(canary: Mapping[str, Any], stable: Mapping[str, Any]) -> dict[str, Any]:
    """Return how much greater the canary's share is, with the interval that the arms' own intervals leave open."""
    if canary["estimate"] is None or stable["estimate"] is None:
        return {"estimate": None, "interval": None}
    (low, high), (stable_low, stable_high) = canary["interval"], stable["interval"]
    return {"estimate": canary["estimate"] - stable["estimate"], "interval": [low - stable_high, high - stable_low]}


def _percent(bad: int, n: int) -> str:
    return f"{bad / n:.2%}" if n else "no data"
