"""
make show-reload: a reload of every replica against one bare load call; and swaps, a restore and a rollback under load.

It runs on a sandbox of its own, and writes docs/reload.md. Exit code 0 when what must hold does.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from pathlib import Path

from sandbox.settings import ROOT
from tests.sandbox.conftest import own_sandbox
from tests.sandbox.releasing import FIRST, Clients, Model, quick_spec
from tests.sandbox.reload.measure import moves, reloads
from tests.sandbox.reload.page import failures, page


def main() -> int:
    """Measure, write the page, and say what does not hold."""
    parser = argparse.ArgumentParser(prog="make show-reload", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="reloads in each way")
    parser.add_argument("--swaps", type=int, default=3, help="versions that are promoted under load")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reload.md", help="the page")
    asked = parser.parse_args()
    with own_sandbox() as sandbox:
        spec = quick_spec(f"digits_{uuid.uuid4().hex[:8]}")
        # A busy machine sends a stage's requests in its own time: no stage may end for that.
        patient = spec.canary.model_copy(update={"max_bake_s": 300})
        model = Model(spec.model_copy(update={"canary": patient}), sandbox.environment)
        with Clients(model):
            model.release(model.build(FIRST))
        reloaded = reloads(model, asked.rounds)
        moved = moves(model, asked.swaps)
    asked.out.write_text(page(reloaded, moved), encoding="utf-8")
    print(f"written: {asked.out}")
    missed = failures(reloaded, moved)
    for miss in missed:
        print(f"does not hold: {miss}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
