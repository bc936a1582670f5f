"""Synthetic pairs whose condition says much, little or nothing about the target."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from posterior_collapse import checks
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.errors import InvalidArgumentError, nearest

__all__ = ["KINDS", "pairs"]

KINDS = ("identical", "1/2", "1/4", "1/8", "random", "quadratic")
"""The rows of the paper's experiment; any other correlation works too."""


def pairs(kind: str | float = "identical", n: int = 1000, dim: int = 128, seed: int = 4) -> Dataset:
    """Draw pairs (condition x, target y) with y ~ N(0, I), of known correlation.

    One seed gives the same y for every kind. `x = rho y + sqrt(1 - rho^2) noise` has unit
    variance and correlation rho with y, unit by unit: 1 is ``"identical"``, 0 ``"random"``.
    ``"quadratic"`` is `x = y^2 - 1`: uncorrelated with y, and yet not independent of it.

    Source: the correlation experiment of Dang et al. 2024 (arXiv:2306.05023).

    Args:
        kind: ``"identical"``, ``"random"``, ``"quadratic"`` or a correlation in [-1, 1], as a
            number or as text such as ``"1/8"``.
        n: Number of samples.
        dim: Features of x and of y.
        seed: Seed of the one generator that y and then the noise are drawn from.

    Raises:
        InvalidArgumentError: An unknown kind, a correlation out of range, no samples.

    Example:
        >>> pairs("1/8")
        <Dataset 'pairs:1/8': x 1,000 x 128 float64, y 1,000 x 128 float64, drawn with seed 4>
    """
    n, dim = checks.count("n", n), checks.count("dim", dim)
    generator = np.random.default_rng(seed)
    y = generator.standard_normal((n, dim))
    if kind == "quadratic":
        x = y**2 - 1
    else:
        rho = _correlation(kind)
        x = rho * y + math.sqrt(1 - rho**2) * generator.standard_normal((n, dim))
    return Dataset(f"pairs:{kind}", x, y, steps=(f"drawn with seed {seed}",))


def _correlation(kind: str | float) -> float:
    named = {"identical": 1.0, "random": 0.0}
    try:
        rho = named[kind] if kind in named else float(Fraction(kind))
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        rho = math.nan
    if not -1 <= rho <= 1:
        raise InvalidArgumentError(
            "pairs",
            repr(kind),
            "'identical', 'random', 'quadratic' or a correlation from -1 to 1",
            f"Pass e.g. '1/8'.{nearest(str(kind), KINDS)}",
        )
    return rho
