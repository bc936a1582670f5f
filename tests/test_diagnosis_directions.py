"""Units of one std can be turned into each other: what is counted must not depend on the turn."""

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.models import build, load_parameters, read_parameters

G = np.random.default_rng(0)
X = G.standard_normal((300, 6)) * [3, 2, 1.5, 0.3, 0.3, 0.3] + 1
Y = X @ G.standard_normal((6, 4)) + G.standard_normal((300, 4))
CASES = {
    "vae": (pc.VAESpec(6, sigma=0.8), X, None),
    "vae, sigma per unit, all equal": (pc.VAESpec(4, sigma=(0.8,) * 4), X, None),
    "vae, shared sigma": (pc.VAESpec(5, sigma="shared"), X, None),
    "cvae": (pc.CVAESpec(4, sigma=0.6, eta_dec=0.7), X, Y),
    "hvae": (pc.HVAESpec((5, 3), (1, 1.5), eta_dec=0.5, sigma_1=0.6), X, None),
    "hvae, both fixed": (pc.HVAESpec((4, 4), (1, 1), 0.6, 1.0, 0.5, 0.6), X, None),
}


def turn(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def turned_optimum(spec, x, y, turned_levels):
    """The forecast's optimum with some levels turned at random: as good, and another model."""
    moments = pc.Moments.from_arrays(x, y)
    best = pc.forecast(moments, spec)
    d_y = None if y is None else y.shape[1]
    model = build(spec, "linear", x_dim=x.shape[1], y_dim=d_y, dtype=torch.float64)
    load_parameters(model, best.parameters())
    p = read_parameters(model)
    for level in turned_levels:
        Q = turn(spec.dims[level - 1], level)
        conditional = ["W2", "b1"] if y is not None else ["b1"] if level == 1 else []
        for name in (f"W{level}", *conditional):
            p[name] = Q @ p[name]
        p[f"U{level}"] = p[f"U{level}"] @ Q.T
        if level < len(spec.dims):
            p[f"W{level + 1}"] = p[f"W{level + 1}"] @ Q.T
            p[f"U{level + 1}"] = Q @ p[f"U{level + 1}"]
    load_parameters(model, p)
    return best, model


@pytest.mark.parametrize("name", CASES)
def test_a_turned_optimum_is_diagnosed_as_it_was_forecast(name):
    spec, x, y = CASES[name]
    free = [level for level, same in enumerate(spec.one_sigma_levels, 1) if same]
    best, model = turned_optimum(spec, x, y, free)
    data = x if y is None else (x, y)
    before = read_parameters(model)
    found = pc.diagnose(model, data)
    assert found.loss == pytest.approx(best.loss, abs=1e-10)
    for level, expected in zip(found.levels, best.levels, strict=True):
        assert level.n_active == expected.n_active
        assert sorted(level.kl) == pytest.approx(sorted(expected.kl), abs=1e-9)
        assert sorted(level.gaussian_information) == pytest.approx(
            sorted(expected.information), abs=1e-9
        )
    assert found.conclusion in ("collapse-optimal", "nothing-to-do", "more-units-pay")
    assert any("turned into each other" in note for note in found.notes)
    # The model itself is as it was.
    for key, value in read_parameters(model).items():
        np.testing.assert_array_equal(value, before[key])


def test_units_that_lie_along_their_directions_stay_as_they_are():
    best, model = turned_optimum(*CASES["vae"], [])
    found = pc.diagnose(model, X)
    assert found.levels[0].status == best.levels[0].status
    assert not any("turned" in note for note in found.notes)


def test_what_has_directions_of_its_own_is_not_turned():
    fitted = pc.fit(pc.VAESpec(4), X, "linear", exact=True)
    assert not any("turned" in note for note in pc.diagnose(fitted.model, X).notes)
    squashed = build(pc.HVAESpec((4, 3), sigma_1=0.5), "hvae-relu", x_dim=6, hidden=(8,))
    assert not any("turned" in note for note in pc.diagnose(squashed, X).notes)


def test_a_nonlinear_model_is_counted_as_its_training_counts():
    fitted = pc.fit(pc.VAESpec(6, sigma=0.8), X, "mlp", hidden=(16,), epochs=60)
    found = pc.diagnose(fitted.model, X)
    directions = fitted.measured()["levels"][0]["information"]
    assert found.levels[0].gaussian_information == pytest.approx(directions, abs=2e-3)
    assert found.loss == pytest.approx(fitted.measured()["loss"], abs=6 * found.loss_error)
    effects = found.levels[0].decoder_effect
    assert effects[0] == max(effects)


def test_data_that_can_be_read_once_are_not_turned_but_said_to_be():
    _, model = turned_optimum(*CASES["vae"], [1])
    found = pc.diagnose(model, iter(np.split(X, 3)))
    assert any("read twice" in note for note in found.notes)
    assert found.n == len(X)
