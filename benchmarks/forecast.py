"""Time, memory and rounding of a forecast beside scikit-learn's PCA, in a process without torch.

python benchmarks/forecast.py [--threads 1] [--rounds 3] [--rows 1000000] [--dtype uint8]
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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measured import PEAK, Figure, images, show, taking_turns
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
    parser.add_argument("--threads", type=int, default=1, help="threads of every BLAS")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way; the best counts")
    parser.add_argument("--rows", type=int, default=1_000_000, help="length of the stream")
    parser.add_argument("--dtype", choices=["uint8", "float32"], default="uint8", help="its dtype")
    options = parser.parse_args()
    table = Table(title=f"{options.threads} BLAS threads")
    for column in ("", "ours", "alternative", "ratio", "goal"):
        table.add_column(column, justify="left" if column in ("", "goal") else "right")
    with threadpool_limits(options.threads):
        show(list(figures(options.rounds)))
        diagram(table, images()[1])
        wide(table)
    stream(table, options.rows, options.dtype, options.threads)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def figures(rounds: int) -> Iterator[Figure]:
    """Beside scikit-learn's PCA; the limit is one symmetric product in float32."""
    import dask
    from dask import array

    dask.config.set(scheduler="synchronous")
    x = images()[1]
    pixels = np.rint(255 * x).astype(np.uint8)
    out = np.empty((x.shape[1],) * 2, np.float32)
    size = f"{len(x):,} x {x.shape[1]}"
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "x.npy"), x)
        ways = {
            "moments": partial(pc.Moments.from_arrays, x, precision="float32"),
            "float32": partial(pc.forecast, x, SPEC),
            "memory map": lambda: pc.forecast(np.load(Path(folder, "x.npy"), mmap_mode="r"), SPEC),
            "dask": partial(pc.forecast, array.from_array(x, chunks=(10_000, -1)), SPEC),
            "uint8, without torch": partial(pc.forecast, pixels, SPEC),
            "PCA": lambda: PCA(16, svd_solver="covariance_eigh").fit(x),
            "product": partial(np.matmul, x.T, x, out=out),
        }
        took = taking_turns(ways, rounds)
    goals = {"moments": "<= 0.95", "float32": "<= 0.95", "uint8, without torch": "<= 0.6"}
    for way in list(ways)[:-2]:
        name = f"moments, {size}" if way == "moments" else f"forecast, {way}, {size}"
        against = "PCA(16, covariance_eigh) given float32; the product in float32"
        yield Figure(name, took[way], took["PCA"], took["product"], goals.get(way, ""), against)
    for name, data in (("float32", x), ("uint8", pixels)):
        extra = allocated(partial(pc.forecast, data, SPEC))
        yield Figure(
            f"extra memory of a forecast, {name}, MiB", extra, data.nbytes / MIB,
            2 * x.shape[1] ** 2 * 8 / MIB, "<= 1/8", "the data; two matrices, for eigenvalues",
        )  # fmt: skip
    single, double = (pc.Moments.from_arrays(x, precision=p).cov for p in ("float32", "float64"))
    error = float(np.abs(single - double).max() / double.max())
    yield Figure("rounding in float32, of the largest variance", error, 1.0, goal="<= 1e-6")


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
