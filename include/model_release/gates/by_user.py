"""A gate whose bad requests cluster by user: where arms are sticky it needs to be told of both, requests and users."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from model_release.gates import sequential
from model_release.gates.comparison import Comparison
from model_release.gates.gate import Gate
from model_release.gates.looks import Look
from model_release.gates.users import UserEvidence
from model_release.traffic.router import Levels, Window


class Told(NamedTuple):
    """
    What a look tells of affected users: who was at risk, and whom it `befell`, on the canary and on stable.

    `windows` are of both arms, in each of which times are counted anew.
    """

    befell: str
    at_risk: tuple[float, float]
    canary: Levels
    stable: Levels
    windows: Sequence[Window] = ()


class ByUser(Gate):
    """
    A gate that sends the canary back only when both say so, requests and users, where looks tell of users.

    That the canary is good is proved by requests, which is what a margin is of: who is affected for the first time gets
    rarer with the time alone.
    """

    _users: Sequence[UserEvidence] = ()
    _by_user = False

    @abstractmethod
    def told_of_users(self, look: Look) -> Sequence[Told]:
        """Return whom a look tells of, by what befell them; empty where it is judged by requests alone."""

    def _take_users(self, look: Look, odds_ratio: float) -> None:
        """Add a look's users, before its requests; one that tells of none, in a stage that does, is of requests."""
        told = self.told_of_users(look)
        if self._by_user and not told:
            self._bet_requests_anew(self.log_evidence)
        self._by_user = bool(told)
        if told and not self._users:
            most = self._most(len(told))
            self._users = UserEvidence.begin([each.befell for each in told], odds_ratio, most, self._carried)
        for evidence, each in zip(self._users, told, strict=False):
            evidence.take(each.at_risk, each.canary, each.stable, each.windows)

    def _bet_requests_anew(self, log_evidence: float) -> None:
        """Have requests go on from what the gate came to, which beside users may be less than what they did."""
        above = super().log_evidence - log_evidence
        for comparison in self.comparisons:
            if above > 0 and isinstance(comparison, Comparison):
                comparison.wealth.total -= above

    @property
    def log_evidence(self) -> float:
        """The log of the e-value: the lesser of both, which is one where either is."""
        of_requests = super().log_evidence
        if not self._by_user:
            return of_requests
        return min(of_requests, sequential.log_mean([evidence.log_evidence for evidence in self._users]))

    def carried(self) -> dict[str, Any]:
        """Return what the stages to come need, as JSON values."""
        before = (self._carried or {}).get("by_user", [])
        return {**super().carried(), "by_user": [evidence.carried() for evidence in self._users] or before}

    def report(self, alpha_rollback: float, alpha_advance: float) -> dict[str, Any]:
        """Return the gate's part of a verdict: its shares are of requests, and the sentence says the users too."""
        report = super().report(alpha_rollback, alpha_advance)
        if self._users:
            report["sentence"] += f"; {max(self._users, key=lambda each: each.log_evidence).sentence()}"
        return report
