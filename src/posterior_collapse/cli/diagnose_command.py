"""`collapse diagnose`: a trained run, or the numbers of a posterior."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from posterior_collapse.cli import options
from posterior_collapse.cli.groups import (
    OF_ROWS,
    AsJson,
    Device,
    ReadingOptions,
    ViewOptions,
    grouped,
)
from posterior_collapse.errors import (
    CheckpointError,
    DataError,
    InvalidArgumentError,
    PosteriorCollapseError,
)
from posterior_collapse.files import check_described, is_kept, json_text, kept_in

if TYPE_CHECKING:
    from posterior_collapse.diagnosis import Diagnosis
    from posterior_collapse.runs.kept import Kept
    from posterior_collapse.specs import Spec

RUN_ONLY = ("split", "importance_samples", "device")
ARRAYS_ONLY = ("beta", "eta_dec")


@grouped
def diagnose(
    context: typer.Context,
    named: ReadingOptions,
    views: ViewOptions,
    source: Path = typer.Argument(
        help="Folder of runs (of collapse train, collapse tune or pc.sweep), or a file (.npz, "
        ".safetensors, .pt, .h5) with the arrays mean (or mu) and std, var or log_var (or logvar), "
        "optionally prior_mean, prior_std (or prior_log_var) and data."
    ),
    data: str | None = typer.Option(
        None, help="Rows to diagnose on: a name or a file (default: those trained on)."
    ),
    given: str | None = typer.Option(None, help="With --data: the file with the condition x."),
    split: str | None = typer.Option(
        None, help="Split of a run's data: train or test (default: as in training)."
    ),
    importance_samples: int = typer.Option(
        0,
        min=0,
        help="For a run: samples per row for its log-likelihood (0: only if exact).",
    ),
    device: Device = None,
    beta: str | None = typer.Option(None, help="For arrays: beta of the trained model."),
    eta_dec: str | None = typer.Option(None, help="For arrays: the decoder std, or 'learned'."),
    epsilon: float = typer.Option(0.01, help="eps of (eps, delta)-collapse: a KL in nats."),
    delta: float = typer.Option(0.05, help="delta of (eps, delta)-collapse: a share of rows."),
    seed: int = typer.Option(0, min=0, help="Seed of all sampling."),
    as_json: AsJson = False,
) -> None:
    """Say which units of a trained model collapsed, whether that is optimal, and what to change.

    Data are read as in training, unless an option says otherwise.
    """
    is_run = os.path.isdir(source)
    unread = () if is_run or data is not None else (*OF_ROWS, "given")
    idle = ARRAYS_ONLY if is_run else (*RUN_ONLY, *unread)
    whose = "arrays" if is_run else "a run's folder, or beside --data"
    options.refuse_given(context, idle, "a value", f"none: the option is for {whose}")
    views.check()
    shared = {"epsilon": epsilon, "delta": delta, "seed": seed}
    if is_run:
        how = shared | {"importance_samples": importance_samples, "device": device or "cpu"}
        changes = _changes(named, data, given, split)
        runs = _members(source, changes)
        if len(runs) > 1:
            if views.asked:
                if changes.keys() - {"data_dir"}:
                    raise InvalidArgumentError(
                        "--plot, --html", "given for several runs on other data",
                        "what they were trained on, as figure and page of several runs are of that",
                        "Name the folder of one run.",
                    )  # fmt: skip
                from posterior_collapse.cli.train_command import write_sweep_views

                write_sweep_views(source, next(iter(runs.values())).dataset(), views)
            _sweep(source, runs, as_json, how)
            if not as_json:
                views.say_where()
            return
        about, found = _of_run(next(iter(runs.values())), how)
    else:
        rows = None
        if data is not None:
            from posterior_collapse.data import load

            dataset = load(data, given=given, progress=True, **named.chosen())
            rows = dataset.x if dataset.y is None else dataset.y
        about, found = _of_arrays(source, rows, beta, eta_dec, shared)
    found = found.replace(_about=replace(found._about, name=about["name"]))
    views.write(found)
    if as_json:
        typer.echo(json_text({"source": str(source), "data": about} | found.to_dict()))
        return
    from posterior_collapse import report

    console = options.wide_console()
    on = f", on {about['name']}" if is_run else ""
    console.print(f"{source}{on}: {about['note']}", markup=False)
    if found.spec is not None:
        console.print(repr(found.spec), markup=False)
    for part in report.diagnosis_page(found):
        console.print(part)
    views.say_where()


def _changes(
    named: ReadingOptions, data: str | None, given: str | None, split: str | None
) -> dict[str, Any]:
    """Return what is said of the data, which else are read as when the model was trained."""
    from posterior_collapse.data.registry import absolute

    said = named.chosen() | {"name": data, "given": given, "split": split}
    if not named.standardize:
        del said["standardize"]
    changes = {name: value for name, value in said.items() if value is not None}
    for name in ("name", "given", "data_dir"):
        if name in changes:
            changes[name] = absolute(str(changes[name]))
    return changes


def _members(source: Path, changes: Mapping[str, Any]) -> dict[str, Kept]:
    """Return the runs of a folder by name, all of it checked but the data."""
    if not (kept_in(source) or is_kept(source)):
        check_described(source)
    from posterior_collapse.experiments.data import read_samples
    from posterior_collapse.runs import kept

    return kept.members(source, changes, read_samples)


def _sweep(source: Path, runs: Mapping[str, Kept], as_json: bool, how: dict[str, Any]) -> None:
    """Diagnose each run of a sweep, and say so in one table."""
    from posterior_collapse import report

    found, failed = {}, dict[str, PosteriorCollapseError]()
    for name, run in runs.items():
        try:
            found[name] = _of_run(run, how)
        except (CheckpointError, DataError) as error:  # no model, or no numbers any more
            failed[name] = error
    if not found:
        raise next(iter(failed.values()))
    if as_json:
        each = [{"run": n, "data": about} | one.to_dict() for n, (about, one) in found.items()]
        each += [{"run": name, "error": str(why)} for name, why in failed.items()]
        typer.echo(json_text({"source": str(source), "runs": each}))
        return
    about, _ = next(iter(found.values()))
    console = options.wide_console()
    console.print(f"{source}, on {about['name']}: {about['note']}", markup=False)
    console.print(report.diagnoses_table({name: one for name, (_, one) in found.items()}))
    for name, (_, one) in found.items():
        console.print(f"{name}: {one.verdict}", markup=False)
    for name, why in failed.items():
        console.print(f"{name}: cannot be diagnosed. {why}", markup=False)
    first = shlex.quote(str(runs[next(iter(found))].folder))
    console.print(f"Units and advice: collapse diagnose {first}", style="dim", markup=False)


def _of_run(run: Kept, how: Mapping[str, Any]) -> tuple[dict[str, Any], Diagnosis]:
    dataset, found = run.diagnosed(progress=sys.stderr.isatty(), **how)
    return {"name": dataset.name, "note": dataset.note, "samples": found.n}, found


def _of_arrays(
    path: Path, rows: Any, beta: str | None, eta_dec: str | None, shared: dict[str, Any]
) -> tuple[dict[str, Any], Diagnosis]:
    from posterior_collapse.data.files import read_posterior
    from posterior_collapse.diagnosis import diagnose_arrays

    arrays, called = read_posterior(path)
    if rows is not None:
        arrays["data"] = rows
        called.pop("data", None)
    spec = _spec(arrays, beta, eta_dec)
    found = diagnose_arrays(**arrays, spec=spec, **shared)
    if spec is None and "data" in arrays:
        note = "no forecast without what the model was trained with: pass --beta and --eta-dec"
        found = found.replace(notes=(*found.notes, note))
    shown = [name if name == own else f"{own} as {name}" for name, own in called.items()]
    about = {"name": path.name, "note": f"arrays {', '.join(shown)}", "samples": found.n}
    return about, found


def _spec(arrays: dict[str, Any], beta: str | None, eta_dec: str | None) -> Spec | None:
    if beta is None and eta_dec is None:
        return None
    mean, prior_std = arrays["mean"], arrays.get("prior_std")
    eta_enc = float(prior_std) if prior_std is not None and prior_std.ndim == 0 else 1.0
    units = str(mean.shape[1] if mean.ndim == 2 else 1)
    given = {"latents": units, "beta": beta, "eta_dec": eta_dec, "eta_enc": repr(eta_enc)}
    return options.build_spec("vae", given)
