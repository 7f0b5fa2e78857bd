"""`python -m sandbox.exports`: run everything, write docs/exports.md and print it; `--only NAME` runs one case."""

from __future__ import annotations

import argparse
import json
import sys

from sandbox.exports.catalogue import ARCHITECTURES
from sandbox.exports.measure import COMPARED, compare_all, measure_all, refuse_all, say
from sandbox.exports.page import page
from sandbox.exports.refusals import REFUSALS
from sandbox.settings import ROOT

_PAGE = ROOT / "docs" / "exports.md"


def main() -> int:
    """Return 0 when every architecture is proved and every refusal is the right one, else 1."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.exports", description=__doc__)
    parser.add_argument("--only", metavar="NAME", choices=[*ARCHITECTURES, *REFUSALS], help="one case; no page")
    only = parser.parse_args().only
    measured = measure_all(name for name in ARCHITECTURES if only in (None, name))
    refused = refuse_all(name for name in REFUSALS if only in (None, name))
    if only is None:
        written = page(ARCHITECTURES, measured, REFUSALS, refused, compare_all(COMPARED))
        _PAGE.write_text(written)
        print(written)
    else:
        print(json.dumps({**measured, **refused}, indent=1))
    wrong = [name for name, row in measured.items() if not row["passed"]]
    wrong += [name for name, row in refused.items() if not row["right"]]
    if wrong:
        say(f"not as it should be: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
