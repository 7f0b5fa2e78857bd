"""What every recycler keeps: supervisord's, which is the real one, and Kubernetes', with an API server of our own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from model_release.environment import KubernetesRecycler, Replica, SupervisorRecycler
from model_release.errors import RecycleFailed
from model_release.triton.recycle_kubernetes import Kubernetes
from model_release.triton.recycle_supervisor import Supervisor
from model_release.triton.recycler import Recycler

#: `stubborn` does not end when it is asked to.
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
TAME = "import time; time.sleep(600)"


def named(name: str, address: str = "replica.example:1") -> Replica:
    return Replica(name=name, http=address, grpc=address, metrics=address)


def awaited(condition: Any, within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class World(Protocol):
    """What runs the replicas `tame`, which ends when it is asked to, and `stuck`, which never does by itself."""

    recycler: Recycler

    def running(self, name: str) -> Any:
        """Return what tells one process of a replica from the next, or None."""

    def cut(self) -> None:
        """Be reached no more."""


@dataclass
class Supervised:
    """A real supervisord."""

    folder: Path
    recycler: Recycler = field(init=False)

    def __post_init__(self) -> None:
        programs = {"tame": TAME, "stuck": STUBBORN, "stopped": TAME}
        sections = [
            f'[program:{name}]\ncommand={sys.executable} -S -c "{code}"\nstartsecs=0\nautostart={name != "stopped"}\n'
            "autorestart=true"
            for name, code in programs.items()
        ]
        sections += [
            f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={self.folder}/pid",
            f"[unix_http_server]\nfile={self.folder}/s",
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        ]
        (self.folder / "conf").write_text("\n".join(sections))
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.folder / "conf")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.section = SupervisorRecycler(kind="supervisor", socket=self.folder / "s", stop_s=0.3)
        self.recycler = Supervisor(self.section)
        assert awaited(lambda: self._answers() and self.running("stuck"))

    def _answers(self) -> bool:
        try:
            self._process_of("tame")
        except OSError:
            return False
        return True

    def _process_of(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = Supervisor(self.section)._call("getProcessInfo", name)
        return found

    def running(self, name: str) -> int | None:
        return self._process_of(name)["pid"] or None

    def cut(self) -> None:
        (self.folder / "s").unlink()

    def end(self) -> None:
        self._process.terminate()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        for pid in children.split():
            os.kill(int(pid), signal.SIGKILL)  # the stubborn one would keep it waiting
        self._process.wait(10)


class Api(BaseHTTPRequestHandler):
    """Pods: one that is deleted is gone a moment later, and its owner has another of that name."""

    pods: dict[str, dict[str, Any]]
    asked: list[str]
    ends_after_s = 0.05

    @classmethod
    def pod(cls, name: str, ip: str, owners: int = 1) -> dict[str, Any]:
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "triton", "uid": "1"}
        metadata = {"name": name, "uid": uuid.uuid4().hex, "ownerReferences": [owner] * owners}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"podIP": ip}}

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/api/v1/namespaces/serving/pods":
            wanted = parse_qs(url.query)["fieldSelector"][0].removeprefix("status.podIP=")
            items = [pod for pod in self.pods.values() if pod["status"]["podIP"] == wanted]
            return self._answer(200, {"kind": "PodList", "items": items})
        found = self.pods.get(url.path.removeprefix("/api/v1/namespaces/serving/pods/"))
        return self._answer(200, found) if found else self._answer(404, {"reason": "NotFound"})

    def do_DELETE(self) -> None:
        name = self.path.rpartition("/")[2]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        pod = self.pods[name]
        if body["preconditions"]["uid"] != pod["metadata"]["uid"]:
            return self._answer(409, {"reason": "Conflict"})
        self.asked.append(name)
        if name != "endless":
            fresh = self.pod(name, pod["status"]["podIP"])
            threading.Timer(self.ends_after_s, self.pods.__setitem__, (name, fresh)).start()
        return self._answer(200, pod)

    def _answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@dataclass
class Cluster:
    """An API server on loopback."""

    folder: Path
    recycler: Recycler = field(init=False)

    def __post_init__(self) -> None:
        names = {"tame": "10.0.0.1", "stuck": "10.0.0.2", "endless": "10.0.0.3"}
        Api.pods, Api.asked = {name: Api.pod(name, ip) for name, ip in names.items()}, []
        Api.pods["stopped"] = Api.pod("stopped", "10.0.0.4", owners=0)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        server = f"http://127.0.0.1:{self._server.server_port}"
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        self.section = KubernetesRecycler(
            kind="kubernetes", namespace="serving", kubeconfig=self.folder / "kubeconfig", stop_s=2
        )
        self.recycler = Kubernetes(self.section)

    def running(self, name: str) -> str | None:
        return Api.pods[name]["metadata"]["uid"] if name in Api.pods else None

    def cut(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def made(kind: type[Supervised] | type[Cluster]) -> Iterator[Supervised | Cluster]:
    with TemporaryDirectory(prefix="r-") as folder:  # a socket's path has to be short
        world = kind(Path(folder))
        try:
            yield world
        finally:
            world.end()


@pytest.fixture(params=[Supervised, Cluster], ids=["supervisor", "kubernetes"])
def world(request: pytest.FixtureRequest) -> Iterator[Supervised | Cluster]:
    with made(request.param) as each:
        yield each


def test_each_replica_is_another_process_afterwards_and_no_other_was_touched(world: World) -> None:
    before = {name: world.running(name) for name in ("tame", "stuck")}
    world.recycler.recycle(named("tame"))
    assert world.running("tame") != before["tame"]
    assert world.running("stuck") == before["stuck"]
    assert awaited(lambda: world.running("tame"))
    world.recycler.recycle(named("stuck"))
    assert world.running("stuck") != before["stuck"]
    assert awaited(lambda: world.running("stuck"))


def test_what_cannot_be_recycled_is_one_sentence(world: World) -> None:
    with pytest.raises(RecycleFailed, match=r"replica unknown .*(BAD_NAME|404)"):
        world.recycler.recycle(named("unknown"))
    with pytest.raises(RecycleFailed, match=r"stopped (was stopped|, so nothing)|owns the pod stopped"):
        world.recycler.recycle(named("stopped"))
    world.cut()
    began = time.monotonic()
    with pytest.raises(RecycleFailed, match=r"replica tame .*(supervisord does not answer|Kubernetes cannot be asked)"):
        world.recycler.recycle(named("tame"))
    assert time.monotonic() - began < 5


def test_a_pod_is_found_by_its_ip_or_by_the_name_it_is_given() -> None:
    with made(Cluster) as cluster:
        cluster.recycler.recycle(named("triton-blue-0", "10.0.0.2:8001"))
        assert Api.asked == ["stuck"]
        section = cluster.section.model_copy(update={"pods": {"triton-blue-0": "tame"}})
        Kubernetes(section).recycle(named("triton-blue-0", "10.0.0.2:8001"))
        assert Api.asked == ["stuck", "tame"]
        with pytest.raises(RecycleFailed, match="0 pods of serving have the IP"):
            cluster.recycler.recycle(named("triton-blue-0", "10.9.9.9:8001"))


def test_a_pod_that_does_not_go_is_told_at_the_deadline() -> None:
    with made(Cluster) as cluster, pytest.raises(RecycleFailed, match=r"was deleted, and is there 0.3 s later"):
        Kubernetes(cluster.section.model_copy(update={"stop_s": 0.3})).recycle(named("endless"))
