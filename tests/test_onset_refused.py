"""`onset`: losses and data that have no onset, and what is said of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import posterior_collapse as pc

SOFT = pc.load("digits").x
CLASSES = np.random.default_rng(0).integers(4, size=1000)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (functional.l1_loss, pc.InvalidArgumentError, "a gradient that jumps.*huber_loss"),
        (
            lambda o, y: functional.mse_loss(o, y) + functional.l1_loss(o, y),
            pc.InvalidArgumentError,
            "a gradient that jumps",
        ),
        (
            lambda o, y: functional.relu(1 - (2 * y - 1) * o).sum(1),
            pc.InvalidArgumentError,
            "a gradient that jumps",
        ),
        (lambda o, y: y.square().sum(1), pc.InvalidArgumentError, "does not depend on the output"),
        (lambda o, y: -(o * y).sum(1), pc.UnboundedObjectiveError, "no constant output"),
        (lambda o, y: -(o - y).square().sum(1), pc.UnboundedObjectiveError, "curves downwards"),
        (lambda o, y: (o - y).log().sum(1), pc.InvalidArgumentError, "nan or infinity at outputs"),
        (
            lambda o, y: functional.mse_loss(o, y) + o.var(0).log1p().sum(),
            pc.InvalidArgumentError,
            "neither the mean nor the sum of its rows'",
        ),
        (
            lambda o, y: functional.mse_loss(functional.dropout(o), y),
            pc.InvalidArgumentError,
            "without random numbers",
        ),
        (lambda o, y: (o - y).square(), pc.InvalidArgumentError, r"shape \(\d+, 8\) for .* rows"),
        (lambda o, y: 0.0, pc.InvalidArgumentError, "a float from it; expected a tensor"),
        (lambda o: o.sum(), pc.InvalidArgumentError, "takes 1 positional argument"),
        (
            lambda o, y: functional.linear(o, torch.ones(1, 8)).sum(),
            pc.InvalidArgumentError,
            r"loss\(output.float\(\), y.float\(\)\)",
        ),
        (functional.cross_entropy, pc.InvalidArgumentError, r"output_shape=\(classes"),
        (
            lambda o, y: functional.binary_cross_entropy(o, 255 * y),
            pc.InvalidArgumentError,
            "elements of target should be between 0 and 1.*that y lies in the loss's domain",
        ),
        (3, pc.InvalidArgumentError, "a function loss"),
    ],
)
def test_what_has_no_onset_says_why_in_one_line(loss: Any, error: type, message: str) -> None:
    y = (SOFT[:200, 20:28] > 0.5) * 1.0 if loss is not functional.cross_entropy else CLASSES
    with pytest.raises(error, match=message) as caught:
        pc.onset(loss, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (SOFT[:1], {}, "at least two rows"),
        (np.where(SOFT > 0.9, np.nan, SOFT), {}, "nan at row"),
        (SOFT, {"x": SOFT[:5]}, "y and x|x and y"),
        (SOFT, {"x": pc.load("digits").labels}, r"x: got one number per row; .*a column for each"),
        (SOFT, {"x": list(SOFT[:, 20])}, r"x: got one number per row; .*reshape\(-1, 1\)"),
        (SOFT, {"output_shape": 0}, "output_shape"),
        ("digits", {}, "'digits'"),
    ],
)
def test_what_cannot_be_used(y: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((pc.DataError, pc.InvalidArgumentError), match=message):
        pc.onset(functional.mse_loss, y, **options)


DARK = np.concatenate(
    [
        np.clip(
            np.random.default_rng(4).random((500, 1))
            + 0.2 * np.random.default_rng(5).standard_normal((500, 2)),
            0,
            1,
        ),
        0.004 * np.random.default_rng(6).random((500, 1)),
    ],
    axis=1,
)
"""Two pixels that follow each other, and one that is nearly always dark."""


def dark_loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Minus the log of a continuous Bernoulli, which torch clamps below logits of -36."""
    return -torch.distributions.ContinuousBernoulli(logits=output).log_prob(y).sum(1)


def smooth_dark_loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same without a clamp: the log of (e^o - 1) / o less o y, for o < 0 or away from 0."""
    size = output.abs().clamp(min=1e-3)
    norm = torch.log(-torch.expm1(-size) / size) + output.clamp(min=0)
    return (norm - output * y).sum(1)


def test_where_a_likelihood_clamps_its_parameter_the_outputs_are_named() -> None:
    with pytest.raises(
        pc.InvalidArgumentError, match=r"near -3.* of output 3;.* leave such"
    ) as caught:
        pc.onset(dark_loss, DARK)
    assert "\n" not in str(caught.value)
    alive = pc.onset(dark_loss, DARK[:, :2])
    # By the law: the score is y less its mean, the curvature the likelihood's own variance.
    odds = torch.from_numpy(alive.output)
    variance = torch.autograd.functional.hessian(
        lambda o: smooth_dark_loss(o[None], torch.zeros(1, 2)).sum(), odds
    ).diagonal()
    scores = DARK[:, :2] / variance.sqrt().numpy()
    expected = np.linalg.eigvalsh(np.cov(scores.T, bias=True)).max()
    assert alive.beta == pytest.approx(expected, rel=1e-4)
    # Written without the clamp all three have a law: the third is exponential, its variance m^2.
    every = pc.onset(smooth_dark_loss, DARK)
    assert every.output[2] == pytest.approx(-1 / DARK[:, 2].mean(), rel=1e-3)
    assert every.beta == pytest.approx(expected, rel=0.05)
