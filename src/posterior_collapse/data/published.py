"""The published image sets that come as IDX files: checksums, mirrors, and where a file lies."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from posterior_collapse.data.checking import is_html
from posterior_collapse.errors import DownloadError, MissingFileError, writing
from posterior_collapse.progress import Display

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
"""Images and labels of each split; every source uses the same names."""
NAMES = [name for pair in FILES.values() for name in pair]
LARGEST = 2**26
"""Bytes that no published file holds: what holds more is not read further."""


@dataclass(frozen=True)
class Source:
    """One published image set.

    Args:
        checksums: SHA-256 in hexadecimal by name, of gzipped files and, without `.gz`, of what
            they hold.
        mirrors: Addresses of the folders that hold the files, tried in order.
        subfolders: Where other libraries put the files inside a data folder.
    """

    name: str
    about: str
    checksums: Mapping[str, str]
    mirrors: tuple[str, ...]
    subfolders: tuple[str, ...]


def _checksums(*digests: str) -> dict[str, str]:
    plain = [name.removesuffix(".gz") for name in NAMES]
    return dict(zip((*NAMES, *plain), digests, strict=True))


SOURCES = {
    "mnist": Source(
        name="mnist",
        about="handwritten digits, 28 x 28",
        checksums=_checksums(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        subfolders=("mnist", "MNIST/raw"),
    ),
    "fashion-mnist": Source(
        name="fashion-mnist",
        about="clothes, 28 x 28",
        checksums=_checksums(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        subfolders=("fashion-mnist", "FashionMNIST/raw"),
    ),
}


TIMEOUT = 30.0
"""Seconds without an answer before the next mirror is tried."""


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
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
    """Fetch a file into a folder, from the first mirror that delivers it with that checksum."""
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
                with writing(folder / name):
                    with temporary.open("rb") as file:
                        os.fsync(file.fileno())
                    # mkstemp's own mode would lock out the other users of a cache.
                    temporary.chmod(0o644)
                    return temporary.replace(folder / name)
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
    if is_html(head):
        return "an HTML page instead of the file"
    found = checksum(path)
    return None if found == sha256 else f"a file with SHA-256 {found}"


def _reason(error: OSError) -> str:
    """Say what went wrong in a few words: those of requests repeat the address at length."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    return error.strerror or type(error).__name__


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


Folder: TypeAlias = str | os.PathLike[str] | None
"""That the user names, if any."""
VARIABLE = "POSTERIOR_COLLAPSE_DATA"
"""Environment variable that names a folder to look in before the cache."""


class ChecksumWarning(UserWarning):
    """A file of the user's own differs from the published one of that name; it is used."""


def cache() -> Path:
    """Return the user's cache folder, where downloads go."""
    import pooch

    return Path(pooch.os_cache("posterior-collapse"))


def own_folders(data_dir: Folder) -> list[Path]:
    """Return the folders that the user named: ``data_dir``, then the environment's."""
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
    """Return a folder's path, a leading ``~`` or ``~user`` replaced by that home."""
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise MissingFileError(
            argument, f"'{folder}'", "the home of a user that is there", "Write out its path."
        ) from error


def locate(source: Source, name: str, data_dir: Folder, *, progress: bool) -> Path:
    """Return the path of one file of a source, downloaded if it is nowhere.

    A file in a folder that the user named, gzipped or plain, is taken whatever its checksum, with
    a `ChecksumWarning` where what it holds is not what was published; one in the cache must have
    the published checksum, and is downloaded again otherwise.
    """
    for path in find(source, name, own_folders(data_dir)):
        if _accepted(source, path):
            return path
    return fetched(source, name, cache() / source.name, progress=progress)


def fetched(source: Source, name: str, folder: Path, *, progress: bool) -> Path:
    """Return the path of one file of a source in a folder, downloaded unless it is there whole."""
    path, sha256 = folder / name, source.checksums[name]
    if os.path.isfile(path) and checksum(path) == sha256:
        return path
    return download(name, sha256, source.mirrors, folder, progress=progress)


def find(source: Source, name: str, folders: list[Path]) -> Iterator[Path]:
    """Yield the places in ``folders`` where a file of that name lies, gzipped or plain."""
    for folder in folders:
        for subfolder in (*source.subfolders, "."):
            for file in (name, name.removesuffix(".gz")):
                path = folder / subfolder / file
                if os.path.isfile(path):
                    yield path


def _accepted(source: Source, path: Path) -> bool:
    found, published = checksum(path), source.checksums[path.name]
    if found == published:
        return True
    held = _held(path)  # that of a file that was zipped anew, as Debian does, is the published one
    if held == source.checksums[path.name.removesuffix(".gz")]:
        return True
    others = (other for other in SOURCES.values() if other.name != source.name)
    if any({found, held} & {*other.checksums.values()} for other in others):
        return False  # the sources use the same file names: this is another one's file
    warnings.warn(
        f"{path}: SHA-256 is {found}, that of the published file is {published}. "
        "The file is used as it is; delete it to use the published one.",
        ChecksumWarning,
        stacklevel=2,
    )
    return True


def _held(path: Path) -> str | None:
    """Return the SHA-256 of what a gzipped file holds; none of a plain or a damaged one."""
    if path.suffix != ".gz":
        return None
    try:
        with gzip.open(path) as file:
            return hashlib.sha256(file.read(LARGEST)).hexdigest()
    except (OSError, EOFError, zlib.error):
        return None
