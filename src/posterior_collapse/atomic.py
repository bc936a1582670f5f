"""Files that are there whole or not at all, whatever kills the process."""

from __future__ import annotations

import os
from pathlib import Path

from posterior_collapse.errors import writing

__all__ = ["PARTIAL", "clear", "write"]

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


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
