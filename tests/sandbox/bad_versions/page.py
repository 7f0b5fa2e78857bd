"""docs/bad-versions.md, from what was seen."""

from __future__ import annotations

from collections.abc import Sequence

from tests.sandbox.bad_versions.scenes import SMALL_BYTES, Seen

_HEAD = f"""# A bad version beside another model

Written by `make show-fleet` (`python -m tests.sandbox.bad_versions`); do not edit. On a sandbox of its own, real
Tritons, S3 and Envoy: one model serves its clients from the fleet that the bad versions of another are deployed to.
Each is sound in the worker and on bench, and bad on the fleet alone; the one that eats memory is stopped before it, on
machines that are said to have {SMALL_BYTES // 2**20} MB left. `back` is how long after the release's end every replica
served the other model again.
"""


def page(seen: Sequence[Seen]) -> str:
    """Return the whole page."""
    rows = [
        f"| {each.scene.what} | {each.seconds:.0f} | {each.back_s:.0f} | {', '.join(each.restarted) or 'none'} "
        f"| {each.requests} | {each.errors} |"
        for each in seen
    ]
    return "\n".join(
        [
            _HEAD,
            "| the version | release, s | back, s | replicas restarted | the other model's requests | errors |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "How each release ended:",
            "",
            *(f"- **{each.scene.what}**: {each.sentence}" for each in seen),
            "",
        ]
    )
