"""`log_likelihood`: log p(y|x) of a model, with what is known of its error."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.importance import Estimate, Sampler
from posterior_collapse.diagnosis.reading import model_of, noise_generator
from posterior_collapse.errors import InvalidArgumentError, NotSolvedError
from posterior_collapse.models import LatentModel, MarkovVAE
from posterior_collapse.models.batches import batches
from posterior_collapse.models.modules import evaluating
from posterior_collapse.progress import Display
from posterior_collapse.records import Record

NUMBERS = 2**22
"""Numbers of the target at a time."""


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
    """`p(y|x) = N(U m + c(x), U S U' + eta_dec^2 I)`, where the prior of z_1 is `N(m, S)`.

    Args:
        model: With affine decoders.
        eta_dec: Decoder std; none: the model's own.
    """

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
        """Yield log p(y|x) per row, (rows,) in float64, of some rows at a time.

        Args:
            x: Input or condition, (rows, dim x).
            y: Target, (rows, dim y); none for an autoencoder.

        Raises:
            InvalidArgumentError: The data do not have the model's shapes.
        """
        # The encoder has no part in p(y|x), but it refuses data of other shapes by name.
        self.model.posterior(1, x[:1].double(), None if y is None else y[:1].double())
        rows = max(1, NUMBERS // len(self.axes))
        pairs = zip(torch.split(x, rows), torch.split(x if y is None else y, rows), strict=True)
        for part in pairs:
            value = self._log_prob(*part)
            yield Estimate(value, torch.full_like(value, math.inf))

    def _log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        residual = y.double() - self.model.decode(self.mean, x.double()).mean
        along = residual @ self.axes
        across = residual - along @ self.axes.T
        dim = residual.shape[-1]
        logs = self.variances.log().sum() + (dim - len(self.variances)) * self.noise.log()
        squares = (along.square() / self.variances).sum(-1)
        squares += across.square().sum(-1) / self.noise
        value: Tensor = -0.5 * (squares + logs + dim * math.log(2 * math.pi))
        return value

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


QUANTILES = (0.05, 0.5, 0.95)
ENOUGH = 10.0
"""Effective samples below which a row's log-likelihood is off by more than about 1/20 nat."""
FEW = 0.01
"""Share of rows that may have fewer."""
ASSUMED = (
    "the decoder's std is not known, and 1 was taken where the decoder does not return its own: "
    "pass the spec that the model was trained with when wrapping it"
)


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
                f"{self.samples:,} samples, effective {middle:.3g} ({low:.3g} to {high:.3g} for "
                "90% of rows)"
            )
        notes = "".join(f"; {note}" for note in self.notes)
        return (
            f"LogLikelihood(nll {self.nll:.6g} \u00b1 {self.nll_error:.2g} nats over "
            f"{len(self.per_row):,} rows; {how}{notes})"
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
    eta_dec = None if eta_dec is None else _eta_dec(model, eta_dec)
    exact = has_marginal(model) if exact is None else exact
    if exact and not has_marginal(model):
        raise InvalidArgumentError(
            "exact", True, "a model whose decoders are all affine", "Leave it out."
        )
    found: list[Estimate] = []
    display = Display("log-likelihood", counted="rows", show=progress)
    with evaluating(model) as seen, display:
        estimates: Callable[[Tensor, Tensor | None], Iterator[Estimate]] | None = None
        for x, y in batches(model, data, seed=seed):
            if estimates is None:
                # The first batch says where noise is drawn: a model may have no tensor of its own.
                generator = noise_generator(x.device, seed)
                _check_decoder(model, x, y)
                if exact:
                    estimates = Marginal(cast(MarkovVAE, model), eta_dec).estimates
                else:
                    estimates = Sampler(model, samples, generator, chunk, eta_dec).estimates
            for part in estimates(x, y):
                found.append(part)
                display.advance(len(part.log_mean))
    assumed = eta_dec is None and getattr(model, "spec_assumed", False)
    notes = seen.notes + [ASSUMED] * assumed
    return _result(found, None if exact else samples, tuple(notes))


def _eta_dec(model: LatentModel, eta_dec: float) -> float:
    if model.spec.likelihood != "gaussian":
        raise InvalidArgumentError(
            "eta_dec",
            f"{eta_dec} with likelihood {model.spec.likelihood!r}",
            "nothing, as only a Gaussian decoder has a std",
            "Leave it out.",
        )
    return checks.positive("eta_dec", eta_dec)


@torch.no_grad()
def _check_decoder(model: LatentModel, x: Tensor, y: Tensor | None) -> None:
    """Refuse a Gaussian that stands in for what a decoder did not say."""
    likelihood = model.spec.likelihood
    if likelihood == "gaussian":
        return
    z = model.posterior(1, x[:1], None if y is None else y[:1]).mean
    if isinstance(model.decode(z, x[:1]), Normal):
        raise NotSolvedError(
            "model",
            f"a decoder mean alone, with likelihood {likelihood!r}",
            "a decoder that gives a distribution of that likelihood",
            "Return one of torch.distributions from decode.",
        )


def _result(found: list[Estimate], samples: int | None, notes: tuple[str, ...]) -> LogLikelihood:
    per_row, sizes = (torch.cat(p).cpu().numpy() for p in zip(*found, strict=True))
    _check_finite(per_row)
    if samples is None:
        return LogLikelihood(per_row, np.zeros_like(per_row), None, None, notes)
    error = np.full_like(per_row, math.nan)
    if samples > 1:
        relative_variance = np.maximum(samples / sizes - 1, 0) / (samples - 1)
        error = np.sqrt(relative_variance)
    return LogLikelihood(per_row, error, sizes, samples, (*notes, *_cautions(sizes, samples)))


def _cautions(sizes: Float, samples: int) -> tuple[str, ...]:
    share = float(np.mean(sizes < ENOUGH))
    if share <= FEW:
        return ()
    needed = samples * ENOUGH / float(np.quantile(sizes, FEW))
    digit = 10.0 ** math.floor(math.log10(needed))
    return (
        f"{share:.0%} of the rows have fewer than {ENOUGH:.0f} effective samples: their "
        "log-likelihood is too low and nll an upper bound; pass "
        f"samples={math.ceil(needed / digit) * digit:.0f} or more",
    )


def _check_finite(per_row: Float) -> None:
    wrong = np.flatnonzero(~np.isfinite(per_row))
    if wrong.size:
        raise InvalidArgumentError(
            "model",
            f"log p(y|x) = {per_row[wrong[0]]} in row {wrong[0]} ({wrong.size} such rows)",
            "finite densities",
            "Check the model's parameters, its stds and the scale of the data.",
        )
