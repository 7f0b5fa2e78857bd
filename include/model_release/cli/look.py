"""Commands that only look: status, history, verify."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from model_release.cli.output import Contract, Output
from model_release.ledger.events import Events
from model_release.ledger.queue import CanaryQueue
from model_release.ledger.state import State, StateFile
from model_release.repository.archive import PARTS, Archive
from model_release.repository.manifest import digest_of
from model_release.repository.store import ObjectStore
from model_release.spec import served_name
from model_release.spec_files import load_specs

Name = Annotated[str, typer.Argument(help="Model.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(status)
    app.command()(history)
    app.command()(verify)


def status(
    context: typer.Context, name: Annotated[str | None, typer.Argument(help="Model; all without a name.")] = None
) -> None:
    """Say what serves, what is under test, and who holds the claim."""
    output: Output = context.obj
    store = ObjectStore(output.environment.s3)
    specs = [output.spec(name)] if name else list(load_specs(output.configs)[0].values())
    names = [served_name(spec.name, contract) for spec in specs for contract in range(1, spec.contract + 1)]
    current = {spec.served_name for spec in specs}
    states = [StateFile(store, each).read() for each in names]
    states = [state for state in states if state.model in current or state.revision > 0]
    columns = ["model", "stable", "canary", "standby", "weights", "release", "rejected"]
    output.table("What serves", columns, [_row(state) for state in states])
    for pair in output.environment.pairs if output.environment.change_policy.one_canary_per_pair else ():
        for place, entry in enumerate(CanaryQueue(store, pair).entries()):
            what = "has its canary" if place == 0 else f"waits, number {place} in the queue"
            output.say(f"pair {pair}: {entry.model} version {entry.version} {what}, since {entry.since:%H:%M:%S} UTC")
    output.give([state.model_dump(mode="json") for state in states])


def _row(state: State) -> list[Any]:
    def placed(placement: Any) -> str:
        return f"{placement.version} on {placement.fleet}" if placement else ""

    weights = state.weights.confirmed or state.weights.intent
    running = ""
    if state.release is not None:
        phase = f" in {state.claim.phase}" if state.claim else ""
        if state.claim and state.claim.held_until:
            phase += f", held until {state.claim.held_until:%H:%M:%S} UTC"
        running = f"{state.release.version} {state.release.outcome}{phase}"
    return [
        state.model,
        placed(state.stable),
        placed(state.canary),
        placed(state.standby),
        f"blue {weights.blue} green {weights.green}",
        running,
        ", ".join(str(entry.version) for entry in state.rejected),
    ]


def history(context: typer.Context, name: Name, contract: Contract = None) -> None:
    """List what happened to a model: when, who, what, which numbers."""
    output: Output = context.obj
    events = Events(ObjectStore(output.environment.s3), output.model(name, contract)).read()
    rows = [[e["at"], e["epoch"], e["what"], e.get("version"), e.get("by"), _facts(e)] for e in events]
    output.table(f"History of {name}", ["at", "epoch", "what", "version", "by", "facts"], rows)
    output.give(events)


def _facts(event: dict[str, Any]) -> str:
    told = ("stage", "weights", "verdict", "reason", "error", "stable", "standby", "fleet", "origin", "digest")
    return ", ".join(f"{key} {event[key]}" for key in told if event.get(key) not in (None, ""))


def verify(
    context: typer.Context,
    name: Name,
    version: Annotated[int, typer.Argument(help="Version.")],
    contract: Contract = None,
) -> None:
    """Read every sealed byte of a version again and compare it with its manifests."""
    output: Output = context.obj
    archive = Archive(ObjectStore(output.environment.s3), output.model(name, contract))
    archive.require(version)
    bodies: dict[str, bytes] = {}
    checked = []
    with TemporaryDirectory() as folder:
        for part in PARTS:
            sealed = archive.seal_of(version, part)
            if sealed is None:
                continue
            bodies[part], manifest = sealed
            for file in manifest.files:
                archive.read_sealed(manifest, file, Path(folder) / "file").unlink()
                checked.append(f"{manifest.part}/{file}")
    digest = digest_of(bodies)
    output.say(f"[green]ok[/green] version {version} of {name}: {len(checked)} files are as they were sealed")
    output.say(f"   digest {digest} (of {' and '.join(bodies)})")
    output.give({"model": name, "version": version, "digest": digest, "files": checked})
