"""Time and memory of a diagnosis and of a log-likelihood, beside the loop everyone writes.

    python benchmarks/diagnosis.py [--threads 1] [--samples 1000] [--rows 10000]

The log-likelihood is that of a `cvae-relu` net, trained for two epochs on MNIST's quarter task
where $POSTERIOR_COLLAPSE_DATA has it, else on noise of that shape. Ways take turns, block of rows
after block of rows, so that other work on the machine falls on each alike.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measured import PEAK
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.distributions import Normal

import posterior_collapse as pc
from posterior_collapse.data import quarter
from posterior_collapse.models import MarkovVAE

SPEC = pc.CVAESpec(16, sigma="input")
BLOCK = 1000
BATCH = 128

REPORT = f"""{PEAK}
def report(run, warm, arguments):
    run(*warm)
    before = peak()
    run(*arguments)
    print(peak() - before)
"""
LIKELIHOOD = """
import torch
from posterior_collapse.models import build
torch.set_num_threads(1)
rows, samples = map(int, sys.argv[1:])
model = build(pc.CVAESpec(16, sigma="input"), "cvae-relu", x_dim=196, y_dim=588)
x, y = torch.rand(rows, 196), torch.rand(rows, 588)
def run(x, y, samples):
    pc.log_likelihood(model, (x, y), samples=samples)
report(run, (x[:2], y[:2], 2), (x, y, samples))
"""
POSTERIOR = """
rng = np.random.default_rng(0)
mean = rng.standard_normal((int(sys.argv[1]), 16))
std = np.exp(rng.standard_normal(mean.shape))
report(pc.diagnose_arrays, (mean[:100], std[:100]), (mean, std))
"""


class PlainCVAE(nn.Module):
    """`cvae-relu` as one writes it by hand, with the weights of ours."""

    def __init__(self, model: MarkovVAE) -> None:
        super().__init__()
        encoder, decoder = model.encoders[0], model.decoders[0]
        self.x, self.y = (encoder.features[key].layers[0] for key in "xy")
        self.mean_x, self.mean_y = (encoder.mean[key] for key in "xy")
        self.std_x, self.std_y = (encoder.std[key] for key in "xy")
        self.z, self.c = (decoder.features[key].layers[0] for key in "zx")
        self.out_z, self.out_c = (decoder.heads[key] for key in "zx")

    def encode(self, x: Tensor, y: Tensor) -> Normal:
        hx, hy = torch.relu(self.x(x)), torch.relu(self.y(y))
        std = self.std_x(hx) + self.std_y(hy)
        return Normal(self.mean_x(hx) + self.mean_y(hy), std.abs() + 1e-12)

    def decode(self, z: Tensor, x: Tensor) -> Normal:
        return Normal(self.out_z(torch.relu(self.z(z))) + self.out_c(torch.relu(self.c(x))), 1.0)


@torch.no_grad()
def loop(net: PlainCVAE, x: Tensor, y: Tensor, samples: int, *, encode_once: bool) -> np.ndarray:
    """Log p(y|x) of each row as people estimate it: a forward pass per sample."""
    found = []
    prior = Normal(0.0, 1.0)
    for start in range(0, len(x), BATCH):
        rows = slice(start, start + BATCH)
        q = net.encode(x[rows], y[rows])
        log_w = []
        for _ in range(samples):
            if not encode_once:
                q = net.encode(x[rows], y[rows])
            z = q.sample()
            log_p = net.decode(z, x[rows]).log_prob(y[rows]).sum(1) + prior.log_prob(z).sum(1)
            log_w.append(log_p - q.log_prob(z).sum(1))
        found.append(torch.logsumexp(torch.stack(log_w), 0) - math.log(samples))
    return torch.cat(found).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch")
    parser.add_argument("--samples", type=int, default=1000, help="importance samples per row")
    parser.add_argument("--rows", type=int, default=10_000, help="test images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title=f"{options.threads} threads")
    for column in ("", "ours", "alternative", "ratio", "goal"):
        table.add_column(column, justify="left" if column in ("", "goal") else "right")
    likelihood(table, options.rows, options.samples)
    posterior(table)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def images(split: str, rows: int) -> tuple[str, pc.Dataset]:
    if os.environ.get("POSTERIOR_COLLAPSE_DATA"):
        found = pc.load("mnist", split=split)
        name, x = "MNIST", found.x[:rows].astype(np.float32)
    else:
        name = "noise"
        x = np.random.default_rng(len(split)).random((rows, 784), np.float32)
    return name, quarter(pc.Dataset("images", x, image_shape=(28, 28)))


def likelihood(table: Table, rows: int, samples: int) -> None:
    name, train = images("train", 60_000)
    model = pc.fit(SPEC, train, architecture="cvae-relu", epochs=2).model.eval()
    _, test = images("test", rows)
    x, y = (torch.from_numpy(np.ascontiguousarray(a)) for a in (test.x, test.y))
    net = PlainCVAE(model)
    ways: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "ours": lambda x, y: pc.log_likelihood(model, (x, y), samples=samples),
        "a forward pass per sample": lambda x, y: loop(net, x, y, samples, encode_once=False),
        "the same, encoded once": lambda x, y: loop(net, x, y, samples, encode_once=True),
    }
    took, found = dict.fromkeys(ways, 0.0), {way: [] for way in ways}
    pc.log_likelihood(model, (x[:BLOCK], y[:BLOCK]), samples=samples)
    for start in range(0, len(x), BLOCK):
        block = slice(start, start + BLOCK)
        for way, run in ways.items():
            began = time.perf_counter()
            found[way].append(run(x[block], y[block]))
            took[way] += time.perf_counter() - began
    ours, *others = ways
    nll = -np.concatenate([part.per_row for part in found[ours]]).mean()
    variance = np.concatenate([np.square(part.per_row_error) for part in found[ours]])
    error = math.sqrt(2 * variance.sum()) / len(variance)
    for way in others:
        theirs = -np.concatenate(found[way]).mean()
        table.add_row(
            f"log p(y|x) of {len(x):,} images ({name}), {samples:,} samples; {way}",
            f"{took[ours]:.2f} s",
            f"{took[way]:.1f} s",
            f"{took[way] / took[ours]:.0f}",
            ">= 15",
        )
        table.add_row(
            "  their NLL, and the gap over its standard error",
            f"{nll:.4f}",
            f"{theirs:.4f}",
            f"{(theirs - nll) / error:+.1f}",
            "within 3",
        )
    for n, count in ((rows, samples), (rows, 10), (10 * rows, 10)):
        extra = peak_extra(LIKELIHOOD, n, count)
        table.add_row(f"  peak extra memory, {n:,} images, {count:,} samples", f"{extra:.0f} MiB")


def posterior(table: Table) -> None:
    """60,000 rows of 16 units, half of them collapsed."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((60_000, 16)) * (np.arange(16) < 8)
    std = np.where(np.arange(16) < 8, 0.3, 1.0) * np.exp(0.05 * rng.standard_normal(mean.shape))
    pc.diagnose_arrays(mean[:1000], std[:1000])
    took = []
    for _ in range(5):
        began = time.perf_counter()
        found = pc.diagnose_arrays(mean, std)
        took.append(time.perf_counter() - began)
    table.add_row(
        f"diagnosis of 60,000 x 16 units ({found.n_active} active of 8 planted)",
        f"{sorted(took)[2]:.2f} s",
        "",
        "",
        "< 1 s",
    )
    data, extra = (mean.nbytes + std.nbytes) / 2**20, peak_extra(POSTERIOR, len(mean))
    table.add_row(f"  peak extra memory; mean and std are {data:.0f} MiB", f"{extra:.0f} MiB")


def peak_extra(run: str, *numbers: int) -> float:
    """MiB by which the largest size of a new process grows while it runs `run`."""
    command = [sys.executable, "-c", REPORT + run, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
