"""Trained VAEs of text: decoders that see the past, and padding that counts nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import posterior_collapse as pc
from posterior_collapse.adapters import from_callable
from posterior_collapse.errors import InvalidArgumentError

V, T, N = 5, 6, 4000
"""Classes, of which 0 is padding, positions and rows."""


def chain() -> tuple[Any, Any]:
    """Rows of unlike lengths of a Markov chain, and its log probabilities, from each class."""
    rng = np.random.default_rng(0)
    moves = np.zeros((V, V))
    moves[:, 1:] = rng.dirichlet(np.full(V - 1, 5.0), size=V)
    tokens = np.zeros((N, T), dtype=np.int64)
    before = np.zeros(N, dtype=np.int64)
    lengths = rng.integers(2, T + 1, N)
    for t in range(T):
        before = (moves.cumsum(1)[before] < rng.random((N, 1))).sum(1)
        tokens[:, t] = np.where(t < lengths, before, 0)
    return torch.from_numpy(tokens), torch.from_numpy(np.log(np.maximum(moves, 1e-6))).float()


TOKENS, LOGITS = chain()
ONE_HOT = one_hot(TOKENS, V)


def dead(x: Any) -> Any:
    return torch.zeros(len(x), 2), torch.zeros(len(x), 2)


def perfect(z: Any, x: Any) -> Any:
    """The chain itself, which never learned to predict padding: its loss left that out."""
    before = nn.functional.pad(x.argmax(-1), (1, -1))
    return LOGITS[before]


def wrapped(decode: Any, beta: float = 1.0, **options: Any) -> Any:
    spec = pc.VAESpec(2, beta, sigma="input", likelihood="categorical")
    given = {"teacher_forcing": True, "shape": (T, V), "padding": 0, "output": "link"} | options
    return from_callable(dead, decode, latent_dim=2, spec=spec, **given)


@pytest.mark.parametrize(
    ("beta", "conclusion"),
    [(0.7, "signal-unclaimed"), (1.0, "undecided"), (1.4, "collapse-optimal")],
)
def test_padding_counts_nothing_and_the_past_leaves_white_scores(
    beta: float, conclusion: str
) -> None:
    found = pc.diagnose(wrapped(perfect, beta), ONE_HOT)
    error = cross_entropy(
        perfect(None, ONE_HOT).flatten(0, 1), TOKENS.flatten(), ignore_index=0, reduction="sum"
    )
    assert found.loss == pytest.approx(float(error) / N, rel=1e-5)
    assert found.signal[0] == pytest.approx(1 / beta, abs=2 * found.signal_error[0])
    assert found.conclusion == conclusion
    assert found.forecast is None
    # Of the chain, whose past tells of the next one all there is, no number of rows would tell.
    marginal = "theory expects that at beta = 1" in found.verdict
    assert marginal == (beta == 1.0)
    assert ("rows would tell" in found.verdict + str(found.advice)) is False
    assert any("no number of rows can tell" in one.action for one in found.advice) == marginal


def test_padding_counts_nothing_in_a_decoder_of_z_alone() -> None:
    counts = ONE_HOT.sum(0).double() * torch.tensor([0.0, 1, 1, 1, 1])
    logits = (counts / counts.sum(-1, keepdim=True)).clamp(min=1e-6).log().float()
    model = wrapped(lambda z: logits.expand(len(z), T, V), teacher_forcing=False)
    found = pc.diagnose(model, ONE_HOT, importance_samples=2)
    each = cross_entropy(
        logits.expand(N, T, V).transpose(1, 2), TOKENS, ignore_index=0, reduction="none"
    )
    assert found.loss == pytest.approx(float(each.sum()) / N, rel=1e-5)
    assert found.nll == pytest.approx(found.loss, rel=1e-5)
    # Scores and Hessians one by one, as the definition has them.
    p = logits.double().softmax(-1)
    seen = (TOKENS > 0).double()
    scores = (seen[..., None] * (ONE_HOT - p)).flatten(1).numpy()
    hessian = np.zeros((T * V, T * V))
    for t in range(T):
        here = slice(t * V, (t + 1) * V)
        one = torch.diag(p[t]) - torch.outer(p[t], p[t])
        hessian[here, here] = float(seen[:, t].mean()) * one.numpy()
    values, vectors = np.linalg.eigh(hessian)
    root = vectors[:, values > 1e-9] / np.sqrt(values[values > 1e-9])
    most = np.linalg.eigvalsh(root.T @ np.cov(scores.T) @ root)[-1]
    assert found.signal[0] == pytest.approx(most, abs=2 * found.signal_error[0])
    assert "no forecast: that is of data without padding" in " ".join(found.notes)


def test_errors_of_a_gaussian_that_sees_the_past_are_worth_their_variance() -> None:
    """At beta 1 t is not 1, but what the past leaves over eta_dec^2."""
    steps = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
    walk = 0.5 * steps.cumsum(1)

    def before(z: Any, x: Any) -> Any:
        return nn.functional.pad(x, (1, -1))

    spec = pc.VAESpec(2, beta=0.5, eta_dec=2.0, sigma="input")
    model = from_callable(dead, before, latent_dim=2, spec=spec, teacher_forcing=True)
    found = pc.diagnose(model, walk)
    assert found.signal[0] == pytest.approx(0.25 / (0.5 * 2.0**2), rel=0.1)
    assert any("their largest variance over eta_dec^2" in note for note in found.notes)
    assert not any("beta = 1" in note for note in found.notes)


def test_what_does_not_go_with_classes_is_refused_with_a_way_out() -> None:
    of_numbers = wrapped(lambda z, x: LOGITS[x], tokens=True, shape=None, padding=None)
    with pytest.raises(InvalidArgumentError, match=r"tokens: got True, .*x\.argmax\(-1\)"):
        pc.diagnose(of_numbers, TOKENS)
    with pytest.raises(InvalidArgumentError, match="teacher_forcing: got True with a CVAESpec"):
        from_callable(
            dead, perfect, latent_dim=2, teacher_forcing=True,
            spec=pc.CVAESpec(2, likelihood="categorical"),
        )  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="padding: got 0 with a CVAESpec"):
        from_callable(
            dead, perfect, latent_dim=2, padding=0,
            spec=pc.CVAESpec(2, likelihood="categorical"),
        )  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="padding: got 0 with likelihood 'gaussian'"):
        from_callable(dead, perfect, latent_dim=2, padding=0)
    with pytest.raises(InvalidArgumentError, match="padding: got 7, with 5 classes"):
        pc.diagnose(wrapped(perfect, padding=7), ONE_HOT)
