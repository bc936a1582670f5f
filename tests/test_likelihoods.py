"""Likelihoods other than a Gaussian: known by name, and not judged by a Gaussian's law."""

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.distributions import Bernoulli, Categorical, Independent
from torch.nn import functional

import posterior_collapse as pc
from losses import per_row
from posterior_collapse.adapters import audit_loss, from_callable
from posterior_collapse.diagnosis import diagnose_arrays, log_likelihood
from posterior_collapse.errors import DataError, InvalidArgumentError, NotSolvedError
from posterior_collapse.models import build
from posterior_collapse.report import diagnoses_table, diagnosis_page, html
from posterior_collapse.specs import Spec
from posterior_collapse.testing import check_latent_model

X = torch.tensor(pc.load("digits").x, dtype=torch.float32)
MEAN = X.mean(0)
SPECS = [
    pc.VAESpec(8, likelihood="bernoulli"),
    pc.CVAESpec(8, likelihood="poisson"),
    pc.HVAESpec((4, 2), eta_dec=0.5, likelihood="categorical"),
    pc.VAESpec(8, likelihood="negative-binomial"),
    pc.VAESpec(8, likelihood="other"),
]


def by_means(y_hat, y, mean, log_var):
    error = functional.binary_cross_entropy(y_hat, y, reduction="none")
    return error.sum(1).mean() + 3 * per_row(mean, log_var)


def by_logits(y_hat, y, mean, log_var):
    error = functional.binary_cross_entropy_with_logits(y_hat, y, reduction="none")
    return error.sum(1).mean() + 3 * per_row(mean, log_var)


def encode(x):
    """Two live units and six dead ones."""
    live = torch.nn.functional.pad(x[:, 20:22] * 3, (0, 6))
    return live, torch.tensor([-2.0] * 2 + [0.0] * 6).expand(len(x), 8)


def constant(value):
    return lambda z: value.expand(len(z), 64)


# The field


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.likelihood)
def test_a_spec_keeps_its_likelihood(spec) -> None:
    assert Spec.from_json(spec.to_json()) == spec
    assert spec.replace(eta_enc=2.0).likelihood == spec.likelihood
    assert spec.to_dict()["likelihood"] == spec.likelihood
    assert f", likelihood={spec.likelihood!r}" in repr(spec)
    assert ("dispersion" in spec.to_dict()) == (spec.likelihood == "negative-binomial")
    assert spec != spec.replace(likelihood="gaussian")


def test_a_gaussian_spec_is_written_as_before() -> None:
    """Keys of runs and checkpoints are made of these, and old files lack the field."""
    old = {
        "model": "vae",
        "latent_dim": 2,
        "beta": 1.0,
        "eta_dec": 1.0,
        "eta_enc": 1.0,
        "sigma": "learned",
    }
    spec = Spec.from_dict(old)
    assert spec.to_dict() == old
    assert spec == pc.VAESpec(2, likelihood="gaussian")
    assert "likelihood" not in repr(spec)
    for other in (pc.HVAESpec((2, 1)), pc.ChainSpec((2,), (1,), (1,))):
        assert other.likelihood == "gaussian"
        assert "likelihood" not in other.to_dict()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"likelihood": "bernouli"}, "Did you mean 'bernoulli'"),
        ({"likelihood": 3}, "likelihood: got 3"),
        ({"likelihood": ["bernoulli"]}, "likelihood: got"),
        ({"likelihood": "bernoulli", "eta_dec": 0.5}, "eta_dec: got 0.5 .*only a Gaussian"),
        ({"likelihood": "poisson", "eta_dec": "learned"}, "eta_dec: got 'learned'"),
    ],
)
def test_no_likelihood(wrong, message) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        pc.VAESpec(2, **wrong)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.likelihood)
def test_what_needs_second_moments_alone_refuses(spec) -> None:
    x = X.numpy()
    pair = (x[:, :4], x[:, 20:30])
    data = pc.Moments.from_arrays(*pair) if spec.model == "cvae" else x
    with pytest.raises(NotSolvedError, match=f"likelihood '{spec.likelihood}'.*second moments"):
        pc.minimise(data, spec)


# Diagnosis


LOGITS = torch.logit(MEAN, 1e-4)


@pytest.mark.parametrize(
    ("loss", "decode"),
    [
        (by_means, constant(MEAN)),
        (by_logits, constant(LOGITS)),
        (by_logits, lambda z: Bernoulli(logits=LOGITS.expand(len(z), 64))),
        (by_logits, lambda z: Independent(Bernoulli(logits=LOGITS.expand(len(z), 64)), 1)),
    ],
    ids=["means", "logits", "distribution", "independent"],
)
def test_a_dead_bernoulli_decoder_is_not_called_optimal(loss, decode) -> None:
    """Digits and beta 3: a Gaussian's t is 0.92, or 524 of logits, and the truth is 1.117."""
    spec = audit_loss(loss, features=64, latents=8).spec
    assert spec.likelihood == "bernoulli"
    assert spec.beta == pytest.approx(3)
    found = pc.diagnose(from_callable(encode, decode, latent_dim=8, spec=spec), X)
    assert found.conclusion == "signal-unclaimed"
    assert found.likelihood == "bernoulli"
    assert found.verdict.startswith("2 of 8 units active, 6 collapsed: signal is left unclaimed")
    assert found.advice[0].code == "signal-unclaimed"
    assert found.signal[0] == pytest.approx(pc.forecast(X.numpy(), spec).onset / 3, abs=0.03)
    # The loss is that of the loss function itself.
    assert found.reconstruction == pytest.approx(27.1103, abs=0.01)
    assert found.loss == pytest.approx(found.reconstruction + 3 * found.kl)
    assert found.collapsed_loss == pytest.approx(27.1103, abs=1e-3)
    assert found.eta_dec is None
    # What holds for every likelihood.
    posterior = pc.diagnose(from_callable(encode, latent_dim=8), X)
    assert found.kl == posterior.kl
    assert found.levels[0].information.tolist() == posterior.levels[0].information.tolist()
    assert np.isfinite(found.levels[0].decoder_effect).all()


def test_it_is_said_alike_on_the_page_in_the_figure_and_as_json() -> None:
    spec = pc.VAESpec(8, 3.0, sigma="input", likelihood="bernoulli")
    found = pc.diagnose(from_callable(encode, constant(MEAN), latent_dim=8, spec=spec), X)
    console = Console(file=io.StringIO(), width=1000)
    for part in (*diagnosis_page(found), diagnoses_table({"a": found})):
        console.print(part)
    page = console.file.getvalue()
    assert found.verdict in page
    assert "signal-unclaimed" in page.split("conclusion")[1]
    assert "one more unit" in page
    shown = [page, html(found), found.plot().get_suptitle()]
    for text in shown:
        assert "left unclaimed" in " ".join(text.split())
        assert "is optimal, what" not in text
    plain = json.loads(json.dumps(found.to_dict()))
    assert (plain["conclusion"], plain["likelihood"]) == ("signal-unclaimed", "bernoulli")
    assert plain["gain"] == found.gain > 0
    assert plain["gains"][0]["parts"] == found.gains[0].parts


def test_a_likelihood_known_from_either_spec_counts() -> None:
    bernoulli, gaussian = (pc.VAESpec(8, likelihood=name) for name in ("bernoulli", "gaussian"))
    model = from_callable(encode, constant(MEAN), latent_dim=8, spec=bernoulli)
    found = pc.diagnose(model, X, spec=gaussian)
    assert (found.likelihood, found.conclusion) == ("bernoulli", "signal-unclaimed")
    # A mean that was wrapped as a Gaussian's says nothing of a Bernoulli.
    for own in (gaussian, None):
        model = from_callable(encode, constant(MEAN), latent_dim=8, spec=own)
        found = pc.diagnose(model, X, spec=bernoulli)
        assert (found.conclusion, found.loss, found.signal) == ("cannot-tell-yet", None, ())
        assert any("let decode return it" in note for note in found.notes)
    unknown = pc.diagnose(from_callable(encode, constant(MEAN), latent_dim=8), X)
    assert (unknown.likelihood, unknown.conclusion) == (None, "undecided")
    linear = build(pc.VAESpec(8), "linear", x_dim=64)
    found = pc.diagnose(linear, X, spec=bernoulli)
    assert (found.conclusion, found.loss, found.signal) == ("cannot-tell-yet", None, ())
    assert pc.diagnose(linear, X).likelihood == "gaussian"


def test_a_decoder_that_ends_in_other_numbers_than_the_data_is_refused() -> None:
    spec = pc.VAESpec(8, sigma="input", likelihood="categorical")

    def logits(z):
        return z[:, :1, None] * torch.ones(64, 5)

    for decode in (logits, lambda z: Categorical(logits=logits(z))):
        with pytest.raises(InvalidArgumentError, match=r"320.*as the data have features"):
            pc.diagnose(from_callable(encode, decode, latent_dim=8, spec=spec), X)
    wrong = functional.one_hot((X * 3.9).long(), 4).float().transpose(1, 2).flatten(1)
    model = from_callable(
        lambda x: encode(x[:, :64]),
        lambda z: Categorical(logits=torch.zeros(len(z), 64, 4)),
        latent_dim=8,
        spec=spec,
    )
    with pytest.raises(
        DataError, match=r"a position whose classes sum to .*\(positions, classes\)"
    ):
        pc.diagnose(model, wrong)


def test_an_unknown_likelihood_is_not_judged() -> None:
    words = "the decoder's distribution is not known"
    for law in ("poisson", "other"):
        arrays = diagnose_arrays(
            np.zeros((20, 8)), np.ones(8), spec=pc.VAESpec(8, likelihood=law), data=X.numpy()
        )
        assert arrays.conclusion == "cannot-tell-yet"
        assert words in arrays.verdict
    other = pc.VAESpec(8, sigma="input", likelihood="other")
    found = pc.diagnose(from_callable(encode, constant(MEAN), latent_dim=8, spec=other), X)
    assert (found.conclusion, found.loss, found.signal) == ("cannot-tell-yet", None, ())
    (note,) = (note for note in found.notes if "let decode return it" in note)
    assert "torch.distributions.StudentT" in note


def test_the_log_likelihood_is_that_of_the_likelihood() -> None:
    """Of a decoder that ignores z it is that of its constant."""
    spec = pc.VAESpec(8, likelihood="bernoulli")
    model = from_callable(encode, constant(MEAN), latent_dim=8, spec=spec)
    varying = MEAN.clamp(1e-6, 1 - 1e-6)

    def prior(x):
        return torch.zeros(len(x), 8), torch.zeros(len(x), 8)

    found = log_likelihood(from_callable(prior, constant(varying), latent_dim=8, spec=spec), X)
    expected = functional.binary_cross_entropy(varying.expand(len(X), 64), X, reduction="sum")
    assert found.nll == pytest.approx(float(expected) / len(X), rel=1e-5)
    check_latent_model(model, X[:20])


def test_a_gaussian_spec_takes_no_other_distribution() -> None:
    def decode(z):
        return Bernoulli(logits=torch.zeros(len(z), 64))

    model = from_callable(encode, decode, latent_dim=8, spec=pc.VAESpec(8))
    with pytest.raises(InvalidArgumentError, match="spec with likelihood='bernoulli'"):
        pc.diagnose(model, X)


# The audit


@pytest.mark.parametrize("per", [1, 128 * 784])
def test_the_beta_of_cross_entropy_is_its_own(per) -> None:
    """A mean over all of both terms is beta 1 of their sums: 0.25 was given for it."""

    def loss(y_hat, y, mean, log_var):
        error = functional.binary_cross_entropy(y_hat, y, reduction="sum")
        divergence = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
        return (error + divergence) / per

    found = audit_loss(loss, features=784, latents=8, batch_size=128, beta=1.0)
    assert found.value == pytest.approx(1)
    assert found.matches
    assert found.text.startswith("beta = 1, with a Bernoulli decoder.")
    assert "at eta_dec = 1" not in found.text
    assert found.to_dict()["likelihood"] == found.spec.likelihood == "bernoulli"
    assert 0 < pc.forecast(X.numpy(), found.spec).n_active < 8


def test_no_gaussian_threshold_is_offered_for_other_errors() -> None:
    def tokens(r, y, mean, log_var):
        return -(y * r.log_softmax(-1)).sum((1, 2)).mean() + per_row(mean, log_var)

    def counts(r, y, mean, log_var):
        return (r.exp() - y * r).sum(1).mean() + per_row(mean, log_var)

    def absolute(r, y, mean, log_var):
        return (r - y).abs().sum(1).mean() + per_row(mean, log_var)

    for loss, features, value, likelihood in (
        (tokens, (20, 50), pytest.approx(1), "categorical"),
        (counts, 12, pytest.approx(1), "poisson"),
        (absolute, 12, None, "other"),
    ):
        found = audit_loss(loss, features=features, latents=4)
        assert (found.value, found.likelihood) == (value, likelihood)
        assert found.spec.likelihood == likelihood
        assert "eta_dec^2" not in found.text
        assert "variance as eta_dec" not in found.text


def test_a_weight_that_is_not_the_one_thought_of_is_named_without_eta_dec() -> None:
    found = audit_loss(by_logits, features=64, latents=8, beta=1.5)
    assert found.matches is False
    (finding,) = (f for f in found.findings if f.code == "other-beta")
    assert finding.text == "beta is 3, 2 times the 1.5 you expect (a KL without its 1/2)."
    assert math.isclose(float(finding.action.split(" by ")[1].split(",")[0]), 0.5)
