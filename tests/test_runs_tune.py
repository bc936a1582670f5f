"""`tune`: the search, on counts that are known; then on networks, small and planted."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import posterior_collapse as pc
from posterior_collapse.data.samples import read
from posterior_collapse.models import Architecture
from posterior_collapse.report.comparison import tuned_verdict
from posterior_collapse.runs.goal import Goal, Theory
from posterior_collapse.runs.tune import Trial, Try, search_beta, search_latents

module = importlib.import_module("posterior_collapse.runs.tune")  # by name it is the function
STDS = np.array([4.0, 2.0, 1.0, 0.5])
X = np.random.default_rng(0).standard_normal((600, 4)) @ np.diag(STDS)
VARIANCES = np.sort(np.linalg.eigvalsh(np.cov(X.T, bias=True)))[::-1]


class Fake:
    """Networks whose count is known: it falls with beta, with training, and by chance of the seed.

    Args:
        at: Beta below which more than n units live, n = 0, 1, ...
        slow: Length until which those betas are higher.
        late: Length until which one more lives.
        noise: Seeds that keep one more, per ten.
    """

    def __init__(
        self, at: Sequence[float], slow: float = 0.0, late: float = 0.0, noise: int = 0
    ) -> None:
        self.at, self.slow, self.late, self.noise = np.asarray(at), slow, late, noise
        self.calls: list[tuple[tuple[float, ...], int, float]] = []

    def count(self, beta: float, seed: int, times: float) -> int:
        lives = int((beta < self.at * (1 + max(self.slow - times, 0))).sum()) + (times < self.late)
        return lives + ((seed * 7 + int(1000 * beta) * 3) % 10 < self.noise)

    def __call__(self, values: Sequence[float], seeds: int, times: float) -> list[Trial]:
        self.calls.append((tuple(values), seeds, times))
        return [
            Trial(
                beta,
                tuple(self.count(beta, seed, times) for seed in range(seeds)),
                tuple(self.count(beta, seed, times / 2) for seed in range(seeds)),
                None,
                int(100 * times),
            )
            for beta in values
        ]


LADDER = [8.0, 4.0, 2.0, 1.0, 0.5]
"""One unit below 8, two below 4, ..."""


def beside_linear(fake: Fake, **changes: bool) -> Try:
    """Such networks beside a linear model, which keeps the units of the ladder."""

    def train(values: Sequence[float], seeds: int, times: float) -> list[Trial]:
        return [
            trial.replace(linear=sum(trial.value < at for at in LADDER), **changes)
            for trial in fake(values, seeds, times)
        ]

    return train


@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
@pytest.mark.parametrize(("low", "high"), [(0.1, 20.0), (0.01, 0.02), (30.0, 60.0)])
def test_a_grid_finds_its_way_whatever_theory_said(wanted: int, low: float, high: float) -> None:
    found = search_beta(Fake(LADDER), low, high, wanted, 3)
    if (low, high) == (0.1, 20.0):
        assert LADDER[wanted] <= found.best.value < LADDER[wanted - 1]
        assert found.best.active == (wanted,) * 3
        assert len(found.trials) == 12 + 4
    elif low == 0.01:  # goes up from where too many live
        assert found.best.value > 0.02
    else:
        assert found.best.value < 30


def test_a_narrow_step_between_two_betas_is_looked_for() -> None:
    found = search_beta(Fake([8.0, 4.0, 2.4, 2.33, 0.5]), 0.1, 20.0, 3, 3)
    assert 2.33 <= found.best.value < 2.4
    assert found.best.active == (3, 3, 3)
    never = Fake([8.0, 4.0, 2.0, 2.0, 0.5])  # two modes of one variance
    assert len(search_beta(never, 0.1, 20.0, 3, 3).trials) <= 12 + 4 * 4


def test_runs_whose_counts_still_fall_are_made_longer() -> None:
    fake = Fake(LADDER, late=0.8)
    found = search_beta(fake, 1.0, 20.0, 2, 3)
    assert [(seeds, times) for _, seeds, times in fake.calls] == [(1, 0.5), (3, 1.0), (3, 2.0)]
    assert found.times == 2
    assert found.best.still
    assert found.best.active == (2, 2, 2)
    assert 2.0 <= found.best.value < 4.0
    fixed = Fake(LADDER, late=0.8)
    assert search_beta(fixed, 1.0, 20.0, 2, 3, fixed_length=True).times == 1
    assert {times for _, _, times in fixed.calls} == {1.0}


def test_more_units_than_a_linear_model_keeps_mean_that_training_has_not_ended() -> None:
    fake = Fake(LADDER, slow=9.0)
    found = search_beta(beside_linear(fake), 1.0, 4.0, 2, 3)
    assert [times for _, _, times in fake.calls] == [0.5, 1, 2, 4]
    # It does not run away to betas at which the linear model keeps nothing.
    assert max(beta for values, _, _ in fake.calls for beta in values) < 4.0
    assert found.best.above
    assert not found.best.still


def test_a_beta_at_which_a_linear_model_keeps_fewer_is_never_chosen() -> None:
    """However many units a network has there that was trained too briefly."""
    fake = Fake([4 * at for at in LADDER])
    found = search_beta(beside_linear(fake), 1.0, 20.0, 2, 3)
    assert found.best.linear is not None
    assert found.best.linear >= 2
    assert found.best.value < 4.0
    assert not found.best.still


def test_an_approximate_count_bounds_nothing() -> None:
    """Of a likelihood that is not Gaussian twice as many units may live where it counts few."""
    fake = Fake([2 * at for at in LADDER])
    found = search_beta(beside_linear(fake, approximate=True), 2.0, 8.0, 2, 3)
    assert 4.0 <= found.best.value < 8.0
    assert found.best.active == (2, 2, 2)
    assert found.best.linear == 1
    assert found.best.still
    assert not found.best.above


BINARY = (np.random.default_rng(3).random((300, 6)) < 1 / (1 + np.exp(-X[:300, [0] * 6]))) * 1.0
BERNOULLI = pc.VAESpec(4, likelihood="bernoulli")


@pytest.mark.parametrize("net", ["linear", "mlp"])
def test_where_theory_approximates_it_looks_up_to_the_onset(net: str) -> None:
    ratios = pc.forecast(BINARY, BERNOULLI).spectrum
    theory = Theory(read(BINARY), Goal(BERNOULLI, active=3), Architecture.named(net), "elbo")
    low, high = theory.interval()
    assert high == pytest.approx(ratios[0])  # from here on no unit lives, in any network
    assert low <= ratios[3] if net == "linear" else low < ratios[3]
    assert ratios[2] < 0.7 * high
    kept = int((ratios > 1).sum())
    assert theory.latents()[0] <= kept < theory.latents()[1] == np.count_nonzero(ratios)
    gaussian = Theory(read(BINARY), Goal(pc.VAESpec(4), active=3), Architecture.named(net), "elbo")
    assert gaussian.interval()[1] == pytest.approx(
        np.linalg.eigvalsh(np.cov(BINARY.T, bias=True))[-3]
    )


def test_what_an_approximation_says_is_called_one() -> None:
    tuned = pc.tune(BINARY, BERNOULLI, "linear", active=2, seeds=1, steps=20)
    said = f"{tuned_verdict(tuned)} {tuned.notes} {tuned._repr_html_()}"
    assert all(trial.approximate for trial in tuned.curve)
    assert any(trial.active[0] > (trial.linear or 0) for trial in tuned.curve)
    assert f"the quadratic approximation keeps {tuned.chosen.linear}" in said
    assert "linear optimum" not in said
    assert "linear model" not in said
    assert "training has not ended" not in said
    # Betas are tried up to the onset, where no unit lives for good.
    assert (min(tuned.chosen.active) > 2) == ("no beta that was tried keeps 2 units" in said)
    assert (min(tuned.chosen.active) > 2) == ("train longer, e.g. steps=80" in tuned.notes[0])
    (axes,) = tuned.plot().axes
    assert "quadratic approximation" in axes.get_legend_handles_labels()[1]


@pytest.mark.parametrize(("net", "words"), [("linear", "has not ended"), ("mlp", "seldom keep")])
def test_only_of_a_linear_model_more_units_show_that_training_goes_on(net: str, words: str) -> None:
    tuned = pc.tune(X, pc.VAESpec(4), net, active=2, seeds=1, steps=9)
    chosen = tuned.chosen.replace(active=(4,), linear=2)
    (note,) = module._notes(tuned.replace(chosen=chosen))  # and not that no beta keeps 2
    assert words in note
    assert "train longer" in note


def test_chance_is_averaged_and_said() -> None:
    found = search_beta(Fake(LADDER, noise=3), 0.1, 20.0, 3, 3)
    assert 0.8 < found.best.value < 2.2
    assert abs(found.best.mean - 3) < 1


@pytest.mark.parametrize("first", [1, 4, 9])
def test_the_most_latents_of_which_all_live(first: int) -> None:
    def train(values: Sequence[float], seeds: int, times: float) -> list[Trial]:
        return [Trial(k, (min(int(k), 5),) * seeds, (None,) * seeds, None, 1) for k in values]

    found = search_latents(train, first, 12, 3)
    assert found.best.value == 5
    assert {trial.value for trial in found.trials} >= {5, 6}


def test_where_no_number_of_latents_lives_the_fewest_is_named() -> None:
    def train(values: Sequence[float], seeds: int, times: float) -> list[Trial]:
        return [Trial(k, (0,) * seeds, (0,) * seeds, None, 1) for k in values]

    assert search_latents(train, 2, 3, 2).best.value == 1


@pytest.mark.parametrize("active", [1, 2, 3, 4])
def test_of_a_linear_model_the_beta_is_that_of_the_forecast(active: int) -> None:
    tuned = pc.tune(X, pc.VAESpec(4, eta_dec=0.7), "linear", active=active, exact=True)
    assert tuned.settled
    assert tuned.notes == ()
    assert tuned.chosen.active == (active,) * 3
    assert tuned.chosen.linear == active
    tau = tuned.spec.beta * 0.49
    assert tau < VARIANCES[active - 1]
    assert active == 4 or tau > VARIANCES[active]
    assert pc.forecast(X, tuned.spec).n_active == active


def test_without_a_number_all_units_are_to_live() -> None:
    tuned = pc.tune(X, pc.VAESpec(3), "linear", exact=True, seeds=1)
    assert tuned.wanted == 3
    assert tuned.spec.beta < VARIANCES[2]


def test_of_a_linear_model_as_many_latents_as_modes_above_the_threshold() -> None:
    spec = pc.VAESpec(1, beta=2.0)
    tuned = pc.tune(X, spec, "linear", tune="latents", exact=True)
    assert tuned.spec == spec.replace(latent_dim=int((VARIANCES > 2).sum()))
    assert tuned.settled
    assert isinstance(tuned.to_dict()["chosen"]["value"], int)


def test_a_convention_is_heeded() -> None:
    """In the reference convention a beta of 2 b is the beta b of the loss that theory knows."""
    plain, other = (
        pc.tune(X, pc.VAESpec(4), "linear", active=2, exact=True, convention=convention)
        for convention in ("elbo", "reference")
    )
    assert other.settled
    assert other.spec.beta == pytest.approx(2 * plain.spec.beta, rel=1e-2)


def test_a_learned_decoder_std_is_placed_by_its_own_thresholds() -> None:
    tuned = pc.tune(X, pc.VAESpec(3, eta_dec="learned"), "linear", active=2, exact=True)
    assert tuned.chosen.active == (2, 2, 2)
    assert pc.forecast(X, tuned.spec).n_active == 2


SMALL = {"hidden": (16,), "steps": 300, "batch_size": 200, "learning_rate": 5e-3}
WIDE_GAP = np.random.default_rng(1).standard_normal((600, 4)) * [4.0, 3.0, 0.3, 0.2]


def test_a_network_keeps_as_many_from_a_seed_that_tuning_never_saw() -> None:
    """Gaussian data do not bend: a network keeps the 2 units of a linear model from .1 to 9."""
    tuned = pc.tune(WIDE_GAP, pc.VAESpec(4), "mlp", active=2, seeds=2, **SMALL)
    assert tuned.settled
    assert tuned.chosen.active == (2, 2)
    assert 0.1 < tuned.spec.beta < 9
    settings = tuned.settings.replace(seed=17)
    again = pc.fit(tuned.spec, WIDE_GAP, tuned.architecture, settings=settings)
    assert again.measured()["levels"][0]["n_active"] == 2


HIERARCHY = pc.HVAESpec((4, 4), betas=(1.0, 1.0), eta_dec=0.7, sigma_1=0.6)


@pytest.mark.parametrize("active", [1, 3])
def test_of_a_hierarchy_the_beta_of_the_level_that_is_named_is_turned(active: int) -> None:
    """Of a linear one, z2's units live where the forecast says, and so do z1's; see theory 3a."""
    tuned = pc.tune(X, HIERARCHY, "linear", active=active, exact=True, seeds=1)
    assert tuned.settled
    assert (tuned.level, tuned.parameter) == (2, "beta_2")
    assert tuned.spec.betas[0] == 1.0
    assert pc.forecast(X, tuned.spec).levels[1].n_active == active
    assert tuned.to_frame().columns[0] == "beta_2"
    assert f"{active} of 4 units of z2" in tuned._repr_html_()
    # The closed form of theory section 3a, both on: theta > max(sqrt(b2) eta, b2 eta^2/sigma_1).
    alive = [max(tuned.spec.betas[1] ** 0.5 * 0.7, tuned.spec.betas[1] * 0.49 / 0.6)]
    assert int((np.sqrt(VARIANCES) > alive).sum()) == active


def test_of_a_hierarchy_the_level_next_to_the_data_is_tuned_if_it_is_named() -> None:
    spec = HIERARCHY.replace(betas=(1.0, 40.0))  # z2 keeps none of z1's units alive
    tuned = pc.tune(X, spec, "linear", active=2, level=1, exact=True, seeds=1)
    assert tuned.settled
    assert (tuned.level, tuned.parameter) == (1, "beta_1")
    assert tuned.spec.betas[1] == 40.0
    tau = tuned.spec.betas[0] * 0.36  # z1 alone: theta > sqrt(b1) sigma_1
    assert VARIANCES[2] < tau < VARIANCES[1]


def test_of_a_hierarchy_as_many_latents_as_live_at_its_top() -> None:
    spec = HIERARCHY.replace(latent_dims=(4, 1), betas=(1.0, 2.0))
    tuned = pc.tune(X, spec, "linear", tune="latents", exact=True, seeds=2)
    assert tuned.settled
    assert tuned.parameter == "latent_dim_2"
    assert tuned.spec.latent_dims == (4, tuned.wanted)
    wide = pc.forecast(X, spec.replace(latent_dims=(4, 4)))
    assert tuned.wanted == wide.levels[1].n_active == 2


def test_of_a_chain_any_level_is_tuned() -> None:
    spec = pc.ChainSpec((3, 3, 3), (1.0, 1.0, 1.0), (0.7, 0.6, 0.5), sigmas=(0.6, 0.5, "learned"))
    tuned = pc.tune(X, spec, "linear", active=2, level=3, exact=True, seeds=1)
    assert tuned.chosen.active == (2,)
    assert tuned.parameter == "beta_3"
    assert pc.forecast(X, tuned.spec).levels[2].n_active == 2


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X * [1, 1, 1, 1000], "Divide each feature by its own"),
        (np.random.default_rng(2).standard_normal((30, 40)), "only 30 rows"),
    ],
)
def test_what_a_forecast_says_of_the_data_is_said_here_too(x: np.ndarray, words: str) -> None:
    tuned = pc.tune(x, pc.VAESpec(4), "linear", active=3, exact=True, seeds=1)
    assert words in " ".join(tuned.notes)
    assert set(tuned.notes) <= set(pc.forecast(x, tuned.spec).notes)


def test_units_of_almost_no_nats_are_counted_alike_by_network_and_theory() -> None:
    trial = pc.tune(X, pc.VAESpec(4), "linear", active=2, exact=True, seeds=1).chosen
    assert trial.linear == 2
    beta = VARIANCES[1] / np.exp(2 * 0.004)  # 0.004 nats: no unit that a diagnosis calls active
    (run,) = pc.sweep([pc.VAESpec(4, beta=beta)], X, "linear", exact=True).runs
    assert run.forecast["levels"][0]["n_active"] == 2
    assert module._trial(beta, [run], 0).linear == module._trial(beta, [run], 0).active[0] == 1


def test_a_hierarchy_of_another_likelihood_is_tuned() -> None:
    binary = (X @ np.random.default_rng(2).standard_normal((4, 8)) > 0).astype(float)
    spec = pc.HVAESpec((3, 3), likelihood="bernoulli", betas=(1.0, 9.0))
    tuned = pc.tune(binary, spec, "linear", active=1, level=1, seeds=1, steps=20)
    ratios = pc.forecast(binary, spec).spectrum
    assert tuned.parameter == "beta_1"
    assert tuned.curve[0].linear is not None
    first, second = ratios[:2] / np.exp(2 * 0.005)  # where a unit has the nats of an active one
    assert all((trial.linear == 1) == (second <= trial.value < first) for trial in tuned.curve)


def test_a_tuning_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    swept = module.sweep

    def stopped(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return swept(*args, **options)  # type: ignore[arg-type]

    def tune(folder: Path | None) -> pc.Tuned:
        return pc.tune(X, pc.VAESpec(4), "linear", active=2, exact=True, folder=folder)

    monkeypatch.setattr(module, "sweep", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path)
    monkeypatch.setattr(module, "sweep", swept)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[0-9a-f]*")}
    assert len(done) == 12
    assert tune(tmp_path).to_dict() == tune(None).to_dict()
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_a_result_is_plain_values_a_line_a_table_and_a_figure() -> None:
    tuned = pc.tune(X, pc.VAESpec(4), "linear", active=2, exact=True)
    values = tuned.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["settled"] is True
    assert "\n" not in repr(tuned)
    frame = tuned.to_frame()
    assert len(frame) == len(tuned.curve)
    assert list(frame.columns[:5]) == ["beta", "steps", "active", "linear", "still"]
    assert frame["beta"].is_monotonic_increasing
    (axes,) = tuned.plot().axes
    assert axes.get_ylabel() == "active units"
    html = tuned._repr_html_()
    assert "With β = " in html


def test_what_has_not_settled_is_said() -> None:
    options = {**SMALL, "steps": 9}
    tuned = pc.tune(X, pc.VAESpec(4), "mlp", active=2, seeds=1, **options)
    assert not tuned.settled
    assert any("train longer" in note or "cannot be told" in note for note in tuned.notes)
    assert "not settled" in repr(tuned)
    assert "Not settled" in tuned._repr_html_()


@pytest.mark.parametrize(
    ("x", "eta_dec", "step", "remedy"),
    [(X, 1e-3, "step [1-9]", "Lower learning_rate"), (X * 1e3, 1e-9, "step 0", "smaller weights")],
)
def test_a_run_that_diverges_ends_it_in_a_line(
    x: np.ndarray, eta_dec: float, step: str, remedy: str
) -> None:
    spec = pc.VAESpec(4, eta_dec=eta_dec)
    with pytest.raises(pc.PosteriorCollapseError, match=f"{step}.*{remedy}") as caught:
        pc.tune(x, spec, "mlp", active=2, steps=50, learning_rate=1e6)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_infinite_before_any_step_is_no_fault_of_the_rate() -> None:
    with pytest.raises(pc.PosteriorCollapseError, match=r"at step 0 .* Start from smaller weights"):
        pc.tune(X * 1e10, pc.VAESpec(4), "mlp", active=2, seeds=1, steps=8)


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        (pc.VAESpec(4), {"active": 5}, "active: got 5; expected at most 4, the latent units"),
        (pc.VAESpec(9), {"active": 5}, "active: got 5; expected at most 4, the modes of the data"),
        (pc.VAESpec(4), {"active": 0}, "active"),
        (pc.VAESpec(4), {"active": 2, "seeds": 0}, "seeds"),
        (pc.VAESpec(4), {"tune": "eta_dec"}, "tune: got 'eta_dec'"),
        (pc.VAESpec(4), {"tune": "latents", "active": 2}, "nothing beside tune='latents'"),
        (pc.VAESpec(4, beta=50.0), {"tune": "latents"}, "beta: got 50.0; expected less than"),
        (pc.HVAESpec((4, 2)), {"active": 3}, "active: got 3; expected at most 2, the latent units"),
        (pc.HVAESpec((4, 2)), {"level": 3}, "level: got 3; expected at most 2, the latent levels"),
        (pc.VAESpec(4), {"level": 0}, "level: got 0"),
        (pc.VAESpec(4), {"epochs": 5, "warm_up": 7}, "warm_up: got 7 epochs in a run of 5"),
        (
            pc.HVAESpec((4, 2), sigma_1="learned", betas=(1.0, 2.0)),  # z2 dies whatever the data
            {"active": 1},
            "active: got 1; expected a number of units of z2 that some beta_2 keeps: at most 0",
        ),
        (
            pc.HVAESpec((4, 4), betas=(1.0, 0.5)),  # three modes that z2 keeps in z1
            {"active": 1, "level": 1},
            "so few are kept at none, 4 at some",
        ),
        (pc.HVAESpec((4, 2), betas=(1.0, 99.0)), {"tune": "latents"}, "beta_2: got 99.0; expected"),
        ("beta", {"active": 2}, "spec: got str"),
        (pc.VAESpec(4), {"active": 2, "stepps": 3}, "Did you mean 'steps'"),
        (pc.VAESpec(4), {"actve": 2}, "Did you mean 'active'"),
        (pc.VAESpec(4), {"active": 2, "foldr": "kept"}, "Did you mean 'folder'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(
    spec: pc.Spec, options: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "sweep", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(pc.InvalidArgumentError, match=words) as caught:
        pc.tune(X, spec, "mlp", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
