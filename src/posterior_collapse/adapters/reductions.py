"""How the terms of a loss are reduced: over features, latents and the batch, by sum or mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from posterior_collapse.adapters.kl import KLReading, read_kl
from posterior_collapse.adapters.probing import Probe, Sizes
from posterior_collapse.adapters.reconstruction import ReconstructionReading, read_reconstruction
from posterior_collapse.adapters.terms import Terms
from posterior_collapse.errors import PosteriorCollapseError

REDUCTIONS = ("features", "latents", "reconstruction_batch", "kl_batch")
"""Over what each term may be summed or averaged."""


def reductions(found: Terms) -> tuple[dict[str, str | None], int]:
    """Return how each term is reduced, from how its weight grows with each size.

    And how many features a mean of the error is over: perhaps over some sides of a sample only.
    """
    reconstruction, kl, sizes, probe = found
    if probe is None:
        return dict.fromkeys(REDUCTIONS), 1

    def read(term: Callable[[Probe], Any], at: Sizes) -> Any:
        """Return a term at other sizes; None if the loss does not take them."""
        try:
            return term(replace(probe, sizes=at))
        except PosteriorCollapseError:
            return None

    # With one sample and one feature more, a loss that folds its input into rows of known length
    # fails; more samples could make up for the surplus.
    one = sizes._replace(batch=1)
    shape, classes = sizes.features, reconstruction.axis
    # Of a categorical it is positions that are summed or averaged over, not classes.
    sides = [i for i in range(len(shape)) if classes is None or i != classes % len(shape)]
    over: list[str | None] = []
    here = read(read_reconstruction, one) if reconstruction.apart and sides else None
    for i in sides:
        wider = one._replace(features=(*shape[:i], shape[i] + 1, *shape[i + 1 :]))
        there = None if here is None else read(read_reconstruction, wider)
        over.append(_reduction(here, there, 1 + 1 / shape[i]))
    # Sides of which a loss takes no other size, as colours, are taken for what the last is.
    features = over[-1] if over else None
    means = [shape[i] for i, way in zip(sides, over, strict=True) if (way or features) == "mean"]
    features = "mean" if features and means else features
    longer, more = one._replace(latents=sizes.latents + 1), sizes._replace(batch=2 * sizes.batch)
    ratio = 1 + 1 / sizes.latents
    # Weights are those of sums over features and latents, and of means over the batch.
    found_by = {
        "features": features,
        "latents": _reduction(read(read_kl, one), read(read_kl, longer), ratio),
        "reconstruction_batch": _reduction(
            reconstruction, read(read_reconstruction, more), 2.0, of_sum=1
        ),
        "kl_batch": _reduction(kl, read(read_kl, more), 2.0, of_sum=1),
    }
    return found_by, math.prod(means) if features else 1


def _reduction(
    here: ReconstructionReading | KLReading | None,
    there: ReconstructionReading | KLReading | None,
    ratio: float,
    of_sum: int = 0,
) -> str | None:
    """Return the reduction whose weight grows like ratio^of_sum (sum) or by one power less.

    None if it grows otherwise, or the loss takes no other size.
    """
    if here is None or there is None or there.kind != here.kind or here.weight * there.weight <= 0:
        return None
    power = math.log(there.weight / here.weight) / math.log(ratio)
    if abs(power - round(power)) > 0.05:
        return None
    return {of_sum: "sum", of_sum - 1: "mean"}.get(round(power))
