"""`serving.raw` and the sections that are rendered from the spec alone."""

from __future__ import annotations

from typing import Any

import pytest

from model_release.errors import BadModelConfig
from model_release.spec import Serving
from model_release.triton import config as configs
from model_release.triton.raw import _REFUSED
from tests.unit.config_cases import VERSION, line_spec


def built(**serving: Any) -> Any:
    return configs.build_config(line_spec(**serving), VERSION)


def test_further_fields_are_merged_with_what_the_pipeline_writes() -> None:
    config = built(
        accelerators=[{"name": "openvino"}],
        parameters={"intra_op_thread_count": 2},
        raw={
            "optimization": {"graph": {"level": 1}, "inputPinnedMemory": {"enable": False}},
            "metric_tags": {"team": "vision"},
            "parameters": {"newer": {"string_value": "1"}},
            "instance_group": [{"host_policy": "numa"}],
        },
    )

    assert config.optimization.graph.level == 1
    assert config.optimization.HasField("input_pinned_memory")
    assert config.optimization.execution_accelerators.cpu_execution_accelerator[0].name == "openvino"
    assert dict(config.metric_tags) == {"team": "vision"}
    assert {"intra_op_thread_count", "newer", "release_digest"} == set(config.parameters)
    (group,) = config.instance_group
    assert (group.count, group.host_policy) == (1, "numa")
    assert configs.parse(configs.render(config, epoch=1)) == config


#: JSON of each field that raw refuses, also at its default: the pipeline means it where it writes nothing.
VALUES: dict[str, Any] = {
    **dict.fromkeys(("name", "platform", "backend", "runtime", "default_model_filename"), "x"),
    "max_batch_size": 0,
    **{key: [] for key in ("input", "output", "batch_input", "batch_output", "model_warmup")},
    **{key: {} for key in ("version_policy", "sequence_batching", "ensemble_scheduling", "dynamic_batching")},
    **{key: {} for key in ("model_operations", "model_transaction_policy", "model_repository_agents")},
    "cc_model_filenames": {"8.0": "model.onnx"},
    "response_cache": {"enable": False},
}


@pytest.mark.parametrize("name", _REFUSED)
def test_what_the_pipeline_writes_or_forbids_is_refused(name: str) -> None:
    with pytest.raises(BadModelConfig, match=rf"raw\.{name} is refused: "):
        built(raw={name: VALUES[name]})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"maxBatchSize": 8}, "raw.max_batch_size is refused: use serving.max_batch_size"),
        ({"parameters": {"release_digest": {"string_value": "x"}}}, "the pipeline writes it"),
        (
            {"parameters": {"execution_mode": {"string_value": "x"}}},
            "execution_mode is refused: use serving.parameters",
        ),
        ({"optimization": {"execution_accelerators": {}}}, "use serving.accelerators"),
        ({"instance_group": [{"count": 3}]}, "raw.instance_group.count is refused: raw adds host_policy"),
        ({"instance_group": [{"passive": True}]}, "raw.instance_group.passive is refused"),
        ({"instance_group": [{}, {}]}, "raw.instance_group has 2 entries"),
        ({"instance_group": []}, "raw.instance_group has 0 entries"),
        ({"metric_tag": {}}, 'has no field named "metric_tag"'),
        ({"metric_tags": 3}, "raw: "),
        ({"optimization": {"graph": {"level": "high"}}}, "raw: "),
    ],
)
def test_raw_is_held_against_the_schema_and_the_spec(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(BadModelConfig) as caught:
        built(raw=raw)

    assert words in str(caught.value)


def test_numbers_and_switches_are_tritons_text() -> None:
    assert line_spec(parameters={"intra_op_thread_count": 2, "enable_mem_arena": False}).serving.parameters == {
        "intra_op_thread_count": "2",
        "enable_mem_arena": "0",
    }


def test_accelerators_stand_in_the_order_of_the_spec() -> None:
    config = built(
        instance_group={"kind": "gpu", "gpus": [0, 1]},
        accelerators=[{"name": "tensorrt", "parameters": {"precision_mode": "FP16"}}, {"name": "cuda"}],
    )

    gpu = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [(entry.name, dict(entry.parameters)) for entry in gpu] == [
        ("tensorrt", {"precision_mode": "FP16"}),
        ("cuda", {}),
    ]
    assert list(config.instance_group[0].gpus) == [0, 1]


def test_each_priority_has_limits_of_its_own_and_null_is_no_limit() -> None:
    queue = {
        "max_size": None,
        "timeout_ms": 20,
        "timeout_action": "delay",
        "priority_levels": 2,
        "default_priority_level": 2,
        "priorities": {1: {"max_size": 3, "timeout_ms": None}},
    }
    batching = built(queue=queue).dynamic_batching

    assert (batching.priority_levels, batching.default_priority_level) == (2, 2)
    default, first = batching.default_queue_policy, batching.priority_queue_policy[1]
    assert (default.max_queue_size, default.default_timeout_microseconds, default.timeout_action) == (0, 20_000, 1)
    assert (first.max_queue_size, first.default_timeout_microseconds, first.timeout_action) == (3, 0, 0)


def test_a_frozen_spec_is_read_back_as_it_was() -> None:
    serving = line_spec(queue={"priority_levels": 12, "priorities": {n: {} for n in range(1, 13)}}).serving

    assert Serving.model_validate_json(serving.model_dump_json()) == serving


def test_the_builder_names_the_other_backends_too() -> None:
    """What a later source may be made into; the spec refuses them until one is."""
    spec = line_spec()
    for backend in ("pytorch", "tensorrt"):
        asked = spec.model_copy(update={"serving": spec.serving.model_copy(update={"backend": backend})})
        assert configs.build_config(asked, VERSION).backend == backend
