"""Groups of runs as tasks of a Dask cluster.

A task trains a group for a while and hands back where it is: the checkpoints as bytes, or, once
it has ended, what the runs left behind. The next task goes on from there, on whichever worker is
free. So workers need no folder in common with anyone; all that is kept is written here, once. A
worker that dies loses what its task did, and the scheduler starts the same task elsewhere; a
scheduler that is started anew is handed all tasks again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posterior_collapse.errors import (
    CheckpointError,
    InvalidArgumentError,
    PosteriorCollapseError,
    TrainingError,
    first_line,
)
from posterior_collapse.runs.completing import Done, Execute, Job, Spread, attempt
from posterior_collapse.runs.run import Run
from posterior_collapse.training import Progress as Epoch
from posterior_collapse.training import checkpoints
from posterior_collapse.training.course import Pause

PATIENCE = 60.0
"""Seconds that a task trains, and then to the end of the epoch: so much is lost with a worker."""
SHARE = 0.1
"""Of the time here that writing checkpoints may take; where it takes more, tasks are longer."""
IN_FLIGHT = 512
"""Groups that are handed out at most: each holds a file open here, its claim, of usually 1,024."""
ONE_AT_A_TIME = threading.Lock()
"""Of the groups that a worker with several threads has: torch has its own threads, and what it
draws and what is warned of belong to the whole process."""

Packed = list[dict[str, bytes]]


class Handed(NamedTuple):
    """What a task hands back.

    Attributes:
        packed: The checkpoints of the group's runs; None: they are not needed any more.
        done: What the group left behind; None: it has not ended.
    """

    packed: Packed | None
    epochs: list[Epoch]
    done: Done | None
    warned: list[Warning]


def advance(
    execute: Execute, job: Job, packed: Packed | None, patience: float, device: str
) -> Handed:
    """Train a group for a while; this is what runs on a worker, which has folders of its own.

    It goes on from packed checkpoints, or starts; after `patience` seconds it pauses at the end of
    the epoch.
    """
    from distributed import get_worker

    epochs: list[Epoch] = []
    # Others have nothing to go on from before their end.
    end = time.monotonic() + patience if job.runs[0].method == "minibatch" else float("inf")

    def report(now: Epoch) -> None:
        epochs.append(now)
        if time.monotonic() > end and now.step != now.steps:
            raise Pause

    scratch = tempfile.TemporaryDirectory(dir=get_worker().local_directory)
    with ONE_AT_A_TIME, scratch as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        folders = [Path(folder) / str(number) for number in range(len(job.runs))]
        if packed is not None:
            checkpoints.unpack(packed, folders)
        done = None
        with contextlib.suppress(Pause):
            done = attempt(execute, job._replace(folders=folders, report=report), device)
            done = done._replace(outcomes=list(done.outcomes))
        handed = checkpoints.pack(folders) if job.stays or done is None else None
    ours = __name__.partition(".")[0]
    said = [one.message for one in caught if type(one.message).__module__.startswith(ours)]
    return Handed(handed, epochs, done, [one for one in said if isinstance(one, Warning)])


def held(execute: Execute) -> Execute:
    """Return what it is given: a worker that needs the data has them from another one."""
    return execute


def spread_over(client: Any) -> Spread:
    """Return what trains jobs on the workers of the cluster of a dask.distributed client.

    Raises:
        InvalidArgumentError: It is no such client, or an asynchronous or closed one.
    """
    distributed = sys.modules.get("distributed")  # who has a client has imported it
    if distributed is None or not isinstance(client, distributed.Client):
        raise InvalidArgumentError(
            "client", type(client).__name__, "a Client of dask.distributed, or None",
            "Pass dask.distributed.Client(address).",
        )  # fmt: skip
    if client.asynchronous or client.status in ("closing", "closed"):
        raise InvalidArgumentError(
            "client", f"a Client that is {'asynchronous' if client.asynchronous else 'closed'}",
            "one that is connected and waits for its answers", "Pass Client(address).",
        )  # fmt: skip
    return lambda jobs, execute, device: _Spreading(client, execute, device).over(jobs)


class _Spreading:
    """One call's tasks on the cluster of a client."""

    def __init__(self, client: Any, execute: Execute, device: str) -> None:
        self.client, self.device = client, device
        self.report: Any = getattr(execute, "report", None)
        self.execute: Execute = dataclasses.replace(execute, report=False)  # type: ignore[type-var]
        self.sent: Any = None
        self.tasks: dict[Any, tuple[int, Job]] = {}  # by future, the job and which one it is
        self.address = client.scheduler.address  # which a closed client forgets
        self.warned: set[str] = set()
        self.patience = PATIENCE
        self.begun, self.writing = time.monotonic(), 0.0

    def over(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Done]]:
        """Yield each job as it is done."""
        from distributed import as_completed

        waiting = enumerate(jobs)
        finished: Any = as_completed(loop=self.client.loop)  # type: ignore[no-untyped-call]
        try:
            finished.update(
                itertools.starmap(self._submitted, itertools.islice(waiting, IN_FLIGHT))
            )
            while self.tasks:
                future = next(finished)
                number, job = self.tasks.pop(future)
                done = self._taken(job, future)
                if done is None:
                    finished.add(self._submitted(number, job))
                else:
                    yield job, done
                    room = itertools.islice(waiting, IN_FLIGHT - len(self.tasks))
                    finished.update(itertools.starmap(self._submitted, room))
        finally:
            if self.tasks and self.client.status == "running":
                with contextlib.suppress(OSError):  # what went wrong may be the scheduler
                    self.client.cancel(list(self.tasks), force=True)

    def _submitted(self, number: int, job: Job) -> Any:
        packed = self._packed(job)
        try:
            future = self._submit(number, job, packed)
        except Exception as error:
            self._await_scheduler()
            reason = first_line(error) or type(error).__name__
            raise InvalidArgumentError(
                "data", f"what cannot be sent to a worker ({reason})", "what can be pickled",
                "Pass an array, or leave client away.",
            ) from error  # fmt: skip
        self.tasks[future] = number, job
        return future

    def _submit(self, number: int, job: Job, packed: Packed | None) -> Any:
        # All that a task needs is in what the scheduler has: nothing is lost with a worker.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            if self.sent is None or self.sent.status in ("cancelled", "lost"):
                self.sent = self.client.submit(held, self.execute, pure=False)
            # Earlier jobs go first, so that groups end.
            return self.client.submit(
                advance, self.sent, job._replace(folders=None, report=None), packed,
                self.patience, self.device, pure=False, priority=-number,
            )  # fmt: skip

    def _packed(self, job: Job) -> Packed | None:
        if job.folders is None:
            return None
        try:
            packed = checkpoints.pack(job.folders)
        except CheckpointError:
            if job.stays:
                raise
            return None  # damaged: no more than what was done so far is lost
        return packed if any(packed) else None

    def _taken(self, job: Job, future: Any) -> Done | None:
        """Return what a job left behind; None: it has to go on."""
        from distributed import CancelledError, KilledWorker

        try:
            handed: Handed = future.result()
        except PosteriorCollapseError as error:
            of = f"{error.argument} (of {_named(job.runs)})"
            raise type(error)(of, error.got, error.expected, error.action) from error
        except KilledWorker as error:
            raise _failed(job.runs, "workers that died, one after the other") from error
        except CancelledError:  # the scheduler was started anew
            self._await_scheduler()
            return None
        except Exception as error:
            raise _failed(job.runs, f"{type(error).__name__} ({first_line(error)})") from error
        for warning in handed.warned:
            if str(warning) not in self.warned:
                self.warned.add(str(warning))
                warnings.warn(warning, stacklevel=2)
        if handed.packed is not None and job.folders is not None:
            begun = time.monotonic()
            checkpoints.unpack(handed.packed, job.folders)
            now = time.monotonic()
            self.writing += now - begun
            if self.writing > SHARE * (now - self.begun):
                self.patience *= 2
        report = self.report if job.report is None else job.report
        for epoch in handed.epochs if callable(report) else ():
            report(epoch)
        return handed.done

    def _await_scheduler(self) -> None:
        """Wait for a scheduler; one that was started anew is taken for the old one."""
        while self.client.status != "running":
            if self.client.status in ("closing", "closed"):
                raise TrainingError(
                    "scheduler", f"no connection to {self.address} any more",
                    "the cluster that the runs began on",
                    "Call it again on one that is up: what was kept is not trained again.",
                )  # fmt: skip
            time.sleep(0.1)


def _failed(runs: Sequence[Run], got: str) -> TrainingError:
    return TrainingError(
        _named(runs), got, "a group that trains on a worker",
        "Train it with client=None to see more; what was kept is not trained again.",
    )  # fmt: skip


def _named(runs: Sequence[Run]) -> str:
    first, others = runs[0], len(runs) - 1
    more = f", and {others} that train{'s' * (others == 1)} with it" if others else ""
    return f"the run {first.spec!r}, seed {first.settings.seed}{more}"
