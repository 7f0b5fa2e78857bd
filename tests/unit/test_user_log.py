"""The log of affected users: which lines count, who counts once, and where the next reading goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_release.errors import RouterUnavailable
from model_release.traffic import user_log
from model_release.traffic.router import USER_LEVELS, AffectedUsers, ByArm, Slow, SlowBound, levels_within
from model_release.traffic.user_log import affected_users


def line(user: str, arm: str = "canary", *, release: str = "digits 7", percent: int = 10, **said: Any) -> str:
    about = {"t": 1000, "status": 500, "grpc": "-", "tries": 1, "answered": "stable", "us": 900, "ms": 1, **said}
    before = " ".join(map(str, about.values()))
    return f"{before} {arm} {release} {percent} {user}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "affected-users.log"
    made.write_text(line("somebody of before"))
    return made


def read(path: Path, since: AffectedUsers | None = None, percent: int = 10) -> AffectedUsers:
    return affected_users([path], "digits", 7, percent, since.upto if since else {})


def write(path: Path, *lines: str) -> None:
    with path.open("a") as log:
        log.write("".join(lines))


def levels(told: Sequence[int], of: Sequence[int] = USER_LEVELS) -> dict[int, int]:
    """How many came to each level that anybody came to."""
    return {level: count for level, count in zip(of, told, strict=True) if count}


def lately(told: ByArm, minutes: int = 1) -> dict[int, list[dict[int, int]]]:
    """The same by window of so many minutes, of the canary and of stable."""
    found, of = [each for each in told.windows if each.minutes == minutes], levels_within(minutes)
    return {each.number: [levels(arm, of) for arm in (each.canary, each.stable)] for each in found}


def counts(found: AffectedUsers) -> tuple[int, int]:
    """Who failed for the first time."""
    return found.failed.canary[0], found.failed.stable[0]


@pytest.mark.parametrize(
    ("arm", "said", "fails"),
    [
        ("stable", {"status": 500}, True),
        ("stable", {"status": 404}, True),
        ("stable", {"status": 400}, False),
        ("stable", {"status": 200, "grpc": 13}, True),
        ("stable", {"status": 200, "grpc": 3}, False),
        ("stable", {"status": 200, "grpc": 0, "tries": 2}, True),
        ("canary", {"status": 200, "tries": 2}, True),
        ("canary", {"status": 200, "grpc": 0, "answered": "stable"}, True),
        ("canary", {"status": 200, "grpc": 5, "tries": 2}, False),
        ("canary", {"status": 404, "tries": 2}, True),
        ("canary", {"status": 200, "answered": "canary"}, False),
    ],
)
def test_what_is_a_failure_of_an_arm(path: Path, arm: str, said: dict[str, Any], fails: bool) -> None:
    began = read(path)
    write(path, line("ann", arm, **{"answered": arm, **said}))
    assert sum(counts(read(path, began))) == fails


BEYOND_54 = Slow((SlowBound(54.0, 54.0),), tried_for_s=2)


@pytest.mark.parametrize(
    ("arm", "said", "slow"),
    [
        ("stable", {"us": 54_001}, True),
        ("stable", {"us": 54_000}, False),
        ("stable", {"us": "-", "ms": 55, "status": 0}, True),  # its client gave it up
        ("stable", {"us": "-", "ms": 54, "status": 0}, False),
        ("stable", {"us": 54_001, "status": 400}, True),
        ("stable", {"us": 54_001, "status": 500}, True),
        ("stable", {"us": 54_001, "grpc": 5}, False),
        ("canary", {"us": 54_001}, True),
        ("canary", {"us": 54_001, "grpc": 0}, True),
        ("canary", {"us": 54_001, "answered": "stable", "tries": 2}, False),
        ("canary", {"us": 54_001, "status": 500}, False),
        ("canary", {"us": 54_001, "answered": "stable", "tries": 2, "ms": 1899}, False),
        ("canary", {"us": 1_998_012, "answered": "stable", "tries": 2, "ms": 1998}, True),
        ("canary", {"us": 2_000_001, "answered": "stable", "tries": 2, "ms": 2000}, True),
        ("canary", {"us": 2_000_001, "status": 500, "tries": 2, "ms": 2000}, True),
        ("stable", {"us": 53_001, "status": 500, "ms": 2000}, False),
        ("canary", {"us": "-", "ms": 55, "status": 0, "answered": "-"}, True),
    ],
)
def test_what_is_a_slow_answer_of_an_arm(path: Path, arm: str, said: dict[str, Any], slow: bool) -> None:
    began = read(path)
    write(path, line("ann", arm, **{"status": 200, "answered": arm, **said}))
    [found] = affected_users([path], "digits", 7, 10, began.upto, BEYOND_54).slow
    assert found.canary[0] + found.stable[0] == slow
    assert getattr(found, arm)[0] == slow


def slow_line(user: str, arm: str = "canary", **said: Any) -> str:
    return line(user, arm, **{"status": 200, "answered": arm, "us": 90_000, **said})


def test_slow_answers_count_by_user_span_and_bound_beside_failures(path: Path) -> None:
    began = read(path)
    write(path, *(slow_line("ann", t=1000 + second) for second in range(10)), line("ann", t=1003))
    write(path, slow_line("bob", "stable", us=60_000), slow_line("bob", "stable", us=60_000))
    found = affected_users([path], "digits", 7, 10, began.upto, Slow((SlowBound(54.0, 54.0), SlowBound(80.0, 80.0))))
    assert [levels(arm) for arm in found.slow[0][:2]] == [{1: 1, 2: 1, 3: 1, 4: 1}, {1: 1}]
    assert [levels(arm) for arm in found.slow[1][:2]] == [{1: 1, 2: 1, 3: 1, 4: 1}, {}]
    assert (counts(found), found.told) == ((1, 0), 13)
    assert read(path, began).slow == ()


def test_each_arm_has_a_bound_of_its_own(path: Path) -> None:
    began = read(path)
    for arm in ("canary", "stable"):
        write(path, slow_line("ann", arm, us=60_000), slow_line("bob", arm, us=80_000))
    [found] = affected_users([path], "digits", 7, 10, began.upto, Slow((SlowBound(70.0, 54.0),))).slow
    assert (found.canary[0], found.stable[0]) == (1, 2)


def test_slow_answers_of_a_stages_warm_up_do_not_count_and_those_of_earlier_stages_do(path: Path) -> None:
    began = read(path)
    write(path, slow_line("ann", t=1004), slow_line("bob", t=1011), line("cid", t=1004))
    first = affected_users([path], "digits", 7, 10, began.upto, Slow(BEYOND_54.bounds_ms, 1010))
    assert (first.slow[0].canary[0], first.failed.canary[0]) == (1, 1)
    later = [slow_line(user, percent=50, t=2015) for user in ("ann", "bob", "dan")]
    write(path, slow_line("eve", percent=50, t=2005), *later)
    second = affected_users([path], "digits", 7, 50, first.upto, Slow(BEYOND_54.bounds_ms, 2010))
    assert levels(second.slow[0].canary) == {1: 1}  # dan, whom the canary has not kept waiting before


def test_a_user_counts_once_a_release_against_the_canary_and_once_a_weight_for_it(path: Path) -> None:
    began = read(path)
    write(path, line("ann"), line("ann"), line("bob", "stable"), line("bob", "stable"), line("cid"))
    first = read(path, began)
    assert (counts(first), first.told) == ((2, 1), 5)
    write(path, line("late"), *(line(name, percent=50) for name in ("ann", "dan", "bob")))
    write(path, line("eve", "stable", percent=50), line("bob of 10", "stable", percent=50))
    second = read(path, first, percent=50)
    assert counts(second) == (2, 2)  # dan and bob, whom the canary has not failed before
    write(path, line("late", percent=50), line("eve", "stable", percent=50))
    assert counts(read(path, second, percent=50)) == (0, 0)


def test_a_user_comes_to_a_level_by_spans_of_two_seconds_and_not_by_requests(path: Path) -> None:
    began = read(path)
    write(path, *(line("ann", t=1000 + second) for second in range(10) for _ in range(5)))
    found = read(path, began)
    assert levels(found.failed.canary) == {1: 1, 2: 1, 3: 1, 4: 1}
    write(path, line("ann", t=1001), *(line("ann", t=1010 + 2 * span) for span in range(3)))
    assert levels(read(path, found).failed.canary) == {6: 1, 8: 1}


def test_in_each_window_users_of_both_arms_begin_anew(path: Path) -> None:
    began = read(path)
    for arm in ("canary", "stable"):
        write(path, *(line("ann", arm, t=second) for second in range(1010, 1030)))  # ten seconds of either minute
    assert lately(read(path, began).failed) == {16: [{1: 1, 2: 1, 3: 1, 4: 1}] * 2, 17: [{1: 1, 2: 1, 3: 1, 4: 1}] * 2}
    first = read(path, began)
    assert lately(first.failed, 4) == {4: [{1: 1, 2: 1, 3: 1, 4: 1, 6: 1, 8: 1}] * 2}
    write(path, line("ann", t=1021), line("ann", t=1030), line("bob", "stable", t=1031), line("", t=1031))
    assert lately(read(path, first).failed) == {17: [{1: 1, 6: 1}, {1: 1}]}


def test_of_a_window_that_is_long_over_nobody_is_told_and_those_of_another_weight_are_not_told(path: Path) -> None:
    began = read(path)
    write(path, line("ann", t=1200), line("bob", t=1019), line("cid", t=1080), line("dan", t=1200, percent=50))
    found = read(path, began)
    assert lately(found.failed) == {18: [{1: 1}, {}], 20: [{1: 1}, {}]}
    assert levels(found.failed.canary) == {1: 3}
    again = read(path, found, percent=50)
    write(path, line("ann", t=1201, percent=50))
    again = read(path, again, percent=50)
    assert (levels(again.failed.canary), lately(again.failed)) == ({}, {20: [{1: 1}, {}]})


def test_lines_that_are_not_in_order_come_to_each_level_once(tmp_path: Path) -> None:
    """Those of several Envoys, and of requests that end before others which began before."""
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    for log in logs:
        log.touch()
    found = affected_users(logs, "digits", 7, 10, {})
    came, random = dict.fromkeys(USER_LEVELS, 0), Random(3)
    for reading in range(6):
        seconds = [1000 + 20 * reading + 2 * span for span in range(10)]
        random.shuffle(seconds)
        for t in seconds:
            write(random.choice(logs), line("ann", t=t))
        found = affected_users(logs, "digits", 7, 10, found.upto)
        for level, count in levels(found.failed.canary).items():
            came[level] += count
    assert came == {level: int(level <= 60) for level in USER_LEVELS}


def test_levels_are_counted_anew_at_each_weight_but_those_that_the_canary_brought_a_user_to_before(path: Path) -> None:
    began = read(path)
    for arm in ("canary", "stable"):
        write(path, *(line(f"{arm}'s", arm, t=1000 + 2 * span) for span in range(3)))
    first = read(path, began)
    assert levels(first.failed.canary) == levels(first.failed.stable) == {1: 1, 2: 1, 3: 1}
    for arm in ("canary", "stable"):
        write(path, *(line(f"{arm}'s", arm, percent=50, t=2000 + 2 * span) for span in range(4)))
    second = read(path, first, percent=50)
    assert levels(second.failed.canary) == {4: 1}
    assert levels(second.failed.stable) == {1: 1, 2: 1, 3: 1, 4: 1}


def test_a_reading_that_is_repeated_or_another_process_comes_to_the_same(path: Path, monkeypatch: Any) -> None:
    """Such as a look whose answer was lost, or a triggerer that started anew."""
    random, last = Random(7), read(path)
    for reading in range(8):
        write(path, *(line(f"user {random.randrange(9)}", t=1000 + 10 * reading + k) for k in range(10)))
        found = read(path, last)
        assert read(path, last) == found
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(user_log, "_known", {})
            assert read(path, last) == found
        last = found


def test_going_on_reads_no_more_of_a_log_than_what_is_new(path: Path, monkeypatch: Any) -> None:
    last = read(path)
    write(path, *(line(f"user {number}") for number in range(1000)))
    last, seen = read(path, last), []
    monkeypatch.setattr(user_log._Affected, "read", lambda line: seen.append(line))
    write(path, line("ann"))
    read(path, last)
    assert len(seen) == 1


def test_of_each_model_the_last_stage_alone_is_kept_and_of_the_last_models(path: Path, monkeypatch: Any) -> None:
    known: dict[Any, Any] = {}
    monkeypatch.setattr(user_log, "_known", known)
    for percent in (10, 50):
        read(path, percent=percent)
    assert len(known) == 1
    for number in range(20):
        affected_users([path], f"model_{number}", 7, 10, {})
        affected_users([path], "digits", 7, 50, {})
    assert len(known) == 16
    assert ([path], "digits") in [([*files], model) for *files, model in known]


def test_a_release_begins_with_its_first_reading_so_another_try_of_a_version_is_judged_anew(path: Path) -> None:
    began = read(path)
    assert (counts(began), began.told) == ((0, 0), 0)
    write(path, line("somebody of before"))
    assert counts(read(path, began)) == (1, 0)


def test_only_this_models_this_version_at_this_weight_counts(path: Path) -> None:
    began = read(path)
    others = [line("ann", release=release) for release in ("digits 8", "digits_two 7", "other 7")]
    write(path, *others, line("bob", percent=50), line("cid digits 7 10 stable", release="digits 8"))
    assert counts(read(path, began)) == (0, 0)


def test_users_may_be_named_as_they_like_and_who_has_no_name_is_somebody_else_each_time(path: Path) -> None:
    began = read(path)
    write(path, line("ann of x"), line("ann of y"), line(""), line("", "stable"), line("  "))
    assert counts(read(path, began)) == (4, 1)


def test_a_line_that_is_still_being_written_waits_for_the_next_reading(path: Path) -> None:
    began = read(path)
    whole = line("ann") + line("bob")
    write(path, whole[:-10])
    first = read(path, began)
    assert counts(first) == (1, 0)
    write(path, whole[-10:])
    assert counts(read(path, first)) == (1, 0)


def test_a_log_that_is_rotated_between_two_looks_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    began = read(path)
    write(path, line("ann"))
    first = read(path, began)
    write(path, line("bob"))
    path.rename(f"{path}.1")
    write(path, line("ann"), line("bob"), line("cid"))
    second = read(path, first)
    assert (counts(second), second.told) == ((2, 0), 4)  # bob and cid
    write(path, line("ann"), line("dan"))
    assert counts(read(path, second)) == (1, 0)
    assert not caplog.text


def test_lines_that_envoy_writes_into_a_renamed_log_are_not_lost_while_the_new_one_is_empty(path: Path) -> None:
    began = read(path)
    path.rename(f"{path}.1")
    empty = read(path, began)
    path.touch()
    empty = read(path, empty)
    write(path.with_name(f"{path.name}.1"), line("ann"))
    found = read(path, empty)
    assert counts(found) == (1, 0)
    write(path, line("ann"), line("bob"))
    assert counts(read(path, found)) == (1, 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["whole", "half", "rotate", "read"]), max_size=25), st.randoms(use_true_random=False))
def test_whatever_is_written_and_rotated_between_readings_each_user_is_told_once(
    tmp_path: Path, doings: list[str], random: Random
) -> None:
    """But for a second rotation, which takes lines away."""
    path = tmp_path / f"{time.monotonic_ns()}.log"
    path.touch()
    last, written, told, half = read(path), set[str](), 0, ("", "")
    for doing in [*doings, "whole", "read"]:
        if doing in ("whole", "half"):
            write(path, half[1])
            written |= {half[0]} - {""}
            user = f"user {random.randrange(12)}"
            whole = line(user)
            cut = random.randrange(1, len(whole)) if doing == "half" else len(whole)
            write(path, whole[:cut])
            half = (user, whole[cut:]) if doing == "half" else ("", "")
            written |= {user} if doing == "whole" else set()
        elif doing == "rotate" and not half[1] and not path.with_name(f"{path.name}.1").exists():
            path.rename(f"{path}.1")
            path.touch()
        elif doing == "read":
            last = read(path, last)
            told += last.failed.canary[0]
            assert told == len(written)


def test_a_log_that_was_rotated_before_the_release_is_not_read_again(path: Path) -> None:
    path.rename(f"{path}.1")
    write(path, line("ann"))
    began = read(path)
    write(path, line("bob"))
    found = read(path, began)
    assert (counts(found), found.told) == ((1, 0), 1)


def test_a_log_that_was_cut_counts_from_its_beginning_and_says_so(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    began = read(path)
    write(path, line("ann") * 3)
    first = read(path, began)
    path.write_text(line("bob"))
    assert counts(read(path, first)) == (1, 0)
    assert "cut, or rotated twice" in caplog.text


def test_the_logs_of_several_envoys_tell_of_the_same_users(tmp_path: Path) -> None:
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    one.touch()
    two.touch()
    began = affected_users([one, two], "digits", 7, 10, {})
    write(one, line("ann"))
    write(two, line("ann"), line("bob", "stable"))
    found = affected_users([one, two], "digits", 7, 10, began.upto)
    assert counts(found) == (1, 1)
    write(one, line("bob", "stable"))
    assert counts(affected_users([one, two], "digits", 7, 10, found.upto)) == (0, 0)


def test_a_line_that_is_none_is_left_out(path: Path) -> None:
    began = read(path)
    write(path, line("ann"), " digits 7 \n", "1 500 - 1 stable 900 1 digits 7 \n", line("bob").replace(" 10 ", " ten "))
    write(path, line("bob", "elsewhere"), line("bob", status="-"), slow_line("bob", us="soon"))
    assert counts(read(path, began)) == (1, 0)


def test_a_log_that_is_not_there_or_cannot_be_read_is_an_outage(path: Path) -> None:
    path.unlink()
    with pytest.raises(RouterUnavailable, match="no log of affected users, which Envoy begins"):
        read(path)
    path.mkdir()
    with pytest.raises(RouterUnavailable, match="cannot be read"):
        read(path)
