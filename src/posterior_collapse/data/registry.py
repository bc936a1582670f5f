"""The data sets that have a name."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posterior_collapse.data import published
from posterior_collapse.data.dataset import KINDS, Dataset, pairs
from posterior_collapse.data.images import read_idx
from posterior_collapse.data.published import FILES, SOURCES, Folder, Source
from posterior_collapse.errors import (
    CorruptFileError,
    InvalidArgumentError,
    UnknownDatasetError,
    nearest,
)

EMBEDDED = "digits"
SYNTHETIC = "pairs"
DIVISORS = {EMBEDDED: 16.0, "mnist": 255.0, "fashion-mnist": 255.0}
NAMES = (EMBEDDED, *SOURCES, *(f"{SYNTHETIC}:{kind}" for kind in KINDS))


@dataclass(frozen=True)
class Entry:
    """One line of ``collapse data list``.

    Args:
        name: What to pass to `load`.
        samples: Number of samples of the split ``"train"``.
        test_samples: Number of samples of the split ``"test"``; 0 without one.
        where: The folder it would be read from, or how it is made.
        ready: Whether it can be loaded without a download.
    """

    name: str
    about: str
    samples: int
    test_samples: int
    features: int
    where: str
    ready: bool


def available(data_dir: str | os.PathLike[str] | None = None) -> tuple[Entry, ...]:
    """Return the named data sets and where each would be read from, looking in `data_dir` first.

    Example:
        >>> [entry.name for entry in available()][:3]
        ['digits', 'mnist', 'fashion-mnist']
    """
    folders = published.own_folders(data_dir)
    digits = Entry(EMBEDDED, "handwritten digits, 8 x 8", 1797, 0, 64, "scikit-learn", True)
    made = [
        Entry(f"{SYNTHETIC}:{kind}", "pairs (x, y), 128 + 128", 1000, 0, 256, "drawn", True)
        for kind in KINDS
    ]
    return (digits, *(_entry(source, folders) for source in SOURCES.values()), *made)


def _entry(source: Source, folders: list[Path]) -> Entry:
    cached = published.cache() / source.name
    homes = [next(published.find(source, name, folders), cached / name) for name in published.NAMES]
    return Entry(
        name=source.name,
        about=source.about,
        samples=60_000,
        test_samples=10_000,
        features=784,
        where=str(homes[0].parent),
        ready=all(os.path.isfile(home) for home in homes),
    )


def canonical(name: str) -> str | None:
    """Return the registry's spelling of a name, or None if it is not one of ours.

    Example:
        >>> canonical("Fashion_MNIST"), canonical("pairs:0.3"), canonical("data.csv")
        ('fashion-mnist', 'pairs:0.3', None)
    """
    plain = name.lower().replace("_", "-")
    known = plain in {EMBEDDED, *SOURCES} or plain.split(":")[0] == SYNTHETIC
    return plain if known else None


def absolute(source: str) -> str:
    """Return the path of a file that is there, wherever it is read from; of the rest, the name.

    Example:
        >>> absolute("digits"), absolute("no such file")
        ('digits', 'no such file')
    """
    is_file = canonical(source) is None and os.path.exists(source)
    return str(Path(source).resolve()) if is_file else source


def fetch(
    name: str, data_dir: str | os.PathLike[str] | None = None, progress: bool = True
) -> tuple[Path, ...]:
    """Download all files of a data set that are not there yet.

    Args:
        name: A registry name.
        data_dir: Folder to put them in, in a subfolder of that name; None for the user's cache.
        progress: Show a bar on standard error.

    Returns:
        The paths of the files; empty where nothing needs a file.

    Raises:
        UnknownDatasetError: No data set has that name.
        MissingFileError: The folder is in the home of a user that is not there.
        DownloadError: No mirror delivered a file.
        OutputError: The folder cannot be written.
    """
    known = canonical(name)
    if known is None:
        raise unknown(name)
    if known not in SOURCES:
        return (_digits_file(),) if known == EMBEDDED else ()
    source = SOURCES[known]
    home = published.cache() if data_dir is None else published.expanded("data_dir", data_dir)
    return tuple(
        published.fetched(source, file, home / known, progress=progress) for file in published.NAMES
    )


def unknown(name: str) -> UnknownDatasetError:
    """Return the error for a name that is neither a data set nor a file."""
    return UnknownDatasetError(
        "dataset",
        repr(name),
        f"one of {', '.join([EMBEDDED, *SOURCES])}, {SYNTHETIC}:KIND or a data file",
        f"See `collapse data list`.{nearest(name, NAMES)}",
    )


def from_registry(name: str, split: str, data_dir: Folder, progress: bool) -> Dataset:
    """Return a named data set, pixels as they are published; see `load` for the arguments."""
    if name in SOURCES:
        return _images(SOURCES[name], split, data_dir, progress)
    if split != "train":
        raise InvalidArgumentError(
            "split", repr(split), f"'train': {name} comes in one piece", "Leave the split away."
        )
    if name != EMBEDDED:
        return pairs(name.partition(":")[2] or KINDS[0])
    table = np.loadtxt(_digits_file(), delimiter=",")
    labels = table[:, -1].astype(np.int64)
    return Dataset(EMBEDDED, table[:, :-1], labels=labels, image_shape=(8, 8))


def _digits_file() -> Path:
    # The path without the import: importing scikit-learn costs more than a whole forecast.
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None  # a core dependency
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _images(source: Source, split: str, data_dir: Folder, progress: bool) -> Dataset:
    if split not in FILES:
        raise InvalidArgumentError(
            "split", repr(split), "'train' or 'test'", f"Pass one.{nearest(split, FILES)}"
        )
    images_path, labels_path = (
        published.locate(source, name, data_dir, progress=progress) for name in FILES[split]
    )
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3:
        raise CorruptFileError(
            str(images_path), f"{images.ndim} dimensions", "images", "Download it again."
        )
    if labels.shape != images.shape[:1]:
        raise CorruptFileError(
            str(labels_path),
            f"labels of shape {labels.shape}",
            f"one for each of the {len(images):,} images",
            "Download both again.",
        )
    return Dataset(
        source.name, images.reshape(len(images), -1), labels=labels, image_shape=images.shape[1:]
    )
