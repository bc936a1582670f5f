"""`audit_loss` on the ways in which people write their KL, floors and weights per unit."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    Normal,
)
from torch.nn import functional

import posterior_collapse as pc
from losses import cross_entropy, kl, per_row, squared
from posterior_collapse.adapters import audit_loss

D, K = 12, 3
DIGITS = pc.load("digits").x


def sampled(draw: Callable[[Tensor, Tensor], Tensor], prior: Any = None) -> Callable[..., Tensor]:
    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        q, p = Normal(mean, (log_var / 2).exp()), prior or Normal(0.0, 1.0)
        z = draw(mean, (log_var / 2).exp())
        return squared(y_hat, y) + (q.log_prob(z) - p.log_prob(z)).sum(-1).mean()

    return loss


def softplus(y_hat: Tensor, y: Tensor, mean: Tensor, rho: Tensor) -> Tensor:
    return squared(y_hat, y) + per_row(mean, 2 * functional.softplus(rho).log())


def of_mask(nats: Tensor, floor: float) -> Tensor:
    return (nats * (nats > floor)).sum()


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


# Floors


@pytest.mark.parametrize(
    ("loss", "kind", "floor", "over"),
    [
        (lambda o, y, m, s: (per_row(m, s) - 5).abs(), "capacity", 5.0, "all"),
        (lambda o, y, m, s: kl(m, s).mean(0).clamp(min=0.3).sum(), "free bits", 0.3, "unit"),
        (lambda o, y, m, s: kl(m, s).sum(-1).clamp(min=3).mean(), "free bits", 3.0, "all"),
        # As masks: what passes the floor is charged in full, with free bits' gradient.
        (lambda o, y, m, s: of_mask(kl(m, s).mean(0), 0.3), "free bits", 0.3, "unit"),
        (lambda o, y, m, s: of_mask(kl(m, s).sum(-1).mean(), 3), "free bits", 3.0, "all"),
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
    assert found.weight == pytest.approx(30, rel=5e-6)
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
    assert found.findings[0].action.startswith("Minimise its negative")
    assert found.advice(8).startswith("Multiply your KL weight by 0.")


def test_above_a_floor_the_weight_counts() -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return squared(o, y) + 0.2 * (per_row(mean, log_var) - 0.5).abs()

    found = audit_loss(loss, features=64, latents=8, data=DIGITS)
    assert found.spec.beta == pytest.approx(0.1)


# Schedules


class Schedule:
    """A weight of the KL, or a capacity, that grows with each call until it is whole."""

    def __init__(self, calls: int, step: int = 0, capacity: float = 0.0) -> None:
        self.calls, self.step, self.capacity = calls, step, capacity

    def __call__(self, o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        self.step += 1
        part = min(1.0, self.step / self.calls)
        if self.capacity:
            return squared(o, y) + 3 * (per_row(mean, log_var) - part * self.capacity).abs()
        return squared(o, y) + part * per_row(mean, log_var)


@pytest.mark.parametrize("calls", [2, 10, 50, 300, 1000, 10**7])
@pytest.mark.parametrize("capacity", [0.0, 25.0])
def test_a_schedule_that_counts_is_refused_until_it_has_ended(calls: int, capacity: float) -> None:
    with pytest.raises(
        pc.InvalidArgumentError, match=r"a schedule that counts.*beyond the warm-up"
    ):
        audit_loss(Schedule(calls, capacity=capacity), features=D, latents=K)
    found = audit_loss(Schedule(calls, calls, capacity), features=D, latents=K)
    assert found.value == pytest.approx(1.5 if capacity else 0.5)
    assert found.kl.floor == pytest.approx(capacity)


@pytest.mark.parametrize(
    "draw", [torch.rand, lambda n: torch.as_tensor(np.random.rand(n)), lambda n: random.random()]
)
def test_a_random_weight_is_told_from_a_schedule(draw: Any) -> None:
    def loss(o: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return squared(o, y) + (draw(1) * per_row(mean, log_var)).sum()

    with pytest.raises(pc.InvalidArgumentError, match="without random numbers"):
        audit_loss(loss, features=D, latents=K)


def test_global_generators_stay_as_they_were() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    audit_loss(lambda o, y, m, s: squared(o, y) + per_row(m, s), features=D, latents=K)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
