"""
make show-fleet: two models on one fleet, one of them bad in five ways, under the clients of the other.

It runs on a sandbox of its own, and writes docs/bad-versions.md. Exit code 0 when what must hold does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.settings import ROOT
from tests.sandbox import ensemble_parts
from tests.sandbox.bad_versions.page import page
from tests.sandbox.bad_versions.scenes import SCENES, played
from tests.sandbox.conftest import Sandbox, own_sandbox
from tests.sandbox.releasing import FIRST, QUICK_ENSEMBLE, SECOND, Clients, Model, quick_spec


def main() -> int:
    """Play each scene, write the page, and say what does not hold."""
    parser = argparse.ArgumentParser(prog="make show-fleet", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bad-versions.md", help="the page")
    asked = parser.parse_args()
    with _production() as (sandbox, bad, neighbour, include):
        seen = []
        for number, scene in enumerate(SCENES, 1):
            seen.append(played(scene, number, bad, neighbour, sandbox, include))
            print(f"{scene.what}: {seen[-1].sentence}", flush=True)
    asked.out.write_text(page(seen), encoding="utf-8")
    print(f"written: {asked.out}")
    missed = [f"{each.scene.what}: {problem}" for each in seen for problem in each.problems]
    for miss in missed:
        print(f"does not hold: {miss}")
    return 1 if missed else 0


@contextmanager
def _production() -> Iterator[tuple[Sandbox, Model, Model, Path]]:
    """A sandbox in which a model is stable on the fleet that the other's next version is deployed to."""
    with own_sandbox() as sandbox, tempfile.TemporaryDirectory() as folder:
        include = Path(folder) / "include"
        include.mkdir()
        sys.path.insert(0, str(include))
        try:
            hasty = sandbox.environment.model_copy(update={"load_timeout_s": 15.0})
            neighbour = Model(quick_spec(f"neighbour_{uuid.uuid4().hex[:8]}"), hasty)
            bad = Model(ensemble_parts.spec(f"bad_{uuid.uuid4().hex[:8]}", **QUICK_ENSEMBLE), hasty)
            with Clients(neighbour):
                neighbour.release(neighbour.build(FIRST))
                neighbour.release(neighbour.build(SECOND))
            with Clients(bad, ensemble_parts.bodies(), rate_per_s=25):
                bad.release(ensemble_parts.build(bad, FIRST, include, 1))
            yield sandbox, bad, neighbour, include
        finally:
            sys.path.remove(str(include))


if __name__ == "__main__":
    sys.exit(main())
