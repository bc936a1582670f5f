"""One pass over the data: how often rows are decoded, and how precise their moments are."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import posterior_collapse as pc
from posterior_collapse.adapters import from_callable
from posterior_collapse.diagnosis import certificate, passes
from posterior_collapse.diagnosis.collecting import collect
from posterior_collapse.diagnosis.passes import SampledPass
from posterior_collapse.models import build


@pytest.fixture
def network(monkeypatch):
    """A small network, data for it, and the shapes of the latents that it decodes."""
    x = np.random.default_rng(0).standard_normal((3000, 5)).astype(np.float32) * [3, 2, 1, 1, 0.5]
    x = x.astype(np.float32)
    model = pc.fit(pc.VAESpec(2, eta_dec=0.5), x, "mlp", epochs=5, hidden=(8,)).model
    decode, decoded = model.decode, []
    monkeypatch.setattr(model, "decode", lambda z, x: decoded.append(z.shape) or decode(z, x))
    return model, x, decoded


def test_many_rows_are_decoded_less_often_and_say_the_same(network, monkeypatch) -> None:
    """Two samples of a row in place of four: the same loss and signal, within their errors."""
    model, x, decoded = network
    sure = pc.diagnose(model, x, effects=0)
    assert 2 not in [shape[0] for shape in decoded]
    monkeypatch.setattr(passes, "MANY_ROWS", 1000)
    decoded.clear()
    found = pc.diagnose(model, x, effects=0)
    assert [shape[0] for shape in decoded[:3]] == [4, 2, 2]
    assert found.loss == pytest.approx(sure.loss, abs=sure.loss_error)
    assert found.loss_error == pytest.approx(sure.loss_error, rel=0.05)
    assert found.signal[0] == pytest.approx(sure.signal[0], abs=3 * sure.signal_error[0])


def test_rows_of_no_residual_are_decoded_once_and_say_the_same(network, monkeypatch) -> None:
    model, x, decoded = network
    sure = pc.diagnose(model, x, effects=0, batch_size=500)
    monkeypatch.setattr(passes, "MANY_ROWS", 500)
    # 300 rows of two residuals of 5 numbers and a place of 2.
    monkeypatch.setattr(certificate, "NUMBERS", 300 * 12)
    decoded.clear()
    found = pc.diagnose(model, x, effects=0, batch_size=500)
    batches = [shape for shape in decoded if len(shape) == 3]
    assert {shape[0] for shape in batches} == {4, 2, 1}
    assert sum(shape[1] for shape in batches) == 3000  # each row belongs to one of them
    alone = sum(shape[1] for shape in batches if shape[0] == 1)
    assert alone > 1000
    assert found.kl == sure.kl
    assert found.loss == pytest.approx(sure.loss, abs=sure.loss_error)
    assert found.loss_error == pytest.approx(sure.loss_error, rel=0.1)
    assert found.signal[0] == pytest.approx(sure.signal[0], abs=3 * found.signal_error[0])


def test_stated_errors_are_those_of_a_diagnosis_repeated(monkeypatch) -> None:
    """Other rows and other noise each time, most rows decoded once: what differs is as stated."""
    scale = np.array([3, 2, 1, 1, 0.5], np.float32)

    def rows(seed: int, n: int) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((n, 5), dtype=np.float32) * scale

    model = pc.fit(pc.VAESpec(2, eta_dec=0.5), rows(0, 3000), "mlp", epochs=5, hidden=(8,)).model
    sure = pc.diagnose(model, rows(1, 20_000), effects=0)
    monkeypatch.setattr(passes, "MANY_ROWS", 400)
    monkeypatch.setattr(certificate, "NUMBERS", 400 * 12)
    runs = 30
    found = [
        pc.diagnose(model, rows(seed, 2000), effects=0, seed=seed, batch_size=200)
        for seed in range(2, 2 + runs)
    ]
    for name in ("kl", "loss", "signal"):
        values = np.array([np.ravel(getattr(one, name))[0] for one in found])
        stated = np.mean([np.ravel(getattr(one, f"{name}_error"))[0] for one in found])
        spread = values.std(ddof=1)
        # A spread of 30 is off by 13%. That of t may be less than stated: its error is a bound.
        assert spread < 1.45 * stated
        assert name == "signal" or spread > 0.6 * stated
        truth = np.ravel(getattr(sure, name))[0]
        own = np.ravel(getattr(sure, f"{name}_error"))[0]
        assert values.mean() == pytest.approx(truth, abs=4 * np.hypot(spread / runs**0.5, own))


def test_a_batch_without_a_row_to_keep_has_losses_of_its_own_order(monkeypatch) -> None:
    """Rows that are decoded apart come back in their order, whichever are wanted."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32))
    model = build(pc.VAESpec(2, eta_dec=0.1), "mlp", x_dim=3)
    x *= 10 * torch.arange(1, 41)[:, None]  # so that the order shows in the errors
    expected = SampledPass(model, 4, torch.Generator().manual_seed(0))(x, None)
    for wanted in (np.array([3, 17, 30]), np.array([], np.intp)):
        seen = SampledPass(model, 4, torch.Generator().manual_seed(0))
        found = seen(x, None, [wanted])
        error = found.reconstruction.squared_error
        np.testing.assert_allclose(error, expected.reconstruction.squared_error, rtol=0.5)
        np.testing.assert_allclose(error[wanted], expected.reconstruction.squared_error[wanted])
        (residual,) = found.residuals
        np.testing.assert_allclose(
            residual.average, expected.residuals[0].average[wanted], rtol=1e-5
        )


def test_moments_of_a_diagnosis_have_the_precision_that_its_spec_needs() -> None:
    x = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    for eta_dec, single in ((0.5, True), (0.01, False), ("learned", False)):
        model = pc.fit(pc.VAESpec(2, eta_dec=eta_dec), x, "mlp", epochs=1, hidden=(8,)).model
        found = collect(model, x, model.spec)
        assert (found.moments.rounding > 0) == single
        np.testing.assert_allclose(found.moments.xx, np.cov(x.T, bias=True), atol=1e-5)


def test_a_batch_that_varies_more_than_the_first_is_multiplied_in_double_precision() -> None:
    """Its rounding is a share of its own variance, whatever the first batch was content with."""
    x = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    x[:1000] *= 0.01
    model = build(pc.VAESpec(2, eta_dec=0.01), "mlp", x_dim=4, hidden=(8,))
    found = collect(model, DataLoader(TensorDataset(torch.from_numpy(x)), 1000), model.spec)
    np.testing.assert_allclose(found.moments.xx, np.cov(x.T.astype(float), bias=True), atol=1e-12)


def test_a_group_that_varies_too_much_is_multiplied_anew_and_those_before_stay() -> None:
    """Rows far from a mean far from 0, in batches and in one array, against NumPy in float64."""
    x = 50 + np.random.default_rng(0).standard_normal((12_000, 6)).astype(np.float32)
    x[6000:] = 50 + 30 * (x[6000:] - 50)
    expected = np.cov(x.T.astype(float), bias=True)
    model = build(pc.VAESpec(2, eta_dec=0.5), "mlp", x_dim=6, hidden=(8,))
    found = collect(model, x, model.spec).moments
    assert found.rounding > 0
    # By single precision alone it is off by 1e-7 of it: what was added in double has no error.
    np.testing.assert_allclose(found.xx, expected, rtol=0, atol=1e-8 * expected.max())
    np.testing.assert_allclose(found.mean_x, x.mean(0, dtype=float), rtol=1e-9)
    turned = collect(model, np.ascontiguousarray(x[::-1]), model.spec).moments
    assert turned.rounding == 0  # begun in double precision, it goes on so
    np.testing.assert_allclose(turned.xx, expected, rtol=0, atol=1e-12 * expected.max())


def test_a_loader_and_an_array_keep_as_many_rows(monkeypatch) -> None:
    """How many rows will come is asked of arrays, pairs, data sets and plain loaders."""
    x = np.random.default_rng(0).standard_normal((3000, 5)).astype(np.float32)
    model = build(pc.VAESpec(2, eta_dec=0.5), "mlp", x_dim=5, hidden=(8,))
    monkeypatch.setattr(certificate, "NUMBERS", 300 * 12)
    rows = TensorDataset(torch.from_numpy(x))
    plain = (x, torch.from_numpy(x), pc.Dataset("x", x), rows, DataLoader(rows, 100))
    kept = [collect(model, data, model.spec).residuals[0]._kept.kept for data in plain]
    assert len(set(kept)) == 1
    assert 230 < kept[0] < 370  # five standard deviations
    groups = DataLoader(rows, batch_sampler=[list(range(start, start + 5)) for start in (0, 90)])
    assert collect(model, groups, model.spec).residuals[0]._kept.kept == 10
    stream = iter(np.split(x, 30))
    assert collect(model, stream, model.spec).residuals[0]._kept.kept == 300


def test_many_features_of_little_variance_are_multiplied_in_single_precision() -> None:
    """Rounding is a share of the largest variance, which a sum of many small ones is not."""
    x = np.random.default_rng(0).standard_normal((2000, 400)).astype(np.float32)
    model = build(pc.VAESpec(2, eta_dec=0.5), "mlp", x_dim=400, hidden=(8,))
    moments = collect(model, x, model.spec).moments
    assert moments.rounding > 0
    np.testing.assert_allclose(moments.xx, np.cov(x.T, bias=True), atol=1e-5)


def wide() -> np.ndarray:
    """150 images of more features than are measured as they pass by: three strong modes, noise."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((150, 3)) * [30, 20, 10]
    x = factors @ np.linalg.qr(rng.standard_normal((4800, 3)))[0].T
    return (x + 0.05 * rng.standard_normal(x.shape)).reshape(150, 3, 40, 40).astype(np.float32)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_wide_data_at_hand_have_their_forecast(likelihood) -> None:
    x = wide() if likelihood == "gaussian" else (wide() > 0).astype(np.float32)
    spec = pc.VAESpec(4, beta=40.0, likelihood=likelihood)
    constant = torch.tensor(x.mean(0)).clamp(0.01, 0.99)
    model = from_callable(
        lambda x: (torch.zeros(len(x), 4), torch.zeros(len(x), 4)),
        lambda z: constant.expand(len(z), *constant.shape),
        latent_dim=4,
        spec=spec,
        shape=(3, 40, 40),
    )
    expected = pc.forecast(x, spec)
    found = pc.diagnose(model, x)
    assert found.forecast.n_active == expected.n_active > 0
    assert found.forecast.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.collapsed_loss == pytest.approx(found.loss, rel=0.02)
    assert found.conclusion == "signal-unclaimed"
    passing = pc.diagnose(model, DataLoader(TensorDataset(torch.tensor(x)), batch_size=50))
    assert passing.forecast is None
    assert any("pc.forecast does so" in note for note in passing.notes)


def test_data_without_variance_are_said_to_be() -> None:
    model = build(pc.VAESpec(2), "mlp", x_dim=5, hidden=(4,))
    found = pc.diagnose(model, np.ones((20, 5), dtype=np.float32))
    assert "no forecast: the data have no variance" in found.notes
