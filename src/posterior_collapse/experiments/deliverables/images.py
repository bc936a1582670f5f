"""What a model does, to be seen: reconstructions beside originals, matrices of a linear model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.errors import count_of
from posterior_collapse.experiments.checks import (
    Check,
    Part,
    Result,
    by_grid,
    near_count,
    rounded,
    some_active,
)
from posterior_collapse.experiments.deliverables.explained import (
    BOUNDED,
    CONCLUDED,
    bounded,
    concluded,
    diagnosed,
    within_bound,
)
from posterior_collapse.experiments.deliverables.linear import CLOSE
from posterior_collapse.experiments.figures import Chart, cells
from posterior_collapse.experiments.tables import BY_THEORY, Table
from posterior_collapse.experiments.ways import along_lines, follows

SHOWN = 3
"""Images of a beta grid that are shown."""
VALUES = (0.1, 0.5, 1.0, 2.0, 3.0, 5.0)
"""Of a sweep's, those that are shown, or the nearest to them."""
CAPTION = (
    "Images through z2: up to z2 and down again, {}. The number in a cell is that of the active "
    "units of z2."
)


def reconstructions(results: Sequence[Result]) -> Part:
    """Draw square panels of reconstructions beside the originals, a figure per grid."""
    charts = {}
    for grid, settings in by_grid(results).items():
        if not settings[0].first.run.evaluation.panel:
            continue
        blocks = {"original": _square(_images(settings[0].first, "original"))}
        blocks |= {s.text: _square(_images(s.first, "through_1")) for s in settings}
        chart = cells.images(blocks, runs={s.text: s.first.run.key for s in settings})
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
    chart = cells.images(
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
    blocks = [f"image {i + 1}" for i in range(len(originals))]
    keys = [[result.run.key for result in line] for line in grid]
    counts = [[str(result.active(2)) for result in line] for line in grid]

    def chart(name: str) -> Chart:
        drawn = np.array([[_images(r, name)[:SHOWN] for r in line] for line in grid])
        return cells.images(
            {block: drawn[:, :, i] for i, block in enumerate(blocks)}
            | {"originals": originals[:, None]},
            rows=[f"{a:g}" for a in first],
            columns=[f"{b:g}" for b in second],
            row_name="beta_1",
            column_name="beta_2",
            runs=dict.fromkeys(blocks, keys),
            notes=dict.fromkeys(blocks, counts),
        )

    charts = {"panel": (chart("through_2"), CAPTION.format("by means"))}
    if "drawn" in settings[0].first.record.arrays:
        charts["samples"] = (chart("drawn"), CAPTION.format("every latent drawn, as published"))
    off = np.array([[_images(r, "through_2") - _images(r, "original") for r in o] for o in grid])
    errors = np.sum(off**2, axis=(3, 4)).mean(2)
    records = [
        {
            "beta_1": result.labels["beta_1"],
            "beta_2": result.labels["beta_2"],
            "squared error through z2": error,
            **{f"active units of z{i}": result.active(i) for i in (1, 2)},
            **{f"active units of z{i} {BY_THEORY}": result.active_by_theory(i) for i in (1, 2)},
            **_of_z2(result),
            CONCLUDED: concluded([result]),
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
    notes = [*within_bound(results), *diagnosed(results, 2)]
    return Part({"panel": Table.of(records)}, charts, checks, notes)


def _of_z2(result: Result) -> dict[str, float | None]:
    """Return the KL of z2 beside theory's, and what a tanh leaves of both."""
    level = result.measured["levels"][1]
    if "kl" not in level or "kl" not in result.theory:
        return {}
    units, kl = bounded(result) or (None, None)
    return {
        f"active units of z2 {BOUNDED}": units,
        "KL of z2 (nats)": float(np.sum(level["kl"])),
        f"KL of z2 (nats) {BY_THEORY}": rounded(result.theory["levels"][1]["kl"]),
        f"KL of z2 (nats) {BOUNDED}": kl,
    }


def _images(result: Result, name: str) -> Float:
    """Return kept images, (n, height, width): those of a conditional model with what was given."""
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


VANISHED = 1e-3
"""Norm below which a column of U counts as gone: its square, which a mode exceeds its threshold by,
is then 1e-6."""


def matrices(results: Sequence[Result]) -> Part:
    """Draw U and V = W P Phi^(1/2); check what vanishes and the distance to theory."""
    shown: dict[str, Float] = {}
    records, units, checks = [], [], []
    for grid, settings in by_grid(results).items():
        result = settings[0].first
        U, V = result.record.arrays["U1"], result.record.arrays["V1"]
        shown |= {f"U, {grid}": U[: V.shape[1]], f"V', {grid}": V.T}
        norms = np.linalg.norm(U, axis=0)
        level, theory = result.exact["levels"][0], result.theory["levels"][0]
        # Of runs kept before their stds were, these are not known.
        stds = result.record.arrays.get("sigma_1", np.full(len(norms), np.nan))
        units += [
            {"Sigma": grid, "unit": unit, "sigma": float(std), "norm of U's column": float(norm)}
            for unit, (std, norm) in enumerate(zip(stds, norms, strict=True), start=1)
        ]
        records += [
            {
                "Sigma": grid,
                "largest first": place + 1,
                "singular value of U": level["decoder_singular_values"][place],
                "of U by theory": theory["decoder_singular_values"][place],
                "singular value of V": level["encoder_singular_values"][place],
                "of V by theory": theory["encoder_singular_values"][place],
            }
            for place in range(len(norms))
        ]
        sides = ("decoder_singular_values", "encoder_singular_values")
        far = max(float(np.abs(np.subtract(level[side], theory[side])).max()) for side in sides)
        told = f"{grid}: singular values of U and V within {far:.1e} of theory."
        checks += [
            Check(far <= CLOSE, told, "numbers", exact=True),
            _vanishing(grid, result, norms),
        ]
    chart = cells.heat_maps(shown, x="latent unit", y="data mode")
    caption = (
        "U and V = W P Phi^(1/2) in the basis of the strongest data modes, a column per latent "
        "unit; rows of V are shown as columns."
    )
    tables = {"units": Table.of(units), "matrices": Table.of(records)}
    return Part(tables, {"matrices": (chart, caption)}, checks)


def _vanishing(grid: str, result: Result, norms: Float) -> Check:
    """Count what theory fixes: columns of U that vanish, or its rank where units may rotate."""
    (sigma,) = result.run.spec.sigma_levels
    theory = np.array(result.theory["levels"][0]["decoder_singular_values"])
    expected = int(np.sum(theory < VANISHED))
    gone = int(np.sum(norms < VANISHED))
    if sigma == "learned" or (isinstance(sigma, tuple) and len(set(sigma)) == len(sigma)):
        vanish = "vanishes" if gone == 1 else "vanish"
        told = f"{grid}: {count_of(gone, 'column')} of U {vanish}, {expected} by theory."
        return Check(gone == expected, told, exact=True)
    found = np.array(result.exact["levels"][0]["decoder_singular_values"])
    rank, least = int(np.sum(found >= VANISHED)), len(theory) - expected
    return Check(
        rank == least,
        f"{grid}: U has rank {rank}, {least} by theory. Equal sigmas leave units free to "
        f"rotate, so no column need vanish ({gone} {'does' if gone == 1 else 'do'}).",
        exact=True,
    )
