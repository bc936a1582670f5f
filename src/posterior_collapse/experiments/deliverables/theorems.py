"""Matrices and KL of trained linear models against the theorems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posterior_collapse.experiments import figures
from posterior_collapse.experiments.parts import Check, Part, Result, by_grid, by_labels
from posterior_collapse.experiments.tables import Table

__all__ = ["both_learned", "matrices"]

CLOSE = 1e-4
VANISHED = 1e-3
"""Norm below which a column of U counts as gone."""
SAME_LOSS = 1e-6
FLAT = 1e-2
"""Nats of z2's KL by which seeds have to differ where theory leaves it free."""


def matrices(results: Sequence[Result]) -> Part:
    """Draw U and V = W P Phi^(1/2); check what vanishes and the distance to theory."""
    shown: dict[str, NDArray[np.float64]] = {}
    rows, checks = [], []
    for grid, members in by_grid(results).items():
        result = members[0]
        U, V = result.record.arrays["U1"], result.record.arrays["V1"]
        shown |= {f"U, {grid}": U[: V.shape[1]], f"V', {grid}": V.T}
        norms = np.linalg.norm(U, axis=0)
        level, theory = result.measured["exact"]["levels"][0], result.theory["levels"][0]
        for unit, norm in enumerate(norms):
            rows.append(
                [
                    grid, unit + 1, float(norm), level["posterior_std"][unit],
                    *(side[f"{which}_singular_values"][unit]
                      for which in ("decoder", "encoder") for side in (level, theory)),
                ]
            )  # fmt: skip
        distances = [v for k, v in result.measured["exact"]["distances"].items() if k != "sigma_1"]
        checks += [
            Check(
                max(distances) <= CLOSE,
                f"{grid}: singular values of U and V within {max(distances):.1e} of theory.",
            ),
            _vanishing(grid, result, norms),
        ]
    columns = [
        "Sigma", "unit", "norm of U's column", "sigma (sorted)", "singular value of U",
        "of U by theory", "singular value of V", "of V by theory",
    ]  # fmt: skip
    chart = figures.heat_maps(shown, x="latent unit", y="data mode", most=2)
    caption = (
        "U and V = W P Phi^(1/2) in the basis of the strongest data modes, a column per latent "
        "unit; rows of V are shown as columns."
    )
    return Part({"matrices": Table(columns, rows)}, {"matrices": (chart, caption)}, checks)


def _vanishing(grid: str, result: Result, norms: NDArray[np.float64]) -> Check:
    """Count what theory fixes: columns of U that vanish, or its rank where units may rotate."""
    (sigma,) = result.record.run.spec.sigma_levels
    theory = np.array(result.theory["levels"][0]["decoder_singular_values"])
    expected = int(np.sum(theory < VANISHED))
    gone = int(np.sum(norms < VANISHED))
    if sigma == "learned" or (isinstance(sigma, tuple) and len(set(sigma)) == len(sigma)):
        return Check(gone == expected, f"{grid}: {gone} columns of U vanish, {expected} by theory.")
    found = np.array(result.measured["exact"]["levels"][0]["decoder_singular_values"])
    rank, least = int(np.sum(found >= VANISHED)), len(theory) - expected
    return Check(
        rank == least,
        f"{grid}: U has rank {rank}, {least} by theory. Equal sigmas leave units free to "
        f"rotate, so no column need vanish ({gone} do).",
    )


def both_learned(results: Sequence[Result]) -> Part:
    """Check that z2 is free at equal betas, and dead above."""
    rows, checks = [], []
    for labels, seeds in by_labels(results):
        gaps, kls = [], []
        for result in seeds:
            measured, theory = result.measured["exact"], result.theory
            level = measured["levels"][1]
            gaps.append(measured["loss"] - theory["loss"])
            kls.append(level["kl"])
            rows.append(
                [
                    labels["beta_2"], result.seed, measured["loss"], gaps[-1], level["kl"],
                    level["n_active"], theory["levels"][1]["n_active"],
                ]
            )  # fmt: skip
        betas = seeds[0].record.run.spec.beta_levels
        same = max(map(abs, gaps)) <= SAME_LOSS
        if betas[1] > betas[0]:
            dead = max(kls) <= SAME_LOSS
            checks.append(
                Check(
                    same and dead,
                    f"beta_2 = {betas[1]:g}: KL of z2 at most {max(kls):.1e} nats, loss within "
                    f"{max(map(abs, gaps)):.1e} of theory.",
                )
            )
        else:
            free = max(kls) - min(kls) > FLAT
            known = same and free if len(kls) > 1 or not same else None
            checks.append(
                Check(
                    known,
                    f"beta_2 = {betas[1]:g} = beta_1: the loss is within {max(map(abs, gaps)):.1e} "
                    f"of theory, the KL of z2 ends at {', '.join(f'{kl:.3g}' for kl in kls)} nats"
                    + (" from different starts." if len(kls) > 1 else "; one start shows no more."),
                )
            )
    columns = [
        "beta_2", "seed", "loss (nats)", "loss above theory", "KL of z2 (nats)",
        "active modes of z2", "active modes of z2 by theory",
    ]  # fmt: skip
    points: dict[str, figures.Points] = {}
    settings = [f"{labels['beta_2']:g}" for labels, _ in by_labels(results)]
    kl = [[r.measured["exact"]["levels"][1]["kl"] for r in s] for _, s in by_labels(results)]
    points["z2"] = (
        settings,
        [float(np.mean(v)) for v in kl],
        [float(np.std(v, ddof=1)) if len(v) > 1 else float("nan") for v in kl],
    )
    chart = figures.spread({"KL of z2 (nats)": points}, variable="beta_2 (beta_1 = 1)")
    caption = "KL of z2 with both variances learned; error bars are over random starts."
    return Part({"both-learned": Table(columns, rows)}, {"both-learned": (chart, caption)}, checks)
