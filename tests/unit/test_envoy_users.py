"""The log of failed users: which lines count, who counts once, and where the next reading goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model_release.errors import RouterUnavailable
from model_release.traffic.envoy_users import failed_users
from model_release.traffic.router import FailedUsers


def line(user: str, arm: str = "canary", *, release: str = "digits 7", percent: int = 10, **said: Any) -> str:
    whole = {"status": 500, "grpc": "-", "tries": 1, "answered": "stable", **said}
    about = " ".join(str(whole[name]) for name in ("status", "grpc", "tries", "answered"))
    return f"{about} {release} {percent} {arm} {user}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "failed-users.log"
    made.write_text(line("somebody of before"))
    return made


def read(path: Path, since: FailedUsers | None = None, percent: int = 10) -> FailedUsers:
    return failed_users([path], "digits", 7, percent, since.upto if since else {})


def write(path: Path, *lines: str) -> None:
    with path.open("a") as log:
        log.write("".join(lines))


def counts(found: FailedUsers) -> tuple[int, int]:
    return found.canary, found.stable


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
    write(path, line("ann of x"), line("ann of y"), line(""), line("", "stable"), line(""))
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
    assert (counts(second), second.told) == ((2, 0), 5)  # bob and cid
    write(path, line("ann"), line("dan"))
    assert counts(read(path, second)) == (1, 0)
    assert not caplog.text


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
    began = failed_users([one, two], "digits", 7, 10, {})
    write(one, line("ann"))
    write(two, line("ann"), line("bob", "stable"))
    found = failed_users([one, two], "digits", 7, 10, began.upto)
    assert counts(found) == (1, 1)
    write(one, line("bob", "stable"))
    assert counts(failed_users([one, two], "digits", 7, 10, found.upto)) == (0, 0)


def test_a_line_that_is_none_is_left_out(path: Path) -> None:
    began = read(path)
    write(path, line("ann"), " digits 7 \n", "500 - 1 stable digits 7 \n", line("bob").replace("10", "ten"))
    write(path, line("bob", "elsewhere"), line("bob", status="-"))
    assert counts(read(path, began)) == (1, 0)


def test_a_log_that_is_not_there_or_cannot_be_read_is_an_outage(path: Path) -> None:
    path.unlink()
    with pytest.raises(RouterUnavailable, match="no log of failed users, which Envoy begins"):
        read(path)
    path.mkdir()
    with pytest.raises(RouterUnavailable, match="cannot be read"):
        read(path)
