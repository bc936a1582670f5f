"""The one result type of this room: a trained model, its course, and what was forecast."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from posterior_collapse.errors import NotSolvedError, UnboundedObjectiveError
from posterior_collapse.models import MarkovVAE
from posterior_collapse.specs import Spec
from posterior_collapse.theory import Forecast, forecast
from posterior_collapse.training.annealing import effective_spec
from posterior_collapse.training.feeding import Feed
from posterior_collapse.training.measuring import measure
from posterior_collapse.training.settings import Settings

__all__ = ["Fitted"]

History = dict[str, list[float]]


class Fitted:
    """A trained model; `fit` and `fit_many` make it.

    Attributes:
        model: The `LatentModel`, on the CPU.
        spec: The hyperparameters.
        settings: How it was trained; `fit` with them (and the same data) gives the same run.
        history: Columns by name, one entry per epoch: `epoch`, `step`, `loss`, `reconstruction`,
            and `kl_1`, `active_1` and so on per level; `validation_loss` with validation data.
            Losses are those trained on (in nats per row, averaged over the epoch), KL without
            beta, active units as at the epoch's end.
        stopped: `"finished"`, `"early"`, `"iteration limit"` (L-BFGS was not at a minimum), or
            `"non-finite: "` and the step and the term.
    """

    def __init__(
        self,
        model: MarkovVAE,
        settings: Settings,
        history: History,
        stopped: str,
        feed: Feed,
    ) -> None:
        self.model = model
        self.spec: Spec = model.spec
        self.settings = settings
        self.history = history
        self.stopped = stopped
        self._feed = feed

    @cached_property
    def forecast(self) -> Forecast | None:
        """The closed-form optimum of the linear model of the same spec on the same data.

        None where no closed form is known or the loss has no minimum. Under another convention
        than `"elbo"` the spec's betas are those that this convention amounts to.
        """
        try:
            return forecast(self._feed.moments(self._biases), self._spec)
        except (NotSolvedError, UnboundedObjectiveError):
            return None

    def measured(self) -> dict[str, Any]:
        """Return `loss` (negative beta-ELBO in nats per row) and per level `n_active` and `kl`.

        On the training data; exact for linear models, else sampled from the run's own seed. A unit
        is active from `ACTIVE_INFORMATION` nats of I(x; z_i) on, as if z_i were Gaussian: from the
        second moments of its mean and its average variance. `diagnose` takes the mutual
        information itself; where sigma depends on the input the two counts can differ. Units that
        share one fixed std can be rotated freely: there, `information` is that of their
        directions, most informed first.
        """
        return self._measured

    @cached_property
    def _measured(self) -> dict[str, Any]:
        return measure(self.model, self._feed, self._spec, self.settings.seed)

    def summary(self) -> dict[str, Any]:
        """Return what was measured beside what was forecast, as plain JSON-able values.

        Returns:
            `measured` and `forecast` with the same keys: `loss`, and per level (bottom first)
            `n_active`, and per unit `kl` and `information` in nats; `forecast` is None where
            there is none.
        """
        found = self.forecast
        expected = found and {
            "loss": found.loss,
            "levels": [
                {
                    "n_active": level.n_active,
                    "kl": level.kl.tolist(),
                    "information": level.information.tolist(),
                }
                for level in found.levels
            ],
        }
        return {"stopped": self.stopped, "measured": self.measured(), "forecast": expected}

    @property
    def _spec(self) -> Spec:
        return effective_spec(self.spec, self.settings.convention)

    @property
    def _biases(self) -> bool:
        architecture = self.model.architecture
        return architecture.bias if architecture.name == "linear" else True

    def __repr__(self) -> str:
        last = {name: column[-1] for name, column in self.history.items() if column}
        levels = range(1, len(self.spec.dims) + 1)
        active = "; ".join(
            f"z{level}: {last[f'active_{level}']:.0f} of {self.spec.dims[level - 1]} units active"
            for level in levels
            if f"active_{level}" in last
        )
        steps = f"{last['step']:.0f} steps, loss {last['loss']:.6g}" if last else "no epoch"
        name = self.model.architecture.name
        return f"Fitted({self.spec.model}, {name}; {steps}; {active}; {self.stopped})"
