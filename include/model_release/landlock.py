"""
Landlock: a process gives up writing anywhere but in some folders, for good and for its children.

The kernel's interface is three system calls without a wrapper in libc (landlock(7)); their numbers are the same on all
architectures.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
#: Removing and making files of all kinds in a folder.
_IN_FOLDERS = sum(1 << bit for bit in range(4, 13))
#: Moving between folders came with version 2, truncating with version 3.
_REFER, _REFER_SINCE, _TRUNCATE_SINCE = 1 << 13, 2, 3


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled_access_fs", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def restrict_writes(places: Iterable[Path]) -> bool:
    """
    Forbid this process to write anywhere but in these folders and files, from now on; reading stays as it was.

    Needs PR_SET_NO_NEW_PRIVS (or root). Returns whether the kernel does it; False changes nothing.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return False
    files = _WRITE_FILE | (_TRUNCATE if version >= _TRUNCATE_SINCE else 0)
    folders = files | _IN_FOLDERS | (_REFER if version >= _REFER_SINCE else 0)
    ruleset = _Ruleset(folders)
    ruleset_fd = libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    if ruleset_fd < 0:
        return False
    try:
        for place in places:
            if place.exists():
                _allow(libc, ruleset_fd, place, folders if place.is_dir() else files)
        return bool(libc.syscall(_RESTRICT_SELF, ruleset_fd, 0) == 0)
    finally:
        os.close(ruleset_fd)


def _allow(libc: ctypes.CDLL, ruleset_fd: int, place: Path, access: int) -> None:
    parent_fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _Beneath(access, parent_fd)
        libc.syscall(_ADD_RULE, ruleset_fd, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent_fd)
