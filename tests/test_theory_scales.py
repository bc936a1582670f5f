"""Features of very different scale: no mode is lost beside a huge one, or a note says so."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import posterior_collapse as pc
from posterior_collapse.report import verdict
from posterior_collapse.theory import ExactObjective

pytestmark = pytest.mark.filterwarnings("ignore::posterior_collapse.theory.FewSamplesWarning")
RNG = np.random.default_rng(0)
MIXED = RNG.standard_normal((40, 6)) @ (np.eye(6) + 0.4 * RNG.standard_normal((6, 6)))


def variances(x: np.ndarray, y: np.ndarray | None = None) -> list[float]:
    """Of the modes of x, or of what x leaves of y, in arithmetic of 120 digits."""
    with mpmath.workdps(120):
        cov, split = moments(x if y is None else np.hstack([x, y])), x.shape[1]
        if y is not None:
            a, b = cov[:split, :split], cov[split:, :split]
            cov = cov[split:, split:] - b * mpmath.inverse(a) * b.T
        found = mpmath.eigsy(cov, eigvals_only=True)
        return sorted((float(v) for v in found), reverse=True)


def moments(x: np.ndarray) -> mpmath.matrix:
    """Central second moments in the precision at hand."""
    rows = mpmath.matrix(x.tolist())
    for column in range(rows.cols):
        mean = mpmath.fsum(rows[:, column]) / rows.rows
        for row in range(rows.rows):
            rows[row, column] -= mean
    return rows.T * rows / rows.rows


SCALES = {
    "one huge": [1e8, 3, 2, 1.5, 1, 0.5],
    "one far huger": [3, 2, 1e15, 1.5, 1, 0.5],
    "one tiny": [1, 1, 1, 1e-9, 1, 1],
    "all apart": [1e-9, 1e6, 1, 1e-3, 1e9, 1e3],
    "alike": [1, 2, 3, 1, 2, 3],
}


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_every_mode_has_its_variance_whatever_stands_beside_it(scales) -> None:
    x = MIXED * scales
    f = pc.forecast(x, pc.VAESpec(6))
    np.testing.assert_allclose(f.spectrum, variances(x), rtol=1e-10)
    assert f.hidden_variance == 0
    assert not any("rounding" in note for note in f.notes)


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_a_condition_explains_the_same_in_any_units(scales) -> None:
    y = MIXED[:, :3] + RNG.standard_normal((40, 3))
    spec = pc.CVAESpec(3, eta_dec=0.1)
    here = pc.forecast(pc.Moments.from_arrays(MIXED, y), spec)
    there = pc.forecast(pc.Moments.from_arrays(MIXED * scales, y), spec)
    np.testing.assert_allclose(there.spectrum, here.spectrum, rtol=1e-9)
    np.testing.assert_allclose(here.spectrum, variances(MIXED, y), rtol=1e-9)


@pytest.mark.parametrize("spec", [pc.CVAESpec(3, eta_dec=0.1), pc.VAESpec(3, eta_dec=0.1)])
def test_a_target_of_many_scales_keeps_its_modes(spec) -> None:
    y = (MIXED[:, :3] + RNG.standard_normal((40, 3))) * [1e9, 1, 1e-3]
    f = pc.forecast(pc.Moments.from_arrays(MIXED, y), spec)
    left = variances(MIXED, y)
    if spec.model == "cvae":
        np.testing.assert_allclose(f.spectrum, left, rtol=1e-9)
    else:  # what x explains of y, and the rest of each feature
        slope = np.linalg.lstsq(MIXED - MIXED.mean(0), y / y.std(0), rcond=None)[0]
        read = (MIXED - MIXED.mean(0)) @ slope * y.std(0)
        np.testing.assert_allclose(f.spectrum, variances(read), rtol=1e-9)
        assert f.total_variance == pytest.approx(y.var(0).sum(), rel=1e-12)


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_the_parameters_attain_the_loss(scales) -> None:
    moments = pc.Moments.from_arrays(MIXED * scales)
    f = pc.forecast(moments, pc.VAESpec(4, eta_dec=max(scales) / 1e3))
    assert ExactObjective(moments, f.spec).loss(f.parameters()) == pytest.approx(f.loss, rel=1e-9)


def test_the_advice_counts_all_modes_beside_a_huge_one() -> None:
    x = RNG.standard_normal((300, 4)) * [1e8, 3, 2, 1.5]
    f = pc.forecast(x, pc.VAESpec(4))
    assert f.n_active == 4
    assert f.advice().possible == 4
    assert f.advice().text == "4 of 4 units are active: nothing needs to change."


def test_modes_that_only_rounding_can_hide_are_spoken_of() -> None:
    """Two huge features nearly equal: their difference, of std 3, is below the rounding of both."""
    clock = 1e9 * RNG.standard_normal((500, 1))
    other = clock + 3 * RNG.standard_normal((500, 1))
    x = np.hstack([clock, other, 2 * RNG.standard_normal((500, 2))])
    f = pc.forecast(x, pc.VAESpec(4))
    assert f.hidden_variance > 1
    (note,) = [note for note in f.notes if "lost to rounding" in note]
    assert "replace one of two that are nearly equal by their difference" in note
    assert "the data have only 3 modes above rounding" in f.advice().text
    assert "no mode above rounding left" in verdict(f)
    x[:, 1] -= x[:, 0]
    assert not any("rounding" in note for note in pc.forecast(x, pc.VAESpec(4)).notes)


def test_modes_lost_in_the_row_space_of_wide_data_are_spoken_of(monkeypatch) -> None:
    monkeypatch.setattr("posterior_collapse.moments.wide.MAX_FEATURES", 20)
    x = RNG.standard_normal((12, 30)) * ([1e9] + [1] * 29)
    f = pc.forecast(x, pc.VAESpec(8))
    assert any("lost to rounding" in note for note in f.notes)
    x[:, 0] /= 1e9
    assert not any("rounding" in note for note in pc.forecast(x, pc.VAESpec(8)).notes)


@pytest.mark.parametrize(
    "x",
    [
        np.hstack([MIXED, MIXED[:, :2]]),  # features given twice
        MIXED[:4],  # fewer samples than features
        np.hstack([MIXED, np.ones((40, 3))]),  # constants
    ],
)
def test_no_note_where_nothing_of_weight_can_be_missing(x: np.ndarray) -> None:
    f = pc.forecast(x, pc.VAESpec(8))
    assert not any("rounding" in note for note in f.notes)
    assert f.advice().possible == np.linalg.matrix_rank(x - x.mean(0))


FEW = RNG.standard_normal((60, 4)) @ RNG.standard_normal((4, 700)) + RNG.standard_normal((60, 700))
COUNTED = RNG.poisson(np.exp(0.3 * FEW))


@pytest.mark.parametrize(
    ("data", "spec", "bias"),
    [
        (FEW, pc.VAESpec(6, beta=2.0), None),
        (FEW + 3, pc.VAESpec(6, beta=2.0), "none"),
        (FEW, pc.VAESpec(6, eta_dec="learned"), None),
        (FEW, pc.HVAESpec((6, 3), (1.0, 1.0)), None),
        ((FEW[:, :5], FEW), pc.CVAESpec(4), None),
        ((FEW > 0).astype(float), pc.VAESpec(6, likelihood="bernoulli"), None),
        (COUNTED, pc.VAESpec(6, likelihood="poisson"), None),
        (
            np.eye(3)[np.clip(COUNTED[:, :250], 0, 2)].reshape(60, -1),
            pc.VAESpec(6, likelihood="categorical"),
            None,
        ),
    ],
    ids=["vae", "raw", "learned", "hvae", "cvae", "bernoulli", "poisson", "categorical"],
)
def test_few_rows_of_many_features_are_measured_in_their_row_space(data, spec, bias) -> None:
    """To the same forecast as from the whole matrix, whose modes take seconds for thousands."""
    parts = data if isinstance(data, tuple) else (data,)
    found, whole = (pc.forecast(d, spec, bias=bias) for d in (data, pc.Moments.from_arrays(*parts)))
    assert len(found.spectrum) <= 61 < len(whole.spectrum)
    assert found.n_active == whole.n_active > 0
    assert found.loss == pytest.approx(whole.loss, rel=1e-10)
    np.testing.assert_allclose(found.spectrum[:59], whole.spectrum[:59], rtol=1e-8)
    for mine, theirs in zip(found.levels, whole.levels, strict=True):
        np.testing.assert_allclose(mine.kl, theirs.kl, rtol=1e-8, atol=1e-10)
    assert found.notes == whole.notes
