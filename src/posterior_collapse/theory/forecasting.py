"""`forecast`: from moments and a spec to which units live, which collapse, and why."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.data.about import UNKNOWN, About, about
from posterior_collapse.data.samples import read
from posterior_collapse.errors import InvalidArgumentError, PosteriorCollapseError, count_of
from posterior_collapse.moments import Moments
from posterior_collapse.moments.accumulate import CLEAR
from posterior_collapse.records import Viewed, unit_rows
from posterior_collapse.specs import Spec, in_order
from posterior_collapse.theory import network as networks
from posterior_collapse.theory.advice import Advice, advise, most_living
from posterior_collapse.theory.noise import few_samples, stronger_than_noise
from posterior_collapse.theory.phase import PhaseDiagram, of_modes
from posterior_collapse.theory.reading import Bias, as_modes
from posterior_collapse.theory.solve import Level, Problem, Solution, levels, parameters, solve
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.state import THRESHOLD_ROUNDING

LEAST_KL = 1e-9
"""Nats; less is rounding."""
ATTAINED = 1e-9
"""Relative to the loss: how nearly `Forecast.parameters` attain it, or a note says they do not."""
MANY_ROWS = 10
"""Rows per feature from which sampling moves no mode far."""
FEW_ROWS = "only "
"""How the note begins that says so of few."""
CROSS_FITTED = "; measure Moments.from_arrays(cross_fitted_residuals(x, y)), forecast with VAESpec"
"""What a Gaussian's condition of too many features is helped by."""
UNLIKE_FEATURES = "features have "
"""How the note begins that says so of unlike scales."""
UNLIKE = 30.0
"""Times the median of the features' standard deviations that the largest of one unit hardly is."""


class FewSamplesWarning(UserWarning):
    """The condition has so many features that it explains the samples, not the target."""


@dataclass(frozen=True, eq=False, repr=False)
class Forecast(Viewed):
    """The global optimum of a linear model on given data.

    Of a likelihood that is not Gaussian, variances are in units of the noise that it tolerates:
    there `onset` is exact for every network (for a learned dispersion, where it was given rows and
    not moments alone), and counts, KL and loss are approximate below it.

    Attributes:
        spec: The hyperparameters.
        loss: Negative beta-ELBO per sample in nats, every constant kept; of counts without what the
            data alone decide (log y!).
        spectrum: Variances theta_i^2 of the data modes (for a conditional model the eigenvalues
            of the residual covariance), descending; of few rows of many features those of their
            row space, beside which all others are 0.
        total_variance: Variance of the target (or residual), summed over features.
        levels: One `Level` per latent level, bottom (next to the data) first.
        eta_dec: Decoder std, as given or as learned; NaN where the decoder has none.
        notes: What the optimum leaves undetermined, and cautions about the data.
        bracket: Fewest and most units of z1 that a network trained to convergence keeps; None
            unless asked for. The most is the linear count; the fewest are a guess from parts of
            the data, which trained networks on digits and MNIST met within a unit.
    """

    view: ClassVar[str] = "forecast"
    derived: ClassVar = ("onset", "n_possible", "hidden_variance")
    spec: Spec
    loss: float
    spectrum: Float
    total_variance: float
    levels: tuple[Level, ...]
    eta_dec: float
    notes: tuple[str, ...]
    bracket: tuple[int, int] | None
    _solution: Solution
    _targets: Float | None = None
    _about: About = UNKNOWN
    _times: tuple[float, ...] | None = None
    """What the KL of each unit weighs, in multiples of beta; None: all the same."""
    _bias: Bias | None = None
    """As it was asked for; None: as the moments are centred."""

    @property
    def _modes(self) -> Modes:
        return self._solution.problem.modes

    @property
    def n_active(self) -> int:
        """Number of active units of the top level, which only hears what lower levels pass on."""
        return self.levels[-1].n_active

    @property
    def onset(self) -> float:
        """Beta of the level next to the data above which all its units collapse.

        It is that of total collapse, whatever the network, if its decoder sees z alone: there the
        loss is a quadratic. Given a condition it is that of decoders that add what z says to
        something linear in x: one that explains more of y by x has a lower onset, one that uses z
        differently for each x a higher, up to that of the x whose y varies most. Of an autoencoder
        of a pair it is that of encoders that read x linearly: a network that reads more of y has a
        higher.
        """
        critical = self.levels[0].critical_beta
        return float(critical[~np.isnan(critical)].max(initial=0.0))

    @cached_property
    def ceiling(self) -> float | None:
        """Beta above which no model at all beats total collapse; with `network=True` only.

        Between `onset` and here collapse is a local optimum that a nonlinear model could in
        principle beat: a bound on what is possible, no prediction. It is that of at most 10,000
        rows, found by search (seconds), and None where there is a condition, a second level, a
        likelihood without the form that it needs, or no bias: there any constant beats collapse.
        """
        spec = self.spec
        if (
            self._targets is None
            or spec.model != "vae"
            or spec.likelihood not in ("gaussian", "bernoulli", "poisson", "categorical")
            or "learned" in spec.eta_levels
            or not isinstance(spec.sigma_levels[0], str)
            or not self._modes.moments.center
        ):
            return None
        scale = float(spec.eta_levels[0])
        return networks.ceiling(spec.likelihood, self._targets / scale, self.onset)

    @property
    def n_possible(self) -> int:
        """Number of units next to the data that would live, were there enough.

        Where each unit has a sigma or a weight of its own, modes above the lowest threshold count.
        """
        if self._times is None and (found := most_living(self._modes, self.spec)) is not None:
            return max(found, self.levels[0].n_active)
        least = _lowest(self.levels[:1]) * (1 + THRESHOLD_ROUNDING)
        return int(np.count_nonzero(self.spectrum > least))

    @property
    def undetermined(self) -> bool:
        """Whether as good an optimum may have other counts of active units; `notes` say where."""
        return any(self.undetermined_levels)

    @property
    def undetermined_levels(self) -> tuple[bool, ...]:
        """Of which levels it may; the counts of the others are the same at every optimum."""
        return self._solution.undetermined

    @property
    def hidden_variance(self) -> float:
        """Variance that a data mode may have and be lost to rounding; 0 if all modes are known."""
        return self._modes.hidden

    def parameters(self) -> Mapping[str, Float]:
        """Return explicit matrices that attain `loss`, or as nearly as `notes` say.

        Of a likelihood that is not Gaussian they are the optimum of the quadratic approximation:
        `U1 z + c1` is the decoder's output, e.g. logits.

        Keys: `W1` (d1, d_x), `U1` (d_y, d1) and `sigma_1` (d1,); a conditional model has `W1`
        reading the condition, `W2` (d1, d_y) the target and `U2` (d_y, d_x) the condition's path
        to the output; hierarchies have `W2` (d2, d1), `U2` (d1, d2), `sigma_2`, and so on. `b1`
        and `c1` are the biases of encoder and decoder, `eta_dec` the std of p(y|z1).

        Example:
            >>> x = np.random.default_rng(0).standard_normal((50, 3)) * [3, 2, 0.1]
            >>> from posterior_collapse.specs import VAESpec
            >>> forecast(x, VAESpec(latent_dim=2)).parameters()["W1"].shape
            (2, 3)
        """
        return parameters(self._solution, self._bias == "encoder")

    def advice(self, active: int | None = None) -> Advice:
        """Return the smallest single changes that keep `active` units at the top level.

        Args:
            active: How many units to keep; None keeps all that the spec has.

        Raises:
            InvalidArgumentError: `active` is not a number of units.

        Example:
            >>> x = np.random.default_rng(0).standard_normal((500, 3)) * [3, 2, 0.1]
            >>> from posterior_collapse.specs import VAESpec
            >>> advice = forecast(x, VAESpec(latent_dim=2, beta=5.0)).advice(active=2)
            >>> [(c.parameter, c.value < c.current) for c in advice.changes]
            [('beta', True), ('eta_dec', True)]
        """
        found = advise(self._modes, self.spec, active, self.eta_dec, self._times)
        if self.bracket is None or self.bracket[0] == self.bracket[1]:
            return found
        fewest, most = self.bracket
        whose = "a linear model's" if self._modes.noise is None else "a quadratic approximation's"
        said = f"Counts are {whose}; trained to convergence a network now keeps between {fewest}"
        return found.replace(text=f"{found.text} {said} and {most}.")

    def phase_diagram(self, betas: Any, eta_decs: Any = None, *, level: int = -1) -> PhaseDiagram:
        """Count active units over a grid; see `phase_diagram`. `level` 0 is z1, -1 the top."""
        found = of_modes(self._modes, self.spec, betas, eta_decs, level, self._times)
        return found.replace(_about=self._about)

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        return unit_rows(self.levels, self.spec.dims)

    def __repr__(self) -> str:
        levels = "; ".join(
            f"z{i + 1}: {level.n_active} of {count_of(len(level.status), 'unit')} active"
            + (f", {level.status.count('noise')} noise" if "noise" in level.status else "")
            + f", KL {level.kl.sum():.4g} nats"
            for i, level in enumerate(self.levels)
        )
        return f"Forecast({self.spec.model}; {levels}; loss {self.loss:.6g} nats per sample)"


def forecast(
    data: Moments | Any, spec: Spec, *, bias: Bias | None = None, network: bool = False
) -> Forecast:
    """Say which latent units the global optimum of a linear model keeps, and what they carry.

    Args:
        data: Array (samples, features) or (samples, ...) for images, data frame, sparse matrix,
            pair (x, y), `Dataset`, torch Dataset or DataLoader, Hugging Face dataset, or batches;
            labels beside x are not a target, but the condition of a conditional model. Or
            `Moments`; a dask array is read where its chunks are.
        spec: `VAESpec`, `CVAESpec`, `HVAESpec` or `ChainSpec`.
        bias: Which of encoder and decoder have biases: "both" (central moments), "none" (raw
            ones), "encoder" (raw, with a constant 1 among the inputs), "decoder" (no closed
            form). None goes by `Moments.center`.
        network: Say also how few units a network keeps, in `Forecast.bracket`. That needs the rows
            of the data, not `Moments`, and takes seconds.

    Raises:
        DataError: The data cannot be used; a conditional model without a condition.
        NotSolvedError: No closed form is known for this spec.
        UnboundedObjectiveError: The loss has no minimum.

    Source:
        Dang et al. (2024), theorems 1 to 5, corrected and extended; Lucas et al. (2019) and
        Tipping and Bishop (1999) for the single level at beta = 1.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> x = np.random.default_rng(0).standard_normal((500, 3)) * [3, 2, 0.1]
        >>> f = forecast(x, VAESpec(latent_dim=3))
        >>> f.levels[0].status
        ('active', 'active', 'collapsed')
    """
    data, spec = in_order(data, spec)
    given = data
    if checks.flag("network", network):
        if isinstance(data, Moments):
            raise InvalidArgumentError(
                "network", "True with moments", "the rows of the data, whose parts are counted",
                "Pass the data themselves.",
            )  # fmt: skip
        data = read(data, getattr(spec, "model", None) == "cvae").collected()
    solution, found = _optimum(data, spec, bias)
    problem, modes = solution.problem, solution.problem.modes
    loss = solution.state.loss(solution.numbers, float(problem.rest[-1]), modes.target_dim)
    eta_dec = float(solution.numbers.etas[0])
    if modes.noise is not None:
        # The constant's own loss in place of a Gaussian's on whitened data.
        gaussian = modes.total / 2 + modes.target_dim / 2 * math.log(2 * math.pi)
        loss += modes.noise.constant_loss - gaussian
        eta_dec = math.nan
    notes = list(modes.noise.notes if modes.noise else ())
    notes += [*solution.notes, *_cautions(found, solution, loss)]
    bracket, targets = None, None
    if network:
        x, targets = networks.some_rows(data)
        lowest = _lowest(found[:1])
        bracket, said = networks.bracket(x, targets, modes, problem.spec, lowest, found[0].n_active)
        notes += said
    return Forecast(
        spec=problem.spec,
        loss=loss,
        spectrum=modes.theta**2,
        total_variance=modes.total,
        levels=found,
        eta_dec=eta_dec,
        notes=tuple(notes),
        bracket=bracket,
        _solution=solution,
        _targets=targets,
        _about=about(given, conditional=spec.model == "cvae"),
        _bias=bias,
    )


def _optimum(data: Any, spec: Spec, bias: Bias | None) -> tuple[Solution, tuple[Level, ...]]:
    """The optimum by products in the data's own precision, or float64 where that could tell."""
    modes, spec = as_modes(data, spec, bias, "float32")
    if modes.moments.rounding and not isinstance(data, Moments):
        with contextlib.suppress(PosteriorCollapseError):
            solution = solve(Problem.of(modes, spec))
            found = levels(solution)
            if not _rounding_tells(modes, found):
                return solution, found
        modes, spec = as_modes(data, spec, bias)
    solution = solve(Problem.of(modes, spec))
    return solution, levels(solution)


def _rounding_tells(modes: Modes, levels: tuple[Level, ...]) -> bool:
    """Whether the moments' rounding could change a count.

    It could where a threshold lies low, or next to a mode, or features differ beyond its digits.
    """
    thresholds = np.concatenate([level.threshold for level in levels])
    thresholds = thresholds[np.isfinite(thresholds)]
    variances = modes.theta**2
    error = modes.moments.rounding * variances[0]
    near = np.abs(np.subtract.outer(variances, thresholds)) <= error
    return not modes.is_plain or bool((thresholds < CLEAR * error).any() or near.any())


def _lowest(levels: tuple[Level, ...]) -> float:
    """The least variance with which a unit lives; infinity where none does, or none is known."""
    thresholds = np.concatenate([level.threshold for level in levels])
    return float(np.min(thresholds, initial=np.inf, where=~np.isnan(thresholds)))


def cautions_on_data(notes: Iterable[str]) -> tuple[str, ...]:
    """Return the notes of a forecast that say of the data: few rows, features of unlike scale."""
    return tuple(note for note in notes if note.startswith((FEW_ROWS, UNLIKE_FEATURES)))


def _cautions(levels: tuple[Level, ...], solution: Solution, loss: float) -> Iterator[str]:
    """What to beware of: few rows, features of unlike scale, rounding; without full stops."""
    modes = solution.problem.modes
    yield from _constant_kl(levels)
    yield from _few_samples(modes)
    yield from _noise_alone(solution, _lowest(levels[:1]))
    yield from _unlike(modes)
    yield from _hidden(modes, _lowest(levels))
    yield from _cancelling(solution, loss)


def _constant_kl(levels: tuple[Level, ...]) -> Iterator[str]:
    """A fixed sigma other than the prior's std has a KL even where the unit says nothing."""
    for number, level in enumerate(levels, 1):
        dead = np.array([status == "collapsed" for status in level.status])
        kl = level.kl[dead]
        if kl.size and kl.max() > LEAST_KL:
            yield (
                f"level {number}: collapsed units keep a KL of up to {kl.max():.3g} nats each, "
                "that of their fixed posterior std to the prior's; they carry nothing"
            )


def _few_samples(modes: Modes) -> Iterator[str]:
    moments, noise = modes.moments, modes.noise
    rank = noise.rank if noise else modes.rank if moments.paired else 0
    what = "the condition" if noise or modes.conditional else "x"
    for text in few_samples(what, rank, moments.n or 0):
        text += CROSS_FITTED * (modes.conditional and not noise)
        warnings.warn(text, FewSamplesWarning, stacklevel=4)  # who called forecast
        yield text
    if moments.unresolved > 0:
        yield (
            f"wide data: {len(modes.theta)} modes were resolved by a randomised subspace "
            f"(variances slightly low); the unresolved tail holds variance {moments.unresolved:.4g}"
        )


def _noise_alone(solution: Solution, threshold: float) -> Iterator[str]:
    """Few rows make modes of features that have nothing to do with each other.

    Horn's parallel analysis (1965): what modes do independent features of these variances show, in
    95% of all draws (Glorfeld 1995)?
    """
    modes = solution.problem.modes
    moments = modes.moments
    n, features = moments.n, moments.features[1]
    if n is None or n >= MANY_ROWS * features or moments.paired or not moments.center:
        return
    variance = np.square(modes.theta)
    found = int(np.count_nonzero(variance > threshold))
    of_noise = moments.feature_variances
    if modes.noise is not None and solution.problem.spec.likelihood == "categorical":
        # The classes of a position sum to 1: they vary in one direction less than there are, alike
        # in each of these, and so more than independent features of their variances would.
        of_noise = np.full(modes.noise.modes, of_noise.sum() / modes.noise.modes)
    above, stronger, drawn = stronger_than_noise(variance, of_noise, n, threshold)
    if stronger < found:
        about = "" if drawn else "about "
        least = "at least " if moments.unresolved > 0 else ""
        are = "is" if stronger == 1 else "are"
        yield (
            f"{FEW_ROWS}{n:,} rows for {count_of(features, 'feature')}: as many rows of noise, "
            f"with the same variances, would show {about}{count_of(above, 'mode')} above the "
            f"threshold; these data show {least}{found:,}, of which {stronger:,} {are} stronger "
            "than noise's"
        )


def _unlike(modes: Modes) -> Iterator[str]:
    """A Gaussian decoder of one eta_dec holds all features to the same noise."""
    if modes.noise is not None or modes.moments.paired:
        return
    variances = modes.moments.feature_variances
    stds = np.sqrt(variances[variances > 0])
    if len(stds) > 1 and stds.max() > UNLIKE * np.median(stds):
        yield (
            f"{UNLIKE_FEATURES}standard deviations up to {stds.max():.3g}, of which the median is "
            f"{np.median(stds):.3g}, and one eta_dec for all: the largest decide. Divide each "
            "feature by its own (--standardize), unless they are of one unit; look for outliers"
        )


def _hidden(modes: Modes, least: float) -> Iterator[str]:
    """What rounding hides matters where it could pass the lowest threshold."""
    if modes.hidden >= least:
        yield (
            f"modes of variance up to {modes.hidden:.3g} may be missing, lost to rounding beside "
            f"the largest of {modes.theta[0] ** 2:.3g}, and {least:.3g} is enough for a unit to "
            "live: divide the features by their standard deviations, drop the largest, or replace "
            "one of two that are nearly equal by their difference"
        )


def _cancelling(solution: Solution, loss: float) -> Iterator[str]:
    """Weights in float64 cannot cancel terms to more than their sixteenth digit."""
    numbers = solution.numbers
    largest = solution.problem.modes.total / float(numbers.etas[0]) ** 2
    for beta, prior, second in zip(
        numbers.betas, numbers.priors, solution.state.second, strict=True
    ):
        largest += float(beta) * float(second.sum()) / float(prior) ** 2
    rounding = 4 * np.finfo(float).eps * largest
    if rounding > ATTAINED * (1 + abs(loss)):
        yield (
            f"parameters() may miss the loss by up to about {rounding:.1g} nats: scales so far "
            f"apart make it a difference of terms as large as {largest:.1g} nats; bring the "
            "features' stds, or the levels' stds and betas, nearer to each other"
        )
