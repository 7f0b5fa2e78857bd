"""What a release looked like from outside: the split and the errors that clients saw, and the verdicts."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from model_release.environment import Environment
from model_release.ledger.events import Events
from model_release.ledger.state import State
from model_release.repository.store import ObjectStore
from model_release.spec_files import find_spec
from sandbox.errors import SandboxError
from sandbox.home import Home
from sandbox.settings import ROOT
from sandbox.traffic import http_body
from sandbox.traffic_report import Summary, read_records, summarise

_ASKED_TIMES = 20
#: The ledger's times are the store's, in whole seconds, and a shift is written down after it was confirmed.
_EDGE_S = 1.5


@dataclass(frozen=True)
class Stage:
    """One stage of the canary: what was asked, and what clients saw meanwhile."""

    percent: int
    seconds: float
    seen: Summary


@dataclass(frozen=True)
class Observed:
    """One release, when its run has ended."""

    run: str
    page: str
    state: str
    version: int
    failure: str
    stages: list[Stage]
    verdicts: list[dict[str, Any]]
    traffic: Path


def observe(home: Home, environment: Environment, page: str, model: str, run: str, state: str) -> Observed:
    """Read the ledger's events of a run, and what clients saw between them. Raises SandboxError when there are none."""
    store = ObjectStore(environment.s3)
    events = [event for event in Events(store, model).read() if str(event.get("run", "")).rpartition("#")[0] == run]
    if not events:
        message = f"the run {run} left nothing in the ledger; see {page}"
        raise SandboxError(message)
    traffic = home.traffic / f"{model}.csv"
    finished = [event for event in events if event["what"] == "finished"]
    return Observed(
        run=run,
        page=page,
        state=state,
        version=int(events[0]["version"]),
        failure=str(finished[-1].get("reason", "")) if finished else "it did not come to its end",
        stages=list(_stages(events, traffic)),
        verdicts=[event for event in events if event["what"] == "judged"],
        traffic=traffic,
    )


def _stages(events: list[dict[str, Any]], traffic: Path) -> Iterator[Stage]:
    for shifted in (event for event in events if event["what"] == "shifted"):
        judged = [event for event in events if event["what"] == "judged" and event["stage"] == shifted["stage"]]
        if judged:
            since, until = (datetime.fromisoformat(event["at"]).timestamp() for event in (shifted, judged[-1]))
            seen = summarise(read_records(traffic, since + _EDGE_S, until))
            yield Stage(int(shifted["stage"]), until - since, seen)


def bake_seconds(observed: Observed) -> float:
    """Return how long the stages were watched, in all."""
    return sum(stage.seconds for stage in observed.stages)


def told(observed: Observed, before: int | None, after: State, began_at: datetime) -> Iterator[str]:
    """Say in lines what the release was like."""
    stable = after.stable.version if after.stable else None
    yield f"version     {before or 'none'} before, {stable} now; {observed.version} was released"
    for stage in observed.stages:
        share = 100 * stage.seen.share_by_arm.get("canary", 0.0)
        yield (
            f"stage {stage.percent:>3} %  clients saw {share:.1f} % canary of {stage.seen.requests} requests in "
            f"{stage.seconds:.0f} s, errors {stage.seen.errors}, p99 {stage.seen.p99_ms or 0:.0f} ms"
        )
    for verdict in observed.verdicts:
        gates = [str(gate["sentence"]) for gate in verdict["gates"]] or [str(verdict["reason"])]
        yield f"verdict {verdict['stage']:>3} %: {verdict['verdict']}, so: {verdict['action']}"
        yield from (f"            {gate}" for gate in gates)
    # Before the first promotion ever there is nothing that could answer.
    since = max([began_at, *(promotion.at for promotion in after.promotions[:1])])
    seen = summarise(read_records(observed.traffic, since.timestamp()))
    by_version = "".join(f", {count} by version {version}" for version, count in seen.errors_by_version.items())
    yield f"clients     {seen.requests} requests since {since:%H:%M:%S} UTC, {seen.errors} errors{by_version}"
    for version, accuracy in seen.accuracy_by_version.items():
        yield f"            version {version} answered {100 * accuracy:.1f} % rightly"
    yield f"run         {observed.state}: {observed.failure or 'what serves is what was asked'}"
    yield f"            {observed.page}"


def served_versions(environment: Environment, model: str) -> dict[str, int]:
    """Ask the router for real answers and return how many came from each version."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://{environment.router.http}/v2/models/{model}/infer", data=_ones(model))
    versions: Counter[str] = Counter()
    for _ in range(_ASKED_TIMES):
        try:
            with opener.open(request, timeout=10) as response:
                versions[response.headers.get("x-model-version") or "unnamed"] += 1
        except urllib.error.HTTPError as error:
            versions[f"HTTP {error.code}"] += 1
        except OSError as error:
            versions[str(error)] += 1
    return dict(versions)


def _ones(model: str) -> bytes:
    """Return a request of one sample that any model takes: ones, and as many of a dynamic axis as there must be."""
    spec = find_spec(ROOT / "include" / "model_configs", model)
    return http_body(
        {
            tensor.name: np.ones(
                [1, *(axis if isinstance(axis, int) else spec.dynamic_axes[axis].min for axis in tensor.shape)],
                tensor.dtype,
            )
            for tensor in spec.inputs
        }
    )
