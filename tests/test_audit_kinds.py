"""`audit_loss` on the ways in which people write their losses, and what it says of data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Independent,
    NegativeBinomial,
    Normal,
)
from torch.nn import functional

import posterior_collapse as pc
from posterior_collapse.adapters import audit_loss

D, K = 12, 3
ROLES = ("reconstruction", "target", "mean", "log_var")
DIGITS = pc.load("digits").x
BINARY = (DIGITS > 0.5) * 1.0


def kl(mean: Tensor, log_var: Tensor) -> Tensor:
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


def per_row(mean: Tensor, log_var: Tensor) -> Tensor:
    return kl(mean, log_var).sum(-1).mean()


def squared(y_hat: Tensor, y: Tensor) -> Tensor:
    return (y_hat - y).square().sum(-1).mean()


def cross_entropy(o: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(o, y, reduction="sum") / len(o)


# The KL


def sampled(draw: Callable[[Tensor, Tensor], Tensor], prior: Any = None) -> Callable[..., Tensor]:
    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        q, p = Normal(mean, (log_var / 2).exp()), prior or Normal(0.0, 1.0)
        z = draw(mean, (log_var / 2).exp())
        return squared(y_hat, y) + (q.log_prob(z) - p.log_prob(z)).sum(-1).mean()

    return loss


def softplus(y_hat: Tensor, y: Tensor, mean: Tensor, rho: Tensor) -> Tensor:
    return squared(y_hat, y) + per_row(mean, 2 * functional.softplus(rho).log())


PRIOR = Normal(0.3, 0.7)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (sampled(lambda m, s: Normal(m, s).rsample()), {"sampled": True}),
        (sampled(lambda m, s: Independent(Normal(m, s), 1).rsample()), {"sampled": True}),
        (sampled(lambda m, s: m + s * torch.randn_like(m)), {"sampled": True}),
        (sampled(lambda m, s: m + s * torch.randn(m.shape)), {"sampled": True}),
        (sampled(lambda m, s: m + s * torch.empty_like(m).normal_()), {"sampled": True}),
        (sampled(torch.normal), {"sampled": True}),
        (sampled(lambda m, s: Normal(m, s).rsample(), PRIOR), {"prior_mean": 0.3}),
        (
            lambda o, y, m, s: squared(o, y) + per_row(m, 2 * s),
            {"spread": "log-std", "prior_std": 1.0},
        ),
        (softplus, {"spread": "softplus std"}),
        (
            lambda o, y, m, s: squared(o, y) + per_row(m, functional.softplus(s).log()),
            {"spread": "softplus variance"},
        ),
        (
            lambda o, y, m, s: (
                squared(o, y)
                + torch.distributions.kl_divergence(Normal(m, (s / 2).exp()), PRIOR).sum(-1).mean()
            ),
            {"prior_mean": 0.3, "prior_std": 0.7},
        ),
    ],
)
def test_a_kl_in_any_dress_is_read(loss: Any, said: dict[str, Any]) -> None:
    """Each with a summed squared error: beta eta_dec^2 = 1/2."""
    found = audit_loss(loss, features=D, latents=K)
    assert found.value == pytest.approx(0.5, rel=1e-9)
    assert found.kl.kind == "gaussian"
    for name, value in said.items():
        got = getattr(found.kl, name)
        assert got == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)
    assert "no multiple" not in found.text


NOT_TRAINED: list[tuple[Any, tuple[str, ...]]] = [
    (lambda o, y, m, s: squared(o, y) + per_row(m, s).item(), ("mean", "log_var")),
    (lambda o, y, m, s: squared(o, y) + per_row(m, s).detach(), ("mean", "log_var")),
    (lambda o, y, m, s: squared(o, y) + per_row(m.detach(), s), ("mean",)),
    (lambda o, y, m, s: squared(o, y) + per_row(m, s.data), ("log_var",)),
    (lambda o, y, m, s: squared(o.detach(), y) + per_row(m, s), ("reconstruction",)),
    (
        lambda o, y, m, s: functional.huber_loss(o, y) + per_row(m, s).detach(),
        ("mean", "log_var"),
    ),
    # The score's mean is 0: only a path through the samples trains.
    (sampled(lambda m, std: Normal(m, std).sample()), ("mean", "log_var")),
]


@pytest.mark.parametrize(("loss", "cut"), NOT_TRAINED)
def test_what_no_gradient_reaches_is_not_trained(loss: Any, cut: tuple[str, ...]) -> None:
    """Its value is that of a sound loss: only its gradient tells."""
    found = audit_loss(loss, features=D, latents=K, data=DIGITS[:, 20 : 20 + D], beta=1.0)
    assert found.cut == cut
    assert found.value is found.beta is found.forecast is None
    term = "error" if "reconstruction" in cut else "kl"
    assert found.findings[0].code == f"{term}-not-trained"
    assert found.matches is False
    with pytest.raises(pc.InvalidArgumentError, match=f"reaches the {' and '.join(cut)}"):
        _ = found.spec
    json.dumps(found.to_dict())


def test_a_sampled_kl_to_another_prior_is_said_to_be_one() -> None:
    found = audit_loss(
        sampled(lambda m, s: Normal(m, s).rsample(), torch.distributions.Laplace(0.0, 1.0)),
        features=D,
        latents=K,
    )
    assert found.beta is None
    assert found.findings[0].code == "not-a-kl"
    assert "samples of the posterior" in found.findings[0].text


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_loss_that_autograd_cannot_follow(dtype: Any) -> None:
    """As of numpy, or of Keras on another backend: single precision, and no gradients."""

    def loss(*arguments: Any) -> Any:
        o, y, mean, log_var = (np.asarray(part).astype(dtype) for part in arguments)
        error = -(y * np.log(o) + (1 - y) * np.log(1 - o)).sum()
        return error + 3 * 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).sum()

    found = audit_loss(loss, features=D, latents=K)
    assert found.value == pytest.approx(3, rel=1e-4)
    assert found.spec.likelihood == "bernoulli"
    with pytest.raises(pc.InvalidArgumentError, match="a smaller batch_size="):
        audit_loss(loss, features=784, latents=K)


def test_a_variance_as_the_last_argument() -> None:
    found = audit_loss(
        lambda o, y, m, v: squared(o, y) + per_row(m, v.log()),
        features=D,
        latents=K,
        log_var=False,
    )
    assert found.value == pytest.approx(0.5)
    assert found.kl.spread == "variance"


def test_priors_and_weights_of_each_unit() -> None:
    stds = torch.linspace(0.5, 2, K)
    own_prior = audit_loss(
        lambda o, y, m, s: (
            squared(o, y)
            + torch.distributions.kl_divergence(Normal(m, (s / 2).exp()), Normal(stds - 1, stds))
            .sum(-1)
            .mean()
        ),
        features=D,
        latents=K,
    )
    assert own_prior.value == pytest.approx(0.5)
    weights = torch.tensor([2.0, 1.0, 3.0])
    own_weight = audit_loss(
        lambda o, y, m, s: squared(o, y) + (weights * kl(m, s)).sum(-1).mean(),
        features=D,
        latents=K,
    )
    assert own_weight.kl.weights == pytest.approx((2, 1, 3))
    assert own_weight.value == pytest.approx(0.5)  # of the cheapest
    assert own_weight.findings[0].code == "unit-weights"


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "other"])
def test_units_of_different_weight_live_by_their_own(likelihood: str) -> None:
    """The strongest modes have the cheapest units: each as in a forecast at its own weight."""
    weights = np.linspace(0.1, 2, 8)[::-1].copy()
    error: Callable[[Tensor, Tensor], Tensor] = {
        "gaussian": lambda o, y: 0.5 * squared(o, y),
        "bernoulli": cross_entropy,
        "other": lambda o, y: 0.5 * squared(o.sigmoid(), y),
    }[likelihood]

    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return error(o, y) + (kl(mean, log_var) * torch.from_numpy(weights)).sum(1).mean()

    found = audit_loss(loss, features=64, latents=8, data=DIGITS)
    level = found.forecast.levels[0]
    assert found.forecast.spec.likelihood == likelihood
    own = []
    for weight in np.sort(weights):

        def alike(o: Tensor, y: Tensor, m: Tensor, s: Tensor, weight: float = weight) -> Tensor:
            return error(o, y) + weight * per_row(m, s)

        own.append(audit_loss(alike, features=64, latents=8, data=DIGITS).forecast)
    for name in ("kl", "information", "posterior_std", "threshold", "data_variance"):
        expected = [getattr(one.levels[0], name)[i] for i, one in enumerate(own)]
        assert getattr(level, name) == pytest.approx(expected, rel=1e-6), name
    assert level.status == tuple(one.levels[0].status[i] for i, one in enumerate(own))
    assert 0 < found.forecast.n_active < 8
    assert found.forecast.onset == pytest.approx(own[0].onset)
    # Lowered as it says, the loss keeps all of them.
    factor = float(found.advice(8).split(" by ")[1].split(" ")[0])
    bears = float((level.data_variance / level.threshold).min())
    assert factor < bears < 1.02 * factor


def test_units_of_different_weight_are_advised_and_drawn_by_their_own() -> None:
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0])
    x = np.random.default_rng(0).standard_normal((500, 6)) * [8, 6, 4, 3, 1, 0.1]

    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return (0.5 * squared(o, y) + 4 * (kl(mean, log_var) * weights).sum(1)).mean()

    found = audit_loss(loss, features=6, latents=4, data=x).forecast
    critical = found.levels[0].critical_beta
    advice = found.advice()
    assert (advice.active, found.n_active) == (3, 3)
    assert {change.parameter: change.active for change in advice.changes} == {
        "beta": 4, "eta_dec": 4,
    }  # fmt: skip
    beta, eta_dec = (change.value for change in advice.changes)
    assert critical[3] * 0.98 < beta < critical[3]
    assert eta_dec == pytest.approx((critical[3] / 4) ** 0.5, rel=0.01)
    betas = [1.0, 4.0, 5.0, 20.0, 70.0]
    drawn = found.phase_diagram(betas).active.ravel().tolist()
    assert drawn == [int((critical > b).sum()) for b in betas] == [4, 3, 2, 1, 0]


def test_the_loss_of_units_of_different_weight_is_attained() -> None:
    weights = np.linspace(0.1, 2, 8)

    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return 0.5 * squared(o, y) + (kl(mean, log_var) * torch.from_numpy(weights)).sum(1).mean()

    found = audit_loss(loss, features=64, latents=8, data=DIGITS).forecast
    p = found.parameters()
    x = DIGITS - DIGITS.mean(0)
    means = x @ p["W1"].T
    error = np.square(x - means @ p["U1"].T).sum(1).mean()
    error += (np.square(p["U1"]).sum(0) * p["sigma_1"] ** 2).sum()
    spent = 0.5 * (np.square(means).mean(0) + p["sigma_1"] ** 2 - 1 - 2 * np.log(p["sigma_1"]))
    constant = 32 * math.log(2 * math.pi)
    assert found.loss == pytest.approx(0.5 * error + weights @ spent + constant, rel=1e-9)


def test_noise_in_the_reconstruction_stays_refused() -> None:
    with pytest.raises(pc.InvalidArgumentError, match="two values for the same arguments"):
        audit_loss(
            lambda o, y, m, s: squared(o + torch.randn_like(o), y) + per_row(m, s),
            features=D,
            latents=K,
        )


# The reconstruction


def tokens(r: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return -(y * functional.log_softmax(r, -1)).sum((1, 2)).mean() + per_row(mean, log_var)


def flat(r: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    error = functional.cross_entropy(r.reshape(-1, r.shape[-1]), y.reshape(-1))
    return error + per_row(mean, log_var)


def negative_binomial(link: Callable[[Tensor], Tensor], r: Any = 2.5) -> Callable[..., Tensor]:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        mu = link(o)
        error = (r + y) * torch.log1p(mu / r) - y * (mu / r).log()
        return error.sum(-1).mean() + 3 * per_row(mean, log_var)

    return loss


@pytest.mark.parametrize(
    ("loss", "features", "beta", "likelihood", "link", "reduction"),
    [
        (tokens, (20, 50), 1.0, "categorical", "logits", "sum"),
        (flat, (20, 50), 20.0, "categorical", "logits", "mean"),
        (
            lambda r, y, m, s: functional.cross_entropy(r, y) + per_row(m, s),
            (50, 20),
            20.0,
            "categorical",
            "logits",
            "mean",
        ),
        (
            lambda r, y, m, s: functional.nll_loss(r, y) + per_row(m, s),
            10,
            1.0,
            "categorical",
            "log-probabilities",
            None,
        ),
        (
            lambda r, y, m, s: -Categorical(logits=r).log_prob(y).sum(-1).mean() + per_row(m, s),
            (20, 10),
            1.0,
            "categorical",
            "logits",
            "sum",
        ),
        (
            lambda o, y, m, s: -Bernoulli(logits=o).log_prob(y).sum(-1).mean() + 3 * per_row(m, s),
            D,
            3.0,
            "bernoulli",
            "logits",
            "sum",
        ),
        (
            lambda o, y, m, s: -Bernoulli(o).log_prob(y).mean() + 3 * per_row(m, s),
            D,
            3.0 * D,
            "bernoulli",
            "probabilities",
            "mean",
        ),
        (
            lambda o, y, m, s: functional.poisson_nll_loss(o, y) + 3 * per_row(m, s),
            D,
            3.0 * D,
            "poisson",
            "log rates",
            "mean",
        ),
        (
            lambda o, y, m, s: (
                -torch.distributions.Poisson(o).log_prob(y).sum(-1).mean() + 3 * per_row(m, s)
            ),
            D,
            3.0,
            "poisson",
            "rates",
            "sum",
        ),
        (
            lambda o, y, m, s: (
                -NegativeBinomial(torch.tensor(2.5).double(), logits=o).log_prob(y).sum(-1).mean()
                + 3 * per_row(m, s)
            ),
            D,
            3.0,
            "negative-binomial",
            "logits",
            "sum",
        ),
        (negative_binomial(torch.exp), D, 3.0, "negative-binomial", "log means", "sum"),
        (negative_binomial(lambda o: o), D, 3.0, "negative-binomial", "means", "sum"),
    ],
)
def test_likelihoods(
    loss: Any, features: Any, beta: float, likelihood: Any, link: str, reduction: str | None
) -> None:
    found = audit_loss(loss, features=features, latents=K)
    assert found.value == pytest.approx(beta, rel=1e-6)
    assert (found.likelihood, found.link) == (likelihood, link)
    assert found.spec.likelihood == likelihood
    assert found.reductions["features"] == reduction
    assert found.findings[0].code == likelihood
    assert "eta_dec^2" not in found.text
    if likelihood == "negative-binomial":
        assert found.spec.dispersion == pytest.approx(2.5)


def test_a_mean_over_tokens_is_one_over_positions() -> None:
    found = audit_loss(flat, features=(20, 50), latents=K)
    assert "The error is a mean over 20 positions and the KL a sum over latents." in found.text


WEIGHTS = torch.linspace(0, 2, 64, dtype=torch.float64)


def weighted(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    error = 0.5 * (WEIGHTS * (y_hat - y).square()).sum(-1).mean()
    return error + 0.3 * per_row(mean, log_var)


def test_weights_of_features_are_no_one_eta_dec() -> None:
    found = audit_loss(weighted, features=64, latents=8, data=DIGITS)
    assert found.value is None
    assert found.reconstruction.weights == pytest.approx(WEIGHTS.numpy() / 2)
    assert found.findings[0].code == "feature-weights"
    scaled = pc.forecast(DIGITS * WEIGHTS.sqrt().numpy(), pc.VAESpec(8, beta=0.3))
    assert found.forecast.onset == pytest.approx(scaled.onset, rel=1e-6)
    assert found.forecast.n_active == scaled.n_active
    assert found.forecast.spec.beta == pytest.approx(0.3)


@pytest.mark.parametrize(
    "error",
    [
        lambda o, y: cross_entropy(o, 0.9 * y + 0.05),
        lambda o, y: cross_entropy(o / 2, y),
        lambda o, y: -ContinuousBernoulli(logits=o).log_prob(y).sum(1).mean(),
    ],
)
def test_what_is_linear_in_its_target_is_no_categorical(error: Any) -> None:
    """Nor does a swap of its arguments make it one."""

    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return error(o, y) + 0.3 * per_row(mean, log_var)

    found = audit_loss(loss, features=D, latents=K)
    assert (found.value, found.likelihood, found.order) == (None, "other", ROLES)
    few = BINARY[:, 20:24]
    on_data = audit_loss(loss, features=4, latents=2, data=few)
    assert on_data.forecast.onset == pytest.approx(pc.onset(error, few).beta, rel=1e-9)


def test_swapped_arguments_of_logits_are_found_out() -> None:
    found = audit_loss(
        lambda y, o, m, s: cross_entropy(o, y) + 3 * per_row(m, s), features=D, latents=K
    )
    assert (found.value, found.likelihood) == (pytest.approx(3), "bernoulli")
    assert found.order == ("target", "reconstruction", "mean", "log_var")


@pytest.mark.parametrize(
    "error",
    [
        lambda o, y: functional.kl_div(o, y, reduction="sum") / len(o),
        lambda o, y: -(o * y).sum(1).mean(),
        lambda o, y: -(o.log() * y).sum(1).mean(),
    ],
)
def test_a_divergence_of_probabilities_stays_a_categorical(error: Any) -> None:
    found = audit_loss(lambda o, y, m, s: error(o, y) + 3 * per_row(m, s), features=D, latents=K)
    assert (found.value, found.likelihood) == (pytest.approx(3), "categorical")


def convolved(y_hat: Tensor, y: Tensor) -> Tensor:
    kernel = torch.linspace(-1, 1, 72, dtype=torch.float64).reshape(8, 1, 3, 3).sin()
    return functional.mse_loss(functional.conv2d(y_hat, kernel), functional.conv2d(y, kernel))


@pytest.mark.parametrize(
    ("error", "features"),
    [
        (lambda o, y: functional.smooth_l1_loss(o, y, reduction="sum") / len(o), D),
        (lambda o, y: functional.huber_loss(o, y, delta=5.0, reduction="sum") / len(o), D),
        (lambda o, y: -torch.distributions.StudentT(3.0, o, 0.1).log_prob(y).sum(-1).mean(), D),
        (lambda o, y: squared(o.sigmoid(), y), D),
        (
            lambda o, y: (
                functional.binary_cross_entropy_with_logits(
                    o, y, reduction="sum", pos_weight=torch.tensor(3.0)
                )
                / len(o)
            ),
            D,
        ),
        (convolved, (1, 8, 8)),
    ],
)
def test_other_errors_are_not_taken_for_squared_ones(error: Any, features: Any) -> None:
    found = audit_loss(
        lambda o, y, m, s: error(o, y) + 0.01 * per_row(m, s), features=features, latents=K
    )
    assert (found.value, found.likelihood) == (None, "other")
    assert found.spec == pc.VAESpec(
        K, beta=found.beta, eta_enc=1.0, sigma="input", likelihood="other"
    )
    assert found.beta == pytest.approx(0.01)
    assert found.findings[0].code == "other-error"
    assert "mean over 64 features" not in found.text


@pytest.mark.parametrize(
    "error",
    [
        lambda o, y: (functional.binary_cross_entropy(o, y, reduction="none") * WEIGHTS).sum(1),
        lambda o, y: functional.binary_cross_entropy(o, 0.9 * y + 0.05, reduction="none").sum(1),
        lambda o, y: functional.binary_cross_entropy(o, y / 255, reduction="none").sum(1),
        lambda o, y: (
            functional.binary_cross_entropy(o, y, reduction="none") + (o - y).square()
        ).sum(1),
    ],
)
def test_a_search_may_step_out_of_a_losss_domain(error: Any) -> None:
    """There torch raises, of probabilities beyond [0, 1]."""
    found = audit_loss(
        lambda o, y, m, s: error(o, y).mean() + 0.5 * per_row(m, s),
        features=64,
        latents=8,
        data=DIGITS[::4],
    )
    assert found.forecast.onset == pytest.approx(pc.onset(error, DIGITS[::4]).beta, rel=1e-6)
    assert "ass data=" not in found.text


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_onset_of_another_error_is_the_losss_own(reduction: str) -> None:
    def error(o: Tensor, y: Tensor) -> Tensor:
        return functional.huber_loss(o, y, delta=0.2, reduction=reduction)

    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        total = per_row(mean, log_var) * (len(o) if reduction == "sum" else 1)
        return error(o, y) + 0.002 * total

    found = audit_loss(loss, features=64, latents=8, data=DIGITS)
    own = pc.onset(error, DIGITS)
    assert found.forecast.onset == pytest.approx(own.beta, rel=1e-9)
    assert found.forecast.spec.beta == pytest.approx(0.002)
    assert found.forecast.n_active == min(8, int(np.sum(own.ratios > 0.002)))
    json.dumps(found.to_dict())


def test_a_fitted_std_is_advised_on_by_its_own_threshold() -> None:
    def loss(weight: float) -> Callable[..., Tensor]:
        return lambda o, y, m, s: 32 * functional.mse_loss(o, y).log() + weight * per_row(m, s)

    found = audit_loss(loss(6.0), features=64, latents=8, data=DIGITS)
    assert found.learned_eta_dec
    assert found.forecast.n_active == 4
    weight = float(found.advice(6).split(" to ")[1].split(" ")[0])
    turned = audit_loss(loss(weight), features=64, latents=8, data=DIGITS)
    assert turned.forecast.n_active >= 6


def test_an_absolute_error_has_none() -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return functional.l1_loss(o, y) + 0.01 * per_row(mean, log_var)

    found = audit_loss(loss, features=64, latents=8, data=DIGITS)
    assert found.forecast is None
    assert [f.code for f in found.findings] == ["absolute-error", "mean-and-sum", "no-forecast"]
    assert "huber_loss" in found.findings[-1].action


def test_a_network_of_another_dtype() -> None:
    net = torch.nn.Conv2d(1, 2, 3)
    with pytest.raises(pc.InvalidArgumentError, match=r"loss\(y_hat.float\(\)") as caught:
        audit_loss(
            lambda o, y, m, s: functional.mse_loss(net(o), net(y)) + per_row(m, s),
            features=(1, 8, 8),
            latents=K,
        )
    assert "\n" not in str(caught.value)


# The batch and the order


def classic(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    divergence = kl(mean, log_var).sum() / (128 * 784)
    return functional.binary_cross_entropy(y_hat, y) + divergence


def test_a_sum_whose_factor_makes_it_a_mean_is_beta_1() -> None:
    found = audit_loss(classic, features=784, latents=K, batch_size=128)
    assert found.value == pytest.approx(1)
    assert [f.code for f in found.findings] == ["bernoulli", "batch"]
    assert "beta is exactly 1 at the batch size 128" in found.text
    other = audit_loss(classic, features=784, latents=K)
    assert "exactly 1 at a batch size of 128" in other.text


@pytest.mark.parametrize(
    ("loss", "order"),
    [
        (
            lambda y, o, m, s: functional.binary_cross_entropy(o, y) * D + per_row(m, s),
            ("target", "reconstruction", "mean", "log_var"),
        ),
        (
            lambda m, s, o, y: functional.binary_cross_entropy(o, y) * D + per_row(m, s),
            ("mean", "log_var", "reconstruction", "target"),
        ),
        (
            lambda o, y, s, m: functional.binary_cross_entropy(o, y) * D + per_row(m, s),
            ("reconstruction", "target", "log_var", "mean"),
        ),
        (
            lambda o, y, m, s: functional.binary_cross_entropy(o, y) * D + per_row(m, s),
            ROLES,
        ),
    ],
)
def test_the_order_of_the_arguments_is_found_out(loss: Any, order: tuple[str, ...]) -> None:
    found = audit_loss(loss, features=D, latents=K, data=None)
    assert found.value == pytest.approx(1)
    assert found.order == order
    assert ("order" in [f.code for f in found.findings]) == (order != ROLES)


# What it says of data


def readme(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return functional.mse_loss(y_hat, y) + 0.01 * per_row(mean, log_var)


def at_weight(weight: float) -> Callable[..., Tensor]:
    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return functional.mse_loss(y_hat, y) + weight * per_row(mean, log_var)

    return loss


def test_the_advice_is_in_the_users_weight_and_holds() -> None:
    found = audit_loss(readme, features=64, latents=8, data=DIGITS)
    assert found.weight == pytest.approx(0.01)
    assert found.forecast.n_active == 4
    assert found.findings[-1].code == "some-collapse"
    advice = found.advice(6)
    assert advice in audit_loss(readme, features=64, latents=6, data=DIGITS).text
    weight = float(advice.split(" to ")[1].split(" ")[0])
    assert advice.startswith(f"Lower your weight from 0.01 to {weight:g} (multiply it by 0.7")
    for factor, active in ((1.0, 6), (1.02, 5)):
        turned = audit_loss(at_weight(weight * factor), features=64, latents=8, data=DIGITS)
        assert turned.forecast.n_active == active
    assert found.advice(4) == "Nothing needs to change."
    loose = audit_loss(at_weight(0.001), features=64, latents=8, data=DIGITS)
    assert loose.text.endswith(
        "a linear model keeps 8 of 8 units; above 21.8 times the weight no unit gains by a small "
        "step, whatever the network."
    )
    assert found.advice(9) == "Give the model at least 9 latent units."
    assert found.advice(62).startswith("The data have only 61 modes")
    with pytest.raises(pc.InvalidArgumentError, match="active"):
        found.advice(0)
    with pytest.raises(pc.InvalidArgumentError, match="Pass data="):
        audit_loss(readme, features=64, latents=8).advice()


def test_a_weight_that_cannot_be_seen_is_multiplied() -> None:
    def fixed(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        scale = torch.tensor([1.0] * 8)  # a model of 8 units only
        return functional.mse_loss(y_hat, y) + 0.01 * (scale * kl(mean, log_var)).sum(1).mean()

    for loss in (fixed, pc.effective_beta(0.01, features=64, reconstruction="mean")):
        found = audit_loss(loss, features=64, latents=8, data=DIGITS)
        assert found.weight is None
        assert found.advice(6).startswith("Multiply your KL weight by 0.72")


def test_how_many_times_its_weight_a_loss_bears() -> None:
    """F1: BCE + 3 KL on digits is below its onset of 3.35, not above a Gaussian's."""

    def loss(weight: float) -> Callable[..., Tensor]:
        def bernoulli(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
            error = functional.binary_cross_entropy(y_hat, y, reduction="sum")
            return error + weight * kl(mean, log_var).sum()

        return bernoulli

    found = audit_loss(loss(3.0), features=(1, 8, 8), latents=8, data=DIGITS.reshape(-1, 1, 8, 8))
    assert found.forecast.onset / found.forecast.spec.beta == pytest.approx(3.35216 / 3, rel=1e-5)
    assert found.forecast.n_active == 2
    above = audit_loss(loss(4.0), features=64, latents=8, data=DIGITS)
    assert above.forecast.n_active == 0
    assert above.findings[-1].code == "all-collapse"
    assert "keeps 0 of 8 units; above 0.838 times the weight no" in above.findings[-1].text
    assert above.forecast.loss == pytest.approx(27.1103, abs=1e-4)


def test_class_numbers_as_data() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.standard_normal((500, 1)) + rng.standard_normal((500, 20)) > 0) * 1
    labels = labels + 2 * (rng.random((500, 20)) > 0.7)
    one_hot = np.eye(4)[labels].reshape(500, -1)
    expected = pc.forecast(one_hot, pc.VAESpec(K, likelihood="categorical")).onset
    for loss, features in (
        (flat, (20, 4)),
        (lambda r, y, m, s: functional.cross_entropy(r, y) + per_row(m, s), (4, 20)),
    ):
        found = audit_loss(loss, features=features, latents=K, data=labels)
        assert found.forecast.onset == pytest.approx(expected, rel=1e-9)
        assert found.forecast.spec.beta == pytest.approx(20)

    def smoothed(r: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        error = functional.cross_entropy(r, y, label_smoothing=0.1) * 20
        return error + per_row(mean, log_var)

    def alone(r: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(r, y, label_smoothing=0.1) * 20

    found = audit_loss(smoothed, features=(4, 20), latents=K, data=labels)
    own = pc.onset(alone, labels, output_shape=(4, 20))
    assert found.likelihood == "other"
    assert found.forecast.onset == pytest.approx(own.beta, rel=1e-9)


# Floors


@pytest.mark.parametrize(
    ("loss", "kind", "floor", "over"),
    [
        (lambda o, y, m, s: (per_row(m, s) - 5).abs(), "capacity", 5.0, "all"),
        (lambda o, y, m, s: kl(m, s).mean(0).clamp(min=0.3).sum(), "free bits", 0.3, "unit"),
        (lambda o, y, m, s: kl(m, s).sum(-1).clamp(min=3).mean(), "free bits", 3.0, "all"),
        (lambda o, y, m, s: functional.relu(kl(m, s).sum(-1) - 3).mean(), "free bits", 3.0, "all"),
    ],
)
def test_under_a_floor_units_live_whatever_the_weight(
    loss: Any, kind: str, floor: float, over: str
) -> None:
    def whole(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return squared(o, y) + 100 * loss(o, y, mean, log_var)

    found = audit_loss(whole, features=64, latents=8, data=DIGITS)
    assert (found.kl.kind, found.kl.floor_over) == (kind, over)
    assert found.kl.floor == pytest.approx(floor, rel=1e-6)
    assert found.value == pytest.approx(50)  # what exceeds the floor is charged with
    assert found.forecast.n_active == 8
    assert found.spec == found.forecast.spec
    spent = found.forecast.levels[0].kl
    if over == "all":
        assert spent.sum() == pytest.approx(floor, rel=1e-6)
    else:
        assert spent.min() == pytest.approx(floor, rel=1e-6)
    with pytest.raises(pc.InvalidArgumentError, match=r"costs nothing up to .* Pass data="):
        _ = audit_loss(whole, features=64, latents=8).spec


@pytest.mark.parametrize("latents", [1, 8, 64])
@pytest.mark.parametrize(
    ("floor", "prior_std"),
    [(0.1, 1.0), (0.5, 1.0), (3.0, 1.0), (5.0, 1.0), (10.0, 1.0), (25.0, 1.0), (3.0, 0.7)],
)
def test_a_floor_of_any_size_is_read(floor: float, latents: int, prior_std: float) -> None:
    """Whether or not the posteriors that are tried first lie on both sides of it."""
    shift = 2 * math.log(prior_std)

    def read(charge: Callable[[Tensor], Tensor]) -> Any:
        def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
            return squared(o, y) + 30 * charge(kl(mean / prior_std, log_var - shift))

        found = audit_loss(loss, features=D, latents=latents).kl
        return found.kind, found.floor, found.floor_over, found.weight

    each = "unit" if latents > 1 else "all"
    for charge, kind, over in (
        (lambda k: (k.sum(1).mean() - floor).abs(), "capacity", "all"),
        (lambda k: (k - floor).abs().sum(1).mean(), "capacity", each),
        (lambda k: k.sum(1).mean().clamp(min=floor), "free bits", "all"),
        (lambda k: (k - floor).relu().sum(1).mean(), "free bits", each),
    ):
        expected = (kind, pytest.approx(floor, rel=1e-6), over, pytest.approx(30, rel=1e-6))
        assert read(charge) == expected


@pytest.mark.parametrize(
    ("charge", "kind"),
    [(lambda k: (k - 3).abs(), "capacity"), (lambda k: k.clamp(min=0.2), "free bits")],
)
def test_a_floor_in_single_precision(charge: Any, kind: str) -> None:
    def loss(*arguments: Tensor) -> Tensor:
        o, y, mean, log_var = (part.float() for part in arguments)
        return squared(o, y) + 30 * charge(per_row(mean, log_var))

    found = audit_loss(loss, features=64, latents=8).kl
    assert (found.kind, found.floor_over) == (kind, "all")
    assert found.floor == pytest.approx({"capacity": 3, "free bits": 0.2}[kind], rel=1e-3)


@pytest.mark.parametrize(
    ("charge", "over"),
    [
        (lambda k: (k.sum(1).mean() - 5) ** 2, "all units together"),
        (lambda k: ((k.mean(0) - 5) ** 2).sum(), "each unit"),
    ],
)
def test_a_squared_capacity_is_named(charge: Any, over: str) -> None:
    found = audit_loss(
        lambda o, y, m, s: squared(o, y) + 30 * charge(kl(m, s)), features=D, latents=8
    )
    assert found.beta is None
    assert found.kl.weight == pytest.approx(30, rel=1e-6)
    assert [f.code for f in found.findings] == ["squared-capacity"]
    assert f"(5 nats of {over})" in found.text


@pytest.mark.parametrize("weight", [1, 4, 40])
def test_no_weight_collapses_a_loss_with_a_floor(weight: float) -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return squared(o, y) + weight * per_row(mean, log_var).clamp(min=2)

    found = audit_loss(loss, features=64, latents=8, data=DIGITS)
    assert 0 < found.forecast.n_active < 8
    assert "times the weight" not in found.text
    assert found.findings[-1].text == (
        f"On these data a linear model keeps {found.forecast.n_active} of 8 units; no weight "
        "collapses all, for a KL up to 2 nats costs nothing."
    )


def test_an_elbo_with_its_sign_unturned_is_named() -> None:
    def loss(sign: float) -> Callable[..., Tensor]:
        return lambda o, y, m, s: sign * (0.5 * squared(o, y) + 0.3 * per_row(m, s))

    turned, found = (audit_loss(loss(s), features=64, latents=8, data=DIGITS) for s in (1.0, -1.0))
    assert found.value == turned.value == pytest.approx(0.3)
    assert found.forecast.n_active == turned.forecast.n_active
    assert [f.code for f in found.findings] == ["signs", "some-collapse"]
    assert found.findings[0].action.startswith("Minimise minus it")
    assert found.advice(8).startswith("Multiply your KL weight by 0.")


def test_above_a_floor_the_weight_counts() -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return squared(o, y) + 0.2 * (per_row(mean, log_var) - 0.5).abs()

    found = audit_loss(loss, features=64, latents=8, data=DIGITS)
    assert found.spec.beta == pytest.approx(0.1)


# From reductions alone


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"likelihood": "bernoulli"}, 1.0),
        ({"likelihood": "bernoulli", "reconstruction": "mean", "features": 784}, 784.0),
        (
            {
                "likelihood": "bernoulli",
                "reconstruction": "mean",
                "features": 784,
                "weight": 1 / (128 * 784),
                "kl_batch": "sum",
                "batch_size": 128,
            },
            1.0,
        ),
        ({"likelihood": "poisson", "kl": "mean", "latents": 4}, 0.25),
        ({"likelihood": "categorical", "reconstruction": "mean", "features": 20}, 20.0),
        ({"likelihood": "negative-binomial", "weight": 0.5}, 0.5),
    ],
)
def test_effective_beta_of_every_likelihood(options: dict[str, Any], value: float) -> None:
    found = pc.effective_beta(**options)
    assert math.isclose(found.value, value, rel_tol=1e-12)
    assert found.likelihood == options["likelihood"]
    assert "eta_dec" not in found.text
    audited = audit_loss(found, features=64, latents=4)
    assert audited.spec.likelihood == options["likelihood"]
    assert audited.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "bernouli"}, "Did you mean 'bernoulli'"),
        ({"likelihood": "other"}, "audit_loss"),
        ({"likelihood": "poisson", "half": True}, "half: got a value with likelihood 'poisson'"),
        ({"likelihood": "poisson", "gaussian_std": 2.0}, "gaussian_std: got a value"),
    ],
)
def test_no_effective_beta(options: dict[str, Any], message: str) -> None:
    with pytest.raises(pc.InvalidArgumentError, match=message):
        pc.effective_beta(**options)
