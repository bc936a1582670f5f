"""Results as tables and sentences for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.table import Table

    from posterior_collapse.theory import Forecast, Level, Verification

STYLES = {"active": "green", "noise": "yellow", "collapsed": "red", "diverged": "magenta"}
MOST_ROWS = 40
ROUNDING = 1e-9
"""Nats that are left by rounding of none."""


def new_table(title: str | None = None) -> Table:
    """Return an empty table in the style of all tables here."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def verdict(forecast: Forecast) -> str:
    """Return what becomes of the units and why, a sentence per level.

    Example:
        >>> from posterior_collapse import VAESpec, Moments, forecast
        >>> print(verdict(forecast(Moments.from_matrices(np.diag([4.0, 0.5])), VAESpec(2))))
        1 of 2 units survives; 1 collapses: its mode's variance (0.5) is below the threshold (1).
    """
    sentences = []
    for number, level in enumerate(forecast.levels, 1):
        name = f"z{number}: " if len(forecast.levels) > 1 else ""
        below = forecast.spec.dims[number - 2] if number > 1 else None
        sentences.append(name + _level_verdict(level, below, forecast.hidden_variance))
    if forecast.bracket is not None:
        sentences.append(_bracket(*forecast.bracket, forecast.spec.dims[0]))
    return "\n".join(sentences)


def _bracket(fewest: int, most: int, units: int) -> str:
    keeps = f"A linear model keeps {most} of {units}; a network trained to convergence "
    if fewest == most:
        return keeps + ("none, whatever it is." if most == 0 else f"about as many ({most}).")
    return keeps + f"between {fewest} and {most}."


def _level_verdict(level: Level, units_below: int | None, hidden: float) -> str:
    units, active = len(level.status), level.n_active
    dead = np.array([s == "collapsed" for s in level.status])
    text = f"{active} of {units} units survive{'s' if active == 1 else ''}"
    noise = level.status.count("noise")
    if noise:
        text += f"; {noise} only relay{'s' if noise == 1 else ''} the noise injected below"
    if not dead.any():
        return text + ("." if noise or units == 1 else "; none collapses.")
    count = int(dead.sum())
    strongest = int(np.argmax(np.where(dead, level.data_variance, -1.0)))
    one = count == 1
    text += f"; {count} collapse{'s' if one else ''}: "
    variance, threshold = level.data_variance[strongest], level.threshold[strongest]
    if np.isnan(threshold):
        return text + "the loss is the same whether the level is used or not."
    if np.isinf(threshold) and units_below is not None and active + noise >= units_below:
        return text + f"the level below has only {units_below} units to tell of."
    if np.isinf(threshold):
        return text + "no variance of the data could keep it alive with these betas and sigmas."
    if variance == 0:
        above = " above rounding" * bool(hidden >= threshold)
        return f"{text}the data have no mode{above} left for {'it' if one else 'them'}."
    subject = "its mode's variance" if one else "the strongest variance among their modes"
    return text + f"{subject} ({variance:.4g}) is below the threshold ({threshold:.4g})."


def forecast_tables(forecast: Forecast) -> Iterator[Table]:
    """Yield one table per level, a row per unit.

    Beyond 40 units the rows of the weakest collapsed ones are left out, and the title says so.
    """
    for number, level in enumerate(forecast.levels, 1):
        units = len(level.status)
        shown = min(units, max(MOST_ROWS, level.n_active + 3))
        title = f"z{number}: {level.n_active} of {units} units active" + (
            f" (first {shown} shown)" if shown < units else ""
        )
        table = new_table(title)
        # KL and information part ways only where sigma is fixed or levels are stacked.
        informed = not np.allclose(level.kl, level.information, rtol=1e-3, atol=1e-6)
        columns = ["unit", "variance", "threshold", "KL nats", "share"]
        for column in columns + ["I(x;z)"] * informed:
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("status", no_wrap=True)
        has_std = not np.isnan(level.critical_eta_dec).all()
        for column in ("lives\nwhile\nbeta <",) + ("or\nwhile\neta_dec <",) * has_std:
            table.add_column(column, justify="right", no_wrap=True)
        total = float(level.kl.sum()) if (level.kl >= 0).all() else 0.0
        for i in range(shown):
            status = level.status[i]
            table.add_row(
                str(i + 1),
                _number(level.data_variance[i]),
                "never" if np.isinf(level.threshold[i]) else _number(level.threshold[i]),
                _nats(level.kl[i]),
                f"{100 * level.kl[i] / total:.0f}%" if total > 0 else "-",
                *[_nats(level.information[i])] * informed,
                f"[{STYLES[status]}]{status}[/]",
                _number(level.critical_beta[i]),
                *[_number(level.critical_eta_dec[i])] * has_std,
            )
        yield table


def forecasts_table(forecasts: Mapping[str, Forecast]) -> Table:
    """Return a row per forecast: what it is of, active units, KL and loss.

    Args:
        forecasts: By name, such as "beta=0.5,eta-dec=1"; what is alike in all of them is a column.
    """
    table = new_table()
    first = next(iter(forecasts.values()))
    named = [dict(part.split("=") for part in name.split(",")) for name in forecasts]
    for column in named[0]:
        table.add_column(column.replace("-", "_"), justify="right", no_wrap=True)
    levels = [f" z{i}" if len(first.levels) > 1 else "" for i in range(1, len(first.levels) + 1)]
    onset = len(first.levels) == 1
    columns = [f"active{level}" for level in levels] + ["possible", "KL nats", "loss nats"]
    for column in [*columns, *["none above beta"] * onset]:
        table.add_column(column, justify="right", no_wrap=True)
    for own, found in zip(named, forecasts.values(), strict=True):
        table.add_row(
            *[value.replace("_", ":") for value in own.values()],
            *[f"{level.n_active} of {len(level.status)}" for level in found.levels],
            str(found.n_possible),
            f"{sum(level.kl.sum() for level in found.levels):.4g}",
            f"{found.loss:.6g}",
            *[_number(found.onset)] * onset,
        )
    return table


def verification_row(result: Verification) -> tuple[str, ...]:
    """Return a verification as the cells of a table row."""
    error = result.singular_value_error
    return (
        result.case,
        f"{result.theory_loss:.6g}",
        f"{result.loss_gap:+.1e}",
        "-" if error is None else f"{error:.1e}",
        "/".join(map(str, result.theory_on)),
        "/".join(map(str, result.found_on)),
        "[green]agrees[/]" if result.agrees else "[red]differs[/]",
    )


def _nats(value: float) -> str:
    return _number(0.0 if abs(value) < ROUNDING else value)


def _number(value: float) -> str:
    if np.isnan(value):
        return "?"
    if np.isinf(value):
        return "always"
    return "0" if value == 0 else f"{value:.3g}"
