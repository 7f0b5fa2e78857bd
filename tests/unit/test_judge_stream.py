"""`model-release judge`: verdicts of a whole release, line by line as the looks arrive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_release.gates.looks import Arm, Look
from model_release.gates.stream import judged
from model_release.spec import Canary
from tests.unit.command import run

COMMAND = Path(sys.executable).with_name("model-release")
BOUNDS = (10, 20, 30, 40, 60, 80, 120)
GATES = """
warmup_s: 0
min_bake_s: 4
max_bake_s: 60
min_requests: 100
gates:
  - {name: errors, kind: error_rate, margin: 0.05}
  - {name: latency, kind: latency, margin: 0.2}
"""


def arm(requests: int, errors: int = 0, slower: float = 1.0) -> Arm:
    """Latencies that rise evenly from 0 to 50 ms, times `slower`."""
    below = {f"{bound}": round(requests * min(1.0, bound / (50 * slower))) for bound in BOUNDS}
    return Arm(requests, errors, {**below, "+Inf": requests})


def looks(stages: tuple[int, ...], each: int = 10, errors: int = 0) -> Iterator[Look]:
    for place, stage in enumerate(stages):
        for t in range(1, each + 1):
            yield Look(2.0 * (place * each + t), stage, arm(60 if stage else 0, errors), arm(400))


def canary() -> Canary:
    return Canary.model_validate(
        {
            "warmup_s": 0, "min_bake_s": 4, "max_bake_s": 60, "min_requests": 100,
            "gates": [
                {"name": "errors", "kind": "error_rate", "margin": 0.05},
                {"name": "latency", "kind": "latency", "margin": 0.2},
            ],
        }
    )  # fmt: skip


def bounds(verdict: Any) -> list[float]:
    return next(gate["bounds_ms"] for gate in verdict.gates if gate["kind"] == "latency")


def test_each_stage_is_judged_from_its_own_beginning() -> None:
    verdicts = list(judged(canary(), looks((10, 50))))

    first = [verdict.verdict for verdict in verdicts if verdict.stage == 10]
    second = [verdict for verdict in verdicts if verdict.stage == 50]
    assert first[-1] == "advance"
    assert second[0].verdict == "inconclusive"
    assert second[0].reason == "gathering: 60 of 100 requests"
    assert next(verdict.t for verdict in second if verdict.verdict == "advance") == 24


def test_the_bounds_of_stage_0_hold_for_the_stages_to_come() -> None:
    verdicts = list(judged(canary(), looks((0, 10), each=3)))

    assert {verdict.reason.split(" [")[0] for verdict in verdicts[:3]} == {
        "gathering: stage 0 only sets the latency bounds"
    }
    assert bounds(verdicts[3]) == [20, 60]


def test_bounds_read_in_the_first_stage_are_kept_in_the_next() -> None:
    verdicts = list(judged(canary(), looks((10, 50), each=3)))

    assert bounds(verdicts[-1]) == bounds(verdicts[2]) == [20, 60]


def test_errors_go_back_and_say_so_look_by_look() -> None:
    verdicts = [verdict.verdict for verdict in judged(canary(), looks((10,), errors=20))]

    assert verdicts[-1] == "rollback"


def test_a_first_release_is_judged_without_a_stable() -> None:
    alone = [Look(2.0 * t, 100, arm(200)) for t in range(1, 9)]
    assert [verdict.verdict for verdict in judged(canary(), alone, first_release=True)][-1] == "advance"


def evidence(verdict: Any, name: str = "errors") -> float:
    return float(next(gate["e_value"] for gate in verdict.gates if gate["name"] == name))


def test_evidence_goes_on_through_the_stages_so_that_alpha_is_spent_once() -> None:
    def suspicious(stages: tuple[int, ...]) -> list[Look]:
        return [
            Look(look.t, look.stage, Arm(60, 1, look.canary.latency_buckets), Arm(400, 1, look.stable.latency_buckets))
            for look in looks(stages, each=5)
        ]

    whole, alone = (list(judged(canary(), suspicious(stages))) for stages in ((10, 50), (50,)))
    assert evidence(whole[5]) > evidence(whole[4]) > evidence(whole[0]) > 1
    assert evidence(whole[5]) > 2 * evidence(alone[0])
    # What advances is proved by the stage alone.
    assert whole[5].reason == alone[0].reason == "gathering: 60 of 100 requests"


def test_a_canary_that_fails_only_under_more_weight_is_still_found() -> None:
    healthy = list(looks((10,), each=60))
    failing = [Look(120 + 2.0 * t, 50, arm(200, 40), arm(200, 2)) for t in range(1, 15)]
    verdicts = [verdict.verdict for verdict in judged(canary(), [*healthy, *failing])]
    assert "rollback" not in verdicts[:60]
    assert verdicts[72] == "rollback"


def test_with_the_whole_traffic_on_the_canary_evidence_goes_on_against_the_objectives() -> None:
    full = [Look(22.0, 100, arm(460, 8))]
    whole, alone = list(judged(canary(), [*looks((10, 50), each=5, errors=2), *full])), list(judged(canary(), full))
    assert evidence(whole[10]) == pytest.approx(evidence(whole[9]) * evidence(alone[0]))
    assert whole[10].gates[0]["objective"] == 0.01


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def gates_file(tmp_path: Path) -> Path:
    path = tmp_path / "gates.yaml"
    path.write_text(GATES)
    return path


def command(gates_file: Path, source: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(COMMAND), "--json", "judge", "--gates", str(gates_file), "--looks", source],
        env=os.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_verdict_is_written_before_the_next_look_arrives(gates_file: Path) -> None:
    with command(gates_file, "-") as process:
        assert process.stdin
        assert process.stdout
        for look in looks((10,), each=3):
            process.stdin.write(json.dumps(look.to_dict()) + "\n")
            process.stdin.flush()
            verdict = json.loads(process.stdout.readline())
            assert (verdict["t"], verdict["stage"]) == (look.t, 10)
        process.stdin.close()
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1 is no JSON"),
        ("[]", "line 1 is a list"),
        ('{"t": 1}', "KeyError: 'stage'"),
        (
            '{"t": 1, "stage": 10, "canary": {"requests": 1, "errors": 2, "latency_buckets": {}}}',
            "2 errors of 1 requests",
        ),
    ],
)
def test_a_line_that_is_no_look_ends_with_a_sentence(gates_file: Path, tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "looks.jsonl").write_text(line + "\n")
    done = run("--json", "judge", "--gates", str(gates_file), "--looks", str(tmp_path / "looks.jsonl"))

    assert done.returncode == 1
    assert says in json.loads(done.stdout)["message"]
