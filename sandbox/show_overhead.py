"""
What orchestration costs: the same checkpoint released by the DAG and by `model-release release`, bakes taken off.

A bake is the time from a stage's shift to its verdict, as the ledger has it; both sides wait for it alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from model_release.errors import ReleaseError
from sandbox.demo import DIGITS, Demo, connect, say, train_and_release
from sandbox.demo_summary import bake_seconds, observe
from sandbox.errors import SandboxError
from sandbox.settings import ROOT


def main() -> int:
    """Print both times and their ratio; 0 when both releases succeeded."""
    try:
        demo = connect()
        if demo.state().stable is None:
            say("Nothing serves yet: a first model is released, so that both sides go through every stage.")
            train_and_release(demo, broken=False)
        by_dag, checkpoint = _by_dag(demo)
        by_command = _by_command(demo, checkpoint)
    except (SandboxError, ReleaseError) as error:
        say(f"show-overhead: {error}")
        return 1
    for name, (wall_s, bakes_s) in {"DAG": by_dag, "model-release release": by_command}.items():
        say(f"{name:<22} {wall_s:6.1f} s, of which bakes {bakes_s:5.1f} s, the rest {wall_s - bakes_s:5.1f} s")
    ratio = (by_dag[0] - by_dag[1]) / (by_command[0] - by_command[1])
    say(f"ratio of the rests     {ratio:.2f}")
    return 0


def _by_dag(demo: Demo) -> tuple[tuple[float, float], str]:
    """Release a new checkpoint by Airflow; returns ((wall seconds of the run, seconds of its bakes), checkpoint)."""
    observed = train_and_release(demo, broken=False)
    release = demo.state().release
    if observed.state != "success" or release is None:
        message = f"the run is {observed.state}: {observed.failure} See {observed.page}"
        raise SandboxError(message)
    times = demo.rest.run(DIGITS.release_dag, observed.run)
    wall_s = (datetime.fromisoformat(times["end_date"]) - datetime.fromisoformat(times["start_date"])).total_seconds()
    return (wall_s, bake_seconds(observed)), release.checkpoint


def _by_command(demo: Demo, checkpoint: str) -> tuple[float, float]:
    """Release by the command line and return (wall seconds of the command, seconds of its bakes)."""
    command = [str(Path(sys.executable).with_name("model-release"))]
    command += ["--json", "--environment", str(demo.home.environment_file)]
    command += ["release", DIGITS.model, "--checkpoint", checkpoint]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    wall_s = time.monotonic() - started
    if done.returncode != 0:
        message = f"model-release release failed: {done.stderr.strip() or done.stdout.strip()}"
        raise SandboxError(message)
    run_id = str(json.loads(done.stdout)["release"]["run_id"])
    return wall_s, bake_seconds(observe(demo.home, demo.environment, "", DIGITS.model, run_id, "success"))


if __name__ == "__main__":
    sys.exit(main())
