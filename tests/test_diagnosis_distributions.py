"""Decoders of any distribution: the certificate, what a tensor means, noise of rare features."""

import warnings

import numpy as np
import pytest
import torch
from scipy import special
from scipy.stats import nbinom
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Binomial,
    Categorical,
    Gamma,
    Independent,
    Laplace,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
    SigmoidTransform,
    StudentT,
    TransformedDistribution,
    Uniform,
)
from torch.nn import functional

import posterior_collapse as pc
from posterior_collapse.adapters import from_callable
from posterior_collapse.diagnosis.conclusions import count_of
from posterior_collapse.diagnosis.scores import Noise, scored
from posterior_collapse.errors import DataError, InvalidArgumentError
from posterior_collapse.models import build, load_parameters
from posterior_collapse.report.text import loss_rows

X = torch.tensor(pc.load("digits").x, dtype=torch.float32)
COUNTS = torch.poisson(10 * X, generator=torch.Generator().manual_seed(0))
TOKENS = functional.one_hot((3.99 * X[:, 10:40]).long(), 4).float()
UNITS = 4


def dead(x):
    return torch.zeros(len(x), UNITS), torch.zeros(len(x), UNITS)


def of(function, *values):
    """A decoder that says the same of every row."""
    return lambda z: function(*(value.expand(len(z), *value.shape) for value in values))


def log(mean):
    return mean.clamp_min(1e-9).log()


P, RATE, CLASSES = X.mean(0), COUNTS.mean(0), TOKENS.mean(0)
DEAD = {
    "probabilities": ("bernoulli", X, of(lambda p: p, P)),
    "logits": ("bernoulli", X, of(torch.logit, P.clamp(1e-6, 1 - 1e-6))),
    "Bernoulli": ("bernoulli", (X > 0.5).float(), of(Bernoulli, (X > 0.5).float().mean(0))),
    "Binomial of one trial": ("bernoulli", X, of(lambda p: Binomial(1, p), P)),
    "rates": ("poisson", COUNTS, of(lambda m: m, RATE)),
    "log rates": ("poisson", COUNTS, of(log, RATE)),
    "Poisson": ("poisson", COUNTS, of(lambda m: Independent(Poisson(m), 1), RATE)),
    "log means": ("negative-binomial", COUNTS, of(log, RATE)),
    "NegativeBinomial": (
        "negative-binomial",
        COUNTS,
        of(lambda m: NegativeBinomial(torch.tensor(5.0), logits=log(m / 5)), RATE),
    ),
    "classes": ("categorical", TOKENS.flatten(1), of(lambda p: p, CLASSES)),
    "class logits": ("categorical", TOKENS.flatten(1), of(log, CLASSES)),
    "Categorical": ("categorical", TOKENS.flatten(1), of(Categorical, CLASSES)),
    "OneHotCategorical": (
        "categorical",
        TOKENS.flatten(1),
        of(lambda p: Independent(OneHotCategorical(p), 1), CLASSES),
    ),
}


def spec_of(likelihood, beta=1.0):
    extra = {"dispersion": 5.0} if likelihood == "negative-binomial" else {}
    return pc.VAESpec(UNITS, beta, sigma="input", likelihood=likelihood, **extra)


def diagnosed(decode, spec, data, encode=dead, **options):
    model = from_callable(encode, decode, latent_dim=spec.dims[0], spec=spec, **options)
    return pc.diagnose(model, data)


# The certificate


@pytest.mark.parametrize("name", DEAD)
@pytest.mark.parametrize(
    ("share", "conclusion"), [(0.6, "signal-unclaimed"), (1.3, "collapse-optimal")]
)
def test_a_dead_decoder_is_judged_by_the_onset_of_its_likelihood(name, share, conclusion) -> None:
    likelihood, data, decode = DEAD[name]
    onset = pc.forecast(data.numpy(), spec_of(likelihood)).onset
    found = diagnosed(decode, spec_of(likelihood, share * onset), data)
    (t,), (error,) = found.signal, found.signal_error
    assert abs(t - 1 / share) < 2 * error < 0.3
    assert found.conclusion == conclusion
    assert (found.gain > 2 * found.gain_error) == (share < 1)
    # Nothing is alive: the loss is the constant's, with all that the data alone decide.
    assert found.loss == pytest.approx(found.collapsed_loss, rel=1e-5)
    assert found.forecast.loss + found.data_loss == pytest.approx(found.loss, rel=0.02)


def test_a_learned_dispersion_is_compared_with_no_loss_of_another() -> None:
    """Its loss counts by a dispersion that the data's moments do not tell."""
    likelihood, data, decode = DEAD["NegativeBinomial"]
    found = diagnosed(decode, pc.VAESpec(UNITS, likelihood=likelihood), data)
    assert found.collapsed_loss is None
    rows = {name: expected for name, _, expected in loss_rows(found)}
    assert rows["loss"] == ""
    assert rows["KL"] != ""
    found = diagnosed(decode, spec_of(likelihood), data)
    assert {name: expected for name, _, expected in loss_rows(found)}["loss"] != ""


def test_a_loss_is_that_of_the_distribution() -> None:
    """Soft targets too, which torch calls outside of a Bernoulli's support."""
    found = diagnosed(DEAD["logits"][2], spec_of("bernoulli"), X)
    loss = functional.binary_cross_entropy(P.clamp(1e-6, 1 - 1e-6).expand_as(X), X)
    assert found.loss == pytest.approx(64 * loss.item(), rel=1e-6)
    found = diagnosed(DEAD["Poisson"][2], spec_of("poisson"), COUNTS)
    loss = -Poisson(RATE.clamp_min(1e-12)).log_prob(COUNTS).sum(1).mean()
    assert found.loss == pytest.approx(loss.item(), rel=1e-6)
    assert found.data_loss == pytest.approx((COUNTS + 1).lgamma().sum(1).mean().item(), rel=1e-6)
    found = diagnosed(DEAD["NegativeBinomial"][2], spec_of("negative-binomial"), COUNTS)
    law = NegativeBinomial(torch.tensor(5.0), logits=log(RATE / 5))
    assert found.loss == pytest.approx(-law.log_prob(COUNTS).sum(1).mean().item(), rel=1e-6)
    found = diagnosed(DEAD["Categorical"][2], spec_of("categorical"), TOKENS.flatten(1))
    loss = -Categorical(CLASSES).log_prob(TOKENS.argmax(-1)).sum(1).mean()
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("logit", [-300.0, -90.0, -5.0, 0.5, 5.0, 30.0, 90.0, 300.0])
def test_scores_of_counts_have_their_digits_at_any_output(logit) -> None:
    """Beside differences of scipy's density: by the log of the mean, at a fixed count."""
    count, y = 3.0, np.array([0.0, 2.0, 40.0])
    law = NegativeBinomial(torch.tensor(count), logits=torch.full((1, 1, 3), logit))
    found = scored(law, torch.tensor(y, dtype=torch.float32)[None])

    def density(at):  # what moves of log p, of odds exp(at)
        return -y * np.logaddexp(0, -at) - count * np.logaddexp(0, at)

    step = 1e-3
    slope = (density(logit + step) - density(logit - step)) / (2 * step)
    np.testing.assert_allclose(found.score[0, 0], slope, rtol=1e-4, atol=1e-5)
    # The expected curvature, of E[y] = count exp(logit); what single precision cannot hold is 0.
    expected = np.full(3, count * special.expit(logit))
    np.testing.assert_allclose(found.curvature[0, 0], expected, rtol=1e-6, atol=1e-37)
    at_zero = nbinom.logpmf(y, count, 0.5) + (y + count) * np.log(2) - y * np.log(count)
    np.testing.assert_allclose(found.data.item(), at_zero.sum(), rtol=1e-3)


@pytest.mark.parametrize(
    ("law", "noise", "likelihood"),
    [
        (lambda mean: Normal(mean, 0.3), 0.3, "gaussian"),
        (lambda mean: Normal(mean, 0.3), 0.3, "other"),
        (lambda mean: Independent(Normal(mean, 0.3 * P.exp()), 1), 0.3 * P.exp(), "other"),
        (lambda mean: StudentT(5.0, mean, 0.2), None, "other"),
    ],
    ids=["Gaussian", "Normal", "Normal of own stds", "StudentT"],
)
@pytest.mark.parametrize("inferring", [False, True])
def test_any_distribution_with_a_location_has_a_certificate(
    law, noise, likelihood, inferring
) -> None:
    spec = pc.VAESpec(
        UNITS, eta_dec=0.3 if likelihood == "gaussian" else 1.0, likelihood=likelihood
    )
    with torch.inference_mode(inferring):  # as Lightning validates
        found = diagnosed(of(law, P), spec, X)
    error = X - P
    if noise is not None:
        score, curvature = error / noise**2, torch.ones(64) / noise**2
    else:
        # Of (df + 1) / 2 log(1 + u^2 / df), u = error / scale.
        u = error / 0.2
        score = 6 * u / (5 + u**2) / 0.2
        curvature = (6 * (5 - u**2) / (5 + u**2) ** 2 / 0.04).mean(0)
    white = (score - score.mean(0)) / curvature.sqrt()
    truth = torch.linalg.eigvalsh(white.T.double() @ white.double() / len(X))[-1].item()
    assert found.signal[0] == pytest.approx(truth, abs=2 * found.signal_error[0])
    density = law(P).log_prob(X)
    density = density if density.dim() == 1 else density.sum(1)
    assert found.loss == pytest.approx(-density.mean().item(), rel=1e-5)


def test_what_has_no_location_to_move_has_a_loss_and_no_certificate() -> None:
    spec = pc.VAESpec(UNITS, likelihood="other")
    found = diagnosed(lambda z: Gamma(torch.ones(len(z), 64), 1.0), spec, X + 1)
    assert found.loss == pytest.approx((X + 1).sum(1).mean().item(), rel=1e-5)
    assert (found.signal, found.gain, found.conclusion) == ((), None, "cannot-tell-yet")
    assert any("a Gamma has no location or logits" in note for note in found.notes)


def test_a_distribution_without_a_mean_is_told_what_it_lacks() -> None:
    """As torch's documentation writes a logistic; the model was said to fail on such rows."""

    class Logistic(TransformedDistribution):
        def __init__(self, place):
            parts = [SigmoidTransform().inv, AffineTransform(place, 0.1)]
            super().__init__(Uniform(torch.zeros_like(place), 1.0), parts, validate_args=False)

    class WithMean(Logistic):
        @property
        def mean(self):
            return self.transforms[-1].loc

    spec = spec_of("other")
    with pytest.raises(InvalidArgumentError, match=r"got a Logistic, whose mean .* a prop"):
        diagnosed(of(Logistic, P), spec, X)
    found = diagnosed(of(WithMean, P), spec, X)
    u = (X - P) / 0.1
    truth = (u + 2 * functional.softplus(-u) + np.log(0.1)).sum(1).mean().item()
    assert found.reconstruction == pytest.approx(truth, rel=1e-4)


def test_one_is_not_called_many() -> None:
    assert count_of(1, "direction") == "1 direction"
    assert count_of(0, "direction") == "0 directions"


def test_of_a_density_with_a_kink_nothing_is_called_optimal() -> None:
    """By the square of the slope t was 0.74, where a unit pays 34 nats."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(2000, 1, generator=rng) + 0.1 * torch.randn(2000, 8, generator=rng)
    spec = pc.VAESpec(1, beta=10.0, sigma="input", likelihood="other")
    median = y.median(0).values

    def nothing(x):
        return torch.zeros(len(x), 1), torch.zeros(len(x), 1)

    found = diagnosed(of(lambda m: Laplace(m, 0.1), median), spec, y, nothing)
    assert found.loss == pytest.approx(-Laplace(median, 0.1).log_prob(y).sum(1).mean().item())
    assert (found.signal, found.gain, found.conclusion) == ((), None, "cannot-tell-yet")
    assert "has a kink: no curvature to measure signal in" in found.verdict
    assert "optimal, " not in found.verdict


def test_features_that_curve_the_wrong_way_are_left_out_with_a_note() -> None:
    """Student's t far from its data: no warning, and no t of a negative number."""
    rng = torch.Generator().manual_seed(0)
    x = torch.cat([X[:, 20:30], 5 + torch.randn(len(X), 2, generator=rng)], 1)
    spec = pc.VAESpec(UNITS, sigma="input", likelihood="other")
    mean = torch.cat([x[:, :10].mean(0), torch.zeros(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = diagnosed(of(lambda m: StudentT(3.0, m, 0.3), mean), spec, x)
    assert np.isfinite(found.signal[0])
    assert any("no negative second derivative" in note for note in found.notes)
    # Where the loss curves down any small step improves it: no collapse is optimal there.
    weak = diagnosed(of(lambda m: StudentT(3.0, m, 0.3), mean), spec.replace(beta=100.0), x)
    assert weak.signal[0] < 0.5
    assert weak.conclusion == "undecided"
    assert "far from their best" in weak.verdict
    assert weak.advice[0].action.startswith("Train longer")


def test_a_price_far_from_the_optimum_is_called_rough() -> None:
    """A likelihood's curvature is measured here, not where the unit would lead to."""
    rng = torch.Generator().manual_seed(0)
    y = 3 * torch.randn(1000, 1, generator=rng) + 0.1 * torch.randn(1000, 8, generator=rng)
    spec = pc.VAESpec(UNITS, sigma="input", likelihood="other")
    found = diagnosed(of(lambda m: StudentT(5.0, m, 3.0), y.mean(0)), spec, y)
    assert found.signal[0] > 3
    assert "a rough upper guess" in found.verdict
    assert "\u00b1" not in found.verdict.split("one more unit")[1]
    normal = pc.VAESpec(UNITS, eta_dec=0.5, sigma="input")
    assert "rough" not in diagnosed(of(lambda m: m, y.mean(0)), normal, y).verdict


def test_an_approximate_forecast_is_no_loss_to_be_reached() -> None:
    """The true model of these counts is above the forecast's loss, by a second-order expansion."""
    rng = torch.Generator().manual_seed(0)
    u = torch.randn(2000, 1, generator=rng)
    y = torch.poisson(torch.exp(2 + 0.5 * u.expand(-1, 6)), generator=rng)
    spec = pc.VAESpec(1, sigma="input", likelihood="poisson")

    def known(x):
        """The posterior of u to second order about the best guess of it."""
        mean = 2 * ((x.mean(1, keepdim=True) + 0.3).log() - 2)
        return mean, -(1 + 1.5 * torch.exp(2 + 0.5 * mean)).log()

    decoder = lambda z: Poisson(torch.exp(2 + 0.5 * z.expand(*z.shape[:-1], 6)))  # noqa: E731
    found = diagnosed(decoder, spec, y, known)
    assert found.n_active == 1
    assert found.loss < found.collapsed_loss
    assert "nats lower" not in found.verdict
    assert "not-at-optimum" not in [finding.code for finding in found.advice]
    worse = diagnosed(of(lambda m: Poisson(2 * m), y.mean(0)), spec_of("poisson"), y)
    assert worse.loss > worse.collapsed_loss + 1
    assert "nats less" in worse.verdict


def test_an_affine_decoder_uses_no_unit_differently_in_parts() -> None:
    """The linear optimum through functions: by parts, noise was taken for unclaimed signal."""
    spec = pc.VAESpec(14, eta_dec=0.3)
    model = build(spec, "linear", x_dim=64)
    load_parameters(model, pc.forecast(X.numpy(), spec).parameters())
    linear = torch.nn.Linear(14, 64)
    with torch.no_grad():
        linear.bias.copy_(model.decode(torch.zeros(14)).mean)
        linear.weight.copy_((model.decode(torch.eye(14)).mean - linear.bias).T)

    def encode(x):
        q = model.posterior(1, x)
        return q.mean, 2 * q.stddev.log().expand_as(q.mean)

    found = diagnosed(linear, spec, X, encode)
    assert found.gains[0].parts == 1
    assert found.conclusion in ("nothing-to-do", "collapse-optimal", "undecided")
    bent = diagnosed(lambda z: linear(z) + 0.02 * z[..., :1].abs(), spec, X, encode)
    assert bent.gains[0].parts > 1


def test_stds_of_features_count_one_by_one() -> None:
    """A std of its own for each feature, learned: one eta_dec for all gave t of the widest."""
    std = torch.tensor([3.0, 0.5, 0.5])
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * std
    spec = pc.VAESpec(UNITS, beta=2.0, eta_dec="learned", sigma="input")
    found = diagnosed(lambda z: Normal(torch.zeros(len(z), 3), std), spec, x)
    assert found.signal[0] == pytest.approx(0.5, abs=0.03)
    assert found.conclusion == "collapse-optimal"


# What a plain tensor means


def test_it_is_said_what_a_tensor_was_taken_for() -> None:
    spec = spec_of("bernoulli", 3.0)
    means = diagnosed(DEAD["probabilities"][2], spec, X)
    links = diagnosed(DEAD["logits"][2], spec, X)
    assert any("read as probabilities: if these are logits, pass output='link'" in n
               for n in means.notes)  # fmt: skip
    assert any("read as logits" in note for note in links.notes)
    assert means.signal == pytest.approx(links.signal, rel=1e-4)
    # All logits between 0 and 1: only the user can tell.
    asked = diagnosed(DEAD["probabilities"][2], spec, X, output="link")
    assert not [note for note in asked.notes if "read as" in note]
    loss = functional.binary_cross_entropy_with_logits(P.expand_as(X), X)
    assert asked.loss == pytest.approx(64 * loss.item(), rel=1e-5)
    with pytest.raises(InvalidArgumentError, match=r"output: got 'logits'; expected 'mean'"):
        diagnosed(DEAD["logits"][2], spec, X, output="logits")


def test_a_tensor_that_first_looks_like_means_and_then_does_not_is_refused() -> None:
    calls = []

    def decode(z):
        calls.append(1)
        return P.expand(len(z), 64) + (3.0 if len(calls) > 1 else 0.0)

    with pytest.raises(InvalidArgumentError, match="after others that could be probabilities"):
        diagnosed(decode, spec_of("bernoulli"), X)


def test_a_mean_of_0_is_sure_of_counts_of_0() -> None:
    """Its log density was 0 times minus infinity."""
    counts, mean = COUNTS[:, 16:32].clone(), RATE[16:32].clone() + 0.1
    counts[:, -1] = mean[-1] = 0
    spec = pc.VAESpec(UNITS, likelihood="negative-binomial", dispersion=2.0)
    found = diagnosed(of(lambda m: m, mean), spec, counts)
    r, m = 2.0, mean[:-1].double().numpy()
    truth = -nbinom.logpmf(counts[:, :-1].numpy(), r, r / (r + m)).sum(1).mean()
    assert found.reconstruction == pytest.approx(truth, rel=1e-5)
    assert found.signal[0] > 0


def test_data_outside_of_a_distribution_are_named() -> None:
    with pytest.raises(DataError, match="in the domain of its distribution"):
        diagnosed(of(Poisson, RATE), spec_of("poisson"), COUNTS - 5)


# The noise of features that hardly vary


def test_a_decoder_that_is_too_sure_of_a_rare_feature_leaves_no_signal() -> None:
    """A pixel that is on in 30 of 3,000 rows, and a decoder that says 1e-6: t was thousands."""
    generator = torch.Generator().manual_seed(0)
    x = torch.bernoulli(torch.full((3000, 20), 0.5), generator=generator)
    x[:, 0] = 0
    x[:30, 0] = 1
    p = torch.full((20,), 0.5)
    p[0] = 1e-6
    for likelihood in ("bernoulli", "poisson"):
        spec = pc.VAESpec(UNITS, 1.5, sigma="input", likelihood=likelihood)
        found = diagnosed(of(lambda m: m, p), spec, x)
        assert found.signal[0] < 0.9
        assert found.conclusion == "collapse-optimal"


def test_a_feature_that_few_rows_make_vary_counts_for_less() -> None:
    scores = np.zeros((1000, 2))
    scores[:, 1] = np.random.default_rng(0).standard_normal(1000)
    scores[:2, 0] = 30.0
    noise = Noise(scores, np.ones((1000, 2)))
    ((_, root),) = noise.root
    assert root[1] == pytest.approx(1.0)
    assert root[0] ** 2 == pytest.approx(2 / 10)


def test_what_a_network_may_read_from_another_x_is_not_ruled_out() -> None:
    """Logarithms tell the counts, but linear encoders of them hear a fourth of their signal."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((2000, 2)) @ rng.standard_normal((2, 6))
    counts = rng.poisson(np.exp(1 + 1.2 * hidden)).astype(float)
    logs, spec = np.log1p(counts), pc.VAESpec(2, likelihood="poisson")
    alone, pair = (pc.forecast(data, spec) for data in (counts, (logs, counts)))
    assert pair.onset < 0.5 * alone.onset
    assert "exact for any network" in alone.notes[0]
    assert "that of encoders that read x linearly" in pair.notes[0]
    rates = torch.tensor(counts.mean(0), dtype=torch.float32)
    model = from_callable(
        lambda x: (torch.zeros(len(x), 2), torch.zeros(len(x), 2)),
        lambda z: Poisson(rates.expand(len(z), -1)),
        latent_dim=2,
        spec=spec.replace(beta=(pair.onset * alone.onset) ** 0.5),
    )
    found = pc.diagnose(model, (logs, counts))
    assert found.conclusion == "collapse-optimal"
    assert "no linear encoder improves this collapse, a network may read more" in found.verdict
    assert "no small step" not in found.verdict + found.advice[0].text
    above = pc.diagnose(model, counts, spec=spec.replace(beta=2 * alone.onset))
    assert "no small step improves this collapse" in above.verdict
