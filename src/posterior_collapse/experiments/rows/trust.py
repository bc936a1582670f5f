"""Which networks the study trains, on what, and how long: the grids of X3a to X3g."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from posterior_collapse.experiments.grids import Grid, Row
from posterior_collapse.runs import Evaluation, RunData
from posterior_collapse.runs.run import Method
from posterior_collapse.training import Settings

UNITS = 16
SHARES = (
    0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5, 0.65, 0.75, 0.82, 0.88,
    0.92, 0.95, 0.97, 0.99, 1.01, 1.03, 1.06, 1.1, 1.2, 1.4,
)  # fmt: skip
"""Betas as shares of the predicted onset, dense about it."""
WIDE = (0.02, 0.035, *SHARES[:10], 0.88, *SHARES[12:])
"""Of data in which few modes are strong."""
FEWER = (0.08, 0.18, 0.35, 0.5, 0.65, 0.75, 0.82, 0.88, 0.92, 0.95, 0.97, 0.99, 1.01, 1.06, 1.2)
"""Fewer of them, for networks that are slow to train."""
FEWEST = (0.18, 0.5, 0.65, 0.75, 0.82, 0.88, 0.92, 0.95, 0.97, 0.99, 1.01, 1.06)
"""Fewer still, where the same is asked of further networks and data (X3f, X3g)."""
LONGER, LONGER_AT = 4, (0.18, 0.88, 0.95, 0.99)
"""How many times longer some runs train, and at which of these shares."""
LONG, LONG_AT = 10, (0.88, 0.92, 0.95, 0.97, 0.99, 1.01)
"""How many times longer others train after a warm-up, and at which of these shares; half of them at
a learning rate as many times lower."""
HISTORY = 40
"""Rows of a run's history."""
WARMED_UP = 0.25
"""Share of its training over which beta rises, in runs with a warm-up."""
MOST_UNITS = 6
"""Up to which it is asked what one more unit brings."""
MORE = {"latent_dim": tuple(range(2, MOST_UNITS + 2))}
RATE, TOO_HIGH = 2e-3, (0.03, 0.1)
"""A learning rate that these networks train well with, and some ten times and more that."""
DEAD_START = 1e-3
"""Std of initial weights with which a decoder hears of its units nothing at first."""
MEASURED = Evaluation(split="train", rows=2000, bracket=True, weights=False)
KEPT = MEASURED.replace(bracket=False, weights=True)
NOT_KEPT = KEPT.replace(weights=False)
HELD_OUT = MEASURED.replace(also="test")


@dataclass(frozen=True)
class Problem:
    """A network, a likelihood and data, with the onset of total collapse that theory predicts.

    Args:
        epochs: How long it trains: about 8,000 steps, the cnn fewer.
        onset: Beta from which theory says that every unit collapses; a test recomputes it.
        shares: Betas, as shares of the onset.
        one_more: Shares of the onset at which it is asked what one more unit brings.
        warm: Whether it is asked of warm starts too, and of a dead unit planted: twice the work,
            which one problem does without.
    """

    data: RunData
    network: Mapping[str, Any]
    epochs: int
    onset: float
    likelihood: str = "gaussian"
    shares: tuple[float, ...] = SHARES
    one_more: tuple[float, ...] = ()
    warm: bool = True

    @property
    def called(self) -> str:
        """What the network is called, its depth where that is more than one hidden layer."""
        depth = len(self.network.get("hidden", ()))
        return f"{self.network['name']}{f' of {depth} hidden layers' if depth > 1 else ''}"

    def betas(self, shares: tuple[float, ...]) -> tuple[float, ...]:
        """Return the betas at these shares of the onset."""
        return tuple(float(f"{share * self.onset:.4g}") for share in shares)

    def grid(
        self,
        kind: str,
        vary: Mapping[str, tuple[Any, ...]],
        evaluation: Evaluation,
        method: Method = "minibatch",
        network: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Grid:
        """Return runs of this problem; `kind` says in words what sets them apart.

        Options are added to the network, and `changes` are of its settings.
        """
        title = ", ".join(filter(None, ("{data}", self.called, self.likelihood, kind)))
        # With eta_dec 1 beta is the variance that a unit must beat.
        sigma = "learned" if self.network["name"] == "linear" else "input"
        spec = {"model": "vae", "sigma": sigma, "likelihood": self.likelihood, "latent_dim": UNITS}
        every = max(1, self.epochs // HISTORY)
        settings = Settings(epochs=self.epochs, learning_rate=RATE, seed=1, history_every=every)
        # In the quick profile the first two numbers of units, so that one is one more; else ends.
        quick = {k: v[:2] if k == "latent_dim" else (v[0], v[-1]) for k, v in vary.items()}
        return Grid(
            title, self.data, spec, {**self.network, **(network or {})},
            settings.replace(**changes), vary, method, evaluation, spread=True,
            quick_vary=quick,
        )  # fmt: skip


MLP = {"name": "mlp", "hidden": (64,)}
WIDER = {"name": "mlp", "hidden": (128,)}
DIGITS, MNIST = RunData("digits"), RunData("mnist", rows=10_000)
STEPS = (0.08, 0.18, 0.35, 0.5, 0.75)
"""Shares of the onset in the study of one more unit and of failures."""
LOWER = (0.02, 0.05, 0.12, 0.25, 0.5)

PROBLEMS = (
    Problem(DIGITS, MLP, 660, 0.6879, one_more=STEPS),
    Problem(DIGITS, MLP, 660, 3.384, "bernoulli", one_more=STEPS),
    Problem(RunData("clusters"), MLP, 500, 7.149, one_more=STEPS, warm=False),
    Problem(RunData("cells:on"), MLP, 1300, 24.94, "bernoulli", shares=WIDE, one_more=LOWER),
    Problem(MNIST.replace(size=14), MLP, 100, 1.179, one_more=STEPS),
    Problem(MNIST, WIDER, 100, 5.381),
    Problem(MNIST, WIDER, 100, 33.05, "bernoulli"),
    Problem(RunData("cells"), MLP, 1300, 115.05, shares=WIDE),
    Problem(RunData("clusters:counts"), MLP, 500, 3.580, "poisson"),
    Problem(DIGITS, {"name": "linear"}, 660, 0.6879),  # what training alone does to theory
)
"""The study, those first that say most."""
DIGITS_ONSETS = ((0.6879, "gaussian"), (3.384, "bernoulli"))
CNN = {"name": "cnn", "hidden": (64,), "channels": (16, 16)}
CONVOLUTIONAL = tuple(
    Problem(DIGITS, CNN, 400, onset, likelihood, shares=FEWER)
    for onset, likelihood in DIGITS_ONSETS
)
"""A row of its own: what is kept of the others stays as it is."""
DEEPER = {"name": "mlp", "hidden": (64, 64)}
BESIDE = tuple(
    Problem(DIGITS, network, 660, onset, likelihood, shares=FEWEST)
    for network in (DEEPER, MLP)
    for onset, likelihood in DIGITS_ONSETS
)
"""Likewise: deeper networks, and two of the study once more, of which held-out rows are asked."""
DEEPEST = {"name": "mlp", "hidden": (64, 64, 64)}
FASHION = RunData("fashion-mnist", rows=10_000)
SMALLER = {**MLP, "initial_std": 0.05}
"""Weights to start from where rows hold counts of hundreds: torch's let rates overflow."""
OTHERS = (
    Problem(FASHION, WIDER, 100, 19.90, shares=FEWEST),
    Problem(FASHION, WIDER, 100, 91.23, "bernoulli", shares=FEWEST),
    Problem(RunData("cells:counts"), SMALLER, 1300, 230.05, "poisson", shares=FEWEST),
    Problem(DIGITS, DEEPEST, 660, 0.6879, shares=FEWEST),
    Problem(DIGITS, DEEPEST, 660, 3.384, "bernoulli", shares=FEWEST),
)
"""Likewise: images of clothes, counts as they were counted, and a third hidden layer."""


def _trained(problem: Problem, evaluation: Evaluation = MEASURED) -> tuple[Grid, Grid]:
    """Runs about and below the onset, without and with a warm-up."""
    vary = {"beta": problem.betas(problem.shares)}
    warm_up = round(WARMED_UP * problem.epochs)
    return (
        problem.grid("", vary, evaluation),
        problem.grid("warm-up", vary, evaluation, warm_up=warm_up),
    )


def _longer(problem: Problem) -> Grid:
    """Runs without a warm-up at a few betas that train on."""
    on = replace(problem, epochs=LONGER * problem.epochs)
    return on.grid("longer", {"beta": problem.betas(LONGER_AT)}, HELD_OUT)


def _long(problem: Problem) -> tuple[Grid, Grid]:
    """Runs after a warm-up near the onset that train on, by smaller steps of less noise, or not."""
    on = replace(problem, epochs=LONG * problem.epochs)
    vary = {"beta": problem.betas(LONG_AT)}
    warm_up = round(WARMED_UP * on.epochs)
    return (
        on.grid("slower", vary, MEASURED, warm_up=warm_up, learning_rate=RATE / LONG),
        on.grid("as long", vary, MEASURED, warm_up=warm_up),
    )


def _one_more(problem: Problem) -> tuple[Grid, ...]:
    """Runs of few units, and of one more that goes on from those."""
    betas = problem.betas(problem.one_more)
    less = {"latent_dim": tuple(range(1, MOST_UNITS + 2)), "beta": betas}
    restarts = problem.grid("restarts", less, KEPT)
    if not problem.warm:
        return (restarts,)
    return restarts, problem.grid("warm start", {**less, **MORE}, NOT_KEPT, "widened")


def _failing(problem: Problem) -> tuple[Grid, ...]:
    """Runs that are to fail, beside those of the same betas that are not."""
    betas = {"beta": problem.betas(problem.one_more)}
    dead = [problem.grid("a dead unit", {**MORE, **betas}, NOT_KEPT, "dead")] * problem.warm
    too_high = (
        problem.grid(f"learning rate {rate:g}", betas, NOT_KEPT, learning_rate=rate)
        for rate in TOO_HIGH
    )
    faint = problem.grid("dead start", betas, NOT_KEPT, network={"initial_std": DEAD_START})
    return (*dead, *too_high, faint)


PAIRED = tuple(problem for problem in PROBLEMS if problem.one_more)
TRAINED = tuple(grid for problem in PROBLEMS for grid in _trained(problem))

ROWS: tuple[Row, ...] = (
    Row(
        id="X3a",
        name="Trust: onset of total collapse",
        networks="mlp, linear",
        claim="Networks lose their last unit at the beta where theory says that every unit "
        "collapses, whatever the network, the likelihood and the data.",
        theory="Total collapse is unstable below beta* = lambda_max(F^-1/2 S F^-1/2), the largest "
        "variance of a data mode in units of the likelihood's own noise, and stable above it, "
        "exactly, for any network. Above it a network may still have a lower loss, to which no "
        "small step from collapse leads: runs with a warm-up come from there.",
        grids=TRAINED,
        deliverables=("trust_onset",),
    ),
    Row(
        id="X3b",
        name="Trust: units and KL below the onset",
        networks="mlp, linear",
        claim="After about 8,000 steps a network keeps, within a unit, at least as many units as "
        "parts of the data have modes above the threshold, and at most as many as a linear model. "
        "The table says how far its loss still changed in the last half of the steps.",
        theory="A linear model keeps a unit for every mode above the threshold, KL 1/2 "
        "log(variance / beta) each. A network folds modes that matter in different parts of the "
        "data into one unit; within a part, only as many units pay as the part has modes above the "
        "threshold.",
        grids=TRAINED,
        deliverables=("trust_units",),
    ),
    Row(
        id="X3c",
        name="Trust: does one more unit pay",
        networks="mlp",
        claim="Training with one more unit confirms what the diagnosis said of it: whether it "
        "pays and, within a factor of two, how many nats it brings.",
        theory="One more unit that a decoder adds linearly lowers the loss by beta/2 (t - 1 - log "
        "t), summed over parts of latent space in which it is used differently.",
        grids=tuple(grid for problem in PAIRED for grid in _one_more(problem)),
        deliverables=("trust_gain",),
    ),
    Row(
        id="X3d",
        name="Trust: verdicts on planted failures",
        networks="mlp",
        claim="The verdict distinguishes a run in which the optimiser failed to use a unit from "
        "one whose collapse the objective asks for.",
        theory="Collapse with t <= 1 is optimal for a linear decoder and locally for a network; "
        "with t > 1 an idle unit would lower the loss.",
        grids=tuple(
            grid
            for problem in PAIRED
            for grid in (*_trained(problem), *_one_more(problem), *_failing(problem))
        ),
        deliverables=("trust_failures",),
    ),
    Row(
        id="X3e",
        name="Trust: convolutional networks",
        networks="cnn",
        claim="Convolutional networks lose their last unit at the beta of theory. Below it, they "
        "keep, within a unit, at least as many units as parts of the data have modes above the "
        "threshold, and at most as many as a linear model.",
        theory="As in X3a and X3b, which do not depend on how a network is built.",
        grids=tuple(grid for problem in CONVOLUTIONAL for grid in _trained(problem)),
        deliverables=("trust_onset", "trust_units"),
    ),
    Row(
        id="X3f",
        name="Trust: deeper networks, longer training, held-out rows",
        networks="mlp of one and two hidden layers",
        claim="What X3a and X3b say of onset, units and KL also holds for a deeper network, after "
        "four times the training, and on held-out rows; and the onset after ten times the "
        "training, at a tenth of the learning rate and at the same.",
        theory="As in X3a and X3b, which do not depend on depth or on how training goes, only on "
        "where it ends. The forecast is that of the training rows; the held-out rows resemble "
        "them.",
        grids=(
            *(grid for problem in BESIDE for grid in _trained(problem, HELD_OUT)),
            *(_longer(problem) for problem in BESIDE if problem.network is MLP),
            *(grid for problem in BESIDE for grid in _long(problem)),
        ),
        deliverables=(
            *("trust_onset", "trust_units", "trust_longer", "trust_long", "trust_held_out"),
        ),
    ),
    Row(
        id="X3g",
        name="Trust: clothes, counts of single cells, a third hidden layer",
        networks="mlp of one and three hidden layers",
        claim="What X3a and X3b say of onset, units and KL also holds on other data (images of "
        "clothes, raw counts of single cells) and for a still deeper network.",
        theory="As in X3a and X3b. The noise of counts is their mean, so the genes whose counts "
        "vary most relative to it decide the onset.",
        grids=tuple(grid for problem in OTHERS for grid in _trained(problem)),
        deliverables=("trust_onset", "trust_units"),
    ),
)  # fmt: skip
