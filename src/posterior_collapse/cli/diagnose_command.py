"""`collapse diagnose`: a trained run, or the numbers of a posterior."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from posterior_collapse.cli import options
from posterior_collapse.cli.forecast_command import LEAST_WIDTH
from posterior_collapse.cli.groups import DataDir
from posterior_collapse.errors import DataError, InvalidArgumentError, listed, nearest
from posterior_collapse.files import json_text

if TYPE_CHECKING:
    from rich.console import Console

    from posterior_collapse.diagnosis import Diagnosis
    from posterior_collapse.specs import Spec

RUN_ONLY = ("split", "data_dir", "importance_samples")
ARRAYS_ONLY = ("beta", "eta_dec")
ARRAYS = ("mean", "std", "log_var", "prior_mean", "prior_std", "data")

SPREADS = ("std", "log_var", "variance")
SYNONYMS = {
    **dict.fromkeys(
        ("mu", "mus", "loc", "means", "z_mean", "z_mu", "mean_z", "mu_z", "q_mean", "qz_mean"),
        "mean",
    ),
    **dict.fromkeys(("z_std", "stds", "q_std"), "std"),
    **dict.fromkeys(("var", "variance", "z_var", "q_var", "qz_var"), "variance"),
    **dict.fromkeys(
        ("logvar", "logvars", "log_variance", "z_log_var", "z_logvar", "logvar_z", "q_logvar"),
        "log_var",
    ),
}
"""What else the arrays of a posterior are called, where the name says which they are."""
UNCLEAR = {
    **dict.fromkeys(("sigma", "scale"), "std, if it is no variance"),
    **dict.fromkeys(("x", "inputs"), "data"),
}
"""Names that may mean something else, which are not taken."""
SOURCE = typer.Argument(
    help="Folder of a run or of a sweep (collapse train), or an .npz file with the arrays mean "
    "(or mu) and std, var or log_var (or logvar), perhaps prior_mean, prior_std and data."
)
PLOT = typer.Option(None, help="Write the figure to a .png, .pdf or .svg.")
HTML = typer.Option(None, help="Write a page to look at to an .html file.")


def diagnose(
    context: typer.Context,
    source: Path = SOURCE,
    split: str | None = typer.Option(
        None, help="Of a run's data: train or test (default: as trained on)."
    ),
    data_dir: DataDir = None,
    importance_samples: int = typer.Option(
        0,
        min=0,
        help="Of a run: samples per row for its log-likelihood (0: where it is exact).",
    ),
    beta: str | None = typer.Option(None, help="Of arrays: what the model was trained with."),
    eta_dec: str | None = typer.Option(None, help="Of arrays: the decoder std, or 'learned'."),
    epsilon: float = typer.Option(0.01, help="KL in nats of (eps, delta)-collapse."),
    delta: float = typer.Option(0.05, help="Share of rows of (eps, delta)-collapse."),
    seed: int = typer.Option(0, min=0, help="Of all samples."),
    plot: Path | None = PLOT,
    html: Path | None = HTML,
    as_json: bool = typer.Option(False, "--json", help="Print JSON (null: no finite value)."),
) -> None:
    """Say which units of a trained model collapsed, whether that is optimal, and what to change."""
    from posterior_collapse import report

    is_run = os.path.isdir(source)
    _refuse(context, ARRAYS_ONLY if is_run else RUN_ONLY, "arrays" if is_run else "a run's folder")
    if plot is not None:
        report.check_figure_path(plot)
    if html is not None:
        report.check_page_path(html)
    shared = {"epsilon": epsilon, "delta": delta, "seed": seed}
    if is_run and len(runs := _members(source)) > 1:
        _refuse(context, ("plot",), "the folder of one run")
        if html is not None:
            _page_of_sweep(source, html)
        _sweep(source, runs, as_json, split, data_dir, importance_samples, shared)
        _say_where("Page", html if not as_json else None)
        return
    if is_run:
        about, found = _of_run(source, split, data_dir, importance_samples, shared)
    else:
        about, found = _of_arrays(source, beta, eta_dec, shared)
    if plot is not None:
        report.save_figure(report.plot(found), plot)
    if html is not None:
        report.write_page(found, html, name=about["name"])
    if as_json:
        typer.echo(json_text({"source": str(source), "data": about} | found.to_dict()))
        return
    _print(f"{source}{', on ' + about['name'] if is_run else ''}: {about['note']}", found)
    _say_where("Figure", plot)
    _say_where("Page", html)


def _say_where(what: str, path: Path | None) -> None:
    if path is not None:
        typer.echo(f"{what}: {path}")


def _page_of_sweep(source: Path, html: Path) -> None:
    from posterior_collapse.cli.train_command import write_sweep_page
    from posterior_collapse.runs import folder

    write_sweep_page(source, folder.load(folder.read(source)), html)


def _members(source: Path) -> dict[str, Path]:
    from posterior_collapse.runs import folder

    return folder.members(source)


def _sweep(source: Path, runs: Mapping[str, Path], as_json: bool, *how: Any) -> None:
    """Diagnose each run of a sweep, and say so in one table."""
    from posterior_collapse import report

    found, failed = {}, {}
    for name, folder in runs.items():
        try:
            found[name] = _of_run(folder, *how)
        except DataError as error:  # such as a posterior that is no number any more
            failed[name] = error
    if not found:
        raise next(iter(failed.values()))
    if as_json:
        each = [{"run": n, "data": about} | one.to_dict() for n, (about, one) in found.items()]
        each += [{"run": name, "error": str(why)} for name, why in failed.items()]
        typer.echo(json_text({"source": str(source), "runs": each}))
        return
    about, _ = next(iter(found.values()))
    console = _console()
    console.print(f"{source}, on {about['name']}: {about['note']}", markup=False)
    console.print(report.diagnoses_table({name: one for name, (_, one) in found.items()}))
    for name, (_, one) in found.items():
        console.print(f"{name}: {one.verdict}", markup=False)
    for name, why in failed.items():
        console.print(f"{name}: cannot be diagnosed. {why}", markup=False)
    first = runs[next(iter(found))]
    console.print(f"Units and advice: collapse diagnose {first}", style="dim", markup=False)


def _refuse(context: typer.Context, names: Sequence[str], belongs_to: str) -> None:
    for name in names:
        origin = context.get_parameter_source(name)
        if origin is not None and origin.name == "COMMANDLINE":
            raise InvalidArgumentError(
                f"--{name.replace('_', '-')}",
                "a value",
                f"none: the option is for {belongs_to}",
                "Remove it.",
            )


def _of_run(
    folder: Path,
    split: str | None,
    data_dir: Path | None,
    importance_samples: int,
    shared: dict[str, Any],
) -> tuple[dict[str, Any], Diagnosis]:
    from posterior_collapse.runs.folder import diagnosed

    dataset, found = diagnosed(
        folder,
        split=split,
        data_dir=data_dir,
        importance_samples=importance_samples,
        progress=sys.stderr.isatty(),
        **shared,
    )
    return {"name": dataset.name, "note": dataset.note, "samples": found.n}, found


def _of_arrays(
    path: Path, beta: str | None, eta_dec: str | None, shared: dict[str, Any]
) -> tuple[dict[str, Any], Diagnosis]:
    from posterior_collapse.diagnosis import diagnose_arrays

    arrays, called = _posterior(path)
    spec = _spec(arrays, beta, eta_dec)
    found = diagnose_arrays(**arrays, spec=spec, **shared)
    if spec is None and "data" in arrays:
        note = "no forecast without what the model was trained with: pass --beta and --eta-dec"
        found = replace(found, notes=(*found.notes, note))
    shown = [name if name == own else f"{own} as {name}" for name, own in called.items()]
    about = {"name": path.name, "note": f"arrays {', '.join(shown)}", "samples": found.n}
    return about, found


def _posterior(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arrays of a file by the names of `ARRAYS`, and what they are called in it.

    Raises:
        DataError: The file cannot be read, lacks an array, or it is not clear which is meant.
    """
    from posterior_collapse.data.files import read_arrays
    from posterior_collapse.data.tensors import PICKLES

    if path.suffix.lower() in PICKLES and path.is_file():
        raise DataError(
            str(path),
            "a pickle, which may run code when it is read",
            "the folder of a run, or an .npz file with the arrays mean and std",
            "Write it with numpy.savez(path, mean=..., std=...), or call pc.diagnose(model, data).",
        )
    found = read_arrays(path)
    called = {name: name for name in ARRAYS if name in found}
    groups = [group for group in (("mean",), SPREADS) if not called.keys() & set(group)]
    for name in found:
        meant = SYNONYMS.get(name.lower(), "")
        if any(meant in group for group in groups):
            if meant in called:
                raise DataError(
                    str(path), f"{called[meant]} and {name}", f"one {meant}", "Leave one away."
                )
            called[meant] = name
    spreads = [name for name in SPREADS if name in called]
    if "mean" not in called or len(spreads) != 1:
        unclear = [f"{name} to {UNCLEAR[name]}" for name in found if name in UNCLEAR]
        hint = f" Rename {', '.join(unclear)}." if unclear else ""
        others = [name for name in found if name not in (*ARRAYS, *SYNONYMS, *UNCLEAR)]
        raise DataError(
            str(path),
            f"the arrays {listed(sorted(found))}",
            "mean, and one of std and log_var (or var)",
            "Write it with numpy.savez(path, mean=..., std=...)."
            + hint + "".join(nearest(name, ARRAYS) for name in others),
        )  # fmt: skip
    arrays = {name: found[own] for name, own in called.items()}
    if "variance" in arrays:
        arrays["std"] = _root(path, called["variance"], arrays.pop("variance"))
    own_names = {name: called[name] for name in (*ARRAYS, "variance") if name in called}
    return {name: arrays[name] for name in ARRAYS if name in arrays}, own_names


def _root(path: Path, name: str, variance: Any) -> Any:
    """Return a std.

    Raises:
        DataError: The variance is none.
    """
    import numpy as np

    if variance.dtype.kind not in "biuf" or (variance < 0).any():
        got = "negative values" if variance.dtype.kind in "biuf" else f"dtype {variance.dtype}"
        raise DataError(f"{name} of {path}", got, "variances", "A log-variance is log_var.")
    return np.sqrt(variance)


def _spec(arrays: dict[str, Any], beta: str | None, eta_dec: str | None) -> Spec | None:
    if beta is None and eta_dec is None:
        return None
    mean, prior_std = arrays["mean"], arrays.get("prior_std")
    eta_enc = float(prior_std) if prior_std is not None and prior_std.ndim == 0 else 1.0
    return options.build_spec(
        "vae",
        latents=str(mean.shape[1] if mean.ndim == 2 else 1),
        beta=beta or "1",
        eta_dec=eta_dec or "1",
        eta_enc=eta_enc,
        sigma=None,
        sigma_1=None,
        sigma_2=None,
    )


def _console() -> Console:
    from rich.console import Console

    # A table cut to a narrow terminal loses numbers; wrapped by the terminal it does not.
    return Console(width=max(Console().width, LEAST_WIDTH), highlight=False)


def _print(head: str, found: Diagnosis) -> None:
    from posterior_collapse import report

    console = _console()
    console.print(head, markup=False)
    if found.spec is not None:
        console.print(repr(found.spec), markup=False)
    for part in report.diagnosis_page(found):
        console.print(part)
