"""The curvature of a loss about its best constant output, and scores measured in it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, lobpcg
from torch import Tensor

from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.rows import RowLoss
from posterior_collapse.errors import InvalidArgumentError, UnboundedObjectiveError

__all__ = ["curvature_scale", "ratios", "refuse_jumps"]

MOST_PUSHES = 1024
"""Products with the Hessian that are worth it to know it whole; beyond, the largest ratios only."""
LARGEST = 8
"""Ratios found where the Hessian is too large to be known whole."""
FLAT = 1e-9
"""Relative: a direction with less curvature, or less signal, has none."""
HALVINGS = 30
"""Of the way across a possible jump: a smooth loss leaves 1e-9 of the change."""


@dataclass(frozen=True)
class Block:
    """Outputs that the loss couples with each other, and their mean Hessian."""

    members: Any
    hessian: Float


def ratios(
    rows: RowLoss, weights: Tensor, kept: Tensor, generator: torch.Generator
) -> tuple[Float, list[str]]:
    """Return eigenvalues of `F^{-1/2} S F^{-1/2}`, descending, and notes.

    Args:
        rows: The loss.
        weights: Its best output.
        kept: Which outputs are looked at.
        generator: For directions to probe.

    Raises:
        InvalidArgumentError: Signal in a direction in which the loss has no curvature.
    """
    scores = rows.scores(weights)[:, kept].cpu().numpy()
    scores -= scores.mean(axis=0)
    push = _Push(rows, weights, kept)
    blocks = _diagonal(push, generator) or _blocks(push, generator)
    if blocks is None and push.m <= MOST_PUSHES // 2:
        blocks = [Block(np.arange(push.m), _symmetric(push(np.eye(push.m))))]
    if blocks is None:
        return _largest(push, scores, generator), [
            f"the Hessian of {push.m:,} outputs is not made of small blocks: only the largest "
            f"{LARGEST} ratios were found"
        ]
    white, flat = [], 0
    strongest = float(np.square(scores).mean(axis=0).max(initial=0.0))
    for block in blocks:
        part, dropped = _whitened(scores[:, block.members], block.hessian, strongest)
        white.append(part)
        flat += dropped
    white_scores = np.concatenate(white, axis=1)
    # Whichever of the two products is smaller has all that is not zero.
    small = white_scores if len(white_scores) > white_scores.shape[1] else white_scores.T
    found = np.clip(linalg.eigvalsh(small.T @ small / len(scores))[::-1], 0.0, None)
    lost = "1 direction was" if flat == 1 else f"{flat:,} directions were"
    notes = [f"{lost} left out, along which the loss is constant"] if flat else []
    return np.asarray(found, dtype=np.float64), notes


def curvature_scale(rows: RowLoss, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return roots of the mean curvature of each output, (outputs,); rough where coupled."""
    signs = 2.0 * torch.randint(2, (8, rows.m), generator=generator, device="cpu").to(weights) - 1.0
    ones = torch.ones(rows.n, 1, dtype=torch.float64, device=weights.device)
    bent = torch.cat(rows.bend(weights, ones, [sign[None] for sign in signs]))
    return torch.nan_to_num((signs * bent).mean(dim=0).abs()).sqrt()


class _Push:
    """Products with the mean Hessian of the kept outputs."""

    def __init__(self, rows: RowLoss, weights: Tensor, kept: Tensor) -> None:
        self._rows, self._weights, self._kept = rows, weights, kept
        self._ones = torch.ones(rows.n, 1, dtype=torch.float64, device=rows.y.device)
        self.m = int(kept.sum())

    def __call__(self, vectors: Float) -> Float:
        """Return F times the columns of an array, (outputs, any number)."""
        pushes = []
        for vector in vectors.T:
            push = torch.zeros(1, self._rows.m, dtype=torch.float64, device=self._kept.device)
            push[0, self._kept] = torch.from_numpy(np.ascontiguousarray(vector)).to(push)
            pushes.append(push)
        found = self._rows.bend(self._weights, self._ones, pushes)
        return torch.stack([turned[0, self._kept] for turned in found], dim=1).cpu().numpy()


def _signs(push: _Push, generator: torch.Generator, number: int) -> Float:
    found = torch.randint(2, (push.m, number), generator=generator, device="cpu")
    return (2.0 * found - 1.0).numpy()


def _diagonal(push: _Push, generator: torch.Generator) -> list[Block] | None:
    """Return the Hessian if every output stands for itself: then no push mixes anything."""
    sizes = torch.rand((push.m, 3), generator=generator, dtype=torch.float64, device="cpu").numpy()
    pushes = (1 + sizes) * _signs(push, generator, 3)  # signs alone often agree, of few outputs
    found = push(pushes) / pushes
    if np.ptp(found, axis=1).max(initial=0.0) > FLAT * np.abs(found).max(initial=0.0):
        return None
    return [Block(np.array([j]), np.array([[found[j, 0]]])) for j in range(push.m)]


def _blocks(push: _Push, generator: torch.Generator) -> list[Block] | None:
    """Return the Hessian as blocks (of a softmax: one for each position)."""
    members: list[Any] = []
    taken = np.zeros(push.m, dtype=bool)
    while not taken.all():
        if len(members) == MOST_PUSHES // 2:
            return None
        unit = np.zeros((push.m, 1))
        unit[int(np.argmin(taken))] = 1.0
        column = np.abs(push(unit)[:, 0])
        met = (column > FLAT * FLAT * column.max()) | (unit[:, 0] > 0)
        if (met & taken).any():
            return None
        taken |= met
        members.append(np.flatnonzero(met))
    width = max(map(len, members))
    if width > MOST_PUSHES:
        return None
    # One push goes through the k-th output of every block at once.
    pushes = np.zeros((push.m, width))
    for block in members:
        pushes[block, np.arange(len(block))] = 1.0
    columns = push(pushes)
    blocks = [Block(b, _symmetric(columns[b, : len(b)])) for b in members]
    probe = _signs(push, generator, 1)
    expected = np.zeros_like(probe)
    for block in blocks:
        expected[block.members] = block.hessian @ probe[block.members]
    if np.abs(expected - push(probe)).max() > 1e-6 * np.abs(expected).max():
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


def _largest(push: _Push, scores: Float, generator: torch.Generator) -> Float:
    """Return the largest ratios by LOBPCG, from products with S and F alone."""
    signs = _signs(push, generator, 8)
    scale = np.abs((signs * push(signs)).mean(axis=1))
    scale = 1 / np.sqrt(np.maximum(scale, FLAT * scale.max()))
    scaled = scores * scale
    n, m = scores.shape

    def signal(v: Any) -> Any:
        return scaled.T @ (scaled @ v) / n

    def bent(v: Any) -> Any:
        return scale[:, None] * push(scale[:, None] * np.asarray(v).reshape(m, -1))

    shape = (m, m)
    curved = LinearOperator(shape, matvec=lambda v: bent(v)[:, 0], matmat=bent, dtype=np.float64)
    pulled = LinearOperator(shape, matvec=signal, matmat=signal, dtype=np.float64)
    # Directions that the loss is constant along stay out where the start has none of them.
    start = bent(_signs(push, generator, LARGEST))
    tol = 1e-6 * float(np.square(scaled).mean(axis=0).max())  # eigenvalues are right to its square
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values, _ = lobpcg(pulled, start, B=curved, largest=True, tol=tol, maxiter=200)[:2]
    return np.sort(np.asarray(values, dtype=np.float64))[::-1]


def refuse_jumps(rows: RowLoss, weights: Tensor, kept: Tensor, scale: Tensor) -> None:
    """Refuse a loss whose gradient jumps near its best output, where a Hessian tells half of it.

    Raises:
        InvalidArgumentError: It does.
    """
    some = rows.some(256)
    here = rows.inputs[some] @ weights
    pull = rows.pull(here, some)
    noise = pull.std(dim=0, unbiased=False)
    # As far as the rows' residuals reach; where nothing curves, as far as the rows differ.
    straight = torch.zeros_like(noise)
    if rows.y.shape[1:] == rows.shape:
        straight = rows.y.reshape(rows.n, -1).double().std(dim=0)
    width = torch.where(scale > 0, noise / scale.square(), straight)
    width = torch.where(kept & width.isfinite(), width, torch.zeros_like(width))
    for share in (0.5, 0.05, 0.005):  # the widest that stays in the loss's domain
        low, high = here - share * width, here + share * width
        change = (rows.pull(high, some) - rows.pull(low, some)).abs() / noise.clamp(min=1e-300)
        if bool(change.isfinite().all()):
            break
    else:
        return
    for flat in change.flatten().topk(min(5, change.numel())).indices.tolist():
        row, output = divmod(flat, rows.m)
        pair = some[[row, row]]
        left, right = low[[row, row]], high[[row, row]]
        ends = [float(rows.pull(end, pair)[0, output]) for end in (left, right)]
        whole = abs(ends[1] - ends[0])
        for _ in range(HALVINGS):
            middle = (left + right) / 2
            there = float(rows.pull(middle, pair)[0, output])
            if abs(there - ends[0]) > abs(ends[1] - there):
                right, ends[1] = middle, there
            else:
                left, ends[0] = middle, there
        if abs(ends[1] - ends[0]) > 1e-3 * max(whole, float(noise[output])) > 0:
            at = f"near {float(here[row, output]):.4g} of output {output + 1}"
            raise InvalidArgumentError(
                "loss",
                f"a gradient that jumps at the best constant output, {at}",
                "a smooth loss: a kink, as of an absolute error or where a clamp begins, has no "
                "curvature to measure in",
                "Smooth it, e.g. torch.nn.functional.huber_loss or smooth_l1_loss; or leave such "
                "outputs out, e.g. pixels always so dark that a likelihood's parameter is clamped.",
            )
