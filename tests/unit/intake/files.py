"""Modules and files for the tests of intake."""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model_release.errors import CheckpointUnreadable
from model_release.intake import fetch_checkpoint, open_checkpoint
from model_release.spec import ModelSpec
from tests.unit import toys

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


def counter(bits: int) -> torch.nn.Module:
    """A module with a whole number of so many bits."""
    module = torch.nn.Module()
    module.register_buffer("count", torch.zeros(2, dtype={32: torch.int32, 64: torch.int64}[bits]))
    return module


def two_directories(checked: Path, loaded: Path, to: Path) -> Path:
    """
    Write a file in which `zipfile` finds the archive `checked`, and torch's reader the archive `loaded`.

    zipfile takes the table right before the end, torch's reader the one at the offset that the end names; the offsets
    of the first are moved by the difference, which zipfile adds again.
    """
    body, count, table_at, table_end = _parts(loaded)
    other, other_count, other_at, other_end = _parts(checked)
    assert count == other_count
    shift = table_end + other_at - table_at
    table, at = bytearray(other[other_at:other_end]), 0
    for _ in range(count):
        lengths = struct.unpack_from("<HHH", table, at + 28)
        (offset,) = struct.unpack_from("<I", table, at + 42)
        struct.pack_into("<I", table, at + 42, table_end + offset - shift)
        at += 46 + sum(lengths)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(table), table_at, 0)
    to.write_bytes(body[:table_end] + other[:other_at] + table + end)
    return to


def _parts(path: Path) -> tuple[bytes, int, int, int]:
    """Return a file of zipfile, how many members it has, and where its table begins and ends."""
    body = path.read_bytes()
    end_at = body.rindex(b"PK\x05\x06")
    with zipfile.ZipFile(path) as archive:
        return body, len(archive.infolist()), archive.start_dir, end_at
