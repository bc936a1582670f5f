"""What several rows share."""

from posterior_collapse.runs import Choice, Evaluation
from posterior_collapse.training import Settings

MNIST, QUARTER = Choice("mnist"), Choice("mnist", task="quarter")
BETAS, ETAS = (0.1, 0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 2.0)
ON_TRAIN = Evaluation(split="train")

PUBLISHED_START = {
    "name": "linear",
    "bias": False,
    "initial_std": 0.1,
    "initial_sigma": "uniform",
}
EXACT = Settings(optimiser="lbfgs", seed=1)
MATRIX = Settings(optimiser="adam", learning_rate=0.1, steps=200, seed=2)
SECOND_MATRIX = MATRIX.replace(steps=1000, clip=0.1)
FULL_BATCH = Settings(optimiser="adam", learning_rate=1e-2, steps=3000, clip=0.1, seed=1)
GENTLE = Settings(learning_rate=1e-4, seed=1)
BOUNDED = Settings(learning_rate=1e-3, clip=0.1, seed=1)
