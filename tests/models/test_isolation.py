"""Code of a checkpoint runs in a child without credentials, network or reach, and cannot end the parent."""

from __future__ import annotations

import contextlib
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

from model_release import isolation, wire
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


def say(text: str, progress: Progress) -> None:
    # The number of the pipe depends on what the parent had open.
    for fd in (int(name) for name in os.listdir("/dev/fd")):  # noqa: PTH208
        if fd > sys.stderr.fileno():
            with contextlib.suppress(OSError):
                os.write(fd, text.encode("latin-1"))


def read(path: str, progress: Progress) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError as error:
        return type(error).__name__


def environment_of_parent(progress: Progress) -> str:
    return read(f"/proc/{os.getppid()}/environ", progress)


def signal_parent(progress: Progress) -> str:
    try:
        os.kill(os.getppid(), signal.SIGCONT)
    except OSError as error:
        return type(error).__name__
    return "sent"


def leave_one_behind(path: str, progress: Progress) -> None:
    pid = os.fork()
    if pid == 0:
        time.sleep(120)
    Path(path).write_text(str(pid))
    os._exit(3)


def end_by(number: int, progress: Progress) -> None:
    os.kill(os.getpid(), number)


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
        ("end_by", {"number": 40}, "signal 40"),
    ],
)
def test_any_other_end_is_said_with_the_last_line(
    tmp_path: Path, name: str, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ProcessDied, match=says):
        call(name, tmp_path, **arguments)


@pytest.mark.parametrize(
    "text",
    [
        "{no json\n",
        "5\n",
        "[]\n",
        '"progress"\n',
        "{}\n",
        '{"error": "X"}\n',
        '{"progress": [1]}\n',
        "\xff\xfe\n",
        "[" * 99_999 + "\n",
    ],
    ids=lambda text: text[:12].strip(),
)
def test_what_is_no_answer_is_said_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProcessDied, match="it sent what is no answer"):
        call("say", tmp_path, text=text)


def test_an_answer_without_an_end_does_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MOST_LINE_BYTES", 1000)
    with pytest.raises(ProcessDied, match="a line of more than 1000 bytes"):
        call("say", tmp_path, text="x" * 2000)


def test_a_process_that_the_child_leaves_behind_neither_holds_the_answer_up_nor_stays(tmp_path: Path) -> None:
    mark, began = tmp_path / "pid", time.monotonic()
    with pytest.raises(ProcessDied, match="exit code 3"):
        call("leave_one_behind", tmp_path, path=str(mark))
    assert time.monotonic() - began < 60
    awaited(lambda: is_gone(int(mark.read_text())))


def test_neither_credentials_on_disk_nor_the_parents_environment_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, named = tmp_path / "home", tmp_path / "named"
    (home / ".aws").mkdir(parents=True)
    for file in (home / ".aws" / "credentials", named, home / "plain"):
        file.write_text("secret")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(named))
    if not can("reading credentials", tmp_path, caplog):
        pytest.skip("this kernel has no Landlock")
    work = tmp_path / "work"
    work.mkdir()
    assert call("read", work, path=str(home / "plain")) == "secret"
    assert call("read", work, path=str(named)) == "PermissionError"
    assert call("read", work, path=str(home / ".aws" / "credentials")) == "PermissionError"
    assert call("environment_of_parent", work) == "PermissionError"


def test_no_signal_reaches_the_parent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not can("signals to others", tmp_path, caplog):
        pytest.skip("this kernel's Landlock does not scope signals")
    assert call("signal_parent", tmp_path) == "PermissionError"


def test_what_the_platform_refuses_is_said(caplog: pytest.LogCaptureFixture) -> None:
    isolation._log_protections(["inherited credentials"])
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "not kept from the network" in warned[0]
    assert "not kept from writing elsewhere" in warned[1]


def test_no_module_of_the_writable_folder_is_imported(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    assert call("add", tmp_path, first=2, second=3) == 5


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
        awaited(lambda: is_gone(pid))
    finally:
        parent.kill()


def test_a_failing_progress_ends_the_child_too(tmp_path: Path) -> None:
    def stop(_: str) -> None:
        raise CheckpointMissing("file:///x")

    with pytest.raises(CheckpointMissing):
        call("add", tmp_path, stop, first=1, second=1)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def awaited(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come true")
