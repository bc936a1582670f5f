"""What the decoder makes of its latents: redrawn from the prior, at their means, at samples.

All of it is seen on some rows: a model in evaluation mode, inputs x, (rows, dim x), targets y,
(rows, dim y), or none, and a generator on the model's device.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Normal

from posterior_collapse.arrays import Float, ImageShape
from posterior_collapse.data.about import About
from posterior_collapse.diagnosis.reading import prior_of
from posterior_collapse.diagnosis.results import LevelDiagnosis
from posterior_collapse.diagnosis.scores import elementwise, linked
from posterior_collapse.errors import DataError, InvalidArgumentError
from posterior_collapse.models import LatentModel, MarkovVAE
from posterior_collapse.models.likelihoods import draw

SAME = 1e-3
"""Rounding, as a share of the largest difference of outputs. Where they hardly differ: its square,
as a share of their size."""
STOPS = (-2.0, -4 / 3, -2 / 3, 0.0, 2 / 3, 4 / 3, 2.0)
"""Stds of the aggregate posterior at which a unit is held in turn."""
MOST_UNITS, MOST_ROWS = 32, 8
MOST_NUMBERS = 2**21
"""Of the outputs that are kept of a level: 8 MiB."""


@contextlib.contextmanager
def passed_over() -> Iterator[None]:
    """Pass over what a model raises that needs all rows at once: of people's own functions any.

    What this package says of them is no such thing.
    """
    try:
        yield
    except (DataError, InvalidArgumentError):
        raise
    except Exception:
        return


@torch.no_grad()
def decoder_effects(
    model: LatentModel,
    level: int,
    x: Tensor,
    y: Tensor | None,
    units: NDArray[np.intp],
    generator: torch.Generator,
) -> tuple[Float, Float]:
    """Return the root mean square change of the decoder's mean per unit, and its standard error.

    The unit is redrawn from its prior, the others stay at their posterior sample; levels below
    follow by the means of their priors. In data units, over all features of a row; NaN for units
    of the level (1 is next to the data) that were not asked for.
    """
    effects = np.full((2, model.units[level - 1]), math.nan)
    latents = model.infer(x, y, generator=generator)
    z = latents[level - 1]
    top = level == len(model.units)
    given = prior_of(model, x) if top else None
    if given is not None and not isinstance(given, Normal):
        # The aggregate posterior stands in for a prior that cannot be drawn from a generator.
        order = torch.randperm(len(z), generator=generator, device=z.device)
        redrawn = z[order]
    else:
        p = given or (model.prior(level) if top else model.prior(level, latents[level]))
        redrawn = draw(p, generator, z.shape)
    before = decoded_mean(model, level, z, x)
    for unit in units:
        moved = z.clone()
        moved[:, unit] = redrawn[:, unit]
        change = decoded_mean(model, level, moved, x) - before
        change = torch.linalg.vector_norm(change, dim=-1, dtype=torch.float64).square()
        root = math.sqrt(float(change.mean()))
        spread = float(change.std()) / math.sqrt(len(change))
        effects[:, unit] = root, spread / (2 * root) if root > 0 else 0.0
    return effects[0], effects[1]


@torch.no_grad()
def is_affine(model: LatentModel, x: Tensor, y: Tensor | None, generator: torch.Generator) -> bool:
    """Whether the decoder next to the data is affine in z_1, with the same weights for every x.

    Such a decoder uses a unit everywhere in latent space in the same way. Told from its outputs
    (locations, logits, log rates) at the latents of pairs of rows and half way between them.
    """
    here = model.infer(x, y, generator=generator)[0]
    order = torch.randperm(len(here), generator=generator, device=here.device)
    there = here[order]

    def output(z: Tensor, given: Tensor) -> Tensor:
        return linked(elementwise(model.decode(z, given), lead=1))

    first, middle, last = (output(z, x) for z in (here, (here + there) / 2, there))
    slack = SAME * max(float((first - last).abs().max()), SAME * float(first.abs().max()))
    bent = (first + last) / 2 - middle
    if not bool((bent.abs() <= slack).all()):
        return False
    turned = first - last - (output(here, x[order]) - output(there, x[order]))
    return bool((turned.abs() <= slack).all())


@torch.no_grad()
def adds_input(model: LatentModel, x: Tensor, y: Tensor | None, generator: torch.Generator) -> bool:
    """Whether the decoder adds what z_1 says to what x says, as those of this package do.

    Another one may use a unit differently for each x. Of a unit that it does not use yet nothing
    tells, but that an output affine in both z_1 and x comes from a linear model. Told as by
    `is_affine`.
    """
    if isinstance(model, MarkovVAE):
        return True
    here = model.infer(x, y, generator=generator)[0]
    order = torch.randperm(len(here), generator=generator, device=here.device)
    there, others = here[order], x[order]
    ends = [(here, x), ((here + there) / 2, (x + others) / 2), (there, others)]
    first, middle, last = (linked(elementwise(model.decode(*end), lead=1)) for end in ends)
    slack = SAME * float((first - last).abs().max())
    return bool((((first + last) / 2 - middle).abs() <= slack).all())


@torch.no_grad()
def squared_errors(
    model: LatentModel, x: Tensor, y: Tensor | None, generator: torch.Generator
) -> dict[str, float]:
    """Return the squared error at posterior means, at samples and of the best constant.

    A decoder that was trained with the posterior's own noise does better at samples than a
    constant does: one that does not was trained with less noise.
    """
    target = x if y is None else y

    def error(decoded: Tensor) -> float:
        return float((target - decoded).double().square().sum(-1).mean())

    return {
        "squared_error_at_mean": error(decoded_mean(model, 1, model.infer(x, y)[0], x)),
        "squared_error_sampled": error(
            decoded_mean(model, 1, model.infer(x, y, generator=generator)[0], x)
        ),
        "squared_error_constant": error(target.mean(0)),
    }


def decoded_mean(model: LatentModel, level: int, z: Tensor, x: Tensor) -> Tensor:
    """Return the decoder's mean, (rows, dim y), of latents of a level, (rows, units).

    Levels below follow by the means of their priors; only a conditional model reads x.
    """
    for below in range(level - 1, 0, -1):
        z = model.prior(below, z).mean
    return cast(Tensor, elementwise(model.decode(z, x), z.dim() - 1).mean)


@dataclass(frozen=True, eq=False)
class Traversal:
    """What the decoder makes of a unit that goes through its range, the others at their means.

    Attributes:
        unit: Index within its level.
        outputs: The decoder's mean at each of `STOPS`, (stops, features), single precision.
    """

    unit: int
    outputs: NDArray[np.float32]

    @property
    def move(self) -> NDArray[np.float64]:
        """What one std changes, on average from end to end, (features,)."""
        ends = self.outputs[-1].astype(np.float64) - self.outputs[0]
        move: NDArray[np.float64] = ends / (STOPS[-1] - STOPS[0])
        return move


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures of a model.

    Attributes:
        traversals: Per level, of the units with the most KL.
        targets: Some rows, (rows, features).
        outputs: What the decoder makes of their posteriors' means, likewise.
        image_shape: Shape of a row's output, if it is an image.
        names: What the features of the output are called, where that is known.
    """

    traversals: tuple[tuple[Traversal, ...], ...]
    targets: NDArray[np.float32]
    outputs: NDArray[np.float32]
    image_shape: ImageShape | None = None
    names: tuple[str, ...] | None = None


@torch.no_grad()
def show(
    model: LatentModel,
    x: Tensor,
    y: Tensor | None,
    levels: Sequence[LevelDiagnosis],
    known: About,
) -> Shown | None:
    """Return pictures of a model; None where it does not decode a few rows by themselves.

    Nothing is drawn at random. `levels` are what was found on all rows; `known`, of the data, the
    shape of an image and what features are called.
    """
    x, y = x[:MOST_ROWS], None if y is None else y[:MOST_ROWS]
    with passed_over():
        latents = model.infer(x, y)
        outputs = decoded_mean(model, 1, latents[0], x)
        traversals = tuple(
            tuple(_traversals(model, number, level, z, x[:1], outputs.shape[-1]))
            for number, (level, z) in enumerate(zip(levels, latents, strict=True), start=1)
        )
        targets = _single(x if y is None else y)
        shape, names, width = known.image_shape, known.features, targets.shape[-1]
        shape = shape if shape is not None and math.prod(shape) == width else None
        names = names if names is not None and len(names) == width else None
        return Shown(traversals, targets, _single(outputs), shape, names)
    return None


def _traversals(
    model: LatentModel, number: int, level: LevelDiagnosis, like: Tensor, x: Tensor, features: int
) -> list[Traversal]:
    most = min(MOST_UNITS, MOST_NUMBERS // (len(STOPS) * features))
    usable = ~level.that_are("diverged")
    units = [int(unit) for unit in np.argsort(-level.kl, kind="stable") if usable[unit]][:most]
    if not units:
        return []
    held = np.tile(np.where(usable, level.aggregate_mean, 0.0), (len(units), len(STOPS), 1))
    for place, unit in enumerate(units):
        held[place, :, unit] += np.array(STOPS) * level.aggregate_std[unit]
    z = torch.from_numpy(held.reshape(-1, held.shape[-1])).to(like)
    p = prior_of(model, x) if number == len(model.units) else None
    if isinstance(p, Normal) and p.mean.dim() == 2:
        # Of a prior that differs from row to row what was found is relative to a row's own.
        z = p.mean.to(z) + p.stddev.to(z) * z
    outputs = _single(decoded_mean(model, number, z, x.expand(len(z), -1)))
    return [
        Traversal(unit, outputs[place * len(STOPS) : (place + 1) * len(STOPS)])
        for place, unit in enumerate(units)
    ]


def _single(values: Tensor) -> Any:
    return values.float().cpu().numpy()
