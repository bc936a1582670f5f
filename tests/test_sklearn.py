"""`LinearVAE`: scikit-learn's own checks, and the identities of probabilistic PCA."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

import posterior_collapse as pc
from fresh import output
from posterior_collapse.sklearn import LinearVAE

DIGITS = load_digits().data / 16
X = np.random.default_rng(0).standard_normal((300, 5)) @ np.diag([3.0, 2.0, 1.0, 0.5, 0.2]) + 4.0
ATTRIBUTES = [
    "n_components_",
    "n_active_",
    "status_",
    "components_",
    "mean_",
    "noise_variance_",
    "explained_variance_",
    "threshold_",
    "kl_",
    "posterior_std_",
    "forecast_",
]


@pytest.mark.parametrize(
    "model",
    [LinearVAE(), LinearVAE(2, eta_dec=0.3), LinearVAE(2, beta=4.0, sigma="shared")],
    ids=["defaults", "eta_dec given", "sigma shared"],
)
def test_it_is_a_scikit_learn_estimator(model: LinearVAE) -> None:
    found = check_estimator(model, on_skip=None)
    # Only the check of array libraries is skipped, which an environment variable asks for.
    assert {one["check_name"] for one in found if one["status"] != "passed"} <= {
        "check_array_api_input"
    }


@pytest.mark.parametrize("k", [1, 3])
def test_at_beta_1_it_is_probabilistic_pca(k: int) -> None:
    """Tipping and Bishop (1999), equations 7 and 8, with the variances of maximum likelihood."""
    model = LinearVAE(k).fit(X)
    values, vectors = np.linalg.eigh(np.cov(X.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[k:].mean()
    assert model.noise_variance_ == pytest.approx(noise, rel=1e-12)
    weights = vectors[:, :k] * np.sqrt(values[:k] - noise)
    np.testing.assert_allclose(np.abs(model.components_), np.abs(weights.T), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        model.components_.T @ model.components_, weights @ weights.T, atol=1e-12
    )
    np.testing.assert_allclose(
        model.get_covariance(), weights @ weights.T + noise * np.eye(5), atol=1e-12
    )
    # E[z|x] = M^-1 W'(x - mean), M = W'W + noise: their equation 6.
    m = model.components_ @ model.components_.T + noise * np.eye(k)
    means = np.linalg.solve(m, model.components_ @ (X - X.mean(0)).T).T
    np.testing.assert_allclose(model.transform(X), means, atol=1e-12)
    np.testing.assert_allclose(model.posterior_std_**2, np.diag(noise * np.linalg.inv(m)))
    assert model.score(X) == pytest.approx(-model.forecast_.loss, rel=1e-12)  # the ELBO is tight


def test_it_scores_as_scikit_learns_pca_does_and_a_little_better() -> None:
    """PCA divides by n - 1, which is not quite the maximum of the likelihood that it reports."""
    ours, theirs = LinearVAE(10).fit(DIGITS).score(DIGITS), PCA(10).fit(DIGITS).score(DIGITS)
    assert 0 < ours - theirs < 1e-4
    assert ours == pytest.approx(17.451947, abs=1e-6)


@pytest.mark.parametrize(
    "model",
    [LinearVAE(4, beta=2.0), LinearVAE(4, eta_dec=0.7, eta_enc=2.0), LinearVAE(3, sigma=0.6)],
)
def test_a_score_is_the_density_of_the_model(model: LinearVAE) -> None:
    model = clone(model).fit(X)
    law = multivariate_normal(model.mean_, model.get_covariance())
    np.testing.assert_allclose(model.score_samples(X), law.logpdf(X), rtol=1e-10)
    assert model.score(X) == pytest.approx(law.logpdf(X).mean(), rel=1e-10)


def test_a_unit_lives_where_its_variance_exceeds_the_threshold() -> None:
    variance = np.sort(np.linalg.eigvalsh(np.cov(X.T, bias=True)))[::-1]
    model = LinearVAE(4, beta=3.0, eta_dec=0.5).fit(X)
    np.testing.assert_allclose(model.explained_variance_, variance[:4], rtol=1e-12)
    np.testing.assert_allclose(model.threshold_, 0.75)
    assert model.n_active_ == np.count_nonzero(variance[:4] > 0.75) == 3
    assert model.status_.tolist() == ["active"] * 3 + ["collapsed"]
    assert not model.components_[3].any()
    assert not model.transform(X)[:, 3].any()
    np.testing.assert_allclose(model.kl_[:3], 0.5 * np.log(variance[:3] / 0.75), rtol=1e-9)
    assert model.kl_[3] == 0


def test_signs_are_those_of_the_largest_entries() -> None:
    components = LinearVAE(4).fit(X).components_
    largest = np.abs(components).argmax(axis=1)
    assert (components[np.arange(4), largest] > 0).all()


@pytest.mark.parametrize("size", [1, 7, 299])
def test_batches_of_any_size_give_what_all_samples_give(size: int) -> None:
    """The last of batches of 7 or 299 has another size; those of one row vary in nothing."""
    whole, parts = LinearVAE(3, beta=2.0).fit(X), LinearVAE(3, beta=2.0)
    for start in range(0, len(X), size):
        parts.partial_fit(X[start : start + size])
    for name in ("components_", "mean_", "noise_variance_", "kl_"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-8)
    before = parts.components_
    assert not np.allclose(parts.partial_fit(X[:50] * 2).components_, before)
    np.testing.assert_array_equal(parts.fit(X).components_, whole.components_)


def test_single_precision_stays_and_no_row_depends_on_others() -> None:
    model = LinearVAE(3).fit(X)
    narrow = X.astype(np.float32)
    assert model.transform(narrow).dtype == np.float32
    assert model.inverse_transform(model.transform(narrow)).dtype == np.float32
    np.testing.assert_allclose(model.transform(narrow), model.transform(X), atol=1e-5)
    alone = np.concatenate([model.score_samples(row[None]) for row in X])
    np.testing.assert_allclose(alone, model.score_samples(X), rtol=1e-13)
    narrow_alone = np.concatenate([model.score_samples(row[None]) for row in narrow])
    np.testing.assert_allclose(narrow_alone, model.score_samples(narrow), rtol=1e-13)


def test_what_goes_in_and_out_by_name() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcde"), index=range(100, 400))
    model = LinearVAE(2).set_output(transform="pandas").fit(frame)
    assert model.feature_names_in_.tolist() == list("abcde")
    latents = model.transform(frame)
    assert latents.columns.tolist() == ["linearvae0", "linearvae1"]
    assert latents.index.tolist() == frame.index.tolist()


def test_samples_have_the_models_law_and_repeat() -> None:
    model = LinearVAE(3).fit(X)
    drawn = model.sample(40_000, random_state=1)
    # A covariance of n rows has a relative error of about sqrt(2 / n), 0.007: five of them.
    scale = np.sqrt(np.outer(*[model.get_covariance().diagonal()] * 2))
    assert (np.abs(np.cov(drawn.T) - model.get_covariance()) / scale).max() < 0.035
    np.testing.assert_array_equal(model.sample(5, 3), model.sample(5, 3))
    assert model.sample().shape == (1, 5)


@pytest.mark.parametrize(("beta", "units"), [(1.0, 60), (1.05, 61), (2.0, 61)])
def test_as_many_units_as_there_is_a_minimum_for(beta: float, units: int) -> None:
    """Three pixels of digits never vary: 61 units at beta = 1 would explain all of 64."""
    assert np.linalg.matrix_rank(DIGITS - DIGITS.mean(0)) == 61
    assert LinearVAE(beta=beta).fit(DIGITS).n_components_ == units
    assert LinearVAE(beta=beta, eta_dec=0.3).fit(DIGITS).n_components_ == 61


def test_a_fixed_sigma_always_has_a_minimum() -> None:
    model = LinearVAE(beta=0.5, sigma=0.5).fit(X)
    assert model.n_components_ == 5
    assert np.isfinite(model.score(X))


def test_nothing_is_known_before_it_is_fitted() -> None:
    model = LinearVAE(2)
    assert not any(hasattr(model, name) for name in ATTRIBUTES)
    for use in (model.transform, model.score, model.inverse_transform):
        with pytest.raises(NotFittedError):
            use(X)
    with pytest.raises(NotFittedError):
        model.sample()
    model.fit(X)
    assert all(hasattr(model, name) for name in ATTRIBUTES)


@pytest.mark.parametrize(
    ("model", "data", "error", "word"),
    [
        (LinearVAE(0), X, pc.InvalidArgumentError, "n_components"),
        (LinearVAE(2, beta=-1), X, pc.InvalidArgumentError, "beta"),
        (LinearVAE(2, eta_dec="fixed"), X, pc.InvalidArgumentError, "eta_dec"),
        (LinearVAE(5), X[:, [0, 1, 2, 2, 2]], pc.UnboundedObjectiveError, "eta_dec"),
        (LinearVAE(2), np.ones((9, 3)), pc.DataError, "constant"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    model: LinearVAE, data: object, error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word) as caught:
        model.fit(data)
    assert "\n" not in str(caught.value)
    with pytest.raises(NotFittedError):
        model.transform(data)


def test_other_refusals_are_lines_too() -> None:
    model = LinearVAE(2).fit(X)
    with pytest.raises(pc.DataError, match="3 columns; expected 2"):
        model.inverse_transform(X[:, :3])
    with pytest.raises(pc.InvalidArgumentError, match="n_samples"):
        model.sample(0)
    with pytest.raises(pc.DataError, match="8192 in batches"):
        LinearVAE(2).partial_fit(np.zeros((2, 8193)))


def test_what_was_fitted_stays_whatever_is_set_since() -> None:
    model = LinearVAE(2, eta_enc=0.5).fit(X)
    before = model.score(X), model.get_covariance(), model.sample(3, random_state=0)
    model.set_params(eta_enc=3.0)
    after = model.score(X), model.get_covariance(), model.sample(3, random_state=0)
    for one, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, now)


def test_masked_values_are_no_numbers() -> None:
    masked, model = np.ma.masked_less(X, 3.0), LinearVAE(2).fit(X)
    for use in (LinearVAE(2).fit, LinearVAE(2).partial_fit, model.transform, model.score):
        with pytest.raises(pc.DataError, match="X: got masked values"):
            use(masked)


def test_wide_data_keep_all_their_directions() -> None:
    rows = np.random.default_rng(1).standard_normal((12, 9000))
    model = LinearVAE(2, eta_dec=1.0).fit(rows)
    stds = np.linalg.svd(rows - rows.mean(0), compute_uv=False)[:2]
    np.testing.assert_allclose(model.explained_variance_, stds**2 / 12, rtol=1e-9)
    assert model.inverse_transform(model.transform(rows)).shape == rows.shape


def test_it_can_be_kept_and_searched_over() -> None:
    model = LinearVAE(2).fit(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    search = GridSearchCV(LinearVAE(), {"n_components": [1, 2, 3, 4]}, cv=3).fit(X)
    assert search.best_params_ == {"n_components": 4}  # all of the five stds differ


def test_it_needs_no_torch() -> None:
    code = "import sys, posterior_collapse.sklearn; print('torch' in sys.modules)"
    assert output(code).strip() == "False"
