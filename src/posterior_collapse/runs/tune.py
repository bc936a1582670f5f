"""`tune`: find the beta, or the number of latents, with which a network keeps its units.

Theory says where to look. Then networks are trained there, many betas in one vectorised run, and
their units are counted. A count of active units falls as beta rises, but for a unit by chance of
the seed, and it falls as training goes on, of Gaussian decoders down to what the linear optimum
keeps or less. So a coarse grid of betas, trained half as long, says where the count, smoothed to
fall all along, is about what is wanted. A finer one with all seeds follows, and up to three more,
between its neighbours; where counts changed in the second half of their runs, or are above the
linear one, the next trains twice as long, up to four times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from posterior_collapse import checks
from posterior_collapse.arrays import Float
from posterior_collapse.data.about import UNKNOWN, About, about
from posterior_collapse.data.samples import Stream, read
from posterior_collapse.diagnosis.conclusions import kept_of
from posterior_collapse.errors import NonFiniteLossError, count_of, of_level
from posterior_collapse.models import Architecture
from posterior_collapse.records import Record, Viewed
from posterior_collapse.runs.completing import MOST_TOGETHER
from posterior_collapse.runs.goal import WIDER, Goal, Theory
from posterior_collapse.runs.sweep import Finished, sweep
from posterior_collapse.specs import Spec, in_order
from posterior_collapse.theory.minimum import FINISHED
from posterior_collapse.training import Progress, Settings
from posterior_collapse.training.arguments import check_together, split
from posterior_collapse.training.engine import action_if_not_finite

Try = Callable[[Sequence[float], int, float], "list[Trial]"]
"""Trains values, so many seeds each, so many times the length that was asked for."""

LONGEST = 4.0
"""Times the length that was asked for, beyond which nothing trains: then it is said."""
COARSE = 0.5
"""Length of its runs, of those of the others."""
MOST_GRIDS, CLOSEST = 4, 1.01
"""Of betas that stand, between neighbours farther apart than this factor."""
SAME = 0.5
"""Units, averaged over the seeds, by which counts may differ and be called the same."""
TRAINING = {"steps": 6000, "learning_rate": 3e-3}
"""Unless told otherwise. Of digits counts about stand by then; at the usual rate of 1e-3 they fall
for four times as long, and at 1e-2 the noise of the steps costs units and loss."""


@dataclass(frozen=True)
class Trial(Record):
    """One value of what is tuned, trained from several seeds.

    Attributes:
        value: Of beta, or of the number of latent units.
        active: Active units at the end, per seed, as `diagnose` counts them.
        halfway: Those at half of the run, per seed; None where it has too few epochs to tell.
        linear: Those of the linear optimum, counted likewise; None where it has no closed form.
        approximate: Whether `linear` is a quadratic approximation's: of no Gaussian decoder.
    """

    value: float
    active: tuple[int, ...]
    halfway: tuple[int | None, ...]
    linear: int | None
    steps: int
    approximate: bool = False

    derived: ClassVar = ("mean", "above", "still")

    @property
    def mean(self) -> float:
        """Active units, averaged over the seeds."""
        return sum(self.active) / len(self.active)

    @property
    def above(self) -> bool:
        """Whether more units are active than in the linear optimum, as before training ends."""
        return self.linear is not None and not self.approximate and self.mean >= self.linear + SAME

    @property
    def still(self) -> bool:
        """Whether counts have stood since half of the runs, on average, and need not fall yet."""
        before = [n for n in self.halfway if n is not None]
        known = len(before) == len(self.active)
        return known and not self.above and abs(sum(before) / len(before) - self.mean) < SAME

    @property
    def at_most(self) -> tuple[int, ...]:
        """Units, per seed, that may be active when training has ended: no more than linear ones."""
        if self.linear is None or self.approximate:
            return self.active
        return tuple(min(count, self.linear) for count in self.active)

    def keeps(self, wanted: int) -> bool:
        """Return whether the seeds keep so many units on average, and none is off by more than one.

        Example:
            >>> [Trial(1.0, kept, kept, None, 1).keeps(8) for kept in ((8, 9, 7), (8, 9, 9))]
            [True, False]
        """
        off = max(abs(count - wanted) for count in self.active)
        return off <= 1 and abs(self.mean - wanted) < SAME


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
        of = f"z{self.level}'s " * (len(self.spec.dims) > 1) + count_of(self.units, "unit")
        return (
            f"Tuned({self.parameter} {found.value:g}: {counts} of {of} active "
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
    """Find the spec with which this network, trained this way, keeps so many units.

    The forecast counts what a linear model keeps; a network keeps fewer, and how many depends on
    it. So networks train at betas between those that theory gives for the two (or up to the onset,
    where it only approximates), and their units are counted. The same seed gives the same result,
    on one machine.

    Args:
        data: As in `fit`.
        spec: The spec to tune; all else in it stays.
        architecture: As in `fit`.
        active: Units to keep; None: all that the level has. Not with `tune="latents"`.
        tune: `"beta"`, of the level alone, or `"latents"`: at the spec's beta, the most latent
            units of which none collapses.
        level: In a hierarchy, the level whose units are to be kept, from 1 (an index, from 0, is
            what `phase_diagram` takes); None: the last, which collapses first, since it sees the
            data only through the others.
        seeds: Number of seeds, from that of the settings on.
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
    common, networks = split(settings, {**usual, **options}, exact, THIS)
    net = Architecture.of(architecture, **networks)
    check_together([spec], net, common, exact)
    known = about(data, conditional=spec.model == "cvae")
    source = read(data, spec.model == "cvae")
    rows = source.collected()
    if isinstance(source, Stream) and not source.is_loader:
        data = rows  # an iterator can be read once
    theory = Theory(rows, goal, net, common.convention)

    def train(values: Sequence[float], seeds: int, times: float) -> list[Trial]:
        longer = common.lengthened(times)
        runs = [(value, longer.seed + i) for value in values for i in range(seeds)]
        # One order of the data for all, so that betas and seeds train in one vectorised run.
        done = sweep(
            [goal.at(value) for value, _ in runs],
            data,
            net,
            folder=folder,
            client=client,
            settings=longer.replace(order_seed=longer.data_order),
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
        settings=common.lengthened(found.times),
        seeds=number,
        notes=(),
        level=goal.index + 1,
        _about=known,
    )
    return best.replace(notes=(*_notes(best), *theory.cautions(best.spec)))


THIS = tune  # inside of it, an argument has its name


def _trial(value: float, runs: Sequence[Finished], level: int) -> Trial:
    for one in runs:
        if one.stopped.startswith("non-finite"):
            started = not one.stopped.endswith(" at step 0")
            got = f"{one.stopped} with {one.run.spec!r}, seed {one.run.settings.seed}"
            action = action_if_not_finite(one.run.spec, started=started)
            raise NonFiniteLossError("loss", got, "a finite loss in every run", action)
    forecast = runs[0].forecast
    return Trial(
        value=value,
        active=tuple(_active(one.measured, level) for one in runs),
        halfway=tuple(_halfway(one, level) for one in runs),
        linear=None if forecast is None else kept_of(forecast["levels"][level]),
        steps=max(int(one.history["step"][-1]) for one in runs),
        approximate=runs[0].run.spec.likelihood != "gaussian",
    )


def _active(found: Mapping[str, Any], level: int) -> int:
    return int(found["levels"][level]["n_active"])


def _halfway(run: Finished, level: int) -> int | None:
    """Return the active units at half of a run, as the median over an eighth of it."""
    if run.run.method == "exact":  # a minimum is one however many iterations it took
        return _active(run.measured, level) if run.stopped == FINISHED else None
    counts, steps = (np.asarray(run.history[name]) for name in (f"active_{level + 1}", "step"))
    if len(steps) < 4:  # too few epochs to tell half of the run from its end
        return None
    near = np.abs(steps - steps[-1] * 9 / 16) <= steps[-1] / 16
    near[np.abs(steps - steps[-1] / 2).argmin()] = True
    return int(np.median(counts[near]))


def _notes(tuned: Tuned) -> Iterator[str]:
    found, wanted, linear = tuned.chosen, tuned.wanted, tuned.architecture.name == "linear"
    at, counts = f"{tuned.parameter} {found.value:g}", ", ".join(map(str, found.active))
    longer = f"train longer, e.g. steps={4 * found.steps}"
    # Of a count above the linear one, which is about to fall, is told below.
    falls = found.above and found.replace(active=found.at_most).keeps(wanted)
    if not found.keeps(wanted) and not falls:
        units = count_of(wanted, "unit") + of_level(tuned.level, len(tuned.spec.dims))
        # The betas that are tried end where nothing lives any more.
        more = f": {longer}" if found.approximate and min(found.active) > wanted else ""
        yield f"no {tuned.parameter} that was tried keeps {units}; {at} keeps {counts}{more}"
    elif found.keeps(wanted) and set(found.active) != {wanted}:
        yield f"at {at} the seeds keep {counts}: a unit more or less is chance"
    if found.above:
        so = "so that training has not ended" if linear else "which networks seldom keep for good"
        many = f"more units are active than the {found.linear} of the linear optimum"
        yield f"at {at} {many}, {so}: {longer}"
    elif None in found.halfway:
        yield f"whether counts still fall at {at} cannot be told: no minimum or too few epochs"
    elif not found.still:
        before = sum(n or 0 for n in found.halfway) / len(found.halfway)
        yield (
            f"at {at} counts changed in the second half of {found.steps:,} steps, on average from "
            f"{before:.3g} to {found.mean:.3g}: {longer}"
        )


class Found(NamedTuple):
    """What a search found.

    Attributes:
        best: Of the longest runs, which have `times` the length asked for, the one nearest.
    """

    trials: list[Trial]
    best: Trial
    times: float


def search_beta(
    train: Try, low: float, high: float, wanted: int, seeds: int, *, fixed_length: bool = False
) -> Found:
    """Close in on the betas that keep what is wanted, from those between two ends.

    So many seeds are counted, but on the coarse grid, which takes one. Runs of a fixed length are
    never made shorter or longer.
    """
    times = 1.0 if fixed_length else COARSE
    here = train(_inside(low, high, MOST_TOGETHER), 1, times)
    trials = list(here)
    best = _nearest(here, wanted)
    rounds = 0
    low, high = _crossing(here, wanted)
    # Two grids of betas after the coarse one, and more while counts move or step over the wanted.
    while rounds < 2 or (
        rounds < MOST_GRIDS and not best.keeps(wanted) and high > CLOSEST * low
        if best.still
        else not fixed_length and times < LONGEST
    ):
        rounds += 1
        if not fixed_length and (times < 1 or not best.still):
            # Longer runs keep as many at lower betas.
            times, low, here = 2 * times, low / WIDER**0.5, []
        new = train(_inside(low, high, max(2, MOST_TOGETHER // seeds)), seeds, times)
        here, trials = [*here, *new], [*trials, *new]
        best = _nearest(here, wanted)
        if best.still and best.keeps(wanted):
            break
        low, high = _crossing(here, wanted)
    return Found(trials, best, times)


def _inside(low: float, high: float, count: int) -> list[float]:
    """Return values between two ends, at even distances in logarithms, of three digits."""
    found = low * (high / low) ** ((np.arange(count) + 0.5) / count)
    return sorted({float(f"{value:.3g}") for value in found})


def _crossing(trials: Sequence[Trial], wanted: int) -> tuple[float, float]:
    """Return the values between which the count, smoothed to fall all along, is what is wanted."""
    from sklearn.isotonic import IsotonicRegression

    trials = sorted(trials, key=lambda trial: trial.value)
    values = np.array([trial.value for trial in trials])
    counts = np.array([float(np.mean(trial.at_most)) for trial in trials])
    weights = np.array([len(trial.active) for trial in trials])
    smooth: Float = IsotonicRegression(increasing=False).fit_transform(
        np.log(values), counts, sample_weight=weights
    )
    many, few = values[smooth >= wanted + 0.5], values[smooth <= wanted - 0.5]
    wider = 1.0 if wanted in counts else WIDER
    low = many.max() if many.size else values.min() / wider
    high = few.min() if few.size else values.max() * wider
    return float(low), float(high)


def _nearest(trials: Sequence[Trial], wanted: int) -> Trial:
    """Return the trial that keeps what is wanted most surely; of several the one in the middle."""

    def doubt(trial: Trial) -> tuple[Any, ...]:
        off = [abs(count - wanted) for count in trial.at_most]
        return (-len(trial.active), sum(off) / len(off), max(off), not trial.still)

    least = min(map(doubt, trials))
    same = sorted((one for one in trials if doubt(one) == least), key=lambda one: one.value)
    return same[len(same) // 2]


def search_latents(train: Try, first: int, most: int, seeds: int) -> Found:
    """Find the most units, from those to try first to `most`, that all live, of so many seeds.

    Where no number does, the best is the fewest.
    """
    trials: list[Trial] = []
    good, bad, guess = 0, most + 1, first
    while bad - good > 1:
        (trial,) = train([guess], seeds, 1)
        trials.append(trial)
        if trial.active == (guess,) * seeds:
            good, guess = guess, guess + 1
        else:
            bad, guess = guess, round(trial.mean)
        if not good < guess < bad:
            guess = (good + bad) // 2
    best = next(trial for trial in trials if trial.value == max(good, 1))
    return Found(trials, best, 1.0)
