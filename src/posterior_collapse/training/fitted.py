"""The one result type of this room: a trained model, its course, and what was forecast."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from posterior_collapse.arrays import Float
from posterior_collapse.data.about import About, Columns
from posterior_collapse.diagnosis.collecting import collect
from posterior_collapse.diagnosis.conclusions import (
    collapsed_loss,
    collapses_freely,
    counts_alike,
)
from posterior_collapse.diagnosis.exact import is_exact
from posterior_collapse.diagnosis.reading import in_double
from posterior_collapse.diagnosis.statistics import Running
from posterior_collapse.errors import DataError, NotSolvedError, UnboundedObjectiveError, count_of
from posterior_collapse.models import MarkovVAE, loss
from posterior_collapse.models.modules import evaluating
from posterior_collapse.records import Viewed
from posterior_collapse.specs import Spec
from posterior_collapse.theory import Forecast, forecast
from posterior_collapse.theory.forecasting import cautions_on_data
from posterior_collapse.training import seeds
from posterior_collapse.training.batches import Batch, Batches
from posterior_collapse.training.course import Course
from posterior_collapse.training.settings import Settings, effective_spec
from posterior_collapse.training.units import is_no_number

ROWS = 10_000
CHUNK = 1_000
History = dict[str, list[float]]


@dataclass(frozen=True, eq=False, repr=False)
class Fitted(Viewed):
    """A trained model; `fit` and `fit_many` make it.

    Attributes:
        model: The `LatentModel`, on the CPU.
        settings: How it was trained; `fit` with them (and the same data) gives the same run.
        history: Columns by name, one entry per epoch: `epoch`, `step`, `loss`, `reconstruction`,
            and `kl_1`, `active_1` and so on per level; `validation_loss` with validation data, at
            full weights; with a warm-up or cycles `beta_factor`, what beta was multiplied by at the
            row's last step, and with a `capacity_warm_up` the targets there, `capacity_1` and so
            on; and `kl_1_3`, the KL of the third unit of level 1, of levels of at most
            256 units.
            Losses are those trained on (in nats per row, averaged since the row before; of counts
            without what the data alone decide, log y!), KL without beta, active units as
            `diagnose` finds them at the epoch's end on 256 rows at most.
        stopped: `"finished"`, `"early"`, `"iteration limit"` (L-BFGS was not at a minimum), or
            `"non-finite: "` and the step and the term.
        seconds: How long it trained, by the clock; runs that trained together have an equal share
            each. What it trained by minibatches before it was resumed counts where there is a
            `checkpoint_share`.
    """

    model: MarkovVAE
    settings: Settings
    history: History
    stopped: str
    seconds: float
    _best: float
    _feed: Batches

    view: ClassVar[str] = "fitted"
    derived: ClassVar[tuple[str, ...]] = ("spec",)

    @classmethod
    def of(cls, model: MarkovVAE, course: Course, feed: Batches) -> Fitted:
        """Return what came of a course over these batches."""
        ended = course.stopped or ""
        return cls(model, course.settings, course.history, ended, course.seconds, course.best, feed)

    @property
    def spec(self) -> Spec:
        """The hyperparameters."""
        return self.model.spec

    @property
    def _about(self) -> About:
        return self._feed.about

    @property
    def columns(self) -> Columns:
        """What the features trained on are called, of a pair of both parts; None: no names."""
        return self._feed.columns

    @cached_property
    def forecast(self) -> Forecast | None:
        """The closed-form optimum of the linear model of the same spec on the same data.

        None where no closed form is known, as with free bits or a capacity, or the loss has no
        minimum. Under another convention than `"elbo"` the spec's betas are those that this
        convention amounts to.
        """
        if self.floor:
            return None
        try:
            data = self._feed.evidence(self.objective, self.model.centred)
            return forecast(data, self.objective)
        except (NotSolvedError, UnboundedObjectiveError):
            return None

    def measured(self) -> dict[str, Any]:
        """Return what `diagnose` finds on the training data, in short.

        Of linear models on all rows, of others on 10,000 at most.

        Returns:
            `loss` (negative beta-ELBO), its standard error `loss_error` and `reconstruction`, in
            nats per row, and per level `n_active`, and per unit `kl` and `information`, as if z_i
            were Gaussian, in nats. Where what the model computes is no number any more, all are NaN
            and `n_active` is None.

        Raises:
            DataError: The data cannot be read again.
        """
        return self._measured

    @cached_property
    def _measured(self) -> dict[str, Any]:
        rows = self._feed.rows(10**12 if is_exact(self.model) and self._feed.sized else ROWS)
        data = rows.x if rows.y is None else (rows.x, rows.y)
        try:
            with evaluating(self.model):
                gaussian = self.model.observation is None
                # As `diagnose` does unless it is told otherwise: they count the same units.
                found = collect(self.model, data, self.objective, gaussian=gaussian)
                levels = [level.diagnosis(top=False) for level in found.levels]
                if gaussian:
                    losses = {name: float(value.mean) for name, value in found.losses.items()}
                    losses["loss_error"] = float(found.losses["loss"].error)
                else:
                    losses = self._losses(rows)
        except DataError as error:
            if not is_no_number(error):
                raise
            return self._nothing()
        return {
            "loss": losses["loss"],
            "loss_error": losses["loss_error"],
            "reconstruction": losses["reconstruction"],
            "levels": [_in_short(level, level.gaussian_information) for level in levels],
        }

    @torch.no_grad()
    def _losses(self, rows: Batch) -> dict[str, float]:
        """Losses of a decoder that is not Gaussian, as they are trained on and forecast."""
        device, found = self.model.eta_enc.device, {"loss": 0.0, "reconstruction": 0.0}
        betas, each = self.objective.beta_levels, Running()
        generator = seeds.generator(self.settings.seed, seeds.MEASURE, device=device)
        for start in range(0, len(rows.x), CHUNK):
            cut = slice(start, start + CHUNK)
            x = rows.x[cut].to(device)
            y = None if rows.y is None else rows.y[cut].to(device)
            terms = self.model(x, y, self.model.draw_noise(len(x), generator, x.dtype))
            share = len(x) / len(rows.x)
            found["loss"] += share * float(loss(terms, betas))
            found["reconstruction"] += share * float(terms.squared_error.mean()) / 2
            kl = sum(beta * level.sum(1) for beta, level in zip(betas, terms.kl, strict=True))
            each.add(in_double(terms.squared_error / 2 + kl))
        return {**found, "loss_error": float(each.error)}

    def _nothing(self) -> dict[str, Any]:
        levels = [
            {"n_active": None, "kl": [math.nan] * n, "information": [math.nan] * n}
            for n in self.spec.dims
        ]
        losses = dict.fromkeys(("loss", "loss_error", "reconstruction"), math.nan)
        return {**losses, "levels": levels}

    def summary(self) -> dict[str, Any]:
        """Return what was measured beside what was forecast, as plain JSON-able values.

        Returns:
            `measured` and `forecast` with the same keys: `loss`, and per level (bottom first)
            `n_active`, and per unit `kl` and `information` in nats; `forecast` is None where
            there is none, and says `undetermined` where other counts cost as much, and of which
            `undetermined_levels`. Where there is one, `measured` has besides the `collapsed_loss`
            of the best model without latent units (None: not known, or not to be had).
            `cautions` is there where the forecast's notes say of the data to beware of something.
            `approximate` is there, and True, for a likelihood that is not Gaussian: the forecast's
            loss is then none to be reached.
        """
        found, expected = self.forecast, None
        measured = dict(self.measured())
        if found is not None:
            expected = {
                "loss": found.loss,
                "levels": [_in_short(level, level.information) for level in found.levels],
            }
            if found.undetermined:
                expected["undetermined"] = True
                expected["undetermined_levels"] = list(found.undetermined_levels)
            if cautions := cautions_on_data(found.notes):
                expected["cautions"] = list(cautions)
            known = counts_alike(found) and collapses_freely(found)
            measured["collapsed_loss"] = collapsed_loss(found) if known else None
        found_and_expected = {"measured": measured, "forecast": expected}
        rough = {} if self.spec.likelihood == "gaussian" else {"approximate": True}
        return {"stopped": self.stopped, **found_and_expected, **rough}

    def to_dict(self) -> dict[str, Any]:
        """Return all but the model as plain JSON-able values: attributes by name.

        What was measured and forecast, which takes a pass over the data, is in `summary`.
        """
        return {name: value for name, value in super().to_dict().items() if name != "model"}

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield the epochs, for `to_frame`."""
        for values in zip(*self.history.values(), strict=True):
            yield dict(zip(self.history, values, strict=True))

    @property
    def objective(self) -> Spec:
        """The spec whose loss, in the convention "elbo", this run went down."""
        return effective_spec(self.spec, self.settings.convention)

    @property
    def floor(self) -> str | None:
        """What held the KL up besides; see `Settings.floor`."""
        return self.settings.floor

    @property
    def _kept(self) -> int:
        """The row of the history at whose end the parameters were what they are."""
        judged = self.history.get("validation_loss") or self.history.get("loss", [])
        returned = self.stopped in ("finished", "early") and self._best in judged
        return judged.index(self._best) if returned else -1

    def __repr__(self) -> str:
        last = {name: column[self._kept] for name, column in self.history.items() if column}
        active = "; ".join(
            f"z{level}: {last[f'active_{level}']:.0f} of {count_of(dim, 'unit')} active"
            for level, dim in enumerate(self.spec.dims, 1)
            if f"active_{level}" in last
        )
        steps = "no epoch"
        if last:
            taken = int(self.history["step"][-1])
            back = f" and back to step {last['step']:.0f}" * (last["step"] < taken)
            steps = f"{count_of(taken, 'step')}{back}, loss {last['loss']:.6g}"
        name = self.model.architecture.name
        return f"Fitted({self.spec.model}, {name}; {steps}; {active}; {self.stopped})"


def _in_short(level: Any, information: Float) -> dict[str, Any]:
    """What is told of a level, measured or forecast."""
    return {
        "n_active": level.n_active,
        "kl": level.kl.tolist(),
        "information": information.tolist(),
    }
