"""What one more unit would gain, in nats, against optima with and without that unit."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.distributions import Normal
from torch.nn import functional

import posterior_collapse as pc
from planted import Opaque
from posterior_collapse.adapters import from_callable
from posterior_collapse.diagnosis.certificate import Signal
from posterior_collapse.diagnosis.effects import adds_input
from posterior_collapse.diagnosis.gain import Bought, eta_answers, gain_of, priced
from posterior_collapse.models import build, load_parameters
from posterior_collapse.theory.thresholds import idle_cost, unclaimed_signal, unit_gain

X = torch.tensor(pc.load("digits").x, dtype=torch.float32)
UNITS = 4


@pytest.mark.parametrize(
    "spec",
    [
        pc.VAESpec(2, beta=2.0, eta_dec=0.5),
        pc.VAESpec(2, beta=1.5, eta_dec=0.5, eta_enc=2.0, sigma=0.6),
        pc.CVAESpec(2, beta=0.7, eta_dec=0.4),
        pc.HVAESpec((2, 2), (1.0, 30.0), 0.5, 1.0, 0.6, "learned"),
    ],
    ids=["learned", "fixed", "conditional", "hierarchy"],
)
def test_the_gain_of_a_linear_model_is_the_difference_of_two_optima(spec) -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((500, 5)) * [4, 3, 2, 1.5, 0.1]
    data = (y[:, :1] + rng.standard_normal((500, 1)), y) if spec.model == "cvae" else y
    field = "latent_dim" if len(spec.dims) == 1 else "latent_dims"
    more = spec.replace(**{field: 3 if len(spec.dims) == 1 else (3, 2)})
    found = pc.diagnose(pc.fit(spec, data, "linear", exact=True), data)
    lower = found.forecast.loss - pc.forecast(data, more).loss
    assert found.gain == pytest.approx(lower, rel=1e-5)
    assert found.gains[0].parts == 1
    assert found.gain > found.gains[0].worth
    if len(spec.dims) == 1:
        assert f"one more unit would lower the loss by about {found.gain:.2g}" in found.verdict


@pytest.mark.parametrize("sigma_2", ["learned", 0.2, 0.5, 0.9])
@pytest.mark.parametrize("spare", [False, True])
def test_what_z1_gains_and_costs_is_the_difference_of_optima_whatever_z2_hears(sigma_2, spare):
    rng = np.random.default_rng(0)
    for _ in range(60):
        variances = np.sort(rng.gamma(1.5, size=4))[::-1]
        moments = pc.Moments.from_matrices(np.diag(variances))
        betas = rng.choice([0.1, 0.5, 1, 2, 5], 2)
        scales = rng.choice([0.3, 0.8, 1.5]), rng.choice([0.7, 1, 2]), rng.choice([0.2, 0.5, 1.5])
        units = int(rng.integers(1, 4))
        spec = pc.HVAESpec((units, units + spare), betas, *scales, sigma_2)
        more = spec.replace(latent_dims=(units + 1, units + spare))
        lower = pc.forecast(moments, spec).loss - pc.forecast(moments, more).loss
        t = unclaimed_signal(spec, variances[units], spare_above=spare)
        gain = float(unit_gain(spec, t, spare_above=spare))
        assert gain - idle_cost(spec, 1, spare_above=spare) == pytest.approx(lower, abs=1e-9)


def test_what_is_gained_with_eta_dec_learned_is_the_difference_of_optima() -> None:
    """eta_dec falls as a unit explains more: held fixed, the gain is a lower bound."""
    rng = np.random.default_rng(1)
    tried = 0
    for _ in range(200):
        variances = np.sort(rng.gamma(0.7, size=8))[::-1]
        moments = pc.Moments.from_matrices(np.diag(variances))
        units = int(rng.integers(1, 5))
        spec = pc.VAESpec(units, rng.choice([0.5, 1.0, 1.3]), eta_dec="learned")
        one, more = (pc.forecast(moments, spec.replace(latent_dim=units + n)) for n in (0, 1))
        t = unclaimed_signal(spec, variances[units], eta_dec=one.eta_dec)
        left = 8 - spec.beta * one.n_active
        gain = float(Bought(partial(unit_gain, spec), answer=eta_answers(spec.beta, left))(t))
        assert gain == pytest.approx(one.loss - more.loss, abs=1e-9)
        assert gain >= float(unit_gain(spec, t))
        tried += gain > 0.01
    assert tried > 50


def test_a_learned_eta_dec_answers_to_all_parts_that_a_unit_explains_at_once() -> None:
    """Beside the losses at the optimum of eta_dec^2, found by search, with the unit and without."""
    rng, features = np.random.default_rng(4), 30

    def loss(log_eta, beta, heard, error, share, variance):
        floor = beta * math.exp(log_eta)
        t = np.maximum(variance / floor, 1.0)
        # Active units leave beta * eta_dec^2 each of the error; constants of their KL are left out.
        rest = (error - share @ (floor * (t - 1))) / math.exp(log_eta)
        return ((features - beta * heard) * log_eta + rest + beta * share @ np.log(t)) / 2

    compared = 0
    for _ in range(50):
        beta, heard, share = rng.uniform(0.3, 2.0), rng.integers(0, 5), rng.dirichlet(np.ones(6))
        variance = rng.gamma(1.0, 2.0, size=6)
        error = share @ variance + rng.uniform(5.0, 60.0)
        without, more = (
            minimize_scalar(loss, (-9.0, 9.0), args=(beta, heard, error, share, v), tol=1e-12)
            for v in (np.zeros(6), variance)
        )
        left = features - beta * heard
        t = variance / (beta * error / left)
        bought = Bought(partial(unit_gain, pc.VAESpec(1, beta)), answer=eta_answers(beta, left))
        gain = share @ bought(t, share)
        assert share @ bought.held(t) <= gain <= without.fun - more.fun + 1e-9
        if np.all((t > 1) == (variance > beta * math.exp(more.x))):
            assert gain == pytest.approx(without.fun - more.fun, abs=1e-9)
            compared += gain > 1.1 * (share @ bought.held(t))
    assert compared > 5


@pytest.mark.parametrize("sigma", ["learned", "input"])
@pytest.mark.parametrize("beta", [0.7, 1.0])
def test_diagnose_gains_what_two_optima_with_eta_dec_learned_differ_by(beta, sigma) -> None:
    x = np.random.default_rng(3).standard_normal((4000, 6)) * [3, 2, 1.5, 0.6, 0.5, 0.4]
    spec = pc.VAESpec(2, beta, eta_dec="learned", sigma=sigma)
    best = pc.forecast(x, spec)
    names = ("W1", "U1", "b1", "c1", "sigma_1", "eta_dec")
    w, u, b, c, std, eta_dec = (torch.tensor(best.parameters()[name]) for name in names)
    model = from_callable(
        lambda x: Normal(x @ w.T + b, std.expand(len(x), -1)),
        lambda z: Normal(z @ u.T + c, eta_dec),
        latent_dim=2,
        spec=spec,
    )
    found = pc.diagnose(model, torch.tensor(x))
    lower = best.loss - pc.forecast(x, spec.replace(latent_dim=3)).loss
    gain = found.gains[0]
    assert gain.nats == pytest.approx(lower, abs=3 * gain.error)
    assert gain.nats - 5 * gain.error > float(unit_gain(spec, found.signal[0]))


def test_a_shared_sigma_answers_to_one_more_unit() -> None:
    """Which has to have the std of the others: it may cost more than it brings."""
    rng, pays = np.random.default_rng(2), []
    for _ in range(8):
        units = int(rng.integers(1, 4))
        x = rng.standard_normal((1000, 6)) * np.sqrt(np.sort(rng.gamma(0.5, 4.0, size=6))[::-1])
        spec = pc.VAESpec(units, 0.7, eta_dec=0.8, eta_enc=1.5, sigma="shared")
        found = pc.diagnose(pc.fit(spec, x, "linear", exact=True), x)
        lower = found.forecast.loss - pc.forecast(x, spec.replace(latent_dim=units + 1)).loss
        assert found.gain == pytest.approx(max(lower, 0.0), abs=1e-6)
        pays.append(lower > found.gains[0].worth)
        if not pays[-1]:
            assert found.paying_units == (0,)
    assert {*pays} == {True, False}


def test_an_idle_unit_with_the_std_of_the_others_gains_what_the_optimum_lacks() -> None:
    """Its std is paid for already, and lower than if it were its own: less signal will do."""
    x = np.random.default_rng(0).standard_normal((2000, 5))
    x = np.linalg.qr(x - x.mean(axis=0))[0] * math.sqrt(2000) * [3.0, 0.6, 0.1, 0.1, 0.1]
    spec = pc.VAESpec(2, 1.0, eta_dec=0.7, sigma="shared")
    fitted = pc.fit(spec, x * [1, 0, 1, 1, 1], "linear", exact=True)  # of one mode that is seen
    found = pc.diagnose(fitted, x)
    assert (x.std(0)[1] / spec.eta_dec) ** 2 < spec.beta  # a unit of a learned std would not pay
    assert found.levels[0].status == ("active", "collapsed")
    assert found.gain == pytest.approx(found.loss - found.forecast.loss, rel=1e-5)
    assert found.conclusion == "signal-unclaimed"


def test_a_unit_that_costs_more_idle_than_it_gains_does_not_pay() -> None:
    x = np.random.default_rng(0).standard_normal((5000, 4)) * [1.0, 0.8, 0.42, 0.05]
    spec = pc.VAESpec(2, eta_dec=0.5, sigma=0.4)
    found = pc.diagnose(pc.fit(spec, x, "linear", exact=True), x)
    assert pc.forecast(x, spec.replace(latent_dim=3)).loss > found.loss + 0.3
    assert found.signal[0] > 4
    assert found.conclusion == "nothing-to-do"
    assert "one more is not worth it" in found.verdict
    assert pc.forecast(x, spec).advice().text.endswith("3 of the data's 4 modes would keep a unit.")
    # A unit that is there costs that already: it should live.
    dead = build(spec.replace(latent_dim=3), "linear", x_dim=4, dtype=torch.float64)
    made = dict(pc.forecast(x, spec).parameters())
    made |= {"W1": np.vstack([made["W1"], np.zeros(4)]), "b1": np.append(made["b1"], 0.0)}
    made |= {"U1": np.hstack([made["U1"], np.zeros((4, 1))]), "sigma_1": np.full(3, 0.4)}
    load_parameters(dead, made)
    assert pc.diagnose(dead, x).conclusion == "signal-unclaimed"


def test_a_unit_built_by_hand_lowers_the_loss_by_the_predicted_gain() -> None:
    """Digits, BCE, beta 3, onset 3.35: along the top mode, from 27.1103 to 27.1011."""
    spec = pc.VAESpec(1, 3.0, likelihood="bernoulli")
    logits = torch.logit(X.mean(0).double().clamp(1e-9, 1 - 1e-9))
    dead_one = from_callable(
        lambda x: (torch.zeros(len(x), 1), torch.zeros(len(x), 1)),
        lambda z: logits.float().expand(len(z), -1),
        latent_dim=1,
        spec=spec,
    )
    before = pc.diagnose(dead_one, X)
    made = pc.forecast(X.numpy(), spec).parameters()
    W, U = (torch.tensor(made[name], dtype=torch.float32) for name in ("W1", "U1"))
    b, sigma = torch.tensor(made["b1"], dtype=torch.float32), float(made["sigma_1"][0])
    built = from_callable(
        lambda x: (x @ W.T + b, torch.full((len(x), 1), 2 * math.log(sigma))),
        lambda z: logits.float() + z @ U.T,
        latent_dim=1,
        spec=spec,
    )
    after = pc.diagnose(built, X)
    assert before.loss == pytest.approx(27.1103, abs=2e-4)
    lower = before.loss - after.loss
    assert lower == pytest.approx(0.0094, abs=0.003)
    assert before.gain == pytest.approx(lower, abs=before.gain_error)


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_data_without_structure_promise_no_gain(tails) -> None:
    """A linear optimum: every part of latent space leaves the same, below the threshold."""
    claims = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        z = rng.standard_normal((1200, 12))
        if tails == "heavy":
            z = rng.standard_t(5, z.shape) * math.sqrt(3 / 5)
        x = z * np.r_[3, 2.5, 2, 1.5, np.full(8, 0.75)]
        spec = pc.VAESpec(5)
        model = build(spec, "linear", x_dim=12, dtype=torch.float64)
        load_parameters(model, pc.forecast(x, spec).parameters())
        found = pc.diagnose(Opaque(model), x)
        claims.append(found.gain > max(2 * found.gain_error, found.gains[0].worth))
        assert found.conclusion == "collapse-optimal"
    assert not any(claims)


def test_signal_that_differs_from_part_to_part_is_found_in_parts() -> None:
    """One live unit tells 4 groups; each varies along an axis of its own: t of them all is a fourth
    of each group's, below the threshold, yet one more unit serves all four."""
    rng = np.random.default_rng(0)
    group = rng.integers(4, size=2000)
    x = 0.05 * rng.standard_normal((2000, 6))
    x[np.arange(2000), group] += 1.6 * rng.standard_normal(2000)
    x[:, 5] += 6.0 * group
    x = torch.tensor(x, dtype=torch.float32)

    def encode(x):
        live = torch.round(x[:, 5:] / 6)
        return torch.cat([live, 0 * live], 1), torch.tensor([-4.0, 0.0]).expand(len(x), 2)

    def decode(z):
        return functional.pad(6.0 * torch.round(z[:, :1]), (5, 0))

    spec = pc.VAESpec(2, sigma="input")
    found = pc.diagnose(from_callable(encode, decode, latent_dim=2, spec=spec), x)
    gain = found.gains[0]
    assert found.signal[0] + 2 * found.signal_error[0] < 1
    assert gain.whole < 1e-3
    t = 1.6**2
    assert gain.parts == 4
    assert gain.nats == pytest.approx((t - 1 - math.log(t)) / 2, abs=3 * gain.error)
    assert found.conclusion == "signal-unclaimed"
    assert "used differently in 4 parts of latent space" in found.verdict


def test_noise_in_a_part_is_no_gain_on_average() -> None:
    """Only parts above 1 count, so that noise alone would gain: that bias is taken off; well below
    1, where nothing gains, a little too much of it."""
    rng, spec = np.random.default_rng(0), pc.VAESpec(1)
    for true in (0.9, 1.0, 1.2):
        share, error = np.full(8, 1 / 8), np.full(8, 0.15)
        draws = true + error * rng.standard_normal((2000, 8))
        found = np.array(
            [priced(Bought(partial(unit_gain, spec)), share, t, error)[0] for t in draws]
        )
        naive = np.array([share @ unit_gain(spec, t) for t in draws])
        truth = float(unit_gain(spec, true))
        assert abs(found.mean() - truth) < 0.001
        assert naive.mean() - truth > abs(found.mean() - truth)


def test_a_gain_that_is_not_worth_a_unit_is_said_so() -> None:
    """t = 1.15 is surely above 1, and its 0.005 nats are nothing beside the 4 of the living."""
    x = np.random.default_rng(0).standard_normal((20_000, 4)) * [20, 10, math.sqrt(1.15), 0.1]
    found = pc.diagnose(pc.fit(pc.VAESpec(2), x, "linear", exact=True), x)
    assert found.signal[0] - 2 * found.signal_error[0] > 1
    assert found.gain < found.gains[0].worth
    assert found.gains[0].worth == pytest.approx(
        0.01 * (found.collapsed_loss - found.loss), rel=1e-6
    )
    assert (found.paying_units, found.conclusion) == ((0,), "nothing-to-do")
    assert f"less than the {found.gains[0].worth:.2g} worth a unit" in found.verdict
    assert found.advice == ()


def test_no_unit_buys_more_than_there_is_to_be_gained() -> None:
    """The price is that of a parabola: where outputs are all but certain it falls without end."""
    spec = pc.VAESpec(UNITS, likelihood="bernoulli")
    signal = Signal(np.array([1e30]), 1e28, np.array([True]))
    free, bounded = (
        gain_of(Bought(partial(unit_gain, spec)), signal, 1.0, 1e28, 0.01, most)
        for most in (math.inf, 20.0)
    )
    assert free.nats > 1e20
    assert (bounded.nats, bounded.error, bounded.whole, bounded.whole_error) == (20.0,) * 4


def test_what_a_unit_is_worth_does_not_hang_on_the_scale_of_latents() -> None:
    """At a thousandth of its prior's scale every unit wastes KL, and brings what it brought."""
    spec = pc.VAESpec(4, 0.3, sigma="input")
    best = pc.forecast(X.numpy(), spec).parameters()
    w, u, b, c, std = (
        torch.tensor(best[name], dtype=torch.float32)
        for name in ("W1", "U1", "b1", "c1", "sigma_1")
    )

    def found(scale: float) -> pc.Diagnosis:
        def encode(x: torch.Tensor) -> Normal:
            return Normal(scale * (x @ w.T + b), (scale * std).expand(len(x), -1))

        units = spec.dims[0]
        model = from_callable(encode, lambda z: z / scale @ u.T + c, latent_dim=units, spec=spec)
        return pc.diagnose(model, X)

    plain, small = found(1.0), found(1e-3)
    assert small.loss > small.collapsed_loss > plain.loss
    assert small.gains[0].worth == pytest.approx(plain.gains[0].worth, rel=0.2)
    assert plain.gains[0].worth > 0


@pytest.mark.parametrize("told", [0.0, 0.9])
def test_what_a_networks_path_from_x_explains_no_unit_has_brought(told) -> None:
    """Beside a line in x it is worth more than a unit that pays, which seemed worth nothing."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4000, 1))
    noise = rng.standard_normal((4000, 3)) * [1.5, 0.67, 0.1]
    scale = torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64)

    def path(x):
        return scale * torch.sin(9 * x)

    def encode(x, y):
        mean = told * (y - path(x))[:, :1] / 1.5
        return mean, np.log(1 - told**2) * torch.ones_like(mean)

    def decode(z, x):
        return path(x) + torch.cat([1.5 * told * z, torch.zeros_like(z), torch.zeros_like(z)], 1)

    y = path(torch.tensor(x)).numpy() + noise
    spec = pc.CVAESpec(1, eta_dec=0.5)
    model = from_callable(encode, decode, latent_dim=1, spec=spec)
    found = pc.diagnose(model, (x, y))
    assert found.n_active == (told > 0)
    # The first unit alone has brought this, of a linear model's loss less than 60 nats in all.
    brought = unit_gain(spec, 1 / (1 - told**2))
    assert found.gains[0].worth == pytest.approx(0.01 * brought, rel=0.1, abs=1e-9)
    assert found.collapsed_loss - found.loss > 20
    assert found.conclusion == ("more-units-pay" if told else "signal-unclaimed")


@pytest.mark.parametrize("mixes", [True, False])
def test_a_decoder_that_mixes_z_and_x_may_live_above_the_onset_of_one_that_adds_them(mixes) -> None:
    """One class in four varies, and more than beta: a unit for it alone lowers the loss.

    Trained, such a network keeps it. One that adds z to x would pay for it in all classes.
    """
    rng = np.random.default_rng(0)
    one = rng.random(4000) < 0.25
    along = torch.tensor([0.6, 0.8, 0.0, 0.0])
    y = 0.1 * rng.standard_normal((4000, 4))
    y += np.where(one[:, None], 2 * rng.standard_normal((4000, 1)) * along.numpy(), 0)
    x = np.stack([one, ~one], axis=1).astype(float)
    variance = np.linalg.eigvalsh(np.cov(y[one].T, bias=True))[-1]
    beta, share = 1.5, one.mean()
    forecast = pc.forecast((x, y), pc.CVAESpec(1, beta=beta))
    assert forecast.onset < beta < variance
    means = torch.tensor(np.stack([y[one].mean(0), y[~one].mean(0)]), dtype=torch.float32)
    told, width = math.sqrt(1 - beta / variance), math.sqrt(variance)

    def model(alive):
        def encode(x, y):
            mean = alive * told * x[:, :1] * ((y - x @ means) @ along)[:, None] / width
            return mean, alive * x[:, :1] * math.log(beta / variance)

        def decode(z, x):  # of classes a square says no more, and is not affine
            path = (x.square() if mixes else x) @ means
            return path + alive * told * width * x[:, :1] * z * along

        spec = pc.CVAESpec(1, beta=beta)
        return pc.diagnose(from_callable(encode, decode, latent_dim=1, spec=spec), (x, y))

    dead, living = model(0.0), model(1.0)
    true = share * beta / 2 * (variance / beta - 1 - math.log(variance / beta))
    assert dead.loss - living.loss == pytest.approx(true, rel=0.05)
    assert living.n_active == 1
    assert dead.signal[0] < 0.8  # of decoders that add
    if mixes:
        assert dead.conclusion == "signal-unclaimed"
        assert abs(dead.gain - true) < 2 * dead.gain_error
        assert "used differently in 2 parts of the data" in dead.verdict
    else:
        assert (dead.conclusion, dead.gain) == ("collapse-optimal", 0.0)


def test_networks_of_this_package_add_what_z_and_x_say() -> None:
    x, y = X[:, :3], X[:, 32:]
    generator = torch.Generator().manual_seed(0)
    for architecture in ("linear", "mlp"):
        own = build(pc.CVAESpec(2), architecture, x_dim=3, y_dim=32)
        assert adds_input(own, x, y, generator)
    mixed = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 32))
    other = from_callable(
        lambda x, y: (y[:, :2], y[:, :2]),
        lambda z, x: mixed(torch.cat([z, x], 1)),
        latent_dim=2,
        spec=pc.CVAESpec(2),
    )
    assert not adds_input(other, x, y, generator)
