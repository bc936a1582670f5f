"""Conditional VAEs: E1, E2 and E7 to E10."""

from __future__ import annotations

from posterior_collapse.experiments.grids import Grid, Row
from posterior_collapse.experiments.rows.common import (
    BETAS,
    ETAS,
    EXACT,
    FULL_BATCH,
    GENTLE,
    MATRIX,
    ON_TRAIN,
    PUBLISHED_START,
    QUARTER,
    SECOND_MATRIX,
)
from posterior_collapse.runs import Choice, Evaluation
from posterior_collapse.training import Settings

__all__ = ["ROWS"]

DIGITS = tuple(range(10))

# E1 and E9; E2
CVAE = {"model": "cvae", "latent_dim": 16, "sigma": "input"}
RELU = {"name": "cvae-relu", "hidden": (16,)}
SLOW = Settings(learning_rate=1e-3, clip=0.01, seed=1)
E1_SEEN = Evaluation(samples=1000, panel=100)
E1_GRIDS = (
    Grid("beta", QUARTER, CVAE, RELU, SLOW, {"beta": BETAS}, evaluation=E1_SEEN, spread=True),
    Grid("eta_dec", QUARTER, CVAE, RELU, SLOW, {"eta_dec": ETAS}, evaluation=E1_SEEN, spread=True),
)
PER_DIGIT = {**CVAE, "eta_dec": 0.5, "eta_enc": 0.5}

# E7 and E8; E12, E13 and E14
LINEAR_CVAE = {"model": "cvae", "latent_dim": 64}
LINEAR_CVAE_NET = {"name": "linear", "bias": False, "initial_std": 0.1, "initial_sigma": 0.1}
E7_BETAS = tuple(round(0.1 * i, 1) for i in range(1, 51))
# E10
PAIRS = tuple(f"pairs:{kind}" for kind in ("identical", "1/2", "1/4", "1/8", "random", "quadratic"))


ROWS: tuple[Row, ...] = (
    Row(
        id="E1",
        name="CVAE: varying beta, eta_dec",
        networks="cvae-relu",
        claim="The larger beta or eta_dec, the more latent units of the CVAE collapse.",
        theory="A unit lives while theta_i > beta eta_dec^2 (theta_i: variance of mode i of what x "
        "leaves unexplained of y), so the count falls in beta and, faster, in eta_dec.",
        grids=E1_GRIDS,
        deliverables=("collapse_curves", "reconstructions"),
        published="The published script prints curves of one seed and has no code for figures; its "
        "KL mixes training and test batches.",
    ),
    Row(
        id="E2",
        name="Collapse level of MNIST digits",
        networks="cvae-linear-net, cvae-relu, cvae-cnn",
        claim="Digits whose residual spectrum is smaller collapse more, whatever the architecture.",
        theory="The number of eigenvalues of a digit's E above beta eta_dec^2 orders the digits.",
        grids=tuple(
            Grid(
                str(network["name"]),
                QUARTER,
                PER_DIGIT,
                network,
                SLOW.replace(clip=clip),
                {"label": DIGITS},
            )
            for network, clip in (
                ({"name": "cvae-linear-net", "hidden": (16,)}, 0.01),
                ({"name": "cvae-relu", "hidden": (100,)}, 0.1),
                ({"name": "cvae-cnn"}, 0.1),
            )
        ),
        deliverables=("digits",),
        published="A file name without its placeholder makes every digit overwrite one file.",
    ),
    Row(
        id="E7",
        name="Linear CVAE sweep",
        networks="cvae-linear",
        claim="Loss, reconstruction, KL and the number of active modes follow theorem 2 in beta.",
        theory="Mode i lives while theta_i > beta eta_dec^2.",
        grids=(
            Grid(
                "exact training", QUARTER, LINEAR_CVAE, LINEAR_CVAE_NET, EXACT,
                {"beta": E7_BETAS}, "exact", Evaluation(panel=10),
            ),
            Grid(
                "minibatches", QUARTER, LINEAR_CVAE, LINEAR_CVAE_NET, GENTLE.replace(clip=0.1),
                {"beta": (0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)}, evaluation=Evaluation(panel=10),
            ),
        ),
        deliverables=("theory_sweep", "sweep_reconstructions"),
        published="The helper tests theta >= sqrt(beta) eta_dec where theta is a variance: the "
        "threshold is beta eta_dec^2.",
    ),
    Row(
        id="E8",
        name="Verification of Theorem 2",
        networks="matrix problem, cvae-linear",
        claim="Training reaches the singular values of U1 and the sigmas of theorem 2.",
        theory="omega_i^2 = (theta_i - beta eta_dec^2)_+ / eta_enc^2; sigma_i = sqrt(beta) eta_enc "
        "eta_dec / sqrt(theta_i), or eta_enc where collapsed.",
        grids=(
            Grid(
                "matrix", Choice("matrix:E8"), {"model": "cvae", "latent_dim": 5, "beta": 2.0},
                PUBLISHED_START, MATRIX, method="recorded", spread=True,
            ),
            Grid(
                "second matrix", Choice("matrix:cvae-learned"),
                {"model": "cvae", "latent_dim": 4, "eta_dec": 0.8, "eta_enc": 1.25},
                PUBLISHED_START, SECOND_MATRIX, method="decayed", spread=True,
            ),
            Grid(
                "{data}", QUARTER, LINEAR_CVAE, LINEAR_CVAE_NET, FULL_BATCH, method="decayed",
                evaluation=ON_TRAIN,
            ),
            Grid(
                "{data}, exact", QUARTER, LINEAR_CVAE, LINEAR_CVAE_NET, EXACT, {"beta": (1.0,)},
                "exact", Evaluation(panel=10),
            ),
        ),
        deliverables=("convergence",),
        published="The matrix script inverts c = eta_dec/eta_enc, unnoticed while both are 1.",
    ),
    Row(
        id="E9",
        name="LL, KL, AU of CVAE",
        networks="cvae-relu (runs of E1)",
        claim="NLL rises, KL and active units fall as beta or eta_dec grow.",
        theory="KL_i = 1/2 log(theta_i / (beta eta_dec^2)) while positive: KL and the number of "
        "units fall in both.",
        grids=E1_GRIDS,
        deliverables=("likelihood_table",),
        published="What is printed as active units is the share of (sample, latent) pairs with KL "
        "of 0.01 and more, here kl_active_share; one seed.",
    ),
    Row(
        id="E10",
        name="Correlation of x and y",
        networks="cvae-relu",
        claim="The stronger x and y correlate, the more units collapse.",
        theory="The residual covariance is (1 - rho^2) I: identical pairs leave nothing to encode, "
        "and all modes cross the threshold beta eta_dec^2 = 0.25 at rho^2 = 0.75. A quadratic x is "
        "uncorrelated: linear theory sees it as random; a ReLU network may not.",
        grids=(
            Grid(
                "pairs",
                Choice("pairs:random"),
                {"model": "cvae", "latent_dim": 128, "eta_dec": 0.5, "sigma": "input"},
                {"name": "cvae-relu", "hidden": (128,)},
                Settings(learning_rate=1e-3, clip=0.01, batch_size=16, epochs=1000, seed=4),
                {"name": PAIRS},
                evaluation=Evaluation(split="train", samples=1000),
                spread=True,
                quick=6,
            ),
        ),
        deliverables=("collapse_curves", "likelihood_table", "correlation"),
        published="One seed; the quadratic pair is not among the paper's.",
    ),
)  # fmt: skip
