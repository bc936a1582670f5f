"""`onset`: the least of a loss's minima, against grids over constants."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

import posterior_collapse as pc
from posterior_collapse.diagnosis import descent, minima

Loss = Callable[[Tensor, Tensor], Tensor]


def cauchy(o: Tensor, y: Tensor) -> Tensor:
    return torch.log1p((o - y) ** 2)


def student(o: Tensor, y: Tensor) -> Tensor:
    two = torch.tensor(2.0, dtype=torch.float64)
    return -torch.distributions.StudentT(two, o, 0.7).log_prob(y)


def welsch(o: Tensor, y: Tensor) -> Tensor:
    return 1 - torch.exp(-((o - y) ** 2) / 2)


def two_clusters(seed: int, features: int = 1) -> Any:
    """Around -3 and 3, the second a little larger."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([rng.normal(-3, 1, (190, features)), rng.normal(3, 1, (210, features))])
    return y * rng.choice([-1.0, 1.0], features)


def by_grid(loss: Loss, y: Any) -> tuple[Any, float, float]:
    """Return each feature's best constant on a grid, their loss, and the onset by differences."""
    grid = torch.linspace(y.min(), y.max(), 2001, dtype=torch.float64)
    target = torch.tensor(y)
    mean = torch.stack([loss(value, target).mean(dim=0) for value in grid])
    best = grid[mean.argmin(dim=0)].numpy()
    step = 1e-4
    for _ in range(20):  # Newton's steps, within the grid's place
        low, here, high = (loss(torch.tensor(best + d), target) for d in (-step, 0, step))
        slope = ((high - low) / (2 * step)).numpy()
        curvature = ((high - 2 * here + low) / step**2).mean(dim=0).numpy()
        best = best - slope.mean(axis=0) / curvature
    white = slope / np.sqrt(curvature)
    onset = np.linalg.eigvalsh(np.cov(white.T, ddof=0).reshape(y.shape[1], -1))[-1]
    return best, float(mean.amin(dim=0).sum()), float(onset)


@pytest.mark.parametrize("loss", [cauchy, student, welsch])
@pytest.mark.parametrize(("seed", "features"), [(0, 1), (1, 1), (2, 1), (3, 1), (4, 5)])
def test_the_better_cluster_is_taken(loss: Loss, seed: int, features: int) -> None:
    y = two_clusters(seed, features)
    output, least, expected = by_grid(loss, y)
    found = pc.onset(lambda o, y: loss(o, y).sum(1), y)
    assert found.output == pytest.approx(output, abs=1e-4)
    assert found.loss <= least + 1e-12
    assert found.beta == pytest.approx(expected, rel=1e-4)
    assert "the mean loss has several minima" in found.notes[0]


def test_pixels_each_at_their_best() -> None:
    y = pc.load("digits").x[:600]
    y = y[:, y.std(axis=0) > 0.1]

    def loss(o: Tensor, y: Tensor) -> Tensor:
        return torch.log1p(((o - y) / 0.1) ** 2)

    _, least, expected = by_grid(loss, y)
    found = pc.onset(lambda o, y: loss(o, y).mean(), y)
    assert found.loss <= least / y.shape[1] + 1e-12
    assert found.beta == pytest.approx(expected / y.shape[1], rel=1e-3)


@pytest.mark.parametrize("link", [torch.exp, torch.sigmoid])
def test_outputs_through_a_link(link: Callable[[Tensor], Tensor]) -> None:
    """The onset does not depend on how the output is parametrised."""
    y = link(torch.tensor(two_clusters(0, 2)) / 2).numpy()
    scale = 1.0 if link is torch.exp else 0.1

    def plain(o: Tensor, y: Tensor) -> Tensor:
        return torch.log1p(((o - y) / scale) ** 2)

    best, least, expected = by_grid(plain, y)
    found = pc.onset(lambda o, y: plain(link(o), y).sum(1), y)
    assert link(torch.tensor(found.output)).numpy() == pytest.approx(best, abs=1e-4)
    assert found.loss <= least + 1e-9
    assert found.beta == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_features_that_a_loss_couples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = 4 * rng.standard_normal((4, 3))
    y = centres[rng.choice(4, 500, p=[0.2, 0.25, 0.25, 0.3])] + 0.7 * rng.standard_normal((500, 3))

    def loss(o: Tensor, y: Tensor) -> Tensor:
        return 3 * torch.log1p((o - y).square().sum(1))

    target = torch.tensor(y)

    def mean(o: Any) -> float:
        return float(loss(torch.tensor(o), target).mean())

    least = min(minimize(mean, centre, method="Nelder-Mead").fun for centre in [*centres, *y[:9]])
    assert pc.onset(loss, y).loss <= least + 1e-12


def test_a_condition_shifts_the_clusters() -> None:
    """Every row's output is its condition's, plus the better of two constants."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 1))
    y = np.where(rng.random((500, 1)) < 0.45, -3.0, 3.0) + x + 0.3 * rng.standard_normal((500, 1))
    found = pc.onset(lambda o, y: cauchy(o, y).sum(1), y, x)
    target, given = torch.tensor(y), torch.tensor(x)
    lines = itertools.product(np.linspace(-4, 4, 161), np.linspace(-0.5, 1.5, 21))
    least, constant, slope = min(
        (float(cauchy(constant + slope * given, target).mean()), constant, slope)
        for constant, slope in lines
    )
    assert found.loss <= least
    assert found.output == pytest.approx(constant + slope * x, abs=0.2)


def test_rows_that_do_not_tell_which_minimum_is_least() -> None:
    side = np.random.default_rng(0).standard_normal((100, 1)) - 3
    found = pc.onset(lambda o, y: cauchy(o, y).sum(1), np.concatenate([side, -side]))
    assert "these rows do not tell which is least" in found.notes[0]


def test_of_many_rows_some_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    y = two_clusters(0)
    whole = pc.onset(lambda o, y: cauchy(o, y).sum(1), y)
    monkeypatch.setattr(minima, "GLANCE", 50)
    monkeypatch.setattr(minima, "SEARCHED", 100)
    found = pc.onset(lambda o, y: cauchy(o, y).sum(1), y)
    assert found.beta == pytest.approx(whole.beta, rel=1e-9)
    assert found.notes == whole.notes


@pytest.mark.parametrize(
    "loss",
    [
        functional.mse_loss,
        lambda o, y: functional.huber_loss(o, y, delta=0.2),
        lambda o, y: functional.binary_cross_entropy_with_logits(o, y.sigmoid()),
        lambda o, y: (o - y).square().sum(1).sqrt(),  # couples features, and is convex
        lambda o, y: functional.mse_loss(o.sigmoid(), y.sigmoid()),  # not convex, one minimum
    ],
)
def test_one_minimum_is_descended_to_once(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    descents = []

    def counted(*args: Any) -> Any:
        descents.append(args)
        return trusted(*args)

    trusted = descent._trusted
    monkeypatch.setattr(descent, "_trusted", counted)
    assert pc.onset(loss, two_clusters(0, 3)).notes == ()
    assert len(descents) == 1


def charbonnier(d: Any, eps: float) -> Any:
    return (d**2 + eps**2) ** 0.5


def log_cosh(d: Any, scale: float) -> Any:
    """Of d / scale, times the scale."""
    size = abs(d)
    rest = (-2 * size / scale).exp() if isinstance(d, Tensor) else np.exp(-2 * size / scale)
    log = rest.log1p() if isinstance(rest, Tensor) else np.log1p(rest)
    return size + scale * log


DERIVATIVES: dict[Any, tuple[Callable[..., Any], Callable[..., Any]]] = {
    charbonnier: (lambda d, e: d / np.hypot(d, e), lambda d, e: e**2 / np.hypot(d, e) ** 3),
    log_cosh: (
        lambda d, e: np.tanh(d / e),
        lambda d, e: 1 / np.cosh(np.clip(d / e, -300, 300)) ** 2 / e,
    ),
}


@pytest.mark.parametrize(
    ("loss", "width"), [(charbonnier, 3e-3), (charbonnier, 1e-3), (log_cosh, 3e-3)]
)
def test_a_convex_loss_that_is_nearly_kinked_has_its_best_constant(loss: Any, width: float) -> None:
    """Its descent got stuck between kinks: it was refused, as if nothing were best."""
    y = pc.load("digits").x
    first, second = DERIVATIVES[loss]
    low, high = y.min(axis=0) - 1, y.max(axis=0) + 1
    for _ in range(200):  # its slope rises
        middle = (low + high) / 2
        falls = first(middle - y, width).mean(axis=0) < 0
        low, high = np.where(falls, middle, low), np.where(falls, high, middle)
    pull, curvature = first(high - y, width), second(high - y, width).mean(axis=0)
    varies = y.std(axis=0) > 0
    white = (pull / np.sqrt(np.where(varies, curvature, 1.0)))[:, varies]
    found = pc.onset(lambda o, y: loss(o - y, width).sum(1), y)
    assert found.output == pytest.approx(high, abs=1e-7)
    assert found.beta == pytest.approx(np.linalg.eigvalsh(np.cov(white.T, ddof=0))[-1], rel=1e-6)


def weighted_fit(inputs: Any, y: Any, eps: float, width: int) -> Any:
    """Return the least of a Charbonnier loss of so many outputs at once, by reweighted squares."""
    weights = np.zeros((inputs.shape[1], y.shape[1]))
    for first in range(0, y.shape[1], width):
        part = slice(first, first + width)
        for _ in range(4000):
            error = y[:, part] - inputs @ weights[:, part]
            root = (np.square(error).sum(axis=1) + eps**2) ** -0.25
            step = np.linalg.lstsq(inputs * root[:, None], y[:, part] * root[:, None], rcond=None)[
                0
            ]
            moved = np.abs(step - weights[:, part]).max()
            weights[:, part] = step
            if moved < 1e-13:
                break
    return inputs @ weights


def test_a_nearly_kinked_loss_with_a_condition() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 3))
    y = np.abs(x @ rng.standard_normal((3, 8))) + rng.standard_t(3, (600, 8))
    found = pc.onset(lambda o, y: charbonnier(o - y, 1e-3).sum(1), y, x)
    expected = weighted_fit(np.column_stack([np.ones(600), x]), y, 1e-3, 1)
    least = charbonnier(expected - y, 1e-3).sum(axis=1).mean()
    assert found.loss == pytest.approx(least, abs=1e-9)
    assert found.output == pytest.approx(expected, abs=1e-3)


def test_a_nearly_kinked_loss_of_pairs_of_outputs() -> None:
    """As of the length of an error in the plane."""
    y = pc.load("digits").x[:, 8:40]
    found = pc.onset(
        lambda o, y: ((o - y).square().reshape(len(y), -1, 2).sum(2) + 1e-6).sqrt().sum(1), y
    )
    expected = weighted_fit(np.ones((len(y), 1)), y, 1e-3, 2)
    error = np.square(expected - y).reshape(len(y), -1, 2).sum(axis=2)
    assert found.loss == pytest.approx(np.sqrt(error + 1e-6).sum(axis=1).mean(), abs=1e-7)
