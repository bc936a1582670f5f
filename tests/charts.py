"""Every kind of figure of the experiments, of plain values of which it is known what they show."""

from functools import cache
from typing import Any

import numpy as np

from posterior_collapse.experiments.figures import Chart, cells, lines, measures
from posterior_collapse.experiments.figures.answers import answers
from posterior_collapse.experiments.figures.lines import Approach
from posterior_collapse.experiments.figures.measures import THEORY, Points

EPS = np.geomspace(1e-4, 10, 60)
BETAS = np.arange(1, 71) / 10


def shares(values: tuple[float, ...], name: str) -> dict[str, Any]:
    return {f"{name} = {v:g}": (EPS, np.clip(v * EPS, 0, 1).round(1)) for v in values}


def swept(noise: float = 0.0, step: int = 1) -> dict[str, Any]:
    at = BETAS[::step]
    return {
        "loss (nats)": {"": (at, 20 + 3 * np.log(at) + noise)},
        "reconstruction (nats)": {"": (at, 15 + at)},
        "KL (nats)": {"z1": (at, 10 - 3 * np.exp(-at)), "z2": (at, 12 * np.exp(-at) + noise)},
        "active units": {"z1": (at, 0 * at + 10), "z2": (at, np.maximum(0, 10 - np.floor(at)))},
    }


def means(settings: Any, labels: tuple[str, ...] = ("",)) -> dict[str, Any]:
    count = len(settings)
    return {
        name: {
            label: Points(settings, np.arange(count) + i, np.ones(count))
            for i, label in enumerate(labels)
        }
        for name in ("NLL (nats)", "KL(z1) (nats)", "active units", "kl_active_share")
    }


@cache
def made() -> dict[str, Chart]:
    """Return every kind of figure at the sizes in which the experiments need it."""
    rng = np.random.default_rng(0)
    four = (0.1, 0.5, 1.0, 2.0)
    digits = {f"digit {d}": (EPS, np.clip(EPS * (d + 1), 0, 1)) for d in range(10)}
    words = ["identical", "1/2", "1/4", "1/8", "random", "quadratic"]
    images = rng.random((10, 10, 28, 28))
    grid = ["0.1", "1", "2", "4", "6"]
    steps = np.arange(1, 201)
    falling = {
        "singular values of U1": Approach((steps, np.exp(-steps / 20)), goal=1e-4),
        "sigma": Approach((steps, 1 / steps**3), goal=1e-4),
    }
    counts = rng.integers(0, 17, (7, 6)).astype(float)
    betas, etas = np.geomspace(0.25, 16, 7), np.geomspace(0.25, 4, 6)
    matrix = rng.normal(size=(12, 5))
    return {
        "one panel": lines.collapse_curves({"": shares(four, "beta")}),
        "two panels": lines.collapse_curves(
            {"a": shares(four, "beta"), "b": shares(four, "eta_dec")}
        ),
        "three panels": lines.collapse_curves(
            {n: shares(four, n) for n in ("beta_1", "beta_2", "eta_dec")}
        ),
        "four panels": lines.collapse_curves(
            {n: shares(four, n) for n in ("beta_1", "beta_2", "eta_dec", "eta_enc")}
        ),
        "digits": lines.collapse_curves(dict.fromkeys(("linear", "relu", "cnn"), digits)),
        "spectra": lines.spectra(
            {f"digit {d}": 9 / np.arange(1, 49) ** (1 + d / 9) for d in range(10)},
            threshold=0.25,
            name="beta eta_dec^2",
        ),
        "convergence": lines.convergence({"": falling}),
        "convergence of two": lines.convergence({"matrix problem": falling, "MNIST": falling}),
        "convergence of three": lines.convergence(
            {
                title: {
                    label: one._replace(note=f"(theory {shown})", goal=goal * i, exact=exact)
                    for i, (label, one) in enumerate(falling.items(), 1)
                }
                for title, shown, goal, exact in (
                    ("matrix", "0.453 to 0.286, 2 x 0", 1e-3, None),
                    ("second matrix", "0.623, 2 x 1.25", 1e-3, None),
                    ("MNIST", "0.481 to 0.0773, 4 x 0.5", 1e-2, 1e-8),
                )
            }
        ),
        "sweep": measures.sweep(
            swept(), {"exact training": swept(), "minibatches": swept(0.3, 14)}, variable="beta_2"
        ),
        "panels": cells.images({"original": images, "beta = 0.1": images, "beta = 2": images}),
        "grid of betas": cells.images(
            {"": images[:5, :5]}, rows=grid, columns=grid, row_name="beta_1", column_name="beta_2"
        ),
        "grids beside originals": cells.images(
            {f"image {i}": images[:5, :5] for i in (1, 2, 3)} | {"originals": images[:3, :1]},
            rows=grid,
            columns=grid,
            row_name="beta_1",
            column_name="beta_2",
            notes={"image 1": [["16"] * 5] * 5},
        ),
        "named rows": cells.images({"": images[:4]}, rows=["original", *("beta = 0.1",) * 3]),
        "six heat maps": cells.heat_maps(
            {f"{m}, sigma = (8, 4, 2, 1, {i})": matrix * i for m in "UV" for i in (0.5, 1e-9, 1)}
        ),
        "ten heat maps": cells.heat_maps(
            {f"{m}, Sigma learned, beta = {i}": matrix for i in range(5) for m in "UV"}
        ),
        "heat maps": cells.heat_maps(
            dict.fromkeys(("U, learned", "U, sigma = 1"), matrix)
            | dict.fromkeys(("V', learned", "V', sigma = 1"), matrix / 10),
            y="data mode",
        ),
        "phase": cells.phase(
            betas,
            etas,
            {"mlp": counts, "cnn": counts},
            {"mlp": 5 / etas**2, "cnn": 4 / etas**2},
            {"mlp": 6 / etas**2, "cnn": np.full(6, np.nan)},
        ),
        "spread over words": measures.spread(means(words), variable="relation of x and y"),
        "spread over values": measures.spread(
            means([0.25, 0.5, 1, 2, 3], ("beta_1", "beta_2", "eta")), variable="value"
        ),
        "columns": measures.columns(
            {
                variable: {
                    name: {
                        "no warm-up": Points(list(four), range(4), four),
                        "warm-up": Points(list(four), range(1, 5), four),
                        THEORY: Points(list(four), range(2, 6), []),
                    }
                    for name in ("NLL (nats)", "KL of z2 (nats)", "active units of z2")
                }
                for variable in ("beta_1", "beta_2", "eta_dec", "eta_enc")
            },
            own=["NLL (nats)"],
        ),
        "answers": answers(
            {
                "of runs that failed": {
                    "without warm-up": {"recognised": 7, "undecided": 9, "called fine": 0},
                    "a unit planted dead": {"recognised": 91, "undecided": 18, "called fine": 2},
                },
                "of runs as good as the best": {
                    "without warm-up": {"no alarm": 16, "undecided": 8, "alarm": 1},
                    "a unit planted dead": {"no alarm": 0, "undecided": 0, "alarm": 0},
                },
            },
            cases="runs",
        ),
        "seven measures": measures.spread(
            {f"kl_active_share of z{i}": {"beta": Points(four, range(4), four)} for i in range(7)},
            variable="value",
        ),
        "scatter": lines.scatter(
            {n: (np.arange(10.0), rng.normal(size=10)) for n in ("linear", "relu", "cnn")},
            x="active units, theory",
            y="active units, measured",
            names="0123456789",
            notes={"relu": "rank correlation -0.87"},
        ),
    }
