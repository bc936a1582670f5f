"""What a file is, told from its first bytes: before a reader fails on it with its own words."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

from posterior_collapse.errors import CorruptFileError, MissingFileError, nearest

__all__ = ["check", "is_html"]


def is_html(head: bytes) -> bool:
    """Say whether the first bytes of a file are those of a web page.

    Example:
        >>> is_html(b"  <!DOCTYPE html><html>"), is_html(b"1.0,2.0")
        (True, False)
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head"))


def check(path: Path) -> bytes:
    """Return the first bytes of a file that can hold data.

    Raises:
        MissingFileError: The file is not there, or no regular file.
        CorruptFileError: The file is empty or a web page.
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
            str(path), "no such file", "a file", f"Check the path.{nearest(path.name, siblings)}"
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
