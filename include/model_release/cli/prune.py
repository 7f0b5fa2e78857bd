"""`prune`: what retention lets go leaves the archive."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from model_release.cli.output import Output, new_run_id
from model_release.errors import ReleaseError

if TYPE_CHECKING:
    from model_release.steps.prune import Pruning


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(prune)


def prune(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Model.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every model of the archive.")] = False,
    keep: Annotated[int, typer.Option(min=1, help="The newest sealed, and promoted, versions stay.")] = 10,
    keep_days: Annotated[float, typer.Option(min=0, help="What was sealed or promoted since stays.")] = 90,
    dry_run: Annotated[bool, typer.Option("--dry-run/--yes", help="Only say what would go; --yes deletes it.")] = True,
) -> None:
    """Delete old versions from the archive, for good; without --yes only say which. What serves always stays."""
    from model_release.repository.prune import Policy
    from model_release.steps import prune as step

    output: Output = context.obj
    if every == (name is not None):
        raise typer.BadParameter("give a MODEL, or --all")
    environment, policy = output.environment, Policy(keep, keep_days)
    archived = step.models(environment)
    # An archive outlives its model's config.
    names = archived if name is None else [name if name in archived else output.model(name)]
    done, problems = [], list[str]()
    for each in names:
        try:
            one = step.run(each, environment, policy, dry_run=dry_run, run_id=new_run_id("prune"), by=getpass.getuser())
        except ReleaseError as error:
            if not every:
                raise
            problems.append(f"{each}: {error}")
            output.say(f"[red]problem[/red] {escape(problems[-1])}")
        else:
            done.append(one)
            _tell(output, one)
    probes, probe_bytes = step.leftovers(environment, dry_run=dry_run)
    freed_bytes = probe_bytes + sum(each.freed_bytes for each in done)
    if probes:
        output.say(f"{len(probes)} objects that probes of the store left behind {_went(dry_run=dry_run)}")
    output.say(f"{freed_bytes} bytes {'would be freed: give --yes to delete' if dry_run else 'freed'}")
    output.give(
        {
            "dry_run": dry_run,
            "freed_bytes": freed_bytes,
            "models": [each.to_dict() for each in done],
            "probes": probes,
            "problems": problems,
        }
    )
    raise typer.Exit(1 if problems else 0)


def _tell(output: Output, done: Pruning) -> None:
    columns = ["version", "would" if done.dry_run else "did", "bytes", "why"]
    go, stay = ("go", "stay") if done.dry_run else ("gone", "stays")
    rows = [[each.version, go if each.goes else stay, each.size_bytes, each.why] for each in done.versions]
    output.table(f"Versions of {done.model}", columns, rows)
    if done.uploads:
        output.say(f"{len(done.uploads)} unfinished uploads {_went(dry_run=done.dry_run)}")


def _went(*, dry_run: bool) -> str:
    return "would go" if dry_run else "are gone"
