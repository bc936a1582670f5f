"""Everything that one pass over the data gathers, in bounded memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, NegativeBinomial, Poisson

from posterior_collapse.arrays import Float
from posterior_collapse.data.samples import Samples, read
from posterior_collapse.diagnosis.certificate import Input, Residuals
from posterior_collapse.diagnosis.comparing import SAME_STD, Compared, gaussian_log_density
from posterior_collapse.diagnosis.exact import ExactPass, free_levels, is_exact, rotated
from posterior_collapse.diagnosis.levels import LevelStatistics
from posterior_collapse.diagnosis.passes import Pass, SampledPass
from posterior_collapse.diagnosis.reading import as_array, noise_generator
from posterior_collapse.diagnosis.results import NO_SIGNAL, LevelDiagnosis
from posterior_collapse.diagnosis.rows import is_of_dtype
from posterior_collapse.diagnosis.scores import Kind, no_score_because
from posterior_collapse.diagnosis.statistics import Reservoir, Running, row_chooser
from posterior_collapse.errors import (
    DataError,
    InvalidArgumentError,
    PosteriorCollapseError,
    enumerated,
    first_line,
)
from posterior_collapse.models import LatentModel, MarkovVAE, OneHots
from posterior_collapse.models.batches import BATCH_SIZE, batches, rows_at_hand
from posterior_collapse.models.modules import tensor_behind
from posterior_collapse.moments import Moments
from posterior_collapse.moments.accumulate import CLEAR, Accumulator
from posterior_collapse.moments.single import ROUNDING
from posterior_collapse.progress import Display
from posterior_collapse.specs import Spec
from posterior_collapse.theory.dispersion import Tally, is_learned
from posterior_collapse.theory.reading import Counted

MOST_FEATURES = 4096
"""Features of x and y together up to which moments are taken: a matrix of 128 MiB."""
SETTLED = 0.05
"""Relative difference up to which a learned eta_dec has arrived."""
EFFECT_NUMBERS = 2**24
"""Numbers that are decoded to find the effects of a level's units, about."""
LEAST_EFFECT_ROWS, MOST_EFFECT_ROWS = 16, 500
LEAST_EFFECTS, MOST_EFFECTS = 16, 256


def collect(
    model: LatentModel,
    data: Any,
    spec: Spec | None,
    *,
    overridden: bool = False,
    gaussian: bool = True,
    samples: int = 16,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: bool = False,
) -> Collected:
    """Take all the data through a model in evaluation mode, a batch at a time; see `diagnose`.

    Without a spec there is no loss. One that is `overridden` is not the model's own, so that its
    fixed eta_dec counts. If a decoder is `gaussian`, it means a `Normal` that it returns.
    """
    seen, notes = _along_directions(model, data, samples, batch_size, seed)
    rows = batches(model, data, batch_size=batch_size, seed=seed)
    first = next(rows)
    found = Collected(
        seen,
        spec,
        first,
        overridden=overridden,
        gaussian=gaussian,
        samples=samples,
        seed=seed,
        expected=rows_at_hand(data),
    )
    found.cautions = notes
    with Display("diagnosis", counted="rows", show=progress) as display:
        for x, y in itertools.chain([first], rows):
            try:
                found.add(x, y)
            except (torch.cuda.OutOfMemoryError, MemoryError, PosteriorCollapseError):
                raise
            except Exception as error:  # of functions of the user's own, any
                why = f"{type(error).__name__}: {first_line(error)}"
                raise _failed(model, data, x, y, why) from error
            display.advance(len(x))
    if found.n < 2:
        raise DataError("data", "a single row", "at least two rows", "Pass more rows.")
    return found


def _failed(
    model: LatentModel, data: Any, x: Tensor, y: Tensor | None, why: str
) -> InvalidArgumentError:
    """Say what a model that fails on a batch may need: one dtype, images, all or other rows."""
    if _is_of_whole_numbers(why) and getattr(model, "tokens", None) is False:
        return InvalidArgumentError(
            "tokens", f"False, and a model that fails on {x.dtype} ({why})",
            "numbers as its functions take them",
            "Pass tokens=True to from_callable, and class numbers as data.",
        )  # fmt: skip
    if is_of_dtype(why) and not _is_of_whole_numbers(why):
        return InvalidArgumentError(
            "model", f"a failure on numbers of {x.dtype} ({why})", "parts of one dtype",
            "Bring all to one, encoder.float() and decoder.float(), or wrap those of another, "
            "decode=lambda z: decoder(z.double()).",
        )  # fmt: skip
    if "required" in why and "argument" in why:
        return InvalidArgumentError(
            "model", f"functions of more than a batch ({why})",
            "encode(x) and decode(z), or of a CVAESpec encode(x, y) and decode(z, x)",
            "Wrap them with what else they take: encode=lambda x: net.encode(x, length).",
        )  # fmt: skip
    flat = getattr(model, "shape", ()) is None
    shape = _image_shape(data, y is not None) if flat else None
    if shape is not None:
        shape = (1, *shape) if len(shape) == 2 else shape
        return InvalidArgumentError(
            "shape",
            f"None, and images: on their flat rows the model fails ({why})",
            "a model that takes flat rows, or the shape of one sample as encode wants it",
            f"If it takes images, pass shape={shape} to from_callable.",
        )
    of_images = " If it takes images, pass shape= to from_callable." if flat else ""
    n = rows_at_hand(data) or len(x)
    if n > len(x):
        return InvalidArgumentError(
            "batch_size",
            f"{len(x):,} of {n:,} rows, at which the model fails ({why})",
            "rows that it takes apart from the others",
            f"Mend that. Pass batch_size={n} for a model that sees all rows at once, as "
            f"graph networks do.{of_images}",
        )
    shapes = f"x {tuple(x.shape)}" + ("" if y is None else f" and y {tuple(y.shape)}")
    return InvalidArgumentError(
        "model",
        f"a failure on {shapes} ({why})",
        "a model that takes such rows",
        f"Try it on them.{of_images}"
        if y is None
        else "Of a pair, x is the condition and y what is decoded.",
    )


def _is_of_whole_numbers(why: str) -> bool:
    """Whether a failure is that of an embedding or an index."""
    of_index = any(name in why for name in ("index", "indices"))
    return of_index and any(name in why for name in ("Long", "long,", "int64"))


def _image_shape(data: Any, conditional: bool) -> tuple[int, ...] | None:
    """The shape of what is encoded, where it is an image and that can be found out once more."""
    if isinstance(data, Iterator):
        return None
    found = read(data, conditional)
    if isinstance(found, Samples):
        return found.condition_shape if conditional else found.image_shape
    first, _ = next(iter(found.batches()))
    return tuple(first.shape[1:]) if first.ndim > 2 else None


def _along_directions(
    model: LatentModel, data: Any, samples: int, batch_size: int, seed: int
) -> tuple[LatentModel, tuple[str, ...]]:
    """The model, its units rotated to their directions where that costs nothing, and notes."""
    free = free_levels(model)
    if not free:
        return model, ()
    which = enumerated([f"z{level}" for level in free])
    shared = f"the units of {which} share one std and can be turned into each other at no cost"
    if isinstance(data, Iterator):
        return model, (f"{shared}: pass data that can be read twice to see their directions",)
    rows = batches(model, data, batch_size=batch_size, seed=seed)
    seen = rotated(cast(MarkovVAE, model), rows, samples=samples, seed=seed)
    if seen is model:
        return model, ()
    return seen, (f"{shared}: what is said of a unit is said of a direction, not of a column",)


class Collected:
    """Statistics of a model on data, of which `expected` rows will come, if that is known.

    The first batch says how wide the data are, and where: a model of functions may have no tensor.
    For the other arguments see `collect`.

    Attributes:
        residuals: Per level; empty where moments tell, or without a decoder.
        losses: Of the rows: `kl`, with a decoder `squared_error`, and with a spec besides
            `reconstruction`, `elbo` and `loss`.
        rows: Some of the data, x and perhaps y.
        widths: Features of x, and perhaps of y.
        cautions: What a reader must know of the units.
        like: Of the model's device and dtype.
        generator: Of noise, on that device.
    """

    def __init__(
        self,
        model: LatentModel,
        spec: Spec | None,
        first: tuple[Tensor, Tensor | None],
        *,
        overridden: bool,
        gaussian: bool,
        samples: int,
        seed: int,
        expected: int | None,
    ) -> None:
        self.model, self.spec, self._overridden = model, spec, overridden
        self._rng, self._expected = row_chooser(seed), expected
        own = tensor_behind(model)
        self.like = first[0].new_empty(0) if own is None else own
        self.generator = noise_generator(first[0].device, seed)
        self.cautions: tuple[str, ...] = ()
        self.widths = [part.shape[1] for part in first if part is not None]
        fits = sum(self.widths) <= MOST_FEATURES
        # The certificate of a linear model needs the moments of its data.
        self.exact = gaussian and fits and is_exact(model)
        # Stds that differ count one by one, unless an eta_dec is given that serves all.
        own_stds = spec is None or spec.eta_levels[0] == "learned"
        self._pass: ExactPass | SampledPass
        if self.exact:
            self._pass = ExactPass(model, self.generator)
        else:
            self._pass = SampledPass(
                model, samples, self.generator, gaussian=gaussian, own_stds=own_stds
            )
        self.levels = [LevelStatistics(self._rng, model.centred) for _ in model.units]
        self.residuals: list[Residuals] = []
        self.losses: dict[str, Running] = {}
        self._variance, self._standardised, self._data = Running(), Running(), Running()
        self._joint = Accumulator.empty(sum(self.widths)) if fits else None
        if self._joint is not None:
            self._joint.limit = self._limit()
        self._counts: Tally | None = None
        units = min(MOST_EFFECTS, max(model.units))
        self.rows = Reservoir(
            self._rng, EFFECT_NUMBERS // units, LEAST_EFFECT_ROWS, MOST_EFFECT_ROWS
        )

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.rows.n

    @property
    def output(self) -> Distribution | None:
        """What the decoder returned last, elementwise; None: it is compared with nothing."""
        return self._pass.output

    @property
    def unjudged(self) -> bool:
        """Whether it decodes, and nothing says by which distribution."""
        return self.decodes and not self._pass.decodes

    @property
    def decodes(self) -> bool:
        """Whether the model has a decoder."""
        return getattr(self.model, "decodes", True)

    @cached_property
    def some_rows(self) -> tuple[Tensor, Tensor | None]:
        """The kept rows, as the model takes them; to be read once all have come."""
        x, *y = (torch.from_numpy(part).to(self.like) for part in self.rows.rows())
        return x, y[0] if y else None

    @property
    def data_loss(self) -> float:
        """What the data alone add to the loss, such as log y! of counts: no forecast has it."""
        return -float(self._data.mean) if self._data.n else 0.0

    @property
    def eta_dec(self) -> float | None:
        """Std of a Gaussian decoder: the spec's, or root mean square of the model's own."""
        if self.spec is None or self._variance.n == 0:
            return None
        eta = self.spec.eta_levels[0]
        return math.sqrt(float(self._variance.mean)) if isinstance(eta, str) else eta

    @property
    def noise(self) -> float | None:
        """Std that t of level 1 is measured by: of a learned one, what these errors ask for.

        A learned eta_dec starts wide and follows the errors late: until then, by its own value
        every signal would look too weak to pay. Of scores it is 1, or by how much a decoder's own
        stds are too small.
        """
        if self._standardised.n:
            return math.sqrt(float(self._standardised.mean))
        if self._pass.whitened:
            return 1.0
        eta_dec = self.eta_dec
        if eta_dec is None or not isinstance(cast(Spec, self.spec).eta_levels[0], str):
            return eta_dec
        asked = math.sqrt(float(self.losses["squared_error"].mean) / self.widths[-1])
        return asked or eta_dec

    def noises(self, levels: Sequence[LevelDiagnosis]) -> list[float | None]:
        """Std that t of each level is measured by, where the spec learns it.

        Stds of the levels' priors are those of the decoders above the first.
        """
        if self.eta_dec is not None:
            return [self.noise, *[self.eta_dec] * (len(levels) - 1)]
        stds = [float(np.sqrt(np.square(level.prior_std).mean())) for level in levels[:-1]]
        return [self.noise, *stds]

    def notes(self, *, overfit: bool = False) -> list[str]:
        """Return a note where the decoder's own std is not the spec's, or not where it will be.

        Of a model that is overfit, errors on the rows that it was trained on are smaller.
        """
        if self.output is not None and not self.residuals:
            inner = getattr(self.output, "inner", self.output)
            return [f"{NO_SIGNAL}{no_score_because(inner)}"]
        if self.spec is None or self._variance.n == 0:
            return []
        if isinstance(self.spec.eta_levels[0], str):
            own, asked = cast(float, self.eta_dec), cast(float, self.noise)
            if self._standardised.n:
                asked *= own
            if abs(own - asked) <= SETTLED * asked:
                return []
            where = f"{own:.3g} where this decoder's errors ask for {asked:.3g}"
            if overfit:
                return [f"eta_dec was learned on other rows: it is {where}, by which t is measured"]
            return [
                f"eta_dec is learned and has not settled: it is {where}, by which t is measured; "
                "train longer"
            ]
        own, eta = math.sqrt(float(self._variance.mean)), self.spec.eta_levels[0]
        if abs(own - eta) <= SAME_STD * eta:
            return []
        taken = f"the spec's {eta:g}" if self._overridden else "its own"
        return [
            f"the decoder's std is {own:.4g}, the spec's eta_dec {eta:g}: loss and NLL are at "
            f"{taken}, t and the forecast at the spec's"
        ]

    @property
    def most_effects(self) -> int:
        """Units of a level whose effect on the decoder is measured."""
        fitting = EFFECT_NUMBERS // (self.rows.kept * self.widths[-1])
        return max(LEAST_EFFECTS, min(MOST_EFFECTS, fitting))

    @cached_property
    def moments(self) -> Moments | None:
        """Of the data, once all have come; None where they are too wide or all constant."""
        joint = self._joint
        if joint is None or not np.trace(joint.upper) > 0:
            return None
        return Moments.of_joint(joint, self.widths, self.model.centred)

    @property
    def evidence(self) -> Moments | Counted | None:
        """What a forecast has to know of the data: moments, and what else its likelihood asks."""
        if self.moments is None or self._counts is None:
            return self.moments
        return Counted(self.moments, self._counts)

    def add(self, x: Tensor, y: Tensor | None) -> None:
        """Take in a batch."""
        row, first = self.n, self.n == 0
        for reservoir in (self.rows, *(statistics.kept for statistics in self.levels)):
            reservoir.choose(len(x))
        # Of other rows no residual is computed.
        wanted = [residuals.choose(len(x)) for residuals in self.residuals]
        found = self._pass(x, y, wanted)
        pair = [as_array(part) for part in (x, y) if part is not None]
        if first and found.residuals:
            self.residuals = self._collectors(len(found.residuals))
            wanted = [residuals.choose(len(x)) for residuals in self.residuals]
        if self._joint is not None:
            self._joint.update(("x", "y")[: len(pair)], pair, row, "float32")
            if self.spec is not None and is_learned(self.spec) and self.spec.model != "cvae":
                counts = Tally.of(pair[-1])
                self._counts = counts if self._counts is None else self._counts + counts
        self.rows.add(*pair)
        for statistics, posteriors in zip(self.levels, found.levels, strict=True):
            statistics.add(posteriors)
        triples = zip(self.residuals, found.residuals, wanted, strict=False)
        for level, (residuals, residual, which) in enumerate(triples):
            places = None if level else found.levels[0].means[0][which]
            residuals.add(residual, pair[0][which], places)
        for name, values in self._losses_of(found).items():
            self.losses.setdefault(name, Running()).add(values)

    def _collectors(self, levels: int) -> list[Residuals]:
        """What collects the residuals of each level, of targets of the kind that is decoded."""
        inputs: Input = "all"
        if len(self.widths) == 2:
            inputs = "removed" if self.model.spec.model == "cvae" else "only"
        output, classes = self.output, getattr(self.output, "classes", ())
        kind: Kind | None = None
        if isinstance(output, (Poisson, NegativeBinomial)):
            kind = "counts"
        elif isinstance(output, (Bernoulli, OneHots)):
            kind = "shares"
        level = partial(Residuals, self._rng, center=self.model.centred, expected=self._expected)
        return [level(inputs, classes=classes, kind=kind), *(level() for _ in range(1, levels))]

    def _limit(self) -> float:
        """Variance up to which products in float32 leave digits beside a forecast's threshold."""
        spec = self.spec
        if len(self.widths) > 1 or self.exact or spec is None or spec.eta_levels[0] == "learned":
            return 0.0
        return min(spec.beta_levels) * float(spec.eta_levels[0]) ** 2 / (CLEAR * ROUNDING)

    def _losses_of(self, found: Pass) -> dict[str, Float]:
        kls = [level.kl.sum(1) for level in found.levels]
        losses = {"kl": np.sum(kls, axis=0)}
        decoded = found.reconstruction
        if decoded is None:
            return losses
        losses["squared_error"] = decoded.squared_error
        for running, values in (
            (self._variance, decoded.variance),
            (self._standardised, decoded.standardised),
            (self._data, decoded.data),
        ):
            if values is not None:
                running.add(values)
        if self.spec is not None:
            reconstruction = -self._log_density(decoded, self.spec)
            weighted = [b * kl for b, kl in zip(self.spec.beta_levels, kls, strict=True)]
            losses["reconstruction"] = reconstruction
            losses["elbo"] = -reconstruction - losses["kl"]
            losses["loss"] = reconstruction + np.sum(weighted, axis=0)
        return losses

    def _log_density(self, decoded: Compared, spec: Spec) -> Float:
        eta = spec.eta_levels[0]
        if decoded.variance is None or not self._overridden or isinstance(eta, str):
            return decoded.log_density
        return gaussian_log_density(decoded.squared_error, eta, self.widths[-1])
