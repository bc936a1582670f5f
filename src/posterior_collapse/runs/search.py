"""Where to try next, and what was found: the search that `tune` makes, whatever it trains.

A count of active units falls as beta rises, but for a unit by chance of the seed, and it falls as
training goes on, down to what the linear optimum keeps or less. So a coarse grid of betas, trained
half as long, says where the count, smoothed to fall all along, is about what is wanted. A finer one
with all seeds follows, and another, between its neighbours; where counts changed in the second half
of their runs, or are above the linear one, the next trains twice as long, up to four times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.records import Record
from posterior_collapse.runs.completing import MOST_TOGETHER
from posterior_collapse.runs.goal import WIDER

__all__ = ["Found", "Trial", "Try", "search_beta", "search_latents"]

Try = Callable[[Sequence[float], int, float], "list[Trial]"]
"""Trains values, so many seeds each, so many times the length that was asked for."""

FINE = 2
"""Grids of betas after the coarse one, and more while counts move."""
LONGEST = 4.0
"""Times the length that was asked for, beyond which nothing trains: then it is said."""
COARSE = 0.5
"""Length of its runs, of those of the others."""
SAME = 0.5
"""Units, averaged over the seeds, by which counts may differ and be called the same."""


@dataclass(frozen=True)
class Trial(Record):
    """One value of what is tuned, trained from several seeds.

    Attributes:
        value: Of beta, or of the number of latent units.
        active: Active units at the end, per seed, as `diagnose` counts them.
        halfway: Those at half of the run, per seed; None where it has too few epochs to tell.
        linear: Units that the linear optimum keeps; None where there is no closed form.
        steps: Steps of each run.
    """

    value: float
    active: tuple[int, ...]
    halfway: tuple[int | None, ...]
    linear: int | None
    steps: int

    derived: ClassVar = ("mean", "above", "still")

    @property
    def mean(self) -> float:
        """Active units, averaged over the seeds."""
        return sum(self.active) / len(self.active)

    @property
    def above(self) -> bool:
        """Whether more units are active than in the linear optimum: training has not ended."""
        return self.linear is not None and self.mean >= self.linear + SAME

    @property
    def still(self) -> bool:
        """Whether counts have stood since half of the runs, on average, and need not fall yet."""
        before = [n for n in self.halfway if n is not None]
        known = len(before) == len(self.active)
        return known and not self.above and abs(sum(before) / len(before) - self.mean) < SAME

    @property
    def at_most(self) -> tuple[int, ...]:
        """Units, per seed, that may be active when training has ended: no more than linear ones."""
        if self.linear is None:
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


class Found(NamedTuple):
    """What a search found.

    Attributes:
        trials: What was tried.
        best: Of the longest runs the trial that comes nearest.
        times: How many times the length that was asked for these have.
    """

    trials: list[Trial]
    best: Trial
    times: float


def search_beta(
    train: Try, low: float, high: float, wanted: int, seeds: int, *, fixed_length: bool = False
) -> Found:
    """Close in on the betas that keep what is wanted.

    Args:
        train: Called for each grid.
        low: Lowest beta to begin with.
        high: Highest beta to begin with.
        wanted: Active units.
        seeds: How many are counted; the coarse grid takes one.
        fixed_length: Never train shorter or longer.
    """
    times = 1.0 if fixed_length else COARSE
    here = train(_inside(low, high, MOST_TOGETHER), 1, times)
    trials = list(here)
    best = _nearest(here, wanted)
    rounds = 0
    while rounds < FINE or not (fixed_length or best.still or times >= LONGEST):
        rounds += 1
        low, high = _crossing(here, wanted)
        if not fixed_length and (times < 1 or not best.still):
            # Longer runs keep as many at lower betas.
            times, low, here = 2 * times, low / WIDER**0.5, []
        new = train(_inside(low, high, max(2, MOST_TOGETHER // seeds)), seeds, times)
        here, trials = [*here, *new], [*trials, *new]
        best = _nearest(here, wanted)
        if best.still and best.keeps(wanted):
            break
    return Found(trials, best, times)


def _inside(low: float, high: float, count: int) -> list[float]:
    """Return values between two ends, at even distances in logarithms, of three digits."""
    steps = (np.arange(count) + 0.5) / count
    found = low * (high / low) ** steps
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
    """Find the most units that all live; where no number does, the best is the fewest.

    Args:
        train: Called for each number of units.
        first: Units to try first.
        most: More are not tried.
        seeds: How many have to agree.
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
