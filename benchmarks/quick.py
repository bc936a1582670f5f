"""Every figure once, in under three minutes: a ratio to its peer and to what cannot be left out.

    python benchmarks/quick.py [--rounds 3] [--keep FILE.json] [--against FILE.json]

One thread, the process's own seconds, ways that take turns. With `--against` each ratio stands
beside that of the file, and those worse by more than 15% are named: on a busy machine look twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import training
from diagnosis import SPEC as CVAE
from diagnosis import PlainCVAE, loop
from measured import Figure, arguments, images, keep, show, taking_turns
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from training import matmul_rate, ours, plain, rows, work

import posterior_collapse as pc
from posterior_collapse.models import build

SPEC = pc.VAESpec(16, eta_dec=0.3)
CONVOLVED = 4.4e9
"""Multiply-adds, twice, of a step of `hvae-cnn`, batch 128: forward, and back but to the data."""
NETWORK = pc.VAESpec(16, eta_dec=0.3, sigma="input")


def without_torch(rounds: int) -> Iterator[Figure]:
    """The figures of `forecast.py`, in a process of their own."""
    program = (
        "import json, sys; from dataclasses import asdict; from forecast import figures\n"
        "print(json.dumps([asdict(figure) for figure in figures(int(sys.argv[1]))]))"
    )
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(rounds)],
        cwd=Path(__file__).parent, env=os.environ | one, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    yield from (Figure(**found) for found in json.loads(done.stdout.splitlines()[-1]))


def integers(x: np.ndarray, rounds: int) -> Iterator[Figure]:
    """8-bit integers go to torch's own products, since torch is imported here."""
    pixels = np.rint(255 * x).astype(np.uint8)
    out = np.empty((x.shape[1],) * 2, np.float32)
    ways = {
        "uint8": partial(pc.forecast, pixels, SPEC),
        "float32": lambda: PCA(16, svd_solver="covariance_eigh").fit(x),
        "as it is": lambda: PCA(16, svd_solver="covariance_eigh").fit(pixels),
        "product": partial(np.matmul, x.T, x, out=out),
    }
    took = taking_turns(ways, rounds)
    size = f"forecast, uint8, {len(x):,} x {x.shape[1]}"
    against = "PCA(16, covariance_eigh) given {}; the product in float32"
    for name, given, goal in (
        (size, "as it is", ""),
        (f"{size}, PCA in float32", "float32", "<= 0.6"),
    ):
        peer = against.format("uint8" if given == "as it is" else "float32")
        yield Figure(name, took["uint8"], took[given], took["product"], goal, peer)


def growth(x: np.ndarray, rounds: int) -> Iterator[Figure]:
    """What twice the rows, features or units take: the ratio to half of them."""
    half = x[:, : x.shape[1] // 2].copy()
    few = x[: len(x) // 2]
    # At 0.3 a mode of half of MNIST is as near to the threshold as rounding: it is measured twice.
    spec = SPEC.replace(eta_dec=0.5)
    took = taking_turns(
        {
            "whole": partial(pc.forecast, x, spec),
            "rows": partial(pc.forecast, few, spec),
            "features": partial(pc.forecast, half, spec),
        },
        rounds,
    )
    for what in ("rows", "features"):
        yield Figure(f"forecast, twice the {what}", took["whole"], took[what], against="half")


def wide(rounds: int) -> Iterator[Figure]:
    """Few rows of many features; the limit is their Gram matrix in float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 30), dtype=np.float32)
    x = x @ rng.standard_normal((30, 20_000), dtype=np.float32)
    x += rng.standard_normal(x.shape, dtype=np.float32)
    took = taking_turns(
        {
            "ours": partial(pc.forecast, x, SPEC),
            "PCA": lambda: PCA(16, svd_solver="full").fit(x),
            "product": lambda: x @ x.T,
        },
        rounds,
    )
    yield Figure(
        "forecast, float32, 1,000 x 20,000", took["ours"], took["PCA"], took["product"],
        against="PCA(16, full); the product alone",
    )  # fmt: skip


def diagnoses(x: np.ndarray, rounds: int) -> Iterator[Figure]:
    """An mlp's; the limit is to encode each row and to decode four samples of it."""
    models = {
        units: pc.fit(NETWORK.replace(latent_dim=units), x[:6000], "mlp", epochs=2).model
        for units in (16, 32)
    }
    some = torch.from_numpy(x[:10_000])

    @torch.no_grad()
    def passes() -> None:
        for part in some.split(1000):
            models[16].decode(models[16].posterior(1, part).mean.expand(4, -1, -1), part)

    took = taking_turns(
        {
            "whole": partial(pc.diagnose, models[16], x),
            "ours": partial(pc.diagnose, models[16], x[:10_000]),
            "half": partial(pc.diagnose, models[16], x[:5000]),
            "units": partial(pc.diagnose, models[32], x[:10_000]),
            "passes": passes,
        },
        max(rounds // 2, 1),
    )
    name = "diagnosis, mlp, 10,000 x 784"
    yield Figure(name, took["ours"], None, took["passes"], against="its forward passes")
    many = len(x) / len(some)
    yield Figure(
        f"diagnosis, mlp, {len(x):,} x 784", took["whole"], None, many * took["passes"],
        "< 2 s", "its forward passes",
    )  # fmt: skip
    yield Figure(f"{name}, twice the rows", took["ours"], took["half"], against="half")
    yield Figure(f"{name}, twice the units", took["units"], took["ours"], against="half")
    model = build(CVAE, "cvae-relu", x_dim=196, y_dim=588)
    given, target = some[:400, :196].contiguous(), some[:400, 196:].contiguous()
    net = PlainCVAE(model)
    took = taking_turns(
        {
            "ours": lambda: pc.log_likelihood(model, (given, target), samples=500),
            "loop": lambda: loop(net, given, target, 500, encode_once=False),
        },
        1,
    )
    yield Figure(
        "log-likelihood, 400 rows, 500 samples", took["ours"], took["loop"],
        goal="<= 1/30", against="a forward pass per sample",
    )  # fmt: skip


def sweeps(rounds: int) -> Iterator[Figure]:
    """Per step and run, beside the loop everyone writes; the limit is the products' own rate.

    What an epoch's end takes, where active units are counted, falls on its steps.
    """
    steps = 200  # MNIST's epochs have 469
    for task, goals in (
        ("cvae-relu", {(1, ""): "<= 1/2.5", (8, ""): "<= 1/6", (32, ""): "<= 1/6"}),
        ("hvae-relu", {(8, ""): "<= 1/2.2", (8, "bf16"): "<= 1/3"}),
    ):
        _, arrays = rows(task, steps)
        ways: dict[Any, Iterator[float]] = {"plain": plain(task, arrays)}
        ways |= {
            (runs, precision): ours(task, arrays, runs, precision or "float32")
            for runs, precision in goals
        }
        best, rates = dict.fromkeys(ways, np.inf), {"": 0.0, "bf16": 0.0}
        for _ in range(max(rounds // 2, 1)):
            for precision, dtype in (("", torch.float32), ("bf16", torch.bfloat16)):
                rates[precision] = max(rates[precision], matmul_rate(dtype))
            for way, epochs in ways.items():
                best[way] = min(best[way], next(epochs) / steps)
        for (runs, precision), goal in goals.items():
            name = f"{task}, {runs} run{'s' * (runs > 1)}, a step" + f", {precision}" * bool(
                precision
            )
            limit = work(task, arrays) / rates[precision]
            yield Figure(
                name, best[runs, precision] / runs, best["plain"], limit, goal,
                "the plain loop; its products",
            )  # fmt: skip


def convolutions() -> Iterator[Figure]:
    """A step of one run of `hvae-cnn`; the limit is its products, at the rate of large ones."""
    steps = 6
    _, arrays = rows("hvae-cnn", steps)
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        took = next(ours("hvae-cnn", arrays, 1, precision)) / steps
        limit = CONVOLVED / matmul_rate(dtype)
        yield Figure(
            f"hvae-cnn, 1 run, a step, {precision}", took, None, limit, "<= 40 ms", "its products"
        )


def small_sweeps(rounds: int) -> Iterator[Figure]:
    """Runs so small that what is done once an epoch counts; beside as many calls of `fit`."""
    x = pc.load("digits").x.astype(np.float32)
    specs = [pc.VAESpec(8, beta=float(beta)) for beta in np.geomspace(0.1, 4, 16)]
    took = taking_turns(
        {
            "together": lambda: pc.fit_many(specs, x, "mlp", epochs=3),
            "half": lambda: pc.fit_many(specs[::2], x, "mlp", epochs=3),
            "alone": lambda: [pc.fit(spec, x, "mlp", epochs=3) for spec in specs[::4]],
        },
        max(rounds // 2, 1),
    )
    yield Figure("16 runs on digits", took["together"], 4 * took["alone"], against="fit, 16 times")
    yield Figure("16 runs, twice the runs", took["together"], took["half"], against="half")


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    training.clock = time.process_time
    torch.set_num_threads(1)
    with threadpool_limits(1):
        name, x = images()
        figures = [
            *without_torch(options.rounds),
            *integers(x, options.rounds),
            *growth(x, max(options.rounds // 2, 1)),
            *wide(1),
            *diagnoses(x, options.rounds),
            *sweeps(options.rounds),
            *convolutions(),
            *small_sweeps(options.rounds),
        ]
    print(f"images: {name}")
    show(figures, options.against)
    if options.keep:
        keep(figures, options.keep)


if __name__ == "__main__":
    main()
