"""The certificate of collapse at linear optima, from explicit weights and the raw data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import posterior_collapse as pc
from posterior_collapse.errors import InvalidArgumentError
from problems import problems

PROBLEMS = problems(40, st.floats(0.1, 5.0), ["vae", "cvae", "hvae"])


def unexplained(x, y, spec, p, level: int) -> float:
    """Largest eigenvalue of the covariance of the mean residual at a level."""
    if spec.model == "cvae":
        z = x @ p["W1"].T + y @ p["W2"].T
        residual = y - z @ p["U1"].T - x @ p["U2"].T
        residual = residual - residual.mean(0)
        slope = np.linalg.lstsq(x - x.mean(0), residual, rcond=None)[0]
        residual = residual - (x - x.mean(0)) @ slope
    elif level == 1:
        residual = x - x @ p["W1"].T @ p["U1"].T
    else:
        s = p["W1"] @ np.cov(x.T, bias=True) @ p["W1"].T + np.diag(p["sigma_1"] ** 2)
        left = np.eye(len(s)) - p["U2"] @ p["W2"]
        return float(np.linalg.eigvalsh(left @ s @ left.T)[-1])
    return float(np.linalg.eigvalsh(np.cov(residual.T, bias=True))[-1])


@pytest.mark.filterwarnings("ignore::posterior_collapse.theory.FewSamplesWarning")
@given(PROBLEMS)
def test_no_signal_is_left_unclaimed_where_units_are_spare(problem) -> None:
    x, y, spec = problem
    moments = pc.Moments.from_arrays(x, y)
    f = pc.forecast(moments, spec)
    p = f.parameters()
    dead = ["collapsed" in level.status for level in f.levels]
    for k in range(len(f.levels)):
        if not dead[k]:
            continue
        variance = unexplained(x, y, spec, p, k + 1)
        # z2 encodes at most as many units of z1 as there are: none is spare for a further one
        spare = k + 1 < len(f.levels) and spec.dims[1] > f.levels[0].n_active
        assert pc.unclaimed_signal(spec, variance, level=k + 1, spare_above=spare) <= 1 + 1e-9


@pytest.mark.filterwarnings("ignore::posterior_collapse.theory.FewSamplesWarning")
@given(PROBLEMS)
def test_switching_off_the_strongest_unit_is_seen(problem) -> None:
    x, y, spec = problem
    f = pc.forecast(pc.Moments.from_arrays(x, y), spec)
    if f.levels[0].n_active == 0:
        return
    p = dict(f.parameters())
    unit = int(np.argmax(f.levels[0].information))
    p["U1"] = p["U1"].copy()
    p["U1"][:, unit] = 0
    variance = unexplained(x, y, spec, p, 1)
    assert variance == pytest.approx(f.spectrum[0], rel=1e-6)
    # not so much that the margin of a barely active unit drowns in rounding
    if f.levels[0].data_variance[unit] > f.levels[0].threshold[unit] * (1 + 1e-6):
        assert pc.unclaimed_signal(spec, variance) > 1


def test_thresholds_are_those_of_the_forecast() -> None:
    x = np.random.default_rng(0).standard_normal((50, 4)) * [3, 2, 1, 0.5]
    for spec in (
        pc.VAESpec(2, 0.7, 0.8, 1.2),
        pc.VAESpec(2, 0.7, 0.8, 1.2, 0.6),
        pc.HVAESpec((2, 2), (0.8, 1.2), 0.7, 1.1, 0.6),
        pc.HVAESpec((2, 2), (0.8, 1.2), 0.7, 1.1, 0.6, 0.9),
        pc.HVAESpec((2, 2), (0.8, 1.2), 0.7, 1.1, "learned"),
    ):
        level = pc.forecast(x, spec).levels[0]
        assert pc.unclaimed_signal(spec, level.threshold[0]) == pytest.approx(1)
    learned = pc.forecast(x, pc.VAESpec(2, 0.7, "learned"))
    t = pc.unclaimed_signal(learned.spec, learned.levels[0].threshold[0], eta_dec=learned.eta_dec)
    assert t == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variance": 1.0, "level": 2}, "level: got 2"),
        ({"variance": -1.0}, "variance: got -1.0"),
        ({"variance": float("nan")}, "variance: got nan"),
        ({"variance": np.array([0.4, 0.5])}, "variance: got"),
        ({"variance": "0.4"}, "variance: got 0.4"),
        ({"variance": 1.0, "level": "1"}, "level: got 1"),
    ],
)
def test_bad_input(arguments, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        pc.unclaimed_signal(pc.VAESpec(2), **arguments)
    with pytest.raises(InvalidArgumentError, match="eta_dec"):
        pc.unclaimed_signal(pc.VAESpec(2, eta_dec="learned"), 1.0)
