"""Bring the sandbox up, part by part, and down again until nothing of it runs."""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sandbox import airflow, processes, s3
from sandbox.errors import SandboxError
from sandbox.home import Home, read_json, write_private
from sandbox.programs import all_programs, check_installed, write_environment
from sandbox.settings import HOST, Settings, load_settings
from sandbox.supervisor import Supervisor, render, tail

_LOCK_DEADLINE_S = 120
_BROKEN = ("FATAL", "BACKOFF", "EXITED", "UNKNOWN")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """Programs that start together, and when they count as ready."""

    title: str
    names: list[str]
    is_ready: Callable[[], bool]
    deadline_s: float


def up(home: Home, settings: Settings, say: Say) -> None:
    """
    Start whatever does not run yet; a second call changes nothing.

    Raises SandboxError: a part is not installed, a port is taken, or a part is not ready by its deadline.
    """
    check_installed(settings)
    home.create()
    with _alone(home):
        supervisor = Supervisor(home)
        wanted = wanted_programs(settings)
        running = {name for name, state in supervisor.states().items() if state.state == "RUNNING"}
        if not supervisor.is_up():
            left = processes.end(home, gentle_s=5)
            if left:
                say(f"ended {left} processes that a killed supervisord had left")
        _check_ports(settings, [name for name in wanted if name not in running])
        _configure(home, settings, supervisor)
        remembered = sorted({*wanted, *(wanted_now(home) if supervisor.is_up() else [])})
        if not supervisor.is_up():
            supervisor.start()
        write_private(home.folder / "wanted.json", json.dumps(remembered))
        _start(home, settings, supervisor, running, say)


def down(home: Home, say: Say) -> None:
    """
    Stop everything, also what a killed supervisord left, and verify by process that nothing runs.

    Raises SandboxError when a process outlives its KILL.
    """
    if not home.folder.exists():
        return
    with _alone(home):
        supervisor = Supervisor(home)
        if supervisor.is_up():
            states = supervisor.states()
            groups: list[tuple[Callable[[str], bool], float]] = [
                (lambda name: name.startswith("airflow-") or name in ("guard", "traffic"), 30),
                (lambda name: name == "envoy", 12),
                (lambda name: name.startswith("triton-"), 14),
                (lambda name: name == "s3", 15),
            ]
            for belongs, timeout_s in groups:
                supervisor.stop_programs([name for name in states if belongs(name)], timeout_s)
            supervisor.shut_down()
        processes.end(home, gentle_s=8)
        left = processes.members(home)
        if left:
            message = f"{len(left)} processes would not end: {', '.join(str(process.pid) for process in left)}."
            raise SandboxError(message)
        processes.forget_session(home)
        home.socket.unlink(missing_ok=True)
        (home.folder / "wanted.json").unlink(missing_ok=True)
    say("nothing of the sandbox runs")


def wanted_programs(settings: Settings) -> list[str]:
    """Return the names that `up` starts with these settings."""
    names = ["s3", *(server.name for server in settings.tritons()), "envoy"]
    if settings.programs.guard:
        names.append("guard")
    if settings.programs.traffic:
        names.append("traffic")
    if settings.programs.airflow:
        names += airflow.PROCESSES
    return names


def wanted_now(home: Home) -> list[str]:
    """Return the names that the last `up` started."""
    return read_json(home.folder / "wanted.json") or []


def _start(home: Home, settings: Settings, supervisor: Supervisor, running: set[str], say: Say) -> None:
    began = time.monotonic()
    wants_airflow = settings.programs.airflow and not running.issuperset(airflow.PROCESSES)
    preparing = airflow.start_preparing(home, settings) if wants_airflow else None
    try:
        for part in _parts(settings, home):
            missing = [name for name in part.names if name not in running]
            if missing and part.title == "airflow":
                airflow.await_prepared(home, preparing)
            if missing:
                _start_part(home, supervisor, part, missing, say)
            if part.title == "s3":
                s3.lay_out(settings, home)  # also after an `up` that was interrupted just before
    finally:
        _end_preparing(preparing)
    if running.issuperset(wanted_programs(settings)):
        say("the sandbox was up already")
    else:
        say(f"the sandbox is up ({time.monotonic() - began:.0f} s)")


def _end_preparing(preparing: subprocess.Popen[bytes] | None) -> None:
    if preparing is not None and preparing.poll() is None:
        preparing.kill()
        preparing.wait()


def _parts(settings: Settings, home: Home) -> list[Part]:
    tritons = settings.tritons()
    ports = settings.ports
    parts = [
        Part("s3", ["s3"], lambda: s3.is_ready(settings, home), 30),
        Part(
            "triton and envoy",
            [*(server.name for server in tritons), "envoy"],
            lambda: (
                all(_answers(f"http://{HOST}:{server.http}/v2/health/live") for server in tritons)
                and _answers(f"http://{HOST}:{ports.router_admin}/ready")
                and _accepts(ports.router)
            ),
            120,
        ),
    ]
    if settings.programs.guard:
        parts.append(Part("guard", ["guard"], lambda: True, 20))
    if settings.programs.traffic:
        parts.append(Part("traffic", ["traffic"], lambda: True, 20))
    if settings.programs.airflow:
        parts.append(Part("airflow", list(airflow.PROCESSES), lambda: airflow.is_healthy(settings), 150))
    return parts


def _start_part(home: Home, supervisor: Supervisor, part: Part, names: list[str], say: Say) -> None:
    began = time.monotonic()
    for name in names:
        supervisor.start_program(name)
    while True:
        states = supervisor.states()
        for name in names:
            if states[name].state in _BROKEN:
                log = home.logs / f"{name}.log"
                message = f"{name} ended as it started: {tail(log, 1) or states[name].why} (see {log})"
                raise SandboxError(message)
        if all(states[name].state == "RUNNING" for name in names) and part.is_ready():
            break
        if time.monotonic() - began > part.deadline_s:
            message = f"{part.title} is not ready after {part.deadline_s:.0f} s. See 'make status' and 'make logs'."
            raise SandboxError(message)
        time.sleep(0.2)
    say(f"{part.title} ready ({time.monotonic() - began:.1f} s)")


def _configure(home: Home, settings: Settings, supervisor: Supervisor) -> None:
    """Write every config; refuse when another one is in use."""
    from model_release.environment import load_environment
    from model_release.traffic.envoy import initialise
    from sandbox.envoy import write_bootstrap

    config = render(home, all_programs(home, settings))
    if supervisor.is_up():
        if home.supervisor_config.read_text(encoding="utf-8") != config:
            message = "the sandbox is up with other settings. Run 'make down' first."
            raise SandboxError(message)
        return
    s3.write_identities(home)
    write_environment(home, settings)
    write_bootstrap(home.envoy_bootstrap, home.envoy, settings.ports.router_admin)
    initialise(load_environment(home.environment_file), listen_address=HOST, port=settings.ports.router)
    write_private(home.supervisor_config, config)


def _check_ports(settings: Settings, programs: list[str]) -> None:
    """Raise SandboxError that names every taken port, its purpose and who holds it."""
    taken = [
        f"{port} ({program}{'' if purpose == program else f', {purpose}'}) by {processes.holder_of(port)}"
        for program in programs
        for purpose, port in settings.ports_of(program).items()
        if is_taken(port)
    ]
    if taken:
        message = (
            f"taken on {HOST}: port {'; port '.join(taken)}. Nothing was started. Free it, or move the sandbox with "
            "SANDBOX_PORT_BASE=N or sandbox/settings.yaml."
        )
        raise SandboxError(message)


def is_taken(port: int) -> bool:
    """Tell whether something listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=2):
            return True
    except OSError:
        return False


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Let no two of `up` and `down` work on one sandbox at once."""
    home.folder.mkdir(parents=True, exist_ok=True)
    with (home.folder / "lock").open("w") as lock:
        deadline = time.monotonic() + _LOCK_DEADLINE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    message = f"another 'up' or 'down' of {home.folder} is at work. Wait for it, then try again."
                    raise SandboxError(message) from None
                time.sleep(0.2)
        yield


def settings_with(without: list[str]) -> Settings:
    """Return the settings, less the parts that the command line leaves out."""
    settings = load_settings()
    unknown = [name for name in without if name not in settings.programs.model_dump()]
    if unknown:
        message = f"--without knows {', '.join(settings.programs.model_dump())}, not {', '.join(unknown)}."
        raise SandboxError(message)
    programs = settings.programs.model_copy(update=dict.fromkeys(without, False))
    return settings.model_copy(update={"programs": programs})
