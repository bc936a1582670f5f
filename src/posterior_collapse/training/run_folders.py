"""The files of a run that people read: config.json, history.csv, summary.json, TensorBoard.

Each is written whole or not at all. JSON is strict: what is not finite becomes null.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posterior_collapse import atomic
from posterior_collapse.errors import (
    CorruptFileError,
    MissingDependencyError,
    MissingFileError,
    OutputError,
    writing,
)

__all__ = [
    "CONFIG",
    "HISTORY",
    "SUMMARY",
    "Scalars",
    "as_read",
    "check_free",
    "digest",
    "fingerprint",
    "read_json",
    "require_tensorboard",
    "write_history",
    "write_json",
]

CONFIG = "config.json"
HISTORY = "history.csv"
SUMMARY = "summary.json"


def check_free(folder: str | Path) -> None:
    """Refuse a folder that holds anything, or that is a file.

    Raises:
        OutputError: It is not free.

    Example:
        >>> check_free("no/such/folder")
    """
    folder = Path(folder)
    with writing(folder):
        if not folder.exists():
            return
        if folder.is_dir() and all(path.name.endswith(atomic.PARTIAL) for path in folder.iterdir()):
            return
    what = "a folder with files in it" if folder.is_dir() else "a file"
    raise OutputError(
        str(folder),
        what,
        "a new or empty folder, since no run is overwritten",
        "Choose another one with --out, or go on with --resume.",
    )


def write_json(path: str | Path, values: Mapping[str, Any]) -> Path:
    """Write JSON, making the folder if needed.

    Raises:
        OutputError: The path cannot be written.
    """
    path = Path(path)
    text = json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, text.encode())
    return path


def read_json(path: str | Path, remedy: str = "Restore it from a copy.") -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: Where it lies.
        remedy: What to do about a file that is no such thing.

    Raises:
        MissingFileError: It is not there.
        CorruptFileError: It is something else, not JSON, or no object.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingFileError(
            str(path), f"'{error.strerror}'", "a file of a run", "Check the folder's name."
        ) from error
    except OSError as error:
        raise CorruptFileError(str(path), f"'{error.strerror}'", "a JSON file", remedy) from error
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(
            str(path), f"text that is not JSON ({error})", "JSON", remedy
        ) from error
    if not isinstance(values, dict):
        raise CorruptFileError(str(path), type(values).__name__, "a JSON object", remedy)
    return values


def as_read(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as `read_json` gives them back once `write_json` wrote them.

    Example:
        >>> as_read({"kl": (0.1, math.nan), "by level": {1: 2}})
        {'kl': [0.1, None], 'by level': {'1': 2}}
    """
    read: dict[str, Any] = json.loads(json.dumps(_finite(values), allow_nan=False))
    return read


def digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON-able values, whatever the order of their keys.

    Example:
        >>> digest({"a": 1, "b": [2.5]}) == digest({"b": [2.5], "a": 1})
        True
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_history(folder: str | Path, history: Mapping[str, Sequence[Any]]) -> Path:
    """Write `history.csv`, a row per epoch; numbers in the shortest form that reads back exactly.

    Args:
        folder: Folder of the run; made if missing.
        history: Columns of equal length. A column of lists (one entry per level) becomes one
            column per entry, `kl_1`, `kl_2`, ...

    Raises:
        OutputError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_history(folder, {"epoch": [1, 2], "kl": [[0.5, 0.1], [0.6, 0.2]]})
        ...     print(path.read_text())
        epoch,kl_1,kl_2
        1,0.5,0.1
        2,0.6,0.2
        <BLANKLINE>
    """
    path = Path(folder) / HISTORY
    columns = dict(_columns(history))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, text.getvalue().encode())
    return path


def fingerprint(arrays: Iterable[NDArray[Any] | None]) -> str:
    """Return the SHA-256 of arrays: shapes, types and values.

    Example:
        >>> fingerprint([np.zeros(3)]) == fingerprint([np.zeros(3), None])
        False
    """
    digest = hashlib.sha256()
    for array in arrays:
        if array is None:
            digest.update(b"none;")
            continue
        digest.update(f"{array.dtype.str}{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def require_tensorboard() -> Any:
    """Return TensorBoard's writer class.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            "tensorboard",
            "no such library",
            "tensorboard to write its event files",
            "Run pip install tensorboard, or leave it out: history.csv has the same numbers.",
        ) from error
    return SummaryWriter


class Scalars:
    """A run's history as TensorBoard shows it, written epoch by epoch.

    Args:
        folder: Folder of the run; events go to its subfolder `tensorboard`.
        start: First epoch that will be written; events from there on, left by a run that was
            killed, are hidden.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, start: int = 1) -> None:
        writer = require_tensorboard()
        with writing(folder):
            self._writer: Any = writer(str(Path(folder) / "tensorboard"), purge_step=start)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of one epoch; `row["epoch"]` is the step shown."""
        for name, (value,) in _columns({name: [value] for name, value in row.items()}):
            if name != "epoch" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, row["epoch"])

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


def _columns(history: Mapping[str, Sequence[Any]]) -> Iterable[tuple[str, Sequence[Any]]]:
    for name, values in history.items():
        if len(values) > 0 and isinstance(values[0], (list, tuple)):
            for number, column in enumerate(zip(*values, strict=True), 1):
                yield f"{name}_{number}", column
        else:
            yield name, values


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
