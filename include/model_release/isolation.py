"""
A child process for code that came with a checkpoint: without credentials, and without a network where the platform can.

What holds everywhere: an environment by whitelist, an empty home, the writable folder as working directory, no new
privileges, no core files, and an end with its parent. Where Linux allows it: no network (a network namespace of its
own), and no writing outside of the writable folder (Landlock). Files that this user may read stay readable: run the
pipeline as a user that has no secrets on disk.

The parent hears of the child through a pipe of its own, one JSON object a line; what the code prints goes elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

from model_release import landlock
from model_release.errors import ProcessDied, ReleaseError, revived

log = logging.getLogger(__name__)
_KEPT = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "PYTHONHASHSEED", "LD_LIBRARY_PATH"),
    *("OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
)
#: What torch and ONNX Runtime write to besides: shared memory, and nothing at all.
_SHARED = (Path("/dev/shm"), Path("/dev/null"))  # noqa: S108
_TAIL_BYTES = 2000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def call_isolated(
    function: str,
    arguments: dict[str, Any],
    *,
    what: str,
    writable: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> Any:
    """
    Call `function`, as "package.module:name", with JSON arguments and `progress`, in a child; return its JSON result.

    A ReleaseError of the child is raised here as the same class. Raises ProcessDied, with the end of what the child
    wrote on stderr, when it ends in any other way.
    """
    with TemporaryDirectory() as home, TemporaryFile() as printed:
        read_fd, write_fd = os.pipe()
        request = {"function": function, "arguments": arguments, "writable": str(writable), "path": sys.path}
        with os.fdopen(read_fd, encoding="utf-8") as heard:
            try:
                child = _started(write_fd, home, writable, printed)
            finally:
                os.close(write_fd)
            try:
                answer = _hear(child, request, heard, progress)
            finally:
                child.kill()
                child.wait()
        if answer is None:
            raise ProcessDied(what, _ended(child.returncode, printed))
        if "error" in answer:
            raise revived(answer["error"], answer["message"])
        return answer["result"]


def _started(write_fd: int, home: str, writable: Path, printed: IO[bytes]) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(write_fd), str(os.getpid())],
        env={**kept, "HOME": home, "TMPDIR": home},
        cwd=writable,
        stdin=subprocess.PIPE,
        stdout=printed,
        stderr=printed,
        pass_fds=[write_fd],
        text=True,
    )


def _hear(
    child: subprocess.Popen[str], request: dict[str, Any], heard: IO[str], progress: Callable[[str], None]
) -> dict[str, Any] | None:
    """Send the request and return the child's answer; None when it ended without one."""
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(request))
            child.stdin.close()
    for line in heard:
        try:
            said = json.loads(line)
        except ValueError:
            return None
        if "progress" in said:
            progress(said["progress"])
        elif "protections" in said:
            log.info("the child process is kept from: %s", ", ".join(said["protections"]))
        else:
            return dict(said)
    child.wait()
    return None


def _ended(code: int, printed: IO[bytes]) -> str:
    """Say how a child ended, and the last that it wrote."""
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - _TAIL_BYTES))
    lines = printed.read().decode(errors="replace").strip().splitlines()
    how = f"exit code {code}"
    if code < 0:
        how = f"signal {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += ", as when memory runs out"
    return f"{how}{'; it wrote last: ' + lines[-1][:300] if lines else ''}"


# --- in the child ------------------------------------------------------------------------------


def main(write_fd: int, parent: int) -> None:
    """Serve one request in the child process."""
    with os.fdopen(write_fd, "w", encoding="utf-8") as out:

        def say(**said: Any) -> None:
            out.write(json.dumps(said) + "\n")
            out.flush()

        request = json.load(sys.stdin)
        sys.path[:] = request["path"]
        say(protections=_lock_down(Path(request["writable"]), parent))
        module, _, name = request["function"].partition(":")
        try:
            call = getattr(importlib.import_module(module), name)
            say(result=call(**request["arguments"], progress=lambda text: say(progress=text)))
        except ReleaseError as error:
            say(error=type(error).__name__, message=str(error))


def _lock_down(writable: Path, parent: int) -> list[str]:
    """Give up what the code does not need; return what was given up."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before it could be followed.
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    protections = ["credentials in the environment", "new privileges"]
    if libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        protections.append("the network")
    if landlock.restrict_writes([writable, Path(os.environ["HOME"]), *_SHARED]):
        protections.append("writing elsewhere")
    return protections


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
