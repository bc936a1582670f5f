"""The beta-ELBO of linear models straight from its definition, sample by sample.

Shares nothing with the package: Gaussian means and covariances are propagated for every sample of
the raw data, biases included, and the expectations of quadratic forms are summed up.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from posterior_collapse.specs import ChainSpec, CVAESpec, HVAESpec, Spec, VAESpec

INSTANCES = {
    entry["id"]: entry for entry in json.loads((Path(__file__).parent / "oracle.json").read_text())
}


def instance_spec(instance: dict) -> Spec:
    """The spec of an oracle instance."""
    case, h = instance["case"], instance["hyper"]

    def sigma(value):
        return "learned" if value is None else tuple(value)

    if case == "chain":
        sigmas = h["sigmas"]
        return ChainSpec(
            h["dims"],
            h["betas"],
            h["etas"],
            h["eta_enc"],
            "learned" if sigmas is None else ["learned" if s is None else s for s in sigmas],
        )
    if case.startswith("mh"):
        return HVAESpec(
            (h["d1"], h["d2"]),
            (h["beta1"], h["beta2"]),
            h["eta_dec"],
            h["eta_enc"],
            sigma(h["sigma1"]),
            sigma(h["sigma2"]),
        )
    if case == "vae_learned_eta":
        return VAESpec(h["d1"], h["beta"], "learned", h["eta_enc"])
    cls = CVAESpec if case.startswith("cvae") else VAESpec
    return cls(h["d1"], h["beta"], h["eta_dec"], h["eta_enc"], sigma(h["sigma"]))


def instance_data(instance: dict) -> tuple[np.ndarray, np.ndarray | None]:
    """Inputs and targets (None: the inputs) of an oracle instance."""
    y = instance["Y"]
    return np.array(instance["X"]), None if y is None else np.array(y)


def elbo_loss(x: np.ndarray, y: np.ndarray | None, spec: Spec, p: dict) -> float:
    """Negative beta-ELBO per sample in nats at parameters `p`, averaged over the samples."""
    eta = float(p["eta_dec"])
    etas = [eta if e == "learned" else e for e in spec.eta_levels]
    etas[0] = eta
    priors = [*etas[1:], spec.eta_enc]
    target = x if y is None else y
    depth = len(spec.dims)
    stds = [p[f"sigma_{k + 1}"] for k in range(depth)]
    if spec.model == "cvae":
        mean = x @ p["W1"].T + y @ p["W2"].T + p["b1"]
        offset = x @ p["U2"].T + p["c1"]
    else:
        mean, offset = x @ p["W1"].T + p["b1"], p["c1"]
    cov = np.diag(stds[0] ** 2)
    error = target - mean @ p["U1"].T - offset
    square = (error**2).sum(1).mean() + np.trace(p["U1"] @ cov @ p["U1"].T)
    loss = square / (2 * eta**2) + target.shape[1] / 2 * np.log(2 * np.pi * eta**2)
    for k in range(depth):
        if k + 1 < depth:
            w, u = p[f"W{k + 2}"], p[f"U{k + 2}"]
            above = w @ cov @ w.T + np.diag(stds[k + 1] ** 2)
            # residual z_k - u z_{k+1} given the sample: mean and covariance
            left = np.eye(len(cov)) - u @ w
            spread = ((mean @ left.T) ** 2).sum(1).mean()
            spread += np.trace(left @ cov @ left.T + u @ np.diag(stds[k + 1] ** 2) @ u.T)
        else:
            spread = (mean**2).sum(1).mean() + np.trace(cov)
        d = spec.dims[k]
        minus_entropy = -np.log(stds[k]).sum() - d / 2 * (1 + np.log(2 * np.pi))
        cross = spread / (2 * priors[k] ** 2) + d / 2 * np.log(2 * np.pi * priors[k] ** 2)
        loss += spec.beta_levels[k] * (minus_entropy + cross)
        if k + 1 < depth:
            mean, cov = mean @ w.T, above
    return float(loss)


def varied(spec: Spec, p: dict) -> list[str]:
    """Names of the parameters that the model would train."""
    names = [k for k in p if k[0] in "WU" or k in ("b1", "c1")]
    names += [
        f"sigma_{k + 1}" for k, s in enumerate(spec.sigma_levels) if s in ("learned", "shared")
    ]
    return names + ["eta_dec"] * (spec.eta_levels[0] == "learned")
