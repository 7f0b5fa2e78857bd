"""Whether a replica serves the config that was asked for: what has to come back, and what Triton may fill in."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from model_release.triton import config as configs
from model_release.triton.compare import differences
from model_release.triton.config import Tuning
from tests.unit.test_triton_config import NEWER, VERSION, serving, spec, unbatched


def served_as(change: Any) -> list[str]:
    asked = configs.build_config(spec(), VERSION)
    served = configs.parse(configs.render(asked, epoch=1))
    change(served)
    return differences(asked, served)


def test_what_triton_fills_in_is_no_difference() -> None:
    def filled(served: ModelConfig) -> None:
        served.platform = "onnxruntime_onnx"
        served.default_model_filename = "model.onnx"
        served.runtime = "model.py"
        served.instance_group[0].name = "everything_0"
        served.instance_group[0].gpus.append(0)
        served.optimization.input_pinned_memory.enable = True
        served.model_transaction_policy.SetInParent()
        served.response_cache.SetInParent()
        served.parameters["FILLED_BY_A_NEWER_SERVER"].string_value = "1"
        served.metric_tags["filled"] = "1"

    assert served_as(filled) == []


@pytest.mark.parametrize("changes", NEWER)
def test_each_newer_field_has_to_come_back(changes: dict[str, Any]) -> None:
    asked = configs.build_config(serving(**changes), VERSION)
    served = configs.build_config(serving(), VERSION)
    served.parameters["release_digest"].CopyFrom(asked.parameters["release_digest"])

    assert differences(asked, asked) == []
    assert differences(asked, served) != []


@pytest.mark.parametrize(
    "change",
    [
        lambda c: setattr(c.response_cache, "enable", True),
        lambda c: setattr(c.model_transaction_policy, "decoupled", True),
        lambda c: c.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt"),
        lambda c: setattr(c.optimization.graph, "level", 2),
        lambda c: c.model_operations.op_library_filename.append("x.so"),
        lambda c: c.model_repository_agents.agents.add(name="x"),
        lambda c: c.sequence_batching.SetInParent(),
        lambda c: setattr(c.input[0], "optional", True),
        lambda c: c.input[0].reshape.shape.append(1),
        lambda c: setattr(c.dynamic_batching.priority_queue_policy[1], "max_queue_size", 1),
        lambda c: setattr(c.model_warmup[0].inputs["other"], "zero_data", True),
    ],
)
def test_what_was_never_asked_for_is_a_difference(change: Any) -> None:
    assert served_as(change) != []


def test_a_queue_that_was_not_asked_for_is_a_difference() -> None:
    asked = configs.build_config(serving(queue=None), VERSION)
    served = configs.parse(configs.render(asked, epoch=1))
    served.dynamic_batching.default_queue_policy.max_queue_size = 1

    assert differences(asked, served) == ["dynamic_batching.default_queue_policy is set, asked none"]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda c: setattr(c, "max_batch_size", 4), "max_batch_size is 4, asked 8"),
        (
            lambda c: setattr(c.dynamic_batching, "preserve_ordering", True),
            "batching.preserve_ordering is True",
        ),
        (lambda c: c.input[1].dims.append(3), "input[1].dims has 4 entries, asked 3"),
        (lambda c: c.input[2].ClearField("reshape") or c.output.pop(), "output has 1 entries, asked 2"),
        (lambda c: c.version_policy.all.SetInParent(), "version_policy.specific.versions has 0 entries, asked 1"),
        (lambda c: c.parameters.pop("release_digest"), "parameters['release_digest'] is missing"),
        (lambda c: setattr(c.model_warmup[1].inputs["ids"], "zero_data", True), "input_data_file is '', asked 'ids'"),
    ],
)
def test_what_was_set_has_to_come_back(change: Any, difference: str) -> None:
    assert any(difference in found for found in served_as(change))


def test_a_delay_of_zero_was_meant() -> None:
    asked = configs.build_config(spec(), VERSION, Tuning(0))
    served = configs.build_config(spec(), VERSION, Tuning(5))
    served.parameters["release_digest"].CopyFrom(asked.parameters["release_digest"])

    assert "dynamic_batching.max_queue_delay_microseconds is 5, asked 0" in differences(asked, served)


def test_batching_that_was_not_asked_for_is_a_difference() -> None:
    asked = configs.build_config(unbatched(), VERSION)
    served = configs.parse(configs.render(asked, epoch=1))
    assert differences(asked, served) == []

    served.max_batch_size = 8
    served.dynamic_batching.SetInParent()
    assert differences(asked, served) == ["max_batch_size is 8, asked 0", "dynamic_batching is set, asked none"]
