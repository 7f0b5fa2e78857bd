"""
Simulated traffic: Poisson arrivals, a look of the judge every 2.5 s for 600 s, and what goes wrong in it.

All draws of a scenario are arrays of shape (runs, looks); every rule is shown the same ones, the others by two looks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from model_release.spec import Canary
from model_release.traffic.router import USER_LEVELS, WINDOW_MINUTES, levels_within

Counts = npt.NDArray[np.int64]
LOOK_S = Canary().look_interval_s
LOOKS_A_MINUTE = int(60 / LOOK_S)
LOOKS, HISTORY = int(600 / LOOK_S), int(1800 / LOOK_S)
COARSE = 2
COARSE_S = int(COARSE * LOOK_S)
"""How often the other rules look, as the measured tables that they are known by."""
USER_ASKS_EVERY_S = 60.0
NORMAL = 0.001


@dataclass(frozen=True)
class Cell:
    """How much traffic there is, and the canary's share of it."""

    rps: int
    weight: float

    def __str__(self) -> str:
        return f"{self.rps} rps @ {self.weight:.0%}"


CELLS = [Cell(rps, weight) for rps in (20, 200, 2000) for weight in (0.1, 0.5)]


@dataclass(frozen=True)
class Traffic:
    """Requests and bad ones of both arms, and of stable's two halves for 30 minutes before."""

    n: Counts
    bad: Counts
    stable_n: Counts
    stable_bad: Counts
    before_n: Counts
    before_bad: Counts
    failed_users: tuple[list[Counts], list[Counts]] | None = None
    """Where users keep to their arm, by arm: who come to a level in all and in windows, each (levels, runs, looks)."""

    def coarse(self) -> Traffic:
        """Return the same traffic in the looks of the other rules."""
        n, bad, stable_n, stable_bad = map(coarse, (self.n, self.bad, self.stable_n, self.stable_bad))
        return Traffic(n, bad, stable_n, stable_bad, coarse(self.before_n), coarse(self.before_bad))


def coarse(counts: Counts) -> Counts:
    """Return counts (..., looks) by two looks."""
    summed: Counts = counts.reshape(*counts.shape[:-1], -1, COARSE).sum(-1)
    return summed


@dataclass(frozen=True)
class Scenario:
    """What the arms fail of; `harmless` ones must not be rolled back."""

    name: str
    canary: float
    stable: float = NORMAL
    clump: float = 1.0
    harmless: bool = True
    change: Callable[[Traffic, np.random.Generator, Cell], Traffic] | None = None

    def draw(self, rng: np.random.Generator, cell: Cell, runs: int) -> Traffic:
        """Draw the traffic of some runs."""
        n = rng.poisson(cell.rps * LOOK_S * cell.weight, (runs, LOOKS))
        stable_n = rng.poisson(cell.rps * LOOK_S * (1 - cell.weight), (runs, LOOKS))
        before_n = rng.poisson(cell.rps * LOOK_S / 2, (2, runs, HISTORY))
        traffic = Traffic(
            n,
            failing(rng, n, self.canary, self.clump),
            stable_n,
            failing(rng, stable_n, self.stable, self.clump),
            before_n,
            failing(rng, before_n, self.stable, self.clump),
        )
        return self.change(traffic, rng, cell) if self.change else traffic


def failing(rng: np.random.Generator, n: Counts, share: float | npt.NDArray[np.float64], clump: float = 1.0) -> Counts:
    """Draw bad requests: alone, or in clumps of geometric size with the mean `clump`, each within its look."""
    if clump == 1.0:
        return rng.binomial(n, share)
    clumps = rng.binomial(n, np.asarray(share) / clump)
    more = rng.negative_binomial(np.maximum(clumps, 1), 1 / clump) * (clumps > 0)
    bad: Counts = np.minimum(n, clumps + more)
    return bad


def _shares(given: Traffic, rng: np.random.Generator, share: npt.NDArray[np.float64]) -> Traffic:
    bad, stable_bad = failing(rng, given.n, share), failing(rng, given.stable_n, share)
    return Traffic(given.n, bad, given.stable_n, stable_bad, given.before_n, given.before_bad)


def _incident(given: Traffic, rng: np.random.Generator, cell: Cell) -> Traffic:  # noqa: ARG001
    share = np.full(LOOKS, NORMAL)
    share[LOOKS // 5 : LOOKS * 4 // 5] = 0.03
    return _shares(given, rng, share)


def _weight_change(given: Traffic, rng: np.random.Generator, cell: Cell) -> Traffic:
    """Half-way the weight goes from 10 to 50 %, and with more load both arms fail four times as often."""
    early = np.arange(LOOKS) < LOOKS // 2
    weight, share = np.where(early, 0.1, 0.5), np.where(early, NORMAL, 4 * NORMAL)
    n = rng.poisson(cell.rps * LOOK_S * weight, given.n.shape)
    stable_n = rng.poisson(cell.rps * LOOK_S * (1 - weight), given.n.shape)
    changed = Traffic(n, given.bad, stable_n, given.stable_bad, given.before_n, given.before_bad)
    return _shares(changed, rng, share)


def _crash(given: Traffic, rng: np.random.Generator, cell: Cell) -> Traffic:
    """One crash fails up to 50 requests at an instant, on either arm by its share of the requests."""
    bad, stable_bad = given.bad.copy(), given.stable_bad.copy()
    for run, (look, own) in enumerate(
        zip(rng.integers(0, LOOKS, len(bad)), rng.random(len(bad)) < cell.weight, strict=True)
    ):
        n, hit = (given.n, bad) if own else (given.stable_n, stable_bad)
        hit[run, look] = min(n[run, look], hit[run, look] + 50)
    return Traffic(given.n, bad, given.stable_n, stable_bad, given.before_n, given.before_bad)


def _sticky(given: Traffic, rng: np.random.Generator, cell: Cell, own: float = NORMAL) -> Traffic:
    """Some users are failed at each request, on the canary the share `own`; they ask once a minute on their arm."""
    found = []
    for n, weight, share in ((given.n, cell.weight, own), (given.stable_n, 1 - cell.weight, NORMAL)):
        everybody = cell.rps * USER_ASKS_EVERY_S * weight
        bad, failed = np.zeros_like(n), np.zeros((len(USER_LEVELS), *n.shape), n.dtype)
        lately = [np.zeros((len(levels_within(each)), *n.shape), n.dtype) for each in WINDOW_MINUTES]
        for run, doomed in enumerate(rng.poisson(everybody * share, len(n))):
            asks = rng.poisson(LOOK_S / USER_ASKS_EVERY_S, (doomed, LOOKS))
            bad[run] = asks.sum(0)
            affected = asks > 0
            failed[:, run] = _come_to(USER_LEVELS, affected, affected.cumsum(1))
            for counts, minutes in zip(lately, WINDOW_MINUTES, strict=True):
                counts[:, run] = _come_to(levels_within(minutes), affected, _within(affected, minutes))
        found.append((np.maximum(n, bad), bad, [failed, *lately]))
    (n, bad, told), (stable_n, stable_bad, stable_told) = found
    return Traffic(n, bad, stable_n, stable_bad, given.before_n, given.before_bad, (told, stable_told))


def _within(affected: npt.NDArray[np.bool_], minutes: int) -> Counts:
    """Return how often each user was affected in the window by then, (users, looks)."""
    times, looks = affected.cumsum(1), np.arange(LOOKS)
    begun = looks // (minutes * LOOKS_A_MINUTE) * minutes * LOOKS_A_MINUTE
    within: Counts = times - (times - affected)[:, begun]
    return within


def _come_to(levels: tuple[int, ...], affected: npt.NDArray[np.bool_], times: Counts) -> Counts:
    """Return how many users come to each level, (levels, looks)."""
    return np.array([((times == level) & affected).sum(0) for level in levels])


def _odds(share: float, ratio: float) -> float:
    return ratio * share / (1 - share + ratio * share)


HARMLESS = [
    Scenario("equal, 0.1 %", NORMAL),
    Scenario("equal, 0.9 %", 0.009, 0.009),
    Scenario("at the margin (odds x 1.5), 0.1 %", _odds(NORMAL, 1.5)),
    Scenario("at the margin (odds x 1.5), 0.9 %", _odds(0.009, 1.5), 0.009),
    Scenario("shared incident: 3 % for 6 min", NORMAL, change=_incident),
    Scenario("weight 10 -> 50 % with the load (Simpson)", NORMAL, change=_weight_change),
    Scenario("errors in clumps of 3", NORMAL, clump=3.0),
    Scenario("errors in clumps of 4", NORMAL, clump=4.0),
    Scenario("errors in clumps of 10", NORMAL, clump=10.0),
    Scenario("one crash fails 50 requests", NORMAL, change=_crash),
    Scenario("sticky users, 0.1 % of them always failed", NORMAL, change=_sticky),
]
HARMFUL = [
    Scenario("errors 0.1 -> 0.3 %", 0.003, harmless=False),
    Scenario("errors 0.1 -> 1 %", 0.01, harmless=False),
    Scenario("errors 0.1 -> 5 %", 0.05, harmless=False),
    Scenario("clumps of 4: 0.1 -> 0.3 %", 0.003, clump=4.0, harmless=False),
    Scenario("clumps of 4: 0.1 -> 1 %", 0.01, clump=4.0, harmless=False),
    Scenario("clumps of 4: 0.1 -> 5 %", 0.05, clump=4.0, harmless=False),
    Scenario("sticky users: 0.1 -> 5 % of them", NORMAL, harmless=False, change=partial(_sticky, own=0.05)),
]
ADVANCE = [
    Scenario("equal, 0.1 %", NORMAL),
    Scenario("0.1 -> 0.3 %", 0.003),
    Scenario("0.1 -> 0.6 % (at the margin)", 0.006),
    Scenario("0.1 -> 1 %", 0.01),
]
