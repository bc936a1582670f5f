"""A folder of finished runs, each there whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from posterior_collapse import atomic
from posterior_collapse.errors import CorruptFileError, writing
from posterior_collapse.models import MarkovVAE
from posterior_collapse.sweeps.runs import Run
from posterior_collapse.training import checkpoints
from posterior_collapse.training.run_folders import HISTORY, read_json, write_history, write_json
from posterior_collapse.training.states import load_model

__all__ = ["Outcome", "Record", "Store"]

RUN, ARRAYS = "run.json", "arrays.npz"


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves behind.

    Attributes:
        measured: JSON-able values.
        forecast: What theory says of the same, or None.
        stopped: Why the run ended.
        history: Columns by name.
        arrays: What figures need.
        model: The trained model.
        wall_s: Seconds it took; a member of a group counts its share.
    """

    measured: Mapping[str, Any]
    forecast: Mapping[str, Any] | None
    stopped: str
    history: Mapping[str, Sequence[Any]]
    arrays: Mapping[str, NDArray[Any]]
    model: MarkovVAE
    wall_s: float


@dataclass(frozen=True)
class Record:
    """A stored run, read back.

    Attributes:
        run: Its description.
        measured: As in `Outcome`.
        forecast: As in `Outcome`.
        stopped: As in `Outcome`.
        company: Keys of the runs that trained together with it.
        origin: Version, hardware and wall time.
        folder: Where it lies.
    """

    run: Run
    measured: dict[str, Any]
    forecast: dict[str, Any] | None
    stopped: str
    company: tuple[str, ...]
    origin: dict[str, Any]
    folder: Path = field(repr=False)

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What figures need, by name.

        Raises:
            CorruptFileError: The file is damaged.
        """
        path = self.folder / ARRAYS
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, KeyError) as error:
            raise CorruptFileError(
                str(path), f"an unreadable file ({error})", "arrays of a run",
                f"Delete the folder {self.folder} to train the run again.",
            ) from error  # fmt: skip

    @cached_property
    def history(self) -> dict[str, list[float]]:
        """Columns by name."""
        with (self.folder / HISTORY).open(newline="") as file:
            names, *rows = csv.reader(file)
        return {
            name: [float(value) for value in column]
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        }

    def model(self) -> MarkovVAE:
        """Return the trained model."""
        return load_model(checkpoints.load(self.folder))


class Store:
    """Runs by key, in a folder.

    A run is written under a name of its own and renamed when it is complete: a process killed at
    any moment leaves nothing that counts, and of two that finish the same run one is kept.

    Args:
        folder: Made when the first run is put in.

    Example:
        >>> Store("no/such/folder").get("0123")
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> Record | None:
        """Return a finished run; None if there is none.

        Raises:
            CorruptFileError: Its description was damaged later.
        """
        folder = self.folder / key
        if not (folder / RUN).is_file():
            return None
        values = read_json(folder / RUN)
        try:
            return Record(
                run=Run.from_dict(values["run"]),
                measured=values["measured"],
                forecast=values["forecast"],
                stopped=values["stopped"],
                company=tuple(values["company"]),
                origin=values["origin"],
                folder=folder,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFileError(
                str(folder / RUN), f"other values than were written ({error})", "a run",
                f"Delete the folder {folder} to train the run again.",
            ) from error  # fmt: skip

    def put(
        self, run: Run, outcome: Outcome, company: Sequence[str], origin: Mapping[str, Any]
    ) -> None:
        """Keep a finished run.

        Raises:
            OutputError: The folder cannot be written.
        """
        partial = self.folder / f".{run.key}.{os.getpid()}.{uuid.uuid4().hex[:8]}{atomic.PARTIAL}"
        final = self.folder / run.key
        with writing(self.folder):
            partial.mkdir(parents=True)
        try:
            self._fill(partial, run, outcome, company, origin)
            with writing(final):
                try:
                    partial.rename(final)
                except OSError:
                    if not (final / RUN).is_file():  # else another process was first
                        raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def tidy(self, keys: Sequence[str]) -> None:
        """Take away what processes that were killed left of runs; call it under their claim."""
        for key in keys:
            for path in self.folder.glob(f".{key}.*{atomic.PARTIAL}"):
                shutil.rmtree(path, ignore_errors=True)

    def _fill(
        self,
        folder: Path,
        run: Run,
        outcome: Outcome,
        company: Sequence[str],
        origin: Mapping[str, Any],
    ) -> None:
        write_history(folder, outcome.history)
        content = io.BytesIO()
        np.savez_compressed(content, **dict(outcome.arrays))  # type: ignore[arg-type]
        atomic.write(folder / ARRAYS, content.getvalue(), sync_folder=False)
        tensors: dict[str, Tensor] = {
            f"model.{name}": value for name, value in outcome.model.state_dict().items()
        }
        steps = outcome.history.get("step") or [0]
        checkpoints.save(folder, tensors, {"config": outcome.model.config}, step=int(steps[-1]))
        write_json(
            folder / RUN,
            {
                "run": run.to_dict(),
                "measured": json.loads(json.dumps(dict(outcome.measured))),
                "forecast": outcome.forecast,
                "stopped": outcome.stopped,
                "company": list(company),
                "origin": {**origin, "wall_s": outcome.wall_s},
            },
        )

    @contextlib.contextmanager
    def claim(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold a lock by name, so that two processes share the work instead of doubling it.

        The system frees it when the process ends, however it ends. Where there are no such locks
        work may be done twice; what is kept is the same.

        Args:
            name: What is claimed.
            wait: Wait for it; else yield False where another process holds it.
        """
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            yield True
            return
        path = self.folder / ".claims" / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                held = True
            except BlockingIOError:
                held = False
            yield held
        finally:
            os.close(handle)
