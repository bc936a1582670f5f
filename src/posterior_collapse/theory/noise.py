"""What few rows feign: what a condition explains, and modes of noise (Horn's parallel analysis).

Noise is drawn where it is small. Of more the expected number of modes above any variance follows
from the features' variances alone, as n and features grow together (Marchenko and Pastur 1967,
Silverstein 1995), and so does how far single draws are from it (Tracy and Widom 1996).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.errors import count_of
from posterior_collapse.theory.state import fit

DRAWS, MOST_DRAWN = 100, 10_000
"""How often noise is drawn, and of at most how many numbers: of more its modes are counted without
a draw, which would take longer."""
MOST_OF_NOISE = 0.95
"""The quantile of a mode of noise that one of the data has to exceed: next to a single draw the
strongest mode of noise seems signal in half of all cases."""
MARGIN = 2.75
"""How far this quantile of the k-th mode lies above where k - 1/2 are expected, times the cube root
of k: in widths of the law of Tracy and Widom (1996), of which it is so for all of the first."""
ALONE, GROUPS = 100, 500
"""Features that are counted one by one, the most variable ones, and groups of the others."""
LOOKED_AT = 150
"""Modes that are compared with noise at once, ever fewer after the first."""
AFAR, NEAR, STAGES = 10.0, 1e-7, 30
"""Distances from the real axis on the way to it: from beyond all modes of noise, where Newton's
steps find the one root, to a share of the variance that is near enough for a million rows, of
which each seems to turn the phase by as much."""
NEWTONS = 3
HALVINGS = 60


def few_samples(what: str, rank: int, n: int) -> list[str]:
    """Return what to beware of where a condition or an input has too many features for its rows."""
    if not 0 < n < 10 * rank:
        return []
    return [
        f"{what} has {count_of(rank, 'independent feature')} for {n} samples (fewer than 10 each): "
        "what it seems to explain of y may be an artefact"
    ]


def stronger_than_noise(
    variance: Float, features: Float, n: int, threshold: float
) -> tuple[int, int, bool]:
    """Say how many modes above a threshold noise shows, and which of the data's exceed them.

    Args:
        variance: Of the data's modes, descending.
        features: Variances of the features in the data.
        n: Number of rows.
        threshold: Variance from which modes count.

    Returns:
        Modes of noise above the threshold; the data's modes that are stronger than noise's, from
        the strongest on; and whether noise was drawn.

    Example:
        >>> stronger_than_noise(np.array([9.0, 1.5]), np.ones(10), 20, 1.2)[1:]
        (1, True)
    """
    found = variance[variance > threshold]
    if not np.isfinite(threshold):
        return 0, 0, True
    # Those of the noise itself: its rows lose as much again to their mean.
    features = features * (n / max(n - 1, 1))
    drawn = n * len(features) <= MOST_DRAWN
    if drawn:
        draws = np.array([fit(noise, len(variance)) for noise in _drawn(features, n)])
        above = round(np.count_nonzero(draws > threshold) / len(draws))
        # What the next draw exceeds in 5% of all cases.
        noise = np.quantile(draws, MOST_OF_NOISE, axis=0, method="weibull")
        weaker = np.flatnonzero(found <= noise[: len(found)])
        return above, int(weaker[0]) if weaker.size else len(found), drawn
    above = round(float(noise_above(np.array([threshold]), features, n)[0]))
    margin, stronger, known = MARGIN * _width(features, n), len(found), 0
    while known < stronger:  # a look at some, and one at those between
        at = np.unique(np.geomspace(known + 1, stronger, LOOKED_AT).astype(int)) - 1
        here = found[at] / (1 + margin / np.cbrt(at + 1))
        weaker = at[noise_above(here, features, n) > at + 0.5]
        stronger = int(weaker[0]) if weaker.size else stronger
        known = int(at[at < stronger].max(initial=known - 1)) + 1
    return above, stronger, drawn


def _drawn(features: Float, n: int) -> Iterator[Float]:
    """Yield the variances of the modes of n rows of noise, descending, draw after draw."""
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        rows = rng.standard_normal((n, len(features)))
        rows *= np.sqrt(features)
        rows -= rows.mean(axis=0)
        gram = rows @ rows.T if n < len(features) else rows.T @ rows
        yield np.linalg.eigvalsh(gram)[::-1] / n


def noise_above(at: Float, features: Float, n: int) -> Float:
    """Return the expected numbers of modes of noise above some variances.

    With `m` the root of `z = -1/m + (1/n) sum_j t_j / (1 + t_j m)` at `z = at + i 0` above the real
    axis, t_j the features' variances, the mean of log det of the rows' products less z is n times
    `-log m + (1/n) sum_j log(1 + t_j m) - z m - 1`: each mode below z has turned its phase by -pi.

    Args:
        at: Positive variances, shape (k,).
        features: Variances of the features.
        n: Number of rows, of which the mean takes one.

    Source:
        Silverstein (1995) for m; its log det as in Hachem, Loubaton and Najim (2007).

    Example:
        >>> np.abs(noise_above(np.array([0.01, 4.0]), np.ones(500), 2001).round(1)).tolist()
        [500.0, 0.0]
    """
    t, share = _grouped(features, n)
    x = at * n / (n - 1)
    beyond = np.maximum(x, t[0] + t @ share)
    distances = np.geomspace(AFAR * beyond, NEAR * x, STAGES)
    m = -1 / (x + 1j * distances[0])
    for distance in distances:
        z = x + 1j * distance
        for _ in range(NEWTONS):
            ratio = t / (1 + np.multiply.outer(m, t))
            miss = -1 / m + ratio @ share - z
            step = m - miss / (1 / m**2 - np.square(ratio) @ share)
            # Below the axis is another root; this other step never leads there.
            m = np.where(step.imag > 0, step, 1 / (ratio @ share - z))
    turned = np.angle(1 + np.multiply.outer(m, t)) @ share - np.angle(m) - (z * m).imag
    return np.asarray((n - 1) * (1 + turned / np.pi))


def _grouped(features: Float, n: int) -> tuple[Float, Float]:
    """Return the features' variances, descending, and their numbers per row: alike ones as one."""
    t = np.sort(features[features > 0])[::-1]
    edges = np.concatenate([np.arange(ALONE), np.linspace(ALONE, len(t), GROUPS + 1)])
    edges = np.unique(edges.astype(int)[edges <= len(t)])
    sizes = np.diff(edges)
    return np.add.reduceat(t, edges[:-1]) / sizes, sizes / (n - 1)


def _width(features: Float, n: int) -> float:
    """Return the width of the law of noise's strongest mode, as a share of where the modes end.

    They end at the least `z` of `noise_above` over the real m from -1 / max t to 0, and are as
    dense below it as its second derivative there says.

    Source:
        El Karoui (2007).
    """
    t, share = _grouped(features, n)
    low, high = -1 / t[0], 0.0
    for _ in range(HALVINGS):
        m = (low + high) / 2
        ratio = t / (1 + m * t)
        low, high = (m, high) if m**2 * (ratio**2 @ share) > 1 else (low, m)
    end = -1 / m + ratio @ share
    bent = -2 / m**3 + 2 * (ratio**3 @ share)
    return float(np.cbrt(bent / 2) / (n - 1) ** (2 / 3) / end)
