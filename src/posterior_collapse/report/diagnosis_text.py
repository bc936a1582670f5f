"""A diagnosis as tables and sentences for a terminal or a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from posterior_collapse.report.text import MOST_ROWS, STYLES, new_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from posterior_collapse.diagnosis import Diagnosis, LevelDiagnosis

__all__ = [
    "by_kl",
    "diagnoses_table",
    "diagnosis_page",
    "diagnosis_tables",
    "level_counts",
    "loss_rows",
    "loss_table",
    "unit_cells",
    "unit_columns",
    "with_error",
]

NOTHING = 1e-9
"""What is left by rounding of a quantity that is 0."""
MOST_DECIMALS = 6


def diagnosis_page(found: Diagnosis) -> Iterator[RenderableType]:
    """Yield all there is to say: losses, units per level, verdict, advice, notes."""
    from rich.text import Text

    yield loss_table(found)
    for table, level in zip(diagnosis_tables(found), found.levels, strict=True):
        yield table
        yield Text(level_counts(level) + "\n", style="dim")
    yield Text(found.verdict, style="bold")
    for finding in found.advice:
        yield Text.assemble("\u2022 ", finding.text, " ", (finding.action, "italic"))
    for note in found.notes:
        yield Text(f"Note: {note}.", style="dim")


def diagnoses_table(named: Mapping[str, Diagnosis]) -> Table:
    """Return diagnoses of models with the same levels by name, a row per model."""
    from rich.markup import escape

    table = new_table("active units: measured/forecast")
    levels = len(next(iter(named.values())).levels)
    several = levels > 1
    table.add_column("run", overflow="fold")
    table.add_column("loss", justify="right", no_wrap=True)
    for number in range(1, levels + 1):
        name = f" z{number}" if several else ""
        for quantity in ("KL", "active", "t"):
            table.add_column(quantity + name, justify="right", no_wrap=True)
    table.add_column("conclusion")
    for name, found in named.items():
        cells = []
        for number, level in enumerate(found.levels):
            expected = found.forecast and found.forecast.levels[number].n_active
            t = found.signal[number] if number < len(found.signal) else math.nan
            active = f"{level.n_active}/{'-' if expected is None else expected}"
            cells += [f"{level.kl.sum():.4g}", active, _short(t)]
        loss = "-" if found.loss is None else f"{found.loss:.6g}"
        table.add_row(escape(name), loss, *cells, found.conclusion)
    return table


def loss_table(found: Diagnosis) -> Table:
    """Return what was measured beside the forecast of the linear model, a row per quantity."""
    forecast = found.forecast
    table = new_table(f"{found.n:,} rows")
    for column in ("nats per row", "measured") + ("linear optimum",) * (forecast is not None):
        table.add_column(column, justify="left" if column == "nats per row" else "right")
    for name, measured, expected in loss_rows(found):
        table.add_row(name, measured, expected)
    return table


def loss_rows(found: Diagnosis) -> Iterator[tuple[str, str, str]]:
    """Yield name, measurement and, if there is any, forecast of each quantity of the model."""
    forecast = found.forecast
    expected = {}
    if forecast is not None:
        expected = {"KL": _forecast_kl(found)}
        if found.collapsed_loss is not None:  # else its loss counts something else
            expected["loss"] = forecast.loss + found.data_loss
    measured = {
        "loss": (found.loss, found.loss_error),
        "reconstruction": (found.reconstruction, found.reconstruction_error),
        "KL": (found.kl, found.kl_error),
        "ELBO": (found.elbo, found.elbo_error),
        "NLL": (found.nll, found.nll_error),
    }
    for name, (value, error) in measured.items():
        if value is not None:
            other = expected.get(name)
            yield name, with_error(value, error), "" if other is None else f"{other:.6g}"
    for number, (t, error) in enumerate(zip(found.signal, found.signal_error, strict=True), 1):
        name = f" of z{number}" if len(found.levels) > 1 else ""
        yield f"unclaimed signal t{name}", with_error(t, error), ""
        gain = found.gains[number - 1] if found.gains else None
        if gain is not None and gain.nats > NOTHING:
            yield f"one more unit{name} buys", with_error(gain.nats, gain.error), ""


def diagnosis_tables(found: Diagnosis) -> Iterator[Table]:
    """Yield one table per level, a row per unit, the most KL first.

    Units are numbered from 1, as everywhere. Beyond 40 units the rows of the
    weakest collapsed ones are left out, and the title says so. `effect` is by how much the
    decoder's mean moves when the unit is redrawn from its prior.
    """
    from rich.markup import escape

    for number, level in enumerate(found.levels, 1):
        units = len(level.status)
        shown = min(units, max(MOST_ROWS, units - level.status.count("collapsed") + 3))
        title = f"z{number}: {level.n_active} of {units} units active" + (
            f" (first {shown} shown)" if shown < units else ""
        )
        table = new_table(title)
        for column in unit_columns(level):
            table.add_column(escape(column), justify="right", no_wrap=True)
        table.add_column("status", no_wrap=True)
        for i in by_kl(level)[:shown]:
            status = level.status[i]
            table.add_row(*unit_cells(level, i), f"[{STYLES[status]}]{status}[/]")
        yield table


def by_kl(level: LevelDiagnosis) -> list[int]:
    """Return the units, the most KL first."""
    return [int(i) for i in np.argsort(-level.kl, kind="stable")]


def unit_columns(level: LevelDiagnosis) -> list[str]:
    """Return what `unit_cells` says of each unit."""
    effects = not np.isnan(level.decoder_effect).all()
    return ["unit", "KL nats", "I(x;z)", *["effect"] * effects, "Var E[z|x]", "std"]


def unit_cells(level: LevelDiagnosis, i: int) -> list[str]:
    """Return number, KL, information, effect where it was measured, and variances of a unit."""
    effects = not np.isnan(level.decoder_effect).all()
    bound = "\u2265 " if level.information_is_lower_bound[i] else ""
    return [
        str(i + 1),
        with_error(level.kl[i], level.kl_error[i]),
        bound + with_error(level.information[i], level.information_error[i]),
        *[_short(level.decoder_effect[i])] * effects,
        _short(level.mean_variance[i]),
        _short(level.posterior_std[i]),
    ]


def with_error(value: float, error: float | None) -> str:
    """Return a number with as many decimals as its standard error tells.

    Example:
        >>> with_error(1.23456, 0.0123), with_error(1234.5, 27.0), with_error(0.25, None)
        ('1.235 \u00b1 0.012', '1234 \u00b1 27', '0.25')
    """
    if math.isnan(value):
        return "-"
    if error is None or not math.isfinite(error) or error <= 1e-12 * abs(value):
        return f"{value:.6g}"
    if max(abs(value), error) < NOTHING:
        return "0"
    exponent = math.floor(math.log10(error))
    # One digit of the error, two where it begins with a 1.
    decimals = max(0, (1 if error < 2 * 10.0**exponent else 0) - exponent)
    if decimals > MOST_DECIMALS:
        return f"{value:.1e} \u00b1 {error:.0e}"
    return f"{value:.{decimals}f} \u00b1 {error:.{decimals}f}"


def _short(value: float) -> str:
    return "-" if math.isnan(value) else "0" if abs(value) < NOTHING else f"{value:.2g}"


def level_counts(level: LevelDiagnosis) -> str:
    """The counts that other programs print, so that theirs can be found again."""
    units, delta = len(level.status), level.collapse_curve.delta
    return (
        f"directions: {level.directions}; "
        f"Burda's active units: {level.active_units.sum()} of {units}; "
        f"(eps, delta)-collapsed at delta {delta:g}: {level.epsilon_delta_collapsed.sum()}; "
        f"KL of 0.01 and more: {100 * level.kl_active_share:.3g}% of (row, unit) pairs"
    )


def _forecast_kl(found: Diagnosis) -> float:
    assert found.forecast is not None
    return float(sum(level.kl.sum() for level in found.forecast.levels))
