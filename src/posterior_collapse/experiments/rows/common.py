"""What several rows share: data, published settings, and how a theorem is verification_grids."""

from collections.abc import Mapping
from typing import Any

from posterior_collapse.experiments.grids import Grid
from posterior_collapse.runs import Evaluation, RunData
from posterior_collapse.training import Settings

MNIST, QUARTER = RunData("mnist"), RunData("mnist", task="quarter")
BETAS, ETAS = (0.1, 0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 2.0)
ON_TRAIN = Evaluation(split="train")
WARM_UP = 10
"""Epochs over which beta rises where it does; what is published has no warm-up."""

# Minibatches, as most scripts train on images
GENTLE = Settings(learning_rate=1e-4, seed=1)
BOUNDED = Settings(learning_rate=1e-3, clip=0.1, seed=1)

# Linear models on moments: to a standstill, or by Adam as the matrix scripts do
EXACT = Settings(optimiser="lbfgs", seed=1)
MATRIX = Settings(optimiser="adam", learning_rate=0.1, steps=200, seed=2)
SECOND_MATRIX = MATRIX.replace(steps=1000, clip=0.1)
FULL_BATCH = Settings(optimiser="adam", learning_rate=1e-2, steps=3000, clip=0.1, seed=1)
PUBLISHED_START = {
    "name": "linear",
    "bias": False,
    "initial_std": 0.1,
    "initial_sigma": "uniform",
}


def verification_grids(
    matrix: tuple[str, Mapping[str, Any]],
    second: tuple[str, Mapping[str, Any]],
    images: tuple[RunData, Mapping[str, Any], Mapping[str, Any]],
    settings: Settings = FULL_BATCH,
    shared: Mapping[str, tuple[float, ...]] | None = None,
    evaluation: Evaluation = ON_TRAIN,
) -> tuple[Grid, ...]:
    """Return the grids that verify a theorem: two matrix problems, and images by Adam and exactly.

    Args:
        matrix: Case of `collapse verify` with the paper's matrix problem, and its spec.
        second: Likewise one on which units live and die.
        images: Images, with spec and network of the model.
        settings: How Adam trains on images.
        shared: The value at which a sweep has the same exactly trained run.
        evaluation: Of exact training on images.
    """
    case, spec = matrix
    second_case, second_spec = second
    return (
        Grid(
            "matrix", RunData(f"matrix:{case}"), spec, PUBLISHED_START, MATRIX,
            method="recorded", spread=True,
        ),
        Grid(
            "second matrix", RunData(f"matrix:{second_case}"), second_spec, PUBLISHED_START,
            SECOND_MATRIX, method="decayed", spread=True,
        ),
        Grid("{data}", *images, settings, method="decayed", evaluation=ON_TRAIN),
        Grid("{data}, exact", *images, EXACT, shared or {}, "exact", evaluation),
    )  # fmt: skip
