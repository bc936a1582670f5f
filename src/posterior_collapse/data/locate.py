"""Where a published file lies: the given folder, the environment's, the user's cache, a mirror."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from posterior_collapse.data.download import checksum, download
from posterior_collapse.data.sources import SOURCES, Source
from posterior_collapse.errors import MissingFileError

__all__ = ["VARIABLE", "ChecksumWarning", "cache", "expanded", "find", "locate", "own_folders"]

VARIABLE = "POSTERIOR_COLLAPSE_DATA"
"""Environment variable that names a folder to look in before the cache."""


class ChecksumWarning(UserWarning):
    """A file of the user's own differs from the published one of that name; it is used."""


def cache() -> Path:
    """Return the user's cache folder, where downloads go."""
    import pooch

    return Path(pooch.os_cache("posterior-collapse"))


def own_folders(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders that the user named: ``data_dir``, then the environment's.

    Raises:
        MissingFileError: One of them is no folder.
    """
    named = {"data_dir": data_dir, f"${VARIABLE}": os.environ.get(VARIABLE) or None}
    folders = []
    for argument, value in named.items():
        if value is None:
            continue
        folders.append(folder := expanded(argument, value))
        if not os.path.isdir(folder):  # unlike Path.is_dir, false where the system refuses to look
            raise MissingFileError(
                argument, f"'{folder}'", "a folder", "Make it, or name another folder."
            )
    return folders


def expanded(argument: str, folder: str | os.PathLike[str]) -> Path:
    """Return a folder's path, a leading ``~`` or ``~user`` replaced by that home.

    Raises:
        MissingFileError: No such user.
    """
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise MissingFileError(
            argument, f"'{folder}'", "the home of a user that is there", "Write out its path."
        ) from error


def locate(
    source: Source,
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = False,
) -> Path:
    """Return the path of one file of a source, downloaded if it is nowhere.

    A file in a folder that the user named, gzipped or plain, is taken whatever its checksum, with
    a `ChecksumWarning` where it differs; one in the cache must have the published checksum, and
    is downloaded again otherwise.

    Raises:
        MissingFileError: ``data_dir`` or the environment's folder is not there, or a file in it
            cannot be read.
        DownloadError: It is nowhere, and no mirror delivered it.
        OutputError: The cache cannot be written.
    """
    for path in find(source, name, own_folders(data_dir)):
        if _accepted(source, path):
            return path
    cached = cache() / source.name / name
    if os.path.isfile(cached) and checksum(cached) == source.checksums[name]:
        return cached
    return download(name, source.checksums[name], source.mirrors, cached.parent, progress=progress)


def find(source: Source, name: str, folders: list[Path]) -> Iterator[Path]:
    """Yield the places in ``folders`` where a file of that name lies, gzipped or plain."""
    for folder in folders:
        for subfolder in (*source.subfolders, "."):
            for file in (name, name.removesuffix(".gz")):
                path = folder / subfolder / file
                if os.path.isfile(path):
                    yield path


def _accepted(source: Source, path: Path) -> bool:
    found, published = checksum(path), source.published[path.name]
    if found == published:
        return True
    if found in _others(source):
        return False  # the sources use the same file names: this is another one's file
    warnings.warn(
        f"{path}: SHA-256 is {found}, that of the published file is {published}. "
        "The file is used as it is; delete it to use the published one.",
        ChecksumWarning,
        stacklevel=2,
    )
    return True


def _others(source: Source) -> set[str]:
    others = (other for other in SOURCES.values() if other.name != source.name)
    return {digest for other in others for digest in other.published.values()}
