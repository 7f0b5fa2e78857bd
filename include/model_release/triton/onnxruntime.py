"""
What Triton's ONNX Runtime backend reads of `parameters` and `accelerators`: each name, and the values it takes.

From the backend's README and onnxruntime.cc, which looks at no other parameter of a model and fails to load one whose
accelerator has another; the options of CUDA are those of ONNX Runtime's own provider.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from model_release.errors import did_you_mean
from model_release.spec import Serving


@dataclass(frozen=True)
class Values:
    """The values that an option takes: all of its text has to match, and `words` say what that means."""

    pattern: str
    words: str


SWITCH = Values(r"0|1|(?i:true|false)", "0 or 1")
_ZERO_ONE = Values(r"[01]", "0 or 1")
COUNT = Values(r"\d+", "a whole number from 0 up")
_WHOLE = Values(r"-?\d+", "a whole number")
_BYTES = Values(r"[1-9]\d*", "a number of bytes")
_FOLDER = Values(r"/.*", "an absolute path on the server, outside of the folder that it downloads models to")
_TEXT = Values(r".+", "text")
_SHAPES = Values(r"[^:,]+:\d+(x\d+)*(,[^:,]+:\d+(x\d+)*)*", "shapes by input: image:1x8x8,mask:1x8")

PARAMETERS: Mapping[str, Values] = {
    "intra_op_thread_count": COUNT,
    "inter_op_thread_count": COUNT,
    "execution_mode": Values(r"[01]", "0 (operators one after the other) or 1 (in parallel)"),
    "enable_mem_arena": SWITCH,
    "enable_mem_pattern": SWITCH,
    "memory.enable_memory_arena_shrinkage": Values(r"(cpu|gpu):\d+(;(cpu|gpu):\d+)*", "devices: cpu:0;gpu:0"),
    "session.use_device_allocator_for_initializers": _ZERO_ONE,
    "cudnn_conv_algo_search": Values(r"[012]", "0, 1 or 2"),
    "gpu_mem_limit": _BYTES,
    "arena_extend_strategy": _ZERO_ONE,
    "do_copy_in_default_stream": SWITCH,
}
_TENSORRT: Mapping[str, Values] = {
    "precision_mode": Values(r"FP32|FP16|BF16|INT8", "FP32, FP16, BF16 or INT8"),
    "max_workspace_size_bytes": _BYTES,
    "int8_calibration_table_name": _TEXT,
    "int8_use_native_calibration_table": SWITCH,
    "trt_max_partition_iterations": COUNT,
    "trt_min_subgraph_size": COUNT,
    "trt_dla_enable": SWITCH,
    "trt_dla_core": COUNT,
    "trt_engine_cache_enable": SWITCH,
    "trt_engine_cache_path": _FOLDER,
    "trt_engine_cache_prefix": _TEXT,
    "trt_dump_subgraphs": SWITCH,
    "trt_force_sequential_engine_build": SWITCH,
    "trt_context_memory_sharing_enable": SWITCH,
    "trt_layer_norm_fp32_fallback": SWITCH,
    "trt_timing_cache_enable": SWITCH,
    "trt_timing_cache_path": _FOLDER,
    "trt_force_timing_cache": SWITCH,
    "trt_detailed_build_log": SWITCH,
    "trt_build_heuristics_enable": SWITCH,
    "trt_sparsity_enable": SWITCH,
    "trt_builder_optimization_level": COUNT,
    "trt_auxiliary_streams": _WHOLE,
    "trt_tactic_sources": _TEXT,
    "trt_profile_min_shapes": _SHAPES,
    "trt_profile_max_shapes": _SHAPES,
    "trt_profile_opt_shapes": _SHAPES,
    "trt_cuda_graph_enable": SWITCH,
    "trt_dump_ep_context_model": SWITCH,
    "trt_ep_context_file_path": _FOLDER,
    "trt_ep_context_embed_mode": _ZERO_ONE,
}
_CUDA: Mapping[str, Values] = {
    "arena_extend_strategy": Values(r"kNextPowerOfTwo|kSameAsRequested", "kNextPowerOfTwo or kSameAsRequested"),
    "cudnn_conv_algo_search": Values(r"EXHAUSTIVE|HEURISTIC|DEFAULT", "EXHAUSTIVE, HEURISTIC or DEFAULT"),
    "cudnn_conv_use_max_workspace": SWITCH,
    "cudnn_conv1d_pad_to_nc1d": SWITCH,
    "do_copy_in_default_stream": SWITCH,
    "enable_cuda_graph": SWITCH,
    "enable_skip_layer_norm_strict_mode": SWITCH,
    "fuse_conv_bias": SWITCH,
    "gpu_mem_limit": _BYTES,
    "prefer_nhwc": SWITCH,
    "sdpa_kernel": COUNT,
    "tunable_op_enable": SWITCH,
    "tunable_op_max_tuning_duration_ms": COUNT,
    "tunable_op_tuning_enable": SWITCH,
    "use_ep_level_unified_stream": SWITCH,
    "use_tf32": SWITCH,
}
ACCELERATORS: Mapping[str, Mapping[str, Values]] = {"tensorrt": _TENSORRT, "cuda": _CUDA, "openvino": {}}
#: The accelerators that run on a GPU; the backend passes over them for an instance on the CPU.
ON_GPU: frozenset[str] = frozenset({"tensorrt", "cuda"})
_REFUSED = {
    "trt_extra_plugin_lib_paths": "is refused: it loads libraries into the server, which are not sealed",
    "device_id": "is set by the backend, from instance_group.gpus",
    "has_user_compute_stream": "is set by the backend",
    "user_compute_stream": "is set by the backend",
    "release_digest": "is written by the pipeline",
}


def problems_of(serving: Serving) -> list[str]:
    """Say of each parameter, and of each accelerator's, that the backend would pass over or refuse it."""
    if serving.backend != "onnxruntime":
        return []
    instead = "What is newer than this pipeline goes into raw: {parameters: ...}."
    found = problems_with("serving.parameters", serving.parameters, PARAMETERS, instead)
    for accelerator in serving.accelerators:
        known = ACCELERATORS[accelerator.name]
        there = f"There are: {', '.join(known)}." if known else "It takes none."
        found += problems_with(f"serving.accelerators, {accelerator.name}", accelerator.parameters, known, there)
    return found


def problems_with(where: str, given: Mapping[str, str], known: Mapping[str, Values], instead: str) -> list[str]:
    """Say of each option that a backend does not read it, or not with this value; `instead` is where else to look."""
    found = []
    for name, value in given.items():
        if name in _REFUSED:
            found.append(f"{where}: {name!r} {_REFUSED[name]}")
        elif name not in known:
            found.append(f"{where}: the backend reads no {name!r}.{did_you_mean(name, known)} {instead}")
        elif not re.fullmatch(known[name].pattern, value):
            found.append(f"{where}: {name} must be {known[name].words}, got {value!r}")
    return found
