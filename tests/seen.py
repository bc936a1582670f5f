"""Forecasts of every kind, and a diagnosis of much: what figures and pages are drawn of."""

import dataclasses

import numpy as np

import posterior_collapse as pc
from posterior_collapse.diagnosis import Diagnosis, diagnose_arrays

DIGITS = pc.load("digits").x
RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 5)) * [3, 2, 1, 0.5, 1e-8]
ON_DIGITS = {
    "vae": pc.VAESpec(16, eta_dec=0.3),
    "learned": pc.VAESpec(16, eta_dec="learned"),
    "shared": pc.VAESpec(16, eta_dec=0.3, sigma="shared"),
    "bernoulli": pc.VAESpec(16, beta=0.5, likelihood="bernoulli"),
    "hvae": pc.HVAESpec((8, 6), (1.0, 2.0), 0.3, sigma_1=0.4),
    "chain": pc.ChainSpec((6, 5, 4), (1.0, 1.5, 2.0), (0.3, 0.4, 0.5), sigmas=(0.5, 0.4, 0.3)),
}
ON_OTHERS = {
    "explained": ((X, 2 * X), pc.CVAESpec(3)),
    "many": (X, pc.VAESpec(40, eta_dec="learned")),
    "unequal": (1e8 * X, pc.VAESpec(4, sigma=(0.9, 0.1, 0.5, 0.3))),
    "counts": (
        RNG.poisson(np.exp(X / 3)),
        pc.VAESpec(4, likelihood="negative-binomial", dispersion=2.0),
    ),
    "one-hot": (np.eye(4)[RNG.integers(0, 4, 200)], pc.VAESpec(3, likelihood="categorical")),
    "flat": (X, pc.HVAESpec((3, 3), (1.0, 1.0), 0.5, sigma_1="learned")),
    "two": ((X > 0) * 1.0, pc.HVAESpec((4, 4), (0.3, 0.5), 0.5, likelihood="bernoulli")),
    "moments": (
        pc.Moments.from_arrays(RNG.negative_binomial(0.5, 0.2, X.shape)),
        pc.VAESpec(3, likelihood="negative-binomial"),
    ),
}


def large() -> Diagnosis:
    """60,000 rows, 64 units, 1,000 epochs."""
    rng = np.random.default_rng(0)
    scale = np.where(np.arange(64) < 40, np.linspace(0.95, 0.3, 64), 0.0)
    found = diagnose_arrays(rng.standard_normal((60_000, 64)) * scale, np.sqrt(1 - scale**2))
    epochs = np.arange(1, 1001)
    history = {"epoch": epochs, "kl_1": epochs, "active_1": epochs % 60, "loss": 1 / epochs}
    history |= {f"kl_1_{unit}": epochs / unit for unit in range(1, 65)}
    return dataclasses.replace(found, _history=history)
