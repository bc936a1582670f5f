"""Losses in which rows are charged for what they have in common, and arguments that are lacking."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import posterior_collapse as pc
from losses import per_row, squared
from posterior_collapse.adapters import audit_loss
from posterior_collapse.adapters.probing import Probe, Sizes
from posterior_collapse.errors import InvalidArgumentError

D, K = 20, 4


def covariance(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """The loss of DIP-VAE I (Kumar et al., 2018)."""
    cov = torch.cov(mean.T, correction=0)
    of_mean = 10 * (cov.diagonal() - 1).square().sum() + (cov - cov.diag().diag()).square().sum()
    return squared(y_hat, y) + per_row(mean, log_var) + of_mean


def decomposed(information: float, correlation: float) -> Callable[..., Tensor]:
    """A KL in its three parts, on the batch's own mixture (Chen et al., 2018)."""

    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        q, prior = Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)
        z = mean + q.stddev * torch.randn_like(mean)
        each = Normal(mean[None], q.stddev[None]).log_prob(z[:, None]) - math.log(len(z))
        joint, product = each.sum(-1).logsumexp(1) + (K - 1) * math.log(len(z)), each.logsumexp(1)
        parts = (
            information * (q.log_prob(z).sum(-1) - joint),
            correlation * (joint - product.sum(-1)),
            product.sum(-1) - prior.log_prob(z).sum(-1),
        )
        return squared(y_hat, y) + sum(parts).mean()

    return loss


@pytest.mark.parametrize("loss", [covariance, decomposed(0.0, 1.0), decomposed(3.0, 1.0)])
def test_what_charges_rows_that_differ_by_themselves_has_no_beta(loss) -> None:
    found = audit_loss(loss, features=D, latents=K)
    assert found.beta is None
    assert [one.code for one in found.findings] == ["batch-penalty"]


@pytest.mark.parametrize("correlation", [1.0, 6.0])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_total_correlation_leaves_the_weight_of_each_unit(correlation, batch_size) -> None:
    found = audit_loss(decomposed(1.0, correlation), features=D, latents=K, batch_size=batch_size)
    assert (found.kl.kind, found.kl.weight) == ("gaussian", pytest.approx(1, rel=1e-6))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_prior_of_each_row_is_no_penalty_on_the_batch(batch_size) -> None:
    to_prior = torch.randn(D, K, generator=torch.Generator().manual_seed(0)).double()

    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return squared(y_hat, y) + per_row(mean - y @ to_prior, log_var)

    found = audit_loss(loss, features=D, latents=K, batch_size=batch_size)
    assert (found.kl.kind, found.beta) == ("gaussian", pytest.approx(0.5))


def test_under_a_covariance_of_1_collapse_is_no_minimum() -> None:
    """Why no beta is named: with a decoder that ignores z, units that vary cost less."""
    x = torch.tensor(pc.load("digits").x)
    y_hat, strongest = x.mean(0).expand_as(x), torch.linalg.svd(x - x.mean(0))[0][:, :K]
    apart = strongest * math.sqrt(len(x))  # of variance 1 each
    collapsed, alive = (covariance(y_hat, x, c * apart, 0 * apart) for c in (0.0, 0.5))
    assert alive < collapsed - 10


def test_what_a_loss_lacks_is_named() -> None:
    def by_place(*given: Tensor) -> Tensor:
        y_hat, y, mean, log_var = given[:4]
        return squared(y_hat, y) + per_row(mean, log_var) + 0 * given[4].sum()

    def by_name(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor, z: Tensor) -> Tensor:
        return squared(y_hat, y) + per_row(mean, log_var) + 0 * z.sum()

    words = re.escape("or z = mean + (log_var / 2).exp() * torch.randn_like(mean): lambda")
    for loss in (by_place, by_name):
        with pytest.raises(InvalidArgumentError, match=words):
            audit_loss(loss, features=D, latents=K)
        wrapped = audit_loss(
            lambda o, y, m, s: loss(o, y, m, s, m + (s / 2).exp() * torch.randn_like(m)),  # noqa: B023
            features=D,
            latents=K,
        )
        assert wrapped.kl.weight == pytest.approx(1)


def test_a_loss_without_kl_is_read_in_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each order of the arguments is tried; in most the reconstruction is not looked at."""
    calls: list[int] = []
    value = Probe.value

    def counted(self: Probe, *args: Any, **kwargs: Any) -> float:
        calls.append(1)
        return value(self, *args, **kwargs)

    monkeypatch.setattr(Probe, "value", counted)
    found = audit_loss(lambda y_hat, y, *_: (y_hat - y).square().mean(), features=64, latents=8)
    assert [one.code for one in found.findings] == ["no-kl"]
    by_differences = 4 * 8 * 64  # of one batch's reconstruction, number by number
    assert len(calls) < 2 * by_differences


def test_a_loss_whose_slopes_cancel_is_read_all_the_same() -> None:
    """Signs of 17 errors cancelled along even steps; and what is cut off moves one way only."""

    def absolute(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> float:
        return float(np.abs(y_hat.numpy() - y.numpy()).sum())

    probe = Probe(absolute, Sizes(1, (17,), K))
    at, y = probe.made_up(4)
    assert probe.gradient(at, y) == pytest.approx((at - y).sign().numpy(), abs=1e-9)
    kept = Probe(lambda o, *_: float(np.minimum(o.numpy(), 0.5).sum()), Sizes(2, (3,), K))
    edge = torch.full((2, 3), 0.5, dtype=torch.float64)
    assert kept.gradient(edge, edge) == pytest.approx(0.5)


@pytest.mark.parametrize(("samples", "weighted"), [(1, False), (2, True), (5, True)])
@pytest.mark.parametrize("inner", [False, True], ids=["samples first", "samples second"])
def test_samples_weighed_against_each_other_have_no_beta(samples, weighted, inner) -> None:
    """An importance-weighted bound (Burda et al., 2016): its term is less than the KL."""

    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor, k: int = samples) -> Tensor:
        shape = (len(mean), k, K) if inner else (k, len(mean), K)
        over, std = (1, (log_var / 2).exp()) if inner else (0, (log_var / 2).exp())
        q = Normal(mean.unsqueeze(over).expand(shape), std.unsqueeze(over).expand(shape))
        z = q.rsample()
        log_w = (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(-1)
        return squared(y_hat, y) - (log_w.logsumexp(over) - math.log(k)).mean()

    found = audit_loss(loss, features=D, latents=K)
    if not weighted:
        assert (found.beta, found.findings) == (pytest.approx(0.5), ())
        return
    assert found.beta is None
    assert [one.code for one in found.findings] == ["weighted-samples"]
    apart = torch.full((4000, K), 2.0, dtype=torch.float64)
    out = torch.zeros((4000, D), dtype=torch.float64)
    charged = loss(out, out, apart, 0 * apart - 0.9)
    assert float(charged) < 0.9 * float(per_row(apart, 0 * apart - 0.9))


def test_samples_that_are_averaged_have_their_beta() -> None:
    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        q = Normal(mean, (log_var / 2).exp())
        z = q.rsample((5,))
        return squared(y_hat, y) + (q.log_prob(z) - Normal(0.3, 2.0).log_prob(z)).sum(-1).mean()

    found = audit_loss(loss, features=D, latents=K)
    assert found.kl.kind == "gaussian"
    assert (found.beta, found.kl.prior_std) == (pytest.approx(0.5), pytest.approx(2.0))
