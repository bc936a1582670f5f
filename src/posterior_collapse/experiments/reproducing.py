"""Run rows and write their results: tables, figures, and `result.json`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch  # noqa: F401 - runs need it, so that its absence is told before anything else is

from posterior_collapse.errors import CorruptFileError, PosteriorCollapseError, writing
from posterior_collapse.experiments.checks import Result, agreement, by_grid
from posterior_collapse.experiments.deliverables import DELIVERABLES
from posterior_collapse.experiments.document import RESULT
from posterior_collapse.experiments.execution import Executor
from posterior_collapse.experiments.grids import Plan, Row
from posterior_collapse.files import write_json
from posterior_collapse.runs import Progress, Store, complete
from posterior_collapse.runs.completing import here
from posterior_collapse.runs.spreading import spread_over
from posterior_collapse.training import Progress as Epoch

__all__ = ["State", "profile", "reproduce"]

RUNS = "runs"
"""Folder of the runs that all rows share, beside those of the results."""


class State(NamedTuple):
    """What a caller is told as rows advance.

    Attributes:
        row: The row at work.
        progress: Of its runs; None when its results are written.
        epoch: Of the group that trains, if it trains by minibatches.
        verdict: Of a row that has ended.
    """

    row: Row
    progress: Progress | None = None
    epoch: Epoch | None = None
    verdict: str = ""


def reproduce(
    rows: Sequence[Row],
    out: str | os.PathLike[str],
    plan: Plan | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    client: Any = None,
    report: Callable[[State], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Run rows, keep their runs in `out/runs` and write their results to `out/ID`.

    Runs that are kept are not repeated, whoever trained them; a call that was interrupted goes on.

    Args:
        rows: Of `rows.ROWS`.
        out: Folder of runs and results.
        plan: How to run them; None: at full size.
        data_dir: Where to look for data sets.
        device: Where minibatches are trained.
        client: A Client of dask.distributed, on whose workers the runs train; each finds the data
            sets as this process would. None: in this process.
        report: Called as rows advance.

    Returns:
        Per row what its `result.json` holds.

    Raises:
        OutputError: The folder cannot be written.
        DataError: The data cannot be found.
        CorruptFileError: A run that is kept was damaged or changed; says what to delete.

    Example:
        >>> import tempfile
        >>> from posterior_collapse.experiments.rows import chosen
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (result,) = reproduce(chosen("E8"), folder, Plan(quick=True))
        >>> result["agreement"]["verdict"]
        'agrees'
    """
    plan, store = plan or Plan(), Store(Path(out) / RUNS)
    executor = Executor(None if data_dir is None else os.fspath(data_dir), device)
    results = []
    for row in rows:
        found = _run(row, plan, store, executor, report, client)
        with _damage_told(found):
            results.append(_write(row, plan, found, Path(out) / row.id))
        report(State(row, verdict=results[-1]["agreement"]["verdict"]))
    return results


def _run(
    row: Row,
    plan: Plan,
    store: Store,
    executor: Executor,
    report: Callable[[State], None],
    client: Any,
) -> list[Result]:
    """Return the results of a row's runs; those that are not kept yet are trained."""
    state = State(row)

    def told(progress: Progress) -> None:
        nonlocal state
        state = State(row, progress)
        report(state)

    def trained(epoch: Epoch) -> None:
        report(state._replace(epoch=epoch))

    members = row.members(plan)
    records = complete(
        [member.run for member in members],
        store,
        dataclasses.replace(executor, report=trained),
        device=executor.device,
        spread=here if client is None else spread_over(client),
        report=told,
    )
    return [Result(m.grid, m.labels, record) for m, record in zip(members, records, strict=True)]


@contextlib.contextmanager
def _damage_told(results: Sequence[Result]) -> Iterator[None]:
    """Say which runs may be damaged, where some have no hash by which that would be known."""
    try:
        yield
    except PosteriorCollapseError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        unknown = list(dict.fromkeys(r.record.folder for r in results if r.record.files is None))
        if not unknown:
            raise
        raise CorruptFileError(
            str(unknown[0].parent),
            f"a run without what its table needs ({type(error).__name__}: {error})",
            "runs as they were kept; an earlier version kept them without a hash",
            f"Delete the damaged folder, one of {', '.join(folder.name for folder in unknown)}.",
        ) from error


def _write(row: Row, plan: Plan, results: Sequence[Result], folder: Path) -> dict[str, Any]:
    """Write a row's files, `result.json` last."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    parts = [DELIVERABLES[name](results) for name in row.deliverables]
    tables = {name: table for part in parts for name, table in part.tables.items()}
    figures = []
    for name, table in tables.items():
        table.save(folder, f"table-{name}")  # beside the numbers of a figure of that name
    for part in parts:
        for title, (chart, caption) in part.charts.items():
            name = "".join(c if c.isalnum() else "-" for c in title)
            chart.save(folder, name)
            figures.append({"file": f"{name}.pdf", "caption": caption})
    records = [result.record for result in results]
    result = {
        "id": row.id,
        "name": row.name,
        "claim": row.claim,
        "theory": row.theory,
        "data": list(dict.fromkeys(record.run.data.title for record in records)),
        "settings": _settings(results),
        "convention": plan.convention,
        "profile": profile(row, plan),
        "version": version("posterior-collapse"),
        "hardware": ", ".join(sorted({record.origin["hardware"] for record in records})),
        "wall_s": sum({record.run.key: record.origin["wall_s"] for record in records}.values()),
        "seeds": sorted({result.seed for result in results}),
        "tables": {name: table.to_dict() for name, table in tables.items()},
        "figures": figures,
        "agreement": agreement(parts, results),
        "published": row.published,
    }
    write_json(folder / RESULT, result)
    return result


TRAINED = {
    "minibatch": ("epochs", "batch_size", "learning_rate", "clip", "convention"),
    "recorded": ("steps", "learning_rate", "clip", "convention"),
    "decayed": ("steps", "learning_rate", "clip", "convention"),
    "exact": ("steps", "convention"),
}
"""Settings that count for each method."""


def _settings(results: Sequence[Result]) -> dict[str, Any]:
    """Per grid what its runs share, and the values of what varies."""
    found: dict[str, Any] = {}
    for title, settings in by_grid(results).items():
        run, labels = settings[0].first.run, settings[0].labels
        values = run.to_dict()
        spec, seen = values["spec"], values["evaluation"]
        for number, beta in enumerate(spec.pop("betas", ()), start=1):
            spec[f"beta_{number}"] = beta
        del seen["matrices"]
        if run.method != "minibatch" and not seen["panel"]:
            seen.clear()  # on moments alone
        parts = {
            "data": values["data"],
            "model": spec,
            "network": values["architecture"],
            "training": {name: values["settings"][name] for name in TRAINED[run.method]},
            "measured on": seen,
        }
        shared = {
            part: {k: v for k, v in of.items() if v not in (None, 0, False) and k not in labels}
            for part, of in parts.items()
        }
        varies = {name: list(dict.fromkeys(s.labels[name] for s in settings)) for name in labels}
        found[title] = {"method": run.method, **shared, "varies": varies}
    return found


def profile(row: Row, plan: Plan) -> str:
    """Return "full", "quick", or by how much a row is run smaller than it is meant to be."""
    if plan.quick:
        return "quick"
    trained = [grid for grid in row.grids if grid.method == "minibatch"]
    planned = max((grid.settings.epochs for grid in trained), default=0)
    smaller = []
    if plan.epochs is not None and plan.epochs < planned:
        smaller.append(f"{plan.epochs} of {planned} epochs")
    for grid in trained:
        most = plan.most_epochs(grid)
        if most < min(grid.settings.epochs, plan.epochs or planned):
            smaller.append(f"{grid.title} {most} of {grid.settings.epochs} epochs")
    if plan.rows is not None and planned:
        smaller.append(f"trained on at most {plan.rows:,} rows")
    likelihood_rows = max((grid.evaluation.likelihood_rows or 0 for grid in row.grids), default=0)
    if "likelihood_table" in row.deliverables and likelihood_rows:
        smaller.append(f"NLL on {likelihood_rows:,} rows")
    return f"smaller: {', '.join(smaller)}" if smaller else "full"
