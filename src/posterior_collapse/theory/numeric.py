"""Numerical minimisation of the exact objective from random starts, with exact gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.moments import Moments
from posterior_collapse.moments.arrays import Float
from posterior_collapse.specs import Spec
from posterior_collapse.theory.objective import ExactObjective
from posterior_collapse.theory.spectrum import as_moments

__all__ = ["Minimum", "minimise"]

LOG_BOUND = 150.0
"""Of log stds: beyond the widest that a spec may ask for, and far from overflow."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """Best of several numerical minimisations.

    Attributes:
        loss: Lowest loss found, nats per sample.
        losses: Loss of every restart.
        parameters: The parameters of the lowest, named as in `Forecast.parameters`.
        singular_values: Per level, those of W_l S_{l-1}^{1/2} and of U_l, descending.
    """

    loss: float
    losses: tuple[float, ...]
    parameters: Mapping[str, Float]
    singular_values: list[tuple[Float, Float]]


def minimise(
    data: Moments | Any,
    spec: Spec,
    *,
    restarts: int = 8,
    generator: np.random.Generator | None = None,
    after_restart: Callable[[], None] = lambda: None,
) -> Minimum:
    """Minimise the exact objective by L-BFGS from random starts.

    For cases without a closed form, and to check those with one. Nothing of the theory is used.

    Args:
        data: `Moments`, or an array for an autoencoder.
        spec: The hyperparameters.
        restarts: Number of random starts.
        generator: Source of the starts; None seeds one with 0.
        after_restart: Called after each restart, for progress.

    Raises:
        InvalidArgumentError: No restart, or `spec` is not a spec.
        DataError: The data cannot be used.

    Example:
        >>> from posterior_collapse.specs import HVAESpec
        >>> m = Moments.from_matrices(np.diag([4.0, 1.0]))
        >>> spec = HVAESpec((2, 1), sigma_1=(0.3, 0.7), sigma_2=0.5)  # no closed form
        >>> len(minimise(m, spec, restarts=2).losses)
        2
    """
    if restarts < 1:
        raise InvalidArgumentError("restarts", restarts, "at least 1", "Pass restarts=8.")
    moments = as_moments(data, spec)
    generator = generator or np.random.default_rng(0)
    objective = ExactObjective(moments, spec)
    layout = _Layout(moments, spec)
    runs = []
    for _ in range(restarts):
        runs.append(_descend(objective, layout, layout.start(generator)))
        after_restart()
    best = min(runs, key=lambda run: run[0])
    parameters = layout.unpack(best[1])
    return Minimum(
        best[0],
        tuple(run[0] for run in runs),
        parameters,
        objective.singular_values(parameters),
    )


def _descend(objective: ExactObjective, layout: _Layout, start: Float) -> tuple[float, Float]:
    def target(flat: Float) -> tuple[float, Float]:
        parameters = layout.unpack(flat)
        loss, gradient = objective.loss_and_gradient(parameters)
        return loss, layout.pack(gradient, parameters)

    from scipy import optimize  # slow to import, and only needed here

    options: Any = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 0.0, "gtol": 1e-11, "maxcor": 30}
    # A second call forgets the curvature of the way there and gains the last digits.
    for _ in range(2):
        result = optimize.minimize(target, start, jac=True, method="L-BFGS-B", options=options)
        start = result.x
    return float(result.fun), np.asarray(result.x)


class _Layout:
    """Named parameters to and from one flat vector; stds enter as logarithms."""

    def __init__(self, moments: Moments, spec: Spec) -> None:
        dims, (d_x, d_y) = spec.dims, (len(moments.xx), len(moments.yy))
        self.shapes: dict[str, tuple[int, ...]] = {"W1": (dims[0], d_x), "U1": (d_y, dims[0])}
        if spec.model == "cvae":
            self.shapes |= {"W2": (dims[0], d_y), "U2": (d_y, d_x)}
        for k in range(1, len(dims)):
            self.shapes |= {
                f"W{k + 1}": (dims[k], dims[k - 1]),
                f"U{k + 1}": (dims[k - 1], dims[k]),
            }
        self.fixed: dict[str, Float] = {}
        self.logs: dict[str, int] = {}
        for k, (sigma, dim) in enumerate(zip(spec.sigma_levels, dims, strict=True)):
            name = f"sigma_{k + 1}"
            if isinstance(sigma, str):
                self.logs[name] = dim
                self.shapes[name] = (1,) if sigma == "shared" else (dim,)
            else:
                self.fixed[name] = np.asarray(sigma) * np.ones(dim)
        self.learns_eta = spec.eta_levels[0] == "learned"
        if self.learns_eta:
            self.shapes["eta_dec"] = ()
        self.scale = np.sqrt(moments.total_variance / d_y)

    def start(self, generator: np.random.Generator) -> Float:
        """Return a random start: weights N(0, 0.3), stds around the data's scale."""
        parts = []
        for name, shape in self.shapes.items():
            part = generator.normal(0.0, 0.3, shape)
            parts.append(np.ravel(part + np.log(self.scale) if name == "eta_dec" else part))
        return np.concatenate(parts)

    def unpack(self, flat: Float) -> dict[str, Float]:
        """Return parameters by name."""
        found, at = dict(self.fixed), 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            part = flat[at : at + size].reshape(shape)
            at += size
            if name in self.logs or name == "eta_dec":
                # A line search may try any number; beyond the bound its square would overflow.
                part = np.exp(np.clip(part, -LOG_BOUND, LOG_BOUND))
            found[name] = part * np.ones(self.logs[name]) if name in self.logs else part
        return found

    def pack(self, gradient: Mapping[str, Float], parameters: Mapping[str, Float]) -> Float:
        """Return the flat gradient, by the logarithm for stds."""
        parts = []
        for name, shape in self.shapes.items():
            part = np.asarray(gradient[name])
            if name in self.logs or name == "eta_dec":
                part = part * parameters[name]
                part = part.sum(keepdims=True) if shape == (1,) else part
            parts.append(np.ravel(part))
        return np.concatenate(parts)
