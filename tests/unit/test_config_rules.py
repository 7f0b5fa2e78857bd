"""The rules that Triton's schema does not check, each with its sentence, before anything is uploaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from model_release.errors import BadModelConfig
from model_release.identity import Kind, Release
from model_release.spec import ModelSpec, Serving
from model_release.spec.serving import Accelerator, DynamicBatching, InstanceGroup, Queue, RateLimiter, Resource
from model_release.steps import plan
from model_release.triton import config as configs
from model_release.triton.onnxruntime import ACCELERATORS, PARAMETERS
from model_release.triton.pytorch import PARAMETERS as PYTORCH_PARAMETERS
from model_release.triton.rules import _RULES, broken
from tests.unit.config_cases import CASES, VERSION, Case, line_spec
from tests.unit.served_toys import ENVIRONMENT


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_broken_rule_is_said(case: Case) -> None:
    config = configs.build_config(line_spec(), VERSION)
    assert broken(config) == []

    case.change(config)

    assert any(case.sentence in sentence for sentence in broken(config)), broken(config)


@pytest.mark.parametrize(
    "serving",
    [
        {"dynamic_batching": {"preferred_batch_size": [1, 8]}},
        {
            "dynamic_batching": {"preserve_ordering": True},
            "queue": {"priority_levels": 1, "default_priority_level": 1, "priorities": {1: {"max_size": 3}}},
        },
        {"queue": {"timeout_action": "delay", "allow_timeout_override": True}},
        {"instance_group": {"kind": "gpu", "gpus": [0, 1]}, "accelerators": [{"name": "tensorrt"}, {"name": "cuda"}]},
        {"instance_group": {"kind": "auto"}, "accelerators": [{"name": "tensorrt"}, {"name": "openvino"}]},
        {"max_batch_size": 0},
        {"max_batch_size": 1},
    ],
)
def test_what_keeps_the_rules_is_taken(serving: dict[str, Any]) -> None:
    assert broken(built(line_spec(**serving))) == []


def test_every_rule_has_a_case() -> None:
    """A rule that no case breaks could be empty and nobody would know."""
    said = set()
    for case in CASES:
        config = configs.build_config(line_spec(), VERSION)
        case.change(config)
        said |= {rule for rule in _RULES if list(rule(config))}

    assert said == set(_RULES)


def built(spec: ModelSpec) -> Any:
    return configs.build_config(spec, VERSION)


def on_gpu(**serving: Any) -> ModelSpec:
    return line_spec(**{"instance_group": {"kind": "gpu"}, **serving})


TENSORRT = {"name": "tensorrt"}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (line_spec(queue={"priority_levels": 3}), "default_priority_level must be within 1 and priority_levels, 3"),
        (
            line_spec(queue={"priority_levels": 1, "default_priority_level": 1, "priorities": {2: {"max_size": 3}}}),
            "there are policies for [2]",
        ),
        (line_spec(queue={"timeout_ms": None, "timeout_action": "delay"}), "delay of the queue has no effect"),
        (
            line_spec(queue={"timeout_action": "delay"}, dynamic_batching={"preserve_ordering": True}),
            "preserve_ordering and timeout_action: delay exclude each other",
        ),
        (line_spec(instance_group={"kind": "auto", "gpus": [0]}), "gpus [0] needs kind: gpu"),
        (line_spec(instance_group={"kind": "gpu", "gpus": [1, 1]}), "gpus [1, 1] names a GPU twice"),
        (line_spec(accelerators=[{"name": "cuda"}]), "accelerators ['cuda'] need a GPU"),
        (on_gpu(accelerators=[{"name": "openvino"}]), "accelerators ['openvino'] are for a CPU"),
        (on_gpu(accelerators=[TENSORRT, TENSORRT]), "accelerators has tensorrt twice"),
        (line_spec(raw={"instance_group": [{"profile": ["0"]}]}), "profile is for the backend tensorrt"),
        (
            line_spec(parameters={"intra_op_threads": 2}),
            "the backend reads no 'intra_op_threads'. Did you mean 'intra_op_thread_count'?",
        ),
        (line_spec(parameters={"intra_op_thread_count": "-1"}), "must be a whole number from 0 up, got '-1'"),
        (line_spec(parameters={"execution_mode": 2}), "execution_mode must be 0 (operators one after the other)"),
        (line_spec(parameters={"enable_mem_arena": "yes"}), "enable_mem_arena must be 0 or 1, got 'yes'"),
        (
            on_gpu(accelerators=[{**TENSORRT, "parameters": {"precision_mode": "fp16"}}]),
            "precision_mode must be FP32, FP16, BF16 or INT8, got 'fp16'",
        ),
        (
            on_gpu(accelerators=[{**TENSORRT, "parameters": {"trt_engine_cache_path": "cache"}}]),
            "trt_engine_cache_path must be an absolute path on the server",
        ),
        (
            on_gpu(accelerators=[{**TENSORRT, "parameters": {"trt_extra_plugin_lib_paths": "/x.so"}}]),
            "is refused: it loads libraries into the server",
        ),
        (
            on_gpu(accelerators=[{"name": "cuda", "parameters": {"device_id": 1}}]),
            "'device_id' is set by the backend, from instance_group.gpus",
        ),
        (
            line_spec(accelerators=[{"name": "openvino", "parameters": {"device_type": "CPU"}}]),
            "the backend reads no 'device_type'. It takes none.",
        ),
    ],
)
def test_a_spec_that_breaks_a_rule_is_refused_before_it_is_a_config(spec: ModelSpec, sentence: str) -> None:
    with pytest.raises(BadModelConfig) as caught:
        built(spec)

    assert sentence in str(caught.value)


def test_every_problem_is_said_at_once() -> None:
    with pytest.raises(BadModelConfig) as caught:
        built(line_spec(raw={"runtime": "x.so"}, queue={"priority_levels": 2}, accelerators=[{"name": "cuda"}]))

    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("serving", "words"),
    [
        (
            {"backend": "pytorch"},
            "pytorch serves a checkpoint of the format torchscript as it is, this is a state_dict",
        ),
        ({"backend": "tensorrt"}, "backend tensorrt needs instance_group.kind: gpu, this is cpu"),
        (
            {"backend": "tensorrt", "instance_group": {"kind": "gpu"}, "max_batch_size": 0},
            "backend tensorrt needs max_batch_size of 1 or more",
        ),
        ({"sequence_batching": {}}, "sequence_batching is not released: a canary sends each request to either version"),
        ({"decoupled": True}, "decoupled is not released: a canary judges one answer a request"),
        ({"max_batch_size": 0, "dynamic_batching": {"preserve_ordering": True}}, "preserve_ordering needs batching"),
    ],
)
def test_what_no_release_could_honour_is_refused_by_the_spec(serving: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        line_spec(**serving)


def test_an_optional_input_is_refused_since_no_export_makes_one() -> None:
    values = line_spec().model_dump()
    values["inputs"][0]["optional"] = True

    with pytest.raises(ValueError, match="input 'x' is optional, and an exported graph wants each of its inputs"):
        ModelSpec.model_validate(values)


def test_plan_refuses_it_before_anything_is_asked_of_the_store() -> None:
    """The store of this environment answers nobody."""
    release = Release(model="line", version=VERSION, kind=Kind.BUILD, run_id="run-1")

    with pytest.raises(BadModelConfig, match="runtime is refused"):
        plan.run(release, ENVIRONMENT, line_spec(raw={"runtime": "x.so"}))


def test_accelerators_of_onnx_runtime_are_for_no_other_backend() -> None:
    spec = line_spec(accelerators=[{"name": "openvino"}])
    other = spec.model_copy(update={"serving": spec.serving.model_copy(update={"backend": "pytorch"})})

    with pytest.raises(BadModelConfig, match="accelerators are for the backend onnxruntime, this is pytorch"):
        built(other)


def test_every_field_is_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "config.md").read_text()
    sections = [Serving, InstanceGroup, RateLimiter, Resource, DynamicBatching, Queue, Accelerator]
    fields = {name for section in sections for name in section.model_fields} - {"fleet_pair"}

    assert (
        sorted(
            name
            for name in {*fields, *PARAMETERS, *PYTORCH_PARAMETERS, *ACCELERATORS}
            if not re.search(rf"\b{name}\b", text)
        )
        == []
    )
