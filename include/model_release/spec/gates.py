"""`canary.gates`: what a canary is judged by, kind by kind."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from model_release.spec.section import Section
from model_release.spec.serving import LatencyObjective

_TAKES_DIFFERENCES = re.compile(r"\b(rate|irate|increase|delta|idelta|deriv)\s*\(")


def _raw(promql: str) -> str:
    if taken := _TAKES_DIFFERENCES.search(promql):
        message = f"name the raw counter: {taken[1]}() takes differences, as looks do at one instant for both arms"
        raise ValueError(message)
    return promql


Promql = Annotated[str, Field(min_length=1), AfterValidator(_raw)]
Share = Annotated[float, Field(gt=0, lt=1)]


class GateSection(Section):
    """What every gate has: its name, its part of the evidence, and whether it only reports."""

    name: str
    weight: Annotated[float, Field(gt=0)] = 0.5
    dry_run: bool = False


class ErrorRateGate(GateSection):
    """Judge the share of failed requests."""

    kind: Literal["error_rate"]
    odds_ratio: Annotated[float, Field(ge=1)] = 1.5
    margin: Share = 0.005
    objective: Share = 0.01


class LatencyGate(GateSection):
    """Judge the share of requests slower than bounds set by stable's own latency."""

    kind: Literal["latency"]
    slower_than: Annotated[float, Field(ge=1)] = 1.10
    margin: Share = 0.02
    bounds_ms: list[Annotated[float, Field(gt=0)]] | None = None
    objective: LatencyObjective = LatencyObjective(p99_ms=50)


class PromqlSource(Section):
    """
    Two raw counters in PromQL: what was good, and all of it; both rise only.

    `$model` and `$version` stand for the model's name and for an arm's version, `$fleet` for its fleet. A query with
    `rate` or `increase` is refused: looks take differences themselves, at one instant for both arms.
    """

    promql_good: Promql
    promql_total: Promql


class ProportionGate(GateSection):
    """Judge any share of good events, such as clicks, by the users' own counters."""

    kind: Literal["proportion"]
    source: PromqlSource | None = None
    odds_ratio: Annotated[float, Field(ge=1)] = 1.5
    """How far the odds of an event that is not good may rise."""
    margin: Share = 0.02
    weight: Annotated[float, Field(gt=0)] = 0.3
    objective: Share | None = None
    """The share that may be not good where there is no stable to compare with; null: the gate waits until there is."""


class DisagreementGate(GateSection):
    """Judge the share of recorded requests that the canary answers otherwise than stable does."""

    kind: Literal["disagreement"]
    samples: str | None = None
    """An .npz of recorded requests; null: the samples that parity is measured on."""
    compare: Literal["top1", "close"] = "top1"
    """Whether the largest value of an answer is at the same place, or every value within `atol` and `rtol`."""
    atol: Annotated[float, Field(ge=0)] = 0.01
    rtol: Annotated[float, Field(ge=0)] = 0.01
    limit: Share = 0.05
    margin: Share = 0.02
    weight: Annotated[float, Field(gt=0)] = 0.1
    requests_per_look: Annotated[int, Field(ge=1)] = 16


class AccuracyGate(GateSection):
    """Judge the golden set's right answers, both fleets answering the same samples while the canary has traffic."""

    kind: Literal["accuracy"]
    allowed_drop: Annotated[float, Field(ge=0, lt=1)] = 0.005
    """How much less accurate than stable is no reason to roll back: 0.005 is half a point."""
    margin: Share = 0.02
    weight: Annotated[float, Field(gt=0)] = 0.2
    requests_per_look: Annotated[int, Field(ge=1)] = 32


Gate = Annotated[
    ErrorRateGate | LatencyGate | ProportionGate | DisagreementGate | AccuracyGate, Field(discriminator="kind")
]
