"""What a rule of the pipeline forbids."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from model_release.errors.base import Refused, listing


class ClaimHeld(Refused):
    """Another release holds the model."""

    retryable = True

    def __init__(self, model: str, holder: str, phase: str, expires_in_s: float) -> None:
        super().__init__(
            f"{model} is being released by {holder} (in {phase}, its lease ends in {max(0, expires_in_s):.0f} s). "
            "Wait for it; a live canary is ended with 'model-release rollback'."
        )


class Superseded(Refused):
    """A newer epoch exists: this try may write nothing more. `holder` is the run that has it, None if nobody has."""

    def __init__(self, model: str, own_epoch: int, epoch: int, holder: str | None) -> None:
        super().__init__(
            f"epoch {own_epoch} of {model} is superseded by epoch {epoch} ({holder or 'no one holds it now'}). "
            "This try changed nothing more."
        )
        self.holder = holder

    def is_by(self, holder: str) -> bool:
        """Say whether another try of the same run came, as where the guard looks in the place of a silent release."""
        return self.holder == holder


class BenchLost(Refused):
    """Another model's benchmark has bench since: what was measured is not told from what both did together."""

    def __init__(self, model: str, version: int, holder: str) -> None:
        super().__init__(
            f"the benchmark of {model} version {version} lost bench to {holder}: it gave no sign of life for as "
            "long as its lease was. Nothing of it was kept; run it again."
        )


class VersionTaken(Refused):
    """The version is sealed, from another source."""

    def __init__(self, model: str, version: int, sealed_from: str, asked: str) -> None:
        super().__init__(
            f"version {version} of {model} is sealed from source {sealed_from}, not from {asked}. "
            "A sealed version never changes: release the new checkpoint under another version."
        )


class SignatureMissing(Refused):
    """The environment requires signatures and a part of the version has none."""

    def __init__(self, model: str, version: int, part: str, pinned: Sequence[str]) -> None:
        super().__init__(
            f"version {version} of {model} is not signed: {part}/manifest.json has no signature. It is put on no "
            f"fleet. The environment believes {listing(pinned)}. If you vouch for the version, sign it: "
            f"model-release sign {model} {version}."
        )


class VersionNotFound(Refused):
    """The archive holds no such sealed version."""

    def __init__(self, model: str, version: int, sealed: Sequence[int]) -> None:
        names = [str(v) for v in sorted(sealed, reverse=True)]
        super().__init__(f"version {version} of {model} is not in the archive. Sealed versions: {listing(names)}.")


class VersionPruned(VersionNotFound):
    """The version was sealed once, and pruned."""

    def __init__(self, model: str, version: int, when_and_by_whom: str = "", why: str = "", source: str = "") -> None:
        Refused.__init__(
            self,
            f"version {version} of {model} was pruned{f' {when_and_by_whom}' if when_and_by_whom else ''}"
            f"{f' ({why})' if why else ''}: its files are gone, and it is never built or restored again. "
            f"Restore a version that is sealed, or release its checkpoint{f' {source}' if source else ''} "
            "under another version.",
        )


class CanaryLive(Refused):
    """A version is under test, and what is asked has to wait for its end."""

    retryable = True

    def __init__(self, model: str, version: int, fleet: str) -> None:
        super().__init__(
            f"the canary {version} of {model} is live on {fleet}: nothing of {model} is pruned, and nothing brought to "
            f"it, before it is promoted or gone. Wait for it, or end it with 'model-release rollback {model}'."
        )


class VersionRejected(Refused):
    """The version was rolled back before."""

    def __init__(self, model: str, version: int, why: str) -> None:
        super().__init__(
            f"version {version} of {model} was rejected: {why}. "
            f"Only a restore that says why deploys it again: "
            f"model-release rollback {model} --to {version} --reason '...'."
        )


class StaleBuild(Refused):
    """A newer version was promoted or restored since this build's date."""

    def __init__(self, model: str, version: int, newest: int) -> None:
        super().__init__(
            f"the build {version} of {model} is stale: {newest} was decided later. "
            "Restore a sealed version with a backfill of its date or with 'model-release rollback --to', or release a "
            "newer checkpoint."
        )


class OrderStale(Refused):
    """Another version was promoted since this release was asked for."""

    def __init__(self, model: str, version: int, asked_at: str, newest: int, promoted_at: str) -> None:
        super().__init__(
            f"version {version} of {model} was asked for at {asked_at}, and version {newest} was promoted since, at "
            f"{promoted_at}: an old order, cleared or left waiting, moves no traffic. If it is still wanted, ask anew: "
            f"a new backfill of its date, or model-release rollback {model} --to {version} --reason '...'."
        )


class NotBenchmarked(Refused):
    """The benchmark that was planned has not sealed anything."""

    def __init__(self, model: str, version: int) -> None:
        super().__init__(
            f"version {version} of {model} was to be benchmarked, and no benchmark of it is sealed: it goes on no "
            "fleet. Let the benchmark run, or release with the benchmark switched off."
        )


class AlreadyStable(Refused):
    """The version that is asked for has the traffic already."""

    def __init__(self, model: str, version: int, canary: int | None = None) -> None:
        self.canary = canary
        live = f" To end its live canary {canary}: model-release rollback {model} --reason '...'." if canary else ""
        super().__init__(
            f"version {version} of {model} is stable already: there is nothing to release. "
            f"Name another checkpoint under another version, or restore another sealed version.{live}"
        )


class ContractBroken(Refused):
    """The version's inputs and outputs break stable's clients."""

    def __init__(self, model: str, changes: Sequence[str], contract: int) -> None:
        super().__init__(
            f"the new version of {model} breaks the contract of the stable one: {'; '.join(changes)}. "
            f"A canary would fail its clients: raise contract in the model config to {contract + 1}, and it is served "
            "under a name of its own beside this one."
        )


class NothingToRollBackTo(Refused):
    """No earlier version can take the traffic."""

    def __init__(self, model: str) -> None:
        super().__init__(f"{model} has no live canary, no standby and no earlier promoted version to go back to.")


class NoAdvanceVerdict(Refused):
    """The stage before was not judged `advance`."""

    def __init__(self, model: str, stage: int, verdict: str | None) -> None:
        super().__init__(
            f"{model} may not go past stage {stage}: the ledger's verdict of it is {verdict or 'missing'}, not advance."
        )


class ChangeFrozen(Refused):
    """A change policy lets no build start or advance now."""

    def __init__(self, model: str, what: str, start: datetime, end: datetime, reason: str, now: datetime) -> None:
        reaches = "" if start <= now else f", which begins at {start.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        super().__init__(
            f"no build of {model} {what} before {end.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {reason}{reaches}. Release "
            "it again after that. A restore always may: model-release rollback."
        )


class TooManyReleases(Refused):
    """A change policy's limit on builds a day is reached."""

    def __init__(self, whose: str, limit: int, free_at: datetime, now: datetime) -> None:
        wait_min = max(0.0, (free_at - now).total_seconds() / 60)
        super().__init__(
            f"{limit} builds of {whose} began within 24 hours, and change_policy.max_releases_a_day allows no more. "
            f"The next may begin at {free_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, in {wait_min:.0f} minutes. A restore "
            "always may: model-release rollback."
        )


class CanaryQueued(Refused):
    """Another model's canary was on the fleet pair for as long as one waits."""

    def __init__(self, model: str, pair: str, first: str, version: int, place: int, waited_s: float) -> None:
        others = "" if place == 1 else f", and {place - 1} more waited before it"
        super().__init__(
            f"{model} waited {waited_s:g} s for its turn at the fleet pair {pair!r}, where {first} version {version} "
            f"has its canary{others}. 'model-release status' shows the queue. Release it again, or end the other: "
            f"model-release abort {first}."
        )


class NothingToDecide(Refused):
    """No release of the model waits for a person."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(
            f"{model} waits for no decision: {why or 'it was decided in this moment'}. A stage that is held and an "
            f"approval wait for one; 'model-release status {model}' says what goes on, and a live canary is ended "
            f"with 'model-release abort {model}'."
        )


class RouteTakenOver(Refused):
    """The route carries a newer epoch."""

    def __init__(self, model: str, own_epoch: int, epoch: int) -> None:
        super().__init__(f"the route of {model} carries epoch {epoch}, newer than {own_epoch}: it was left as it is.")
