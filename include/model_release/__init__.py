"""Release PyTorch models to NVIDIA Triton through a judged canary."""

__version__ = "0.1.0"
