"""Programs are read where they are allowed and pinned; a pickle within one is refused, and never runs."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from model_release.errors import CheckpointUnreadable, CheckpointUnsafe
from model_release.intake import fetch_checkpoint
from tests.unit import toys
from tests.unit.intake.files import Payload, rewritten, spec, take, two_directories, unchanged

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def test_a_program_of_torch_export_is_read_when_it_is_allowed_and_pinned(program: Path) -> None:
    module = take(program, "exported_program")
    x = torch.randn(5, 3)
    assert torch.equal(module(x), toys.linear()(x))


def test_torchscript_is_read_when_it_is_allowed_and_pinned(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(toys.linear()), tmp_path / "a.pt")
    x = torch.randn(5, 3)
    assert torch.equal(take(tmp_path / "a.pt", "torchscript")(x), toys.linear()(x))


def test_a_spec_that_was_made_past_its_rules_still_opens_no_code(program: Path, tmp_path: Path) -> None:
    made = spec("exported_program", program)
    loose = made.model_copy(update={"source": made.source.model_copy(update={"allow_code": False})})
    with pytest.raises(CheckpointUnsafe, match="the spec does not allow it"):
        fetch_checkpoint(loose, toys.uri(program), toys.ENVIRONMENT, tmp_path)


def test_another_file_than_the_pinned_one_is_refused(program: Path, tmp_path: Path) -> None:
    made = spec("exported_program", program)
    (tmp_path / "model.pt2").write_bytes(program.read_bytes() + b"\0")
    with pytest.raises(CheckpointUnreadable, match="the spec pins"):
        fetch_checkpoint(made, toys.uri(tmp_path / "model.pt2"), toys.ENVIRONMENT, tmp_path)


def test_a_program_under_the_name_of_a_state_dict_is_refused_as_code(program: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(program.read_bytes())
    with pytest.raises(CheckpointUnreadable, match="exported program, which is code"):
        take(tmp_path / "a.pt")
    torch.jit.save(torch.jit.script(toys.linear()), tmp_path / "b.pt")
    with pytest.raises(CheckpointUnreadable, match="TorchScript program, which is code"):
        take(tmp_path / "b.pt")


def test_a_state_dict_under_the_name_of_a_program_is_said(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(saved.read_bytes())
    with pytest.raises(CheckpointUnreadable, match=r"a file of torch\.save; the spec says source\.format: exported"):
        take(tmp_path / "a.pt2", "exported_program")


def pickled(mark: Path) -> bytes:
    stream = io.BytesIO()
    torch.save(Payload(mark), stream)
    return stream.getvalue()


def with_use_pickle(name: str, body: bytes) -> bytes:
    if not name.endswith("weights_config.json"):
        return body
    config = json.loads(body)
    for entry in config["config"].values():
        entry["use_pickle"] = True
    return json.dumps(config).encode()


def test_a_crafted_program_would_run_its_pickle_if_it_were_loaded(program: Path, tmp_path: Path) -> None:
    """What the refusals below are for: torch itself runs it."""
    mark = tmp_path / "executed"
    crafted = rewritten(
        program,
        lambda name, body: pickled(mark) if name.startswith("data/weights/weight_") else with_use_pickle(name, body),
        tmp_path / "model.pt2",
    )
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever torch says, after it ran
        torch.export.load(crafted)
    assert mark.exists()


def test_a_program_behind_a_second_table_of_members_is_refused_and_never_runs(program: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    loaded = rewritten(
        program,
        lambda name, body: pickled(mark) if name.startswith("data/weights/weight_") else with_use_pickle(name, body),
        tmp_path / "loaded.pt2",
    )
    checked = rewritten(program, unchanged, tmp_path / "checked.pt2")
    assert take(checked, "exported_program") is not None
    crafted = two_directories(checked, loaded, tmp_path / "model.pt2")
    with zipfile.ZipFile(checked) as plain, zipfile.ZipFile(crafted) as archive:
        same = [archive.read(name) == plain.read(name) for name in plain.namelist()]
    assert all(same), "zipfile does not find the harmless archive in it"
    for file in (tmp_path / "fetched").iterdir():
        file.unlink()
    with pytest.raises(CheckpointUnsafe, match="two readers would find two archives"):
        take(crafted, "exported_program")
    assert not mark.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever torch says, after it ran
        torch.export.load(crafted)
    assert mark.exists(), "torch does not run it, so the refusal shows nothing"


def test_programs_within_programs_are_refused_at_the_first(program: Path, tmp_path: Path) -> None:
    body = program.read_bytes()
    for _ in range(300):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("m/archive_format", "pt2")
            archive.writestr("m/data/sample_inputs/model.pt", body)
        body = stream.getvalue()
    (tmp_path / "model.pt2").write_bytes(body)
    with pytest.raises(CheckpointUnsafe, match="is a program of its own"):
        take(tmp_path / "model.pt2", "exported_program")


def test_a_config_nested_deeper_than_any_parser_goes_is_damaged(program: Path, tmp_path: Path) -> None:
    crafted = rewritten(
        program,
        lambda name, body: b'{"config":' + b"[" * 100_000 if name.endswith("weights_config.json") else body,
        tmp_path / "model.pt2",
    )
    with pytest.raises(CheckpointUnreadable, match=r"model_weights_config\.json is damaged"):
        take(crafted, "exported_program")


@pytest.mark.parametrize(
    ("member", "says"),
    [
        ("use_pickle", r"has '\w+' unpickled with nothing forbidden"),
        ("data/sample_inputs/model.pt", r"pickle that would run posix\.mkdir"),
        ("data/weights/model.pt", "would be unpickled"),
        ("data/constants/custom_obj_0", "would be unpickled"),
        ("data/constants/opaque_obj_0", "would be unpickled"),
        ("extra/hook.py", "would be unpickled"),
    ],
)
def test_a_program_with_a_pickled_member_is_refused_and_never_runs(
    program: Path, tmp_path: Path, member: str, says: str
) -> None:
    mark, crafted = tmp_path / "executed", tmp_path / "model.pt2"
    if member == "use_pickle":
        rewritten(program, with_use_pickle, crafted)
    elif member.startswith("data/sample"):
        rewritten(program, lambda name, body: pickled(mark) if name == member else body, crafted)
    else:
        rewritten(program, unchanged, crafted, **{member: pickled(mark)})
    with pytest.raises(CheckpointUnsafe, match=says):
        take(crafted, "exported_program")
    assert not mark.exists()


def test_sample_inputs_as_a_bare_pickle_are_refused(program: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    crafted = rewritten(
        program,
        lambda name, body: pickle.dumps(Payload(mark)) if name.startswith("data/sample") else body,
        tmp_path / "model.pt2",
    )
    with pytest.raises(CheckpointUnsafe, match="is a bare pickle"):
        take(crafted, "exported_program")
    assert not mark.exists()
