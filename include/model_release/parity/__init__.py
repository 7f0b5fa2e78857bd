"""Parity: the ONNX file must answer as the PyTorch model does."""

from model_release.parity.files import load_samples
from model_release.parity.prove import prove
from model_release.parity.record import record
from model_release.parity.report import ParityReport
from model_release.parity.stable import StableVersion

__all__ = ["ParityReport", "StableVersion", "load_samples", "prove", "record"]
