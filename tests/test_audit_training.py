"""`audit_loss` on losses that train by other weights than their values show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

import posterior_collapse as pc
from losses import cross_entropy, kl, per_row, squared
from posterior_collapse.adapters import audit_loss
from posterior_collapse.adapters.probing import Probe

D, K = 12, 4
DIGITS = pc.load("digits").x


# Part of the KL behind detach


def balanced(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """As in world models: the second part trains the prior alone, of which there is none here."""
    still = per_row(mean.detach(), log_var.detach())
    return squared(o, y) + 0.1 * per_row(mean, log_var) + 0.5 * still


def of_units(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    nats = (kl(mean, log_var) * torch.arange(1.0, K + 1)).sum(-1).mean()
    return squared(o, y) + 0.25 * nats + 0.75 * nats.detach()


def free(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    nats = 0.8 * kl(mean, log_var) + 0.2 * kl(mean, log_var).detach()
    return squared(o, y) + nats.mean(0).clamp(min=1).sum()


def in_single(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return balanced(o.float(), y.float(), mean.float(), log_var.float())


@pytest.mark.parametrize(
    ("loss", "value", "whole", "part"),
    [
        (balanced, 0.05, 0.6, 0.1),
        (in_single, 0.05, 0.6, 0.1),
        (of_units, 0.125, 1.0, 0.25),
        (free, 0.4, 1.0, 0.8),
    ],
)
def test_the_part_of_a_kl_that_trains_is_its_weight(
    loss: Any, value: float, whole: float, part: float
) -> None:
    """Which a step of plain gradient descent shows: it is that of the loss without the rest."""
    found = audit_loss(loss, features=D, latents=K)
    assert found.value == pytest.approx(value, rel=1e-5)
    assert found.kl.pulls == pytest.approx((part / whole, part / whole), rel=1e-5)
    said = next(one for one in found.findings if one.code == "kl-partly-trained")
    text = f"The KL's weight is {whole:.4g} in the loss's value and {part:.4g} in its gradient"
    if found.kl.weights is not None:
        text = f"The gradient has {part / whole:.4g} times the KL of the loss's value"
    assert text in said.text


@pytest.mark.parametrize(
    "prior", [Normal(0.0, 1.0), Normal(torch.arange(K) / 4, 1 + torch.arange(K) / 4)]
)
def test_units_whose_kl_is_detached_weigh_nothing(prior: Any) -> None:
    """Whatever the units' priors."""

    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        nats = kl_divergence(Normal(mean, (log_var / 2).exp()), prior).mean(0)
        return squared(o, y) + nats[: K // 2].sum().detach() + nats[K // 2 :].sum()

    found = audit_loss(loss, features=D, latents=K)
    assert found.kl.weights == pytest.approx([0.0] * (K // 2) + [1.0] * (K // 2), abs=1e-6)
    assert "The gradient has 0.5 times the KL" in found.text or prior.stddev.numel() > 1
    assert "Units have different KL weights, from 0 to 1" in found.text


@pytest.mark.parametrize("part", [1.0, 0.995])
def test_a_kl_that_trains_whole_is_not_named(part: float) -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        nats = per_row(mean - 0.3, 2 * functional.softplus(log_var).log())
        return squared(o, y) + part * nats + (1 - part) * nats.detach()

    found = audit_loss(loss, features=D, latents=K)
    assert found.value == pytest.approx(0.5)
    assert found.kl.pulls == (1.0, 1.0)
    assert [one.code for one in found.findings] == ["prior-mean", "last-argument"]


def test_a_kl_whose_mean_trains_by_another_weight_has_no_beta() -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return squared(o, y) + 0.5 * per_row(mean, log_var) + 0.5 * per_row(mean.detach(), log_var)

    found = audit_loss(loss, latents=K, data=DIGITS)
    assert found.value is found.beta is found.forecast is None
    assert found.kl.pulls == pytest.approx((0.5, 1.0))
    assert "the mean feels 0.5 and the log_var 1" in found.text


@pytest.mark.parametrize("times", [2.0, -1.0])
def test_a_gradient_may_have_more_of_the_kl_or_turn_it(times: float) -> None:
    """Straight through: the value is the KL's, the gradient so many times that."""

    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        nats = per_row(mean, log_var)
        return squared(o, y) + times * nats + ((1 - times) * nats).detach()

    found = audit_loss(loss, features=D, latents=K)
    assert found.value == pytest.approx(times / 2)
    assert f"is 1 in the loss's value and {times:.4g} in its gradient" in found.text


def test_a_gradient_that_is_nan_says_nothing_of_the_weight() -> None:
    """On rows that are all alike, as no batch is in training, a root of their variance has none."""

    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return squared(o, y) + per_row(mean, log_var) + 1e-3 * mean.var(0).sqrt().sum()

    found = audit_loss(loss, features=D, latents=K)
    assert found.value == pytest.approx(0.5)
    assert found.findings == ()


# A weight that goes by the error


def by_error(error: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return error(o, y) + 0.01 * error(o, y).detach() * per_row(mean, log_var)

    return loss


def by_product(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return squared(o, y) * (1 + 0.01 * per_row(mean, log_var))


def by_mean(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Asperti and Trentin's balance (arXiv:2002.07514): gamma^2 is the squared error."""
    return squared(o, y) + functional.mse_loss(o, y).detach() * per_row(mean, log_var)


def spread_out(x: Any) -> Any:
    kept = x[:, x.std(axis=0) > 0]
    return (kept - kept.mean(axis=0)) / kept.std(axis=0)


@pytest.mark.parametrize(
    ("loss", "times"), [(by_error(squared), 0.01), (by_product, 0.01), (by_mean, 1 / 61)]
)
def test_a_weight_that_goes_by_the_error_is_that_at_collapse(loss: Any, times: float) -> None:
    """At collapse the squared error is the data's whole variance: of 61 standard features 61."""
    x = spread_out(DIGITS)
    value = times * x.shape[1] / 2
    found = audit_loss(loss, latents=8, data=x)
    assert found.value == pytest.approx(value, rel=2e-3)  # of batches, which leave a few rows out
    assert found.kl.weighed_by == "error at collapse"
    assert found.weight is None  # what stands in the loss is not it
    onset = np.linalg.eigvalsh(np.cov(x.T, bias=True))[-1]
    assert found.forecast.onset / found.forecast.spec.beta == pytest.approx(onset / value, rel=2e-3)
    assert "The KL's weight goes by the error. What is said here holds at collapse" in found.text
    without = audit_loss(loss, latents=8, features=x.shape[1])
    assert without.value is without.beta is without.forecast is None
    assert "Pass data=: the onset goes by the error at collapse." in without.text


def test_at_collapse_a_cross_entropy_is_the_datas_entropy() -> None:
    x = (DIGITS > 0.5).astype(float)
    mean = x.mean(axis=0)
    entropy = -(xlogy(mean, mean) + xlogy(1 - mean, 1 - mean)).sum()
    found = audit_loss(by_error(cross_entropy), latents=8, data=x)
    assert found.beta == pytest.approx(0.01 * entropy, rel=2e-3)


def test_at_collapse_a_cross_entropy_of_class_numbers_too() -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice(5, size=(600, 7), p=[0.4, 0.3, 0.2, 0.1, 0.0])

    def error(o: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(o.transpose(1, 2), y, reduction="sum") / len(o)

    found = audit_loss(by_error(error), latents=3, features=(7, 5), data=classes)
    shares = np.stack([(classes == one).mean(axis=0) for one in range(5)])
    assert found.beta == pytest.approx(-0.01 * xlogy(shares, shares).sum(), rel=2e-3)


@pytest.mark.parametrize("given", [{"features": 64}, {"data": DIGITS}])
def test_a_weight_that_goes_by_each_rows_error_has_no_beta(given: dict[str, Any]) -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        error = (o - y).square().sum(-1)
        return (error + 0.01 * error.detach() * kl(mean, log_var).sum(-1)).mean()

    found = audit_loss(loss, latents=K, **given)
    assert found.value is found.beta is found.forecast is None
    assert "goes by each row's own error: no single beta" in found.text


def test_with_a_batch_of_one_row_the_error_is_each_rows_own() -> None:
    found = audit_loss(by_error(squared), latents=K, data=DIGITS, batch_size=1)
    assert found.kl.weighed_by == "row's error"
    assert found.value is None


def test_of_a_large_batch_few_rows_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    value, asked = Probe.value, []

    def counted(*at: Any) -> float:
        asked.append(at)
        return value(*at)

    monkeypatch.setattr(Probe, "value", counted)
    found = audit_loss(by_error(squared), features=D, latents=K, batch_size=512)
    assert found.kl.weighed_by == "error"
    assert len(asked) < 256


def absolute(o: Tensor, y: Tensor) -> Tensor:
    return (o - y).abs().sum(-1).mean()


def in_numpy(o: Tensor, y: Tensor) -> Any:
    return np.square(o.numpy() - y.numpy()).sum(-1).mean()


@pytest.mark.parametrize(
    ("error", "data"),
    [(absolute, DIGITS), (in_numpy, DIGITS[:, 20:24]), (cross_entropy, 16 * DIGITS[:40, 20:24])],
)
def test_an_error_that_no_constant_output_makes_least_is_said_not_raised(
    error: Any, data: Any
) -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Any:
        return error(o, y) + 0.01 * float(error(o, y)) * per_row(mean, log_var)

    found = audit_loss(loss, latents=K, data=data)
    assert found.value is found.beta is found.forecast is None
    assert "No constant output was found at which the error on these data is least" in found.text


def test_the_weight_of_an_elbo_goes_by_its_error_too() -> None:
    def elbo(*at: Tensor) -> Tensor:
        return -by_error(squared)(*at)

    found, turned = (audit_loss(loss, latents=K, data=DIGITS) for loss in (by_error(squared), elbo))
    assert turned.value == pytest.approx(found.value)
    assert [one.code for one in turned.findings] == ["signs", "weighed-by-error"]
    without = audit_loss(elbo, latents=K, features=D)
    assert [one.code for one in without.findings] == ["signs", "weighed-by-error"]


def test_part_of_a_kl_that_the_error_weighs_may_stand_behind_detach() -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        nats = per_row(mean, log_var)
        return squared(o, y) + 0.01 * squared(o, y).detach() * (0.8 * nats + 0.2 * nats.detach())

    x = spread_out(DIGITS)
    found = audit_loss(loss, latents=K, data=x)
    assert found.value == pytest.approx(0.8 * 0.01 * x.shape[1] / 2, rel=2e-3)


# A std or variance to which something is added


def of_normal(std: Callable[[Tensor], Tensor], prior_std: float = 1.0) -> Callable[..., Tensor]:
    def loss(o: Tensor, y: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        prior = Normal(0.0, prior_std)
        return squared(o, y) + kl_divergence(Normal(mean, std(raw)), prior).sum(-1).mean()

    return loss


@pytest.mark.parametrize(
    ("std", "prior_std", "said"),
    [
        (lambda raw: functional.softplus(raw) + 0.1, 1.0, "softplus std + 0.1"),
        (lambda raw: functional.softplus(raw) + 1e-3, 1.0, "softplus std + 0.001"),
        (lambda raw: raw.exp() + 0.1, 1.0, "log-std, std + 0.1"),
        (lambda raw: (raw / 2).exp() + 0.05, 1.0, "log-variance, std + 0.05"),
        (lambda raw: (raw.exp() + 0.01).sqrt(), 1.0, "log-variance, variance + 0.01"),
        (lambda raw: (functional.softplus(raw) + 0.2).sqrt(), 2.0, "softplus variance + 0.2"),
    ],
)
def test_what_is_added_to_a_std_is_no_narrower_prior(std: Any, prior_std: float, said: str) -> None:
    """The KL is least where the mean is the prior's and the std too, as the finding's words say."""
    loss = of_normal(std, prior_std)
    found = audit_loss(loss, features=D, latents=K)
    assert found.value == pytest.approx(0.5, rel=1e-6)
    assert found.kl.prior_std == pytest.approx(prior_std, rel=1e-6)
    assert found.kl.spread == said
    assert f"reads its last argument as a {said}." in found.text

    def charged(raw: float) -> float:
        zero = torch.zeros(1, K, dtype=torch.float64)
        return float(loss(zero, zero, zero, zero + raw))

    least = minimize_scalar(charged, bounds=(-5, 5), method="bounded")
    assert float(std(torch.tensor(least.x))) == pytest.approx(found.kl.prior_std, rel=1e-4)


@pytest.mark.parametrize(
    ("std", "prior_std", "said"),
    [
        (lambda std: std + 0.1, 1.0, "std + 0.1"),
        (lambda std: std + 1e-3, 2.0, "std + 0.001"),
        (lambda std: (std.square() + 0.01).sqrt(), 1.0, "std, variance + 0.01"),
        (lambda variance: (variance + 0.05).sqrt(), 1.0, "variance + 0.05"),
        (lambda variance: variance.sqrt() + 0.05, 0.5, "variance, std + 0.05"),
    ],
)
def test_what_is_added_to_a_given_std_is_no_narrower_prior_either(
    std: Any, prior_std: float, said: str
) -> None:
    found = audit_loss(of_normal(std, prior_std), features=D, latents=K, log_var=False)
    assert found.value == pytest.approx(0.5, rel=1e-6)
    assert found.kl.prior_std == pytest.approx(prior_std, rel=1e-6)
    assert found.kl.spread == said


def test_a_kl_drawn_or_free_is_read_with_what_is_added() -> None:
    def drawn(o: Tensor, y: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        q = Normal(mean, functional.softplus(raw) + 0.1)
        z = q.rsample()
        return squared(o, y) + (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1).mean()

    def free(o: Tensor, y: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        q = Normal(mean, functional.softplus(raw) + 0.1)
        nats = kl_divergence(q, Normal(0.0, 1.0)).mean(0)
        return squared(o, y) + nats.clamp(min=0.5).sum()

    for loss, kind, floor in ((drawn, "gaussian", 0.0), (free, "free bits", 0.5)):
        found = audit_loss(loss, features=D, latents=K)
        assert (found.kl.kind, found.kl.spread) == (kind, "softplus std + 0.1")
        assert found.kl.floor == pytest.approx(floor, rel=1e-6)
        assert found.value == pytest.approx(0.5, rel=1e-6)


def test_what_is_added_is_told_to_three_digits() -> None:
    """As single precision has no more of them, and at the end of what is sought."""
    for std in (lambda raw: (raw.float() / 2).exp() + 1e-3, lambda raw: (raw.exp() + 1e-4).sqrt()):
        found = audit_loss(of_normal(std), features=D, latents=K)
        assert len(found.kl.spread.split(" + ")[1]) <= len("0.0001") + 2


# Floors of groups


@pytest.mark.parametrize(
    "groups",
    [
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [[0, 1, 2], [3], [4, 5, 6, 7]],
        [[0], [1, 2, 3, 4, 5, 6, 7]],
        [[0], [1], [2], [3], [4], [5], [6, 7]],
    ],
)
def test_a_floor_that_a_group_of_units_shares_has_no_beta(groups: list[list[int]]) -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        nats = kl(mean, log_var).mean(0)
        return squared(o, y) + sum(nats[group].sum().clamp(min=1) for group in groups)

    for given in ({"features": 64}, {"data": DIGITS}):
        found = audit_loss(loss, latents=8, **given)
        assert found.value is found.beta is found.forecast is None
        assert [one.code for one in found.findings] == ["group-free-bits"]


def floors(*floor: float) -> Callable[..., Tensor]:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        least = torch.tensor(floor, dtype=torch.float64)
        return squared(o, y) + kl(mean, log_var).maximum(least).sum(-1).mean()

    return loss


def weights(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    nats = torch.tensor([2.0, 1.0, 1.0, 1.0]) * kl(mean, log_var).clamp(min=0.5)
    return squared(o, y) + nats.sum(-1).mean()


@pytest.mark.parametrize(
    "loss",
    [floors(1, 1, 2, 2), floors(4, 2, 1, 1), floors(1, 1, 0, 0), floors(1, 0, 0, 0), weights],
)
def test_floors_or_weights_of_their_own_have_no_beta(loss: Any) -> None:
    found = audit_loss(loss, features=D, latents=K)
    assert found.value is None
    assert [one.code for one in found.findings] == ["group-free-bits"]
    assert "units or groups of them have floors, weights or priors of their own" in found.text


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mask_of_all_units_together_is_read_of_many(dtype: torch.dtype) -> None:
    """Whose KL together exceeds its floor wherever that of one does not."""

    def loss(*at: Tensor) -> Tensor:
        o, y, mean, log_var = (one.to(dtype) for one in at)
        nats = kl(mean, log_var).sum(-1)
        return squared(o, y) + (nats * (nats > 3)).mean()

    found = audit_loss(loss, features=D, latents=64)
    assert (found.kl.kind, found.kl.floor_over) == ("free bits", "all")
    assert found.kl.floor == pytest.approx(3, rel=1e-5)
    assert found.value == pytest.approx(0.5, rel=1e-5)
