"""Parameters of a loss's own that train with the model, such as the std of a decoder."""

from __future__ import annotations

import numpy as np

from posterior_collapse.adapters.probing import ASKED, Probe
from posterior_collapse.adapters.reconstruction import TOLERANCE, ReconstructionReading, plain
from posterior_collapse.arrays import Float
from posterior_collapse.errors import InvalidArgumentError

WIDER = 10.0
"""Times the errors: wide enough for a pull in single precision."""


def with_own(probe: Probe, found: ReconstructionReading) -> ReconstructionReading:
    """Return the reading with what parameters of the loss's own make of it.

    With a std s as such a parameter a loss `c (S / (2 s^2) + n log s)` of n errors, whose squares
    sum to S, pulls at s like `S - n s^2`, however s is written. At the S where it does not pull, S
    times the error's weight is c n / 2. Of what only adds to the loss, as weight decay, nothing is
    said.
    """
    o, y = probe.made_up()
    squared = found.kind == "squared" and found.weights is None
    other = y + WIDER * (o - y) if squared and not found.clipped else o / 2
    try:
        here, moved, away = (
            probe.own_slopes(*at) for at in ((o, y), (other, y), (o, y, *ASKED[0]))
        )
    except InvalidArgumentError:  # of outputs that it does not take
        return found
    of_error = [pair for pair in zip(here, moved, strict=False) if _differ(*pair)]
    of_any = [
        a for a, *ends in zip(here, moved, away, strict=False) if any(_differ(a, b) for b in ends)
    ]
    if found.kind.startswith("negative-binomial") and of_error:
        return found._replace(dispersion=None, own=len(of_any) - len(of_error))
    if squared and len(of_error) == 1 and of_error[0][0].size == 1:
        pull, far = (one.item() for one in of_error[0])
        sums = [float((part - y).square().sum()) / len(y) for part in (o, other)]
        still = sums[0] - pull * (sums[1] - sums[0]) / (far - pull)
        if still > 0:
            fitted = plain(2 * found.weight * still / y[0].numel())
            return found._replace(fitted=fitted, own=len(of_any) - 1)
    return found._replace(own=len(of_any))


def _differ(one: Float, other: Float) -> bool:
    scale = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
    return bool(np.abs(one - other).max(initial=0.0) > TOLERANCE * scale)
