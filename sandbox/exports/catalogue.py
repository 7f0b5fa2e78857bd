"""All architectures of the table."""

from __future__ import annotations

from sandbox.exports.architecture import Architecture
from sandbox.exports.from_transformers import AUDIO, TEXT, VISION
from sandbox.exports.own import OWN
from sandbox.exports.real_weights import REAL

ARCHITECTURES: dict[str, Architecture] = {made.name: made for made in (*REAL, *TEXT, *VISION, *AUDIO, *OWN)}
