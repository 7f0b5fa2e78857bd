"""What the shows of the benchmark make of their measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_release.benchmark.intervals import Interval
from model_release.benchmark.result import BenchmarkResult
from model_release.triton import config as configs
from model_release.triton.config import Tuning
from sandbox.show_benchmarks import analyzer, batching, tuner
from sandbox.show_benchmarks.batching import FASTAPI, OFF, ON, ON_HTTP, Curves
from sandbox.show_benchmarks.load import Level
from sandbox.show_benchmarks.models import MODELS
from sandbox.show_benchmarks.page import write_section


def curve(rate: float) -> list[dict[int, Level]]:
    """Return two rounds in which a server saturates at `rate` with 8 at a time, and is twice as slow with 16."""
    return [{8: Level(rate, 4, 8000 / rate), 16: Level(rate, 8, 16000 / rate)}] * 2


FOUND = {FASTAPI: curve(100), OFF: curve(200), ON: curve(800), ON_HTTP: curve(400)}
CURVES = Curves("toy", "delay 0 us, 1 instance", FOUND, {1: 2.0, 8: 4.0})


def test_systems_are_compared_at_the_p99_at_which_fastapi_serves_most() -> None:
    assert CURVES.bounds_ms() == [80, 160, 320, 640]


def test_throughput_at_a_p99_is_that_of_the_best_level_within_it() -> None:
    assert CURVES.at_p99(ON, 15) == [800, 800]
    assert CURVES.at_p99(FASTAPI, 79) == [0, 0]


def test_ratios_are_of_the_same_round_and_absent_where_one_has_none() -> None:
    found = CURVES.times(ON, FASTAPI, 80)

    assert found is not None
    assert found.median == 8
    assert CURVES.times(ON, FASTAPI, 40) is None


def test_the_section_tells_ratios_and_all_levels() -> None:
    page = batching.page([CURVES])

    assert f"| **batching on / FastAPI** |{' 8.00 (8.00 to 8.00) |' * 4}" in page
    assert "| FastAPI | 100 at 80.0 | 100 at 160.0 |" in page
    assert "| a sample in it, ms | 2.00 | 0.50 |" in page


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for title, text in (("One", "old"), ("Two", "kept"), ("One", "new")):
        write_section(title, text, page)

    assert page.read_text().count("## One") == 1
    assert "old" not in page.read_text()
    assert page.read_text().count("\n\n## ") == 2
    assert page.read_text().endswith("kept\n")
    assert "kept" in page.read_text()
    assert page.read_text().startswith("# Batching")


def test_each_searchs_share_and_time_are_told() -> None:
    brute = tuner.Searched("brute force", Tuning(500), 200, Interval(1.0, 1.0, 1.0))
    tuned = tuner.Searched("the tuner", Tuning(0), 30, Interval(0.97, 0.95, 0.99))
    page = tuner.page([brute, tuned])

    assert "| brute force | delay 500 us, 1 instance | 200 s (100%) | 1.00 (1.00 to 1.00) |" in page
    assert "| the tuner | delay 0 us, 1 instance | 30 s (15%) | 0.97 (0.95 to 0.99) |" in page


def test_model_analyzers_best_configuration_is_read_as_a_tuning(tmp_path: Path) -> None:
    report = tmp_path / "metrics.csv"
    report.write_text(
        "Model,Model Config Path,Throughput (infer/sec)\ndigits_cnn,digits_cnn_config_1,90.5\n"
        "digits_cnn,digits_cnn_config_2,101.0\ndigits_cnn,digits_cnn_config_default,100.0\n"
    )
    assert analyzer.best_of(report) == "digits_cnn_config_2"
    assert analyzer.best_of(tmp_path / "none.csv") is None

    shown = MODELS["digits_cnn"]
    tuning = Tuning(500, (), 2, max_batch_size=16, intra_op_thread_count=2)
    config = tmp_path / "config.pbtxt"
    config.write_text(configs.render(configs.build_config(shown.spec(), 1, tuning), epoch=0))
    assert analyzer.tuning_of(shown, config) == tuning
    config.write_text(configs.render(configs.build_config(shown.spec(), 1), epoch=0))
    assert analyzer.tuning_of(shown, config) == Tuning.from_spec(shown.spec())


@pytest.mark.parametrize("choices", [[0, 0, 500]])
def test_repeatability_counts_the_most_frequent_choice(choices: list[int]) -> None:
    rate = {"median": 100.0, "low": 90.0, "high": 110.0}
    best = {"throughput_per_s": 100.0, "intervals": {"throughput_per_s": rate}}
    found = [BenchmarkResult("toy", 50, Tuning(delay), best, [], seconds=9) for delay in choices]

    assert "3 times: the same choice 2 times" in tuner.repeated_page("toy", found)
