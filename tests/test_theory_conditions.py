"""Conditions of likelihoods that are not Gaussian: what is left where x tells nearly all."""

import numpy as np
import pytest

import posterior_collapse as pc
from posterior_collapse.theory import FewSamplesWarning
from posterior_collapse.theory.whitening import regress

ROWS = 500
RNG = np.random.default_rng(0)
X = RNG.standard_normal((ROWS, 3))
CLASSES = np.eye(4)[RNG.integers(0, 4, ROWS)]
NOISE = RNG.integers(0, 2, (ROWS, 2)).astype(float)
ONE_HOT_NOISE = np.eye(3)[RNG.integers(0, 3, ROWS)]
SEPARABLE = (X @ RNG.standard_normal((3, 5)) > 0).astype(float)
MANY = RNG.standard_normal((20_000, 3))
RATES = np.array([[0.0, 5.0], [0.0, 2.0], [7.0, 0.0], [3.0, 9.0]])
TOLD = {
    "bits": ("bernoulli", X, SEPARABLE),
    "bits of many rows": ("bernoulli", MANY, (MANY @ RNG.standard_normal((3, 2)) > 0) * 1.0),
    "shares": ("bernoulli", X, 1 / (1 + np.exp(-X @ RNG.standard_normal((3, 2))))),
    "classes": ("categorical", X, np.eye(3)[X.argmax(axis=1)]),
    "its own classes": ("categorical", CLASSES, CLASSES),
    "counts": ("poisson", CLASSES, CLASSES @ RATES),
    "learned dispersions": ("negative-binomial", CLASSES, CLASSES @ RATES),
}
"""What a linear function of x predicts in every row."""


@pytest.mark.parametrize("name", TOLD)
def test_of_what_the_condition_tells_nothing_is_left(name) -> None:
    """The larger the coefficients the better: the onset was where their search had stopped."""
    likelihood, x, y = TOLD[name]
    found = pc.forecast((x, y), pc.CVAESpec(2, beta=1e-6, likelihood=likelihood), network=True)
    assert (found.onset, found.n_possible, found.bracket) == (0, 0, (0, 0))
    finite = likelihood in ("bernoulli", "categorical")
    verb = "separates the values of" if finite else "predicts"
    features = y.shape[1]
    note = f"the condition alone {verb} {features} of {features} features without error"
    assert note in " ".join(found.notes)
    assert "x explains all of y, so no setting can keep a unit" in found.advice().text
    if finite and name != "shares":
        assert found.loss == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("likelihood", "x", "told", "noise"),
    [
        ("bernoulli", X, SEPARABLE, NOISE),
        ("categorical", CLASSES, CLASSES, ONE_HOT_NOISE),
        ("poisson", CLASSES, CLASSES @ RATES, NOISE),
    ],
)
def test_beside_what_the_condition_tells_the_rest_is_as_alone(likelihood, x, told, noise) -> None:
    spec = pc.CVAESpec(2, likelihood=likelihood)
    alone, beside = pc.forecast((x, noise), spec), pc.forecast((x, np.c_[told, noise]), spec)
    modes = np.count_nonzero(alone.spectrum)
    assert np.count_nonzero(beside.spectrum) == modes
    assert beside.spectrum[:modes] == pytest.approx(alone.spectrum[:modes], rel=1e-4)
    assert f"{told.shape[1]} of {told.shape[1] + noise.shape[1]} features" in beside.notes[-1]


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "negative-binomial", "categorical"])
def test_an_empty_condition_leaves_the_target(likelihood) -> None:
    y = {"categorical": CLASSES, "bernoulli": NOISE}.get(likelihood, 3 * NOISE)
    choice = {"latent_dim": 2, "beta": 0.5, "likelihood": likelihood}
    alone = pc.forecast(y, pc.VAESpec(**choice))
    given = pc.forecast((np.empty((ROWS, 0)), y), pc.CVAESpec(**choice))
    assert given.spectrum == pytest.approx(alone.spectrum, rel=1e-4)
    assert given.loss == pytest.approx(alone.loss, rel=1e-6)


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "categorical", "gaussian"])
def test_a_missing_value_is_named_by_its_place(likelihood, name) -> None:
    """Of y it was said to be in x, and in x it ended in an error of SciPy."""
    given = {"x": X.copy(), "y": ONE_HOT_NOISE.copy()}
    given[name][7, 1] = np.nan
    with pytest.raises(pc.DataError, match=f"^{name}: got nan at row 7, column 1"):
        pc.forecast((given["x"], given["y"]), pc.CVAESpec(1, likelihood=likelihood))


@pytest.mark.parametrize(
    "likelihood", ["gaussian", "bernoulli", "poisson", "negative-binomial", "categorical"]
)
def test_a_target_that_never_varies_is_named(likelihood) -> None:
    """Of a Gaussian x was said to explain all of it."""
    y = np.tile([1.0, 0.0, 0.0], (ROWS, 1))
    with pytest.raises(pc.DataError, match=r"^y: got data that are all constant"):
        pc.forecast((X, y), pc.CVAESpec(1, likelihood=likelihood))


def test_a_single_row_on_the_wrong_side_is_enough() -> None:
    y = SEPARABLE[:, :1].copy()
    y[0] = 1 - y[0]
    found = pc.forecast((X, y), pc.CVAESpec(1, likelihood="bernoulli"))
    assert found.onset == pytest.approx(0.442, abs=1e-3)
    assert "without error" not in " ".join(found.notes)


def test_a_condition_may_separate_some_bits_of_a_line() -> None:
    x = np.linspace(-1, 1, 100)[:, None]
    y = np.hstack([x > 0, x < 0.5, np.sin(40 * x) > 0]).astype(float)
    fitted = regress("bernoulli", x, y)
    assert np.isfinite(fitted.scores).all()
    assert fitted.told == 2
    assert pc.forecast((x, y), pc.CVAESpec(1, likelihood="bernoulli")).onset < 1.5


def test_a_class_that_is_always_told_keeps_the_others() -> None:
    """Of one class of the condition the bit is always 0, of the others as often 0 as 1."""
    y = NOISE[:, :1] * (CLASSES[:, :1] == 0)
    scores = regress("bernoulli", CLASSES, y).scores
    mixed = CLASSES[:, 0] == 0
    p = CLASSES @ (CLASSES.T @ y / CLASSES.sum(axis=0)[:, None])
    expected = (y - p) / np.sqrt((p * (1 - p)).mean())
    assert scores[mixed] == pytest.approx(expected[mixed], abs=0.01)
    assert scores[~mixed] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "categorical", "gaussian"])
def test_few_rows_warn_whatever_the_likelihood(likelihood) -> None:
    x, y = X[:40, :5], np.c_[NOISE[:40, :1], 1 - NOISE[:40, :1]]
    x = np.c_[x, X[40:80]]
    with pytest.warns(FewSamplesWarning, match="6 independent features for 40 samples") as told:
        found = pc.forecast((x, y), pc.CVAESpec(1, likelihood=likelihood))
    assert told[0].filename == __file__  # of the line that asked
    assert sum("may be an artefact" in note for note in found.notes) == 1
    # Residuals are forecast as those of a Gaussian.
    assert ("cross_fitted_residuals" in str(told[0].message)) == (likelihood == "gaussian")
