"""What `collapse train` was asked to do, as plain values that a resumed command reads back.

The folder of one run holds its job in `config.json`; that of a sweep names its runs in
`sweep.json`, and each run's own folder in it holds the job of that run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_collapse.cli import options
from posterior_collapse.cli.grid import Run
from posterior_collapse.errors import CorruptFileError, DataError, MissingFileError
from posterior_collapse.specs import Spec

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.training import Settings

__all__ = ["SWEEP", "Job", "read", "write"]

SWEEP = "sweep.json"


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
    """Write the job; of a sweep, the file that names the runs last.

    Raises:
        OutputError: The folder cannot be written.
    """
    from posterior_collapse.training.run_folders import CONFIG, write_json

    for run, folder in zip(job.runs, job.folders(out), strict=True):
        write_json(folder / CONFIG, _config(job, run))
    if any(run.name for run in job.runs):
        write_json(out / SWEEP, {"runs": [run.name for run in job.runs]})


def read(out: Path) -> Job:
    """Return the job of a folder.

    Raises:
        MissingFileError: There is none.
        CorruptFileError: A file of it is not what `write` wrote.
    """
    from posterior_collapse.training.run_folders import CONFIG, read_json

    sweep = out / SWEEP
    names = read_json(sweep).get("runs") if sweep.exists() else [""]
    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise _corrupt(sweep)
    configs = []
    for name in names:
        path = out / name / CONFIG
        if not path.exists():
            raise MissingFileError(
                str(path), "no such file", "the folder of a run or a sweep", "Check the name."
            )
        configs.append((path, name, read_json(path)))
    return _combined(configs)


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


def _combined(configs: Sequence[tuple[Path, str, Mapping[str, Any]]]) -> Job:
    runs, shared = [], []
    for path, name, config in configs:
        try:
            settings = dict(config["settings"])
            numbers = {key: settings.pop(key) for key in ("learning_rate", "clip", "seed")}
            runs.append(Run(name, Spec.from_dict(config["spec"]), **numbers))
            keys = ("data", "architecture", "exact", "from_forecast")
            shared.append({"settings": settings, **{key: config[key] for key in keys}})
        except (KeyError, TypeError, ValueError) as error:
            raise _corrupt(path) from error
        if shared[-1] != shared[0]:
            raise _corrupt(path)
    return Job(runs=tuple(runs), **shared[0])


def _corrupt(path: Path) -> CorruptFileError:
    return CorruptFileError(
        str(path), "other values than were written", "the file of a run", "Restore it from a copy."
    )
