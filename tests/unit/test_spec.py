"""Model configs: what holds, what does not, and the words that say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_release.errors import BadModelConfig, UnknownModel
from model_release.spec import ModelSpec, render_template
from model_release.spec_files import find_served, find_spec, load_spec, load_specs, parse_section

GOOD = """
name: {name}
source: {{checkpoint: "s3://training/{name}/{{{{ date }}}}/model.safetensors", factory: "package.module:build"}}
inputs: [{{name: image, dtype: float32, shape: [1, 8, 8]}}]
outputs: [{{name: logits, dtype: float32, shape: [10]}}]
"""


def good(name: str = "digits", extra: str = "") -> str:
    return GOOD.format(name=name) + extra


def problems_of(text: str) -> str:
    with pytest.raises(BadModelConfig) as caught:
        parse_section(ModelSpec, text, "digits.yaml")
    return str(caught.value)


def test_a_minimal_config_has_the_defaults_of_production() -> None:
    spec = parse_section(ModelSpec, good(), "digits.yaml")

    assert spec.canary.stages == [10, 50, 100]
    assert spec.canary.min_requests == 1000
    assert [gate.kind for gate in spec.canary.gates] == ["error_rate", "latency"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("canry: {}", ["unknown key 'canry'", "Did you mean 'canary'"]),
        ("canary: {min_bake: 3}", ["unknown key 'canary.min_bake'", "Did you mean 'min_bake_s'"]),
        ("canary: {gates: [{name: e, kind: error_rate, od_ratio: 2}]}", ["Did you mean 'odds_ratio'"]),
        ("canary: {stages: [50, 10, 100]}", ["stages [50, 10, 100] must rise and end at 100"]),
        ("export: {keep_fp32: [Softmax]}", ["keep_fp32 ['Softmax'] needs precision: fp16"]),
        ("accuracy: {golden_set: 'file:///g.npz', output: logit}", ["accuracy.output names ['logit']"]),
        ("parity: {outputs: {logit: {atol: 1, rtol: 1}}}", ["parity.outputs names ['logit']"]),
        ("canary: {stages: [10, 50]}", ["must rise and end at 100"]),
        ("canary: {min_bake_s: 60, max_bake_s: 30}", ["must be below max_bake_s"]),
        ("schedule: daily", ["cron line of five fields"]),
        (
            "serving: {max_batch_size: 8}\nparity: {batch_sizes: [64]}",
            ["parity.batch_sizes [64] are above serving.max_batch_size 8"],
        ),
        ("serving: {dynamic_batching: {preferred_batch_size: [128]}}", ["above max_batch_size 64"]),
        ("dynamic_axes: {seq: {min: 2, max: 8}}", ["no input names"]),
        ("contract: 0", ["contract"]),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(extra: str, words: list[str]) -> None:
    message = problems_of(good(extra=extra))

    for word in words:
        assert word in message


def test_every_problem_of_a_file_is_said_at_once() -> None:
    message = problems_of(good(extra="canry: {}\nschedule: daily"))

    assert "canry" in message
    assert "cron line" in message


def test_a_checkpoint_variable_that_does_not_exist_is_named() -> None:
    message = problems_of(good().replace("{{ date }}", "{{ day }}"))

    assert "variable 'day'" in message
    assert "date, version" in message


def test_a_file_that_is_no_yaml_is_a_bad_config_and_not_a_crash() -> None:
    assert "digits.yaml" in problems_of("a: [")
    assert "mapping" in problems_of("- a list")


def test_a_name_that_is_not_the_files_stem_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(good())

    with pytest.raises(BadModelConfig, match=r"name is 'digits', but the file is other\.yaml"):
        load_spec(path)


def test_a_later_contract_is_served_under_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(good(extra="contract: 3"))

    assert load_spec(tmp_path / "digits.yaml").served_name == "digits_v3"
    assert find_served(tmp_path, "digits_v3").name == "digits"
    with pytest.raises(UnknownModel, match="digits_v3"):
        find_served(tmp_path, "digits")


def test_a_served_name_that_another_model_has_or_that_is_too_long_is_refused(tmp_path: Path) -> None:
    for name, extra in (("digits", "contract: 2"), ("digits_v2", ""), ("d" * 38, "contract: 2")):
        (tmp_path / f"{name}.yaml").write_text(good(name, extra))

    with pytest.raises(BadModelConfig, match=r"served as 'digits_v2', which is the name of digits_v2\.yaml"):
        load_spec(tmp_path / "digits.yaml")
    with pytest.raises(BadModelConfig, match="more than 40 characters"):
        load_spec(tmp_path / f"{'d' * 38}.yaml")
    assert load_spec(tmp_path / "digits_v2.yaml").served_name == "digits_v2"


def test_a_bad_file_leaves_the_others_standing(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(good())
    (tmp_path / "broken.yaml").write_text(good("broken", "nonsense: 1"))

    specs, problems = load_specs(tmp_path)

    assert list(specs) == ["digits"]
    assert [Path(problem.path).name for problem in problems] == ["broken.yaml"]


def test_an_unknown_model_is_answered_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(good())

    with pytest.raises(UnknownModel, match="Did you mean 'digits'"):
        find_spec(tmp_path, "digit")


def test_the_digest_changes_with_any_value_and_not_with_the_layout() -> None:
    one = parse_section(ModelSpec, good(), "x")
    same = parse_section(ModelSpec, "# a comment\n" + good(), "x")
    other = parse_section(ModelSpec, good(extra="parity: {atol: 1.0e-5}"), "x")

    assert one.digest == same.digest
    assert one.digest != other.digest


def test_templates_put_values_in_and_leave_the_rest() -> None:
    assert (
        render_template("s3://a/{{ date }}/{{version}}", {"date": "2026-01-02", "version": "7"})
        == "s3://a/2026-01-02/7"
    )


def test_names_that_would_collide_with_ensemble_parts_are_refused() -> None:
    assert "'__'" in problems_of(good("a__b"))


PIN = "ab" * 32
CODE = """
name: digits
source: {{checkpoint: "file:///model.pt2", format: {format}{extra}}}
inputs: [{{name: image, dtype: float32, shape: [1, 8, 8]}}]
outputs: [{{name: logits, dtype: float32, shape: [10]}}]
"""


@pytest.mark.parametrize("form", ["exported_program", "torchscript"])
@pytest.mark.parametrize("extra", ["", ", allow_code: true", f", sha256: {PIN}"])
def test_a_checkpoint_that_is_code_needs_to_be_allowed_and_pinned(form: str, extra: str) -> None:
    message = problems_of(CODE.format(format=form, extra=extra))

    assert "is a program that runs when it is loaded: it needs allow_code: true, and sha256" in message


def test_code_that_is_allowed_and_pinned_is_taken_without_a_factory() -> None:
    allowed = f", allow_code: true, sha256: {PIN}"
    spec = parse_section(ModelSpec, CODE.format(format="torchscript", extra=allowed), "digits.yaml")

    assert spec.source.is_code
    assert "factory is for state_dict" in problems_of(
        CODE.format(format="torchscript", extra=allowed + ", factory: 'a:b'")
    )


def test_a_state_dict_needs_a_factory_and_never_code() -> None:
    assert "factory is missing" in problems_of(CODE.format(format="state_dict", extra=""))
    assert "nothing of a state_dict is ever run" in problems_of(
        CODE.format(format="state_dict", extra=", factory: 'a:b', allow_code: true")
    )


def test_tolerances_have_defaults_by_dtype_and_the_more_special_wins() -> None:
    outputs = [{"name": name, "dtype": name, "shape": [2]} for name in ("float16", "float32", "float64", "int64")]
    plain = parse_section(ModelSpec, good(), "x").model_dump() | {"outputs": outputs}

    def tolerances(**changes: object) -> list[tuple[float, float]]:
        spec = ModelSpec.model_validate({**plain, **changes})
        return [(t.atol, t.rtol) for t in (spec.tolerance(output["name"]) for output in outputs)]

    assert tolerances() == [(1e-2, 1e-2), (1e-4, 1e-3), (1e-7, 1e-6), (0, 0)]
    assert tolerances(export={"precision": "fp16"})[1] == (1e-2, 1e-2)
    assert tolerances(parity={"atol": 0.5})[1:] == [(0.5, 1e-3), (0.5, 1e-6), (0, 0)]
    own = {"int64": {"atol": 1, "rtol": 0}}
    assert tolerances(parity={"atol": 0.5, "outputs": own})[2:] == [(0.5, 1e-6), (1, 0)]


@pytest.mark.parametrize(("most", "sizes"), [(64, [1, 3, 64]), (2, [1, 2]), (1, [1]), (0, [1, 3])])
def test_parity_is_proved_up_to_the_largest_batch_that_is_served(most: int, sizes: list[int]) -> None:
    assert parse_section(ModelSpec, good(extra=f"serving: {{max_batch_size: {most}}}"), "x").batch_sizes == sizes
