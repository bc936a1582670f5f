"""What has to work on a device; `test_pretend_device.py` runs these in a process of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import posterior_collapse as pc
import pretend_device
from posterior_collapse.adapters import audit_loss, from_callable
from posterior_collapse.experiments import Executor
from posterior_collapse.experiments import measuring as measuring
from posterior_collapse.models import (
    Architecture,
    build,
    load_parameters,
    read_parameters,
    set_biases,
)
from posterior_collapse.runs import Evaluation, Run, RunData
from posterior_collapse.testing import check_latent_model
from posterior_collapse.training import stacking
from posterior_collapse.training.settings import Settings
from posterior_collapse.training.states import DeviceWarning

GENERATOR = np.random.default_rng(0)
X = (GENERATOR.standard_normal((60, 4)) * [3, 2, 1, 0.5]).astype(np.float32)
Y = GENERATOR.standard_normal((60, 3)).astype(np.float32)
SPECS: dict[str, pc.Spec] = {
    "fixed sigma": pc.VAESpec(2, sigma=0.5),
    "sigma per unit": pc.VAESpec(2, sigma=(0.5, 0.7)),
    "learned": pc.VAESpec(2, eta_dec="learned"),
    "shared": pc.VAESpec(2, sigma="shared"),
    "input": pc.VAESpec(2, sigma="input"),
    "hierarchy": pc.HVAESpec((3, 2), sigma_1=0.5),
    "conditional": pc.CVAESpec(2),
}
ROWS: dict[str, Any] = {
    "bernoulli": (X > 0).astype(np.float32),
    "poisson": np.abs(X).round(),
    "negative-binomial": np.abs(X).round(),
    "categorical": np.stack([X > 0, X <= 0], 2).astype(np.float32),
}
"""By likelihood."""
NETWORKS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"hidden": (5,)},
    "mlp with dropout": {"hidden": (5,), "dropout": 0.2, "input_dropout": 0.1},
}


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def untraced(function: Any, *arguments: Any) -> Any:
        return lambda *arguments: [result.clone() for result in function(*arguments)]

    # Settings know the devices of people; torch cannot write down what a pretend tensor does.
    monkeypatch.setattr(Settings, "_check_names", lambda self: None)
    monkeypatch.setattr(stacking, "trace", untraced)
    pretend_device.seeded.clear()
    pretend_device.reads.clear()
    with pretend_device.pretend():
        yield
    assert pretend_device.seeded == [], "a global generator was seeded"


def data(spec: pc.Spec) -> Any:
    return (X, Y) if spec.model == "cvae" else X


def made(spec: pc.Spec, network: str = "linear") -> Any:
    y_dim = 3 if spec.model == "cvae" else None
    name = network.partition(" ")[0]
    return build(spec, name, x_dim=4, y_dim=y_dim, **NETWORKS[network])


def trained(spec: pc.Spec, network: str, device: str, rows: Any) -> Any:
    name = network.partition(" ")[0]
    return pc.fit(
        spec, rows, name, epochs=2, batch_size=25, device=device, seed=1, **NETWORKS[network]
    )


def same(one: Any, other: Any) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.equal(value.cpu(), other[name].cpu()), name


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", SPECS)
def test_training_gives_the_cpus_parameters(name: str, network: str) -> None:
    spec = SPECS[name]
    there, here = (trained(spec, network, device, data(spec)) for device in ("gpu", "cpu"))
    same(there.model.state_dict(), here.model.state_dict())
    assert there.history.keys() == here.history.keys()
    assert there.measured() == here.measured()


@pytest.mark.parametrize("network", ["linear", "mlp"])
@pytest.mark.parametrize("name", SPECS)
def test_models_are_diagnosed_where_they_are(name: str, network: str) -> None:
    spec = SPECS[name]
    model = made(spec, network)
    there = copy.deepcopy(model).to("gpu")
    options = {"importance_samples": 8}
    found, expected = (pc.diagnose(m, data(spec), **options) for m in (there, model))
    for level, other in zip(found.levels, expected.levels, strict=True):
        np.testing.assert_allclose(level.kl, other.kl, rtol=1e-6, atol=1e-9)
        assert level.status == other.status
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.nll == pytest.approx(expected.nll, rel=1e-6)
    assert found.notes == expected.notes
    likelihoods = [pc.log_likelihood(m, data(spec), samples=8, exact=False) for m in (there, model)]
    assert likelihoods[0].nll == pytest.approx(likelihoods[1].nll, rel=1e-6)
    rows = [torch.from_numpy(part[:4]).to("gpu") for part in (X, Y)]
    check_latent_model(there, *(rows if spec.model == "cvae" else rows[:1]))


@pytest.mark.parametrize("name", [name for name in SPECS if name != "input"])
def test_matrices_and_biases_are_set_where_the_model_is(name: str) -> None:
    spec = SPECS[name]
    model = made(spec)
    there = copy.deepcopy(model).to("gpu")
    load_parameters(there, read_parameters(model))
    same(there.state_dict(), model.state_dict())
    means = [torch.from_numpy(part.mean(0)) for part in (X, Y)]
    means = means if spec.model == "cvae" else means[:1]
    set_biases(model, *means)
    set_biases(there, *means)
    same(there.state_dict(), model.state_dict())
    load_parameters(there, read_parameters(there))
    same(there.state_dict(), model.state_dict())


@pytest.mark.parametrize("spec", [SPECS["input"], SPECS["hierarchy"], SPECS["conditional"]])
def test_a_sweep_with_every_option_resumes_on_either_device(tmp_path: Path, spec: pc.Spec) -> None:
    levels = len(spec.dims)
    options: dict[str, Any] = {
        "batch_size": 25, "hidden": (5,), "validation": data(spec), "clip": 1.0,
        "capacity": (0.5,) * levels, "warm_up": 2, "free_bits": 0.01, "seeds": [1, 2],
    }  # fmt: skip

    def run(epochs: int, device: str, name: str, **more: Any) -> Any:
        folders = [tmp_path / name / str(i) for i in range(2)]
        return pc.fit_many(
            [spec, spec], data(spec), "mlp",
            epochs=epochs, device=device, folders=folders, **options, **more,
        )  # fmt: skip

    expected = run(4, "cpu", "straight")
    for first, then in (("gpu", "gpu"), ("gpu", "cpu"), ("cpu", "gpu")):
        name = f"{first} and {then}"
        run(2, first, name)
        with pytest.warns(DeviceWarning, match=first) if first != then else nullcontext():
            resumed = run(4, then, name, resume=True)
        for found, other in zip(resumed, expected, strict=True):
            same(found.model.state_dict(), other.model.state_dict())
            assert found.history == other.history


@pytest.mark.parametrize("name", SPECS)
def test_models_draw_and_reconstruct_where_they_are(name: str) -> None:
    spec = SPECS[name]
    model = made(spec, "mlp")
    there = copy.deepcopy(model).to("gpu")
    rows = [torch.from_numpy(part[:5]) for part in ((X, Y) if spec.model == "cvae" else (X,))]

    def drawn(model: Any, device: str) -> list[Tensor]:
        x, *y = (part.to(device) for part in rows)
        generator = torch.Generator(device).manual_seed(0)
        condition = x if y else None
        found = [model.sample(5, generator, condition, noise=True)]
        found += [
            model.reconstruct(x, *y, through=level, generator=generator)
            for level in range(1, len(spec.dims) + 1)
        ]
        return [value.cpu() for value in found]

    for one, other in zip(drawn(there, "gpu"), drawn(model, "cpu"), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("likelihood", ROWS)
def test_every_likelihood_is_trained_drawn_and_measured_there(likelihood: str) -> None:
    rows, spec = ROWS[likelihood], pc.VAESpec(2, likelihood=likelihood)
    there, here = (trained(spec, "mlp", device, rows) for device in ("gpu", "cpu"))
    same(there.model.state_dict(), here.model.state_dict())
    assert there.history == here.history
    model = there.model.to("gpu")
    for noise in (False, True):
        one, other = (
            m.sample(5, torch.Generator(device).manual_seed(0), noise=noise).cpu()
            for m, device in ((model, "gpu"), (here.model.cpu(), "cpu"))
        )
        assert torch.equal(one, other)
    one, other = (pc.log_likelihood(m, rows, samples=5) for m in (model, here.model))
    assert one.nll == other.nll


def test_the_closed_form_optimum_is_a_start_there() -> None:
    spec = pc.VAESpec(2, sigma="learned")
    found = pc.fit(spec, X, "linear", epochs=1, device="gpu", from_forecast=True)
    assert found.model.eta_enc.device.type == "cpu"


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_feeds_a_device_and_no_generator_of_it_is_seeded(shuffle: bool) -> None:
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), 20, shuffle=shuffle)
    there, here = (
        trained(pc.VAESpec(2, sigma=0.5), "linear", device, loader) for device in ("gpu", "cpu")
    )
    same(there.model.state_dict(), here.model.state_dict())
    pc.diagnose(there.model.to("gpu"), loader)


@pytest.mark.parametrize("network", NETWORKS)
def test_no_step_waits_for_the_device(network: str) -> None:
    def reads(batch_size: int, **more: Any) -> int:
        pretend_device.reads.clear()
        name = network.partition(" ")[0]
        options = {"epochs": 1, "batch_size": batch_size, **NETWORKS[network], **more}
        pc.fit(pc.VAESpec(2), X, name, device="gpu", **options)
        return pretend_device.reads.total()

    # Of 20 steps and of 30: one look at the end. A schedule costs none either.
    assert reads(3) == reads(2)
    schedule: dict[str, Any] = {"capacity": 0.5, "epochs": 2, "warm_up": 1, "capacity_warm_up": 1}
    assert reads(3, **schedule) == reads(2, **schedule)
    # Of 60 steps: the first 32, and the rest.
    assert reads(1) == reads(2) + 1


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rates": [1e-3, 1e18, 1e-2], "batch_size": 2},
        {"learning_rates": [0.2, 0.1, 0.3], "patience": 1, "epochs": 8},
    ],
)
def test_a_run_stops_there_where_it_does_on_the_cpu(options: dict[str, Any]) -> None:
    given = {"epochs": 2, "batch_size": 10, "hidden": (5,), "seeds": [1, 2, 3], **options}
    there, here = (
        pc.fit_many([SPECS["input"]] * 3, X, "mlp", device=device, **given)
        for device in ("gpu", "cpu")
    )
    assert any(one.stopped != "finished" for one in here)
    for one, other in zip(there, here, strict=True):
        same(one.model.state_dict(), other.model.state_dict())
        assert one.history == other.history
        assert one.stopped == other.stopped


def test_a_result_keeps_no_memory_of_the_device() -> None:
    for rows in (X, DataLoader(TensorDataset(torch.from_numpy(X)), 20)):
        found = trained(pc.VAESpec(2), "mlp", "gpu", rows)
        assert found._feed.rows(60).x.device.type == "cpu"
        assert next(found.model.parameters()).device.type == "cpu"


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    there, here = torch.ones(3, device="gpu"), torch.ones(3)
    assert (2 * there + torch.tensor(1.0)).tolist() == [3.0, 3.0, 3.0]
    with pytest.raises(RuntimeError, match="meets one on the CPU"):
        there + here
    with pytest.raises(RuntimeError, match="a generator of cpu"):
        torch.randn(3, generator=torch.Generator(), device="gpu")
    with pytest.raises(RuntimeError, match="a generator of gpu"):
        torch.randn(3, generator=torch.Generator("gpu"))
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    torch.manual_seed(0)
    assert pretend_device.seeded
    pretend_device.seeded.clear()


def test_functions_without_a_tensor_follow_the_data() -> None:
    model = from_callable(
        lambda x: (x[:, :2], 0 * x[:, :2]), lambda z: z.repeat(1, 2), latent_dim=2,
        spec=pc.VAESpec(2),
    )  # fmt: skip
    expected = pc.diagnose(model, X, importance_samples=4)
    there = torch.from_numpy(X).to("gpu")
    for rows in (there, [there[:30], there[30:]], DataLoader(TensorDataset(there), 20)):
        found = pc.diagnose(model, rows, importance_samples=4)
        assert model.prior(1).mean.device.type == "gpu"
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)
        assert found.nll == pytest.approx(expected.nll, rel=1e-6)
    assert pc.diagnose(model, X).loss == pytest.approx(expected.loss, rel=1e-6)
    assert model.prior(1).mean.device.type == "cpu"


def test_data_follow_tensors_and_modules_that_functions_hold() -> None:
    weight = torch.ones(4, 4).to("gpu")
    nets = {"encoder": (torch.nn.Linear(4, 4).to("gpu"),)}
    for encode in (lambda x: (x @ weight).chunk(2, 1), lambda x: nets["encoder"][0](x).chunk(2, 1)):
        assert pc.diagnose(from_callable(encode, latent_dim=2), X).n == 60


def test_an_audit_of_a_loss_with_tensors_of_a_device() -> None:
    weight = torch.ones(4).to("gpu")

    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1).mean()
        return 0.5 * (weight * (y_hat - y).square()).sum(-1).mean() + kl

    assert audit_loss(loss, features=4, latents=2).value == pytest.approx(1.0)


@pytest.mark.parametrize("network", ["mlp", "linear"])
def test_runs_of_experiments_are_measured_where_they_trained(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []

    def seen(model: Any, *rest: Any, **options: Any) -> Any:
        devices.append(next(model.parameters()).device.type)
        return pc.diagnose(model, *rest, **options)

    monkeypatch.setattr(measuring, "diagnose", seen)
    one = Run(
        RunData("digits", rows=60), pc.HVAESpec((3, 2), sigma_1=0.5), Architecture.named(network),
        Settings(epochs=1, batch_size=25),
        evaluation=Evaluation(rows=40, samples=4, panel=3, also="train", drawn=True),
    )  # fmt: skip
    (there,), (here,) = (Executor(device=device)([one]) for device in ("gpu", "cpu"))
    assert devices == ["gpu", "gpu", "cpu", "cpu"]
    for name in ("loss", "kl", "nll"):
        assert there.measured[name] == pytest.approx(here.measured[name], rel=1e-6)
    for name, values in here.arrays.items():
        np.testing.assert_allclose(there.arrays[name], values, rtol=1e-3, atol=1e-3)
    assert next(there.model.parameters()).device.type == "cpu"  # where it is kept
