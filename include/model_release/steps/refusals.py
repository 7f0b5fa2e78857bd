"""What may not be released: rules that are read from the ledger and the archive, and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from model_release.errors import (
    AlreadyStable,
    ContractBroken,
    OrderStale,
    RouterLacks,
    StaleBuild,
    VersionPruned,
    VersionRejected,
)
from model_release.identity import Kind, Release
from model_release.ledger.state import State
from model_release.spec import ModelSpec
from model_release.steps.context import Sight
from model_release.steps.serve import spec_of
from model_release.traffic.router import ARM_COUNTERS, CROSS_ARM_RETRY, MIRROR, STICKY, Router


def refuse(sight: Sight, release: Release, spec: ModelSpec, state: State) -> None:
    """
    Refuse what a rule forbids; `spec` is the one that a build would go by.

    Raises AlreadyStable, OrderStale, VersionPruned, VersionNotFound, VersionRejected, StaleBuild, ContractBroken,
    SignatureMissing, SignatureInvalid.
    """
    refuse_stable(release, state)
    sight.archive.refuse_pruned(release.version)
    if release.version in state.pruned:
        raise VersionPruned(release.model, release.version)
    refuse_by_ledger(release, state)
    if release.kind is Kind.RESTORE:
        spec = spec_of(sight, sight.archive.require(release.version))
        sight.signatures.require_signer_of(release.version)
    elif state.stable is not None:
        sight.signatures.require_signer_of(state.stable.version)  # bench will have it too, to compare with
    _refuse_broken_contract(sight, spec, state)


def refuse_router(router: Router, where: str, model: str, spec: ModelSpec) -> None:
    """
    Refuse a spec that needs something that the router cannot do.

    Raises RouterLacks.
    """
    canary = spec.canary
    needs = {
        "canary.gates": (ARM_COUNTERS, any(not gate.dry_run for gate in canary.gates)),
        "canary.sticky_header": (STICKY, canary.sticky_header is not None),
        "canary.try_timeout_s": (CROSS_ARM_RETRY, canary.try_timeout_s is not None),
        "canary.shadow": (MIRROR, canary.shadow is not None),
    }
    lacks = {
        asked: ability for asked, (ability, needed) in needs.items() if needed and ability not in router.capabilities
    }
    if lacks:
        raise RouterLacks(model, where, lacks)


def refuse_stable(release: Release, state: State) -> None:
    """Raise AlreadyStable when the version has the traffic."""
    if state.stable is not None and state.stable.version == release.version:
        canary = state.canary.version if state.canary else None
        raise AlreadyStable(release.model, release.version, canary)


def refuse_by_ledger(release: Release, state: State) -> None:
    """
    Refuse what was decided otherwise since.

    An order that may be out of date is carried out only if nothing was promoted since it was given; a rejected version
    comes back by a restore that says why; a build of an old date is wanted by a backfill alone. Raises OrderStale,
    VersionRejected, StaleBuild.
    """
    newest = max(state.promotions, key=lambda promotion: promotion.at, default=None)
    if newest is not None and release.asked_at is not None and newest.at > datetime.fromisoformat(release.asked_at):
        promoted_at = f"{newest.at:%Y-%m-%d %H:%M:%S} UTC"
        raise OrderStale(release.model, release.version, release.asked_at, newest.version, promoted_at)
    restores = release.kind is Kind.RESTORE
    rejection = state.rejection_of(release.version)
    if rejection is not None and not (restores and release.reason.strip()):
        raise VersionRejected(release.model, release.version, rejection.reason)
    if release.version < state.newest_decision and not restores and not release.backfill:
        raise StaleBuild(release.model, release.version, state.newest_decision)


def _refuse_broken_contract(sight: Sight, spec: ModelSpec, state: State) -> None:
    """Compare inputs and outputs with those that stable's clients were built for."""
    if state.stable is None:
        return
    before = spec_of(sight, sight.archive.require(state.stable.version))
    changes = [
        *_tensor_changes("input", before.inputs, spec.inputs, additions_break=True),
        *_tensor_changes("output", before.outputs, spec.outputs, additions_break=False),
    ]
    if changes:
        raise ContractBroken(sight.model, changes, spec.contract)


def _tensor_changes(what: str, before: Sequence[Any], after: Sequence[Any], *, additions_break: bool) -> list[str]:
    old = {tensor.name: (tensor.dtype, tensor.shape) for tensor in before}
    new = {tensor.name: (tensor.dtype, tensor.shape) for tensor in after}
    gone = [f"{what} {name!r} is gone" for name in old if name not in new]
    added = [f"{what} {name!r} is new" for name in new if name not in old] if additions_break else []
    changed = [
        f"{what} {name!r} was {_shown(old[name])}, is {_shown(new[name])}"
        for name in old
        if name in new and old[name] != new[name]
    ]
    return [*gone, *added, *changed]


def _shown(tensor: tuple[str, list[int | str]]) -> str:
    return f"{tensor[0]}{tensor[1]}"
