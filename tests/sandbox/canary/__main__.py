"""
make show-canary: a canary under live traffic, and what befalls it: errors, slowness, kills, an outage of the metrics.

It runs on a sandbox of its own, and writes docs/canary.md when all scenes were played.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import uuid
from pathlib import Path

from sandbox.home import Home
from sandbox.settings import ROOT
from tests.sandbox.canary.page import Split, page
from tests.sandbox.canary.relay import Relay
from tests.sandbox.canary.scenes import Told, play, scenes, shares_of, stage_of
from tests.sandbox.conftest import WITHOUT, Sandbox, free_base
from tests.sandbox.releasing import train_all

PAGE = ROOT / "docs" / "canary.md"


def main() -> int:
    """Play the scenes and print what came of each; 0 when all is as it should be."""
    parser = argparse.ArgumentParser(prog="make show-canary", description=__doc__)
    parser.add_argument(
        "--only", default="", help="the keys of some scenes, as in a,b,d1; the page is not written then"
    )
    asked = [key for key in parser.parse_args().only.split(",") if key]
    told: list[Told] = []
    splits: list[Split] = []
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(Home(Path(folder)), free_base())
        try:
            sandbox.must("up", *WITHOUT)
            train_all(sandbox.environment)
            relay = Relay(sandbox.environment.router.admin[0])
            with stage_of(sandbox, f"digits_{uuid.uuid4().hex[:8]}", relay) as model:
                for number, scene in enumerate(scenes()):
                    if asked and scene.key not in asked:
                        continue
                    told.append(play(scene, number, sandbox, model, relay))
                    print(told[-1], flush=True)
                if not asked:
                    splits = [Split(percent, *seen) for percent, seen in shares_of(model).items()]
        finally:
            sandbox.run("down")
    if not asked:
        PAGE.write_text(page(told, splits), encoding="utf-8")
    return 0 if all(each.right for each in told) else 1


if __name__ == "__main__":
    sys.exit(main())
