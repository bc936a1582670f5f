"""A reconstruction loss as the sum of its rows': values, gradients, curvature, and its kinks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior_collapse.arrays import Array, refuse_non_finite
from posterior_collapse.errors import InvalidArgumentError, first_line
from posterior_collapse.models.modules import tensor_behind

PIECE = 1 << 19
"""Numbers of output that a loss is called with at once."""
TINY = 1e-16
"""Stands for a mean of 0, where links end."""
SAME = 1e-6
"""Relative: a loss may compute in float32."""
HALVINGS = 30
"""Of the way across a possible jump: a smooth loss leaves 1e-9 of the change."""


class RowLoss:
    """A loss `loss(output, y)`, looked at around outputs that are linear in a few inputs.

    Args:
        loss: Maps a batch of outputs and of targets to one number per row, or to their mean or sum;
            or to one number by which each row pulls as it would alone, but for a factor of the
            batch's, as the root of a mean does, or a mean over what is there.
        y: Targets, (rows, ...); NaN only if the loss leaves them out.
        shape: Of one row's output.
        inputs: What outputs are linear in, (rows, inputs); a constant 1 among them.

    Attributes:
        start: An output that the loss is finite at, (outputs,).
        coupled: Whether the rows of a batch have such a factor: then all are called at once.
    """

    def __init__(
        self, loss: Callable[..., Any], y: Array, shape: tuple[int, ...], inputs: Array
    ) -> None:
        self._loss, self.shape = loss, shape
        device = device_of(loss)
        self.y = torch.as_tensor(np.require(y, requirements=["C", "W"]), device=device)
        self.inputs = torch.as_tensor(inputs, dtype=torch.float64, device=device)
        self.n, self.m = len(y), math.prod(shape)
        self._reduction, self.coupled = "row", False
        self.start = self._found()
        self._reduction = self._reduced()

    def targets(self) -> Tensor:
        """Return the targets flat, (rows, features); for each that is missing the median."""
        flat = self.y.reshape(self.n, -1).double()
        gaps = flat.isnan()
        if not gaps.any():
            return flat
        return torch.where(gaps, torch.nan_to_num(flat.nanmedian(dim=0).values), flat)

    def outputs(self, weights: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the outputs of some rows, (rows, outputs), for weights (inputs, outputs)."""
        return self.inputs[rows] @ weights

    def total(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the sum of the loss over the rows of a batch, whatever the loss makes of them."""
        # Copies, as a loss may write into what it is given.
        value = self._loss(output.reshape(len(output), *self.shape).clone(), y.clone())
        if not isinstance(value, Tensor):
            raise InvalidArgumentError(
                "loss",
                f"a {type(value).__name__} from it",
                "a tensor that autograd can follow",
                "Write it with torch, without .item(), .detach() or numpy.",
            )
        if value.numel() == 1 and self._reduction != "row":
            return value.sum() * (len(output) if self._reduction == "mean" else 1)
        if value.numel() not in (1, len(output)):
            raise InvalidArgumentError(
                "loss",
                f"a result of shape {tuple(value.shape)} for {len(output)} rows",
                "one number for each row, or their mean or sum",
                "Sum or average over features as your training does.",
            )
        return value.sum()

    def value(self, weights: Tensor) -> tuple[float, Tensor]:
        """Return the mean loss and its gradient, (inputs, outputs); infinity off its domain."""
        total, slope = 0.0, torch.zeros_like(weights)
        for rows in self._pieces():
            try:
                value, gradient = self._gradient(self.outputs(weights, rows), self.y[rows])
            except (RuntimeError, ValueError, ArithmeticError):  # outside of the loss's domain
                return math.inf, slope
            total += value
            slope += self.inputs[rows].T @ gradient
        if not (math.isfinite(total) and bool(slope.isfinite().all())):
            return math.inf, torch.zeros_like(weights)
        return total / self.n, slope / self.n

    def scores(self, weights: Tensor) -> Tensor:
        """Return what each row pulls its output towards: minus the gradient, (rows, outputs)."""
        found = torch.empty(self.n, self.m, dtype=torch.float64, device=self.y.device)
        for rows in self._pieces():
            found[rows] = -self._gradient(self.outputs(weights, rows), self.y[rows])[1]
        return found

    def gradients(self, output: Tensor, rows: Tensor) -> Tensor:
        """Return the gradient of some rows at outputs (rows, outputs); NaN outside the domain."""
        try:
            value, gradient = self._gradient(output, self.y[rows])
        except (RuntimeError, ValueError, ArithmeticError):
            value = math.nan
        return gradient if math.isfinite(value) else torch.full_like(output, math.nan)

    def hessian_products(
        self, weights: Tensor, inputs: Tensor, vectors: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the mean Hessian at weights (inputs, outputs) times each vector.

        Vectors are linear in inputs of their own, (rows, any number), and (that number, outputs).
        """
        found = [torch.zeros_like(vector) for vector in vectors]
        for rows in self._pieces():
            output = self.outputs(weights, rows).detach().requires_grad_()
            try:
                total = self.total(output, self.y[rows])
                if not total.requires_grad:
                    continue
                (gradient,) = torch.autograd.grad(total, output, create_graph=True)
                for sum_, vector in zip(found, vectors, strict=True):
                    along = (gradient * (inputs[rows] @ vector)).sum()
                    if not along.requires_grad:  # the gradient is constant
                        continue
                    (product,) = torch.autograd.grad(
                        along, output, retain_graph=True, allow_unused=True
                    )
                    if product is not None:
                        sum_ += inputs[rows].T @ product
            except (RuntimeError, NotImplementedError) as error:
                raise InvalidArgumentError(
                    "loss",
                    f"no second derivative ({first_line(error)})",
                    "a loss that autograd can differentiate twice",
                    "Write it with functions of torch.",
                ) from error
        return [sum_ / self.n for sum_ in found]

    def some(self, most: int) -> Tensor:
        """Return numbers of rows from first to last, at most so many."""
        rows = np.linspace(0, self.n - 1, min(self.n, most)).astype(np.int64)
        return torch.from_numpy(rows).to(self.y.device)

    def only(self, rows: Tensor) -> RowLoss:
        """Return the same loss of some rows, by their numbers."""
        found = copy.copy(self)
        found.y, found.inputs, found.n = self.y[rows], self.inputs[rows], len(rows)
        return found

    def drawn(self, most: int, generator: torch.Generator) -> RowLoss:
        """Return the loss of at most so many rows, drawn so that no order of theirs matters."""
        if self.n <= most:
            return self
        return self.only(torch.randperm(self.n, generator=generator, device="cpu")[:most])

    def _gradient(self, output: Tensor, y: Tensor) -> tuple[float, Tensor]:
        output = output.detach().requires_grad_()
        total = self.total(output, y)
        if not total.requires_grad:
            return float(total), torch.zeros_like(output)
        (gradient,) = torch.autograd.grad(total, output, allow_unused=True)
        gradient = torch.zeros_like(output) if gradient is None else gradient.detach()
        return float(total.detach()), gradient

    def _pieces(self) -> Iterator[slice]:
        step = self.n if self.coupled else max(1, PIECE // max(self.m, 1))
        return (slice(first, first + step) for first in range(0, self.n, step))

    def _found(self) -> Tensor:
        """Return the best of a few outputs of the usual links."""
        best, least, refusal = None, math.inf, None
        gaps = self.y.isnan().reshape(self.n, -1).any(dim=1).nonzero()[:1000, 0]
        rows = torch.cat([self.some(1000), gaps])
        for output in self._candidates():
            try:
                value, gradient = self._gradient(output.expand(len(rows), -1), self.y[rows])
            except InvalidArgumentError:
                raise
            except Exception as error:
                refusal = error  # the last output, 1, is in the domain of every link
                continue
            if value < least and math.isfinite(value) and bool(gradient.isfinite().all()):
                best, least = output, value
        if best is None:  # of missing targets it may be these
            refuse_non_finite("y", self.y.reshape(self.n, -1).cpu().numpy())
        if best is None and refusal is not None:
            raise _refused(refusal, self.shape, tuple(self.y.shape)) from refusal
        if best is None:
            raise InvalidArgumentError(
                "loss",
                "nan or infinity at outputs of 0, 0.5, 1 and the data's mean",
                "a finite loss at one of them",
                "Check that y lies in the loss's domain, e.g. in [0, 1] for a cross-entropy.",
            )
        return best

    def _candidates(self) -> Iterator[Tensor]:
        """Yield the mean through each usual link, where outputs are like targets, and constants."""
        if self.y.shape[1:] == self.shape and self.y.is_floating_point():
            mean = self.targets().mean(0)
            inside = torch.where((mean > 0) & (mean < 1), mean, 0.5)
            # A mean at the end of a domain is of data that are all alike, and may have no loss.
            yield from (mean, inside, mean.clamp(min=TINY), mean.clamp(min=TINY).log())
            yield inside.logit()
        for constant in (0.0, 0.5, 1.0):
            yield torch.full((self.m,), constant, dtype=torch.float64, device=self.y.device)

    def _reduced(self) -> str:
        """Return "row", "mean" or "sum": how the loss puts rows together.

        Raises:
            InvalidArgumentError: In another way, so that a row's loss depends on the others.
        """
        near = 0.9 * self.start + 0.05  # where a loss is hardly 0
        # With rows that have much and rows that have little, a mean over what is there shows.
        missing = self.y.isnan().reshape(self.n, -1).sum(dim=1)
        rows = missing.argsort(stable=True)[[0, -1, 1, self.n // 2]]
        # Of outputs that are all alike, what depends on how they differ would not show.
        apart = near * torch.linspace(1, 0.97, 4, dtype=near.dtype, device=near.device)[:, None]

        def part(*which: int) -> Tensor:
            output = apart[list(which)].reshape(len(which), *self.shape)
            found: Tensor = self._loss(output.clone(), self.y[rows[list(which)]])
            return found.detach().double()

        whole, again = part(0, 1, 2, 3), part(0, 1, 2, 3)
        if not torch.equal(whole, again):
            raise InvalidArgumentError(
                "loss",
                "two values for the same arguments",
                "a loss without random numbers",
                "Switch dropout off, or average it out.",
            )
        halves = (part(0, 1), part(2, 3))
        if whole.numel() > 1:
            self.total(apart, self.y[rows])  # refuses other shapes
            expected = {"row": torch.cat([half.reshape(-1) for half in halves])}
            whole = whole.reshape(-1)
        else:
            both = halves[0].sum() + halves[1].sum()
            whole, expected = whole.sum(), {"mean": both / 2, "sum": both}
        for reduction, there in expected.items():
            if whole.shape == there.shape and torch.allclose(whole, there, rtol=SAME, atol=0):
                return reduction
        twice = part(0, 1, 2, 3, 0, 1, 2, 3)
        same = twice.numel() == 1 and torch.allclose(twice.sum(), whole, rtol=SAME, atol=0)
        if same and self._is_coupled(apart, rows):
            self.coupled = True
            return "mean"
        raise InvalidArgumentError(
            "loss",
            "a value that is neither the mean nor the sum of its rows'",
            "rows that do not depend on each other, but for a factor that all have in common",
            "Return one number for each row (class numbers need output_shape=(classes, ...)).",
        )

    def _is_coupled(self, output: Tensor, rows: Tensor) -> bool:
        """Whether what rows pull with in other batches differs by one factor for each batch."""
        self._reduction = "mean"
        whole = self.gradients(output, rows)
        for some in (slice(0, 2), slice(2, 4)):
            part, there = self.gradients(output[some], rows[some]), whole[some]
            factor = (part * there).sum() / part.square().sum()
            # Written so that NaN is none.
            if not bool((there - factor * part).abs().max() <= 10 * SAME * there.abs().max()):
                return False
        return True


def device_of(loss: Callable[..., Any]) -> torch.device:
    """Return where a loss has tensors of its own; MPS has no float64."""
    own = tensor_behind(loss)
    return torch.device("cpu") if own is None or own.device.type == "mps" else own.device


def is_of_dtype(message: str) -> bool:
    """Say whether what a loss raised is about a dtype that is not its own."""
    return any(w in message for w in ("dtype", "type (", "scalar type", "Double", "Float"))


def _refused(error: Exception, output: tuple[int, ...], y: tuple[int, ...]) -> InvalidArgumentError:
    """Return what to say of a loss that raised: most often its dtype or its shapes are others."""
    line = first_line(error)
    action = (
        "Check the shapes and that y lies in the loss's domain; class numbers need "
        "output_shape=(classes, ...)."
    )
    if is_of_dtype(line):
        action = "Wrap it in its dtype: lambda output, y: loss(output.float(), y.float())."
    return InvalidArgumentError(
        "loss",
        f"{type(error).__name__} ({line})",
        f"a loss of outputs of shape {output} for each row of y, which has shape {y}",
        action,
    )


def curvature_scale(rows: RowLoss, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return roots of the mean curvature of each output, (outputs,); rough where coupled."""
    signs = 2.0 * torch.randint(2, (8, rows.m), generator=generator, device="cpu").to(weights) - 1.0
    ones = torch.ones(rows.n, 1, dtype=torch.float64, device=weights.device)
    bent = torch.cat(rows.hessian_products(weights, ones, [sign[None] for sign in signs]))
    return torch.nan_to_num((signs * bent).mean(dim=0).abs()).sqrt()


def refuse_jumps(rows: RowLoss, weights: Tensor, kept: Tensor, scale: Tensor) -> None:
    """Refuse a loss whose gradient jumps near its best output, where a Hessian tells half of it."""
    some = rows.some(256)
    here = rows.inputs[some] @ weights
    pull = rows.gradients(here, some)
    noise = pull.std(dim=0, unbiased=False)
    # As far as the rows' residuals reach; where nothing curves, as far as the rows differ.
    straight = torch.zeros_like(noise)
    if rows.y.shape[1:] == rows.shape:
        straight = rows.targets().std(dim=0)
    width = torch.where(scale > 0, noise / scale.square(), straight)
    width = torch.where(kept & width.isfinite(), width, torch.zeros_like(width))
    for share in (0.5, 0.05, 0.005):  # the widest that stays in the loss's domain
        low, high = here - share * width, here + share * width
        change = (rows.gradients(high, some) - rows.gradients(low, some)).abs() / noise.clamp(
            min=1e-300
        )
        if bool(change.isfinite().all()):
            break
    else:
        return
    for flat in change.flatten().topk(min(5, change.numel())).indices.tolist():
        row, output = divmod(flat, rows.m)
        pair = some[[row, row]]
        left, right = low[[row, row]], high[[row, row]]
        ends = [float(rows.gradients(end, pair)[0, output]) for end in (left, right)]
        whole = abs(ends[1] - ends[0])
        for _ in range(HALVINGS):
            middle = (left + right) / 2
            there = float(rows.gradients(middle, pair)[0, output])
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
