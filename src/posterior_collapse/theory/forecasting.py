"""`forecast`: from moments and a spec to which units live, which collapse, and why."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.data.about import UNKNOWN, About, about
from posterior_collapse.data.samples import Samples, read
from posterior_collapse.errors import InvalidArgumentError, PosteriorCollapseError
from posterior_collapse.moments import Moments
from posterior_collapse.moments.accumulate import CLEAR
from posterior_collapse.records import Record, Viewed, unit_rows
from posterior_collapse.specs import Spec, in_order
from posterior_collapse.theory import parameters as explicit
from posterior_collapse.theory.advice import Advice, advise, most_living
from posterior_collapse.theory.cautions import FewSamplesWarning, cautions
from posterior_collapse.theory.ceiling import ceiling
from posterior_collapse.theory.network import PARTS, fewest_units, rows_of_modes, some_rows
from posterior_collapse.theory.phase import PhaseDiagram, of_modes
from posterior_collapse.theory.reading import Bias, as_modes
from posterior_collapse.theory.solve import Problem, Solution, critical, solve
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.state import THRESHOLD_ROUNDING, fit

__all__ = ["FewSamplesWarning", "Forecast", "Level", "forecast"]

Status = Literal["active", "noise", "collapsed"]


@dataclass(frozen=True, eq=False, repr=False)
class Level(Record):
    """One latent level at the optimum; arrays hold one entry per unit.

    Singular values are descending. All else is in the order of the units: as given for a fixed
    sigma per unit, else from the strongest mode to the weakest.

    Attributes:
        encoder_singular_values: Of W_l S_{l-1}^{1/2}, in latent units.
        decoder_singular_values: Of U_l, in units of what it decodes per latent unit.
        posterior_std: sigma.
        kl: E_q[log q - log p] in nats, without beta; below the top level it may be negative.
        information: I(x; z_i) in nats, from second moments.
        status: "active" (carries information on x), "noise" (has KL but knows nothing of x) or
            "collapsed".
        data_variance: Variance of the data mode that the unit carries, or would.
        threshold: Variance that mode must exceed for the unit to be active.
        critical_beta: The level's beta above which the unit collapses.
        critical_eta_dec: eta_dec above which the unit collapses.
    """

    encoder_singular_values: Float
    decoder_singular_values: Float
    posterior_std: Float
    kl: Float
    information: Float
    status: tuple[Status, ...]
    data_variance: Float
    threshold: Float
    critical_beta: Float
    critical_eta_dec: Float

    derived: ClassVar = ("n_active",)

    @property
    def n_active(self) -> int:
        """Number of units with status "active"."""
        return self.status.count("active")

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.status.count(s)} {s}" for s in ("active", "noise", "collapsed"))
        return f"Level({counts}, KL {self.kl.sum():.4g} nats)"


@dataclass(frozen=True, eq=False, repr=False)
class Forecast(Viewed):
    """The global optimum of a linear model on given data.

    Of a likelihood that is not Gaussian, variances are in units of the noise that it tolerates:
    there `onset` is exact for every network, and counts, KL and loss are approximate below it.

    Attributes:
        spec: The hyperparameters.
        loss: Negative beta-ELBO per sample in nats, every constant kept; of counts without what the
            data alone decide (log y!).
        spectrum: Variances theta_i^2 of the data modes (for a conditional model the eigenvalues
            of the residual covariance), descending.
        total_variance: Variance of the target (or residual), summed over features.
        levels: One `Level` per latent level, bottom (next to the data) first.
        eta_dec: Decoder std, as given or as learned; NaN where the decoder has none.
        notes: What the optimum leaves undetermined, and cautions about the data.
        bracket: Fewest and most units of z1 that a network trained to convergence keeps; None
            unless asked for. The most is the linear count; the fewest are a guess from parts of
            the data, which trained networks on digits and MNIST met within a unit.
    """

    view: ClassVar[str] = "forecast"
    derived: ClassVar = ("onset", "n_possible")
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

        It is that of total collapse, whatever the network: there the loss is a quadratic.
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
        return ceiling(spec.likelihood, self._targets / scale, self.onset)

    @property
    def n_possible(self) -> int:
        """Number of units next to the data that would live, were there enough.

        Where each unit has a sigma or a weight of its own, modes above the lowest threshold count.
        """
        if self._times is None and (found := most_living(self._modes, self.spec)) is not None:
            return found
        thresholds = self.levels[0].threshold
        least = float(thresholds[~np.isnan(thresholds)].min(initial=np.inf))
        return int(np.count_nonzero(self.spectrum > least * (1 + THRESHOLD_ROUNDING)))

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
        return explicit.build(self._solution)

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
        found = advise(self._modes, self.spec, active, self._times)
        if self.bracket is None or self.bracket[0] == self.bracket[1]:
            return found
        said = "Counts are a linear model's; trained to convergence a network now keeps between "
        fewest, most = self.bracket
        return found.replace(text=f"{found.text} {said}{fewest} and {most}.")

    def phase_diagram(self, betas: Any, eta_decs: Any = None, *, level: int = -1) -> PhaseDiagram:
        """Count active units over a grid of beta and eta_dec; see `phase_diagram`."""
        found = of_modes(self._modes, self.spec, betas, eta_decs, level, self._times)
        return found.replace(_about=self._about)

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        return unit_rows(self.levels, self.spec.dims)

    def __repr__(self) -> str:
        levels = "; ".join(
            f"z{i + 1}: {level.n_active} of {len(level.status)} units active"
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
            labels beside x are no target, but the condition of a conditional model. Or `Moments`;
            a dask array is read where it lies.
        spec: `VAESpec`, `CVAESpec`, `HVAESpec` or `ChainSpec`.
        bias: Which of encoder and decoder have biases: "both" (central moments), "none" (raw
            ones), "encoder" (raw, with a constant 1 among the inputs), "decoder" (no closed
            form). None goes by `Moments.center`.
        network: Say as well how few units a network keeps, in `Forecast.bracket`. That takes the
            rows of the data, not `Moments`, and seconds.

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
    rows = _rows_at_hand(data, spec) if network else None
    solution, levels = _optimum(data if rows is None else rows, spec, bias)
    problem, modes = solution.problem, solution.problem.modes
    loss = solution.state.loss(solution.numbers, float(problem.rest[-1]), modes.target_dim)
    eta_dec = float(solution.numbers.etas[0])
    if modes.noise is not None:
        # The constant's own loss in place of a Gaussian's on whitened data.
        gaussian = modes.total / 2 + modes.target_dim / 2 * math.log(2 * math.pi)
        loss += modes.noise.constant_loss - gaussian
        eta_dec = math.nan
    bracket: tuple[int, int] | None = None
    targets: Float | None = None
    said: list[str] = []
    if rows is not None:
        x, targets = some_rows(rows)
        bracket, said = _bracket(x, targets, modes, levels[0], problem.spec)
    return Forecast(
        spec=problem.spec,
        loss=loss,
        spectrum=modes.theta**2,
        total_variance=modes.total,
        levels=levels,
        eta_dec=eta_dec,
        notes=(
            *(modes.noise.notes if modes.noise else ()),
            *solution.notes,
            *cautions(levels, solution, loss),
            *said,
        ),
        bracket=bracket,
        _solution=solution,
        _targets=targets,
        _about=about(data, conditional=spec.model == "cvae"),
    )


def _optimum(data: Any, spec: Spec, bias: Bias | None) -> tuple[Solution, tuple[Level, ...]]:
    """The optimum by products in the data's own precision, or float64 where that could tell."""
    modes, spec = as_modes(data, spec, bias, "float32")
    if modes.moments.rounding and not isinstance(data, Moments):
        with contextlib.suppress(PosteriorCollapseError):
            solution, levels = _solved(modes, spec)
            if not _rounding_tells(modes, levels):
                return solution, levels
        modes, spec = as_modes(data, spec, bias)
    return _solved(modes, spec)


def _solved(modes: Modes, spec: Spec) -> tuple[Solution, tuple[Level, ...]]:
    solution = solve(Problem.of(modes, spec))
    with np.errstate(over="ignore", divide="ignore"):  # a critical value beyond floats: infinity
        return solution, tuple(_levels(solution))


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


def _levels(solution: Solution) -> list[Level]:
    problem, state = solution.problem, solution.state
    found = zip(
        state.encoder,
        state.decoder,
        state.noise,
        state.kl(solution.numbers),
        state.information,
        critical(solution),
        problem.orders,
        strict=True,
    )
    levels: list[Level] = []
    for encoder, decoder, noise, kl, information, threshold, order in found:
        unit = np.argsort(order)
        status = [_status(e, i) for e, i in zip(encoder[unit], information[unit], strict=True)]
        has_std = levels or problem.spec.likelihood == "gaussian"
        eta_dec = threshold.eta_dec if has_std else np.full(len(unit), np.nan)
        levels.append(
            Level(
                encoder_singular_values=np.sort(encoder)[::-1],
                decoder_singular_values=np.sort(decoder)[::-1],
                posterior_std=np.sqrt(noise)[unit],
                kl=kl[unit],
                information=information[unit],
                status=tuple(status),
                data_variance=fit(problem.theta, len(unit))[unit] ** 2,
                threshold=threshold.variance[unit],
                critical_beta=threshold.beta[unit],
                critical_eta_dec=eta_dec[unit],
            )
        )
    return levels


def _status(weight: float, information: float) -> Status:
    if information > 0:
        return "active"
    return "noise" if weight > 0 else "collapsed"


def _rows_at_hand(data: Any, spec: Any) -> Samples:
    if isinstance(data, Moments):
        raise InvalidArgumentError(
            "network",
            "True with moments",
            "the rows of the data, whose parts are counted",
            "Pass the data themselves.",
        )
    return read(data, getattr(spec, "model", None) == "cvae").collected()


def _bracket(
    x: Float, y: Float, modes: Modes, level: Level, spec: Spec
) -> tuple[tuple[int, int], list[str]]:
    most = level.n_active
    if not most:
        return (0, 0), []  # the onset holds for every network
    threshold = float(level.threshold[np.isfinite(level.threshold)].min())
    count, parts = fewest_units(rows_of_modes(x, y, modes, spec), threshold)
    notes = []
    if parts < PARTS:
        notes.append(
            f"the fewest units of a network are counted in {parts} part{'s' * (parts > 1)} of the "
            f"data, as {len(x):,} rows allow: with {PARTS} parts they may be fewer"
        )
    return (int(np.clip(round(count), 1, most)), most), notes
