"""The real thing, where there is a GPU: `make test-cuda`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.models import build
from posterior_collapse.training import steps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GENERATOR = np.random.default_rng(0)
X = (GENERATOR.standard_normal((300, 12)) * np.linspace(3, 0.3, 12)).astype(np.float32)
Y = (X[:, :5] + GENERATOR.standard_normal((300, 5))).astype(np.float32)
IMAGES = GENERATOR.random((200, 784)).astype(np.float32)
HVAE = pc.HVAESpec((4, 3), eta_dec=0.5, eta_enc=0.5, sigma_1=0.5, sigma_2="input")
CASES: dict[str, tuple[pc.Spec, Any, str, dict[str, Any]]] = {
    "linear": (pc.VAESpec(3, sigma=0.5), X, "linear", {}),
    "mlp": (pc.VAESpec(3, sigma="input"), X, "mlp", {"hidden": (8,)}),
    "dropout": (pc.VAESpec(3), X, "mlp", {"hidden": (8,), "dropout": 0.2, "input_dropout": 0.1}),
    "conditional": (pc.CVAESpec(3, sigma="input"), (X, Y), "cvae-relu", {}),
    "hierarchy": (HVAE, X, "hvae-relu", {"hidden": (16,)}),
    "convolutions": (HVAE, IMAGES, "hvae-cnn", {"hidden": (8,)}),
}
"""By name: spec, data, network and its options."""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The global generators are left alone, and so is how products are taken."""
    before = torch.cuda.get_rng_state(), torch.get_float32_matmul_precision()
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    yield
    assert torch.equal(before[0], torch.cuda.get_rng_state())
    assert torch.get_float32_matmul_precision() == before[1]
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32) == flags


def swept(name: str, *, runs: int = 3, **settings: Any) -> tuple[pc.Fitted, ...]:
    spec, data, network, options = CASES[name]
    given = {"epochs": 3, "batch_size": 64, "clip": 1.0, "seeds": list(range(runs)), **settings}
    return pc.fit_many([spec] * runs, data, network, device="cuda", **options, **given)


def same(one: Any, other: Any) -> None:
    for a, b in zip(one, other, strict=True):
        state, expected = a.model.state_dict(), b.model.state_dict()
        for key, value in expected.items():
            assert torch.equal(state[key], value), key
        assert a.history == b.history
        assert a.stopped == b.stopped


@pytest.mark.parametrize("name", CASES)
def test_a_sweep_is_launched_as_graphs_and_gives_what_it_gives_without(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[Any] = []

    def capture(self: Any, kind: Any, function: Any, inputs: Any) -> bool:
        captured.append(kind)
        return original(self, kind, function, inputs)

    original = steps.Graphs._capture
    monkeypatch.setattr(steps.Graphs, "_capture", capture)
    options: dict[str, Any] = {"warm_up": 1, "capacity": 0.5, "learning_rates": [1e-2, 1e-2, 2e-2]}
    found = swept(name, **options)
    rows = len(IMAGES) if name == "convolutions" else len(X)
    assert sorted(kind[0] for kind in captured) == [rows % 64, 64]
    if name == "convolutions":  # alone they are computed one by one
        expected = swept(name, **options)
    else:
        expected = swept(name, cuda_graphs=False, **options)
    same(found, expected)
    errors = found[0].history["reconstruction"]
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "float64"])
@pytest.mark.parametrize("name", ["hierarchy", "convolutions", "dropout"])
def test_a_run_resumes_bit_for_bit(name: str, precision: str, tmp_path: Path) -> None:
    def run(epochs: int, where: str, **more: Any) -> Any:
        folders = [tmp_path / where / str(i) for i in range(3)]
        return swept(name, epochs=epochs, precision=precision, folders=folders, **more)

    expected = run(4, "straight")
    run(2, "resumed", checkpoint_steps=3)
    same(run(4, "resumed", resume=True), expected)
    assert all(np.isfinite(one.history["loss"]).all() for one in expected)


def test_a_run_that_diverges_stops_at_the_same_step_with_and_without_graphs() -> None:
    options = {"learning_rates": [1e-3, 1e18, 1e-3], "clip": None, "epochs": 4}
    found, expected = swept("mlp", **options), swept("mlp", cuda_graphs=False, **options)
    assert found[1].stopped.startswith("non-finite")
    assert found[0].stopped == found[2].stopped == "finished"
    same(found, expected)


def test_stopping_early_is_the_same_with_and_without_graphs() -> None:
    options = {"patience": 1, "epochs": 12, "learning_rates": [0.1, 0.05, 0.02]}
    same(swept("hierarchy", **options), swept("hierarchy", cuda_graphs=False, **options))


def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = itertools.count()

    def launch(self: Any, *arguments: Any) -> None:
        strict = next(launches) > 4  # the first ones trace, capture and find memory
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        try:
            original(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    original = steps.Ahead.launch
    monkeypatch.setattr(steps.Ahead, "launch", launch)
    swept("hierarchy", epochs=8, warm_up=4)
    assert next(launches) > 5


def test_products_keep_all_digits_whatever_a_program_asks_for() -> None:
    expected = swept("conditional")
    torch.set_float32_matmul_precision("high")
    try:
        found = swept("conditional")
        there = found[0].model.to("cuda")
        nll = pc.log_likelihood(there, (X, Y), samples=50, exact=False).nll
        loss = pc.diagnose(there, (X, Y)).loss
    finally:
        torch.set_float32_matmul_precision("highest")
    assert nll == pc.log_likelihood(there, (X, Y), samples=50, exact=False).nll
    assert loss == pc.diagnose(there, (X, Y)).loss
    there.cpu()
    same(found, expected)


def test_bf16_goes_about_the_same_course() -> None:
    for name in ("hierarchy", "convolutions"):
        half, whole = (swept(name, epochs=6, precision=p)[0] for p in ("bf16", "float32"))
        assert half.history["loss"][-1] == pytest.approx(whole.history["loss"][-1], rel=0.05)
        assert next(half.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", CASES)
def test_diagnosis_and_likelihood_are_the_cpus(name: str) -> None:
    spec, data, network, options = CASES[name]
    dims = {"y_dim": 5} if spec.model == "cvae" else {}
    x_dim = 784 if name == "convolutions" else 12
    model = build(spec, network, x_dim=x_dim, **dims, **options)
    found, expected = (pc.diagnose(model.to(device), data) for device in ("cuda", "cpu"))
    for level, other in zip(found.levels, expected.levels, strict=True):
        np.testing.assert_allclose(level.kl, other.kl, rtol=0.1, atol=0.02)
    assert found.loss == pytest.approx(expected.loss, rel=0.02)
    found, expected = (
        pc.log_likelihood(model.to(device), data, samples=100, exact=False)
        for device in ("cuda", "cpu")
    )
    assert found.nll == pytest.approx(expected.nll, rel=0.02)


def test_a_loader_and_a_single_fit_train_on_the_device() -> None:
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(X)), 64, shuffle=True
    )
    options: dict[str, Any] = {"hidden": (8,), "epochs": 3, "device": "cuda"}
    found = [pc.fit(pc.VAESpec(3, sigma=0.5), loader, "mlp", **options) for _ in range(2)]
    same(found[:1], found[1:])
    assert pc.diagnose(found[0].model.to("cuda"), loader).n == 300
