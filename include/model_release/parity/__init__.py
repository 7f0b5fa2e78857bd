"""Parity: the ONNX file must answer as the PyTorch model does."""

from model_release.parity.prove import ParityReport, prove
from model_release.parity.record import record
from model_release.parity.samples import load_samples

__all__ = ["ParityReport", "load_samples", "prove", "record"]
