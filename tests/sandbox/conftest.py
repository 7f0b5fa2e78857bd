"""A sandbox of the tests' own: state in a temporary folder, a free block of ports, no Airflow, no traffic."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import psutil
import pytest

from model_release.environment import Environment, load_environment
from model_release.repository.store import ObjectStore, s3_client
from sandbox import processes, s3
from sandbox.home import Home
from sandbox.settings import ROOT, Settings, load_settings
from sandbox.supervisor import Supervisor
from sandbox.up import is_taken
from tests.sandbox.ports import worker
from tests.sandbox.releasing import FIRST, SECOND, Model, await_true, quick_spec, remove, train_all
from tests.sandbox.shelf import Shelf

FIRST_BASE, LAST_BASE, BLOCK = 21600, 27600, 400
T = TypeVar("T")
WITHOUT = ("--without", "airflow", "--without", "traffic", "--without", "guard")


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox, and its command line."""

    home: Home
    port_base: int

    @property
    def variables(self) -> dict[str, str]:
        """What moves a sandbox to this place."""
        return {"SANDBOX_HOME": str(self.home.folder), "SANDBOX_PORT_BASE": str(self.port_base)}

    @property
    def settings(self) -> Settings:
        return load_settings(self.variables)

    @property
    def environment(self) -> Environment:
        return load_environment(self.home.environment_file)

    def run(self, *arguments: str, home: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m sandbox ...` of this sandbox, or of another folder with the same ports."""
        moved = {**self.variables, **variables}
        if home is not None:
            moved["SANDBOX_HOME"] = str(home)
        return subprocess.run(
            [sys.executable, "-m", "sandbox", *arguments],
            cwd=ROOT,
            env={**os.environ, **moved},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def must(self, *arguments: str) -> str:
        """Run a command that has to succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pids(self) -> list[int]:
        """Every process of this sandbox."""
        return [process.pid for process in processes.members(self.home)]

    def of_each_process(self, told: Callable[[psutil.Process], T]) -> list[T]:
        """What each process of this sandbox tells of itself; one that ends meanwhile has nothing to tell."""
        found = []
        for process in processes.members(self.home):
            with suppress(psutil.NoSuchProcess):
                found.append(told(process))
        return found

    def listening(self) -> list[tuple[str, int]]:
        """Every address, as an IPv4 one where it is, and port on which something of this sandbox listens."""
        found = self.of_each_process(lambda process: process.net_connections(kind="inet"))
        listening = [each for each in chain(*found) if each.status == psutil.CONN_LISTEN]
        return [(each.laddr.ip.removeprefix("::ffff:"), each.laddr.port) for each in listening]

    def triton_pids(self) -> dict[str, int]:
        """The process of each Triton, by its name."""
        states = Supervisor(self.home).states()
        return {name: state.pid for name, state in states.items() if name.startswith("triton")}

    def s3_client(self) -> Any:
        return s3_client(self.environment.s3)


@contextmanager
def own_sandbox() -> Iterator[Sandbox]:
    """A sandbox with the example's data and checkpoints, for what is run by hand; nothing of it stays."""
    with TemporaryDirectory() as folder:
        started = Sandbox(Home(Path(folder)), free_base())
        try:
            started.must("up", *WITHOUT)
            train_all(started.environment)
            yield started
        finally:
            started.run("down")


def free_base() -> int:
    """The first of the tests' blocks of ports in which nothing listens; parallel workers have blocks of their own."""
    number, workers = worker()
    for base in range(FIRST_BASE + number * BLOCK, LAST_BASE, workers * BLOCK):
        ports = load_settings({"SANDBOX_PORT_BASE": str(base)})
        programs = ["s3", "envoy", "airflow-api-server", *(server.name for server in ports.tritons())]
        if not any(is_taken(port) for program in programs for port in ports.ports_of(program).values()):
            return base
    pytest.fail(f"no block of {BLOCK} free ports between {FIRST_BASE} and {LAST_BASE}")


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """S3, the Tritons and Envoy, up for the whole session."""
    started = Sandbox(Home(tmp_path_factory.mktemp("sandbox")), free_base())
    try:
        started.must("up", *WITHOUT)
        yield started
    finally:
        started.run("down")
        assert started.pids() == []


@pytest.fixture
def environment(sandbox: Sandbox) -> Environment:
    """The library's environment of the running sandbox."""
    return sandbox.environment


@pytest.fixture
def store(environment: Environment) -> ObjectStore:
    """A prefix of the test's own in the sandbox's real S3."""
    return ObjectStore(environment.s3.model_copy(update={"prefix": f"tests/{uuid.uuid4().hex}"}))


@pytest.fixture
def triton_s3_client(sandbox: Sandbox) -> Any:
    """S3 as Triton sees it."""
    return s3.client(sandbox.settings, s3.triton_keys(sandbox.home))


@pytest.fixture(scope="session")
def trained(sandbox: Sandbox) -> Sandbox:
    """The sandbox with the example's data and checkpoints on its S3."""
    train_all(sandbox.environment)
    return sandbox


@pytest.fixture
def model(trained: Sandbox) -> Iterator[Model]:
    """A model of the test's own, quick to release; what is left of it on the fleets is removed."""
    made = Model(quick_spec(f"digits_{uuid.uuid4().hex[:8]}"), trained.environment)
    yield made
    remove(made)


@pytest.fixture(scope="session")
def shelf(trained: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """The versions that were built in this session, for tests that are not of a build."""
    return Shelf(trained.environment, tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def sealed(model: Model, shelf: Shelf) -> Model:
    """The test's own model, with FIRST and SECOND built and benchmarked already: its releases begin with deploy."""
    shelf.seal(model, [FIRST, SECOND])
    return model


@pytest.fixture
def dead_s3(environment: Environment) -> Environment:
    """The environment with an S3 that does not answer."""
    return environment.model_copy(
        update={"s3": environment.s3.model_copy(update={"endpoint_url": "http://127.0.0.1:1"})}
    )


@pytest.fixture
def killed(sandbox: Sandbox) -> Callable[[str], AbstractContextManager[None]]:
    """Kill a program of the sandbox, and have it back afterwards."""

    @contextmanager
    def kill(name: str) -> Iterator[None]:
        supervisor, pid = Supervisor(sandbox.home), 0

        def runs() -> bool:
            """Between two starts a program has no process, and to kill 0 would be to kill the tests."""
            nonlocal pid
            pid = supervisor.state(name).pid
            return pid > 0

        await_true(runs, f"{name} runs")
        with suppress(ProcessLookupError):  # it ended by itself meanwhile
            os.kill(pid, signal.SIGKILL)

        def stays_down() -> bool:
            """supervisord starts a killed program again, so it may have to be told twice."""
            supervisor.stop_programs([name], 20)
            return supervisor.state(name).state == "STOPPED"

        await_true(stays_down, f"{name} stays down")
        try:
            yield
        finally:
            sandbox.must("up", *WITHOUT)

    return kill
