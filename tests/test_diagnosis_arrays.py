"""`diagnose_arrays` on posteriors whose truth is planted, and on numbers that are no posteriors."""

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import stats

import posterior_collapse as pc
from fresh import NO_TORCH, output
from posterior_collapse.diagnosis import QUANTILES, arrays, levels, statistics
from posterior_collapse.errors import DataError, InvalidArgumentError

LIVE, DEAD = 5, 3


def planted(n=4000, seed=0):
    """Live units of the same law as the prior, then dead ones, shuffled; and who is live."""
    rng = np.random.default_rng(seed)
    std = np.append(np.linspace(0.2, 0.9, LIVE), np.ones(DEAD))
    mean = rng.standard_normal((n, LIVE + DEAD)) * np.sqrt(1 - std**2)
    order = rng.permutation(LIVE + DEAD)
    return mean[:, order], np.tile(std, (n, 1))[:, order], order < LIVE


def test_every_measure_finds_exactly_the_live_units() -> None:
    mean, std, live = planted()
    level = pc.diagnose_arrays(mean, std).levels[0]
    expected = ["active" if alive else "collapsed" for alive in live]
    assert list(level.status) == expected
    assert level.n_active == LIVE
    assert (level.active_units == live).all()
    assert (level.epsilon_delta_collapsed == ~live).all()
    assert (level.kl > 0.01).tolist() == live.tolist()
    assert level.kl[~live] == pytest.approx(0)
    assert level.information[~live] == pytest.approx(0)
    at = np.argmin(np.abs(level.collapse_curve.epsilon - 1e-3))
    assert level.collapse_curve.share[at] == DEAD / (LIVE + DEAD)


def test_means_and_errors_are_those_of_an_independent_computation() -> None:
    mean, std, live = planted()
    found = pc.diagnose_arrays(mean, std)
    level, n = found.levels[0], len(mean)
    q = torch.distributions.Normal(torch.from_numpy(mean), torch.from_numpy(std))
    p = torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(q, p).numpy()
    assert level.kl == pytest.approx(kl.mean(0))
    assert level.kl_error == pytest.approx(stats.sem(kl))
    assert found.kl == pytest.approx(kl.sum(1).mean())
    assert found.kl_error == pytest.approx(stats.sem(kl.sum(1)))
    assert level.kl_quantiles == pytest.approx(np.quantile(kl, QUANTILES, axis=0))
    assert level.kl_active_share == pytest.approx((kl >= 0.01).mean())
    assert level.mean_variance == pytest.approx(mean.var(0))
    assert level.aggregate_std == pytest.approx(np.sqrt(mean.var(0) + (std**2).mean(0)))
    curve = level.collapse_curve
    share = [(np.mean(kl < e, axis=0) >= 1 - curve.delta).mean() for e in curve.epsilon]
    assert curve.share == pytest.approx(share)
    truth = -np.log(std[0])
    off = np.abs(level.information - truth)[live]
    assert (off < 4 * level.information_error[live]).all()
    assert level.information_error[live].max() < 3 / math.sqrt(n)


@pytest.mark.parametrize("name", ["kl", "information", "mean_variance", "kl_quantile", "share"])
def test_standard_errors_are_those_of_repeated_samples(name) -> None:
    found = [pc.diagnose_arrays(*planted(600, seed)[:2]).levels[0] for seed in range(100)]
    orders = [np.argsort(planted(600, seed)[1][0]) for seed in range(100)]

    def strongest(level, order):
        value, error = {
            "kl": (level.kl, level.kl_error),
            "information": (level.information, level.information_error),
            "mean_variance": (level.mean_variance, level.mean_variance_error),
            "kl_quantile": (level.kl_quantiles[2], level.kl_quantile_errors[2]),
            "share": ([level.kl_active_share] * 8, [level.kl_active_share_error] * 8),
        }[name]
        return value[order[0]], error[order[0]]

    values, errors = zip(*(map(strongest, found, orders)), strict=True)
    # The spread of 100 values is known to 7%; median errors of quantiles to a little less.
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)


def test_the_gaussian_information_is_an_upper_bound() -> None:
    rng = np.random.default_rng(0)
    mean = rng.exponential(size=(3000, 4)) * [0.1, 0.5, 2, 20]
    level = pc.diagnose_arrays(mean, rng.uniform(0.1, 1, (3000, 4))).levels[0]
    assert (level.information < level.gaussian_information).all()


def test_a_fixed_std_is_collapsed_though_it_keeps_a_kl() -> None:
    mean, _, live = planted()
    mean = np.where(live, mean, 0.0)
    spec = pc.VAESpec(LIVE + DEAD, sigma=0.5)
    found = pc.diagnose_arrays(mean, 0.5, spec=spec)
    level = found.levels[0]
    assert level.kl[~live] == pytest.approx(0.5 * (0.25 - 1) - math.log(0.5))
    assert [s == "active" for s in level.status] == live.tolist()
    assert "idle-kl" in [finding.code for finding in found.advice]


def test_log_variances_tensors_and_integers_are_read() -> None:
    mean, std, _ = planted(200)
    whole = pc.diagnose_arrays(mean, std).levels[0]
    tensors = torch.tensor(mean, requires_grad=True), torch.from_numpy(2 * np.log(std))
    for found in (
        pc.diagnose_arrays(mean, log_var=2 * np.log(std)),
        pc.diagnose_arrays(tensors[0], log_var=tensors[1]),
    ):
        assert found.levels[0].kl == pytest.approx(whole.kl)
    single = pc.diagnose_arrays(torch.from_numpy(mean).bfloat16(), 1)
    assert single.levels[0].kl == pytest.approx(0.5 * (mean**2).mean(0), rel=0.02)


def test_the_prior_may_be_another() -> None:
    rng = np.random.default_rng(0)
    prior_mean, prior_std = rng.standard_normal((500, 2)), np.array([2.0, 0.5])
    level = pc.diagnose_arrays(
        prior_mean, np.tile(prior_std, (500, 1)), prior_mean=prior_mean, prior_std=prior_std
    ).levels[0]
    assert level.kl == pytest.approx(0, abs=1e-12)
    wide = pc.VAESpec(2, eta_enc=3.0)
    level = pc.diagnose_arrays(np.zeros((9, 2)), 3.0, spec=wide).levels[0]
    assert level.kl == pytest.approx(0, abs=1e-12)
    assert level.prior_std == pytest.approx(3.0)


def test_rows_beyond_the_budget_are_thinned_and_said(monkeypatch) -> None:
    mean, std, live = planted(30_000)
    whole = pc.diagnose_arrays(mean, std).levels[0]
    monkeypatch.setattr(arrays, "CHUNK_NUMBERS", 8 * 1000)
    monkeypatch.setattr(levels, "Reservoir", lambda rng: statistics.Reservoir(rng, 0))
    found = pc.diagnose_arrays(mean, std)
    level = found.levels[0]
    assert "1,000 rows, drawn at random from 30,000" in found.notes[0]
    assert level.kl == pytest.approx(whole.kl)
    assert level.mean_variance == pytest.approx(whole.mean_variance)
    assert level.status == whole.status
    off = np.abs(level.information - whole.information)[live]
    assert (off < 4 * level.information_error[live]).all()
    again = pc.diagnose_arrays(mean, std)
    assert (again.levels[0].information == level.information).all()
    other = pc.diagnose_arrays(mean, std, seed=1)
    assert (other.levels[0].information != level.information).any()


def test_latents_far_wider_than_the_prior_are_said_with_their_scale() -> None:
    rng = np.random.default_rng(0)
    spec = pc.VAESpec(4, beta=1e-6, sigma="input")
    mean = 3 + rng.standard_normal((2000, 4)) * [5, 10, 20, 30]
    found = pc.diagnose_arrays(mean, 10 ** rng.uniform(-4, -2, (2000, 4)), spec=spec)
    assert found.n_active == 4
    finding = next(f for f in found.advice if f.code == "far-from-prior")
    rms = math.sqrt((mean.std(0) ** 2).mean())
    assert f"Multiply the latents by {1 / rms:.3g}" in finding.action
    assert "raise beta from 1e-06" in finding.action
    elsewhere = pc.diagnose_arrays(3 + (mean - mean.mean(0)) / mean.std(0), 0.01)
    moved = next(f for f in elsewhere.advice if f.code == "far-from-prior")
    assert "as wide, but elsewhere, " in moved.text
    assert moved.action.startswith("Sample from a prior fitted to the latents, as")
    level = found.levels[0]
    assert (level.information <= math.log(2000)).all()
    assert level.prior_gap == pytest.approx(level.kl - level.input_information)


@pytest.mark.parametrize("std", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("rows", [300, 3000])
def test_latents_that_are_spread_as_the_prior_are_not_far_from_it(rows: int, std: float) -> None:
    """However little of their information so many rows show."""
    mean = np.random.default_rng(1).standard_normal((rows, 4)) * math.sqrt(1 - std**2)
    found = pc.diagnose_arrays(mean, std)
    assert found.n_active == 4
    assert not [one for one in found.advice if one.code == "far-from-prior"]
    wide = pc.diagnose_arrays(3 * mean, 3 * std)
    (said,) = [one.text for one in wide.advice if one.code == "far-from-prior"]
    least = float(re.findall(r"at least (\S+) nats", said)[0])
    assert (9 - 1) / 2 - math.log(3) - 0.4 < least < (9 - 1) / 2 - math.log(3) + 0.4
    notes = " ".join(found.notes)
    assert not ("lower bound" in notes and "of 4 units is too low" in notes)


def test_arrays_that_collapsed_are_held_against_the_onset() -> None:
    """To pass the spec and the data was the advice to those who had passed both."""
    x = np.random.default_rng(0).standard_normal((400, 5)) * [2, 1, 0.5, 0.4, 0.3]
    onset = np.linalg.eigvalsh(np.cov(x.T, bias=True))[-1]
    dead = np.zeros((400, 64))
    (alone,) = pc.diagnose_arrays(dead, 1.0).advice
    assert "by the data, beta and eta_dec" in alone.action
    (above,) = pc.diagnose_arrays(dead, 1.0, data=x, spec=pc.VAESpec(64, beta=9)).advice
    assert f"64 units collapsed: beta = 9 is above {onset:.3g}, from which on" in above.text
    assert above.action.startswith(f"Lower beta to below {onset:.3g}")
    (below,) = pc.diagnose_arrays(dead, 1.0, data=x, spec=pc.VAESpec(64, beta=2)).advice
    assert below.code == "fewer-than-linear"
    live = dead.copy()
    live[:, 0] = 3 * x[:, 0]
    one = pc.diagnose_arrays(live, 1.0, data=x, spec=pc.VAESpec(64, beta=2)).advice[0]
    assert one.text.startswith("63 units collapsed where the linear optimum")
    assert "spec" not in one.action


@pytest.mark.parametrize("wrong", ["variance", "std"])
def test_a_variance_taken_for_its_log_is_noticed(wrong) -> None:
    mean, std, _ = planted()
    mistaken = std**2 if wrong == "variance" else std
    found = pc.diagnose_arrays(mean, log_var=mistaken)
    assert found.advice[0].code == "variance-for-log-variance"
    assert "exp(log_var / 2)" in found.advice[0].action
    right = pc.diagnose_arrays(mean, log_var=2 * np.log(std))
    assert "variance-for-log-variance" not in [f.code for f in right.advice]


def test_small_stds_taken_for_log_variances_are_noticed_and_other_wide_posteriors_are_not() -> None:
    """Of 0.04 at most no posterior seems wider than the prior by more than 2%."""
    rng = np.random.default_rng(0)
    std = rng.uniform(0.005, 0.04, (500, 4))
    mean = rng.standard_normal((500, 4))

    def is_said(mean, log_var) -> bool:
        found = pc.diagnose_arrays(mean, log_var=log_var)
        return "variance-for-log-variance" in [finding.code for finding in found.advice]

    for wrong in (std, std**2):
        assert is_said(mean, wrong)
    dead = mean * [1, 1, 1, 0.01]
    fixed = np.zeros_like(std)
    for right in ((mean, 2 * np.log(std)), (dead, std), (mean, fixed), (mean, std - 0.02)):
        assert not is_said(*right)


def test_a_forecast_stands_beside_where_data_and_spec_are_given() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 4)) * [3, 2, 0.5, 0.1]
    mean = np.column_stack([x[:, 0] * 0.3, np.zeros(1000), np.zeros(1000)])
    found = pc.diagnose_arrays(mean, 1.0, data=x, spec=pc.VAESpec(3))
    assert found.forecast is not None
    assert found.forecast.n_active == 2
    assert found.n_active == 1
    assert "the linear optimum keeps 2" in found.verdict
    assert [f.code for f in found.advice] == ["fewer-than-linear"]
    moments = pc.Moments.from_arrays(x)
    assert pc.diagnose_arrays(mean, 1.0, data=moments, spec=pc.VAESpec(3)).forecast is not None
    pair = pc.diagnose_arrays(mean, 1.0, data=(x, x[:, :2]), spec=pc.CVAESpec(3))
    assert pair.forecast is not None


X = np.random.default_rng(0).standard_normal((50, 4))


def test_a_posterior_may_be_of_other_rows_than_the_training_data() -> None:
    for data in (X, [X[:20], X[20:]], pc.Moments.from_arrays(X)):
        found = pc.diagnose_arrays(np.zeros((40, 3)), 1.0, data=data, spec=pc.VAESpec(3))
        assert found.forecast is not None
        assert found.forecast.loss == pytest.approx(pc.forecast(X, pc.VAESpec(3)).loss, rel=1e-12)


def test_the_result_is_json_and_says_itself() -> None:
    mean, std, _ = planted(100)
    found = pc.diagnose_arrays(mean, std, spec=pc.VAESpec(8))
    read = json.loads(json.dumps(found.to_dict()))
    assert read["levels"][0]["n_active"] == LIVE
    assert read["levels"][0]["status"] == list(found.levels[0].status)
    assert read["levels"][0]["kl"] == found.levels[0].kl.tolist()
    assert read["spec"]["latent_dim"] == 8
    assert {"kl", "information", "status", "n_active"} <= set(read["levels"][0])
    assert all(finding["action"] for finding in read["advice"])
    assert "5 of 8 units active, 3 collapsed" in repr(found)
    assert "5 active, 0 noise, 3 collapsed" in repr(found.levels[0])


MEAN = np.zeros((5, 3))


@pytest.mark.parametrize(
    ("mean", "options", "said"),
    [
        (np.zeros(5), {"std": 1.0}, r"mean: got shape \(5,\).*reshape"),
        (np.zeros((5, 2, 2)), {"std": 1.0}, r"mean: got shape \(5, 2, 2\)"),
        (np.zeros((1, 3)), {"std": 1.0}, "at least 2 rows"),
        (np.zeros((5, 0)), {"std": 1.0}, "mean: got shape"),
        (MEAN.astype(complex), {"std": 1.0}, "complex"),
        ("a posterior", {"std": 1.0}, "real numbers"),
        (np.full((5, 3), np.nan), {"std": 1.0}, "mean: got nan at row 0, column 0"),
        (MEAN, {"std": np.ones((4, 3))}, r"std: got shape \(4, 3\)"),
        (MEAN, {"std": np.where(np.eye(5, 3) > 0, -0.5, 1)}, "-0.5 at row 0, unit 1.*log_var"),
        (MEAN, {"std": np.where(np.arange(15).reshape(5, 3) == 7, 0.0, 1)}, "0 at row 2, unit 2"),
        (MEAN, {"std": np.where(np.arange(15).reshape(5, 3) == 7, np.inf, 1)}, "inf at row 2"),
        (MEAN, {"log_var": np.full((5, 3), -1e9)}, "Check log_var"),
        (MEAN, {"std": 1.0, "prior_std": -1.0}, "Check prior_std"),
        (MEAN, {"std": 1.0, "prior_mean": np.ones(4)}, "prior_mean: got shape"),
    ],
)
def test_numbers_that_are_no_posterior_are_refused(mean, options, said) -> None:
    with pytest.raises(DataError, match=said):
        pc.diagnose_arrays(mean, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "neither of std and log_var"),
        ({"std": 1.0, "log_var": 0.0}, "both or neither"),
        ({"std": 1.0, "epsilon": 0.0}, "epsilon"),
        ({"std": 1.0, "delta": 1.0}, "delta"),
        ({"std": 1.0, "spec": pc.VAESpec(4)}, r"spec: got latent dims \(4,\)"),
        ({"std": 1.0, "spec": pc.HVAESpec((3, 2))}, "one level of 3 units"),
        ({"std": 1.0, "spec": "vae"}, "spec: got str"),
    ],
)
def test_options_out_of_their_domain_are_refused(options, said) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        pc.diagnose_arrays(MEAN, **options)


def test_no_torch_is_needed() -> None:
    code = (
        "import numpy as np, posterior_collapse as pc\n"
        "print(pc.diagnose_arrays(np.zeros((5, 2)), 1.0).levels[0].status)"
    )
    assert output(NO_TORCH + code).strip() == "('collapsed', 'collapsed')"


def test_a_posterior_that_equals_its_own_rows_prior_is_collapsed() -> None:
    rng = np.random.default_rng(0)
    prior_mean, prior_std = rng.standard_normal((2000, 3)), np.exp(rng.normal(0, 0.3, (2000, 3)))
    live = rng.standard_normal(2000)
    mean, std = prior_mean.copy(), prior_std.copy()
    mean[:, 0] += live * prior_std[:, 0]
    std[:, 0] *= 0.5
    found = pc.diagnose_arrays(mean, std, prior_mean=prior_mean, prior_std=prior_std)
    level = found.levels[0]
    assert level.status == ("active", "collapsed", "collapsed")
    assert level.kl[1:] == pytest.approx([0, 0], abs=1e-12)
    # Beyond the prior, unit 0 is one of mean N(0, 1) and std 0.5 below a standard prior.
    alone = pc.diagnose_arrays(live[:, None], 0.5).levels[0]
    assert level.information[0] == pytest.approx(alone.information[0], rel=1e-6)
    assert level.kl[0] == pytest.approx(alone.kl[0], rel=1e-9)
    assert any("differs from row to row" in note for note in found.notes)
    same = pc.diagnose_arrays(mean, std, prior_mean=np.full((2000, 3), 0.5))
    assert not any("differs" in note for note in same.notes)


def test_a_variance_is_taken_as_one_and_suspected_where_a_std_was_said() -> None:
    """scvi-tools returns variances."""
    rng = np.random.default_rng(0)
    variance = np.array([0.1, 0.3, 0.5, 1.0])
    mean = rng.standard_normal((4000, 4)) * np.sqrt(1 - variance)
    std = pc.diagnose_arrays(mean, np.sqrt(variance))
    var = pc.diagnose_arrays(mean, var=variance)
    assert var.levels[0].kl == pytest.approx(std.levels[0].kl)
    assert var.levels[0].information == pytest.approx(std.levels[0].information)
    for found in (std, var):
        assert "variance-for-std" not in [one.code for one in found.advice]
    wrong = pc.diagnose_arrays(mean, variance)
    assert wrong.advice[0].code == "variance-for-std"
    assert "var= of diagnose_arrays" in wrong.advice[0].action
    with pytest.raises(InvalidArgumentError, match="both or neither"):
        pc.diagnose_arrays(mean, variance, var=variance)
    with pytest.raises(DataError, match="Check var"):
        pc.diagnose_arrays(mean, var=-variance)
