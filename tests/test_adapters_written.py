"""Encoders and losses as public code writes them: what they return, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from losses import kl, per_row, squared
from posterior_collapse import InvalidArgumentError, VAESpec, diagnose
from posterior_collapse.adapters import audit_loss, from_callable

D, K = 12, 4
IMAGES = torch.randn(5, 2 * 2 * 3, generator=torch.Generator().manual_seed(0))


class Spread:
    """As latent diffusion's posterior: mean, std and log-variance beside each other."""

    def __init__(self, moments: Tensor) -> None:
        self.mean, self.logvar = moments.chunk(2, 1)
        self.std = (self.logvar.clamp(-30, 20) / 2).exp()


@dataclass
class Encoded:
    latent_dist: Any


@dataclass
class Coded:
    mu: Tensor
    logvar: Tensor


@pytest.mark.parametrize("encode", [Spread, lambda x: Encoded(Spread(x))])
def test_an_object_with_mean_and_std_is_a_posterior(encode: Callable[[Tensor], Any]) -> None:
    model = from_callable(encode, latent_dim=(1, 2, 3), shape=(2, 2, 3))
    q, images = model.posterior(1, IMAGES), IMAGES.reshape(5, 2, 2, 3)
    torch.testing.assert_close(q.mean, images[:, 0].flatten(1))
    torch.testing.assert_close(q.stddev, (images[:, 1].flatten(1) / 2).exp())


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (lambda x: Coded(x, x), "got a Coded.* two of its mu, logvar that are those"),
        (lambda x: {"mu": x, "logvar": x}, "two of its mu, logvar that are those"),
        # A model's own call, which begins with what it decoded.
        (
            lambda x: (x, x[:, :K], x[:, :K]),
            r"3 things of shapes \(5, 12\), \(5, 4\), \(5, 4\).*encode\(x\)\[1:\]",
        ),
        (lambda x: (x, x, x[:, :K], x[:, :K]), r"4 things of .* whichever two are those"),
        (lambda x: x[:, :K], "vector-quantised autoencoder has no posterior"),
        (lambda x: (x[:, :K], x[:, 0].long()), "vector-quantised autoencoder has no posterior"),
        (lambda x: (x.reshape(5, 2, 3, 2),) * 2, r"Pass latent_dim=\(2, 3, 2\)\.$"),
    ],
)
def test_what_an_encoder_should_return_is_told(encode: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        from_callable(encode, latent_dim=K).posterior(1, IMAGES)


def test_a_mixture_is_passed_itself() -> None:
    normal = torch.distributions.Normal
    prior = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)),
        torch.distributions.Independent(normal(torch.zeros(2, K), 1.0), 1),
    )
    model = from_callable(lambda x: (x[:, :K], x[:, :K]), latent_dim=K, prior=lambda x: prior)
    with pytest.raises(InvalidArgumentError, match="pass a prior of all rows itself"):
        model.prior_of(IMAGES)


def terms(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> dict[str, Tensor]:
    return {"reconstruction": squared(o, y), "kl": per_row(m, s)}


@dataclass
class Total:
    reconstruction: Tensor
    total_loss: Tensor


@dataclass
class Nameless:
    objective: Tensor


@pytest.mark.parametrize(
    "loss",
    [
        lambda *roles: {**terms(*roles), "total_loss": sum(terms(*roles).values())},
        lambda *roles: {**terms(*roles), "total": sum(terms(*roles).values())},
        lambda *roles: Total(terms(*roles)["reconstruction"], sum(terms(*roles).values())),
    ],
)
def test_a_total_of_another_name_is_found(loss: Any) -> None:
    assert audit_loss(loss, features=D, latents=K).value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (terms, r"sum\(loss\(\*args\)\.values\(\)\)"),
        (lambda *roles: tuple(terms(*roles).values()), r"sum\(loss\(\*args\)\[:2\]\)"),
        (lambda *roles: Nameless(squared(*roles[:2])), "which of its objective training"),
        (lambda *roles: (), "NoneType; expected one number"),
        (lambda *roles: {}, "NoneType; expected one number"),
        (lambda outputs: terms(*outputs), r"loss\(\(y_hat, y, mean, log_var\)\), say"),
        (squared, "vector-quantised autoencoder has no KL"),
    ],
)
def test_what_a_loss_should_return_is_told(loss: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        audit_loss(loss, features=D, latents=K)


def test_a_mean_is_told_where_latents_are_images() -> None:
    """To which no unit can be added, so that it is unknown how their KL is reduced."""

    def loss(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        nats = kl(m.reshape(-1, 2, 2, 2), s.reshape(-1, 2, 2, 2)).sum((1, 2, 3))
        return functional.mse_loss(o, y) + 1e-6 * nats.mean()

    found = audit_loss(loss, features=(3, 4, 4), latents=8)
    assert found.value == pytest.approx(1e-6 * 48 / 2, rel=1e-6)
    assert found.findings[0].text == "The squared error is a mean over 48 features."


def test_a_floor_that_changes_nothing_on_the_data_is_said_to_be_one() -> None:
    """More than the floor is worth paying for anyhow."""
    rows = torch.randn(200, D, generator=torch.Generator().manual_seed(0))

    def text(weight: float) -> str:
        return audit_loss(
            lambda o, y, m, s: squared(o, y) + weight * kl(m, s).mean(0).clamp(min=0.1).sum(),
            latents=K,
            data=rows,
        ).text

    assert "as many units as a plain KL of beta = 0.05 would; judge" in text(0.1)
    assert ", not 5 would; judge" in text(10)


# Rates or log rates: those that are all positive could be either


def counts(rate: float) -> tuple[Tensor, Tensor]:
    """Log rates of two planted factors, (2, 10) to be multiplied with them, and counts."""
    generator = torch.Generator().manual_seed(0)
    z, of_z = (0.15 * torch.randn(shape, generator=generator) for shape in ((600, 2), (2, 10)))
    return of_z, torch.poisson((math.log(rate) + z @ of_z).exp(), generator)


@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial"])
@pytest.mark.parametrize("rate", [3.0, 20.0, 400.0])
def test_log_rates_that_are_positive_are_told_by_the_mean_of_the_data(likelihood, rate) -> None:
    of_z, y = counts(rate)
    dispersion = "learned" if likelihood == "poisson" else 50.0
    spec = VAESpec(2, likelihood=likelihood, dispersion=dispersion, sigma="input")

    def diagnosed(decode: Callable[[Tensor], Any], **options: Any) -> Any:
        encode = lambda y: (y[:, :2] / rate - 1, torch.full((len(y), 2), -3.0))  # noqa: E731
        return diagnose(from_callable(encode, decode, latent_dim=2, spec=spec, **options), y)

    def log_rates(z: Tensor) -> Tensor:
        return math.log(rate) + z @ of_z

    told, asked = diagnosed(log_rates), diagnosed(log_rates, output="link")
    assert told.loss == pytest.approx(asked.loss, rel=1e-6)
    assert any("read as log" in note and "pass output='mean'" in note for note in told.notes)
    assert not any("read as" in note for note in asked.notes)
    rates = diagnosed(lambda z: log_rates(z).exp())
    assert rates.loss == pytest.approx(asked.loss, rel=1e-5)
    assert any("pass output='link'" in note for note in rates.notes)
    # What is neither stays what it was taken for, with a note.
    for part in (0.5, 0.7):
        unclear = diagnosed(lambda z, part=part: part * log_rates(z).exp())
        assert any("pass output='link'" in note for note in unclear.notes)
