"""pyro models and guides, against pyro's own ELBO."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import posterior_collapse as pc
from posterior_collapse import InvalidArgumentError, VAESpec
from posterior_collapse.adapters import from_pyro
from posterior_collapse.testing import check_latent_model

pyro = pytest.importorskip("pyro")
from pyro import poutine  # noqa: E402
from pyro.distributions import (  # noqa: E402
    Bernoulli,
    Binomial,
    Laplace,
    LogNormal,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
)

K, DIM = 3, 12
X = torch.rand(40, DIM, generator=torch.Generator().manual_seed(0)).round()


class Pair(nn.Module):
    """A model and guide; unit 1 is dead: its posterior is the prior."""

    def __init__(self, data: str = "bernoulli", beta: float = 1.0, prior_std: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(DIM, 2 * K), nn.Linear(K, DIM)
        self.log_noise = nn.Parameter(torch.tensor(0.3))
        self.data, self.beta, self.prior_std = data, beta, prior_std

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("rows", len(x)):
            with poutine.scale(scale=self.beta):
                prior = Normal(x.new_zeros(K), self.prior_std).expand([K]).to_event(1)
                z = pyro.sample("z", prior)
            pyro.sample("x", self.likelihood(self.decoder(z)).to_event(1), obs=x)

    def likelihood(self, output: Tensor) -> Any:
        return {
            "bernoulli": lambda: Bernoulli(logits=output, validate_args=False),
            "one trial": lambda: Binomial(1, logits=output, validate_args=False),
            "normal": lambda: Normal(output, 0.5),
            "learned": lambda: Normal(output, self.log_noise.exp()),
            "poisson": lambda: Poisson(output.exp()),
            "counts": lambda: NegativeBinomial(torch.tensor(4.0), logits=output),
            "learned counts": lambda: NegativeBinomial(self.log_noise.exp(), logits=output),
            "laplace": lambda: Laplace(output, 1.0),
        }[self.data]()

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        mean, log_std = self.encoder(x).chunk(2, -1)
        live = torch.tensor([1.0, 0.0, 1.0])
        std = self.prior_std * (live * log_std).exp()
        with pyro.plate("rows", len(x)), poutine.scale(scale=self.beta):
            pyro.sample("z", Normal(live * mean, std).to_event(1))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    pyro.clear_param_store()


def wrapped(*options: Any) -> Any:
    pair = Pair(*options)
    return from_pyro(pair.model, pair.guide, X)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("bernoulli", {"likelihood": "bernoulli"}),
        ("one trial", {"likelihood": "bernoulli"}),
        ("normal", {"eta_dec": 0.5}),
        ("learned", {"eta_dec": "learned"}),
        ("poisson", {"likelihood": "poisson"}),
        ("counts", {"likelihood": "negative-binomial", "dispersion": 4.0}),
        ("learned counts", {"likelihood": "negative-binomial", "dispersion": "learned"}),
        ("laplace", {"likelihood": "other"}),
    ],
)
def test_the_likelihood_is_that_of_the_observed_site(data: str, expected: dict[str, Any]) -> None:
    model = wrapped(data, 2.5)
    assert model.spec == VAESpec(K, beta=2.5, sigma="input", **expected)
    check_latent_model(model, X)


@pytest.mark.parametrize("data", ["bernoulli", "normal", "learned", "poisson", "counts", "laplace"])
def test_the_spec_is_the_elbo_that_pyro_trains(data: str) -> None:
    """At the same sample of z."""
    pair = Pair(data, 2.5, 1.5)
    model = from_pyro(pair.model, pair.guide, X)
    assert model.spec.eta_enc == 1.5
    pyro.set_rng_seed(1)
    guided = poutine.trace(pair.guide).get_trace(X)
    replayed = poutine.trace(poutine.replay(pair.model, guided)).get_trace(X)
    theirs = guided.log_prob_sum() - replayed.log_prob_sum()
    z = guided.nodes["z"]["value"]
    q, p = model.posterior(1, X), model.prior(1)
    kl = (q.log_prob(z) - p.log_prob(z)).sum()
    error = -model.decode(z).log_prob(X).sum()
    torch.testing.assert_close(error + model.spec.beta * kl, theirs)


def test_the_dead_unit_is_found() -> None:
    pair = Pair("bernoulli", 0.7)
    model = from_pyro(pair.model, pair.guide, X)
    found = pc.diagnose(model, X)
    assert found.levels[0].kl[1] == 0
    assert found.levels[0].status[1] == "collapsed"
    assert (found.levels[0].kl[[0, 2]] > 0.01).all()
    assert found.likelihood == "bernoulli"
    assert pc.forecast(X.numpy(), model.spec).spec.beta == 0.7


def test_images_and_trained_weights() -> None:
    """A row comes as the functions want it, and what they train later counts."""
    pair = Pair("normal")
    seen = []

    def flat(function: Any) -> Any:
        def of_images(x: Tensor) -> None:
            seen.append(x.shape)
            function(x.flatten(1))

        return of_images

    images = X.reshape(-1, 1, 3, 4)
    model = from_pyro(flat(pair.model), flat(pair.guide), images)
    check_latent_model(model, images)
    assert {shape[1:] for shape in seen} == {(1, 3, 4)}
    before = model.posterior(1, X).mean
    with torch.no_grad():
        pair.encoder.bias += 1
    torch.testing.assert_close(model.posterior(1, X).mean, before + torch.tensor([1.0, 0.0, 1.0]))


def test_a_plate_of_a_batch_out_of_more_rows_scales_both_terms_alike() -> None:
    pair = Pair("normal", 0.3)

    def subsampled(function: Any) -> Any:
        def of_batch(x: Tensor) -> None:
            with poutine.scale(scale=1000 / len(x)):
                function(x)

        return of_batch

    model = from_pyro(subsampled(pair.model), subsampled(pair.guide), X)
    assert (model.spec.beta, model.spec.eta_dec) == (pytest.approx(0.3), 0.5)
    check_latent_model(model, X)


def test_classes_are_one_hot() -> None:
    pair = Pair()
    pair.likelihood = lambda output: OneHotCategorical(logits=output.unflatten(-1, (3, 4)))
    x = nn.functional.one_hot(torch.arange(40)[:, None] % torch.tensor([4, 3, 2]), 4).float()
    encoder = pair.guide

    def guide(rows: Tensor) -> None:
        encoder(rows.flatten(1))

    model = from_pyro(pair.model, guide, x)
    assert model.spec.likelihood == "categorical"
    check_latent_model(model, x)
    assert pc.diagnose(model, x).likelihood == "categorical"


def test_what_is_no_vae() -> None:
    pair = Pair()

    def lognormal(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", LogNormal(x[:, :K], 1.0).to_event(1))

    def hierarchy(x: Tensor) -> None:
        pair.model(x)
        pyro.sample("scale", Normal(0.0, 1.0))

    def moved(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", Normal(x.new_ones(K), 1.0).to_event(1))
            pyro.sample("x", Bernoulli(logits=pair.decoder(z)).to_event(1), obs=x)

    def reads(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", Normal(x.new_zeros(K), 1.0).to_event(1))
            rate = x.sum(1, keepdim=True) * pair.decoder(z).softmax(-1)
            pyro.sample("x", Poisson(rate + 1e-3).to_event(1), obs=x)

    def renamed(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("other", Normal(x[:, :K], 1.0).to_event(1))

    for model, guide, message in [
        (pair.model, lognormal, "guide: got a LogNormal of shape"),
        (hierarchy, pair.guide, "the latent site 'scale' besides 'z'"),
        (moved, pair.guide, "a prior of the site 'z' that is not the same"),
        (reads, pair.guide, "a likelihood that changes with the data"),
        (pair.model, renamed, "no site 'other'"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            from_pyro(model, guide, X)
    with pytest.raises(InvalidArgumentError, match=r"site: got 'w'; .*one of \['z'\]"):
        from_pyro(pair.model, pair.guide, X, site="w")
    with pytest.raises(InvalidArgumentError, match="a tensor of at least 2 rows"):
        from_pyro(pair.model, pair.guide, X[0])


def test_scales_that_are_no_weight_of_a_kl_leave_the_spec_assumed() -> None:
    pair = Pair("bernoulli", 0.5)
    guide = pair.guide
    pair.beta = 0.5

    def unscaled(x: Tensor) -> None:
        with poutine.scale(scale=2.0):
            guide(x)

    model = from_pyro(pair.model, unscaled, X)
    assert model.spec_assumed
    assert model.spec.likelihood == "bernoulli"


@pytest.mark.parametrize("how", ["of the distribution", "of each row", "nothing", "of the data"])
def test_a_mask_is_refused_and_one_of_all_is_none(how: str) -> None:
    """pyro's own log density of the site leaves out what is masked, and a decoder's does not."""
    pair = Pair()
    masks = {
        "of the distribution": torch.arange(DIM) < 6,
        "of each row": (X.sum(1) > 5)[:, None].expand(X.shape),
        "nothing": torch.tensor(False),
        "of the data": X > 0.5,
    }

    def masked(mask: Tensor) -> Any:
        def model(x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", Normal(x.new_zeros(K), 1.0).expand([K]).to_event(1))
                likelihood = Bernoulli(logits=pair.decoder(z), validate_args=False)
                pyro.sample("x", likelihood.mask(mask).to_event(1), obs=x)

        return model

    with pytest.raises(InvalidArgumentError, match="a mask at the site 'x'"):
        from_pyro(masked(masks[how]), pair.guide, X)
    model = from_pyro(masked(torch.tensor(True)), pair.guide, X)
    z = torch.zeros(len(X), K)
    theirs = Bernoulli(logits=pair.decoder(z)).log_prob(X).sum()
    torch.testing.assert_close(model.decode(z).log_prob(X).sum(), theirs)

    def of_rows(x: Tensor) -> None:
        with poutine.mask(mask=torch.arange(len(x)) > 3):
            pair.model(x)

    with pytest.raises(InvalidArgumentError, match="a mask at the site 'z'"):
        from_pyro(of_rows, pair.guide, X)


def test_what_other_sites_add_is_said_to_be_left_out() -> None:
    pair = Pair()

    def model(x: Tensor) -> None:
        pair.model(x)
        pyro.factor("penalty", -pair.decoder.weight.square().sum())
        pyro.sample("label", Normal(0.0, 1.0), obs=torch.tensor(0.5))

    found = from_pyro(model, pair.guide, X, observed="x")
    assert found.notes == ["what these sites add to the objective is left out: penalty, label"]
    assert not from_pyro(pair.model, pair.guide, X).notes


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_what_a_std_is_does_not_hang_on_how_it_is_looked_at(around: Any) -> None:
    """One that trains is learned without gradients too; fixed ones of each feature are no one's."""
    learned = Pair("learned")
    with around():  # rows that are read in it are tensors of inference mode themselves
        assert from_pyro(learned.model, learned.guide, X.clone()).spec.eta_dec == "learned"
    pair, stds = Pair(), torch.linspace(0.5, 2, DIM)
    pair.likelihood = lambda output: Normal(output, stds)
    model = from_pyro(pair.model, pair.guide, X)
    assert model.spec.likelihood == "other"
    found = pc.diagnose(model, X)
    assert found.loss is not None
    assert not any("eta_dec" in note for note in found.notes)


def test_rows_in_double_precision_and_functions_of_more() -> None:
    pair = Pair()
    model = from_pyro(pair.model, pair.guide, X.double())
    torch.testing.assert_close(model.posterior(1, X).mean, wrapped().posterior(1, X).mean)

    def annealed(x: Tensor, weight: float) -> None:
        pair.model(x)

    with pytest.raises(InvalidArgumentError, match=r"model: got TypeError .*'weight'.*lambda x: "):
        from_pyro(annealed, pair.guide, X)
