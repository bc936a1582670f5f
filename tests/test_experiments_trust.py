"""The study of trust: its tables follow from planted runs, and the README's from its tables."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from posterior_collapse import VAESpec, fit_many
from posterior_collapse.errors import (
    CorruptFileError,
    InvalidArgumentError,
    MissingFileError,
)
from posterior_collapse.experiments import DELIVERABLES, Executor, Plan, Result, chosen, data, trust
from posterior_collapse.experiments.data import read_samples
from posterior_collapse.experiments.rows.trust import CONVOLUTIONAL, PROBLEMS
from posterior_collapse.experiments.tables import Table
from posterior_collapse.files import write_json
from posterior_collapse.models import Architecture, build, widened
from posterior_collapse.runs import Evaluation, Run, RunData, Store, complete
from posterior_collapse.theory import forecast
from posterior_collapse.training import Settings

NET = "digits, mlp, gaussian"
ONSET = 2.0
HOME = Path(__file__).parents[1]


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
    record = SimpleNamespace(
        run=SimpleNamespace(settings=SimpleNamespace(seed=1, convention="elbo")),
        measured=measured, stopped=stopped, history=history,
        forecast={"levels": [level], "kl": 4.0, "notes": []},
    )  # fmt: skip
    labels = {"beta": beta} if units is None else {"latent_dim": units, "beta": beta}
    return Result(grid, labels, record)  # type: ignore[arg-type]


def table(name: str, which: str, results: list[Result]) -> list[dict[str, Any]]:
    one = DELIVERABLES[name](results).tables[which]
    return [dict(zip(one.columns, row, strict=True)) for row in one.rows]


class TestOnset:
    def test_it_lies_between_the_last_beta_alive_and_the_first_dead(self) -> None:
        runs = [planted(b, int(b < 1.9)) for b in (1.0, 1.8, 1.9, 2.2)]
        (row,) = table("trust_onset", "onset", runs)
        assert row["last beta alive / onset"] == pytest.approx(0.9)
        assert row["first beta dead / onset"] == pytest.approx(0.95)
        assert row["error of the onset"] == pytest.approx(math.sqrt(0.9 * 0.95) - 1, abs=5e-4)
        t = ONSET / 1.9  # at the first beta that is dead
        gain = row["a linear model would gain there (nats)"]
        assert gain == pytest.approx(1.9 / 2 * (t - 1 - math.log(t)))
        assert row["collapsed runs miss their optimum by (nats)"] == pytest.approx(-10.0)

    def test_half_of_the_seeds_decide_and_runs_that_diverged_do_not(self) -> None:
        runs = [planted(1.8, 1), planted(1.8, 0), planted(1.8, 0, stopped="non-finite: kl")]
        runs += [planted(2.2, 0), planted(2.2, 0)]
        (row,) = table("trust_onset", "onset", runs)
        assert row["last beta alive / onset"] == pytest.approx(0.9)

    def test_what_lives_on_after_a_warm_up_is_counted_with_its_gain(self) -> None:
        runs = [
            planted(b, 1, grid=f"{NET}, warm-up", loss=19.5 if b > 2 else 10.0) for b in (1.0, 2.2)
        ]
        runs.append(planted(3.0, 0, grid=f"{NET}, warm-up"))
        (row,) = table("trust_onset", "onset", runs)
        assert row["warm-up"] == "yes"
        assert row["runs alive above the onset"] == 1
        assert row["their loss below the collapsed (nats, most)"] == pytest.approx(0.5)

    @pytest.mark.parametrize(("first_dead", "verdict"), [(2.1, "agrees"), (1.6, "differs")])
    def test_the_verdict_holds_it_to_5_percent(self, first_dead: float, verdict: str) -> None:
        runs = [planted(first_dead * 0.97, 1), planted(first_dead, 0)]
        assert [c.verdict for c in DELIVERABLES["trust_onset"](runs).checks] == [verdict]

    def test_nothing_is_said_where_all_live_or_none(self) -> None:
        for active in (0, 1):
            runs = [planted(b, active) for b in (1.0, 3.0)]
            assert DELIVERABLES["trust_onset"](runs).checks[0].agrees is None


class TestUnits:
    def test_counts_are_held_against_their_own_bracket(self) -> None:
        runs = [planted(1.0, n, fewest=2, linear=4) for n in (1, 2, 4, 4, 7)]
        (row,) = table("trust_units", "units", runs)
        assert row["in the bracket"] == pytest.approx(3 / 5)
        assert row["within a unit of it"] == pytest.approx(4 / 5)
        assert (row["most above"], row["most below"]) == (3, 1)
        assert row["KL / linear KL, median"] == pytest.approx(0.75)

    def test_settings_above_the_onset_do_not_count(self) -> None:
        runs = [planted(1.0, 3), planted(1.9, 0), planted(3.0, 0, linear=0, fewest=0)]
        (row,) = table("trust_units", "units", runs)
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
        first, second = table("trust_gain", "pairs", self.pairs())
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
        assert [r["outcome"] for r in table("trust_gain", "pairs", noisy)] == ["too close"]

    def test_answers_and_outcomes_are_counted(self) -> None:
        part = DELIVERABLES["trust_gain"](self.pairs())
        rows = [["pays", 1, 0, 0], ["undecided", 0, 0, 0], ["does not pay", 0, 0, 1]]
        assert part.tables["confusion"].rows == rows
        assert [check.verdict for check in part.checks] == ["agrees", "agrees"]

    def test_more_than_all_units_brought_is_no_gain(self) -> None:
        runs = [r for r in self.pairs(("restarts",)) if r.labels["latent_dim"] < 3]
        runs[0].measured["gains"][0]["nats"] = 1e18
        (row,) = table("trust_gain", "gains", runs)
        assert row["said more than all units brought"] == 1
        assert row["brought / said, median"] is None


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
        rows = {row["runs that"]: row for row in table("trust_failures", "failures", self.runs())}
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


class TestSummary:
    def leave(self, folder: Path, error: float = 0.031) -> Path:
        network = {"network": NET, "warm-up": "no"}
        tables = {
            "X3a": {
                "onset": [
                    {
                        **network,
                        "error of the onset": sign * error,
                        "verdict there": "undecided" if sign > 0 else "signal-unclaimed",
                        "runs alive above the onset": 2 if sign > 0 else 0,
                        "their loss below the collapsed (nats, most)": 0.25 if sign > 0 else None,
                    }
                    for sign in (1, -1, -1)
                ]
            },
            "X3b": {
                "units": [
                    {
                        **network, "runs": runs, "in the bracket": share, "kept": 6.0,
                        "within a unit of it": 1.0, "most above": 1, "most below": 0,
                        "kept by the linear optimum": 8.0, "KL / linear KL, median": 0.9,
                    }
                    for runs, share in ((30, 1.0), (10, 0.5))
                ]
            },
            "X3c": {
                "confusion": [
                    {
                        "the diagnosis says: one more unit": answer, "it paid": paid,
                        "too close to tell": 2, "it did not": not_paid,
                    }
                    for answer, paid, not_paid in (
                        ("pays", 19, 1), ("undecided", 2, 1), ("does not pay", 1, 9)
                    )
                ],
                "gains": [
                    {
                        "brought / said, median": 1.5, "10%": 0.8, "90%": 2.5,
                        "said more than all units brought": absurd,
                    }
                    for absurd in (0, 4)
                ],
            },
            "X3d": {
                "failures": [
                    {
                        "runs that": "all", "failed": 40, "recognised": 37, "undecided": 1,
                        "called fine": 2, "good": 60, "false alarms": 3, "good, undecided": 4,
                        "worse, as many units": 20, "of these, alarms": 9,
                    }
                ]
            },
        }  # fmt: skip
        for row, own in tables.items():
            result = {
                "id": row, "name": f"Trust: {row}", "claim": "c", "theory": "t", "seeds": [1],
                "profile": "full", "hardware": "a machine", "figures": [],
                "agreement": {"verdict": "partly", "checks": [], "notes": []},
                "tables": {name: Table.of(records).to_dict() for name, records in own.items()},
            }  # fmt: skip
            (folder / row).mkdir(parents=True, exist_ok=True)
            write_json(folder / row / "result.json", result)
        return folder

    def test_its_numbers_are_those_of_the_rows(self, tmp_path: Path) -> None:
        text = trust.table(self.leave(tmp_path))
        failed = f"{NET}, whose verdict there is signal-unclaimed"
        assert f"median error -3.1%, -3.1% ({failed}) to +3.1% ({NET}); within 5% in 3 of" in text
        assert "2 runs live on above it, at losses up to 0.25 nats lower than collapsed" in text
        assert "40 runs of 2 networks" in text
        assert "in the bracket in 88%" in text  # (30 + 5) / 40
        assert "it keeps 8.0 on average where networks kept 6.0" in text
        assert "of 20 said to pay, 19 did; of 10 said not to pay, 9 did not" in text
        assert "of 3 undecided, 2 did (6 others too close to tell)" in text
        assert "4 times it was more than all units together brought" in text
        assert "37 failures recognised, 1 undecided, 2 called fine; of the good runs 3 " in text

    def test_the_readme_shows_a_line_of_each(self, tmp_path: Path) -> None:
        text = trust.block(self.leave(tmp_path))
        assert "without a warm-up: within 5% in 3 of 3 networks, at most 3% off" in text
        assert "without a warm-up: within a unit in 100% of 40 runs" in text
        assert "of 20 said to pay, 19 did; of 10 said not to, 9 did not" in text
        assert "seen in 37 of 40 failures, 1 undecided; wrongly said of 3 of 60 good runs" in text

    def test_a_linear_model_stands_for_itself(self, tmp_path: Path) -> None:
        results = self.leave(tmp_path)
        kept = json.loads((results / "X3a" / "result.json").read_text("utf-8"))
        table = kept["tables"]["onset"]
        linear = dict(zip(table["columns"], table["rows"][1], strict=True))
        linear |= {"network": "digits, linear, gaussian", "error of the onset": -0.2}
        table["rows"].append(list(linear.values()))
        write_json(results / "X3a" / "result.json", kept)
        text = trust.table(results)
        assert "within 5% in 3 of 3" in text
        assert "| a linear model, trained so; without a warm-up | error -20.0%:" in text

    def test_a_convolutional_network_has_lines_of_its_own_once_it_was_run(
        self, tmp_path: Path
    ) -> None:
        results = self.leave(tmp_path)
        before = trust.table(results)
        assert "Nothing of cnns" in trust.render(results, tmp_path)
        kept, units = (
            json.loads((results / row / "result.json").read_text("utf-8")) for row in ("X3a", "X3b")
        )
        for result in (kept, units):
            for table in result["tables"].values():
                table["rows"] = table["rows"][:1]
        kept |= {"id": "X3e", "tables": {**kept["tables"], **units["tables"]}}
        (results / "X3e").mkdir()
        write_json(results / "X3e" / "result.json", kept)
        text = trust.table(results)
        assert set(before.splitlines()) < set(text.splitlines())
        assert "| a convolutional network; without a warm-up | error +3.1% |" in text
        assert "| 30 runs of a convolutional network; without a warm-up | in the bracket in" in text
        assert "Little of cnns: one" in trust.render(results, tmp_path)

    def test_other_results_change_it(self, tmp_path: Path) -> None:
        assert trust.table(self.leave(tmp_path / "a")) != trust.table(
            self.leave(tmp_path / "b", error=0.2)
        )
        assert "within 5% in 0 of 3" in trust.table(tmp_path / "b")

    def test_only_what_is_between_the_lines_is_replaced(self, tmp_path: Path) -> None:
        results = self.leave(tmp_path / "results")
        readme = tmp_path / "README.md"
        readme.write_text(f"before\n{trust.BEGIN}\nold\n{trust.END}\nafter\n", "utf-8")
        for _ in range(2):
            _, document = trust.write(results, readme, tmp_path / "docs" / "trust.md")
            expected = f"before\n{trust.BEGIN}\n{trust.block(results)}{trust.END}\nafter\n"
            assert readme.read_text("utf-8") == expected
        assert trust.table(results) in document.read_text("utf-8")

    @pytest.mark.parametrize("text", ["", "{0}\n{0}\n{1}", "{1}\n{0}", "{0}"])
    def test_a_readme_without_the_place_is_left_alone(self, tmp_path: Path, text: str) -> None:
        results, readme = self.leave(tmp_path / "results"), tmp_path / "README.md"
        readme.write_text(before := text.format(trust.BEGIN, trust.END), "utf-8")
        with pytest.raises(CorruptFileError, match="no place for the table"):
            trust.write(results, readme, tmp_path / "trust.md")
        assert readme.read_text("utf-8") == before
        assert not (tmp_path / "trust.md").exists()

    def test_a_missing_row_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(MissingFileError, match="collapse reproduce X3a"):
            trust.block(tmp_path)

    def test_readme_and_docs_hold_what_the_command_writes(self) -> None:
        text = (HOME / "README.md").read_text("utf-8")
        inside = re.search(f"{re.escape(trust.BEGIN)}\n(.*){re.escape(trust.END)}", text, re.S)
        assert inside is not None
        assert inside[1] == trust.block(HOME / "results")
        written = (HOME / "docs" / "trust.md").read_text("utf-8")
        assert written == trust.render(HOME / "results", HOME / "docs")


class TestWidened:
    def narrow(self) -> Any:
        generator = torch.Generator().manual_seed(3)
        spec = VAESpec(2, sigma="input")
        return build(spec, "mlp", x_dim=5, hidden=(8,), generator=generator)

    def test_a_dead_unit_changes_nothing(self) -> None:
        model = self.narrow()
        wider, x = widened(model, dead=True), torch.randn(7, 5)
        assert wider.spec.dims == (3,)
        noise = torch.randn(7, 3)
        with torch.no_grad():
            one, other = (m(x, None, [noise[:, : m.units[0]]]) for m in (model, wider))
        assert torch.allclose(other.squared_error, one.squared_error)
        assert torch.allclose(other.kl[0][:, :2], one.kl[0])
        assert other.kl[0][:, 2].abs().max() < 1e-12

    def test_a_new_unit_is_heard_faintly(self) -> None:
        model = self.narrow()
        wider = widened(model, torch.Generator().manual_seed(1))
        old, new = (m.state_dict() for m in (model, wider))
        for name, value in old.items():
            assert torch.equal(new[name][tuple(slice(n) for n in value.shape)], value)
        (column,) = [new[n][:, 2] for n in new if new[n].dim() == 2 and new[n].shape[1] == 3]
        assert 0 < column.abs().max() <= 0.1 / math.sqrt(3)

    def test_a_hierarchy_is_refused(self) -> None:
        from posterior_collapse import HVAESpec

        with pytest.raises(InvalidArgumentError, match="one level"):
            widened(build(HVAESpec((2, 2)), "linear", x_dim=5))

    def test_training_goes_on_from_what_is_given(self) -> None:
        x = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
        wider = widened(self.narrow())
        before = {name: value.clone() for name, value in wider.state_dict().items()}
        options = {"hidden": (8,), "epochs": 1, "learning_rate": 1e-9}
        (found,) = fit_many([wider.spec], x, "mlp", start=[wider], **options)
        for name, value in found.model.state_dict().items():
            assert torch.allclose(value, before[name], atol=1e-6)
        assert all(torch.equal(v, before[n]) for n, v in wider.state_dict().items())
        with pytest.raises(InvalidArgumentError, match="start: got 2 models"):
            fit_many([wider.spec], x, "mlp", start=[wider, wider], **options)
        with pytest.raises(InvalidArgumentError, match="start: got a model"):
            fit_many([VAESpec(2, sigma="input")], x, "mlp", start=[wider], **options)

    def test_wider_runs_go_on_from_the_kept_ones(self, tmp_path: Path) -> None:
        spec = VAESpec(3, beta=0.1, sigma="input")
        net, how = Architecture.named("mlp", hidden=(8,)), Settings(epochs=2, seed=1)
        run = Run(
            RunData("clusters", rows=128), spec, net, how, "widened",
            Evaluation("train", weights=False),
        )  # fmt: skip
        store = Store(tmp_path)
        record, dead = complete([run, run.replace(method="dead")], store, Executor(store=store))
        assert record.history["epoch"] == [1, 2]
        assert dead.measured["levels"][0]["status"][2] == "collapsed"
        narrower = store.get(run.narrower.key)
        assert narrower is not None
        assert narrower.model.spec.latent_dim == 2
        assert not list(record.folder.glob("*.safetensors"))


class TestHistoryEvery:
    def test_rows_are_means_over_the_epochs_since_the_last(self) -> None:
        x = np.random.default_rng(0).standard_normal((96, 4)).astype(np.float32)
        specs, options = [VAESpec(2)], {"hidden": (4,), "batch_size": 32, "seeds": 1}
        (each,) = fit_many(specs, x, "mlp", epochs=7, **options)
        (some,) = fit_many(specs, x, "mlp", epochs=7, history_every=3, **options)
        assert some.history["epoch"] == [3, 6, 7]
        losses = each.history["loss"]
        expected = [np.mean(losses[:3]), np.mean(losses[3:6]), losses[6]]
        assert some.history["loss"] == pytest.approx(expected)
        for one, other in zip(each.model.parameters(), some.model.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_early_stopping_needs_every_epoch(self) -> None:
        with pytest.raises(InvalidArgumentError, match="history_every"):
            Settings(patience=3, history_every=2)


class TestRows:
    def test_a_study_is_named_by_its_number(self) -> None:
        assert [row.id for row in chosen("x3")] == ["X3a", "X3b", "X3c", "X3d", "X3e"]
        assert [row.id for row in chosen("X3b")] == ["X3b"]

    def test_betas_lie_about_the_onset_that_theory_predicts(self) -> None:
        for problem in (*PROBLEMS, CONVOLUTIONAL):
            if problem.data.name in ("digits", "clusters", "clusters:counts"):
                x = read_samples(problem.data).x
                found = forecast(x, VAESpec(16, likelihood=problem.likelihood)).onset  # type: ignore[arg-type]
                assert problem.onset == pytest.approx(found, rel=1e-3)
            few = problem is CONVOLUTIONAL
            assert sum(share < 1 for share in problem.shares) >= (8 if few else 15)

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
