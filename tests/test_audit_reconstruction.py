"""`audit_loss` on the reconstruction terms that people write."""

from __future__ import annotations

import json
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
    NegativeBinomial,
)
from torch.nn import functional

import posterior_collapse as pc
from losses import cross_entropy, flat, per_row, squared
from posterior_collapse.adapters import audit_loss

D, K = 12, 3
ROLES = ("reconstruction", "target", "mean", "log_var")
DIGITS = pc.load("digits").x
BINARY = (DIGITS > 0.5) * 1.0


def tokens(r: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return -(y * functional.log_softmax(r, -1)).sum((1, 2)).mean() + per_row(mean, log_var)


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


def test_weights_of_a_cross_entropy_are_no_scale_of_the_data() -> None:
    weights = WEIGHTS + 0.5

    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        each = functional.binary_cross_entropy_with_logits(o, y, reduction="none")
        return (weights * each).sum(-1).mean() + 0.3 * per_row(mean, log_var)

    found = audit_loss(loss, features=64, latents=8, data=BINARY)
    assert found.findings[0].code == "feature-weights"
    assert "root" not in found.text
    p = BINARY.mean(0)
    noise = np.sqrt(np.where(p * (1 - p) > 0, p * (1 - p), 1.0) / weights.numpy())
    by_hand = np.linalg.eigvalsh(np.cov(((BINARY - p) / noise).T, ddof=0))[-1]
    assert found.forecast.onset == pytest.approx(by_hand, rel=1e-6)
    assert "root" not in audit_loss(loss, features=64, latents=8).text


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


def masked(seen: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A squared error of the targets that count; others may be NaN."""

    def error(o: Tensor, y: Tensor) -> Tensor:
        counts = seen(y)
        return (o - torch.where(counts, y, o)).square().sum(-1).mean()

    return error


SEEN = masked(lambda y: y > 0)
NOT_NAN = masked(lambda y: ~y.isnan())
BELOW = masked(lambda y: y < 0.9)


def with_kl(error: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda o, y, m, s: error(o, y) + 0.3 * per_row(m, s)


@pytest.mark.parametrize("error", [SEEN, BELOW])
def test_a_mask_shows_on_the_data(error: Any) -> None:
    found = audit_loss(with_kl(error), features=64, latents=8, data=DIGITS)
    assert (found.value, found.likelihood) == (None, "other")
    assert "masked-targets" in [f.code for f in found.findings]
    assert "other-error" not in [f.code for f in found.findings]
    assert "as under a mask" in found.text
    assert found.forecast.onset == pytest.approx(pc.onset(error, DIGITS).beta, rel=1e-9)
    passing_by = audit_loss(
        with_kl(error), features=64, latents=8, data=iter([DIGITS[:900], DIGITS[900:]])
    )
    assert passing_by.text == found.text
    json.dumps(found.to_dict())


@pytest.mark.parametrize(("error", "what"), [(SEEN, "of 0"), (NOT_NAN, "that are NaN")])
def test_a_mask_of_zeros_or_nan_shows_without_data(error: Any, what: str) -> None:
    found = audit_loss(with_kl(error), features=D, latents=K, beta=0.15)
    assert (found.value, found.matches) == (None, False)
    assert f"On targets {what} the error's weight differs" in found.text
    assert "Pass data=" in found.text


def test_a_mask_that_leaves_out_none_of_the_data_is_a_plain_squared_error() -> None:
    plain = audit_loss(with_kl(squared), features=64, latents=8, data=DIGITS)
    assert audit_loss(with_kl(NOT_NAN), features=64, latents=8, data=DIGITS).text == plain.text
    seen = audit_loss(with_kl(SEEN), features=64, latents=8, data=DIGITS + 1)
    assert seen.value == pytest.approx(0.15)


def test_missing_values_that_are_masked_get_no_beta() -> None:
    data = DIGITS.copy()
    data[1234, 20] = np.nan  # no other row has one
    found = audit_loss(with_kl(NOT_NAN), features=64, latents=8, data=data)
    assert (found.value, found.spec.beta) == (None, pytest.approx(0.3))
    assert [f.code for f in found.findings] == ["masked-targets"]
    assert found.forecast.onset == pytest.approx(pc.onset(squared, DIGITS).beta, rel=1e-3)


@pytest.mark.parametrize(
    ("error", "rows"),
    [
        (lambda o, y: 32 * (functional.mse_loss(o, y) + 0 * y.sum()).log(), DIGITS),
        (lambda o, y: functional.mse_loss(o.float(), y.float()), 255 * DIGITS),
        (lambda o, y: functional.binary_cross_entropy(o, y) * 64, DIGITS),
        (functional.poisson_nll_loss, (16 * DIGITS).round()),
        (lambda o, y: torch.as_tensor(np.square(o.numpy() - y.numpy()).mean()), 16 * DIGITS),
        (lambda o, y: (WEIGHTS * (o - y).square()).sum(-1).mean(), DIGITS),
    ],
)
def test_errors_without_a_mask_hold_on_data(error: Any, rows: Any) -> None:
    found = audit_loss(with_kl(error), features=64, latents=8, data=rows)
    assert found.reconstruction.masked is None
    assert found.reconstruction.kind != "other"


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


# Outputs that are cut off


CLIPS: list[Any] = [
    functional.relu,
    lambda o: o.clamp(0, 1),
    lambda o: o.clamp(-1, 1),
    functional.hardtanh,
]


@pytest.mark.parametrize("clip", CLIPS)
def test_a_clipped_output_is_no_swap_of_the_arguments(clip: Any) -> None:
    """Next to the data's mean, which lies within, it is the plain squared error."""
    clipped = with_kl(lambda o, y: squared(clip(o), y))
    found = audit_loss(clipped, features=64, latents=8, data=DIGITS)
    plain = audit_loss(with_kl(squared), features=64, latents=8, data=DIGITS)
    assert (found.order, found.value) == (ROLES, plain.value)
    assert found.forecast.onset == plain.forecast.onset
    assert [f.code for f in found.findings] == ["clipped-output"]
    assert audit_loss(clipped, features=D, latents=K).findings[0].code == "clipped-output"


def test_where_the_mean_is_cut_off_there_is_no_squared_error() -> None:
    clipped = with_kl(lambda o, y: squared(o.clamp(min=-1), y))
    found = audit_loss(clipped, features=64, latents=8, data=DIGITS - 2)
    assert (found.order, found.value, found.forecast) == (ROLES, None, None)
    within = audit_loss(clipped, features=64, latents=8, data=DIGITS)
    assert within.value == pytest.approx(0.15)


@pytest.mark.parametrize(
    "error",
    [
        lambda o, y: squared(functional.leaky_relu(o), y),
        lambda o, y: squared(o.abs(), y),
        lambda o, y: (o - y).clamp(-2, 2).square().sum(-1).mean(),
        lambda o, y: functional.huber_loss(o.clamp(-1, 2), y, reduction="sum") / len(o),
    ],
)
def test_what_is_a_squared_error_only_near_by_is_neither(error: Any) -> None:
    """In the log-variance's place or the mean's: the arguments are turned for the KL alone."""
    found = audit_loss(with_kl(error), features=64, latents=8)
    assert (found.order, found.value, found.likelihood) == (ROLES, None, "other")
    assert [f.code for f in found.findings] == ["other-error"]
    turned = audit_loss(lambda o, y, s, m: with_kl(error)(o, y, m, s), features=64, latents=8)
    assert turned.order == ("reconstruction", "target", "log_var", "mean")
