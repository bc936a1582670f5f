"""Forecasts and diagnoses as tables and sentences for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from posterior_collapse.diagnosis.conclusions import kept_units
from posterior_collapse.errors import at_level, count_of, of_level
from posterior_collapse.report.names import theory, whose_onset

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from posterior_collapse.diagnosis import Diagnosis, LevelDiagnosis
    from posterior_collapse.theory import Forecast, Level, Verification

STYLES = {"active": "green", "noise": "yellow", "collapsed": "red", "diverged": "magenta"}
MOST_ROWS = 40
NOTHING = 1e-9
"""What is left by rounding of a quantity that is 0."""
MOST_DECIMALS = 6


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


def add_numbers(table: Table, columns: Iterable[str]) -> None:
    """Add columns of numbers to a table."""
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)


def _units_table(number: int, level: Level | LevelDiagnosis, shown: int) -> Table:
    """Return an empty table of so many units of a level."""
    units = len(level.status)
    left_out = f" (first {shown} shown)" if shown < units else ""
    return new_table(f"z{number}: {level.n_active} of {count_of(units, 'unit')} active{left_out}")


def verdict(forecast: Forecast) -> str:
    """Return what becomes of the units and why, a sentence per level.

    Example:
        >>> from posterior_collapse import VAESpec, Moments, forecast
        >>> print(verdict(forecast(Moments.from_matrices(np.diag([4.0, 0.5])), VAESpec(2))))
        1 of 2 units survives; 1 collapses: its mode's variance (0.5) is below the threshold (1).
    """
    sentences = []
    for number, level in enumerate(forecast.levels, 1):
        name = at_level(number, len(forecast.levels))
        below = forecast.spec.dims[number - 2] if number > 1 else None
        said = _level_verdict(level, below, forecast.hidden_variance, f"beta_{number}")
        sentences.append(name + said)
    if forecast.bracket is not None:
        linear = forecast.spec.likelihood == "gaussian"
        who = "A linear model" if linear else f"The {theory(forecast.spec)}"
        sentences.append(_bracket(who, forecast, *forecast.bracket))
    return "\n".join(sentences)


def _bracket(who: str, forecast: Forecast, fewest: int, most: int) -> str:
    keeps = f"{who} keeps {most} of {forecast.spec.dims[0]}; "
    if most == 0:
        return f"{keeps}total collapse is stable in any network{whose_onset(forecast)}."
    keeps += "a network trained to convergence "
    return keeps + (
        f"about as many ({most})." if fewest == most else f"between {fewest} and {most}."
    )


def _level_verdict(level: Level, units_below: int | None, hidden: float, beta: str) -> str:
    units, active = len(level.status), level.n_active
    dead = np.array([s == "collapsed" for s in level.status])
    text = f"{active} of {count_of(units, 'unit')} survive{'s' if 1 in (active, units) else ''}"
    noise = level.status.count("noise")
    if noise:
        text += f"; {noise} only relay{'s' if noise == 1 else ''} the noise injected below, up to "
        relays = [status == "noise" for status in level.status]
        text += f"{beta} = {level.critical_beta[relays].max():.3g}, and "
        most, first = level.informed_beta[relays].max(), "it" if noise == 1 else "a first"
        at = "it carries x at none" if noise == 1 else "they carry x at none"
        text += f"{first} carries x below {most:.3g}" if most > 0 else at
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
        return text + f"the level below has only {count_of(units_below, 'unit')} to encode."
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
        shown = min(len(level.status), max(MOST_ROWS, level.n_active + 3))
        table = _units_table(number, level, shown)
        # KL and information part ways only where sigma is fixed or levels are stacked.
        informed = not np.allclose(level.kl, level.information, rtol=1e-3, atol=1e-6)
        columns = ["unit", "variance", "threshold", "KL nats", "share"]
        add_numbers(table, columns + ["I(x;z)"] * informed)
        table.add_column("status", no_wrap=True)
        has_std = not np.isnan(level.critical_eta_dec).all()
        add_numbers(table, ["lives\nwhile\nbeta <", *["or\nwhile\neta_dec <"] * has_std])
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
                _number(level.informed_beta[i]),
                *[_number(level.informed_eta_dec[i])] * has_std,
            )
        yield table


def forecasts_table(forecasts: Mapping[str, Forecast]) -> Table:
    """Return a row per forecast: what it is of, active units, KL and loss.

    Names are such as "beta=0.5,eta-dec=1"; what is alike in all of them is a column.
    """
    table = new_table()
    first = next(iter(forecasts.values()))
    named = [dict(part.split("=") for part in name.split(",")) for name in forecasts]
    add_numbers(table, (column.replace("-", "_") for column in named[0]))
    levels = [f" z{i}" if len(first.levels) > 1 else "" for i in range(1, len(first.levels) + 1)]
    onset = len(first.levels) == 1
    columns = [f"active{level}" for level in levels] + ["possible", "KL nats", "loss nats"]
    add_numbers(table, [*columns, *["none above beta"] * onset])
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
    return _number(0.0 if abs(value) < NOTHING else value)


def _number(value: float) -> str:
    if np.isnan(value):
        return "?"
    if np.isinf(value):
        return "always"
    return "0" if value == 0 else f"{value:.3g}"


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
    of = [f" z{number}" if levels > 1 else "" for number in range(1, levels + 1)]
    table.add_column("run", overflow="fold")
    add_numbers(table, ["loss", *(what + name for name in of for what in ("KL", "active", "t"))])
    table.add_column("conclusion", overflow="fold")
    for name, found in named.items():
        cells = []
        for number, level in enumerate(found.levels):
            expected = found.forecast and kept_units(found.forecast)[number]
            t = found.signal[number] if number < len(found.signal) else math.nan
            active = f"{level.n_active}/{'-' if expected is None else expected}"
            cells += [f"{level.kl.sum():.4g}", active, _short(t)]
        loss = "-" if found.loss is None else f"{found.loss:.6g}"
        table.add_row(escape(name), loss, *cells, found.conclusion)
    return table


def loss_table(found: Diagnosis) -> Table:
    """Return what was measured beside the forecast of the linear model, a row per quantity."""
    table = new_table(f"{found.n:,} rows")
    for column in loss_columns(found):
        table.add_column(column, justify="left" if column == "nats per row" else "right")
    for name, measured, expected in loss_rows(found):
        table.add_row(name, measured, expected)
    return table


def loss_columns(found: Diagnosis) -> list[str]:
    """Return the heads of that table."""
    named = [] if found.forecast is None else [theory(found.forecast.spec)]
    return ["nats per row", "measured", *named]


def loss_rows(found: Diagnosis) -> Iterator[tuple[str, str, str]]:
    """Yield name, measurement and, if there is any, forecast of each quantity of the model."""
    forecast, expected = found.forecast, {}
    if forecast is not None:
        expected["KL"] = float(sum(level.kl.sum() for level in forecast.levels))
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
        name = of_level(number, len(found.levels))
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
        table = _units_table(number, level, shown)
        add_numbers(table, map(escape, unit_columns(level)))
        table.add_column("status", no_wrap=True)
        for i in by_kl(level)[:shown]:
            status = level.status[i]
            table.add_row(*unit_cells(level, i), f"[{STYLES[status]}]{status}[/]")
        yield table


def by_kl(level: LevelDiagnosis) -> list[int]:
    """Return the units, the most KL first."""
    return [int(i) for i in np.argsort(-level.kl, kind="stable")]


def has_effects(level: LevelDiagnosis) -> bool:
    """Return whether it was measured what the decoder makes of the units."""
    return not np.isnan(level.decoder_effect).all()


def unit_columns(level: LevelDiagnosis) -> list[str]:
    """Return what `unit_cells` says of each unit."""
    effects = has_effects(level)
    return ["unit", "KL nats", "I(x;z)", *["effect"] * effects, "Var E[z|x]", "std"]


def unit_cells(level: LevelDiagnosis, i: int) -> list[str]:
    """Return number, KL, information, effect where it was measured, and variances of a unit."""
    effects = has_effects(level)
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
