import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import (
    CONVENTIONS,
    Terms,
    build,
    capacity,
    check_convention,
    check_warm_up,
    cyclical,
    exact_terms,
    linear_values,
    load_parameters,
    loss,
    read_parameters,
    trained_parameters,
    warm_up,
)
from posterior_collapse.models.layers import Gaussian, kl_divergence, relative_entropy
from posterior_collapse.moments import Moments
from posterior_collapse.specs import ChainSpec, CVAESpec, HVAESpec, VAESpec
from posterior_collapse.theory import ExactObjective

F64 = torch.float64
INSTANCES = {
    instance["id"]: instance
    for instance in json.loads(
        Path(__file__).with_name("test_objective_instances.json").read_text()
    )
}


def tensor(*values):
    return torch.tensor(values, dtype=F64)


TERMS = Terms(
    squared_error=tensor(2.0, 6.0),
    eta_dec=torch.tensor(0.5, dtype=F64),
    normaliser=torch.tensor(1.25, dtype=F64),
    kl=(
        torch.tensor([[0.1, 1.0], [0.3, 3.0]], dtype=F64),  # means .2, 2
        torch.tensor([[0.5], [-0.1]], dtype=F64),  # mean .2
    ),
    means=(torch.zeros(2, 2, dtype=F64), torch.zeros(2, 1, dtype=F64)),
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 4 / (2 * 0.25) + 1.25 + 2 * 2.2 + 3 * 0.2),
        ({"convention": "reference"}, 4 / 0.25 + 2 * 2.2 + 3 * 0.2),
        ({"convention": "twice"}, 4 / 0.25 + 2 * (2 * 2.2 + 3 * 0.2)),
        ({"free_bits": 0.5}, 9.25 + 2 * (0.5 + 2.0) + 3 * 0.5),
        ({"free_bits": 0.0}, 9.25 + 2 * 2.2 + 3 * 0.2),
        ({"capacity": 1.0}, 9.25 + 2 * 1.2 + 3 * 0.8),
        ({"capacity": (5.0, 0.0)}, 9.25 + 2 * 2.8 + 3 * 0.2),
        ({"capacity": tensor(5.0, 0.0), "free_bits": tensor(0.5)[0]}, 9.25 + 2 * 2.5 + 3 * 0.5),
    ],
)
def test_losses_by_hand(options, expected):
    for betas in ([2.0, 3.0], tensor(2.0, 3.0)):
        assert loss(TERMS, betas, **options).item() == pytest.approx(expected, rel=1e-14)


def test_free_bits_leave_a_unit_below_them_alone():
    kl = TERMS.kl[0].clone().requires_grad_()
    value = loss(TERMS._replace(kl=(kl, TERMS.kl[1])), [2.0, 3.0], free_bits=0.5)
    (gradient,) = torch.autograd.grad(value, kl)
    assert gradient.tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_twice_is_twice_the_elbo_but_for_the_normaliser():
    elbo = loss(TERMS, [2.0, 3.0])
    twice = loss(TERMS, [2.0, 3.0], convention="twice")
    assert twice.item() == pytest.approx(2 * (elbo - TERMS.normaliser).item())


def test_misuse_is_refused():
    with pytest.raises(InvalidArgumentError, match="convention"):
        loss(TERMS, [1.0, 1.0], convention="elob")
    with pytest.raises(InvalidArgumentError, match="elbo"):
        check_convention("elob", VAESpec(latent_dim=2))
    with pytest.raises(InvalidArgumentError, match="one beta per level"):
        loss(TERMS, [1.0])
    with pytest.raises(InvalidArgumentError, match="learned"):
        check_convention("reference", VAESpec(latent_dim=2, eta_dec="learned"))
    assert check_convention("reference", VAESpec(latent_dim=2)).normaliser == 0


def test_gaussian_divergences_are_torchs():
    generator = torch.Generator().manual_seed(0)
    m1, m2, s1, s2 = torch.randn(4, 6, 3, generator=generator, dtype=F64)
    q, p = Gaussian(m1, s1.exp()), Gaussian(m2, s2.exp())
    normals = [torch.distributions.Normal(*g) for g in (q, p)]
    torch.testing.assert_close(kl_divergence(q, p), torch.distributions.kl_divergence(*normals))
    z = q.at(torch.randn(6, 3, generator=generator, dtype=F64))
    torch.testing.assert_close(
        relative_entropy((z - m2).square(), q.std, p.std),
        -normals[0].entropy() - normals[1].log_prob(z),
    )


GRADCHECKED = {
    "vae": (VAESpec(latent_dim=2, eta_dec="learned"), "linear"),
    "vae shared": (VAESpec(latent_dim=2, sigma="shared", eta_dec=0.6), "linear"),
    "cvae": (CVAESpec(latent_dim=2, eta_dec="learned"), "linear"),
    "hvae": (HVAESpec(latent_dims=(2, 2), sigma_1="learned", eta_dec="learned"), "linear"),
    "chain": (
        ChainSpec(latent_dims=(2, 1, 2), betas=(1, 1, 1), eta_decs=(0.4, 0.5, 0.6)),
        "linear",
    ),
    "mlp": (HVAESpec(latent_dims=(2, 2), sigma_1="input", sigma_2="input"), "mlp"),
    "cvae-linear-net": (
        CVAESpec(latent_dim=2, sigma="input", eta_dec="learned"),
        "cvae-linear-net",
    ),
}
OBJECTIVES = {
    "elbo": {},
    "twice": {"convention": "twice"},
    "free bits": {"free_bits": 0.3},
    "capacity": {"capacity": 50.0},
}


def small(name):
    spec, architecture = GRADCHECKED[name]
    options = {"hidden": (3,)} if architecture != "linear" else {}
    if architecture == "mlp":
        options["activation"] = "tanh"
    y_dim = 2 if spec.model == "cvae" else None
    model = build(spec, architecture, x_dim=3, y_dim=y_dim, dtype=F64, **options)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 3, generator=generator, dtype=F64)
    y = torch.randn(3, 2, generator=generator, dtype=F64) if y_dim else None
    return model, x, y, model.draw_noise(3, generator, F64)


def check_gradients(model, terms_of):
    names = [name for name, _ in model.named_parameters()]
    start = [p.detach().clone().requires_grad_() for p in model.parameters()]

    def outputs(*values):
        terms = terms_of(dict(zip(names, values, strict=True)))
        losses = [loss(terms, model.spec.beta_levels, **o) for o in OBJECTIVES.values()]
        return (terms.squared_error, terms.eta_dec + 0 * losses[0], *terms.kl, *losses)

    assert torch.autograd.gradcheck(outputs, start)


@pytest.mark.parametrize("name", GRADCHECKED)
def test_gradients_of_sampled_terms(name):
    model, x, y, noise = small(name)
    check_gradients(model, lambda state: functional_call(model, state, (x, y, noise)))


LINEAR = [name for name, (_, architecture) in GRADCHECKED.items() if architecture == "linear"]


@pytest.mark.parametrize("name", LINEAR)
def test_gradients_of_exact_terms(name):
    model, x, y, _ = small(name)
    buffers = dict(model.named_buffers())
    check_gradients(model, lambda s: exact_terms(linear_values(model, {**buffers, **s}), x, y))


@pytest.mark.parametrize("convention", ["elbo", "reference", "twice"])
@pytest.mark.parametrize("name", LINEAR)
def test_the_objective_on_moments_is_the_average_over_samples(name, convention):
    """Value and gradient by every parameter, against autograd on the samples."""
    model, x, y, _ = small(name)
    spec = model.spec
    for p in (model.encoders[0].mean["x"], model.decoders[0].heads["z"]):
        torch.nn.init.zeros_(p.bias)
    value = loss(exact_terms(linear_values(model), x, y), spec.beta_levels, convention=convention)
    moments = Moments.from_arrays(*(None if a is None else a.numpy() for a in (x, y)), center=False)
    objective = ExactObjective(moments, spec, CONVENTIONS[convention])
    found = read_parameters(model)
    mine, gradient = objective.loss_and_gradient(found)
    assert mine == pytest.approx(value.item(), rel=1e-12)
    for name, p in trained_parameters(model).items():
        (expected,) = torch.autograd.grad(value, [p], retain_graph=True)
        by = gradient[name] * (found[name] if name[0] not in "WU" else 1.0)  # of stds, by the log
        by = by if p.dim() else by.sum()
        np.testing.assert_allclose(by, expected, rtol=1e-10, atol=1e-12)


def modes(xx, yx):
    """Theta, left and whitened right singular vectors of `E yx' (E xx')^(-1/2)`."""
    values, vectors = np.linalg.eigh(xx)
    kept = values > 1e-10 * values[-1]  # some problems have idle directions
    vectors = vectors[:, kept]
    whitening = vectors / np.sqrt(values[kept]) @ vectors.T
    p, theta, q = np.linalg.svd(yx @ whitening, full_matrices=False)
    return theta, p, q @ whitening


def single_level(xx, yx, dim, beta, eta_dec, eta_enc):
    """Theorem 1: encoder and decoder of the VAE whose units take the strongest modes."""
    theta, p, q = modes(xx, yx)
    W, U, sigma = np.zeros((dim, len(xx))), np.zeros((len(yx), dim)), np.full(dim, eta_enc)
    for i in range(min(dim, len(theta))):
        if (excess := theta[i] ** 2 - beta * eta_dec**2) > 0:
            W[i] = eta_enc / theta[i] * math.sqrt(excess) * q[i]
            U[:, i] = math.sqrt(excess) / eta_enc * p[:, i]
            sigma[i] = math.sqrt(beta) * eta_enc * eta_dec / theta[i]
    return {"W1": W, "U1": U, "sigma_1": sigma}


def of_vae(xx, yx, yy, h):
    spec = VAESpec(h["d1"], beta=h["beta"], eta_dec=h["eta_dec"], eta_enc=h["eta_enc"])
    return spec, single_level(xx, yx, h["d1"], h["beta"], h["eta_dec"], h["eta_enc"])


def of_cvae(xx, yx, yy, h):
    spec = CVAESpec(h["d1"], beta=h["beta"], eta_dec=h["eta_dec"], eta_enc=h["eta_enc"])
    K = yx @ np.linalg.pinv(xx, hermitian=True)
    E = yy - K @ yx.T
    found = single_level(E, E, h["d1"], h["beta"], h["eta_dec"], h["eta_enc"])
    W2 = found.pop("W1")
    return spec, {**found, "W1": -W2 @ K, "W2": W2, "U2": K}


def of_hvae(xx, yx, yy, h):
    s1, s2, eta = h["sigma1"][0], h["sigma2"][0], h["eta_dec"]
    b1, b2 = h["beta1"], h["beta2"]
    spec = HVAESpec(
        (h["d1"], h["d2"]), (b1, b2), eta_dec=eta, eta_enc=h["eta_enc"], sigma_1=s1, sigma_2=s2
    )
    theta, p, q = modes(xx, yx)
    theta, p, q = theta[: h["d1"]], p[:, : h["d1"]], q[: h["d1"]]
    a = theta * s1 / math.sqrt(b1)
    kappa = math.sqrt(b2 / b1) * eta / h["eta_enc"] * s2
    s = np.maximum.reduce([np.full_like(a, s1**2), a, (a**2 / kappa) ** (2 / 3)])
    lam, room = np.sqrt(s - s1**2), np.maximum(np.sqrt(s) - kappa, 0)
    return spec, {
        "W1": lam[:, None] * q,
        "U1": p * (theta * lam / s),
        "W2": np.diag(s2 * np.sqrt(room / kappa / s)),
        "U2": np.diag(np.sqrt(kappa * room) / s2),
        "sigma_1": np.full(h["d1"], s1),
        "sigma_2": np.full(h["d2"], s2),
    }


def of_chain(xx, yx, yy, h):
    d, etas = h["dims"], h["etas"]
    spec = ChainSpec(tuple(d), tuple(h["betas"]), tuple(etas), eta_enc=h["eta_enc"])
    bottom = single_level(xx, yx, d[0], h["betas"][0], etas[0], etas[1])
    return spec, {
        **bottom,
        "W2": np.zeros((d[1], d[0])), "U2": np.zeros((d[0], d[1])),
        "W3": np.zeros((d[2], d[1])), "U3": np.zeros((d[1], d[2])),
        "sigma_2": np.full(d[1], etas[2]), "sigma_3": np.full(d[2], h["eta_enc"]),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("instance", "optimum"),
    [
        ("vae_learn_05", of_vae),
        ("vae_learn_07", of_vae),
        ("cvae_learn_03", of_cvae),
        ("mh_iso_iso_01", of_hvae),
        ("chain_L3_0", of_chain),
    ],
)
def test_verified_optima_have_their_loss_and_no_gradient(instance, optimum):
    problem = INSTANCES[instance]
    xx, yx, yy = (np.array(problem[key]) for key in ("xx", "yx", "yy"))
    spec, parameters = optimum(xx, yx, yy, problem["hyper"])
    model = build(spec, "linear", x_dim=len(xx), y_dim=len(yy), dtype=F64, bias=False)
    load_parameters(model, parameters)
    objective = ExactObjective(Moments.from_matrices(xx, yx, yy), spec)
    value, gradient = objective.loss_and_gradient(read_parameters(model))
    assert value == pytest.approx(problem["nelbo"], abs=1e-9)
    fixed = {f"sigma_{i}" for i, s in enumerate(spec.sigma_levels, 1) if s != "learned"}
    assert max(abs(g).max() for name, g in gradient.items() if name not in fixed) < 1e-7


def test_warm_up_rises_linearly_to_one():
    assert [warm_up(s, 5) for s in (0, 1, 4, 5, 6, 100)] == [0, 0.2, 0.8, 1, 1, 1]
    assert warm_up(0, 0) == 1


def test_warm_up_of_a_sweep_has_one_length_per_run():
    lengths = torch.tensor([0, 4, 8])
    assert warm_up(2, lengths).tolist() == [1.0, 0.5, 0.25]
    assert warm_up(torch.tensor(6), lengths).tolist() == [1.0, 1.0, 0.75]
    assert warm_up(torch.tensor(0), 0).item() == 1.0


def test_cycles_ramp_and_stay():
    steps = range(11)
    expected = [0, 0.4, 0.8, 1, 1, 0, 0.4, 0.8, 1, 1, 1]
    assert [cyclical(s, 10, cycles=2) for s in steps] == pytest.approx(expected)
    together = cyclical(torch.arange(11), 10, cycles=2)
    assert together.tolist() == pytest.approx(expected)
    assert [cyclical(s, 4, cycles=1, ramp=1.0) for s in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_every_cycle_starts_at_zero():
    for total, cycles in ((1000, 10), (300, 3), (700, 7)):
        starts = [round(total / cycles) * c for c in range(cycles)]
        assert [cyclical(s, total, cycles=cycles) for s in starts] == [0.0] * cycles


def test_capacity_grows_to_its_target():
    assert [capacity(s, 4, 10.0) for s in (0, 2, 4, 9)] == [0, 5, 10, 10]
    targets = torch.tensor([10.0, 20.0])
    assert capacity(1, 4, targets).tolist() == [2.5, 5.0]


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"501 steps in a run of 500.*warm_up=500"):
        check_warm_up(501, 500)
    with pytest.raises(InvalidArgumentError, match="capacity_steps"):
        check_warm_up(-1, 500, "capacity_steps")
    check_warm_up(500, 500)
    check_warm_up(0, 0)


@pytest.mark.parametrize("options", [{"cycles": 0}, {"cycles": 9}, {"ramp": 0.0}, {"ramp": 1.5}])
def test_impossible_cycles_are_refused(options):
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        cyclical(0, 8, **options)
