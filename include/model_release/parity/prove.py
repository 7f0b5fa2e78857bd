"""The proof of parity: eager PyTorch against ONNX Runtime, and all that is known of the ONNX file afterwards."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model_release.errors import OnnxUnusable, ReleaseError
from model_release.parity import cases as plans
from model_release.parity import independence, noise
from model_release.parity.candidate import import_onnxruntime
from model_release.parity.chain import Chain
from model_release.parity.files import check_samples
from model_release.parity.outputs import OutputsCompared
from model_release.parity.overflow import find_overflow
from model_release.parity.providers import describe, open_candidates
from model_release.parity.reference import Reference
from model_release.parity.report import PYTORCH, Failure, Independence, Noise, OnnxFile, ParityReport, Source
from model_release.parity.samples import Arrays, count_of
from model_release.parity.stable import Ask, StableVersion
from model_release.parity.versions import VersionsCompared
from model_release.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str], None]


def prove(
    spec: ModelSpec,
    module: nn.Module,
    onnx_path: Path,
    *,
    source: Source,
    version: int | None = None,
    samples: Arrays | None = None,
    golden: Arrays | None = None,
    stable: StableVersion | None = None,
    worst_path: Path | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """
    Hold an ONNX file against the PyTorch module, which must be in eval mode, and return all that was found.

    `samples` are inputs by name, batch axis first; `golden` also has `label` [n], and is asked for by `accuracy`. The
    worst sample of each output is written to `worst_path` (.npz). A proof that fails is a report with failures:
    `report.raise_for_failure()` raises the most important one.
    Raises OnnxUnusable, ModelRefusesInputs, ProviderMissing, SamplesUnusable where nothing can be compared.
    """
    progress, began = progress or (lambda _: None), time.monotonic()
    samples = _checked(spec, samples)
    if golden is not None:
        check_samples(spec, golden, "given as the golden set", with_label=True)
    reference = Reference(spec, module)
    progress("opening the file that will be served")
    onnx, random_nodes = describe(spec, onnx_path)
    candidates, notes = open_candidates(spec, onnx_path)
    # The very list: the proof empties it before it opens stable's weights.
    subject = _Subject(reference, candidates, onnx, notes, random_nodes, module, onnx_path)
    return _Proof(spec, subject, progress, began).run(source, version, samples, golden, stable, worst_path)


def prove_chain(
    spec: ModelSpec,
    reference: Chain,
    candidate: Chain,
    *,
    source: Source,
    files: OnnxFile,
    version: int | None = None,
    samples: Arrays | None = None,
    worst_path: Path | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """
    Hold an ensemble's artefacts, `files`, against its parts' references, and return all that was found.

    Raises ModelRefusesInputs, OnnxUnusable, SamplesUnusable where nothing can be compared.
    """
    subject, progress = _Subject(reference, [candidate], files), progress or (lambda _: None)
    proof = _Proof(spec, subject, progress, time.monotonic())
    return proof.run(source, version, _checked(spec, samples), None, None, worst_path)


def _checked(spec: ModelSpec, samples: Arrays | None) -> Arrays | None:
    """Return the samples' inputs alone, in the spec's order. Raises SamplesUnusable."""
    if samples is None:
        return None
    check_samples(spec, samples, "given to the proof")
    return {tensor.name: samples[tensor.name] for tensor in spec.inputs}


@dataclass(frozen=True)
class _Subject:
    """What is held against what; `module` and `path` are of a single model, which more can be asked of."""

    reference: Ask
    candidates: list[Any]
    onnx: OnnxFile
    notes: list[str] = field(default_factory=list)
    random_nodes: list[str] = field(default_factory=list)
    module: nn.Module | None = None
    path: Path | None = None


class _Proof:
    """One proof; the steps gather what they find, so that a failure of one does not hide the next."""

    def __init__(self, spec: ModelSpec, subject: _Subject, progress: Progress, began: float) -> None:
        self._began, self._spec, self._progress = began, spec, progress
        self._reference, self._candidates = subject.reference, subject.candidates
        self._module, self._path = subject.module, subject.path
        self._onnx, self._random_nodes, self._notes = subject.onnx, subject.random_nodes, subject.notes
        self._errors: list[ReleaseError] = []

    def run(
        self,
        source: Source,
        version: int | None,
        samples: Arrays | None,
        golden: Arrays | None,
        stable: StableVersion | None,
        worst_path: Path | None,
    ) -> ParityReport:
        """Run all steps."""
        spec = self._spec
        probe = plans.probes(spec, samples)
        found = self._noise(probe)
        report = ParityReport(
            model=spec.name,
            version=version,
            passed=False,
            failures=[],
            source=source,
            onnx=self._onnx,
            providers=[candidate.provider for candidate in self._candidates],
            outputs=[],
            batch_independence=[],
            deterministic=not found,
            noise=found,
            real_samples=0,
            cases=[],
            batching=spec.serving.max_batch_size,
            seed=spec.parity.seed,
            versions=_versions(),
            seconds=0,
        )
        if not self._errors:
            found_more = {
                **self._outputs(samples, worst_path),
                "batch_independence": self._independence(probe, samples),
                **self._versions_compared(version, samples, golden, stable),
            }
            report = report.model_copy(update=found_more)
        failures = [Failure(error=type(error).__name__, message=str(error)) for error in self._errors]
        return report.model_copy(
            update={
                "passed": not failures,
                "failures": failures,
                "notes": self._notes,
                "seconds": time.monotonic() - self._began,
            }
        )

    def _noise(self, probe: plans.Case) -> list[Noise]:
        """Run everything twice; noise beyond the tolerance ends the proof, since nothing can be compared with it."""
        import torch

        self._progress("asking twice for the same, to find noise")
        with torch.random.fork_rng(devices=[]):
            # The report of a noisy model is the same each time, and the caller's generator is left as it was.
            torch.manual_seed(self._spec.parity.seed)
            found = noise.find_noise(self._spec, self._reference, PYTORCH, probe, lambda: self._blamed(probe))
        for candidate in self._candidates:
            try:
                found += noise.find_noise(self._spec, candidate, candidate.provider, probe, self._random)
            except OnnxUnusable:
                self._notes.append(f"noise was not looked for on {candidate.provider}: the ONNX file does not run")
        beyond = [entry for entry in found if entry.beyond_tolerance]
        own = [entry for entry in beyond if entry.provider == PYTORCH]
        # What the model does itself is to blame for what its ONNX does.
        self._errors += [noise.failure_of(self._spec, entry) for entry in own or beyond]
        return found

    def _random(self) -> str:
        return "; ".join(self._random_nodes)

    def _blamed(self, probe: plans.Case) -> str:
        if self._module is None:
            return ""
        return noise.blame_module(self._module, lambda: self._reference(probe.inputs, probe.name))

    def _outputs(self, samples: Arrays | None, worst_path: Path | None) -> dict[str, Any]:
        compared = OutputsCompared(self._spec, self._candidates)
        compared.run(self._reference, plans.plan(self._spec, samples), self._progress)
        self._errors += compared.errors
        self._overflow(samples)
        written = worst_path is not None and compared.write_worst(worst_path)
        return {
            "outputs": compared.results(),
            "cases": compared.cases,
            "real_samples": min(count_of(samples), plans.most_real(self._spec)) if samples else 0,
            "worst_samples": worst_path.name if worst_path and written else None,
        }

    def _overflow(self, samples: Arrays | None) -> None:
        """Look into a float16 graph, whose overflow a CPU's answers do not show."""
        if self._spec.export.precision != "fp16" or self._errors or self._path is None:
            return
        self._progress("looking for what overflows in float16")
        try:
            error = find_overflow(self._spec, self._path, plans.plan(self._spec, samples))
        except OnnxUnusable as unusable:
            self._notes.append(f"what overflows in float16 was not looked for: {unusable}")
            return
        self._errors += [error] if error else []

    def _independence(self, probe: plans.Case, samples: Arrays | None) -> list[Independence]:
        self._progress("comparing samples alone with samples in a batch")
        rows: list[Independence] = []
        for candidate in self._candidates:
            own = self._depends(candidate, candidate.provider, probe, samples)
            rows += own
            if not any(row.differing for row in own):
                continue
            self._progress("asking the PyTorch model the same")
            module = self._depends(self._reference, PYTORCH, probe, samples)
            rows += [] if any(row.provider == PYTORCH for row in rows) else module
            error = independence.failure_of(self._spec, own, any(row.differing for row in module))
            if error is not None and self._spec.serving.max_batch_size:
                self._errors.append(error)
        return rows

    def _depends(self, ask: Ask, provider: str, probe: plans.Case, samples: Arrays | None) -> list[Independence]:
        try:
            return independence.find_dependence(self._spec, ask, provider, probe, samples)
        except OnnxUnusable as error:
            self._add(error)
            return []

    def _versions_compared(
        self, version: int | None, samples: Arrays | None, golden: Arrays | None, stable: StableVersion | None
    ) -> dict[str, Any]:
        """Hold the file against labels, and against stable's version; closes the file before stable's is opened."""
        spec, candidate = self._spec, self._candidates[0]
        compared = VersionsCompared(spec, version, self._progress)
        if spec.accuracy is not None and golden is not None:
            compared.ask_golden(self._reference, candidate, candidate.provider, golden)
        if spec.embedding is not None and stable is not None:
            compared.ask_vectors(spec.embedding, candidate, samples)
        if stable is not None:
            del candidate
            self._candidates.clear()
            compared.ask_stable(stable)
        compared.judge()
        for error in compared.errors:
            self._add(error)
        return {"accuracy": compared.accuracy, "embedding": compared.embedding}

    def _add(self, error: ReleaseError) -> None:
        """Note a failure; the ONNX file's own refusal once."""
        if not isinstance(error, OnnxUnusable) or not any(isinstance(known, OnnxUnusable) for known in self._errors):
            self._errors.append(error)


def _versions() -> dict[str, str]:
    import torch

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onnxruntime": str(import_onnxruntime().__version__),
        "numpy": np.__version__,
    }
