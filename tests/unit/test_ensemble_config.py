"""The configs of an ensemble: its parts' and its own, and what names them all."""

from __future__ import annotations

from model_release.spec import ModelSpec
from model_release.triton import config as configs
from model_release.triton.bundle import build_bundle, part_digests
from model_release.triton.config import Tuning
from tests.unit import ensembles
from tests.unit.ensembles import VERSION


def test_parts_come_first_and_each_step_names_the_very_version_of_its_part() -> None:
    bundle = build_bundle(ensembles.whole(), VERSION)

    assert list(bundle.by_part) == ["start", "model", "end", ""]
    assert bundle.part_models == ["whole__start", "whole__model", "whole__end"]
    steps = bundle.own.ensemble_scheduling.step
    assert [(step.model_name, step.model_version) for step in steps] == [(n, VERSION) for n in bundle.part_models]
    assert bundle.own.platform == "ensemble"
    assert dict(steps[1].input_map) == {"x": "lengths"}
    for config in bundle.by_part.values():
        assert list(config.version_policy.specific.versions) == [VERSION]
        assert config.parameters[configs.RELEASE_DIGEST].string_value == configs.release_digest(config)


def test_steps_are_ordered_by_their_data_whatever_the_file_says() -> None:
    values = ensembles.values()
    values["serving"]["ensemble"]["steps"].reverse()
    values["serving"]["ensemble"]["parts"]["model"]["spec"] = ensembles.inner()

    assert list(build_bundle(ModelSpec.model_validate(values), VERSION).parts) == ["start", "model", "end"]


def test_one_value_a_sample_is_reshaped_by_parts_and_never_by_the_ensemble() -> None:
    """Triton 2.51: "inconsistent shape: [-1] is inferred from model whole while [-1,1] is ... from whole__start"."""
    bundle = build_bundle(ensembles.whole(), VERSION)

    [text] = bundle.own.input
    [same] = bundle.parts["start"].input
    assert (list(text.dims), text.HasField("reshape")) == ([1], False)
    assert (list(same.dims), same.HasField("reshape")) == ([1], True)


def test_the_digest_of_the_whole_changes_with_any_part() -> None:
    asked = ensembles.whole()
    bundle = build_bundle(asked, VERSION)
    other = build_bundle(ensembles.whole({"serving": {"max_batch_size": 16}}), VERSION)

    assert part_digests(bundle.own) == {part: configs.release_digest(each) for part, each in bundle.parts.items()}
    assert bundle.digest != other.digest
    assert bundle.parts["start"] == other.parts["start"]


def test_a_tuning_is_that_of_the_parts_that_have_weights() -> None:
    asked = ensembles.whole()
    bundle = build_bundle(asked, VERSION, Tuning(500, (), 3, 2, 4))

    assert bundle.parts["model"].dynamic_batching.max_queue_delay_microseconds == 500
    assert bundle.parts["model"].instance_group[0].count == 3
    assert bundle.parts["model"].parameters["intra_op_thread_count"].string_value == "4"
    assert bundle.parts["model"].max_batch_size == 8, "2 would be too small for the ensemble's 4"
    assert bundle.parts["start"].instance_group[0].count == 1
    assert bundle.batched is bundle.parts["model"]
    assert build_bundle(asked, VERSION, Tuning.from_spec(asked)) == build_bundle(asked, VERSION)


def test_a_model_without_parts_is_a_bundle_of_itself() -> None:
    spec = ModelSpec.model_validate(ensembles.inner())
    bundle = build_bundle(spec, VERSION)

    assert bundle.own == configs.build_config(spec, VERSION)
    assert (bundle.part_models, bundle.batched) == ([], bundle.own)


def test_a_config_that_names_other_versions_has_a_digest_of_its_own() -> None:
    wide = configs.naming(build_bundle(ensembles.whole(), VERSION).parts["model"], [VERSION, VERSION + 1])

    assert list(wide.version_policy.specific.versions) == [VERSION, VERSION + 1]
    assert wide.parameters[configs.RELEASE_DIGEST].string_value == configs.release_digest(wide)
