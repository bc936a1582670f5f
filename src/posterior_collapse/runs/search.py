"""Where to try next, and what was found: the search that `tune` makes, whatever it trains.

A count of active units falls as beta rises, but for noise of the seeds, and it falls as training
goes on. So grids of betas close in on where the count, smoothed to fall all along, is what is
wanted; while counts still change in the second half of their runs, the next grid trains twice as
long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.records import Record
from posterior_collapse.runs.sweep import MOST_TOGETHER

__all__ = ["WIDER", "Grids", "Trial", "Try", "nearest", "search_latents", "widest"]

Try = Callable[[Sequence[float], int, int], "list[Trial]"]
"""Trains values, so many seeds each, so many times the first length."""

ROUNDS = 3
"""Grids of betas: a coarse one with one seed, then finer ones with all seeds."""
WIDER = 2.0
"""Factor by which a grid goes beyond its end, where the count does not cross there."""


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

    derived: ClassVar = ("mean", "still")

    @property
    def mean(self) -> float:
        """Active units, averaged over the seeds."""
        return sum(self.active) / len(self.active)

    @property
    def still(self) -> bool:
        """Whether no seed's count has changed since half of its run."""
        return self.halfway == self.active


class Grids:
    """Grids of betas that close in on those that keep what is wanted.

    Args:
        train: Called for each grid.
        wanted: Active units.
        seeds: How many have to agree; the first grid, which is coarse, takes one.
        fixed_length: Never train longer.

    Attributes:
        trials: What was tried.
        best: Of the longest runs the trial that comes nearest.
        times: How many times as long as the first ones these are.
    """

    def __init__(self, train: Try, wanted: int, seeds: int, *, fixed_length: bool) -> None:
        self.train, self.wanted, self.seeds, self.fixed_length = train, wanted, seeds, fixed_length
        self.trials: list[Trial] = []
        self.times = 1

    def search(self, low: float, high: float) -> None:
        """Try betas from within these two on."""
        here: list[Trial] = []
        count, each, times = MOST_TOGETHER, 1, 1
        for _ in range(ROUNDS):
            if times > self.times:
                here, self.times = [], times
            new = self.train(_inside(low, high, count), each, times)
            here += new
            self.trials += new
            self.best = nearest(here, self.wanted)
            if self.best.active == (self.wanted,) * self.seeds and self.best.still:
                return
            low, high = _crossing(here, self.wanted)
            if len(self.best.active) == self.seeds and not (self.best.still or self.fixed_length):
                times, low = 2 * times, low / WIDER**0.5  # longer runs keep as many at lower betas
            count, each = max(2, MOST_TOGETHER // self.seeds), self.seeds


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
    counts = np.array([trial.mean for trial in trials])
    weights = np.array([len(trial.active) for trial in trials])
    smooth: Float = IsotonicRegression(increasing=False).fit_transform(
        np.log(values), counts, sample_weight=weights
    )
    many, few = values[smooth >= wanted + 0.5], values[smooth <= wanted - 0.5]
    wider = 1.0 if wanted in counts else WIDER
    low = many.max() if many.size else values.min() / wider
    high = few.min() if few.size else values.max() * wider
    return float(low), float(high)


def nearest(trials: Sequence[Trial], wanted: int) -> Trial:
    """Return the trial that keeps what is wanted most surely; of several the one in the middle."""

    def doubt(trial: Trial) -> tuple[Any, ...]:
        off = [abs(count - wanted) for count in trial.active]
        return (-len(trial.active), sum(off) / len(off), max(off), not trial.still)

    least = min(map(doubt, trials))
    same = sorted((one for one in trials if doubt(one) == least), key=lambda one: one.value)
    return same[len(same) // 2]


def search_latents(train: Try, first: int, most: int, seeds: int) -> list[Trial]:
    """Return what was tried on the way to the most units that all live.

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
    return trials


def widest(trials: Sequence[Trial]) -> Trial:
    """Return the trial of the most units that all live; where none does, that of the fewest."""
    alive = [one for one in trials if one.active == (int(one.value),) * len(one.active)]
    key = (lambda one: one.value) if alive else (lambda one: -one.value)
    return max(alive or trials, key=key)
