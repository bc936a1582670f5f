"""Many runs: which of them train together, the loop that trains what is missing, and `sweep`."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch

from posterior_collapse.data import Dataset
from posterior_collapse.errors import CheckpointError, DataError, InvalidArgumentError, OutputError
from posterior_collapse.files import digest
from posterior_collapse.models import Architecture
from posterior_collapse.records import Viewed, plain
from posterior_collapse.runs.run import (
    BY_MINIBATCHES,
    NUMBERS,
    Evaluation,
    Run,
    RunData,
    fit_options,
)
from posterior_collapse.runs.store import Outcome, Record, Store
from posterior_collapse.specs import Spec, in_order
from posterior_collapse.training import Progress as Epoch
from posterior_collapse.training import Settings, fit_many
from posterior_collapse.training.arguments import per_run, several, split
from posterior_collapse.training.batches import feed
from posterior_collapse.training.fitting import DTYPES

__all__ = ["MOST_TOGETHER", "Progress", "Sweep", "complete", "groups", "sweep"]

Execute = Callable[[Sequence[Run], "Sequence[Path] | None"], Sequence[Outcome]]
"""Trains and measures runs of one family together, with a folder each for checkpoints or none."""
Finished: TypeAlias = Outcome | Record

MOST_TOGETHER = 12
"""Runs per group. A group is kept when it ends: more would gain little speed and risk more."""


class Progress(NamedTuple):
    """What a caller is told before and after each group.

    Attributes:
        runs: Runs of the sweep.
        done: Those that are kept.
        training: Those that train now; 0 between groups.
    """

    runs: int
    done: int
    training: int


def groups(runs: Sequence[Run], most: int = MOST_TOGETHER) -> list[tuple[Run, ...]]:
    """Cut runs into groups that one vectorised training serves, in the order given.

    Args:
        runs: Equal ones count once.
        most: Largest group of runs trained by minibatches; others train one by one.

    Example:
        >>> from posterior_collapse.specs import VAESpec
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
    process died trains as a whole again; members that came from elsewhere stay away.

    Args:
        group: All its runs.
        trained_with: For a run that is kept the keys of those it trained with, else None.
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
        report: Called before and after each group.
        kept: Called at first and after each group with the records that are there, by key.

    Raises:
        OutputError: The store cannot be written.
        CorruptFileError: A run that is kept was damaged or changed; nothing was trained yet.
        PosteriorCollapseError: What `execute` raises.
    """
    unique = {run.key: run for run in runs}
    records = {key: found for key in unique if (found := store.get(key)) is not None}
    for record in records.values():
        record.check()

    def tell(training: int = 0) -> None:
        report(Progress(len(unique), len(records), training))

    kept(records)
    tell()
    every = groups(runs, most)
    waiting = [group for group in every if any(run.key not in records for run in group)]
    wait = False
    while waiting:
        held = []
        for group in waiting:
            with store.claim(group[0].key, wait=wait) as own:
                if not own:
                    held.append(group)
                    continue
                records.update(_trained(group, store, execute, device, tell))
            wait = False
            kept(records)
            tell()
        # Nothing is free any more: wait for the first of those that other processes hold.
        waiting, wait = held, True
    return [records[run.key] for run in runs]


def _trained(
    group: Sequence[Run],
    store: Store,
    execute: Execute,
    device: str,
    tell: Callable[[int], None],
) -> dict[str, Record]:
    kept = {run.key: store.get(run.key) for run in group}

    def trained_with(run: Run) -> Sequence[str] | None:
        record = kept[run.key]
        return None if record is None else record.retrained_together

    together = retrained_together(group, trained_with)
    if together:
        tell(len(together))
        store.tidy([run.key for run in group])
        # Linear models on moments stay on the processor, wherever minibatches are trained.
        origin = _origin(device if group[0].method in BY_MINIBATCHES else "cpu")
        keys = [run.key for run in together]
        with store.working(together) as folders:
            try:
                outcomes = execute(together, folders)
            except CheckpointError:  # damaged: no more than what was done so far is lost
                for folder in folders:
                    shutil.rmtree(folder, ignore_errors=True)
                outcomes = execute(together, folders)
            for outcome in outcomes:
                store.put(outcome, keys, origin)
    return {run.key: _kept(store, run.key) for run in group}


def _kept(store: Store, key: str) -> Record:
    record = store.get(key)
    if record is None:
        raise OutputError(
            str(store.folder / key), "nothing, right after a run was kept there",
            "a folder that nobody else changes", "Run the command again.",
        )  # fmt: skip
    return record


def _origin(device: str) -> dict[str, Any]:
    cuda = device.startswith("cuda")
    hardware = torch.cuda.get_device_name(device) if cuda else _processor()
    instructions = torch.backends.cpu.get_cpu_capability()
    return {
        "version": version("posterior-collapse"),
        "torch": torch.__version__,
        "hardware": hardware
        if cuda
        else f"{hardware}, {instructions}, {torch.get_num_threads()} threads",
    }


def _processor() -> str:
    """The processor's name, which Linux keeps in a file."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Viewed):
    """Trained runs beside their forecasts; `sweep` makes it.

    Attributes:
        runs: One per spec, in the order given, each with `run` (spec, settings and all),
            `measured`, `forecast` (None where there is no closed form), `stopped`, `history` and
            `model`; of a sweep with a folder, the last two are read when asked for.
    """

    runs: tuple[Finished, ...]
    view: ClassVar[str] = "sweep"

    @cached_property
    def labels(self) -> tuple[dict[str, Any], ...]:
        """Per run the hyperparameters, rates and seeds that are not the same for all."""
        described = [_described(one.run) for one in self.runs]
        names = dict.fromkeys(name for values in described for name in values)
        varying = [n for n in names if any(v.get(n) != described[0].get(n) for v in described)]
        return tuple({name: values.get(name) for name in varying} for values in described)

    def to_dict(self) -> dict[str, Any]:
        """Return per run its description, what was measured and forecast, and why it ended."""
        names = ("run", "measured", "forecast", "stopped")
        return {"runs": [{name: plain(getattr(one, name)) for name in names} for one in self.runs]}

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield per run what varies, loss and active units beside their forecasts, `stopped`."""
        for label, one in zip(self.labels, self.runs, strict=True):
            sides = {"": one.measured, "_forecast": one.forecast}
            row = {f"loss{end}": side and side["loss"] for end, side in sides.items()}
            for number in range(1, len(one.run.spec.dims) + 1):
                for end, side in sides.items():
                    level = side and side["levels"][number - 1]
                    row[f"active_{number}{end}"] = level and level["n_active"]
            yield {**label, **row, "stopped": one.stopped}

    def __repr__(self) -> str:
        varying = ", ".join(self.labels[0]) or "nothing"
        rows = [row for row in self._rows() if row["loss_forecast"] is not None]
        active = [[n for n in row if n.startswith("active") and n[-1].isdigit()] for row in rows]
        same = sum(
            all(row[name] == row[f"{name}_forecast"] for name in names)
            for row, names in zip(rows, active, strict=True)
        )
        said = f"{same} of {len(rows)} with as many active units as forecast"
        found = said if rows else "no closed form to compare with"
        return f"Sweep({len(self.runs)} runs; {varying} varies; {found})"


def _described(run: Run) -> dict[str, Any]:
    """The numbers of a run by name, those of the levels (or units) by number: beta_1, beta_2."""
    settings = {name: getattr(run.settings, name) for name in NUMBERS}
    found: dict[str, Any] = {}
    for name, value in {**run.spec.to_dict(), **settings}.items():
        several = isinstance(value, (list, tuple))
        each = enumerate(value, 1) if several else ()
        found |= {f"{name.removesuffix('s')}_{i}": v for i, v in each} or {name: value}
    return found


def sweep(
    specs: Sequence[Spec] | Any,
    data: Any,
    architecture: str | Architecture = "mlp",
    *,
    folder: str | Path | None = None,
    client: None = None,
    settings: Settings | None = None,
    seeds: int | Sequence[int] | None = None,
    learning_rates: float | Sequence[float] | None = None,
    clips: float | Sequence[float | None] | None = None,
    validation: Any = None,
    progress: bool | Callable[[Epoch], None] = False,
    exact: bool = False,
    from_forecast: bool = False,
    **options: Any,
) -> Sweep:
    """Train a model per spec and set what came out beside the forecasts.

    Runs that differ in numbers only train together, at most 12 of a seed at a time: within one
    seed they share the order of the data, different seeds have different orders.

    Args:
        specs: One per run; they may be of several sizes and models.
        data: As in `fit`.
        architecture: As in `fit`.
        folder: Where finished runs are kept, each under a hash of all that decides what comes out,
            the values of the data included. Those that are there are checked and not trained
            again, and what was interrupted goes on. None: nothing is written.
        client: None: runs train in this process. Processes that sweep on one folder share them.
        settings: What the runs share.
        seeds: One for all or one per run; None: that of the settings. For every spec from each of
            several seeds, repeat the specs: `[spec for spec in specs for _ in seeds]`, and the
            seeds: `seeds * len(specs)`.
        learning_rates: Likewise.
        clips: Likewise.
        validation: As in `fit`.
        progress: As in `fit`, told per group.
        exact: As in `fit`.
        from_forecast: As in `fit`.
        **options: As in `fit`.

    Raises:
        InvalidArgumentError: As in `fit_many`; a `client`, which is not served yet.
        DataError: The data cannot be used; with a folder, a DataLoader, whose values have no hash.
        CorruptFileError: A kept run was damaged or changed; says what to delete.
        OutputError: The folder cannot be written.

    Example:
        >>> import numpy as np
        >>> from posterior_collapse.specs import VAESpec
        >>> x = np.random.default_rng(0).standard_normal((500, 4)) * [3, 2, 1, 0.1]
        >>> sweep([VAESpec(3, beta=beta) for beta in (0.5, 2, 6)], x, "linear", exact=True)
        Sweep(3 runs; beta varies; 3 of 3 with as many active units as forecast)
    """
    if client is not None:
        raise InvalidArgumentError(
            "client", type(client).__name__, "None: no cluster is served yet",
            "Leave it away; processes that sweep on one folder share its runs.",
        )  # fmt: skip
    data, specs = in_order(data, specs)
    data, validation = map(_readable_again, (data, validation))
    specs = several(specs)
    given = {"seed": seeds, "learning_rate": learning_rates, "clip": clips}
    common, networks = split(settings, options, exact)
    each = [common.replace(**changes) for changes in per_run(given, len(specs))]
    if not specs:
        raise InvalidArgumentError("specs", "none", "at least one spec", "Pass some specs.")
    for spec in specs:
        if not isinstance(spec, Spec):
            raise InvalidArgumentError("spec", type(spec).__name__, "a Spec", "Pass a VAESpec.")
    net = Architecture.of(architecture, **networks)
    choice = _choice(data, validation, specs[0], common, exact)
    if folder is not None and choice.sha256 is None:
        raise DataError(
            "data", "a DataLoader, whose values have no hash", "data in memory beside a folder",
            "Pass an array or a torch Dataset, or leave the folder away.",
        )  # fmt: skip
    method, seen = "exact" if exact else "minibatch", Evaluation("train")
    runs = [
        Run(choice, spec, net, own, method, seen, from_forecast)  # type: ignore[arg-type]
        for spec, own in zip(specs, each, strict=True)
    ]

    def execute(group: Sequence[Run], folders: Sequence[Path] | None) -> list[Outcome]:
        return _fitted(group, folders, data, validation=validation, progress=progress, exact=exact)

    if folder is not None:
        return Sweep(tuple(complete(runs, Store(folder), execute, device=common.device)))
    done = {one.run.key: one for group in groups(runs) for one in execute(group, None)}
    return Sweep(tuple(done[run.key] for run in runs))


class _Batches:
    """What an iterator yielded, which can be read once: each group of runs reads all of it."""

    def __init__(self, source: Iterator[Any]) -> None:
        self.batches = list(source)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def _readable_again(data: Any) -> Any:
    return _Batches(data) if isinstance(data, Iterator) else data


def _choice(data: Any, validation: Any, spec: Spec, settings: Settings, exact: bool) -> RunData:
    """Name data by their values, in the precision in which they are trained on."""
    dtype = torch.float64 if exact else DTYPES[settings.precision]
    passed = [one for one in (data, validation) if one is not None]
    hashes = [feed(one, spec, settings.batch_size, dtype, "cpu").fingerprint() for one in passed]
    known = None not in hashes
    together = hashes[0] if len(hashes) == 1 else digest({"data": hashes})
    name = data.name if isinstance(data, Dataset) else "array"
    return RunData(name, sha256=together if known else None)


def _fitted(
    group: Sequence[Run], folders: Sequence[Path] | None, data: Any, **common: Any
) -> list[Outcome]:
    start = time.perf_counter()
    first = group[0]
    fitted = fit_many(
        [run.spec for run in group],
        data,
        first.architecture,
        **fit_options(group),
        folders=folders,
        resume=folders is not None,
        from_forecast=first.from_forecast,
        **common,
    )
    found = [one.summary() for one in fitted]
    share = (time.perf_counter() - start) / len(group)
    return [
        Outcome(
            run, said["measured"], said["forecast"], said["stopped"], one.history, {},
            one.model.cpu(), share,
        )
        for run, one, said in zip(group, fitted, found, strict=True)
    ]  # fmt: skip
