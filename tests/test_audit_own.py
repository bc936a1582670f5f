"""`audit_loss` on losses with parameters of their own, with penalties beside, and with draws."""

from __future__ import annotations

import copy
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

import posterior_collapse as pc
from losses import kl, per_row, squared
from posterior_collapse.adapters import audit_loss

D, K, WEIGHT = 12, 3, 3.0
DIGITS = pc.load("digits").x
ROLES = ("reconstruction", "target", "mean", "log_var")
Error = Callable[[Tensor, Tensor, Tensor], Tensor]

# Of output, target and the parameter, with whose std errors are weighed.
STDS: dict[str, Error] = {
    "log std": lambda o, y, p: -Normal(o, p.exp()).log_prob(y).sum(-1).mean(),
    "mean over all": lambda o, y, p: -Normal(o, p.exp()).log_prob(y).mean(),
    "log variance": lambda o, y, p: 0.5 * ((-p).exp() * (o - y).square() + p).sum(-1).mean(),
    "softplus": lambda o, y, p: (
        -Normal(o, functional.softplus(p) + 1e-3).log_prob(y).sum(-1).mean()
    ),
    "too little log": lambda o, y, p: squared(o, y) / (2 * p.exp().square()) + p,
    "uncertainty": lambda o, y, p: (-p).exp() * functional.mse_loss(o, y) + p,
}


@pytest.mark.parametrize("name", STDS)
@pytest.mark.parametrize("start", [-2.0, 0.0, [1.0]])  # `torch.zeros(1)` is as frequent
def test_a_std_that_trains_is_fitted(name: str, start: Any) -> None:
    """With it at its best for each size of error the loss is `c n / 2` times the log of that."""
    error, rows = STDS[name], torch.rand(2, 40, D, generator=torch.Generator().manual_seed(0))
    o, y = rows.double()

    def least(times: float) -> float:
        def at(p: float) -> float:
            return float(error(y + times * (o - y), y, torch.tensor(p, dtype=torch.float64)))

        return float(minimize_scalar(at, bracket=(-2.0, 1.0), tol=1e-12).fun)

    slope = (least(2.0) - least(1.0)) / math.log(4)
    parameter = nn.Parameter(torch.tensor(start))  # in single precision, as people have it
    found = audit_loss(
        lambda o, y, m, s: error(o, y, parameter).sum() + WEIGHT * per_row(m, s),
        features=D,
        latents=K,
    )
    assert found.value == pytest.approx(WEIGHT * (D / 2) / slope, rel=1e-5)
    assert found.learned_eta_dec
    assert found.spec.eta_dec == "learned"
    assert "eta_dec^2" not in found.headline
    assert "own-parameters" not in [one.code for one in found.findings]
    assert parameter.grad is None


def test_a_std_that_trains_is_forecast_as_a_learned_one() -> None:
    parameter = nn.Parameter(torch.zeros(()))
    found = audit_loss(
        lambda o, y, m, s: STDS["log std"](o, y, parameter) + 4 * per_row(m, s),
        features=64,
        latents=8,
        data=DIGITS,
        beta=4.0,
    )
    own = pc.forecast(DIGITS, pc.VAESpec(8, beta=4.0, eta_dec="learned", sigma="input"))
    assert found.matches
    assert found.forecast.n_active == own.n_active
    assert found.forecast.loss == pytest.approx(own.loss, rel=1e-4)
    fixed = audit_loss(
        lambda o, y, m, s: STDS["log std"](o, y, parameter.detach()) + 4 * per_row(m, s),
        features=64,
        latents=8,
        data=DIGITS,
    )
    assert (fixed.value, fixed.learned_eta_dec, fixed.forecast.n_active) == (4.0, False, 0)


def test_other_parameters_are_spoken_of_if_they_weigh_a_term() -> None:
    one, many = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(D))
    prior, layer = nn.Parameter(torch.zeros(K)), nn.Linear(4, 4)
    losses: list[tuple[Callable[..., Tensor], float, int]] = [
        (lambda o, y, m, s: STDS["log std"](o, y, many) + per_row(m, s), 1.0, 1),
        (lambda o, y, m, s: squared(o, y) + per_row(m - prior, s), 0.5, 1),
        (lambda o, y, m, s: squared(o, y) + (-one).exp() * per_row(m, s) + one, 0.5, 1),
        (lambda o, y, m, s: STDS["log std"](o, y, one) + per_row(m - prior, s), 1.0, 1),
        # Weight decay adds to the loss and weighs nothing of it.
        (lambda o, y, m, s: squared(o, y) + per_row(m, s) + layer.weight.square().sum(), 0.5, 0),
    ]
    for loss, value, own in losses:
        found = audit_loss(loss, features=D, latents=K)
        assert found.value == pytest.approx(value, rel=1e-5)
        assert found.reconstruction.own == own
        assert ("own-parameters" in [said.code for said in found.findings]) == bool(own)


def test_a_std_that_trains_under_a_mask_is_one_of_the_others() -> None:
    parameter, rows = nn.Parameter(torch.zeros(1)), DIGITS[:, 20:32].copy()
    rows[::2, :4] = 0

    def masked(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        log_p = Normal(o, parameter.exp()).log_prob(y)
        return -(log_p * (y != 0)).sum(-1).mean() + per_row(m, s)

    found = audit_loss(masked, features=D, latents=K, data=rows)
    assert found.value is None
    assert not found.learned_eta_dec
    assert {"own-parameters", "masked-targets"} <= {said.code for said in found.findings}


def test_a_dispersion_that_trains_is_learned() -> None:
    log_r = nn.Parameter(torch.zeros(()))

    def loss(o: Tensor, y: Tensor, m: Tensor, s: Tensor, r: Any) -> Tensor:
        log_p = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
        log_p = log_p + r * (r / (r + o.exp())).log() + y * (o.exp() / (r + o.exp())).log()
        return -log_p.sum(-1).mean() + 2 * per_row(m, s)

    trained = audit_loss(lambda *roles: loss(*roles, log_r.exp()), features=D, latents=K)
    fixed = audit_loss(lambda *roles: loss(*roles, torch.tensor(1.0)), features=D, latents=K)
    assert trained.value == pytest.approx(2, rel=1e-5)
    assert trained.spec.dispersion == "learned"
    assert trained.reconstruction.own == 0
    assert fixed.spec.dispersion == pytest.approx(1)


def total_variation(o: Tensor) -> Tensor:
    return (o[:, 1:] - o[:, :-1]).square().sum(-1).mean()


@pytest.mark.parametrize("penalty", [lambda o: o.square().sum(-1).mean(), total_variation])
def test_a_penalty_of_the_output_is_no_swap_of_the_arguments(penalty: Any) -> None:
    """As a function of the target alone it is a squared error, of the output it is another."""

    def loss(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return 0.5 * squared(o, y) + penalty(o) + 0.1 * per_row(m, s)

    rows = DIGITS[:, 20 : 20 + D]
    found = audit_loss(loss, features=D, latents=K, data=rows)
    assert found.order == ROLES
    assert found.value is None
    own = pc.onset(lambda o, y: 0.5 * (o - y).square().sum(-1).mean() + penalty(o), rows)
    assert found.forecast.onset == pytest.approx(own.beta, rel=1e-6)
    assert audit_loss(lambda m, s, o, y: loss(o, y, m, s), features=D, latents=K).value is None


class Draws(nn.Module):
    """A perceptual error with dropout, which draws from torch, and noise of other generators."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        if self.kind == "sampled":
            q = Normal(m, (s / 2).exp())
            z = q.rsample()
            return squared(o, y) + (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1).mean()
        noise = {"numpy": np.random.rand, "python": random.random}.get(self.kind)
        o = functional.dropout(o, 0.5) if noise is None else o + noise()
        return squared(o, y) + kl(m, s).sum(-1).mean()


@pytest.mark.parametrize("kind", ["sampled", "dropout", "numpy", "python"])
def test_a_loss_that_draws_leaves_the_global_generators_as_they_were(kind: str) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    if kind == "sampled":
        assert audit_loss(Draws(kind), features=D, latents=K).value == pytest.approx(0.5)
    else:
        with pytest.raises(pc.InvalidArgumentError, match="two values for the same arguments"):
            audit_loss(Draws(kind), features=D, latents=K)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_a_tensor_of_inference_mode_in_a_loss_is_told() -> None:
    with torch.inference_mode():
        weights = torch.ones(D, dtype=torch.float64)
    with pytest.raises(pc.InvalidArgumentError, match=r"own tensors outside of torch\.inference"):
        audit_loss(
            lambda o, y, m, s: (weights * (o - y) ** 2).sum(-1).mean() + per_row(m, s),
            features=D,
            latents=K,
        )


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_a_loss_is_read_without_gradients_around_too(around: Any) -> None:
    """Of more numbers than are moved one by one, and with a std that trains."""
    parameter = nn.Parameter(torch.zeros(()))

    def loss(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return functional.mse_loss(o, y) + per_row(m, s)

    def fitted(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return STDS["log std"](o, y, parameter) + WEIGHT * per_row(m, s)

    with around():
        assert audit_loss(loss, features=784, latents=K).value == pytest.approx(784 / 2)
        found = audit_loss(fitted, features=D, latents=K)
        assert not torch.is_grad_enabled()
    assert (found.learned_eta_dec, found.value) == (True, pytest.approx(WEIGHT))


# What losses do besides


def clamped(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
    return squared(o.clamp_(0.0, 1.0), y.mul_(1.0)) + per_row(m.add_(0.0), s.mul_(1.0))


def of_writing_sample(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
    q = Normal(m.clone(), (s / 2).exp())
    z = m.add_((s / 2).exp() * torch.randn_like(s))
    return (
        squared(o.mul_(2.0) / 2, y) + (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1).mean()
    )


@pytest.mark.parametrize("loss", [clamped, of_writing_sample])
def test_a_loss_may_write_into_its_arguments(loss: Any) -> None:
    """Of more numbers than are moved one by one: autograd has to follow it, as in training."""
    assert audit_loss(loss, features=784, latents=K).value == pytest.approx(0.5)


def test_the_onset_of_a_loss_that_writes_into_its_arguments() -> None:
    rows = DIGITS[:, 20:32].copy()

    def writing(o: Tensor, y: Tensor) -> Tensor:
        return functional.huber_loss(o.mul_(0.5), y.sub_(1.0), reduction="sum") / len(o)

    def plain(o: Tensor, y: Tensor) -> Tensor:
        return functional.huber_loss(0.5 * o, y - 1.0, reduction="sum") / len(o)

    assert pc.onset(writing, rows).beta == pytest.approx(pc.onset(plain, rows).beta, rel=1e-9)
    assert np.array_equal(rows, DIGITS[:, 20:32])


class Parts(NamedTuple):
    error: Tensor
    kl: Tensor
    loss: Tensor


@dataclass
class Whole:
    error: Tensor
    loss: Tensor


def test_the_total_may_be_an_attribute() -> None:
    def named(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Parts:
        return Parts(squared(o, y), per_row(m, s), squared(o, y) + per_row(m, s))

    for loss in (named, lambda *roles: Whole(named(*roles).error, named(*roles).loss)):
        assert audit_loss(loss, features=D, latents=K).value == pytest.approx(0.5)


CALLS, DONE = 0, {"calls": 0}


class Counting(nn.Module):
    """As widespread code counts: its class has the number until it has its own."""

    calls = 0

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.other = most, None

    def loss_function(self, o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        global CALLS  # noqa: PLW0603
        CALLS += 1
        self.calls += 1
        self.other = (self.other or 0) + 1
        DONE["calls"] += 1
        return squared(o, y) + min(1.0, self.calls / self.most) * per_row(m, s)


@pytest.mark.parametrize("most", [1, 10**7])
def test_calls_that_a_loss_counts_are_given_back(most: int) -> None:
    """Else an audit, refused or not, would use up a warm-up that training has still to do."""
    module, around = Counting(most), 0

    def loss(*roles: Tensor) -> Tensor:
        nonlocal around
        around += 1
        return module.loss_function(*roles)

    if most == 1:
        assert audit_loss(loss, features=D, latents=K).value == pytest.approx(0.5)
    else:
        with pytest.raises(pc.InvalidArgumentError, match="a schedule that counts"):
            audit_loss(loss, features=D, latents=K)
    assert (around, module.other, CALLS, DONE) == (0, None, 0, {"calls": 0})
    assert "calls" not in vars(module)


class Logging:
    """Counts and logs as people do: in what is replaced, and in what is written into."""

    def __init__(self) -> None:
        self.numbers: dict[str, Any] = {
            "numpy": np.int64(0),
            "array": np.zeros(1),
            "tensor": torch.zeros((), dtype=torch.long),
            "one": torch.zeros(1),
        }
        self.calls, self.other = torch.tensor(0), np.float32(0)
        self.list, self.history, self.sums = [0], [0.5], Counter()  # type: ignore[var-annotated]

    def __call__(self, o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        for name in self.numbers:
            self.numbers[name] += 1
        self.calls, self.other = self.calls + 1, self.other + np.float32(1)
        self.list[0] += 1
        loss = squared(o, y) + per_row(m, s)
        self.history.append(loss.item())
        self.sums["loss"] += 1
        return loss

    @property
    def seen(self) -> list[Any]:
        numbers = [*self.numbers.values(), self.calls, self.other]
        return [*(n.item() for n in numbers), self.list, self.history, dict(self.sums)]


def test_what_a_loss_counts_and_logs_is_given_back_whatever_holds_it() -> None:
    loss = Logging()
    before = copy.deepcopy(loss.seen)
    held = [*loss.numbers.values(), loss.calls, loss.list, loss.history]
    assert audit_loss(loss, features=D, latents=K).value == pytest.approx(0.5)
    assert loss.seen == before
    now = [*loss.numbers.values(), loss.calls, loss.list, loss.history]
    assert all(one is other for one, other in zip(now, held, strict=True))


def test_a_number_that_autograd_keeps_is_not_written_into() -> None:
    """An audit in a step of training: what it did not change is no change to the graph."""
    weight, factor = torch.ones(1, requires_grad=True), torch.full((1,), 2.0)
    step = (weight * factor).sum()
    audit_loss(lambda o, y, m, s: squared(o, y) + factor * per_row(m, s), features=D, latents=K)
    step.backward()
    assert weight.grad is not None
    assert weight.grad.item() == 2


def test_a_small_kl_is_read_beside_a_large_error_in_single_precision() -> None:
    """As with a perceptual network beside it: its value has few digits left for the KL."""

    def loss(*roles: Tensor) -> Tensor:
        o, y, m, s = (part.float() for part in roles)
        return 0.5 * squared(o, y) + 1e-4 * per_row(m, s)

    found = audit_loss(loss, features=12_288, latents=4)
    assert found.kl.kind == "gaussian"
    assert found.value == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            lambda o, y, m, s, **more: squared(o, y) * more["M_N"],
            "Wrap it, with what else it takes",
        ),
        (lambda o, y, m, s: squared(o, y) + kl(m, s).sum((1, 2, 3)).mean(), r"mean\.reshape\(-1,"),
        (lambda o, y, m, s: squared(functional.dropout(o), y), "switch off dropout"),
    ],
)
def test_what_a_loss_lacks_is_told(loss: Any, said: str) -> None:
    with pytest.raises(pc.InvalidArgumentError, match=said):
        audit_loss(loss, features=D, latents=K)


def test_a_kl_whose_weight_follows_the_error_is_read_at_an_error() -> None:
    """Where there is none, it has no weight."""

    def balanced(o: Tensor, y: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return squared(o, y) + 3 * (squared(o, y) > 0.01).double() * per_row(m, s)

    assert audit_loss(balanced, features=D, latents=K).value == pytest.approx(1.5)
