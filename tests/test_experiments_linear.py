"""Exact minimisation and measurement of linear models, against theory and plain definitions."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from posterior_collapse.diagnosis import log_likelihood
from posterior_collapse.experiments.execution import record_training
from posterior_collapse.experiments.measuring import distances, exactly, expected
from posterior_collapse.models import (
    MarkovVAE,
    build,
    exact_terms,
    linear_values,
    load_parameters,
    loss,
    read_parameters,
)
from posterior_collapse.moments import Moments
from posterior_collapse.specs import CVAESpec, HVAESpec, Spec, VAESpec
from posterior_collapse.theory import ExactObjective, forecast
from posterior_collapse.training import Settings, exact

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 6)) * [3, 2, 1.5, 1, 0.5, 0.01] + [1, 0, 0, 2, 0, 0]
Y = X[:, :3] @ RNG.standard_normal((3, 5)) + RNG.standard_normal((300, 5)) * [2, 1.5, 1, 0.5, 0.2]
SPECS: dict[str, Spec] = {
    "vae": VAESpec(4, beta=0.7, eta_dec=0.9),
    "vae, fixed": VAESpec(4, sigma=(0.5, 1.0, 2.0, 0.7)),
    "vae, shared": VAESpec(4, sigma="shared"),
    "cvae": CVAESpec(4, beta=0.5, eta_enc=1.3),
    "hvae": HVAESpec((4, 3), (1.0, 1.5), 0.6, sigma_1=0.5),
    "hvae, fixed": HVAESpec((3, 3), (0.8, 1.2), 0.7, sigma_1=0.5, sigma_2=0.6),
    "hvae, both learned": HVAESpec((3, 3), (0.8, 1.2), 0.7, sigma_1="learned"),
}


def raw(spec: Spec) -> Moments:
    return Moments.from_arrays(X, Y if spec.model == "cvae" else None, center=False)


def linear(spec: Spec, generator: torch.Generator | None = None) -> MarkovVAE:
    sizes = {"x_dim": 6, "y_dim": raw(spec).features[1]}
    return build(spec, "linear", bias=False, **sizes, dtype=torch.float64, generator=generator)


def optimum(spec: Spec) -> MarkovVAE:
    """The model at the closed form, without biases."""
    model = linear(spec)
    values = forecast(raw(spec), spec).parameters()
    load_parameters(model, {k: v for k, v in values.items() if k not in ("b1", "c1")})
    return model


def trained(spec: Spec, **settings: object) -> tuple[MarkovVAE, dict[str, list[float]]]:
    model = linear(spec, torch.Generator().manual_seed(3))
    course, _ = exact.train(model, Settings(**settings), raw(spec), alone=True, fresh=False)  # type: ignore[arg-type]
    return model, course.history


@pytest.mark.parametrize("name", SPECS)
def test_the_minimum_is_the_theory_s(name: str) -> None:
    spec = SPECS[name]
    model, history = trained(spec)
    closed = forecast(raw(spec), spec)
    loss = ExactObjective(raw(spec), spec).loss(read_parameters(model))
    assert history["loss"][-1] == pytest.approx(loss, abs=1e-9)
    assert loss == pytest.approx(closed.loss, abs=1e-8)
    measured, _ = exactly(model, spec, raw(spec), closed)
    assert max(measured["distances"].values()) < 1e-4


def test_another_convention_has_its_own_minimum() -> None:
    _, history = trained(SPECS["cvae"], convention="twice")
    closed = forecast(raw(SPECS["cvae"]), SPECS["cvae"])
    assert history["loss"][-1] == pytest.approx(
        2 * (closed.loss - 5 / 2 * np.log(2 * np.pi)), abs=1e-8
    )


def test_the_loss_never_rises_and_the_steps_are_bounded() -> None:
    _, history = trained(SPECS["hvae"])
    assert np.all(np.diff(history["loss"]) <= 1e-12)
    _, short = trained(SPECS["hvae"], steps=5)
    assert short["step"] == [5]


@pytest.mark.parametrize("name", SPECS)
def test_a_model_at_the_optimum_measures_as_the_theory_says(name: str) -> None:
    spec = SPECS[name]
    closed = forecast(raw(spec), spec)
    measured, _ = exactly(optimum(spec), spec, raw(spec), closed)
    told = expected(closed, raw(spec).features[1])
    assert told is not None
    rows = X if spec.model != "cvae" else (X, Y)
    assert told["nll"] == pytest.approx(log_likelihood(optimum(spec), rows).nll, abs=1e-9)
    for key in ("loss", "reconstruction", "kl"):
        assert measured[key] == pytest.approx(told[key], abs=1e-9)
    for found, level, theory in zip(measured["levels"], told["levels"], closed.levels, strict=True):
        assert found["n_active"] == level["n_active"]
        assert found["kl"] == pytest.approx(level["kl"], abs=1e-9)
        information = np.sort(theory.information)[::-1]
        assert found["information"] == pytest.approx(information, abs=1e-7)
    assert max(measured["distances"].values()) < 1e-7


def test_information_of_modes_does_not_feel_a_rotation_of_the_latent() -> None:
    spec = VAESpec(3, sigma=0.7)
    model = optimum(spec)
    straight = exactly(model, spec, raw(spec), None)[0]["levels"][0]
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))
    found = read_parameters(model)
    load_parameters(model, {**found, "W1": rotation @ found["W1"], "U1": found["U1"] @ rotation.T})
    rotated = exactly(model, spec, raw(spec), None)[0]["levels"][0]
    assert rotated["information"] == pytest.approx(straight["information"], abs=1e-12)
    # Of one direction it is that of two correlated Gaussians.
    W = found["W1"] @ raw(spec).xx @ found["W1"].T
    one = 0.5 * np.log1p(np.linalg.eigvalsh(W)[::-1] / 0.7**2)
    assert straight["information"] == pytest.approx(one, abs=1e-10)


def test_recorded_training_is_plain_adam_on_the_exact_objective() -> None:
    spec = HVAESpec((2, 2), sigma_1=0.5)
    moments, closed = raw(spec), forecast(raw(spec), spec)
    start = linear(spec)
    objective = ExactObjective(moments, spec)
    first = objective.loss(read_parameters(start))
    history = record_training(
        start, Settings(optimiser="adam", learning_rate=0.05, steps=1000), moments, closed
    )
    assert history["loss"][0] == pytest.approx(first, rel=1e-12)
    assert history["step"][:3] == [1, 2, 3]
    assert history["step"][-1] == 1000
    assert history["U1"][-1] < 1e-3 < history["U1"][0]
    assert distances(start, objective, closed)["V2"] == history["V2"][-1]
    assert set(history) == {"step", "loss", "V1", "U1", "sigma_1", "V2", "U2", "sigma_2"}


def test_a_decayed_rate_falls_along_half_a_cosine() -> None:
    spec, steps = SPECS["hvae"], 50
    moments, closed = raw(spec), forecast(raw(spec), spec)
    settings = Settings(optimiser="adam", learning_rate=0.05, steps=steps)
    decayed, plain = linear(spec), linear(spec)
    record_training(decayed, settings, moments, closed, decays=True)
    optimiser = torch.optim.Adam(plain.parameters(), lr=0.05)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * step / steps)) / 2
        optimiser.zero_grad()
        terms = exact_terms(linear_values(plain), torch.from_numpy(X))
        loss(terms, spec.beta_levels).backward()
        optimiser.step()
    for one, other in zip(decayed.parameters(), plain.parameters(), strict=True):
        assert one.detach().numpy() == pytest.approx(other.detach().numpy(), abs=1e-9)


ELSEWHERE = """
import json, torch
from posterior_collapse.experiments import Executor, Plan, chosen

(run,) = (m.run for m in chosen("E8")[0].members(Plan()) if m.grid == "second matrix")
(outcome,) = Executor()([run])
print(torch.backends.cpu.get_cpu_capability(), json.dumps(outcome.measured["exact"]["distances"]))
"""


def test_a_decayed_rate_ends_at_the_theorem_on_another_processor_too() -> None:
    ends = []
    for processor in ({}, {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Prescott"}):
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            env=os.environ | processor, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        name, distances = done.stdout.split(" ", 1)
        ends.append(json.loads(distances))
        assert not processor or name == "DEFAULT"
        assert max(ends[-1].values()) <= 1e-4
    for quantity, native in ends[0].items():
        assert ends[1][quantity] == pytest.approx(native, abs=1e-4)
