"""`audit_loss` on batches and orders of arguments, what it says of data, and reductions alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import posterior_collapse as pc
from losses import cross_entropy, flat, kl, per_row, squared
from posterior_collapse.adapters import audit_loss

D, K = 12, 3
ROLES = ("reconstruction", "target", "mean", "log_var")
DIGITS = pc.load("digits").x


# The shape of a row


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (DIGITS, (64,)),
        (pc.load("digits"), (64,)),
        (DIGITS.reshape(-1, 1, 8, 8), (1, 8, 8)),
        ((DIGITS[:, :3], DIGITS), (64,)),
        (iter(np.split(DIGITS, 3)), (64,)),
    ],
)
def test_data_tell_how_many_features_there_are(data: Any, shape: tuple[int, ...]) -> None:
    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        assert y_hat.shape[1:] == y.shape[1:] == shape
        return functional.mse_loss(y_hat, y) + 0.01 * kl(mean, log_var).sum(1).mean()

    found = audit_loss(loss, latents=8, data=data)
    assert (found.value, found.sizes.features) == (pytest.approx(0.01 * 64 / 2), shape)


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (None, "nothing;"),
        (pc.Moments.from_arrays(DIGITS), "nothing;"),
        (np.random.default_rng(0).integers(0, 5, (20, 6)), "nothing, of whole numbers"),
    ],
)
def test_where_data_do_not_tell_the_features_are_asked_for(data: Any, got: str) -> None:
    with pytest.raises(pc.InvalidArgumentError, match=f"features: got {got}"):
        audit_loss(squared, latents=8, data=data)


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
        "a linear model keeps 8 of 8 units; above 21.8 times the weight total collapse is stable, "
        "whatever the network, if its decoder sees z alone."
    )
    assert found.advice(9).startswith("Give the model at least 9 latent units. Lower your weight")
    assert loose.advice(9) == "Give the model at least 9 latent units."
    assert found.advice(62).startswith("The data have only 61 modes")
    with pytest.raises(pc.InvalidArgumentError, match="active"):
        found.advice(0)
    with pytest.raises(pc.InvalidArgumentError, match="Pass data="):
        audit_loss(readme, features=64, latents=8).advice()
    absolute = audit_loss(
        lambda y_hat, y, m, v: (y_hat - y).abs().sum(1).mean() + kl(m, v).sum(1).mean(),
        features=64, latents=8, data=DIGITS,
    )  # fmt: skip
    with pytest.raises(pc.InvalidArgumentError, match=r"a gradient that jumps .*huber_loss"):
        absolute.advice()
    alone = audit_loss(
        lambda y_hat, y, m, v: squared(y_hat, y), features=64, latents=8, data=DIGITS
    )
    with pytest.raises(pc.InvalidArgumentError, match=r"^loss: "):
        alone.advice()


@pytest.mark.parametrize("variance", [0.105, 0.12, 0.29, 0.57, 1.1, 1.15])
def test_the_advised_weight_is_below_a_threshold_of_three_digits(variance: float) -> None:
    """At the threshold itself the unit is dead."""
    rows = math.sqrt(variance) * np.array([[1.0], [-1.0]] * 20)

    def loss(weight: float) -> Callable[..., Tensor]:
        return lambda o, y, m, s: 0.5 * squared(o, y) + weight * per_row(m, s)

    advice = audit_loss(loss(10.0), features=1, latents=1, data=rows).advice(1)
    weight = float(advice.split(" to ")[1].split(" ")[0])
    assert 0.98 * variance < weight < 0.9999 * variance
    assert audit_loss(loss(weight), features=1, latents=1, data=rows).forecast.n_active == 1


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
    assert "keeps 0 of 8 units; above 0.838 times the weight total" in above.findings[-1].text
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
        hot = np.eye(4)[labels] if features == (20, 4) else np.eye(4)[labels].transpose(0, 2, 1)
        whole = audit_loss(loss, features=features, latents=K, data=hot)
        assert whole.forecast.onset == pytest.approx(expected, rel=1e-9)

    def smoothed(r: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        error = functional.cross_entropy(r, y, label_smoothing=0.1) * 20
        return error + per_row(mean, log_var)

    def alone(r: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(r, y, label_smoothing=0.1) * 20

    found = audit_loss(smoothed, features=(4, 20), latents=K, data=labels)
    own = pc.onset(alone, labels, output_shape=(4, 20))
    assert found.likelihood == "other"
    assert found.forecast.onset == pytest.approx(own.beta, rel=1e-9)


def fitted(o: Tensor, y: Tensor, m: Tensor, s: Tensor, weight: float = 6.0) -> Tensor:
    return 32 * functional.mse_loss(o, y).log() + weight * per_row(m, s)


def averaged(o: Tensor, y: Tensor, m: Tensor, s: Tensor, weight: float = 6.0) -> Tensor:
    return squared(o, y) + weight * kl(m, s).mean()


def logits(o: Tensor, y: Tensor, m: Tensor, s: Tensor, weight: float = 3.0) -> Tensor:
    return cross_entropy(o, y) + weight * per_row(m, s)


def robust(o: Tensor, y: Tensor, m: Tensor, s: Tensor, weight: float = 0.3) -> Tensor:
    error = functional.huber_loss(o, y, delta=0.2, reduction="sum") / len(o)
    return error + weight * per_row(m, s)


@pytest.mark.parametrize("loss", [fitted, averaged, logits, robust])
def test_more_units_than_there_are_need_a_weight_too(loss: Any) -> None:
    """Both of what it says together keep 20 units; a weight a little higher does not."""
    advice = audit_loss(loss, features=64, latents=8, data=DIGITS).advice(20)
    assert advice.startswith("Give the model at least 20 latent units. Lower your weight from ")
    weight = float(advice.split(" to ")[1].split(" ")[0])
    for factor, enough in ((1.0, True), (1.03, False)):

        def turned(*roles: Tensor, at: float = factor * weight) -> Tensor:
            return loss(*roles, weight=at)

        kept = audit_loss(turned, features=64, latents=20, data=DIGITS).forecast.n_active
        assert (kept >= 20) == enough


# Cross-entropies of rows that are not one-hot


def multinomial(o: Tensor, y: Tensor) -> Tensor:
    return -(y * functional.log_softmax(o, -1)).sum(-1).mean()


def ratings() -> Any:
    """Rows of 12 items, of which each user has some."""
    rng = np.random.default_rng(0)
    taste = rng.standard_normal((600, 2)) @ rng.standard_normal((2, D))
    return (rng.random((600, D)) < 0.9 / (1 + np.exp(1 - taste))) * 1.0


@pytest.mark.parametrize("kind", ["multi-hot", "three each", "counts"])
@pytest.mark.parametrize("error", [multinomial, functional.cross_entropy])
def test_a_cross_entropy_of_counts_goes_by_its_own_onset(kind: str, error: Any) -> None:
    rows = ratings()
    if kind == "counts":
        rows = rows * np.random.default_rng(1).integers(1, 5, rows.shape)
    if kind == "three each":
        rows = np.random.default_rng(1).permuted(np.tile([1.0] * 3 + [0.0] * 9, (600, 1)), axis=1)
    found = audit_loss(
        lambda o, y, m, s: error(o, y) + 0.5 * per_row(m, s), features=D, latents=K, data=rows
    )
    # By hand: at log p of the pooled counts the curvature is E[n] (diag(p) - pp').
    n = rows.sum(1, keepdims=True)
    p = rows.sum(0) / rows.sum()
    scores = (rows - n * p) / np.sqrt(n.mean() * p)
    assert found.forecast.onset == pytest.approx(np.linalg.eigvalsh(np.cov(scores.T, ddof=0))[-1])
    assert found.forecast.spec.beta == pytest.approx(0.5)
    assert found.findings[0].code == "multinomial"


def test_parts_that_make_one_are_a_categorical() -> None:
    rows = ratings()
    rows = rows[rows.sum(1) > 0]
    found = audit_loss(
        lambda o, y, m, s: multinomial(o, y) + 0.5 * per_row(m, s),
        features=D,
        latents=K,
        data=rows / rows.sum(1, keepdims=True),
    )
    assert (found.value, found.likelihood) == (pytest.approx(0.5), "categorical")


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
        ({"kl_batch": "sum", "batch_size": 0}, "batch_size: got 0; expected a whole number of at"),
    ],
)
def test_no_effective_beta(options: dict[str, Any], message: str) -> None:
    with pytest.raises(pc.InvalidArgumentError, match=message):
        pc.effective_beta(**options)


# Missing values that the loss leaves out, and roots of a mean


GAPS = np.where(np.random.default_rng(1).random(DIGITS.shape) < 0.3, np.nan, DIGITS)


@pytest.mark.parametrize("averaged", [False, True])
def test_missing_values_that_the_loss_leaves_out_have_a_forecast(averaged: bool) -> None:
    def loss(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        there = ~y.isnan()
        error = ((o - torch.nan_to_num(y)) ** 2 * there).sum()
        if averaged:
            return error / there.sum() + 0.002 * per_row(m, s)
        return error / (2 * len(y)) + 0.1 * per_row(m, s)

    found = audit_loss(loss, latents=8, data=GAPS)
    # By hand: what is missing has neither score nor curvature.
    there, mean = ~np.isnan(GAPS), np.nanmean(GAPS, axis=0)
    scores = np.where(there, GAPS - mean, 0) / np.sqrt(there.mean(axis=0))
    most = np.linalg.eigvalsh(np.cov(scores.T, ddof=0))[-1]
    weight = 0.002 * there.sum(axis=1).mean() / 2 if averaged else 0.1
    times = found.forecast.onset / found.forecast.spec.beta
    assert times == pytest.approx(most / weight, rel=1e-9)
    assert f"above {times:.3g} times the weight" in found.text
    assert "no forecast" not in found.text


def test_a_root_mean_square_of_the_batch_has_a_forecast() -> None:
    found = audit_loss(
        lambda o, y, m, s: functional.mse_loss(o, y).sqrt() + 0.01 * per_row(m, s),
        latents=8,
        data=DIGITS,
    )
    most, spread = np.linalg.eigvalsh(np.cov(DIGITS.T, ddof=0))[-1], DIGITS.var(axis=0).mean()
    times = found.forecast.onset / found.forecast.spec.beta
    assert times == pytest.approx(most / (0.01 * 64 * math.sqrt(spread)), rel=1e-9)
    assert "no forecast" not in found.text


def test_where_there_is_no_forecast_none_is_claimed() -> None:
    found = audit_loss(
        lambda o, y, m, s: (o - y).square().sum().sqrt() + 0.01 * per_row(m, s),
        latents=8,
        data=DIGITS,
    )
    assert [f.code for f in found.findings] == ["other-error", "no-forecast"]
    assert "takes that into account" not in found.text
    assert "Pass data=" not in found.text
