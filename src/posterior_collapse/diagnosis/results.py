"""`Diagnosis`, the one result of this room, in the same words as `Forecast`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.arrays import Float
from posterior_collapse.data.about import UNKNOWN, About
from posterior_collapse.records import Record, Viewed, unit_rows
from posterior_collapse.specs import Likelihood, Spec
from posterior_collapse.theory.thresholds import side_of_threshold

if TYPE_CHECKING:
    from posterior_collapse.diagnosis.effects import Shown
    from posterior_collapse.diagnosis.levels import Histogram
    from posterior_collapse.theory import Forecast

Status = Literal["active", "noise", "collapsed", "diverged"]
Conclusion = Literal[
    "collapse-optimal",
    "signal-unclaimed",
    "more-units-pay",
    "nothing-to-do",
    "undecided",
    "cannot-tell-yet",
    "diverged",
]
"""Of a model or a level. "undecided": too few rows, or too little is known of the model;
"cannot-tell-yet": by which distribution it decodes, neither the spec nor the decoder says;
"diverged": the posterior of a unit has, and nothing else is said."""
NO_SIGNAL = "no t: "
"""Begins the note that says why a decoder's distribution shows no signal to measure."""
LEFT_OUT = "t leaves out "
"""Begins the note on outputs at which a likelihood has no curvature to measure signal in."""
LINEARLY = (
    "t counts what x predicts linearly of what is unexplained of y: a network may read more from x"
)
"""A note on an autoencoder of a pair, whose encoder does not see y."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the rows, at which `LevelDiagnosis.kl_quantiles` are given."""


@dataclass(frozen=True)
class Finding(Record):
    """One thing that was found, with what to do about it.

    Attributes:
        code: A short name, stable for programs.
        text: What was found, a sentence.
        action: What to do, a sentence.
    """

    code: str
    text: str
    action: str

    def __str__(self) -> str:
        return f"{self.text} {self.action}"


@dataclass(frozen=True, eq=False)
class CollapseCurve(Record):
    """Share of a level's units that are (eps, delta)-collapsed: `Pr_x[KL_i(x) < eps] >= 1 - delta`.

    Attributes:
        delta: Share of the rows that may be above eps.
        epsilon: KL in nats, (points,), ascending.
        share: Of the units, (points,).
        error: Standard error of `share`, (points,), from the number of rows.
    """

    delta: float
    epsilon: Float
    share: Float
    error: Float


@dataclass(frozen=True, eq=False, repr=False)
class LevelDiagnosis(Record):
    """What one latent level does on the data; arrays hold one entry per unit, in nats.

    Attributes:
        kl: Mean over the rows of E_q[log q - log p], without beta; below the top level it may be
            negative.
        kl_error: Standard error of `kl`.
        kl_quantiles: Of the rows' KL, (quantiles, units), at `QUANTILES`.
        kl_quantile_errors: Standard errors of `kl_quantiles`.
        information: I(x; z_i) under the aggregate posterior. It is that of the rows at hand: of few
            rows too low, by about `-log(1 - (exp(information) - 1) / n)`, and at most log n.
        information_error: Standard error of `information`, without that bias; NaN from two rows.
        gaussian_information: What it would be if z_i were Gaussian with the same variance: an
            upper bound, and for linear models the forecast's `information`.
        information_is_lower_bound: Whether `information` is a lower bound, because posteriors
            are too narrow beside the range of the means.
        input_information: I(z_{l-1}; z_i), what the unit knows of the level below; for level 1
            `information`.
        status: "active" (carries information on x), "noise" (follows the noise that was injected
            below and knows nothing of x), "collapsed" (follows nothing) or "diverged" (its KL or
            std has exploded, and nothing else is said of it).
        mean_variance: Var_x(E[z_i|x]), in latent units squared.
        mean_variance_error: Standard error of `mean_variance`; NaN from two rows.
        directions: Number of directions in latent space along which means tell as much of x as an
            active unit does, beside the mean variance of the posteriors. Fewer than active units:
            several share a direction, as they do until training has settled.
        active_units: Whether each unit is active by Burda's definition, `mean_variance` > 0.01.
        kl_active_share: Share of (row, unit) pairs with KL of 0.01 and more; the published scripts
            call this number active units.
        kl_active_share_error: Standard error of `kl_active_share`.
        epsilon_delta_collapsed: Whether each unit is (eps, delta)-collapsed at the eps asked for.
        collapse_curve: The share of such units over eps.
        decoder_effect: Root mean square change of the decoder's mean (of what it returns, where it
            is not Gaussian), all features together, when the unit is redrawn from its prior; NaN
            where not measured.
        decoder_effect_error: Standard error of `decoder_effect`.
        posterior_std: Root mean square of the posterior's std.
        posterior_std_range: Its least and largest value over the rows, (2, units).
        aggregate_mean: Mean of z_i over rows and noise.
        aggregate_std: Its standard deviation; `prior_std` where the level uses the prior well.
        prior_std: Root mean square of the prior's std.
        prior_gap: KL of the aggregate posterior to the prior (`kl - information`) at the top level;
            NaN below.
    """

    kl: Float
    kl_error: Float
    kl_quantiles: Float
    kl_quantile_errors: Float
    information: Float
    information_error: Float
    gaussian_information: Float
    information_is_lower_bound: NDArray[np.bool_]
    input_information: Float
    status: tuple[Status, ...]
    mean_variance: Float
    mean_variance_error: Float
    directions: int
    active_units: NDArray[np.bool_]
    kl_active_share: float
    kl_active_share_error: float
    epsilon_delta_collapsed: NDArray[np.bool_]
    collapse_curve: CollapseCurve
    decoder_effect: Float
    decoder_effect_error: Float
    posterior_std: Float
    posterior_std_range: Float
    aggregate_mean: Float
    aggregate_std: Float
    prior_std: Float
    prior_gap: Float
    _histogram: Histogram | None = None

    derived: ClassVar = ("n_active",)

    @property
    def n_active(self) -> int:
        """Number of units with status "active"."""
        return self.status.count("active")

    def that_are(self, status: Status) -> NDArray[np.bool_]:
        """Return which units have a status, (units,)."""
        return np.array([one == status for one in self.status])

    def hidden(self, rows: int) -> Float:
        """Return about how many nats of its information so many rows hide at most, (units,)."""
        # exp(-seen) is about exp(-truth) + 1 / n, of Gaussian means.
        with np.errstate(divide="ignore", invalid="ignore"):
            lacking: Float = -np.log1p(-np.expm1(self.information) / rows)
        return np.where(np.isnan(lacking), np.inf, lacking)

    def apart(self, rows: int) -> Float:
        """Return by how many nats the aggregate posterior is surely not the prior, (units,).

        Its width alone says as much as two Gaussians differ; `prior_gap` says more, but counts
        what is hidden of the information, too, which is not known where it is a nat and more.
        """
        ratio = self.aggregate_std / self.prior_std
        by_width = 0.5 * (np.square(ratio) - 1) - np.log(ratio)
        hidden = self.hidden(rows)
        unknown = self.information_is_lower_bound | (hidden > 1)
        return np.fmax(by_width, np.where(unknown, -np.inf, self.prior_gap - hidden))

    def __repr__(self) -> str:
        named = ("active", "noise", "collapsed", *["diverged"] * ("diverged" in self.status))
        counts = ", ".join(f"{self.status.count(s)} {s}" for s in named)
        return f"LevelDiagnosis({counts}, KL {self.kl.sum():.4g} nats)"


@dataclass(frozen=True)
class Gain(Record):
    """By how much one more unit of a level would lower the loss, in nats per row.

    Attributes:
        nats: Over the number of parts of latent space, or of a condition that the decoder mixes
            with the latents, that shows the most; about, of networks rather too low by a factor
            of 2.
        error: Its standard error.
        parts: That number: a network may use one unit differently in each.
        whole: Of one part: of a linear model exact.
        whole_error: Its standard error.
        worth: A gain of less is not worth a unit: 1% of what the units that live have brought.
    """

    nats: float
    error: float
    parts: int
    whole: float
    whole_error: float
    worth: float


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Viewed):
    """What a trained model does on data, why, and what to change.

    Losses are means over the rows, in nats; None where they are not known: without a decoder,
    without the spec that the model was trained with, or where neither says which distribution the
    decoder gives.

    Attributes:
        n: Number of rows.
        spec: The hyperparameters; None if unknown.
        levels: One `LevelDiagnosis` per latent level, bottom (next to the data) first.
        loss: Negative beta-ELBO, every constant kept.
        reconstruction: Its part without KL, -E log p(y|z).
        kl: KL of all units, without beta.
        elbo: The evidence lower bound, at beta 1.
        squared_error: E|y - mu|^2, in data units squared.
        collapsed_loss: What it would be without any latent unit, all else at its best: the units
            that live have brought the difference (of a conditional network less, whose path from
            x may explain more than the linear one of this loss). None where there is no forecast.
        data_loss: The part of `loss` that the data alone decide (log y! of counts), which the
            forecast's leaves out.
        loss_error: Standard error of `loss`; likewise `kl_error` and so on.
        squared_error_at_mean: What it is at the mean of each posterior, on some of the rows.
        squared_error_sampled: What it is at a sample of each posterior, on the same rows.
        squared_error_constant: What it would be there with the best constant output.
        eta_dec: Std of a Gaussian decoder, as given or as learned.
        nll: -log p(y|x), exact or by importance sampling; None if it was not asked for.
        effective_sample_size: Median over the rows; None where `nll` is exact or absent.
        signal: Per level, t of the certificate: the strongest variance that the decoder leaves
            unexplained, over what one more unit must exceed to pay. Of a linear model it is that
            of these very rows. Empty where it is not known.
        signal_error: Standard errors of `signal`, from the number of rows; 0 where it is not above
            1 and a linear model is at the optimum of these very rows.
        gains: Per level, what one more unit would gain.
        paying_units: Per level, how many more units would surely pay, each by itself, and know
            something of x: two errors below their signal it is above 1 and worth a unit.
        undecided_units: Per level, how many more units may pay or not: within two errors.
        conclusion: Of the whole model; "undecided" where the rows, or what is known of the model,
            do not decide, "cannot-tell-yet" where the decoder's distribution is not known.
        verdict: The conclusion in a sentence.
        advice: What was found and what to do, the gravest first.
        forecast: Of the linear model with the same spec and data; None where there is none.
        notes: What was done to the data or the model, and what was measured on a part only.
        likelihood: Of the decoder, as the spec or the adapter says; None if neither is known.
        is_network: Whether the model is other than the linear one that is forecast.
    """

    view: ClassVar[str] = "diagnosis"
    n: int
    spec: Spec | None
    levels: tuple[LevelDiagnosis, ...]
    kl: float
    kl_error: float
    loss: float | None = None
    loss_error: float | None = None
    collapsed_loss: float | None = None
    data_loss: float = 0.0
    reconstruction: float | None = None
    reconstruction_error: float | None = None
    elbo: float | None = None
    elbo_error: float | None = None
    squared_error: float | None = None
    squared_error_error: float | None = None
    squared_error_at_mean: float | None = None
    squared_error_sampled: float | None = None
    squared_error_constant: float | None = None
    eta_dec: float | None = None
    nll: float | None = None
    nll_error: float | None = None
    effective_sample_size: float | None = None
    signal: tuple[float, ...] = ()
    signal_error: tuple[float, ...] = ()
    gains: tuple[Gain, ...] = ()
    paying_units: tuple[int, ...] = ()
    undecided_units: tuple[int, ...] = ()
    conclusion: Conclusion = "undecided"
    verdict: str = ""
    advice: tuple[Finding, ...] = ()
    forecast: Forecast | None = None
    notes: tuple[str, ...] = ()
    likelihood: Likelihood | None = None
    is_network: bool = True
    _shown: Shown | None = None
    _history: Mapping[str, Sequence[float]] | None = None
    _about: About = UNKNOWN
    _training: tuple[float, float] | None = None  # loss and its error on the rows trained on
    _sees_past: bool = False  # whether the decoder is told the features before each
    _built: bool = False  # whether the model is one of the package's own

    derived: ClassVar = ("gain", "gain_error")

    @property
    def n_active(self) -> int:
        """Number of active units of the top level, as the forecast's."""
        return self.levels[-1].n_active

    @property
    def gain(self) -> float | None:
        """What one more unit would gain, in nats per row, at the level where it gains most."""
        return self._best.nats if self.gains else None

    @property
    def gain_error(self) -> float | None:
        """Standard error of `gain`."""
        return self._best.error if self.gains else None

    @property
    def _best(self) -> Gain:
        return max(self.gains, key=lambda one: one.nats)

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        return unit_rows(self.levels, [len(level.status) for level in self.levels])

    def __repr__(self) -> str:
        parts = [f"{self.n:,} rows", f"KL {self.kl:.4g} nats"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.6g} nats per row")
        return f"Diagnosis({'; '.join(parts)}; {self.verdict})"


def near_worth(found: Diagnosis, at: int) -> str:
    """Return, as a clause, by how little a unit would pay of which only that is open; else nothing.

    Its t is surely above 1, but whether the unit is worth having the rows do not tell.
    """
    t, error, gain = found.signal[at], found.signal_error[at], found.gains[at]
    if not found.undecided_units[at] or side_of_threshold(t, error) != "above":
        return ""
    return (
        f"one more unit would lower the loss by about {gain.whole:.2g} nats, near the "
        f"{gain.worth:.2g} worth a unit"
    )
