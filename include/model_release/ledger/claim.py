"""
Claims and epochs: one writer at a time, and the newest wins.

Every try of every step raises the epoch. Whoever writes compares its own epoch with the ledger's first; the route
carries the epoch too and refuses an older one itself. The clock of a claim is the store's, the same for every worker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Self

from model_release.errors import ClaimHeld, ReleaseError, Superseded
from model_release.identity import Kind, Mode, Release
from model_release.ledger.state import ClaimRecord, State, StateFile
from model_release.repository.store import ObjectStore

_SUPERSEDED_KEPT = 200

APPROVE = "approve"
"""The phase in which a person is asked; the claim is held meanwhile, though no step may run that renews it."""

log = logging.getLogger(__name__)


class NothingLeft(Exception):
    """
    What a step would do is done: raised by a `demand`, so that the claim stays with the step that came after it.

    `result` is what the step came to.
    """

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("there is nothing left to do")
        self.result = result


class Claim:
    """The claim of one try of one step; inside `with` it is renewed until the step ends."""

    def __init__(self, file: StateFile, store: ObjectStore, state: State, lease_s: float) -> None:
        self._file = file
        self._store = store
        self._model = state.model
        self.epoch = state.epoch
        self._lease_s = lease_s
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew_until_stopped, name=f"lease-{self.epoch}", daemon=True)

    def check(self) -> State:
        """Return the newest state. Raises Superseded when a newer epoch exists."""
        return self._own(self._file.read())

    def change(self, mutate: Callable[[State], State]) -> State:
        """Change the state if the epoch is still ours. Raises Superseded when it is not."""
        return self._file.change(lambda state: mutate(self._own(state)))

    def renew(self) -> None:
        """Move the end of the lease. Raises Superseded when the claim is gone."""
        expires_at = self._store.now() + timedelta(seconds=self._lease_s)

        def later(state: State) -> State:
            claim = state.claim
            return state.model_copy(
                update={"claim": claim.model_copy(update={"expires_at": expires_at}) if claim else None}
            )

        self.change(later)

    def _own(self, state: State) -> State:
        if state.epoch != self.epoch:
            raise Superseded(self._model, self.epoch, state.epoch, state.claim.holder if state.claim else None)
        return state

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self._lease_s / 3):
            try:
                self.renew()
            except Superseded:
                return
            except ReleaseError as error:
                log.warning("the lease of %s was not renewed: %s", self._model, error)

    def __enter__(self) -> Self:
        self._renewer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._renewer.join()


def busy_until(claim: ClaimRecord) -> datetime:
    """Return when others may take a claim over: once its lease is over, or a person has not answered in time."""
    if claim.phase == APPROVE and claim.held_until is not None:
        return max(claim.expires_at, claim.held_until)
    return claim.expires_at


def take(
    file: StateFile,
    store: ObjectStore,
    release: Release,
    phase: str,
    lease_s: float,
    *,
    begins: bool = False,
    ends: bool = False,
    stands_in: bool = False,
    demand: Callable[[State], None] | None = None,
) -> Claim:
    """
    Take the model's claim for one try of a step and raise the epoch.

    A release `begins` with its first step. A restore then preempts whoever holds the claim; a build, and a dry run of
    anything, waits for a live one and takes an expired one over. Every other step demands that its own run holds the
    claim. The step that `ends` a release gives the claim back: a try of it that comes after one that died may have it
    again, unless another release began since. Who `stands_in` for a release acts as it, and only where it is dead in
    just this phase. `demand` raises for a state that is not the one the caller has decided on; nothing is taken then.
    Raises ClaimHeld, also at a release that lives while somebody `stands_in` for it, and Superseded for a run that lost
    the claim before: it never gets it back.
    """
    now = store.now()

    def claimed(state: State) -> State:
        if demand is not None:
            demand(state)
        held = state.claim
        if stands_in and held is not None and (held.expires_at > now or held.phase != phase):
            raise ClaimHeld(release.model, held.holder, held.phase, (held.expires_at - now).total_seconds())
        if release.holder in state.superseded or not (begins or _is_its_own(state, release, ends=ends)):
            raise Superseded(release.model, 0, state.epoch, held.holder if held else None)
        superseded = state.superseded
        if held is not None and held.holder != release.holder:
            until = busy_until(held)
            preempts = release.kind is Kind.RESTORE and release.mode is not Mode.DRY_RUN
            if until > now and not preempts:
                raise ClaimHeld(release.model, held.holder, held.phase, (until - now).total_seconds())
            superseded = [*superseded, held.holder][-_SUPERSEDED_KEPT:]
        claim = ClaimRecord(
            run_id=release.run_id,
            clear_number=release.clear_number,
            kind=release.kind,
            mode=release.mode,
            version=release.version,
            phase=phase,
            expires_at=now + timedelta(seconds=lease_s),
            held_until=held.held_until if held is not None and held.phase == phase else None,
        )
        return state.model_copy(update={"epoch": state.epoch + 1, "claim": claim, "superseded": superseded})

    return Claim(file, store, file.change(claimed), lease_s)


def as_seen(seen: State, *, unanswered: bool = False) -> Callable[[State], None]:
    """
    Return a demand that the claim and the canary are still those that were seen, before they are taken away.

    With `unanswered` also that no person has decided anything since. It raises Superseded.
    """

    def said(state: State) -> list[object]:
        held_until = state.claim.held_until if state.claim else None
        return [held_until, state.release.decisions if state.release else None]

    def demand(state: State) -> None:
        holders = [each.claim.holder if each.claim else None for each in (seen, state)]
        if holders[0] != holders[1] or seen.canary != state.canary or (unanswered and said(seen) != said(state)):
            raise Superseded(state.model, seen.epoch, state.epoch, holders[1])

    return demand


def _is_its_own(state: State, release: Release, *, ends: bool) -> bool:
    """Say whether a release holds the claim or, where a step `ends` it, gave it back with nobody after it."""
    last = state.release if ends and state.claim is None else state.claim
    return last is not None and last.holder == release.holder
