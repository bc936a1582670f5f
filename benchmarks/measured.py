"""What the benchmarks share: ways that take turns, the machine in words, and figures kept as JSON.

Seconds are the process's own, of the best of several rounds: other work on the machine only ever
adds. Ratios of ways that took turns hold much longer than their seconds do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

PEAK = """
import pathlib, re, resource, sys, time
import numpy as np
import posterior_collapse as pc

def peak():
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
"""
"""Begins a program for a new process, whose largest size in MiB `peak` says."""
WORSE = 1.15
"""Times the earlier ratio from which a figure is said to have become worse."""


@dataclass(frozen=True)
class Figure:
    """One thing measured.

    Attributes:
        name: What it is.
        seconds: Ours.
        peer: Of the alternative on the same work; None: there is none.
        limit: Of what cannot be left out, such as the matrix products alone; None: not known.
        goal: What the ratio to the peer should be, in words.
        against: What peer and limit are.
    """

    name: str
    seconds: float
    peer: float | None = None
    limit: float | None = None
    goal: str = ""
    against: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's."""
        return None if self.peer is None else self.seconds / self.peer

    @property
    def over_limit(self) -> float | None:
        """Ours over what cannot be left out."""
        return None if self.limit is None else self.seconds / self.limit


def taking_turns(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the least seconds of each way, after a first round that does not count."""
    best = dict.fromkeys(ways, np.inf)
    for turn in range(rounds + 1):
        for way, run in ways.items():
            began = time.process_time()
            run()
            took = time.process_time() - began
            best[way] = min(best[way], took) if turn else np.inf
    return best


def images(rows: int = 60_000) -> tuple[str, np.ndarray]:
    """Rows of 784 numbers in single precision: MNIST if it is there, else noise like it."""
    if os.environ.get("POSTERIOR_COLLAPSE_DATA"):
        import posterior_collapse as pc

        x = pc.load("mnist").x[:rows]
        return "MNIST", np.ascontiguousarray(x.reshape(len(x), -1), dtype=np.float32)
    rng = np.random.default_rng(0)
    spread = np.arange(1.0, 785.0) ** -0.7
    mixing = (spread[:, None] * np.linalg.qr(rng.standard_normal((784, 784)))[0]).astype(np.float32)
    noise = rng.standard_normal((rows, 784), dtype=np.float32)
    return "noise", np.clip(noise @ mixing + np.float32(0.3), 0, 1)


def machine() -> dict[str, Any]:
    """Say where this ran."""
    import scipy
    import sklearn
    import torch

    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def arguments(description: str) -> argparse.Namespace:
    """Read the options: rounds, a file to keep the figures in, and one to hold them against."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way; the best counts")
    parser.add_argument("--keep", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--against", type=Path, help="hold them against those of this JSON file")
    return parser.parse_args()


def keep(figures: list[Figure], path: Path) -> None:
    """Write the figures and the machine."""
    found = [asdict(f) | {"ratio": f.ratio, "over_limit": f.over_limit} for f in figures]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "figures": found}, indent=1) + "\n")


def show(figures: list[Figure], against: Path | None = None) -> None:
    """Print the figures, beside those of an earlier file, and which are worse."""
    earlier: dict[str, dict[str, Any]] = {}
    if against is not None:
        read = json.loads(against.read_text())
        earlier = {figure["name"]: figure for figure in read["figures"]}
    table = Table(title="seconds of the process, best of several turns")
    columns = ["", "ours", "peer", "ratio", "goal", "over the limit", "against"]
    for column in [*columns, *["before", "now over before"] * bool(earlier)]:
        table.add_column(column, justify="left" if column in ("", "goal", "against") else "right")
    worse = []
    for f in figures:
        cells = [f.name, _number(f.seconds), _number(f.peer), _number(f.ratio), f.goal]
        cells += [_number(f.over_limit), f.against]
        if earlier:
            before = earlier.get(f.name, {})
            key = "ratio" if f.ratio is not None else "over_limit"
            then, now = before.get(key), f.ratio if f.ratio is not None else f.over_limit
            change = now / then if now and then else None
            if change is not None and change > WORSE:
                worse.append(f.name)
            cells += [_number(then), _number(change)]
        table.add_row(*cells)
    Console(width=170).print(table)
    if worse:
        print(f"worse than before: {'; '.join(worse)}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
