"""Plain VAEs: E5, E6 and, beyond the paper, the onset of total collapse."""

from __future__ import annotations

from posterior_collapse.experiments.grids import Grid, Row
from posterior_collapse.experiments.rows.common import (
    EXACT,
    GENTLE,
    MNIST,
)
from posterior_collapse.runs import Choice, Evaluation
from posterior_collapse.training import Settings

__all__ = ["ROWS"]

# E5 and E6
VAE = {"model": "vae", "latent_dim": 5}
VAE_NET = {"name": "linear", "bias": False}
VAE_RELU = {"name": "vae-relu", "hidden": (256,)}
E6_SEEN = Evaluation(samples=10_000, likelihood_rows=1000, panel=10)


ROWS: tuple[Row, ...] = (
    Row(
        id="E5",
        name="Learnable vs fixed Sigma (linear VAE)",
        networks="vae-linear",
        claim="With a learnable Sigma columns of U vanish as units collapse; with a fixed "
        "isotropic Sigma they need not, although as many dimensions are lost.",
        theory="Learned Sigma: orthogonal columns, those of collapsed units 0. Fixed equal sigmas: "
        "U is free up to a rotation of the latent; only its singular values are determined. Fixed "
        "unequal sigmas: mode i lives on the unit with the i-th smallest sigma.",
        grids=tuple(
            Grid(
                title,
                MNIST,
                {**VAE, "beta": beta, "sigma": sigma},
                VAE_NET,
                EXACT,
                method="exact",
                evaluation=Evaluation(split="train", matrices=True),
            )
            for title, beta, sigma in (
                ("Sigma learned", 1.0, "learned"),
                ("Sigma = I", 1.0, 1.0),
                ("sigma = (8, 4, 2, 1, 0.5)", 1.0, (8.0, 4.0, 2.0, 1.0, 0.5)),
                ("Sigma learned, beta = 4", 4.0, "learned"),
                ("Sigma = I, beta = 4", 4.0, 1.0),
            )
        ),
        deliverables=("matrices",),
        published="The scripts' default is beta = 4. The learnable script trains 1000 epochs of "
        "Adam at 1e-4, the fixed one SGD; here the same objective, noise integrated out, is "
        "minimised by L-BFGS to a standstill.",
    ),
    Row(
        id="E6",
        name="LL, KL, AU with learnable/fixed Sigma",
        networks="vae-relu",
        claim="A learnable Sigma leaves fewer active units than a fixed one, at a better "
        "likelihood.",
        theory="With a fixed sigma < eta_enc the threshold is theta_i > sqrt(beta) c sigma: more "
        "modes pass it than the learned one's, and the KL cannot reach 0.",
        grids=tuple(
            Grid(
                title,
                MNIST,
                {**VAE, "latent_dim": 16, "sigma": sigma},
                VAE_RELU,
                GENTLE,
                evaluation=E6_SEEN,
                spread=True,
            )
            for title, sigma in (("learned", "learned"), ("fixed at 0.5", 0.5))
        ),
        deliverables=("likelihood_table",),
        published="The 'ReLU, fixed sigma' script is a linear model without NLL or AU; the "
        "learnable one samples with std sigma^2 while its KL uses variance sigma^2.",
    ),
    Row(
        id="X2",
        name="Onset of total collapse in non-linear VAEs",
        networks="mlp, cnn",
        claim="Linear theory predicts where a non-linear VAE collapses wholly.",
        theory="All units are dead once beta eta_dec^2 exceeds the largest data variance "
        "theta_1^2.",
        grids=tuple(
            Grid(
                str(network["name"]),
                Choice("mnist", rows=10_000),
                {"model": "vae", "latent_dim": 8, "sigma": "input"},
                network,
                Settings(learning_rate=1e-3, epochs=epochs, seed=1),
                {"eta_dec": etas, "beta": betas},
                evaluation=Evaluation(split="train", rows=2000),
                quick_vary={"eta_dec": (1.0,), "beta": (0.1, 0.2, 0.4, 0.8, 1.6)},
            )
            for network, epochs, etas, betas in (
                (
                    {"name": "mlp", "hidden": (128,)}, 60, (0.8, 1.0, 1.25),
                    tuple(round(2.5 * 1.12**i, 2) for i in range(14)),
                ),
                (
                    {"name": "cnn", "hidden": (64,), "channels": (16, 16)}, 30, (1.0,),
                    tuple(round(2.5 * 1.12**i, 2) for i in range(14)),
                ),
            )
        ),
        deliverables=("onset",),
        published="",
    ),
)  # fmt: skip
