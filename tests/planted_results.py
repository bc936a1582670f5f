"""Finished runs of rows that say what they are told to, and what deliverables make of them."""

import itertools
from types import SimpleNamespace
from typing import Any

from posterior_collapse.experiments import DELIVERABLES, Result
from posterior_collapse.models import Architecture
from posterior_collapse.runs import RunData
from posterior_collapse.specs import VAESpec

NUMBER = itertools.count()
RUNS = [
    {"beta": beta, "seed": seed, "NLL (nats)": 100 * beta + seed**2 / 7, "active units": 9 - seed}
    for beta in (0.5, 2.0)
    for seed in (1, 2, 3)
]


def planted(
    labels: dict[str, Any], measured: dict[str, Any], grid: str = "grid", **record: Any
) -> Result:
    """A finished run that says what it is told to."""
    run = SimpleNamespace(
        key=record.pop("key", f"run {next(NUMBER)}"),
        method=record.pop("method", "minibatch"),
        spec=record.pop("spec", VAESpec(4)),
        data=record.pop("data", RunData("digits")),
        settings=SimpleNamespace(
            seed=record.pop("seed", 1),
            convention=record.pop("convention", "elbo"),
            warm_up=record.pop("warm_up", 0),
            learning_rate=record.pop("learning_rate", 1e-3),
            epochs=record.pop("epochs", 100),
        ),
        evaluation=SimpleNamespace(samples=7),
        architecture=record.pop("architecture", Architecture.named("mlp")),
    )
    fields = {
        "run": run,
        "measured": measured,
        "arrays": {},
        "forecast": None,
        "stopped": "finished",
        **record,
    }
    return Result(grid, labels, SimpleNamespace(**fields))  # type: ignore[arg-type]


def levels(*active: int) -> dict[str, Any]:
    return {"levels": [{"n_active": count} for count in active]}


def likelihoods(kl: float, nll: float, **counts: int) -> dict[str, Any]:
    """What is measured of a model of one level where an NLL is asked for."""
    level = {"kl": [kl], "kl_active_share": 0.5, **counts}
    return {
        "levels": [level], "nll": nll, "nll_error": 0.1, "nll_rows": 9,
        "effective_sample_size": 5.0,
    }  # fmt: skip


def records(name: str, which: str, results: list[Result]) -> list[dict[str, Any]]:
    return DELIVERABLES[name](results).tables[which].records()


def verdicts(name: str, results: list[Result]) -> list[str]:
    return [check.verdict for check in DELIVERABLES[name](results).checks]
