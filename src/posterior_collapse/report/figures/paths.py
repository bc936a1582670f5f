"""Where figures and pages may be written, and the writing of figures."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posterior_collapse import files
from posterior_collapse.errors import InvalidArgumentError, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_figure_path", "check_page_path", "save_figure"]

FORMATS = (".png", ".pdf", ".svg")


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Write a figure as PNG, PDF or SVG, without a date; nothing half-written is left.

    Args:
        figure: The figure.
        path: Where it goes.
        dpi: Dots per inch of a PNG.

    Raises:
        InvalidArgumentError: Another ending.
        OutputError: The path cannot be written.
    """
    target = check_figure_path(path)
    content = io.BytesIO()
    kind = target.suffix[1:].lower()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    figure.savefig(content, format=kind, dpi=dpi, metadata=undated)
    files.write(target, content.getvalue())
    return target


def check_figure_path(path: str | os.PathLike[str]) -> Path:
    """Return the path if a figure can be written there, so as to fail before long work.

    Raises:
        InvalidArgumentError: Not one of the known endings.
        OutputError: The folder is missing or cannot be written.
    """
    return _check_path(path, FORMATS)


def check_page_path(path: str | os.PathLike[str]) -> Path:
    """Return the path if a page can be written there, so as to fail before long work.

    Raises:
        InvalidArgumentError: Its ending is not .html.
        OutputError: The folder is missing or cannot be written.
    """
    return _check_path(path, (".html", ".htm"))


def _check_path(path: str | os.PathLike[str], endings: Sequence[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() not in endings:
        raise InvalidArgumentError(
            str(path),
            f"the ending {target.suffix!r}",
            f"one of {endings}",
            f"Name it e.g. out{endings[0]}.",
        )
    with writing(target):
        if not target.parent.is_dir():
            raise NotADirectoryError(errno.ENOENT, "no such folder")
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "permission denied")
    return target
