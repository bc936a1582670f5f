"""The contract test: it passes what keeps the contract and names each way to break it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal
from torch.nn import functional

from posterior_collapse import CVAESpec, HVAESpec, InvalidArgumentError, VAESpec
from posterior_collapse.adapters import from_callable
from posterior_collapse.models import LatentModel, build
from posterior_collapse.testing import LATENT_MODEL_CHECKS, check_latent_model

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Good(LatentModel, nn.Module):
    """The smallest model that keeps the contract; those below each break one part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = VAESpec(latent_dim=2)
        self.encoder, self.decoder = nn.Linear(4, 2), nn.Linear(2, 4)

    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        return Normal(self.encoder(given), 0.5)

    def prior(self, level: int, given: Tensor | None = None) -> Normal:
        return Normal(torch.zeros(2), torch.ones(2))

    def decode(self, z: Tensor, x: Tensor | None = None) -> Normal:
        return Normal(self.decoder(z), 1.0)


class NoSpec(Good):
    def __init__(self) -> None:
        super().__init__()
        self.spec = {"latent_dim": 2}


class OtherUnits(Good):
    units = (3,)


class NotNormal(Good):
    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Any:
        return Laplace(self.encoder(given), 0.5)


class Sampled(Good):
    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        q = super().posterior(level, given)
        return Normal(q.sample(), q.stddev)


class DrawsAside(Good):
    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        torch.randn(1)
        return super().posterior(level, given)


class NaN(Good):
    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        return Normal(self.encoder(given) / 0.0 * 0.0, 0.5, validate_args=False)


class ZeroStd(Good):
    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        return Normal(self.encoder(given), torch.zeros(2), validate_args=False)


class OverTheBatch(Good):
    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        return Normal(self.encoder(given - given.mean(-2, keepdim=True)), 0.5)


class PriorPerRow(Good):
    def prior(self, level: int, given: Tensor | None = None) -> Normal:
        return Normal(torch.zeros(5, 2), torch.ones(5, 2))


class DecodesTooLittle(Good):
    def decode(self, z: Tensor, x: Tensor | None = None) -> Normal:
        return Normal(self.decoder(z)[..., :3], 1.0)


class ForgetsSamples(Good):
    def decode(self, z: Tensor, x: Tensor | None = None) -> Normal:
        return Normal(self.decoder(z.reshape(-1, 2)), 1.0)


class DecodesTogether(Good):
    def decode(self, z: Tensor, x: Tensor | None = None) -> Normal:
        return Normal(self.decoder(z - z.mean()), 1.0)


class ChangesMode(Good):
    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        self.encoder.train()
        return super().posterior(level, given)


class ChangesWeights(Good):
    def decode(self, z: Tensor, x: Tensor | None = None) -> Normal:
        self.decoder.bias.add_(1e-3)
        return super().decode(z, x)


class HiddenDropout(Good):
    def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Normal:
        return super().posterior(level, functional.dropout(given))  # which knows no mode


@pytest.mark.parametrize("check", LATENT_MODEL_CHECKS, ids=lambda check: check.__name__)
def test_as_third_parties_run_it(check: Any) -> None:
    check(Good(), X)


@pytest.mark.parametrize(
    ("model", "check", "message"),
    [
        (NoSpec, "check_spec", "no Spec"),
        (OtherUnits, "check_spec", "differ"),
        (NotNormal, "check_posteriors", "a Laplace, not"),
        (NaN, "check_posteriors", "not finite"),
        (ZeroStd, "check_posteriors", "not positive"),
        (PriorPerRow, "check_priors", r"shape \(5, 2\), not \(2,\)"),
        (DecodesTooLittle, "check_decoder", r"shape \(5, 3\), not \(5, 4\)"),
        (ForgetsSamples, "check_decoder", r"\(15, 4\), not \(3, 5, 4\)"),
        (DecodesTogether, "check_decoder", "at the same time"),
        (Sampled, "check_deterministic", "not a sample"),
        (HiddenDropout, "check_deterministic", "where eval"),
        (DrawsAside, "check_deterministic", "global generator"),
        (Sampled, "check_diagnosis", "another KL"),
        (OverTheBatch, "check_rows", "other rows"),
        (ChangesMode, "check_untouched", "another mode"),
        (ChangesWeights, "check_untouched", "changes weights"),
    ],
)
def test_each_breach_is_named(model: type[Good], check: str, message: str) -> None:
    by_name = {check.__name__: check for check in LATENT_MODEL_CHECKS}
    with pytest.raises(AssertionError, match=f"LatentModel contract: .*{message}"):
        by_name[check](model(), X)
    with pytest.raises(AssertionError, match="LatentModel contract"):
        check_latent_model(model(), X)


@pytest.mark.parametrize(
    "spec",
    [
        VAESpec(latent_dim=3),
        VAESpec(latent_dim=3, eta_dec="learned", sigma="input"),
        VAESpec(latent_dim=3, sigma=0.5),
        HVAESpec(latent_dims=(3, 2), betas=(1.0, 2.0), sigma_1=0.5),
    ],
)
@pytest.mark.parametrize("architecture", ["linear", "mlp"])
def test_our_models_keep_it(spec: Any, architecture: str) -> None:
    check_latent_model(build(spec, architecture, x_dim=4), X)


def test_conditional_models_keep_it() -> None:
    check_latent_model(build(CVAESpec(latent_dim=3), "mlp", x_dim=3, y_dim=1), X[:, :3], X[:, 3:])


def test_wrapped_functions_keep_it_although_they_train() -> None:
    encoder = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model = from_callable(lambda x: encoder(x).chunk(2, 1), nn.Linear(2, 4), latent_dim=2)
    check_latent_model(model, X)
    check_latent_model(from_callable(lambda x: encoder(x).chunk(2, 1), latent_dim=2), X)
    assert all(part.training for part in encoder.modules())


def test_what_cannot_be_checked() -> None:
    with pytest.raises(InvalidArgumentError, match="at least 3"):
        check_latent_model(Good(), X[:2])
    with pytest.raises(AssertionError, match="not a LatentModel"):
        check_latent_model(nn.Linear(4, 2), X)
