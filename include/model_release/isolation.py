"""
A child process for code that came with a checkpoint: without credentials, and without a network where the platform can.

What holds everywhere: an environment by whitelist, an empty home, the writable folder as working directory, no new
privileges, no core files, and an end with its parent. Where Linux allows it: no network (a network namespace of its
own; else no TCP), and by Landlock no writing outside of the writable folder, no reading of credentials where they
usually lie or of other processes' environments, and no signals to them. The log says what was in force and what not.
What remains: other files that this user may read, sockets that lie in the file system (such as a container engine's),
and processor time. The answer is as honest as the code that gives it, which is why the spec pins its bytes.

The parent hears of the child through a pipe of its own, one JSON object a line (`model_release.wire`); what the code
prints goes elsewhere.
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

from model_release import landlock, wire
from model_release.errors import ProcessDied, ReleaseError, revived

log = logging.getLogger(__name__)
_KEPT = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONHASHSEED", "LD_LIBRARY_PATH"),
    *("OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
)
#: What torch, ONNX Runtime and CUDA write to besides.
_SHARED = ("shm", "null", "nvidia*")
#: Where tools keep credentials, below the home folder and for the machine.
_IN_HOME = (
    *(".aws", ".azure", ".boto", ".config", ".docker", ".git-credentials", ".gnupg", ".kube", ".mc", ".netrc"),
    *(".npmrc", ".pgpass", ".pypirc", ".s3cfg", ".ssh", ".cache/huggingface/token", ".cache/huggingface/stored_tokens"),
    *(".local/share/keyrings", "airflow/airflow.cfg"),
)
_OF_MACHINE = ("/run/secrets", "/var/run/secrets", "/etc/shadow")
#: Variables that name a file with credentials.
_NAMING = (
    *("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AIRFLOW_CONFIG", "KUBECONFIG"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "MODEL_RELEASE_ENVIRONMENT", "NETRC", "DOCKER_CONFIG", "HF_TOKEN_PATH"),
)
_TAIL_BYTES = 2000
_END_S = 10.0
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
    wrote on stderr, when it ends in any other way. The child and those that it started end with this call, but for
    those that left its session.
    """
    writable = writable.resolve()
    request = {
        "function": function,
        "arguments": arguments,
        "writable": str(writable),
        "hidden": [str(place) for place in _credentials()],
    }
    with TemporaryDirectory() as home, TemporaryFile() as printed:
        read_fd, write_fd = os.pipe()
        try:
            try:
                child = _started(write_fd, home, writable, printed)
            finally:
                os.close(write_fd)
            try:
                _send(child, request)
                answer = _answer(child, read_fd, what, progress)
            finally:
                _end(child)
        finally:
            os.close(read_fd)
        if answer is None:
            raise ProcessDied(what, _ended(child.returncode, printed))
        if "error" in answer:
            raise revived(answer["error"], answer["message"])
        return answer["result"]


def _credentials() -> list[Path]:
    """Return where this user's credentials may lie."""
    home = Path.home()
    named = [Path(place) for name in _NAMING for place in os.environ.get(name, "").split(os.pathsep) if place]
    airflow_home = os.environ.get("AIRFLOW_HOME")
    if airflow_home:
        named.append(Path(airflow_home) / "airflow.cfg")
    return [*(home / place for place in _IN_HOME), *map(Path, _OF_MACHINE), *named]


def _started(write_fd: int, home: str, writable: Path, printed: IO[bytes]) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # An empty entry is the working directory: the parent's, and not the folder that the child may write to.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100 - "" has to become a folder
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(write_fd), str(os.getpid())],
        env={**kept, "PYTHONPATH": path, "HOME": home, "TMPDIR": home},
        cwd=writable,
        stdin=subprocess.PIPE,
        stdout=printed,
        stderr=printed,
        pass_fds=[write_fd],
        start_new_session=True,
        text=True,
    )


def _send(child: subprocess.Popen[str], request: dict[str, Any]) -> None:
    if child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(request))
            child.stdin.close()


def _answer(
    child: subprocess.Popen[str], read_fd: int, what: str, progress: Callable[[str], None]
) -> dict[str, Any] | None:
    """Return the child's answer; None when it ended without one. Raises ProcessDied when it says something else."""
    try:
        for said in wire.messages(read_fd, lambda: _has_ended(child)):
            if "progress" in said:
                progress(said["progress"])
            elif "protections" in said:
                _log_protections(said["protections"])
            else:
                return said
    except wire.Garbled as error:
        raise ProcessDied(what, f"it sent {error}") from None
    try:
        child.wait(_END_S)
    except subprocess.TimeoutExpired:
        raise ProcessDied(what, "it closed the way of its answer") from None
    return None


def _has_ended(child: subprocess.Popen[str]) -> bool:
    """Say whether the child has ended, and leave its id taken until `_end` has done with its group."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()


def _log_protections(protections: list[str]) -> None:
    log.info("the child process is kept from: %s", ", ".join(protections))
    for wanted, why in (
        ("the network", "no namespaces for this user"),
        ("writing elsewhere", "no Landlock in this kernel"),
    ):
        if wanted not in protections:
            log.warning("the child process is not kept from %s: the platform has %s", wanted, why)


def _ended(code: int, printed: IO[bytes]) -> str:
    """Say how a child ended, and the last that it wrote."""
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - _TAIL_BYTES))
    lines = printed.read().decode(errors="replace").strip().splitlines()
    how = f"exit code {code}"
    if code < 0:
        known = -code in set(signal.Signals)
        how = f"signal {signal.Signals(-code).name if known else -code}"
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
        say(protections=_lock_down(Path(request["writable"]), request["hidden"], parent))
        module, _, name = request["function"].partition(":")
        try:
            call = getattr(importlib.import_module(module), name)
            say(result=call(**request["arguments"], progress=lambda text: say(progress=text)))
        except ReleaseError as error:
            say(error=type(error).__name__, message=str(error))


def _lock_down(writable: Path, hidden: list[str], parent: int) -> list[str]:
    """Give up what the code does not need; return what was given up."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before it could be followed.
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    protections = ["inherited credentials", "new privileges"]
    if _leave_network(libc):
        protections.append("the network")
    shared = [place for pattern in _SHARED for place in Path("/dev").glob(pattern)]
    places = [writable, Path(os.environ["HOME"]), *shared]
    return protections + landlock.restrict(places, map(Path, hidden))


def _leave_network(libc: ctypes.CDLL) -> bool:
    """Move into a network namespace without any interface; return whether the platform allows it."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    # Without a mapping the user is nobody, whom the lookup of its name does not find.
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
