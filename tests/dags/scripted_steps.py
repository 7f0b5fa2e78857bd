"""The library's steps as a script that a test writes, and the environment that they are handed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from model_release.identity import Kind

PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENT: dict[str, Any] = {
    "s3": {"bucket": "models"},
    "pairs": {
        "default": {
            fleet: {"replicas": [{"name": f"{fleet}-0", "http": "h:1", "grpc": "h:2", "metrics": "h:3"}]}
            for fleet in ("blue", "green", "bench")
        }
    },
    "router": {"directory": "/nowhere/envoy", "admin": ["h:4"], "http": "h:5"},
}


#: Runs the DAG; see the fixture `run`.
Run = Callable[..., tuple[str, dict[str, str]]]


class Script:
    """The library's steps as a test wants them: what each returns or raises, and the order of the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.told: list[str] = []
        self.releases: list[Any] = []
        self.reasons: list[str] = []
        self.stages = [10, 50, 100]
        self.skip_benchmark = False
        self.failures: dict[str, list[Exception]] = {}
        self.looks: dict[int, list[dict[str, Any]]] = {}
        self.sealed: set[int] = set()
        self.holders: list[str | None] = []
        self.turns: list[dict[str, Any] | Exception] = []

    def fail(self, call: str, *errors: Exception) -> None:
        """Let the next calls of a step raise these errors, one after the other."""
        self.failures.setdefault(call, []).extend(errors)

    def step(self, name: str) -> SimpleNamespace:
        """Stand in for a module of `model_release.steps`."""
        return SimpleNamespace(
            run=lambda *arguments: self._run(name, *arguments),
            look=self._turn if name == "queue" else self._look,
            tell=lambda model, *_: self.told.append(model),
            kind_of_date=lambda _, version, __: Kind.RESTORE if version in self.sealed else Kind.BUILD,
            waits_for=lambda *_: self.holders.pop(0) if self.holders else None,
        )

    def _run(self, name: str, release: Any, environment: Any, *arguments: Any) -> dict[str, Any]:
        assert environment.s3.bucket == "models"
        call = f"{name} {arguments[0]}" if name == "shift" else name
        self._called(call, release)
        if name == "plan":
            assert arguments[0].name == release.model
            return {
                "release": release.to_dict(),
                "model": release.model,
                "version": release.version,
                "checkpoint": release.checkpoint or "s3://training/echo/model.safetensors",
                "kind": str(release.kind),
                "mode": str(release.mode),
                "stages": self.stages,
                "look_interval_s": 0.5,
                "longest_stage_s": 60,
                "skip_benchmark": self.skip_benchmark,
                "lines": [f"{release.kind} {release.model} version {release.version}"],
            }
        if name == "roll_back":
            self.reasons.append(arguments[0])
        return {"step": name, "release_digest": "d"} if name == "publish" else {"step": name}

    def _look(self, release: Any, environment: Any, stage: int) -> dict[str, Any]:
        assert environment.s3.bucket == "models"
        self._called(f"look {stage}", release)
        looks = self.looks.get(stage)
        return looks.pop(0) if looks else look("advance")

    def _turn(self, release: Any, environment: Any, behind: dict[str, Any] | None = None) -> dict[str, Any]:
        """Answer a look at the queue: it is the release's turn, unless the test says otherwise."""
        turn = self.turns.pop(0) if self.turns else {"done": True}
        if isinstance(turn, Exception):
            raise turn
        return turn

    def _called(self, call: str, release: Any) -> None:
        self.calls.append(call)
        self.releases.append(release)
        if self.failures.get(call):
            raise self.failures[call].pop(0)


def look(verdict: str, reason: str = "as told", *, done: bool = True) -> dict[str, Any]:
    """Return a look as `steps.watch.look` does."""
    return {
        "held_until": None,
        "done": done,
        "verdict": verdict,
        "reason": reason,
        "action": verdict if done else None,
        "gates": [],
    }
