"""Models of a test's own to release, and the clients that use them meanwhile."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr

from example_models import digits_data, training
from model_release.environment import Environment
from model_release.identity import Kind, Release
from model_release.ledger.state import State, StateFile
from model_release.repository.serving import ServingPrefix
from model_release.repository.store import ObjectStore
from model_release.spec import ModelSpec
from model_release.spec_files import load_spec
from model_release.steps import story
from model_release.steps.story import Told
from model_release.triton.replica import ReplicaClient
from sandbox.settings import ROOT
from sandbox.traffic import http_body

EXAMPLE = ROOT / "include" / "model_configs" / "digits_classifier.yaml"
FIRST, SECOND, BROKEN = 20260101000000, 20260102000000, 20260103000000
CHECKPOINTS = {
    FIRST: "s3://training/digits_classifier/2026-01-01/model.safetensors",
    SECOND: "s3://training/digits_classifier/2026-01-02/model.safetensors",
    BROKEN: "s3://training/digits_classifier/2026-01-03-contrast-bug/model.safetensors",
}
#: No test of these is of the objective, which a busy machine would miss.
NO_OBJECTIVE_MS = 60_000
#: What has an ensemble of a test's own released in seconds.
QUICK_ENSEMBLE: dict[str, Any] = {
    "canary": {"stages": [50, 100], "warmup_s": 0, "min_bake_s": 1, "look_interval_s": 0.5, "min_requests": 15}
    | {"hold_s": 0, "gates": [{"name": "errors", "kind": "error_rate", "margin": 0.5}]},
    "benchmark": {"objective": {"p99_ms": NO_OBJECTIVE_MS}, "concurrency": [2], "budget_s": 4, "max_slowdown": 50}
    | {"search": {"max_queue_delay_microseconds": [0]}},
}


def train_all(environment: Environment) -> None:
    """Write the data and the three checkpoints to the sandbox's S3."""
    training.publish_training_data(environment)
    for version in (FIRST, SECOND):
        training.retrain_digits(CHECKPOINTS[version].split("/")[4], environment)
    training.retrain_digits("2026-01-03", environment, broken=True)


def quick_spec(name: str) -> ModelSpec:
    """The example under another name, with bakes of seconds."""
    spec = load_spec(EXAMPLE)
    # What a busy machine lets clients ask decides a stage late, and never makes its deadline decide.
    times = {"warmup_s": 0, "min_bake_s": 3, "max_bake_s": 300, "hold_s": 0}
    quick = {**times, "look_interval_s": 0.5, "min_requests": 60}
    gates = [
        spec.canary.gates[0].model_copy(update={"margin": 0.1}),
        spec.canary.gates[1].model_copy(update={"slower_than": 4, "margin": 0.5, "dry_run": True}),
    ]
    benchmark = {"concurrency": [2], "budget_s": 4, "max_slowdown": 10}
    search = spec.benchmark.search.model_copy(update={"max_queue_delay_microseconds": [0]})
    objective = spec.benchmark.objective.model_copy(update={"p99_ms": NO_OBJECTIVE_MS})
    return spec.model_copy(
        update={
            "name": name,
            "canary": spec.canary.model_copy(update={**quick, "gates": gates}),
            "benchmark": spec.benchmark.model_copy(update={**benchmark, "search": search, "objective": objective}),
        }
    )


def one_stage(example: str, name: str) -> ModelSpec:
    """Another example under another name: one judged stage of seconds."""
    spec = load_spec(EXAMPLE.with_name(f"{example}.yaml"))
    gates = [gate.model_copy(update={"margin": 0.9}) for gate in spec.canary.gates]
    quick = {"stages": [100], "warmup_s": 0, "min_bake_s": 1, "look_interval_s": 0.5, "min_requests": 5, "hold_s": 0}
    objective = spec.benchmark.objective.model_copy(update={"p99_ms": NO_OBJECTIVE_MS})
    return spec.model_copy(
        update={
            "name": name,
            "canary": spec.canary.model_copy(update={**quick, "gates": gates}),
            "benchmark": spec.benchmark.model_copy(update={"budget_s": 4, "max_slowdown": 10, "objective": objective}),
        }
    )


def environment_file(path: Path, environment: Environment) -> Path:
    """Write the environment, its secrets too, as the command line reads it."""

    def told(value: Any) -> Any:
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    path.write_text(json.dumps(environment.model_dump(), default=told))
    return path


@dataclass
class Model:
    """One model of one test."""

    spec: ModelSpec
    environment: Environment
    told: list[Told] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def state(self) -> State:
        return StateFile(ObjectStore(self.environment.s3), self.name).read()

    def build(self, version: int, run_id: str | None = None, **changes: Any) -> Release:
        values = {"checkpoint": CHECKPOINTS.get(version), "by": "tests", **changes}
        return Release(self.name, version, Kind.BUILD, run_id or f"run-{version}", **values)

    def restore(self, version: int, reason: str = "it was better") -> Release:
        return Release(self.name, version, Kind.RESTORE, f"restore-{version}", reason=reason, by="tests")

    def release(self, release: Release) -> dict[str, Any]:
        """Tell the whole story."""
        self.told = []
        return story.run(release, self.environment, self.spec, self.told.append)

    def steps(self) -> list[str]:
        return [told.step for told in self.told]


class Clients:
    """
    Clients of one model over HTTP, at a bounded rate and for a bounded time; what they saw is counted.

    They go through bodies and users side by side; each user says who he is by the header `x-user`.
    """

    def __init__(
        self,
        model: Model,
        bodies: Sequence[bytes] | None = None,
        *,
        users: Sequence[str] = (),
        rate_per_s: float = 120,
        most: int = 40_000,
    ) -> None:
        self._bodies = bodies or [http_body({"image": image[None]}) for image in digits_data.split().live.image]
        self._headers = [{"x-user": user} for user in users] or [{}]
        self._address = model.environment.router.http
        self._path = f"/v2/models/{model.name}/infer"
        self._interval_s, self._most = 1 / rate_per_s, most
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: Counter[tuple[int, str, str]] = Counter()
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def by_version(self, status: int = 200) -> dict[str, int]:
        """Requests with this status, by the version that answered."""
        found: Counter[str] = Counter()
        for (code, _, version), count in list(self.seen.items()):
            if code == status:
                found[version] += count
        return dict(found)

    def failed(self) -> int:
        return sum(count for (code, _, _), count in list(self.seen.items()) if code != 200)

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=10)
        for number in range(self._most):
            if self._stop.wait(self._interval_s):
                break
            try:
                body, headers = (each[number % len(each)] for each in (self._bodies, self._headers))
                connection.request("POST", self._path, body, headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.seen[0, "", ""] += 1
                self.problems.append(repr(error))
                continue
            arm, version = answer.getheader("x-model-arm", ""), answer.getheader("x-model-version", "")
            self.seen[answer.status, arm, version] += 1
            if answer.status != 200:
                self.problems.append(f"{answer.status} {text[:200]!r}")
        connection.close()


def await_true(condition: Any, what: str, deadline_s: float = 60) -> None:
    """Wait for a condition that something else brings about."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(what)
        time.sleep(0.1)


def remove(model: Model) -> None:
    """Take what is left of a model off the fleets and out of the ledger: the next test's Tritons serve it no more."""
    store = ObjectStore(model.environment.s3)
    for fleet in ("blue", "green", "bench"):
        for replica in model.environment.pairs["default"].fleet(fleet).replicas:
            with ReplicaClient(replica, model.environment) as client:
                for name in client.triton_models(model.name):
                    client.unload(name)
        ServingPrefix(store, "default", fleet, model.name).delete(lambda: None)
    forget(store, model.name)


def forget(store: ObjectStore, model: str) -> None:
    """Delete the ledger of a model, so that no replica is spared for its sake."""
    for entry in store.objects(f"ledger/{model}/"):
        store.delete(entry.key)


def moved(source: ObjectStore, target: ObjectStore, folders: list[str]) -> None:
    """Have what lies under some folders of one place in another, and no more in the first."""
    for folder in folders:
        for entry in source.objects(folder):
            target.put(entry.key, source.get(entry.key)[0])
            source.delete(entry.key)
