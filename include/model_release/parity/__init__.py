"""Parity: the ONNX file must answer as the PyTorch model does; an ensemble as its parts' references do."""

from model_release.parity.chain import Chain
from model_release.parity.files import load_samples
from model_release.parity.prove import prove, prove_chain
from model_release.parity.record import inputs_to_record, record, record_answers
from model_release.parity.report import ParityReport
from model_release.parity.script import Script
from model_release.parity.stable import StableVersion

__all__ = [
    "Chain",
    "ParityReport",
    "Script",
    "StableVersion",
    "inputs_to_record",
    "load_samples",
    "prove",
    "prove_chain",
    "record",
    "record_answers",
]
