"""Run the shipped judge, look by look, on simulated traffic, and put the other rules' results beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model_release.gates.judge import Judge
from model_release.gates.looks import Arm, Look
from model_release.spec import Canary, ErrorRateGate, LatencyGate
from model_release.traffic.router import WINDOW_MINUTES, Window
from sandbox.show_gates import latency, rivals
from sandbox.show_gates.rivals import Seconds
from sandbox.show_gates.traffic import LOOK_S, LOOKS, LOOKS_A_MINUTE, Cell, Counts, Scenario, Traffic

ALPHA, ALPHA_ADVANCE = 0.01, 0.05
_BAKE_S = 60.0
_STAGE = 10
_LIMITS = {"warmup_s": 0.0, "min_bake_s": _BAKE_S, "max_bake_s": 600.0, "min_requests": 1}
ERRORS = Canary.model_validate({**_LIMITS, "gates": [{"name": "errors", "kind": "error_rate", "odds_ratio": 1.5}]})
SLOW = Canary.model_validate(
    {**_LIMITS, "gates": [{"name": "latency", "kind": "latency", "slower_than": 1.1, "bounds_ms": latency.BOUNDS_MS}]}
)
assert isinstance(ERRORS.gates[0], ErrorRateGate)
assert isinstance(SLOW.gates[0], LatencyGate)


@dataclass(frozen=True)
class Row:
    """One rule in one cell: shares of the runs, and medians over all runs (None: not in half of them)."""

    group: str
    scenario: str
    cell: str
    rule: str
    harmless: bool
    runs: int
    share: float
    seconds: float | None
    requests: float = 0.0
    bad: float = 0.0
    mean_seconds: float = 0.0


def errors(scenario: Scenario, cell: Cell, runs: int, seed: int) -> list[Row]:
    """Measure every rule for errors."""
    traffic = scenario.draw(np.random.default_rng(seed), cell, runs)
    others = traffic.coarse()
    found = {
        "judge": judge_errors(traffic, cell, learn=True)[0],
        "judge, cold": judge_errors(traffic, cell, learn=False)[0],
        "reference": rivals.reference(others, ALPHA),
        "reference /phi": rivals.reference_by_phi(others, ALPHA),
        "Flagger-like": rivals.flagger(others),
        "Kayenta-like": rivals.kayenta(others),
    }
    return [
        _row("errors", scenario.name, cell, rule, scenario.harmless, seconds, traffic.n, traffic.bad)
        for rule, seconds in found.items()
    ]


def slow(slowdown: latency.Slowdown, cell: Cell, runs: int, seed: int) -> list[Row]:
    """Measure the judge and the reference for latency."""
    rng = np.random.default_rng(seed)
    own, stable = slowdown.draw(rng, cell, runs)
    _, before = slowdown.draw(rng, cell, runs)
    found = {
        "judge": _judge_slow(own, stable, before),
        "judge, cold": _judge_slow(own, stable, before[:, :0]),
        "reference": latency.reference(own, stable, ALPHA),
    }
    n, bad = own[..., -1], own[..., -1] - own[..., -2]
    return [
        _row("latency", slowdown.name, cell, rule, slowdown.harmless, seconds, n, bad)
        for rule, seconds in found.items()
    ]


def advance(scenario: Scenario, cell: Cell, runs: int, seed: int) -> list[Row]:
    """Measure how often and when the judge advances, which ends the stage as a rollback does."""
    traffic = scenario.draw(np.random.default_rng(seed), cell, runs)
    back, on = judge_errors(traffic, cell, learn=False)
    advanced = np.where(on < back, on, np.inf)
    return [_row("advance", scenario.name, cell, "judge", False, advanced, traffic.n, traffic.bad)]


def judge_errors(traffic: Traffic, cell: Cell, *, learn: bool) -> tuple[Seconds, Seconds]:
    """Return when the shipped judge rolls each run back, and when it would let it advance."""
    stage = round(100 * cell.weight)
    back, on = np.full(len(traffic.n), np.inf), np.full(len(traffic.n), np.inf)
    for run in range(len(back)):
        judge = Judge(ERRORS, stage, first_release=False, bounds_ms=None)
        if learn:
            judge.learn(_before(traffic, run))
        for k, look in enumerate(_looks(traffic, run, stage), 1):
            judge.replay([look])
            if judge.log_evidence >= -math.log(ALPHA):
                back[run] = LOOK_S * k
                break
            if on[run] == np.inf and k * LOOK_S >= _BAKE_S and judge.proved:
                on[run] = LOOK_S * k
    return back, on


def _looks(traffic: Traffic, run: int, stage: int) -> Iterator[Look]:
    """Return a run's looks, with who failed where the router tells them."""
    counts = [each[run].tolist() for each in (traffic.n, traffic.bad, traffic.stable_n, traffic.stable_bad)]
    for k, (n, bad, other, other_bad) in enumerate(zip(*counts, strict=True)):
        own, stable = ([tuple(each[:, run, k].tolist()) for each in arm] for arm in traffic.failed_users or ([], []))
        lately = (
            Window(minutes, k // (minutes * LOOKS_A_MINUTE), *both)
            for minutes, *both in zip(WINDOW_MINUTES, own[1:], stable[1:], strict=False)
        )
        yield Look(
            LOOK_S * (k + 1),
            stage,
            Arm(n, bad, failed_users=own[0] if own else None),
            Arm(other, other_bad, failed_users=stable[0] if stable else None),
            failed_by_window=tuple(lately),
        )


def _before(traffic: Traffic, run: int) -> list[Look]:
    """Return looks at stable alone, by replica."""
    halves = zip(*(part[run].tolist() for each in (traffic.before_n, traffic.before_bad) for part in each), strict=True)
    return [
        Look(
            float(k), 0, stable=Arm(n + other, bad + other_bad), stable_by_replica=(Arm(n, bad), Arm(other, other_bad))
        )
        for k, (n, other, bad, other_bad) in enumerate(halves)
    ]


def _judge_slow(own: Counts, stable: Counts, before: Counts) -> Seconds:
    names = [*(repr(edge) for edge in latency.EDGES_MS), "+Inf"]
    back = np.full(len(own), np.inf)
    for run in range(len(back)):
        judge = Judge(SLOW, _STAGE, first_release=False, bounds_ms=None)
        judge.learn(
            Look(float(k), 0, stable=Arm(each[-1], 0, dict(zip(names, each, strict=True))))
            for k, each in enumerate(before[run].tolist())
        )
        for k, arms in enumerate(zip(own[run].tolist(), stable[run].tolist(), strict=True), 1):
            canary, other = (Arm(each[-1], 0, dict(zip(names, each, strict=True))) for each in arms)
            judge.replay([Look(LOOK_S * k, _STAGE, canary, other)])
            if judge.log_evidence >= -math.log(ALPHA):
                back[run] = LOOK_S * k
                break
    return back


def _row(
    group: str, scenario: str, cell: Cell, rule: str, harmless: bool, seconds: Seconds, n: Counts, bad: Counts
) -> Row:
    horizon = LOOKS * LOOK_S
    last = np.clip(np.minimum(seconds, horizon) / LOOK_S - 1, 0, LOOKS - 1).astype(int)
    runs = np.arange(len(seconds))
    median = float(np.median(seconds))
    return Row(
        group,
        scenario,
        str(cell),
        rule,
        harmless,
        len(seconds),
        float(np.isfinite(seconds).mean()),
        median if math.isfinite(median) else None,
        float(np.median(np.cumsum(n, axis=1)[runs, last])),
        float(np.median(np.cumsum(bad, axis=1)[runs, last])),
        float(np.minimum(seconds, horizon).mean()),
    )
