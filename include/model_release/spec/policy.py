"""`change_policy`: when a model may be released and how often; in its config for one, in the environment for all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from model_release.spec.section import Section

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKLY = re.compile(rf"({'|'.join(_DAYS)}) ([01]\d|2[0-3]):([0-5]\d)")
_WEEK = timedelta(days=7)


def _moment_of_week(text: str) -> str:
    if not _WEEKLY.fullmatch(text):
        message = f"{text!r} is no moment of a week: write it as 'fri 16:00'"
        raise ValueError(message)
    return text


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        message = f"{name!r} is no time zone; write it as 'Europe/Berlin', or 'UTC'"
        raise ValueError(message) from None
    return name


MomentOfWeek = Annotated[str, AfterValidator(_moment_of_week)]


@dataclass(frozen=True)
class Window:
    """One stretch of time in which nothing is released."""

    start: datetime
    end: datetime
    reason: str


class Freeze(Section):
    """A stretch of time, both ends with their time zone."""

    start: AwareDatetime
    end: AwareDatetime
    reason: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Freeze:
        if self.start >= self.end:
            message = f"the freeze {self.reason!r} ends at {self.end}, before it starts"
            raise ValueError(message)
        return self

    def windows(self, around: datetime) -> Iterator[Window]:  # noqa: ARG002
        """Yield the window."""
        yield Window(self.start, self.end, self.reason)


class WeeklyFreeze(Section):
    """A stretch of each week, by the clocks of a time zone."""

    every: MomentOfWeek
    until: MomentOfWeek
    timezone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    reason: Annotated[str, Field(min_length=1)]

    def windows(self, around: datetime) -> Iterator[Window]:
        """Yield the windows of the week before a moment, of its own, and of the next."""
        zone = ZoneInfo(self.timezone)
        for week in (-1, 0, 1):
            start = _in_week(around.astimezone(zone) + week * _WEEK, self.every)
            end = _in_week(around.astimezone(zone) + week * _WEEK, self.until)
            if end <= start:
                end = _in_week(around.astimezone(zone) + (week + 1) * _WEEK, self.until)
            yield Window(start, end, self.reason)


def _in_week(moment: datetime, text: str) -> datetime:
    """Return a moment of the week of another one, by the clocks there: summer time does not shift it."""
    day, _, clock = text.partition(" ")
    hour, _, minute = clock.partition(":")
    date = (moment - timedelta(days=moment.weekday() - _DAYS.index(day))).replace(fold=0)
    return date.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)


class ChangePolicy(Section):
    """When a build may not start or advance, and how many may start a day. A restore always may."""

    freeze: list[Freeze | WeeklyFreeze] = []
    max_releases_a_day: Annotated[int, Field(ge=1)] | None = None
    """Builds that were planned within 24 hours; restores do not count."""


def frozen_at(policies: Sequence[ChangePolicy], moment: datetime, lasts: timedelta = timedelta(0)) -> Window | None:
    """Return the window that what begins at a moment and lasts so long would reach into; of several the last to end."""
    reached = [
        window
        for policy in policies
        for freeze in policy.freeze
        for window in freeze.windows(moment)
        if window.start <= moment + lasts and moment < window.end
    ]
    return max(reached, key=lambda window: window.end, default=None)
