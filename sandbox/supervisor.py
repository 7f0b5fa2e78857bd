"""supervisord: its config, its start, and its control over a Unix socket."""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from sandbox import processes
from sandbox.errors import SandboxError
from sandbox.home import MARK, Home
from sandbox.settings import HOST, ROOT

#: A user's own settings of these tools must not reach the sandbox.
_FOREIGN = ("AIRFLOW", "AWS_", "PYTHON", "SANDBOX_", "MODEL_RELEASE_", "S3_", "TRITON_", "LD_")
#: ONNX Runtime's wheels keep a database of events in the user's folder and send it to their maker.
_QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
_SOCKET_DEADLINE_S = 10


@dataclass(frozen=True)
class Program:
    """One supervised process; `stop_s` bounds its gentle end, after which its whole group is killed."""

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_s: int = 8
    may_end: bool = False
    """Exit code 0 is an end in order, after which it is not started again."""


@dataclass(frozen=True)
class State:
    """What supervisord says of a program."""

    name: str
    state: str
    pid: int
    why: str


def render(home: Home, programs: list[Program]) -> str:
    """Return supervisord's config; nothing starts by itself, since `up` awaits one part before the next."""
    sections = [
        "[supervisord]",
        "nodaemon=true",
        f"directory={_literal(str(ROOT))}",
        f"logfile={_literal(str(home.logs / 'supervisord.log'))}",
        "logfile_maxbytes=5MB",
        "logfile_backups=1",
        f"pidfile={_literal(str(home.folder / 'supervisord.pid'))}",
        f"childlogdir={_literal(str(home.logs))}",
        "",
        "[unix_http_server]",
        f"file={_literal(str(home.socket))}",
        "chmod=0700",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for program in programs:
        sections += ["", *_section(home, program)]
    return "\n".join(sections) + "\n"


def _section(home: Home, program: Program) -> list[str]:
    pairs = ",".join(f"{name}={_quoted(name, value)}" for name, value in sorted(program.environment.items()))
    return [
        f"[program:{program.name}]",
        f"command={_literal(shlex.join(program.command))}",
        f"environment={pairs}",
        "autostart=false",
        f"autorestart={'unexpected' if program.may_end else 'true'}",
        "exitcodes=0",
        "startsecs=1",
        "startretries=3",
        "stopsignal=TERM",
        "stopasgroup=false",
        "killasgroup=true",
        f"stopwaitsecs={program.stop_s}",
        "redirect_stderr=true",
        f"stdout_logfile={_literal(str(home.logs / program.name))}.log",
        "stdout_logfile_maxbytes=10MB",
        "stdout_logfile_backups=1",
    ]


def _literal(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(name: str, value: str) -> str:
    """Quote a value as supervisord reads it: by the kind of quote that it does not hold; it knows no escapes."""
    quote = "'" if '"' in value else '"'
    if quote in value or value != value.strip("'\"") or any(sign in value for sign in ("\n", " ;", " #")):
        message = f"the variable {name} cannot be handed to supervisord: it holds quotes, a new line or a comment."
        raise SandboxError(message)
    return f"{quote}{_literal(value)}{quote}"


def clean_environment(home: Home, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the caller's environment without what would lead a program to another place than the sandbox."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_FOREIGN)}
    direct = ",".join(filter(None, [environ.get("NO_PROXY") or environ.get("no_proxy"), HOST, "localhost"]))
    return {**kept, **_QUIET, "NO_PROXY": direct, "no_proxy": direct, MARK: str(home.folder)}


class Supervisor:
    """The running supervisord of one sandbox."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def is_up(self) -> bool:
        """Tell whether it runs."""
        return processes.supervisor(self._home) is not None

    def start(self) -> None:
        """
        Start supervisord with the config that lies there, in a session of its own.

        Raises SandboxError when its socket does not answer.
        """
        log = self._home.logs / "supervisord.out"
        self._home.socket.unlink(missing_ok=True)
        with log.open("wb") as out:
            started = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._home.supervisor_config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env=clean_environment(self._home),
                start_new_session=True,
            )
        processes.record_session(self._home, started.pid)
        deadline = time.monotonic() + _SOCKET_DEADLINE_S
        while not self._answers():
            if started.poll() is not None or time.monotonic() > deadline:
                message = f"supervisord did not start: {tail(log, 3) or f'see {log}'}"
                raise SandboxError(message)
            time.sleep(0.05)

    def states(self) -> dict[str, State]:
        """Return every program's state; empty when supervisord is not up."""
        if not self.is_up():
            return {}
        return {
            info["name"]: State(info["name"], info["statename"], info["pid"], info["spawnerr"] or info["description"])
            for info in self._call("getAllProcessInfo")
        }

    def state(self, name: str) -> State:
        """Return one program's state."""
        return self.states().get(name) or State(name, "STOPPED", 0, "supervisord is not up")

    def start_program(self, name: str) -> None:
        """Ask for a start; a program that runs is left as it is."""
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if "ALREADY_STARTED" not in fault.faultString:
                message = f"{name} was not started: {fault.faultString}"
                raise SandboxError(message) from None

    def stop_programs(self, names: list[str], timeout_s: float) -> None:
        """Ask for the end of several at once, and wait for them until the deadline."""
        for name in names:
            try:
                self._call("stopProcess", name, False)
            except xmlrpc.client.Fault as fault:
                if "NOT_RUNNING" not in fault.faultString:
                    raise
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            states = self.states()
            if all(states[name].pid == 0 for name in names if name in states):
                return
            time.sleep(0.1)

    def shut_down(self, timeout_s: float = 10) -> None:
        """Ask supervisord itself to end, and wait for it until the deadline."""
        with contextlib.suppress(OSError, xmlrpc.client.Error, http.client.HTTPException):
            self._call("shutdown")
        deadline = time.monotonic() + timeout_s
        while self.is_up() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._home.socket}")
        with xmlrpc.client.ServerProxy(f"http://{HOST}", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def _answers(self) -> bool:
        try:
            self._call("getState")
        except (OSError, xmlrpc.client.Error, http.client.HTTPException):
            return False
        return True


def tail(path: Path, lines: int) -> str:
    """Return the last lines of a file, or nothing when it is absent."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 400 * lines))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
