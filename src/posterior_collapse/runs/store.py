"""A folder of finished runs, each there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from posterior_collapse import files
from posterior_collapse.data.about import Columns, columns_in
from posterior_collapse.data.checking import reading
from posterior_collapse.errors import CheckpointError, CorruptFileError, OutputError, writing
from posterior_collapse.models import MarkovVAE
from posterior_collapse.runs.run import Run
from posterior_collapse.specs import Spec
from posterior_collapse.training import checkpoints
from posterior_collapse.training.settings import effective_spec
from posterior_collapse.training.states import load_model

ARRAYS = "arrays.npz"
FILES, SEAL, TOGETHER = "files", "sha256", "company"
"""Entries of `run.json`: the SHA-256 of each other file, that of all its other entries, and the
keys of the runs that trained together."""
DATA, COLUMNS = "data", "columns"
"""Entries of a run's origin: how its data are read again, and what their columns are called, where
that is known."""
WORK = ".work"
"""Subfolder of a store with the checkpoints of what trains."""


@dataclass(frozen=True, repr=False)
class _Finished:
    """What is measured of a finished run.

    Attributes:
        forecast: What theory says of the same; None: nothing, as of free bits and capacities.
    """

    run: Run
    measured: Mapping[str, Any]
    forecast: Mapping[str, Any] | None
    stopped: str

    def __post_init__(self) -> None:
        if self.floor:  # earlier versions kept the forecast of the loss without it
            object.__setattr__(self, "forecast", None)

    def __repr__(self) -> str:
        run, loss = self.run, self.measured.get("loss")
        told = f" loss {loss:.6g};" if isinstance(loss, float) else ""
        who = f"{run.spec!r}, {run.architecture.name}, seed {run.settings.seed}"
        return f"{type(self).__name__}({who};{told} {self.stopped})"

    @property
    def objective(self) -> Spec:
        """The spec as trained: its betas are those that the convention of the loss amounts to."""
        return effective_spec(self.run.spec, self.run.settings.convention)

    @property
    def floor(self) -> str | None:
        """What held the KL up besides; see `Settings.floor`."""
        return self.run.settings.floor

    def summary(self) -> dict[str, Any]:
        """Return what was measured beside what was forecast; see `Fitted.summary`."""
        rough = {} if self.run.spec.likelihood == "gaussian" else {"approximate": True}
        found = {"measured": self.measured, "forecast": self.forecast}
        return {"stopped": self.stopped, **found, **rough}


@dataclass(frozen=True, repr=False)
class Outcome(_Finished):
    """All that a finished run leaves behind.

    Attributes:
        wall_s: Seconds it took; a member of a group counts its share.
    """

    history: Mapping[str, Sequence[Any]]
    arrays: Mapping[str, NDArray[Any]]
    model: MarkovVAE
    wall_s: float


@dataclass(frozen=True, repr=False)
class Record(_Finished):
    """A stored run, read back; `history`, `arrays` and `model` when they are asked for.

    A file that is missing, damaged or was changed is then refused by a `CorruptFileError`.

    Attributes:
        retrained_together: Keys of the runs that trained together with it.
        origin: Version, hardware and wall time; perhaps how its data are read again.
        files: SHA-256 of its other files; None for a run that an earlier version kept, which
            wrote none.
    """

    retrained_together: tuple[str, ...]
    origin: dict[str, Any]
    folder: Path
    files: dict[str, str] | None = None

    @property
    def columns(self) -> Columns:
        """What the features trained on are called, of a pair of both parts; none: not known."""
        return columns_in(self.origin)

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What figures need, by name."""
        content = self._content(ARRAYS)
        with (
            reading(self.folder / ARRAYS, "arrays of a run", _remedy(self.folder)),
            np.load(io.BytesIO(content), allow_pickle=False) as file,
        ):
            return dict(file)

    @cached_property
    def history(self) -> dict[str, list[float]]:
        """Columns by name."""
        content = self._content(files.HISTORY)
        path = self.folder / files.HISTORY
        with reading(path, "the history of a run", _remedy(self.folder)):
            return files.read_history(content)

    @cached_property
    def model(self) -> MarkovVAE:
        """The trained model."""
        self.check()
        if not checkpoints.exists(self.folder):
            raise CheckpointError(
                str(self.folder), "a run that was kept without its model", "one with it",
                f"{_remedy(self.folder)[:-1]}, and keep its model this time.",
            )  # fmt: skip
        try:
            return load_model(checkpoints.load(self.folder))
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise _refused(self.folder, self.folder, f"no model ({error})", "a run") from error

    def check(self) -> None:
        """Read every file and see that it is the one that was kept."""
        for name in self.files or ():
            self._content(name)

    def _content(self, name: str) -> bytes:
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _refused(self.folder, path, f"'{error.strerror}'", "a file of a run") from error
        if self.files is not None and self.files.get(name) != hashlib.sha256(content).hexdigest():
            raise _refused(
                self.folder, path, "a changed file (SHA-256 differs)", "the one that was kept"
            )
        return content


def _refused(folder: Path, path: Path, got: str, expected: str) -> CorruptFileError:
    return CorruptFileError(str(path), got, expected, _remedy(folder))


def _remedy(folder: Path) -> str:
    return f"Delete the folder {folder} to train the run again."


class Store:
    """Runs by key, in a folder.

    A run is written under a name of its own and renamed when it is complete: a process killed at
    any moment leaves nothing that counts, and of two that finish the same run one is kept.

    Args:
        models: Whether to keep the trained models of runs that are put in. Without them a run is
            a tenth as large, and all but `Record.model` is there.
        data: How the data of runs that are put in are read again, as fields of `RunData`; None:
            nobody knows.
        columns: What their features are called, of a pair of both parts.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        models: bool = True,
        data: Mapping[str, Any] | None = None,
        columns: Columns = (),
    ) -> None:
        self.folder, self.models, self.data, self.columns = Path(folder), models, data, columns

    def __contains__(self, key: object) -> bool:
        """Whether a finished run lies there, whole or damaged."""
        return (self.folder / str(key) / files.RUN).is_file()

    def get(self, key: str) -> Record | None:
        """Return a finished run; None if there is none.

        Raises:
            CorruptFileError: It is another run's, or was damaged or changed since it was kept; the
                message says what to delete. Its other files are checked when they are read.
        """
        folder = self.folder / key
        path = folder / files.RUN
        if not os.path.lexists(path):
            if os.path.isfile(folder):
                raise CorruptFileError(
                    str(folder), "a file", "the folder of a run", "Delete it to train the run."
                )
            return None
        values = files.read_json(path, _remedy(folder))
        sealed = FILES in values or SEAL in values
        if sealed and values.pop(SEAL, None) != files.digest(values):
            raise _refused(folder, path, "changed values (SHA-256 differs)", "those that were kept")
        try:
            record = _record(values, folder)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _refused(
                folder, path, f"other values than were written ({error})", "a run"
            ) from error
        if key not in (record.run.key, record.run.key_of(values["run"])):
            raise _refused(
                folder, path, f"the run {record.run.key}", f"the run {key}, as its folder is named"
            )
        return record

    def put(self, outcome: Outcome, together: Sequence[str], origin: Mapping[str, Any]) -> None:
        """Keep what a finished run left behind, and where (version and hardware).

        `together` are the keys of the runs that it trained with, its own among them.
        """
        key = outcome.run.key
        partial = self.folder / f".{key}.{os.getpid()}.{uuid.uuid4().hex[:8]}{files.PARTIAL}"
        final = self.folder / key
        with writing(self.folder):
            partial.mkdir(parents=True)
        try:
            with files.claim(partial, wait=False):
                self._fill(partial, outcome, together, origin)
                with writing(final):
                    try:
                        partial.rename(final)
                    except OSError:
                        if not (final / files.RUN).is_file():  # else another process was first
                            shutil.rmtree(final)  # without its description a run does not count
                            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def work(self, runs: Sequence[Run]) -> list[Path]:
        """Return a folder per run for the checkpoints of a group that trains."""
        group = self.folder / WORK / files.digest({"together": [run.key for run in runs]})[:20]
        return [group / run.key for run in runs]

    def worked(self, keys: Collection[str]) -> None:
        """Take away the checkpoints of groups of which every run is kept.

        A folder is renamed before it is emptied, so that a process killed meanwhile leaves nothing
        that looks like a group that trains.
        """
        for group in (self.folder / WORK).glob("*"):
            with contextlib.suppress(OSError):  # another process was first
                members = {path.name for path in group.iterdir()}
                if group.suffix != files.PARTIAL and members and members <= set(keys):
                    group = group.rename(group.with_suffix(files.PARTIAL))
                if group.suffix == files.PARTIAL:
                    shutil.rmtree(group)
        with contextlib.suppress(OSError):
            (self.folder / WORK).rmdir()  # unless another group trains

    def tidy(self, keys: Sequence[str]) -> None:
        """Take away what processes that were killed left of runs; call it under their claim."""
        for key in keys:
            for path in self.folder.glob(f".{key}.*{files.PARTIAL}"):
                with contextlib.suppress(OutputError), files.claim(path, wait=False) as dead:
                    if dead:  # no process writes there, as one of other groups may
                        shutil.rmtree(path, ignore_errors=True)

    def _fill(
        self, folder: Path, outcome: Outcome, together: Sequence[str], origin: Mapping[str, Any]
    ) -> None:
        files.write_history(folder, outcome.history)
        content = io.BytesIO()
        np.savez_compressed(content, **dict(outcome.arrays))  # type: ignore[arg-type]
        files.write(folder / ARRAYS, content.getvalue(), sync_folder=False)
        tensors: dict[str, Tensor] = {
            f"model.{name}": value for name, value in outcome.model.state_dict().items()
        }
        steps = outcome.history.get("step") or [0]
        if self.models and outcome.run.evaluation.weights:
            checkpoints.save(folder, tensors, {"config": outcome.model.config}, step=int(steps[-1]))
        hashes = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
        }
        data: dict[str, Any] = {} if self.data is None else {DATA: self.data}
        data |= {COLUMNS: self.columns} if any(self.columns) else {}
        values = files.as_read(
            {
                "run": outcome.run.to_dict(),
                "measured": outcome.measured,
                "forecast": outcome.forecast,
                "stopped": outcome.stopped,
                TOGETHER: list(together),
                "origin": {**origin, **data, "wall_s": outcome.wall_s},
                FILES: dict(sorted(hashes.items())),
            }
        )
        files.write_json(folder / files.RUN, {**values, SEAL: files.digest(values)})

    @contextlib.contextmanager
    def claim(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold a group by name; see `files.claim`. Where it fails, what is kept is the same."""
        path = self.folder / ".claims" / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        with files.claim(path, wait=wait) as own:
            yield own


KINDS: dict[str, type | tuple[type, ...]] = {
    "measured": dict, "forecast": (dict, type(None)), "stopped": str, TOGETHER: list,
    "origin": dict, FILES: (dict, type(None)),
}  # fmt: skip


def _record(values: Mapping[str, Any], folder: Path) -> Record:
    """Return the record that the values of a `run.json` are, or an error of Python's."""
    fields = {FILES: values.get(FILES), **{name: values[name] for name in KINDS if name != FILES}}
    for name, value in fields.items():
        if not isinstance(value, KINDS[name]):
            raise TypeError(f"{name} is a {type(value).__name__}")
    together = tuple(map(str, fields.pop(TOGETHER)))
    run = Run.from_dict(values["run"])
    return Record(run=run, retrained_together=together, folder=folder, **fields)
