"""
The layout of a zip file, held to the one that torch writes.

Python's `zipfile` and torch's own reader find members in different ways where the records of a file contradict each
other, so that one could check a harmless member and the other load another (APPNOTE.TXT 4.3 names the records). Here
the members follow each other from the first byte on, then one table names each of them, then the file ends.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from itertools import pairwise
from pathlib import Path

from model_release.errors import CheckpointUnsafe

_END = struct.Struct("<4sHHHHIIH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_DESCRIPTOR_FOLLOWS = 0x8
#: A data descriptor with sizes of four bytes, and of eight.
_DESCRIPTOR_BYTES = (16, 24)
_16_BITS, _32_BITS = 0xFFFF, 0xFFFFFFFF
_NO_END = "it does not end where its archive ends"
_TWO_ENDS = "the two records at its end contradict each other"
_NO_TABLE = "the table of its members lies elsewhere than before its end"
_NO_BEGIN = "it does not begin with its first member"
_INSTEAD = "Write it anew with torch.save (or torch.export.save, torch.jit.save), or release a .safetensors file."


def check(uri: str, path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse a file that another reader could take for another archive. Raises CheckpointUnsafe."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as body:
        try:
            _check_members(body, members, _table_at(body, len(members)))
        except (_ContradictionError, struct.error) as error:
            raise CheckpointUnsafe(uri, f"{error}, so two readers would find two archives in it", _INSTEAD) from None


class _ContradictionError(Exception):
    """What two records of the file say differently."""


def _table_at(body: mmap.mmap, count: int) -> int:
    """Return where the table of `count` members begins, after the records at the end were found to agree on it."""
    end_at = len(body) - _END.size
    signature, disk, table_disk, here, total, size, offset, comment = _END.unpack_from(body, end_at)
    if signature != b"PK\x05\x06" or comment or disk or table_disk:
        raise _ContradictionError(_NO_END)
    found = (here, total, size, offset)
    table_end = end_at
    if (
        end_at >= _END64_LOCATOR.size
        and body.find(b"PK\x06\x07", end_at - _END64_LOCATOR.size, end_at - _END64_LOCATOR.size + 4) >= 0
    ):
        table_end = end_at - _END64_LOCATOR.size - _END64.size
        found64 = _end64(body, table_end)
        # A field of the short record that is too small for its number is all ones.
        limits = (_16_BITS, _16_BITS, _32_BITS, _32_BITS)
        if not found64 or any(
            short not in (long, most) for short, long, most in zip(found, found64, limits, strict=True)
        ):
            raise _ContradictionError(_TWO_ENDS)
        found = found64
    here, total, size, offset = found
    if offset + size != table_end or here != count or total != count:
        raise _ContradictionError(_NO_TABLE)
    return int(offset)


def _end64(body: mmap.mmap, at: int) -> tuple[int, int, int, int] | None:
    """Return the counts, size and offset of the 64-bit record, which has to lie right before its locator."""
    if at < 0:
        return None
    _, _, end64_at, _ = _END64_LOCATOR.unpack_from(body, at + _END64.size)
    signature, length, _, _, disk, table_disk, here, total, size, offset = _END64.unpack_from(body, at)
    if end64_at != at or signature != b"PK\x06\x06" or length != _END64.size - 12 or disk or table_disk:
        return None
    return here, total, size, offset


def _check_members(body: mmap.mmap, members: list[zipfile.ZipInfo], table_at: int) -> None:
    """Walk from member to member, from the first byte to the table, and leave nothing between them unread."""
    in_order = sorted(members, key=lambda member: member.header_offset)
    starts = [*(member.header_offset for member in in_order), table_at]
    if starts[0] != 0:
        raise _ContradictionError(_NO_BEGIN)
    for member, (at, following) in zip(in_order, pairwise(starts), strict=True):
        problem = _local_problem(body, member, at, following)
        if problem:
            message = f"its member {member.orig_filename!r} {problem}"
            raise _ContradictionError(message)


def _local_problem(body: mmap.mmap, member: zipfile.ZipInfo, at: int, following: int) -> str:
    """Compare the header before a member with the table's entry."""
    if following - at < _LOCAL.size:
        return "shares its bytes with another"
    signature, _, flags, method, _, _, _, packed, _, name_length, extra_length = _LOCAL.unpack_from(body, at)
    name = body[at + _LOCAL.size : at + _LOCAL.size + name_length]
    encoded = member.orig_filename.encode("utf-8" if flags & 0x800 else "cp437", errors="replace")
    if signature != b"PK\x03\x04" or (name, method, flags) != (encoded, member.compress_type, member.flag_bits):
        return "has another header than the table says"
    data_end = at + _LOCAL.size + name_length + extra_length + member.compress_size
    if flags & _DESCRIPTOR_FOLLOWS:
        return "" if following - data_end in _DESCRIPTOR_BYTES else "is of another size than the table says"
    if packed not in (member.compress_size, _32_BITS) or data_end != following:
        return "is of another size than the table says"
    return ""
