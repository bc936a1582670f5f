"""The folder of `collapse train`, which people read: what was asked, and what came out.

The folder of one run holds what describes it in `config.json`; that of a sweep holds that of all
runs in `sweep.json`, and the folder of each run in it that run's. Beside them lie checkpoints,
`history.csv`, `summary.json` and perhaps what TensorBoard shows.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from posterior_collapse import checks, files
from posterior_collapse.data import Dataset
from posterior_collapse.data import load as load_data
from posterior_collapse.data.about import Columns, columns_in, columns_of
from posterior_collapse.errors import (
    CorruptFileError,
    DataError,
    MissingFileError,
    OutputError,
    writing,
)
from posterior_collapse.models import Architecture, MarkovVAE
from posterior_collapse.report.comparison import comparison_verdict
from posterior_collapse.runs.completing import MOST_TOGETHER, Job, Training, here
from posterior_collapse.runs.run import NUMBERS, Run, RunData, asked
from posterior_collapse.runs.spreading import spread_over
from posterior_collapse.runs.store import Outcome
from posterior_collapse.specs import Spec
from posterior_collapse.training import Progress, Settings, checkpoints
from posterior_collapse.training.states import load_model

SUMMARY = "summary.json"
DATA = ("given", "task", "label", "scale", "split", "data_dir")
"""What names the data in a file beside `source` and, once they were read, `sha256`."""
READING = ("header", "columns", "drop", "label_column", "key", "standardize")
"""What a file says of how the data are read, where it was asked for."""

Named = Mapping[str, Run]
"""Runs by name, such as "beta=1,seed=0", which is also the name of the run's folder in that of its
sweep. A run that was trained alone has the name `""`: its folder is the whole."""


def read(out: Path) -> dict[str, Run]:
    """Return the runs of a folder.

    Raises:
        MissingFileError: There are none.
        CorruptFileError: A file of it is not what `train` wrote.
    """
    path = files.check_described(out)
    values = files.read_json(path)
    try:
        configs = values["runs"] if path.name == files.SWEEP else {"": values}
        for name in configs if path.name == files.SWEEP else ():
            checks.file_name("name of a run", name)
        runs = {name: _run(config) for name, config in configs.items()}
        first, *others = runs.values()
        same = {name: getattr(first.settings, name) for name in NUMBERS}
        for run in others:
            if run.replace(spec=first.spec, settings=run.settings.replace(**same)) != first:
                raise ValueError("runs of different jobs")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CorruptFileError(
            str(path),
            f"other values than were written ({error})",
            "the file of a run",
            "Restore it from a copy.",
        ) from error
    return runs


def load(runs: Named) -> Dataset:
    """Load the data of runs.

    Raises:
        DataError: They cannot be used, or are not those the runs began with.
    """
    choice = next(iter(runs.values())).data
    named = {name: getattr(choice, name) for name in (*DATA, *READING)}
    dataset = load_data(choice.name, **named, progress=True).at_hand()
    if choice.sha256 not in (None, files.fingerprint([dataset.x, dataset.y])):
        raise DataError(
            choice.name,
            "other values than when the run began",
            "the same data, so that the run goes on exactly",
            "Restore the data, or train into a new folder.",
        )
    return dataset


def train(
    runs: Named,
    dataset: Dataset,
    out: Path,
    *,
    resume: bool,
    report: Callable[[Progress], None],
    client: Any = None,
) -> list[dict[str, Any]]:
    """Train runs, write their folders, and return what their summaries say, in the order given.

    Those of one seed train together and see the data in one order; different seeds have different
    orders. Processes do not train in one folder at the same time. On a cluster those that train
    together are at most 12, which changes no more than rounding.

    Args:
        runs: What to train, by name.
        dataset: What `load` returned.
        out: The folder, a new or empty one unless they are resumed.
        resume: Go on from the folder's checkpoints.
        report: Called after each epoch, with a row per run; None: it has stopped or does not train
            now.
        client: A Client of dask.distributed, on whose workers the runs train; None: in this
            process.

    Raises:
        OutputError: The folder holds files already, cannot be written, is in use, or was deleted
            meanwhile.
        PosteriorCollapseError: What `fit` raises. A folder without any checkpoint is taken away.
    """
    with _own(out, runs, resume) as check:
        if resume:
            files.clear(out)
        known = files.fingerprint([dataset.x, dataset.y])
        runs = {n: run.replace(data=run.data.replace(sha256=known)) for n, run in runs.items()}
        _write(runs, out, columns_of(dataset))
        found: dict[str, Outcome] = {}
        spread = here if client is None else spread_over(client)
        execute = Training(dataset, alone=len(runs) == 1)
        jobs = _jobs(runs, out, check, report, apart=client is not None)
        for job, done in spread(jobs, execute, next(iter(runs.values())).settings.device):
            check()
            left = zip(job.folders or (), done.outcomes, strict=True)
            found |= {"" if folder == out else folder.name: one for folder, one in left}
        return [_summarised(found[name], name, out / name) for name in runs]


def _jobs(
    runs: Named,
    out: Path,
    check: Callable[[], None],
    report: Callable[[Progress], None],
    apart: bool,
) -> Iterator[Job]:
    """Yield the groups of runs that share an order of the data, cut up where they train apart."""
    for seed in dict.fromkeys(run.settings.data_order for run in runs.values()):
        names = [name for name, run in runs.items() if run.settings.data_order == seed]
        most = len(names)
        if apart:
            most = 1 if runs[names[0]].method == "exact" else MOST_TOGETHER
        for start in range(0, len(names), most):
            group = names[start : start + most]

            def told(now: Progress, group: Sequence[str] = group) -> None:
                check()
                rows = dict(zip(group, now.rows, strict=True))
                report(now._replace(rows=[rows.get(name) for name in runs]))

            folders = [out / name for name in group]
            yield Job(tuple(runs[name] for name in group), folders, stays=True, report=told)


def beginning(runs: Named, out: Path) -> list[str]:
    """Return the names of the runs that would begin anew if the folder was resumed.

    They are those without a checkpoint, and those that train together with one of them: rounding
    depends on who trains together.
    """
    bare = {name for name in runs if not checkpoints.exists(out / name)}
    if next(iter(runs.values())).method == "exact":  # each trains alone
        return [name for name in runs if name in bare]
    orders = {runs[name].settings.data_order for name in bare}
    return [name for name, run in runs.items() if run.settings.data_order in orders]


def columns(folder: Path) -> Columns:
    """Return what the features that a run was trained on are called; none: that is not known."""
    return columns_in(files.read_json(folder / files.CONFIG))


def members(folder: Path) -> dict[str, Path]:
    """Return the folders of the runs in a folder, by name; `""` names a single run's.

    Raises:
        MissingFileError: Neither a run nor a sweep lies there, or one of its runs does not.
        CorruptFileError: A file of it was damaged, or the folder of a run holds another one.
    """
    runs = read(folder)
    for name, run in runs.items():
        try:
            same = not name or read(folder / name) == {"": run}
        except (MissingFileError, CorruptFileError) as error:
            raise type(error)(
                error.argument,
                error.got,
                "what its sweep names",
                f"Go on with collapse train --resume {shlex.quote(str(folder))}, which mends it.",
            ) from error
        if not same:
            raise _another(folder / name, f"{name}, as its sweep names it")
    return {name: folder / name for name in runs}


def trained(folder: Path) -> tuple[Run, MarkovVAE, list[str]]:
    """Return what `train` left in the folder of one run, as of its last checkpoint, and remarks.

    Raises:
        MissingFileError: No run lies there.
        CorruptFileError: Its checkpoint is that of another run than its `config.json` describes.
        CheckpointError: No checkpoint can be used.
    """
    run = next(iter(read(folder).values()))
    found = checkpoints.load(folder)
    model = load_model(found)
    done, state = found.meta["settings"], found.meta["run"].get("stopped")
    same = all(done[name] == getattr(run.settings, name) for name in ("convention", *NUMBERS))
    if not same or model.spec != run.spec:
        raise _another(folder, "its checkpoint")
    if state in ("finished", "early"):
        return run, model, []
    what = "has not ended" if state is None else f"stopped as {state}"
    return run, model, [f"the run {what}; this is its state at step {found.step}"]


@contextlib.contextmanager
def _own(out: Path, runs: Named, resume: bool) -> Iterator[Callable[[], None]]:
    """Keep other processes out of the folder while runs train in it.

    If training fails before anything was written that one could resume from, the folder is taken
    away again, with the parents that were made for it.

    Yields:
        A function that raises if the folder was deleted or replaced meanwhile.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        began = out.stat()
    with files.claim(out, wait=False) as own:
        if not own:
            raise OutputError(
                str(out), "a folder in which another process trains", "one that nobody uses",
                "Wait until it has ended, or train into another folder.",
            )  # fmt: skip
        if not resume:
            files.check_free(out)

        def same() -> bool:
            with contextlib.suppress(OSError):
                return os.path.samestat(began, out.stat())
            return False

        gone = OutputError(
            str(out), "a folder that was deleted or replaced while its runs trained",
            "the one they began in", "Train again into a new folder.",
        )  # fmt: skip

        def check() -> None:
            if not (same() and all((out / name / files.CONFIG).is_file() for name in runs)):
                raise gone

        try:
            yield check
        except Exception as error:
            lost = error is not gone and not same()
            described = any((out / name).is_file() for name in (files.CONFIG, files.SWEEP))
            begun = any(checkpoints.exists(out / name) for name in runs)
            if not described or not (resume or begun):
                _take_away(out, made)
            if lost:
                raise gone from error
            raise


def _take_away(out: Path, made: Sequence[Path]) -> None:
    for path in out.iterdir() if out.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in made:
        if folder.is_dir():
            folder.rmdir()


def _summarised(outcome: Outcome, name: str, folder: Path) -> dict[str, Any]:
    """Write what people read, and return the summary."""
    found = outcome.summary()
    spec = outcome.run.spec
    summary = {
        "run": name or spec.model,
        "spec": spec.to_dict(),
        "verdict": comparison_verdict(found),
        **found,
    }
    files.write_history(folder, outcome.history)
    files.write_json(folder / SUMMARY, summary)
    return summary


def _write(runs: Named, out: Path, columns: Columns) -> None:
    """Write what was asked; of a sweep the whole of it first, to be read at any moment."""
    called = {"columns": columns} if any(columns) else {}
    configs = {name: _config(run) | called for name, run in runs.items()}
    if "" not in configs:
        files.write_json(out / files.SWEEP, {"runs": configs})
    for name, config in configs.items():
        files.write_json(out / name / files.CONFIG, config)


def _config(run: Run) -> dict[str, Any]:
    settings = run.settings.to_dict()
    numbers = {name: settings.pop(name) for name in ("learning_rate", "clip", "seed")}
    return {
        "version": version("posterior-collapse"),
        "data": {
            "source": run.data.name,
            **{name: getattr(run.data, name) for name in (*DATA, "sha256")},
            **{
                name: value
                for name in READING
                if (value := getattr(run.data, name)) is not getattr(RunData, name)
            },
        },
        "spec": run.spec.to_dict(),
        "architecture": run.architecture.to_dict(),
        "settings": {**settings, **numbers},
        "exact": run.method == "exact",
        "from_forecast": run.from_forecast,
    }


def _run(config: Mapping[str, Any]) -> Run:
    """Return the run that `_config` described, or whatever error comes first."""
    named = dict(config["data"])
    asked_for = {name: named.pop(name, getattr(RunData, name)) for name in ("sha256", *READING)}
    source = named.pop("source")
    if set(named) != set(DATA) or named["split"] is None:
        raise ValueError(f"data named by {sorted(named)}")
    if not isinstance(config["exact"], bool):
        raise TypeError(f"exact is {config['exact']!r}")
    (run,) = asked(
        RunData(source, **named, **asked_for),
        Architecture.from_dict(config["architecture"]),
        Settings.from_dict(config["settings"]),
        {"": (Spec.from_dict(config["spec"]), {n: config["settings"][n] for n in NUMBERS})},
        exact=config["exact"],
        from_forecast=config["from_forecast"],
    ).values()
    return run


def _another(folder: Path, expected: str) -> CorruptFileError:
    return CorruptFileError(
        str(folder / files.CONFIG),
        "another run",
        f"that of {expected}",
        "Put each folder back in its place, or delete it and go on with collapse train --resume.",
    )
