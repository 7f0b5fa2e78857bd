"""What the user has to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model_release.errors.base import BadInput, did_you_mean, listing


class ControlRefused(BadInput):
    """A replica's control API is restricted, and the environment's key does not open it."""

    def __init__(self, replica: str, expected: str, sent: str | None) -> None:
        why = "the environment has no triton_key" if sent is None else f"the triton_key for {sent!r} does not open it"
        super().__init__(
            f"the Triton replica {replica} refuses its control API, which wants the header {expected!r}: {why}. "
            "Nothing was changed there. Set triton_key in the environment to the name=value that the replica was "
            "started with."
        )


class BadModelConfig(BadInput):
    """A YAML file is not a valid model config (or environment)."""

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        self.path, self.problems = path, list(problems)
        lines = "; ".join(self.problems)
        super().__init__(f"{path} is not valid: {lines}. Correct the file, then run 'model-release check'.")


class AskedWrongly(BadInput):
    """What was asked of a release does not fit together."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"what was asked of {model} does not hold: {why}. Nothing was started; ask again.")


class StoreLacksVerb(BadInput):
    """The S3 of the environment answers, and does not do something that every release relies on."""

    def __init__(self, where: str, verb: str, did: str, needed: str) -> None:
        self.verb = verb
        super().__init__(
            f"the store {where} lacks {verb}: {did}. {needed} No claim was taken and nothing was released. "
            "Name AWS S3, or an S3 that has it, in the environment's s3, then run again."
        )


class RouterLacks(BadInput):
    """The spec asks for something that the router of the environment cannot do."""

    def __init__(self, model: str, router: str, lacks: Mapping[str, str]) -> None:
        wanted = "; ".join(f"{asked} needs {ability}" for asked, ability in lacks.items())
        super().__init__(
            f"the router {router} cannot serve {model} as its config asks: {wanted}. Leave that out, or name a router "
            "that can."
        )


class SigningKeyUnusable(BadInput):
    """A key that the environment's `signing` names does not open."""

    def __init__(self, which: str, why: str) -> None:
        super().__init__(
            f"{which} of the environment's signing cannot be used: {why}. Nothing was signed or verified. Name a PEM "
            "of an EC key (P-256, P-384 or P-521) that this process may read; 'model-release check' tries it."
        )


class SignerMissing(BadInput):
    """Something has to be signed and the environment has no signer."""

    def __init__(self) -> None:
        super().__init__(
            "the environment has no signer: signing.private_key and signing.pkcs11_uri are empty, and what is not "
            "signed could not be deployed. Name one of them, or build where there is a signer and import the version."
        )


class ReportMissing(BadInput):
    """The ledger knows no such release."""

    def __init__(self, model: str, run: str | None, version: int | None) -> None:
        what = f"the run {run}" if run else f"version {version}" if version else "any release"
        super().__init__(f"the ledger of {model} knows nothing of {what}. 'model-release history {model}' lists it.")


class UnknownModel(BadInput):
    """No config of that name exists."""

    def __init__(self, name: str, known: Sequence[str], folder: str) -> None:
        super().__init__(
            f"no model config named {name!r} in {folder}.{did_you_mean(name, known)} There are: {listing(known)}."
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
            f"{len(names)} {what} ({listing(names, 3)})"
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


class PartFails(ModelRefusesInputs):
    """A part of an ensemble in Python does not start, or does not answer inputs that the spec allows."""

    def __init__(self, part: str, what: str, why: str) -> None:
        BadInput.__init__(
            self,
            f"the part {part}, which is Python, fails on {what}: {why}. Correct its model.py, or the inputs and "
            "outputs that the spec says it has.",
        )


class ProviderMissing(BadInput):
    """ONNX Runtime would take another execution provider than the one that was asked for."""

    def __init__(self, model: str, asked: str, got: Sequence[str], why: str = "") -> None:
        because = f" ({why})" if why else ""
        super().__init__(
            f"parity of {model} is asked for on {asked}, and ONNX Runtime offers {listing(got)} here{because}. "
            "Run the step where that device is, or take it out of parity.providers."
        )


class TensorRTMissing(BadInput):
    """An engine is to be built where it can't be."""

    def __init__(self, model: str, what: str) -> None:
        super().__init__(
            f"{model} has serving.backend: tensorrt, and {what} is not here. An engine is built where the GPU and "
            "TensorRT of the fleets are: run validate on such a worker, with the version of the package tensorrt that "
            "Triton's image has; or leave backend out and name tensorrt in serving.accelerators, and each replica "
            "builds its own."
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
