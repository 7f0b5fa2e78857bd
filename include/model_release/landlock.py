"""
Landlock: a process gives up what it may write, read, connect to and signal, for good and for its children.

The kernel's interface is three system calls without a wrapper in libc (landlock(7)); their numbers are the same on all
architectures.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _TRUNCATE = 1 << 1, 1 << 2, 1 << 14
#: Removing and making files of all kinds in a folder.
_IN_FOLDERS = sum(1 << bit for bit in range(4, 13))
#: Moving between folders came with version 2, truncating with 3, TCP (bind, connect) with 4, and with 6 the scopes:
#: abstract sockets of other processes, and signals to them.
_REFER, _REFER_SINCE, _TRUNCATE_SINCE = 1 << 13, 2, 3
_TCP, _TCP_SINCE = 0b11, 4
_SCOPES, _SCOPES_SINCE = 0b11, 6


class _Ruleset(ctypes.Structure):
    _fields_ = [
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def restrict(writable: Iterable[Path], hidden: Iterable[Path]) -> list[str]:
    """
    From now on forbid this process to write but to `writable`, and to read `hidden` and what /proc tells of others.

    Both hold for files and for all below folders. A file that somebody makes later in a folder above a hidden place
    cannot be read either. Needs PR_SET_NO_NEW_PRIVS (or root). Returns what the kernel keeps the process from; an empty
    list changes nothing.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return []
    files = _WRITE_FILE | (_TRUNCATE if version >= _TRUNCATE_SINCE else 0)
    folders = files | _IN_FOLDERS | (_REFER if version >= _REFER_SINCE else 0)
    ruleset = _Ruleset(
        folders | _READ_FILE,
        _TCP if version >= _TCP_SINCE else 0,
        _SCOPES if version >= _SCOPES_SINCE else 0,
    )
    # An older kernel refuses a longer record than it knows.
    known = 1 + (version >= _TCP_SINCE) + (version >= _SCOPES_SINCE)
    ruleset_fd = libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), 8 * known, 0)
    if ruleset_fd < 0:
        return []
    try:
        for place in writable:
            _allow(libc, ruleset_fd, place, folders | _READ_FILE, files | _READ_FILE)
        for place in _readable({_resolved(place) for place in hidden}):
            _allow(libc, ruleset_fd, place, _READ_FILE, _READ_FILE)
        if libc.syscall(_RESTRICT_SELF, ruleset_fd, 0) != 0:
            return []
    finally:
        os.close(ruleset_fd)
    kept_from = ["writing elsewhere", "reading credentials"]
    kept_from += ["TCP"] if version >= _TCP_SINCE else []
    return kept_from + (["signals to others"] if version >= _SCOPES_SINCE else [])


def _resolved(place: Path) -> str:
    return os.path.realpath(place)


def _readable(hidden: set[str]) -> Iterator[Path]:
    """Yield places that hold together all but what is hidden and the other processes of /proc."""
    above = {str(parent) for place in hidden for parent in Path(place).parents} | {"/", "/proc"}
    mine = str(os.getpid())
    waiting = ["/"]
    while waiting:
        folder = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            if folder == "/proc" and entry.name.isdigit() and entry.name != mine:
                continue
            if entry.path in above:
                waiting.append(entry.path)
            elif entry.path not in hidden and not entry.is_symlink():
                yield Path(entry.path)


def _allow(libc: ctypes.CDLL, ruleset_fd: int, place: Path, below: int, file: int) -> None:
    """Allow the access `below` a folder, or to a `file`; a place that is gone needs no rule."""
    with contextlib.suppress(OSError):
        place_fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
        try:
            is_folder = stat.S_ISDIR(os.fstat(place_fd).st_mode)
            rule = _Beneath(below if is_folder else file, place_fd)
            libc.syscall(_ADD_RULE, ruleset_fd, _PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(place_fd)
