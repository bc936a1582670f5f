"""No float64 copy of the data, and memory maps of any length in constant memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import posterior_collapse as pc
from fresh import output
from posterior_collapse.moments import wide

MEASURE = """
import re, sys
import numpy as np
import posterior_collapse as pc

def peak():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024

path, way = sys.argv[1:]
array = np.load(path, mmap_mode="r")
target = np.load(path.replace("x.npy", "y.npy"), mmap_mode="r")

def batches(rows):
    return ((array[i : i + 5000], target[i : i + 5000]) for i in range(0, rows, 5000))

def measure(rows):
    if way == "arrays":
        return pc.Moments.from_arrays(array[:rows], target[:rows])
    return pc.Moments.from_batches(batches(rows))

measure(60_000)
before = peak()
moments = measure(len(array))
print(peak() - before, moments.n, float(moments.xx.trace()))
"""


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A condition of 200 MB and a target of 20 MB, the same 50,000 rows sixteen times."""
    folder = tmp_path_factory.mktemp("stream")
    rng = np.random.default_rng(0)
    for name, width, dtype in (("x", 64, "f4"), ("y", 24, "u1")):
        path, rows = folder / f"{name}.npy", 50_000
        block = rng.integers(0, 200, (rows, width)).astype(dtype)
        file = np.lib.format.open_memmap(path, "w+", dtype, (16 * rows, width))
        for start in range(0, len(file), rows):
            file[start : start + rows] = block
        file.flush()
    return folder / "x.npy"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("way", ["arrays", "batches"])
def test_a_memory_map_is_read_in_constant_memory(stream: Path, way: str) -> None:
    growth, n, trace = map(float, output(MEASURE, str(stream), way).split())
    block = np.load(stream, mmap_mode="r")[:50_000]
    assert n == 800_000
    assert trace == pytest.approx(block.var(0, dtype=np.float64).sum(), rel=1e-10)
    assert growth < 25  # MiB: the file pages of the whole stream would be 220


def test_a_memory_map_keeps_what_was_written_to_it_privately(stream: Path) -> None:
    private = np.load(stream, mmap_mode="c")[:2000, :2]
    private[:] = np.arange(4000.0).reshape(2000, 2)
    pc.Moments.from_arrays(private)
    np.testing.assert_array_equal(private, np.arange(4000.0).reshape(2000, 2))


def extra(measure) -> int:
    """Peak of bytes allocated while `measure` runs."""
    tracemalloc.start()
    try:
        measure()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("dtype", "rows"), [("u1", 200_000), ("f4", 100_000), ("f8", 100_000)])
def test_no_copy_of_the_data_is_made(dtype: str, rows: int) -> None:
    x = np.random.default_rng(0).integers(0, 9, (rows, 128), dtype=np.uint8).astype(dtype)
    in_double = 8 * x.size
    assert extra(lambda: pc.Moments.from_arrays(x)) < min(0.2 * in_double, 0.8 * x.nbytes)
    assert extra(lambda: pc.Moments.from_arrays(x, x[:, :9])) < min(0.2 * in_double, 0.9 * x.nbytes)


def test_no_copy_of_wide_data_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).integers(0, 9, (300, 60_000), dtype=np.uint8)
    assert extra(lambda: pc.Moments.from_arrays(x)) < 0.25 * 8 * x.size
    tall = x.reshape(-1, 600)
    monkeypatch.setattr(wide, "MAX_FEATURES", 500)
    monkeypatch.setattr(wide, "RANK", 8)
    assert extra(lambda: pc.Moments.from_arrays(tall)) < 0.35 * 8 * x.size
