"""A gate whose bad requests cluster by user: where arms are sticky it needs to be told of both, requests and users."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from model_release.gates.comparison import Comparison
from model_release.gates.gate import Gate
from model_release.gates.looks import Look
from model_release.gates.users import Levels, UserEvidence


class Told(NamedTuple):
    """What a look tells of affected users: who was at risk, and who was affected, on the canary and on stable."""

    at_risk: tuple[float, float]
    canary: Levels
    stable: Levels


class ByUser(Gate):
    """
    A gate that sends the canary back only when both say so, requests and users, where looks tell of users.

    That the canary is good is proved by requests, which is what a margin is of: who is affected for the first time gets
    rarer with the time alone.
    """

    befell = ""
    """What happened to an affected user, as in "ten failed for the first time"."""
    _users: UserEvidence | None = None
    _by_user = False

    @abstractmethod
    def told_of_users(self, look: Look) -> Told | None:
        """Return whom a look tells of; None where it is judged by requests alone."""

    def _take_users(self, look: Look, odds_ratio: float) -> None:
        """Add a look's users, before its requests; one that tells of none, in a stage that does, is of requests."""
        told = self.told_of_users(look)
        if self._by_user and told is None:
            self._bet_requests_anew(self.log_evidence)
        self._by_user = told is not None
        if told is not None:
            self._users = self._users or UserEvidence.begin(odds_ratio, self._most(), self._carried)
            self._users.take(*told)

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
        return min(of_requests, self._users.log_evidence) if self._users and self._by_user else of_requests

    def carried(self) -> dict[str, Any]:
        """Return what the stages to come need, as JSON values."""
        return {**super().carried(), "users": self._users.carried() if self._users else None}

    def report(self, alpha_rollback: float, alpha_advance: float) -> dict[str, Any]:
        """Return the gate's part of a verdict: its shares are of requests, and the sentence says the users too."""
        report = super().report(alpha_rollback, alpha_advance)
        if self._users:
            own, other = self._users.canary, self._users.stable
            report["sentence"] += f"; by user: {own} {self.befell} for the first time on the canary, {other} on stable"
        return report
