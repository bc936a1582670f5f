"""Defaults of torch change nothing: what is made here says where, and how precise it is.

On `meta` tensors have no numbers, so that a single one made there would show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import posterior_collapse as pc
from posterior_collapse.adapters import audit_loss, from_callable
from posterior_collapse.models import build, capacity, cyclical, warm_up

X = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
Y = X[:, :2] + 1
NETWORK = {"hidden": (5,), "dropout": 0.1, "input_dropout": 0.1}


def trained(spec: pc.Spec, architecture: str, data: Any = X, **options: Any) -> list[Any]:
    first = data[0][:20] if isinstance(data, tuple) else data[:20]
    validation = (first, data[1][:20]) if isinstance(data, tuple) else first
    if not options.get("exact"):
        options |= {"epochs": 2, "batch_size": 25, "patience": 2, "validation": validation}
    fitted = pc.fit(spec, data, architecture, **options)
    found = pc.diagnose(fitted.model, data, importance_samples=4)
    state = {name: value.tolist() for name, value in fitted.model.state_dict().items()}
    return [state, fitted.measured(), found.loss, found.nll]


def wrapped() -> list[Any]:
    def encode(x: Tensor) -> Any:
        # What other libraries return.
        return x[:, :2].numpy(), np.zeros((len(x), 2), np.float32)

    def decode(z: Tensor) -> Any:
        return z.repeat(1, 2).numpy()

    model = from_callable(encode, decode, latent_dim=2, spec=pc.VAESpec(2))
    found = pc.diagnose(model, X, importance_samples=4)
    batches = pc.diagnose(model, [X[:30], X[30:]])
    return [found.loss, found.nll, batches.loss]


def audited() -> list[Any]:
    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1).mean()
        return 0.5 * (y_hat - y).square().sum(-1).mean() + kl

    return [audit_loss(loss, features=4, latents=2).to_dict()]


def onsets() -> list[Any]:
    mixed = torch.eye(4, dtype=torch.float64, device="cpu") + 0.1

    def coupled(y_hat: Tensor, y: Tensor) -> Tensor:
        return ((y_hat - y) @ mixed).square().sum(-1)

    found = [pc.onset(loss, X) for loss in (torch.nn.functional.huber_loss, coupled)]
    return [one.to_dict() for one in found]


def schedules() -> list[Any]:
    steps = torch.arange(5, device="cpu")
    found = [warm_up(steps, 4), cyclical(steps, 4, cycles=2), capacity(steps, 4, 2.0)]
    return [value.tolist() for value in found]


def convolutions() -> list[Any]:
    model = build(pc.VAESpec(2), "cnn", image_shape=(1, 28, 28), x_dim=784)
    return [value.sum().item() for value in model.state_dict().values()]


CASES: dict[str, Callable[[], list[Any]]] = {
    "linear": lambda: trained(pc.VAESpec(2), "linear"),
    "shared sigma": lambda: trained(pc.VAESpec(2, sigma="shared", eta_dec="learned"), "mlp"),
    "network": lambda: trained(pc.VAESpec(2, sigma="input"), "mlp", **NETWORK),
    "hierarchy": lambda: trained(pc.HVAESpec((3, 2), sigma_1=0.5), "linear"),
    "network hierarchy": lambda: trained(pc.HVAESpec((3, 2), sigma_1=0.5), "mlp", **NETWORK),
    "conditional": lambda: trained(pc.CVAESpec(2), "mlp", (X, Y), **NETWORK),
    "clipped": lambda: trained(pc.VAESpec(2), "linear", clip=1.0, warm_up=1, capacity=1.0),
    "exact": lambda: trained(pc.VAESpec(2), "linear", exact=True),
    "exact by Adam": lambda: trained(
        pc.VAESpec(2), "linear", exact=True, optimiser="adam", steps=5, clip=1.0
    ),
    "exact hierarchy": lambda: trained(pc.HVAESpec((2, 2), sigma_1=0.5), "linear", exact=True),
    "from the forecast": lambda: trained(pc.VAESpec(2), "linear", from_forecast=True),
    "functions": wrapped,
    "a loss": audited,
    "an onset": onsets,
    "schedules": schedules,
    "convolutions": convolutions,
}


@pytest.mark.parametrize("case", ["network", "network hierarchy", "conditional", "clipped"])
def test_a_default_dtype_changes_nothing(case: str) -> None:
    expected = CASES[case]()
    torch.set_default_dtype(torch.float64)
    try:
        found = CASES[case]()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected


@pytest.mark.parametrize("case", CASES)
def test_a_default_device_changes_nothing(case: str) -> None:
    expected = CASES[case]()
    with torch.device("meta"):
        found = CASES[case]()
    assert found == expected
