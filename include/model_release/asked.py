"""What a person may ask of one release, refused before anything is started, and the spec that it then goes by."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from model_release.errors import AskedWrongly
from model_release.identity import Kind, Mode, Release, date_of
from model_release.spec import Canary, ModelSpec

#: Of min_bake_s and warmup_s in an emergency, where every minute more is one of a bad stable.
EMERGENCY_BAKE_SHARE = 0.25


def spec_as_asked(spec: ModelSpec, release: Release) -> ModelSpec:
    """
    Return the spec with the bakes that were asked for; the result is what plan freezes.

    Raises AskedWrongly for what does not fit together: a restore or an emergency without a reason, a restore of a
    checkpoint, a version that is no date, bakes that are none.
    """
    try:
        date_of(release.version)
    except ValueError:
        raise AskedWrongly(release.model, f"{release.version} is no version, which is YYYYMMDDHHMMSS in UTC") from None
    if not release.reason.strip():
        if release.mode is Mode.EMERGENCY:
            raise AskedWrongly(release.model, "an emergency needs a reason")
        if release.kind is Kind.RESTORE and not release.backfill:
            raise AskedWrongly(release.model, f"a restore of version {release.version} needs a reason")
    if release.kind is Kind.RESTORE and release.checkpoint is not None and not release.backfill:
        raise AskedWrongly(
            release.model, f"a restore takes version {release.version} as it is sealed, not {release.checkpoint}"
        )
    asked: dict[str, Any] = {
        name: value
        for name, value in (("min_bake_s", release.min_bake_s), ("max_bake_s", release.max_bake_s))
        if value is not None
    }
    if release.mode is Mode.EMERGENCY:
        canary = spec.canary
        shorter = {"min_bake_s": canary.min_bake_s, "warmup_s": canary.warmup_s}
        asked = {**{name: value * EMERGENCY_BAKE_SHARE for name, value in shorter.items()}, **asked}
    if not asked:
        return spec
    try:
        canary = Canary.model_validate({**spec.canary.model_dump(), **asked})
    except ValidationError as error:
        why = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise AskedWrongly(release.model, why) from None
    return spec.model_copy(update={"canary": canary})
