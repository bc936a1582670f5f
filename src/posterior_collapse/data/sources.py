"""The published image sets that come as IDX files: their files, checksums and mirrors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FILES", "SOURCES", "Source"]

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
"""Images and labels of each split; every source uses the same names."""


@dataclass(frozen=True)
class Source:
    """One published image set.

    Args:
        name: The registry name.
        about: What it shows, in a few words.
        checksums: SHA-256 of each file, in hexadecimal.
        mirrors: Addresses of the folders that hold the files, tried in order.
        subfolders: Where other libraries put the files inside a data folder.
    """

    name: str
    about: str
    checksums: Mapping[str, str]
    mirrors: tuple[str, ...]
    subfolders: tuple[str, ...]


def _checksums(*digests: str) -> dict[str, str]:
    names = [name for pair in FILES.values() for name in pair]
    return dict(zip(names, digests, strict=True))


SOURCES = {
    "mnist": Source(
        name="mnist",
        about="handwritten digits, 28 x 28",
        checksums=_checksums(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
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
        ),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        subfolders=("fashion-mnist", "FashionMNIST/raw"),
    ),
}
