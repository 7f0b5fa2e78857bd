"""The gates that judge shares: failed requests, events of the users' own counters, samples that both arms answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from model_release.gates.by_user import ByUser, Told
from model_release.gates.comparison import Comparison, Count
from model_release.gates.gate import Gate
from model_release.gates.looks import Arm, Look, Proportion, Stratum
from model_release.gates.paired import Disagreement, Drop
from model_release.gates.users import at_risk
from model_release.spec import AccuracyGate, DisagreementGate, ErrorRateGate, ProportionGate


class ShareGate(Gate):
    """A share of bad events on both arms, or on one against its objective; it counts from the first request on."""

    def __init__(
        self,
        spec: ErrorRateGate | ProportionGate,
        alpha_rollback: float,
        *,
        words: str,
        unit: str = "requests",
        one_armed: bool,
        carried: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, alpha_rollback, carried)
        self._aimless = one_armed and spec.objective is None
        self._shares: Comparison | None = None
        if not self._aimless:
            limit = spec.objective if one_armed else None
            self._shares = self._compare(words, unit=unit, odds_ratio=spec.odds_ratio, limit=limit)

    @property
    def stands_aside(self) -> str | None:
        """A gate without an objective has nothing to hold a canary against that has no stable beside it."""
        return "not judged, there is no stable to compare with and no objective" if self._aimless else None

    @abstractmethod
    def count(self, arm: Arm) -> Count:
        """Return an arm's events, and the bad ones among them."""

    def take(self, look: Look, *, warm: bool) -> None:  # noqa: ARG002 - an error of a cold replica is an error
        """Add one look."""
        if self._shares is None:
            return
        strata = [(self.count(stratum.canary), self.count(stratum.stable)) for stratum in self._strata(look)]
        self._shares.take(self.count(look.canary), self.count(look.stable), self._replicas(look), strata)
        self._note_peak()

    def observe(self, look: Look) -> None:
        """Learn how stable's bad events clump."""
        if self._shares is not None:
            self._shares.observe(self.count(look.stable), self._replicas(look))

    def _strata(self, look: Look) -> Sequence[Stratum]:
        return look.strata

    def _replicas(self, look: Look) -> Sequence[Count]:
        return [self.count(replica) for replica in look.stable_by_replica]


class ErrorGate(ByUser, ShareGate):
    """The share of failed requests."""

    def __init__(
        self, spec: ErrorRateGate, alpha_rollback: float, *, one_armed: bool, carried: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(spec, alpha_rollback, words="failed", one_armed=one_armed, carried=carried)
        self._one_armed = one_armed
        if carried:
            self._bet_requests_anew(float(carried["log_evidence"]))

    def count(self, arm: Arm) -> Count:
        """Return an arm's requests and the failed ones."""
        return arm.requests, arm.errors

    def take(self, look: Look, *, warm: bool) -> None:
        """Add one look, its users first."""
        self._take_users(look, self.spec.odds_ratio)
        super().take(look, warm=warm)

    def told_of_users(self, look: Look) -> Sequence[Told]:
        """Return who failed for the first time, the second and so on; weights stand for users whom nobody counts."""
        canary, stable = look.canary, look.stable
        own, other = canary.failed_users, stable.failed_users
        if own is None or other is None or self._one_armed or self._shares is None:
            return []
        if canary.users is not None and stable.users is not None:
            return [Told("failed", (canary.users, stable.users), own, other)]
        shares = at_risk(look.stage)
        return [Told("failed", shares, own, other, look.failed_by_window)] if shares else []


class OwnCounters(ShareGate):
    """The share of events that are not good, by the users' own counters."""

    def __init__(
        self, spec: ProportionGate, alpha_rollback: float, *, one_armed: bool, carried: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(
            spec, alpha_rollback, words="were not good", unit="events", one_armed=one_armed, carried=carried
        )

    def count(self, arm: Arm) -> Count:
        """Return an arm's events, and those that were not good."""
        counted = arm.proportions.get(self.spec.name, Proportion())
        return counted.total, counted.total - counted.good

    def _strata(self, look: Look) -> Sequence[Stratum]:
        """The users' counters know no routers; a look that tells them apart all the same is compared so."""
        return [stratum for stratum in look.strata if self.spec.name in stratum.canary.proportions]

    def _replicas(self, look: Look) -> Sequence[Count]:
        return [self.count(replica) for replica in look.stable_by_replica if self.spec.name in replica.proportions]


class AnswersGate(Gate):
    """Samples that both arms answer; without a stable there is nothing to hold the answers against."""

    def __init__(
        self,
        spec: AccuracyGate | DisagreementGate,
        alpha_rollback: float,
        *,
        first_release: bool,
        carried: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, alpha_rollback, carried)
        self._alone = first_release
        if isinstance(spec, AccuracyGate):
            self._answers: Drop | Disagreement = Drop(spec.margin, allowed=spec.allowed_drop)
        else:
            self._answers = Disagreement(spec.margin, spec.limit)
        if not first_release:
            self._begin(self._answers)

    @property
    def stands_aside(self) -> str | None:
        """Answers are compared with stable's."""
        return "not judged, a first release has no stable to answer beside it" if self._alone else None

    def take(self, look: Look, *, warm: bool) -> None:  # noqa: ARG002 - an answer of a cold replica is an answer
        """Add one look."""
        paired = look.paired.get(self.spec.name)
        if paired is not None and not self._alone:
            self._answers.take(paired)
            self._note_peak()

    def observe(self, look: Look) -> None:
        """There is nothing to learn from stable alone."""
