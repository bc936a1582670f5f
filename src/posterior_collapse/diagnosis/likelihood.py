"""`log_likelihood`: log p(y|x) in closed form, or by importance sampling through the posterior.

Memory is bounded: a batch is cut into blocks of rows, and the samples of a block are drawn a few at
a time. What no sample changes (posterior, condition, residual at the posterior mean) is computed
once per block.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.comparing import has_eta_dec
from posterior_collapse.diagnosis.reading import model_of, noise_generator
from posterior_collapse.diagnosis.scores import unexpanded
from posterior_collapse.errors import InvalidArgumentError, NotSolvedError, count_of
from posterior_collapse.models import LatentModel, MarkovVAE
from posterior_collapse.models.batches import batches
from posterior_collapse.models.layers import Decoder
from posterior_collapse.models.likelihoods import log_prob
from posterior_collapse.models.modules import evaluating
from posterior_collapse.progress import Display
from posterior_collapse.records import Record

QUANTILES = (0.05, 0.5, 0.95)
ENOUGH = 10.0
"""Effective samples below which a row's log-likelihood is off by more than about 1/20 nat."""
FEW = 0.01
"""Share of rows that may have fewer."""
ASSUMED = (
    "the decoder's std is not known, and 1 was taken where the decoder does not return its own: "
    "pass the spec that the model was trained with when wrapping it"
)
MARGINAL_NUMBERS = 2**22
"""Numbers of the target at a time, in closed form."""
BLOCK_ROWS = 64
"""Rows of a block, where there are samples enough: they share the work that is done per block."""
NUMBERS = {"cpu": 2**18}
"""Numbers of the widest layer at a time: on a CPU as many as stay in its cache."""
NUMBERS_ELSEWHERE = 2**25
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
Density = Callable[[Tensor], Tensor]  # from z_1 to log p(y|z_1), (samples, rows) in float64


@dataclass(frozen=True, eq=False, repr=False)
class LogLikelihood(Record):
    """log p(y|x) of each row in nats, exact or by importance sampling.

    Attributes:
        per_row: log p(y|x), (rows,); by sampling too low on average, by about
            `per_row_error**2 / 2`.
        per_row_error: Standard error by sampling, (rows,); 0 where exact, NaN for one sample.
        effective_sample_size: `(sum w)^2 / sum w^2` of the weights w, (rows,); None where exact.
        samples: Per row; None where exact.
        notes: Cautions, each with what to do.
    """

    per_row: Float
    per_row_error: Float
    effective_sample_size: Float | None
    samples: int | None
    notes: tuple[str, ...]

    derived: ClassVar = ("nll", "nll_error", "sampling_error", "effective_sample_size_quantiles")

    @property
    def nll(self) -> float:
        """Mean of -log p(y|x) over the rows, in nats."""
        return -float(self.per_row.mean())

    @property
    def nll_error(self) -> float:
        """Standard error of `nll` as an estimate for new rows of the same kind; NaN for one."""
        n = len(self.per_row)
        return float(self.per_row.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    @property
    def sampling_error(self) -> float:
        """Error of `nll` on these very rows: noise and bias of the sampling; 0 where exact."""
        variance = np.square(self.per_row_error)
        return math.hypot(math.sqrt(variance.sum()) / len(variance), variance.mean() / 2)

    @property
    def effective_sample_size_quantiles(self) -> tuple[float, ...] | None:
        """Effective sample size of the rows at 5%, 50% and 95%; None where exact."""
        found = self.effective_sample_size
        return None if found is None else tuple(np.quantile(found, QUANTILES).tolist())

    def _rows(self) -> Iterator[dict[str, float]]:
        """A row per row of the data."""
        names = ("per_row", "per_row_error", "effective_sample_size")
        columns = {name: v for name in names if (v := getattr(self, name)) is not None}
        return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))

    def __repr__(self) -> str:
        how = "exact"
        if self.effective_sample_size_quantiles is not None:
            low, middle, high = self.effective_sample_size_quantiles
            how = (
                f"{count_of(self.samples or 0, 'sample')}, effective {middle:.3g} ({low:.3g} "
                f"to {high:.3g} for 90% of rows)"
            )
        notes = "".join(f"; {note}" for note in self.notes)
        error = f" \u00b1 {self.nll_error:.2g}" if len(self.per_row) > 1 else ""
        return (
            f"LogLikelihood(nll {self.nll:.6g}{error} nats over "
            f"{count_of(len(self.per_row), 'row')}; {how}{notes})"
        )


def log_likelihood(
    model: LatentModel,
    data: Any,
    *,
    samples: int = 1000,
    seed: int = 0,
    chunk: int | None = None,
    exact: bool | None = None,
    eta_dec: float | None = None,
    progress: bool = False,
) -> LogLikelihood:
    """Return log p(y|x) of each row, without beta: the likelihood is that of the model.

    Exact where every decoder is Gaussian and affine: y is then Gaussian. Else by importance
    sampling with the posterior of every level as proposal; memory does not grow with rows or
    samples. Of counts log y! is part of it, unlike of the loss.

    Args:
        model: Any `LatentModel`; a module is put into evaluation mode for the while.
        data: As for `diagnose`.
        samples: Importance samples per row.
        seed: Of the samples; the same seed, data and chunk give the same numbers.
        chunk: Samples, over rows, that are decoded at a time; None: as many as are fast.
        exact: False samples although a closed form is known.
        eta_dec: Decoder std into the data, in their units; None: the model's own.
        progress: Show a bar on stderr.

    Raises:
        InvalidArgumentError: An option is out of its domain, a closed form is asked for where
            none is known, or the model gives NaN.
        NotSolvedError: The decoder gives a mean alone, of another likelihood than a Gaussian.
        DataError: The data cannot be used.

    Source:
        Burda, Grosse and Salakhutdinov (2016), equation 8; Tipping and Bishop (1999) for affine
        decoders. Standard error by the delta method, from the effective sample size (Kong 1992).

    Example:
        >>> from posterior_collapse import VAESpec, fit
        >>> x = np.random.default_rng(0).standard_normal((50, 3))
        >>> model = fit(VAESpec(2), x, architecture="linear", epochs=2).model
        >>> found = log_likelihood(model, x, samples=2000, exact=False)
        >>> truth = log_likelihood(model, x)
        >>> abs(found.nll - truth.nll) < 3 * found.sampling_error
        True
    """
    model = model_of(model)
    samples, seed = checks.whole("samples", samples, least=1), checks.whole("seed", seed, least=0)
    chunk = None if chunk is None else checks.whole("chunk", chunk, least=1)
    if eta_dec is not None and model.spec.likelihood != "gaussian":
        raise InvalidArgumentError(
            "eta_dec",
            f"{eta_dec} with likelihood {model.spec.likelihood!r}",
            "nothing, as only a Gaussian decoder has a std",
            "Leave it out.",
        )
    eta_dec = None if eta_dec is None else checks.positive("eta_dec", eta_dec)
    exact = has_marginal(model) if exact is None else checks.flag("exact", exact)
    if exact and not has_marginal(model):
        raise InvalidArgumentError(
            "exact", True, "a model whose decoders are all affine", "Leave it out."
        )
    found: list[Estimate] = []
    display = Display("log-likelihood", counted="rows", show=progress)
    with evaluating(model) as seen, display:
        rows = batches(model, data, seed=seed)
        first = next(rows)
        _check_decoder(model, *first)
        how: Marginal | Sampler
        if exact:
            how = Marginal(cast(MarkovVAE, model), eta_dec)
        else:
            # The first batch says where noise is drawn: a model may have no tensor of its own.
            generator = noise_generator(first[0].device, seed)
            how = Sampler(model, samples, generator, chunk, eta_dec)
        for x, y in itertools.chain([first], rows):
            for part in how.estimates(x, y):
                found.append(part)
                display.advance(len(part.log_mean))
    assumed = eta_dec is None and getattr(model, "spec_assumed", False)
    notes = seen.notes + [ASSUMED] * assumed
    return _result(found, None if exact else samples, tuple(notes))


@torch.no_grad()
def _check_decoder(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """Refuse a Gaussian that stands in for what a decoder did not say."""
    likelihood = model.spec.likelihood
    if likelihood == "gaussian":
        return
    z = model.posterior(1, x[:1], None if y is None else y[:1]).mean
    if has_eta_dec(model.decode(z, x[:1])):
        raise NotSolvedError(
            "model", f"a decoder mean alone, with likelihood {likelihood!r}",
            "a decoder that gives a distribution of that likelihood",
            "Return one of torch.distributions from decode.",
        )  # fmt: skip


def _result(found: list[Estimate], samples: int | None, notes: tuple[str, ...]) -> LogLikelihood:
    per_row, sizes = (torch.cat(p).cpu().numpy() for p in zip(*found, strict=True))
    wrong = np.flatnonzero(~np.isfinite(per_row))
    if wrong.size:
        raise InvalidArgumentError(
            "model",
            f"log p(y|x) = {per_row[wrong[0]]} in row {wrong[0]} ({wrong.size} such rows)",
            "finite densities", "Check the model's parameters, its stds and the scale of the data.",
        )  # fmt: skip
    if samples is None:
        return LogLikelihood(per_row, np.zeros_like(per_row), None, None, notes)
    error = np.full_like(per_row, math.nan)
    if samples > 1:
        error = np.sqrt(np.maximum(samples / sizes - 1, 0) / (samples - 1))
    share = float(np.mean(sizes < ENOUGH))
    if share > FEW:
        needed = samples * ENOUGH / float(np.quantile(sizes, FEW))
        digit = 10.0 ** math.floor(math.log10(needed))
        notes = (
            *notes,
            f"{share:.0%} of the rows have fewer than {ENOUGH:.0f} effective samples: their "
            "log-likelihood is too low and nll an upper bound; pass "
            f"samples={math.ceil(needed / digit) * digit:.0f} or more",
        )
    return LogLikelihood(per_row, error, sizes, samples, notes)


class Estimate(NamedTuple):
    """Per row, (rows,) in float64: the log of the mean weight, and the effective sample size."""

    log_mean: Tensor
    effective_sample_size: Tensor


def has_marginal(model: LatentModel) -> bool:
    """Whether every decoder is Gaussian and affine in its latents, whatever the encoders are.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> from posterior_collapse.models import build
        >>> [has_marginal(build(VAESpec(2), name, x_dim=3)) for name in ("linear", "mlp")]
        [True, False]
    """
    if not isinstance(model, MarkovVAE):
        return False
    networks = model.architecture
    affine = networks.activation == networks.latent == networks.output == "identity"
    return affine and model.observation is None


class Marginal:
    """`p(y|x) = N(U m + c(x), U S U' + eta_dec^2 I)`, where the prior of z_1 is `N(m, S)`."""

    def __init__(self, model: MarkovVAE, eta_dec: float | None = None) -> None:
        # A copy in float64: differences of outputs then give the matrices to all digits.
        self.model = copy.deepcopy(model).double()
        with torch.no_grad():
            self.mean, root = self._prior()
            x = root.new_zeros(1, self.model.shapes.x_dim)
            U = _slope(partial(self.model.decode, x=x), root)
            self.noise = self.model.decode(self.mean, x).stddev[0, 0].square()
            if eta_dec is not None:
                self.noise = torch.full_like(self.noise, eta_dec**2)
            self.axes, stretch, _ = torch.linalg.svd(U @ root, full_matrices=False)
            self.variances = stretch.square() + self.noise

    @torch.no_grad()
    def estimates(self, x: Tensor, y: Tensor | None = None) -> Iterator[Estimate]:
        """Yield log p(y|x), of some rows of a batch at a time."""
        # The encoder has no part in p(y|x), but it refuses data of other shapes by name.
        self.model.posterior(1, x[:1].double(), None if y is None else y[:1].double())
        rows, target = max(1, MARGINAL_NUMBERS // len(self.axes)), x if y is None else y
        for part, to in zip(torch.split(x, rows), torch.split(target, rows), strict=True):
            residual = to.double() - self.model.decode(self.mean, part.double()).mean
            along = residual @ self.axes
            across = residual - along @ self.axes.T
            dim = residual.shape[-1]
            logs = self.variances.log().sum() + (dim - len(self.variances)) * self.noise.log()
            squares = (along.square() / self.variances).sum(-1)
            squares += across.square().sum(-1) / self.noise
            value = -0.5 * (squares + logs + dim * math.log(2 * math.pi))
            yield Estimate(value, torch.full_like(value, math.inf))

    def _prior(self) -> tuple[Tensor, Tensor]:
        """Mean, (1, units), and a root of the covariance, (units, units), of z_1."""
        top = len(self.model.units)
        p = self.model.prior(top)
        mean, S = p.mean.unsqueeze(0), torch.diag(p.stddev.square())
        for level in range(top - 1, 0, -1):
            U = _slope(partial(self.model.prior, level), S)
            p = self.model.prior(level, mean)
            mean, S = p.mean, U @ S @ U.T + torch.diag(p.stddev[0].square())
        return mean, torch.linalg.cholesky(S)


def _slope(p: Callable[[Tensor], Distribution], like: Tensor) -> Tensor:
    """The matrix of an affine map of rows to means, (outputs, units); `like`: (units, units)."""
    unit_vectors = torch.eye(len(like), dtype=like.dtype, device=like.device)
    return (p(unit_vectors).mean - p(torch.zeros_like(like)).mean).T


class Sampler:
    """Draws latents of a model and weighs them; arguments are those of `log_likelihood`."""

    def __init__(
        self,
        model: LatentModel,
        samples: int,
        generator: torch.Generator,
        chunk: int | None = None,
        eta_dec: float | None = None,
    ) -> None:
        self.model, self.samples, self.generator = model, samples, generator
        self._chunk, self._eta_dec = chunk, eta_dec
        self._residual_free: _ResidualFree | None = None
        if isinstance(model, MarkovVAE) and eta_dec is None and _ResidualFree.serves(model):
            self._residual_free = _ResidualFree(model)

    def estimates(self, x: Tensor, y: Tensor | None = None) -> Iterator[Estimate]:
        """Yield the estimates of a batch, block by block."""
        free, target = self._residual_free, x if y is None else y
        widest = max(*self.model.units, target.shape[-1] if free is None else free.width)
        fast = max(1, NUMBERS.get(x.device.type, NUMBERS_ELSEWHERE) // widest)
        samples = min(self.samples, max(1, (self._chunk or fast) // BLOCK_ROWS))
        rows = max(1, (self._chunk or fast) // samples)
        for start in range(0, len(x), rows):
            block = slice(start, start + rows)
            yield self._block(x[block], None if y is None else y[block], samples)

    @torch.no_grad()
    def _block(self, x: Tensor, y: Tensor | None, samples: int) -> Estimate:
        q = self.model.posterior(1, x, y)
        density = self._density(q, x, x if y is None else y)
        # Logs of the sum of the weights, and of their squares.
        total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
        squares = total
        for done in range(0, self.samples, samples):
            logs = self._log_weights(q, density, min(samples, self.samples - done))
            total = torch.logaddexp(total, logs.logsumexp(0))
            squares = torch.logaddexp(squares, (2 * logs).logsumexp(0))
        return Estimate(total - math.log(self.samples), (2 * total - squares).exp())

    def _log_weights(self, q: Normal, density: Density, samples: int) -> Tensor:
        """`log p(y, z_1, z_2, ...) - log q(z_1, z_2, ...)` of new samples, (samples, rows)."""
        z, log_q = self._draw(q, (samples, *q.batch_shape))
        log_w = density(z) - log_q
        top = len(self.model.units)
        for level in range(2, top + 1):
            above, log_q = self._draw(self.model.posterior(level, z), z.shape)
            log_w += _log_density(self.model.prior(level - 1, above), z) - log_q
            z = above
        return log_w + _log_density(self.model.prior(top), z)

    def _draw(self, q: Normal, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Samples of q and their log density, from the noise that made them."""
        mean, shape = q.mean, (*shape[:-1], q.mean.shape[-1])
        noise = torch.randn(shape, generator=self.generator, device=mean.device, dtype=mean.dtype)
        return torch.addcmul(mean, q.stddev, noise), _log_normal(noise, q.stddev)

    def _density(self, q: Normal, x: Tensor, target: Tensor) -> Density:
        if self._residual_free is not None:
            return self._residual_free.at(q.mean, x, target)

        def density(z: Tensor) -> Tensor:
            p = self.model.decode(z, x)
            if self._eta_dec is not None:
                std = torch.full_like(p.mean, self._eta_dec)
                p = Normal(p.mean, std, validate_args=False)
            return _log_density(p, target)

        return density


class _ResidualFree:
    """log p(y|z) of a decoder mean `V f(z) + (what z does not change)`, without residuals.

    With `d = f(z) - f(m)`, m the posterior mean, and r the residual at m,
    `|y - mu|^2 = |r|^2 - 2 d.(V'r) + d'(V'V)d`: a sample costs f and a product of f's width. The
    terms in d are small where the posterior is narrow, so that single precision loses nothing.
    """

    def __init__(self, model: MarkovVAE) -> None:
        self.model = model
        decoder = cast(Decoder, model.decoders[0])
        self.features = decoder.features["z"]
        self.weight = cast(nn.Linear, decoder.heads["z"]).weight.detach().double()
        self.width = self.weight.shape[1]
        self.gram = (self.weight.T @ self.weight).to(model.eta_enc)

    @staticmethod
    def serves(model: MarkovVAE) -> bool:
        """Whether the mean is affine in features that are no wider than it."""
        if not model.heads:
            return False
        head = cast(nn.Linear, cast(Decoder, model.decoders[0]).heads["z"])
        return head.in_features <= model.shapes.y_dim

    def at(self, mean: Tensor, x: Tensor, target: Tensor) -> Density:
        """Return the density for rows of these posterior means, conditions and targets."""
        decoded = self.model.decode(mean, x)
        residual = target.double() - decoded.mean
        precision = decoded.stddev[0, 0].double() ** -2
        slope = (2 * residual @ self.weight).to(mean)
        start = self.features(mean, {})
        logs = residual.shape[-1] * (HALF_LOG_2_PI - 0.5 * precision.log())
        constant = -0.5 * precision * residual.square().sum(-1) - logs

        def density(z: Tensor) -> Tensor:
            move = self.features(z, {}) - start
            change = (move @ self.gram).sub_(slope).mul_(move).sum(-1, dtype=torch.float64)
            return cast(Tensor, constant - 0.5 * precision * change)

        return density


def _log_density(p: Distribution, value: Tensor) -> Tensor:
    """Log density of a value, summed over units, (...), in float64."""
    if not isinstance(p, Normal):
        return log_prob(p, value).sum(-1, dtype=torch.float64)
    return _log_normal((value - p.mean).div_(p.stddev), p.stddev)


def _log_normal(scaled: Tensor, std: Tensor) -> Tensor:
    """Log density, in float64, of samples that are `scaled` stds away from their mean."""
    units = scaled.shape[-1]
    std = unexpanded(std) if std.dim() else std[None]
    logs = std.log().sum(-1, dtype=torch.float64) * (units / std.shape[-1])
    squares = scaled.square().sum(-1, dtype=torch.float64)
    return -0.5 * squares - logs - units * HALF_LOG_2_PI
