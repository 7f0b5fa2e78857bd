"""
What a stage needs, said before it begins: requests and minutes, and the chance that a healthy version advances in time.

All is worked out with the very comparisons that will judge: a healthy version on chance counts for the advance, one
whose bad requests have doubled on expected counts for the rollback.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from model_release.gates import sequential
from model_release.gates.looks import Paired
from model_release.gates.noninferiority import Proof
from model_release.gates.paired import Disagreement, Drop
from model_release.gates.slow import P99_SHARE
from model_release.gates.wealth import PRIOR
from model_release.spec import AccuracyGate, Canary, DisagreementGate, ErrorRateGate, Gate, LatencyGate, ProportionGate

_MOST = 10_000_000
_LOOKS = 10
_RUNS = 80
_LIKELY = 0.8
_DOUBLED = 2.0
_WHOLE = 100
_LONGER = (1.5, 2, 3, 5, 10, 20)

# What is usual where nobody has counted: stable's share of bad events by kind, and of samples answered otherwise.
_USUAL_ERRORS, _USUAL_BAD_EVENTS, _USUAL_DISCORDANT = 0.001, 0.1, 0.01


@dataclass(frozen=True)
class Present:
    """What is known of stable's traffic: requests per second, and its share of bad events by gate."""

    requests_per_s: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    """How many samples a gate of answers can ask at most."""


@dataclass(frozen=True)
class StagePlan:
    """
    What one stage needs.

    `requests` are the canary's after which a healthy version usually advances; `detect_requests` those after which
    doubled errors usually roll back (None: no number of requests within reason). Minutes and the chance are None
    without a rate. `warning` says why max_bake_s can't suffice, and what would.
    """

    stage: int
    requests: int
    minutes: float | None
    detect_requests: int | None
    detect_minutes: float | None
    advance_chance: float | None
    warning: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def sentence(self) -> str:
        """Say it in one line."""
        time = "" if self.minutes is None else f", {_minutes(self.minutes)} at the present rate"
        found = (
            "no doubling of errors is found"
            if self.detect_requests is None
            else (f"a doubling of errors is found after about {self.detect_requests}")
        )
        if self.detect_minutes is not None:
            found += f" ({_minutes(self.detect_minutes)})"
        chance = (
            "" if self.advance_chance is None else f"; a healthy canary advances in time in {self.advance_chance:.0%}"
        )
        warned = f"; WARNING: {self.warning}" if self.warning else ""
        return f"{self.stage} %: {self.requests} canary requests{time}; {found}{chance}{warned}"


def plan_stage(
    canary: Canary, stage: int, present: Present | None = None, *, first_release: bool = False, control: bool = False
) -> StagePlan:
    """Return what a stage needs at the present rate; `control`: at 100 % a share is mirrored to the old fleet."""
    known = present or Present()
    against = _against(stage, first_release=first_release, control=canary.control_percent / 100 if control else 0.0)
    requests = _needed(canary, known, against)
    detect = _detects(canary, known, against)
    rate = known.requests_per_s * stage / 100 if known.requests_per_s is not None else None
    chance = advance_chance(canary, known, rate, against) if rate is not None else None
    return StagePlan(
        stage,
        requests,
        _time(requests, rate, canary.min_bake_s),
        detect,
        _time(detect, rate, 2 * canary.look_interval_s) if detect else None,
        chance,
        None if rate is None or chance is None else _warning(canary, known, stage, against, rate, chance, requests),
    )


def _against(stage: int, *, first_release: bool, control: float) -> float | None:
    """Return how many requests stable has for each of the canary's; None: it is held against the objectives."""
    if first_release or (stage == _WHOLE and not control):
        return None
    return control if stage == _WHOLE else (100 - stage) / stage


def _deciding(canary: Canary) -> list[Gate]:
    return [gate for gate in canary.gates if not gate.dry_run]


def _share(gate: Gate, known: Present) -> float:
    """Return stable's own share of what a gate counts as bad."""
    usual = {
        "error_rate": _USUAL_ERRORS,
        "latency": P99_SHARE,
        "proportion": _USUAL_BAD_EVENTS,
        "disagreement": _USUAL_DISCORDANT,
        "accuracy": _USUAL_DISCORDANT,
    }[gate.kind]
    return known.shares.get(gate.name, usual)


def _limit(gate: Gate, against: float | None) -> float | None:
    """Return what stands for stable's share where there is no stable."""
    if against is not None:
        return None
    return gate.objective if isinstance(gate, ErrorRateGate | ProportionGate) else P99_SHARE


def _needed(canary: Canary, known: Present, against: float | None) -> int:
    counting = [gate for gate in _deciding(canary) if _counts_requests(gate, against)]
    needed = [_first(partial(_proved, gate, canary.alpha_advance, known, against)) for gate in counting]
    return max([canary.min_requests, *needed])


def _counts_requests(gate: Gate, against: float | None) -> bool:
    """Whether a gate judges requests in this stage, and not samples, which do not come with the traffic."""
    if isinstance(gate, AccuracyGate | DisagreementGate):
        return False
    return against is not None or not isinstance(gate, ProportionGate) or gate.objective is not None


def _proved(gate: Gate, alpha: float, known: Present, against: float | None, n: int) -> bool:
    """Whether a gate proves a healthy canary with n requests, chance being one standard deviation against it."""
    share, limit = _share(gate, known), _limit(gate, against)
    proof = Proof(gate.margin, limit)
    # Against an objective, healthy is below it; a fair share of bad requests is as good as stable's own.
    own = share if against is not None else min(share, (limit or 0.0) / 2)
    bad = own * n + math.sqrt(own * n) if against is not None or not isinstance(gate, LatencyGate) else 0.0
    stable_n = n * (against or 0.0)
    for _ in range(_LOOKS):
        proof.take((n / _LOOKS, min(n, bad) / _LOOKS), (stable_n / _LOOKS, share * stable_n / _LOOKS))
    return proof.log_evidence >= -math.log(alpha)


def _detects(canary: Canary, known: Present, against: float | None) -> int | None:
    """Return the canary's requests after which doubled errors reach 1/alpha on expected counts, by the best gate."""
    deciding = _deciding(canary)
    total = sum(gate.weight for gate in deciding)
    found = []
    for gate in deciding:
        if isinstance(gate, ErrorRateGate):
            wanted = -math.log(canary.alpha_rollback) + math.log(total / gate.weight)
            found.append(_first(partial(_detected, gate, known, against, wanted)))
    least = min(found, default=_MOST)
    return None if least >= _MOST else least


def _detected(gate: ErrorRateGate, known: Present, against: float | None, wanted: float, n: int) -> bool:
    share = max(_share(gate, known), 1e-6)
    doubled = min(0.999, _DOUBLED * share)
    if against is None:
        state = sequential.one_arm(sequential.START, (n, doubled * n), gate.objective)
    else:
        arms = (n, doubled * n), (against * n, share * against * n)
        state = sequential.two_arms(sequential.START, *arms, gate.odds_ratio)
    return sequential.log_mean(state, PRIOR) >= wanted


def advance_chance(canary: Canary, known: Present, requests_per_s: float, against: float | None) -> float:
    """
    Return the share of simulated healthy versions that advance within max_bake_s.

    `requests_per_s` are the canary's. Healthy is as stable: the same shares of bad events, drawn by chance.
    """
    rng = np.random.default_rng(7)
    times = np.linspace(canary.max_bake_s / _LOOKS, canary.max_bake_s, _LOOKS)
    ready = (times >= canary.min_bake_s) & (times * requests_per_s >= canary.min_requests)
    if not ready.any():
        return 0.0
    proving = [gate for gate in _deciding(canary) if _counts_requests(gate, against) or against is not None]
    advanced = 0
    for _ in range(_RUNS):
        proved = ready.copy()
        for gate in proving:
            proved &= _run(gate, canary, known, requests_per_s, against, rng)
            if not proved.any():
                break
        advanced += bool(proved.any())
    return advanced / _RUNS


def _run(
    gate: Gate,
    canary: Canary,
    known: Present,
    requests_per_s: float,
    against: float | None,
    rng: np.random.Generator,
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Draw one healthy stage and return by which of its looks a gate has its proof."""
    span_s, level = canary.max_bake_s / _LOOKS, -math.log(canary.alpha_advance)
    share = _share(gate, known)
    proved = np.zeros(_LOOKS, bool)
    if isinstance(gate, AccuracyGate | DisagreementGate):
        answers = Drop(gate.margin) if isinstance(gate, AccuracyGate) else Disagreement(gate.margin, gate.limit)
        for look in range(_LOOKS):
            left = known.samples.get(gate.name, _MOST) - answers.n
            asked = min(left, round(gate.requests_per_look * span_s / canary.look_interval_s))
            plus, zero, minus = rng.multinomial(max(0, asked), [share / 2, 1 - share, share / 2]).tolist()
            answers.take(Paired(plus, zero, minus))
            proved[look] = answers.log_proof() >= level
        return proved
    limit = _limit(gate, against)
    proof = Proof(gate.margin, limit)
    own = share if against is not None else min(share, (limit or 0.0) / 2)
    for look in range(_LOOKS):
        n, stable_n = rng.poisson(requests_per_s * span_s), rng.poisson(requests_per_s * span_s * (against or 0.0))
        proof.take((int(n), int(rng.binomial(n, own))), (int(stable_n), int(rng.binomial(stable_n, share))))
        proved[look] = proof.log_evidence >= level
    return proved


def _warning(
    canary: Canary, known: Present, stage: int, against: float | None, rate: float, chance: float, requests: int
) -> str | None:
    """Say why max_bake_s can't suffice for a healthy version, and what would; None where it does."""
    if chance >= _LIKELY:
        return None
    if rate <= 0:
        return "there is no traffic at present, so nothing can be proved"
    told = f"max_bake_s {canary.max_bake_s:g} suffices for a healthy version in {chance:.0%} only"
    enough = [
        factor for factor in (1.5, 2, 3, 5, 10, 20) if _chance_in(canary, known, rate, against, factor) >= _LIKELY
    ]
    if enough:
        told += f"; max_bake_s {canary.max_bake_s * enough[0]:g} would"
    if stage < 100 and requests < _MOST:
        greater = math.ceil(stage * requests / max(1.0, rate * canary.max_bake_s))
        if stage < greater <= 50:
            told += f"; so would a stage of {greater} %"
    if not enough:
        told += "; a greater margin or more traffic would be needed"
    return told


def _chance_in(canary: Canary, known: Present, rate: float, against: float | None, factor: float) -> float:
    longer = canary.model_copy(update={"max_bake_s": canary.max_bake_s * factor})
    return advance_chance(longer, known, rate, against)


def _time(requests: int, rate: float | None, least_s: float) -> float | None:
    """Return minutes; None where they are not known, or would never be over."""
    return max(least_s, requests / rate) / 60 if rate else None


def _minutes(minutes: float) -> str:
    return f"{minutes:.1f} min" if minutes >= 1 else f"{minutes * 60:.0f} s"


def _first(true: Callable[[int], bool]) -> int:
    """Return the least number for which a condition that stays true is true, by doubling and halving."""
    high = 1
    while not true(high) and high < _MOST:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if true(middle) else (middle, high)
    return min(high, _MOST)
