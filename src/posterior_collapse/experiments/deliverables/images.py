"""Reconstructions beside originals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.experiments import figures
from posterior_collapse.experiments.checks import (
    Check,
    Part,
    Result,
    along_lines,
    by_grid,
    follows,
    near_count,
    some_active,
)
from posterior_collapse.experiments.deliverables.diagnosed import diagnosed
from posterior_collapse.experiments.tables import BY_THEORY, Table

__all__ = ["beta_panel", "reconstructions", "sweep_reconstructions"]

SHOWN = 3
"""Images of a beta grid that are shown."""
VALUES = (0.1, 0.5, 1.0, 2.0, 3.0, 5.0)
"""Of a sweep's, those that are shown, or the nearest to them."""


def reconstructions(results: Sequence[Result]) -> Part:
    """Draw square panels of reconstructions beside the originals, a figure per grid."""
    charts = {}
    for grid, settings in by_grid(results).items():
        if not settings[0].first.run.evaluation.panel:
            continue
        blocks = {"original": _square(_images(settings[0].first, "original"))}
        blocks |= {s.text: _square(_images(s.first, "through_1")) for s in settings}
        chart = figures.images(blocks, runs={s.text: s.first.run.key for s in settings})
        caption = (
            f"Reconstructions of test images varying {grid}; the bottom-left quarter is given."
        )
        charts[f"reconstructions-{grid}"] = (chart, caption)
    return Part(charts=charts)


def sweep_reconstructions(results: Sequence[Result]) -> Part:
    """Draw a line of reconstructions for some values of a sweep."""
    settings = next(iter(by_grid(results).values()))
    at = np.array([next(iter(setting.labels.values())) for setting in settings])
    places = np.unique([int(np.abs(at - value).argmin()) for value in VALUES])
    chosen = [settings[i] for i in places]
    first = _images(chosen[0].first, "original")
    chart = figures.images(
        {"": np.stack([first, *(_images(s.first, "through_1") for s in chosen)])},
        rows=["original", *(s.text for s in chosen)],
        runs={"": [[""], *([s.first.run.key] for s in chosen)]},
    )
    caption = "Reconstructions of test images by the exactly trained model."
    return Part(charts={"reconstructions": (chart, caption)})


def beta_panel(results: Sequence[Result]) -> Part:
    """Draw reconstructions through z2 over beta_1 and beta_2; check how their error moves."""
    (settings,) = by_grid(results).values()
    at = {(s.labels["beta_1"], s.labels["beta_2"]): s.first for s in settings}
    first, second = (sorted(set(values)) for values in zip(*at, strict=True))
    grid = [[at[a, b] for b in second] for a in first]
    originals = _images(settings[0].first, "original")[:SHOWN]
    drawn = np.array([[_images(r, "through_2")[:SHOWN] for r in line] for line in grid])
    blocks = {f"image {i + 1}": drawn[:, :, i] for i in range(len(originals))}
    keys = [[result.run.key for result in line] for line in grid]
    counts = [[str(result.active(2)) for result in line] for line in grid]

    def chart(blocks: Mapping[str, Float]) -> figures.Chart:
        return figures.images(
            {**blocks, "originals": originals[:, None]},
            rows=[f"{a:g}" for a in first],
            columns=[f"{b:g}" for b in second],
            row_name="beta_1",
            column_name="beta_2",
            runs=dict.fromkeys(blocks, keys),
            notes=dict.fromkeys(blocks, counts),
        )

    charts = {"panel": (chart(blocks), CAPTION.format("by means"))}
    if "drawn" in settings[0].first.record.arrays:
        drawn = np.array([[_images(r, "drawn")[:SHOWN] for r in line] for line in grid])
        samples = {f"image {i + 1}": drawn[:, :, i] for i in range(len(originals))}
        charts["samples"] = (chart(samples), CAPTION.format("every latent drawn, as published"))
    errors = np.array([[_error(result) for result in line] for line in grid])
    records = [
        {
            "beta_1": result.labels["beta_1"],
            "beta_2": result.labels["beta_2"],
            "squared error through z2": error,
            **{f"active units of z{i}": result.active(i) for i in (1, 2)},
            **{f"active units of z{i} {BY_THEORY}": result.active_by_theory(i) for i in (1, 2)},
        }
        for line, row in zip(grid, errors.tolist(), strict=True)
        for result, error in zip(line, row, strict=True)
    ]
    checks = [Check(None, "No unit of z2 is active at any setting: nothing left to blur.")]
    if some_active(settings, 2):
        checks = [
            follows("The error through z2", "beta_2", along_lines(errors), "rises"),
            follows("The error through z2", "beta_1", along_lines(errors.T), "falls"),
        ]
    if all(setting.has_theory for setting in settings):
        checks.append(near_count("Active units of z2", [s.active(2) for s in settings]))
    return Part({"panel": Table.of(records)}, charts, checks, list(diagnosed(results, 2)))


CAPTION = (
    "Images through z2: up to z2 and down again, {}. The number in a cell is that of the active "
    "units of z2."
)


def _images(result: Result, name: str) -> Float:
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
    whole: Float = np.block([[top_left, top_right], [bottom_left, bottom_right]])
    return whole


def _square(values: Float) -> Float:
    side = int(np.sqrt(len(values)))
    return values[: side**2].reshape(side, side, *values.shape[1:])


def _error(result: Result) -> float:
    difference = _images(result, "through_2") - _images(result, "original")
    return float(np.mean(np.sum(difference**2, axis=(1, 2))))
