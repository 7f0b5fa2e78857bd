"""config.pbtxt: what the spec becomes, what names it, and what counts as another config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from model_release.errors import BadModelConfig
from model_release.spec import ModelSpec
from model_release.triton import config as configs
from model_release.triton.config import Tuning

GOLDEN = Path(__file__).parent / "golden" / "config.pbtxt"
VERSION = 20260101000000


def spec(**changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "name": "everything",
        "source": {"checkpoint": "s3://training/x.safetensors", "factory": "example:build"},
        "inputs": [
            {"name": "ids", "dtype": "int64", "shape": ["seq"], "range": [0, 9]},
            {"name": "image", "dtype": "float16", "shape": [1, 8, 8]},
            {"name": "flag", "dtype": "bool", "shape": []},
        ],
        "outputs": [
            {"name": "logits", "dtype": "float32", "shape": ["seq", 10]},
            {"name": "score", "dtype": "float32", "shape": []},
        ],
        "dynamic_axes": {"seq": {"min": 2, "max": 16}},
        "parity": {"batch_sizes": [1]},
        "serving": {
            "max_batch_size": 8,
            "instance_group": {"kind": "gpu", "count": 2},
            "dynamic_batching": {"max_queue_delay_microseconds": 500, "preferred_batch_size": [8, 4]},
            "queue": {"max_size": 7, "timeout_ms": 250},
            "parameters": {"intra_op_thread_count": "2"},
        },
    }
    return ModelSpec.model_validate({**values, **changes})


def serving(**changes: Any) -> ModelSpec:
    return spec(serving={**spec().serving.model_dump(), **changes})


PRIORITIES = {"priority_levels": 2, "default_priority_level": 2, "priorities": {1: {"max_size": 3}}}
#: One change each of what a spec may say of serving, to `serving()`.
NEWER: list[dict[str, Any]] = [
    {"instance_group": {"kind": "gpu", "gpus": [0]}},
    {"instance_group": {"kind": "gpu", "gpus": [1]}},
    {"instance_group": {"kind": "gpu", "rate_limiter": {"priority": 2}}},
    {"instance_group": {"kind": "gpu", "rate_limiter": {"resources": [{"name": "r"}]}}},
    {"instance_group": {"kind": "gpu", "rate_limiter": {"resources": [{"name": "r", "shared": True}]}}},
    {"dynamic_batching": {"preserve_ordering": True}},
    {"queue": {"timeout_action": "delay"}},
    {"queue": {"allow_timeout_override": True}},
    {"queue": {"max_size": None}},
    {"queue": PRIORITIES},
    {"queue": {**PRIORITIES, "default_priority_level": 1}},
    {"queue": {**PRIORITIES, "priorities": {2: {"max_size": 3}}}},
    {"response_cache": True},
    {"accelerators": [{"name": "tensorrt"}]},
    {"accelerators": [{"name": "tensorrt", "parameters": {"precision_mode": "FP16"}}]},
    {"accelerators": [{"name": "cuda"}, {"name": "tensorrt"}]},
    {"accelerators": [{"name": "tensorrt"}, {"name": "cuda"}]},
    {"raw": {"optimization": {"graph": {"level": 1}}}},
    {"raw": {"metricTags": {"team": "vision"}}},
    {"raw": {"instance_group": [{"host_policy": "numa"}]}},
    {"raw": {"parameters": {"newer": {"string_value": "1"}}}},
]


def test_the_config_is_the_golden_one() -> None:
    assert configs.render(configs.build_config(spec(), VERSION), epoch=7) == GOLDEN.read_text()


def test_a_config_survives_its_text() -> None:
    config = configs.build_config(spec(), VERSION)

    assert configs.parse(configs.render(config, epoch=3)) == config


def test_the_digest_is_of_the_config_and_not_of_the_epoch_or_itself() -> None:
    config = configs.build_config(spec(), VERSION)
    digest = config.parameters["release_digest"].string_value

    assert digest == configs.release_digest(config)
    assert configs.release_digest(configs.parse(configs.render(config, epoch=9))) == digest
    config.parameters["release_digest"].string_value = "other"
    assert configs.release_digest(config) == digest


def test_each_change_has_a_digest_of_its_own() -> None:
    changed = [
        configs.build_config(spec(), VERSION),
        configs.build_config(spec(), VERSION + 1),
        configs.build_config(spec(), VERSION, Tuning(501, (4, 8), 2)),
        configs.build_config(spec(), VERSION, Tuning(500, (8,), 2)),
        configs.build_config(spec(), VERSION, Tuning(500, (4, 8), 1)),
        configs.build_config(serving(parameters={"intra_op_thread_count": "3"}), VERSION),
        configs.build_config(serving(warmup=False), VERSION),
        *(configs.build_config(serving(**changes), VERSION) for changes in NEWER),
    ]

    assert len({configs.release_digest(config) for config in changed}) == len(changed)


def test_the_order_of_parameters_does_not_change_the_digest() -> None:
    one = configs.build_config(serving(parameters={"intra_op_thread_count": "1", "execution_mode": "0"}), VERSION)
    other = configs.build_config(serving(parameters={"execution_mode": "0", "intra_op_thread_count": "1"}), VERSION)

    assert configs.release_digest(one) == configs.release_digest(other)


def test_a_disabled_config_names_no_version_and_leaves_the_other_as_it_was() -> None:
    config = configs.build_config(spec(), VERSION)
    off = configs.parse(configs.render(configs.disabled(config), epoch=1))

    assert off.version_policy.WhichOneof("policy_choice") == "specific"
    assert list(off.version_policy.specific.versions) == []
    assert list(config.version_policy.specific.versions) == [VERSION]


@pytest.mark.parametrize(("kind", "rendered"), [("cpu", "KIND_CPU"), ("gpu", "KIND_GPU"), ("auto", "KIND_AUTO")])
def test_the_instance_kind_is_tritons(kind: str, rendered: str) -> None:
    config = configs.build_config(serving(instance_group={"kind": kind}), VERSION)

    enum = ModelConfig.DESCRIPTOR.fields_by_name["instance_group"].message_type.fields_by_name["kind"].enum_type
    assert enum.values_by_number[config.instance_group[0].kind].name == rendered


def test_without_queue_limits_there_is_no_queue_policy() -> None:
    unlimited = spec().model_copy(update={"serving": spec().serving.model_copy(update={"queue": None})})

    assert not configs.build_config(unlimited, VERSION).dynamic_batching.HasField("default_queue_policy")


@pytest.mark.parametrize(
    ("largest", "preferred", "sizes"),
    [
        (1, [], [1]),
        (2, [], [1, 2]),
        (8, [], [1, 2, 4, 8]),
        (8, [6], [1, 2, 4, 6, 8]),
        (48, [], [1, 2, 4, 8, 16, 32, 48]),
        (1000, [], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]),
    ],
)
def test_a_replica_is_warmed_at_sizes_up_to_the_largest_batch(
    largest: int, preferred: list[int], sizes: list[int]
) -> None:
    made = {"max_batch_size": largest, "dynamic_batching": {"preferred_batch_size": preferred}}
    config = configs.build_config(spec(serving=made), VERSION)

    assert [entry.batch_size for entry in config.model_warmup] == sizes


def test_the_sizes_that_a_tuning_prefers_are_warmed() -> None:
    config = configs.build_config(spec(), VERSION, Tuning(500, (3,)))

    assert [entry.batch_size for entry in config.model_warmup] == [1, 2, 3, 4, 8]


@pytest.mark.parametrize(
    ("made", "digest"),
    [
        (lambda: serving(warmup=False), "92c0b5282aebf479bb184b0bc7e8d822c50bc4e7501d1d118660ce391588ac61"),
        (
            lambda: spec(serving={"max_batch_size": 2}),
            "9b7659369d31d4c50f09886a329c3c0302ce6e7137a267307bc01295e647a38b",
        ),
        (lambda: unbatched(), "5554e7eb00781da3f5a77a96503aa2e6e03199ae60d89c1b420c156e0bb926e5"),
    ],
)
def test_a_spec_without_the_newer_fields_keeps_its_digest(made: Any, digest: str) -> None:
    """As rendered before there were priorities, rate limits, a response cache, accelerators and raw."""
    assert configs.release_digest(configs.build_config(made(), VERSION)) == digest


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        (Tuning(0, (9,)), r"preferred_batch_size \[9\] must be within 1 and 8"),
        (Tuning(0, (), 0), "instance_count must be at least 1, got 0"),
        (Tuning(-1), "must not be negative, got -1"),
    ],
)
def test_what_triton_would_refuse_is_refused_here(tuning: Tuning, words: str) -> None:
    with pytest.raises(BadModelConfig, match=words):
        configs.build_config(spec(), VERSION, tuning)


def unbatched(**changes: Any) -> ModelSpec:
    return spec(serving={"max_batch_size": 0, **changes})


def test_without_batching_the_clients_batch_is_the_first_axis_and_nothing_is_mixed() -> None:
    config = configs.build_config(unbatched(), VERSION)

    assert [list(entry.dims) for entry in config.input] == [[-1, -1], [-1, 1, 8, 8], [-1]]
    assert [list(entry.dims) for entry in config.output] == [[-1, -1, 10], [-1]]
    assert not any(entry.HasField("reshape") for entry in (*config.input, *config.output))
    assert config.max_batch_size == 0
    assert config.WhichOneof("scheduling_choice") is None
    assert config.instance_group[0].count == 1


def test_without_batching_one_whole_request_is_warmed_up() -> None:
    """Triton passes over a warm-up of batch size 0 in silence."""
    (warmup,) = configs.build_config(unbatched(), VERSION).model_warmup

    assert warmup.batch_size == 1
    assert {name: list(entry.dims) for name, entry in warmup.inputs.items()} == {
        "ids": [1, 2],
        "image": [1, 1, 8, 8],
        "flag": [1],
    }


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        (Tuning(0, (4,)), "preferred_batch_size needs batching, which serving.max_batch_size: 0 switches off"),
        (Tuning(500), "max_queue_delay_microseconds needs batching"),
    ],
)
def test_a_tuning_that_needs_batching_is_refused_without(tuning: Tuning, words: str) -> None:
    with pytest.raises(BadModelConfig, match=words):
        configs.build_config(unbatched(), VERSION, tuning)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"dynamic_batching": {"preferred_batch_size": [4]}}, "dynamic_batching.preferred_batch_size needs batching"),
        ({"queue": {"max_size": 7}}, "queue needs batching, which max_batch_size: 0 switches off; remove it"),
    ],
)
def test_a_spec_that_asks_for_batching_and_switches_it_off_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unbatched(**asked)


def test_the_digests_parameter_is_the_pipelines() -> None:
    with pytest.raises(BadModelConfig, match="'release_digest' is written by the pipeline"):
        configs.build_config(serving(parameters={"release_digest": "mine"}), VERSION)


def test_text_that_is_no_config_is_refused_with_its_place() -> None:
    with pytest.raises(BadModelConfig, match=r"config\.pbtxt is not valid: 2:1 .*unheard_of"):
        configs.parse("name: 'x'\nunheard_of: 3")


def test_a_tuning_survives_json() -> None:
    tuning = Tuning(500, (4, 8), 2)

    assert Tuning.from_dict(tuning.to_dict()) == tuning
    assert Tuning.from_spec(spec()) == Tuning(500, (8, 4), 2)
