"""Verdicts on linear models: planted matrices and curves of which it is known where they end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planted_results import planted, verdicts
from posterior_collapse.experiments import DELIVERABLES, Result
from posterior_collapse.experiments.checks import agreement
from posterior_collapse.runs import RunData
from posterior_collapse.specs import HVAESpec, Spec, VAESpec


class TestMatrices:
    """U has one column too many where equal sigmas let units rotate; its rank is theory's."""

    def result(self, sigma: Any, U: Any, theory: tuple[float, float]) -> Result:
        singular = np.linalg.svd(U, compute_uv=False).tolist()
        found = {
            "decoder_singular_values": singular, "encoder_singular_values": singular,
            "posterior_std": [1.0, 1.0],
        }  # fmt: skip
        expected = {**found, "decoder_singular_values": list(theory)}
        return planted(
            {},
            {"exact": {"levels": [found], "distances": {"U1": 0.0}}},
            method="exact",
            spec=VAESpec(2, sigma=sigma),
            arrays={"U1": np.array(U), "V1": np.array(U).T},
            forecast={"levels": [expected]},
        )

    ROTATED = ((1.0, 1.0), (1.0, 1.0))
    ALIGNED = ((2.0, 0.0), (0.0, 0.0))

    @pytest.mark.parametrize(
        ("sigma", "U", "verdict"),
        [
            ("learned", ALIGNED, "agrees"),
            ("learned", ROTATED, "differs"),
            ((2.0, 1.0), ROTATED, "differs"),
            (1.0, ROTATED, "agrees"),
            ((1.0, 1.0), ROTATED, "agrees"),
            ("shared", ROTATED, "agrees"),
            (1.0, ((2.0, 0.0), (0.0, 1.0)), "differs"),
        ],
    )
    def test_only_what_theory_fixes_is_held_against_it(
        self, sigma: Any, U: Any, verdict: str
    ) -> None:
        _, vanishing = verdicts("matrices", [self.result(sigma, U, (2.0, 0.0))])
        assert vanishing == verdict


class TestConvergence:
    """Curves of which it is known where they end."""

    MATRIX = RunData("matrix:E8")

    def result(
        self,
        errors: list[float],
        grid: str = "matrix",
        method: str = "recorded",
        data: RunData = MATRIX,
        largest: float = 1.0,
        spec: Spec | None = None,
        critical_beta: tuple[float | None, ...] = (3.0, 0.5, None),
    ) -> Result:
        """The errors of U1; everything else stands at the theorem."""
        spec = spec or VAESpec(3)
        values = [largest, 0.5, 0.0]
        level = {
            "encoder_singular_values": values, "decoder_singular_values": values,
            "posterior_std": [0.3, 0.3, 1.0], "critical_beta": list(critical_beta),
        }  # fmt: skip
        depth = len(spec.dims)
        names = [f"{kind}{i}" for i in range(1, depth + 1) for kind in ("V", "U", "sigma_")]
        lines = {name: [0.1, *[1e-6] * (len(errors) - 1)] for name in names} | {"U1": errors}
        return planted(
            {},
            {"exact": {"distances": {name: line[-1] for name, line in lines.items()}}},
            grid,
            method=method,
            data=data,
            spec=spec,
            history={"step": [100.0 * i for i in range(1, len(errors) + 1)], **lines},
            forecast={"levels": [level] * depth},
        )

    def verdict(self, *results: Result) -> tuple[str, str]:
        told = agreement([DELIVERABLES["convergence"](results)], results)
        return told["verdict"], told["text"]

    def rows(self, *results: Result) -> list[dict[str, Any]]:
        table = DELIVERABLES["convergence"](results).tables["errors"]
        return [dict(zip(table.columns, row, strict=True)) for row in table.rows]

    def test_a_row_agrees_where_every_curve_ends_within_its_goal(self) -> None:
        verdict, text = self.verdict(self.result([0.1, 5e-5]), self.result([0.1, 9e-5], "MNIST"))
        assert verdict == "agrees"
        assert text == (
            "All 6 curves end within their goals; nearest to its own, U1 of MNIST (seed 1) ends at "
            "9.0e-05 (goal 0.0001)."
        )

    def test_one_curve_that_misses_its_goal_makes_the_whole_row_differ(self) -> None:
        missed = self.result([0.1, 2e-4], "MNIST")
        verdict, text = self.verdict(self.result([0.1, 1e-6]), missed)
        assert verdict == "differs"
        assert text == (
            "1 of 6 curves ends above its goal: U1 of MNIST (seed 1) ends at 2.0e-04 (goal 0.0001)."
        )
        assert [row["goal at the end"] for row in self.rows(missed)] == ["met", "missed", "met"]

    def test_what_counts_is_the_end_of_a_curve_not_its_best(self) -> None:
        blown = self.result([0.1, 1e-6, 0.4])
        verdict, text = self.verdict(blown)
        assert verdict == "differs"
        assert "ends at 4.0e-01 (goal 0.0001): it blew up after 1.0e-06 in iteration 200" in text
        (row,) = (row for row in self.rows(blown) if row["quantity"] == "U1")
        assert (row["mean absolute error"], row["least on the way"]) == (0.4, 1e-6)
        assert row["goal at the end"] == "blew up"

    def test_an_end_that_is_no_number_blew_up(self) -> None:
        verdict, text = self.verdict(self.result([0.1, 1e-6, float("nan")]))
        assert verdict == "differs"
        assert "ends at nan (goal 0.0001): it blew up after 1.0e-06" in text

    @pytest.mark.parametrize(
        ("method", "data", "largest", "goal"),
        [
            ("recorded", MATRIX, 5.0, 1e-4),
            ("decayed", MATRIX, 5.0, 1e-4),
            ("decayed", RunData("mnist"), 5.0, 5e-3),
            ("decayed", RunData("mnist"), 0.05, 5e-4),  # of the second, 0.5, which is larger
            ("exact", RunData("mnist"), 5.0, 1e-4),
        ],
    )
    def test_every_curve_has_a_goal(
        self, method: str, data: RunData, largest: float, goal: float
    ) -> None:
        found = self.result([0.1, 1e-6], "a", method, data, largest)
        rows = self.rows(self.result([0.1, 1e-6]), found)
        assert {row["quantity"]: row["goal"] for row in rows if row["problem"] == "a"} == {
            "V1": pytest.approx(goal), "U1": pytest.approx(goal),
            "sigma_1": pytest.approx(1e-3 if goal > 1e-4 else 1e-4),
        }  # fmt: skip

    def test_a_unit_at_its_threshold_has_a_wider_goal(self) -> None:
        spec = HVAESpec((3, 3), (2.0, 3.0), sigma_1=0.5)
        rows = self.rows(self.result([0.1, 1e-6], spec=spec))
        assert {row["quantity"]: row["goal"] for row in rows} == {
            # The second level's beta is the critical one of its first unit.
            **dict.fromkeys(("V1", "U1", "sigma_2"), 1e-4), "V2": 1e-2, "U2": 1e-2,
        }  # fmt: skip

    def test_a_wider_goal_is_stated_only_where_a_curve_has_it(self) -> None:
        spec = HVAESpec((3, 3), (2.0, 3.0), sigma_1=0.5)
        for result, said in ((self.result([0.1, 1e-6], spec=spec), 1), (self.result([1e-6]), 0)):
            notes = DELIVERABLES["convergence"]([result]).notes
            assert sum("exactly at its threshold" in note for note in notes) == said

    def test_errors_of_exact_training_are_no_curves(self) -> None:
        exact = self.result([0.1, 2e-9], "MNIST, exact", "exact", RunData("mnist"))
        _, text = self.verdict(self.result([0.1, 5e-5]), exact)
        assert text.startswith("All 3 curves and 3 errors of exact training end within their goals")

    def test_the_figure_shows_goals_theory_and_the_end_of_exact_training(self) -> None:
        first = self.result([0.1, 5e-5], "MNIST", "decayed", RunData("mnist"))
        exact = self.result([2e-9], "MNIST, exact", "exact", RunData("mnist"))
        (chart, _) = DELIVERABLES["convergence"]([first, exact]).charts["convergence"]
        (axes,) = chart.figure.axes
        drawn = {float(line.get_ydata()[0]) for line in axes.lines if len(line.get_ydata()) > 0}
        assert {1e-3, 5e-5, 2e-9} <= drawn  # goal, end of the curve, end of exact training
        (legend,) = chart.figure.legends
        assert "U1 (theory 1, 0.5, 1 x 0)" in [text.get_text() for text in legend.get_texts()]


class TestSweep:
    def run(self, grid: str, beta: float, above: float, **record: Any) -> Result:
        """A linear model whose loss ends so far above its optimum of 100 nats."""
        level = {"kl": 1.0, "n_active": 1, "information": [1.0]}
        found = {"loss": 100 + above, "reconstruction": 99.0, "levels": [level]}
        theory = {"loss": 100.0, "reconstruction": 99.0, "levels": [level]}
        return planted({"beta": beta}, {"exact": found}, grid, forecast=theory, **record)

    def test_a_lower_rate_says_what_of_the_gap_is_noise_and_is_not_judged(self) -> None:
        runs = [self.run("exact training", b, 0.0, method="exact") for b in (0.1, 0.2)]
        runs += [self.run("minibatches", b, 0.3) for b in (0.1, 0.2)]
        before = DELIVERABLES["theory_sweep"](runs)
        runs += [
            self.run("minibatches at a lower rate", b, 0.15, learning_rate=3e-4)
            for b in (0.2, 0.3)  # one was not trained at the published rate
        ]
        part = DELIVERABLES["theory_sweep"](runs)
        assert part.checks == before.checks
        loss, modes = part.checks[-2:]
        assert (
            "within 0.2% of theory's at 0 of 2 values; farthest at beta = 0.1: 0.30%" in loss.text
        )
        assert (loss.agrees, modes.agrees) == (False, True)
        *notes, note = part.notes
        assert notes == before.notes
        assert note.startswith("Part of what is left is noise of the steps")
        assert note.endswith("theory by (at beta) 0.2: 0.15% in place of 0.30%.")
        apart = [r for r in runs if r in runs[-2:] or r.labels["beta"] != 0.2]
        assert not any("as many steps" in n for n in DELIVERABLES["theory_sweep"](apart).notes)
        runs[-2].exact["loss"] = 101.0
        assert DELIVERABLES["theory_sweep"](runs).notes[-1].startswith("At a rate of 0.0003")
        drawn = {kind for kind, *_ in part.charts["sweep"][0].table.rows}
        assert drawn == {"theory", "exact training", "minibatches"}
