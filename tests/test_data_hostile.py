"""Damaged, hostile and huge files: one line, bounded memory, whichever command reads them."""

from __future__ import annotations

import gzip
import io
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from commands import collapse, ends
from idx_files import idx_bytes
from posterior_collapse.data import checking, load
from posterior_collapse.data.files import read_arrays
from posterior_collapse.data.images import read_idx
from posterior_collapse.errors import DataError, PosteriorCollapseError

X = np.random.default_rng(0).standard_normal((30, 4))
MEGABYTE = bytes(1 << 20)
HUGE = 400
"""Megabytes that the bombs unpack to."""


def npy(shape: Any, descr: Any = "<f8", body: bytes = b"", text: bytes | None = None) -> bytes:
    """An .npy file whose header says whatever one likes."""
    header = text or repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def npz(*members: tuple[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members:
            archive.writestr(name, body)
    return content.getvalue()


def zip_bomb(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w") as member:
                member.write(npy((HUGE * (1 << 17) // 64, 64)))
                for _ in range(HUGE):
                    member.write(MEGABYTE)
    return content.getvalue()


def parquet_bomb() -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = io.BytesIO()
    table = pyarrow.table({"a": np.zeros(1 << 20), "b": np.zeros(1 << 20)})
    with parquet.ParquetWriter(content, table.schema) as writer:
        for _ in range(HUGE // 16):
            writer.write_table(table)
    return content.getvalue()


def parquet_texts(name: str) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = io.BytesIO()
    texts = ["x" * 1_000_000] * 200  # written once
    parquet.write_table(pyarrow.table({"a": np.arange(200.0), name: texts}), content)
    return content.getvalue()


def gzip_bomb() -> bytes:
    content = io.BytesIO()
    with gzip.open(content, "wb") as file:
        file.write(struct.pack(">BBBBIII", 0, 0, 8, 3, HUGE << 10, 32, 32))
        for _ in range(HUGE):
            file.write(MEGABYTE)
    return content.getvalue()


def encrypted(content: bytes) -> bytes:
    """A zip archive whose members claim to be encrypted."""
    found = bytearray(content)
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = found.find(mark)
        while at >= 0:
            found[at + flags] |= 1
            at = found.find(mark, at + 1)
    return bytes(found)


def altered(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


PACKED = npz(("x.npy", npy((30, 4), body=X.tobytes())))
DATA = PACKED.find(b"x.npy") + 5
LABELS = "a,label\n" + "".join(f"{i},{'x' * 100_000 if i == 7 else 'y'}\n" for i in range(4_000))
HEADERS = {
    "1e30 rows": (npy((10**30, 3)), "0 bytes of values; expected more than 1e18 bytes"),
    "1e12 rows": (npy((10**12, 3), body=bytes(240)), "240 bytes of values; expected 24,0"),
    "64 dimensions": (npy((2, 3) + (1,) * 62, body=bytes(48)), r"\(64 in all\)"),
    "200 dimensions": (npy((1,) * 200, body=bytes(8)), r"\(200 in all\)"),
    "a negative size": (npy((-1, 3), body=bytes(240)), r"shape \[-1, 3\]"),
    "sizes that are no numbers": (npy((True, 3), body=bytes(24)), r"shape \[True, 3\]"),
    "values of a gigabyte each": (npy((2, 3), "|V1000000000"), "6,000,000,000 bytes"),
    "objects": (npy((1, 1), "|O", b"cos\nsystem\n."), "Python objects"),
    "code": (
        npy((), text=b"{'descr': __import__('os')}"),
        "damaged|malformed|Cannot parse|objects",
    ),
    "brackets": (npy((), text=b"(" * 5000), "multi-line|nested|Cannot parse"),
    "another version": (b"\x93NUMPY\x09\x00" + bytes(100), "x.np"),
    "no end of the header": (b"\x93NUMPY\x01\x00\xff\xff", "EOF"),
}


def sparse_npz(**changes: Any) -> bytes:
    """What scipy.sparse.save_npz writes of [[1, 0], [0, 2]], but for some of its arrays."""
    arrays = {
        "format": b"csr", "shape": (2, 2), "data": np.array([1.0, 2.0]),
        "indices": np.array([0, 1]), "indptr": np.array([0, 1, 2]),
    }  # fmt: skip
    content = io.BytesIO()
    kept = {name: value for name, value in (arrays | changes).items() if value is not None}
    np.savez(content, **kept)
    return content.getvalue()


SPARSE = {
    "a column beyond": (sparse_npz(indices=np.array([0, 4_000_000])), "a matrix that scipy"),
    "a column below": (sparse_npz(indices=np.array([0, -1])), "a matrix that scipy"),
    "rows that end beyond": (sparse_npz(indptr=np.array([0, 1, 2**40])), "a matrix that scipy"),
    "rows that go back": (sparse_npz(indptr=np.array([0, 2, 1])), "a matrix that scipy"),
    "1e15 columns": (sparse_npz(shape=(2, 10**15)), "that unpacks to"),
    "1e15 rows": (
        sparse_npz(format=b"coo", shape=(10**15, 2), row=np.arange(2), col=np.arange(2)),
        "that unpacks to",
    ),
    "a row beyond": (
        sparse_npz(format=b"coo", row=np.array([0, 9]), col=np.arange(2)), "a matrix that scipy",
    ),
    "a row far beyond": (
        sparse_npz(format=b"coo", row=np.array([0, 2**32]), col=np.arange(2)), "a matrix that",
    ),
    "a diagonal beyond": (
        sparse_npz(format=b"dia", data=np.ones((1, 2)), offsets=np.array([2**62])), "a diagonal",
    ),
    "an unknown kind": (sparse_npz(format=b"lil" * 99), "kind 'lil"),
    "a kind that is a number": (sparse_npz(format=3.5), "kind '3.5'"),
    "kinds": (sparse_npz(format=np.array([b"csr", b"csc"])), "a matrix that scipy"),
    "three sizes": (sparse_npz(shape=(2, 2, 2)), "a matrix that scipy"),
    "a negative size": (sparse_npz(shape=(-2, 2)), "a matrix that scipy"),
    "no indices": (sparse_npz(indices=None), "a matrix that scipy"),
    "indices that are fractions": (sparse_npz(indices=np.array([0.5, 1])), "x.npz"),
    "text": (sparse_npz(data=np.array(["a", "b"])), "x.npz"),
    "complex numbers": (sparse_npz(data=np.array([1j, 2])), "complex"),
}  # fmt: skip
FILES: dict[str, tuple[str, bytes | Callable[[], bytes], str]] = {
    **{f"npy: {k}": (".npy", content, words) for k, (content, words) in HEADERS.items()},
    **{
        f"npz: {k}": (".npz", npz(("x.npy", content)), words)
        for k, (content, words) in HEADERS.items()
    },
    "npz: a bomb": (".npz", lambda: zip_bomb("x"), r"a file of .* that unpacks to 419\.4 MB"),
    "npz: encrypted": (".npz", encrypted(PACKED), "encrypted"),
    "npz: damaged": (".npz", altered(PACKED, DATA + 40, b"\xff" * 99), "x.npz"),
    "npz: no arrays": (".npz", npz(("readme.txt", b"hello")), r"the arrays \[\]"),
    "npz: very many arrays": (
        ".npz",
        lambda: npz(*((f"a{i}.npy", b"") for i in range(3000))),
        r"'a1007', \.\.\. \(3,000 in all\)",
    ),
    "npz: names of several lines": (".npz", npz(("a\nb.npy", b""), ("c.npy", b"")), r"a\\nb"),
    **{f"npz: sparse, {k}": (".npz", content, words) for k, (content, words) in SPARSE.items()},
    "csv: blank": (".csv", b"\n  \n\r\n \t \n", "blank lines alone"),
    "csv: a header and blank lines": (".csv", b"a,b\n\n\n", "a header alone"),
    "csv: zeros": (".csv", bytes(1000), "x.csv"),
    "csv: noise": (".csv", bytes(range(256)) * 9, "UTF-8"),
    "csv: long labels": (".csv", LABELS.encode(), "a text of 100,000 characters in row 9"),
    "csv: a cell of megabytes": (".csv", b"a,b\n1," + b"2" * (1 << 21), "x.csv"),
    "parquet: a bomb": (".parquet", parquet_bomb, "that unpacks to"),
    "parquet: texts": (".parquet", lambda: parquet_texts("who"), "column 'who' .* got text"),
    "parquet: labels": (".parquet", lambda: parquet_texts("label"), "1,000,000 characters"),
    "parquet: cut short": (".parquet", lambda: parquet_texts("label")[:-20], "x.parquet"),
}
CHEAP = [name for name, (_, content, _) in FILES.items() if isinstance(content, bytes)]


def put(path: Path, content: bytes | Callable[[], bytes]) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content())
    return path


def bounded(action: Callable[[], Any]) -> DataError:
    """Return the error of one line that an action ends in, having taken little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            action()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_refused_in_one_line_and_little_memory(tmp_path: Path, name: str) -> None:
    suffix, content, words = FILES[name]
    path = put(tmp_path / f"x{suffix}", content)
    assert path.stat().st_size < 30e6
    error = bounded(lambda: load(path))
    assert re.search(words, str(error)), str(error)


def test_bad_numbers_of_a_sparse_file_are_found(tmp_path: Path, capsys) -> None:
    path = put(tmp_path / "x.npz", sparse_npz(data=np.array([1, np.nan])))
    assert "nan at row 1, column 1" in ends(capsys, "forecast", path)


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
@pytest.mark.parametrize("command", ["forecast", "train", "effective-beta", "diagnose"])
def test_every_command_refuses_them(tmp_path: Path, capsys, command: str) -> None:
    for name in CHEAP:
        suffix, content, _ = FILES[name]
        if command != "diagnose" or suffix == ".npz":
            path = put(tmp_path / f"x{suffix}", content)
            assert str(path) in (said := ends(capsys, command, path)) or path.name in said
    good = tmp_path / "good.npy"
    np.save(good, X)
    bad = put(tmp_path / "x.npy", FILES["npy: 1e30 rows"][1])
    if command in ("forecast", "train"):
        assert "x.npy" in ends(capsys, command, good, "--given", bad)


@pytest.mark.parametrize("damage", ["bomb", "encrypted", "1e30 rows", "cut"])
def test_arrays_of_a_posterior(tmp_path: Path, capsys, damage: str) -> None:
    good = npy((30, 4), body=X.tobytes())
    content = {
        "bomb": lambda: zip_bomb("mean", "std"),
        "encrypted": lambda: encrypted(npz(("mean.npy", good), ("std.npy", good))),
        "1e30 rows": lambda: npz(("mean.npy", npy((10**30, 4))), ("std.npy", good)),
        "cut": lambda: npz(("mean.npy", good[:-8]), ("std.npy", good)),
    }[damage]()
    path = put(tmp_path / "q.npz", content)
    bounded(lambda: read_arrays(path)["mean"])
    assert "q.npz" in ends(capsys, "diagnose", path)


def test_arrays_that_nobody_asked_for_are_not_unpacked(tmp_path: Path, capsys) -> None:
    content = io.BytesIO(zip_bomb("other"))
    with zipfile.ZipFile(content, "a") as archive:
        for name in ("mean", "std"):
            archive.writestr(f"{name}.npy", npy((30, 4), body=np.abs(X).tobytes()))
    put(tmp_path / "q.npz", content.getvalue())
    assert collapse("diagnose", tmp_path / "q.npz") == 0
    assert "30 rows" in capsys.readouterr().out


GZIPPED = {
    "a bomb": (gzip_bomb, "that unpacks to"),
    "more than its header says": (
        lambda: gzip.compress(idx_bytes(np.zeros((3, 4), "u1")) + MEGABYTE * 50),
        "at least 25 bytes; expected 24",
    ),
    "less than its header says": (
        lambda: gzip.compress(struct.pack(">BBBBII", 0, 0, 8, 2, 4_000_000_000, 4_000_000_000)),
        "unpacks to|memory",
    ),
    "250 dimensions": (
        lambda: gzip.compress(bytes((0, 0, 8, 250)) + struct.pack(">I", 1) * 250 + b"\0"),
        "250 dimensions",
    ),
}


@pytest.mark.filterwarnings("ignore::posterior_collapse.data.ChecksumWarning")
@pytest.mark.parametrize(("content", "words"), GZIPPED.values(), ids=GZIPPED)
def test_a_gzipped_file_is_unpacked_as_far_as_its_header_says(
    tmp_path: Path, capsys, content, words
) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    path = put(folder / "train-images-idx3-ubyte.gz", content)
    assert re.search(words, str(bounded(lambda: read_idx(path))))
    collapse("forecast", "mnist", "--data-dir", tmp_path)
    said = capsys.readouterr().err
    assert "error: " in said
    assert "Traceback" not in said


@pytest.mark.parametrize("plain", [False, True])
def test_a_plain_file_that_is_shorter_than_its_header_says(tmp_path: Path, plain: bool) -> None:
    header = struct.pack(">BBBBII", 0, 0, 8, 2, 4_000_000_000, 4_000_000_000)
    path = put(tmp_path / "x", header if plain else gzip.compress(header))
    bounded(lambda: read_idx(path))


def test_what_does_not_fit_the_memory_is_refused(tmp_path: Path, monkeypatch) -> None:
    np.savez(tmp_path / "x.npz", x=X)
    (tmp_path / "x.csv").write_text("\n".join(",".join(map(str, row)) for row in X.tolist()))
    (tmp_path / "x.idx").write_bytes(gzip.compress(idx_bytes((X * 9).astype("i1"))))
    (tmp_path / "x.tsv.gz").write_bytes(gzip.compress((tmp_path / "x.csv").read_bytes()))
    (tmp_path / "pictures").mkdir()
    Image.new("L", (20, 20)).save(tmp_path / "pictures" / "x.png")
    safetensors.numpy.save_file({"x": X}, tmp_path / "x.safetensors")
    np.save(tmp_path / "x.npy", X)
    load(tmp_path / "x.npz")
    monkeypatch.setattr(checking, "available", lambda: 100)
    assert len(load(tmp_path / "x.npy")) == 30  # stays on disk
    for action in (
        lambda: load(tmp_path / "x.npz"),
        lambda: load(tmp_path / "x.csv"),
        lambda: read_idx(tmp_path / "x.idx"),
        lambda: load(tmp_path / "x.tsv.gz"),
        lambda: load(tmp_path / "pictures"),
        lambda: load(tmp_path / "x.safetensors"),
        lambda: load(tmp_path / "x.npy", scale=2),
        lambda: load(tmp_path / "x.npy", standardize=True),
    ):
        with pytest.raises(DataError, match="at most half of the 100 bytes of memory"):
            action()


def test_the_memory_at_hand_is_known() -> None:
    found = checking.available()
    assert found is not None
    assert 1e6 < found < 1e15


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({0}, {0}))
from posterior_collapse.cli import main
try:
    main(sys.argv[1:])
finally:
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.parametrize("kind", ["npz", "parquet", "gz"])
def test_a_bomb_does_not_go_off_where_memory_is_short(tmp_path: Path, kind: str) -> None:
    """By the system's own measure, in a process that may take no more than it."""
    makers = {"npz": lambda: zip_bomb("x"), "parquet": parquet_bomb, "gz": gzip_bomb}
    name = "train-images-idx3-ubyte.gz" if kind == "gz" else f"x.{kind}"
    path = put(tmp_path / name, makers[kind])
    put(tmp_path / "train-labels-idx1-ubyte.gz", gzip.compress(idx_bytes(np.zeros(10, "u1"))))
    asked = ["mnist", "--data-dir", str(tmp_path)] if kind == "gz" else [str(path)]
    limit = 3 << 30
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED.format(limit), "forecast", *asked],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("error: ")
    assert int(ran.stdout) < 400_000  # kilobytes


@pytest.mark.parametrize("seed", range(4))
def test_bytes_that_are_changed_at_random(tmp_path: Path, seed: int) -> None:
    """Either the file is read, or it is refused in one line."""
    rng = np.random.default_rng(seed)
    files = {".npy": npy((30, 4), body=X.tobytes()), ".npz": PACKED}
    files[".csv"] = "\n".join(",".join(map(str, row)) for row in X.tolist()).encode()
    for suffix, good in files.items():
        for _ in range(60):
            content = bytearray(good)
            for at in rng.integers(0, len(content), rng.integers(1, 6)):
                content[at] = rng.integers(0, 256)
            path = put(tmp_path / f"x{suffix}", bytes(content[: rng.integers(1, len(good) + 1)]))
            said = []
            try:
                load(path)
            except PosteriorCollapseError as error:
                said = str(error).splitlines()
            assert len(said) <= 1
