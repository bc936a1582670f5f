"""`diagnose` on hierarchies whose live, dead and noise-relaying units are known."""

import math

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from planted import (
    DEAD_1,
    LIVE_1,
    LIVE_2,
    RELAY_2,
    STATUS_1,
    STATUS_2,
    STD_1,
    STD_2,
    PlantedHierarchy,
    planted_data,
)

N = 3000


@pytest.fixture(scope="module")
def found():
    return pc.diagnose(PlantedHierarchy(), planted_data(N))


def test_exactly_the_planted_units_are_found(found) -> None:
    assert [level.status for level in found.levels] == [STATUS_1, STATUS_2]
    assert found.n_active == LIVE_2
    first, second = found.levels
    assert first.active_units.tolist() == [True] * LIVE_1 + [False] * DEAD_1
    assert second.active_units.tolist() == [True] * LIVE_2 + [False] * 3
    assert first.information[LIVE_1:] == pytest.approx(0, abs=1e-12)


def test_a_relay_has_kl_and_information_on_the_level_below_only(found) -> None:
    level = found.levels[1]
    relay = slice(LIVE_2, LIVE_2 + RELAY_2)
    assert (level.kl[relay] > 0.1).all()
    assert (level.input_information[relay] > 0.1).all()
    assert (level.information[relay] < 3 * level.information_error[relay]).all()
    assert (level.information_error[relay] < 0.005).all()
    finding = next(f for f in found.advice if f.code == "noise-relay")
    assert "2 units of z2" in finding.text
    assert "Lower the std of z1" in finding.action


def test_relays_come_out_as_noise_whatever_the_draws() -> None:
    x = planted_data(500, seed=1)
    for seed in range(30):
        level = pc.diagnose(PlantedHierarchy(), x, seed=seed).levels[1]
        assert level.status == STATUS_2


def test_linear_relays_have_the_information_of_theory_within_the_error() -> None:
    """Var(z_2|x) = w^2 STD_1^2 + STD_2^2; 40 runs of other rows and other draws."""
    total = 1 + STD_1**2 + STD_2**2
    truth = 0.5 * math.log(total / (STD_1**2 + STD_2**2))
    off = []
    for seed in range(40):
        x = planted_data(400, seed)
        level = pc.diagnose(PlantedHierarchy(lambda z: z), x, seed=seed, samples=8).levels[1]
        off.append((level.information[0] - truth) / level.information_error[0])
    # The bias, of order 1/n, is a part of the error's own size at most.
    assert abs(np.mean(off)) < 0.5
    assert np.std(off) == pytest.approx(1, abs=0.4)


def test_kl_below_the_top_is_that_of_the_objective(found) -> None:
    """E[log q - log p] for z_1 = x + noise and p(z_1|z_2) = N(z_2 or 0, 1)."""
    level = found.levels[0]
    entropy = -0.5 * math.log(2 * math.pi * math.e * STD_1**2)
    dead = entropy + 0.5 * (STD_1**2 + math.log(2 * math.pi))
    assert level.kl[LIVE_1:] == pytest.approx([dead] * DEAD_1, abs=4 * level.kl_error[-1])
    z1 = planted_data(200_000, 5)[:, 0] + STD_1 * planted_data(200_000, 6)[:, 0]
    z2 = torch.tanh(z1) + STD_2 * planted_data(200_000, 7)[:, 0]
    live = entropy + 0.5 * (float((z1 - z2).square().mean()) + math.log(2 * math.pi))
    assert level.kl[0] == pytest.approx(live, abs=4 * level.kl_error[0])


def test_the_decoder_is_seen_to_use_what_it_uses(found) -> None:
    first, second = found.levels
    # Redrawn from N(z_2, 1) while it was N(x, STD_1^2): only the two that are decoded move it.
    assert (first.decoder_effect[:2] > 1).all()
    assert first.decoder_effect[2:] == pytest.approx(0, abs=1e-12)
    assert (second.decoder_effect[:2] > 0.5).all()
    assert second.decoder_effect[2:] == pytest.approx(0, abs=1e-12)
    assert (first.decoder_effect_error[:2] > 0).all()
    finding = next(f for f in found.advice if f.code == "unused-by-decoder")
    assert finding.text.startswith("1 unit of z1")


def test_the_effect_of_a_unit_is_what_redrawing_it_changes() -> None:
    """2 (z' - z) with z' ~ N(0, 1) and z = tanh(z_1) + noise, for z_2's first unit."""
    effects, errors = [], []
    for seed in range(20):
        level = pc.diagnose(PlantedHierarchy(), planted_data(500, seed), seed=seed).levels[1]
        effects.append(level.decoder_effect[0])
        errors.append(level.decoder_effect_error[0])
    z1 = planted_data(200_000, 5)[:, 0] + STD_1 * planted_data(200_000, 6)[:, 0]
    variance = float(torch.tanh(z1).square().mean()) + STD_2**2
    spread = np.mean(errors) / math.sqrt(20)
    assert np.mean(effects) == pytest.approx(2 * math.sqrt(1 + variance), abs=4 * spread)
    assert np.std(effects) == pytest.approx(np.mean(errors), rel=0.6)


def test_the_seed_decides_everything() -> None:
    x = planted_data(300)
    runs = [pc.diagnose(PlantedHierarchy(), x, seed=seed).to_dict() for seed in (0, 0, 1)]
    assert repr(runs[0]) == repr(runs[1])
    assert repr(runs[0]) != repr(runs[2])


def test_batches_change_nothing_but_the_draws() -> None:
    x = planted_data(2000)
    whole, parts = (pc.diagnose(PlantedHierarchy(), x, batch_size=b) for b in (2000, 7))
    assert parts.levels[0].information == pytest.approx(whole.levels[0].information, abs=1e-6)
    assert parts.loss == pytest.approx(whole.loss, abs=4 * whole.loss_error / math.sqrt(4))
    assert parts.levels[1].status == STATUS_2


def test_a_trained_net_relays_the_noise_that_theory_says_it_will() -> None:
    """Two data modes carry signal. With so much noise in z_1, theory lets z_2's other units relay
    it; a trained net does, and every measure by KL takes them for active."""
    x = np.random.default_rng(0).standard_normal((4000, 6)) * [3, 2, 0.05, 0.05, 0.05, 0.05]
    spec = pc.HVAESpec((5, 5), sigma_1=1.0, eta_dec=0.5)
    options = {"hidden": (32,), "epochs": 60, "learning_rate": 3e-3, "batch_size": 128}
    found = pc.diagnose(pc.fit(spec, x, "mlp", **options).model, x)
    level = found.levels[1]
    assert sorted(level.status) == sorted(found.forecast.levels[1].status)
    assert level.status.count("noise") == 3
    assert (level.kl > 0.5).all()
    assert not level.epsilon_delta_collapsed.any()
    # Units of z1 can be turned freely: seen along their directions, two carry the signal.
    assert found.levels[0].information[0] > 1 < found.levels[0].information[1]
    assert (found.levels[0].information[2:] < 0.02).all()
    assert found.conclusion == "collapse-optimal"
    assert "noise-relay" in [f.code for f in found.advice]
