"""What `collapse train` or `sweep` left in a folder, as a `Sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posterior_collapse.errors import CorruptFileError, MissingFileError
from posterior_collapse.files import history_in, holds_runs, read_json
from posterior_collapse.runs import folder as folders
from posterior_collapse.runs.kept import members
from posterior_collapse.runs.store import Outcome, Record
from posterior_collapse.runs.sweep import Sweep
from posterior_collapse.training import checkpoints
from posterior_collapse.training.states import load_model

__all__ = ["swept"]


def swept(folder: Path) -> Sweep:
    """Return the runs of a folder beside their forecasts, as `sweep` does.

    Args:
        folder: Of a sweep or of one run, trained to the end.

    Raises:
        MissingFileError: No run lies there, or one of them has not ended.
        CorruptFileError: A file of it was damaged.
        CheckpointError: No checkpoint of a run can be used.
    """
    if holds_runs(folder):
        records = [one.record for one in members(folder).values()]
        return Sweep(tuple(one for one in records if isinstance(one, Record)))
    runs, found = folders.read(folder), []
    for name, place in folders.members(folder).items():
        summary = _summary(place)
        model = load_model(checkpoints.load(place)).eval()
        found.append(
            Outcome(
                runs[name], summary["measured"], summary["forecast"], summary["stopped"],
                history_in(place) or {}, {}, model, 0.0,
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
    found = read_json(path)
    if not all(name in found for name in ("measured", "forecast", "stopped")):
        raise CorruptFileError(
            str(path), "other values than were written", "the summary of a run",
            "Restore it from a copy, or train again.",
        )  # fmt: skip
    return dict(found)
