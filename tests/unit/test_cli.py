"""The command line: exit code 0 done, 1 refused or failed, 2 bad use; one sentence for people, JSON for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from example_models.digits import build
from tests.unit.command import ROOT, run

COMMAND = Path(sys.executable).with_name("model-release")


def test_the_installed_command_is_this_one() -> None:
    done = subprocess.run([str(COMMAND), "check"], cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert (done.returncode, done.stderr) == (0, "")
    assert "ok  digits_classifier" in done.stdout


def test_check_says_that_the_examples_are_right() -> None:
    done = run("check")

    assert (done.returncode, done.stderr) == (0, "")
    assert "ok  digits_classifier: schedule 0 3 * * 0 UTC" in done.stdout


def test_check_names_every_bad_file_and_every_problem(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("name: one\ncanry: {}")
    (tmp_path / "two.yaml").write_text("- a list")

    done = run("--json", "check", configs=tmp_path)

    assert done.returncode == 1
    bad = {Path(path).name: problems for path, problems in json.loads(done.stdout)["bad"].items()}
    assert sorted(bad) == ["one.yaml", "two.yaml"]
    assert any("Did you mean 'canary'" in problem for problem in bad["one.yaml"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "digit_classifier"], "Did you mean 'digits_classifier'"),
        (["release"], "Missing argument"),
        (["step", "nonsense", "--release", "{}"], "is no step"),
        (["step", "plan", "--release", "{}"], "is not a release"),
        (["--nonsense"], "No such option"),
    ],
)
def test_bad_use_exits_with_2_and_says_what_is_allowed(arguments: list[str], words: str) -> None:
    done = run(*arguments)

    assert done.returncode == 2, done.stderr
    assert words in done.stderr


def test_without_an_environment_one_sentence_says_how_to_give_one() -> None:
    done = run("status")

    assert done.returncode == 1
    assert done.stderr.startswith("error: the environment is not valid: give --environment FILE")
    assert "Traceback" not in done.stderr


def test_samples_on_s3_without_an_environment_say_what_to_give(tmp_path: Path) -> None:
    save_file(build().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "model.onnx").write_bytes(b"")
    done = run(
        "validate", "digits_classifier", "--onnx", str(tmp_path / "model.onnx"),
        "--checkpoint", str(tmp_path / "model.safetensors"),
    )  # fmt: skip

    assert done.returncode == 1
    assert "samples.npz" in done.stderr
    assert "give --environment FILE; or name local files by --samples and --golden, or 'none'" in done.stderr


def test_an_error_is_json_for_programs(tmp_path: Path) -> None:
    done = run(
        "--json", "export", "digits_classifier", "--checkpoint", (tmp_path / "absent.safetensors").as_uri(),
        "--out", str(tmp_path),
    )  # fmt: skip

    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "CheckpointMissing"
