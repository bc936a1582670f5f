"""What `tune` is asked for, and where theory says to look for it; all of it without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError, UnboundedObjectiveError, of_level
from posterior_collapse.models import Architecture
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Spec
from posterior_collapse.theory import Forecast, forecast
from posterior_collapse.theory.forecasting import cautions_on_data
from posterior_collapse.training.settings import effective_spec

LOWEST = 64.0
"""Factor below the linear model's beta within which a network is looked for."""
WIDER = 2.0
"""Factor by which a grid goes beyond its end, where the count does not cross there."""
DECADES = 8.0
"""Of betas below the highest at which a unit lives: where none switches there, none does."""
HALVINGS = 24
"""Of these decades, after which a beta is known to a millionth of it."""


@dataclass(frozen=True)
class Goal:
    """The units that are to be kept, and what is turned for it.

    Args:
        spec: All but what is tuned stays.
        active: Units to keep; None: all that the level has.
        level: Whose units, from 1; None: the last. It collapses first, since it hears the data only
            through the others, and its beta weighs its KL alone.

    Raises:
        InvalidArgumentError: Another parameter, no such level, or more units than it has.

    Example:
        >>> from posterior_collapse.specs import HVAESpec
        >>> goal = Goal(HVAESpec(latent_dims=(8, 4)), active=3)
        >>> goal.parameter, goal.at(0.5).betas
        ('beta_2', (1.0, 0.5))
    """

    spec: Spec
    tune: str = "beta"
    active: int | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.spec, Spec):
            raise InvalidArgumentError(
                "spec", type(self.spec).__name__, "a Spec", "Pass a VAESpec."
            )
        checks.one_of("tune", self.tune, ("beta", "latents"))
        levels = len(self.spec.dims)
        level = levels if self.level is None else checks.whole("level", self.level, least=1)
        if level > levels:
            raise InvalidArgumentError(
                "level", level, f"at most {levels}, the latent levels of the spec",
                "Levels count from 1, the one next to the data.",
            )  # fmt: skip
        object.__setattr__(self, "level", level)
        if self.tune == "latents" and isinstance(self.spec.sigma_levels[level - 1], tuple):
            name = self.named("sigma")
            raise InvalidArgumentError(
                name,
                f"{self.units} values, one per unit",
                "one for all with tune='latents', which changes how many units there are",
                f"Give the spec {name}='learned' or a number.",
            )
        if self.active is None:
            return
        if self.tune == "latents":
            raise InvalidArgumentError(
                "active", self.active, "nothing beside tune='latents', which finds that number",
                "Leave it out, or tune beta.",
            )  # fmt: skip
        if checks.count("active", self.active) > self.units:
            of = of_level(level, levels)
            raise InvalidArgumentError(
                "active", self.active, f"at most {self.units}, the latent units{of} of the spec",
                f"Give it {self.named('latent_dim')}={self.active} or more.",
            )  # fmt: skip

    @property
    def index(self) -> int:
        """Of the level, from 0."""
        return int(self.level or 1) - 1

    @property
    def units(self) -> int:
        """How many the level has."""
        return self.spec.dims[self.index]

    @property
    def wanted(self) -> int:
        """How many are to be kept."""
        return self.units if self.active is None else int(self.active)

    @property
    def parameter(self) -> str:
        """What is tuned: "beta" or "latent_dim", of a hierarchy with the level, as "beta_2"."""
        return self.named("beta" if self.tune == "beta" else "latent_dim")

    def named(self, name: str) -> str:
        """Return what a field is called, of a hierarchy with the level."""
        return name if len(self.spec.dims) == 1 else checks.level(f"{name}s", self.index + 1)

    def at(self, value: float) -> Spec:
        """Return the spec with a value of what is tuned."""
        name = "beta" if self.tune == "beta" else "latent_dim"
        return self.spec.with_level(name, self.index + 1, value)


class Theory:
    """Where theory says to look, in the spec's own beta, whatever the convention of the loss."""

    def __init__(self, rows: Any, goal: Goal, net: Architecture, convention: str) -> None:
        self.rows, self.goal, self.net, self.convention = rows, goal, net, convention
        spec = goal.spec
        self.factor = effective_spec(spec, convention).beta_levels[0] / spec.beta_levels[0]

    def forecast(self, spec: Spec, rows: Any = None, network: bool = False) -> Forecast:
        """Return the forecast for a spec of this goal, from all rows or from what is passed."""
        bias: Any = "both" if self.net.centred else "none"
        rows = self.rows if rows is None else rows
        return forecast(rows, effective_spec(spec, self.convention), bias=bias, network=network)

    @property
    def linear(self) -> bool:
        """Whether the network is one: no parts of the data say how few units it keeps."""
        return self.net.name == "linear"

    @property
    def bounded(self) -> bool:
        """Whether closed forms count what a linear model keeps at most, and do not approximate."""
        return self.goal.spec.likelihood == "gaussian"

    @cached_property
    def now(self) -> Forecast:
        """The forecast for the spec as it is."""
        return self.forecast(self.goal.spec)

    def interval(self) -> tuple[float, float]:
        """Return the betas between which the count of a network crosses what is wanted.

        Above the upper one not even a linear model keeps as many, or where its counts are but
        approximated, none at all. At the lower one each part of the data alone has as many modes
        above the threshold, so that a network keeps no fewer; of upper levels, whose data are not
        known before training, it is a guess.
        """
        below, kept = self.crossings()
        high = kept
        if not self.bounded and self.goal.index == 0:
            high = max(kept, self.now.onset / self.factor)
        if self.linear:
            return below, high
        low = kept / LOWEST
        if self.goal.index > 0 or not self._fewest(low):
            return min(kept / LOWEST**0.5, below), high
        return min(_highest(self._fewest, low, kept, halvings=6), below), high

    def crossings(self) -> tuple[float, float]:
        """Return the betas between which a linear model keeps what is wanted; see `interval`."""
        goal, wanted = self.goal, self.goal.wanted
        critical = self.now.levels[goal.index].critical_beta / self.factor
        if len(goal.spec.dims) > 1:
            return self._searched(critical[np.isfinite(critical)].max(initial=0.0))
        betas = np.sort(critical[np.nan_to_num(critical) > 0])[::-1]
        if wanted > len(betas):
            raise InvalidArgumentError(
                "active", wanted, f"at most {len(betas)}, the modes of the data",
                f"Pass active={len(betas) or 1}.",
            )  # fmt: skip
        high = float(betas[wanted - 1])
        return float(betas[wanted]) if wanted < len(betas) else high / WIDER, high

    def _searched(self, most: float) -> tuple[float, float]:
        """Return the same of a level of a hierarchy, whose units may live and yet know nothing."""
        goal, wanted = self.goal, self.goal.wanted
        count = self._counting()
        top = WIDER * (most or goal.spec.beta_levels[goal.index])
        high, below = (_last(count, units, top) for units in (wanted, wanted + 1))
        if 0 < high < top and below < high * (1 - 1e-3):
            return below or high / WIDER, high
        name, level = goal.parameter, goal.index + 1
        kept = max(count(top / 10 ** (DECADES * i / 32)) for i in range(32))
        raise InvalidArgumentError(
            "active", wanted,
            f"a number of units of z{level} that some {name} keeps: "
            + (f"at most {kept}" if high == 0 else f"so few are kept at none, {kept} at some"),
            "Tune another level, or change what else the spec says."
            if kept == 0 else f"Pass active={kept}, or change what else the spec says.",
        )  # fmt: skip

    def _counting(self) -> Callable[[float], int]:
        """Return what counts the level's active units of the linear optimum at a beta."""
        rows, goal = self.rows, self.goal
        if goal.spec.likelihood == "gaussian" and not isinstance(rows, Moments):
            rows = Moments.from_arrays(rows.x, rows.y, center=self.net.centred)

        def count(beta: float) -> int:
            try:
                return self.forecast(goal.at(beta), rows).levels[goal.index].n_active
            except UnboundedObjectiveError:  # no minimum, so none that keeps any
                return 0

        return count

    def latents(self) -> tuple[int, int]:
        """Return the number of units to try first, and the most that are tried.

        Raises:
            InvalidArgumentError: At the spec's beta it keeps none.
        """
        kept = self._most()
        most = kept if self.bounded else max(kept, int(np.count_nonzero(self.now.spectrum)))
        if self.linear or self.goal.index > 0:
            return kept, most
        bracket = self.forecast(self.goal.at(kept), network=True).bracket
        return (kept if bracket is None else max(bracket[0], 1)), most

    def cautions(self, spec: Spec) -> tuple[str, ...]:
        """Return what a forecast says of the data: of few rows, of features of unlike scale."""
        try:
            return cautions_on_data(self.forecast(spec).notes)
        except UnboundedObjectiveError:  # what is tuned is no Gaussian's optimum
            return ()

    def check(self) -> None:
        """Refuse what not even a linear model keeps; see `interval` and `latents`."""
        if self.goal.tune == "beta":
            self.crossings()
        else:
            self._most()

    def _most(self) -> int:
        """Return the most units that a linear model keeps at the spec's beta."""
        goal, found = self.goal, self.now
        most = found.n_possible
        if len(goal.spec.dims) > 1:
            found = self.forecast(goal.at(max(int(np.count_nonzero(found.spectrum)), 1)))
            most = found.levels[goal.index].n_active
        if most == 0:
            informed = found.levels[goal.index].informed_beta
            onset = float(informed[~np.isnan(informed)].max(initial=0.0)) / self.factor
            if onset == 0:
                wanted, action = (
                    f"a z{goal.index + 1} of which some beta keeps a unit",
                    "Fix a sigma.",
                )
            else:
                wanted = f"less than {onset:.3g}, above which no unit is active"
                action = "Lower it, or tune beta."
            raise InvalidArgumentError(
                goal.named("beta"), goal.spec.beta_levels[goal.index], wanted, action
            )
        return most

    def _fewest(self, beta: float) -> bool:
        try:
            bracket = self.forecast(self.goal.at(beta), network=True).bracket
        except UnboundedObjectiveError:  # a learned eta_dec, and beta too low for it
            return False
        return bracket is not None and bracket[0] >= self.goal.wanted


def _last(count: Callable[[float], int], units: int, top: float) -> float:
    """Return the highest beta at which so many units live; 0: there is none, `top`: all."""
    if count(top) >= units:
        return top
    low = top / 10**DECADES
    return 0.0 if count(low) < units else _highest(lambda b: count(b) >= units, low, top, HALVINGS)


def _highest(holds: Callable[[float], bool], low: float, high: float, halvings: int) -> float:
    """Return about the highest beta at which something holds, as it does at the low end."""
    for _ in range(halvings):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
