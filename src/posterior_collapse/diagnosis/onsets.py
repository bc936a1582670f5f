"""`onset`: the beta above which total collapse is a local optimum, for any smooth loss and network.

Where all units have collapsed the decoder says the same of every row, at best the constant output
that the loss likes best. From there a first unit pays exactly if what the rows disagree about, the
scores `s = -dl/doutput`, is worth more than beta in the loss's own curvature `F = E[d2l/doutput2]`.
The eigenvalues of `F^{-1/2} Cov(s) F^{-1/2}` say what each mode is worth; the largest is the onset.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from posterior_collapse import checks
from posterior_collapse.arrays import Array, Float, as_array, refuse_non_finite, same_length
from posterior_collapse.data.samples import read
from posterior_collapse.diagnosis.curvature import curvature_scale, ratios, refuse_jumps
from posterior_collapse.diagnosis.rows import RowLoss
from posterior_collapse.errors import DataError, InvalidArgumentError, UnboundedObjectiveError
from posterior_collapse.models.modules import keeping_buffers
from posterior_collapse.records import Record
from posterior_collapse.theory import FewSamplesWarning

__all__ = ["Onset", "onset"]

SETTLED = 1e-5
"""Of the scores' std: a mean gradient below it is at the optimum. Losses in float32 reach it."""
POLISH = 60
"""Newton steps at the end. What drifts to infinity, as a logit of a class that never occurs, moves
by about 1 with each."""
SEED = 0


@dataclass(frozen=True, eq=False, repr=False)
class Onset(Record):
    """Where a loss lets the first unit live, and what each mode of the data is worth.

    Attributes:
        ratios: What each mode is worth, (modes,), descending, in units of the loss: the beta below
            which it earns a unit near the onset. For a Gaussian `theta_i^2 / eta_dec^2`.
        output: The constant output that the loss likes best, of the output's shape; with a
            condition one for each row. NaN where none is best, of data that are all alike.
        loss: Mean loss per row there.
        notes: What was left out.
    """

    ratios: Float
    output: Float
    loss: float
    notes: tuple[str, ...] = ()

    derived: ClassVar = ("beta",)

    @property
    def beta(self) -> float:
        """The onset: above it no unit gains by a small step from collapse, below it some do."""
        return float(self.ratios.max(initial=0.0))

    def __repr__(self) -> str:
        above = np.count_nonzero(self.ratios > 1)
        modes = "mode" if len(self.ratios) == 1 else "modes"
        return (
            f"Onset(beta {self.beta:.6g}; {above} of {len(self.ratios)} {modes} worth more than 1; "
            f"loss {self.loss:.6g} per row)"
        )


def onset(
    loss: Callable[[Any, Any], Any],
    y: Any,
    x: Any = None,
    *,
    output_shape: Sequence[int] | int | None = None,
) -> Onset:
    """Return the beta above which total collapse of a VAE is a local optimum, for any smooth loss.

    It holds for every network, encoder and posterior: of `loss + beta KL` the collapsed state is
    unstable exactly below it. `ratios` count units near the onset only.

    Args:
        loss: `loss(output, y)` of a batch in torch, of one number for each row, or of their mean or
            sum. Means over features, weights and constants are part of it: the onset is in its
            units, to be compared with the factor of a KL that is summed over units.
        y: Targets, (rows, ...): an array or tensor, a `Dataset`, or a loader. Whole numbers stay
            what they are where outputs have another shape; else the loss gets float64.
        x: A condition, (rows, features), if the decoder is given one: then units are asked for what
            the best output that is linear in x (a generalised linear model) leaves unexplained.
        output_shape: Shape of one row's output, if it is not that of y: `(classes, positions)` for
            `cross_entropy` of class numbers.

    Raises:
        InvalidArgumentError: A loss that is not smooth, does not depend on the output, couples the
            rows of a batch, or is random.
        UnboundedObjectiveError: No constant output is best.
        DataError: `y` or `x` cannot be used.

    Source:
        Derived here, by perturbing the collapsed state to second order: with `g = g0 + a(z)` and
        the best posterior the loss changes by `1/2 E a'(F - S / beta) a`. Neighbours: Lucas et al.
        (2019) for linear Gaussian models, Lindsay (1983) for the gradient function of mixtures.

    Example:
        >>> from torch.nn.functional import binary_cross_entropy_with_logits
        >>> rng = np.random.default_rng(0)
        >>> y = (rng.standard_normal((1000, 1)) + rng.standard_normal((1000, 8)) > 0) * 1.0
        >>> def loss(logits, y):
        ...     return binary_cross_entropy_with_logits(logits, y, reduction="none").sum(1)
        >>> found = onset(loss, y)
        >>> bool(abs(found.beta - np.linalg.eigvalsh(np.corrcoef(y.T)).max()) < 1e-9)
        True
    """
    if not callable(loss):
        raise InvalidArgumentError(
            "loss", type(loss).__name__, "a function loss(output, y)", "Pass e.g. a torch function."
        )
    target, condition = _targets(y, x)
    shape = target.shape[1:] if output_shape is None else _shape(output_shape)
    if shape == target.shape[1:]:
        target = np.asarray(target, dtype=np.float64)
    inputs, rank = _inputs(condition, len(target))
    with keeping_buffers(loss):
        rows = RowLoss(loss, target, shape, inputs)
        kept = _varying(rows)
        generator = torch.Generator().manual_seed(SEED)
        start = _everywhere(rows, rows.start)
        _refuse_idle(rows, start)
        scale = curvature_scale(rows, start, generator)
        if not scale.any():
            refuse_jumps(rows, start, kept, scale)
        weights, settled = _best(rows, start, kept, scale)
        signal = rows.scores(weights).var(dim=0, unbiased=False)
        kept &= signal > 1e-20 * signal.max()
        refuse_jumps(rows, weights, kept, curvature_scale(rows, weights, generator))
        if not settled:
            raise UnboundedObjectiveError(
                "loss",
                "no constant output at which its mean is least",
                "a loss that is bounded below, and smooth where it is least",
                "Check its sign, and that y lies in its domain.",
            )
        # Of rows that are all alike there is nothing to say.
        found, notes = ratios(rows, weights, kept, generator) if kept.any() else (np.zeros(0), [])
        value, _ = rows.value(weights)
        output = _shown(rows, weights, kept)
    return Onset(found, output, value, (*_left_out(kept), *notes, *_few(rank, len(target))))


def _targets(y: Any, x: Any) -> tuple[Array, Array | None]:
    """Return targets as the loss wants them shaped, and the condition in rows."""
    if isinstance(y, (np.ndarray, list, tuple)) or hasattr(y, "detach"):
        target = as_array("y", y)
    else:
        found = read(y, conditional=None if x is None else False)
        samples = found.collected()
        target = samples.x if samples.y is None else samples.y
        if samples.y is not None and x is None:
            x = samples.x
    target = np.asarray(target)
    if target.ndim == 0 or len(target) < 2:
        raise DataError(
            "y", f"an array of shape {target.shape}", "at least two rows", "Pass all of your data."
        )
    refuse_non_finite("y", target.reshape(len(target), -1))
    if x is None:
        return target, None
    condition = np.asarray(as_array("x", x), dtype=np.float64)
    condition = condition.reshape(len(condition), -1)
    same_length("x", len(condition), "y", len(target))
    refuse_non_finite("x", condition)
    return target, condition


def _shape(output_shape: Sequence[int] | int) -> tuple[int, ...]:
    sides = output_shape if isinstance(output_shape, Sequence) else (output_shape,)
    return tuple(checks.whole("output_shape", side, least=1) for side in sides)


def _inputs(condition: Array | None, n: int) -> tuple[Float, int]:
    """Return a constant and the condition's independent directions, white; and how many."""
    ones = np.ones((n, 1))
    if condition is None:
        return ones, 0
    centred = condition - condition.mean(axis=0)
    scale = centred.std(axis=0)
    left, stds, _ = np.linalg.svd(centred / np.where(scale > 0, scale, 1), full_matrices=False)
    left = left[:, stds > stds.max(initial=0.0) * 1e-10] * math.sqrt(n)
    return np.concatenate([ones, left], axis=1), left.shape[1]


def _varying(rows: RowLoss) -> Tensor:
    """Return which outputs are worth looking for: not those whose own target never varies.

    Only where outputs are like targets, and the loss takes each with its own.
    """
    every = torch.ones(rows.m, dtype=torch.bool, device=rows.y.device)
    if rows.y.shape[1:] != rows.shape:
        return every
    flat = rows.y.reshape(rows.n, -1)
    alike = (flat == flat[0]).all(dim=0)
    # Whether the loss of these is a matter of their own: then all rows pull them alike.
    pull = rows.scores(_everywhere(rows, rows.start))
    return ~(alike & (pull == pull[0]).all(dim=0))


def _everywhere(rows: RowLoss, output: Tensor) -> Tensor:
    """Return the weights of a constant output, (inputs, outputs)."""
    weights = torch.zeros(rows.inputs.shape[1], rows.m, dtype=torch.float64, device=rows.y.device)
    weights[0] = output
    return weights


def _best(rows: RowLoss, start: Tensor, kept: Tensor, scale: Tensor) -> tuple[Tensor, bool]:
    """Return the weights of the least mean loss, and whether its gradient vanishes there."""
    if not kept.any():
        return start, True
    inputs, scale = rows.inputs.shape[1], scale[kept]
    # In units of the curvature all outputs are alike.
    scale = torch.where(scale > 0, scale.clamp(min=1e-4 * float(scale.max())), 1.0)

    def weights_at(u: Any) -> Tensor:
        weights = start.clone()
        part = torch.from_numpy(np.asarray(u).reshape(inputs, -1)).to(start)
        weights[:, kept] = start[:, kept] + part / scale
        return weights

    def value(u: Any) -> tuple[float, Float]:
        loss, slope = rows.value(weights_at(u))
        return loss, (slope[:, kept] / scale).cpu().numpy().ravel()

    def bend(u: Any, v: Any) -> Float:
        push = torch.zeros_like(start)
        push[:, kept] = torch.from_numpy(np.asarray(v).reshape(inputs, -1)).to(start) / scale
        (found,) = rows.bend(weights_at(u), rows.inputs, [push])
        return (found[:, kept] / scale).cpu().numpy().ravel()

    u = np.zeros(inputs * int(kept.sum()))

    def pulls(u: Any) -> float:
        """Root mean square of what single rows pull with, that a mean gradient is set against."""
        return float((rows.scores(weights_at(u))[:, kept] / scale).square().mean().sqrt())

    noise = pulls(u)
    if noise > 0:
        # A trust region takes a step out of the loss's domain for what it is: too long.
        found = minimize(
            value, u, jac=True, hessp=bend, method="trust-ncg",
            options={"gtol": SETTLED * noise, "maxiter": 200, "max_trust_radius": 1e6},
        )  # fmt: skip
        u = _polished(np.asarray(found.x), value, bend, 1e-12 * noise)
    loss, slope = value(u)
    settled = math.isfinite(loss) and float(np.abs(slope).max()) <= SETTLED * max(pulls(u), noise)
    return weights_at(u), settled


def _polished(u: Float, value: Any, bend: Any, rounding: float) -> Float:
    """Follow Newton's steps for as long as they make the gradient smaller."""
    _, slope = value(u)
    shape = (u.size, u.size)
    for _ in range(POLISH):
        if np.abs(slope).max() <= rounding:
            break
        operator = LinearOperator(shape, matvec=partial(bend, u), dtype=np.float64)
        with np.errstate(all="ignore"):  # what does not curve gives no step, and is refused below
            step, _ = cg(operator, slope, rtol=1e-6, maxiter=500)
        loss, after = value(u - step)
        if not math.isfinite(loss) or not np.linalg.norm(after) < 0.9 * np.linalg.norm(slope):
            break
        u, slope = u - step, after
    return u


def _refuse_idle(rows: RowLoss, start: Tensor) -> None:
    """Refuse a loss that the output does not move."""
    if not any(bool(rows.scores(start + shift).any()) for shift in (0.0, 0.01)):
        raise InvalidArgumentError(
            "loss",
            "a loss that does not depend on the output",
            "a reconstruction loss(output, y)",
            "Check the order of its arguments, and that nothing detaches the output.",
        )


def _shown(rows: RowLoss, weights: Tensor, kept: Tensor) -> Float:
    """Return the best output; of data that are all alike the data, where they are best."""
    shown = weights.clone()
    if rows.y.shape[1:] == rows.shape and not bool(kept.all()):
        alike = ~kept
        shown[0, alike] = rows.y.reshape(rows.n, -1)[0, alike]
        loss, slope = rows.value(shown)
        best = math.isfinite(loss) and bool((slope[0, alike].abs() <= 1e-12).all())
        if not best:
            shown[0, alike] = math.nan
    outputs = rows.outputs(shown) if rows.inputs.shape[1] > 1 else shown
    found: Float = outputs.reshape(len(outputs), *rows.shape).cpu().numpy()
    return found if rows.inputs.shape[1] > 1 else found[0]


def _left_out(kept: Tensor) -> list[str]:
    lost = int((~kept).sum())
    if not lost:
        return []
    return [f"{lost:,} of {len(kept):,} outputs were left out, which no row pulls another way"]


def _few(rank: int, n: int) -> list[str]:
    if not 0 < n < 10 * rank:
        return []
    text = (
        f"the condition has {rank} independent features for {n} samples (fewer than 10 each): what "
        "it seems to explain of y may be an artefact"
    )
    warnings.warn(text, FewSamplesWarning, stacklevel=3)
    return [text]
