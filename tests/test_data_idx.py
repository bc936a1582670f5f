"""The IDX format: round trips, and every way a file can be something else."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from idx_files import CODES, idx_bytes
from posterior_collapse.data.images import read_idx
from posterior_collapse.errors import CorruptFileError, MissingFileError

HTML = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>"


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_round_trip(tmp_path: Path, dtype: str, shape: tuple[int, ...], zipped: bool) -> None:
    values = np.random.default_rng(1).normal(0, 50, shape).astype("i1").astype(dtype)
    content = idx_bytes(values)
    (tmp_path / "file").write_bytes(gzip.compress(content) if zipped else content)
    read = read_idx(tmp_path / "file")
    np.testing.assert_array_equal(read, values)
    assert read.dtype == values.dtype


GOOD = idx_bytes(np.arange(60, dtype="u1").reshape(3, 4, 5))


ZIPPED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (HTML, "an HTML page"),
        (b"\0\0\x07\x01" + GOOD[4:], "the magic number 0x00000701"),
        (b"PK\x03\x04" + GOOD[4:], "the magic number 0x504b0304"),
        (b"\0\0", "the magic number 0x0000"),
        (GOOD[:10], "a truncated header"),
        (GOOD[:-1], "75 bytes; expected 76 bytes for 3 x 4 x 5 values"),
        (GOOD + b"\0", "77 bytes; expected 76"),
        (ZIPPED[:-9], "Compressed file ended"),
        (ZIPPED[:-8] + bytes(8), "CRC check failed"),
        (ZIPPED[:10] + b"\x07" + ZIPPED[11:], "decompressing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_idx_that_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "train-images").write_bytes(content)
    with pytest.raises(CorruptFileError, match=words) as caught:
        read_idx(tmp_path / "train-images")
    assert "train-images" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_idx_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        read_idx(tmp_path / "none")
