"""One file from whichever mirror has it, whole and with the right checksum, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from posterior_collapse.data import sniff
from posterior_collapse.errors import DownloadError, MissingFileError, writing
from posterior_collapse.progress import Display

__all__ = ["checksum", "download"]

TIMEOUT = 30.0
"""Seconds without an answer before the next mirror is tried."""


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        MissingFileError: It cannot be read.
    """
    import pooch

    try:
        digest: str = pooch.file_hash(str(path), alg="sha256")
    except OSError as error:
        raise MissingFileError(
            str(path), f"'{error.strerror}'", "a file that can be read", "Check its permissions."
        ) from error
    return digest


def download(
    name: str, sha256: str, mirrors: Sequence[str], folder: Path, *, progress: bool = False
) -> Path:
    """Fetch a file into a folder, from the first mirror that delivers it with that checksum.

    Args:
        name: The file's name, here and at the mirrors.
        sha256: The checksum it must have, in hexadecimal.
        mirrors: Addresses to put the name behind, tried in order.
        folder: Where to put it; made if need be.
        progress: Show a bar on standard error.

    Raises:
        DownloadError: No mirror had it; says what was wrong with each.
        OutputError: The folder cannot be written.
    """
    failures = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary_name = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        os.close(handle)
    temporary = Path(temporary_name)
    try:
        for mirror in mirrors:
            url = mirror.rstrip("/") + "/" + name
            failure = _attempt(url, sha256, temporary, progress)
            if failure is None:
                return _publish(temporary, folder / name)
            failures.append(f"{url}: {failure}")
    finally:
        temporary.unlink(missing_ok=True)
    raise DownloadError(
        name,
        "; ".join(failures),
        f"a file with SHA-256 {sha256}",
        "Check the network, or pass a folder that holds the file (--data-dir).",
    )


def _attempt(url: str, sha256: str, path: Path, progress: bool) -> str | None:
    """Download to ``path`` and return what is wrong with it, if anything."""
    import pooch

    bar = _Bar(url.rsplit("/", 1)[-1]) if progress else None
    fetch = pooch.HTTPDownloader(
        progressbar=bar or False, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}
    )
    try:
        fetch(url, str(path), None)
    except OSError as error:  # also the base of every error of requests
        return _reason(error)
    finally:
        if bar is not None:
            bar.close()
    with path.open("rb") as file:
        head = file.read(512)
    if sniff.is_html(head):
        return "an HTML page instead of the file"
    found = checksum(path)
    return None if found == sha256 else f"a file with SHA-256 {found}"


def _reason(error: OSError) -> str:
    """Say what went wrong in a few words: those of requests repeat the address at length."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    return error.strerror or type(error).__name__


def _publish(temporary: Path, path: Path) -> Path:
    with writing(path):
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's own mode would lock out the other users of a cache
        temporary.replace(path)
    return path


class _Bar:
    """The part of tqdm's interface that pooch calls."""

    def __init__(self, name: str) -> None:
        self.total = 0
        self._display = Display(name, counted="bytes", keep=True)
        self._display.__enter__()

    def update(self, amount: int) -> None:
        self._display.update(self._display.done + amount, total=self.total or None)

    def reset(self) -> None:
        self._display.update(0)

    def close(self) -> None:
        self._display.__exit__()
