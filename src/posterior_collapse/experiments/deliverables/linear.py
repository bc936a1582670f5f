"""Linear models against the theory: sweeps by minibatches and exactly, both variances learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.errors import count_of
from posterior_collapse.experiments.checks import (
    Check,
    Pair,
    Part,
    Result,
    by_grid,
    near_kl,
    rounded,
)
from posterior_collapse.experiments.figures import Chart, Line, measures
from posterior_collapse.experiments.measuring import ACTIVE_MODE
from posterior_collapse.experiments.rows.one_level import LOWER_RATE
from posterior_collapse.experiments.tables import BY_THEORY, Table
from posterior_collapse.experiments.ways import SLACK, direction

CLOSE = 1e-4
"""Nats, or units of a singular value, within which exact training has to meet the theory, as in
`collapse verify`: near an optimum the loss grows with the square of what is missed, so that one
good to 1e-8 finds them to 1e-4."""
FAINT = 0.01
"""Nats from which a mode trained by minibatches counts as active, whose noise never dies out: those
from which the published scripts count."""
NOISE = 0.002
"""Of the loss by theory: what minibatches of a constant rate may end above it. The published script
of E12 ends 0.18% above it (257.81 for 257.36)."""
COUNTS, KL, LOSS = "active modes", "KL (nats)", ("loss (nats)", "")
Key: TypeAlias = tuple[str, str]
"""A quantity, and the level that it is of; "" for none or the only one."""


class Course(NamedTuple):
    """The runs of one kind of training over a sweep.

    Attributes:
        at: The values of the sweep, shape (runs,).
        pairs: By quantity what was measured and what theory says, shape (2, runs).
        strict: Active modes counted as in exact training, per level, shape (levels, runs).
    """

    at: Float
    pairs: Mapping[Key, Float]
    strict: Float

    @property
    def counts(self) -> Float:
        """The pairs of active modes of all levels, shape (2, levels, runs)."""
        return np.stack([pair for key, pair in self.pairs.items() if key[0] == COUNTS], axis=1)

    @property
    def above(self) -> Float:
        """By what share the loss exceeds theory's, shape (runs,)."""
        loss, optimum = self.pairs[LOSS]
        share: Float = (loss - optimum) / np.abs(optimum)
        return share


def theory_sweep(results: Sequence[Result]) -> Part:
    """Draw loss, reconstruction, KL and active modes; check exact training, state the gap."""
    (variable,) = results[0].labels
    records = []
    courses: dict[str, Course] = {}
    for title, settings in by_grid(results).items():
        runs = [setting.first for setting in settings]
        found = [_pairs(result) for result in runs]
        records += [
            {
                "training": title,
                variable: result.labels[variable],
                **{
                    f"{_name(key)}{of}": value
                    for key, pair in pairs.items()
                    for of, value in zip(("", f" {BY_THEORY}"), pair, strict=True)
                },
            }
            for result, pairs in zip(runs, found, strict=True)
        ]
        courses[title] = Course(
            np.array([result.labels[variable] for result in runs]),
            {key: np.array([pairs[key] for pairs in found], float).T for key in found[0]},
            np.array([[each["n_active"] for each in run.exact["levels"]] for run in runs]).T,
        )
    lower = courses.pop(LOWER_RATE, None)
    exactly = {r.grid for r in results if r.run.method == "exact"}
    exact = next((course for title, course in courses.items() if title in exactly), None)
    others = [course for title, course in courses.items() if title not in exactly]
    notes = [_gap(course, variable) for course in others]
    if lower is not None and others:
        rate = next(r.run.settings.learning_rate for r in results if r.grid == LOWER_RATE)
        notes += _by_noise(others[-1], lower, rate, variable)

    def drawn(course: Course, side: int) -> dict[str, dict[str, Line]]:
        panels: dict[str, dict[str, Line]] = {}
        for (quantity, level), pair in course.pairs.items():
            panels.setdefault(quantity, {})[level] = (course.at, pair[side])
        return panels

    measured = {title: drawn(course, 0) for title, course in courses.items()}
    chart = measures.sweep(drawn(exact or others[0], 1), measured, variable=variable)
    caption = f"Linear models against {variable}: theory (lines) and training (markers, of many "
    caption += "values at some)."
    return Part(
        {"sweep": Table.of(records)},
        {"sweep": (chart, caption)},
        [
            *(_exactly(exact) if exact else ()),
            *(check for one in others for check in _by_minibatches(one, variable)),
        ],
        notes,
    )


def _pairs(result: Result) -> dict[Key, tuple[float, float]]:
    """Return what was measured of a linear model beside what theory says, a pair per quantity."""
    exact, theory, levels = result.exact, result.theory, result.exact["levels"]
    if result.run.method == "minibatch":
        faint = [sum(known >= FAINT for known in level["information"]) for level in levels]
        levels = [{**level, "n_active": n} for level, n in zip(levels, faint, strict=True)]
    found: dict[Key, tuple[float, float]] = {
        (f"{name} (nats)", ""): (exact[name], theory[name]) for name in ("loss", "reconstruction")
    }
    for quantity, name in ((KL, "kl"), (COUNTS, "n_active")):
        for number, pair in enumerate(zip(levels, theory["levels"], strict=True), start=1):
            own, expected = (level[name] for level in pair)
            key = quantity, f"z{number}" if len(levels) > 1 else ""
            found[key] = rounded(own), rounded(expected)
    return found


def _name(key: Key) -> str:
    quantity, level = key
    return f"{quantity} of {level}" if level else quantity


def _exactly(course: Course) -> Iterator[Check]:
    """Hold exact training at all values against the theory."""
    measured, theory = course.counts
    right, runs = int(np.all(measured == theory, axis=0).sum()), len(course.at)
    values = count_of(runs, "value")
    worst = {
        key: float(np.abs(pair[1] - pair[0]).max())
        for key, pair in course.pairs.items()
        if key[0] != COUNTS
    }
    kept = f"Exact training keeps the active modes of the theory at {right} of {values}."
    yield Check(right == runs, kept, "numbers", exact=True)
    words = ", ".join(f"{_name(key)} {value:.1e}" for key, value in worst.items())
    far = f"Largest differences of exact training from theory: {words}."
    yield Check(max(worst.values()) <= CLOSE, far, "numbers", exact=True)


def _by_minibatches(course: Course, variable: str) -> Iterator[Check]:
    """Hold minibatch training against the way each quantity goes by theory, and its numbers."""
    runs, off = len(course.at), np.abs(np.subtract(*course.counts))
    for key, (measured, theory) in course.pairs.items():
        slack = SLACK * float(np.ptp(theory))
        found, way = direction(measured, slack), direction(theory, slack)
        ends = sorted({0, runs // 2, runs - 1})
        points = ", ".join(f"{course.at[i]:g}: {measured[i]:.4g}" for i in ends)
        text = f"{_name(key)} by minibatches {found} with {variable} ({points})"
        yield Check(found == way, f"{text}{'' if found == way else f'; by theory it {way}'}.")
    places = [f"{variable} = {at:g}" for at in course.at]
    for key, pair in course.pairs.items():
        if key[0] == KL:  # most of a loss does not depend on the units: where near, it says little
            yield near_kl(f"{_name(key)} by minibatches", map(Pair, places, *pair))
    good, same = int((course.above <= NOISE).sum()), int((off <= 1).sum())
    text = f"The loss by minibatches ends within {NOISE:.1%} of theory's at {good} of "
    text += f"{count_of(runs, 'value')}; farthest at {variable} = "
    text += f"{course.at[course.above.argmax()]:g}: {course.above.max():.2%} above."
    yield Check(good == runs, text, "numbers")
    text = f"Active modes by minibatches (of {FAINT:g} nats and more): "
    text += f"within 1 of theory in {same} of {count_of(off.size, 'case')}"
    if same < off.size:
        text += f"; farthest at {variable} = {course.at[off.max(0).argmax()]:g}: {off.max():g} off"
    yield Check(same == off.size, f"{text}.", "numbers")


def _gap(course: Course, variable: str) -> str:
    """Say how far above the optimum minibatch training ends."""
    loss, optimum = course.pairs[LOSS]
    runs = len(course.at)
    few = sorted({*range(0, runs, max(1, runs // 7)), runs - 1})
    values = ", ".join(f"{course.at[i]:g}: {loss[i] - optimum[i]:.3g}" for i in few)
    counted, expected = course.counts
    return (
        f"Minibatch training ends above the optimum by (nats, at some {variable}) {values}. "
        f"It has theory's number of active modes (those with {FAINT:g} nats and more) in "
        f"{(counted == expected).sum()} of {counted.size} cases; counted as in exact training, "
        f"from {ACTIVE_MODE:g} nats on, in {(course.strict == expected).sum()}."
    )


def _by_noise(course: Course, lower: Course, rate: float, variable: str) -> Iterator[str]:
    """Say how near training comes at a lower rate, at whose values it ends farthest above."""
    most = dict(zip(course.at, course.above, strict=True))
    each = [(at, less) for at, less in zip(lower.at, lower.above, strict=True) if at in most]
    if not each:  # of some of a row's runs
        return
    values = ", ".join(f"{at:g}: {less:.2%} in place of {most[at]:.2%}" for at, less in each)
    noise = "Part of what is left is noise of the steps, which a constant rate keeps up. "
    why = noise if all(less < most[at] for at, less in each) else ""
    yield f"{why}At a rate of {rate:g} as many steps end above theory by (at {variable}) {values}."


SAME_LOSS = 1e-6
"""Nats above theory's loss up to which a run counts as having found the optimum, and of a KL that
counts as 0: what rounding and the end of L-BFGS leave of a loss of hundreds of nats."""
FREE = 1e-2
"""Nats of z2's KL by which seeds have to differ where theory leaves it free: ten times the root of
`SAME_LOSS`, within which runs that share one optimum end."""


def both_learned(results: Sequence[Result]) -> Part:
    """Check that z2 is free at equal betas, and dead above."""
    (settings,) = by_grid(results).values()
    records = [
        {
            "beta_2": result.labels["beta_2"],
            "seed": result.seed,
            "loss (nats)": result.exact["loss"],
            "loss above theory": _above(result),
            "KL of z2 (nats)": _top_kl(result),
            "active modes of z2": result.exact["levels"][1]["n_active"],
            "active modes of z2 by theory": result.theory["levels"][1]["n_active"],
        }
        for setting in settings
        for result in setting.results
    ]
    chart = _by_start({s.labels["beta_2"]: [_top_kl(r) for r in s.results] for s in settings})
    caption = (
        "KL of z2 with both variances learned, a point per random start. Dashes: the linear "
        "optimum; at beta_2 = beta_1 it leaves this KL free."
    )
    return Part(
        {"both-learned": Table.of(records)},
        {"both-learned": (chart, caption)},
        [_free_or_dead(s.results) for s in settings],
    )


def _by_start(kls: Mapping[float, Sequence[float]]) -> Chart:
    """Draw the KLs of z2 by beta_2, and the 0 that they are above beta_1 = 1 by theory."""
    at, each = [f"{beta:g}" for beta in kls], list(kls.values())
    dead = [name for name, beta in zip(at, kls, strict=True) if beta > 1]
    lines = {
        "trained": measures.Points.of(at, each)._replace(each=each),
        measures.THEORY: measures.Points(dead, [0.0] * len(dead), []),
    }
    return measures.spread({"KL of z2 (nats)": lines}, variable="beta_2 (beta_1 = 1)")


def _above(result: Result) -> float:
    return float(result.exact["loss"] - result.theory["loss"])


def _top_kl(result: Result) -> float:
    return float(result.exact["levels"][1]["kl"])


def _free_or_dead(seeds: Sequence[Result]) -> Check:
    """Hold the KLs of z2 from different starts against what theory says at these betas."""
    kls, gap = [_top_kl(result) for result in seeds], max(abs(_above(r)) for r in seeds)
    below, beta = seeds[0].run.spec.beta_levels
    agrees: bool | None = gap <= SAME_LOSS
    if beta > below:
        agrees = agrees and max(kls) <= SAME_LOSS
        text = (
            f"beta_2 = {beta:g}: KL of z2 at most {max(kls):.1e} nats, loss within {gap:.1e} of "
            "theory."
        )
    else:
        ends = ", ".join(f"{kl:.3g}" for kl in kls)
        text = (
            f"beta_2 = {beta:g} = beta_1: the loss is within {gap:.1e} of theory, the KL of z2 "
            f"ends at {ends} nats"
        )
        if len(kls) > 1:
            agrees = agrees and max(kls) - min(kls) > FREE
            text += " from different starts."
        else:
            agrees = None if agrees else False
            text += "; one start shows no more."
    return Check(agrees, text, "numbers", exact=True)
