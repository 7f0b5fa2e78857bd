"""
Which processes belong to the sandbox, whoever started or orphaned them.

supervisord runs as the leader of a session of its own. A session's number goes to all its descendants and stays
taken as long as one of them lives, so they are found by it even when supervisord was killed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from sandbox.home import Home, read_json, write_private

_CLOCK_SLACK_S = 2


def record_session(home: Home, leader_pid: int) -> None:
    """Remember which session is the sandbox's."""
    record = {"pid": leader_pid, "created": psutil.Process(leader_pid).create_time(), "boot": _boot_id()}
    write_private(home.supervisor_record, json.dumps(record))


def forget_session(home: Home) -> None:
    """Remember that nothing runs."""
    home.supervisor_record.unlink(missing_ok=True)


def supervisor(home: Home) -> psutil.Process | None:
    """Return the running supervisord of this sandbox."""
    record = read_json(home.supervisor_record)
    if not record or record["boot"] != _boot_id():
        return None
    try:
        process = psutil.Process(record["pid"])
        same = abs(process.create_time() - record["created"]) < _CLOCK_SLACK_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def members(home: Home) -> list[psutil.Process]:
    """Return every living process of this sandbox, supervisord and orphans included."""
    record = read_json(home.supervisor_record)
    if not record or record["boot"] != _boot_id():
        return []
    if supervisor(home) is None and psutil.pid_exists(record["pid"]) and not _is_zombie(record["pid"]):
        return []  # the number was free, so all of ours had ended, and another process took it
    found = {}
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == record["pid"]:
                found[pid] = psutil.Process(pid)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    for process in list(found.values()):
        for child in descendants(process):
            found.setdefault(child.pid, child)
    return [process for process in found.values() if not _is_zombie(process.pid)]


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return the children and theirs, as far as they still live."""
    try:
        children: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return children


def end(home: Home, gentle_s: float) -> int:
    """
    End what is left: TERM to the leaders of process groups, and after `gentle_s` KILL to all.

    Only leaders get a TERM, since Airflow's scheduler hangs when its workers get one too. Returns how many had
    to be ended.
    """
    left = members(home)
    if not left:
        return 0
    for process in left:
        if _leads_group(process.pid):
            _signal(process, kill=False)
    _await_gone(home, gentle_s)
    for _ in range(3):  # one that forked meanwhile is found by the next look
        remaining = members(home)
        if not remaining:
            break
        for process in remaining:
            _signal(process, kill=True)
        _await_gone(home, 5)
    return len(left)


def memory_bytes(pid: int) -> int:
    """Return the proportional memory of a process and its descendants; 0 when it has ended."""
    try:
        process = psutil.Process(pid)
        return sum(_memory_of(member) for member in (process, *descendants(process)))
    except psutil.NoSuchProcess:
        return 0


def holder_of(port: int) -> str:
    """Name the process that listens on a port, as far as this user may see it."""
    inodes = _listening_inodes(port)
    for process in psutil.process_iter(["name"]):
        if _has_socket(process.pid, inodes):
            return f"{process.info['name']} (pid {process.pid})"
    return "another process"


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _has_socket(pid: int, inodes: Iterable[str]) -> bool:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        return any(str(link.readlink()) in wanted for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _memory_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _leads_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return


def _await_gone(home: Home, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while members(home) and time.monotonic() < deadline:
        time.sleep(0.1)


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(psutil.boot_time())
