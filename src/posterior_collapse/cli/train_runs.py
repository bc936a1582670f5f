"""Train a job's runs, write their folders, print how they compare with the forecast."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from posterior_collapse import atomic
from posterior_collapse.cli import train_job
from posterior_collapse.cli.train_job import Job

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.training import Fitted, Progress

__all__ = ["train"]


def train(job: Job, out: Path, *, resume: bool, tensorboard: bool, as_json: bool) -> bool:
    """Train, write and print; return whether every run stayed finite.

    Raises:
        OutputError: The folder holds files already, or cannot be written.
        PosteriorCollapseError: What `fit` raises. A folder without any checkpoint is taken away.
    """
    from posterior_collapse.training import run_folders

    if resume:
        atomic.clear(out)
    else:
        run_folders.check_free(out)
    if tensorboard:
        run_folders.require_tensorboard()
    dataset = job.load()
    with _taken_away_on_error(out) if not resume else contextlib.nullcontext():
        job = job.fingerprinted(dataset)
        train_job.write(job, out)
        try:
            fitted = _fit(job, dataset, out, resume, tensorboard)
        except KeyboardInterrupt:
            typer.echo(f"Go on with: collapse train --resume {shlex.quote(str(out))}", err=True)
            raise
    summaries = [_write(f, *pair) for f, pair in zip(fitted, _named(job, out), strict=True)]
    if as_json:
        typer.echo(json.dumps(summaries, indent=2))
    else:
        _print(dataset, out, summaries)
    return not any(summary["stopped"].startswith("non-finite") for summary in summaries)


def _fit(
    job: Job, dataset: Dataset, out: Path, resume: bool, tensorboard: bool
) -> tuple[Fitted, ...]:
    from posterior_collapse.models import Architecture
    from posterior_collapse.training import fit, fit_many

    common: dict[str, Any] = {
        "settings": job.run_settings(),
        "resume": resume,
        "exact": job.exact,
        "from_forecast": job.from_forecast,
    }
    networks = Architecture.from_dict(job.architecture)
    folders = job.folders(out)
    with _watched(job, folders, tensorboard) as report:
        if len(job.runs) == 1:
            spec = job.runs[0].spec
            return (fit(spec, dataset, networks, folder=folders[0], progress=report, **common),)
        return fit_many(
            [run.spec for run in job.runs],
            dataset,
            networks,
            seeds=[run.seed for run in job.runs],
            learning_rates=[run.learning_rate for run in job.runs],
            clips=[run.clip for run in job.runs],
            folders=folders,
            progress=report,
            **common,
        )


@contextlib.contextmanager
def _watched(
    job: Job, folders: Sequence[Path], tensorboard: bool
) -> Iterator[Callable[[Progress], None]]:
    """Give the function that shows an epoch, and writes it for TensorBoard if asked."""
    from posterior_collapse.cli.live import RunsTable
    from posterior_collapse.training.run_folders import Scalars

    names = [run.name or run.spec.model for run in job.runs]
    scalars: dict[Path, Scalars] = {}
    total, unit = ("steps", "iteration") if job.exact else ("epochs", "epoch")
    most = getattr(job.run_settings(), total)
    table = RunsTable(names, len(job.runs[0].spec.dims), most, unit)

    def report(now: Progress) -> None:
        table.show(now.epoch, now.rows)
        for folder, row in zip(folders, now.rows, strict=True):
            if tensorboard and row is not None:
                if folder not in scalars:
                    scalars[folder] = Scalars(folder, start=now.epoch)
                scalars[folder].write(row)

    try:
        with table:
            yield report
    finally:
        for writer in scalars.values():
            writer.close()


@contextlib.contextmanager
def _taken_away_on_error(out: Path) -> Iterator[None]:
    """Leave no folder behind that has nothing to resume from."""
    from posterior_collapse.training import checkpoints

    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    except Exception:
        inside = (path for path in out.rglob("*") if path.is_dir())
        if not any(checkpoints.exists(folder) for folder in (out, *inside)):
            for path in out.iterdir() if out.is_dir() else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for folder in made:
                if folder.is_dir():
                    folder.rmdir()
        raise


def _named(job: Job, out: Path) -> Iterator[tuple[str, Path]]:
    for run, folder in zip(job.runs, job.folders(out), strict=True):
        yield run.name or run.spec.model, folder


def _write(fitted: Fitted, name: str, folder: Path) -> dict[str, Any]:
    from posterior_collapse.report.comparison import comparison_verdict
    from posterior_collapse.training import run_folders

    found = fitted.summary()
    summary = {
        "run": name,
        "spec": fitted.spec.to_dict(),
        "verdict": comparison_verdict(found),
        **found,
    }
    run_folders.write_history(folder, fitted.history)
    run_folders.write_json(folder / run_folders.SUMMARY, summary)
    return summary


def _print(dataset: Dataset, out: Path, summaries: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console

    from posterior_collapse.report.comparison import comparison_sentences, comparison_table

    named = [(summary["run"], summary) for summary in summaries]
    console = Console()
    console.print(f"[bold]{dataset.name}[/]: {dataset.note}", highlight=False)
    console.print(comparison_table(named))
    for sentence in comparison_sentences(named):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Folder: {out}", style="dim", highlight=False, markup=False, soft_wrap=True)
