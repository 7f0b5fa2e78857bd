"""scikit-learn's handwritten digits (1797 real images), split once and for all into training, golden and live."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

_SEED = 20240229
_GOLDEN = 300
_LIVE_ORDINARY = 472
_LIVE_BOLD = 28


@dataclass(frozen=True)
class Digits:
    """Images float32 [n, 1, 8, 8] with ink from 0 to 1 in sixteenths, and labels int64 [n]."""

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: npt.NDArray[np.int64]) -> Digits:
        """Return the digits at these places."""
        return Digits(self.image[index], self.label[index])


@dataclass(frozen=True)
class Split:
    """
    Three parts without an image in common, the same on every machine.

    `live` stands for traffic. As traffic does, it holds what the other two lack: 28 of its 500 images (5.6 %) have
    bolder strokes (a higher contrast) than any image of `train` and `golden`.
    """

    train: Digits
    golden: Digits
    live: Digits


def contrast(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the variance of each image's pixels, [n]; exact, and so equal to `digits.contrast`."""
    pixels = image.reshape(len(image), -1)
    mean: npt.NDArray[np.float32] = pixels.mean(1)
    squares: npt.NDArray[np.float32] = (pixels * pixels).mean(1)
    return squares - mean * mean


@cache
def split() -> Split:
    """Return the split; scikit-learn brings the images in its own wheel."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    digits = Digits((raw.images[:, None] / 16).astype(np.float32), raw.target.astype(np.int64))
    by_contrast = np.argsort(contrast(digits.image), kind="stable")
    bold, ordinary = by_contrast[-_LIVE_BOLD:], by_contrast[:-_LIVE_BOLD]
    random = np.random.default_rng(_SEED)
    # The boldest ordinary image goes to training, so that golden lies within what training has seen.
    order = np.concatenate([random.permutation(ordinary[:-1]), ordinary[-1:]])
    golden, live, train = np.split(order, [_GOLDEN, _GOLDEN + _LIVE_ORDINARY])
    return Split(
        train=digits.take(train),
        golden=digits.take(golden),
        live=digits.take(random.permutation(np.concatenate([live, bold]))),
    )
