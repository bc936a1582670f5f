"""Priors that are not N(0, 1), decoders that see the data, samplers and posteriors gone wrong."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Cauchy,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
)

import posterior_collapse as pc
from posterior_collapse.adapters import from_callable
from posterior_collapse.diagnosis import diagnose_arrays
from posterior_collapse.errors import InvalidArgumentError, NotSolvedError

X = torch.tensor(pc.load("digits").x, dtype=torch.float32)
ROWS = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))


def predicted(x):
    """A prior p(z|x) that knows the first unit's mean already, and part of the second's."""
    mean = torch.zeros(len(x), 6)
    mean[:, 0] = 3 * x[:, 0]
    mean[:, 1] = 2 * x[:, 1]
    return mean, torch.full_like(mean, 0.5)


def encode(x, y=None):
    """The first unit is the prior itself; the second to fifth tell more."""
    mean, std = predicted(x)
    mean = mean.clone()
    mean[:, 1:5] += 0.5 * x[:, 1:5]
    return mean, std.clone().log() * 2


def test_a_prior_of_the_condition_is_what_kl_is_to() -> None:
    """Of N(0, 1) it was 5.8 nats and 6 of 6 active, for a true 2 and 4 of 6."""
    model = from_callable(encode, latent_dim=6, prior=predicted)
    found = pc.diagnose(model, ROWS)
    mean, log_var = encode(ROWS)
    prior_mean, prior_std = predicted(ROWS)
    q, p = Normal(mean, (log_var / 2).exp()), Normal(prior_mean, prior_std)
    truth = torch.distributions.kl_divergence(q, p).sum(1).mean().item()
    assert found.kl == pytest.approx(truth, rel=1e-5)
    assert found.levels[0].status == ("collapsed", *["active"] * 4, "collapsed")
    arrays = diagnose_arrays(mean, q.stddev, prior_mean=prior_mean, prior_std=prior_std)
    assert found.levels[0].information == pytest.approx(arrays.levels[0].information, rel=1e-5)
    assert any("the prior differs from row to row" in note for note in found.notes)
    naive = pc.diagnose(from_callable(encode, latent_dim=6), ROWS)
    assert naive.kl > 2 * found.kl
    assert naive.n_active == 5
    as_normal = from_callable(encode, latent_dim=6, prior=lambda x: Normal(*predicted(x)))
    assert pc.diagnose(as_normal, ROWS).kl == found.kl


def test_a_conditional_model_with_a_learned_prior() -> None:
    spec = pc.CVAESpec(6, eta_dec=0.5, sigma="input")
    net = nn.Linear(6, 6)
    with torch.no_grad():
        net.weight.copy_(torch.eye(6))
        net.bias.zero_()

    def prior(x):
        return net(predicted(x)[0]), predicted(x)[1]

    model = from_callable(encode, lambda z, x: z + x, latent_dim=6, spec=spec, prior=prior)
    assert net in list(model.wrapped)
    found = pc.diagnose(model, (ROWS, ROWS))
    assert found.n_active == 4
    assert found.loss == pytest.approx(found.reconstruction + found.kl)


def test_pictures_are_decoded_where_latents_with_a_prior_of_their_own_lie() -> None:
    """Around 5; in units of the prior, which is what is found of a unit, they lie around 0."""

    def around(x):
        return 5 + 0.2 * x[:, :2], torch.full((len(x), 2), -6.0)

    def prior(x):
        return torch.full((len(x), 2), 5.0), torch.full((len(x), 2), 0.1)

    decode = nn.Linear(2, 6, bias=False)
    with torch.no_grad():
        decode.weight.copy_(torch.eye(6, 2))
    found = pc.diagnose(from_callable(around, decode, latent_dim=2, prior=prior), ROWS)
    for one in found._shown.traversals[0]:
        seen = one.outputs[:, one.unit]
        mean = around(ROWS)[0][:, one.unit]
        assert seen[3] == pytest.approx(mean.mean().item(), abs=1e-3)
        std = math.sqrt(mean.var().item() + math.exp(-6))
        assert seen[-1] - seen[0] == pytest.approx(4 * std, rel=1e-3)


def test_a_fixed_normal_and_other_families() -> None:
    prior = Normal(torch.full((6,), 0.3), torch.full((6,), 0.7))
    found = pc.diagnose(from_callable(encode, latent_dim=6, prior=prior), ROWS)
    mean, log_var = encode(ROWS)
    q = Normal(mean, (log_var / 2).exp())
    truth = torch.distributions.kl_divergence(q, prior).sum(1).mean().item()
    assert found.kl == pytest.approx(truth, rel=1e-5)
    assert found.levels[0].prior_std == pytest.approx(0.7)
    laplace = Laplace(torch.zeros(6), torch.ones(6))
    found = pc.diagnose(from_callable(encode, latent_dim=6, prior=laplace), ROWS)
    z = q.sample((200,))
    truth = (q.log_prob(z) - laplace.log_prob(z)).mean((0, 1))
    assert found.levels[0].kl == pytest.approx(truth.numpy(), abs=0.01)
    assert any("found by sampling" in note for note in found.notes)


def test_a_prior_of_a_batch_of_one_is_one_for_all_rows() -> None:
    """It was taken for each row's own, and stds were told in its units without a word."""
    flat, batch = (
        pc.diagnose(from_callable(encode, latent_dim=6, prior=Normal(zeros, zeros + 0.7)), ROWS)
        for zeros in (torch.zeros(6), torch.zeros(1, 6))
    )
    (level,) = batch.levels
    assert level.prior_std == pytest.approx(0.7)
    assert level.posterior_std == pytest.approx(0.5)
    assert level.aggregate_std == pytest.approx(flat.levels[0].aggregate_std)
    assert batch.kl == flat.kl


def test_a_prior_without_a_std_has_one_of_1() -> None:
    """Infinite, it left no width to the cells of a histogram."""
    prior = Cauchy(torch.zeros(6), torch.ones(6))
    (level,) = pc.diagnose(from_callable(encode, latent_dim=6, prior=prior), ROWS).levels
    assert level.prior_std.tolist() == [1.0] * 6
    assert np.isfinite(level._histogram.edges).all()
    assert level._histogram.share.sum(1) == pytest.approx(np.ones(6), abs=0.01)


def test_a_prior_of_one_number_for_all_units() -> None:
    """`diagnose` takes it; here it ended in an index out of range."""
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    options = {"latent_dim": 2, "spec": pc.VAESpec(2, sigma="input")}
    found = [
        pc.log_likelihood(
            from_callable(
                lambda x: (x[:, :2], torch.zeros(len(x), 2)),
                lambda z: torch.cat([z, z[:, :1]], 1),
                prior=prior,
                **options,
            ),
            x,
            samples=50,
        ).nll
        for prior in (Normal(0.5, 0.7), Normal(torch.full((2,), 0.5), torch.full((2,), 0.7)))
    ]
    assert found[0] == pytest.approx(found[1])


def test_a_mixture_prior_by_sampling() -> None:
    """Two clusters that the posterior follows: 4.5 nats against N(0, 1), in truth log 2."""

    def follow(x):
        return torch.cat([3 * torch.sign(x[:, :1]), 0 * x[:, :1]], 1), torch.zeros(len(x), 2)

    parts = Independent(Normal(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]), torch.ones(2, 2)), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), parts)
    found = pc.diagnose(from_callable(follow, latent_dim=2, prior=mixture), ROWS)
    assert found.kl == pytest.approx(math.log(2), abs=0.02)
    assert found.levels[0].kl == pytest.approx([math.log(2), 0.0], abs=0.02)
    assert found.levels[0].status == ("active", "collapsed")
    assert found.levels[0].prior_gap == pytest.approx([0, 0], abs=0.03)


def test_a_prior_of_other_units_is_named_as_what_is_wrong() -> None:
    """Not the batch size, nor graph networks, as the error in torch let one think."""
    for law in (Normal, Laplace):
        model = from_callable(encode, latent_dim=6, prior=law(torch.zeros(3), 1.0))
        with pytest.raises(InvalidArgumentError, match=r"prior: got .* shape \(3,\)") as caught:
            pc.diagnose(model, ROWS)
        assert "6 units of z1" in str(caught.value)
    one = pc.diagnose(from_callable(encode, latent_dim=6, prior=Normal(0.0, 1.0)), ROWS)
    assert one.kl == pytest.approx(pc.diagnose(from_callable(encode, latent_dim=6), ROWS).kl)


def test_a_posterior_of_another_law_is_not_told_to_be_cut_in_two() -> None:
    model = from_callable(lambda x: Laplace(x, torch.ones_like(x)), latent_dim=6)
    with pytest.raises(InvalidArgumentError, match=r"encode: got a Laplace; .*and std") as said:
        pc.diagnose(model, ROWS)
    assert "[:2]" not in str(said.value)


def test_what_needs_one_gaussian_prior_says_so() -> None:
    model = from_callable(encode, lambda z: z, latent_dim=6, prior=predicted)
    with pytest.raises(NotSolvedError, match="prior: got a function of x"):
        model.prior(1)
    for wrong, message in (
        (3, "prior: got int"),
        (lambda x: (x[:, :2], x[:, :2].exp()), "Normal of shape"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            pc.diagnose(from_callable(encode, latent_dim=6, prior=wrong), ROWS)


def test_a_teacher_forced_decoder_is_diagnosed() -> None:
    """It copies each feature from the one before it: what is left for the units is the first."""
    flips = torch.bernoulli(torch.full((4000, 8), 0.1), generator=torch.Generator().manual_seed(0))
    first = torch.bernoulli(torch.full((4000, 1), 0.5), generator=torch.Generator().manual_seed(1))
    x = (first + flips.cumsum(1)) % 2

    def autoregressive(z, x):
        before = torch.cat([0 * x[:, :1], x[:, :-1]], 1)
        p = torch.where(before > 0, 0.9, 0.1)
        p[:, 0] = 0.5
        return Bernoulli(p)

    def dead(x):
        return torch.zeros(len(x), 2), torch.zeros(len(x), 2)

    for beta, conclusion in ((0.7, "signal-unclaimed"), (1.2, "collapse-optimal")):
        spec = pc.VAESpec(2, beta, likelihood="bernoulli")
        model = from_callable(dead, autoregressive, latent_dim=2, spec=spec, teacher_forcing=True)
        found = pc.diagnose(model, x)
        # Scores given the past of a decoder that is right are white: beta = 1 is the onset.
        assert found.signal[0] == pytest.approx(1 / beta, abs=2 * found.signal_error[0])
        assert found.conclusion == conclusion
        assert any("collapse is marginal by theory" in note for note in found.notes)
    plain = pc.diagnose(from_callable(dead, latent_dim=2, spec=spec), x)
    assert any("teacher_forcing=True" in finding.action for finding in plain.advice)


# What went wrong


@pytest.mark.parametrize("log_var", [50.0, 20.0])
def test_a_posterior_that_diverged_is_not_called_collapsed(log_var) -> None:
    def diverged(x):
        return x[:, :2], torch.tensor([log_var, 0.0]).expand(len(x), 2)

    spec = pc.VAESpec(2, eta_dec=0.5, sigma="input")
    found = pc.diagnose(from_callable(diverged, nn.Linear(2, 6), latent_dim=2, spec=spec), ROWS)
    assert found.levels[0].status[0] == "diverged"
    assert found.conclusion == "diverged"
    assert "1 diverged: the posterior has diverged" in found.verdict
    assert "optimal" not in found.verdict
    (finding,) = found.advice
    assert finding.code == "diverged"
    assert "Clamp log_var" in finding.action
    assert "lower the learning rate" in finding.action
    found.plot()
    assert "diverged" in found._repr_html_()


def test_a_decoder_trained_with_less_noise_points_to_the_sampler() -> None:
    """z = m + 0.01 exp(lv / 2) eps, as old copies have it: it was told to diagnose more rows."""

    def narrow(x):
        return 0.3 * x[:, :4], torch.zeros(len(x), 4)

    def decode(z):
        return nn.functional.pad(z / 0.3, (0, 2))

    spec = pc.VAESpec(4, eta_dec=0.5, sigma="input")
    found = pc.diagnose(from_callable(narrow, decode, latent_dim=4, spec=spec), ROWS)
    assert found.squared_error_at_mean < found.squared_error_constant
    assert found.squared_error_sampled > 2 * found.squared_error_constant
    assert found.conclusion == "undecided"
    assert "trained with less noise than the posterior states" in found.verdict
    (finding,) = found.advice
    assert finding.code == "not-the-posterior"
    assert "Check the sampler" in finding.action
    # The same decoder at the noise that it was made for.
    right = from_callable(
        lambda x: (0.3 * x[:, :4], torch.full((len(x), 4), -6.0)), decode, latent_dim=4, spec=spec
    )
    assert "not-the-posterior" not in [one.code for one in pc.diagnose(right, ROWS).advice]
