"""Export: a PyTorch module to one ONNX file that is what the spec says, and carries nothing of the machine."""

from model_release.export.run import export_onnx

__all__ = ["export_onnx"]
