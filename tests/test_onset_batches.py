"""`onset` where rows are no sum: a factor that a batch has in common, and targets left out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import posterior_collapse as pc
from posterior_collapse.diagnosis import onsets

SOFT = pc.load("digits").x
GAPS = np.where(np.random.default_rng(1).random(SOFT.shape) < 0.3, np.nan, SOFT)
STRONGEST = float(np.linalg.eigvalsh(np.cov(SOFT.T, ddof=0))[-1])
SPREAD = float(SOFT.var(axis=0).mean())
"""The mean squared error where nothing is known of a row."""


def root(o: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(o, y).sqrt()


def squares(o: Tensor, y: Tensor) -> Tensor:
    """Squared errors of what is there."""
    return (o - torch.where(y.isnan(), o, y)).square()


def summed(o: Tensor, y: Tensor) -> Tensor:
    return squares(o, y).sum(1) / 2


def averaged(o: Tensor, y: Tensor) -> Tensor:
    return squares(o, y).sum() / (~y.isnan()).sum()


def strongest_of_gaps(y: Any, noise: Any = np.ones_like) -> float:
    """The law by hand: the score of what is missing is 0, and so is its curvature."""
    y = y[:, np.nanstd(y, axis=0) > 0]
    there, mean = ~np.isnan(y), np.nanmean(y, axis=0)
    scores = np.where(there, y - mean, 0) / np.sqrt(there.mean(axis=0) * noise(mean))
    return float(np.linalg.eigvalsh(scores.T @ scores / len(y))[-1])


def test_a_root_mean_square_has_the_onset_of_its_slope_at_collapse() -> None:
    found = pc.onset(root, SOFT)
    assert found.beta == pytest.approx(STRONGEST / (64 * math.sqrt(SPREAD)), rel=1e-9)
    assert found.loss == pytest.approx(math.sqrt(SPREAD))
    assert found.notes[0].endswith("of a batch of 1,797 rows, which smaller ones come near")

    def optimum(share: float, beta: float) -> float:
        """The loss where the first mode's posterior keeps this share of its variance as noise."""
        return math.sqrt(SPREAD - STRONGEST * (1 - share) / 64) - beta * math.log(share) / 2

    for beta, pays in ((0.999 * found.beta, True), (1.001 * found.beta, False)):
        assert (optimum(1 - 1e-4, beta) < optimum(1, beta)) is pays


def test_a_fitted_std_has_the_onset_that_the_forecast_has() -> None:
    found = pc.onset(lambda o, y: 32 * functional.mse_loss(o, y).log(), SOFT)
    forecast = pc.forecast(SOFT, pc.VAESpec(1, eta_dec="learned"))
    assert found.beta == pytest.approx(STRONGEST / SPREAD, rel=1e-9)
    assert found.beta == pytest.approx(forecast.onset, rel=1e-9)


def test_a_root_in_single_precision() -> None:
    found = pc.onset(lambda o, y: root(o.float(), y.float()), SOFT)
    assert found.beta == pytest.approx(pc.onset(root, SOFT).beta, rel=1e-4)


def test_more_rows_than_are_called_at_once_are_drawn(monkeypatch) -> None:
    monkeypatch.setattr(onsets, "MOST_COUPLED", 64 * 1000)
    found = pc.onset(root, SOFT)
    assert "a batch of 1,000 rows" in found.notes[0]
    # A variance of 1,000 rows of 1,797 errs by about 3 %.
    assert found.beta == pytest.approx(pc.onset(root, SOFT[::-1]).beta, rel=0.1)
    assert found.output.shape == (64,)


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, y: (o - y).square().sum().sqrt(),  # goes by how many rows there are
        lambda o, y: functional.mse_loss(o, y) + (o.std(0) - 1).square().mean(),
        lambda o, y: functional.mse_loss(functional.batch_norm(o, None, None, training=True), y),
        lambda o, y: functional.mse_loss(o, y) * (1 + o.square().mean()),
    ],
)
def test_rows_that_change_what_others_pull_at_are_refused(loss: Any) -> None:
    with pytest.raises(pc.InvalidArgumentError, match="neither the mean nor the sum of its rows'"):
        pc.onset(loss, SOFT[:, 20:30])


def test_targets_that_are_left_out_pull_at_nothing() -> None:
    found = pc.onset(summed, GAPS)
    assert found.beta == pytest.approx(strongest_of_gaps(GAPS), rel=1e-9)
    assert found.output == pytest.approx(np.nanmean(GAPS, axis=0))
    assert found.loss == pytest.approx(np.nansum(np.nanvar(GAPS, axis=0) * there(GAPS)) / 2)


def test_a_mean_over_what_is_there_divides_by_how_much_there_is() -> None:
    found = pc.onset(averaged, GAPS)
    each = (~np.isnan(GAPS)).sum(axis=1).mean() / 2
    assert found.beta == pytest.approx(strongest_of_gaps(GAPS) / each, rel=1e-9)


def test_rows_of_which_nothing_is_there_may_be_first_and_most() -> None:
    """Two of them together have no mean, which was taken for rows that depend on each other."""
    y = np.concatenate([np.full((len(GAPS) * 3, GAPS.shape[1]), np.nan), GAPS])
    found = pc.onset(averaged, y)
    assert found.beta == pytest.approx(4 * pc.onset(averaged, GAPS).beta, rel=1e-9)


def test_a_feature_that_is_never_there_and_one_that_never_varies() -> None:
    y = (GAPS > 0.5) * 1.0
    y[np.isnan(GAPS)] = np.nan
    y[:, 30] = np.nan

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        seen = torch.nan_to_num(y)
        each = functional.binary_cross_entropy_with_logits(logits, seen, reduction="none")
        return (each * ~y.isnan()).sum(1)

    found = pc.onset(loss, y)
    expected = strongest_of_gaps(np.delete(y, 30, axis=1), lambda m: m * (1 - m))
    assert found.beta == pytest.approx(expected, rel=1e-9)
    assert "were left out" in found.notes[0]


def test_the_only_row_with_a_gap_is_looked_at() -> None:
    y = SOFT.copy()
    y[1234, 20] = np.nan
    assert pc.onset(summed, y).beta == pytest.approx(strongest_of_gaps(y), rel=1e-9)
    for loss in (
        functional.mse_loss,
        lambda o, y: ((o - y).square() * ~y.isnan()).sum(1),  # 0 times NaN
        functional.binary_cross_entropy,
    ):
        with pytest.raises(pc.DataError, match="nan at row 1234, column 20"):
            pc.onset(loss, y)
    with pytest.raises(pc.DataError, match="y: got nan at row 0, column 0"):
        pc.onset(summed, np.full((9, 4), np.nan))
    y[7, 3] = np.inf
    with pytest.raises(pc.DataError, match="inf at row 7, column 3"):
        pc.onset(summed, y)


def there(y: Any) -> Any:
    return (~np.isnan(y)).mean(axis=0)
