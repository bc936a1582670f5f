"""Losses of text: padding that counts nothing, means over tokens, decoders that see the past."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

from posterior_collapse.adapters import audit_loss
from posterior_collapse.errors import InvalidArgumentError, PosteriorCollapseError

V, T, K, N = 7, 6, 4, 160
"""Classes, of which 0 is padding, positions, latents and rows."""
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(2, T + 1, N)
TOPICS = np.array([[0.5, 0.3, 0.1, 0.05, 0.03, 0.02], [0.02, 0.03, 0.05, 0.1, 0.3, 0.5]])
TOKENS = np.array(
    [
        [*(1 + RNG.choice(6, size=n, p=TOPICS[topic])), *[0] * (T - n)]
        for n, topic in zip(LENGTHS, RNG.integers(0, 2, N), strict=True)
    ]
)
MEAN = LENGTHS.mean()


def kl(mean: Any, log_var: Any) -> Any:
    return -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1)


def summed(o: Any, y: Any, m: Any, s: Any) -> Any:
    error = cross_entropy(o.transpose(1, 2), y, ignore_index=0, reduction="sum")
    return (error + kl(m, s).sum()) / len(o)


def masked(o: Any, y: Any, m: Any, s: Any) -> Any:
    error = cross_entropy(o.transpose(1, 2), y, reduction="none") * (y != 0)
    return error.sum(1).mean() + kl(m, s).mean()


def both_per_token(o: Any, y: Any, m: Any, s: Any) -> Any:
    return summed(o, y, m, s) * len(o) / (y != 0).sum()


def per_token(o: Any, y: Any, m: Any, s: Any) -> Any:
    return cross_entropy(o.flatten(0, 1), y.flatten(), ignore_index=0) + kl(m, s).mean()


def per_position(o: Any, y: Any, m: Any, s: Any) -> Any:
    error = cross_entropy(o.transpose(1, 2), y, reduction="none") * (y != 0)
    return error.mean() + kl(m, s).mean()


def log_probabilities(o: Any, y: Any, m: Any, s: Any) -> Any:
    """As in widespread code: the decoder ends in a log_softmax, whose outputs these are."""
    error = nll_loss(o.view(-1, V), y.view(-1), ignore_index=0, reduction="sum")
    return (error + kl(m, s).sum()) / len(o)


def gathered(o: Any, y: Any, m: Any, s: Any) -> Any:
    each = -log_softmax(o, -1).gather(2, y[..., None])[..., 0] * (y > 0)
    return each.sum(1).mean() + kl(m, s).mean()


def unpadded_mean(o: Any, y: Any, m: Any, s: Any) -> Any:
    """Of what torch leaves out by default, -100."""
    return cross_entropy(o.transpose(1, 2), y) + kl(m, s).mean()


def worth(weights: Any = 1.0) -> Any:
    """Eigenvalues of F^{-1/2} S F^{-1/2}, of scores and Hessians written down one by one."""
    scores, hessian = np.zeros((N, T * V)), np.zeros((T * V, T * V))
    weights = np.broadcast_to(weights, N)
    for t in range(T):
        seen = weights * (TOKENS[:, t] > 0)
        p = np.array([(seen * (TOKENS[:, t] == k)).sum() for k in range(V)]) / seen.sum()
        here = slice(t * V, (t + 1) * V)
        scores[:, here] = seen[:, None] * (np.eye(V)[TOKENS[:, t]] - p)
        hessian[here, here] = seen.mean() * (np.diag(p) - np.outer(p, p))
    values, vectors = np.linalg.eigh(hessian)
    root = vectors[:, values > 1e-10] / np.sqrt(values[values > 1e-10])
    return np.linalg.eigvalsh(root.T @ np.cov(scores.T, bias=True) @ root)[::-1]


CASES = (
    (summed, 1.0),
    (masked, 1.0),
    (both_per_token, 1.0),
    (per_token, MEAN),
    (per_position, float(T)),
    (log_probabilities, 1.0),
    (gathered, 1.0),
)


@pytest.mark.parametrize(("loss", "beta"), CASES)
def test_padding_counts_nothing(loss: Any, beta: float) -> None:
    found = audit_loss(loss, features=(T, V), latents=K, data=TOKENS)
    ratios = worth()
    assert (found.likelihood, found.reconstruction.ignored) == ("categorical", (0,))
    assert found.beta == pytest.approx(beta, rel=1e-9)
    assert found.forecast.onset == pytest.approx(ratios[0], rel=1e-6)
    assert found.forecast.n_active == min(K, int(np.count_nonzero(ratios > beta)))
    assert "ignored-class" in [finding.code for finding in found.findings]
    one_hot = audit_loss(loss, features=(T, V), latents=K, data=np.eye(V)[TOKENS])
    assert one_hot.beta == found.beta
    assert one_hot.forecast.onset == found.forecast.onset


def test_the_loss_without_latents_is_that_of_what_counts() -> None:
    found = audit_loss(summed, features=(T, V), latents=1, data=TOKENS, beta=1.0)
    collapsed = audit_loss(
        lambda o, y, m, s: summed(o, y, m, s) + 99 * kl(m, s).mean(),
        features=(T, V), latents=1, data=TOKENS,
    ).forecast.loss  # fmt: skip
    entropy = 0.0
    for t in range(T):
        counts = np.bincount(TOKENS[:, t], minlength=V)[1:]
        entropy -= (counts * np.log(counts / counts.sum())).sum() / N
    assert collapsed == pytest.approx(entropy)
    assert found.forecast.loss < collapsed
    assert found.matches


def test_a_mean_over_tokens_is_told_with_data_and_without() -> None:
    without = audit_loss(per_token, features=(T, V), latents=K)
    assert without.beta == pytest.approx(T)
    assert "mean over 6 positions" in without.text
    found = audit_loss(per_token, features=(T, V), latents=K, data=TOKENS)
    assert found.averaged == pytest.approx(MEAN)
    assert f"mean over {MEAN:.2f}" in found.text
    assert "of 6 positions" in found.text
    factor = float(found.advice(K).split("multiply it by ")[1].split(")")[0])
    assert factor == pytest.approx(worth()[K - 1] / found.beta, rel=0.01)


def test_a_mean_within_each_row_has_its_own_onset() -> None:
    def loss(o: Any, y: Any, m: Any, s: Any) -> Any:
        error = cross_entropy(o.transpose(1, 2), y, ignore_index=0, reduction="none").sum(1)
        return (error / (y != 0).sum(1)).mean() + kl(m, s).mean()

    found = audit_loss(loss, features=(T, V), latents=K, data=TOKENS)
    assert found.likelihood == "other"
    assert found.forecast.onset == pytest.approx(worth(1 / LENGTHS)[0], rel=1e-6)
    assert "weighs rows by how many of their positions count" in found.text


def test_a_shift_within_the_loss_weighs_the_kl_as_on_the_data() -> None:
    """Its KL is over the number of tokens, as its error is: what it bears is that of sums."""

    def shifted(o: Any, y: Any, m: Any, s: Any) -> Any:
        error = cross_entropy(o[:, :-1].transpose(1, 2), y[:, 1:], ignore_index=0, reduction="sum")
        return error + kl(m, s).sum()

    found = [
        audit_loss(loss, features=(T, V), latents=K, data=TOKENS[:48])
        for loss in (
            lambda *roles: shifted(*roles) / len(roles[0]),
            lambda *roles: shifted(*roles) / (roles[1][:, 1:] != 0).sum(),
        )
    ]
    bears = [one.forecast.onset / one.beta for one in found]
    assert bears[1] == pytest.approx(bears[0], rel=1e-6)


def test_classes_below_zero_count_nothing_if_the_loss_says_so() -> None:
    found = audit_loss(
        unpadded_mean, features=(T, V), latents=K, data=np.where(TOKENS > 0, TOKENS, -100)
    )
    assert found.beta == pytest.approx(MEAN)
    assert found.forecast.onset == pytest.approx(worth()[0])


@pytest.mark.parametrize("padding", [1, 299])
def test_padding_is_found_in_a_vocabulary(padding: int) -> None:
    def loss(o: Any, y: Any, m: Any, s: Any) -> Any:
        return cross_entropy(o.transpose(1, 2), y, ignore_index=padding) + kl(m, s).mean()

    found = audit_loss(loss, features=(5, 300), latents=2)
    assert found.reconstruction.ignored == (padding,)
    assert found.beta == pytest.approx(5)


def test_a_perfect_decoder_that_sees_the_past_gains_nothing_from_beta_one_on() -> None:
    """Of two tokens, the second mostly a copy; the unit tells whether it is. By enumeration."""
    pairs = {(0, 0): 0.45, (0, 1): 0.05, (1, 0): 0.05, (1, 1): 0.45}

    def loss(beta: float, signal: float) -> float:
        def encoder(z: int, a: int, b: int) -> float:  # on average the prior, a half each
            return 0.5 + (2 * z - 1) * signal * ((a != b) - 0.1)

        joint = {(z, *ab): p * encoder(z, *ab) for z in (0, 1) for ab, p in pairs.items()}
        total = 0.0
        for (z, a, b), p in joint.items():
            # p(a|z) p(b|a, z), as the encoder makes them.
            of_a = sum(q for (c, d, _), q in joint.items() if (c, d) == (z, a))
            of_z = sum(q for (c, *_), q in joint.items() if c == z)
            decoded = of_a / of_z * p / of_a
            total += p * (beta * np.log(encoder(z, a, b) / 0.5) - np.log(decoded))
        return total

    for beta, pays in ((0.9, True), (1.0, False), (1.1, False)):
        gains = [loss(beta, 0.0) - loss(beta, signal) for signal in (0.01, 0.1, 0.5)]
        assert (max(gains) > 1e-6) == pays
    said = audit_loss(summed, features=(T, V), latents=K).text
    assert "gains nothing by z from beta = 1 on" in said


def test_what_few_rows_of_many_classes_show_is_called_noise() -> None:
    noise = np.random.default_rng(1).integers(1, 60, (100, T))
    found = audit_loss(summed, features=(T, 60), latents=2, data=noise)
    assert found.forecast.n_active == 2  # of tokens that know nothing of each other
    assert "of which 0 are stronger than noise's" in found.text
    assert "few-rows" not in [f.code for f in audit_loss(
        summed, features=(T, V), latents=2, data=np.tile(TOKENS, (4, 1))
    ).findings]  # fmt: skip


def test_of_one_position_pixels_or_free_bits_the_past_is_not_spoken_of() -> None:
    def one(o: Any, y: Any, m: Any, s: Any) -> Any:
        return cross_entropy(o, y) + kl(m, s).mean()

    def free(o: Any, y: Any, m: Any, s: Any) -> Any:
        error = cross_entropy(o.transpose(1, 2), y, ignore_index=0, reduction="sum") / len(o)
        return error + kl(m, s).mean().clamp(min=torch.tensor(2.0))

    def pixels(o: Any, y: Any, m: Any, s: Any) -> Any:
        return cross_entropy(o, y, reduction="sum") / len(o) + kl(m, s).mean()

    for loss, shape in ((one, V), (pixels, (V, 4, 3)), (free, (T, V))):
        codes = [f.code for f in audit_loss(loss, features=shape, latents=K).findings]
        assert "autoregressive" not in codes


def annealed(o: Any, y: Any, m: Any, s: Any, step: int = 0, beta: float = 1.0) -> Any:
    weight = beta / (1 + np.exp(-0.0025 * (step - 2500)))
    return summed(o, y, m, s) + (weight - 1) * kl(m, s).mean()


def test_a_schedule_by_a_step_is_told() -> None:
    found = audit_loss(annealed, features=(T, V), latents=K)
    assert found.beta == pytest.approx(1 / (1 + np.exp(6.25)))
    assert found.findings[0].code == "schedule"
    assert "depends on step, which is 0 here" in found.text

    def late(*roles: Any) -> Any:
        return annealed(*roles, step=100_000)

    told = audit_loss(late, features=(T, V), latents=K)
    assert told.beta == pytest.approx(1)
    assert "schedule" not in [finding.code for finding in told.findings]

    def asked(o: Any, y: Any, m: Any, s: Any, step: int) -> Any:
        return annealed(o, y, m, s, step)

    with pytest.raises(InvalidArgumentError, match=r"loss\(y_hat, y, mean, log_var, step="):
        audit_loss(asked, features=(T, V), latents=K)


def test_free_bits_by_a_mask_are_read_in_single_precision() -> None:
    def loss(o: Any, y: Any, m: Any, s: Any) -> Any:
        m, s = m.float(), s.float()
        nats = -0.5 * (1 + s - m**2 - s.exp())
        return summed(o, y, 0 * m, 0 * s) + (nats * (nats > 0.3)).sum() / len(o)

    found = audit_loss(loss, features=(T, V), latents=K).kl
    assert (found.kind, found.floor_over) == ("free bits", "unit")
    assert found.floor == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize("left_out", [-100, 255])
@pytest.mark.parametrize("shape", [(3,), (3, 4)])  # which probabilities may have too
def test_numbers_of_no_class_that_the_loss_leaves_out(
    left_out: int, shape: tuple[int, ...]
) -> None:
    y = np.random.default_rng(3).integers(0, 3, (200, *shape[1:]))
    y[:20] = left_out

    def loss(o: Any, y: Any, m: Any, s: Any) -> Any:
        error = cross_entropy(o, y, ignore_index=left_out, reduction="sum") / len(o)
        return error + kl(m, s).mean()

    found = audit_loss(loss, features=shape, latents=2, data=y.reshape(200, -1))
    assert found.likelihood == "categorical"
    assert found.beta == pytest.approx(1)
    mean = audit_loss(
        lambda o, y, m, s: cross_entropy(o, y, ignore_index=left_out) + kl(m, s).mean(),
        features=shape, latents=2, data=y.reshape(200, -1),
    )  # fmt: skip
    assert mean.beta == pytest.approx(0.9 * y[0].size, rel=0.02)  # 180 of 200 count


def test_class_numbers_that_a_loss_does_not_take_are_refused() -> None:
    wrong = TOKENS.copy()
    wrong[0, 0] = -1
    with pytest.raises(PosteriorCollapseError, match="got -1"):
        audit_loss(summed, features=(T, V), latents=K, data=wrong)


def test_batches_of_padding_alone_change_nothing() -> None:
    padded = np.concatenate([TOKENS, np.zeros((16, T), int)])

    def per_batch(o: Any, y: Any, m: Any, s: Any) -> Any:
        return summed(o, y, m, s) * len(o) / (y != 0).sum().clamp(min=1)

    assert audit_loss(per_batch, features=(T, V), latents=K, data=padded).beta == pytest.approx(1)
    with pytest.raises(InvalidArgumentError, match="count nothing"):
        audit_loss(per_batch, features=(T, V), latents=K, data=0 * padded)


@pytest.mark.parametrize("size", [8, 64, 100])
def test_sorted_rows_and_batches_that_do_not_divide_them(size: int) -> None:
    rows = TOKENS[np.argsort(LENGTHS)]
    found = audit_loss(per_token, features=(T, V), latents=K, batch_size=size, data=rows)
    assert found.beta == pytest.approx(MEAN, rel=0.02)


def test_a_weight_is_no_step() -> None:
    def weighted(o: Any, y: Any, m: Any, s: Any, gamma: int = 0) -> Any:
        return summed(o, y, m, s) + gamma * kl(m, s).mean()

    found = audit_loss(weighted, features=(T, V), latents=K)
    assert "schedule" not in {finding.code for finding in found.findings}


@pytest.mark.parametrize("period", [10, 1000])
def test_a_cycle_of_the_weight_is_not_taken_for_none(period: int) -> None:
    """The step that the end of training was tried at began a cycle, at weight 0."""

    def cycled(o: Any, y: Any, m: Any, s: Any, step: int = 0) -> Any:
        weight = min(1.0, 2 * (step % period) / period)
        return summed(o, y, m, s) + (weight - 1) * kl(m, s).mean()

    found = audit_loss(cycled, features=(T, V), latents=K)
    schedule = next(finding for finding in found.findings if finding.code == "schedule")
    assert "at 0 it is 0, later 1." in schedule.text
    assert "step=99_999)" in schedule.action
    late = audit_loss(lambda *roles: cycled(*roles, step=99_999), features=(T, V), latents=K)
    assert late.beta == pytest.approx(1)
