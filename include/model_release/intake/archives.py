"""
The archives of torch: zip files that torch.save, torch.jit.save and torch.export.save write.

torch stores tensors as they are, under one folder, each name once. Whatever differs from that was made by hand, and is
refused: a reader that unpacks, follows or overwrites has nothing to be careful of.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from model_release.errors import CheckpointUnreadable, CheckpointUnsafe
from model_release.intake import layout, pickles

STATE_DICT, TORCHSCRIPT, EXPORTED_PROGRAM = "state_dict", "torchscript", "exported_program"
_MOST_MEMBERS = 200_000
#: TorchScript compresses its code, and nothing else does.
_MOST_CODE_BYTES = 64 * 2**20
_ENCRYPTED = 0x1
#: What `zipfile` raises at bytes that are no archive.
_DAMAGED = (zipfile.BadZipFile, OSError, NotImplementedError, EOFError, KeyError, ValueError, struct.error, zlib.error)
_INSTEAD = "Write it anew with torch.save (or torch.export.save, torch.jit.save), or release a .safetensors file."
_PICKLED_TENSORS = "Save the program anew with torch.export.save of torch 2.13, from plain dense tensors."
#: What torch.export.save writes; `custom_obj_` and `opaque_obj_` are pickles that run, and `.pt` weights are old ones.
_PT2_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.format_version|\.storage_alignment|\.data/(version|serialization_id)"
    r"|models/\w+\.json"
    r"|data/(weights|constants)/\w+_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|data/sample_inputs/\w+\.pt"
)


def check(uri: str, path: Path) -> str:
    """
    Return which of torch's archives a file is, after its members were found harmless to read.

    Raises CheckpointUnreadable (damaged, or none of torch's), CheckpointUnsafe.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(uri, members, path.stat().st_size)
            layout.check(uri, path, members)
            return _check_kind(uri, archive, {_inner(member.filename) for member in members})
    except _DAMAGED as error:
        raise CheckpointUnreadable(uri, f"it is damaged ({error})") from None


def _check_members(uri: str, members: list[zipfile.ZipInfo], size_bytes: int) -> None:
    """Refuse members that unpack to more than they are, or that name other places."""
    if len(members) > _MOST_MEMBERS:
        raise CheckpointUnsafe(uri, f"it has {len(members)} members, allowed are {_MOST_MEMBERS}", _INSTEAD)
    seen: set[str] = set()
    for member in members:
        name = member.filename
        # torch's reader does not tell upper from lower case.
        problem = _problem(member) or (f"it holds {name!r} twice" if name.casefold() in seen else "")
        if problem:
            raise CheckpointUnsafe(uri, problem, _INSTEAD)
        seen.add(name.casefold())
    unpacked = sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED)
    if unpacked > _MOST_CODE_BYTES:
        raise CheckpointUnsafe(uri, f"its code unpacks to {unpacked} bytes, allowed are {_MOST_CODE_BYTES}", _INSTEAD)
    declared = sum(member.compress_size for member in members)
    if declared > size_bytes:
        raise CheckpointUnsafe(
            uri, f"its members are {declared} bytes together in a file of {size_bytes}: they share bytes", _INSTEAD
        )
    roots = {PurePosixPath(member.filename).parts[0] for member in members if member.filename}
    if len(roots) > 1:
        raise CheckpointUnreadable(uri, f"it is none of torch's archives, which have one folder: {sorted(roots)[:5]}")


def _problem(member: zipfile.ZipInfo) -> str:
    """Return why a member is none that torch writes, or an empty string."""
    name, mode = member.filename, member.external_attr >> 16
    path = PurePosixPath(name)
    if name != member.orig_filename:
        return f"its member {member.orig_filename!r} has a name that ends within"
    if path.is_absolute() or ".." in path.parts or "\\" in name or re.match(r"[A-Za-z]:", name):
        return f"its member {name!r} names a place outside of the archive"
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return f"its member {name!r} is a link or a device"
    if member.flag_bits & _ENCRYPTED:
        return f"its member {name!r} is encrypted"
    if member.compress_type != zipfile.ZIP_STORED and path.parts[1:2] != ("code",):
        return (
            f"its member {name!r} is compressed, {member.compress_size} bytes that unpack to {member.file_size}, "
            "where torch stores tensors as they are"
        )
    return ""


def _inner(name: str) -> str:
    """Return a member's name without the archive's own folder."""
    return "/".join(PurePosixPath(name).parts[1:])


def _check_kind(uri: str, archive: zipfile.ZipFile, inner: set[str]) -> str:
    if "archive_format" in inner:
        _check_exported_program(uri, archive)
        return EXPORTED_PROGRAM
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return TORCHSCRIPT
    if any(name.startswith("serialized_exported_program") for name in inner):
        raise CheckpointUnreadable(uri, f"it is an exported program of an old torch. {_PICKLED_TENSORS}")
    if "data.pkl" in inner:
        _check_pickle(uri, archive, next(m for m in archive.infolist() if _inner(m.filename) == "data.pkl"))
        return STATE_DICT
    raise CheckpointUnreadable(uri, f"it is none of torch's archives: {sorted(inner)[:5]}")


def _check_pickle(uri: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    if member.file_size > pickles.MOST_BYTES:
        raise CheckpointUnsafe(
            uri,
            f"its pickle {member.filename!r} is {member.file_size} bytes, allowed are {pickles.MOST_BYTES}",
            _INSTEAD,
        )
    pickles.check(uri, PurePosixPath(member.filename).name, archive.read(member))


def _check_exported_program(uri: str, archive: zipfile.ZipFile) -> None:
    """
    Refuse pickles inside a .pt2.

    torch.export.load reads a tensor with weights_only off where the archive itself says `use_pickle`, and objects of
    other kinds with pickle.loads, so either runs what it likes. Sample inputs, which torch.export.save always writes,
    are a file of torch.save; torch reads them with weights_only, and without where that fails. So they may import only
    what builds tensors and plain containers.
    """
    for member in archive.infolist():
        name = _inner(member.filename)
        if not _PT2_MEMBERS.fullmatch(name):
            raise CheckpointUnsafe(
                uri, f"its member {name!r} is none of a plain exported program: it would be unpickled", _PICKLED_TENSORS
            )
        if name.endswith("_config.json"):
            _refuse_use_pickle(uri, name, archive.read(member))
        if name.startswith("data/sample_inputs/"):
            _check_sample_inputs(uri, archive, member)


def _refuse_use_pickle(uri: str, name: str, body: bytes) -> None:
    try:
        entries = json.loads(body)["config"].items()
        pickled = [tensor for tensor, entry in entries if entry.get("use_pickle") is not False]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointUnreadable(uri, f"its {name} is damaged ({error})") from None
    if pickled:
        raise CheckpointUnsafe(
            uri, f"its {name} has {pickled[0]!r} unpickled with nothing forbidden (use_pickle)", _PICKLED_TENSORS
        )


def _check_sample_inputs(uri: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Look into the archive within the archive as into any file of torch.save; one level deep."""
    if member.file_size == 0:
        return
    name = _inner(member.filename)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inner.pt"
        with archive.open(member) as packed, path.open("wb") as stream:
            shutil.copyfileobj(packed, stream)
        if not zipfile.is_zipfile(path):
            raise CheckpointUnsafe(uri, f"its {name!r} is a bare pickle", _PICKLED_TENSORS)
        with zipfile.ZipFile(path) as inner:
            kept = {_inner(each.filename) for each in inner.infolist()}
        if "archive_format" in kept or check(uri, path) != STATE_DICT:
            raise CheckpointUnsafe(uri, f"its {name!r} is a program of its own", _PICKLED_TENSORS)
