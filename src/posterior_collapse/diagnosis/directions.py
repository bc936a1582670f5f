"""Levels whose units can be turned into each other at no cost, seen along their directions.

Where all units of a level share one std, any rotation of them is the same model: which unit is
active is then up to chance, and only how many directions are is not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Normal

from posterior_collapse.diagnosis.exact import ExactPass, is_exact
from posterior_collapse.diagnosis.passes import SampledPass
from posterior_collapse.diagnosis.reading import in_double, noise_generator
from posterior_collapse.models import LatentModel, MarkovVAE, load_parameters, read_parameters

__all__ = ["free_levels", "turned"]

Float = NDArray[np.float64]
SAME = 1e-9
"""Covariances of means, beside their variances, that are rounding: units lie along directions."""


def free_levels(model: LatentModel) -> list[int]:
    """Return the levels whose units can be turned freely, 1 next to the data.

    Example:
        >>> from posterior_collapse import HVAESpec
        >>> from posterior_collapse.models import build
        >>> free_levels(build(HVAESpec((3, 2), sigma_1=0.5), "linear", x_dim=4))
        [1]
    """
    if not isinstance(model, MarkovVAE):
        return []
    free = model.architecture.rotatable(model.spec)
    return [n for n, one in enumerate(free, 1) if one and model.units[n - 1] > 1]


def turned(
    model: MarkovVAE,
    rows: Iterable[tuple[Tensor, Tensor | None]],
    *,
    samples: int,
    seed: int,
) -> LatentModel:
    """Return the same model with the units of its free levels along their directions.

    It is the model itself where they are already.

    Args:
        model: With levels that `free_levels` names, in evaluation mode.
        rows: Batches of x and y.
        samples: Of each row's posterior, as for `SampledPass`.
        seed: Of these samples.
    """
    turns = _turns(model, rows, samples, seed)
    if all(turn is None for turn in turns):
        return model
    if not is_exact(model):
        return _Turned(
            model, [None if t is None else torch.from_numpy(t).to(model.eta_enc) for t in turns]
        )
    found = read_parameters(model)
    for level, turn in enumerate(turns, 1):
        if turn is None:
            continue
        made_by = ["W1", "b1", *["W2"] * model.conditional] if level == 1 else [f"W{level}"]
        for name in made_by:
            if name in found:
                found[name] = turn.T @ found[name]
        found[f"U{level}"] = found[f"U{level}"] @ turn
        if level < len(turns):
            found[f"W{level + 1}"] = found[f"W{level + 1}"] @ turn
            found[f"U{level + 1}"] = turn.T @ found[f"U{level + 1}"]
    other = copy.deepcopy(model).double()
    load_parameters(other, found)
    return other


def _turns(
    model: MarkovVAE,
    rows: Iterable[tuple[Tensor, Tensor | None]],
    samples: int,
    seed: int,
) -> list[Float | None]:
    """Per level the directions as columns, the most varied mean first; None: it stays."""
    free = free_levels(model)
    generator = noise_generator(model.eta_enc.device, seed)
    through = (
        ExactPass(model, generator)
        if is_exact(model)
        else SampledPass(model, samples, generator, decodes=False)
    )
    sums = {level: np.zeros((2, model.units[level - 1])) for level in free}
    products = {level: np.zeros((model.units[level - 1],) * 2) for level in free}
    n = 0
    for x, y in rows:
        n += len(x)
        if free == [1] and not is_exact(model):  # no sample is needed to know its means
            means: list[tuple[Float, ...]] = [(in_double(model.posterior(1, x, y).mean),)]
        else:
            means = [level.means for level in through(x, y).levels]
        for level in free:
            # Two halves of the samples: what varies with the samples alone averages out.
            halves = means[level - 1][0], means[level - 1][-1]
            sums[level] += [half.sum(0) for half in halves]
            products[level] += halves[0].T @ halves[1]
    turns: list[Float | None] = [None] * len(model.units)
    for level in free:
        first, second = sums[level] / n
        due = products[level] / n - np.outer(first, second) * model.centred
        due = (due + due.T) / 2
        if np.abs(due - np.diag(np.diag(due))).max() > SAME * np.abs(due).max():
            turns[level - 1] = np.linalg.eigh(due)[1][:, ::-1].copy()
    return turns


class _Turned(LatentModel):
    """A model whose latents are read along other axes; its law is the same."""

    def __init__(self, model: LatentModel, turns: Sequence[Tensor | None]) -> None:
        self.model = model
        self.turns = turns
        self.spec = model.spec

    @property
    def centred(self) -> bool:
        return self.model.centred

    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        q = self.model.posterior(level, self._back(level - 1, given), y)
        return self._there(level, q)

    def prior(self, level: int, given: Tensor | None = None) -> Normal:
        above = None if given is None else self._back(level + 1, given)
        return self._there(level, self.model.prior(level, above))

    def decode(self, z: Tensor, x: Tensor | None = None) -> Distribution:
        return self.model.decode(self._back(1, z), x)

    def _there(self, level: int, found: Normal) -> Normal:
        turn = self.turns[level - 1]
        return found if turn is None else Normal(found.mean @ turn, found.stddev)

    def _back(self, level: int, z: Tensor) -> Tensor:
        turn = self.turns[level - 1] if level else None
        return z if turn is None else z @ turn.mT
