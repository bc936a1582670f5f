"""Explicit weights, biases and standard deviations that attain the optimum."""

from __future__ import annotations

import numpy as np

from posterior_collapse.arrays import Float
from posterior_collapse.errors import NotSolvedError
from posterior_collapse.theory.solve import Solution
from posterior_collapse.theory.state import fit
from posterior_collapse.theory.whitening import Whitening

LARGEST = 30.0
"""An output, e.g. a logit, that is as good as the infinite one of features that never vary."""


def build(solution: Solution) -> dict[str, Float]:
    """Return the matrices by name; `Forecast.parameters` documents them."""
    problem, modes, state = solution.problem, solution.problem.modes, solution.state
    orders, dims = problem.orders, problem.spec.dims
    encoder, decoder = state.encoder, state.decoder
    vectors = modes.vectors
    live = min(dims[0], len(vectors.read))
    unit = orders[0][:live]
    read, write = (
        np.zeros((dims[0], vectors.read.shape[1])),
        np.zeros((vectors.write.shape[1], dims[0])),
    )
    read[unit] = encoder[0][:live, None] * vectors.read[:live]
    write[:, unit] = decoder[0][:live] * vectors.write[:live].T
    found: dict[str, Float] = {"W1": read, "U1": write}
    if vectors.regression is not None:
        k = vectors.regression
        found = {"W1": -read @ k, "W2": read, "U1": write, "U2": k}
    for level in range(1, problem.depth):
        below = fit(state.second[level - 1], dims[level])
        weight = np.divide(
            encoder[level], np.sqrt(below), out=np.zeros(dims[level]), where=below > 0
        )
        up, down = (
            np.zeros((dims[level], dims[level - 1])),
            np.zeros((dims[level - 1], dims[level])),
        )
        both = min(dims[level], dims[level - 1])
        here, there = orders[level][:both], orders[level - 1][:both]
        up[here, there], down[there, here] = weight[:both], decoder[level][:both]
        found |= {f"W{level + 1}": up, f"U{level + 1}": down}
    for level, (noise, order) in enumerate(zip(state.noise, orders, strict=True)):
        std = np.empty(dims[level])
        std[order] = np.sqrt(noise)
        found[f"sigma_{level + 1}"] = std
    center = modes.moments.center
    mean_in, mean_out = vectors.mean_in * center, vectors.mean_out * center
    if vectors.regression is not None:
        found["b1"] = -found["W1"] @ mean_in - found["W2"] @ mean_out
        found["c1"] = mean_out - found["U2"] @ mean_in
    else:
        found["b1"], found["c1"] = -found["W1"] @ mean_in, mean_out
    if modes.noise is not None:
        return _unwhitened(found, modes.noise)
    found["eta_dec"] = np.asarray(solution.numbers.etas[0])
    return found


def _unwhitened(found: dict[str, Float], noise: Whitening) -> dict[str, Float]:
    """Let matrices of whitened scores read the data and give the decoder's output."""
    if noise.divisor is None or noise.output is None:
        raise NotSolvedError(
            "parameters",
            "a conditional model of a likelihood that is not Gaussian",
            "one whose best encoder is linear",
            "Train it with pc.fit.",
        )
    return found | {
        "W1": found["W1"] / noise.divisor,
        "U1": found["U1"] / noise.divisor[:, None],
        "c1": np.clip(noise.output, -LARGEST, LARGEST),
    }
