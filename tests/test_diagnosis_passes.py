"""One pass over the data: how often rows are decoded, and how precise their moments are."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import posterior_collapse as pc
from posterior_collapse.diagnosis import certificate, passes
from posterior_collapse.diagnosis.collecting import collect
from posterior_collapse.diagnosis.passes import SampledPass
from posterior_collapse.models import build


def test_many_rows_are_decoded_less_often_and_say_the_same(monkeypatch) -> None:
    """Two samples of a row in place of four: the same loss and signal, within their errors."""
    x = np.random.default_rng(0).standard_normal((3000, 5)).astype(np.float32) * [3, 2, 1, 1, 0.5]
    x = x.astype(np.float32)
    model = pc.fit(pc.VAESpec(2, eta_dec=0.5), x, "mlp", epochs=5, hidden=(8,)).model
    decoded = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda z, x: decoded.append(len(z)) or decode(z, x))
    sure = pc.diagnose(model, x, effects=0)
    assert 2 not in decoded
    monkeypatch.setattr(passes, "MANY_ROWS", 1000)
    decoded.clear()
    found = pc.diagnose(model, x, effects=0)
    assert decoded[:3] == [4, 2, 2]
    assert found.loss == pytest.approx(sure.loss, abs=sure.loss_error)
    assert found.loss_error == pytest.approx(sure.loss_error, rel=0.05)
    assert found.signal[0] == pytest.approx(sure.signal[0], abs=3 * sure.signal_error[0])


def test_rows_of_no_residual_are_decoded_once_and_say_the_same(monkeypatch) -> None:
    x = np.random.default_rng(0).standard_normal((3000, 5)).astype(np.float32) * [3, 2, 1, 1, 0.5]
    x = x.astype(np.float32)
    model = pc.fit(pc.VAESpec(2, eta_dec=0.5), x, "mlp", epochs=5, hidden=(8,)).model
    decoded = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda z, x: decoded.append(z.shape) or decode(z, x))
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


def test_many_features_of_little_variance_are_multiplied_in_single_precision() -> None:
    """Rounding is a share of the largest variance, which a sum of many small ones is not."""
    x = np.random.default_rng(0).standard_normal((2000, 400)).astype(np.float32)
    model = build(pc.VAESpec(2, eta_dec=0.5), "mlp", x_dim=400, hidden=(8,))
    moments = collect(model, x, model.spec).moments
    assert moments.rounding > 0
    np.testing.assert_allclose(moments.xx, np.cov(x.T, bias=True), atol=1e-5)
