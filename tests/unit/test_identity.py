"""A run, its retries and a backfill of its date are one version."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_release.identity import Kind, Release, date_of, version_of

moments = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


@given(moments)
def test_a_version_names_its_moment(moment: datetime) -> None:
    assert date_of(version_of(moment)) == moment


@given(moments, moments)
def test_versions_are_in_the_order_of_their_moments(one: datetime, other: datetime) -> None:
    assert (one < other) == (version_of(one) < version_of(other))


def test_the_same_moment_in_another_zone_is_the_same_version() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    assert version_of(moment.astimezone(timezone(timedelta(hours=9)))) == version_of(moment) == 20260102030405


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        version_of(datetime(2026, 1, 2))  # noqa: DTZ001


def test_a_release_goes_through_a_message_unchanged() -> None:
    release = Release("digits", 20260102030405, Kind.RESTORE, "manual__1", 2, None, "bad numbers", "ada")

    assert Release.from_dict(release.to_dict()) == release
