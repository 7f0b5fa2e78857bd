"""Numbers as people read them: three significant digits, thousands apart, a dash for none, and never "nan"."""

from __future__ import annotations

import math
import re

NONE = "\N{EN DASH}"
_NOT_FINITE = "not finite"
_GAP = "\N{NARROW NO-BREAK SPACE}"
_PERCENT = f"{_GAP}%"
_PLAIN_FROM, _PLAIN_TO = 1_000, 1_000_000
_TIMES_FROM = 10
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def figure(value: float | None) -> str:
    """Return a measured number with three significant digits."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return _NOT_FINITE
    if value == 0:
        return "0"
    rounded = f"{value:.3g}"
    if _PLAIN_FROM <= abs(float(rounded)) < _PLAIN_TO:
        return whole(round(float(rounded)))
    return re.sub(r"e([+-])0*", lambda found: "e-" if found[1] == "-" else "e", rounded)


def whole(value: int) -> str:
    """Return a count with its thousands apart."""
    return f"{value:,}".replace(",", _GAP)


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share in percent."""
    if share is None:
        return NONE
    return f"{100 * share:.{digits}f}{_PERCENT}" if math.isfinite(share) else _NOT_FINITE


def cosine(value: float | None) -> str:
    """Return a cosine with as many digits as tell it from 1 in float32."""
    if value is None:
        return NONE
    return f"{value:.7f}" if math.isfinite(value) else _NOT_FINITE


def of_allowed(ratio: float | None) -> str:
    """Return how much of what is allowed was used: in percent, and far beyond it in times."""
    if ratio is None or not math.isfinite(ratio):
        return figure(ratio)
    return f"{figure(100 * ratio)}{_PERCENT}" if ratio < _TIMES_FROM else f"{figure(ratio)} times"


def size(size_bytes: int) -> str:
    """Return a size in the unit that fits."""
    for unit, least in _UNITS:
        if size_bytes >= least:
            return f"{figure(size_bytes / least)} {unit}"
    return f"{size_bytes} bytes"
