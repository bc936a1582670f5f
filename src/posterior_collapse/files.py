"""Files that are there whole or not at all, whatever kills the process; JSON, CSV, hashes, locks.

JSON is strict: what is not finite becomes null.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_collapse.errors import CorruptFileError, MissingFileError, OutputError, writing

if TYPE_CHECKING:
    from numpy.typing import NDArray

HISTORY, CONFIG, SWEEP, RUN = "history.csv", "config.json", "sweep.json", "run.json"
PARTIAL = ".partial"
"""Ending of a file that is being written; one that outlives its process is rubbish."""


def write(path: Path, content: bytes, *, sync_folder: bool = True) -> None:
    """Write a file under a temporary name in its folder, fsync it, rename it, fsync the folder.

    Args:
        path: Where it goes; the folder is there already.
        content: What goes in.
        sync_folder: False where another file of the same folder follows at once.

    Raises:
        OutputError: The system refuses (permission, space); what was there before is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if sync_folder:
            _sync_folder(path.parent)


def clear(folder: Path) -> None:
    """Delete what killed processes were writing in a folder and below; no other may write there.

    Raises:
        OutputError: The system refuses.
    """
    with writing(folder):
        for path in folder.rglob(f".*{PARTIAL}"):
            path.unlink(missing_ok=True)


def write_json(path: str | Path, values: Mapping[str, Any]) -> Path:
    """Write JSON, making the folder if needed.

    Raises:
        OutputError: The path cannot be written.
    """
    return write_text(Path(path), json_text(values) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a text, making the folder if needed.

    Raises:
        OutputError: The path cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write(path, text.encode())
    return path


def check_free(folder: str | Path) -> None:
    """Refuse a folder that holds anything, or that is a file."""
    folder = Path(folder)
    with writing(folder):
        if not folder.exists():
            return
        if folder.is_dir() and all(path.name.endswith(PARTIAL) for path in folder.iterdir()):
            return
    what = "a folder with files in it" if folder.is_dir() else "a file"
    raise OutputError(
        str(folder),
        what,
        "a new or empty folder, since no run is overwritten",
        "Choose another one with --out, or go on with --resume.",
    )


def is_kept(folder: Path) -> bool:
    """Say whether a folder is that of one run as `sweep` keeps it."""
    return (folder / RUN).is_file()


def kept_in(folder: Path) -> list[str]:
    """Return the keys of the runs that lie in a folder as `sweep` keeps them, each in its own.

    What is being written, or was as its process was killed, is none.
    """
    names = (path.parent.name for path in folder.glob(f"*/{RUN}"))
    return sorted(name for name in names if not name.endswith(PARTIAL))


def check_described(folder: Path) -> Path:
    """Return the file that describes the runs in a folder of `collapse train`.

    Raises:
        MissingFileError: There is none.
    """
    for path in (folder / SWEEP, folder / CONFIG):
        if os.path.lexists(path):
            return path
    raise MissingFileError(
        str(path), "no such file", "the folder of a run or a sweep", "Check the name."
    )


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
    found = dict(columns(history))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(found)
    table.writerows(zip(*found.values(), strict=True))
    return write_text(Path(folder) / HISTORY, text.getvalue())


def read_history(content: bytes) -> dict[str, list[float]]:
    r"""Return the columns that `write_history` wrote.

    Example:
        >>> read_history(b"epoch,kl_1\n1,0.5\n")
        {'epoch': [1.0], 'kl_1': [0.5]}
    """
    text = io.StringIO(content.decode(), newline="")
    try:
        names, *rows = csv.reader(text, strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    found = zip(*rows, strict=True) if rows else [()] * len(names)
    return {
        name: [float(value) for value in column] for name, column in zip(names, found, strict=True)
    }


def history_in(folder: str | Path) -> dict[str, list[float]] | None:
    """Return the columns of a run's history; None where it has not ended and there is none.

    Raises:
        CorruptFileError: The file is damaged.
    """
    path = Path(folder) / HISTORY
    try:
        return read_history(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptFileError(
            str(path), str(error), "the history of a run",
            "Delete it: the rest of the run can be looked at without.",
        ) from error  # fmt: skip


def columns(history: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield the columns of a history, one with an entry per level as one column per level."""
    for name, values in history.items():
        if len(values) > 0 and isinstance(values[0], (list, tuple)):
            for number, column in enumerate(zip(*values, strict=True), 1):
                yield f"{name}_{number}", column
        else:
            yield name, values


def fingerprint(arrays: Iterable[NDArray[Any] | None]) -> str:
    """Return the SHA-256 of arrays: shapes, types and values.

    Example:
        >>> import numpy as np
        >>> fingerprint([np.zeros(3)]) == fingerprint([np.zeros(3), None])
        False
    """
    import numpy as np  # not on top: a command's --help should not load it

    digest = hashlib.sha256()
    for array in arrays:
        if array is None:
            digest.update(b"none;")
            continue
        digest.update(f"{array.dtype.str}{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@contextlib.contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a file or folder, so that two processes share work or refuse it instead of doubling it.

    The system frees it when the process ends, however it ends, and nothing is left behind. Where
    there are no such locks (not POSIX, some network drives) every process holds it.

    Args:
        path: A folder or file that is there.
        wait: Wait for it; else yield False where another process holds it.

    Raises:
        OutputError: It cannot be opened.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    with writing(path):
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        held = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        except OSError:
            pass
        yield held
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_text(value: Any) -> str:
    """Return strict JSON, indented: what is not finite becomes null.

    Example:
        >>> json_text(float("inf"))
        'null'
    """
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
