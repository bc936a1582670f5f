"""More features than fit a d x d matrix: the row-space and the randomised route."""

from __future__ import annotations

import numpy as np
import pytest

import posterior_collapse as pc
from exact import elbo_loss
from posterior_collapse import arrays
from posterior_collapse.moments import wide
from test_moments import second

N = 35
RNG = np.random.default_rng(0)
FACTORS = RNG.standard_normal((N, 2))
WIDE_X = FACTORS @ RNG.standard_normal((2, 30)) + 0.5  # so few independent features explain little
WIDE_Y = FACTORS @ RNG.standard_normal((2, 40)) + RNG.standard_normal((N, 40)) * 1.3 - 2
NARROW = FACTORS[:, :1] + RNG.standard_normal((N, 4))

PAIRS = {
    "x": (WIDE_X, None),
    "y": (WIDE_Y, None),
    "wide to narrow": (WIDE_X, NARROW),
    "narrow to wide": (FACTORS, WIDE_Y),
    "wide to wide": (WIDE_X, WIDE_Y),
    "nothing to wide": (np.empty((N, 0)), WIDE_Y),
}
VAE = pc.VAESpec(5, beta=1.2, eta_dec=0.8)
SPECS = [
    VAE,
    pc.VAESpec(4, eta_dec=0.8, sigma=(0.5, 0.2, 0.7, 0.3)),
    pc.VAESpec(3, eta_dec="learned"),
    pc.CVAESpec(4, beta=1.5, eta_dec=0.8),
    pc.HVAESpec((4, 3), (1.0, 1.5), 0.8, sigma_1=0.5),
]


CASES = [
    pytest.param(spec, pair, center, id=f"{spec.model}-{pair}-{'central' if center else 'raw'}")
    for spec in SPECS
    for pair, (_, y) in PAIRS.items()
    for center in (True, False)
    # A conditional model needs a target; 3 units fit data of rank 3, where a learned eta_dec -> 0.
    if not (spec.model == "cvae" and y is None)
    if not (spec.eta_levels[0] == "learned" and pair == "x")
]


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "MAX_FEATURES", 20)


def lifted(basis: wide.Basis | None, size: int) -> np.ndarray:
    """Directions of the data space, one row per coordinate."""
    return np.eye(size) if basis is None else basis.lift(np.eye(size))


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [1.0, -0.25])
def test_coordinates_carry_every_second_moment(pair: str, center: bool, scale: float) -> None:
    x, y = PAIRS[pair]
    m = pc.Moments.from_arrays(x, y, center=center, scale=scale)
    y = x if y is None else y
    assert m.features == (x.shape[1], y.shape[1])
    assert (m.n, m.unresolved) == (N, 0.0)
    assert max(len(m.xx), len(m.yy)) <= N  # n - 1 directions and the mean
    at_x, at_y = lifted(m.bases[0], len(m.xx)), lifted(m.bases[1], len(m.yy))
    for rows in (at_x, at_y):
        np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-10)
    x, y = x * scale, y * scale
    for found, expected in [
        (at_x.T @ m.xx @ at_x, second(x, x, center)),
        (at_y.T @ m.yx @ at_x, second(y, x, center)),
        (at_y.T @ m.yy @ at_y, second(y, y, center)),
        (m.mean_x @ at_x, x.mean(0)),
        (m.mean_y @ at_y, y.mean(0)),
    ]:
        np.testing.assert_allclose(found, expected, atol=1e-11)
    assert m.total_variance == pytest.approx(np.trace(second(y, y, center)), rel=1e-12)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("center", [True, False])
def test_lifts_of_eigenvectors_are_eigenvectors_of_the_covariance(center: bool) -> None:
    m = pc.Moments.from_arrays(WIDE_Y, center=center)
    values, vectors = np.linalg.eigh(m.xx)
    assert m.bases[0] is not None
    rows = m.bases[0].lift(vectors.T)
    np.testing.assert_allclose(
        rows @ second(WIDE_Y, WIDE_Y, center), values[:, None] * rows, atol=1e-11
    )


@pytest.mark.parametrize(("spec", "pair", "center"), CASES)
def test_forecasts_are_those_of_the_dense_matrices(spec, pair, center, monkeypatch) -> None:
    x, y = PAIRS[pair]
    dense = pc.forecast(pc.Moments.from_arrays(x, y, center=center), spec)
    monkeypatch.setattr(wide, "MAX_FEATURES", 20)
    f = pc.forecast(pc.Moments.from_arrays(x, y, center=center), spec)
    assert f.loss == pytest.approx(dense.loss, rel=1e-10)
    assert f.total_variance == pytest.approx(dense.total_variance, rel=1e-10)
    live = dense.spectrum > 1e-10
    np.testing.assert_allclose(f.spectrum[: live.sum()], dense.spectrum[live], rtol=1e-9)
    assert (f.spectrum[live.sum() :] < 1e-10).all()
    for mine, theirs in zip(f.levels, dense.levels, strict=True):
        assert mine.n_active == theirs.n_active
        for name in ("decoder_singular_values", "posterior_std", "kl", "critical_beta"):
            np.testing.assert_allclose(
                getattr(mine, name), getattr(theirs, name), rtol=1e-8, atol=1e-8
            )


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize(("spec", "pair", "center"), CASES)
def test_parameters_attain_the_loss_on_the_samples_themselves(spec, pair, center) -> None:
    x, y = PAIRS[pair]
    f = pc.forecast(pc.Moments.from_arrays(x, y, center=center), spec)
    assert f.n_active > 0 or pair == "nothing to wide"
    assert elbo_loss(x, y, spec, dict(f.parameters())) == pytest.approx(f.loss, rel=1e-9)


@pytest.mark.usefixtures("small_limits")
def test_an_encoder_bias_is_one_more_input() -> None:
    f = pc.forecast(pc.Moments.from_arrays(WIDE_X, WIDE_Y), VAE, bias="encoder")
    parameters = dict(f.parameters())
    assert parameters["W1"].shape == (5, 30)
    assert np.abs(parameters["b1"]).max() > 1e-3
    assert elbo_loss(WIDE_X, WIDE_Y, VAE, parameters) == pytest.approx(f.loss, rel=1e-9)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("pair", PAIRS)
def test_batches_equal_the_whole(pair: str) -> None:
    x, y = PAIRS[pair]
    whole = pc.Moments.from_arrays(x, y)
    buffers = [np.empty((10, a.shape[1])) for a in (x, y) if a is not None]

    def batches():
        for start in range(0, N, 10):
            for buffer, array in zip(buffers, (x, y), strict=False):
                part = array[start : start + 10]
                buffer[: len(part)] = part
            yield tuple(b[: min(10, N - start)] for b in buffers)

    parts = pc.Moments.from_batches(batches())
    assert parts.n == N
    np.testing.assert_allclose(parts.cov, whole.cov, atol=1e-12)
    again = pc.Moments.from_batches([tuple(a.copy() for a in batch) for batch in batches()])
    np.testing.assert_array_equal(again.cov, parts.cov)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("mean", [1e6, -3e4])
def test_the_mean_may_be_far_from_zero(mean: float) -> None:
    m = pc.Moments.from_arrays(WIDE_Y + mean)
    expected = np.linalg.eigvalsh(second(WIDE_Y, WIDE_Y))[::-1][:34]
    np.testing.assert_allclose(np.linalg.eigvalsh(m.xx)[::-1][:34], expected, rtol=1e-8)
    assert m.bases[0] is not None
    np.testing.assert_allclose(
        m.bases[0].lift(m.mean_x[None])[0], (WIDE_Y + mean).mean(0), rtol=1e-10
    )


@pytest.mark.usefixtures("small_limits")
def test_columns_are_taken_in_chunks(monkeypatch) -> None:
    monkeypatch.setattr(wide, "CHUNK_BYTES", 1)
    x = np.random.default_rng(1).standard_normal((30, 150)) + np.arange(150)
    m = pc.Moments.from_arrays(x, center=False)
    at = lifted(m.bases[0], len(m.xx))
    np.testing.assert_allclose(at.T @ m.xx @ at, second(x, x, center=False), rtol=1e-9, atol=1e-9)
    x[7, 141] = np.nan
    with pytest.raises(pc.DataError, match=r"got nan at row 7, column 141 \(counted from 0\);"):
        pc.Moments.from_arrays(x)


@pytest.mark.usefixtures("small_limits")
def test_wide_moments_are_not_added() -> None:
    m, narrow = pc.Moments.from_arrays(WIDE_X), pc.Moments.from_arrays(NARROW)
    for one, two in ((m, m), (m, narrow), (narrow, m)):
        with pytest.raises(pc.DataError, match=r"in one call of Moments.from_arrays"):
            one + two


def decaying(mean: float, rate: float = 0.75) -> np.ndarray:
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.standard_normal((90, 90)))[0]
    factors = rng.standard_normal((400, 90))
    factors = factors[np.argsort(factors[:, 0])]  # the mean of a chunk is not that of the rest
    return factors * rate ** np.arange(90) @ basis + mean


@pytest.fixture
def small_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in [("MAX_FEATURES", 80), ("MAX_SAMPLES", 100), ("RANK", 12)]:
        monkeypatch.setattr(wide, name, value)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 1)  # two chunks of rows


@pytest.mark.usefixtures("small_sketch")
@pytest.mark.parametrize("mean", [0.0, 3.0, 1e4])
@pytest.mark.parametrize("center", [True, False])
def test_a_random_subspace_holds_the_top_modes(mean: float, center: bool) -> None:
    x = decaying(mean)
    m = pc.Moments.from_arrays(x, center=center)
    assert m.features == (90, 90)
    covariance = second(x, x, center)
    true = np.linalg.eigvalsh(covariance)[::-1]
    found = np.linalg.eigvalsh(m.xx)[::-1]
    assert len(found) == 12 + wide.OVERSAMPLING + 1
    assert m.total_variance == pytest.approx(np.trace(covariance), rel=1e-12)
    assert 0 < m.unresolved < 1e-6 * np.trace(second(x, x))
    rounding = 1e-12 * true[0]
    assert (found[:12] <= true[:12] + rounding).all()  # a subspace never sees too much
    np.testing.assert_allclose(found[:12], true[:12], rtol=1e-6, atol=rounding)
    basis = m.bases[0]
    assert basis is not None
    np.testing.assert_allclose(basis.lift(m.mean_x[None])[0], x.mean(0), atol=1e-10 * (1 + mean))


@pytest.mark.usefixtures("small_sketch")
@pytest.mark.parametrize("rate", [0.75, 0.97])
@pytest.mark.parametrize("spec", [VAE, SPECS[1], SPECS[2]], ids=["learned", "fixed", "eta"])
@pytest.mark.parametrize("center", [True, False])
def test_parameters_of_a_sketch_attain_its_loss(rate, spec, center) -> None:
    """Even where the subspace misses much, the forecast is true of its own parameters."""
    x = decaying(2.0, rate)
    spec = spec.replace(eta_dec=spec.eta_dec if spec.eta_dec == "learned" else 0.2)
    f = pc.forecast(pc.Moments.from_arrays(x, center=center), spec)
    assert f.n_active == spec.latent_dim
    assert any("unresolved tail" in note for note in f.notes)
    assert "the data have only 45 modes that were resolved" in f.advice(active=60).text
    assert elbo_loss(x, None, spec, dict(f.parameters())) == pytest.approx(f.loss, rel=1e-9)
    wide.MAX_FEATURES = 1000  # the fixture puts it back
    dense = pc.forecast(pc.Moments.from_arrays(x, center=center), spec)
    assert f.loss >= dense.loss - 1e-10
    assert f.loss == pytest.approx(dense.loss, rel=1e-6 if rate == 0.75 else 0.05)


@pytest.mark.usefixtures("small_sketch")
def test_a_sketch_sees_what_differs_only_between_chunks() -> None:
    rng = np.random.default_rng(4)
    drift = 10 * np.repeat([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], 256, axis=0)
    x = rng.standard_normal((768, 90)) + drift @ rng.standard_normal((2, 90))
    true = np.linalg.eigvalsh(second(x, x))[::-1]
    found = np.linalg.eigvalsh(pc.Moments.from_arrays(x).xx)[::-1]
    np.testing.assert_allclose(found[:2], true[:2], rtol=1e-4)


@pytest.mark.usefixtures("small_sketch")
def test_a_sketch_of_few_factors_leaves_nothing_unresolved() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 90))
    m = pc.Moments.from_arrays(x)
    assert m.unresolved == 0
    expected = np.linalg.eigvalsh(second(x, x))[::-1][:6]
    np.testing.assert_allclose(np.linalg.eigvalsh(m.xx)[::-1][:6], expected, rtol=1e-10)


@pytest.mark.usefixtures("small_sketch")
def test_a_sketch_reads_a_memory_map_of_bytes_twice(tmp_path) -> None:
    x = np.random.default_rng(3).integers(0, 255, (500, 85), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    mapped = pc.Moments.from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), scale=1 / 255)
    whole = pc.Moments.from_arrays(x, scale=1 / 255)
    np.testing.assert_array_equal(mapped.cov, whole.cov)
    assert mapped.total_variance == pytest.approx((x / 255).var(0).sum(), rel=1e-12)


@pytest.mark.usefixtures("small_sketch")
def test_many_wide_samples_need_a_single_array_without_a_target() -> None:
    x = decaying(0.0)
    with pytest.raises(pc.DataError, match=r"^x and y: got 400 samples"):
        pc.Moments.from_arrays(x, x)
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield x[:40]

    with pytest.raises(pc.DataError, match=r"more than 100 samples.*memory map"):
        pc.Moments.from_batches(endless())
    assert len(drawn) == 3  # refused as soon as the limit is passed
