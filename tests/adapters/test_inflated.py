"""The zero-inflated negative binomial, against scipy's counts."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from posterior_collapse.adapters.scvi import ZeroInflatedNegativeBinomial
from posterior_collapse.diagnosis.scores import scored

COUNTS = np.arange(200.0)
R, MEAN, GATE = 2.5, 7.0, 0.3


def inflated(shift: float = 0.0) -> ZeroInflatedNegativeBinomial:
    logits = torch.full((1, len(COUNTS)), np.log(MEAN / R) + shift, dtype=torch.float64)
    gate = torch.tensor(np.log(GATE / (1 - GATE)))
    return ZeroInflatedNegativeBinomial(torch.tensor(R, dtype=torch.float64), logits, gate)


def test_densities_and_mean() -> None:
    counts = stats.nbinom(R, R / (R + MEAN))
    share = (1 - GATE) * counts.pmf(COUNTS) + GATE * (COUNTS == 0)
    found = inflated().log_prob(torch.tensor(COUNTS))[0].exp()
    np.testing.assert_allclose(found, share, rtol=1e-10)
    np.testing.assert_allclose(inflated().mean, (1 - GATE) * MEAN)
    assert abs(share.sum() - 1) < 1e-12


def test_its_score_is_that_along_the_log_of_the_mean() -> None:
    """So that the certificate reads it; differences of 1e-4 are wrong by their third order."""
    y = torch.tensor(COUNTS)[None]
    found = scored(inflated(), y)
    step = 1e-4
    above, below = (inflated(shift).log_prob(y) for shift in (step, -step))
    assert found.score is not None
    np.testing.assert_allclose(found.score[0], (above - below)[0] / (2 * step), atol=1e-6)
