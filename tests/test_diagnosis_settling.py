"""Training that has not converged: directions beside units, loss beside the optimum, one advice."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import posterior_collapse as pc
from planted import Opaque
from posterior_collapse.adapters import from_callable
from posterior_collapse.diagnosis.advice import advise
from posterior_collapse.diagnosis.conclusions import excess_loss
from posterior_collapse.models import build, load_parameters
from posterior_collapse.report.comparison import comparison_kind, comparison_verdict


def test_units_that_share_directions_are_still_settling() -> None:
    """12 units carry 4 directions, as 29 carried 14 early in a run that ended with 10."""
    rng = np.random.default_rng(0)
    mix = np.linalg.qr(rng.standard_normal((12, 4)))[0].T
    mean = rng.standard_normal((3000, 4)) @ mix * 1.2
    found = pc.diagnose_arrays(np.hstack([mean, np.zeros((3000, 2))]), np.full(14, 0.9))
    (level,) = found.levels
    assert (level.n_active, level.directions) == (12, 4)
    assert "12 of 14 units active (4 directions: still settling)" in found.verdict
    finding = next(one for one in found.advice if one.code == "still-settling")
    assert "12 active units vary along only 4 directions" in finding.text
    assert finding.action.startswith("Train on")
    own = pc.diagnose_arrays(rng.standard_normal((3000, 12)), np.full(12, 0.5))
    assert own.levels[0].directions == own.n_active == 12
    assert "directions" not in own.verdict
    assert not own.advice


def test_fewer_directions_than_units_are_kept() -> None:
    """A linear model whose mode was spread over several units: "keep 3" would keep two too many."""
    x = np.random.default_rng(0).standard_normal((3000, 6)) * [3, 0.5, 0.4, 0.3, 0.2, 0.1]
    spec = pc.VAESpec(6, sigma="input")
    share = torch.full((5, 1), 5**-0.5)

    def encode(rows):
        mean = nn.functional.pad(rows[:, :1] @ share.T * 0.9, (0, 1))
        return mean, nn.functional.pad(torch.full((len(rows), 5), 2 * math.log(0.6)), (0, 1))

    def decode(z):
        return nn.functional.pad(z[:, :5] @ share, (0, 5))

    found = pc.diagnose(from_callable(encode, decode, latent_dim=6, spec=spec), x)
    assert (found.n_active, found.levels[0].directions) == (5, 1)
    assert not [one for one in found.advice if "Keep 5" in one.action]


@pytest.mark.parametrize("scale", [1.0, 30.0, 1 / 30])
def test_a_loss_above_the_optimum_is_seen_in_any_units(scale) -> None:
    """The Gaussian's constant grows with the log of eta_dec, and hid it."""
    x = scale * np.random.default_rng(0).standard_normal((2000, 6)) * [5, 4, 3, 0.5, 0.4, 0.1]
    spec = pc.VAESpec(6, eta_dec=scale)
    model = build(spec, "linear", x_dim=6, dtype=torch.float64)
    made = dict(pc.forecast(x, spec).parameters())
    made["U1"] = 0.8 * made["U1"]
    load_parameters(model, made)
    found = pc.diagnose(model, x)
    excess = found.loss - found.forecast.loss
    assert 0.5 < excess < 2
    assert f"at a loss {excess:.3g} nats lower" in found.verdict
    assert found.advice[0].code == "not-at-optimum"
    assert found.verdict.startswith("Training has not converged: ")
    assert "optimal" not in found.verdict


def test_fewer_units_than_the_linear_optimum_keeps_hide_no_gap() -> None:
    x = np.random.default_rng(0).standard_normal((2000, 4)) * [5, 4, 3, 0.1]
    spec = pc.VAESpec(4)
    model = build(spec, "linear", x_dim=4, dtype=torch.float64)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    found = pc.diagnose(model, x)
    assert f"keeps 3, at a loss {found.loss - found.forecast.loss:.3g} nats lower" in found.verdict
    assert [one.code for one in found.advice] == ["signal-unclaimed"]


def test_what_is_not_trained_out_gets_one_first_advice() -> None:
    """It was told to train longer, and to add units, in one breath."""
    x = np.random.default_rng(0).standard_normal((1000, 6)) * [5, 4, 3, 0.5, 0.4, 0.1]
    early = pc.fit(pc.VAESpec(6), x, "linear", epochs=1, learning_rate=3e-2, seed=1)
    codes = [one.code for one in pc.diagnose(early, x).advice]
    assert codes[0] == "not-at-optimum"
    assert "more-units-pay" not in codes


def test_as_forecast_is_not_said_of_a_loss_far_off() -> None:
    def side(loss, without_units=200.0):
        levels = [{"n_active": 4, "kl": [1.0] * 4}]
        return {"loss": loss, "levels": levels, "collapsed_loss": without_units}

    far = comparison_verdict({"measured": side(455.0), "forecast": side(100.0)})
    rough = {"measured": side(455.0), "forecast": side(100.0), "approximate": True}
    assert comparison_verdict(rough) == (
        "Undertrained: loss 255 nats above that of the best constant output, which needs no unit; "
        "4 of 4 units active, as many as forecast: train longer."
    )
    assert far == (
        "Undertrained: loss 355 nats above the linear optimum; 4 of 4 units active, as many as "
        "forecast: train longer."
    )
    same = comparison_verdict(
        {"measured": side(100.5), "forecast": side(100.0)} | {"approximate": 1}
    )
    assert same == (
        "As forecast: 4 of 4 units active; losses are not compared, as that of the forecast is an "
        "approximation."
    )
    # In other units of the data the same gap stands beside another loss.
    shifted = {"measured": side(9_002, 9_100.0), "forecast": side(9_000)}
    assert comparison_verdict(shifted).startswith("Under")
    near = comparison_verdict({"measured": side(100.5), "forecast": side(100.0)})
    assert near.startswith("As forecast: 4 of 4")

    # Of a run that an older version kept it is not known what is much.
    def older(loss):
        known = {key: value for key, value in side(loss).items() if key != "collapsed_loss"}
        return {"measured": known, "forecast": side(100.0)}

    assert comparison_verdict(older(100.5)) == (
        "As forecast: 4 of 4 units active; loss 0.5 nats above the linear optimum."
    )
    assert comparison_verdict(older(455.0)) == far
    assert comparison_verdict({**older(455.0), "approximate": True}) == same


WEAK = np.random.default_rng(0).standard_normal((4000, 4)) * [1.3, 1.25, 0.4, 0.3]
STRONG = np.random.default_rng(1).standard_normal((4000, 4)) * [4, 2, 0.4, 0.3]
COUNTS = (np.random.default_rng(2).random((500, 6)) < 0.2) * 1.0
RUNS = {
    # All that units can bring to the weak data is 0.12 nats: any share of it is few nats.
    "weak, early": (WEAK, pc.VAESpec(4), {"steps": 5}),
    "weak, halfway": (WEAK, pc.VAESpec(4), {"steps": 60, "learning_rate": 1e-2}),
    "weak, exact": (WEAK, pc.VAESpec(4), {"exact": True}),
    "strong, early": (STRONG, pc.VAESpec(4), {"steps": 5}),
    "strong, nearly": (STRONG, pc.VAESpec(4), {"steps": 1000, "learning_rate": 1e-2}),
    "strong, exact": (STRONG, pc.VAESpec(4, eta_dec=0.5), {"exact": True}),
    "fixed sigma": (STRONG, pc.VAESpec(4, sigma=0.7), {"steps": 300, "learning_rate": 1e-2}),
    "two levels": (STRONG, pc.HVAESpec((3, 2), sigma_1=0.6), {"steps": 100}),
    "another convention": (STRONG, pc.VAESpec(3), {"steps": 60, "convention": "reference"}),
    "a network": (STRONG, pc.VAESpec(4), {"steps": 30, "architecture": "mlp", "hidden": (8,)}),
    "bits, early": (COUNTS, pc.VAESpec(2, likelihood="bernoulli"), {"steps": 2}),
    "bits": (COUNTS, pc.VAESpec(2, likelihood="bernoulli"), {"steps": 800, "learning_rate": 1e-2}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_arrived_to_train_and_to_diagnose_alike(name) -> None:
    """One counted nats and the other shares: "As forecast" was "has not converged" to the other."""
    data, spec, how = RUNS[name]
    fitted = pc.fit(spec, data, **{"architecture": "linear", **how})
    found, summary = pc.diagnose(fitted, data), fitted.summary()
    under = comparison_kind(summary) == "undertrained"
    assert under == bool(excess_loss(found))
    assert under == ("ndertrained: " in comparison_verdict(summary))
    if found.conclusion != "signal-unclaimed":
        assert under == found.verdict.startswith("Training has not converged")


def test_a_loss_a_few_hundredths_of_a_nat_too_high_may_be_half_of_what_units_bring() -> None:
    fitted = pc.fit(pc.VAESpec(4), WEAK, "linear", steps=60, learning_rate=1e-2)
    summary, linear = fitted.summary(), fitted.forecast
    possible = summary["measured"]["collapsed_loss"] - linear.loss
    missing = summary["measured"]["loss"] - linear.loss
    assert missing < 0.25 < 1
    assert missing > 0.25 * possible
    assert comparison_kind(summary) == "undertrained"
    assert pc.diagnose(fitted, WEAK).verdict.startswith("Training has not converged")


def test_advice_to_a_network_starts_from_what_was_measured_in_it() -> None:
    """A linear model's "lower beta to .95 (13 active)" did not hold in a network."""
    x = np.random.default_rng(0).standard_normal((4000, 4)) * [3, 2, 1.2, 0.3]
    spec = pc.VAESpec(4, beta=2.0)
    model = build(spec, "linear", x_dim=4, dtype=torch.float64)
    load_parameters(model, pc.forecast(x, spec).parameters())
    found = pc.diagnose(Opaque(model), x)
    (finding,) = (one for one in found.advice if one.code == "collapse-optimal")
    t = found.signal[0]
    assert f"lower beta from 2 to below {2 * t:.3g}" in finding.action
    assert f"your KL weight times {t:.2g}" in finding.action
    linear = pc.diagnose(model, x)
    (finding,) = (one for one in linear.advice if one.code == "collapse-optimal")
    assert "(3 active)" in finding.action


def test_what_would_tell_is_only_what_lacks() -> None:
    """ "Decoder and spec would tell" was said where a decoder was given."""

    def encode(rows):
        return rows[:, :2], torch.zeros(len(rows), 2)

    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    with_decoder = pc.diagnose(from_callable(encode, nn.Linear(2, 3), latent_dim=2), x)
    assert "the spec it was trained with would tell" in with_decoder.verdict
    assert "decoder" not in with_decoder.verdict
    neither = pc.diagnose(from_callable(encode, latent_dim=2), x)
    assert "a decoder and the spec it was trained with would tell" in neither.verdict


def test_no_advice_takes_back_another() -> None:
    """Units far from their prior want a higher beta, collapsed ones a lower: one is said."""
    x = np.random.default_rng(0).standard_normal((3000, 4)) * [3, 2, 0.3, 0.2]
    fitted = pc.fit(pc.VAESpec(4), x, "linear", exact=True)
    found = pc.diagnose(fitted, x)
    assert found.conclusion == "collapse-optimal"
    (level,) = found.levels
    far = dataclasses.replace(level, prior_gap=np.where(level.kl > 0.01, 2.0, 0.0))
    told = advise(dataclasses.replace(found, levels=(far,)), ["collapse-optimal"])
    assert [one.code for one in told] == ["collapse-optimal", "far-from-prior"]
    assert "lower beta" in told[0].action
    assert "raise beta" not in told[1].action
    _, alone = advise(dataclasses.replace(found, levels=(far,)), ["undecided"])
    assert "raise beta from 1" in alone.action


def test_data_of_unlike_scales_are_told_to_a_run_that_has_not_arrived() -> None:
    """It was told to train longer, and to raise beta, of latents 50 times as wide as the prior."""
    x = np.random.default_rng(0).standard_normal((300, 4)) * [300, 2, 1, 1] + [1000, 0, 0, 0]
    fitted = pc.fit(x, pc.VAESpec(2), "mlp", hidden=(8,), epochs=1)
    found = pc.diagnose(fitted, x)
    assert (found.levels[0].prior_gap > 0.5).any()
    assert [one.code for one in found.advice] == ["not-at-optimum"]
    assert any("standard deviations up to" in note for note in found.notes)


def test_what_a_run_that_has_not_arrived_would_gain_is_said_as_it_stands() -> None:
    x = np.random.default_rng(0).standard_normal((1000, 6)) * [5, 4, 3, 0.5, 0.4, 0.1]
    early = pc.fit(pc.VAESpec(2), x, "linear", epochs=2, learning_rate=3e-2, seed=1)
    found = pc.diagnose(early, x)
    assert found.verdict.startswith("Training has not converged: ")
    assert "every unit is used and more units would pay" not in found.verdict
    first, *others = found.advice
    assert first.code == "not-at-optimum"
    assert "more-units-pay" not in [one.code for one in others]


def test_a_network_that_is_worse_than_none_has_not_arrived_before_all_else() -> None:
    x = pc.load("digits").x
    spec = pc.VAESpec(4, likelihood="bernoulli")
    barely = pc.fit(x, spec, "mlp", epochs=1, hidden=(16,))
    found = pc.diagnose(barely, x)
    assert found.verdict.startswith("Training has not converged")
    assert "the optimiser failed" not in found.verdict
    assert found.advice[0].code == "not-at-optimum"
    assert "warm-up" not in found.advice[0].action


@pytest.mark.parametrize("eta_dec", [0.3, "learned"])
def test_a_model_that_overfits_is_not_told_to_train_longer(eta_dec) -> None:
    rng = np.random.default_rng(0)

    def rows(n):
        mixing = np.random.default_rng(1).standard_normal((2, 8))
        noise = 0.3 * rng.standard_normal((n, 8))
        return np.tanh(rng.standard_normal((n, 2)) @ mixing) + noise

    seen, others = rows(60), rows(1000)
    fitted = pc.fit(
        seen, pc.VAESpec(3, eta_dec=eta_dec), "mlp", epochs=400, batch_size=60, learning_rate=1e-2
    )
    found = pc.diagnose(fitted, others)
    assert found.loss > fitted.measured()["loss"] + 1
    assert found.verdict.startswith("The model overfits: ")
    assert [one.code for one in found.advice] == ["overfits"]
    assert "nats higher than on those the model was trained on" in found.advice[0].text
    assert not any("train longer" in text.lower() for text in (found.verdict, *found.notes))
    own = pc.diagnose(fitted, seen)
    assert "overfits" not in {own.verdict, *(one.code for one in own.advice)}
    # What has not been trained out costs much on either, and is to be trained longer.
    short = pc.fit(seen, pc.VAESpec(3, eta_dec=eta_dec), "mlp", steps=3)
    assert pc.diagnose(short, others).advice[0].code == "not-at-optimum"


def test_advice_on_the_first_level_keeps_more_of_its_own_units() -> None:
    """That on z2, the top level, asks for the opposite: a higher beta_1."""
    x = np.random.default_rng(3).standard_normal((400, 6)) * [3, 2, 1.4, 1, 0.5, 0.2]
    spec = pc.HVAESpec((6, 6), (1.0, 2.0), 1.5, sigma_1=1.0)
    found = pc.diagnose(pc.fit(spec, x, "linear", exact=True), x)
    first, second = (one.action for one in found.advice if one.code == "collapse-optimal")
    told = re.fullmatch(
        r"Keep 4 units; to use more of z1: lower beta_1 from 1 to below (\S+)\.", first
    )
    assert told, first
    for share, active in ((0.99, 5), (1.01, 4)):
        beta = share * float(told[1])
        there = pc.forecast(x, spec.replace(betas=(beta, 2.0)))
        assert there.levels[0].n_active == active
    assert "to use more of z2: raise beta_1 from 1 to" in second


@pytest.mark.parametrize("sigma", ["shared", 0.5])
def test_idle_units_of_one_std_want_no_longer_training(sigma) -> None:
    """At the optimum: they have the std that serves the others, and no training takes it away."""
    x = np.random.default_rng(3).standard_normal((400, 6)) * [3, 2, 1.4, 1, 0.5, 0.2]
    spec = pc.VAESpec(6, beta=1.5, sigma=sigma)
    found = pc.diagnose(pc.fit(spec, x, "linear", exact=True), x)
    (idle,) = [one for one in found.advice if one.code == "idle-kl"]
    assert "set sigma='learned', where idle units have no KL" in idle.action
    assert "train longer" not in idle.action
    followed = pc.forecast(x, spec.replace(sigma="learned"))
    assert followed.loss < found.loss
    assert followed.levels[0].kl.min() == 0
    # The variance that a unit needs is another: fewer are left here.
    assert followed.n_active < found.n_active
