"""A sweep in one vectorised run against its runs alone."""

import math

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import build
from posterior_collapse.training import seeds

G = np.random.default_rng(0)
X = (G.standard_normal((210, 3)) @ G.standard_normal((3, 9)) + 0.3).astype(np.float32)
Y = (X[:, :4] ** 2 / 4 + G.standard_normal((210, 4))).astype(np.float32)
IMAGES = X[:, :9].reshape(-1, 3, 3)

ARCHITECTURES = {
    "linear": ([pc.VAESpec(4, beta=b, sigma="shared") for b in (0.5, 1, 4)], X, {}),
    "mlp": (
        [pc.VAESpec(2, b, "learned", eta_enc=e) for b, e in ((1.5, 1), (2, 2), (1, 1))],
        X,
        {"hidden": (12, 8), "dropout": 0.2, "activation": "silu", "warm_up": 20},
    ),
    "cnn": (
        [pc.VAESpec(3, eta_dec=e, sigma=s) for e, s in ((0.5, 1), (1, 0.3), (2, 0.1))],
        IMAGES,
        {"channels": (3, 2), "hidden": (5,), "free_bits": 0.05},
    ),
    "cvae-relu": (
        [pc.CVAESpec(3, beta=b, eta_dec=e) for b, e in ((0.1, 1), (1, 1), (2, 0.5))],
        (X, Y),
        {"hidden": (6,), "input_dropout": 0.1},
    ),
    "hvae-relu": (
        [
            pc.HVAESpec((3, 2), (b, 1), 0.5, 0.5, sigma_1=s)
            for b, s in ((0.5, 0.5), (1, 0.4), (2, 0.6))
        ],
        np.tanh(X),
        {"hidden": (7,), "capacity": (0.5, 0.2)},
    ),
}  # fmt: skip


def assert_same_course(sweep, data, name, rtol, **networks):
    for run in (sweep[0], sweep[-1]):
        alone = pc.fit(run.spec, data, name, settings=run.settings, **networks)
        assert alone.history.keys() == run.history.keys()
        for column in run.history:
            if not column.startswith("active"):
                one, other = run.history[column], alone.history[column]
                np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_sweep_has_the_losses_of_its_runs_alone(name):
    specs, data, options = ARCHITECTURES[name]
    # 210 rows in batches of 64 are 4 steps, the last smaller: 200 steps in all.
    sweep = pc.fit_many(
        specs, data, name, epochs=50, batch_size=64, seeds=(5, 6, 7),
        learning_rates=(1e-3, 3e-3, 1e-3), clips=(None, 0.5, 0.05), **options,
    )  # fmt: skip
    networks = {k: v for k, v in options.items() if k not in sweep[0].settings.to_dict()}
    assert_same_course(sweep, data, name, 1e-5, **networks)
    assert len({run.history["loss"][-1] for run in sweep}) == 3


def test_so_have_nets_whose_std_is_signed():
    # Where |s| is the std, log|s| makes a pole that a step may jump: rounding grows a
    # millionfold in a few steps, in one run alone as between two.
    specs = [pc.CVAESpec(3, beta=b, sigma="input") for b in (0.1, 2)]
    options = {"steps": 80, "batch_size": 64, "precision": "float64", "hidden": (6,)}
    sweep = pc.fit_many(specs, (X, Y), "cvae-relu", clips=(None, 0.1), **options)
    assert_same_course(sweep, (X, Y), "cvae-relu", 1e-5, hidden=(6,))


def test_each_run_is_clipped_to_its_own_bound():
    specs, clips = [pc.VAESpec(3, eta_dec=e) for e in (0.1, 0.1, 1.0)], (0.5, 2.0, 1e9)
    options = {"steps": 1, "optimiser": "sgd", "learning_rate": 0.01, "precision": "float64"}
    moved = []
    for run in pc.fit_many(specs, X, "linear", clips=clips, **options):
        generator = seeds.generator(run.settings.seed, seeds.INITIALISATION)
        start = build(run.spec, "linear", x_dim=9, generator=generator, dtype=torch.float64)
        pairs = zip(run.model.parameters(), start.parameters(), strict=True)
        moved.append(math.sqrt(sum((a - b).square().sum().item() for a, b in pairs)))
    assert moved[:2] == pytest.approx([0.01 * 0.5, 0.01 * 2.0], rel=1e-5)
    assert 0.02 < moved[2] < 1e3


def test_a_run_that_is_not_finite_is_frozen_and_the_others_go_on():
    specs = [pc.VAESpec(3)] * 3
    rates = (1e-2, 0.5, 1e-2)
    options = {"optimiser": "sgd", "epochs": 12, "batch_size": 64, "hidden": (8,)}
    one, bad, other = pc.fit_many(
        specs, X, "mlp", learning_rates=rates, seeds=(1, 2, 3), **options
    )  # fmt: skip
    assert bad.stopped.startswith("non-finite: ")
    assert " at step " in bad.stopped
    assert one.stopped == other.stopped == "finished"
    frozen_at = int(bad.stopped.rsplit(" ", 1)[1])
    assert 4 <= frozen_at < 48
    assert len(bad.history["loss"]) == frozen_at // 4
    assert np.isfinite(bad.history["loss"]).all()
    assert all(bool(p.isfinite().all()) for p in bad.model.parameters())
    for run, seed in ((one, 1), (other, 3)):
        alone = pc.fit(specs[0], X, "mlp", learning_rate=1e-2, seed=seed, order_seed=0, **options)
        np.testing.assert_allclose(run.history["loss"], alone.history["loss"], rtol=1e-5)


def test_each_run_stops_early_by_itself_and_returns_to_its_best():
    specs = [pc.VAESpec(2, eta_dec=e) for e in (0.5, 3.0)]
    options = {
        "epochs": 300,
        "patience": 4,
        "learning_rate": 0.03,
        "batch_size": 210,
        "bias": False,
    }
    runs = pc.fit_many(specs, X[:150], "linear", validation=X[150:], **options)
    stops = [len(run.history["epoch"]) for run in runs]
    assert stops[0] != stops[1]
    for run, stop in zip(runs, stops, strict=True):
        losses = run.history["validation_loss"]
        assert run.stopped == "early"
        assert stop - 1 - int(np.argmin(losses)) == 4
        kept = int(np.argmin(losses)) + 1
        settings = run.settings.replace(patience=None, epochs=kept)
        again = pc.fit(run.spec, X[:150], "linear", settings=settings, bias=False)
        for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True):
            torch.testing.assert_close(a, b)
        told = f"{stop} steps and back to step {kept}, loss {run.history['loss'][kept - 1]:.6g}"
        assert told in repr(run)
        assert f"{kept} steps, loss " in repr(again)


@pytest.mark.parametrize(
    ("specs", "options", "said"),
    [
        ([], {}, "specs: got none"),
        ([pc.VAESpec(2), pc.VAESpec(3)], {}, r"specs\[1\]: got another model"),
        ([pc.VAESpec(2), "vae"], {}, "spec: got str"),
        ([pc.VAESpec(2)] * 2, {"seeds": (1, 2, 3)}, "seeds: got 3 values"),
        ([pc.VAESpec(2)] * 2, {"learning_rates": (1e-3, -1)}, "learning_rate: got -1"),
        ([pc.VAESpec(2)] * 2, {"clips": (0.0, 1)}, "clip: got 0"),
        ([pc.VAESpec(2)] * 2, {"folders": ["a"]}, "folders: got 1 value;"),
        (
            [pc.VAESpec(2)] * 2,
            {"folders": "ab"},
            "folders: got 'ab'; expected a sequence: one folder",
        ),
        ([pc.VAESpec(2)] * 2, {"folders": ["a", "./a/"]}, "folders: got 'a' twice"),
        (pc.VAESpec(2), {}, "specs: got one VAESpec; .* use fit"),
        ([pc.VAESpec(2), pc.HVAESpec((2, 2))], {}, "specs: got a vae and a hvae"),
    ],
)
def test_sweeps_that_cannot_be_are_refused(specs, options, said):
    with pytest.raises(InvalidArgumentError, match=said):
        pc.fit_many(specs, X, "linear", epochs=1, **options)


def test_one_value_serves_all_runs_and_arrays_are_values_too():
    runs = pc.fit_many(
        [pc.VAESpec(2)] * 2, X, "linear", epochs=1, seeds=3, learning_rates=np.array([1e-3, 1e-2])
    )
    assert [run.settings.seed for run in runs] == [3, 3]
    assert [run.settings.learning_rate for run in runs] == [1e-3, 1e-2]
