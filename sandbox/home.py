"""The one folder that holds the sandbox's state, and what lies where in it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.settings import ROOT

MARK = "SANDBOX_HOME"
_LONGEST_SOCKET_PATH = 100


@dataclass(frozen=True)
class Home:
    """`.sandbox/`, or where SANDBOX_HOME says; it survives `down`."""

    folder: Path

    @property
    def environment_file(self) -> Path:
        """Return the library's environment of this sandbox."""
        return self.folder / "environment.yaml"

    @property
    def data(self) -> Path:
        """Return the folder of SeaweedFS."""
        return self.folder / "s3"

    @property
    def s3_config(self) -> Path:
        """Return the file of SeaweedFS's identities."""
        return self.folder / "s3.json"

    @property
    def envoy(self) -> Path:
        """Return the folder that Envoy reads its listeners, clusters and routes from."""
        return self.folder / "envoy"

    @property
    def user_log(self) -> Path:
        """Return the file in which Envoy writes whose requests failed or were slow."""
        return self.envoy / "affected-users.log"

    @property
    def envoy_bootstrap(self) -> Path:
        """Return Envoy's bootstrap file."""
        return self.folder / "envoy-bootstrap.yaml"

    @property
    def triton(self) -> Path:
        """Return the folder of backends and of the models that the Tritons download."""
        return self.folder / "triton"

    @property
    def airflow(self) -> Path:
        """Return AIRFLOW_HOME."""
        return self.folder / "airflow"

    @property
    def traffic(self) -> Path:
        """Return the folder of what clients saw."""
        return self.folder / "traffic"

    @property
    def logs(self) -> Path:
        """Return the folder with one log a program."""
        return self.folder / "logs"

    @property
    def supervisor_config(self) -> Path:
        """Return supervisord's config."""
        return self.folder / "supervisord.conf"

    @property
    def supervisor_record(self) -> Path:
        """Return the file that says which supervisord runs."""
        return self.folder / "supervisord.json"

    @property
    def socket(self) -> Path:
        """Return supervisord's socket, whose path has to be short."""
        path = self.folder / "supervisor.sock"
        if len(str(path)) <= _LONGEST_SOCKET_PATH:
            return path
        short = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"sandbox-{os.getuid()}-{short}.sock"

    @property
    def triton_key(self) -> str:
        """Return the header, as name=value, that opens the control API of this sandbox's Tritons."""
        return f"x-release-key={self.secret('triton_key')}"

    def create(self) -> None:
        """Make the folders that programs expect."""
        for folder in (self.folder, self.data, self.envoy, self.triton, self.airflow, self.traffic, self.logs):
            folder.mkdir(parents=True, exist_ok=True)

    def secret(self, name: str, n_bytes: int = 20) -> str:
        """Return a random secret that stays the same as long as the folder does."""
        path = self.folder / "secrets.json"
        known: dict[str, str] = read_json(path) or {}
        if name not in known:
            known[name] = secrets.token_hex(n_bytes)
            write_private(path, json.dumps(known, indent=1))
        return known[name]


def find_home(environ: Mapping[str, str] = os.environ) -> Home:
    """Return the state folder: SANDBOX_HOME, else `.sandbox` beside the sources."""
    return Home(Path(environ.get(MARK) or ROOT / ".sandbox").expanduser().resolve())


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner alone."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(path)


def read_json(path: Path) -> Any:
    """Return a JSON file's content, or None when it is absent or was cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
