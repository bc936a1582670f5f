"""What `tune` found as a page: the counts of networks beside theory, and the spec to use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from posterior_collapse.report.names import symbol, value
from posterior_collapse.report.pages.chart import (
    Chart,
    decades,
    linear,
    logarithmic,
    ticks_of,
    whole_ticks,
)
from posterior_collapse.report.pages.glossary import words
from posterior_collapse.report.pages.rendering import render, scripts
from posterior_collapse.report.tuned import Found, named, trial_cells, tuned_verdict

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["tuned_html", "tuned_parts"]

COLUMNS = ("steps", "active, per seed", "at half", "linear")


def tuned_html(found: Found, *, name: str = "", **_: Any) -> str:
    """Return a self-contained page of what was tuned.

    Args:
        found: What `tune` returned.
        name: What the data are called.
    """
    parts = tuned_parts(found)
    kind = found.spec.model.upper()
    return render(
        "curve.html.jinja",
        script=scripts("tables.js", "words.js"),
        title="Tuned",
        name=name,
        about=f"{kind}{f' on {name}' if name else ''}, {symbol(found.parameter)} tuned for "
        f"{found.wanted} active units{named(found)[1]}",
        heading=f"Active units over {symbol(found.parameter)}",
        snippet=f"import posterior_collapse as pc\n\nspec = pc.{found.spec!r}",
        words=words(["active", "linear optimum", "β"]),
        **parts,
    )


def tuned_parts(found: Found) -> dict[str, Any]:
    """Return what page and notebook both show.

    Args:
        found: What `tune` returned.
    """
    rows = [
        {"cells": [value(trial.value), *trial_cells(trial)], "chosen": trial is found.chosen}
        for trial in found.curve
    ]
    sentence, _, further = tuned_verdict(found).partition(". ")
    return {
        "sentence": f"{sentence.removesuffix('.')}.".replace(
            f"{found.parameter} ", f"{symbol(found.parameter)} = "
        ),
        "further": further,
        "chart": tuned_chart(found),
        "legend": [
            ("●", "a network, settled"), ("○", "still changing"), ("╌", "linear optimum"),
            ("◇", "chosen"),
        ],
        "table": {
            "caption": "every trial", "columns": [symbol(found.parameter), *COLUMNS],
            "rows": rows, "sortable": True,
        },
        "notes": found.notes,
    }  # fmt: skip


def tuned_chart(found: Found) -> Markup:
    """Return the counts of each seed over what was tried, beside those of a linear model.

    Args:
        found: What `tune` returned.
    """
    trials = sorted(found.curve, key=lambda trial: (trial.value, trial.steps))
    name = symbol(found.parameter)
    counts = [n for t in trials for n in (*t.active, *[t.linear] * (t.linear is not None))]
    high = max([1, found.wanted, *counts])
    said = "; ".join(
        f"{name} = {value(t.value)}: {' '.join(map(str, t.active))} active" for t in trials
    )
    chart = Chart(f"Active units over {name}, per seed. {said}", (640, 320), (44, 24, 28, 40))
    low, top = trials[0].value, trials[-1].value
    ends = chart.left + 16, chart.right - 16
    log = found.parameter.startswith("beta") and low < top
    x = logarithmic(low, top, *ends) if log else linear(low, top, *ends)
    y = linear(0, high * 1.06, chart.bottom, chart.top)
    chart.rows(y, whole_ticks(high))
    chart.columns(x, decades(low, top) if log else ticks_of(low, top), name)
    at = y(found.wanted)
    chart.line([(chart.left, at), (chart.right, at)], "pc-wanted", f"{found.wanted} wanted")
    chart.text(chart.right, at - 5, f"{found.wanted} wanted", "end")
    linear_counts = {t.value: t.linear for t in trials if t.linear is not None}
    chart.line([(x(v), y(n)) for v, n in linear_counts.items()], "pc-threshold", "linear optimum")
    for trial in trials:
        for seed, count in enumerate(trial.active):
            # Seeds side by side, so that equal counts are seen as several.
            place = x(trial.value) + 5 * (seed - (len(trial.active) - 1) / 2)
            look = "pc-active" if trial.still else "pc-open"
            title = f"{name} = {value(trial.value)}, seed {seed + 1}: {count} active"
            chart.add("circle", title, cx=place, cy=y(count), r=4, class_=look)
    chosen = found.chosen
    chart.here(x(chosen.value), y(chosen.mean) - 16, title=f"chosen: {value(chosen.value)}")
    return chart.svg()
