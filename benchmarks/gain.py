"""What one more unit brought when it was trained, beside what `diagnose` said it would.

    python benchmarks/gain.py [--epochs 300] [--seeds 3]

scikit-learn's digits, mlp of 64 hidden units, the best of three seeds for each number of units: the
loss with k units less that with k + 1, and `gain` of the diagnosis with k.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

import posterior_collapse as pc

UNITS = {0.1: (1, 2, 3, 4, 5), 0.2: (1, 2, 3)}


def main() -> None:
    """Train, diagnose, and print a row for each number of units."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    x = pc.load("digits").x.astype(np.float32)
    pairs = []
    print("beta eta_dec^2  units  gained  said +- error  parts  one part  conclusion")
    for beta, units in UNITS.items():
        trained = {}
        for k in (*units, units[-1] + 1):
            spec = pc.VAESpec(k, beta=beta, sigma="input")
            fitted = pc.fit_many(
                [spec] * chosen.seeds, x, "mlp", hidden=(64,), epochs=chosen.epochs,
                learning_rate=2e-3, seeds=range(chosen.seeds),
            )  # fmt: skip
            trained[k] = min(fitted, key=lambda one: one.measured()["loss"])
        for k in units:
            lower, upper = (trained[j].measured()["loss"] for j in (k, k + 1))
            found = pc.diagnose(trained[k], x)
            (gain,) = found.gains
            pairs.append((lower - upper, gain.nats))
            print(
                f"{beta:14g} {k:6} {lower - upper:7.3f}  {gain.nats:.3f} +- {gain.error:.3f} "
                f"{gain.parts:6} {gain.whole:9.3f}  {found.conclusion}",
                flush=True,
            )
    gained, said = np.transpose(pairs)
    print(
        f"correlation {np.corrcoef(gained, said)[0, 1]:.2f}, of ranks "
        f"{stats.spearmanr(gained, said).statistic:.2f}; gained / said, median "
        f"{np.median(gained / said):.2f}"
    )


if __name__ == "__main__":
    main()
