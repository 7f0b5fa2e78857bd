"""Releases whose steps are killed or whose S3 fails, at every instant in turn, and what has to hold after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from model_release.environment import Environment
from model_release.identity import Release, date_of, version_of
from model_release.ledger.state import State
from model_release.repository.archive import Archive
from model_release.repository.store import ObjectStore
from model_release.steps import benchmark, deploy, export, finish, guard, plan, promote, publish, shift, validate, watch
from model_release.steps.heal import heal
from model_release.steps.orphan import GRACE_LEASES, return_orphan
from tests.sandbox.chaos.faults import KINDS, FaultyS3
from tests.sandbox.chaos.killing import Attempt, attempt
from tests.sandbox.releasing import CHECKPOINTS, FIRST, SECOND, Clients, Model

#: So much later a guard comes that ends what is dead, and so much later a standby is hot no longer.
LONG_DEAD_S = (GRACE_LEASES + 2) * 120.0
COLD_S = 61 * 60.0
STAGE = 100
#: A stage that is not decided after so many is not promoted, which is a violation.
MOST_LOOKS = 100

Step = tuple[str, Callable[[], Any]]


def look_after(model: str, environment: Environment) -> guard.Round:
    """One round of the guard, in one thread."""
    store = ObjectStore(environment.s3)
    returned = return_orphan(model, store, environment)
    healing = heal(model, store, environment)
    return guard.Round([returned] if returned else [], [{"act": act} for act in healing.acts], healing.problems)


@dataclass
class Tally:
    """How often it was tried, and what did not hold."""

    what: str
    points: int = 0
    violations: list[str] = field(default_factory=list)
    #: Told of a violation at once: the whole takes hours.
    tell: Callable[[str], None] | None = None

    def expect(self, true: bool, sentence: str) -> None:
        if not true:
            self.violations.append(sentence)
            if self.tell is not None:
                self.tell(sentence)


class Chaos:
    """A model with two sealed versions that are restored in turn; SECOND is stable at the beginning."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.environment = model.environment
        self.store = ObjectStore(model.environment.s3)
        self.archive = Archive(self.store, model.name)
        self._runs = 0

    # --- the story ------------------------------------------------------------------------------

    def restore(self) -> Release:
        """Return a release of whichever version is not stable."""
        self._runs += 1
        state = self.model.state
        assert state.stable is not None
        target = FIRST if state.stable.version == SECOND else SECOND
        return Release(
            self.model.name, target, self.model.restore(target).kind, f"chaos-{self._runs}", reason="chaos", by="tests"
        )

    def steps(self, release: Release, environment: Environment) -> Iterator[Step]:
        """Yield the steps of a story, the looks for as long as the stage is not decided."""
        yield "plan", partial(plan.run, release, environment, self.model.spec)
        yield "deploy", partial(deploy.run, release, environment)
        yield "shift", partial(shift.run, release, environment, STAGE)
        for _ in range(MOST_LOOKS):
            if str(STAGE) in self._verdicts():
                break
            yield "look", partial(watch.look, release, environment, STAGE)
        yield "promote", partial(promote.run, release, environment)
        yield "finish", partial(finish.run, release, environment)

    def _verdicts(self) -> dict[str, Any]:
        release = self.model.state.release
        return release.verdicts if release else {}

    # --- what goes wrong ------------------------------------------------------------------------

    def killed_and_retried(self, at: int, tally: Tally, *, cold: bool) -> None:
        """Kill each step of one story before its `at`th change, and run it again; the story has to end well."""
        if cold:
            self._cool(tally)
        with self._sound(tally, f"killed before change {at}, retried") as release:
            for name, work in self.steps(release, self.environment):
                if attempt(work, kill_at=at).killed:
                    tally.points += 1
                    again = attempt(work)
                    tally.expect(again.error is None, f"{name}, killed at {at}, tried again: {_said(again)}")
        tally.expect(self._stable() == release.version, f"killed at {at}: {release.version} is not stable")

    def build_killed_and_retried(self, at: int, tally: Tally) -> None:
        """Kill each step of a build before its `at`th change, and run it again; the version has to be sealed."""
        self._runs += 1
        newest = max(self.model.state.newest_decision, *self.archive.versions())
        version = version_of(date_of(newest) + timedelta(seconds=1))
        release = self.model.build(version, f"chaos-{self._runs}", checkpoint=CHECKPOINTS[FIRST])
        with self._sound(tally, f"a build killed before change {at}, retried"):
            attempt(partial(plan.run, release, self.environment, self.model.spec))
            for step in (export, validate, publish, benchmark):
                work = partial(step.run, release, self.environment)
                if attempt(work, kill_at=at).killed:
                    tally.points += 1
                    again = attempt(work)
                    tally.expect(again.error is None, f"{step.__name__}, killed at {at}, tried again: {_said(again)}")
            ended = attempt(partial(finish.run, release, self.environment))
            tally.expect(ended.error == "NotAsAsked", f"finish of what was not deployed: {_said(ended)}")
        for part in ("base", "tuned"):
            sealed = self.archive.sealed(version, part)
            tally.expect(sealed is not None, f"killed at {at}: {part} of {version} is not sealed")
            for name, entry in sealed.files.items() if sealed else ():
                self.archive.compare(self.archive.key_in(sealed, name), entry)

    def killed_and_left(self, step: str, at: int, tally: Tally) -> bool:
        """Kill one step before its `at`th change and leave the rest to the guard; False when it ended before."""
        before = self._stable()
        with self._sound(tally, f"{step} killed before change {at}, left to the guard") as release:
            for name, work in self.steps(release, self.environment):
                if attempt(work, kill_at=at if name == step else None).killed:
                    tally.points += 1
                    self._guard(tally, f"{step} killed at {at}")
                    ended = self.model.state.release
                    outcome = ended.outcome if ended else None
                    tally.expect(self.model.state.canary is None, f"{step} killed at {at}: the canary is still there")
                    tally.expect(self._stable() in (before, release.version), f"{step} killed at {at}: another stable")
                    tally.expect(outcome != "running", f"{step} killed at {at}: its release is said to run")
                    return True
        return False

    def guard_killed(self, at: int, tally: Tally) -> bool:
        """Kill the guard that ends a dead release before its `at`th change; the next one ends it."""
        with self._sound(tally, f"guard killed before change {at}") as release:
            for name, work in self.steps(release, self.environment):
                if name == "look":
                    break
                attempt(work)
            work = partial(look_after, self.model.name, self.environment)
            killed = attempt(work, kill_at=at, ahead_s=LONG_DEAD_S).killed
            tally.points += killed
            self._guard(tally, f"a guard killed at {at}", later_s=2 * LONG_DEAD_S)
            tally.expect(self.model.state.canary is None, f"guard killed at {at}: the canary is still there")
        return killed

    def faulty(self, wire: FaultyS3, at: int, tally: Tally, *, cold: bool) -> None:
        """Have S3 fail at the `at`th request of each step of one story; a step may fail, but its retry may not."""
        if cold:
            self._cool(tally)
        through = self.environment.model_copy(
            update={"s3": self.environment.s3.model_copy(update={"endpoint_url": wire.url})}
        )
        kind = KINDS[at % len(KINDS)]
        with self._sound(tally, f"{kind} at request {at}") as release:
            for name, work in self.steps(release, through):
                struck = wire.struck
                wire.strike(kind, at)
                tried = attempt(work)
                wire.strike("", -1)
                tally.points += wire.struck - struck
                if tried.error is not None:
                    tally.expect(tried.error == "StoreUnavailable", f"{name}, {kind} at {at}: {_said(tried)}")
                    again = attempt(work)
                    tally.expect(again.error is None, f"{name}, {kind} at {at}, tried again: {_said(again)}")
        tally.expect(self._stable() == release.version, f"{kind} at {at}: {release.version} is not stable")

    # --- what has to hold -----------------------------------------------------------------------

    @contextmanager
    def _sound(self, tally: Tally, what: str) -> Iterator[Release]:
        """Hold the invariants against what happens inside: clients, archive, events, epochs, all that serves."""
        archive, events, epoch = self._archive(), self._events(), self.model.state.epoch
        with Clients(self.model, rate_per_s=60) as clients:
            yield self.restore()
        tally.expect(clients.failed() == 0, f"{what}: {clients.failed()} client errors, {clients.problems[:2]}")
        tally.expect(archive.items() <= self._archive().items(), f"{what}: what was archived changed")
        tally.expect(events.items() <= self._events().items(), f"{what}: an event was changed or lost")
        state: State = self.model.state
        tally.expect(state.epoch >= epoch, f"{what}: the epoch fell")
        tally.expect(state.claim is None, f"{what}: {state.claim} is still held")
        left = look_after(self.model.name, self.environment)
        tally.expect(left == guard.Round(), f"{what}: afterwards the guard found {left}")

    def _guard(self, tally: Tally, what: str, later_s: float = LONG_DEAD_S) -> None:
        done = attempt(partial(look_after, self.model.name, self.environment), ahead_s=later_s)
        tally.expect(done.error is None, f"{what}: the guard said {_said(done)}")
        if done.result is not None:
            tally.expect(done.result.problems == [], f"{what}: the guard could not heal {done.result.problems}")

    def _cool(self, tally: Tally) -> None:
        """Have the standby taken off, so that the next deploy starts from the archive."""
        done = attempt(partial(look_after, self.model.name, self.environment), ahead_s=COLD_S)
        tally.expect(done.error is None, f"cooling the standby: {_said(done)}")
        tally.expect(self.model.state.standby is None, "the standby is still there")

    def _stable(self) -> int | None:
        stable = self.model.state.stable
        return stable.version if stable else None

    def _archive(self) -> dict[str, str]:
        return {each.key: each.etag for each in self.store.objects(f"archive/{self.model.name}/")}

    def _events(self) -> dict[str, str]:
        return {each.key: each.etag for each in self.store.objects(f"ledger/{self.model.name}/events/")}


def _said(tried: Attempt) -> str:
    return f"{tried.error}: {tried.sentence}"
