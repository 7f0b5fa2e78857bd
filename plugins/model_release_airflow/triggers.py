"""What waits in the triggerer, where no worker slot is held: for a verdict, an answer, a turn, the claim of a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from model_release.environment import Environment
from model_release.errors import ReleaseError
from model_release.identity import Release
from model_release_airflow import steps
from model_release_airflow.connection import environment_of_trigger

SETTLES_S = 10.0
"""
How long a task stays deferred at least. A task that goes on while the process that deferred it still ends is marked
failed: Airflow 3.3 takes that process's end for the task's ("finished with state success, but the task instance's state
attribute is running"), and notices it up to `[workers] min_heartbeat_interval`, 5 s by default, late.
"""


async def _settled(began: float) -> None:
    """Wait until an event may be handed to the task; looks go on at their own pace before."""
    await asyncio.sleep(max(0.0, began + SETTLES_S - time.monotonic()))


class LookTrigger(BaseTrigger):
    """
    Take a look every `interval_s` until one of them decides the stage, or finds that a person has to be asked.

    Its event is the deciding look, or `{"error": sentence}`. All state is in the ledger: another triggerer goes on
    where this one stopped.
    """

    def __init__(self, release: dict[str, Any], stage: int, interval_s: float, asked: bool = False) -> None:
        super().__init__()
        self.release = release
        self.stage = stage
        self.interval_s = interval_s
        self.asked = asked

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another process needs to build this trigger."""
        arguments = {
            "release": self.release,
            "stage": self.stage,
            "interval_s": self.interval_s,
            "asked": self.asked,
        }
        return ("model_release_airflow.triggers.LookTrigger", arguments)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until a look is done."""
        began = time.monotonic()
        while True:
            started = time.monotonic()
            decided = await self._look()
            if decided is not None:
                await _settled(began)
                yield TriggerEvent(decided)
                return
            await asyncio.sleep(max(0.0, self.interval_s - (time.monotonic() - started)))

    async def _look(self) -> dict[str, Any] | None:
        """Take one look; None while nothing is decided, also when an outside system did not answer."""
        release = Release.from_dict(self.release)
        try:
            environment = await environment_of_trigger()
            look = await asyncio.to_thread(_look_once, release, environment, self.stage)
        except ReleaseError as error:
            if not steps.is_passing(error, release):
                return {"error": str(error)}
            self.log.warning("no look: %s", error)
            return None
        self.log.info("stage %s %%: %s (%s)", self.stage, look["verdict"], look["reason"])
        return look if look["done"] or (look["held_until"] and not self.asked) else None


class ApprovalTrigger(BaseTrigger):
    """
    Look every `interval_s` whether a release that waits for an approval has an answer, and at its canary.

    Its event is the look that ends the wait, or `{"error": sentence}`.
    """

    def __init__(self, release: dict[str, Any], interval_s: float) -> None:
        super().__init__()
        self.release = release
        self.interval_s = interval_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another process needs to build this trigger."""
        arguments = {"release": self.release, "interval_s": self.interval_s}
        return ("model_release_airflow.triggers.ApprovalTrigger", arguments)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the wait is over."""
        release, began = Release.from_dict(self.release), time.monotonic()
        while True:
            try:
                environment = await environment_of_trigger()
                look = await asyncio.to_thread(_approval_once, release, environment)
            except ReleaseError as error:
                if not steps.is_passing(error, release):
                    await _settled(began)
                    yield TriggerEvent({"error": str(error)})
                    return
                self.log.warning("no look: %s", error)
            else:
                if look["done"]:
                    await _settled(began)
                    yield TriggerEvent(look)
                    return
            await asyncio.sleep(self.interval_s)


def _approval_once(release: Release, environment: Environment) -> dict[str, Any]:
    look: dict[str, Any] = steps.library_step("approve").look(release, environment)
    return look


class TurnTrigger(BaseTrigger):
    """
    Stand in the queue of a fleet pair until it is the release's turn, `behind` whom it was told to be.

    Its event is the look that ends the wait, or `{"error": sentence}`.
    """

    def __init__(self, release: dict[str, Any], behind: dict[str, Any], interval_s: float = 5.0) -> None:
        super().__init__()
        self.release = release
        self.behind = behind
        self.interval_s = interval_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another process needs to build this trigger."""
        arguments = {"release": self.release, "behind": self.behind, "interval_s": self.interval_s}
        return ("model_release_airflow.triggers.TurnTrigger", arguments)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the queue until it is the release's turn; a store that does not answer is asked again."""
        release, behind, began = Release.from_dict(self.release), self.behind, time.monotonic()
        while True:
            try:
                environment = await environment_of_trigger()
                look = await asyncio.to_thread(_turn_once, release, environment, behind)
            except ReleaseError as error:
                if not steps.is_passing(error, release):
                    await _settled(began)
                    yield TriggerEvent({"error": str(error)})
                    return
                self.log.warning("it is not known whose turn it is: %s", error)
            else:
                if look["done"]:
                    await _settled(began)
                    yield TriggerEvent(look)
                    return
                if look["behind"] != behind:
                    self.log.info("%s", look["lines"][0])
                behind = look["behind"]
            await asyncio.sleep(self.interval_s)


def _turn_once(release: Release, environment: Environment, behind: dict[str, Any]) -> dict[str, Any]:
    look: dict[str, Any] = steps.library_step("queue").look(release, environment, behind)
    return look


class ClaimTrigger(BaseTrigger):
    """Wait until nobody has the claim of a model; its event says who had it."""

    def __init__(self, model: str, interval_s: float = 5.0) -> None:
        super().__init__()
        self.model = model
        self.interval_s = interval_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another process needs to build this trigger."""
        arguments = {"model": self.model, "interval_s": self.interval_s}
        return ("model_release_airflow.triggers.ClaimTrigger", arguments)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask the ledger until the claim is free; a store that does not answer is asked again."""
        waited_for, began = "nobody", time.monotonic()
        while True:
            try:
                environment = await environment_of_trigger()
                holder = await asyncio.to_thread(_waits_for, self.model, environment)
            except ReleaseError as error:
                self.log.warning("it is not known who has %s: %s", self.model, error)
            else:
                if holder is None:
                    await _settled(began)
                    yield TriggerEvent({"waited_for": waited_for})
                    return
                if holder != waited_for:
                    self.log.info("%s is being released by %s: this build waits for it", self.model, holder)
                waited_for = holder
            await asyncio.sleep(self.interval_s)


def _waits_for(model: str, environment: Environment) -> str | None:
    holder: str | None = steps.library_step("plan").waits_for(model, environment)
    return holder


def _look_once(release: Release, environment: Environment, stage: int) -> dict[str, Any]:
    look: dict[str, Any] = steps.library_step("watch").look(release, environment, stage)
    return look
