"""What the published scripts print, beside what the same settings give here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from posterior_collapse.experiments.checks import Part, Result, by_grid, of_level
from posterior_collapse.experiments.tables import BY_THEORY, Table

__all__ = ["published_numbers"]

Measure = Callable[[Result], float]


class Quote(NamedTuple):
    """What a script printed of one run, on a CPU, with one seed.

    Attributes:
        network: Name of its architecture.
        labels: Its values in a grid.
        numbers: By measure, one of `MEASURES`.
        note: How it was run, where that differs from the row.
    """

    network: str
    labels: Mapping[str, Any]
    numbers: Mapping[str, float]
    note: str = ""


QUOTES = (
    Quote("cvae-relu", {"beta": 0.5}, {"NLL": 554.36, "KL": 7.15, "kl_active_share": 0.495}),
    Quote("cvae-relu", {"eta_dec": 0.25}, {"NLL": -147.0, "KL": 22.9, "kl_active_share": 0.80}),
    Quote("cvae-relu", {"name": "pairs:1/2"}, {"KL": 66.5, "kl_active_share": 0.509}),
    Quote("linear", {"beta": 1.0}, {"loss": 554.102, "KL": 1.511}),
    Quote(
        "linear", {"beta_2": 2.0}, {"loss": 257.81, "KL of z1": 5.04, "KL of z2": 5.54},
        "20 epochs",
    ),
)  # fmt: skip
"""The scripts of networks minimise the loss of the convention `reference`."""


def published_numbers(results: Sequence[Result]) -> Part:
    """Set printed numbers beside ours; nothing where the loss is another one."""
    records = []
    for grid, settings in by_grid(results).items():
        for setting in settings:
            run = setting.first.run
            for quote in QUOTES:
                linear = quote.network == "linear"
                same_loss = linear or run.settings.convention == "reference"
                named = (run.architecture.name, dict(setting.labels))
                if run.method != "minibatch" or not same_loss:
                    continue
                if named == (quote.network, quote.labels):
                    records += [
                        {
                            "varying": grid,
                            "value": setting.at + (f" ({quote.note})" if quote.note else ""),
                            "measure": name,
                            "published script": printed,
                            "here": _measure(name, result),
                            f"here {BY_THEORY}": _by_theory(name, result),
                        }
                        for name, printed in quote.numbers.items()
                        for result in setting.results
                    ]
    if not records:
        return Part()
    by = ["varying", "value", "measure", "published script"]
    return Part({"published": Table.over_seeds(records, by, ["here", f"here {BY_THEORY}"])})


def _measure(name: str, result: Result) -> float:
    measured = result.measured
    if result.run.architecture.name == "linear":
        measured = result.exact  # the noise integrated out
    if name == "NLL":
        return float(measured["nll"])
    if name == "kl_active_share":
        return float(measured["levels"][0]["kl_active_share"])
    for number, level in enumerate(measured["levels"], start=1):
        if name == f"KL{of_level(number, result.depth)}":
            return float(np.sum(level["kl"]))
    return float(measured["loss"])


def _by_theory(name: str, result: Result) -> float | None:
    theory = result.theory
    if name == "NLL":
        return theory.get("nll")
    for number, level in enumerate(theory.get("levels", ()), start=1):
        if name == f"KL{of_level(number, result.depth)}":
            return float(level["kl"])
    return theory.get("loss") if name == "loss" else None
