"""The error rates of a whole release, by simulation: all stages, both gates, clumps, load, and a restart in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from model_release.gates.judge import Judge
from model_release.gates.looks import Arm, Look
from model_release.gates.stream import judged
from model_release.spec import Canary
from sandbox.show_gates.traffic import failing

RUNS = 200
BOUNDS = ("40.0", "44.0", "200.0", "220.0", "+Inf")
CANARY = Canary.model_validate(
    {
        "warmup_s": 20, "min_bake_s": 60, "max_bake_s": 200, "min_requests": 100, "alpha_rollback": 0.05,
        "gates": [
            {"name": "errors", "kind": "error_rate", "odds_ratio": 1.0, "objective": 0.02},
            {"name": "latency", "kind": "latency", "bounds_ms": [40, 200], "objective": {"p99_ms": 220}},
        ],
    }
)  # fmt: skip


def arm(rng: np.random.Generator, n: int, share: float, clump: float) -> Arm:
    below = np.cumsum(rng.multinomial(n, [0.5, 0.05, 0.42, 0.022, 0.008]))
    bad = int(failing(rng, np.array([n]), share, clump)[0])
    return Arm(n, bad, dict(zip(BOUNDS, below.tolist(), strict=True)))


def release(rng: np.random.Generator, clump: float) -> Iterator[Look]:
    """Three stages of 40 looks; load, and an incident on both arms in the second stage."""
    for place, stage in enumerate((10, 50, 100)):
        for k in range(40):
            load = 400 * (1 + 0.5 * np.sin(k / 6))
            share = 0.03 if place == 1 and 10 <= k < 20 else 0.005
            n, other = int(rng.poisson(load * stage / 100)), int(rng.poisson(load * (100 - stage) / 100))
            look_t = 5.0 * (40 * place + k + 1)
            yield Look(look_t, stage, arm(rng, n, share, clump), arm(rng, other, share, clump))


@pytest.mark.parametrize("clump", [1.0, 3.0, 10.0])
def test_alpha_holds_for_the_release_as_a_whole(clump: float) -> None:
    rng, back = np.random.default_rng(5), 0
    for _ in range(RUNS // 4):
        back += any(verdict.verdict == "rollback" for verdict in judged(CANARY, release(rng, clump)))
    assert back <= stats.binom.ppf(0.999, RUNS // 4, 0.05)


def test_a_judge_that_is_made_anew_at_every_look_says_the_same() -> None:
    looks = list(release(np.random.default_rng(9), 3.0))
    online = list(judged(CANARY, looks))
    carried, began_t = None, 0.0
    for place, stage in enumerate((10, 50, 100)):
        own = looks[40 * place : 40 * place + 40]
        for k in (0, 1, 17, 39):
            judge = Judge(CANARY, stage, first_release=False, bounds_ms=None, started_t=began_t, carried=carried)
            judge.replay(own[:k])
            assert judge.take(own[k]) == online[40 * place + k]
        judge = Judge(CANARY, stage, first_release=False, bounds_ms=None, started_t=began_t, carried=carried)
        judge.replay(own)
        carried, began_t = judge.carried(), own[-1].t


def test_the_short_run_measures_every_kind_and_writes_a_page(tmp_path: Path) -> None:
    out = tmp_path / "gates.md"
    done = subprocess.run(
        [sys.executable, "-m", "sandbox.show_gates", "--quick", "--out", str(out)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = out.read_text()
    for title in ("## Errors: harmless", "## Errors: harmful", "## Latency", "## Advance", "Kayenta-like"):
        assert title in text
