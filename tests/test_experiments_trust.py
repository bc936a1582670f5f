"""The study of trust: its tables follow from planted runs."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planted_results import planted as a_run
from planted_results import records
from posterior_collapse import VAESpec
from posterior_collapse.data import available
from posterior_collapse.errors import CorruptFileError, MissingDependencyError, MissingFileError
from posterior_collapse.experiments import DELIVERABLES, Plan, Result, chosen, data
from posterior_collapse.experiments.data import read_samples
from posterior_collapse.experiments.deliverables.trust_units import share_of_onset
from posterior_collapse.experiments.rows.trust import BESIDE, CONVOLUTIONAL, OTHERS, PROBLEMS
from posterior_collapse.models import Architecture
from posterior_collapse.runs import RunData
from posterior_collapse.theory import forecast

NET = "digits, mlp, gaussian"
ONSET = 2.0


def planted(
    beta: float,
    active: int = 0,
    *,
    grid: str = NET,
    loss: float = 10.0,
    linear: int = 4,
    fewest: int = 2,
    conclusion: str = "nothing-to-do",
    said: float = 0.0,
    units: int | None = None,
    stopped: str = "finished",
) -> Result:
    """A finished run that says what it is told to."""
    information = [1.0] * linear + [0.0] * (16 - linear)
    measured = {
        "loss": loss, "collapsed_loss": 20.0, "kl": 3.0, "conclusion": conclusion,
        "bracket": [fewest, linear], "signal": [1.0],
        "levels": [{"n_active": active}],
        "gains": [{"nats": said, "error": 0.01, "parts": 4}],
    }  # fmt: skip
    level = {"critical_beta": [ONSET, 1.0], "information": information}
    steps = list(range(1, 17))
    history = {
        "step": steps, "active_1": [float(active)] * 16, "kl_1": [3.0] * 16, "loss": [loss] * 16,
    }  # fmt: skip
    theory = {"levels": [level], "kl": 4.0, "notes": []}
    labels = {"beta": beta} if units is None else {"latent_dim": units, "beta": beta}
    return a_run(labels, measured, grid, forecast=theory, stopped=stopped, history=history)


def of_linear(run: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(run), "architecture": Architecture.named("linear")})


class TestOnset:
    def test_it_lies_between_the_last_beta_alive_and_the_first_dead(self) -> None:
        runs = [planted(b, int(b < 1.9)) for b in (1.0, 1.8, 1.9, 2.2)]
        (row,) = records("trust_onset", "onset", runs)
        assert row["last beta alive / onset"] == pytest.approx(0.9)
        assert row["first beta dead / onset"] == pytest.approx(0.95)
        assert row["error of the onset"] == "-10% to -5%"
        t = ONSET / 1.9  # at the first beta that is dead
        gain = row["a linear model would gain there (nats)"]
        assert gain == pytest.approx(1.9 / 2 * (t - 1 - math.log(t)))
        assert row["collapsed runs miss their optimum by (nats)"] == pytest.approx(-10.0)

    def test_half_of_the_seeds_decide_and_runs_that_diverged_do_not(self) -> None:
        runs = [planted(1.8, 1), planted(1.8, 0), planted(1.8, 0, stopped="non-finite: kl")]
        runs += [planted(2.2, 0), planted(2.2, 0)]
        (row,) = records("trust_onset", "onset", runs)
        assert row["last beta alive / onset"] == pytest.approx(0.9)
        assert row["share of runs alive there"] == 0
        runs += [planted(2.1, 1), planted(2.1, 0), planted(2.1, 0)]
        assert records("trust_onset", "onset", runs)[0]["first beta dead / onset"] == 1.05
        less = [r for r in runs if r.labels["beta"] != 2.2]
        assert records("trust_onset", "onset", less)[0][
            "share of runs alive there"
        ] == pytest.approx(1 / 3)

    def test_what_lives_on_after_a_warm_up_is_counted_with_its_gain(self) -> None:
        runs = [
            planted(b, 1, grid=f"{NET}, warm-up", loss=19.5 if b > 2 else 10.0) for b in (1.0, 2.2)
        ]
        runs.append(planted(3.0, 0, grid=f"{NET}, warm-up"))
        (row,) = records("trust_onset", "onset", runs)
        assert row["warm-up"] == "yes"
        assert row["runs alive above the onset"] == 1
        assert row["the least of their losses less the collapsed (nats)"] == pytest.approx(-0.5)
        assert row["cause of the error"] == "another optimum"

    @pytest.mark.parametrize(
        ("last", "first", "verdict"),
        [
            (1.9, 1.98, "agrees"),
            (1.6, 2.2, "agrees"),
            (1.84, 1.9, "differs"),
            (2.02, 2.2, "differs"),
        ],
    )
    def test_the_verdict_is_of_numbers_to_5_percent_or_as_the_betas_tell(
        self, last: float, first: float, verdict: str
    ) -> None:
        runs = [planted(last, 1), planted(first, 0), planted(3.0, 0)]
        checks = DELIVERABLES["trust_onset"](runs).checks
        assert [(c.verdict, c.kind) for c in checks] == [(verdict, "numbers")]

    @pytest.mark.parametrize(
        ("collapsed", "warm", "cause"),
        [
            (20.5, 1.2, "noise"),
            (20.01, 1.2, "not known"),
            (20.5, 1.8, "start"),
            (20.01, 1.8, "start"),
        ],
    )
    def test_a_cause_is_named_as_far_as_runs_tell(
        self, collapsed: float, warm: float, cause: str
    ) -> None:
        """At 1.6, of which 2 is the onset, a linear model would gain 0.02 nats."""
        runs = [
            planted(beta, int(beta <= last), grid=NET + end, loss=collapsed if beta > 2 else 10.0)
            for end, last in (("", 1.2), (", warm-up", warm))
            for beta in (1.2, 1.6, 1.8, 2.2)
        ]
        rows = {r["warm-up"]: r for r in records("trust_onset", "onset", runs)}
        assert rows["no"]["cause of the error"] == cause
        assert rows["yes"]["cause of the error"] == ("" if cause == "start" else cause)

    def test_no_cause_is_named_where_the_onset_is_the_predicted(self) -> None:
        (row,) = records("trust_onset", "onset", [planted(1.8, 1), planted(2.2, 0)])
        assert row["cause of the error"] == ""

    def test_the_figure_begins_where_runs_die(self) -> None:
        runs = [planted(b, int(b < 0.5), grid=f"{NET}{end}") for end in ("", ", warm-up")
                for b in (0.2, 0.4, 1.0, 2.4)]  # fmt: skip
        (chart, _) = DELIVERABLES["trust_onset"](runs).charts["onset"]
        low, high = chart.figure.axes[0].get_xlim()
        assert low < 0.2 < 1.2 < high < 1.3

    def test_nothing_is_said_where_all_live_or_none(self) -> None:
        for active in (0, 1):
            runs = [planted(b, active) for b in (1.0, 3.0)]
            assert DELIVERABLES["trust_onset"](runs).checks[0].agrees is None


class TestUnits:
    def test_counts_are_held_against_their_own_bracket(self) -> None:
        runs = [planted(1.0, n, fewest=2, linear=4) for n in (1, 2, 4, 4, 7)]
        (row,) = records("trust_units", "units", runs)
        assert row["in the bracket"] == pytest.approx(3 / 5)
        assert row["within a unit of it"] == pytest.approx(4 / 5)
        assert (row["most above"], row["most below"]) == (3, 1)
        assert row["KL / linear KL, median"] == pytest.approx(0.75)

    def test_of_a_linear_model_theory_s_count_alone_is_right(self) -> None:
        exact = [
            run._replace(record=SimpleNamespace(**{**vars(run.record), "run": of_linear(run.run)}))
            for run in (planted(1.0, n, fewest=2, linear=4) for n in (2, 3, 4))
        ]
        (row,) = records("trust_units", "units", exact)
        assert row["in the bracket"] == pytest.approx(1 / 3)
        assert row["within a unit of it"] == pytest.approx(2 / 3)
        assert row["fewest, mean"] == row["kept by the linear optimum"] == 4

    def test_its_verdict_is_of_numbers_and_its_figure_begins_with_its_betas(self) -> None:
        part = DELIVERABLES["trust_units"]([planted(b, 3) for b in (0.4, 1.0, 1.6)])
        assert [check.kind for check in part.checks] == ["numbers"]
        (chart, _) = part.charts["units"]
        (box,) = chart.figure.axes
        assert 0.15 < box.get_xlim()[0] < 0.2
        assert [label.get_text() for label in box.get_xticklabels()] == ["0.2", "0.5", "1"]

    def test_settings_above_the_onset_do_not_count(self) -> None:
        runs = [planted(1.0, 3), planted(1.9, 0), planted(3.0, 0, linear=0, fewest=0)]
        (row,) = records("trust_units", "units", runs)
        assert row["runs"] == 1


class TestGain:
    def pairs(self, kinds: tuple[str, ...] = ("restarts", "warm start")) -> list[Result]:
        """Of one, two and three units: what was said, and losses, of two seeds a hair apart."""
        each = {
            "restarts": ((1, 12.0, 1.0, "more-units-pay"), (2, 11.0, 0.1, "nothing-to-do"),
                         (3, 10.98, 0.0, "nothing-to-do")),
            "warm start": ((2, 10.0, 0.2, "nothing-to-do"), (3, 9.95, 0.0, "nothing-to-do")),
        }  # fmt: skip
        return [
            planted(1.0, k, grid=f"{NET}, {kind}", units=k, loss=loss + d, said=said, conclusion=c)
            for kind in kinds
            for k, loss, said, c in each[kind]
            for d in (0.0, 0.001)
        ]

    def test_the_least_losses_are_compared_warm_starts_where_both_have_them(self) -> None:
        first, second = records("trust_gain", "pairs", self.pairs())
        assert first["brought (nats)"] == pytest.approx(12.0 - 11.0)  # from restarts alone
        assert (first["said (nats)"], first["answer"], first["outcome"]) == (1.0, "pays", "paid")
        assert second["brought (nats)"] == pytest.approx(10.0 - 9.95)  # with warm starts
        assert second["worth a unit (nats)"] == pytest.approx(0.1)
        assert (second["said (nats)"], second["outcome"]) == (0.2, "did not")
        spread = 0.001 / math.sqrt(2) * 0.75
        assert second["brought, error"] == pytest.approx(math.hypot(spread, spread))

    def test_seeds_that_differ_by_more_than_the_gain_cannot_tell(self) -> None:
        noisy = [
            planted(1.0, grid=f"{NET}, restarts", units=k, loss=loss)
            for k in (1, 2)
            for loss in (10.0, 11.0)
        ]
        assert [r["outcome"] for r in records("trust_gain", "pairs", noisy)] == ["cannot be told"]

    @pytest.mark.parametrize(("worse", "outcome"), [(0.0005, "did not"), (0.5, "cannot be told")])
    def test_a_larger_network_that_trained_worse_tells_nothing(
        self, worse: float, outcome: str
    ) -> None:
        """With a unit more no optimum is worse: such a loss is of the training, not of the unit."""
        runs = [
            planted(1.0, grid=f"{NET}, restarts", units=k, loss=loss + d)
            for k, loss in ((1, 10.0), (2, 10.0 + worse))
            for d in (0.0, 0.001)
        ]
        assert [r["outcome"] for r in records("trust_gain", "pairs", runs)] == [outcome]
        told = "Nor can it in 1 of 1 pairs" in DELIVERABLES["trust_gain"](runs).notes[0]
        assert told == (outcome == "cannot be told")

    def test_answers_and_outcomes_are_counted(self) -> None:
        part = DELIVERABLES["trust_gain"](self.pairs())
        rows = [["pays", 1, 0, 0], ["undecided", 0, 0, 0], ["does not pay", 0, 0, 1]]
        assert part.tables["confusion"].rows == rows
        found = [(check.verdict, check.kind) for check in part.checks]
        assert found == [("agrees", "direction")] * 2 + [("differs", "numbers")]  # 0.05 for 0.2
        assert "in 1 it did, in 0 it did not, and for 0 it cannot be told" in part.checks[0].text
        assert "in 1 it did not, in 0 it did, and for 0 it cannot be told" in part.checks[1].text
        (chart, _) = part.charts["gain"]
        assert [row[2] for row in chart.table.rows] == ["paid", "did not"]

    def test_what_cannot_be_told_is_counted_and_drawn_hollow(self) -> None:
        noisy = [
            planted(1.0, grid=f"{NET}, restarts", units=k, loss=loss, conclusion="more-units-pay")
            for k in (1, 2)
            for loss in (10.0, 11.0)
        ]
        part = DELIVERABLES["trust_gain"](noisy)
        assert (
            "that one more unit pays, in 0 it did, in 0 it did not, and for 1"
            in part.checks[0].text
        )
        assert part.checks[0].agrees is None
        (chart, _) = part.charts["gain"]
        drawn = [line for line in chart.figure.axes[0].lines if len(line.get_xdata()) == 1]
        assert [line.get_markerfacecolor() for line in drawn] == ["none"]

    @pytest.mark.parametrize(
        ("said", "verdict"), [(0.6, "agrees"), (0.4, "differs"), (1e18, "differs")]
    )
    def test_its_size_is_right_within_a_factor_of_2(self, said: float, verdict: str) -> None:
        """It brings 1 nat. A number that is absurd is not left out."""
        runs = [r for r in self.pairs(("restarts",)) if r.labels["latent_dim"] < 3]
        for run in runs[:2]:
            run.measured["gains"][0]["nats"] = said
        own, every = records("trust_gain", "gains", runs)
        assert own | {"network": "all"} == every
        assert every["said more than all units brought"] == int(said > 8)
        assert every["brought / said, median"] == pytest.approx(1 / said, rel=1e-3)
        assert [c.verdict for c in DELIVERABLES["trust_gain"](runs).checks][-1] == verdict

    def test_what_is_not_told_from_0_has_no_size(self) -> None:
        runs = [r for r in self.pairs(("restarts",)) if r.labels["latent_dim"] < 3]
        for run in runs[:2]:
            run.measured["gains"][0] |= {"nats": 0.6, "error": 0.4}
        assert records("trust_gain", "gains", runs)[-1]["both told from 0"] == 0
        assert [c.agrees for c in DELIVERABLES["trust_gain"](runs).checks][-1] is None


class TestFailures:
    def runs(self) -> list[Result]:
        bad = {"loss": 12.0, "active": 2}
        good = {"loss": 10.0, "active": 4}
        each: list[tuple[str, dict[str, Any], str]] = [
            ("", good, "collapse-optimal"),
            ("", bad, "signal-unclaimed"),
            ("warm-up", good, "signal-unclaimed"),  # a false alarm
            ("learning rate 0.1", bad, "collapse-optimal"),  # missed
            (
                "learning rate 0.1",
                {"loss": 12.0, "active": 4},
                "nothing-to-do",
            ),  # worse all the same
            ("dead start", bad, "undecided"),
        ]
        found = [
            planted(1.0, grid=f"{NET}, {kind}" if kind else NET, conclusion=said, **values)
            for kind, values, said in each
        ]
        found.append(planted(1.0, 1, grid=f"{NET}, restarts", units=2, loss=10.0))
        for said in ("signal-unclaimed", "collapse-optimal"):
            grid = f"{NET}, a dead unit"
            found.append(planted(1.0, 0, grid=grid, units=2, loss=11.0, conclusion=said))
        return found

    def test_each_run_is_judged_beside_the_best_of_its_kind(self) -> None:
        rows = {row["runs that"]: row for row in records("trust_failures", "failures", self.runs())}
        assert rows["without warm-up"]["recognised"] == 1
        assert rows["with warm-up"]["false alarms"] == 1
        assert rows["learning rate 0.1"] == {
            "runs that": "learning rate 0.1", "failed": 1, "recognised": 0, "undecided": 0,
            "called fine": 1, "good": 0, "false alarms": 0, "good, undecided": 0,
            "worse, as many units": 1, "of these, alarms": 0,
        }  # fmt: skip
        planted_dead = rows["a unit planted dead"]
        assert (planted_dead["failed"], planted_dead["recognised"]) == (2, 1)
        assert (rows["all"]["failed"], rows["all"]["recognised"]) == (5, 2)

    def test_the_figure_has_every_run_that_failed_or_is_good(self) -> None:
        runs = self.runs()
        rows = {row["runs that"]: row for row in records("trust_failures", "failures", runs)}
        chart, _ = DELIVERABLES["trust_failures"](runs).charts["failures"]
        for panel, column in (("of runs that failed", "failed"), ("of runs as good as", "good")):
            for kind, row in rows.items():
                drawn = [r[-1] for r in chart.table.rows if r[0].startswith(panel) and r[1] == kind]
                assert len(drawn) == 3
                assert sum(drawn) == row[column]


class TestRows:
    def test_a_study_is_named_by_its_number(self) -> None:
        assert [row.id for row in chosen("x3")] == [f"X3{part}" for part in "abcdefg"]
        assert [row.id for row in chosen("X3b")] == ["X3b"]

    @pytest.mark.filterwarnings("ignore::posterior_collapse.data.ChecksumWarning")
    def test_betas_lie_about_the_onset_that_theory_predicts(self) -> None:
        here = {entry.name for entry in available() if entry.ready} | {"clusters"}
        for problem in (*PROBLEMS, *CONVOLUTIONAL, *BESIDE, *OTHERS):
            if problem.data.name.partition(":")[0] in here or self.are_cells_here(problem.data):
                x = read_samples(problem.data).x
                found = forecast(x, VAESpec(16, likelihood=problem.likelihood)).onset  # type: ignore[arg-type]
                assert problem.onset == pytest.approx(found, rel=1e-3)
            fewest = 15 if problem in PROBLEMS else 10
            assert sum(share < 1 for share in problem.shares) >= fewest

    @staticmethod
    def are_cells_here(data: RunData) -> bool:
        if data.name.startswith("cells"):
            with contextlib.suppress(MissingFileError, MissingDependencyError):
                return len(read_samples(data)) > 0
        return False

    def test_runs_are_shared_where_they_are_the_same(self) -> None:
        def keys(name: str) -> set[str]:
            return {m.run.key for row in chosen(name) for m in row.members(Plan(seeds=2))}

        assert keys("X3a") == keys("X3b")
        dead = {m.run.key for m in chosen("X3d")[0].members(Plan()) if m.run.method == "dead"}
        assert keys("X3c") - keys("X3d") == set()
        assert dead
        for member in chosen("X3c")[0].members(Plan()):
            if member.run.method == "widened":
                assert member.run.narrower.key in keys("X3c")


class TestData:
    def test_counts_follow_from_the_published_file(self, tmp_path: Path) -> None:
        h5py = pytest.importorskip("h5py")
        from scipy import sparse

        counts = np.random.default_rng(0).poisson(0.7, size=(30, 12)).astype(float)
        counts[:, 0] = 1  # as in the real ones, each cell has a gene that was counted once
        scaled = sparse.csr_matrix(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))
        with h5py.File(tmp_path / data.FILE, "w") as file:
            for part in ("data", "indices", "indptr"):
                file[f"raw.X/{part}"] = getattr(scaled, part).astype(
                    "f4" if part == "data" else int
                )
            file["obs"], file["raw.var"] = np.zeros(30), np.zeros(12)
        with pytest.raises(CorruptFileError, match="SHA-256"):
            data.cells(tmp_path)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(data, "SHA256", data.checksum(tmp_path / data.FILE))
            assert np.array_equal(data.cells(tmp_path), counts)
            patched.setattr(data, "GENES", 5)
            assert set(np.unique(data.study_data("cells:on", tmp_path).x)) <= {0.0, 1.0}

    def test_without_the_file_it_is_said_how_to_get_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(data, "PACKAGE", "no_such_package")
        with pytest.raises(MissingFileError, match="pip install --no-deps scanpy"):
            data.study_data("cells", tmp_path)


def test_the_published_loss_halves_beta_before_the_onset() -> None:
    own, published = (
        a_run(
            {"beta": 3.0}, {}, NET, convention=convention,
            forecast={"levels": [{"critical_beta": [ONSET, 1.0]}]},
        )
        for convention in ("elbo", "reference")
    )  # fmt: skip
    assert share_of_onset(own) == 1.5
    assert share_of_onset(published) == 0.75
