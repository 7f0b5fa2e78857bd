"""Files that would do more than hold tensors are refused before anything of them is loaded; nothing of them runs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_release.errors import CheckpointUnreadable, CheckpointUnsafe
from model_release.intake import fetch_checkpoint, open_checkpoint, pickles
from model_release.spec import ModelSpec
from tests.unit import intake_toys, toys

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
STATE = toys.linear().state_dict()


class Payload:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def spec(form: str, path: Path) -> ModelSpec:
    source: dict[str, Any] = {"checkpoint": "file:///x", "format": form}
    if form == "state_dict":
        source["factory"] = "tests.unit.toys:linear"
    else:
        source |= {"allow_code": True, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return toys.spec(source=source)


def take(path: Path, form: str = "state_dict") -> torch.nn.Module:
    folder = path.parent / "fetched"
    folder.mkdir(exist_ok=True)
    made = spec(form, path)
    try:
        return open_checkpoint(made, fetch_checkpoint(made, toys.uri(path), toys.ENVIRONMENT, folder))
    except CheckpointUnreadable:
        assert list(folder.iterdir()) == [], "what was refused still lies there"
        raise


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], to: Path, **more: bytes) -> Path:
    """Copy an archive of torch member by member, with changes; None leaves a member out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for member in old.infolist():
            body = change(member.filename.split("/", 1)[1], old.read(member))
            if body is not None:
                new.writestr(member.filename, body)
        for name, body in more.items():
            new.writestr(f"{root}/{name}", body)
    return to


def unchanged(_: str, body: bytes) -> bytes:
    return body


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(STATE, tmp_path / "plain.pt")
    return tmp_path / "plain.pt"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program as torch.export.save writes it."""
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    batch = torch.export.Dim("batch", min=1, max=8)
    made = torch.export.export(toys.linear(), (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(made, path)
    return path


# --- pickles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle", "protocol 4"])
def test_a_pickle_with_a_payload_is_named_and_never_runs(tmp_path: Path, how: str) -> None:
    file, mark = tmp_path / "a.pth", tmp_path / "executed"
    content = {**STATE, "evil": Payload(mark)}
    if how == "protocol 4":
        torch.save(content, file, pickle_protocol=4)
    elif how == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointUnreadable, match=r"would run .*posix\.mkdir" if how != "pickle" else "would run"):
        take(file)
    assert not mark.exists()


def test_a_name_that_a_pickle_puts_together_is_refused_as_hidden(saved: Path, tmp_path: Path) -> None:
    # A STACK_GLOBAL whose module comes out of a tuple: no reader can tell it without running the pickle.
    hidden = b"\x80\x04\x8c\x05posix\x85\x8c\x05mkdir\x93."
    file = rewritten(saved, lambda name, body: hidden if name == "data.pkl" else body, tmp_path / "a.pt")
    with pytest.raises(CheckpointUnsafe, match="would run something that it hides"):
        take(file)


def test_a_pickled_module_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(toys.linear(), tmp_path / "a.pt")
    with pytest.raises(CheckpointUnsafe, match=r"would run torch\.nn\.modules\.linear\.Linear.*Save model\.state_dict"):
        take(tmp_path / "a.pt")


def test_the_last_pickle_of_an_old_file_is_looked_into_too(tmp_path: Path) -> None:
    file, mark = tmp_path / "a.pt", tmp_path / "executed"
    torch.save(STATE, file, _use_new_zipfile_serialization=False)
    body = io.BytesIO(file.read_bytes())
    for _ in range(4):
        list(pickletools.genops(body))
    at = body.tell()
    file.write_bytes(body.getvalue()[:at] + pickle.dumps(Payload(mark)) + body.getvalue()[at:])
    with pytest.raises(CheckpointUnsafe, match=r"would run posix\.mkdir"):
        take(file)
    assert not mark.exists()


@pytest.mark.parametrize("opcode", [b"\x8d", b"\x8e"])
def test_a_pickle_that_asks_for_more_memory_than_there_is_is_damaged(tmp_path: Path, opcode: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x80\x04" + opcode + struct.pack("<Q", 2**62) + b"x")
    with pytest.raises(CheckpointUnreadable, match="only 1 remain"):
        take(tmp_path / "a.pt")


def test_no_more_of_an_old_file_is_read_than_a_pickle_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(STATE, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert take(tmp_path / "a.pt") is not None
    monkeypatch.setattr(pickles, "MOST_BYTES", 100)
    (tmp_path / "fetched" / "checkpoint.pt").unlink()
    with pytest.raises(CheckpointUnreadable, match="its pickles are more than 100 bytes"):
        take(tmp_path / "a.pt")


# --- archives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "/etc/passwd", "C:\\x", "a\\..\\x"])
def test_a_member_that_names_another_place_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(file, "a") as archive:
        member = zipfile.ZipInfo("x")
        member.filename = name
        archive.writestr(member, b"x")
    with pytest.raises(CheckpointUnsafe, match="names a place outside of the archive"):
        take(file)


def test_a_link_in_an_archive_is_refused(saved: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(saved.read_bytes())
    link = zipfile.ZipInfo("plain/data/9")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(CheckpointUnsafe, match="is a link or a device"):
        take(file)


def test_a_zip_bomb_is_refused_by_what_it_would_unpack_to(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", b"\0" * 10_000_000)
    with pytest.raises(CheckpointUnsafe, match=r"is compressed, \d+ bytes that unpack to"):
        take(tmp_path / "a.pt")


def test_code_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/constants.pkl", b"", zipfile.ZIP_STORED)
        archive.writestr("a/code/x.py", b"\0" * 70_000_000)
    with pytest.raises(CheckpointUnsafe, match="its code unpacks to 70000000 bytes"):
        take(tmp_path / "a.pt", "torchscript")


def test_members_that_share_their_bytes_are_refused(saved: Path, tmp_path: Path) -> None:
    body = bytearray(saved.read_bytes())
    # The size of a member in the central directory, raised far over the file's own.
    place = body.rindex(b"plain/data/0") - 46 + 20
    struct.pack_into("<II", body, place, 2**30, 2**30)
    (tmp_path / "a.pt").write_bytes(bytes(body))
    with pytest.raises(CheckpointUnsafe, match="they share bytes"):
        take(tmp_path / "a.pt")


def test_one_name_twice_is_refused(saved: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(saved.read_bytes())
    with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("plain/data.pkl", pickle.dumps({}))
    with pytest.raises(CheckpointUnsafe, match=r"holds 'plain/data\.pkl' twice"):
        take(file)


def test_one_name_in_upper_and_lower_case_is_refused_as_torch_takes_either(saved: Path, tmp_path: Path) -> None:
    file = rewritten(saved, unchanged, tmp_path / "a.pt", **{"DATA.PKL": pickle.dumps({}, 2)})
    with pytest.raises(CheckpointUnsafe, match=r"holds 'plain/DATA\.PKL' twice"):
        take(file)


def test_a_name_that_ends_within_is_refused(saved: Path, tmp_path: Path) -> None:
    file = rewritten(saved, unchanged, tmp_path / "a.pt", **{"data.pklX": b"x"})
    file.write_bytes(file.read_bytes().replace(b"data.pklX", b"data.pkl\0"))
    with pytest.raises(CheckpointUnsafe, match="has a name that ends within"):
        take(file)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("bytes behind the end", "does not end where its archive ends"),
        ("a comment", "does not end where its archive ends"),
        ("bytes between members", "is of another size than the table says"),
        ("another name before the member", "has another header than the table says"),
        ("another 64-bit end", "the two records at its end contradict each other"),
        ("another count", "the table of its members lies elsewhere"),
    ],
)
def test_records_that_contradict_each_other_are_refused(saved: Path, tmp_path: Path, what: str, says: str) -> None:
    file = rewritten(saved, unchanged, tmp_path / "a.pt")
    body = bytearray(file.read_bytes())
    if what == "bytes behind the end":
        body += b"\0" * 8
    elif what == "a comment":
        body[-2:] = struct.pack("<H", 3)
        body += b"abc"
    elif what == "bytes between members":
        body = between_members(body)
    elif what == "another name before the member":
        place = body.index(b"plain/byteorder")
        body[place : place + 15] = b"plain/BYTEORDER"
    elif what == "another 64-bit end":
        body = bytearray(saved.read_bytes())
        struct.pack_into("<Q", body, len(body) - 22 - 20 + 8, 0)
    else:
        struct.pack_into("<HH", body, len(body) - 22 + 8, 2, 2)
    file.write_bytes(bytes(body))
    with pytest.raises((CheckpointUnsafe, CheckpointUnreadable), match=says):
        take(file)


def between_members(body: bytearray) -> bytearray:
    """Put bytes before the table that no member owns, and move the table's offset along."""
    (table_at,) = struct.unpack_from("<I", body, len(body) - 22 + 16)
    struct.pack_into("<I", body, len(body) - 22 + 16, table_at + 5)
    return body[:table_at] + b"extra" + body[table_at:]


def test_a_pickle_with_an_archive_behind_it_is_refused(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Payload(mark)) + saved.read_bytes())
    with pytest.raises(CheckpointUnsafe, match="begins as one kind of file and ends as another"):
        take(tmp_path / "a.pt")
    assert not mark.exists()


def test_any_other_zip_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("report/letter.txt", "hello")
    with pytest.raises(CheckpointUnreadable, match=r"none of torch's archives: \['letter\.txt'\]"):
        take(tmp_path / "a.pt")


@pytest.mark.parametrize("length", [2**62, 10**9, 0])
def test_a_safetensors_header_that_lies_is_one_sentence(tmp_path: Path, length: int) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    body = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + body[8:])
    with pytest.raises(CheckpointUnreadable, match="no whole safetensors file"):
        take(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("weight", "bias", "says"),
    [
        ([0, 24], [16, 24], "invalid offset for tensor"),
        ([0, 24], [24, 2**40], "offset"),
        ([0, 24], [28, 36], "offset|not fully covered"),
    ],
)
def test_safetensors_offsets_that_overlap_or_lie_outside_are_refused(
    tmp_path: Path, weight: list[int], bias: list[int], says: str
) -> None:
    with pytest.raises(CheckpointUnreadable, match=says):
        take(safetensors(tmp_path / "a.safetensors", entry("weight", [2, 3], weight), entry("bias", [2], bias)))


def test_a_safetensors_name_twice_is_refused_though_its_reader_takes_it(tmp_path: Path) -> None:
    entries = entry("weight", [2, 3], [0, 24]), entry("bias", [2], [24, 32]), entry("bias", [2], [24, 32])
    file = safetensors(tmp_path / "a.safetensors", *entries)
    assert set(load_file(file)) == {"weight", "bias"}
    with pytest.raises(CheckpointUnsafe, match="its header has 'bias' twice"):
        take(file)


def entry(name: str, shape: list[int], offsets: list[int]) -> str:
    return f'"{name}":' + json.dumps({"dtype": "F32", "shape": shape, "data_offsets": offsets})


def safetensors(path: Path, *entries: str) -> Path:
    header = ("{" + ",".join(entries) + "}").encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    return path


# --- programs ----------------------------------------------------------------------------------


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
    crafted = intake_toys.two_directories(checked, loaded, tmp_path / "model.pt2")
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
