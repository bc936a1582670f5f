"""`audit_loss` on small KLs: beside large errors in single precision, and below small floors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional

import posterior_collapse as pc
from losses import kl, per_row, squared
from posterior_collapse.adapters import audit_loss

Error = Callable[[Tensor, Tensor], Tensor]

IMAGE, SENTENCE = 784, (20, 50)
# Each as a sum over features and batch, in single precision.
SUMS: dict[str, tuple[Error, Any, float]] = {
    "squared": (lambda o, y: functional.mse_loss(o, y, reduction="sum"), IMAGE, 0.5),
    "bernoulli": (lambda o, y: functional.binary_cross_entropy(o, y, reduction="sum"), IMAGE, 1),
    "bernoulli unguarded": (
        lambda o, y: -(y * o.log() + (1 - y) * (1 - o).log()).sum(),
        IMAGE,
        1,
    ),
    "bernoulli logits": (
        lambda o, y: functional.binary_cross_entropy_with_logits(o, y, reduction="sum"),
        IMAGE,
        1,
    ),
    "poisson": (lambda o, y: functional.poisson_nll_loss(o, y, reduction="sum"), IMAGE, 1),
    "rates": (
        lambda o, y: functional.poisson_nll_loss(o, y, log_input=False, reduction="sum"),
        IMAGE,
        1,
    ),
    "categorical": (
        lambda o, y: functional.cross_entropy(o.transpose(1, 2), y.long(), reduction="sum"),
        SENTENCE,
        1,
    ),
    "log-probabilities": (
        lambda o, y: functional.nll_loss(o.transpose(1, 2), y.long(), reduction="sum"),
        SENTENCE,
        1,
    ),
}


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("weight", [1e-4, 1e-5])
def test_a_small_weight_beside_a_sum_in_single_precision(name: str, weight: float) -> None:
    """Rounding is no floor, and no prior of another std."""
    error, features, factor = SUMS[name]

    def loss(*roles: Tensor) -> Tensor:
        o, y, m, s = (part.float() for part in roles)
        return error(o, y) + weight * kl(m, s).sum()

    found = audit_loss(loss, features=features, latents=16)
    assert found.kl[:4] == ("gaussian", pytest.approx(8 * weight, rel=2e-3), 1.0, 0.0)
    assert found.value == pytest.approx(factor * weight, rel=2e-3)
    assert found.reductions["latents"] == "sum"
    assert not {"free-bits", "prior-std", "not-a-kl"} & {one.code for one in found.findings}


def test_a_kl_without_digits_is_told() -> None:
    """As beside an error that is large everywhere: it is no KL of another form."""

    def loss(*roles: Tensor) -> Tensor:
        o, y, m, s = (part.float() for part in roles)
        return 1e4 + squared(o, y) + 1e-4 * per_row(m, s)

    with pytest.raises(pc.InvalidArgumentError, match=r"rounded away.* without \.float\(\)"):
        audit_loss(loss, features=12, latents=4)


@pytest.mark.parametrize("latents", [1, 4, 64])
@pytest.mark.parametrize("floor", [1e-6, 5e-4])
def test_a_floor_that_no_unit_lives_by_is_none(floor: float, latents: int) -> None:
    """And takes nothing off the weight of what exceeds it."""
    found = audit_loss(
        lambda o, y, m, s: squared(o, y) + kl(m, s).mean(0).clamp(min=floor).sum(),
        features=12,
        latents=latents,
    )
    assert found.kl[:4] == ("gaussian", pytest.approx(1, rel=1e-9), 1.0, 0.0)


@pytest.mark.parametrize("floor", [2e-3, 0.03, 0.3])
def test_a_floor_is_small_beside_the_kl_of_many_units(floor: float) -> None:
    found = audit_loss(
        lambda o, y, m, s: squared(o, y) + per_row(m, s).clamp(min=floor), features=12, latents=64
    )
    assert (found.kl.kind, found.kl.floor_over) == ("free bits", "all")
    assert found.kl.floor == pytest.approx(floor, rel=1e-6)


@pytest.mark.parametrize(("features", "latents", "beta"), [(784, 16, 0.1), (3072, 64, 1.0)])
def test_a_normaliser_beside_the_error_leaves_the_kl_enough_digits(features, latents, beta) -> None:
    """It was refused: no output and target make such a total small."""

    def loss(y_hat, y, mean, log_var):
        y_hat, y, mean, log_var = (part.float() for part in (y_hat, y, mean, log_var))
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1)
        error = 0.5 * (y_hat - y) ** 2 + 0.5 * math.log(2 * math.pi)
        return (error.sum(1) + beta * kl).mean()

    found = audit_loss(loss, features=features, latents=latents, batch_size=2)
    assert found.beta == pytest.approx(beta, rel=2e-3)
    assert found.findings == ()
