"""One law for every likelihood: closed forms against eigenvalues and losses computed apart."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import optimize, special, stats
from sklearn.linear_model import LogisticRegression, PoissonRegressor

import posterior_collapse as pc
from posterior_collapse.errors import DataError, InvalidArgumentError, NotSolvedError
from posterior_collapse.likelihoods import one_hot_widths
from posterior_collapse.moments import wide

RNG = np.random.default_rng(0)
DIGITS = pc.load("digits").x
BINARY = (DIGITS > 0.5).astype(float)
COUNTS = RNG.poisson(np.exp(RNG.standard_normal((400, 2)) @ RNG.standard_normal((2, 9)) * 0.4 + 1))


def classes(n=500, positions=6, width=4, seed=1):
    """One-hot positions that share one latent number."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 1, 1))
    logits = z * rng.standard_normal((positions, width)) * 1.5
    y = (logits + rng.gumbel(size=(n, positions, width))).argmax(-1)
    return np.eye(width)[y].reshape(n, -1)


DATA = {
    "bernoulli": DIGITS,
    "poisson": COUNTS.astype(float),
    "negative-binomial": COUNTS.astype(float),
    "categorical": classes(),
}


def losses(name, y, r):
    """Loss of a constant output, mean over rows, summed over features: from scipy alone."""
    if name == "bernoulli":
        return lambda eta: (np.logaddexp(0, eta) - y * eta).sum(1).mean()
    if name == "poisson":
        return lambda eta: -stats.poisson.logpmf(y, np.exp(eta)).sum(1).mean()
    if name == "negative-binomial":
        return lambda eta: -stats.nbinom.logpmf(y, r, r / (r + np.exp(eta))).sum(1).mean()

    def categorical(eta):
        blocks = special.log_softmax(eta.reshape(6, 4), axis=1).ravel()
        return -(y * blocks).sum(1).mean()

    return categorical


def ratios_by_differences(name, y, r):
    """Eigenvalues of F^+1/2 S F^+1/2 at the best constant, by L-BFGS and finite differences."""
    loss = losses(name, y, r)
    m = y.shape[1]
    eta = optimize.minimize(loss, np.zeros(m), method="BFGS", options={"gtol": 1e-9}).x
    step = 1e-4
    rows = [losses(name, row[None], r) for row in y]
    unit = np.eye(m) * step
    score = np.array([[(f(eta - u) - f(eta + u)) / (2 * step) for u in unit] for f in rows])
    hessian = np.array(
        [
            [
                (loss(eta + u + v) - loss(eta + u - v) - loss(eta - u + v) + loss(eta - u - v))
                / (4 * step**2)
                for u in unit
            ]
            for v in unit
        ]
    )
    values, vectors = np.linalg.eigh(hessian)
    keep = values > 1e-5 * values[-1]
    white = score @ (vectors[:, keep] / np.sqrt(values[keep]))
    return np.linalg.eigvalsh(np.cov(white.T, bias=True))[::-1]


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "negative-binomial", "categorical"])
def test_ratios_are_those_of_score_and_hessian(name) -> None:
    y = DATA[name][:200, :24]
    y = y[:, y.std(0) > 0.05]
    dispersion = 3.0 if name == "negative-binomial" else "learned"
    spec = pc.VAESpec(3, likelihood=name, dispersion=dispersion)
    found = pc.forecast(y, spec)
    expected = ratios_by_differences(name, y, 3.0)
    np.testing.assert_allclose(found.spectrum[:5], expected[:5], rtol=2e-4)
    assert found.onset == pytest.approx(expected[0], rel=2e-4)
    # The constant's loss, of a beta beyond the onset; log y! and the like apart.
    dead = pc.forecast(y, spec.replace(beta=2 * found.onset))
    assert dead.n_active == dead.n_possible == 0
    loss = losses(name, y, 3.0)
    best = loss(optimize.minimize(loss, np.zeros(y.shape[1]), method="BFGS").x)
    apart = {
        "poisson": lambda: special.gammaln(y + 1),
        "negative-binomial": lambda: (
            special.gammaln(y + 1) - special.gammaln(y + 3) + special.gammaln(3) + y * math.log(3)
        ),
    }
    best -= apart[name]().sum(1).mean() if name in apart else 0.0
    assert dead.loss == pytest.approx(best, rel=1e-6)


def test_binary_data_go_by_their_correlations_and_kaisers_rule() -> None:
    found = pc.forecast(BINARY, pc.VAESpec(64, likelihood="bernoulli"))
    varying = BINARY[:, BINARY.std(0) > 0]
    values = np.linalg.eigvalsh(np.corrcoef(varying.T))[::-1]
    np.testing.assert_allclose(found.spectrum[: len(values)], values, atol=1e-9)
    assert found.n_active == found.n_possible == np.count_nonzero(values > 1)
    assert any(f"{64 - varying.shape[1]} of 64 features carry nothing" in n for n in found.notes)


def test_soft_targets_of_digits_and_their_onset() -> None:
    """The onsets that trained networks showed: 4.76 binarised, 3.35 soft."""
    assert pc.forecast(BINARY, pc.VAESpec(1, likelihood="bernoulli")).onset == pytest.approx(
        4.762, abs=1e-3
    )
    assert pc.forecast(DIGITS, pc.VAESpec(1, likelihood="bernoulli")).onset == pytest.approx(
        3.352, abs=1e-3
    )


def test_the_gaussian_is_one_of_them() -> None:
    found = pc.forecast(DIGITS, pc.VAESpec(8, beta=0.1, eta_dec=0.5))
    top = np.linalg.eigvalsh(np.cov(DIGITS.T, bias=True))[-1]
    assert found.onset == pytest.approx(top / 0.25)
    assert found.n_possible == np.count_nonzero(found.spectrum > 0.1 * 0.25)
    assert found.to_dict()["onset"] == found.onset


@pytest.mark.parametrize("sigma", ["learned", "shared", 0.5, "input"])
def test_everything_downstream_speaks_in_beta(sigma) -> None:
    spec = pc.VAESpec(8, sigma=sigma, likelihood="bernoulli")
    spec = spec.replace(beta=0.8 * pc.forecast(BINARY, spec).onset)
    found = pc.forecast(BINARY, spec)
    assert 0 < found.n_active < 6
    advice = found.advice(active=6)
    assert {change.parameter for change in advice.changes} <= {"beta", "sigma"}
    lowered = next(change for change in advice.changes if change.parameter == "beta")
    assert pc.forecast(BINARY, spec.replace(beta=lowered.value)).n_active == lowered.active >= 6
    betas = [0.5, 1.0, 2.0, 3.0]
    diagram = found.phase_diagram(betas)
    expected = [pc.forecast(BINARY, spec.replace(beta=b)).n_active for b in betas]
    assert diagram.active[:, 0].tolist() == expected
    with pytest.raises(InvalidArgumentError, match="only a Gaussian"):
        found.phase_diagram(betas, [1.0])
    assert math.isnan(found.eta_dec)
    assert np.isnan(found.levels[0].critical_eta_dec).all()
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["onset"] == pytest.approx(found.onset)
    assert "exact" in " ".join(found.notes)
    assert "approximation" in " ".join(found.notes)
    figure = found.plot()
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == [
        "data mode, strongest first",
        "\u03b2",
    ]


def test_the_level_next_to_the_data_of_a_hierarchy() -> None:
    """z2 lives on what z1 says, as over Gaussian data of these whitened moments."""
    spec = pc.HVAESpec((4, 2), betas=(1.5, 0.7), eta_dec=0.6, sigma_1=0.5, likelihood="bernoulli")
    varying = BINARY[:, BINARY.std(0) > 0]
    white = (varying - varying.mean(0)) / np.sqrt(varying.mean(0) * (1 - varying.mean(0)))
    chain = pc.ChainSpec((4, 2), (1.5, 0.7), (1.0, 0.6), sigmas=(0.5, "learned"))
    found, same = pc.forecast(BINARY, spec), pc.forecast(white, chain)
    for mine, other in zip(found.levels, same.levels, strict=True):
        np.testing.assert_allclose(mine.kl, other.kl, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(mine.critical_beta, other.critical_beta, rtol=1e-6)
    assert np.isnan(found.levels[0].critical_eta_dec).all()
    assert np.isfinite(found.levels[1].critical_eta_dec).any()
    assert found.phase_diagram([1.0]).eta_decs.tolist() == [0.6]


@pytest.mark.parametrize("sigma_2", ["learned", 0.7])
def test_the_std_between_the_levels_is_the_only_one_that_a_unit_depends_on(sigma_2) -> None:
    """At eta_dec = 1, which is also the noise of the data, it was taken for both."""
    spec = pc.HVAESpec((4, 2), (0.4, 0.2), sigma_1=0.5, sigma_2=sigma_2, likelihood="bernoulli")
    for unit, critical in enumerate(pc.forecast(BINARY, spec).levels[1].critical_eta_dec):
        for value, lives in ((0.999 * critical, True), (1.001 * critical, False)):
            level = pc.forecast(BINARY, spec.replace(eta_dec=value)).levels[1]
            assert (level.status[unit] != "collapsed") == lives


def test_parameters_read_the_data_and_give_logits() -> None:
    """Sampled, the loss they attain is about the one that is said, terms of third order apart."""
    onset = pc.forecast(BINARY, pc.VAESpec(1, likelihood="bernoulli")).onset
    spec = pc.VAESpec(2, beta=0.8 * onset, likelihood="bernoulli")
    found = pc.forecast(BINARY, spec)
    p = found.parameters()
    rng = np.random.default_rng(0)
    mean = BINARY @ p["W1"].T + p["b1"]
    draws = []
    for _ in range(200):
        noise = p["sigma_1"] * rng.standard_normal(mean.shape)
        for z in (mean + noise, mean - noise):
            eta = z @ p["U1"].T + p["c1"]
            draws.append((np.logaddexp(0, eta) - BINARY * eta).sum(1).mean())
    pairs = np.reshape(draws, (-1, 2)).mean(1)
    kl = 0.5 * (mean**2 + p["sigma_1"] ** 2 - 1 - 2 * np.log(p["sigma_1"])).sum(1).mean()
    constant = pc.forecast(BINARY, spec.replace(beta=2 * onset)).loss
    said, gained = constant - found.loss, constant - np.mean(draws) - spec.beta * kl
    assert np.std(pairs) / math.sqrt(len(pairs)) < 0.05 * said
    assert 0.6 < gained / said < 1


def test_parameters_of_a_pair_read_x_as_it_is() -> None:
    """It was divided by the noise of y, or not at all where they have not as many features."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((600, 4)) * [3, 1, 0.5, 2]
    y = (rng.random((600, 6)) < special.expit(x @ rng.standard_normal((4, 6)))).astype(float)
    found = pc.forecast((x, y), pc.VAESpec(3, beta=0.02, likelihood="bernoulli"))
    p, noise = found.parameters(), np.sqrt(y.mean(0) * (1 - y.mean(0)))
    read, white = x @ p["W1"].T + p["b1"], (y - y.mean(0)) / noise
    # Of a Gaussian's optimum: E mm', and E tm' of the target t = U1 m + U1 noise of z.
    level = found.levels[0]
    variance = level.encoder_singular_values**2
    np.testing.assert_allclose(read.T @ read / len(x), np.diag(variance), atol=1e-9)
    best = white.T @ read / len(x) / (variance + level.posterior_std**2)
    np.testing.assert_allclose(p["U1"] * noise[:, None], best, atol=1e-9)


# A condition


def test_what_a_condition_explains_is_regressed_away() -> None:
    """Against scikit-learn's regressions, feature by feature."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((800, 3))
    z = rng.standard_normal((800, 1))
    eta = x @ rng.standard_normal((3, 5)) + z @ rng.standard_normal((1, 5))
    binary = (rng.random(eta.shape) < special.expit(eta)).astype(float)
    counts = rng.poisson(np.exp(0.4 * eta)).astype(float)
    for name, y in (("bernoulli", binary), ("poisson", counts)):
        means = np.empty_like(y)
        for j in range(5):
            if name == "bernoulli":
                fitted = LogisticRegression(C=1e8, tol=1e-10, max_iter=1000).fit(x, y[:, j])
                means[:, j] = fitted.predict_proba(x)[:, 1]
            else:
                fitted = PoissonRegressor(alpha=0, tol=1e-10, max_iter=1000).fit(x, y[:, j])
                means[:, j] = fitted.predict(x)
        noise = (means * (1 - means) if name == "bernoulli" else means).mean(0)
        white = (y - means) / np.sqrt(noise)
        expected = np.linalg.eigvalsh(np.cov(white.T, bias=True))[::-1]
        found = pc.forecast((x, y), pc.CVAESpec(2, likelihood=name))
        np.testing.assert_allclose(found.spectrum, expected, rtol=1e-4)
        assert found.n_possible < pc.forecast(y, pc.VAESpec(2, likelihood=name)).onset * 5
    with pytest.raises(NotSolvedError, match="the rows of x and y"):
        pc.forecast(pc.Moments.from_arrays(x, binary), pc.CVAESpec(2, likelihood="bernoulli"))


def test_a_condition_that_says_nothing_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((len(BINARY), 1))
    for name in ("bernoulli", "poisson", "categorical"):
        y = DATA[name]
        noise = x[: len(y)]
        alone = pc.forecast(y, pc.VAESpec(2, likelihood=name)).spectrum[0]
        given = pc.forecast((noise, y), pc.CVAESpec(2, likelihood=name)).spectrum[0]
        assert given == pytest.approx(alone, rel=0.02)


def test_a_known_condition_of_negative_binomials() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((4000, 1))
    mean = np.exp(0.5 * x + 1.0) * np.ones((1, 3))
    y = rng.negative_binomial(2.0, 2.0 / (2.0 + mean)).astype(float)
    spec = pc.CVAESpec(1, likelihood="negative-binomial")
    found = pc.forecast((x, y), spec)
    # x explains all that the features share: noise alone is left, about 1 in its own units.
    assert found.onset == pytest.approx(1, abs=0.1)
    assert pc.forecast(y, pc.VAESpec(1, likelihood="negative-binomial")).onset > 1.3
    assert pc.forecast((x, y), spec.replace(dispersion=2.0)).onset == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("r", [np.inf, 3.0])
def test_frequent_and_rare_counts_are_regressed_alike(r) -> None:
    """Feature by feature by Newton's steps, to all digits; the onset was off by 1%."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 3))
    rates = np.array([1e3, 100, 10, 1, 0.1, 1e4])
    y = rng.poisson(rates * np.exp(0.5 * x @ rng.standard_normal((3, 6)))).astype(float)
    inputs, white = np.column_stack([np.ones(len(x)), x]), np.empty_like(y)
    for j, counts in enumerate(y.T):
        best = np.array([np.log(counts.mean()), 0, 0, 0])
        for _ in range(50):
            mean = np.exp(inputs @ best)
            score = (counts - mean) / (1 + mean / r)
            curvature = mean * (1 + counts / r) / (1 + mean / r) ** 2
            hessian = inputs.T @ (inputs * curvature[:, None])
            best += np.clip(np.linalg.solve(hessian, inputs.T @ score), -1, 1)
        white[:, j] = score / np.sqrt(curvature.mean())
    expected = np.linalg.eigvalsh(white.T @ white / len(y))[::-1]
    spec = pc.CVAESpec(2, likelihood="poisson")
    if np.isfinite(r):
        spec = spec.replace(likelihood="negative-binomial", dispersion=r)
    found = pc.forecast((x, y), spec)
    assert found.spectrum == pytest.approx(expected, rel=1e-4)


# Wide data, and moments in any form


@pytest.mark.parametrize("name", ["bernoulli", "negative-binomial"])
def test_wide_data_give_what_narrow_ones_do(name, monkeypatch) -> None:
    y = DATA[name][:60, :40]
    spec = pc.VAESpec(2, beta=1.2, likelihood=name)
    narrow = pc.forecast(pc.Moments.from_arrays(y), spec)
    monkeypatch.setattr(wide, "MAX_FEATURES", 8)
    moments = pc.Moments.from_arrays(y)
    assert moments.bases != (None, None)
    np.testing.assert_allclose(moments.feature_means, y.mean(0), atol=1e-12)
    np.testing.assert_allclose(moments.feature_variances, y.var(0), atol=1e-12)
    found = pc.forecast(moments, spec)
    np.testing.assert_allclose(found.spectrum[:5], narrow.spectrum[:5], rtol=1e-9)
    assert found.loss == pytest.approx(narrow.loss, rel=1e-9)
    for key, value in narrow.parameters().items():
        if key in ("W1", "U1"):  # up to the sign of each unit
            np.testing.assert_allclose(abs(found.parameters()[key]), abs(value), atol=1e-7)


def test_a_subspace_of_data_wide_and_long_is_refused(monkeypatch) -> None:
    moments = dataclasses.replace(pc.Moments.from_arrays(BINARY), unresolved=1.0)
    with pytest.raises(NotSolvedError, match="divide each feature"):
        pc.forecast(moments, pc.VAESpec(2, likelihood="bernoulli"))


def test_added_moments_and_batches_do_as_well() -> None:
    spec = pc.VAESpec(4, likelihood="poisson")
    y = DATA["poisson"]
    whole = pc.forecast(y, spec)
    for data in (
        pc.Moments.from_arrays(y[:100]) + pc.Moments.from_arrays(y[100:]),
        [y[:150], y[150:]],
        y.astype(np.int64),
        pytest.importorskip("dask.array").from_array(y, chunks=(90, 4)),
    ):
        assert pc.forecast(data, spec).loss == pytest.approx(whole.loss, rel=1e-9)


@pytest.mark.parametrize("widths", [(2,), (6,), (4, 4, 4), (5, 1, 3, 2)])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_a_position_has_a_mode_less_than_classes(widths, soft, given) -> None:
    """Its classes sum to 1, but for rounding, which here is as large as it may be."""
    rng = np.random.default_rng(8)
    draws = [rng.dirichlet(np.ones(w) if soft else np.full(w, 1e-9), 300) for w in widths]
    y = np.hstack([*draws, np.zeros((300, 1))]) * (1 + 4e-7 * rng.choice([-1, 1], (300, 1)))
    latents, few = sum(widths), sum(widths) - len(widths)
    if given:
        x, spec = rng.standard_normal((300, 1)), pc.CVAESpec(latents, likelihood="categorical")
        found = pc.forecast((x, y), spec)
    else:
        spec = pc.VAESpec(latents, likelihood="categorical")
        found = pc.forecast(y, spec)
        assert pc.forecast(pc.Moments.from_arrays(y), spec).spectrum == pytest.approx(
            found.spectrum
        )
    assert np.count_nonzero(found.spectrum) == few
    assert found.hidden_variance == 0 or given
    advice = found.advice(active=few + 1)
    assert f"the data have only {few} mode" in advice.text
    assert all(change.value > 1e-6 for change in advice.changes)


# What is refused


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("bernoulli", DIGITS * 16, "values from 0 to 1 for likelihood 'bernoulli'"),
        ("bernoulli", DIGITS * 2 - 1, "values from 0 to 1"),
        ("poisson", DIGITS - 0.5, "at least 0"),
        ("categorical", DIGITS / 16, "one-hot rows"),
        ("categorical", classes() * 0.7, "one-hot rows"),
    ],
)
@pytest.mark.parametrize("measured", [False, True])
def test_data_of_no_such_likelihood(name, data, message, measured) -> None:
    given = pc.Moments.from_arrays(data) if measured else data
    with pytest.raises(DataError, match=message):
        pc.forecast(given, pc.VAESpec(2, likelihood=name))


@pytest.mark.parametrize("wrong", [1.4, -0.3])
@pytest.mark.parametrize("how", ["array", "frame", "batches"])
def test_a_single_value_outside_the_domain_is_refused(wrong, how) -> None:
    x = DIGITS.copy()
    x[1000, 20] = wrong
    given = {"array": lambda: x, "frame": lambda: _frame(x), "batches": lambda: [x[:900], x[900:]]}
    with pytest.raises(DataError, match=f"the value {wrong}"):
        pc.forecast(given[how](), pc.VAESpec(2, likelihood="bernoulli"))
    counts = COUNTS.astype(float)
    counts[3, 3] = -5
    with pytest.raises(DataError, match=r"the value -5.*counts are not negative"):
        pc.forecast(counts, pc.VAESpec(2, likelihood="poisson"))


def _frame(x):
    return pytest.importorskip("pandas").DataFrame(x)


def test_more_units_are_advised_only_where_they_pay() -> None:
    binary = pc.forecast(DIGITS, pc.VAESpec(7, likelihood="bernoulli"))
    assert binary.n_active == binary.n_possible == 7
    assert binary.advice().text.endswith("No other mode of the data would keep one.")
    few = pc.forecast(DIGITS, pc.VAESpec(3, likelihood="bernoulli"))
    assert few.advice().text.endswith("7 of the data's 61 modes would keep a unit: more units pay.")


def test_what_has_no_law_is_said() -> None:
    with pytest.raises(NotSolvedError, match=r"pc\.onset"):
        pc.forecast(BINARY, pc.VAESpec(2, likelihood="other"))
    with pytest.raises(NotSolvedError, match="bias"):
        pc.forecast(BINARY, pc.VAESpec(2, likelihood="bernoulli"), bias="none")
    with pytest.raises(InvalidArgumentError, match="only a negative binomial"):
        pc.VAESpec(2, likelihood="poisson", dispersion=2.0)
    with pytest.raises(InvalidArgumentError, match="learned"):
        pc.VAESpec(2, likelihood="negative-binomial", dispersion="free")


def test_positions_are_found_in_one_hot_rows() -> None:
    rows = np.hstack([np.eye(3)[[0, 1, 2, 0]], np.eye(2)[[0, 1, 1, 0]], np.eye(4)[[1, 2, 0, 1]]])
    assert one_hot_widths(rows) == (3, 2, 4)
    assert one_hot_widths(classes()) == (4,) * 6
    with pytest.raises(DataError, match="side by side"):
        one_hot_widths(rows[:, [0, 3, 1, 4, 2, 5, 6, 7, 8]])


def test_of_several_positions_a_decoder_that_sees_the_past_is_spoken_of() -> None:
    """And rows in which padding is left out are told what counts it."""
    classes = np.random.default_rng(0).integers(0, 3, (200, 2))
    one_hot = np.eye(3)[classes]
    spec = pc.VAESpec(1, likelihood="categorical")
    told = [
        "sees z alone" in " ".join(pc.forecast(y, spec).notes) for y in (one_hot, one_hot[:, 0])
    ]
    assert told == [True, False]
    one_hot[:50, 1] = 0
    with pytest.raises(DataError, match=r"use posterior_collapse\.onset or audit_loss"):
        pc.forecast(one_hot, spec)
