"""Verdicts follow from numbers: planted results of which it is known what they show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from planted_results import levels, likelihoods, planted, verdicts
from posterior_collapse import VAESpec
from posterior_collapse.experiments import DELIVERABLES, Executor, Plan, Result, chosen
from posterior_collapse.experiments.checks import (
    Check,
    Part,
    agreement,
)
from posterior_collapse.experiments.data import read_moments
from posterior_collapse.experiments.reproducing import _part
from posterior_collapse.experiments.ways import along_lines, direction, follows, least, monotone
from posterior_collapse.runs import RunData
from posterior_collapse.theory import forecast


class TestTrends:
    @pytest.mark.parametrize(
        ("values", "way"),
        [
            ([1.0, 2.0, 3.0], "rises"),
            ([3.0, 3.05, 1.0], "falls"),
            ([1.0, 1.05, 1.0], "hardly changes"),
            ([1.0, 2.0, 1.0], "rises and falls"),
        ],
    )
    def test_the_sentence_says_what_the_numbers_do(self, values: list[float], way: str) -> None:
        assert direction(values, 0.1) == way
        points = list(enumerate(values))[::-1]
        check = monotone("KL", "beta", [(float(x), y) for x, y in points], "falls", 0.1)
        assert f"KL {way} with beta" in check.text
        assert check.agrees == (way == "falls")
        assert ("expected: falls" in check.text) == (way != "falls")

    def test_lines_are_ranked_as_scipy_ranks_them(self) -> None:
        grid = np.random.default_rng(1).integers(0, 6, size=(4, 7)).astype(float)
        expected = [spearmanr(line, range(7)).statistic for line in grid]
        assert along_lines(grid) == pytest.approx(np.mean(expected))
        assert along_lines(np.ones((3, 4))) == 0


class TestBetaPanel:
    """Over a grid the error is planted: it grows along one axis and falls along the other."""

    def results(self, error: Any, active: int) -> list[Result]:
        found = []
        for i, beta_1 in enumerate((0.1, 1.0, 2.0)):
            for j, beta_2 in enumerate((0.1, 1.0, 2.0)):
                off = np.zeros((1, 4))
                off[0, 0] = np.sqrt(error(i, j))
                arrays = {"original": np.zeros((1, 4)), "through_2": off}
                labels = {"beta_1": beta_1, "beta_2": beta_2}
                found.append(planted(labels, levels(4, active), arrays=arrays))
        return found

    def test_both_ways_are_read_off_the_errors(self) -> None:
        assert verdicts("beta_panel", self.results(lambda i, j: 10 + j - 3 * i, 2)) == [
            *("agrees", "agrees")
        ]
        part = DELIVERABLES["beta_panel"](self.results(lambda i, j: 1 + j + i, 2))
        assert [check.agrees for check in part.checks] == [True, False]
        assert "rises with beta_1 (mean rank correlation 1.00); expected: falls" in (
            part.checks[1].text
        )

    def test_a_weak_tendency_is_none(self) -> None:
        jumping = {0: (0, 2, 1), 1: (1, 0, 2), 2: (2, 1, 0)}
        part = DELIVERABLES["beta_panel"](self.results(lambda i, j: 1 + jumping[i][j], 2))
        assert [check.agrees for check in part.checks] == [False, False]
        assert "neither rises nor falls with beta_2" in part.checks[0].text

    def test_without_active_units_nothing_is_measured(self) -> None:
        found = self.results(lambda i, j: 10 + j - 3 * i, 0)
        assert verdicts("beta_panel", found) == ["not measured"]


class TestOnset:
    BETAS = (1.0, 2.0, 4.0, 8.0, 16.0)

    def results(self, active: tuple[int, ...], variance: float, grid: str = "mlp") -> list[Result]:
        return [
            planted(
                {"eta_dec": 1.0, "beta": beta},
                {**levels(count), "conclusion": "as-predicted"},
                grid,
                forecast={"spectrum": [variance]},
            )
            for beta, count in zip(self.BETAS, active, strict=True)
        ]

    @pytest.mark.parametrize(
        ("active", "variance", "verdict"),
        [
            ((3, 2, 1, 0, 0), 5.0, "agrees"),
            ((3, 2, 1, 0, 0), 8.1, "differs"),  # beyond its bracket
            ((3, 2, 1, 0, 0), 3.9, "differs"),
            ((3, 0, 1, 0, 0), 1.9, "differs"),  # what comes back was not dead
            ((0, 0, 0, 0, 0), 5.0, "not measured"),
            ((3, 3, 3, 2, 1), 30.0, "not measured"),
            ((3, 3, 3, 2, 1), 3.0, "differs"),
        ],
    )
    def test_a_verdict_needs_an_onset(
        self, active: tuple[int, ...], variance: float, verdict: str
    ) -> None:
        assert verdicts("onset", self.results(active, variance)) == [verdict]

    def test_a_seed_of_which_runs_are_missing_does_not_count(self) -> None:
        whole, begun = (self.results((3, 2, 1, 0, 0), 5.0) for _ in range(2))
        for result in begun:
            result.run.settings.seed = 2  # type: ignore[misc]
        (check,) = DELIVERABLES["onset"]([*whole, *begun[:2]]).checks
        assert check.text == DELIVERABLES["onset"](whole).checks[0].text
        (check,) = DELIVERABLES["onset"]([*whole, *begun]).checks
        assert "(2 seeds)" in check.text

    def test_what_is_said_of_no_onset_is_said_of_the_seeds_that_have_none(self) -> None:
        first, dead = (self.results(active, 5.0) for active in ((3, 2, 1, 0, 0), (0,) * 5))
        for result in dead:
            result.run.settings.seed = 2  # type: ignore[misc]
        (check,) = DELIVERABLES["onset"]([*first, *dead]).checks
        assert "no unit is active at any beta in 1 of 2 seeds (theory" in check.text
        (check,) = DELIVERABLES["onset"](dead).checks
        assert "no unit is active at any beta (theory" in check.text

    def test_the_error_is_known_as_far_as_the_betas_tell(self) -> None:
        part = DELIVERABLES["onset"](self.results((3, 2, 1, 0, 0), 8.1))
        (record,) = [dict(zip(t.columns, t.rows[0], strict=True)) for t in part.tables.values()]
        last, first = (record[name] / 8.1 - 1 for name in list(record)[3:5])
        assert record["error of the onset"] == f"{last:+.0%} to {first:+.0%}"
        assert f"(error {last:+.0%} to {first:+.0%})" in part.checks[0].text

    def test_the_figure_says_how_many_seeds_each_architecture_has(self) -> None:
        first, second = (self.results((3, 2, 1, 0, 0), 5.0) for _ in range(2))
        for result in second:
            result.run.settings.seed = 2  # type: ignore[misc]
        cnn = self.results((3, 2, 1, 0, 0), 6.0, "cnn")
        (_, caption) = DELIVERABLES["onset"]([*first, *second, *cnn]).charts["phase"]
        assert "means over seeds (mlp: 2 seeds, cnn: 1 seed)" in caption

    def test_each_architecture_has_its_own_line(self) -> None:
        first = self.results((3, 2, 1, 0, 0), 5.0)
        part = DELIVERABLES["onset"]([*first, *self.results((3, 2, 1, 0, 0), 6.0, "cnn")])
        (chart, _) = part.charts["phase"]
        assert {(row[0], row[4]) for row in chart.table.rows} == {("mlp", 5.0), ("cnn", 6.0)}

    def test_the_published_loss_doubles_the_onset(self) -> None:
        (result, *_) = self.results((3, 2, 1, 0, 0), 5.0)
        published = planted(
            dict(result.labels), result.measured, convention="reference",
            forecast={"spectrum": [5.0]},
        )  # fmt: skip
        (chart, _) = DELIVERABLES["onset"]([published]).charts["phase"]
        assert chart.table.rows[0][4] == 10.0


class TestAgreement:
    @pytest.mark.parametrize(
        ("checks", "verdict"),
        [
            ([True, True], "agrees"),
            ([True, False], "partly"),
            ([True, None], "partly"),
            ([False, None], "differs"),
            ([False], "differs"),
            ([None], "not measured"),
            ([], "not measured"),
        ],
    )
    def test_a_verdict_needs_a_measurement(self, checks: list[bool | None], verdict: str) -> None:
        part = Part(checks=[Check(agrees, f"{agrees}.") for agrees in checks], notes=["Note."])
        found = agreement([part], [])
        assert found["verdict"] == verdict
        assert [said for _, said in found["checks"]] == [f"{agrees}." for agrees in checks]
        assert found["notes"] == ["Note."]

    def test_cautions_that_differ_in_numbers_are_told_once(self) -> None:
        notes = ("level 1: a KL of 0.5 nats", "level 1: a KL of 0.25 nats", "level 2: a KL of 1.5")
        results = [planted({}, {}, forecast={"notes": [note]}) for note in notes]
        assert agreement([], results)["notes"] == [
            *("Level 1: a KL of 0.5 nats (other runs: other numbers).", "Level 2: a KL of 1.5.")
        ]

    def test_cautions_name_the_data_where_a_row_has_several(self) -> None:
        def run(data: str, *notes: str, likelihood: str = "gaussian") -> Result:
            spec = VAESpec(2, likelihood=likelihood)  # type: ignore[arg-type]
            theory = {"notes": list(notes)}
            return planted({}, {}, data, data=RunData(data), spec=spec, forecast=theory)

        told = agreement([], [
            run("digits", "3 of 64 features drop out", "units rotate", likelihood="bernoulli"),
            run("mnist", "111 of 784 features drop out", "units rotate"),
            run("clusters", "units rotate", "only 8 modes, of which 7 are strong"),
            run("clusters", "units rotate", "only 12 modes, of which 7 are strong"),
        ])["notes"]  # fmt: skip
        assert told == [
            "Digits, bernoulli: 3 of 64 features drop out.", "Units rotate.",
            "MNIST, gaussian: 111 of 784 features drop out.",
            "Drawn clusters, gaussian: Only 8 modes, of which 7 are strong (other runs: other "
            "numbers).",
        ]  # fmt: skip
        one = [run("digits", "3 of 64", likelihood="bernoulli"), run("digits", "units rotate")]
        assert agreement([], one)["notes"] == [
            "Digits, bernoulli: 3 of 64.", "Digits, gaussian: Units rotate.",
        ]  # fmt: skip

    def test_cautions_are_told_once(self) -> None:
        (one, two) = (planted({}, {}, forecast={"notes": ["units rotate"]}) for _ in range(2))
        assert agreement([], [one, two])["notes"] == ["Units rotate."]
        published = planted({}, {}, convention="reference")
        assert "half" in agreement([], [published, published])["notes"][0]


@pytest.mark.parametrize("active", [0, 3])
def test_curves_and_counts_need_an_active_unit(active: int) -> None:
    found = []
    for beta, level in ((0.1, 0.2), (1.0, 0.6), (2.0, 0.9)):
        measured = likelihoods(3 - beta, 100 + beta, n_active=active, active_units=active)
        arrays = {"epsilon": np.array([0.1, 1.0]), "collapse_1": np.full(2, level)}
        found.append(planted({"beta": beta}, measured, arrays=arrays))
    expected = "agrees" if active else "not measured"
    assert verdicts("collapse_curves", found) == [expected]
    told = DELIVERABLES["likelihood_table"](found).checks[0].text
    assert told == "NLL (nats) rises with beta (0.1: 100.1, 1: 101, 2: 102)."
    nll, kl, counts = verdicts("likelihood_table", found)
    assert (nll, kl) == ("agrees", expected)
    assert counts == ("differs" if active else "not measured")  # as many at every beta


@pytest.mark.parametrize(
    ("learned", "fixed", "verdict"),
    [(0, 0, ["not measured"]), (4, 4, ["differs", "agrees"]), (3, 4, ["agrees", "agrees"])],
)
def test_a_learned_sigma_is_compared_by_the_count_that_is_shown(
    learned: int, fixed: int, verdict: list[str]
) -> None:
    found = [
        planted({}, likelihoods(3.0, nll + noise, n_active=2, active_units=active), grid, seed=seed)
        for grid, active, nll in (("learned", learned, 99.0), ("fixed at 0.5", fixed, 100.0))
        for seed, noise in enumerate((0.0, 0.01 * (nll - 99), 0.02))
    ]
    assert verdicts("likelihood_table", found) == verdict


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [([0.6, 0.605], "agrees"), ([0.3, 0.9], "not measured"), ([0.5], "not measured"),
     ([0.3, 0.32], "not measured"), ([-0.6, -0.605], "differs")],
)  # fmt: skip
def test_a_learned_sigma_has_the_less_nll_as_far_as_seeds_and_samples_tell(gaps, verdict) -> None:
    """With 5 effective samples an NLL may be 0.4 too high."""
    found = [
        planted({}, likelihoods(3.0, nll + gap, active_units=active), grid, seed=seed)
        for grid, active, nll, gaps in (("learned", 3, 99.0, [0.0] * 2), ("fixed", 4, 99.0, gaps))
        for seed, gap in enumerate(gaps)
    ]
    _, check = DELIVERABLES["likelihood_table"](found).checks
    assert check.verdict == verdict
    assert check.text.startswith("NLL (nats) is by theory least at Sigma = learned. From there: ")


def test_the_published_loss_halves_beta_for_training_and_theory() -> None:
    (row,) = chosen("E1")
    plans = Plan(quick=True, convention="reference"), Plan(quick=True)
    as_published = [
        [member.run for member in row.members(plan) if not member.run.settings.warm_up]
        for plan in plans
    ]
    run, own = (runs[-1] for runs in as_published)
    assert run.settings.convention == "reference"
    assert run.spec == own.spec
    half = run.spec.replace(beta=0.5)
    # The published loss is twice ours at half the beta, and clipped to the same bound. Rounding
    # differs and grows; in two epochs it does not get far.
    (published,) = Executor()([run.replace(settings=run.settings.replace(epochs=2))])
    (halved,) = Executor()([own.replace(spec=half, settings=own.settings.replace(epochs=2))])
    for name in ("loss", "kl"):
        assert published.measured[name] == pytest.approx(halved.measured[name], rel=1e-5)
    assert published.forecast is not None
    expected = forecast(read_moments(run.data, True), half)
    assert published.forecast["loss"] == pytest.approx(expected.loss)
    threshold = 0.5 * run.spec.eta_levels[0] ** 2
    assert published.forecast["levels"][0]["threshold"][0] == pytest.approx(threshold)


class TestOfSomeRuns:
    """What `--finished` makes of a part of a row's runs is no verdict on what is missing."""

    def test_one_value_shows_no_way(self) -> None:
        found = monotone("KL", "beta", [(1.0, 3.0)], "falls", 0.1)
        assert (found.verdict, found.text) == (
            "not measured", "KL was not measured at two values of beta (1: 3).",
        )  # fmt: skip
        assert monotone("KL", "beta", [], "falls", 0.1).verdict == "not measured"

    @pytest.mark.parametrize("of", [{1.0: [2.0, 2.1]}, {1.0: [], 2.0: []}, {1.0: [2.0], 2.0: []}])
    def test_nothing_is_least_among_none(self, of: dict[float, list[float]]) -> None:
        found = least("NLL", "beta", of, 1.0)
        assert found.verdict == "not measured"
        assert "no other setting" in found.text

    @pytest.mark.parametrize("grid", [[[3.0]], [[1.0], [2.0]]])
    def test_lines_of_one_value_follow_nothing(self, grid: list[list[float]]) -> None:
        assert follows("Error", "beta_2", along_lines(grid), "rises").verdict == "not measured"

    def test_minibatches_are_not_taken_for_exact_training(self) -> None:
        results = []
        for beta in (1.0, 2.0):
            level = {"kl": 1 / beta, "n_active": 1, "information": [1.0]}
            theory = {"loss": 5 * beta, "reconstruction": 4.0, "levels": [level]}
            exact = {**theory, "loss": 5 * beta + 1}
            results.append(
                planted({"beta": beta}, {"exact": exact}, "minibatches", forecast=theory)
            )
        found = DELIVERABLES["theory_sweep"](results).checks
        assert found
        assert not [check.text for check in found if check.exact or "xact training" in check.text]

    @pytest.mark.parametrize(("kl", "verdict"), [(1.45, "agrees"), (0.0, "differs")])
    def test_a_collapsed_model_whose_loss_is_near_differs_by_its_kl(
        self, kl: float, verdict: str
    ) -> None:
        results = []
        for beta in (1.0, 2.0):
            level = {"kl": 1.5, "n_active": 3, "information": [0.5] * 3}
            theory = {"loss": 550.0 + beta, "reconstruction": 548.0, "levels": [level]}
            exact = {**theory, "loss": 550.5 + beta, "levels": [{**level, "kl": kl}]}
            results.append(
                planted({"beta": beta}, {"exact": exact}, "minibatches", forecast=theory)
            )
        found = DELIVERABLES["theory_sweep"](results).checks
        (near,) = (check for check in found if "of theory's at 2 of 2 values" in check.text)
        (close,) = (check for check in found if check.text.startswith("KL (nats) by minibatches: "))
        assert (near.verdict, close.verdict) == ("agrees", verdict)

    def test_what_lacks_runs_says_so(self) -> None:
        results = [
            planted({"beta_1": one, "beta_2": other}, levels(1, 1), files={})
            for one, other in ((0.1, 1.0), (1.0, 0.1))
        ]
        (check,) = _part("beta_panel", results, True).checks
        assert check.verdict == "not measured"
        assert "its beta panel the row lacks runs" in check.text
        with pytest.raises(KeyError):
            _part("beta_panel", results, False)
