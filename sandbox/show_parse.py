"""
What Airflow's parse of dags/model_release.py costs with many models: seconds, memory, and what it loads.

The configs are copies of the examples under other names, and one of them is bad. Each measurement is a process of its
own, as the DAG processor's are: Airflow is imported first, then the clock runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sandbox.settings import ROOT

EXAMPLES = ROOT / "include" / "model_configs"
BAD = "bad_model.yaml"
HEAVY = ("torch", "onnx", "onnxruntime", "tritonclient", "grpc", "scipy")
_MEASURE = """
import json, logging, resource, sys, time
from pathlib import Path
logging.disable(logging.CRITICAL)
from airflow.dag_processing.dagbag import DagBag

def memory_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

dags, heavy = Path(sys.argv[1]), sys.argv[2].split(",")
DagBag(dags / "check_model_configs.py")  # whatever a first file loads is not the models' own
before_mb, began, began_cpu = memory_mb(), time.monotonic(), time.process_time()
bag = DagBag(dags / "model_release.py")
seconds, cpu_seconds = time.monotonic() - began, time.process_time() - began_cpu
after_mb = memory_mb()
errors = DagBag(dags / "check_model_configs.py").import_errors
print("MEASURED " + json.dumps({
    "dags": len(bag.dags), "tasks": sum(len(dag.tasks) for dag in bag.dags.values()),
    "seconds": seconds, "cpu_seconds": cpu_seconds, "memory_mb": after_mb - before_mb,
    "loaded": [name for name in heavy if name in sys.modules],
    "errors": list(errors.values()), "own_errors": list(bag.import_errors.values()),
}))
"""


def write_configs(folder: Path, models: int) -> None:
    """Write configs of `models` models, copies of the examples, and one bad one."""
    examples = [path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob("*.yaml"))]
    examples = [text for text in examples if "ensemble:" not in text]  # one needs its parts' configs beside it
    for number in range(models):
        text, copy = examples[number % len(examples)], f"model_{number:03d}"
        (folder / f"{copy}.yaml").write_text(re.sub(r"(?m)^name:.*$", f"name: {copy}", text, count=1), encoding="utf-8")
    (folder / BAD).write_text(f"name: {BAD.removesuffix('.yaml')}\nsources: {{}}\n", encoding="utf-8")


def measure(models: int) -> dict[str, Any]:
    """Parse the DAG file in a process of its own, with so many models and one bad config."""
    with tempfile.TemporaryDirectory() as name:
        home, configs = Path(name) / "airflow", Path(name) / "configs"
        configs.mkdir()
        write_configs(configs, models)
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "MODEL_RELEASE_CONFIGS": str(configs),
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("include", "plugins")),
        }
        command = [sys.executable, "-c", _MEASURE, str(ROOT / "dags"), ",".join(HEAVY)]
        done = subprocess.run(command, env=environment, cwd=name, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if not lines:
        message = f"the parse ended with {done.returncode}: {done.stderr[-2000:]}"
        raise RuntimeError(message)
    measured: dict[str, Any] = json.loads(lines[0].removeprefix("MEASURED "))
    return measured


def problems(measured: dict[str, Any], models: int) -> list[str]:
    """Return what is not as it should be, whatever the machine's speed."""
    checks = [
        (measured["dags"] == models, f"{measured['dags']} DAGs of {models} good configs"),
        (not measured["loaded"], f"the parse loaded {', '.join(measured['loaded'])}"),
        (not measured["own_errors"], f"the DAG file failed: {measured['own_errors']}"),
        (any(BAD in error for error in measured["errors"]), f"no import error names {BAD}: {measured['errors']}"),
    ]
    return [problem for holds, problem in checks if not holds]


def main() -> int:
    """Print one line a measurement; 0 when every good model has its DAG and the bad one its error."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.show_parse", description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[1, 20, 200], help="how many, one measurement each")
    found: list[str] = []
    print(f"{'models':>6} {'tasks':>6} {'wall s':>7} {'CPU s':>6} {'memory MB':>10}  heavy modules", flush=True)
    for models in parser.parse_args().models:
        got = measure(models)
        print(
            f"{models:>6} {got['tasks']:>6} {got['seconds']:>7.2f} {got['cpu_seconds']:>6.2f} {got['memory_mb']:>10.0f}"
            f"  {', '.join(got['loaded']) or 'none'}",
            flush=True,
        )
        found += problems(got, models)
    for problem in found:
        print(f"NOT AS IT SHOULD BE: {problem}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
