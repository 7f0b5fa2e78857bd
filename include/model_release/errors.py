"""
Every error of the library, as classes that take facts and build the sentence.

    ReleaseError
    ├── BadInput                 the user has to change something
    │   ├── BadModelConfig       a model config or environment file does not hold
    │   ├── UnknownModel
    │   ├── CheckpointMissing
    │   ├── CheckpointUnreadable
    │   │   └── CheckpointUnsafe     its bytes would run code, or escape their folder
    │   ├── TensorsDoNotMatch
    │   ├── FactoryFailed
    │   ├── ModelRefusesInputs
    │   ├── ProviderMissing      an execution provider that the spec names is not on this machine
    │   ├── SamplesUnusable
    │   └── LookUnusable
    ├── Unavailable              an outside system did not answer; a retry may help
    │   ├── StoreUnavailable
    │   ├── ReplicaUnavailable
    │   ├── RouterUnavailable
    │   └── MetricsUnavailable
    ├── Refused                  a rule of the pipeline forbids it
    │   ├── ClaimHeld
    │   ├── Superseded
    │   ├── VersionTaken
    │   ├── VersionNotFound
    │   ├── VersionRejected
    │   ├── StaleBuild
    │   ├── AlreadyStable
    │   ├── ContractBroken
    │   ├── NothingToRollBackTo
    │   ├── NoAdvanceVerdict
    │   └── RouteTakenOver
    └── Failed                   a check did not pass
        ├── ExportFailed
        ├── ParityFailed
        │   ├── OnnxUnusable
        │   ├── OutputMisdeclared    an output is of another shape or dtype than the spec says
        │   ├── NotFinite            NaN or an infinity on one side alone
        │   │   └── Overflow         float16 is too narrow for an inner value
        │   ├── BatchDependent
        │   └── NotDeterministic
        ├── BytesDiffer
        ├── LoadFailed
        ├── ProofFailed
        ├── AccuracyTooLow
        │   └── AccuracyNotProven    not shown to be as good as another version
        ├── StableUnusable       stable's ONNX file does not answer, so nothing can be compared with it
        ├── EmbeddingMoved
        ├── ProcessDied          the child process that runs a checkpoint's code ended without an answer
        ├── BenchmarkFailed
        ├── ObjectiveNotMet
        ├── RouteNotConfirmed
        ├── RouteUnreadable
        ├── RolledBack
        └── NotAsAsked

A message says what happened, where, what was got, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ReleaseError(Exception):
    """Anything that ends a release, with one sentence for a person."""

    retryable = False


class BadInput(ReleaseError):
    """What the user gave does not hold; the same call fails again until it is changed."""


class Unavailable(ReleaseError):
    """An outside system did not answer; nothing was changed and a retry may help."""

    retryable = True


class Refused(ReleaseError):
    """A rule of the pipeline forbids the step."""


class Failed(ReleaseError):
    """A check of the release did not pass."""


def revived(name: str, message: str) -> ReleaseError:
    """Return the error of that class name with a sentence that was built before, in a report or in another process."""
    waiting = [ReleaseError]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == name:
            error = kind.__new__(kind)
            Exception.__init__(error, message)
            return error
        waiting += kind.__subclasses__()
    return ReleaseError(message)


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """Return ' Did you mean X?' for a close match of `got`, else an empty string."""
    close = difflib.get_close_matches(got, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _versioned(model: str, version: int | None) -> str:
    return model if version is None else f"{model} version {version}"


def _listing(names: Sequence[str], most: int = 8) -> str:
    """Join the first names and say how many more there are."""
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


# --- bad input ---------------------------------------------------------------------------------


class BadModelConfig(BadInput):
    """A YAML file is not a valid model config (or environment)."""

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        self.path, self.problems = path, list(problems)
        lines = "; ".join(self.problems)
        super().__init__(f"{path} is not valid: {lines}. Correct the file, then run 'model-release check'.")


class UnknownModel(BadInput):
    """No config of that name exists."""

    def __init__(self, name: str, known: Sequence[str], folder: str) -> None:
        super().__init__(
            f"no model config named {name!r} in {folder}.{did_you_mean(name, known)} There are: {_listing(known)}."
        )


class CheckpointMissing(BadInput):
    """The checkpoint's URI names nothing."""

    def __init__(self, uri: str, why: str = "there is no such object") -> None:
        super().__init__(
            f"no checkpoint at {uri}: {why}. Write the checkpoint there first, or name another with --checkpoint."
        )


class CheckpointUnreadable(BadInput):
    """The checkpoint's bytes are not of the form that the spec names."""

    def __init__(self, uri: str, why: str) -> None:
        super().__init__(
            f"the checkpoint {uri} cannot be read: {why}. It must be a whole file of the form that source.format names "
            "(a state_dict: .safetensors, or .pt/.pth that loads with weights_only); nothing was published."
        )


class CheckpointUnsafe(CheckpointUnreadable):
    """Loading the checkpoint would run code that nobody allowed, or write outside of its folder."""

    def __init__(self, uri: str, why: str, instead: str) -> None:
        BadInput.__init__(
            self, f"the checkpoint {uri} is refused before anything of it is loaded: {why}. {instead} Nothing ran."
        )


class TensorsDoNotMatch(BadInput):
    """The checkpoint is for another architecture than the factory builds."""

    def __init__(
        self,
        uri: str,
        factory: str,
        missing: Sequence[str],
        unexpected: Sequence[str],
        misshaped: Sequence[str],
    ) -> None:
        parts = [
            f"{len(names)} {what} ({_listing(names, 3)})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another form", misshaped))
            if names
        ]
        super().__init__(
            f"the checkpoint {uri} does not fit the model that {factory} builds: "
            f"tensors {'; '.join(parts)}. Name the factory (or factory_kwargs) it was trained with."
        )


class FactoryFailed(BadInput):
    """`source.factory` cannot be imported or called."""

    def __init__(self, factory: str, why: str) -> None:
        super().__init__(
            f"the factory {factory} does not build a torch.nn.Module: {why}. "
            "It is 'package.module:function', found on PYTHONPATH."
        )


class ModelRefusesInputs(BadInput):
    """The PyTorch model itself fails on inputs that the spec allows."""

    def __init__(self, model: str, what: str, why: str) -> None:
        super().__init__(
            f"the PyTorch model of {model} fails on {what}: {why}. Correct inputs, ranges and outputs in the spec, "
            "or the model's forward."
        )


class ProviderMissing(BadInput):
    """ONNX Runtime would take another execution provider than the one that was asked for."""

    def __init__(self, model: str, asked: str, got: Sequence[str], why: str = "") -> None:
        because = f" ({why})" if why else ""
        super().__init__(
            f"parity of {model} is asked for on {asked}, and ONNX Runtime offers {_listing(got)} here{because}. "
            "Run the step where that device is, or take it out of parity.providers."
        )


class SamplesUnusable(BadInput):
    """An .npz of samples or of a golden set does not fit the spec."""

    def __init__(self, uri: str, why: str) -> None:
        super().__init__(f"the samples {uri} cannot be used: {why}.")


class LookUnusable(BadInput):
    """A line of looks is no reading of two arms."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"a look cannot be used: {why}. It is a JSON object with t (s), stage (%), and for canary and stable: "
            "requests, errors and latency_buckets (cumulative, by upper bound in ms)."
        )


# --- unavailable -------------------------------------------------------------------------------


class StoreUnavailable(Unavailable):
    """S3 did not answer, or refused the credentials."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"S3 did not answer for {where}: {why}. Check endpoint_url and credentials, then run again.")


class ReplicaUnavailable(Unavailable):
    """A Triton replica did not answer."""

    def __init__(self, replica: str, why: str) -> None:
        super().__init__(
            f"the Triton replica {replica} did not answer: {why}. Every replica of a fleet has to be up for a "
            "release; start it or take it out of the environment, then run again."
        )


class RouterUnavailable(Unavailable):
    """The router's admin or its route file cannot be reached."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"the router {where} did not answer: {why}.")


class MetricsUnavailable(Unavailable):
    """The source of a look did not answer."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"no metrics from {where}: {why}.")


# --- refused -----------------------------------------------------------------------------------


class ClaimHeld(Refused):
    """Another release holds the model."""

    retryable = True

    def __init__(self, model: str, holder: str, phase: str, expires_in_s: float) -> None:
        super().__init__(
            f"{model} is being released by {holder} (in {phase}, its lease ends in {max(0, expires_in_s):.0f} s). "
            "Wait for it; a live canary is ended with 'model-release rollback'."
        )


class Superseded(Refused):
    """A newer epoch exists: this try may write nothing more."""

    def __init__(self, model: str, own_epoch: int, epoch: int, holder: str) -> None:
        super().__init__(
            f"epoch {own_epoch} of {model} is superseded by epoch {epoch} ({holder}). This try changed nothing more."
        )


class VersionTaken(Refused):
    """The version is sealed, from another source."""

    def __init__(self, model: str, version: int, sealed_from: str, asked: str) -> None:
        super().__init__(
            f"version {version} of {model} is sealed from source {sealed_from}, not from {asked}. "
            "A sealed version never changes: release the new checkpoint under another version."
        )


class VersionNotFound(Refused):
    """The archive holds no such sealed version."""

    def __init__(self, model: str, version: int, sealed: Sequence[int]) -> None:
        names = [str(v) for v in sorted(sealed, reverse=True)]
        super().__init__(f"version {version} of {model} is not in the archive. Sealed versions: {_listing(names)}.")


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
            "Restore a sealed version with 'model-release rollback --to', or release a newer checkpoint."
        )


class AlreadyStable(Refused):
    """The version that is asked for has the traffic already."""

    def __init__(self, model: str, version: int) -> None:
        super().__init__(
            f"version {version} of {model} is stable already: there is nothing to release. "
            "Name another checkpoint under another version, or restore another sealed version."
        )


class ContractBroken(Refused):
    """The version's inputs and outputs break stable's clients."""

    def __init__(self, model: str, changes: Sequence[str]) -> None:
        super().__init__(
            f"the new version of {model} breaks the contract of the stable one: {'; '.join(changes)}. "
            "A canary would fail its clients: release it under another model name."
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


class RouteTakenOver(Refused):
    """The route carries a newer epoch."""

    def __init__(self, model: str, own_epoch: int, epoch: int) -> None:
        super().__init__(f"the route of {model} carries epoch {epoch}, newer than {own_epoch}: it was left as it is.")


# --- failed ------------------------------------------------------------------------------------


class ExportFailed(Failed):
    """The model does not become a valid ONNX file."""

    def __init__(self, model: str, why: str, hint: str = "") -> None:
        super().__init__(f"{model} does not export to ONNX: {why}." + (f" {hint}" if hint else ""))


class ParityFailed(Failed):
    """The ONNX file answers differently from the PyTorch model."""

    def __init__(
        self, model: str, output: str, batch_size: int, worst_abs: float, allowed: str, differing: str
    ) -> None:
        super().__init__(
            f"the ONNX of {model} disagrees with PyTorch: output {output!r} at batch size {batch_size} differs by "
            f"{worst_abs:.3g} ({differing}), allowed {allowed}. Nothing was published; look for ops that export "
            "differently, or widen parity.atol/rtol if the model tolerates it."
        )


class OnnxUnusable(ParityFailed):
    """The ONNX file cannot be compared with the PyTorch model at all."""

    def __init__(self, model: str, why: str) -> None:
        Failed.__init__(
            self,
            f"the ONNX of {model} cannot be compared with PyTorch: {why}. Nothing was published; "
            "export it again from this checkpoint.",
        )


class OutputMisdeclared(ParityFailed):
    """An output of the model is not what the spec declares."""

    def __init__(self, model: str, output: str, what: str, got: str, declared: str) -> None:
        Failed.__init__(
            self,
            f"output {output!r} of the PyTorch model of {model} is {got} for {what}, the spec says {declared}. "
            "Correct `outputs` of the spec, which clients read, or what forward returns.",
        )


class NotFinite(ParityFailed):
    """NaN or an infinity where the PyTorch model answers otherwise."""

    def __init__(self, model: str, output: str, elements: str, where: str, got: str, reference: str) -> None:
        Failed.__init__(
            self,
            f"the ONNX of {model} is not finite where PyTorch is, or the other way about: output {output!r}, "
            f"{elements}, the first in {where}: {got}, PyTorch answers {reference}. No tolerance covers that: look for "
            "overflow in float16, division by zero, the logarithm of zero, or a range wider than what the model takes.",
        )


class Overflow(NotFinite):
    """An inner value of a float16 graph is beyond what float16 holds."""

    def __init__(self, model: str, operator: str, node: str, what: str) -> None:
        Failed.__init__(
            self,
            f"the float16 graph of {model} overflows: {operator} {node!r} makes infinity or NaN of finite inputs, for "
            f"{what}; float16 ends at 65504. A CPU hides it by computing in float32, a GPU would not. Keep that "
            f"operator in float32 (export.keep_fp32: [{node}]), narrow the range of the inputs, or use "
            "precision: fp32.",
        )


class BatchDependent(ParityFailed):
    """
    An answer depends on its batch, which at serving is made of strangers' requests.

    `on` is what it depends on, `module_too` whether the PyTorch model does as well; None where nobody looked.
    """

    def __init__(
        self,
        model: str,
        output: str,
        batch_size: int,
        worst_abs: float,
        allowed: str,
        *,
        on: str = "neighbours",
        module_too: bool | None = None,
    ) -> None:
        compared = {
            "neighbours": f"of a sample alone and among {batch_size}",
            "place": f"of a sample at one place of {batch_size} and at another",
        }[on]
        who = {
            None: "",
            True: " The PyTorch model does so too: it is the model, not the export.",
            False: " The PyTorch model does not: the export brought it in.",
        }[module_too]
        Failed.__init__(
            self,
            f"the answers of {model} depend on their batch: output {output!r} {compared} differs by {worst_abs:.3g}, "
            f"allowed {allowed}.{who} Triton batches the requests of strangers: make forward treat each sample on its "
            "own, or switch batching off with serving.max_batch_size: 0.",
        )


class NotDeterministic(ParityFailed):
    """The model gives the same input another answer each time."""

    def __init__(self, model: str, output: str, worst_abs: float, who: str, hint: str) -> None:
        Failed.__init__(
            self,
            f"{model} answers the same input differently each time: output {output!r} of {who} differs by "
            f"{worst_abs:.3g} between two runs, so nothing can be compared with it. {hint}",
        )


class BytesDiffer(Failed):
    """An object's bytes are not the sealed ones."""

    def __init__(self, key: str, got: str, sealed: str) -> None:
        super().__init__(f"the bytes of {key} changed: got {got}, sealed as {sealed}. It is not served.")


class LoadFailed(Failed):
    """A replica refused to load the version."""

    def __init__(self, replica: str, model: str, version: int, why: str) -> None:
        super().__init__(
            f"the replica {replica} refused to load {model} version {version}: {why}. No weight was moved."
        )


class ProofFailed(Failed):
    """A replica does not serve exactly what it should."""

    def __init__(self, replica: str, model: str, version: int, why: str) -> None:
        super().__init__(f"the replica {replica} is not proved to serve {model} version {version}: {why}.")


class AccuracyTooLow(Failed):
    """The version answers the golden set worse than it may."""

    def __init__(self, model: str, version: int | None, got: float, least: float, where: str) -> None:
        super().__init__(
            f"{_versioned(model, version)} answers {got:.4f} of the golden set rightly on {where}, "
            f"below the allowed {least:.4f}. It goes no further."
        )


class AccuracyNotProven(AccuracyTooLow):
    """
    The golden set does not show that the version is as good as another one, within the margin.

    `needed` is how many samples would show it if both were equally good; None where no number would.
    """

    def __init__(
        self,
        model: str,
        version: int | None,
        where: str,
        *,
        accuracies: tuple[float, float],
        against: str,
        samples: int,
        lower_bound: float,
        margin: float,
        alpha: float,
        needed: int | None,
    ) -> None:
        if margin > 0 and accuracies[1] - accuracies[0] >= margin:
            hint = "On this set alone it is worse by that much."
        elif needed is None:
            hint = "With a margin of 0 only a better version passes: give accuracy.margin what you can afford to lose."
        elif needed > samples:
            hint = (
                f"The golden set is small: with {needed} samples two equally good versions that disagree as often as "
                "these would pass. Label more, or widen accuracy.margin."
            )
        else:
            hint = "The golden set is large enough for two equally good versions: on it, this one does worse."
        Failed.__init__(
            self,
            f"{_versioned(model, version)} answers {accuracies[0]:.4f} of the {samples} golden samples rightly on "
            f"{where}, {against} {accuracies[1]:.4f}: with {100 * (1 - alpha):g} % confidence it loses up to "
            f"{max(0.0, -lower_bound):.4f}, allowed is less than {margin:.4f}. {hint}",
        )


class StableUnusable(Failed):
    """The ONNX file of stable's version cannot be compared with."""

    def __init__(self, model: str, version: int, what: str, why: str) -> None:
        super().__init__(
            f"version {version} of {model}, which is stable, cannot be asked for {what}: {why}. The new version cannot "
            f"be held against it; take `{what}` out of the model config for this release if it may go without."
        )


class EmbeddingMoved(Failed):
    """The new version's vectors cannot be compared with those that clients have stored."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(
            f"the vectors of {model} do not lie in the space of stable's any more: {why}. Clients that keep vectors of "
            "stable's would compare apples with pears: release it under another model name, with an index of its own, "
            "or set embedding.same_space: reported."
        )


class ProcessDied(Failed):
    """A child process ended without an answer."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"the process that was to {what} ended without an answer: {how}. Nothing was published.")


class BenchmarkFailed(Failed):
    """perf_analyzer gave no usable measurement."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"the benchmark of {model} gave no result: {why}.")


class ObjectiveNotMet(Failed):
    """No candidate config meets the latency objective, or the version is too slow."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"{model} does not meet its benchmark objective: {why}. No fleet was touched.")


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


class RolledBack(Failed):
    """The release went back; the run ends red."""

    def __init__(self, model: str, version: int, reason: str) -> None:
        super().__init__(f"{model} version {version} was rolled back: {reason}")


class NotAsAsked(Failed):
    """What serves is not what was asked for."""

    def __init__(self, model: str, differences: Sequence[str]) -> None:
        super().__init__(f"{model} does not serve what was asked: {'; '.join(differences)}.")
