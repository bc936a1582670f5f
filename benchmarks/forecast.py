"""Time and memory of a forecast, side by side with scikit-learn's PCA, in one run.

python benchmarks/forecast.py [--threads 2] [--repeats 7] [--rows 1000000] [--dtype uint8]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measured import PEAK, images
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

import posterior_collapse as pc

SPEC = pc.VAESpec(16, eta_dec=0.3)
MIB = 2**20

STREAM = f"""{PEAK}
x = np.load(sys.argv[1], mmap_mode="r")
pc.Moments.from_arrays(x[:10_000])
before, start = peak(), time.perf_counter()
pc.Moments.from_arrays(x)
print(time.perf_counter() - start, before, peak())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every BLAS")
    parser.add_argument("--repeats", type=int, default=7, help="alternating pairs of timings")
    parser.add_argument("--rows", type=int, default=1_000_000, help="length of the stream")
    parser.add_argument("--dtype", choices=["uint8", "float32"], default="uint8", help="its dtype")
    options = parser.parse_args()
    table = Table(title=f"{options.threads} BLAS threads, {options.repeats} pairs, medians")
    for column in ("", "ours", "alternative", "ratio", "goal"):
        table.add_column(column, justify="left" if column in ("", "goal") else "right")
    with threadpool_limits(options.threads):
        name, x = images()
        against_pca(table, x, name, options.repeats)
        diagram(table, x)
        del x
        wide(table)
    stream(table, options.rows, options.dtype, options.threads)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def allocated(run: Callable[[], Any]) -> float:
    """Peak MiB that numpy and Python allocate while `run` runs."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / MIB


def against_pca(table: Table, x: np.ndarray, name: str, repeats: int) -> None:
    def ours() -> pc.Forecast:
        return pc.forecast(x, SPEC)

    def pca(data: np.ndarray = x) -> PCA:
        return PCA(16, svd_solver="covariance_eigh").fit(data)

    def pca_in_double() -> PCA:
        return pca(x.astype(np.float64))

    rivals = {"PCA.fit": pca, "PCA.fit in float64": pca_in_double}
    pairs: dict[str, list[tuple[float, float]]] = {rival: [] for rival in rivals}
    ours(), pca()
    for _ in range(repeats):
        for rival, run in rivals.items():
            pairs[rival].append((seconds(ours), seconds(run)))
    size = f"{len(x):,} x {x.shape[1]} float32 ({name})"
    for rival, times in pairs.items():
        mine, theirs = (statistics.median(t) for t in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        goal = "<= 1.0" if rival == "PCA.fit" else ""
        table.add_row(
            f"forecast of {size}; {rival}",
            f"{mine:.3f} s",
            f"{theirs:.3f} s",
            f"{ratio:.2f}",
            goal,
        )
    data, mine, theirs = x.nbytes / MIB, allocated(ours), allocated(pca)
    table.add_row(
        f"its peak extra memory; the data are {data:.0f} MiB",
        f"{mine:.1f} MiB",
        f"{theirs:.1f} MiB",
        f"{mine / data:.2f} of the data",
        "<= 0.25 of the data",
    )
    true = np.linalg.eigvalsh(np.cov(x.T.astype(np.float64), bias=True))[::-1]
    unbiased = (len(x) - 1) / len(x)
    off = [np.abs(ours().spectrum[:16] / true[:16] - 1).max()]
    off += [np.abs(pca().explained_variance_ * unbiased / true[:16] - 1).max()]
    table.add_row("largest relative error of 16 variances", f"{off[0]:.0e}", f"{off[1]:.0e}")


def diagram(table: Table, x: np.ndarray) -> None:
    moments = pc.Moments.from_arrays(x)
    betas, etas = np.geomspace(0.01, 100, 200), np.geomspace(0.01, 10, 200)
    hierarchy = pc.HVAESpec((16, 8), (1.0, 1.0), sigma_1=0.5)
    for spec in (SPEC, hierarchy):
        took = statistics.median(
            seconds(lambda spec=spec: pc.phase_diagram(moments, spec, betas, etas))
            for _ in range(3)
        )
        table.add_row(
            f"phase diagram of 200 x 200 from its moments, {spec.model}",
            f"{took:.3f} s",
            "",
            "",
            "< 1 s",
        )


def wide(table: Table) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 50), dtype=np.float32)
    x = x @ rng.standard_normal((50, 100_000), dtype=np.float32)
    x += rng.standard_normal(x.shape, dtype=np.float32)
    tracemalloc.start()
    took = seconds(lambda: pc.forecast(x, SPEC))
    data, extra = x.nbytes / MIB, tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()
    rival = seconds(lambda: PCA(16, svd_solver="randomized", random_state=0).fit(x))
    table.add_row(
        "forecast of 2,000 x 100,000 float32; PCA.fit (randomised, 16 modes)",
        f"{took:.2f} s",
        f"{rival:.2f} s",
        f"{took / rival:.2f}",
    )
    table.add_row(
        f"its peak extra memory; the data are {data:.0f} MiB",
        f"{extra:.0f} MiB",
        "",
        f"{extra / data:.2f} of the data",
        "<= 0.25 of the data",
    )


def stream(table: Table, rows: int, dtype: str, threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stream.npy")
        file = np.lib.format.open_memmap(path, "w+", dtype, (rows, 784))
        block = np.random.default_rng(0).integers(0, 256, (10_000, 784)).astype(dtype)
        for start in range(0, rows, len(block)):
            file[start : start + len(block)] = block[: rows - start]
        file.flush()
        size = file.nbytes / MIB
        del file
        environment = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)
        )
        command = [sys.executable, "-c", STREAM, str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    took, before, after = map(float, done.stdout.split())
    table.add_row(
        f"moments of {rows:,} x 784 {dtype} memory map ({size:.0f} MiB)",
        f"{took:.1f} s, {size / took:.0f} MiB/s",
    )
    table.add_row(
        "its peak resident memory; that after 10,000 rows",
        f"{after:.0f} MiB",
        f"{before:.0f} MiB",
        f"{after / before:.2f}",
        "constant",
    )


if __name__ == "__main__":
    main()
