"""Losses, distributions and draws of every likelihood against torch and scipy, in float64."""

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.distributions import Bernoulli, NegativeBinomial, OneHotCategorical, Poisson

import posterior_collapse as pc
from posterior_collapse.diagnosis.scores import scored
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import (
    OneHots,
    build,
    check_convention,
    load_parameters,
    loss,
    read_parameters,
    rebuild,
    set_biases,
    trained_parameters,
)
from posterior_collapse.models.likelihoods import draw, log_prob, observation_of

F64 = torch.float64
CLASSES = (3, 3, 2, 4)
SPECS = {
    "bernoulli": pc.VAESpec(2, likelihood="bernoulli"),
    "poisson": pc.VAESpec(2, likelihood="poisson"),
    "negative-binomial": pc.VAESpec(2, likelihood="negative-binomial"),
    "negative-binomial, fixed": pc.VAESpec(2, likelihood="negative-binomial", dispersion=2.5),
    "categorical": pc.VAESpec(2, likelihood="categorical"),
}
DIM = sum(CLASSES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def head(name, dim=DIM, dtype=F64):
    """The likelihood's observation, of dispersions that are not where they start."""
    found = observation_of(SPECS[name], dim, CLASSES if dim == DIM else None).to(dtype)
    if name == "negative-binomial":
        with torch.no_grad():
            found.dispersion.log.copy_(torch.linspace(-2, 6, dim))
    return found


def targets(name, rows=7):
    if name == "categorical":
        each = [
            torch.randint(width, (rows,), generator=generator(i)) for i, width in enumerate(CLASSES)
        ]
        return torch.cat(
            [torch.eye(w, dtype=F64)[c] for w, c in zip(CLASSES, each, strict=True)], 1
        )
    uniform = torch.rand(rows, DIM, generator=generator(), dtype=F64)
    return (
        (uniform < 0.5).to(F64) if name == "bernoulli" else torch.poisson(8 * uniform, generator())
    )


def outputs(*shape):
    return torch.randn(*shape, DIM, generator=generator(1), dtype=F64)


def by_scipy(name, output, y):
    """-log p(y|z) with every constant, (rows,)."""
    output, y = output.numpy(), y.numpy()
    if name == "bernoulli":
        return -stats.bernoulli.logpmf(y, special.expit(output)).sum(1)
    if name == "poisson":
        return -stats.poisson.logpmf(y, np.exp(output)).sum(1)
    if name == "categorical":
        cuts = np.cumsum(CLASSES)[:-1]
        parts = zip(np.split(output, cuts, 1), np.split(y, cuts, 1), strict=True)
        return -sum((b * special.log_softmax(a, 1)).sum(1) for a, b in parts)
    r = head(name).r.detach().numpy()
    return -stats.nbinom.logpmf(y, r, r / (r + np.exp(output))).sum(1)


def left_out(name, y):
    """What the data alone decide, (rows,): log y!, and with a fixed r its Gamma functions."""
    if name in ("bernoulli", "categorical"):
        return 0.0
    y = y.numpy()
    found = special.gammaln(y + 1)
    if name == "negative-binomial, fixed":
        found -= special.gammaln(2.5 + y) - special.gammaln(2.5) - y * np.log(2.5)
    return found.sum(1)


@pytest.mark.parametrize("name", SPECS)
def test_the_loss_is_the_negative_log_density_but_for_what_the_data_decide(name) -> None:
    y, output = targets(name), outputs(7)
    observation = head(name)
    density = by_scipy(name, output, y)
    found = observation.loss(output, y).detach()
    np.testing.assert_allclose(found, density - left_out(name, y), rtol=1e-11, atol=1e-9)
    p = observation.distribution(output)
    np.testing.assert_allclose(-p.log_prob(y).sum(-1).detach(), density, rtol=1e-12)
    # Samples in front of the rows share their targets.
    many = observation.loss(outputs(3, 7), y)
    assert many.shape == (3, 7)
    assert observation.distribution(outputs(3, 7)).log_prob(y).shape == (3, 7, DIM)
    torch.testing.assert_close(many[0], observation.loss(outputs(3, 7)[0], y))


@pytest.mark.parametrize("name", SPECS)
def test_slopes_along_the_output_and_the_dispersion(name) -> None:
    """Autograd has none of its own here: finite differences tell, and of the output torch's."""
    observation, y = head(name), targets(name)
    output = outputs(7).requires_grad_()
    parameters = dict(observation.named_parameters())

    def rows(output, *values):
        state = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(_Loss(observation), _named(state), (output, y))

    start = [p.detach().clone().requires_grad_() for p in parameters.values()]
    assert torch.autograd.gradcheck(rows, (output, *start))
    (mine,) = torch.autograd.grad(observation.loss(output, y).sum(), output)
    log_density = observation.distribution(output).log_prob(y).sum()
    (torchs,) = torch.autograd.grad(-log_density, output)
    torch.testing.assert_close(mine, torchs)


class _Loss(torch.nn.Module):
    def __init__(self, observation):
        super().__init__()
        self.observation = observation

    def forward(self, output, y):
        return self.observation.loss(output, y)


def _named(state):
    return {f"observation.{name}": value for name, value in state.items()}


def test_bernoulli_targets_may_be_soft() -> None:
    y, output = (
        torch.rand(5, 200, generator=generator(), dtype=F64),
        outputs(5).repeat(1, 17)[:, :200],
    )
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output, y, reduction="none")
    observation = head("bernoulli", 200)
    torch.testing.assert_close(observation.loss(output, y), expected.sum(1))
    torch.testing.assert_close(-observation.distribution(output).log_prob(y), expected)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    ("name", "extremes"),
    [
        ("bernoulli", (-1e30, -1e4, 1e4, 1e30)),
        ("categorical", (-1e30, -1e4, 1e4, 1e30)),
        ("poisson", (-1e30, -1e4, 80.0)),
        ("negative-binomial", (-1e30, -1e4, 80.0, 1e4)),
        ("negative-binomial, fixed", (-1e30, -1e4, 80.0, 1e4)),
    ],
)
def test_loss_and_slopes_are_finite_at_extreme_outputs(name, extremes, dtype) -> None:
    observation, y = head(name, dtype=dtype), targets(name).to(dtype)
    for extreme in extremes:
        output = outputs(7).to(dtype)
        output[:, ::2] = extreme
        output.requires_grad_()
        loss = observation.loss(output, y).sum()
        slopes = torch.autograd.grad(loss, [output, *observation.parameters()])
        assert bool(loss.isfinite())
        assert all(bool(slope.isfinite().all()) for slope in slopes)


@pytest.mark.parametrize("logit", [-120.0, 120.0])
def test_counts_of_odds_beyond_single_precision_have_a_likelihood_and_slopes(logit) -> None:
    logits, r = (torch.tensor(value, requires_grad=True) for value in (logit, 2.0))
    found = log_prob(NegativeBinomial(r, logits=logits), torch.tensor([0.0, 3.0]))
    theirs = torch.tensor([-2 * max(logit, 0.0), 3 * min(logit, 0.0) - 2 * max(logit, 0.0)])
    # (r + y - 1)! / y! / (r - 1)! = 4
    torch.testing.assert_close(found, theirs + torch.tensor([0.0, np.log(4.0)]).float())
    slopes = torch.autograd.grad(found.sum(), (logits, r))
    assert float(slopes[0]) == pytest.approx(3.0 if logit < 0 else -4.0, rel=1e-5)
    assert bool(slopes[1].isfinite())


@pytest.mark.parametrize("r", [1e-3, 0.5, 20.0, 1e4, 1e6, 1e9, 1e20])
def test_counts_of_any_dispersion_keep_their_digits_in_single_precision(r) -> None:
    """Gamma functions of r lose them all: at 10^6 they are known to half a nat."""
    counts, mean = np.array([0.0, 1.0, 3.0, 30.0, 400.0]), np.array([3.0, 3.0, 3.0, 20.0, 500.0])
    output = torch.tensor(np.log(mean), dtype=torch.float32)
    spec = pc.VAESpec(2, likelihood="negative-binomial", dispersion=r)
    p = observation_of(spec, 5, None).distribution(output)
    y = torch.tensor(counts, dtype=torch.float32)
    expected = stats.nbinom.logpmf(counts, r, 1 / (1 + mean / r))
    if r > 1e9:  # of which scipy has no digits either
        expected = stats.poisson.logpmf(counts, mean)
    assert log_prob(p, y).numpy() == pytest.approx(expected, rel=1e-5, abs=1e-3)
    found = scored(p, y)
    assert float(found.log_density) == pytest.approx(expected.sum(), abs=1e-3)
    left_out = found.log_density + observation_of(spec, 5, None).loss(output, y)
    assert float(found.data) == pytest.approx(float(left_out), abs=1e-3)


def test_a_wide_row_of_sure_and_unsure_logits_keeps_its_digits() -> None:
    """The logs of 784 probabilities are taken of products, which must not underflow."""
    logits = torch.cat([torch.zeros(700), torch.full((84,), 30.0)])[None]
    y = torch.zeros(1, 784)
    found = head("bernoulli", 784, torch.float32).loss(logits, y)
    assert found.item() == pytest.approx(700 * np.log(2) + 84 * 30, rel=1e-6)


def test_a_dispersion_from_0_to_infinity_is_between_extremes_that_are_known() -> None:
    y = torch.tensor([[0.0, 1.0, 4.0, 30.0, 900.0]], dtype=F64)
    output = torch.tensor([[-1.0, 0.5, 1.0, 3.0, 7.0]], dtype=F64)
    observation = head("negative-binomial", 5)
    poisson = head("poisson", 5).loss(output, y)
    with torch.no_grad():
        for log_r in (-30.0, -3.0, 0.0, 3.0, 12.0):
            observation.dispersion.log.fill_(log_r)
            r = float(np.clip(np.exp(log_r), 1e-6, 1e6))
            exact = stats.nbinom.logpmf(y.numpy(), r, r / (r + np.exp(output.numpy()))).sum()
            exact += special.gammaln(y.numpy() + 1).sum()
            # scipy's own digits are those of Gamma functions of 10^5.
            assert observation.loss(output, y).item() == pytest.approx(-exact, rel=1e-9)
        # A Poisson's: for single precision too, to which Gamma functions of r have no digits left.
        for dtype, log_r in ((F64, 60.0), (torch.float32, 60.0)):
            observation.to(dtype).dispersion.log.fill_(log_r)
            found = observation.loss(output.to(dtype), y.to(dtype))
            assert found.item() == pytest.approx(poisson.item(), rel=1e-3)


# Distributions


def test_distributions_are_torchs() -> None:
    output = outputs(7)
    for name, kind in (
        ("bernoulli", Bernoulli),
        ("poisson", Poisson),
        ("negative-binomial", NegativeBinomial),
    ):
        p = head(name).distribution(output)
        assert isinstance(p, kind)
        assert p.batch_shape == (7, DIM)
    torch.testing.assert_close(head("bernoulli").distribution(output).mean, output.sigmoid())
    torch.testing.assert_close(head("poisson").distribution(output).mean, output.exp())
    r = head("negative-binomial").r
    p = head("negative-binomial").distribution(output)
    torch.testing.assert_close(p.mean, output.exp() + 0 * r)
    torch.testing.assert_close(p.variance, output.exp() + output.exp().square() / r)


def test_one_hots_are_categoricals_side_by_side() -> None:
    logits, y = outputs(2, 7)[..., :12], targets("categorical")
    logits = logits[..., :6]
    y = y[:, :6]
    p, theirs = OneHots(logits, (3, 3)), OneHotCategorical(logits=logits.unflatten(-1, (2, 3)))
    torch.testing.assert_close(p.mean, theirs.mean.flatten(-2))
    torch.testing.assert_close(p.variance, theirs.variance.flatten(-2))
    log_p = theirs.log_prob(y.unflatten(-1, (2, 3)))
    torch.testing.assert_close(p.log_prob(y).sum(-1), log_p.sum(-1))
    torch.testing.assert_close(p.logits.exp(), p.probs)
    assert p.batch_shape == logits.shape


@pytest.mark.parametrize("name", SPECS)
def test_draws_have_the_mean_and_variance_of_their_distribution(name) -> None:
    n = 40_000
    p = head(name).distribution(outputs(1).expand(n, DIM))
    with torch.no_grad():
        drawn, mean, variance = draw(p, generator(3)), p.mean[0], p.variance[0]
        again = draw(p, generator(3))
    assert torch.equal(drawn, again)
    assert drawn.shape == (n, DIM)
    # Within five standard errors; the fourth moment is at most that of a geometric, 9 variances^2,
    # and of the smallest r here, 1/7, sixty.
    error = 5 * (variance / n).sqrt()
    assert bool(((drawn.mean(0) - mean).abs() < error).all())
    assert bool(((drawn.var(0) / variance - 1).abs() < 5 * (80 / n) ** 0.5).all())
    if name == "categorical":
        sums = torch.stack([part.sum(1) for part in torch.split(drawn, list(CLASSES), 1)])
        assert bool((sums == 1).all())
    else:
        assert torch.equal(drawn, drawn.round())


# Models


def model_of(name, architecture="mlp", **options):
    return build(SPECS[name], architecture, x_dim=DIM, classes=CLASSES, dtype=F64, **options)


@pytest.mark.parametrize("name", SPECS)
def test_a_models_terms_are_its_distributions(name) -> None:
    model, y = model_of(name), targets(name)
    noise = model.draw_noise(7, generator(5), F64)
    terms = model(y, None, noise)
    q = model.posterior(1, y)
    p = model.decode(q.mean + q.stddev * noise[0])
    expected = -p.log_prob(y).sum(-1).detach().numpy() - left_out(name, y)
    np.testing.assert_allclose(terms.squared_error.detach() / 2, expected, rtol=1e-11, atol=1e-9)
    assert (terms.eta_dec.item(), terms.normaliser.item()) == (1.0, 0.0)
    value = loss(terms, [2.0])
    np.testing.assert_allclose(
        value.item(), expected.mean() + 2 * terms.kl[0].sum(1).mean().item(), rtol=1e-11
    )
    value.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", SPECS)
def test_what_models_decode(name) -> None:
    model, y = model_of(name), targets(name)
    with torch.no_grad():
        p = model.decode(torch.randn(3, 7, 2, generator=generator(), dtype=F64))
        means = (p.mean, model.sample(5, generator()), model.reconstruct(y))
        drawn = model.sample(5, generator(), noise=True)
    assert [tuple(mean.shape) for mean in means] == [(3, 7, DIM), (5, DIM), (7, DIM)]
    for mean in means:
        assert bool((mean >= 0).all())
        if name in ("bernoulli", "categorical"):
            assert bool((mean <= 1).all())
    assert torch.equal(drawn, drawn.round())
    terms = model.log_terms(model.infer(y, generator=generator()), y)
    assert terms.decoder.shape == (7,)


@pytest.mark.parametrize("name", SPECS)
def test_a_config_makes_the_same_model(name) -> None:
    model = model_of(name)
    again = rebuild(model.config)
    again.load_state_dict(model.state_dict())
    assert again.config == model.config
    assert ("classes" in model.config) == (name == "categorical")
    z = torch.randn(4, 2, generator=generator(), dtype=F64)
    assert torch.equal(again.decode(z).mean, model.decode(z).mean)
    names = [n for n, _ in model.named_parameters() if "dispersion" in n]
    assert names == ["observation.dispersion.log"] * (name == "negative-binomial")


def test_a_hierarchys_eta_dec_is_that_of_its_upper_level_alone() -> None:
    x = (torch.rand(6, 9, generator=generator(), dtype=F64) < 0.5).to(F64)
    values = []
    for eta_dec in (0.4, 0.8):
        spec = pc.HVAESpec((3, 2), eta_dec=eta_dec, likelihood="bernoulli")
        model = build(spec, "mlp", x_dim=9, dtype=F64)
        assert model.prior(1, torch.zeros(2, dtype=F64)).stddev.tolist() == [eta_dec] * 3
        terms = model(x, None, model.draw_noise(6, generator(), F64))
        values.append((terms.squared_error, terms.kl[0], terms.kl[1]))
    (error, below, above), (same_error, other_below, same_above) = values
    assert torch.equal(error, same_error)
    assert torch.equal(above, same_above)
    assert not torch.allclose(below, other_below)
    learned = pc.HVAESpec((3, 2), eta_dec="learned", likelihood="bernoulli")
    assert build(learned, "mlp", x_dim=9).eta_dec.learned


def test_a_linear_model_starts_at_the_constant_of_the_datas_means() -> None:
    spec = SPECS["bernoulli"]
    model = build(spec, "linear", x_dim=3, dtype=F64)
    mean = torch.tensor([0.0, 0.25, 1.0], dtype=F64)
    set_biases(model, mean)
    with torch.no_grad():
        logits = model.decode(model.posterior(1, mean[None]).mean).logits[0]
    np.testing.assert_allclose(logits, [-30, np.log(1 / 3), 30], rtol=1e-12)
    found = read_parameters(model)
    assert "eta_dec" not in found
    load_parameters(model, found)
    x = (np.random.default_rng(0).random((200, 3)) < [0.2, 0.5, 0.9]).astype(float)
    load_parameters(model, pc.forecast(x, spec).parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: build(pc.VAESpec(2, likelihood="other"), "mlp", x_dim=3),
            "likelihood: got 'other' for a model to train",
        ),
        (
            lambda: build(SPECS["categorical"], "mlp", x_dim=5, classes=(2, 2)),
            "classes: got 4 in all; expected 5",
        ),
        (
            lambda: build(SPECS["bernoulli"], "mlp", x_dim=3, output="sigmoid"),
            "output: got 'sigmoid' with likelihood 'bernoulli'; expected 'identity'",
        ),
        (
            lambda: build(pc.HVAESpec((2, 2), likelihood="bernoulli"), "hvae-relu", x_dim=3),
            "output: got 'tanh'",
        ),
        (
            lambda: check_convention("reference", SPECS["bernoulli"]),
            "convention: got 'reference' with likelihood 'bernoulli'",
        ),
        (
            lambda: check_convention("twice", SPECS["poisson"]),
            "convention: got 'twice' with likelihood 'poisson'",
        ),
        (
            lambda: trained_parameters(build(SPECS["bernoulli"], "linear", x_dim=3)),
            "likelihood: got 'bernoulli'; expected 'gaussian', of which alone the noise",
        ),
        (lambda: draw(torch.distributions.Laplace(0.0, 1.0), generator()), "noise: got True"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
