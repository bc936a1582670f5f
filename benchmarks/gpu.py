"""A GPU's milliseconds per step: the loop everyone writes, and sweeps of ever more runs.

    python benchmarks/gpu.py [--seconds 170] [--steps 256]

Random rows of MNIST's shape, batch 128, Adam, clipping. A step is that of all runs; beside it stand
the milliseconds per run, and how often the plain loop's step goes into them. What an epoch's end
costs (counting active units) is a column of its own. Ends after `--seconds`, whatever is left.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from training import BATCH, CLIP, PlainCVAE, PlainHVAE, Rows, specs

import posterior_collapse as pc
from posterior_collapse.training import engine, fitting, stacking

TASKS = ("hvae-relu", "cvae-relu", "hvae-cnn")
DIMS = {"hvae-relu": (784,), "hvae-cnn": (784,), "cvae-relu": (196, 588)}


class PlainHCNN(PlainHVAE):
    """`hvae-cnn` as one writes it by hand."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, hidden=64)
        del self.up1, self.down1
        self.up1 = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 32, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(1568, 16),
        )  # fmt: skip
        self.down1 = nn.Sequential(
            nn.Linear(16, 1568), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)),
            nn.ConvTranspose2d(32, 64, 3, 2, 1, 1), nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 3, 1, 1), nn.Flatten(),
        )  # fmt: skip


class Timed(engine.Engine):
    """An engine that says when its steps were done and when the epoch's end was."""

    marks: list[float] = []  # noqa: RUF012

    def _close_epoch(self) -> None:
        torch.cuda.synchronize()
        self.marks.append(time.perf_counter())
        super()._close_epoch()
        self.marks.append(time.perf_counter())


def plain(task: str, arrays: list[np.ndarray], steps: int) -> float:
    """Milliseconds per step of the loop everyone writes, data on the GPU as tensors."""
    torch.manual_seed(0)
    kinds = {"hvae-relu": PlainHVAE, "cvae-relu": PlainCVAE, "hvae-cnn": PlainHCNN}
    model = kinds[task](*DIMS[task]).cuda()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(Rows(*arrays), batch_size=BATCH, shuffle=True)
    batches = [[part.cuda() for part in batch] for batch in loader][:steps]
    best = np.inf
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for batch in batches:
            optimiser.zero_grad()
            loss = model.loss(*batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / len(batches))
    return best * 1e3


def swept(
    task: str, arrays: list[np.ndarray], runs: int, **settings: Any
) -> tuple[float, float, float]:
    """Milliseconds per step of all runs and per epoch's end, and the peak of memory in GiB."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    Timed.marks.clear()
    data: Any = tuple(arrays) if len(arrays) > 1 else arrays[0]
    named = "cvae-relu" if task[0] == "c" else "hvae-relu"
    fitting.Engine = Timed  # type: ignore[attr-defined]
    pc.fit_many(
        specs(named, runs), data, task, clip=CLIP, epochs=3, device="cuda", seeds=0, **settings
    )
    marks = Timed.marks
    steps = len(arrays[0]) / BATCH
    taken = min(b - a for a, b in zip(marks[1::2], marks[2::2], strict=False))
    ends = min(b - a for a, b in zip(marks[2::2], marks[3::2], strict=False))
    return taken / steps * 1e3, ends * 1e3, torch.cuda.max_memory_reserved() / 2**30


class Convolutions:
    """Ways to compute the convolutions of several runs."""

    def __init__(self, lanes: int, *, apart: bool = True, channels_last: bool = False) -> None:
        self.lanes, self.apart, self.channels_last = lanes, apart, channels_last

    def __enter__(self) -> None:
        way = self

        class Way(stacking.Stack):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self.apart, self.channels_last = way.apart, way.channels_last

        stacking.LANES = self.lanes
        engine.Stack = Way  # type: ignore[attr-defined]

    def __exit__(self, *_: object) -> None:
        stacking.LANES = 8
        engine.Stack = stacking.Stack  # type: ignore[attr-defined]


def cases() -> list[tuple[str, int, str, dict[str, Any], Convolutions | None]]:
    """What is measured, the most wanted first: task, runs, name, settings, convolutions."""
    off = {"cuda_graphs": False}
    found: list[tuple[str, int, str, dict[str, Any], Convolutions | None]] = []
    found += [("hvae-relu", n, "graphs", {}, None) for n in (1, 32, 128)]
    found += [("hvae-cnn", 8, "one by one, 8 lanes", {}, Convolutions(8))]
    found += [("hvae-cnn", 8, "one by one, 1 lane", {}, Convolutions(1))]
    found += [("hvae-cnn", 8, "grouped", {}, Convolutions(1, apart=False))]
    tf32, bf16 = {"precision": "tf32"}, {"precision": "bf16"}
    found += [
        ("hvae-cnn", 8, "tf32, 8 lanes", tf32, Convolutions(8)),
        ("hvae-cnn", 8, "tf32, channels last", tf32, Convolutions(8, channels_last=True)),
        ("hvae-cnn", 8, "bf16, 8 lanes", bf16, Convolutions(8)),
        ("hvae-cnn", 8, "bf16, channels last", bf16, Convolutions(8, channels_last=True)),
        ("hvae-cnn", 8, "bf16, grouped", bf16, Convolutions(1, apart=False)),
        ("cvae-relu", 32, "graphs", {}, None),
        ("cvae-relu", 128, "graphs", {}, None),
        ("hvae-relu", 128, "bf16", bf16, None),
        ("hvae-relu", 128, "tf32", tf32, None),
        ("hvae-relu", 32, "no graphs", off, None),
        ("hvae-relu", 1, "no graphs", off, None),
        ("cvae-relu", 1, "graphs", {}, None),
        ("cvae-relu", 32, "no graphs", off, None),
        ("hvae-cnn", 32, "one by one, 8 lanes", {}, Convolutions(8)),
        ("hvae-cnn", 32, "bf16, channels last", bf16, Convolutions(8, channels_last=True)),
        ("hvae-cnn", 32, "grouped", {}, Convolutions(1, apart=False)),
        ("hvae-cnn", 32, "one by one, 32 lanes", {}, Convolutions(32)),
        ("hvae-cnn", 1, "one by one", {}, Convolutions(8)),
        ("hvae-relu", 64, "graphs", {}, None),
        ("hvae-relu", 8, "graphs", {}, None),
        ("cvae-relu", 64, "graphs", {}, None),
        ("cvae-relu", 8, "graphs", {}, None),
        ("hvae-cnn", 8, "no graphs", off, Convolutions(1, apart=False)),
        ("hvae-cnn", 64, "bf16, channels last", bf16, Convolutions(8, channels_last=True)),
    ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=170, help="to end after")
    parser.add_argument("--steps", type=int, default=256, help="per epoch")
    options = parser.parse_args()
    start = time.perf_counter()
    random = np.random.default_rng(0)
    rows = {
        task: [random.random((options.steps * BATCH, dim), np.float32) for dim in dims]
        for task, dims in DIMS.items()
    }
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    base = {task: plain(task, rows[task], options.steps) for task in TASKS}
    for task, value in base.items():
        print(f"{task:10} the plain loop, one run: {value:.3f} ms per step", flush=True)
    print(f"{'':10} {'runs':>4} {'way':22} {'ms/step':>8} {'ms/step/run':>11} {'x plain':>8} "
          f"{'epoch end, ms':>13} {'GiB':>6} {'took, s':>8}", flush=True)  # fmt: skip
    for task, runs, name, settings, way in cases():
        if time.perf_counter() - start > options.seconds:
            print("out of time", flush=True)
            return
        begun = time.perf_counter()
        try:
            if way is None:
                found = swept(task, rows[task], runs, **settings)
            else:
                with way:
                    found = swept(task, rows[task], runs, **settings)
        except Exception as error:  # the other ways are still worth measuring
            print(f"{task:10} {runs:4} {name:22} {type(error).__name__}: {error}"[:300], flush=True)
            continue
        step, end, memory = found
        print(f"{task:10} {runs:4} {name:22} {step:8.3f} {step / runs:11.4f} "
              f"{base[task] * runs / step:8.1f} {end:13.0f} {memory:6.1f} "
              f"{time.perf_counter() - begun:8.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("always")
    main()
