"""`onset`: where any smooth loss collapses, against closed forms and the loss itself."""

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

import posterior_collapse as pc
from posterior_collapse.diagnosis import onsets
from posterior_collapse.theory import FewSamplesWarning

Loss = Callable[[Tensor, Tensor], Tensor]
RNG = np.random.default_rng(0)
SOFT = pc.load("digits").x
BINARY = (SOFT > 0.5) * 1.0
COUNTS = RNG.poisson(16 * SOFT)
Z = RNG.standard_normal((1000, 1))
CLASSES = (Z + RNG.standard_normal((1000, 12)) > 0) * 1 + 2 * (RNG.random((1000, 12)) > 0.7)
ONE_HOT = np.eye(4)[CLASSES]  # (rows, positions, classes)


def eigenvalues(scores: Any) -> Any:
    return np.linalg.eigvalsh(np.cov(scores.T, ddof=0))[::-1]


def over(y: Any, noise: Callable[[Any], Any]) -> Any:
    """Eigenvalues of data divided by the noise that their likelihood tolerates."""
    y = np.asarray(y).reshape(len(y), -1)
    varying = y.std(axis=0) > 0
    return eigenvalues(y[:, varying] / np.sqrt(noise(y[:, varying].mean(axis=0))))


def negative_binomial(o: Tensor, y: Tensor, r: float = 2.0) -> Tensor:
    mean = o.exp()
    return ((r + y) * torch.log1p(mean / r) - y * o).sum(1)


def tokens(o: Tensor, y: Tensor) -> Tensor:
    return -(y * o.log_softmax(-1)).sum((1, 2)).mean()


BERNOULLI = over(BINARY, lambda m: m * (1 - m))
CASES: dict[str, tuple[Loss, Any, Any, dict[str, Any]]] = {
    "bernoulli logits": (
        lambda o, y: functional.binary_cross_entropy_with_logits(o, y, reduction="none").sum(1),
        BINARY,
        BERNOULLI,
        {},
    ),
    "bernoulli probabilities": (
        lambda o, y: functional.binary_cross_entropy(o, y, reduction="sum"),
        BINARY,
        BERNOULLI,
        {},
    ),
    "bernoulli probabilities by hand": (
        lambda o, y: -(y * o.log() + (1 - y) * (1 - o).log()).sum(1),
        BINARY,
        BERNOULLI,
        {},
    ),
    "a mean over features too": (
        functional.binary_cross_entropy_with_logits,
        SOFT,
        over(SOFT, lambda m: m * (1 - m)) / 64,
        {},
    ),
    "poisson": (
        lambda o, y: functional.poisson_nll_loss(o, y, reduction="none").sum(1),
        COUNTS,
        over(COUNTS, lambda m: m),
        {},
    ),
    "poisson rates": (
        lambda o, y: -torch.distributions.Poisson(o).log_prob(y).sum(1).mean(),
        COUNTS,
        over(COUNTS, lambda m: m),
        {},
    ),
    "negative binomial": (negative_binomial, COUNTS, over(COUNTS, lambda m: m + m**2 / 2), {}),
    "one-hot": (tokens, ONE_HOT, over(ONE_HOT, lambda m: m), {}),
    "class numbers": (
        lambda o, y: functional.cross_entropy(o, y, reduction="none").sum(1),
        CLASSES,
        over(ONE_HOT, lambda m: m),
        {"output_shape": (4, 12)},
    ),
    "a class that never occurs": (
        tokens,
        np.concatenate([ONE_HOT, np.zeros((1000, 12, 1))], axis=2),
        over(ONE_HOT, lambda m: m),
        {},
    ),
    "squared": (
        lambda o, y: 0.5 * (o - y).square().sum(1) / 0.3**2,
        SOFT,
        eigenvalues(SOFT) / 0.3**2,
        {},
    ),
    "squared, far from 0": (
        functional.mse_loss,
        1e4 + SOFT,
        eigenvalues(SOFT) * 2 / 64,
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_closed_forms(case: str) -> None:
    loss, y, expected, options = CASES[case]
    found = pc.onset(loss, y, **options)
    assert found.beta == found.ratios[0] == pytest.approx(expected[0], rel=1e-6)
    some = int(np.sum(expected > 1e-3 * expected[0]))
    assert found.ratios[:some] == pytest.approx(expected[:some], rel=1e-6)
    assert np.all(np.diff(found.ratios) <= 0)


def test_the_forecast_of_each_likelihood_has_the_same_onset() -> None:
    for case, likelihood in (
        ("bernoulli logits", "bernoulli"),
        ("poisson", "poisson"),
        ("one-hot", "categorical"),
    ):
        loss, y, _, options = CASES[case]
        rows = np.asarray(y).reshape(len(y), -1)
        spec = pc.VAESpec(4, likelihood=likelihood)
        found = pc.onset(loss, y, **options)
        assert found.beta == pytest.approx(pc.forecast(rows, spec).onset, rel=1e-6)


def test_the_best_constant_output() -> None:
    loss, y, _, _ = CASES["bernoulli logits"]
    found = pc.onset(loss, y)
    mean = y.mean(axis=0)
    varying = (mean > 0) & (mean < 1)
    expected = np.log(mean[varying] / (1 - mean[varying]))
    assert found.output.shape == (64,)
    assert found.output[varying] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(found.output[~varying]).all()  # at infinity
    assert found.notes == (
        f"{np.sum(~varying)} of 64 outputs were left out, which no row pulls another way",
    )
    squared = pc.onset(CASES["squared"][0], SOFT)
    assert squared.output == pytest.approx(SOFT.mean(axis=0), abs=1e-9)
    json.dumps(squared.to_dict())
    assert squared.to_dict()["beta"] == squared.beta
    assert repr(squared).startswith(f"Onset(beta {squared.beta:.6g}; ")


def test_scale_of_the_loss_and_a_smooth_change_of_the_output() -> None:
    """A decoder may give anything: what matters is what the loss makes of it."""
    first = pc.onset(functional.binary_cross_entropy_with_logits, BINARY)
    second = pc.onset(
        lambda o, y: 3 * functional.binary_cross_entropy_with_logits(o + o**3 / 9, y), BINARY
    )
    assert second.ratios[:20] == pytest.approx(3 * first.ratios[:20], rel=1e-6)
    turn = torch.linalg.qr(torch.tensor(np.random.default_rng(0).standard_normal((64, 64))))[0]
    mixing = turn * torch.linspace(0.5, 2, 64)
    third = pc.onset(lambda o, y: functional.mse_loss(o @ mixing, y), SOFT)
    plain = pc.onset(functional.mse_loss, SOFT)
    assert third.ratios[:20] == pytest.approx(plain.ratios[:20], rel=1e-6)


@pytest.mark.parametrize("how", ["rows", "mean", "sum"])
def test_rows_their_mean_and_their_sum_are_one_loss(how: str) -> None:
    def loss(o: Tensor, y: Tensor) -> Tensor:
        rows = functional.huber_loss(o, y, delta=0.2, reduction="none").sum(1)
        return rows if how == "rows" else getattr(rows, how)()

    assert pc.onset(loss, SOFT).beta == pytest.approx(HUBER, rel=1e-9)


HUBER = pc.onset(
    lambda o, y: functional.huber_loss(o, y, delta=0.2, reduction="none").sum(1), SOFT
).beta


def logistic(o: Tensor, y: Tensor) -> Tensor:
    error = (y - o) / 0.1
    return (error + 2 * functional.softplus(-error)).sum(1)


@pytest.mark.parametrize("loss", [logistic, CASES["bernoulli logits"][0]])
def test_a_unit_pays_just_below_the_onset_and_not_above(loss: Loss) -> None:
    """The loss itself, of one weak unit along the top mode, by quadrature over its posterior."""
    y = SOFT if loss is logistic else BINARY[:, BINARY.std(axis=0) > 0]
    found = pc.onset(loss, y)
    target = torch.tensor(y)
    eta = torch.tensor(found.output).expand(len(y), -1)
    if bool(eta.isnan().any()):
        raise AssertionError("all of these outputs have a best value")
    leaf = eta.clone().requires_grad_()
    score = -torch.autograd.grad(loss(leaf, target).sum(), leaf)[0]
    hessian = torch.autograd.functional.hessian(
        lambda o: loss(o.expand(len(y), -1), target).mean(), eta[0]
    )
    kept = hessian.diagonal() > 0
    root = torch.where(kept, hessian.diagonal(), 1.0).rsqrt() * kept
    white = score * root
    top = torch.linalg.eigh(white.T @ white / len(y)).eigenvectors[:, -1] * root
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    weights = weights / weights.sum()

    def rise(beta: float, step: float = 0.02) -> float:
        mean = step * (score @ top) / beta
        total = beta * 0.5 * mean.square().mean()
        for node, weight in zip(nodes, weights, strict=True):
            z = (mean + float(node))[:, None]
            total = total + float(weight) * loss(eta + step * z * top, target).mean()
        return float(total - loss(eta, target).mean()) / step**2

    assert rise(0.97 * found.beta) < 0 < rise(1.03 * found.beta)
    assert rise(0.9 * found.beta) == pytest.approx(0.5 * (1 - 1 / 0.9), rel=0.05)


def test_a_condition_leaves_what_it_does_not_explain() -> None:
    x, y = SOFT[:, :32], SOFT[:, 32:]
    found = pc.onset(lambda o, y: 0.5 * (o - y).square().sum(1), y, x)
    spectrum = pc.forecast((x, y), pc.CVAESpec(4)).spectrum
    assert found.ratios[:20] == pytest.approx(spectrum[:20], rel=1e-6)
    assert found.output.shape == y.shape
    # As a pair they were two rows of as many numbers as both have, being of one shape.
    paired = pc.onset(lambda o, y: 0.5 * (o - y).square().sum(1), (x, y))
    assert paired.ratios == pytest.approx(found.ratios)
    few = BINARY[:, ::8]
    given = pc.onset(
        lambda o, y: functional.binary_cross_entropy_with_logits(o, y, reduction="sum"),
        BINARY[:, 20:28],
        few,
    )
    spec = pc.CVAESpec(4, likelihood="bernoulli")
    closed = pc.forecast((few, BINARY[:, 20:28]), spec)
    assert given.beta == pytest.approx(closed.onset, rel=1e-5)


@pytest.mark.parametrize("loss", [lambda o, y: (o - y).square(), lambda o, y: (o - y).cosh().log()])
def test_a_condition_that_explains_all_leaves_nothing(loss: Loss) -> None:
    """What is left is rounding, which jumps; the forecast says the same of it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4)) * [3, 2, 1, 0.1]
    for y in (x, x[:, :2] @ rng.standard_normal((2, 5))):
        found = pc.onset(lambda o, y: loss(o, y).sum(1), y, x)
        assert found.beta == pc.forecast((x, y), pc.CVAESpec(2)).onset == 0
        assert found.loss == pytest.approx(0, abs=1e-20)
        assert "left out, which no row pulls another way" in found.notes[0]


def test_columns_of_a_condition_that_follow_from_others_count_once() -> None:
    """In single precision they follow but for their rounding, which explains nothing."""
    x, y = SOFT[:, 20:28].astype(np.float32), SOFT[:, 36:44]
    sums = (x[:, :4] + x[:, 4:]) / np.float32(3)

    def found(condition: Any) -> pc.Onset:
        return pc.onset(lambda o, y: 0.5 * (o - y).square().sum(1), y, condition)

    assert found(np.c_[x, sums]).ratios == pytest.approx(found(x).ratios, rel=1e-9)


def test_few_rows_for_a_condition_are_cautioned() -> None:
    x, y = RNG.standard_normal((2, 30, 4))
    with pytest.warns(FewSamplesWarning, match="4 independent features for 30 samples"):
        found = pc.onset(functional.mse_loss, y, x)
    assert "may be an artefact" in found.notes[-1]


def convolved(o: Tensor, y: Tensor) -> Tensor:
    kernel = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(2, 1, 3, 3).sin()
    return functional.conv2d(o - y, kernel).square().flatten(1).sum(1)


@pytest.mark.parametrize("case", ["image", "tokens"])
def test_large_outputs_go_by_products_with_the_hessian_alone(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, y = (convolved, SOFT.reshape(-1, 1, 8, 8)) if case == "image" else (tokens, ONE_HOT)
    whole = pc.onset(loss, y)
    monkeypatch.setattr(onsets, "MOST_PUSHES", 8)
    found = pc.onset(loss, y)
    assert len(found.ratios) == onsets.LARGEST
    assert found.ratios == pytest.approx(whole.ratios[: len(found.ratios)], rel=1e-6)
    assert "only the largest 8 ratios" in found.notes[-1]


def test_many_positions_are_blocks() -> None:
    classes = RNG.integers(0, 3, (200, 120))
    classes[:, ::2] = classes[:, :1]
    one_hot = np.eye(3)[classes]
    found = pc.onset(tokens, one_hot)
    assert found.ratios[:50] == pytest.approx(over(one_hot, lambda m: m)[:50], rel=1e-6)
    assert found.notes == ("120 directions were left out, along which the loss is constant",)


def test_modes_that_are_worth_just_1_are_not_counted_as_worth_more() -> None:
    """Of one class of several all are, whatever the classes' shares; rounding decided."""
    for classes in (2, 3, 5, 8, 13):
        numbers = np.random.default_rng(classes).integers(0, classes, 200)
        found = pc.onset(functional.cross_entropy, numbers, output_shape=classes)
        assert found.ratios == pytest.approx(np.ones(classes - 1), abs=1e-9)
        assert f"; 0 of {classes - 1} mode" in repr(found)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16, np.int64])
def test_class_numbers_of_any_type_are_what_torch_takes(dtype: Any) -> None:
    """Of int32 it refuses to be a target, and to make them floats, as was said, is no help."""
    numbers = np.random.default_rng(0).integers(0, 3, (200, 2)).astype(dtype)
    found = pc.onset(functional.cross_entropy, numbers, output_shape=(3, 2))
    hot = np.eye(3)[numbers].reshape(200, -1)
    spec = pc.VAESpec(2, likelihood="categorical")
    # The mean over two positions is half of their sum.
    assert found.beta == pytest.approx(pc.forecast(hot.reshape(200, 2, 3), spec).onset / 2)


def test_targets_that_are_no_whole_numbers_are_as_precise_as_outputs_of_another_shape() -> None:
    y = np.random.default_rng(2).standard_normal((500, 4), np.float32)

    def likelihood(o: Tensor, y: Tensor) -> Tensor:
        assert o.dtype == y.dtype == torch.float64
        return (0.5 * (o[:, 0] - y).square() / o[:, 1].exp() + 0.5 * o[:, 1]).sum(1)

    assert pc.onset(likelihood, y, output_shape=(2, 4)).beta > 0


def test_an_output_of_another_shape() -> None:
    """A Gaussian that also gives its std has signal in its variance: y^2 beside y."""
    y = np.random.default_rng(1).standard_normal((4000, 1)) * 3

    def loss(o: Tensor, y: Tensor) -> Tensor:
        return -torch.distributions.Normal(o[:, 0], o[:, 1].exp()).log_prob(y).sum(1)

    found = pc.onset(loss, y, output_shape=(2, 1))
    white = (y - y.mean()) / y.std()
    scores = np.concatenate([white, (white**2 - 1) / math.sqrt(2)], axis=1)
    assert found.ratios == pytest.approx(eigenvalues(scores), rel=1e-6)
    assert found.output[:, 0] == pytest.approx([y.mean(), math.log(y.std())], abs=1e-6)


def test_kinds_of_targets() -> None:
    expected = pc.onset(functional.mse_loss, SOFT).beta
    for y in (
        torch.tensor(SOFT, dtype=torch.float32),
        SOFT.tolist(),
        pc.load("digits"),
        torch.utils.data.DataLoader(torch.tensor(SOFT), batch_size=500),
    ):
        assert pc.onset(functional.mse_loss, y).beta == pytest.approx(expected, rel=1e-6)
    images = pc.onset(functional.mse_loss, SOFT.reshape(-1, 1, 8, 8))
    assert images.beta == pytest.approx(expected, rel=1e-9)
    assert images.output.shape == (1, 8, 8)
    one = pc.onset(lambda o, y: (o - y).square(), SOFT[:, 20])
    assert one.ratios == pytest.approx([2 * SOFT[:, 20].var()], rel=1e-9)
    bits = pc.onset(functional.binary_cross_entropy, BINARY > 0)
    assert bits.beta == pytest.approx(BERNOULLI[0] / 64, rel=1e-6)


def test_a_loss_in_single_precision() -> None:
    def loss(o: Tensor, y: Tensor) -> Tensor:
        return functional.mse_loss(o.float(), y.float())

    expected = pc.onset(functional.mse_loss, SOFT).beta
    assert pc.onset(loss, SOFT).beta == pytest.approx(expected, rel=1e-4)


def test_rows_that_are_all_alike_have_an_onset_of_0() -> None:
    for loss in (functional.mse_loss, functional.binary_cross_entropy_with_logits):
        found = pc.onset(loss, np.ones((10, 3)))
        assert (found.beta, len(found.ratios)) == (0.0, 0)
        assert found.notes[0].startswith("3 of 3 outputs were left out")


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_of_the_data_do_not_matter(scale: float) -> None:
    expected = pc.onset(functional.mse_loss, SOFT).ratios[:20] * scale**2
    assert pc.onset(functional.mse_loss, SOFT * scale).ratios[:20] == pytest.approx(
        expected, rel=1e-9
    )


def test_mixed_outputs_go_by_their_own_curvature() -> None:
    """A zero-inflated Poisson, whose mean and share of zeros are coupled, against plain algebra."""
    rng = np.random.default_rng(0)
    y = (rng.poisson(3.0, (4000, 1)) * (rng.random((4000, 1)) > 0.3)).astype(float)

    def loss(o: Tensor, y: Tensor) -> Tensor:
        log_rate, logit = o[:, 0], o[:, 1]
        counted = functional.logsigmoid(-logit) - log_rate.exp() + y * log_rate
        both = torch.logaddexp(functional.logsigmoid(logit), counted)
        return -torch.where(y == 0, both, counted).sum(1)

    found = pc.onset(loss, y, output_shape=(2, 1))
    eta = torch.tensor(found.output)
    rows = torch.tensor(y)
    jacobian = torch.autograd.functional.jacobian(
        lambda o: loss(o.expand(len(y), 2, 1), rows), eta
    ).reshape(-1, 2)
    hessian = torch.autograd.functional.hessian(
        lambda o: loss(o.expand(len(y), 2, 1), rows).mean(), eta
    ).reshape(2, 2)
    expected = torch.linalg.eigvals(torch.linalg.solve(hessian, jacobian.T @ jacobian / len(y)))
    assert jacobian.mean(0).abs().max() < 1e-6
    assert found.ratios == pytest.approx(np.sort(expected.real.numpy())[::-1], rel=1e-6)
