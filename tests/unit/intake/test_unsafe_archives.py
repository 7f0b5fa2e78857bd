"""Archives and safetensors files that lie about what they hold are refused before anything of them is loaded."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from model_release.errors import CheckpointUnreadable, CheckpointUnsafe
from tests.unit.intake.files import STATE, Payload, rewritten, take, unchanged

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


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
