"""A sweep, or a single run, as a page: what came out beside what was forecast, and its course."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior_collapse.arrays import ImageShape
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.report.comparison import (
    FEW,
    comparison_cells,
    comparison_columns,
    comparison_kind,
    comparison_sentences,
    comparison_verdict,
)
from posterior_collapse.report.names import named
from posterior_collapse.report.pages.glossary import words
from posterior_collapse.report.pages.pictures import check_image_shape, limits_of, strip
from posterior_collapse.report.pages.rendering import render, scripts
from posterior_collapse.report.pages.swept import course_chart, level_map, line_chart
from posterior_collapse.report.pages.timeline import Timeline, timeline
from posterior_collapse.report.stacked import levels_of
from posterior_collapse.report.swept import Swept, lay_out, names_of, optimum_of, varying

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["fitted_html", "fitted_parts", "sweep_html", "sweep_parts"]

KINDS = {
    "as forecast": ("same", "●"),
    "fewer units": ("fewer", "▼"),
    "more units": ("more", "▲"),
    "undertrained": ("under", "◔"),
    "no forecast": ("unknown", "?"),
    "stopped": ("stopped", "×"),
}
"""What each kind of outcome is marked by: a class, and a shape for those who see no colour."""
MEASURED = "measured/forecast, loss and KL in nats per row"
MOST_STACKED = 24
"""Runs up to which each card has its KL stacked by unit."""
CARD = (250, 144)
CARD_POINTS = 24
ROWS = 6


def sweep_html(
    found: Swept,
    *,
    name: str = "",
    image_shape: ImageShape | None = None,
    data: Any = None,
    **_: Any,
) -> str:
    """Return a self-contained page of a sweep.

    Args:
        found: What `sweep` returned.
        name: What the data are called.
        image_shape: Shape of what is decoded, if it is an image.
        data: Rows of the data, x or (x, y): the first of them are shown as each run decodes them.

    Raises:
        InvalidArgumentError: The image shape is not that of the features.
    """
    parts = sweep_parts(found)
    pictures, targets = _decoded(found, data, image_shape)
    for run, card, picture in zip(found.runs, parts["runs"], pictures, strict=True):
        stacked = len(found.runs) <= MOST_STACKED
        card |= {"charts": list(_course(run, stacked=stacked)), "outputs": picture}
    courses = [
        (_title("Active units over training", level, found), course_chart(found, level))
        for level in _levels(found)
        if any(level in levels_of(run.history) for run in found.runs)
    ]
    return render(
        "sweep.html.jinja",
        script=scripts("tables.js", "filter.js", "words.js", "runs.js"),
        title="Sweep",
        name=name,
        about=f"Sweep of {len(found.runs)} runs{f' on {name}' if name else ''}; {varying(found)}",
        courses=courses if len(found.runs) > 1 else [],
        targets=targets,
        words=words(["active", "KL", "linear optimum", "β", "η_dec"]),
        kinds=_kinds(parts["runs"]),
        **parts,
    )


def fitted_html(found: Any, *, name: str = "", **_: Any) -> str:
    """Return a self-contained page of one trained run.

    Args:
        found: What `fit` returned.
        name: What the data are called.
    """
    return render(
        "fitted.html.jinja",
        script=scripts("words.js"),
        title="Training",
        name=name,
        words=words(["active", "KL", "linear optimum", "β", "η_dec"]),
        **_of_fitted(found, name),
    )


def fitted_parts(found: Any) -> dict[str, Any]:
    """Return what a notebook shows of a trained run: its course, without measuring it anew.

    Args:
        found: What `fit` returned.
    """
    optimum = optimum_of(found)
    expected = None
    if optimum is not None:
        levels = [{"kl": level.kl, "n_active": level.n_active} for level in optimum.levels]
        rough = found.spec.likelihood != "gaussian"
        expected = {"loss": np.nan if rough else optimum.loss, "levels": levels}
    return {
        "sentence": repr(found),
        "charts": list(timeline(found.history, expected)),
        "optimum": expected is not None,
    }


def _of_fitted(found: Any, name: str) -> dict[str, Any]:
    summary = found.summary()
    run = _run("run", named({"seed": found.settings.seed}), summary)
    charts = list(timeline(found.history, _expected(summary)))
    return {
        "about": f"{found.spec.model.upper()}{f' on {name}' if name else ''}, "
        f"{found.model.architecture.name}",
        "described": repr(found.spec),
        "sentence": run["verdict"],
        "charts": charts,
        "optimum": summary["forecast"] is not None,
        "runs": [run],
        "columns": comparison_columns(len(found.spec.dims)),
        "caption": MEASURED,
    }


def sweep_parts(found: Swept) -> dict[str, Any]:
    """Return what page and notebook both show.

    Args:
        found: What `sweep` returned.
    """
    summaries = [
        {"measured": run.measured, "forecast": run.forecast, "stopped": run.stopped}
        | ({} if run.run.spec.likelihood == "gaussian" else {"approximate": True})
        for run in found.runs
    ]
    names = names_of(found)
    runs = [
        _run(f"run-{n}", name, summary)
        for n, (name, summary) in enumerate(zip(names, summaries, strict=True), 1)
    ]
    pairs = list(zip(names, summaries, strict=True))
    sentence, *further = comparison_sentences(pairs, where="Each run has a card below.")
    if 1 < len(runs) <= FEW:
        # A verdict per run is long for a headline, and stands on the cards.
        sentence, *further = comparison_sentences(pairs, "", few=1)
    return {
        "sentence": sentence,
        "further": [line for line in further if line],
        "charts": list(_charts(found)),
        "optimum": any(run.forecast is not None for run in found.runs),
        "runs": runs,
        "tables": list(_tables(found, runs)),
    }


def _run(id_: str, name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    kind = comparison_kind(summary)
    mark, icon = KINDS[kind]
    levels = len(summary["measured"]["levels"])
    return {
        "id": id_, "name": name, "kind": kind, "mark": mark, "icon": icon,
        "verdict": comparison_verdict(summary),
        "cells": list(comparison_cells(summary, levels)), "levels": levels,
    }  # fmt: skip


def _kinds(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counts = {kind: sum(run["kind"] == kind for run in runs) for kind in KINDS}
    return [
        {"name": kind, "count": count, "mark": KINDS[kind][0], "icon": KINDS[kind][1]}
        for kind, count in counts.items()
        if count
    ]


def _tables(found: Swept, runs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A table for the runs of each number of levels."""
    for levels in dict.fromkeys(run["levels"] for run in runs):
        yield {
            "caption": MEASURED + (f", {levels} levels" if levels > 1 else ""),
            "columns": comparison_columns(levels),
            "runs": [run for run in runs if run["levels"] == levels],
        }


def _levels(found: Swept) -> range:
    return range(1, max(len(run.measured["levels"]) for run in found.runs) + 1)


def _title(what: str, level: int, found: Swept) -> str:
    return f"{what} of z{level}" if len(_levels(found)) > 1 else what


def _charts(found: Swept) -> Iterator[tuple[str, Markup]]:
    layout = lay_out(found.labels)
    for level in _levels(found):
        title = _title("Active units", level, found)
        if layout.across:
            yield title, level_map(found, level)
        else:
            yield title, line_chart(found, level, title)
    yield "Loss", line_chart(found, 0, "Loss")


def _course(run: Any, *, stacked: bool) -> Iterator[tuple[str, Markup]]:
    """Small figures of one run's course."""
    history, levels = run.history, levels_of(run.history)
    if not len(history.get("epoch", ())):
        return
    drawn = Timeline(history, _expected({"forecast": run.forecast}), CARD, CARD_POINTS)
    for level in levels if stacked else ():
        name = f" of z{level}" if len(levels) > 1 else ""
        yield f"KL{name} by unit", drawn.stack(level)
    yield "Active units", drawn.active()


def _expected(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    forecast = summary["forecast"]
    if forecast is None:
        return None
    rough = summary.get("approximate", False)
    return {**forecast, "loss": np.nan} if rough else forecast


def _decoded(
    found: Swept, data: Any, shape: ImageShape | None
) -> tuple[list[str | None], str | None]:
    """Some rows as each run decodes them, and the rows, where these are images."""
    nothing: list[str | None] = [None] * len(found.runs)
    if data is None or shape is None:
        return nothing, None
    import torch

    x, *y = (np.asarray(part)[:ROWS] for part in (data if isinstance(data, tuple) else (data,)))
    target = (y[0] if y else x).reshape(len(x), -1)
    check_image_shape(shape, target.shape[1])
    limits = limits_of([target])
    pictures = nothing
    for i, run in enumerate(found.runs):
        model = run.model
        own = next(model.parameters())
        rows = [torch.as_tensor(p.reshape(len(p), -1), dtype=own.dtype) for p in (x, *y)]
        if model.shapes.x_dim != rows[0].shape[1]:
            raise InvalidArgumentError(
                "data", f"{rows[0].shape[1]} features", f"{model.shapes.x_dim}, as trained on",
                "Pass rows of the data of the sweep.",
            )  # fmt: skip
        with torch.no_grad():
            outputs = model.eval().reconstruct(*rows).numpy()
        pictures[i] = strip(outputs, shape, limits) if np.isfinite(outputs).all() else None
    return pictures, strip(target, shape, limits)
