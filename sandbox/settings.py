"""What may be moved or sized: settings.yaml, an override file, and SANDBOX_PORT_BASE."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.errors import SandboxError

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = Path(__file__).with_name("settings.yaml")
TRITON_PORTS = 3

Port = Annotated[int, Field(ge=1024, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ports(_Section):
    """Where each part listens, on 127.0.0.1."""

    router: Port
    router_admin: Port
    airflow: Port
    triton_first: Port
    s3: Port
    s3_grpc: Port
    s3_master: Port
    s3_master_grpc: Port
    s3_volume: Port
    s3_volume_grpc: Port
    s3_filer: Port
    s3_filer_grpc: Port
    s3_admin: Port
    s3_admin_grpc: Port


class Replicas(_Section):
    """Triton servers per fleet."""

    blue: Annotated[int, Field(ge=1, le=8)]
    green: Annotated[int, Field(ge=1, le=8)]


class Traffic(_Section):
    """What the traffic process sends."""

    rates_per_s: dict[str, Annotated[float, Field(gt=0, le=2000)]]
    http_share: Annotated[float, Field(ge=0, le=1)]
    deadline_s: Annotated[float, Field(gt=0, le=60)]
    run_time_h: Annotated[float, Field(gt=0, le=168)]


class Airflow(_Section):
    """Airflow's size."""

    parallelism: Annotated[int, Field(ge=1, le=64)]


class Programs(_Section):
    """Parts that may be left out."""

    traffic: bool
    airflow: bool
    guard: bool


class TritonServer(_Section):
    """One Triton of a fleet and its three ports."""

    fleet: str
    index: int
    http: int
    grpc: int
    metrics: int

    @property
    def name(self) -> str:
        """Return the replica's name, which is also its program's."""
        return f"triton-{self.fleet}-{self.index}"


class Settings(_Section):
    """The whole of settings.yaml."""

    ports: Ports
    replicas: Replicas
    traffic: Traffic
    airflow: Airflow
    programs: Programs

    def tritons(self) -> list[TritonServer]:
        """Return every Triton: blue, green, then bench."""
        places = [(fleet, i) for fleet in ("blue", "green") for i in range(getattr(self.replicas, fleet))]
        places.append(("bench", 0))
        first = self.ports.triton_first
        return [
            TritonServer(fleet=fleet, index=i, http=port, grpc=port + 1, metrics=port + 2)
            for (fleet, i), port in zip(places, range(first, 65536, TRITON_PORTS), strict=False)
        ]

    def ports_of(self, program: str) -> dict[str, int]:
        """Return what a program listens on, by purpose; empty for one that listens on nothing."""
        ports = self.ports.model_dump()
        if program == "s3":
            return {name: port for name, port in ports.items() if name == "s3" or name.startswith("s3_")}
        if program == "envoy":
            return {"router": ports["router"], "router_admin": ports["router_admin"]}
        if program == "airflow-api-server":
            return {"airflow": ports["airflow"]}
        for server in self.tritons():
            if server.name == program:
                return {"http": server.http, "grpc": server.grpc, "metrics": server.metrics}
        return {}


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """
    Read settings.yaml, then the file of SANDBOX_SETTINGS over it, then SANDBOX_PORT_BASE.

    Raises SandboxError, naming the file and every problem.
    """
    values = _read(DEFAULTS)
    source = str(DEFAULTS)
    if override := environ.get("SANDBOX_SETTINGS"):
        values = _merged(values, _read(Path(override)))
        source = override
    settings = _checked(values, source)
    if base := environ.get("SANDBOX_PORT_BASE"):
        if not base.isdigit():
            message = f"SANDBOX_PORT_BASE is {base!r}: give the lowest port as a number, for example 28000."
            raise SandboxError(message)
        ports = settings.ports.model_dump()
        shift = int(base) - min(ports.values())
        moved = {**settings.model_dump(), "ports": {name: port + shift for name, port in ports.items()}}
        settings = _checked(moved, f"SANDBOX_PORT_BASE={base}")
    _no_port_twice(settings, source)
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        message = f"the sandbox's settings {path} cannot be read: {error}"
        raise SandboxError(message) from None
    if not isinstance(values, dict):
        message = f"the sandbox's settings {path} are not a mapping of keys to values."
        raise SandboxError(message)
    return values


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        result[key] = _merged(under[key], value) if both else value
    return result


def _checked(values: dict[str, Any], source: str) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()
        )
        message = f"the sandbox's settings ({source}) do not hold: {problems}."
        raise SandboxError(message) from None


def _no_port_twice(settings: Settings, source: str) -> None:
    owners: dict[int, str] = {}
    for program in ("s3", "envoy", "airflow-api-server", *(server.name for server in settings.tritons())):
        for purpose, port in settings.ports_of(program).items():
            name = f"{program} ({purpose})"
            if port in owners:
                message = f"the sandbox's settings ({source}) give port {port} to both {owners[port]} and {name}."
                raise SandboxError(message)
            owners[port] = name
