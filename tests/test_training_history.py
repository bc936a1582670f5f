"""What a history keeps of units and losses, and which of these early stopping compares."""

import math

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.models import loss
from posterior_collapse.report.comparison import comparison_verdict
from posterior_collapse.runs.kept import members
from posterior_collapse.training import checkpoints, seeds
from posterior_collapse.training.course import MOST_UNITS
from posterior_collapse.training.engine import CHUNK, Engine

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


def test_a_run_whose_losses_are_no_numbers_does_not_go_back_to_when_others_were_best(monkeypatch):
    losses = [1.0, math.nan]
    monkeypatch.setattr(Engine, "_validation_loss", lambda engine: losses[-engine.stack.runs :])
    options = {"hidden": (8,), "validation": X, "patience": 3}
    _, found = pc.fit_many([pc.VAESpec(2)] * 2, X, "mlp", **options)
    (alone,) = pc.fit_many([pc.VAESpec(2)], X, "mlp", **options)
    assert (found.stopped, len(found.history["step"])) == ("early", 3)
    for a, b in zip(found.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("weights", [{"free_bits": 0.5}, {"capacity": 1.0, "capacity_warm_up": 2}])
def test_a_validation_loss_is_that_of_the_objective_trained_on(weights):
    spec = pc.VAESpec(3, beta=0.2)
    held_out = np.concatenate([np.tile(X, (16, 1)), X / 9])  # parts of it differ in their KL
    options = {"hidden": (8,), "epochs": 9, "batch_size": 16, "learning_rate": 0.03}
    fitted = pc.fit(spec, X, "mlp", validation=held_out, **options, **weights)
    weights.pop("capacity_warm_up", None)
    parts = []
    for rows in torch.tensor(held_out, dtype=torch.float32).split(CHUNK):
        noise = fitted.model.draw_noise(len(rows), seeds.generator(0, seeds.MEASURE))
        with torch.no_grad():
            parts.append(fitted.model(rows, None, noise))
    error = torch.cat([part.squared_error for part in parts])
    (kl,) = map(torch.cat, zip(*(part.kl for part in parts), strict=True))
    expected = loss(parts[0]._replace(squared_error=error, kl=(kl,)), [0.2], **weights)
    assert fitted.history["validation_loss"][-1] == pytest.approx(float(expected), rel=1e-5)


def test_early_stopping_is_refused_where_no_epoch_has_beta_in_full():
    options = {"hidden": (4,), "epochs": 8, "patience": 2}
    with pytest.raises(pc.InvalidArgumentError, match="patience: got 2 beside 8 cycles in 8"):
        pc.fit(pc.VAESpec(2), X, "mlp", cycles=8, **options)
    assert pc.fit(pc.VAESpec(2), X, "mlp", cycles=4, **options).stopped in ("early", "finished")
    # A warm-up as long as the run was never over, and early stopping was left out in silence.
    for rising, what in (({"warm_up": 8}, "beta"), ({"capacity": 1, "capacity_warm_up": 8}, "the")):
        with pytest.raises(pc.InvalidArgumentError, match=f"a warm-up of 8 in 8.*with {what}"):
            pc.fit(pc.VAESpec(2), X, "mlp", **rising, **options)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    # Four steps an epoch: beta rises by a quarter of an epoch's rise per step, from 0 at the first.
    [({"warm_up": 2}, [3 / 8, 7 / 8, 1, 1]), ({"cycles": 2}, [3 / 4, 1, 3 / 4, 1]), ({}, None)],
)
def test_a_history_says_what_a_schedule_made_of_beta(schedule, factors):
    options = {"hidden": (4,), "epochs": 4, "batch_size": 16}
    fitted = pc.fit(pc.VAESpec(2), X, "mlp", **options, **schedule)
    assert fitted.history.get("beta_factor") == factors


def test_a_history_says_what_capacity_there_was():
    options = {"hidden": (4,), "epochs": 3, "batch_size": 16, "capacity": (4.0, 8.0)}
    spec = pc.HVAESpec((2, 2), (1.0, 1.0), sigma_1="learned", sigma_2=0.5)
    fitted = pc.fit(spec, X, "mlp", **options, capacity_warm_up=2)
    assert fitted.history["capacity_1"] == [1.5, 3.5, 4.0]
    assert fitted.history["capacity_2"] == [3.0, 7.0, 8.0]
    assert "capacity_1" not in pc.fit(spec, X, "mlp", **options).history


@pytest.mark.parametrize(
    ("weights", "said"),
    [({"free_bits": 1.0}, "with free bits"), ({"capacity": 9.0}, "with a capacity")],
)
def test_another_optimum_is_not_what_training_is_measured_by(tmp_path, weights, said):
    # Their loss is nats above the plain optimum however long they train: that is no lack of it.
    options = {"steps": 200, "learning_rate": 0.05, **weights}
    spec = pc.VAESpec(3, beta=2.0)
    (run,) = pc.sweep([spec], X, "linear", folder=tmp_path, **options).runs
    fitted = pc.fit(spec, X, "linear", **options)
    assert fitted.measured()["loss"] > pc.forecast(X, spec).loss + 1
    for one in (run, fitted):
        assert one.forecast is None
        verdict = comparison_verdict(one.summary())
        assert verdict == "3 of 3 units active; no closed form is known to compare with."
    np.save(tmp_path / "x.npy", X)
    (kept,) = members(tmp_path, {"name": str(tmp_path / "x.npy")}).values()
    for found in (pc.diagnose(run, X), pc.diagnose(fitted, X), kept.diagnosed()[1]):
        assert found.forecast is None
        assert "converged" not in found.verdict
        assert not any("Train longer" in one.action for one in found.advice)
        assert any(said in note for note in found.notes)


def test_a_floor_of_a_model_s_own_is_not_that_of_a_run():
    fitted = pc.fit(pc.VAESpec(2), X, "linear", epochs=1)
    fitted.model.floor = 1e-4  # say, of its stds
    assert pc.diagnose(fitted.model, X).forecast is not None


@pytest.mark.parametrize("spread", [1e-2, 3e-4])
def test_losses_of_a_small_learned_std_keep_their_digits(spread):
    """Beside features of std 1.7 the history had -72.0 nats for -105.0 at a std of 0.0003."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3)) @ rng.standard_normal((3, 20))
    x += spread * rng.standard_normal(x.shape)
    options = {"epochs": 1, "learning_rate": 1e-12, "batch_size": 100, "from_forecast": True}
    for spec, data in (
        (pc.VAESpec(3, eta_dec="learned"), x),
        (pc.CVAESpec(1, eta_dec="learned"), (x[:, :3], x)),
    ):
        fitted = pc.fit(spec, data, "linear", validation=data, **options)
        single, double = (fitted.history["validation_loss"][-1], fitted.measured()["loss"])
        assert single == pytest.approx(double, abs=0.1)


@pytest.mark.parametrize("eta_dec", [1.0, "learned"])
@pytest.mark.parametrize("far", ["offset", "wide column"])
def test_losses_of_data_far_from_0_keep_their_digits(far, eta_dec):
    # Of |y|^2 near 2e8 float32 keeps no nat: the history had 20 nats for 28.6, or less than 0.
    x = np.random.default_rng(3).standard_normal((1000, 20))
    x = x + 3000 if far == "offset" else x * [1e4, *[1.0] * 19]
    fitted = pc.fit(
        pc.VAESpec(2, eta_dec=eta_dec), x, "linear", from_forecast=True, epochs=1,
        learning_rate=1e-12, batch_size=500, validation=x[:500],
    )  # fmt: skip
    measured = fitted.measured()["loss"]
    for name in ("loss", "validation_loss"):
        assert fitted.history[name][-1] == pytest.approx(measured, abs=0.5)
