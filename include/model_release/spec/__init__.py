"""
The model config: one YAML file a model, checked whole before anything is touched.

Every field that is accepted is honoured; an unknown key is an error that names its neighbour.
"""

from model_release.spec.canary import Canary, Shadow, Standby
from model_release.spec.ensemble import Ensemble, ordered
from model_release.spec.gates import (
    AccuracyGate,
    DisagreementGate,
    ErrorRateGate,
    Gate,
    GateSection,
    LatencyGate,
    PromqlSource,
    ProportionGate,
)
from model_release.spec.model import ModelSpec, PythonPart, digest_of, owner_of, part_model, served_name
from model_release.spec.notify import Notify
from model_release.spec.policy import ChangePolicy
from model_release.spec.proof import Accuracy, Embedding, Export, Parity, Tolerance
from model_release.spec.section import Section
from model_release.spec.serving import Benchmark, BenchmarkSearch, Serving
from model_release.spec.source import Source, render_template, template_variables
from model_release.spec.tensors import TEXT, Axis, Dtype, Input, Tensor

__all__ = [
    "TEXT",
    "Accuracy",
    "AccuracyGate",
    "Axis",
    "Benchmark",
    "BenchmarkSearch",
    "Canary",
    "ChangePolicy",
    "DisagreementGate",
    "Dtype",
    "Embedding",
    "Ensemble",
    "ErrorRateGate",
    "Export",
    "Gate",
    "GateSection",
    "Input",
    "LatencyGate",
    "ModelSpec",
    "Notify",
    "Parity",
    "PromqlSource",
    "ProportionGate",
    "PythonPart",
    "Section",
    "Serving",
    "Shadow",
    "Source",
    "Standby",
    "Tensor",
    "Tolerance",
    "digest_of",
    "ordered",
    "owner_of",
    "part_model",
    "render_template",
    "served_name",
    "template_variables",
]
