"""A model that does not export, or whose file is not proved to answer as it should."""

from __future__ import annotations

from model_release.errors.base import Failed, versioned


class ExportFailed(Failed):
    """The model does not become a valid ONNX file."""

    def __init__(self, model: str, why: str, hint: str = "") -> None:
        super().__init__(f"{model} does not export to ONNX: {why}." + (f" {hint}" if hint else ""))


class EngineFailed(Failed):
    """TensorRT builds no engine of the ONNX file."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(
            f"TensorRT builds no engine of {model}: {why}. Change the model, or serve its ONNX file: leave "
            "serving.backend out."
        )


class ParityFailed(Failed):
    """The ONNX file answers differently from the PyTorch model."""

    def __init__(
        self, model: str, output: str, batch_size: int, worst_abs: float, allowed: str, differing: str
    ) -> None:
        super().__init__(
            f"the exported {model} disagrees with PyTorch: output {output!r} at batch size {batch_size} differs by "
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


class TorchScriptUnusable(OnnxUnusable):
    """The TorchScript file cannot be compared with the PyTorch model at all."""

    def __init__(self, model: str, why: str) -> None:
        Failed.__init__(
            self,
            f"the TorchScript of {model} cannot be served as it is: {why}. Nothing was published; trace or script the "
            "model again.",
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
            f"the exported {model} is not finite where PyTorch is, or the other way about: output {output!r}, "
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


class AccuracyTooLow(Failed):
    """The version answers the golden set worse than it may."""

    def __init__(self, model: str, version: int | None, got: float, least: float, where: str) -> None:
        super().__init__(
            f"{versioned(model, version)} answers {got:.4f} of the golden set rightly on {where}, "
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
            f"{versioned(model, version)} answers {accuracies[0]:.4f} of the {samples} golden samples rightly on "
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
