"""Networks beside the linear optimum: whether their numbers are its, and why not where not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch.distributions import Normal, kl_divergence

from planted_results import levels, likelihoods, planted
from posterior_collapse.experiments import DELIVERABLES, Result
from posterior_collapse.experiments.checks import (
    Check,
    Part,
    agreement,
)
from posterior_collapse.experiments.deliverables.explained import (
    bounded,
    diagnosed,
    most_per_unit,
    within_bound,
)
from posterior_collapse.experiments.ways import SURE, least
from posterior_collapse.models import Architecture
from posterior_collapse.runs import RunData
from posterior_collapse.specs import HVAESpec, VAESpec


class TestNumbers:
    """Numbers of networks beside those of the linear optimum, which is planted."""

    def result(self, beta: float, kl: float, active: int, *, seed: int = 1, **extra: Any) -> Result:
        theory = {
            "kl": 4.0,
            "nll": 100 + (beta - 1) ** 2,
            "levels": [{"kl": 4.0, "n_active": 4, "critical_beta": [1.0]}],
        }
        measured = {
            **likelihoods(kl, 100 + (beta - 1) ** 2, n_active=active, active_units=active),
            "conclusion": "signal-unclaimed",
            "verdict": "planted.",
            "signal": [1.75],
            **extra,
        }
        arrays = {"epsilon": np.array([0.1, 1.0]), "collapse_1": np.full(2, beta / 3)}
        return planted({"beta": beta}, measured, "beta", forecast=theory, arrays=arrays, seed=seed)

    def told(self, name: str, *results: Result) -> dict[str, Any]:
        return agreement([DELIVERABLES[name](results)], results)

    def test_direction_and_numbers_have_verdicts_of_their_own(self) -> None:
        falling = [
            self.result(b, kl, n, seed=seed, effective_sample_size=1e4)
            for b, kl, n in ((0.5, 4.1, 4), (1, 3.0, 3), (2, 1.0, 1))
            for seed in (1, 2)
        ]
        told = self.told("likelihood_table", *falling)
        assert (told["direction"], told["numbers"], told["verdict"]) == (
            *("agrees", "differs"), "partly"
        )  # fmt: skip
        assert told["kinds"] == ["direction"] * 3 + ["numbers"] * 2
        assert told["checks"][3:] == [
            [
                "differs",
                "KL, beta: within 10% (or 0.1 nats) of theory at 1 of 3 settings; farthest at "
                "beta = 2: 1, theory 4.",
            ],
            [
                "differs",
                "Active units, beta: within 1 of theory at 2 of 3 settings; farthest at beta = 2: "
                "1, theory 4.",
            ],
        ]
        near = [self.result(b, 4.2 - b / 5, 4) for b in (0.5, 1, 2)]
        assert self.told("likelihood_table", *near)["numbers"] == "agrees"

    @pytest.mark.parametrize(
        ("nlls", "agrees"),
        [
            # Of three seeds; by theory it is least at beta = 1.
            ({0.5: (9.0, 9.1, 9.2), 1: (8.0, 8.1, 8.2), 2: (8.5, 8.6, 8.7)}, True),
            ({0.5: (7.0, 7.1, 7.2), 1: (8.0, 8.1, 8.2), 2: (8.5, 8.6, 8.7)}, False),
            ({0.5: (9.0, 9.1, 9.2), 1: (8.0, 8.1, 8.2), 2: (8.3, 7.9, 8.4)}, None),
            # Seeds differ by more than settings, but each by as much: they are paired.
            ({0.5: (3.1, 8.1, 13.1), 1: (3.0, 8.0, 13.0), 2: (3.2, 8.2, 13.2)}, True),
            ({0.5: (9.0,), 1: (8.0,), 2: (8.5,)}, None),  # one seed tells nothing
        ],
    )
    def test_the_nll_is_least_where_theory_has_it_as_far_as_seeds_tell(
        self, nlls: dict[float, tuple[float, ...]], agrees: bool | None
    ) -> None:
        found = [
            self.result(beta, 4.2 - beta / 5, 1, seed=seed, nll=nll, effective_sample_size=1e4)
            for beta, of in nlls.items()
            for seed, nll in enumerate(of, 1)
        ]
        part = DELIVERABLES["likelihood_table"](found)
        assert part.checks[0].agrees is agrees
        assert part.checks[0].text.startswith("NLL (nats) is by theory least at beta = 1.")
        told = [note for note in part.notes if "cannot tell where it is least" in note]
        assert len(told) == (agrees is None)  # one unit of four lives there

    @pytest.mark.parametrize(
        ("learned", "fixed", "agrees"),
        [
            ((9, 10, 9), (13, 14, 14), True),
            ((13, 14, 14), (9, 10, 9), False),
            ((9, 14, 10), (11, 12, 13), None),  # seeds differ by more than the stds do
            ((13, 14), (13, 14), False),  # as many in each
            ((13,), (14,), None),  # one seed tells nothing
        ],
    )
    def test_a_learned_sigma_leaves_fewer_units_as_far_as_seeds_tell(
        self, learned: tuple[int, ...], fixed: tuple[int, ...], agrees: bool | None
    ) -> None:
        found = [
            self.result(1, 4.0, count, seed=seed)._replace(grid=grid, labels={})
            for grid, counts in (("learned", learned), ("fixed at 0.5", fixed))
            for seed, count in enumerate(counts, 1)
        ]
        checks = DELIVERABLES["likelihood_table"](found).checks
        (check,) = (check for check in checks if "expected: fewer learned" in check.text)
        assert check.agrees is agrees
        assert check.text.endswith("(not sure).") == (agrees is None)

    def test_the_kl_of_fixed_stds_alone_agrees_with_nothing(self) -> None:
        # 4 units of std 0.5 under a prior of std 1: 4 (0.25 - 1 - log 0.25) / 2 = 1.27 nats
        alone = 4 * kl_divergence(Normal(0.0, 0.5), Normal(0.0, 1.0)).item()
        assert alone == pytest.approx(1.2726, abs=1e-4)
        for sigma, agrees in ((0.5, False), ("learned", True)):
            one = self.result(1, 3.7, 4)  # by theory 4: 7.5% less, and 11% less beyond 1.27
            one.run.spec = VAESpec(4, sigma=sigma)  # type: ignore[misc]
            checks = DELIVERABLES["likelihood_table"]([one]).checks
            (check,) = (check for check in checks if "within 10%" in check.text)
            assert check.agrees is agrees
            assert ("beyond the 1.27 nats of fixed stds" in check.text) == (sigma == 0.5)
            assert agrees or check.text.endswith("farthest at beta = 1: 2.427, theory 2.727.")

    def test_what_may_be_too_high_is_not_surely_above(self) -> None:
        nlls = {0.5: [9.0, 9.1], 1: [8.0, 8.1], 2: [8.5, 8.6]}
        assert least("NLL", "beta", nlls, 1).agrees
        assert least("NLL", "beta", nlls, 1, {2: 0.4}).agrees
        assert least("NLL", "beta", nlls, 1, {2: 0.6}).agrees is None
        assert "2: +0.5 ± 0 (not sure: the values may be too high by more)." in (
            least("NLL", "beta", nlls, 1, {2: 0.6}).text
        )
        assert least("NLL", "beta", nlls, 2).agrees is False
        none = least("NLL", "beta", {1: [], 2: [8.5, 8.6]}, 1)
        assert (none.agrees, "of no other setting" in none.text) == (None, True)
        assert least("NLL", "beta", nlls, 2, {2: 0.6}).agrees is None

    def test_of_many_settings_one_is_sooner_below_by_chance(self) -> None:
        seeds = np.random.default_rng(0).standard_normal((2000, 4, 5))
        wrong = [
            least("NLL", "beta", dict(enumerate(of)), 0).agrees is False  # type: ignore[arg-type]
            for of in seeds
        ]
        assert np.mean(wrong) < (1 - SURE) / 2 + 3 * (0.025 / 2000) ** 0.5

    def test_the_caption_speaks_of_theory_where_it_is_drawn(self) -> None:
        def caption(*results: Result) -> str:
            _, caption = DELIVERABLES["likelihood_table"](results).charts["likelihood"]
            return caption

        numbers = [self.result(beta, 4.0, 4) for beta in (0.5, 2.0)]
        assert caption(*numbers).endswith("Dotted: the linear optimum (its NLL on training rows).")
        names = [
            r._replace(labels={"name": f"pairs:{n}"}) for n, r in zip("ab", numbers, strict=True)
        ]
        assert "Dashes: the linear optimum" in caption(*names)

    def test_few_effective_samples_make_an_upper_bound(self) -> None:
        found = [
            self.result(1, 4.0, 4),
            self.result(2, 4.0, 4, effective_sample_size=50.0),
            # Too high by up to 2/30 = 0.067 nats, which its error of 0.04 does not cover.
            self.result(3, 4.0, 4, effective_sample_size=30.0, nll_error=0.04),
            self.result(4, 4.0, 4, effective_sample_size=30.0),
        ]
        part = DELIVERABLES["likelihood_table"](found)
        table = part.tables["likelihood"]
        place = list(table.columns).index("the NLL is an")
        bounds = ["upper bound", "estimate", "upper bound", "estimate"]
        assert [row[place] for row in table.rows] == bounds
        chart, caption = part.charts["likelihood"]
        arrows = [line for line in chart.figure.axes[0].lines if "arrow" in str(line.get_marker())]
        assert [line.get_xdata().tolist() for line in arrows] == [[0, 2]]
        assert "An arrow down" in caption

    def test_runs_of_two_grids_count_once(self) -> None:
        one = self.result(1, 0.0, 0)
        notes = DELIVERABLES["collapse_curves"]([one, one._replace(grid="eta_dec")]).notes
        assert any(note.startswith("Of 1 run 0 keep as many") for note in notes)
        assert any("of the 1 run that keeps fewer" in note for note in notes)

    def test_each_setting_says_what_is_concluded_of_it(self) -> None:
        seeds = [self.result(1, 0.0, 0, seed=seed) for seed in (1, 2)]
        seeds[1].measured["conclusion"] = "undecided"
        table = DELIVERABLES["collapse_curves"](seeds).tables["collapse"]
        assert (table.columns[-1], table.rows[0][-1]) == (
            "`diagnose` concludes", "1 signal-unclaimed, 1 undecided",
        )  # fmt: skip

    def test_verdicts_of_earlier_versions_are_written_as_those_of_today(self) -> None:
        (said, *_) = diagnosed([self.result(1, 0.0, 0, verdict="t = 2 +- 0.1.")], 1)
        assert said.endswith("t = 2 ± 0.1.")

    def test_what_rounding_leaves_of_none_is_none(self) -> None:
        found = self.result(1, 4.0, 4)
        found.theory["levels"][0]["kl"] = 2.776e-16
        table = DELIVERABLES["likelihood_table"]([found]).tables["likelihood"]
        assert table.rows[0][list(table.columns).index("KL (nats) by theory")] == 0

    def test_dead_units_are_explained_by_the_diagnosis(self) -> None:
        notes = DELIVERABLES["collapse_curves"]([self.result(1, 0.0, 0)]).notes
        (said,) = (note for note in notes if "diagnose" in note)
        assert "1 run that keeps fewer units" in said
        assert "1 signal-unclaimed" in said
        assert said.endswith("(beta, beta = 1, seed 1) it says: planted.")

    def test_architectures_are_diagnosed_apart(self) -> None:
        dead = [self.result(beta, 0.0, 0) for beta in (1, 2)]
        runs = [one._replace(grid=grid) for one, grid in zip(dead, ("cnn", "relu"), strict=True)]
        runs[0].measured["conclusion"] = "collapse-optimal"
        (said,) = (note for note in diagnosed(runs, 1, apart=True) if "diagnose" in note)
        assert "cnn: 1 collapse-optimal; relu: 1 signal-unclaimed." in said

    def test_what_a_warm_up_changes_is_told_by_value(self) -> None:
        cold, warm = self.result(1, 0.0, 0), self.result(1, 3.8, 3)
        warm.run.settings.warm_up = 10  # type: ignore[misc]
        wider = self.result(1, 4.0, 4)
        wider.run.architecture = Architecture.named("mlp", hidden=(99,))  # type: ignore[misc]
        notes = DELIVERABLES["collapse_curves"]([cold, warm, wider]).notes
        assert any(
            note.startswith("Units that carry information on the data, without and with a warm-up")
            and note.endswith("beta = 1: 0 and 3 of 4.")
            for note in notes
        )

    @pytest.mark.parametrize(("trained", "verdict"), [(0.1, "not measured"), (0.3, "partly")])
    def test_nets_that_were_no_more_than_begun_are_not_judged(
        self, trained: float, verdict: str
    ) -> None:
        checks = [Check(False, "Nets."), Check(True, "More nets.", "numbers")]
        told = agreement([Part(checks=checks)], [], trained=trained)
        assert told["verdict"] == verdict
        assert any("10% of the planned passes" in note for note in told["notes"]) == (trained < 0.3)

    def test_quick_is_judged_by_exact_training_alone(self) -> None:
        checks = [Check(False, "Nets."), Check(True, "Moments.", "numbers", exact=True)]
        told = agreement([Part(checks=checks)], [], quick=True)
        assert (told["verdict"], told["direction"], told["numbers"]) == ("agrees", None, "agrees")
        told = agreement([Part(checks=checks[:1])], [], quick=True)
        assert told["verdict"] == "not measured"
        assert told["checks"] == [["not measured", "Barely trained: Nets."]]
        assert "barely trained" in told["notes"][0]


def test_printed_numbers_stand_beside_those_of_the_same_loss() -> None:
    def found(convention: str, warm_up: int = 0) -> Part:
        measured, settings = likelihoods(7.5, 554.0), {"convention": convention, "warm_up": warm_up}
        net = SimpleNamespace(name="cvae-relu")
        one = planted({"beta": 0.5}, measured, "beta", architecture=net, **settings)
        return DELIVERABLES["published_numbers"]([one])

    assert not found("elbo").tables
    assert not found("reference", warm_up=10).tables  # which no script has
    table = found("reference").tables["published"]
    assert [row[2:5] for row in table.rows] == [
        ["NLL", 554.36, {"mean": 554.0, "std": None}],
        ["KL", 7.15, {"mean": 7.5, "std": None}],
        ["kl_active_share", 0.495, {"mean": 0.5, "std": None}],
        ["KL", 5.67, {"mean": 7.5, "std": None}],
        ["kl_active_share", 0.25, {"mean": 0.5, "std": None}],
    ]
    assert [row[1] for row in table.rows] == [*["beta = 0.5"] * 3, *["beta = 0.5 (its seed 2)"] * 2]


class TestBoundedMeans:
    """A tanh keeps the means of z1 within 1: of z2 a linear model with that bound keeps less."""

    def result(self, beta_1: float, kl: float) -> Result:
        found = levels(4, 4)
        found["levels"][1]["kl"] = [kl, 0.0]
        found["levels"][0]["mean_variance"] = [0.5, 0.7]
        each = {"kl": 3.0, "unit_kl": [2.0, 1.0], "n_active": 2}
        return planted(
            {"beta_1": beta_1}, found, spec=HVAESpec((2, 2), (beta_1, 1.0), 0.5, 0.5, sigma_1=0.5),
            forecast={"kl": 6.0, "levels": [each, each]},
            architecture=SimpleNamespace(latent="tanh", hidden=(4,)),
        )  # fmt: skip

    def test_a_unit_has_what_the_bound_leaves_it(self) -> None:
        # 1/2 log((1 + 0.25) beta_1 / 0.25), twice: 1.61 nats at beta_1 = 1, none at 0.1
        assert bounded(self.result(1.0, 1.6)) == (2, pytest.approx(np.log(5.0)))
        assert bounded(self.result(0.1, 0.0)) == (0, 0.0)

    def test_the_note_counts_settings_with_and_without_the_bound(self) -> None:
        planted_kl = ((1.0, 1.6), (0.5, 0.4), (0.25, 0.9))
        (said,) = within_bound([self.result(beta, kl) for beta, kl in planted_kl])
        assert "theory's at 0 of 3 different settings" in said
        assert "it is so at 1; at 1 the network has less" in said
        assert "is 0.60 to 0.60 there, on average over units; at 1 it has more, as corr" in said

    def test_it_holds_of_uncorrelated_means_and_not_of_correlated_ones(self) -> None:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (100_000, 2))  # as wide as may be
        most = most_per_unit(self.result(1.0, 0.0))
        for means, within in ((signs, True), (signs[:, [0, 0]], False)):
            variance = np.linalg.eigvalsh(np.cov(means.T))[-1] + 0.5**2  # of z1, sigma_1 = 0.5
            nats = 0.5 * np.log(variance / 0.5**2)  # that a unit of z2 carries at equal betas
            assert (nats < most + 0.01) == within


@pytest.mark.parametrize(("losses", "said"), [((9.0, 7.0), True), ((7.0, 9.0), False)])
def test_wider_networks_memorise_more_where_their_losses_fall(
    losses: tuple[float, float], said: bool
) -> None:
    found = []
    for width, loss, kl in zip((128, 256), losses, (4.0, 2.5), strict=True):
        measured = {"levels": [{"n_active": 2, "kl": [kl, 0.5]}], "loss": loss, "signal": [1.1]}
        theory = {"loss": 12.0, "levels": [{"n_active": 3, "unit_kl": [1.0, 1.0, 1.0]}]}
        found.append(
            planted(
                {"name": "pairs:random"}, measured, f"{width} hidden units", forecast=theory,
                architecture=Architecture.named("mlp", hidden=(width,)),
                data=RunData("pairs:random"), arrays={"collapse_1": np.array([0.2, 1.0])},
            )
        )  # fmt: skip
    (note,) = DELIVERABLES["correlation"](found).notes
    assert ("the more of them the wider it is" in note) == said
    assert "their KL is 4.5, 3 nats" in note


def test_wholly_dead_digits_are_named_beside_the_order_of_the_others() -> None:
    found = []
    for digit, theory in enumerate((4.0, 3.0, 2.0, 1.0)):
        dead = digit == 1
        level = {"n_active": 0 if dead else 2, "kl": [theory]}
        measured = {
            "levels": [level], "kl": 0.0 if dead else theory, "signal": [8.4 if dead else 0.9],
            "conclusion": "signal-unclaimed", "verdict": "planted.",
        }  # fmt: skip
        planned = {
            "kl": theory,
            "spectrum": [theory],
            "levels": [{"n_active": 2, "threshold": [1.0]}],
        }
        arrays = {"epsilon": np.array([0.1, 1.0]), "collapse_1": np.array([0.2, 1.0])}
        found.append(planted({"label": digit}, measured, "cnn", forecast=planned, arrays=arrays))
    part = DELIVERABLES["digits"](found)
    assert part.checks[0].text == (
        "cnn, test rows: the rank correlation of the digits' KL with theory's is 0.40; expected: "
        "0.6 or more."
    )
    (said,) = (note for note in part.notes if "wholly" in note or "no unit is alive" in note)
    assert "on the digits 1, where t is 8.4" in said
    assert "That of the other 3 digits is 1.00" in said
