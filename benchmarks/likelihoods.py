"""Milliseconds per step of a vectorised sweep for each likelihood, beside a Gaussian's.

    python benchmarks/likelihoods.py [--runs 8 32] [--networks linear mlp] [--rounds 7]

scikit-learn's digits, batch 128, one thread. Each likelihood and the Gaussian take turns in one
process, round after round, and the best round of each counts, in the process's own seconds: other
work on the machine only ever adds. Only steps are timed, not the first epoch.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import numpy as np
import torch

import posterior_collapse as pc

LATENTS = 8
LIKELIHOODS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "bernoulli": {"likelihood": "bernoulli"},
    "poisson": {"likelihood": "poisson"},
    "negative-binomial, r = 2": {"likelihood": "negative-binomial", "dispersion": 2.0},
    "negative-binomial, learned": {"likelihood": "negative-binomial"},
    "categorical, 16 x 4": {"likelihood": "categorical"},
}


def rows(name: str) -> np.ndarray:
    """Digits in [0, 1], as counts, or as 16 positions of 4 classes: 64 features each."""
    x = pc.load("digits").x.astype(np.float32)
    if "categorical" in name:
        return np.eye(4, dtype=np.float32)[(3 * x[:, 8:24]).astype(int)]
    counts = "poisson" in name or "binomial" in name
    return np.random.default_rng(0).poisson(4 * x).astype(np.float32) if counts else x


def step(name: str, network: str, runs: int, data: np.ndarray) -> float:
    """Seconds per step and run, of the best epoch but the first."""
    ends: list[float] = []
    betas = np.geomspace(0.1, 4.0, runs)
    specs = [pc.VAESpec(LATENTS, beta=float(beta), **LIKELIHOODS[name]) for beta in betas]
    pc.fit_many(specs, data, network, epochs=6, progress=lambda _: ends.append(time.process_time()))
    steps = -(-len(data) // 128)
    return min(b - a for a, b in itertools.pairwise(ends)) / steps / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--networks", nargs="+", default=["linear", "mlp"])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = {name: rows(name) for name in LIKELIHOODS}
    for network, runs in itertools.product(options.networks, options.runs):
        best = dict.fromkeys(LIKELIHOODS, np.inf)
        for _ in range(options.rounds):
            for name in LIKELIHOODS:
                best[name] = min(best[name], step(name, network, runs, data[name]))
        print(f"\n{network}, {runs} runs")
        print(f"{'':28} {'ms/step/run':>11} {'x gaussian':>11}")
        for name, seconds in best.items():
            print(f"{name:28} {seconds * 1e3:11.4f} {seconds / best['gaussian']:11.2f}")


if __name__ == "__main__":
    main()
