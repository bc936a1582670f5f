"""What `collapse diagnose` is pointed at: the folder of a run, or a posterior's arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posterior_collapse.cli import train_job
from posterior_collapse.cli.train_job import Job
from posterior_collapse.errors import CorruptFileError, DataError, nearest

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.models import MarkovVAE
    from posterior_collapse.specs import Spec

__all__ = ["ARRAYS", "Trained", "posterior", "runs", "trained"]

ARRAYS = ("mean", "std", "log_var", "prior_mean", "prior_std", "data")

SYNONYMS = {
    **dict.fromkeys(("mu", "mus", "loc", "z_mean", "means"), "mean"),
    **dict.fromkeys(("logvar", "log_variance", "z_log_var", "logvars"), "log_var"),
    **dict.fromkeys(("sigma", "scale", "z_std", "stds"), "std"),
    **dict.fromkeys(("x", "inputs"), "data"),
}
"""What else the arrays are called. Nothing is renamed unasked: a "sigma" may be a variance."""


class Trained(NamedTuple):
    """A trained run.

    Attributes:
        model: As of its last checkpoint.
        spec: What the loss that it was trained with amounts to.
        dataset: What to diagnose it on.
        notes: What is not as one might expect.
    """

    model: MarkovVAE
    spec: Spec
    dataset: Dataset
    notes: tuple[str, ...]


def runs(folder: Path) -> dict[str, Path]:
    """Return the folders of the runs in a folder, by name; `""` names a single run's.

    Raises:
        MissingFileError: Neither a run nor a sweep lies there, or one of its runs does not.
        CorruptFileError: A file of it was damaged, or the folder of a run holds another one.
    """
    job = train_job.read(folder)
    found = {}
    for run, path in zip(job.runs, job.folders(folder), strict=True):
        if run.name and train_job.read(path).runs != (replace(run, name=""),):
            raise _another(path, f"{run.name}, as its sweep names it")
        found[run.name] = path
    return found


def trained(folder: Path, *, split: str | None, data_dir: Path | None) -> Trained:
    """Return what `collapse train` left in a folder.

    Args:
        folder: Of one run.
        split: Of the data set, "train" or "test"; none: as trained on.
        data_dir: Where data set files are now; none: where they were.

    Raises:
        MissingFileError: No run lies there.
        CorruptFileError: Its checkpoint is that of another run than its `config.json` describes.
        CheckpointError: No checkpoint can be used.
        DataError: The data cannot be loaded.
    """
    job = train_job.read(folder)
    from posterior_collapse.training import checkpoints
    from posterior_collapse.training.annealing import effective_spec
    from posterior_collapse.training.states import load_model

    found = checkpoints.load(folder)
    model = load_model(found).eval()
    asked, done = job.run_settings().to_dict(), found.meta["settings"]
    same = all(done[name] == asked[name] for name in ("convention", *job.runs[0].numbers()))
    if not same or model.spec != job.runs[0].spec:
        raise _another(folder, "its checkpoint")
    spec = effective_spec(model.spec, job.run_settings().convention)
    notes = _of_spec(model.spec, spec) + _of_run(found.meta["run"].get("stopped"), found.step)
    dataset, changed = _data(job, split, data_dir)
    return Trained(model, spec, dataset, (*notes, *changed))


def posterior(path: Path) -> dict[str, Any]:
    """Return the arrays of a file by the names of `ARRAYS`.

    Raises:
        DataError: The file cannot be read, or lacks an array.
    """
    from posterior_collapse.data.files import read_arrays

    found = read_arrays(path)
    if "mean" not in found or ("std" in found) == ("log_var" in found):
        known = [f"{name} to {SYNONYMS[name]}" for name in found if name in SYNONYMS]
        hint = f" Rename {', '.join(known)}." if known else ""
        others = [name for name in found if name not in (*ARRAYS, *SYNONYMS)]
        raise DataError(
            str(path),
            f"the arrays {sorted(found)}",
            "mean, and one of std and log_var",
            "Write it with numpy.savez(path, mean=..., std=...)."
            + hint + "".join(nearest(name, ARRAYS) for name in others),
        )  # fmt: skip
    return {name: found[name] for name in ARRAYS if name in found}


def _another(folder: Path, expected: str) -> CorruptFileError:
    return CorruptFileError(
        str(folder / "config.json"),
        "another run",
        f"that of {expected}",
        "Put each folder back in its place, or train again.",
    )


def _of_spec(nominal: Spec, effective: Spec) -> tuple[str, ...]:
    if nominal == effective:
        return ()
    return (f"under the convention it was trained with, its loss is that of {effective!r}",)


def _of_run(stopped: str | None, step: int) -> tuple[str, ...]:
    if stopped == "finished" or stopped == "early":
        return ()
    what = "has not ended" if stopped is None else f"stopped as {stopped}"
    return (f"the run {what}; this is its state at step {step}",)


def _data(job: Job, split: str | None, data_dir: Path | None) -> tuple[Dataset, tuple[str, ...]]:
    from posterior_collapse.training.run_folders import fingerprint

    named = dict(job.data)
    trained_on = named.pop("sha256", None)
    as_trained = split in (None, named["split"])
    if split is not None:
        named["split"] = split
    if data_dir is not None:
        named["data_dir"] = str(data_dir)
    dataset = replace(job, data=named).load()
    if not as_trained:
        return dataset, ()
    if fingerprint([dataset.x, dataset.y]) == trained_on:
        return dataset, ()
    return dataset, ("the data have other values than those the run was trained on",)
