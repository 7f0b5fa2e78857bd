"""What runs: a table of every program with its state, process, memory and address."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox import airflow, processes, s3
from sandbox.home import Home
from sandbox.settings import HOST, Settings
from sandbox.supervisor import Supervisor
from sandbox.up import wanted_now


@dataclass(frozen=True)
class Row:
    """One program; `ok` is false when it should run and does not."""

    name: str
    state: str
    pid: int
    memory_bytes: int
    address: str
    ok: bool


def rows(home: Home, settings: Settings) -> list[Row]:
    """Return one row for each program that should run or does; empty when the sandbox is down."""
    wanted = wanted_now(home)
    states = Supervisor(home).states()
    result = []
    for name in list(states) or wanted:
        state = states.get(name)
        if name not in wanted and (state is None or state.pid == 0):
            continue
        word = state.state.lower() if state else "not supervised"
        ended = bool(state and state.state == "EXITED" and name == "traffic")
        result.append(
            Row(
                name=name,
                state="ended, its run time is over" if ended else word,
                pid=state.pid if state else 0,
                memory_bytes=processes.memory_bytes(state.pid) if state and state.pid else 0,
                address=address(settings, name),
                ok=ended or word == "running",
            )
        )
    return result


def address(settings: Settings, name: str) -> str:
    """Return where a person finds a program."""
    ports = settings.ports_of(name)
    if name == "s3":
        return s3.endpoint(settings)
    if name == "airflow-api-server":
        return airflow.url(settings)
    if name == "envoy":
        return f"http://{HOST}:{ports['router']} (admin :{ports['router_admin']})"
    if name.startswith("triton-"):
        return f"{HOST} http :{ports['http']} grpc :{ports['grpc']} metrics :{ports['metrics']}"
    return ""


def table(found: list[Row]) -> str:
    """Return the rows as text, with the memory of all at the end."""
    cells = [("name", "state", "pid", "memory", "where")]
    cells += [
        (row.name, row.state, str(row.pid or "-"), _mb(row.memory_bytes) if row.pid else "-", row.address)
        for row in found
    ]
    cells.append(("", "", "", _mb(sum(row.memory_bytes for row in found)), "in all"))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join(
        "  ".join([*(line[column].ljust(widths[column]) for column in range(4)), line[4]]).rstrip() for line in cells
    )


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MB"
