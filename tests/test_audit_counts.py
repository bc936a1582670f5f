"""`audit_loss` on counts with many zeros, as of single cells."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import posterior_collapse as pc
from losses import per_row
from posterior_collapse.adapters import audit_loss

GENES, CELLS = 12, 200
R = torch.linspace(0.5, 4, GENES)
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(np.exp(RNG.standard_normal((CELLS, 2)) @ RNG.standard_normal((2, GENES))))
COUNTS[:, 3] = 0  # a gene that no cell shows
Error = Callable[[Tensor, Tensor], Tensor]


def negative_binomial(m: Tensor, y: Tensor) -> Tensor:
    """The negative logarithm of each count's probability, of means m and of dispersions R."""
    r = R.to(m)
    constant = (y + r).lgamma() - r.lgamma() - (y + 1).lgamma()
    return -(constant + r * (r / (r + m)).log() + y * (m / (r + m)).log())


def zero_inflated(m: Tensor, y: Tensor, share: float = 0.3) -> Tensor:
    nll = negative_binomial(m, y)
    with_zero = -(share + (1 - share) * (-nll).exp()).log()
    return torch.where(y < 1e-8, with_zero, nll - math.log(1 - share)).sum(-1).mean()


def loss_of(error: Error) -> Callable[..., Tensor]:
    return lambda o, y, m, s: error(o, y) + 0.5 * per_row(m, s)


def test_zero_inflated_counts_are_no_negative_binomial() -> None:
    """Where there are no zeros they look like one, but for the share of those that count."""
    plain = audit_loss(loss_of(zero_inflated), features=GENES, latents=2)
    assert (plain.value, plain.likelihood) == (None, "other")
    assert "in a zero-inflated likelihood" in plain.text
    found = audit_loss(loss_of(zero_inflated), latents=2, data=COUNTS.astype(float))
    assert (found.likelihood, found.reconstruction.masked) == ("other", "in these data")
    seen = np.delete(COUNTS, 3, axis=1)  # of the gene without counts no rate is the best

    def error(m: Tensor, y: Tensor) -> Tensor:
        whole = torch.ones(len(m), GENES).to(m)
        whole[:, np.arange(GENES) != 3] = m
        return zero_inflated(whole, functional.pad(y, (0, 1))[:, [*range(3), -1, *range(3, 11)]])

    expected = pc.onset(error, seen.astype(float)).beta
    assert found.forecast is not None
    assert found.forecast.onset == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lambda o, y: negative_binomial(o.exp(), y), "negative-binomial"),
        (negative_binomial, "negative-binomial means"),
        (lambda o, y: negative_binomial(R.to(o) * o.exp(), y), "negative-binomial logits"),
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_a_negative_binomial_holds_on_zeros(error: Error, kind: str, single: bool) -> None:
    def summed(o: Tensor, y: Tensor) -> Tensor:
        o, y = (o.float(), y.float()) if single else (o, y)
        return error(o, y).sum(-1).mean()

    for data in (None, COUNTS.astype(float)):
        found = audit_loss(loss_of(summed), features=GENES, latents=2, data=data)
        assert (found.reconstruction.kind, found.reconstruction.masked) == (kind, None)
        assert found.value == pytest.approx(0.5, rel=1e-4)
