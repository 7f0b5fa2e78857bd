"""What clients saw is written within bounds, read back whole, and summed up rightly."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.traffic_report import Record, Recorder, older, read_records, summarise


def record(t: float, version: str = "1", outcome: str = "ok", latency_ms: float = 5.0, **changes: object) -> Record:
    arm = "stable" if version == "1" else "canary"
    values = {"protocol": "grpc", "arm": arm, "right": True, **changes}
    return Record(t=t, version=version, outcome=outcome, latency_ms=latency_ms, **values)  # type: ignore[arg-type]


def written(path: Path, records: list[Record], **options: int) -> Path:
    with Recorder(path, **options) as recorder:
        for each in records:
            recorder.write(each)
    return path


def test_records_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    records = [record(1.5), record(2.25, "2", "error", 12.5, right=None), record(3, right=False, protocol="http")]

    assert list(read_records(written(tmp_path / "m.csv", records))) == records


def test_a_line_that_was_cut_off_is_left_out_and_the_next_run_goes_on(tmp_path: Path) -> None:
    path = written(tmp_path / "m.csv", [record(1)])
    with path.open("a", encoding="ascii") as file:
        file.write("2.000,grpc,sta")

    assert [each.t for each in read_records(path)] == [1]

    written(path, [record(3), record(4)])
    assert [each.t for each in read_records(path)][-1] == 4


def test_the_file_stays_bounded_and_the_newest_records_stay(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    written(path, [record(t) for t in range(1000)], max_bytes=4000)

    assert path.stat().st_size + older(path).stat().st_size < 2 * 4100
    found = [each.t for each in read_records(path)]
    assert found == list(range(int(found[0]), 1000))
    assert len(found) > 80


def test_a_span_in_a_long_file_is_found_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "m.csv", [record(t / 10) for t in range(20_000)])

    assert [each.t for each in read_records(path, since=1500.05, until=1502)] == [1500 + t / 10 for t in range(1, 20)]


def test_a_summary_counts_by_arm_and_version_inside_the_span_alone() -> None:
    records = [
        record(0, outcome="error"),
        *(record(t, latency_ms=t) for t in range(1, 91)),
        *(record(50, "2", latency_ms=200, right=False) for _ in range(8)),
        record(60, "2", "error", 1, right=None),
        record(61, "", "error", 1, right=None, arm=""),
        record(62, "", "unreleased", 1, right=None, arm=""),
    ]

    found = summarise(records, since=1, until=91)

    assert (found.requests, found.errors, found.unreleased) == (100, 2, 1)
    assert found.share_by_arm == {"canary": pytest.approx(9 / 99), "stable": pytest.approx(90 / 99)}
    assert found.share_by_version == {"1": pytest.approx(90 / 99), "2": pytest.approx(9 / 99)}
    assert found.errors_by_version == {"2": 1, "unknown": 1}
    assert found.accuracy_by_version == {"1": 1.0, "2": 0.0}
    assert found.accuracy == pytest.approx(90 / 98)
    assert (found.p50_ms, found.p99_ms) == (49, 200)


def test_a_span_without_requests_has_no_latency_and_no_accuracy() -> None:
    found = summarise([], since=1, until=2)

    assert (found.requests, found.p50_ms, found.p99_ms, found.accuracy) == (0, None, None, None)
