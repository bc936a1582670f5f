"""Why networks keep other units than the linear optimum: diagnosed, warmed up, bounded by tanh."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from posterior_collapse.errors import count_of
from posterior_collapse.experiments.checks import (
    KL_LEAST,
    KL_SHARE,
    Result,
    Setting,
    by_grid,
    is_near_kl,
)
from posterior_collapse.experiments.tables import BY_THEORY

CONCLUDED = "`diagnose` concludes"
"""Column with what `diagnose` concludes of the runs of a setting."""
BOUNDED = f"with uncorrelated means within 1, {BY_THEORY}"
"""Ending of columns with what theory says where a tanh keeps the means of z1 within 1, if they are
uncorrelated as those of the linear optimum are."""


def distinct(results: Sequence[Result]) -> list[Result]:
    """Return each run once, in its first grid: grids share the runs of values that both have."""
    first: dict[str, Result] = {}
    for result in results:
        first.setdefault(result.run.key, result)
    return list(first.values())


def concluded(results: Sequence[Result]) -> str:
    """Return how often `diagnose` concludes what of runs, the most frequent first."""
    names = [str(r.measured["conclusion"]) for r in results if r.measured.get("conclusion")]
    return names[0] if len(names) == 1 else _counted(names)


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())


def beside_theory(results: Sequence[Result], top: int) -> Iterator[str]:
    """Say how often the network keeps as many units as a linear model would."""
    more = [
        result.active(top) - theory
        for result in distinct(results)
        if (theory := result.active_by_theory(top)) is not None
    ]
    if more:
        same = more.count(0)
        yield (
            f"Of {count_of(len(more), 'run')} {same} {'keeps' if same == 1 else 'keep'} as many "
            f"active units as the best linear model, {sum(n < 0 for n in more)} fewer and "
            f"{sum(n > 0 for n in more)} more."
        )


def diagnosed(results: Sequence[Result], top: int, *, apart: bool = False) -> Iterator[str]:
    """Say what `diagnose` concludes of the runs that keep fewer units than the linear optimum.

    Grids that differ in more than numbers are counted `apart`.
    """
    fewer = [
        result
        for result in distinct(results)
        if "conclusion" in result.measured
        and "kl" in result.theory
        and result.active(top) < (result.active_by_theory(top) or 0)
    ]
    if not fewer:
        return
    groups: dict[str, list[Result]] = {}
    for result in fewer:
        groups.setdefault(f"{result.grid}: " if apart else "", []).append(result)
    named = "; ".join(
        grid + _counted([str(result.measured["conclusion"]) for result in of])
        for grid, of in groups.items()
    )
    worst = max(fewer, key=lambda r: (-r.active(top), r.active_by_theory(top) or 0))
    where = ", ".join(filter(None, (worst.grid, Setting([worst]).text)))
    which = "1 run that keeps" if len(fewer) == 1 else f"{len(fewer)} runs that keep"
    yield (
        f"What `diagnose` concludes of the {which} fewer units than the best linear model: "
        f"{named}. Of one that keeps the fewest ({where}, seed {worst.seed}) it says: "
        + str(worst.measured["verdict"]).replace("+-", "±")  # as earlier versions wrote it
    )
    warm = [r for r in results if r.run.settings.warm_up]
    nets = [r.run.architecture for r in warm]
    cold = [r for r in results if not r.run.settings.warm_up and r.run.architecture in nets]
    if warm and cold:
        yield _warmed_up(cold, warm, top)


def _warmed_up(cold: Sequence[Result], warm: Sequence[Result], top: int) -> str:
    """Say what a warm-up of beta changes, at each value that is trained with and without it."""
    words = []
    for name, value in dict.fromkeys((n, v) for r in warm for n, v in r.labels.items()):
        pair = [[r for r in of if r.labels == {name: value}] for of in (cold, warm)]
        if all(pair):
            without, with_it = (float(np.mean([r.active(top) for r in of])) for of in pair)
            theory = pair[0][0].active_by_theory(top)
            words.append(f"{name} = {value:g}: {without:.3g} and {with_it:.3g} of {theory}")
    how = count_of(warm[0].run.settings.warm_up, "epoch")
    return (
        f"Units that carry information on the data, without and with a warm-up of {how}, of those "
        f"by theory: {'; '.join(words)}."
    )


def most_per_unit(result: Result) -> float | None:
    """Return the most nats of a unit of z2 where a tanh keeps the means of z1 within 1.

    Their variance is then 1 at most, and that of z1 `1 + sigma_1^2`. While they are uncorrelated no
    direction of z1 has more, of which a linear unit of z2 carries `1/2 log((1 + sigma_1^2) beta_1 /
    (beta_2 eta_dec^2))` nats, or none. Of correlated means a direction may have up to their number
    times as much: it is no bound of theirs. None: nothing bounds them.
    """
    spec = result.run.spec
    if result.run.architecture.latent != "tanh" or result.depth != 2:
        return None
    sigma, eta = spec.sigma_levels[0], spec.eta_levels[0]
    if isinstance(sigma, (str, tuple)) or isinstance(eta, str):
        return None
    beta_1, beta_2 = spec.beta_levels
    share = (1 + sigma**2) * beta_1 / (beta_2 * eta**2)
    return max(0.0, 0.5 * math.log(share))


def bounded(result: Result) -> tuple[int, float] | None:
    """Return how many units of z2 live by theory, and their KL, with the means of z1 within 1.

    None where nothing bounds them, or there is no closed form.
    """
    most = most_per_unit(result)
    if most is None or "unit_kl" not in result.theory.get("levels", [{}])[-1]:
        return None
    own = np.minimum(result.theory["levels"][1]["unit_kl"], most)
    units = int(np.sum(own > 0)) if most > 0 else 0
    return min(units, int(result.theory["levels"][1]["n_active"])), float(own.sum())


def within_bound(results: Sequence[Result]) -> Iterator[str]:
    """Say at how many settings z2's KL is theory's, with and without bounded means of z1."""
    settings = {
        setting.first.run.key: setting for of in by_grid(results).values() for setting in of
    }
    found = [
        (
            setting.mean(lambda r: float(np.sum(r.measured["levels"][1]["kl"]))),
            float(setting.first.theory["levels"][1]["kl"]),
            limit[1],
            setting.mean(lambda r: float(np.mean(r.measured["levels"][0]["mean_variance"]))),
        )
        for setting in settings.values()
        if (limit := bounded(setting.first)) is not None
    ]
    if not found:
        return
    plain = sum(is_near_kl(kl, theory) for kl, theory, _, _ in found)
    near = sum(is_near_kl(kl, limit) for kl, _, limit, _ in found)
    off = [(kl < limit, spread) for kl, _, limit, spread in found if not is_near_kl(kl, limit)]
    below = [spread for less, spread in off if less]
    above = len(off) - len(below)
    less = more = ""
    if below:
        less = f"; at {len(below)} the network has less, and the variance of these means, at most "
        less += f"1, is {min(below):.2f} to {max(below):.2f} there, on average over units"
    if above:
        more = f"; at {above} it has more, as correlated means allow"
    yield (
        f"The KL of z2 is within {KL_SHARE:.0%} (or {KL_LEAST:g} nats) of theory's at {plain} of "
        f"{count_of(len(found), 'different setting')}. The networks' tanh keeps the means of z1 "
        "within 1. With the KL that this bound leaves to z2 if the means are uncorrelated, it is "
        f"so at {near}{less}{more}."
    )
