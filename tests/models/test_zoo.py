"""The table of `make show-exports`: its cases run in processes of their own, and its page says what was found."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest

from sandbox.exports import __main__ as command
from sandbox.exports import measure
from sandbox.exports.catalogue import ARCHITECTURES
from sandbox.exports.measure import Row, ratios, run_case
from sandbox.exports.page import page, table, without_places
from sandbox.exports.refusals import REFUSALS

EQUAL: Row = {
    "passed": True,
    "failures": [],
    "weights_mb": 1.25,
    "onnx_mb": 1.5,
    "export_s": 2.0,
    "validate_s": 3.0,
    "work_s": 5.0,
    "libraries_mb": 400.0,
    "peak_mb": 600.0,
    "max_abs": 1.5e-6,
    "allowed": "0.0001 + 0.001 * |reference|",
    "independent": True,
}
BY_HAND: Row = {**EQUAL, "work_s": 2.5, "peak_mb": 500.0}
CRASHED: Row = {"passed": False, "failures": ["crashed: signal SIGSEGV; last words"]}


def test_there_are_enough_architectures_and_refusals() -> None:
    assert len(ARCHITECTURES) >= 25
    assert len(REFUSALS) >= 15
    assert {made.weights for made in ARCHITECTURES.values()} == {"real", "trained", "random"}
    assert {made.format for made in ARCHITECTURES.values()} == {"state_dict", "exported_program", "torchscript"}


def test_architectures_are_exported_and_proved() -> None:
    row = run_case("measure", "tabular_mixed")
    assert row["passed"], row["failures"]
    assert row["independent"]
    assert row["onnx_mb"] > 0
    assert row["peak_mb"] > row["libraries_mb"]


@pytest.mark.parametrize("name", ["payload", "other_architecture", "too_large"])
def test_refusals_are_refused_by_the_right_class(name: str) -> None:
    row = run_case("refuse", name)
    assert row["right"], row
    assert row["error"] == getattr(REFUSALS[name].error, "__name__", None)


def test_a_case_without_an_end_is_a_row() -> None:
    row = run_case("measure", "digits_cnn", most_s=0.01)
    assert not row["passed"]
    assert not row["right"]
    assert row["failures"] == ["crashed: no end within 0.01 s"]


def test_a_case_that_crashes_is_a_row() -> None:
    row = run_case("measure", "no_such_architecture")
    assert not row["passed"]
    assert "exit code 1; KeyError: 'no_such_architecture'" in row["failures"][0]


def test_the_page_shows_what_held_what_did_not_and_the_ratios() -> None:
    measured = {"bert": EQUAL, "gpt2": CRASHED}
    refused = {
        "payload": {"error": "CheckpointUnsafe", "sentence": "it would | run", "right": True},
        "state": {"error": None, "sentence": "it was not refused", "right": False},
    }
    compared = {"bert": (EQUAL, BY_HAND), "gpt2": (CRASHED, BY_HAND)}
    written = page(ARCHITECTURES, measured, REFUSALS, refused, compared)
    assert "Architectures: 1 of 2" in written
    assert "Refusals: 1 of 2" in written
    assert "| bert | text encoder | 1.2 random | int64[seq], int64[seq] | 1.5e-06 |" in written
    assert "crashed: signal SIGSEGV; last words" in written
    assert "it would \\| run" in written
    assert "**not as it should be:** it was not refused" in written
    assert "Time ratio: median 2.00, worst 2.00. Memory ratio: median 1.20, worst 1.20." in written


def test_a_ratio_leaves_out_what_did_not_end() -> None:
    slower: Row = {**EQUAL, "work_s": 10.0}
    pairs = {"a": (EQUAL, BY_HAND), "b": (slower, BY_HAND), "c": (CRASHED, BY_HAND)}
    assert ratios(pairs, "work_s") == (3.0, 4.0)


def test_a_script_with_wrong_answers_is_compared_and_said_to_be_wrong() -> None:
    wrong: Row = {**BY_HAND, "passed": False, "failures": ["its ONNX differs from PyTorch by 0.19"]}
    assert ratios({"gpt2": (EQUAL, wrong)}, "work_s") == (2.0, 2.0)
    assert ratios({"gpt2": ({**EQUAL, "passed": False}, BY_HAND), "bert": (EQUAL, BY_HAND)}, "work_s") == (2.0, 2.0)
    written = page(ARCHITECTURES, {}, REFUSALS, {}, {"gpt2": (EQUAL, wrong), "bert": (EQUAL, BY_HAND)})
    assert "| gpt2 | 2.5 | 5.0 | 2.00 | 500 | 600 | 1.20 | its ONNX differs from PyTorch by 0.19 |" in written
    assert "| bert | 2.5 | 5.0 | 2.00 | 500 | 600 | 1.20 | equal |" in written


def test_cells_keep_to_their_row() -> None:
    assert table(["a", "b"], [["one\ntwo", "x|y"]]) == "| a | b |\n|---|---|\n| one two | x\\|y |\n"


def test_sentences_do_not_name_the_folder_of_the_run() -> None:
    assert without_places(f"the file {gettempdir()}/tmpabc_1/model.pt is") == "the file model.pt is"
    assert without_places(f"file://{gettempdir()}/tmpabc_1/model.pt is") == "file://model.pt is"


def test_a_case_without_end_is_a_row() -> None:
    row = run_case("measure", "tabular_mixed", most_s=0.05)
    assert (row["passed"], row["right"]) == (False, False)
    assert row["failures"] == ["crashed: no end within 0.05 s"]


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("import os; os.kill(os.getpid(), 11)", f"signal {signal.Signals(11).name}; it wrote nothing"),
        ("raise MemoryError('too large')", "exit code 1; MemoryError: too large"),
        ("", "exit code 0; it wrote nothing"),
    ],
)
def test_a_process_that_dies_is_a_row(body: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!{sys.executable}\n{body}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    row = run_case("refuse", "payload")
    assert row["right"] is False
    assert row["sentence"] == how


def test_rows_keep_the_order_of_their_names_however_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    second_ended = threading.Event()

    def ran(_: str, name: str) -> Row:
        # The first waits for the second, which needs more than one at a time.
        assert name != "first" or second_ended.wait(10)
        if name == "second":
            second_ended.set()
        return {**EQUAL, "right": True, "error": name}

    monkeypatch.setattr(measure, "run_case", ran)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert list(measure.measure_all(["first", "second", "third"])) == ["first", "second", "third"]
    second_ended.clear()
    assert [row["error"] for row in measure.refuse_all(["first", "second"]).values()] == ["first", "second"]


@pytest.fixture
def page_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command writes here."""
    monkeypatch.setattr(command, "_PAGE", tmp_path / "exports.md")
    return tmp_path / "exports.md"


@pytest.mark.parametrize(("passed", "right", "code"), [(True, True, 0), (False, True, 1), (True, False, 1)])
def test_the_command_fails_when_a_row_is_not_as_it_should_be(
    *, passed: bool, right: bool, code: int, page_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(kind: str, name: str) -> dict[str, Any]:
        # One row alone is wrong, so that one is enough.
        row = {**EQUAL, "failures": ["it differs"], "error": "SomeError", "sentence": "a sentence"}
        return {**row, "passed": passed or (kind, name) != ("measure", "vit"), "right": right or name != "dropout"}

    monkeypatch.setattr(measure, "run_case", ran)
    monkeypatch.setattr(sys, "argv", ["exports"])
    assert command.main() == code
    written = page_file.read_text()
    assert all(f"| {name} |" in written for name in ARCHITECTURES)
    assert all(f"| {refusal.what} |" in written for refusal in REFUSALS.values())


def test_one_case_alone_leaves_the_page_as_it_is(
    page_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def ran(kind: str, name: str) -> Row:
        asked.append((kind, name))
        return EQUAL

    monkeypatch.setattr(measure, "run_case", ran)
    monkeypatch.setattr(sys, "argv", ["exports", "--only", "gpt2"])
    assert command.main() == 0
    assert asked == [("measure", "gpt2")]
    assert not page_file.exists()
    assert '"max_abs": 1.5e-06' in capsys.readouterr().out
