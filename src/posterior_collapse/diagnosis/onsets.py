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
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, lobpcg
from torch import Tensor

from posterior_collapse import checks
from posterior_collapse.arrays import Array, Float, as_array, refuse_non_finite, same_length
from posterior_collapse.data.samples import read
from posterior_collapse.diagnosis.minima import least_weights
from posterior_collapse.diagnosis.rows import RowLoss, curvature_scale, refuse_jumps
from posterior_collapse.errors import (
    DataError,
    InvalidArgumentError,
    UnboundedObjectiveError,
    count_of,
)
from posterior_collapse.models.modules import keeping_state
from posterior_collapse.records import Record
from posterior_collapse.theory import FewSamplesWarning
from posterior_collapse.theory.noise import few_samples
from posterior_collapse.theory.thresholds import ROUNDING
from posterior_collapse.theory.whitening import white_inputs

MOST_PUSHES = 1024
"""Products with the Hessian that are worth it to know it whole; beyond, the largest ratios only."""
LARGEST = 8
"""Ratios found where the Hessian is too large to be known whole."""
FLAT = 1e-9
"""Relative: a direction with less curvature, or less signal, has none."""
SEED = 0
MOST_COUPLED = 1 << 24
"""Numbers of output that a loss whose rows depend on each other is called with, at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Onset(Record):
    """Where a loss lets the first unit live, and below which beta each mode of the data does.

    Attributes:
        ratios: The beta below which each mode earns a unit, near the onset: (modes,), descending,
            in units of the loss. For a Gaussian `theta_i^2 / eta_dec^2`.
        output: The constant output of least loss, of the output's shape; with a
            condition one for each row. NaN where none is best, of data that are all alike.
        loss: Mean loss per row there.
        notes: Other outputs that are best nearby, and what was left out.
    """

    ratios: Float
    output: Float
    loss: float
    notes: tuple[str, ...] = ()

    derived: ClassVar = ("beta",)

    @property
    def beta(self) -> float:
        """The onset: above it no small step from collapse lowers the loss, below it some do."""
        return float(self.ratios.max(initial=0.0))

    def __repr__(self) -> str:
        # Those of one class of several are 1 but for rounding.
        above = np.count_nonzero(self.ratios > 1 + ROUNDING)
        modes = count_of(len(self.ratios), "mode")
        return (
            f"Onset(beta {self.beta:.6g}; {above} of {modes} worth more than 1; "
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

    It holds for every network, encoder and posterior, if the decoder sees z (and x) alone: the
    collapsed state of `loss + beta KL` is unstable exactly below it. `ratios` count units near the
    onset only.

    Args:
        loss: `loss(output, y)` of a batch in torch: one number for each row, or their mean or
            sum, or what all rows of a batch share but for a factor: a root mean square, a mean over
            what is there. Means over features, weights and constants are part of it: the onset is
            in its units, to be compared with the factor of a KL that is summed over units.
        y: Targets, (rows, ...): an array or tensor, a `Dataset`, a loader, or a pair (x, y). Whole
            numbers stay integers if outputs have another shape; otherwise the loss gets float64.
            NaN is taken if the loss leaves it out.
        x: A condition, (rows, features), if the decoder is given one: then only what the best
            output linear in x (a generalised linear model) leaves unexplained counts; a decoder
            that explains more of y by x has a lower onset, one that uses z differently for
            each x may have a higher.
        output_shape: Shape of one row's output, if it is not that of y: `(classes, positions)` for
            `cross_entropy` of class numbers.

    Raises:
        InvalidArgumentError: A loss that is not smooth, does not depend on the output, couples the
            rows of a batch by more than a factor, or is random.
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
    shape = target.shape[1:]
    if output_shape is not None:
        sides = output_shape if isinstance(output_shape, Sequence) else (output_shape,)
        shape = tuple(checks.whole("output_shape", side, least=1) for side in sides)
    whole = shape != target.shape[1:] and target.dtype.kind != "f"
    target = np.asarray(target, dtype=np.int64 if whole else np.float64)
    inputs, rank = np.ones((len(target), 1)), 0
    if condition is not None:
        inputs, rank = white_inputs(condition)
    with keeping_state(loss):
        rows, generator = RowLoss(loss, target, shape, inputs), torch.Generator().manual_seed(SEED)
        if rows.coupled:
            rows = rows.drawn(max(MOST_COUPLED // rows.m, 2), generator)
        kept = _varying(rows)
        start = _everywhere(rows, rows.start)
        _refuse_idle(rows, start)
        scale = curvature_scale(rows, start, generator)
        if not scale.any():
            refuse_jumps(rows, start, kept, scale)
        weights, settled, minima = least_weights(rows, start, kept, scale, generator)
        signal = rows.scores(weights).var(dim=0, unbiased=False)
        most = signal.max()
        if condition is not None:  # which may explain all but rounding
            most = torch.maximum(most, rows.scores(start).var(dim=0, unbiased=False).max())
        kept &= signal > 1e-20 * most
        refuse_jumps(rows, weights, kept, curvature_scale(rows, weights, generator))
        if not settled:
            raise UnboundedObjectiveError(
                "loss",
                "no constant output at which its mean is least",
                "a loss that is bounded below, and smooth where it is least",
                "Check its sign, and that y lies in its domain.",
            )
        # Of rows that are all alike there is nothing to say.
        found, notes = _ratios(rows, weights, kept, generator) if kept.any() else (np.zeros(0), [])
        value, _ = rows.value(weights)
        output = _shown(rows, weights, kept)
    lost = int((~kept).sum())
    if lost:
        notes = [
            f"{lost:,} of {count_of(len(kept), 'output')} {'was' if lost == 1 else 'were'} left "
            "out, which no row pulls another way",
            *notes,
        ]
    if rows.coupled:
        notes = [
            "the loss weighs rows by what a batch has in common: the onset is that of a batch of "
            f"{count_of(rows.n, 'row')}, which smaller ones come near",
            *notes,
        ]
    few = few_samples("the condition", rank, len(target))
    for text in few:
        warnings.warn(text, FewSamplesWarning, stacklevel=2)
    return Onset(found, output, value, (*minima, *notes, *few))


def _targets(y: Any, x: Any) -> tuple[Array, Array | None]:
    """Return targets as the loss wants them shaped, and the condition in rows."""
    pair = x is None and isinstance(y, tuple) and len(y) == 2
    if pair and all(getattr(part, "ndim", 0) > 1 for part in y):  # of as many features no two rows
        x, y = y
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
    flat = target.reshape(len(target), -1)
    gaps = np.isnan(flat) if flat.dtype.kind == "f" else np.zeros(1, dtype=bool)
    refuse_non_finite("y", flat if gaps.all() or not gaps.any() else np.where(gaps, 0, flat))
    if x is None:
        return target, None
    condition = np.asarray(as_array("x", x), dtype=np.float64)
    if condition.ndim == 1:
        raise DataError(
            "x",
            "one number per row",
            "rows, shape (samples, features)",
            "Pass x.reshape(-1, 1); of class numbers a column for each class, np.eye(10)[labels].",
        )
    condition = condition.reshape(len(condition), -1)
    same_length("x", len(condition), "y", len(target))
    refuse_non_finite("x", condition)
    return target, condition


def _varying(rows: RowLoss) -> Tensor:
    """Return which outputs are worth looking for: not those whose own target never varies.

    Only where outputs are like targets, and the loss takes each with its own.
    """
    every = torch.ones(rows.m, dtype=torch.bool, device=rows.y.device)
    if rows.y.shape[1:] != rows.shape:
        return every
    flat, gaps = rows.targets(), rows.y.reshape(rows.n, -1).isnan()
    there = gaps.byte().argmin(dim=0)[None]

    def alike(values: Tensor) -> Tensor:
        return ((values == values.gather(0, there)) | gaps).all(dim=0)

    # Whether the loss of these is a matter of their own: then all rows pull them alike.
    return ~(alike(flat) & alike(rows.scores(_everywhere(rows, rows.start))))


def _everywhere(rows: RowLoss, output: Tensor) -> Tensor:
    """Return the weights of a constant output, (inputs, outputs)."""
    weights = torch.zeros(rows.inputs.shape[1], rows.m, dtype=torch.float64, device=rows.y.device)
    weights[0] = output
    return weights


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
        shown[0, alike] = rows.targets()[0, alike]
        loss, slope = rows.value(shown)
        best = math.isfinite(loss) and bool((slope[0, alike].abs() <= 1e-12).all())
        if not best:
            shown[0, alike] = math.nan
    outputs = rows.outputs(shown) if rows.inputs.shape[1] > 1 else shown
    found: Float = outputs.reshape(len(outputs), *rows.shape).cpu().numpy()
    return found if rows.inputs.shape[1] > 1 else found[0]


Block = tuple[Any, Float]
"""Outputs that the loss couples with each other, and their mean Hessian."""


def _ratios(
    rows: RowLoss, weights: Tensor, kept: Tensor, generator: torch.Generator
) -> tuple[Float, list[str]]:
    """Return eigenvalues of `F^{-1/2} S F^{-1/2}` of the kept outputs, descending, and notes.

    Raises:
        InvalidArgumentError: Signal in a direction in which the loss has no curvature.
    """
    scores = rows.scores(weights)[:, kept].cpu().numpy()
    scores -= scores.mean(axis=0)
    hessian = _Hessian(rows, weights, kept)
    blocks = _diagonal(hessian, generator) or _blocks(hessian, generator)
    if blocks is None and hessian.m <= MOST_PUSHES // 2:
        blocks = [(np.arange(hessian.m), _symmetric(hessian(np.eye(hessian.m))))]
    if blocks is None:
        return _largest(hessian, scores, generator), [
            f"the Hessian of {hessian.m:,} outputs is not made of small blocks: only the largest "
            f"{LARGEST} ratios were found"
        ]
    white, flat = [], 0
    strongest = float(np.square(scores).mean(axis=0).max(initial=0.0))
    for members, block in blocks:
        part, dropped = _whitened(scores[:, members], block, strongest)
        white.append(part)
        flat += dropped
    white_scores = np.concatenate(white, axis=1)
    # Whichever of the two products is smaller has all that is not zero.
    small = white_scores if len(white_scores) > white_scores.shape[1] else white_scores.T
    found = np.clip(linalg.eigvalsh(small.T @ small / len(scores))[::-1], 0.0, None)
    lost = "1 direction was" if flat == 1 else f"{flat:,} directions were"
    notes = [f"{lost} left out, along which the loss is constant"] if flat else []
    return np.asarray(found, dtype=np.float64), notes


class _Hessian:
    """F, the mean Hessian of the kept outputs, known by its products with vectors."""

    def __init__(self, rows: RowLoss, weights: Tensor, kept: Tensor) -> None:
        self._rows, self._weights, self._kept = rows, weights, kept
        self._ones = torch.ones(rows.n, 1, dtype=torch.float64, device=rows.y.device)
        self.m = int(kept.sum())

    def __call__(self, vectors: Float) -> Float:
        """Return F times the columns of an array, (outputs, any number)."""
        columns = torch.from_numpy(np.array(vectors.T, np.float64)).to(self._kept.device)
        padded = columns.new_zeros(len(columns), 1, self._rows.m)
        padded[:, 0, self._kept] = columns
        found = self._rows.hessian_products(self._weights, self._ones, list(padded))
        return torch.stack([product[0, self._kept] for product in found], dim=1).cpu().numpy()


def _signs(hessian: _Hessian, generator: torch.Generator, number: int) -> Float:
    found = torch.randint(2, (hessian.m, number), generator=generator, device="cpu")
    return (2.0 * found - 1.0).numpy()


def _diagonal(hessian: _Hessian, generator: torch.Generator) -> list[Block] | None:
    """Return the Hessian if every output stands for itself: then no product mixes anything."""
    shape = hessian.m, 3
    sizes = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu").numpy()
    vectors = (1 + sizes) * _signs(hessian, generator, 3)  # signs alone often agree, of few outputs
    found = hessian(vectors) / vectors
    if np.ptp(found, axis=1).max(initial=0.0) > FLAT * np.abs(found).max(initial=0.0):
        return None
    return [(np.array([j]), np.array([[found[j, 0]]])) for j in range(hessian.m)]


def _blocks(hessian: _Hessian, generator: torch.Generator) -> list[Block] | None:
    """Return the Hessian as blocks (of a softmax: one for each position)."""
    members: list[Any] = []
    taken = np.zeros(hessian.m, dtype=bool)
    while not taken.all():
        if len(members) == MOST_PUSHES // 2:
            return None
        unit = np.zeros((hessian.m, 1))
        unit[int(np.argmin(taken))] = 1.0
        column = np.abs(hessian(unit)[:, 0])
        met = (column > FLAT * FLAT * column.max()) | (unit[:, 0] > 0)
        if (met & taken).any():
            return None
        taken |= met
        members.append(np.flatnonzero(met))
    width = max(map(len, members))
    if width > MOST_PUSHES:
        return None
    # One product shows the k-th column of every block at once.
    vectors = np.zeros((hessian.m, width))
    for outputs in members:
        vectors[outputs, np.arange(len(outputs))] = 1.0
    columns = hessian(vectors)
    blocks = [(outputs, _symmetric(columns[outputs, : len(outputs)])) for outputs in members]
    probe = _signs(hessian, generator, 1)
    expected = np.zeros_like(probe)
    for outputs, block in blocks:
        expected[outputs] = block @ probe[outputs]
    if np.abs(expected - hessian(probe)).max() > 1e-6 * np.abs(expected).max():
        return None
    return blocks


def _symmetric(matrix: Float) -> Float:
    found: Float = (matrix + matrix.T) / 2
    return found


def _whitened(scores: Float, hessian: Float, strongest: float) -> tuple[Float, int]:
    """Return scores in units of their curvature, and how many directions have neither."""
    scale = np.sqrt(np.abs(hessian.diagonal()))
    scale = np.where(scale > 0, scale, 1.0)
    values, vectors = linalg.eigh(hessian / scale / scale[:, None])
    along = scores / scale @ vectors
    keep = values > FLAT
    signal = np.square(along).mean(axis=0)
    if values.min() < -1e3 * FLAT:
        raise UnboundedObjectiveError(
            "loss",
            "a mean that curves downwards where its slope is 0",
            "a loss that some constant output makes least",
            "Check its sign.",
        )
    lost = signal > FLAT * max(float(signal.max(initial=0.0)), strongest / float(scale.max()) ** 2)
    if (lost & ~keep).any():
        raise InvalidArgumentError(
            "loss",
            "no curvature in a direction in which the rows pull",
            "a second derivative that is positive at the best constant output",
            "A loss of straight pieces, such as an absolute error, has no onset: smooth it "
            "(torch.nn.functional.huber_loss).",
        )
    return along[:, keep] / np.sqrt(values[keep]), int(np.count_nonzero(~keep))


def _largest(hessian: _Hessian, scores: Float, generator: torch.Generator) -> Float:
    """Return the largest ratios by LOBPCG, from products with S and F alone."""
    signs = _signs(hessian, generator, 8)
    scale = np.abs((signs * hessian(signs)).mean(axis=1))
    scale = 1 / np.sqrt(np.maximum(scale, FLAT * scale.max()))
    scaled = scores * scale
    n, m = scores.shape

    def signal(v: Any) -> Any:
        return scaled.T @ (scaled @ v) / n

    def bent(v: Any) -> Any:
        return scale[:, None] * hessian(scale[:, None] * np.asarray(v).reshape(m, -1))

    shape = (m, m)
    curved = LinearOperator(shape, matvec=lambda v: bent(v)[:, 0], matmat=bent, dtype=np.float64)
    pulled = LinearOperator(shape, matvec=signal, matmat=signal, dtype=np.float64)
    # Directions that the loss is constant along stay out where the start has none of them.
    start = bent(_signs(hessian, generator, LARGEST))
    tol = 1e-6 * float(np.square(scaled).mean(axis=0).max())  # eigenvalues are right to its square
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values, _ = lobpcg(pulled, start, B=curved, largest=True, tol=tol, maxiter=200)[:2]
    return np.sort(np.asarray(values, dtype=np.float64))[::-1]
