"""Cross-fitted residuals: against a loop by hand, and for what they are there for."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import KFold

import posterior_collapse as pc
from posterior_collapse.theory import FewSamplesWarning


def by_hand(x: np.ndarray, y: np.ndarray, folds: int) -> np.ndarray:
    residuals = np.full(y.shape, np.nan)
    for train, test in KFold(folds, shuffle=True, random_state=0).split(x):
        mean, std = x[train].mean(0), x[train].std(0)
        ridge = RidgeCV(alphas=10.0 ** np.linspace(-3, 6, 19))
        ridge.fit((x[train] - mean) / std, y[train])
        residuals[test] = y[test] - ridge.predict((x[test] - mean) / std).reshape(y[test].shape)
    return residuals


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("folds", [2, 5, 40])
def test_every_sample_is_predicted_by_a_fit_that_never_saw_it(folds: int, targets: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6)) * [1, 10, 0.1, 1, 1, 1] + 5
    y = x[:, :targets] + 0.3 * rng.standard_normal((40, targets))
    found = pc.cross_fitted_residuals(x, y, folds)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, by_hand(x, y, folds), rtol=1e-8, atol=1e-10)


def test_what_x_does_not_tell_is_left_where_least_squares_explains_it_away() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((100, 80)), rng.standard_normal((100, 3))
    least_squares = y - LinearRegression().fit(x, y).predict(x)
    assert least_squares.var() < 0.3 * y.var()
    assert 0.9 * y.var() < pc.cross_fitted_residuals(x, y).var() < 1.15 * y.var()


def test_what_x_does_tell_is_explained() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((200, 60))
    y = 3 * x[:, :2] + 0.1 * rng.standard_normal((200, 2))
    assert pc.cross_fitted_residuals(x, y).std() < 0.2


def test_the_forecast_warns_below_ten_samples_per_feature_and_names_the_remedy() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((60, 6)), rng.standard_normal((60, 4))
    spec = pc.CVAESpec(2, eta_dec=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pc.forecast(pc.Moments.from_arrays(x, y), spec).notes == ()
    with pytest.warns(FewSamplesWarning, match="cross_fitted_residuals"):
        f = pc.forecast(pc.Moments.from_arrays(x[:59], y[:59]), spec)
    assert any("artefact" in note for note in f.notes)


def test_the_remedy_brings_back_the_units_that_an_artefact_had_collapsed() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((90, 80)), rng.standard_normal((90, 4))
    spec = {"latent_dim": 4, "eta_dec": 0.6}
    with pytest.warns(FewSamplesWarning):
        fooled = pc.forecast(pc.Moments.from_arrays(x, y), pc.CVAESpec(**spec))
    residuals = pc.cross_fitted_residuals(x, y)
    honest = pc.forecast(pc.Moments.from_arrays(residuals), pc.VAESpec(**spec))
    assert (fooled.n_active, honest.n_active) == (0, 4)


@pytest.mark.parametrize("dtype", ["u1", "?", "f4"])
def test_any_real_dtype_will_do(dtype: str) -> None:
    rng = np.random.default_rng(5)
    x, y = (rng.integers(0, 2, (30, 4)).astype(dtype) for _ in range(2))
    found = pc.cross_fitted_residuals(x, y)
    expected = by_hand(x.astype(float), y.astype(float), 5)
    np.testing.assert_allclose(found, expected, atol=1e-5 if dtype == "f4" else 1e-10)


@pytest.mark.parametrize("folds", [1, 0, -3, 2.5, "five", None])
def test_folds_are_at_least_two(folds) -> None:
    with pytest.raises(pc.InvalidArgumentError, match=r"^folds: got"):
        pc.cross_fitted_residuals(np.eye(9), np.eye(9), folds)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.eye(9), np.eye(8), "^x and y: got 9 and 8 samples"),
        (np.eye(4), np.eye(4), "^x and y: got 4 and 4 samples; expected the same number, at"),
        (np.eye(9)[0], np.eye(9), "^x: got a 1-D array"),
        (np.eye(9), np.arange(9.0), "^y: got a 1-D array"),
        (np.zeros((9, 0)), np.eye(9), "^x: got an empty array"),
        (np.where(np.eye(9) > 0, np.nan, 0.0), np.eye(9), "^x: got nan at row 0, column 0"),
        (np.eye(9), np.where(np.eye(9) > 0, np.inf, 0.0), "^y: got inf at row 0, column 0"),
        (np.eye(9) * 1j, np.eye(9), "^x: got complex"),
        (np.full((9, 1), "a"), np.eye(9), "^x: got dtype <U1"),
    ],
)
def test_what_is_not_samples_is_refused(x, y, words: str) -> None:
    with pytest.raises(pc.DataError, match=words):
        pc.cross_fitted_residuals(x, y)
