"""Milliseconds per step and run: the loop everyone writes, `fit`, and `fit_many`.

    python benchmarks/training.py [--task cvae-relu] [--threads 1] [--rounds 5] [--clock cpu]

All on the same rows and settings: MNIST's quarter task (or its images) where
$POSTERIOR_COLLAPSE_DATA has it, else random numbers of the same shape; batch 128, Adam, clipping.
Ways take turns, round after round, and the best round of each counts: other work on the machine
only ever adds. Only steps are timed, not the first epoch (tracing, first allocations). On a busy
machine `--threads 1 --clock cpu` counts the process's own seconds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import posterior_collapse as pc
from posterior_collapse.data import quarter
from posterior_collapse.training.tracing import library, wide

clock: Callable[[], float] = time.perf_counter
BATCH = 128
CLIP = 0.1


class Rows(Dataset):
    """Samples as people hold them: an item is a row, or a row and its target."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.tensors = [torch.from_numpy(array) for array in arrays]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)


class PlainCVAE(nn.Module):
    """`cvae-relu` as one writes it by hand."""

    def __init__(self, x_dim: int, y_dim: int, hidden: int = 16, units: int = 16) -> None:
        super().__init__()
        self.x, self.y = nn.Linear(x_dim, hidden), nn.Linear(y_dim, hidden)
        self.mean_x, self.mean_y = nn.Linear(hidden, units), nn.Linear(hidden, units)
        self.std_x, self.std_y = nn.Linear(hidden, units), nn.Linear(hidden, units)
        self.z, self.out_z = nn.Linear(units, hidden), nn.Linear(hidden, y_dim)
        self.c, self.out_c = nn.Linear(x_dim, hidden), nn.Linear(hidden, y_dim)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        hx, hy = functional.relu(self.x(x)), functional.relu(self.y(y))
        mean = self.mean_x(hx) + self.mean_y(hy)
        std = self.std_x(hx) + self.std_y(hy)
        z = mean + std * torch.randn_like(std)
        out = self.out_z(functional.relu(self.z(z))) + self.out_c(functional.relu(self.c(x)))
        kl = 0.5 * (mean**2 + std**2 - 1 - torch.log(std**2 + 1e-12)).sum(1)
        return (0.5 * ((y - out) ** 2).sum(1) + kl).mean()


class PlainHVAE(nn.Module):
    """`hvae-relu` as one writes it by hand."""

    def __init__(self, dim: int, hidden: int = 256, units: int = 16) -> None:
        super().__init__()

        def two(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

        self.up1, self.down2, self.down1 = two(dim, units), two(units, units), two(units, dim)
        self.up2 = nn.Sequential(nn.Linear(units, hidden), nn.ReLU())
        self.mean2, self.std2 = nn.Linear(hidden, units), nn.Linear(hidden, units)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        eta, sigma = 0.5, 0.5
        mean1 = torch.tanh(self.up1(x))
        z1 = mean1 + sigma * torch.randn_like(mean1)
        h = self.up2(z1)
        mean2, std2 = torch.tanh(self.mean2(h)), torch.tanh(self.std2(h))
        z2 = mean2 + std2 * torch.randn_like(std2)
        prior1, out = torch.tanh(self.down2(z2)), torch.tanh(self.down1(z1))
        kl1 = (0.5 * ((z1 - prior1) ** 2 / eta**2 - 1) + np.log(eta / sigma)).sum(1)
        kl2 = 0.5 * ((mean2**2 + std2**2) / eta**2 - 1 - torch.log(std2**2 / eta**2 + 1e-12))
        return (0.5 * ((x - out) ** 2).sum(1) / eta**2 + kl1 + kl2.sum(1)).mean()


def rows(task: str, steps: int) -> tuple[str, list[np.ndarray]]:
    """The arrays to train on, and what they are."""
    name = "random data of MNIST's shape"
    x = np.random.default_rng(0).random((steps * BATCH, 784), np.float32)
    if os.environ.get("POSTERIOR_COLLAPSE_DATA"):
        found = pc.load("mnist")
        name, x = "MNIST", np.ascontiguousarray(found.x[: steps * BATCH], np.float32)
    if task.startswith("hvae"):
        return name, [x]
    cut = quarter(pc.Dataset("images", x, image_shape=(28, 28)))
    return name, [np.ascontiguousarray(cut.x), np.ascontiguousarray(cut.y)]


def specs(task: str, runs: int) -> list[pc.Spec]:
    """Runs that differ in beta."""
    betas = np.geomspace(0.1, 4.0, runs) if runs > 1 else [1.0]
    if task.startswith("hvae"):
        return [
            pc.HVAESpec(
                latent_dims=(16, 16),
                betas=(1.0, float(beta)),
                eta_dec=0.5,
                eta_enc=0.5,
                sigma_1=0.5,
                sigma_2="input",
            )
            for beta in betas
        ]
    return [pc.CVAESpec(latent_dim=16, beta=float(beta), sigma="input") for beta in betas]


def plain(task: str, arrays: list[np.ndarray]) -> Iterator[float]:
    """Seconds of the better of two epochs of the loop everyone writes, again and again."""
    torch.manual_seed(0)
    dims = [array.shape[1] for array in arrays]
    model = PlainHVAE(*dims) if task == "hvae-relu" else PlainCVAE(*dims)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(Rows(*arrays), batch_size=BATCH, shuffle=True)

    def epoch() -> float:
        start = clock()
        for batch in loader:
            optimiser.zero_grad()
            loss = model.loss(*batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
        return clock() - start

    while True:
        yield min(epoch(), epoch())


def ours(task: str, arrays: list[np.ndarray], runs: int, precision: str) -> Iterator[float]:
    """The same of `fit_many` (one run: `fit`), measurements at the epoch's end included."""
    data: Any = tuple(arrays) if len(arrays) > 1 else arrays[0]
    ends: list[float] = []

    def report(_: object) -> None:
        ends.append(clock())

    common = {"clip": CLIP, "precision": precision, "progress": report, "epochs": 3}
    while True:
        ends.clear()
        if runs == 1:
            pc.fit(specs(task, 1)[0], data, task, **common)
        else:
            pc.fit_many(specs(task, runs), data, task, **common)
        yield min(b - a for a, b in itertools.pairwise(ends))


def matmul_rate(dtype: torch.dtype = torch.float32) -> float:
    """Multiply-adds per second, twice: the best of 20 products of 1024 x 1024.

    By the faster of the libraries that torch has here.
    """
    a = torch.rand(1024, 1024).to(dtype)
    product = wide(torch.mm) if library() == "onednn" else torch.mm
    best = np.inf
    for _ in range(20):
        start = clock()
        product(a, a)
        best = min(best, clock() - start)
    return 2 * 1024**3 / best


def work(task: str, arrays: list[np.ndarray]) -> float:
    """Flops per step and run of the plain loop: products forward, and back but to the data."""
    dims = [array.shape[1] for array in arrays]
    if task == "hvae-relu":
        at_data, inside = dims[0] * 256, 256 * (dims[0] + 16 * 6)
    else:
        x, y = dims
        at_data, inside = 16 * (2 * x + y), 16 * (2 * y + 5 * 16)
    return BATCH * 2.0 * (2 * at_data + 3 * inside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", nargs="+", default=["cvae-relu", "hvae-relu"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=200, help="per epoch")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, nargs="+", default=[8, 32])
    options = parser.parse_args()
    if options.clock == "cpu":
        globals()["clock"] = time.process_time
    for task in options.task:
        name, arrays = rows(task, options.steps)
        for threads in options.threads:
            torch.set_num_threads(threads)
            table(task, name, arrays, threads, options)


def table(
    task: str, name: str, arrays: list[np.ndarray], threads: int, options: argparse.Namespace
) -> None:
    ways: dict[str, tuple[int, Iterator[float]]] = {"(a) the plain loop": (1, plain(task, arrays))}
    ways["(b) fit"] = (1, ours(task, arrays, 1, "float32"))
    for runs in options.runs:
        ways[f"(c) fit_many, {runs} runs"] = (runs, ours(task, arrays, runs, "float32"))
    if task == "hvae-relu":
        runs = options.runs[-1]
        ways[f"(c) fit_many, {runs} runs, bf16"] = (runs, ours(task, arrays, runs, "bf16"))
    best = dict.fromkeys(ways, np.inf)
    rate = halved = 0.0
    for _ in range(options.rounds):
        rate, halved = max(rate, matmul_rate()), max(halved, matmul_rate(torch.bfloat16))
        for way, (runs, epochs) in ways.items():
            best[way] = min(best[way], next(epochs) / options.steps / runs)
    flops, base = work(task, arrays), best["(a) the plain loop"]
    print(f"\n{task}, {name}, batch {BATCH}, {threads} thread(s); products run at "
          f"{rate / 1e9:.0f} GFLOP/s here by {library()}, in bf16 at {halved / 1e9:.0f}; "
          f"{flops / 1e6:.1f} MFLOP per step and run")  # fmt: skip
    print(f"{'':32} {'ms/step/run':>11} {'x (a)':>6} {'of matmul rate':>15}")
    for way, seconds in best.items():
        share = flops / seconds / (halved if way.endswith("bf16") else rate)
        print(f"{way:32} {seconds * 1e3:11.3f} {base / seconds:6.2f} {share:15.0%}")


if __name__ == "__main__":
    main()
