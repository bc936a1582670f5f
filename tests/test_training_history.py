"""What a history keeps of units and losses, and which of these early stopping compares."""

import math

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.models import loss
from posterior_collapse.training import checkpoints, seeds
from posterior_collapse.training.course import MOST_UNITS

X = np.random.default_rng(0).standard_normal((64, 6)) * [3, 2, 1, 1, 0.5, 0.1]
SPEC = pc.HVAESpec((3, 2), sigma_1=0.5)
UNITS = ["kl_1_1", "kl_1_2", "kl_1_3", "kl_2_1", "kl_2_2"]
SMALL = {"hidden": (4,), "batch_size": 16}


@pytest.mark.parametrize("exact", [False, True])
def test_the_kl_of_a_level_is_the_sum_of_its_units(exact):
    options = {"exact": True} if exact else {**SMALL, "epochs": 3}
    run = pc.fit(SPEC, X, "linear" if exact else "mlp", **options)
    assert [name for name in run.history if name.count("_") == 2] == UNITS
    for level, units in ((1, UNITS[:3]), (2, UNITS[3:])):
        total = np.sum([run.history[name] for name in units], axis=0)
        np.testing.assert_allclose(run.history[f"kl_{level}"], total, rtol=1e-4, atol=1e-9)
    found = pc.diagnose(run, X)
    assert found._history is run.history


def test_levels_of_many_units_keep_their_sum_alone():
    few, many = pc.VAESpec(MOST_UNITS), pc.VAESpec(MOST_UNITS + 1)
    for spec, kept in ((few, MOST_UNITS), (many, 0)):
        history = pc.fit(spec, X, "mlp", **SMALL, epochs=1).history
        assert sum(name.startswith("kl_1_") for name in history) == kept


def test_a_checkpoint_without_it_goes_on(tmp_path):
    options = {**SMALL, "folder": tmp_path}
    pc.fit(SPEC, X, "mlp", **options, epochs=2)
    saved = checkpoints.load(tmp_path)
    older = {n: t for n, t in saved.tensors.items() if not n.startswith("history.")}
    assert len(older) == len(saved.tensors) - 2
    checkpoints.save(tmp_path, older, saved.meta, step=saved.step)
    run = pc.fit(SPEC, X, "mlp", **options, epochs=3, resume=True)
    assert {len(column) for column in run.history.values()} == {3}
    for name in UNITS:
        assert [math.isnan(value) for value in run.history[name]] == [True, True, False]
    assert all(math.isfinite(value) for value in run.history["kl_1"])
    run.plot()
    run._repr_html_()
    again = pc.fit(SPEC, X, "mlp", **{**options, "resume": True}, epochs=3)
    np.testing.assert_equal(again.history, run.history)


@pytest.mark.parametrize("schedule", [{"warm_up": 9}, {"capacity": 40.0, "capacity_warm_up": 9}])
def test_early_stopping_compares_only_losses_of_the_objective_in_full(schedule):
    options = {"hidden": (8,), "learning_rate": 0.03, "batch_size": 16, "epochs": 90, **schedule}
    spec = pc.VAESpec(2, beta=5.0)
    fitted = pc.fit(spec, X, "mlp", patience=3, **options)
    losses = fitted.history["loss"]
    best = 9 + int(np.argmin(losses[9:]))
    assert (fitted.stopped, len(losses)) == ("early", best + 1 + 3)
    until = pc.fit(spec, X, "mlp", **{**options, "epochs": best + 1})
    for a, b in zip(fitted.model.parameters(), until.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("weights", [{"free_bits": 0.5}, {"capacity": 3.0, "capacity_warm_up": 2}])
def test_a_validation_loss_is_that_of_the_objective_trained_on(weights):
    spec = pc.VAESpec(3, beta=5.0)
    fitted = pc.fit(spec, X, "mlp", hidden=(8,), epochs=4, validation=X, **weights)
    noise = fitted.model.draw_noise(len(X), seeds.generator(0, seeds.MEASURE))
    rows = torch.tensor(X, dtype=torch.float32)
    weights.pop("capacity_warm_up", None)
    with torch.no_grad():
        expected = loss(fitted.model(rows, None, noise), [5.0], **weights)
    assert fitted.history["validation_loss"][-1] == pytest.approx(float(expected), rel=1e-5)
