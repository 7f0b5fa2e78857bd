"""How the command line speaks: tables and lines for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model_release.environment import S3, Environment, EnvoyRouter, Fleet, FleetPair, Replica, load_environment
from model_release.errors import ReleaseError
from model_release.spec import ModelSpec, served_name
from model_release.spec_files import find_spec

Contract = Annotated[int | None, typer.Option(min=1, help="An earlier contract; by default the config's.")]
Sha256 = Annotated[str | None, typer.Option(help="The checkpoint's, where the config leaves it to each release.")]

#: A pipe has no width; a table is not cut for it.
_people = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
_errors = Console(stderr=True, highlight=False)


@dataclass
class Output:
    """The options that every command shares, and what they open."""

    configs: Path
    environment_file: Path | None
    as_json: bool

    @cached_property
    def environment(self) -> Environment:
        """The environment. Raises BadModelConfig."""
        return load_environment(self.environment_file)

    def spec(self, name: str) -> ModelSpec:
        """Return a model's spec. Raises UnknownModel, BadModelConfig."""
        return find_spec(self.configs, name)

    def model(self, name: str, contract: int | None = None) -> str:
        """Return the name that a model is served by, under an earlier contract if asked. Raises UnknownModel."""
        spec = self.spec(name)
        return served_name(name, contract) if contract else spec.served_name

    def say(self, text: str) -> None:
        """Write a line for people; programs get none."""
        if not self.as_json:
            _people.print(text, soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Give a function that says on stderr what begins now: one live line on a terminal, else a line each."""
        if self.as_json:
            yield lambda _: None
        elif _errors.is_terminal:
            with _errors.status("") as status:
                yield lambda text: status.update(escape(text))
        else:
            yield lambda text: _errors.print(escape(text), soft_wrap=True)

    def give(self, result: Any) -> None:
        """Write the result for programs."""
        if self.as_json:
            print(json.dumps(result, default=str), flush=True)

    def table(self, title: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Write a table for people."""
        if self.as_json:
            return
        table = Table(title=escape(title), title_justify="left")
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*(escape(str("" if cell is None else cell)) for cell in row))
        _people.print(table)


def nowhere() -> Environment:
    """Return an environment for commands that need none: its servers do not exist."""
    none = Fleet(replicas=[Replica(name="none", http="none", grpc="none", metrics="none")])
    return Environment(
        s3=S3(bucket="none"),
        pairs={"default": FleetPair(blue=none, green=none, bench=none)},
        router=EnvoyRouter(directory=Path(), admin=["none"], http="none"),
    )


def new_run_id(what: str) -> str:
    """Return the id of a run that the command line begins."""
    return f"{what}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"


def error_line(error: ReleaseError, as_json: bool) -> None:
    """Say why the command failed: JSON on stdout, else one sentence on stderr."""
    if as_json:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
    else:
        _errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
