"""Reconstructions beside originals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.checks import (
    Check,
    Part,
    Result,
    along_lines,
    by_grid,
    follows,
    one_seed,
    some_active,
    text,
)
from posterior_collapse.experiments.tables import Table

__all__ = ["beta_panel", "images", "reconstructions", "sweep_reconstructions"]

Images = NDArray[np.float64]
SHOWN = 3
"""Images of a beta grid that are shown."""
MOST_VALUES = 6


def images(result: Result, name: str) -> Images:
    """Return kept images, (n, height, width): those of a conditional model with what was given.

    Args:
        result: The run.
        name: `original`, or `through_1` and so on.
    """
    arrays = result.record.arrays
    values = arrays[name].astype(float)
    if "given" not in arrays:
        side = round(np.sqrt(values.shape[1]))
        return values.reshape(-1, side, side)
    given = arrays["given"].astype(float)
    side = round(np.sqrt(given.shape[1]))
    top_left, top_right, bottom_right = values.reshape(-1, 3, side, side).swapaxes(0, 1)
    bottom_left = given.reshape(-1, side, side)
    whole: Images = np.block([[top_left, top_right], [bottom_left, bottom_right]])
    return whole


def reconstructions(results: Sequence[Result]) -> Part:
    """Draw square panels of reconstructions beside the originals, a figure per grid."""
    charts = {}
    for grid, members in by_grid(results).items():
        shown = one_seed(members)
        blocks = {"original": _square(images(shown[0], "original"))}
        blocks |= {text(r.labels): _square(images(r, "through_1")) for r in shown}
        caption = (
            f"Reconstructions of test images varying {grid}; the bottom-left quarter is given."
        )
        charts[f"reconstructions-{grid}"] = (
            figures.panel(blocks, runs={text(r.labels): r.record.run.key for r in shown}),
            caption,
        )
    return Part(charts=charts)


def sweep_reconstructions(results: Sequence[Result]) -> Part:
    """Draw a line of reconstructions for some values of a sweep."""
    members = next(iter(by_grid(results).values()))
    places = np.unique(np.linspace(0, len(members) - 1, MOST_VALUES).round().astype(int))
    chosen = [members[i] for i in places]
    lines = [images(chosen[0], "original"), *(images(r, "through_1") for r in chosen)]
    chart = figures.panel(
        {"": np.stack(lines)},
        rows=["original", *(text(r.labels) for r in chosen)],
        runs={"": [[""], *([r.record.run.key] for r in chosen)]},
    )
    caption = "Reconstructions of test images by the exactly trained model."
    return Part(charts={"reconstructions": (chart, caption)})


def beta_panel(results: Sequence[Result]) -> Part:
    """Draw reconstructions through z2 over beta_1 and beta_2; check how their error moves."""
    chosen = one_seed(results)
    first = sorted({r.labels["beta_1"] for r in chosen})
    second = sorted({r.labels["beta_2"] for r in chosen})
    at = {(r.labels["beta_1"], r.labels["beta_2"]): r for r in chosen}
    originals = images(chosen[0], "original")[:SHOWN]
    grids = np.array([[images(at[a, b], "through_2")[:SHOWN] for b in second] for a in first])
    blocks: dict[str, Any] = {f"image {i + 1}": grids[:, :, i] for i in range(len(originals))}
    keys = [[at[a, b].record.run.key for b in second] for a in first]
    chart = figures.panel(
        blocks | {"originals": originals[:, None]},
        rows=[f"{a:g}" for a in first],
        columns=[f"{b:g}" for b in second],
        row_name="beta_1",
        column_name="beta_2",
        runs=dict.fromkeys(blocks, keys),
    )
    errors = np.array([[_error(at[a, b]) for b in second] for a in first])
    rows = [
        [a, b, errors[i, j], *_active(at[a, b])]
        for i, a in enumerate(first)
        for j, b in enumerate(second)
    ]
    columns = [
        "beta_1", "beta_2", "squared error through z2", "active units of z1",
        "active units of z2", "active units of z1 by theory", "active units of z2 by theory",
    ]  # fmt: skip
    checks = [Check(None, "No unit of z2 is active at any setting: nothing left to blur.")]
    if some_active(chosen, 2):
        checks = [
            follows("The error through z2", "beta_2", along_lines(errors), "rises"),
            follows("The error through z2", "beta_1", along_lines(errors.T), "falls"),
        ]
    caption = "Reconstructions through z2: up to z2 and down again, by means."
    return Part({"panel": Table(columns, rows)}, {"panel": (chart, caption)}, checks)


def _square(values: Images) -> Images:
    side = int(np.sqrt(len(values)))
    return values[: side**2].reshape(side, side, *values.shape[1:])


def _error(result: Result) -> float:
    difference = images(result, "through_2") - images(result, "original")
    return float(np.mean(np.sum(difference**2, axis=(1, 2))))


def _active(result: Result) -> list[int | None]:
    measured: list[int | None] = [level["n_active"] for level in result.measured["levels"]]
    theory = result.theory.get("levels", [{"n_active": None}] * 2)
    return measured + [level["n_active"] for level in theory]
