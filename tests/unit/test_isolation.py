"""Code of a checkpoint runs in a child without credentials, network or reach, and cannot end the parent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_release.errors import CheckpointMissing, ExportFailed, ProcessDied
from model_release.isolation import call_isolated

HERE = __name__
Progress = Callable[[str], None]


def call(name: str, writable: Path, progress: Progress = lambda _: None, **arguments: Any) -> Any:
    return call_isolated(f"{HERE}:{name}", arguments, what="try it", writable=writable, progress=progress)


# --- what runs in the child --------------------------------------------------------------------


def add(first: int, second: int, progress: Progress) -> int:
    progress("adding")
    sys.stdout.write("a line of the code's own\n")
    return first + second


def surroundings(progress: Progress) -> dict[str, Any]:
    return {"environment": dict(os.environ), "home": os.listdir(Path.home()), "folder": os.getcwd()}  # noqa: PTH109, PTH208


def connect(port: int, progress: Progress) -> str:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError as error:
        return type(error).__name__
    return "connected"


def write(path: str, progress: Progress) -> str:
    try:
        Path(path).write_text("x")
    except OSError as error:
        return type(error).__name__
    return "written"


def fail(progress: Progress) -> None:
    raise ExportFailed("toy", "its child says so", "Do that.")


def crash(progress: Progress) -> None:
    message = "no release error"
    raise ValueError(message)


def end(code: int, progress: Progress) -> None:
    os._exit(code)


def kill_itself(progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def say_pid_and_wait(path: str, progress: Progress) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(120)


def garbage(progress: Progress) -> None:
    for fd in range(3, 20):
        try:
            os.write(fd, b"{no json\n")
        except OSError:
            continue


# --- what the parent sees ----------------------------------------------------------------------


def test_a_result_and_progress_come_back_and_prints_do_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    assert call("add", tmp_path, said.append, first=2, second=3) == 5
    assert said == ["adding"]
    assert capfd.readouterr() == ("", "")


def test_credentials_of_the_environment_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MODEL_RELEASE_ENVIRONMENT", "AIRFLOW__CORE__FERNET_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    found = call("surroundings", tmp_path)
    assert "secret" not in json.dumps(found["environment"])
    assert found["home"] == []
    assert Path(found["folder"]) == tmp_path


def can(feature: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> bool:
    with caplog.at_level("INFO", logger="model_release.isolation"):
        call("add", tmp_path, first=1, second=1)
    return feature in caplog.text


def test_the_network_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not can("the network", tmp_path, caplog):
        pytest.skip("this platform allows no network namespace")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert call("connect", tmp_path, port=server.getsockname()[1]) != "connected"


def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not can("writing elsewhere", tmp_path, caplog):
        pytest.skip("this kernel has no Landlock")
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("before")
    assert call("write", inside, path=str(inside / "file")) == "written"
    assert call("write", inside, path=str(outside)) == "PermissionError"
    assert call("write", inside, path=str(tmp_path / "new")) == "PermissionError"
    assert outside.read_text() == "before"


def test_an_error_of_the_child_is_the_same_error_here(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match=r"^toy does not export to ONNX: its child says so\. Do that\.$"):
        call("fail", tmp_path)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("crash", {}, r"exit code 1; it wrote last: ValueError: no release error"),
        ("end", {"code": 7}, "exit code 7"),
        ("kill_itself", {}, "signal SIGKILL, as when memory runs out"),
        ("absent", {}, "has no attribute 'absent'"),
        ("garbage", {}, "try it ended without an answer"),
    ],
)
def test_any_other_end_is_said_with_the_last_line(
    tmp_path: Path, name: str, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ProcessDied, match=says):
        call(name, tmp_path, **arguments)


def test_the_child_goes_with_its_parent(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = (
        "import sys; from pathlib import Path; from model_release.isolation import call_isolated;"
        f"call_isolated('{HERE}:say_pid_and_wait', {{'path': {str(mark)!r}}},"
        f"what='wait', writable=Path({str(tmp_path)!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        pid = int(awaited(lambda: mark.exists() and mark.read_text()))
        parent.kill()
        parent.wait()
        awaited(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])
    finally:
        parent.kill()


def test_a_failing_progress_ends_the_child_too(tmp_path: Path) -> None:
    def stop(_: str) -> None:
        raise CheckpointMissing("file:///x")

    with pytest.raises(CheckpointMissing):
        call("add", tmp_path, stop, first=1, second=1)


def awaited(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come true")
