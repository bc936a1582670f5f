"""`tune`: find the beta, or the number of latents, with which a network keeps its units.

Theory says where to look. Then networks are trained there, many betas in one vectorised run, and
their units are counted: where the count crosses what is wanted, a finer grid with several seeds
follows. Counts of networks fall for a long time as training goes on, so each is compared with that
at half of its run, and while they still fall the next grid trains twice as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from posterior_collapse import checks
from posterior_collapse.data.about import UNKNOWN, About, about
from posterior_collapse.data.samples import Stream, read
from posterior_collapse.errors import NonFiniteLossError
from posterior_collapse.models import Architecture
from posterior_collapse.records import Viewed
from posterior_collapse.runs.goal import Goal, Theory
from posterior_collapse.runs.search import Trial, search_beta, search_latents
from posterior_collapse.runs.sweep import Finished, sweep
from posterior_collapse.specs import Spec, in_order
from posterior_collapse.theory.minimum import FINISHED
from posterior_collapse.training import Progress, Settings
from posterior_collapse.training.arguments import split

__all__ = ["Tuned", "tune"]

TRAINING = {"steps": 6000, "learning_rate": 3e-3}
"""Unless told otherwise. Of digits counts about stand by then; at the usual rate of 1e-3 they fall
for four times as long, and at 1e-2 the noise of the steps costs units and loss."""
FEW_EPOCHS = 4
"""Of fewer nothing is said about half of the run."""


@dataclass(frozen=True, eq=False, repr=False)
class Tuned(Viewed):
    """What `tune` found.

    Attributes:
        spec: The spec that keeps the wanted units in this network, or comes nearest.
        parameter: What was tuned, "beta" or "latent_dim"; of a hierarchy with the level, "beta_2".
        wanted: Active units that were looked for.
        curve: What was measured, beside the linear count, by ascending value.
        chosen: The trial of `spec`.
        architecture: The network.
        settings: How `chosen` was trained; `pc.fit(tuned.spec, data, tuned.architecture,
            settings=tuned.settings)` does it again.
        seeds: How many were asked for.
        notes: Why it is less than sure, and what to do.
        level: Whose units were counted, from 1.
    """

    view: ClassVar[str] = "tuned"
    derived: ClassVar = ("settled",)
    spec: Spec
    parameter: str
    wanted: int
    curve: tuple[Trial, ...]
    chosen: Trial
    architecture: Architecture
    settings: Settings
    seeds: int
    notes: tuple[str, ...]
    level: int = 1
    _about: About = UNKNOWN

    @property
    def settled(self) -> bool:
        """Whether the seeds keep what is wanted, give or take a unit, and have since half-time."""
        found = self.chosen
        return len(found.active) == self.seeds and found.still and found.keeps(self.wanted)

    @property
    def units(self) -> int:
        """How many the level has."""
        return self.spec.dims[self.level - 1]

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield a row per trial: its value, the count of each seed and their mean, the linear."""
        for trial in self.curve:
            counts = {f"active_{i}": count for i, count in enumerate(trial.active, 1)}
            ends = {"active": trial.mean, "linear": trial.linear, "still": trial.still}
            yield {self.parameter: trial.value, "steps": trial.steps, **ends, **counts}

    def __repr__(self) -> str:
        found = self.chosen
        counts = " ".join(map(str, found.active))
        sure = "settled" if self.settled else "not settled"
        of = f"z{self.level}'s {self.units}" if len(self.spec.dims) > 1 else self.units
        return (
            f"Tuned({self.parameter} {found.value:g}: {counts} of {of} units active "
            f"by seed, {self.wanted} wanted; {sure})"
        )


def tune(
    data: Any,
    spec: Spec | Any,
    architecture: str | Architecture = "mlp",
    *,
    active: int | None = None,
    tune: Literal["beta", "latents"] = "beta",
    level: int | None = None,
    seeds: int = 3,
    settings: Settings | None = None,
    folder: str | Path | None = None,
    client: Any = None,
    progress: bool | Callable[[Progress], None] = False,
    exact: bool = False,
    **options: Any,
) -> Tuned:
    """Find the spec that keeps so many units in this network, trained this way.

    The forecast counts what a linear model keeps; a network keeps fewer, and how many depends on
    it. So betas between what theory says of the two are trained and counted. The same seed gives
    the same result, on one machine.

    Args:
        data: As in `fit`.
        spec: All but what is tuned stays.
        architecture: As in `fit`.
        active: Units to keep; None: all that the level has. Not with `tune="latents"`.
        tune: `"beta"`, of the level alone, or `"latents"`: at the spec's beta, the most latent
            units of which none collapses.
        level: Of a hierarchy, whose units are to be kept, from 1; None: the last. It collapses
            first, since it hears the data only through the others.
        seeds: How many, from that of the settings on.
        settings: How to train; None: 6,000 steps of Adam at 0.003. Where counts still fall, the
            last runs are twice as long.
        folder: Where finished runs are kept, as in `sweep`: tuning again with the same arguments
            goes on where it was stopped.
        client: As in `sweep`.
        progress: As in `sweep`.
        exact: As in `fit`.
        **options: As in `fit`.

    Raises:
        InvalidArgumentError: More units wanted than the spec or the data have, or a number that no
            beta of this level keeps; or as in `fit`.
        DataError: The data cannot be used.
        NotSolvedError: No closed form is known for this spec, so theory cannot place the grid.
        NonFiniteLossError: A run diverged.
        OutputError: The folder cannot be written.

    Example:
        >>> from posterior_collapse import VAESpec, forecast
        >>> x = np.random.default_rng(0).standard_normal((500, 4)) * [3, 2, 1, 0.1]
        >>> tuned = tune(x, VAESpec(latent_dim=4), "linear", active=2, exact=True)
        >>> tuned.settled, tuned.chosen.active
        (True, (2, 2, 2))
        >>> forecast(x, tuned.spec).n_active
        2
    """
    data, spec = in_order(data, spec)
    goal = Goal(spec, tune, active, level)
    number = checks.whole("seeds", seeds, least=1)
    usual = {} if exact or settings else {**TRAINING}
    if "epochs" in options:
        usual.pop("steps", None)
    common, networks = split(settings, {**usual, **options}, exact)
    net = Architecture.of(architecture, **networks)
    known = about(data, conditional=spec.model == "cvae")
    source = read(data, spec.model == "cvae")
    rows = source.collected()
    if isinstance(source, Stream) and not source.is_loader:
        data = rows  # an iterator can be read once
    theory = Theory(rows, goal, net, common.convention)

    def train(values: Sequence[float], seeds: int, times: float) -> list[Trial]:
        longer = _longer(common, times)
        first = longer.seed
        runs = [(value, first + i) for value in values for i in range(seeds)]
        # One order of the data for all, so that betas and seeds train in one vectorised run.
        order = first if longer.order_seed is None else longer.order_seed
        done = sweep(
            [goal.at(value) for value, _ in runs],
            data,
            net,
            folder=folder,
            client=client,
            settings=longer.replace(order_seed=order),
            seeds=[seed for _, seed in runs],
            progress=progress,
            exact=exact,
        ).runs
        groups = (done[i : i + seeds] for i in range(0, len(done), seeds))
        return [_trial(v, of, goal.index) for v, of in zip(values, groups, strict=True)]

    if tune == "beta":
        found = search_beta(train, *theory.interval(), goal.wanted, number, fixed_length=exact)
    else:
        found = search_latents(train, *theory.latents(), number)
    best = Tuned(
        spec=goal.at(found.best.value),
        parameter=goal.parameter,
        wanted=goal.wanted if tune == "beta" else int(found.best.value),
        curve=tuple(sorted(found.trials, key=lambda trial: (trial.value, trial.steps))),
        chosen=found.best,
        architecture=net,
        settings=_longer(common, found.times),
        seeds=number,
        notes=(),
        level=goal.index + 1,
        _about=known,
    )
    return best.replace(notes=tuple(_notes(best)))


def _longer(settings: Settings, times: float) -> Settings:
    name = "epochs" if settings.steps is None else "steps"
    return settings.replace(**{name: max(1, round(times * getattr(settings, name)))})


def _trial(value: float, runs: Sequence[Finished], level: int) -> Trial:
    for one in runs:
        if one.stopped.startswith("non-finite"):
            raise NonFiniteLossError(
                "loss", f"{one.stopped} with {one.run.spec!r}, seed {one.run.settings.seed}",
                "a finite loss in every run", "Lower learning_rate, or pass clip=1.",
            )  # fmt: skip
    forecast = runs[0].forecast
    return Trial(
        value=value,
        active=tuple(_active(one.measured, level) for one in runs),
        halfway=tuple(_halfway(one, level) for one in runs),
        linear=None if forecast is None else _active(forecast, level),
        steps=max(int(one.history["step"][-1]) for one in runs),
    )


def _active(found: Mapping[str, Any], level: int) -> int:
    return int(found["levels"][level]["n_active"])


def _halfway(run: Finished, level: int) -> int | None:
    """Return the active units at half of a run, as the median over an eighth of it."""
    if run.run.method == "exact":  # a minimum is one however many iterations it took
        return _active(run.measured, level) if run.stopped == FINISHED else None
    counts = np.asarray(run.history[f"active_{level + 1}"])
    steps = np.asarray(run.history["step"])
    if len(steps) < FEW_EPOCHS:
        return None
    near = np.abs(steps - steps[-1] * 9 / 16) <= steps[-1] / 16
    near[np.abs(steps - steps[-1] / 2).argmin()] = True
    return int(np.median(counts[near]))


def _notes(tuned: Tuned) -> Iterator[str]:
    found, wanted = tuned.chosen, tuned.wanted
    at = f"{tuned.parameter} {found.value:g}"
    counts = ", ".join(map(str, found.active))
    if not found.keeps(wanted):
        of = f" of z{tuned.level}" if len(tuned.spec.dims) > 1 else ""
        units = f"{wanted} unit{'s' * (wanted != 1)}{of}"
        yield f"no {tuned.parameter} that was tried keeps {units}; {at} keeps {counts}"
    elif set(found.active) != {wanted}:
        yield f"at {at} the seeds keep {counts}: a unit more or less is chance"
    longer = f"train longer, e.g. steps={4 * found.steps}"
    if found.above:
        yield (
            f"at {at} more units are active than the {found.linear} of the linear optimum, so that "
            f"training has not ended: {longer}"
        )
    elif None in found.halfway:
        yield f"whether counts still fall at {at} cannot be told: no minimum or too few epochs"
    elif not found.still:
        before = sum(n or 0 for n in found.halfway) / len(found.halfway)
        yield (
            f"at {at} counts changed in the second half of {found.steps:,} steps, on average from "
            f"{before:.3g} to {found.mean:.3g}: {longer}"
        )
