"""What `collapse train` was asked to do, as plain values that a resumed command reads back.

The folder of one run holds its job in `config.json`; that of a sweep holds the jobs of all runs in
`sweep.json`, and each run's own folder in it that run's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_collapse import checks
from posterior_collapse.cli import options
from posterior_collapse.cli.grid import Run
from posterior_collapse.errors import CorruptFileError, DataError, MissingFileError
from posterior_collapse.specs import Spec

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.training import Settings

__all__ = ["SWEEP", "Job", "read", "write"]

SWEEP = "sweep.json"
_TEXT = (str, type(None))
DATA: Mapping[str, type | tuple[type, ...]] = {
    "source": str,
    "given": _TEXT,
    "task": _TEXT,
    "label": (int, type(None)),
    "scale": (int, float, type(None)),
    "split": str,
    "data_dir": _TEXT,
    "sha256": _TEXT,
}
"""What names the data of a job."""


@dataclass(frozen=True)
class Job:
    """Runs that train together.

    Args:
        data: Options that name the data, and the SHA-256 of their values.
        architecture: Its name and options.
        settings: What the runs share, as `Settings.to_dict` gives it.
        runs: Their names and numbers.
        exact: Train a linear model with the noise integrated out.
        from_forecast: Start at the closed-form optimum.
    """

    data: Mapping[str, Any]
    architecture: Mapping[str, Any]
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    exact: bool = False
    from_forecast: bool = False

    def load(self) -> Dataset:
        """Load the data.

        Raises:
            DataError: They cannot be used, or are not those the runs began with.
        """
        from posterior_collapse.training.run_folders import fingerprint

        named = dict(self.data)
        expected = named.pop("sha256", None)
        data_dir = named.pop("data_dir")
        dataset = options.load_data(
            named.pop("source"),
            **named,
            model=self.runs[0].spec.model,
            data_dir=None if data_dir is None else Path(data_dir),
        )
        if expected not in (None, fingerprint([dataset.x, dataset.y])):
            raise DataError(
                str(self.data["source"]),
                "other values than when the run began",
                "the same data, so that the run goes on exactly",
                "Restore the data, or train into a new folder.",
            )
        return dataset

    def fingerprinted(self, dataset: Dataset) -> Job:
        """Return the job with its data's SHA-256."""
        from posterior_collapse.training.run_folders import fingerprint

        return replace(self, data={**self.data, "sha256": fingerprint([dataset.x, dataset.y])})

    def run_settings(self) -> Settings:
        """Return what the runs share; with one run, all its settings."""
        from posterior_collapse.training import Settings

        own = self.runs[0].numbers() if len(self.runs) == 1 else {}
        return Settings.from_dict({**self.settings, **own})

    def folders(self, out: Path) -> tuple[Path, ...]:
        """Return the folder of each run: `out` itself if it is the only one."""
        return tuple(out / run.name if run.name else out for run in self.runs)


def write(job: Job, out: Path) -> None:
    """Write the job; of a sweep the whole of it first, so that it can be read at any moment.

    Raises:
        OutputError: The folder cannot be written.
    """
    from posterior_collapse.training.run_folders import CONFIG, write_json

    configs = {run.name: _config(job, run) for run in job.runs}
    if "" not in configs:
        write_json(out / SWEEP, {"runs": configs})
    for run, folder in zip(job.runs, job.folders(out), strict=True):
        write_json(folder / CONFIG, configs[run.name])


def read(out: Path) -> Job:
    """Return the job of a folder.

    Raises:
        MissingFileError: There is none.
        CorruptFileError: A file of it is not what `write` wrote.
    """
    from posterior_collapse.training.run_folders import CONFIG, read_json

    if os.path.lexists(out / SWEEP):
        return _combined(out / SWEEP, read_json(out / SWEEP).get("runs"))
    if not os.path.lexists(out / CONFIG):
        raise MissingFileError(
            str(out / CONFIG), "no such file", "the folder of a run or a sweep", "Check the name."
        )
    return _combined(out / CONFIG, {"": read_json(out / CONFIG)})


def _config(job: Job, run: Run) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "version": version("posterior-collapse"),
        "data": dict(job.data),
        "spec": run.spec.to_dict(),
        "architecture": dict(job.architecture),
        "settings": {**job.settings, **run.numbers()},
        "exact": job.exact,
        "from_forecast": job.from_forecast,
    }


def _combined(path: Path, configs: Any) -> Job:
    runs, shared = [], []
    try:
        for name, config in configs.items():
            if path.name == SWEEP:
                checks.file_name("name of a run", name)
            settings = dict(config["settings"])
            numbers = {key: settings.pop(key) for key in ("learning_rate", "clip", "seed")}
            runs.append(Run(name, Spec.from_dict(config["spec"]), **numbers))
            keys = ("data", "architecture", "exact", "from_forecast")
            shared.append({"settings": settings, **{key: config[key] for key in keys}})
        if any(one != shared[0] for one in shared):
            raise ValueError("runs of different jobs")
        job = Job(runs=tuple(runs), **shared[0])
        _check(job)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CorruptFileError(
            str(path),
            f"other values than were written ({error})",
            "the file of a run",
            "Restore it from a copy.",
        ) from error
    return job


def _check(job: Job) -> None:
    """Refuse what `write` would never have written, with whatever error comes first."""
    from posterior_collapse.models import Architecture, check_convention
    from posterior_collapse.training import Settings

    if not set(job.data) - {"sha256"} == set(DATA) - {"sha256"}:
        raise ValueError(f"data named by {sorted(job.data)}")
    flags = {name: (getattr(job, name), bool) for name in ("exact", "from_forecast")}
    named = {name: (value, DATA[name]) for name, value in job.data.items()}
    for name, (value, kind) in {**named, **flags}.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {value!r}")
    networks = Architecture.from_dict(job.architecture)
    for run in job.runs:
        networks.check_model(run.spec)
        settings = Settings.from_dict({**job.settings, **run.numbers()})
        check_convention(settings.convention, run.spec)
