"""Groups of runs: which train together, and the loop that trains and keeps what is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from posterior_collapse.errors import CheckpointError, OutputError
from posterior_collapse.runs.run import BY_MINIBATCHES, Run, fit_options
from posterior_collapse.runs.store import Outcome, Record, Store
from posterior_collapse.training import Fitted, fit, fit_many
from posterior_collapse.training import Progress as Epoch
from posterior_collapse.training.tracing import processor

MOST_TOGETHER = 12
"""Runs per group. None is kept before all have trained: more would gain little and risk more."""
CHECKPOINT_SHARE = 0.05
"""Share of the time that the checkpoints of a store's runs may take: epochs of small networks are
shorter than writing them, and a killed group loses no more than the 20 times as long."""

Report = Callable[[Epoch], None]
Execute = Callable[[Sequence[Run], "Sequence[Path] | None"], Iterable[Outcome]]
"""Trains runs of one family together, with a folder each for checkpoints or none, and gives what
each leaves as it is measured; may leave out those that are kept. To train elsewhere it is a
dataclass with a field `report`, which is told of each epoch."""


class Job(NamedTuple):
    """A group to train.

    Attributes:
        folders: One each, for its checkpoints, from which it goes on; None: none are written.
        stays: Whether the last checkpoints stay there; else damaged ones count as none.
        report: Told of each epoch instead of the executor's own `report`.
    """

    runs: tuple[Run, ...]
    folders: Sequence[Path] | None
    stays: bool = False
    report: Report | None = None


class Done(NamedTuple):
    """What a group left behind, and where it trained: version and hardware."""

    outcomes: Iterable[Outcome]
    origin: dict[str, Any]


Spread = Callable[[Iterable[Job], Execute, str], Iterator[tuple[Job, Done]]]
"""Trains jobs somewhere, on a device, and yields each as it is done; takes the next ones as it has
room for them."""


def here(jobs: Iterable[Job], execute: Execute, device: str) -> Iterator[tuple[Job, Done]]:
    """Train jobs in this process, one after the other."""
    for job in jobs:
        yield job, attempt(execute, job, device)


def attempt(execute: Execute, job: Job, device: str) -> Done:
    """Train a group; from its start where checkpoints that nobody else needs are damaged."""
    train: Any = execute
    if job.report is not None:
        train = dataclasses.replace(train, report=job.report)
    try:
        outcomes = train(job.runs, job.folders)
    except CheckpointError:
        if job.stays or job.folders is None:
            raise
        for folder in job.folders:
            shutil.rmtree(folder, ignore_errors=True)
        outcomes = train(job.runs, job.folders)
    # Linear models on moments stay on the processor, wherever minibatches are trained.
    return Done(outcomes, _origin(device if job.runs[0].method in BY_MINIBATCHES else "cpu"))


def trained_together(
    runs: Sequence[Run],
    data: Any,
    folders: Sequence[Path] | None,
    *,
    alone: bool = False,
    **options: Any,
) -> tuple[Fitted, ...]:
    """Train runs of one family on data as in `fit`; `options` of `fit_many` win over the runs'.

    They go on from the checkpoints in their folders; None: none are written. A run `alone` fails
    where its loss is not finite.
    """
    first = runs[0]
    options = {
        "exact": first.method == "exact",
        "from_forecast": first.from_forecast,
        "resume": folders is not None,
        **options,
    }
    if alone:
        folder = None if folders is None else folders[0]
        settings = first.settings
        return (
            fit(first.spec, data, first.architecture, settings=settings, folder=folder, **options),
        )
    options = {"folders": folders, **fit_options(runs), **options}
    return fit_many([run.spec for run in runs], data, first.architecture, **options)


@dataclass(frozen=True)
class Training:
    """Trains groups of runs on data that are at hand, and measures them on the same.

    See `fit`, and `trained_together` for a run that is `alone`.
    """

    data: Any
    validation: Any = None
    alone: bool = False
    report: Report | bool = False

    def __call__(self, runs: Sequence[Run], folders: Sequence[Path] | None) -> list[Outcome]:
        """Return what the runs leave behind."""
        fitted = trained_together(
            runs,
            self.data,
            folders,
            alone=self.alone,
            validation=self.validation,
            progress=self.report,
        )
        return [_outcome(run, one) for run, one in zip(runs, fitted, strict=True)]


def _outcome(run: Run, fitted: Fitted) -> Outcome:
    start = time.perf_counter()
    said = fitted.summary()
    took = fitted.seconds + time.perf_counter() - start
    return Outcome(
        run, said["measured"], said["forecast"], said["stopped"], fitted.history, {},
        fitted.model.cpu(), took,
    )  # fmt: skip


class Progress(NamedTuple):
    """What a caller is told before and after each group, and when a run is kept.

    Attributes:
        training: Those that train now, or wait to be measured; 0 between groups.
    """

    runs: int
    done: int
    training: int


def groups(runs: Sequence[Run], most: int = MOST_TOGETHER) -> list[tuple[Run, ...]]:
    """Cut runs into groups that one vectorised training serves, in the order given.

    Equal ones count once; those that are not trained by minibatches train one by one.

    Example:
        >>> from posterior_collapse.models import Architecture
        >>> from posterior_collapse.runs.run import RunData
        >>> from posterior_collapse.specs import VAESpec
        >>> from posterior_collapse.training import Settings
        >>> net, how = Architecture.named("mlp"), Settings()
        >>> specs = [VAESpec(units, beta=beta) for beta in (1, 2) for units in (3, 4)]
        >>> runs = [Run(RunData("digits"), spec, net, how) for spec in specs]
        >>> [[run.spec.beta for run in group] for group in groups(runs)]
        [[1.0, 2.0], [1.0, 2.0]]
    """
    families: dict[str, dict[str, Run]] = {}
    for run in runs:
        families.setdefault(run.family, {}).setdefault(run.key, run)
    found = []
    for family in families.values():
        members = list(family.values())
        size = most if members[0].method in BY_MINIBATCHES else 1
        found += [tuple(members[i : i + size]) for i in range(0, len(members), size)]
    return found


def retrained_together(
    group: Sequence[Run], trained_with: Callable[[Run], Sequence[str] | None]
) -> tuple[Run, ...]:
    """Return the runs of a group that have to train, together as they would have at first.

    Rounding depends on who trains together. So a group of which some members were kept before the
    process died trains as a whole again; members that came from elsewhere stay away. Of a run that
    is kept `trained_with` gives the keys of those it trained with, else None.
    """
    known = {run.key: trained_with(run) for run in group}
    missing = {run.key for run in group if known[run.key] is None}
    if not missing:
        return ()
    by_key = {run.key: run for run in group}
    for keys in known.values():
        if keys is not None and missing & set(keys) and set(keys) <= set(by_key):
            missing |= set(keys)
    return tuple(run for run in group if run.key in missing)


def complete(
    runs: Sequence[Run],
    store: Store,
    execute: Execute,
    *,
    device: str = "cpu",
    most: int = MOST_TOGETHER,
    spread: Spread = here,
    report: Callable[[Progress], None] = lambda _: None,
    kept: Callable[[Mapping[str, Record]], None] = lambda _: None,
) -> list[Record]:
    """Return a record per run, training those that are not kept yet.

    Processes that work on the same folder share the groups among them. A group that was killed
    goes on from its last checkpoints.

    Args:
        runs: What to train, with repetitions if you like.
        store: Where finished runs are kept.
        execute: Trains and measures runs of one family together.
        device: Where minibatches are trained; written into the records.
        most: As in `groups`.
        spread: Where groups train.
        report: Called before and after each group, and when a run is kept.
        kept: Called at first and after each group with the records that are there, by key.

    Raises:
        OutputError: The store cannot be written, or was deleted meanwhile.
        CorruptFileError: A run that is kept was damaged or changed; nothing was trained yet.
        PosteriorCollapseError: What `execute` raises.
    """
    unique = {run.key: run for run in runs}
    records = {key: found for key in unique if (found := store.get(key)) is not None}
    for record in records.values():
        record.check()
    store.worked(records)  # a process killed after its last run left its checkpoints
    training: dict[str, tuple[Sequence[Run], contextlib.ExitStack]] = {}

    def tell() -> None:
        at_work = [together for together, _ in training.values()]
        now = sum(run.key not in records for together in at_work for run in together)
        report(Progress(len(unique), len(records), now))

    def jobs(waiting: list[tuple[Run, ...]], wait: bool) -> Iterator[Job]:
        """Yield the groups that no other process trains; wait for the first of them, or not."""
        for group in list(waiting):
            claim = contextlib.ExitStack()
            if not claim.enter_context(store.claim(group[0].key, wait=wait)):
                claim.close()
                continue
            wait = False
            there = {run.key: one for run in group if (one := store.get(run.key)) is not None}
            records.update(there)
            with_whom = {key: one.retrained_together for key, one in there.items()}
            together = retrained_together(group, lambda run: with_whom.get(run.key))  # noqa: B023
            waiting.remove(group)
            if together:
                training[together[0].key] = together, claim
                store.tidy([run.key for run in group])
                tell()
                yield Job(together, store.work(together))
            else:
                claim.close()
                kept(records)
                tell()

    kept(records)
    tell()
    waiting = [one for one in groups(runs, most) if any(run.key not in records for run in one)]
    wait = False
    try:
        while waiting:
            for job, done in spread(jobs(waiting, wait), execute, device):
                for outcome in done.outcomes:
                    store.put(outcome, [run.key for run in job.runs], done.origin)
                    records[outcome.run.key] = _kept(store, outcome.run.key)
                    tell()
                left_out = [run.key for run in job.runs if run.key not in records]
                records.update({key: _kept(store, key) for key in left_out})
                store.worked([run.key for run in job.runs])
                training.pop(job.runs[0].key)[1].close()
                kept(records)
                tell()
            # Nothing is free any more: wait for the first of those that other processes hold.
            wait = True
    finally:
        for _, claim in training.values():
            claim.close()
    for key in records:
        if key not in store:
            raise _gone(store, key)
    return [records[run.key] for run in runs]


def _kept(store: Store, key: str) -> Record:
    record = store.get(key)
    if record is None:
        raise _gone(store, key)
    return record


def _gone(store: Store, key: str) -> OutputError:
    return OutputError(
        str(store.folder / key), "nothing, right after a run was kept there",
        "a folder that nobody else changes", "Run the command again.",
    )  # fmt: skip


def _origin(device: str) -> dict[str, Any]:
    if device.startswith("cuda"):
        hardware = torch.cuda.get_device_name(device)
    else:
        name = processor("model name") or platform.processor() or platform.machine()
        instructions = torch.backends.cpu.get_cpu_capability()
        hardware = f"{name}, {instructions}, {torch.get_num_threads()} threads"
    return {
        "version": version("posterior-collapse"),
        "torch": torch.__version__,
        "hardware": hardware,
    }
