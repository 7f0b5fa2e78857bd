"""
A TensorRT engine of a proved ONNX file: the model.plan that Triton's tensorrt backend serves.

An engine runs with the version of TensorRT and on the kind of GPU that it was built on, so it is built where both are
those of the fleets. It keeps the type that each tensor has in the ONNX file (a strongly typed network), and computes
float32 as such (no TF32): the tolerances of `parity` are those of bench's served parity, which proves the engine.

The calls are those of TensorRT's Python API, of 10.12 to 11: Builder, OnnxParser, IOptimizationProfile, IBuilderConfig.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model_release.errors import EngineFailed, TensorRTMissing
from model_release.parity.providers import cuda_devices
from model_release.spec import ModelSpec

Shape = tuple[int, ...]


def require_tensorrt(spec: ModelSpec) -> None:
    """Raise TensorRTMissing where an engine of this model could not be built; at once, before the proof."""
    if importlib.util.find_spec("tensorrt") is None:
        raise TensorRTMissing(spec.name, "the package tensorrt")
    if not cuda_devices():
        raise TensorRTMissing(spec.name, "an NVIDIA GPU")


def build_engine(spec: ModelSpec, onnx_path: Path, plan_path: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """
    Build the engine `plan_path` of an ONNX file; returns the version of TensorRT, the size, and the shapes it is for.

    Raises EngineFailed with what TensorRT said.
    """
    trt: Any = importlib.import_module("tensorrt")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    progress("TensorRT reads the ONNX file")
    if not parser.parse_from_file(str(onnx_path)):
        raise EngineFailed(spec.name, "; ".join(str(parser.get_error(each)) for each in range(parser.num_errors)))
    profile, shapes = builder.create_optimization_profile(), dict(shapes_of(spec))
    for name, (least, usual, most) in shapes.items():
        profile.set_shape(name, least, usual, most)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.add_optimization_profile(profile)
    progress("TensorRT builds the engine, which takes minutes")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineFailed(spec.name, "it built nothing, and its log says why")
    plan_path.write_bytes(engine)
    shown = {name: {"min": shape[0], "opt": shape[1], "max": shape[2]} for name, shape in shapes.items()}
    return {"tensorrt": trt.__version__, "size_bytes": plan_path.stat().st_size, "shapes": shown}


def build_in_child(
    spec: dict[str, Any], onnx_path: str, plan_path: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Build in a child process, whose end gives the GPU's memory back."""
    return build_engine(ModelSpec.model_validate(spec), Path(onnx_path), Path(plan_path), progress)


def shapes_of(spec: ModelSpec) -> Iterator[tuple[str, tuple[Shape, Shape, Shape]]]:
    """
    Return the least, the usual and the largest shape of each input, batch axis first.

    TensorRT chooses its kernels for the usual one: the largest preferred batch, else the largest of all, and of a
    dynamic axis the middle.
    """
    serving = spec.serving
    usual = max(serving.dynamic_batching.preferred_batch_size, default=serving.max_batch_size)
    for tensor in spec.inputs:
        axes = [_sizes(spec, size) for size in tensor.shape]
        least, middle, most = (tuple(axis[at] for axis in axes) for at in range(3))
        yield tensor.name, ((1, *least), (usual, *middle), (serving.max_batch_size, *most))


def _sizes(spec: ModelSpec, size: int | str) -> Shape:
    if isinstance(size, int):
        return size, size, size
    axis = spec.dynamic_axes[size]
    return axis.min, (axis.min + axis.max) // 2, axis.max
