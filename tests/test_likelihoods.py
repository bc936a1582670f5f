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
from posterior_collapse.adapters import audit_loss, from_callable
from posterior_collapse.diagnosis import diagnose_arrays, log_likelihood
from posterior_collapse.errors import InvalidArgumentError, NotSolvedError
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


def kl(mean, log_var):
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean()


def by_means(y_hat, y, mean, log_var):
    error = functional.binary_cross_entropy(y_hat, y, reduction="none")
    return error.sum(1).mean() + 3 * kl(mean, log_var)


def by_logits(y_hat, y, mean, log_var):
    error = functional.binary_cross_entropy_with_logits(y_hat, y, reduction="none")
    return error.sum(1).mean() + 3 * kl(mean, log_var)


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
def test_what_needs_the_gaussians_law_refuses(spec) -> None:
    x = X.numpy()
    pair = (x[:, :4], x[:, 20:30])
    data = pc.Moments.from_arrays(*pair) if spec.model == "cvae" else x
    for ask in (
        lambda: pc.minimise(data, spec),
        lambda: pc.unclaimed_signal(spec, 1.0),
    ):
        with pytest.raises(NotSolvedError, match=f"likelihood '{spec.likelihood}'.* not given yet"):
            ask()


# Diagnosis


@pytest.mark.parametrize(
    ("loss", "decode"),
    [
        (by_means, constant(MEAN)),
        (by_logits, constant(torch.logit(MEAN, 1e-4))),
        (by_logits, lambda z: Bernoulli(logits=torch.zeros(len(z), 64))),
        (by_logits, lambda z: Independent(Bernoulli(logits=torch.zeros(len(z), 64)), 1)),
    ],
    ids=["means", "logits", "distribution", "independent"],
)
def test_a_dead_bernoulli_decoder_is_not_called_optimal(loss, decode) -> None:
    """Digits and beta 3: a Gaussian's t is 0.92, or 524 of logits, and the truth is above 1."""
    spec = audit_loss(loss, features=64, latents=8).spec
    assert spec.likelihood == "bernoulli"
    assert spec.beta == pytest.approx(3)
    model = from_callable(encode, decode, latent_dim=8, spec=spec)
    found = pc.diagnose(model, X, importance_samples=10)
    assert found.conclusion == "cannot-tell-yet"
    assert found.likelihood == "bernoulli"
    assert found.verdict == (
        "2 of 8 units active, 6 collapsed: whether that is optimal cannot be told yet (the "
        "certificate here is derived for Gaussian decoders, and this loss is a Bernoulli's)."
    )
    assert [finding.code for finding in found.advice][:1] == ["cannot-tell-yet"]
    # Neither a loss nor a signal of logits taken for means, nor a linear optimum.
    for name in ("loss", "reconstruction", "elbo", "squared_error", "eta_dec", "nll", "forecast"):
        assert getattr(found, name) is None
    assert found.signal == found.signal_error == found.paying_units == ()
    assert any("no losses" in note and "Bernoulli" in note for note in found.notes)
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
    assert "cannot-tell-yet" in page.split("conclusion")[1]
    shown = [page, html(found), found.plot().get_suptitle()]
    for text in shown:
        assert "cannot be told yet" in " ".join(text.split())
        assert "is optimal, what" not in text
    plain = json.loads(json.dumps(found.to_dict()))
    assert (plain["conclusion"], plain["likelihood"]) == ("cannot-tell-yet", "bernoulli")
    assert plain["loss"] is plain["forecast"] is None


def test_a_likelihood_known_from_either_spec_counts() -> None:
    bernoulli, gaussian = (pc.VAESpec(8, likelihood=name) for name in ("bernoulli", "gaussian"))
    for own, given in ((bernoulli, gaussian), (gaussian, bernoulli), (None, bernoulli)):
        model = from_callable(encode, constant(MEAN), latent_dim=8, spec=own)
        found = pc.diagnose(model, X, spec=given)
        assert found.conclusion == "cannot-tell-yet"
        assert found.loss is None
    unknown = pc.diagnose(from_callable(encode, constant(MEAN), latent_dim=8), X)
    assert (unknown.likelihood, unknown.conclusion) == (None, "undecided")
    linear = build(pc.VAESpec(8), "linear", x_dim=64)
    found = pc.diagnose(linear, X, spec=bernoulli)
    assert (found.conclusion, found.loss, found.signal) == ("cannot-tell-yet", None, ())
    assert pc.diagnose(linear, X).likelihood == "gaussian"


def test_counts_and_classes_are_diagnosed_too() -> None:
    """A decoder of class logits gives more numbers than the data have features."""
    spec = pc.VAESpec(8, sigma="input", likelihood="categorical")

    def logits(z):
        return z[:, :1, None] * torch.ones(64, 5)

    def classes(z):
        return Categorical(logits=logits(z))

    for decode in (logits, classes):
        found = pc.diagnose(from_callable(encode, decode, latent_dim=8, spec=spec), X)
        assert found.conclusion == "cannot-tell-yet"
        assert found.n_active == 2
        assert "a categorical's" in found.verdict
    for law, words in (("poisson", "a Poisson's"), ("other", "not a Gaussian's")):
        arrays = diagnose_arrays(
            np.zeros((20, 8)), np.ones(8), spec=pc.VAESpec(8, likelihood=law), data=X.numpy()
        )
        assert arrays.conclusion == "cannot-tell-yet"
        assert f"this loss is {words}" in arrays.verdict
        assert (arrays.forecast is None) == (law == "other")


def test_a_log_likelihood_of_a_gaussian_is_not_given_for_it() -> None:
    spec = pc.VAESpec(8, likelihood="bernoulli")
    model = from_callable(encode, constant(MEAN), latent_dim=8, spec=spec)
    with pytest.raises(NotSolvedError, match="'bernoulli'"):
        log_likelihood(model, X[:20])
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
        return -(y * r.log_softmax(-1)).sum((1, 2)).mean() + kl(mean, log_var)

    def counts(r, y, mean, log_var):
        return (r.exp() - y * r).sum(1).mean() + kl(mean, log_var)

    def absolute(r, y, mean, log_var):
        return (r - y).abs().sum(1).mean() + kl(mean, log_var)

    for loss, features in ((tokens, (20, 50)), (counts, 12), (absolute, 12)):
        found = audit_loss(loss, features=features, latents=4)
        assert (found.value, found.likelihood) == (None, "other")
        assert "eta_dec^2, and the law that it goes by is not given yet" in found.text
        assert "variance as eta_dec" not in found.text
        with pytest.raises(InvalidArgumentError, match="likelihood='other'"):
            _ = found.spec


def test_a_weight_that_is_not_the_one_thought_of_is_named_without_eta_dec() -> None:
    found = audit_loss(by_logits, features=64, latents=8, beta=1.5)
    assert found.matches is False
    (finding,) = (f for f in found.findings if f.code == "other-beta")
    assert finding.text == "beta is 3, 2 times the 1.5 you expect (a KL without its 1/2)."
    assert math.isclose(float(finding.action.split(" by ")[1].split(",")[0]), 0.5)
