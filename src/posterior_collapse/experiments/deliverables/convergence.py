"""How near training comes to a theorem: a curve per matrix and vector, each held to a goal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from posterior_collapse.experiments.checks import Check, Part, Result, by_grid
from posterior_collapse.experiments.figures import Line, lines
from posterior_collapse.experiments.tables import Table
from posterior_collapse.theory.verification import SINGULAR_VALUE_TOLERANCE

GOAL = SINGULAR_VALUE_TOLERANCE
"""Mean absolute error that a curve has to stay within after its last iteration."""
SHARE = 1e-3
"""The same for Adam on images, as a share of the largest value by theory."""
FLAT = 1e-2
"""The same where a unit stands at its threshold: there the loss grows with the fourth power of its
singular values, so that a loss good to 1e-8 finds them to 1e-2."""
SAME = 1e-9
"""Relative difference of beta and a unit's critical beta at which the unit is at its threshold."""
EXACT = ", exact"
"""Ending of the titles of grids that are trained exactly."""
BLOWN_UP = 3
"""A curve that misses the goal and ends at more than so many times its least error blew up."""
MOST_NAMED = 3
"""Curves that missed the goal, up to which all are named."""
CAPTION = (
    "Mean absolute error against the theorem, per iteration of full-batch Adam, first seed. A dot "
    "is the end of a curve, a cross that of exact training (L-BFGS). "
    "Legends: the values by theory, and the goal."
)
NOTES = (
    "A goal bounds a curve's mean absolute error after its last iteration, not at its best. It is "
    f"{GOAL:g}, which `collapse verify` allows for singular values; for Adam on images it is "
    f"{SHARE:g} of the largest value by theory if that is more: three digits of it. A curve that "
    f"misses its goal blew up if its error had been less than 1/{BLOWN_UP} as large before.",
    "'matrix' is trained as published: weights from N(0, 0.1^2), learned sigmas from U(0, 1), seed "
    "2 (and those after it), 200 steps of Adam at a constant rate of 0.1, on the exact objective. "
    "Most of its optimum is 0, so we add a 'second matrix', which is not the paper's: on it, some "
    "units live and some die, eta_dec differs from eta_enc, and beta_1 of two levels is not 1.",
    "Images and the second matrix are trained at a rate that falls to 0 along half a cosine: "
    "images by full batches in place of minibatches, clipped as published for their model (at 0.1 "
    "in E7 and E12, so in E8 and E13; not at all in E14), the second matrix clipped at 0.1. The "
    "published rate is constant: then Adam comes near the optimum and leaves it again, at an "
    "iteration that rounding decides, so that another processor ends elsewhere. 'exact' is "
    "trained by L-BFGS with the decoders eliminated.",
)


AT_THRESHOLD = (
    f"The goal is {FLAT:g} where a unit stands exactly at its threshold: there the loss grows with "
    "the fourth power of its singular values and hardly tells them from 0."
)


class Curve(NamedTuple):
    """The error of one quantity over one run.

    Attributes:
        name: `V1`, `U1`, `sigma_1` and so on.
        theory: The values that it is held against.
        end: Mean absolute error after the last iteration.
        goal: What that may be.
        line: Iterations and errors on the way; None: exact training, which keeps none.
    """

    problem: str
    seed: int
    name: str
    theory: Sequence[float]
    end: float
    goal: float
    line: Line | None

    @property
    def least(self) -> tuple[float, float]:
        """Iteration and error at its best; NaN where no way was kept."""
        if self.line is None:
            return np.nan, np.nan
        steps, errors = (np.asarray(values, dtype=float) for values in self.line)
        best = int(np.argmin(np.where(np.isnan(errors), np.inf, errors)))
        return float(steps[best]), float(errors[best])

    @property
    def verdict(self) -> str:
        """In words; an end of NaN does not meet the goal."""
        if self.end <= self.goal:
            return "met"
        nearer_before = self.line is not None and not self.end <= BLOWN_UP * self.least[1]
        return "blew up" if nearer_before else "missed"

    @property
    def told(self) -> str:
        """Where it ends, in words."""
        text = (
            f"{self.name} of {self.problem} (seed {self.seed}) ends at {self.end:.1e} "
            f"(goal {self.goal:.2g})"
        )
        if self.verdict == "blew up":
            step, error = self.least
            text += f": it blew up after {error:.1e} in iteration {step:,.0f}"
        return text


def convergence(results: Sequence[Result]) -> Part:
    """Draw the distance to the theorem per iteration; hold the end of every curve to the goal."""
    curves = [curve for result in results for curve in _curves(result)]
    records = [
        {
            "problem": curve.problem,
            "seed": curve.seed,
            "quantity": curve.name,
            "values by theory": _in_short(curve.theory, most=len(curve.theory)),
            "mean absolute error": curve.end,
            "goal": curve.goal,
            "least on the way": None if curve.line is None else curve.least[1],
            "goal at the end": curve.verdict,
        }
        for curve in curves
    ]
    chart = lines.convergence(_approaches(results))
    notes = [*NOTES, *[AT_THRESHOLD] * any(curve.goal == FLAT for curve in curves)]
    return Part(
        {"errors": Table.of(records)}, {"convergence": (chart, CAPTION)}, [_held(curves)], notes
    )


def _in_short(values: Sequence[float], most: int = 2) -> str:
    """Return values by size, equal ones and zeros counted, the first and last of more than `most`.

    Example:
        >>> _in_short([1.527, 0.9, 0.21, 0.0, 0.0]), _in_short([1.0, 1.0]), _in_short([2.5, 0.0])
        ('1.53 to 0.21, 2 x 0', '2 x 1', '2.5, 1 x 0')
        >>> _in_short([1.5272, 1.5271, 0.21, 0.0, 0.0], most=3)  # alike, not equal
        '1.53, 1.53, 0.21, 2 x 0'
    """
    counts = Counter(float(f"{value:.9g}") for value in sorted(values, reverse=True))
    single = [f"{value:.3g}" for value, count in counts.items() if count == 1 and value]
    same = [f"{count} x {value:.3g}" for value, count in counts.items() if count > 1 or not value]
    if len(single) > most:
        single = [f"{single[0]} to {single[-1]}"]
    return ", ".join(single + same)


SIDES = {"V": "encoder_singular_values", "U": "decoder_singular_values"}


def _curves(result: Result) -> Iterator[Curve]:
    """Yield the quantities that the spec does not fix."""
    run = result.run
    for name, end in result.exact["distances"].items():
        kind, level = name[0], int(name[-1]) - 1
        if kind not in SIDES and run.spec.sigma_levels[level] != "learned":
            continue
        values = result.theory["levels"][level]
        theory = values[SIDES.get(kind, "posterior_std")]
        goal = GOAL
        if run.method == "decayed" and not run.data.name.startswith("matrix:"):  # images
            goal = max(goal, SHARE * max(theory))
        beta, critical = run.spec.beta_levels[level], values["critical_beta"]
        if kind in SIDES and any(abs(c / beta - 1) < SAME for c in critical if c):
            goal = max(goal, FLAT)
        history = None if run.method == "exact" else result.record.history
        line = None if history is None else (history["step"], history[name])
        yield Curve(result.grid, result.seed, name, theory, end, goal, line)


def _approaches(results: Sequence[Result]) -> dict[str, dict[str, lines.Approach]]:
    """Return the first seed of each problem, beside the end of exact training on the same."""
    first = {grid: list(_curves(settings[0].first)) for grid, settings in by_grid(results).items()}
    exact = {
        (grid.removesuffix(EXACT), curve.name): curve.end
        for grid, curves in first.items()
        for curve in curves
        if curve.line is None
    }
    found: dict[str, dict[str, lines.Approach]] = {}
    for grid, curves in first.items():
        for curve in curves:
            if curve.line is not None:
                note = f"(theory {_in_short(curve.theory)})"
                beside = exact.get((grid, curve.name))
                approach = lines.Approach(curve.line, curve.goal, note, beside)
                found.setdefault(grid, {})[curve.name] = approach
    return found


def _held(curves: Sequence[Curve]) -> Check:
    """One check of all curves: a row agrees only where every one of them ends at the theorem."""
    worst = sorted(curves, key=lambda c: -np.nan_to_num(c.end / c.goal, nan=np.inf))
    missed = [c for c in worst if c.verdict != "met"]
    drawn = sum(c.line is not None for c in curves)
    ends = len(curves) - drawn
    of = f"{drawn} curves" + (f" and {ends} errors of exact training" if ends else "")
    if not missed:
        near = f"nearest to its own, {worst[0].told}"
        text = f"All {of} end within their goals; {near}."
        return Check(True, text, "numbers", exact=True)
    named = [c.told for c in missed[:MOST_NAMED]] + ["and others"] * (len(missed) > MOST_NAMED)
    above = "ends above its goal" if len(missed) == 1 else "end above their goals"
    text = f"{len(missed)} of {of} {above}: {'; '.join(named)}."
    return Check(False, text, "numbers", exact=True)
