"""What may not be released: rules that are read from the ledger and the archive, and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_release.errors import AlreadyStable, ContractBroken, RouterLacks, StaleBuild, VersionPruned, VersionRejected
from model_release.identity import Kind, Release
from model_release.ledger.state import State
from model_release.spec import ModelSpec
from model_release.steps.context import Sight
from model_release.steps.serve import spec_of
from model_release.traffic.router import ARM_COUNTERS, CROSS_ARM_RETRY, MIRROR, STICKY, Router


def refuse(sight: Sight, release: Release, spec: ModelSpec, state: State) -> None:
    """
    Refuse what a rule forbids; `spec` is the one that a build would go by.

    Raises AlreadyStable, VersionPruned, VersionNotFound, VersionRejected, StaleBuild, ContractBroken,
    SignatureMissing, SignatureInvalid.
    """
    if state.stable is not None and state.stable.version == release.version:
        canary = state.canary.version if state.canary else None
        raise AlreadyStable(release.model, release.version, canary)
    sight.archive.refuse_pruned(release.version)
    if release.version in state.pruned:
        raise VersionPruned(release.model, release.version)
    if release.kind is Kind.RESTORE:
        spec = spec_of(sight, sight.archive.require(release.version))
        sight.signatures.require_signer_of(release.version)
    else:
        _refuse_build(sight, release, state)
    _refuse_broken_contract(sight, spec, state)


def refuse_router(router: Router, where: str, model: str, spec: ModelSpec) -> None:
    """Raise RouterLacks where the spec needs something that the router cannot do."""
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


def _refuse_build(sight: Sight, release: Release, state: State) -> None:
    rejection = state.rejection_of(release.version)
    if rejection is not None:
        raise VersionRejected(release.model, release.version, rejection.reason)
    if release.version < state.newest_decision:
        raise StaleBuild(release.model, release.version, state.newest_decision)
    if state.stable is not None:
        sight.signatures.require_signer_of(state.stable.version)  # bench will have it too, to compare with


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
