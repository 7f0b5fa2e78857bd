"""Checks of a running release that did not pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model_release.errors.base import Failed, listing


class BytesDiffer(Failed):
    """An object's bytes are not the sealed ones."""

    def __init__(self, key: str, got: str, sealed: str) -> None:
        super().__init__(f"the bytes of {key} changed: got {got}, sealed as {sealed}. It is not served.")


class DigestDiffers(Failed):
    """Another place has sealed the version, and as another than is asked for."""

    def __init__(self, model: str, version: int, where: str, got: str, asked: str) -> None:
        super().__init__(
            f"version {version} of {model} in {where} is {got}, not {asked}. Nothing was imported. "
            f"'model-release verify {model} {version}' says the digest there; it changes when the version is tuned."
        )


class SignatureInvalid(Failed):
    """What is signed is not what lies there, or nobody who is believed signed it."""

    def __init__(self, key: str, why: str, pinned: Sequence[str]) -> None:
        super().__init__(
            f"no signature of {key} is believed: {why}. It is put on no fleet. Pinned are {listing(pinned)}. If the "
            "signer changed, add its public key to signing.trusted; if not, find out who wrote there, and restore "
            "another version."
        )


class LoadFailed(Failed):
    """A replica refused to load the version."""

    def __init__(self, replica: str, model: str, version: int, why: str) -> None:
        super().__init__(
            f"the replica {replica} refused to load {model} version {version}: {why}. No weight was moved."
        )


class RecycleFailed(Failed):
    """A replica that is unwell was not started anew, or did not come back."""

    def __init__(self, replica: str, why: str) -> None:
        super().__init__(
            f"the replica {replica} was not recycled: {why}. Start it anew by hand, one replica at a time."
        )


class ProofFailed(Failed):
    """A replica does not serve exactly what it should; without a version it was asked of whichever it serves."""

    def __init__(self, replica: str, model: str, version: int | None, why: str) -> None:
        asked = model if version is None else f"{model} version {version}"
        super().__init__(f"the replica {replica} is not proved to serve {asked}: {why}.")


class BenchmarkFailed(Failed):
    """perf_analyzer gave no usable measurement."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"the benchmark of {model} gave no result: {why}.")


class BenchDied(Failed):
    """The server on bench ended, or hangs, since it was given the version."""

    def __init__(self, replica: str, model: str, version: int, why: str) -> None:
        super().__init__(
            f"the server {replica} was up, and is not since it was given {model} version {version}: {why} No fleet was "
            "touched. A version that ends or hangs its server is not released; the server's log says why."
        )


class ServedParityFailed(Failed):
    """Triton's own answers on bench are not the recorded ones, alone or in batches with others."""

    def __init__(self, replica: str, model: str, version: int, why: str) -> None:
        super().__init__(
            f"{replica} does not serve {model} version {version} as it was recorded: {why}. No fleet was touched."
        )


class ObjectiveNotMet(Failed):
    """No candidate config meets the latency objective, or the version is too slow."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"{model} does not meet its benchmark objective: {why}. No fleet was touched.")


class DoesNotFit(Failed):
    """A replica has not the memory to load the version beside the one that it serves."""

    def __init__(
        self, model: str, version: int, replica: str, needed: Mapping[str, float], free: Mapping[str, float]
    ) -> None:
        def told(bytes_by_place: Mapping[str, float]) -> str:
            return ", ".join(f"{value / 1e9:.2f} GB on {place}" for place, value in bytes_by_place.items())

        super().__init__(
            f"{model} version {version} took {told(needed)} on bench, and the replica {replica} has {told(free)} free "
            "beside what it serves. No fleet was touched. Serve fewer instances, or models, a replica, or give it more."
        )


class RouteNotConfirmed(Failed):
    """The router, or the replicas behind it, do not show the weights that were set."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"the route of {model} is not confirmed: {why}.")


class RouteUnreadable(Failed):
    """The router's own files do not hold; they are never overwritten by a guess."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"the router's file {path} cannot be read: {why}. It was left as it is, and the router goes on with what "
            "it read last. Put the file right, or move all files of its folder away and set each model's route again."
        )


class NotApproved(Failed):
    """A person had to say yes, and did not."""

    def __init__(self, version: int, said: str) -> None:
        super().__init__(f"version {version} was not approved: {said}. Release it again to ask again.")


class RolledBack(Failed):
    """The release went back; the run ends red."""

    def __init__(self, model: str, version: int, reason: str) -> None:
        super().__init__(f"{model} version {version} was rolled back: {reason}")


class NotAsAsked(Failed):
    """What serves is not what was asked for."""

    def __init__(self, model: str, differences: Sequence[str]) -> None:
        super().__init__(f"{model} does not serve what was asked: {'; '.join(differences)}.")
