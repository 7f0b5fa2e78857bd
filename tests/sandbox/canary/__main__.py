"""
make show-canary: a canary under live traffic, and what befalls it: errors, slowness, kills, an outage of the metrics.

It runs on a sandbox of its own, and writes docs/canary.md when all scenes were played.
"""

from __future__ import annotations

import argparse
import signal
import sys
import uuid
from pathlib import Path

from sandbox.settings import ROOT
from tests.sandbox.canary.page import Split, page, row
from tests.sandbox.canary.play import Told, play, shares_of, stage_of
from tests.sandbox.canary.relay import Relay
from tests.sandbox.canary.scenes import scenes
from tests.sandbox.conftest import own_sandbox


def main() -> int:
    """Play the scenes and print what came of each; 0 when all is as it should be."""
    parser = argparse.ArgumentParser(prog="make show-canary", description=__doc__)
    parser.add_argument(
        "--only", default="", help="the keys of some scenes, as in a,b,d1; the page is not written then"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "canary.md", help="the page")
    given = parser.parse_args()
    asked = [key for key in given.only.split(",") if key]
    unknown = sorted(set(asked) - {scene.key for scene in scenes()})
    if unknown:
        parser.error(f"there is no scene {', '.join(unknown)}; there are {', '.join(scene.key for scene in scenes())}")
    told: list[Told] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with own_sandbox() as sandbox:
        relay = Relay(sandbox.environment.router.admin[0])
        with stage_of(sandbox, f"digits_{uuid.uuid4().hex[:8]}", relay) as model:
            for number, scene in enumerate(scenes()):
                if asked and scene.key not in asked:
                    continue
                told.append(play(scene, number, sandbox, model, relay))
                print(row(told[-1]), f"  {told[-1].reason}", sep="\n", flush=True)
            splits = [] if asked else [Split(percent, *seen) for percent, seen in shares_of(model).items()]
    if not asked:
        given.out.write_text(page(told, splits), encoding="utf-8")
        print(f"written: {given.out}")
    return 0 if all(each.right for each in told) else 1


if __name__ == "__main__":
    sys.exit(main())
