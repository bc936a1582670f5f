"""Run rows and write their results: tables, figures, and `result.json`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch  # noqa: F401 - runs need it, so that its absence is told before anything else is

from posterior_collapse.errors import (
    CorruptFileError,
    InvalidArgumentError,
    MissingFileError,
    PosteriorCollapseError,
    count_of,
    writing,
)
from posterior_collapse.experiments.checks import Check, Part, Result, agreement, by_grid
from posterior_collapse.experiments.data import training_rows
from posterior_collapse.experiments.deliverables import DELIVERABLES
from posterior_collapse.experiments.execution import Executor
from posterior_collapse.experiments.grids import Member, Plan, Row
from posterior_collapse.experiments.reproduced import RESULT, Reproduced
from posterior_collapse.files import claim, clear, write_json
from posterior_collapse.runs import Outcome, Progress, Record, Run, Store, complete
from posterior_collapse.runs.completing import MOST_TOGETHER, here
from posterior_collapse.runs.run import BY_MINIBATCHES
from posterior_collapse.runs.spreading import spread_over
from posterior_collapse.training import Progress as Epoch

MOST_ON_GPU = 64
"""Runs per group there: the time of a step is that of starting its operations, however many."""
RUNS = "runs"
"""Folder of the runs that all rows share, beside those of the results."""
TRUST = "trust_"
"""How the deliverables of the study of trust begin."""


class State(NamedTuple):
    """What a caller is told as rows advance.

    Attributes:
        progress: Of its runs; None when its results are written.
        epoch: Of the group that trains, if it trains by minibatches.
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
    together: int | None = None,
    models: bool = True,
    runs_only: bool = False,
    finished: bool = False,
    client: Any = None,
    report: Callable[[State], None] = lambda _: None,
) -> list[Reproduced]:
    """Run rows, keep their runs in `out/runs` and write their results to `out/ID`.

    Runs that are kept are not repeated, whoever trained them; a call that was interrupted goes on,
    and processes that are called with the same rows and folder share the runs among them. Runs of
    different rows train together where they differ in numbers only. A row is written as soon as its
    runs are there.

    Args:
        rows: Of `rows.ROWS`.
        out: Folder of runs and results.
        plan: How to run them; None: at full size.
        data_dir: Where to look for data sets.
        device: Where minibatches are trained and measured.
        together: Runs that train together at most; None: 12, and 64 on a GPU, for which nets this
            small are hardly more work than one.
        models: Whether to keep the trained models too.
        runs_only: Keep the runs, and write no results.
        finished: Train nothing: write results from the runs that are there, and say how many. Rows
            of which none is there are left out.
        client: A Client of dask.distributed, on whose workers the runs train; each finds the data
            sets as this process would. None: in this process.
        report: Called as rows advance.

    Returns:
        What is left of each row; nothing with `runs_only`.

    Raises:
        InvalidArgumentError: `runs_only` and `finished` together.
        OutputError: The folder cannot be written.
        DataError: The data cannot be found.
        MissingFileError: Of what is `finished` nothing is there.
        CorruptFileError: A run that is kept was damaged or changed; says what to delete.

    Example:
        >>> import tempfile
        >>> from posterior_collapse.experiments.rows import chosen
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (result,) = reproduce(chosen("E8"), folder, Plan(quick=True))
        >>> result
        Reproduced(E8, quick: agrees, 1 of 1 check)
    """
    if finished and runs_only:
        raise InvalidArgumentError(
            "runs_only", "True beside `finished`", "one of the two: together they do nothing",
            "Leave one of them out.",
        )  # fmt: skip
    plan, out = plan or Plan(), Path(out)
    store = Store(out / RUNS, models=models)
    planned = {row.id: row.members(plan) for row in rows}
    members = planned
    if finished:
        members = {
            name: [member for member in of if store.get(member.run.key) is not None]
            for name, of in planned.items()
        }
    rows = [row for row in rows if members[row.id]]
    if finished and not rows:
        raise MissingFileError(
            str(store.folder), "none of these runs", "some that were kept by the same options",
            "Name their folder with --out, and seeds, epochs and the like as they were trained.",
        )  # fmt: skip
    keys = {name: {member.run.key for member in of} for name, of in members.items()}
    executor = Executor(None if data_dir is None else os.fspath(data_dir), device, store=store)
    results: dict[str, Reproduced] = {}
    there: set[str] = set()

    def tell(runs: Sequence[Run] = (), epoch: Epoch | None = None) -> None:
        """Tell of the rows of these runs, which train, or of all that are not written yet."""
        training = {run.key for run in runs}
        for row in rows:
            own = keys[row.id]
            if row.id not in results and (not training or training & own):
                now = Progress(len(own), len(own & there), len((own & training) - there))
                report(State(row, now, epoch))

    def kept(records: Mapping[str, Record]) -> None:
        there.update(records)
        for row in () if runs_only else rows:
            if row.id not in results and keys[row.id] <= there:
                found = [Result(m.grid, m.labels, records[m.run.key]) for m in members[row.id]]
                missing = _missing(members[row.id], planned[row.id])
                with _damage_told(found):
                    size = profile(row, plan, missing)
                    results[row.id] = _write(row, plan, found, out / row.id, size, bool(missing))
                report(State(row, verdict=results[row.id].verdict))
        tell()

    def execute(runs: Sequence[Run], folders: Sequence[Path] | None) -> Iterator[Outcome]:
        tell(runs)
        told = dataclasses.replace(executor, report=lambda epoch: tell(runs, epoch))
        return told(runs, folders)

    # The store is here: a worker trains itself what its runs go on from.
    afar = dataclasses.replace(executor, store=None, report=lambda epoch: tell(epoch=epoch))
    complete(
        [member.run for row in rows for member in members[row.id]],
        store,
        execute if client is None else afar,
        device=device,
        most=together or (MOST_TOGETHER if device == "cpu" else MOST_ON_GPU),
        spread=here if client is None else spread_over(client),
        kept=kept,
    )
    return [results[row.id] for row in rows if row.id in results]


def _missing(there: Sequence[Member], planned: Sequence[Member]) -> list[str]:
    """Return of which grids how many of the planned runs are there, where some are not."""
    found, whole = (Counter(member.grid for member in of) for of in (there, planned))
    return [
        f"{grid}: {found[grid]} of {whole[grid]} runs"
        for grid in whole
        if found[grid] < whole[grid]
    ]


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


def _write(
    row: Row, plan: Plan, results: Sequence[Result], folder: Path, size: str, some: bool
) -> Reproduced:
    """Write a row's files, `result.json` last; `some`: of a part of its runs."""
    parts = [*(_part(name, results, some) for name in row.deliverables), _lost(row, results)]
    tables = {name: table for part in parts for name, table in part.tables.items()}
    charts = {
        "".join(c if c.isalnum() else "-" for c in title): chart
        for part in parts
        for title, chart in part.charts.items()
    }
    records = [result.record for result in results]
    took = {record.run.key: round(record.origin["wall_s"], 3) for record in records}
    result = Reproduced(
        id=row.id,
        name=row.name,
        claim=row.claim,
        theory=row.theory,
        data=list(dict.fromkeys(record.run.data.title for record in records)),
        settings=_settings(results),
        convention=plan.convention,
        profile=size,
        command=plan.command(row),
        whole=plan.whole.command(row),
        takes=row.takes,
        version=version("posterior-collapse"),
        hardware=", ".join(sorted({record.origin["hardware"] for record in records})),
        wall_s=sum(took.values()),
        runs=took,
        seeds=sorted({result.seed for result in results}),
        tables=tables,
        figures=[
            {"file": f"{name}.pdf", "caption": caption} for name, (_, caption) in charts.items()
        ],
        agreement=agreement(parts, results, quick=plan.quick, trained=_trained(row, plan)),
        published=row.published,
    )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with claim(folder, wait=True):  # another process may write the row by another plan
        _remove(folder)
        clear(folder)
        for name, table in tables.items():
            table.save(folder, f"table-{name}")  # beside the numbers of a figure of that name
        for name, (chart, _) in charts.items():
            chart.save(folder, name)
        write_json(folder / RESULT, result.to_dict())
    return result


def _remove(folder: Path) -> None:
    """Delete a row's last result and what it names: this one may have fewer tables and figures."""
    try:
        named = Reproduced.read(folder / RESULT).files
    except (MissingFileError, CorruptFileError):
        named = []  # what is not known to be of a result stays
    with writing(folder / RESULT):
        for name in (RESULT, *named):
            (folder / name).unlink(missing_ok=True)


def _part(name: str, results: Sequence[Result], some: bool) -> Part:
    """Return a deliverable; of some of a row's runs it may be that they do not suffice for it.

    Runs that diverged are left out, but for the study of trust, which counts them.
    """
    if not name.startswith(TRUST):
        whole = [result for result in results if not result.diverged]
        some, results = some or len(whole) < len(results), whole
    try:
        return DELIVERABLES[name](results)
    except (InvalidArgumentError, LookupError, StopIteration, ValueError):
        # Runs without a hash may be damaged instead: see `_damage_told`.
        if not some or any(result.record.files is None for result in results):
            raise
        what = name.replace("_", " ")
        return Part(
            checks=[Check(None, f"For its {what} the row lacks runs that are missing or diverged.")]
        )


def _lost(row: Row, results: Sequence[Result]) -> Part:
    """Say how many runs of which grids diverged; that is no comparison where these are counted."""
    lost = Counter(result.grid for result in results if result.diverged)
    of = Counter(result.grid for result in results)
    said = [f"{grid}: {n} of {count_of(of[grid], 'run')} diverged." for grid, n in lost.items()]
    if all(name.startswith(TRUST) for name in row.deliverables):
        return Part(notes=said)
    return Part(checks=[Check(None, text) for text in said])


PASSES = ("epochs", "batch_size", "learning_rate", "clip", "warm_up", "precision", "convention")
STEPS = ("steps", "learning_rate", "clip", "convention")
TRAINED = {
    "minibatch": PASSES, "widened": PASSES, "dead": ("convention",),
    "recorded": STEPS, "decayed": STEPS, "exact": ("steps", "convention"),
}  # fmt: skip
"""Settings that count for each method."""
UNSAID = (None, 0, False, "float32")
"""Values that go without saying."""


def _settings(results: Sequence[Result]) -> dict[str, Any]:
    """Per grid what its runs share, and the values of what varies."""
    found: dict[str, Any] = {}
    for title, settings in by_grid(results).items():
        run, labels = settings[0].first.run, settings[0].labels
        values = run.to_dict()
        spec, seen = values["spec"], values["evaluation"]
        for number, beta in enumerate(spec.pop("betas", ()), start=1):
            spec[f"beta_{number}"] = beta
        for name in ("matrices", "bracket", "weights"):
            del seen[name]
        if run.method not in BY_MINIBATCHES and not seen["panel"]:
            seen.clear()  # on moments alone
        parts = {
            "data": values["data"],
            "model": spec,
            "network": values["architecture"],
            "training": {name: values["settings"][name] for name in TRAINED[run.method]},
            "measured on": seen,
        }
        shared = {
            part: {k: v for k, v in of.items() if v not in UNSAID and k not in labels}
            for part, of in parts.items()
        }
        if not run.architecture.bias:
            shared["network"]["biases"] = "none"
        varies = {name: list(dict.fromkeys(s.labels[name] for s in settings)) for name in labels}
        seeds = max(len(setting.results) for setting in settings)
        found[title] = {"method": run.method, "seeds": seeds, **shared, "varies": varies}
    return found


def profile(row: Row, plan: Plan, missing: Sequence[str] = ()) -> str:
    """Return "full", "quick", or by how much a row is run smaller, and which runs are `missing`."""
    smaller = [] if plan.quick else list(_reductions(row, plan))
    smaller += ["; ".join(missing)] if missing else []
    if smaller:
        return f"smaller: {', '.join(smaller)}"
    return "quick" if plan.quick else "full"


def _trained(row: Row, plan: Plan) -> float:
    """Return the least share of its passes over the data for which a grid's nets are trained."""
    shares = (plan.most_epochs(grid) / grid.settings.epochs for grid in row.trained)
    return min(shares, default=1.0)


def _reductions(row: Row, plan: Plan) -> Iterator[str]:
    planned = max((grid.settings.epochs for grid in row.trained), default=0)
    if plan.epochs is not None and plan.epochs < planned:
        yield f"{plan.epochs} of {planned} epochs"
    for grid in row.trained:
        most = plan.most_epochs(grid)
        if most < min(grid.settings.epochs, plan.epochs or planned):
            yield f"{grid.titled(grid.data, grid.settings)} {most} of {grid.settings.epochs} epochs"
    if plan.rows is not None and any(
        plan.rows < (grid.data.rows or training_rows(grid.data)) for grid in row.trained
    ):
        yield f"trained on at most {plan.rows:,} rows"
