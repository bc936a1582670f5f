"""X3f: longer training, a lower rate and held-out rows stand beside what they are compared with."""

from __future__ import annotations

import pytest

from planted_results import planted as a_run
from planted_results import records, verdicts
from posterior_collapse.experiments import DELIVERABLES, Plan, Result, chosen
from posterior_collapse.experiments.data import read_samples

NET = "digits, mlp, gaussian"
ONSET = 2.0


def planted(
    beta: float,
    active: int,
    *,
    kind: str = "",
    kl: float = 2.0,
    gain: float = 4.0,
    there: int | None = None,
    fewest: int = 2,
    epochs: int = 100,
    learning_rate: float = 2e-3,
) -> Result:
    """A run that keeps `active` units of four on training rows, and `there` on those held out."""
    of = {"kl": kl, "collapsed_loss": 20.0, "loss": 20.0 - gain, "levels": [{"n_active": active}]}
    held_out = {
        "kl": kl * 1.5, "collapsed_loss": 30.0, "loss": 30.0 - gain / 2,
        "levels": [{"n_active": active if there is None else there}],
    }  # fmt: skip
    level = {"critical_beta": [ONSET, 1.0], "information": [1.0] * 4 + [0.0] * 12}
    measured = {**of, "bracket": [fewest, 4], "on_test": held_out, "conclusion": "undecided"}
    theory = {"levels": [level], "kl": 4.0}
    grid = f"{NET}, {kind}" if kind else NET
    trained = {"epochs": epochs, "learning_rate": learning_rate}
    return a_run({"beta": beta}, measured, grid, forecast=theory, stopped="finished", **trained)


class TestLonger:
    def test_runs_of_one_beta_stand_side_by_side(self) -> None:
        short = [planted(1.0, 2), planted(1.8, 0), planted(1.9, 0)]
        long = [
            planted(1.0, 3, kind="longer", kl=3.0, gain=5.0, epochs=400),
            planted(1.8, 1, kind="longer", epochs=400),
        ]
        first, second = records("trust_longer", "longer", [*short, *long])
        assert (first["beta / onset"], second["beta / onset"]) == (0.5, 0.9)
        assert (first["units"], first["units, longer"]) == (2, 3)
        assert (first["KL (nats), longer"], first["gain (nats), longer"]) == (3.0, 5.0)
        (check,) = DELIVERABLES["trust_longer"]([*short, *long]).checks
        assert check.agrees
        assert check.kind == "numbers"
        assert "4 times the training changes the number of units by +1 to +1" in check.text
        assert "what they bring by +0 to +1 nats; their KL becomes 1.50 to 1.50 times" in check.text
        assert "units come to life at 1 of 2 betas, the last dies at 0" in check.text

    @pytest.mark.parametrize(("units", "verdict"), [(3, "agrees"), (4, "differs")])
    def test_two_units_more_differ(self, units: int, verdict: str) -> None:
        runs = [planted(1.0, 2), planted(1.0, units, kind="longer", epochs=400)]
        assert verdicts("trust_longer", runs) == [verdict]

    def test_runs_after_a_warm_up_are_not_compared_with_those_without(self) -> None:
        runs = [planted(1.0, 2, kind="warm-up"), planted(1.0, 3, kind="longer", epochs=400)]
        assert verdicts("trust_longer", runs) == ["not measured"]

    def test_where_a_plan_bounds_both_alike_nothing_trained_on(self) -> None:
        runs = [planted(1.0, 2), planted(1.0, 2, kind="longer")]
        assert verdicts("trust_longer", runs) == ["not measured"]
        assert [r["network"] for r in records("trust_held_out", "held-out", runs)] == [NET]


class TestLong:
    @staticmethod
    def runs(last: float, rate: float = 2e-4, epochs: int = 400) -> list[Result]:
        """Runs of which the last alive is at 1.7 after a warm-up, and at `last` if they go on."""
        before = [planted(beta, int(beta < 1.75), kind="warm-up") for beta in (1.7, 1.8, 1.98)]
        return before + [
            planted(
                *(beta, int(beta <= last)),
                kind="slower" if rate < 2e-3 else "as long",
                gain=-0.5, epochs=epochs, learning_rate=rate,
            )
            for beta in (1.7, 1.8, 1.98, 2.1)
        ]  # fmt: skip

    def test_the_onsets_stand_side_by_side(self) -> None:
        (row,) = records("trust_long", "long", self.runs(1.98))
        assert (row["network"], row["warm-up"]) == (NET, "yes")
        assert (row["learning rate"], row["learning rate, long"]) == (2e-3, 2e-4)
        assert (row["error of the onset"], row["error of the onset, long"]) == (
            "-15% to -10%",
            "-1% to +5%",
        )
        costs = "collapsed runs miss their optimum by (nats)"
        assert (row[costs], row[f"{costs}, long"]) == (None, 0.5)
        (check,) = DELIVERABLES["trust_long"](self.runs(1.98)).checks
        assert (check.verdict, check.kind) == ("agrees", "numbers")
        assert "at a learning rate 10 times lower, 4 times as long, the error" in check.text
        assert "of the onset is -1% to +5% (else -15% to -10%)." in check.text
        (check,) = DELIVERABLES["trust_long"](self.runs(2.1)).checks
        assert check.text.endswith("4 times as long, units live at all betas.")

    def test_an_onset_far_from_theory_differs_and_one_not_found_is_not_measured(self) -> None:
        assert verdicts("trust_long", self.runs(1.7)) == ["differs"]
        assert verdicts("trust_long", self.runs(2.1)) == ["not measured"]

    def test_more_steps_alone_are_told_from_more_at_a_lower_rate(self) -> None:
        runs = [*self.runs(1.98), *self.runs(1.7, rate=2e-3)[3:]]
        found = {r["trained"]: r for r in records("trust_long", "long", runs)}
        lower, same = "a learning rate 10 times lower", "the same learning rate"
        assert list(found) == [f"{how}, 4 times as long" for how in (lower, same)]
        ends = [r["error of the onset, long"] for r in found.values()]
        assert ends == ["-1% to +5%", "-15% to -10%"]
        assert verdicts("trust_long", runs) == ["agrees", "differs"]

    def test_runs_of_the_same_time_are_not_compared(self) -> None:
        assert verdicts("trust_long", self.runs(1.98, epochs=100)) == ["not measured"]


class TestHeldOut:
    def test_counts_there_are_held_against_the_bracket_of_the_training_rows(self) -> None:
        runs = [planted(1.0, 4, there=n) for n in (0, 1, 3, 4, 6)]
        (row,) = records("trust_held_out", "held-out", runs)
        assert row["as many units on both"] == pytest.approx(1 / 5)
        assert row["within a unit"] == pytest.approx(2 / 5)
        assert row["in the bracket, held out"] == pytest.approx(2 / 5)
        assert row["within a unit of it, held out"] == pytest.approx(3 / 5)
        assert row["KL held out / trained on"] == pytest.approx(1.5)
        assert row["gain held out / trained on"] == pytest.approx(0.5)
        (check,) = DELIVERABLES["trust_held_out"](runs).checks  # no onset between two betas
        assert (check.verdict, check.kind) == ("differs", "numbers")
        assert "of 0 of 1 kind of runs 90% or more" in check.text
        assert f"the least: 60%; {NET}, warm-up: no" in check.text

    def test_the_onset_is_found_on_either(self) -> None:
        runs = [planted(b, int(b < 1.95), there=int(b < 1.7)) for b in (1.6, 1.8, 2.0)]
        (row,) = records("trust_held_out", "held-out", runs)
        assert row["error of the onset"] == "-10% to 0%"
        assert row["error of the onset, held out"] == "-20% to -10%"
        other = [
            Result(f"{run.grid}, warm-up", run.labels, run.record)
            for run in (planted(b, int(b < 1.95)) for b in (1.6, 1.8, 2.0))
        ]
        check = DELIVERABLES["trust_held_out"]([*runs, *other]).checks[-1]
        assert check.verdict == "differs"
        assert "in 1 of 2 kinds of runs; -20% to -10% for -10% to 0% from the" in check.text
        assert f"{NET}, warm-up: no" in check.text

    def test_runs_that_trained_on_are_told_apart(self) -> None:
        runs = [planted(1.0, 4), planted(1.0, 4, kind="longer", epochs=400)]
        found = [(r["network"], r["warm-up"]) for r in records("trust_held_out", "held-out", runs)]
        assert found == [(NET, "no"), (f"{NET}, longer", "no")]


class TestRow:
    def test_what_trained_on_shares_all_but_its_epochs(self) -> None:
        of = {
            (m.grid, m.labels["beta"], m.run.settings.seed): m.run
            for m in chosen("X3f")[0].members(Plan(seeds=2))
        }
        for (grid, beta, seed), run in of.items():
            if ", longer" in grid:
                short = of[grid.removesuffix(", longer"), beta, seed]
                kept = short.settings
                expected = kept.replace(
                    epochs=4 * kept.epochs, history_every=4 * kept.history_every + 2
                )
                assert run == short.replace(settings=expected)

    @pytest.mark.parametrize(("kind", "lower"), [("slower", 10), ("as long", 1)])
    def test_what_trains_long_shares_all_but_its_rate_and_its_time(
        self, kind: str, lower: int
    ) -> None:
        of = {(m.grid, m.labels["beta"]): m.run for m in chosen("X3f")[0].members(Plan())}
        long = {key: run for key, run in of.items() if key[0].endswith(kind)}
        assert len(long) == 4 * 6
        for (grid, beta), run in long.items():
            fast = of[grid.replace(kind, "warm-up"), beta]
            expected = fast.settings.replace(
                epochs=10 * fast.settings.epochs, warm_up=10 * fast.settings.warm_up,
                learning_rate=fast.settings.learning_rate / lower,
                history_every=run.settings.history_every,
            )  # fmt: skip
            evaluation = fast.evaluation.replace(also=None)
            assert run == fast.replace(settings=expected, evaluation=evaluation)

    def test_held_out_rows_are_none_of_those_that_are_trained_on(self) -> None:
        long = ("slower", "as long")
        members = [m for m in chosen("X3f")[0].members(Plan()) if not m.grid.endswith(long)]
        for member in members:
            assert (member.run.evaluation.split, member.run.evaluation.also) == ("train", "test")
        trained, held_out = (read_samples(member.run.data, s).x for s in ("train", "test"))
        assert not {row.tobytes() for row in trained} & {row.tobytes() for row in held_out}
