"""MNIST as a few numbers: enough for a forecast page, where 45 MB of images are not at hand.

`python docs/hooks/mnist.py` writes `mnist.npz` anew, from the images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import posterior_collapse as pc

KEPT = Path(__file__).with_name("mnist.npz")
MODES = 32
"""Of which the pattern is kept, as a page shows no more."""


def moments() -> pc.Moments:
    """Return moments with MNIST's spectrum and, rounded, the patterns of its strongest modes."""
    with np.load(KEPT) as kept:
        variance, patterns, n = kept["variance"], kept["patterns"], int(kept["n"])
    # QR makes the rounded patterns orthonormal again and fills up with others for the weak modes.
    filled = np.concatenate([patterns.T.astype(float), np.eye(len(variance))], axis=1)
    modes = np.linalg.qr(filled)[0]
    xx = modes * variance @ modes.T
    return pc.Moments.from_matrices((xx + xx.T) / 2, n=n)


def keep() -> None:
    """Write the variances and the strongest modes of the 60,000 images."""
    x = pc.load("mnist").x
    variance, modes = np.linalg.eigh(np.cov(x.T, bias=True))
    variance, strongest = np.clip(variance[::-1], 0, None), modes[:, ::-1].T[:MODES]
    patterns = np.round(127 * strongest / np.abs(strongest).max(axis=1, keepdims=True))
    np.savez_compressed(
        KEPT, variance=variance.astype("float32"), patterns=patterns.astype("int8"), n=len(x)
    )


if __name__ == "__main__":
    keep()
