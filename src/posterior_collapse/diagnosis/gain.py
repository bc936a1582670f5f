"""What one more unit would buy, in nats, and into which parts latent space is split for that."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray

from posterior_collapse.diagnosis.results import Gain
from posterior_collapse.specs import Spec
from posterior_collapse.theory.thresholds import SURE, Side, side_of_threshold, unit_gain

if TYPE_CHECKING:
    from posterior_collapse.diagnosis.certificate import Signal

__all__ = ["WORTH", "gain_of", "partitions", "priced", "side_of_worth"]

Float = NDArray[np.float64]

WORTH = 0.01
"""Share of what the living units brought that one more must bring to be worth having."""
NUMBERS_OF_PARTS = (2, 4, 8, 16, 32)
_NODES, _WEIGHTS = hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def partitions(places: NDArray[Any], least: int) -> Iterator[NDArray[np.intp]]:
    """Yield labels of the rows for ever more parts, -1 for rows of parts that are too small.

    Args:
        places: Where rows are in latent space, (rows, units), distances as they count.
        least: Rows that a part must have; as many parts are tried as could have twice that.
    """
    if places.shape[1] == 0:
        return
    # A second to import, which a diagnosis without parts is spared.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    for count in NUMBERS_OF_PARTS:
        if count * 2 * least > len(places):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = KMeans(count, n_init=1, random_state=0).fit_predict(places)
        sizes = np.bincount(labels, minlength=count)
        if (sizes == 0).any():  # no more places than that
            return
        names = np.where(sizes >= least, np.cumsum(sizes >= least) - 1, -1)
        yield names[labels]


def priced(spec: Spec, level: int, share: Float, t: Float, error: Float) -> tuple[float, float]:
    """Return what one more unit gains in nats per row, and its standard error.

    Only parts whose t exceeds 1 gain, so that a noisy t gains on average although it should not.
    By how much follows from the noise once more: that bias is subtracted.

    Args:
        spec: The hyperparameters.
        level: Of the unit, 1 next to the data.
        share: Of the rows that each part has.
        t: Of each part.
        error: Standard error of each t.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> gain, error = priced(VAESpec(1), 1, np.ones(1), np.array([1.5]), np.array([0.1]))
        >>> round(gain, 3), round(float(unit_gain(VAESpec(1), 1.5)), 3)
        (0.046, 0.047)
    """
    value = unit_gain(spec, t, level=level)
    around = unit_gain(spec, t[:, None] + error[:, None] * _NODES, level=level)
    mean = around @ _WEIGHTS
    variance = np.maximum(np.square(around) @ _WEIGHTS - mean**2, 0.0)
    gain = float(share @ (2 * value - mean))
    return gain, float(np.sqrt(np.square(share) @ variance))


def gain_of(
    spec: Spec,
    level: int,
    signal: Signal,
    limit: float,
    error: float,
    worth: float,
    most: float = math.inf,
) -> Gain:
    """Return what one more unit of a level would gain, over the best number of parts.

    Args:
        spec: The hyperparameters.
        level: 1 next to the data.
        signal: Of the level.
        limit: Variance that a unit must exceed.
        error: Standard error of its t.
        worth: Nats that a unit must gain to be worth having.
        most: Nats that there are to be gained at all. The price is that of a parabola, which goes
            on falling where a loss does not: far away where outputs are all but certain.
    """
    t = signal.variances[:1] / limit
    if np.isnan(t).any():
        return Gain(math.nan, math.nan, 1, math.nan, math.nan, worth)
    _, spread = priced(spec, level, np.ones(1), t, np.array([error]))
    whole = float(unit_gain(spec, t, level=level)[0]), spread
    best, count = whole, 1
    for parts in signal.parts:
        found = priced(spec, level, parts.share, parts.variance / limit, parts.error / limit)
        # The largest of several estimates is the luckiest: it has to be sure of its lead.
        if found[0] - found[1] > max(best[0] - best[1], 0.0):
            best, count = found, len(parts.share)
    found, of_one = (
        (min(max(gain, 0.0), most), min(spread, most)) for gain, spread in (best, whole)
    )
    return Gain(*found, count, *of_one, worth)


def side_of_worth(spec: Spec, level: int, t: float, error: float, worth: float) -> Side:
    """Say whether a direction's gain is worth a unit, as far as the error of its t lets one tell.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> [side_of_worth(VAESpec(1), 1, t, 0.05, 0.001) for t in (0.8, 1.06, 1.2)]
        ['below', 'undecided', 'above']
    """
    side = side_of_threshold(t, error)
    if side != "above":
        return side
    least, most = (float(unit_gain(spec, t + sign * SURE * error, level=level)) for sign in (-1, 1))
    if least > worth:
        return "above"
    return "below" if most <= worth else "undecided"
