"""Models of one level: E1, E2, E5 to E10 and, beyond the paper, the onset of collapse, X2.

Data, published settings and the grids that verify a theorem are shared with models of two levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posterior_collapse.experiments.grids import Grid, Row
from posterior_collapse.runs import Evaluation, RunData
from posterior_collapse.training import Settings

MNIST, QUARTER = RunData("mnist"), RunData("mnist", task="quarter")
BETAS, ETAS = (0.1, 0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 2.0)
ON_TRAIN = Evaluation(split="train")
LOWER_RATE = "minibatches at a lower rate"
"""Title of runs that show how much of a loss above the optimum the steps' noise is."""
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

    A matrix problem is a case of `collapse verify` with its spec: that of the paper, and one on
    which units live and die. Images have spec and network; `shared` is the value at which a sweep
    has the same exactly trained run.
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


SLOW = Settings(learning_rate=1e-3, clip=0.01, seed=1)

# E1 and E9; E2
CVAE = {"model": "cvae", "latent_dim": 16, "sigma": "input"}
CVAE_RELU = {"name": "cvae-relu", "hidden": (16,)}
VARIED = tuple(
    Grid(
        title, QUARTER, CVAE, CVAE_RELU, settings, {name: values},
        evaluation=Evaluation(samples=2000, panel=panel), spread=True,
    )
    for warm, settings, panel in (
        ("", SLOW, 100), (", warm-up of {warm_up}", SLOW.replace(warm_up=WARM_UP), 0),
    )
    for name, values in (("beta", BETAS), ("eta_dec", ETAS))
    for title in (name + warm,)
)  # fmt: skip
WIDER = Grid(
    "beta, 64 hidden units", QUARTER, CVAE, {**CVAE_RELU, "hidden": (64,)}, SLOW,
    {"beta": (0.1, 1.0)},
)  # fmt: skip

# E5; E6
VAE = {"model": "vae", "latent_dim": 5}
VAE_RELU = {"name": "vae-relu", "hidden": (256,)}

# E7 and E8
LINEAR_CVAE = {"model": "cvae", "latent_dim": 64}
LINEAR_CVAE_NET = {"name": "linear", "bias": False, "initial_std": 0.1, "initial_sigma": 0.1}
PANEL = Evaluation(panel=10)
SWEPT = tuple(round(0.1 * i, 1) for i in range(1, 51))

# E10
PAIRS = tuple(f"pairs:{kind}" for kind in ("identical", "1/2", "1/4", "1/8", "random", "quadratic"))


def _pairs(title: str, hidden: int, vary: Mapping[str, tuple[str, ...]], spread: bool) -> Grid:
    return Grid(
        title, RunData("pairs:random"),
        {"model": "cvae", "latent_dim": 128, "eta_dec": 0.5, "sigma": "input"},
        {"name": "cvae-relu", "hidden": (hidden,)},
        SLOW.replace(batch_size=16, epochs=1000, seed=4), vary,
        evaluation=Evaluation(split="train", samples=20_000), spread=spread, quick=6,
    )  # fmt: skip


# X2
ONSET_BETAS = tuple(round(2.5 * 1.12**i, 2) for i in range(14))

ROWS: tuple[Row, ...] = (
    Row(
        id="E1",
        name="CVAE: varying beta, eta_dec",
        networks="cvae-relu",
        claim="The larger beta or eta_dec, the more latent units of the CVAE collapse.",
        theory="A unit lives while theta_i > beta eta_dec^2 (theta_i: variance of mode i of what x "
        "leaves unexplained of y), so the count falls in beta and, faster, in eta_dec.",
        grids=(*VARIED, WIDER),
        deliverables=("collapse_curves", "reconstructions", "published_numbers"),
        published="The published script prints curves of one seed and has no code for figures; its "
        "KL mixes training and test batches. Much of what it prints depends on the seed: at beta "
        "= 0.5 of its loss (the convention reference) eight units live with its own seed, four "
        "with the next. Its own keeps more than any of our five there; why is not known. Its "
        "network is narrow, with as many hidden units as latents, so a wider one is shown too, "
        "one run per beta: at beta = 0.1, where theory keeps all units, it keeps more of them than "
        "the narrow one.",
    ),
    Row(
        id="E2",
        name="Collapse level of MNIST digits",
        networks="cvae-linear-net, cvae-relu, cvae-cnn",
        claim="Digits of which x leaves less to explain keep less KL, whatever the architecture.",
        theory="The KL of a digit's linear optimum, the sum of 1/2 log(theta_i / (beta eta_dec^2)) "
        "over the eigenvalues of its E above beta eta_dec^2, orders the digits.",
        grids=tuple(
            Grid(
                str(network["name"]), QUARTER, {**CVAE, "eta_dec": 0.5, "eta_enc": 0.5}, network,
                SLOW.replace(clip=clip), {"label": tuple(range(10))},
                evaluation=Evaluation(also="train"),
            )
            for network, clip in (
                ({"name": "cvae-linear-net", "hidden": (16,)}, 0.01),
                ({"name": "cvae-relu", "hidden": (100,)}, 0.1),
                ({"name": "cvae-cnn"}, 0.1),
            )
        ),
        deliverables=("digits",),
        published="A file name without its placeholder makes every digit overwrite one file; what "
        "is printed is measured on training rows, as the second column of each measure here.",
    ),
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
                title, MNIST, {**VAE, "beta": beta, "sigma": sigma},
                {"name": "linear", "bias": False}, EXACT, method="exact",
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
        "minimised by L-BFGS until it converges.",
    ),
    Row(
        id="E6",
        name="LL, KL, AU with learnable/fixed Sigma",
        networks="vae-relu",
        claim="A learnable Sigma leaves fewer active units than a fixed one, at a better "
        "likelihood.",
        theory="With a fixed sigma < eta_enc the threshold is theta_i > sqrt(beta) c sigma: more "
        "modes exceed it than the learned one's, and the KL cannot reach 0. The published "
        "network's means come from a ReLU and are never below 0. Neither the linear model nor "
        "`diagnose` knows this bound: where `diagnose` says that the optimiser failed, the bound "
        "may be the cause.",
        grids=tuple(
            Grid(
                title, MNIST, {**VAE, "latent_dim": 16, "sigma": sigma}, VAE_RELU, GENTLE,
                evaluation=Evaluation(samples=10_000, panel=10), spread=True,
            )
            for title, sigma in (("learned", "learned"), ("fixed at 0.5", 0.5))
        ),
        deliverables=("likelihood_table",),
        published="The 'ReLU, fixed sigma' script is a linear model without NLL or AU; the "
        "learnable one samples with std sigma^2 while its KL uses variance sigma^2.",
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
                {"beta": SWEPT}, "exact", PANEL,
            ),
            Grid(
                "minibatches", QUARTER, LINEAR_CVAE, LINEAR_CVAE_NET, GENTLE.replace(clip=0.1),
                {"beta": SWEPT}, evaluation=PANEL,
            ),
        ),
        deliverables=("theory_sweep", "sweep_reconstructions", "published_numbers"),
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
        grids=verification_grids(
            ("E8", {"model": "cvae", "latent_dim": 5, "beta": 2.0}),
            ("cvae-learned", {"model": "cvae", "latent_dim": 4, "eta_dec": 0.8, "eta_enc": 1.25}),
            (QUARTER, LINEAR_CVAE, LINEAR_CVAE_NET),
            shared={"beta": (1.0,)},
            evaluation=PANEL,
        ),
        deliverables=("convergence",),
        published="The matrix script inverts c = eta_dec/eta_enc, unnoticed while both are 1.",
    ),
    Row(
        id="E9",
        name="LL, KL, AU of CVAE",
        networks="cvae-relu (runs of E1)",
        claim="KL and active units fall as beta or eta_dec grow; the NLL rises with eta_dec, and "
        "over beta it is least where the loss is the ELBO: at beta = 1, in the convention "
        "reference at 2 (compared with the spread of the seeds).",
        theory="KL_i = 1/2 log(theta_i / (beta eta_dec^2)) while positive: KL and the number of "
        "units fall in both. At beta = 1 the optimum is that of maximum likelihood, so the NLL is "
        "U-shaped in beta. In eta_dec it is least at the std of what the units leave unexplained, "
        "which is below all values here: over these it rises.",
        grids=VARIED,
        deliverables=("likelihood_table", "published_numbers"),
        published="What is printed as active units is the share of (sample, latent) pairs with KL "
        "of 0.01 and more, here kl_active_share; one seed.",
    ),
    Row(
        id="E10",
        name="Correlation of x and y",
        networks="cvae-relu",
        claim="The stronger x and y correlate, the more units collapse.",
        theory="The residual covariance is (1 - rho^2) I: identical pairs leave nothing to encode, "
        "and all modes cross the threshold beta eta_dec^2 = 0.25 at rho^2 = 0.75 (0.125 at 0.875 "
        "where beta counts half). A quadratic x is uncorrelated: linear theory sees it as random; "
        "a ReLU network may not. All modes are alike, so theory keeps all of them or none. But "
        "from 1,000 pairs a network can memorise y given x: the more it does, the less is left for "
        "units to carry.",
        grids=(
            _pairs("pairs", 128, {"name": PAIRS}, spread=True),
            *(
                _pairs(f"random pairs: {hidden} hidden units", hidden, {}, spread=False)
                for hidden in (256, 512)
            ),
        ),
        deliverables=("collapse_curves", "likelihood_table", "correlation", "published_numbers"),
        published="One seed; of the commands in the README none makes a quadratic pair.",
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
                str(network["name"]), RunData("mnist", rows=10_000),
                {"model": "vae", "latent_dim": 8, "sigma": "input"}, network,
                Settings(learning_rate=1e-3, epochs=epochs, seed=1),
                {"eta_dec": etas, "beta": ONSET_BETAS},
                evaluation=Evaluation(split="train", rows=2000), spread=True,
                quick_vary={"eta_dec": (1.0,), "beta": (0.1, 0.2, 0.4, 0.8, 1.6)},
            )
            for network, epochs, etas in (
                ({"name": "mlp", "hidden": (128,)}, 200, (0.8, 1.0, 1.25)),
                ({"name": "cnn", "hidden": (64,), "channels": (16, 16)}, 200, (1.0,)),
            )
        ),
        deliverables=("onset",),
    ),
)  # fmt: skip
