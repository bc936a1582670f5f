"""Train what is missing of a sweep, group by group, and keep each group as it ends."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from posterior_collapse.errors import OutputError
from posterior_collapse.sweeps.grouping import company, groups
from posterior_collapse.sweeps.runs import Run
from posterior_collapse.sweeps.store import Outcome, Record, Store

__all__ = ["Progress", "sweep"]

Execute = Callable[[Sequence[Run]], Sequence[Outcome]]


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


def sweep(
    runs: Sequence[Run],
    store: Store,
    execute: Execute,
    *,
    device: str = "cpu",
    report: Callable[[Progress], None] = lambda _: None,
) -> list[Record]:
    """Return a record per run, training those that are not kept yet.

    Processes that sweep on the same folder share the groups among them.

    Args:
        runs: What to train, with repetitions if you like.
        store: Where finished runs are kept.
        execute: Trains and measures runs of one family together.
        device: Written into the records.
        report: Called before and after each group.

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

    tell()
    waiting = [group for group in groups(runs) if any(run.key not in records for run in group)]
    wait = False
    while waiting:
        held = []
        for group in waiting:
            with store.claim(group[0].key, wait=wait) as own:
                if not own:
                    held.append(group)
                    continue
                records.update(_complete(group, store, execute, device, tell))
            wait = False
            tell()
        # Nothing is free any more: wait for the first of those that other processes hold.
        waiting, wait = held, True
    return [records[run.key] for run in runs]


def _complete(
    group: Sequence[Run],
    store: Store,
    execute: Execute,
    device: str,
    tell: Callable[[int], None],
) -> dict[str, Record]:
    kept = {run.key: store.get(run.key) for run in group}

    def trained_with(run: Run) -> Sequence[str] | None:
        record = kept[run.key]
        return None if record is None else record.company

    together = company(group, trained_with)
    if together:
        tell(len(together))
        store.tidy([run.key for run in group])
        origin = _origin(device)
        keys = [run.key for run in together]
        for run, outcome in zip(together, execute(together), strict=True):
            store.put(run, outcome, keys, origin)
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
    import torch

    cuda = device.startswith("cuda")
    hardware = torch.cuda.get_device_name(device) if cuda else _processor()
    return {
        "version": version("posterior-collapse"),
        "torch": torch.__version__,
        "hardware": f"{hardware}, {torch.get_num_threads()} threads" if not cuda else hardware,
    }


def _processor() -> str:
    """The processor's name, which Linux keeps in a file."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
