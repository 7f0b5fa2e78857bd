"""`canary`: the stages of the traffic shift and how each is judged; `standby`: what stays of the version before."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from model_release.spec.gates import ErrorRateGate, Gate, LatencyGate
from model_release.spec.section import Section

Percent = Annotated[int, Field(ge=1, le=100)]


HeaderName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]


class Shadow(Section):
    """Real requests that the canary is sent too, before it has any weight; nobody waits for its answers."""

    percent: Percent = 10
    seconds: Annotated[float, Field(gt=0)] = 60


class Canary(Section):
    """The stages of the traffic shift and how each is judged."""

    stages: Annotated[list[Percent], Field(min_length=1)] = [10, 50, 100]
    warmup_s: Annotated[float, Field(ge=0)] = 30
    min_bake_s: Annotated[float, Field(ge=0)] = 120
    max_bake_s: Annotated[float, Field(gt=0)] = 900
    look_interval_s: Annotated[float, Field(ge=0.5)] = 2.5
    hold_s: Annotated[float, Field(ge=0)] = 3600
    min_requests: Annotated[int, Field(ge=1)] = 1000
    alpha_rollback: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    alpha_advance: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    on_inconclusive: Literal["hold", "rollback", "advance"] = "hold"
    sticky_header: HeaderName | None = None
    """Whose value of this header is once on the canary stays there; without it each request goes by chance."""
    try_timeout_s: Annotated[float, Field(gt=0, le=60)] | None = None
    """After it a request that the canary does not answer is asked of stable; null: by the latency objectives."""
    shadow: Shadow | None = None
    control_percent: Annotated[int, Field(ge=0, le=100)] = 10
    """At 100 %, the share of the requests that the old fleet is sent too, to compare with."""
    approval: Literal["none", "before_canary", "before_full"] = "none"
    """Whether a person has to say yes before the canary's fleet is touched, or before it gets all the traffic."""
    approvers: list[Annotated[str, Field(min_length=1)]] = []
    """The ids of Airflow's users who may answer; anybody who may edit the DAG's runs without any."""
    gates: Annotated[list[Gate], Field(min_length=1)] = [
        ErrorRateGate(name="errors", kind="error_rate"),
        LatencyGate(name="latency", kind="latency"),
    ]

    @model_validator(mode="after")
    def _consistent(self) -> Canary:
        if self.stages != sorted(set(self.stages)) or self.stages[-1] != 100:
            message = f"stages {self.stages} must rise and end at 100"
            raise ValueError(message)
        if self.min_bake_s >= self.max_bake_s:
            message = f"min_bake_s {self.min_bake_s} must be below max_bake_s {self.max_bake_s}"
            raise ValueError(message)
        names = [gate.name for gate in self.gates]
        if len(names) != len(set(names)):
            message = f"gates need names of their own, got {names}"
            raise ValueError(message)
        return self


class Standby(Section):
    """What stays of the version before: it is served without traffic, so that a rollback to it only moves weights."""

    hot_minutes: Annotated[float | None, Field(ge=0)] = 60
    """After it the guard takes the standby off its fleet; null: never."""
