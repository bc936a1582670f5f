"""What is refused before a file is read: by its first bytes, and by the memory it would take."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from posterior_collapse.errors import (
    CorruptFileError,
    DataError,
    MissingFileError,
    PosteriorCollapseError,
    first_line,
    nearest,
)

MOST_TOLD = 200
"""Characters of what a reader says of a damaged file."""


@contextlib.contextmanager
def reading(path: Path, expected: str, action: str) -> Iterator[None]:
    """Turn whatever a reader trips over in a damaged file into one error, in the reader's words.

    Example:
        >>> with reading(Path("x.h5"), "an HDF5 file", "Write it again."):
        ...     raise OSError("it ends")
        Traceback (most recent call last):
        posterior_collapse.errors.CorruptFileError: x.h5: got 'it ends'; expected an HDF5 file. ...
    """
    try:
        yield
    except PosteriorCollapseError:
        raise
    except Exception as error:
        said = first_line(error) or type(error).__name__
        raise CorruptFileError(str(path), f"'{said[:MOST_TOLD]}'", expected, action) from error


def opened(path: Path, *, zipped: bool) -> IO[bytes]:
    """Return a file's bytes as a stream, unpacked where it is gzipped."""
    return cast(IO[bytes], gzip.open(path) if zipped else path.open("rb"))


def is_html(head: bytes) -> bool:
    """Say whether the first bytes of a file are those of a web page.

    Example:
        >>> is_html(b"  <!DOCTYPE html><html>"), is_html(b"1.0,2.0")
        (True, False)
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head"))


def check_file(path: Path, expected: str = "a file") -> bytes:
    """Return the first bytes of a file that can hold data; refuse others, and web pages.

    If nothing lies there, it is said what was expected.
    """
    head = None
    try:
        if stat.S_ISREG(path.stat().st_mode):  # a device or a pipe may never end
            with path.open("rb") as file:
                head = file.read(512)
    except FileNotFoundError as error:
        siblings: list[str] = []
        with contextlib.suppress(OSError):
            siblings = [p.name for p in path.parent.iterdir()]
        raise MissingFileError(
            str(path),
            "no such file or folder",
            expected,
            f"Check the path.{nearest(path.name, siblings)}",
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MissingFileError(
            str(path), f"'{reason}'", "a file that can be read", "Check the path."
        ) from error
    if head is None:
        raise MissingFileError(
            str(path), "no regular file", "a file", "Copy what it yields into a file."
        )
    if not head:
        raise CorruptFileError(str(path), "an empty file", "data", "Write or download it again.")
    if is_html(head):
        raise CorruptFileError(
            str(path),
            "an HTML page",
            "data",
            "Download the file itself; the server answered with a web page.",
        )
    return head


SMALL = 256 << 20
"""Bytes that any file may unpack to."""
MOST_TIMES = 250
"""How many times its own size a file may unpack to. Images come to about 10, one-hot rows to 100;
what is beyond holds next to nothing, and takes memory that another file of its size would not."""
SHARE = 0.5
"""Of the available memory: the rest is for what is done with the data."""


def check_size(path: Path, needed: int, size: int | None = None) -> None:
    """Refuse a file whose values take too much memory, as its own headers say.

    That is more than half of what is available, or hundreds of times the size of the file.
    """
    if size is None:
        size = path.stat().st_size
    if needed > SMALL and needed > MOST_TIMES * size:
        raise CorruptFileError(
            str(path),
            f"a file of {_shown(size)} that unpacks to {_shown(needed)}",
            f"contents of at most {MOST_TIMES} times its size",
            "If it is meant so, unpack it into a .npy file, which is read from disk.",
        )
    action = "Save them with numpy.save: a .npy file is read from disk piece by piece."
    check_room(str(path), needed, action)


def check_room(
    name: str, needed: int, action: str = "Take fewer rows, or prepare the data on disk."
) -> None:
    """Refuse what takes more than half of the memory that is available."""
    free = available()
    if free is not None and needed > SHARE * free:
        raise DataError(
            name,
            f"{_shown(needed)} of values",
            f"at most half of the {_shown(free)} of memory that are available",
            action,
        )


def available() -> int | None:
    """Return the bytes that this process may still take; None where the system does not say."""
    found = []
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    if not found:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            found.append(max(0, most - used))
    return min(found, default=None)


def _shown(size: int) -> str:
    """Bytes in a unit that people know."""
    from rich import filesize  # not on top: only a refusal needs it

    return filesize.decimal(size)
