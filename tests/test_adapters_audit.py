"""`audit_loss`: the beta of loss functions as people write them, against hand and minimiser."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from losses import kl
from posterior_collapse import InvalidArgumentError, effective_beta, forecast
from posterior_collapse.adapters import LossAudit, audit_loss

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Any]
D, K, N = 12, 3, 16  # features, latents, samples: no two ratios of theirs are equal


def both_means(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return functional.mse_loss(y_hat, y) + kl(mean, log_var).mean()


def means_and_sums(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return functional.mse_loss(y_hat, y) + 0.01 * kl(mean, log_var).sum(1).mean()


def all_sums(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return functional.mse_loss(y_hat, y, reduction="sum") + 4 * kl(mean, log_var).sum()


def sums_and_kl_mean(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return (y_hat - y).square().sum(1).mean() + kl(mean, log_var).mean()


def batches_differ(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return functional.mse_loss(y_hat, y, reduction="sum") + kl(mean, log_var).sum(1).mean()


def gaussian(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    nll = -torch.distributions.Normal(y_hat, 0.3).log_prob(y).sum(1)
    return (nll + 2 * kl(mean, log_var).sum(1)).mean()


def single_precision(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return (
        0.5 * (y_hat - y).float().square().sum(1).mean()
        + kl(mean.float(), log_var.float()).sum(1).mean()
    )


def fitted_std(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> dict[str, Tensor]:
    nll = 0.5 * D * functional.mse_loss(y_hat, y).log()
    return {"kl": kl(mean, log_var).mean(), "loss": nll + 3 * kl(mean, log_var).sum(1).mean()}


def bernoulli(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, float]:
    error = functional.binary_cross_entropy(y_hat, y, reduction="sum") / len(y)
    return error + 2 * kl(mean, log_var).sum(1).mean(), 0.0


def logits(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    error = functional.binary_cross_entropy_with_logits(y_hat, y)
    return error + kl(mean, log_var).sum(1).mean()


@pytest.mark.parametrize(
    ("loss", "value", "reductions"),
    [
        (both_means, D / (2 * K), "mean mean mean mean"),
        (means_and_sums, 0.01 * D / 2, "mean sum mean mean"),
        (all_sums, 4 / 2, "sum sum sum sum"),
        (sums_and_kl_mean, 1 / (2 * K), "sum mean mean mean"),
        (batches_differ, 1 / (2 * N), "sum sum sum mean"),
        (gaussian, 2 * 0.3**2, "sum sum mean mean"),
        (single_precision, 1.0, "sum sum mean mean"),
        (fitted_std, 3.0, "sum sum mean mean"),
        (bernoulli, 2, "sum sum mean mean"),  # beta itself: a Bernoulli has no eta_dec
        (logits, D, "mean sum mean mean"),
    ],
)
def test_value_and_reductions_by_hand(loss: Loss, value: float, reductions: str) -> None:
    found = audit_loss(loss, features=D, latents=K, batch_size=N)
    tolerance = 1e-5 if loss is single_precision else 1e-9
    assert found.value == pytest.approx(value, rel=tolerance)
    assert " ".join(str(value) for value in found.reductions.values()) == reductions
    assert found.matches is None
    assert found.learned_eta_dec == (loss is fitted_std)
    assert found.spec.likelihood == ("bernoulli" if loss in (bernoulli, logits) else "gaussian")


@pytest.mark.parametrize(
    "loss", [both_means, means_and_sums, sums_and_kl_mean, gaussian], ids=lambda loss: loss.__name__
)
def test_the_loss_itself_keeps_the_units_above_the_value(loss: Loss) -> None:
    """Minimised over linear VAEs, the loss leaves KL = 1/2 log(theta^2 / value) per unit."""
    value = audit_loss(loss, features=D, latents=K, batch_size=N).value
    assert value is not None
    variances = np.full(D, 0.1 * value)
    variances[:K] = value * np.array([9.0, 3.0, 0.5])
    # Rows whose second moments are exactly these variances.
    rows = torch.diag(torch.tensor(np.sqrt(D * variances)))
    rows = torch.cat([rows, -rows])
    generator = torch.Generator().manual_seed(0)
    start = [(D, K), (K, D), (K,)]
    parameters = [
        (0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for shape in start
    ]
    # The mean over these noises of anything quadratic in the noise is its mean over a Gaussian.
    noise = math.sqrt(K) * torch.cat([torch.eye(K), -torch.eye(K)]).double()

    def closure() -> Tensor:
        W, U, log_std = parameters
        mean = (rows @ W).repeat_interleave(len(noise), 0)
        z = mean + log_std.exp() * noise.repeat(len(rows), 1)
        y = rows.repeat_interleave(len(noise), 0)
        total: Tensor = loss(z @ U, y, mean, (2 * log_std).expand_as(mean))
        optimiser.zero_grad()
        total.backward()
        return total

    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=3000,
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
        history_size=50,
    )
    optimiser.step(closure)
    W, _, log_std = (p.detach() for p in parameters)
    per_unit = kl(rows @ W, (2 * log_std).expand(len(rows), K)).mean(0)
    theory = [0.0, 0.5 * math.log(3), 0.5 * math.log(9)]
    assert sorted(per_unit.tolist()) == pytest.approx(theory, abs=1e-4)


def test_the_spec_forecasts_the_loss() -> None:
    found = audit_loss(means_and_sums, features=D, latents=K, batch_size=N)
    assert found.spec.dims == (K,)
    x = np.random.default_rng(0).standard_normal((500, D)) * np.linspace(0.05, 1.0, D)
    variances = np.linalg.eigvalsh(np.cov(x.T, ddof=0))[::-1]
    active = forecast(x, found.spec).levels[0].n_active
    assert active == np.sum(variances[:K] > found.value)


@pytest.mark.parametrize(
    ("loss", "codes"),
    [
        (lambda y_hat, y, m, s: functional.mse_loss(y_hat, y) + 0.0 * kl(m, s).sum(), ["no-kl"]),
        (
            lambda y_hat, y, m, s: (y_hat - y).square().sum(1).mean() - kl(m, s).sum(1).mean(),
            ["kl-sign"],
        ),
        (lambda y_hat, y, m, s: kl(m, s).sum(), ["no-reconstruction"]),
        (
            lambda y_hat, y, m, s: kl(m, s).sum() - functional.mse_loss(y_hat, y, reduction="sum"),
            ["reconstruction-sign"],
        ),
        (
            lambda y_hat, y, m, s: functional.mse_loss(y_hat, y) + m.square().mean(),
            ["not-a-kl"],
        ),
        (
            lambda y_hat, y, m, s: (
                (y_hat - y).square().sum(1).mean() + kl(m, s).mean(0).clamp(min=0.1).sum()
            ),
            ["free-bits"],
        ),
        (
            lambda y_hat, y, m, s: (
                (y_hat - y).square().sum(1).mean() + (kl(m, s).sum(1).mean() - 25).abs()
            ),
            ["capacity"],
        ),
        (
            lambda y_hat, y, m, s: functional.l1_loss(y_hat, y, reduction="sum") + kl(m, s).sum(),
            ["absolute-error"],
        ),
        (
            lambda y_hat, y, m, s: (
                functional.huber_loss(y_hat, y, delta=0.1, reduction="sum") + kl(m, s).sum()
            ),
            ["other-error"],
        ),
        (means_and_sums, ["mean-and-sum"]),
        (sums_and_kl_mean, ["sum-and-mean"]),
        (both_means, ["mean-and-mean"]),
        (batches_differ, ["batch"]),
        (bernoulli, ["bernoulli"]),
        (gaussian, []),
        (fitted_std, []),
    ],
)
def test_what_is_wrong_is_named_with_an_action(loss: Loss, codes: list[str]) -> None:
    found = audit_loss(loss, features=D, latents=K, batch_size=N)
    assert [finding.code for finding in found.findings] == codes
    assert all(finding.action.endswith(".") and finding.text for finding in found.findings)
    json.dumps(found.to_dict())


def test_what_the_author_thinks_is_compared() -> None:
    found = audit_loss(both_means, features=D, latents=K, batch_size=N, beta=1.0)
    assert found.matches is False
    assert found.findings[-1].code == "other-beta"
    assert "12 features / 3 latents, and a squared error without its 1/2" in found.text
    fitting = audit_loss(both_means, features=D, latents=K, batch_size=N, beta=D / (2 * K))
    assert fitting.matches
    assert not fitting.findings  # means of both, but their author knows what that makes
    assert audit_loss(gaussian, features=D, latents=K, beta=2.0, eta_dec=0.3).matches
    assert audit_loss(bernoulli, features=D, latents=K, beta=2.0).matches
    assert audit_loss(fitted_std, features=D, latents=K, beta=3.0, eta_dec=7.0).matches


def test_multiplying_by_what_it_says_makes_it_match() -> None:
    found = audit_loss(means_and_sums, features=D, latents=K, beta=1.0)
    factor = float(found.findings[-1].action.split(" by ")[1].split(",")[0])

    def repaired(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return functional.mse_loss(y_hat, y) + factor * 0.01 * kl(mean, log_var).sum(1).mean()

    assert audit_loss(repaired, features=D, latents=K, beta=1.0).matches


def test_reductions_alone_are_audited_too() -> None:
    reductions = effective_beta(features=D, latents=K, reconstruction="mean", kl="mean")
    by_hand = audit_loss(reductions, features=D, latents=K, beta=1.0)
    by_loss = audit_loss(both_means, features=D, latents=K, beta=1.0)
    assert by_hand.value == pytest.approx(by_loss.value, rel=1e-12)
    assert by_hand.findings[-1] == by_loss.findings[-1]


def test_a_loss_of_images_that_flattens_them() -> None:
    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        error = functional.mse_loss(y_hat.view(-1, D), y.view(-1, D), reduction="sum")
        return error + kl(mean, log_var).sum()

    assert audit_loss(all_sums, features=np.int64(D), latents=K).value == pytest.approx(2)
    found = audit_loss(loss, features=(1, 4, 3), latents=K, batch_size=D)
    assert found.value == pytest.approx(0.5)
    assert found.reductions["features"] is None  # it takes no other number of features
    assert found.reductions["latents"] == "sum"


@pytest.mark.parametrize(
    ("over", "times"), [((1,), 12), ((2, 3), 2), ((1, 2), 4), ((1, 2, 3), 1), ((), 24)]
)
def test_a_mean_over_some_sides_of_an_image_counts_those(over: tuple[int, ...], times: int) -> None:
    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        error = (y_hat - y).square()
        return (error.sum(over) if over else error).mean() + 2 * kl(mean, log_var).sum(1).mean()

    found = audit_loss(loss, features=(2, 3, 4), latents=K)
    assert (found.value, found.averaged) == (pytest.approx(times), times)
    assert found.reductions["features"] == ("sum" if times == 1 else "mean")
    if times == 1:
        assert not found.findings
    else:
        of = "24" if times == 24 else f"{times} of 24"
        assert f"a mean over {of} features" in found.text
        assert f"the weight counts {times}-fold" in found.text


def test_a_mean_over_pixels_whose_colours_are_fixed() -> None:
    colours = torch.tensor([1.0, 2.0]).reshape(2, 1, 1)

    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return ((y_hat - y) + 0 * colours).square().mean() + 2 * kl(mean, log_var).sum(1).mean()

    assert audit_loss(loss, features=(2, 3, 4), latents=K).averaged == 24


def test_a_std_or_a_log_variance() -> None:
    def of_std(y_hat: Tensor, y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        return (y_hat - y).square().sum() + kl(mean, 2 * std.log()).sum()

    assert audit_loss(of_std, features=D, latents=K, log_var=False).value == pytest.approx(0.5)
    with pytest.raises(InvalidArgumentError, match="log_var=False"):
        audit_loss(of_std, features=D, latents=K)
    with pytest.raises(InvalidArgumentError, match="Pass log_var=True"):
        audit_loss(all_sums, features=D, latents=K, log_var=False)


def test_another_prior_is_found() -> None:
    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        q, p = torch.distributions.Normal(mean, (log_var / 2).exp()), torch.distributions.Normal
        return (y_hat - y).square().sum() + torch.distributions.kl_divergence(q, p(0.0, 0.5)).sum()

    found = audit_loss(loss, features=D, latents=K)
    assert found.value == pytest.approx(0.5)
    assert found.spec.eta_enc == pytest.approx(0.5)
    assert [finding.code for finding in found.findings] == ["prior-std"]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (3, "a function of"),
        (lambda y_hat, y: 0.0, "takes 2 positional arguments"),
        (lambda y_hat, y, m, s: (y_hat - y).square().sum(1), r"a result of shape \(8,\)"),
        (lambda *arguments: None, "NoneType; expected one number"),
        (lambda *arguments: math.nan, "nan; expected a finite number"),
        (lambda y_hat, y, m, s: functional.mse_loss(y_hat, y).bfloat16(), "in torch.bfloat16, of"),
        (lambda y_hat, y, m, s: functional.mse_loss(y_hat.half(), y.half()), "torch.float16, of"),
        (lambda y_hat, y, m, s: y_hat @ y, "cannot be multiplied"),
        (
            lambda y_hat, y, m, s: (y_hat - y + 1e-3 * torch.randn(D)).square().sum(),
            "two values for the same arguments",
        ),
    ],
)
def test_no_loss(loss: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        audit_loss(loss, features=D, latents=K)


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": 0},
        {"features": ()},
        {"features": 2.5},
        {"features": "no"},
        {"latents": -1},
        {"batch_size": 0},
        {"beta": -1.0},
        {"eta_dec": 0},
    ],
)
def test_bad_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        audit_loss(all_sums, **{"features": D, "latents": K, **wrong})


def test_without_a_threshold_there_is_no_spec() -> None:
    found: LossAudit = audit_loss(lambda y_hat, y, m, s: kl(m, s).sum(), features=D, latents=K)
    assert found.value is None
    with pytest.raises(InvalidArgumentError, match="does not depend on the reconstruction"):
        _ = found.spec


def test_a_kl_without_its_logarithm_is_named() -> None:
    def loss(y_hat, y, mean, log_var):
        return (y_hat - y).square().sum() + 0.5 * (mean**2 + log_var.exp() - 1).sum()

    found = audit_loss(loss, features=7, latents=3)
    assert found.value is None
    assert [finding.code for finding in found.findings] == ["no-log-term"]
    assert "- log_var" in found.findings[0].text
    with pytest.raises(InvalidArgumentError, match="lacks its - log_var"):
        _ = found.spec


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_parts_without_their_total_are_refused(part: int, kind: str) -> None:
    def parts(y_hat, y, mean, log_var):
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum()
        found = ((y_hat - y).square().sum(), 3 * kl)
        found = found if part == 0 else found[::-1]
        return found if kind == "tuple" else dict(zip("ab", found, strict=True))

    lacking = ("posterior", "reconstruction")[part]
    with pytest.raises(InvalidArgumentError, match=f"does not depend on the {lacking}.*sum"):
        audit_loss(parts, features=7, latents=3)
    if kind == "tuple":
        total = audit_loss(lambda *args: sum(parts(*args)[:2]), features=7, latents=3)
        assert total.value == pytest.approx(1.5)
