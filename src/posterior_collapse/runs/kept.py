"""Runs that are kept in a folder, by whichever command or call, and their diagnoses."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

from posterior_collapse import files
from posterior_collapse.data import Dataset
from posterior_collapse.data.registry import canonical
from posterior_collapse.diagnosis import Diagnosis, diagnose
from posterior_collapse.errors import (
    CorruptFileError,
    DataError,
    InvalidArgumentError,
    MissingFileError,
)
from posterior_collapse.models import MarkovVAE
from posterior_collapse.runs import folder as folders
from posterior_collapse.runs.run import Run, RunData
from posterior_collapse.runs.store import DATA, Outcome, Record, Store
from posterior_collapse.runs.sweep import Sweep, hashed
from posterior_collapse.specs import Spec
from posterior_collapse.training import checkpoints
from posterior_collapse.training.arguments import check_device
from posterior_collapse.training.settings import effective_spec
from posterior_collapse.training.states import load_model

Split: TypeAlias = Literal["train", "test"]
Read: TypeAlias = Callable[[RunData, Split, str | None], Dataset]
"""Returns the samples of a split as experiments read them, looked for in a data folder."""
OF_EXPERIMENTS = ("label", "task", "split", "data_dir")
"""What can be said of the data of an experiment without naming others."""


@dataclass(frozen=True)
class Kept:
    """A run that is kept in a folder.

    Attributes:
        record: What `sweep` kept of it; None: it is of `collapse train`.
        changes: What is said of its data, by fields of `RunData`; the rest is as it was trained.
        read: How the data of an experiment are read, of which only some rows may have been trained
            on; None: it is none.
    """

    folder: Path
    record: Record | None
    changes: Mapping[str, Any]
    read: Read | None = None

    def diagnosed(self, *, device: str = "cpu", **options: Any) -> tuple[Dataset, Diagnosis]:
        """Diagnose the run on its data, or on those that are named instead.

        Args:
            device: Where to: `"cpu"`, `"cuda"` or `"cuda:N"`.
            **options: Of `diagnose`.

        Raises:
            InvalidArgumentError: There is no such device.
            DataError: The data cannot be loaded, or were passed as values and none are named.
            CorruptFileError: A file of the run was damaged or changed.
            CheckpointError: No checkpoint can be used.
        """
        check_device(device)
        if self.record is None:
            run, model, notes = folders.trained(self.folder)
        else:
            run, model, notes = self.record.run, self.record.model, []
        spec = effective_spec(run.spec, run.settings.convention)
        if spec != run.spec:
            notes.insert(
                0, f"under the convention it was trained with, its loss is that of {spec!r}"
            )
        dataset = self.dataset()
        if not set(self.changes) - {"data_dir"} and _known(run, dataset, self.record) is False:
            notes.append("the data have other values than those the run was trained on")
        trained = self._as_fitted(model.to(device), run, spec)
        found = diagnose(trained, dataset, spec=spec, **options)
        return dataset, replace(found, notes=(*found.notes, *notes))

    def _as_fitted(self, model: MarkovVAE, run: Run, spec: Spec) -> SimpleNamespace:
        """What `fit` returned of it, as far as `diagnose` asks."""
        record = self.record
        history = files.history_in(self.folder) if record is None else record.history
        columns = folders.columns(self.folder) if record is None else record.columns
        found = SimpleNamespace(
            model=model, objective=spec, floor=run.settings.floor, history=history or {},
            columns=columns,
        )  # fmt: skip
        if record is None and (self.folder / folders.SUMMARY).is_file():  # on the rows trained on
            found.measured = lambda: _losses(self.folder)
        return found

    @property
    def run(self) -> Run:
        """What was trained."""
        return folders.read(self.folder)[""] if self.record is None else self.record.run

    def _read_as(self) -> RunData | None:
        """Return how its data are read again; None: values were passed, which are not kept."""
        data = self.run.data
        if self.record is not None:
            with contextlib.suppress(InvalidArgumentError, LookupError, TypeError):
                return RunData(**self.record.origin[DATA])
            if data.sha256 is not None and canonical(data.name) is None:
                return None
        return data

    def dataset(self) -> Dataset:
        """Load its data, or those that are named instead; see `diagnosed`."""
        run, own = self.run, self._read_as()
        if self.read is not None and self._is_experiment and "name" not in self.changes:
            return self._of_experiment(run.data, self.read)
        if own is None and "name" not in self.changes:
            raise DataError(
                str(self.folder),
                "a run on values that were passed, which are not kept",
                "the data it was trained on, or others",
                "Name them: --data FILE.",
            )
        own = own or run.data
        own = own.replace(split=own.split or "train", sha256=None)
        now = own.replace(**self.changes)
        if not (now.standardize and "name" in self.changes and own.standardize):
            return folders.load({"": run.replace(data=now)})
        # Other rows are brought to what the model was trained on.
        rows = folders.load({"": run.replace(data=now.replace(standardize=False))})
        return rows.standardized(
            folders.load({"": run.replace(data=own.replace(standardize=False))})
        )

    @property
    def _is_experiment(self) -> bool:
        """Whether `reproduce` kept it, which names its data; `sweep` hashes them."""
        return self.record is not None and self.run.data.sha256 is None

    def _of_experiment(self, data: RunData, read: Read) -> Dataset:
        changes = dict(self.changes)
        if others := [name for name in changes if name not in OF_EXPERIMENTS]:
            raise DataError(
                str(self.folder), f"{others[0]} for the data of an experiment",
                f"only {', '.join(OF_EXPERIMENTS)}", "Name the rows with --data, or leave it out.",
            )  # fmt: skip
        split, data_dir = changes.pop("split", "train"), changes.pop("data_dir", None)
        return read(data.replace(**changes), split, data_dir)


def members(
    folder: Path, changes: Mapping[str, Any] | None = None, read: Read | None = None
) -> dict[str, Kept]:
    """Return the runs in a folder, by name; `""` names a single run's.

    Those of `sweep` are named by what varies; for `changes` and `read` see `Kept`.

    Raises:
        MissingFileError: No run lies there, or one of a sweep does not.
        CorruptFileError: A file was damaged or changed.
    """
    changes = changes or {}
    if files.is_kept(folder):
        whole = folder.resolve()
        return {"": Kept(folder, Store(whole.parent).get(whole.name), changes, read)}
    keys = files.kept_in(folder)
    if not keys:
        found = folders.members(folder)
        return {name: Kept(path, None, changes) for name, path in found.items()}
    records = [record for key in keys if (record := Store(folder).get(key)) is not None]
    named = {}
    for label, record in zip(Sweep(tuple(records)).labels, records, strict=True):
        name = ",".join(f"{key}={_short(value)}" for key, value in label.items())
        named[name if name not in named else f"{name} ({record.run.key})"] = record
    return {name: Kept(one.folder, one, changes, read) for name, one in sorted(named.items())}


def swept(folder: Path) -> Sweep:
    """Return the runs of a folder, trained to the end, beside their forecasts, as `sweep` does.

    Raises:
        MissingFileError: No run lies there, or one of them has not ended.
        CorruptFileError: A file of it was damaged.
        CheckpointError: No checkpoint of a run can be used.
    """
    if files.kept_in(folder):
        records = [one.record for one in members(folder).values()]
        return Sweep(tuple(one for one in records if isinstance(one, Record)))
    runs, found = folders.read(folder), []
    for name, place in folders.members(folder).items():
        summary = _summary(place)
        model = load_model(checkpoints.load(place))
        found.append(
            Outcome(
                runs[name], summary["measured"], summary["forecast"], summary["stopped"],
                files.history_in(place) or {}, {}, model, 0.0,
            )
        )  # fmt: skip
    return Sweep(tuple(found))


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / folders.SUMMARY
    if not path.is_file():
        raise MissingFileError(
            str(path), "no such file", "the summary of a run that has ended",
            "Go on with collapse train --resume.",
        )  # fmt: skip
    found = files.read_json(path)
    if not all(name in found for name in ("measured", "forecast", "stopped")):
        raise CorruptFileError(
            str(path), "other values than were written", "the summary of a run",
            "Restore it from a copy, or train again.",
        )  # fmt: skip
    return dict(found)


def _losses(folder: Path) -> dict[str, float]:
    """Loss of the rows trained on, and its error; NaN where a summary, as older ones, has none."""
    measured = _summary(folder)["measured"]
    known = measured if isinstance(measured, dict) else {}
    found = {name: known.get(name) for name in ("loss", "loss_error")}
    return {n: value if isinstance(value, float) else math.nan for n, value in found.items()}


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _known(run: Run, dataset: Dataset, record: Record | None) -> bool | None:
    """Say whether data have the values that a run was trained on; None: that is not known."""
    if run.data.sha256 is None:
        return None
    if record is None:
        return files.fingerprint([dataset.x, dataset.y]) == run.data.sha256
    if "validation_loss" in record.history:  # the hash is of the validation data as well
        return None
    # Earlier versions hashed no sides of images.
    nets = (run.architecture, None)
    is_exact = run.method == "exact"
    hashes = (hashed(dataset, run.spec, net, run.settings, is_exact) for net in nets)
    return run.data.sha256 in hashes
