"""How far to trust theory: page and README follow from the tables that the rows left."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import left_results
from posterior_collapse.errors import CorruptFileError, MissingFileError
from posterior_collapse.experiments import Reproduced, trust, trust_table
from posterior_collapse.experiments.checks import missed
from posterior_collapse.experiments.deliverables.trust_gain import of_pairs
from posterior_collapse.experiments.tables import Table
from posterior_collapse.files import read_json, write_json

NET = "digits, mlp, gaussian"
HOME = Path(__file__).parents[1]


def left(results: Path, row: str) -> dict[str, Any]:
    return read_json(results / row / "result.json")


def leave(results: Path, row: str, values: dict[str, Any]) -> None:
    write_json(results / row / "result.json", {**values, "id": row})


class TestSummary:
    def leave(self, folder: Path, error: float = 0.031) -> Path:
        network = {"network": NET, "warm-up": "no"}
        tables = {
            "X3a": {
                "onset": [
                    {
                        **network,
                        "last beta alive / onset": (last := 1 + sign * error - 0.01),
                        "first beta dead / onset": last + 0.02,
                        "error of the onset": missed(last, last + 0.02),
                        "cause of the error": "another optimum" if sign > 0 else "start",
                        "runs alive above the onset": 2 if sign > 0 else 0,
                        "the least of their losses less the collapsed (nats)":
                            -0.25 if sign > 0 else None,
                    }
                    for sign in (1, -1, -1, -1, -1)
                ]
            },
            "X3b": {
                "units": [
                    {
                        **network, "runs": runs, "in the bracket": share, "kept": 6.0,
                        "within a unit of it": near, "most above": 1, "most below": 0,
                        "kept by the linear optimum": 8.0, "KL / linear KL, median": 0.9,
                        "fewest, mean": 5.5,
                    }
                    for runs, share, near in ((30, 1.0, 1.0), (10, 0.5, 0.8))
                ]
            },
            "X3c": {
                "confusion": [
                    {
                        "the diagnosis says: one more unit": answer, "it paid": paid,
                        "cannot be told": 2, "it did not": not_paid,
                    }
                    for answer, paid, not_paid in (
                        ("pays", 19, 1), ("undecided", 2, 1), ("does not pay", 1, 9)
                    )
                ],
                "gains": [
                    {
                        "network": name, "pairs": pairs, "both told from 0": pairs // 2,
                        "within a factor of 2": pairs // 3, "brought / said, median": 1.5,
                        "10%": 0.8, "90%": 2.5, "said more than all units brought": absurd,
                    }
                    for name, pairs, absurd in ((NET, 12, 0), ("other", 27, 4), ("all", 39, 4))
                ],
            },
            "X3d": {
                "failures": [
                    {
                        "runs that": kind, "failed": failed, "recognised": recognised,
                        "undecided": 1, "called fine": 2, "good": 60, "false alarms": 3,
                        "good, undecided": 4, "worse, as many units": 20, "of these, alarms": 9,
                    }
                    for kind, failed, recognised in (
                        ("without warm-up", 4, 2), ("with warm-up", 2, 1), ("dead start", 34, 34),
                        ("all", 40, 37),
                    )
                ],
                "by-network": [
                    {"network": name, "failed": failed, "recognised": recognised}
                    for name, failed, recognised in ((NET, 30, 29), ("b", 10, 8), ("c", 0, 0))
                ],
            },
        }  # fmt: skip
        for row, own in tables.items():
            kept = {name: Table.of(records).to_dict() for name, records in own.items()}
            left_results.leave(folder, row, tables=kept, hardware="a machine")
        return folder

    def test_its_numbers_are_those_of_the_rows(self, tmp_path: Path) -> None:
        text = trust.table(self.leave(tmp_path))
        ends = f"from -4% to -2% ({NET}) to +2% to +4% ({NET}), -4% to -2% in the middle"
        assert f"{ends}; within 5% in 5 of 5; in 4: units do live there after a warm-up" in text
        assert "2 runs live on above it, the best of a network 0.25 nats lower than col" in text
        assert "40 runs of 2 networks" in text
        assert "in the bracket in 88%" in text  # (30 + 5) / 40
        assert "within a unit of it in 95% (by network 80% to 100%); at most" in text
        assert "the bracket spans 2.5 units on average. They keep 6.0 units on average, th" in text
        assert "| 39 pairs of k and k + 1 units, k up to 6, in 2 networks | of 22" in text
        assert "of 22 said to pay, 19 did, 1 did not, and for 2 it cannot be told" in text
        assert "of 5 undecided, 2 did, 1 did not, and for 2 it cannot be told" in text
        assert "of 12 said not to pay, 9 did not, 1 did, and for 2 it cannot be told" in text
        sizes = "within a factor of 2 in 13 (by network 4 of 6 to 9 of 13)"
        assert f"| {sizes}; it brought 1.5 times what was said (median" in text
        assert "| all 39 pairs | in 4 what was said is more than all units together brought" in text
        who = "(by network 8 of 10 to 29 of 30; 3 of the 6 that nobody planted)"
        known = f"37 failures recognised {who}"
        assert f"{known}, 1 undecided, 2 called fine; of the good runs 3 raise" in text

    def test_the_readme_shows_a_line_of_each(self, tmp_path: Path) -> None:
        text = trust.block(self.leave(tmp_path))
        assert "without a warm-up: within 5% in 5 of 5 networks, at worst " in text
        assert (
            "in its bracket in 88% of 40 runs, within a unit of it in 95% (by network 80% to 100%)"
            "; the bracket spans 2.5 units" in text
        )
        assert (
            "of 22 said to pay, 19 did, 1 did not, and for 2 it cannot be told; of 12 said" in text
        )
        sizes = "(by network 4 of 6 to 9 of 13)"
        assert f"within a factor of 2 in 13 of the 19 cases where that can be told {sizes}" in text
        who = "(by network 8 of 10 to 29 of 30; 3 of the 6 that nobody planted)"
        assert f"37 of 40 failures {who}, 1 undecided; an alarm" in text
        assert "an alarm in 3 of 60 runs as good as the best, 4 undecided" in text
        assert "deeper networks" not in text
        assert len(text.splitlines()) == 2 + 5

    def test_the_readme_shows_the_worst_of_deeper_networks(self, tmp_path: Path) -> None:
        results = self.leave(tmp_path)
        kept = left(results, "X3a")
        table = kept["tables"]["onset"]
        deep = dict(zip(table["columns"], table["rows"][1], strict=True))
        deep |= {"network": "digits, mlp of 3 hidden layers, gaussian"}
        deep |= {"last beta alive / onset": 0.5, "first beta dead / onset": 0.75}
        deep |= {"error of the onset": "-50% to -25%"}
        table["rows"] = [list(deep.values())]
        leave(results, "X3g", kept)
        text = trust.block(results)
        assert (
            "| the beta above which all units collapse; deeper networks (digits only) | "
            "without a warm-up: within 5% in 0 of 1 network, at worst -50% to -25% |"
        ) in text
        assert "within 5% in 5 of 5 networks" in text

    def test_rows_that_were_run_otherwise_are_named(self, tmp_path: Path) -> None:
        results = self.leave(tmp_path)
        assert "Not run" not in trust.block(results) + trust.render(results, tmp_path)
        for row, changes in (("X3a", {"profile": "quick"}), ("X3c", {"convention": "reference"})):
            leave(results, row, {**left(results, row), **changes})
        said = "X3a (smaller: quick profile) and X3c (reference convention)"
        for text in (trust.block(results), trust.render(results, tmp_path)):
            assert f"|\n\nNot run as the study is: {said}.\n" in text

    def test_a_broken_row_is_named(self, tmp_path: Path) -> None:
        results = self.leave(tmp_path)
        table = {"columns": ["network"], "rows": [["digits, mlp, gaussian"]]}
        leave(results, "X3a", {**left(results, "X3a"), "tables": {"onset": table}})
        with pytest.raises(CorruptFileError, match=r"values that cannot be shown \(KeyError"):
            trust.block(results)

    def test_a_linear_model_stands_for_itself(self, tmp_path: Path) -> None:
        results = self.leave(tmp_path)
        kept = left(results, "X3a")
        table = kept["tables"]["onset"]
        linear = dict(zip(table["columns"], table["rows"][1], strict=True))
        linear |= {"network": "digits, linear, gaussian", "error of the onset": "-20% to -15%"}
        table["rows"].append(list(linear.values()))
        leave(results, "X3a", kept)
        text = trust.table(results)
        assert "within 5% in 5 of 5" in text
        who = "a linear model, for which theory is exact; without a warm-up"
        assert f"| {who} | -20% to -15% (digits, linear, gaussian); units do" in text

    def test_convolutional_networks_have_lines_of_their_own_once_they_were_run(
        self, tmp_path: Path
    ) -> None:
        results = self.leave(tmp_path)
        before = trust.table(results)
        assert "No cnn was trained" in trust.render(results, tmp_path)
        kept, units = (left(results, row) for row in ("X3a", "X3b"))
        for result in (kept, units):
            for table in result["tables"].values():
                table["rows"] = table["rows"][:1]
        leave(results, "X3e", {**kept, "tables": {**kept["tables"], **units["tables"]}})
        text = trust.table(results)
        assert set(before.splitlines()) < set(text.splitlines())
        assert f"| 1 convolutional network; without a warm-up | +2% to +4% ({NET}); unit" in text
        assert "| 30 runs of 1 convolutional network; without a warm-up | in the bracket in" in text
        assert "Cnns were trained on the digits only" in trust.render(results, tmp_path)

    def test_what_stands_beside_the_study_has_lines_of_its_own(self, tmp_path: Path) -> None:
        results = self.leave(tmp_path)
        before = trust.table(results)
        assert "No deeper network was trained" in trust.render(results, tmp_path)
        kept, units = (left(results, row) for row in ("X3a", "X3b"))
        tables = {**kept["tables"], **units["tables"]}
        for table in tables.values():
            deep = ["digits, mlp of 2 hidden layers, gaussian", *table["rows"][0][1:]]
            table["rows"] = [deep, table["rows"][0]]  # those of one layer are in X3a and X3b
        at = {"network": NET, "warm-up": "no", "epochs": 100, "epochs, longer": 400}
        longer = [
            {
                **at, "units": now, "units, longer": later, "KL (nats)": 2.0,
                "KL (nats), longer": 3.0, "gain (nats)": 4.0, "gain (nats), longer": 4.4,
            }
            for now, later in ((2, 1), (3, 4), (0, 1))
        ]  # fmt: skip
        held_out = [
            {
                **at, "runs": runs, "as many units on both": 0.5, "within a unit": share,
                "in the bracket, held out": 0.25, "within a unit of it, held out": 0.75,
                "KL held out / trained on": 1.25, "gain held out / trained on": 0.5,
                "error of the onset": "-12% to -5%",
                "error of the onset, held out": f"-12% to {end}",
            }
            for runs, share, end in ((30, 1.0, "-5%"), (10, 0.6, "-1%"))
        ]  # fmt: skip
        onset = {
            "network": NET, "warm-up": "yes",
            "trained": "a learning rate 4 times lower, 2 times as long",
            "error of the onset": "-12% to -8%",
            "last beta alive / onset": 0.88, "first beta dead / onset": 0.92,
            "error of the onset, long": "-3% to -1%",
            "last beta alive / onset, long": 0.97, "first beta dead / onset, long": 0.99,
        }  # fmt: skip
        lost = {"error of the onset, long": None, "first beta dead / onset, long": None}
        same = {"trained": "the same learning rate, 2 times as long"}
        long = [onset, {**onset, **lost, "network": "digits, cnn"}, {**onset, **lost, **same}]
        kinds = {"longer": longer, "long": long, "held-out": held_out}
        beside = {name: Table.of(each).to_dict() for name, each in kinds.items()}
        leave(results, "X3f", {**kept, "tables": tables | beside})
        text = trust.table(results)
        assert set(before.splitlines()) < set(text.splitlines())
        deep = "digits, mlp of 2 hidden layers, gaussian"
        assert f"| 1 deeper network; without a warm-up | +2% to +4% ({deep}); unit" in text
        assert "| 30 runs of 1 deeper network; without a warm-up | in the bracket in 100%" in text
        again = "| 1 of them again, at fewer betas; without a warm-up"
        assert f"{again} | +2% to +4% ({NET}); units" in text
        assert "in 5 of 5 networks" in trust.block(results)  # the same are not counted twice
        assert "| what 4 times the training changes | 3 settings" in text
        assert "units by -1 to +1 (means over seeds), their KL by +1 nats" in text
        assert "what they bring by +0.4 nats" in text
        slow = "a learning rate 4 times lower, 2 times as long"
        assert f"| what changes at {slow} | the beta of" in text
        assert (
            f"| the beta above which all units collapse; at {slow} (digits only) | after a warm-up"
            ": within 5% in 1 of 2 networks, at worst -3% to -1% |\n"
            f"| the beta above which all units collapse; at {same['trained']} (digits only) | "
            "after a warm-up: within 5% in 0 of 1 network |"
        ) in trust.block(results)
        assert f"{NET}: -3% to -1% (before: -12% to -8%); digits, cnn: not found (before" in text
        assert "; within 5% in 1 of 2 (before: 0) |" in text
        assert (
            "in 50%, within a unit in 90%; within a unit of the training rows' bracket in" in text
        )
        assert "the last unit dies between the same betas in 1 of 2" in text
        page = trust.render(results, tmp_path)
        assert "Deeper networks were trained on the digits only" in page
        assert "test rows" not in page

    def test_other_data_have_lines_of_their_own(self, tmp_path: Path) -> None:
        results = self.leave(tmp_path)
        before = trust.table(results)
        assert "clothes or counts of single cells, or of test rows." in (
            trust.render(results, tmp_path)
        )
        kept, units = (left(results, row) for row in ("X3a", "X3b"))
        tables = {**kept["tables"], **units["tables"]}
        names = ("digits, mlp of 3 hidden layers, gaussian", "clothes, mlp, gaussian", "cells, mlp")
        for table in tables.values():
            table["rows"] = [[name, *table["rows"][0][1:]] for name in names]
        errors = tables["onset"]["columns"].index("error of the onset")
        tables["onset"]["rows"][2][errors] = None
        leave(results, "X3g", {**kept, "tables": tables})
        text = trust.table(results)
        assert set(before.splitlines()) < set(text.splitlines())
        assert f"| 1 deeper network; without a warm-up | +2% to +4% ({names[0]}); unit" in text
        assert f"| 2 networks of other data; without a warm-up | +2% to +4% ({names[1]});" in text
        assert "; 1 never or always collapsed |" in text
        assert "| 30 runs of 1 deeper network; without a warm-up | in the bracket in 100%" in text
        assert "runs of 2 networks of other data; without a warm-up | in the br" in text
        page = trust.render(results, tmp_path)
        assert "Deeper networks were trained on the digits only" in page
        assert "Nothing is said of\ntest rows." in page

    def test_each_machine_is_named_once(self, tmp_path: Path) -> None:
        results = self.leave(tmp_path)
        for row, machines in (("X3a", "one, 1 threads, a GPU"), ("X3c", "other, 2 threads, a GPU")):
            leave(results, row, {**left(results, row), "hardware": machines})
        page = trust.render(results, tmp_path)
        assert "Trained on one, 1 thread; a GPU; a machine; other, 2 threads." in page

    def test_other_results_change_it(self, tmp_path: Path) -> None:
        assert trust.table(self.leave(tmp_path / "a")) != trust.table(
            self.leave(tmp_path / "b", error=0.2)
        )
        assert "within 5% in 0 of 5" in trust.table(tmp_path / "b")

    def test_only_what_is_between_the_lines_is_replaced(self, tmp_path: Path) -> None:
        results = self.leave(tmp_path / "results")
        readme = tmp_path / "README.md"
        readme.write_text(f"before\n{trust.BEGIN}\nold\n{trust.END}\nafter\n", "utf-8")
        for _ in range(2):
            _, document = trust.write(results, readme, tmp_path / "docs" / "trust.md")
            expected = f"before\n{trust.BEGIN}\n{trust.block(results)}{trust.END}\nafter\n"
            assert readme.read_text("utf-8") == expected
        assert trust.table(results) in document.read_text("utf-8")
        figures = {path.name for path in document.parent.iterdir()} - {"trust.md"}
        assert figures == {"trust.png", "trust.pdf", "trust.csv"}

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

    @pytest.mark.parametrize("row", ["X3a", "X3e", "X3f", "X3g"])
    def test_what_is_kept_of_onsets_follows_from_their_tables(self, row: str) -> None:
        """The words of a result are written with its tables; one must not change alone."""
        kept = left(HOME / "results", row)
        said = kept["agreement"]["checks"]
        onsets = Table.from_dict(kept["tables"]["onset"]).records()
        for record in onsets:
            name = f"{record['network']}, warm-up: {record['warm-up']}: the last unit"
            last, first = (
                record[f"{end} / onset"] for end in ("last beta alive", "first beta dead")
            )
            near = last <= 1 <= first or (last >= 0.95 and first <= 1.05)
            why = record["cause of the error"] and f"; cause: {record['cause of the error']}"
            end = f"(error {record['error of the onset']}{why})."
            assert [(v, t.endswith(end)) for v, t in said if t.startswith(name)] == [
                ("agrees" if near else "differs", True)
            ]
            assert record["error of the onset"] == missed(last, first)

    def test_what_is_kept_of_one_more_unit_follows_from_its_pairs(self) -> None:
        kept = left(HOME / "results", "X3c")
        pairs = Table.from_dict(kept["tables"]["pairs"]).records()
        for pair in pairs:
            brought, error = pair["brought (nats)"], pair["brought, error"]
            worth = 0.01 * pair["all units brought (nats)"]
            paid, did_not = brought > worth + 2 * error, brought < worth - 2 * error
            told = "paid" if paid else "did not" if did_not and brought >= -2 * error else None
            assert pair["outcome"] == (told or "cannot be told")
        part = of_pairs(pairs)
        assert part.tables["confusion"].to_dict() == kept["tables"]["confusion"]
        assert [c.text for c in part.checks] == [t for _, t in kept["agreement"]["checks"]]
        assert list(part.notes) == kept["agreement"]["notes"][: len(part.notes)]

    def test_readme_and_docs_hold_what_the_command_writes(self) -> None:
        text = (HOME / "README.md").read_text("utf-8")
        inside = re.search(f"{re.escape(trust.BEGIN)}\n(.*){re.escape(trust.END)}", text, re.S)
        assert inside is not None
        assert inside[1] == trust.block(HOME / "results")
        written = (HOME / "docs" / "trust.md").read_text("utf-8")
        assert written == trust.render(HOME / "results", HOME / "docs")

    def test_the_figure_holds_the_onsets_and_shares_of_every_network(self, tmp_path: Path) -> None:
        rows = ("X3a", "X3b", "X3e", "X3f", "X3g")
        found = {row: Reproduced.read(HOME / "results" / row / "result.json") for row in rows}
        chart = trust_table.picture(found)
        chart.table.save(tmp_path, "trust")
        assert (HOME / "docs/trust.csv").read_text() == (tmp_path / "trust.csv").read_text()
        expected = []
        for onsets, units in (("X3a", "X3b"), *[(row, row) for row in ("X3e", "X3f", "X3g")]):
            near = {
                (r["network"], r["warm-up"]): r["within a unit of it"]
                for r in found[units].tables["units"].records()
            }
            for r in found[onsets].tables["onset"].records():
                way = {"no": "without a warm-up", "yes": "after a warm-up"}[r["warm-up"]]
                ends = r["last beta alive / onset"], r["first beta dead / onset"]
                expected.append((r["network"], way, *ends, near[r["network"], r["warm-up"]]))
        drawn = [tuple(row[1:]) for row in chart.table.rows]
        assert sorted(drawn) == sorted(expected)
        left_box, _ = chart.figure.axes
        bars = [line for line in left_box.get_lines() if line.get_lw() > 2]
        assert len(bars) == sum(row[3] is not None for row in chart.table.rows)
        assert {line.get_solid_capstyle() for line in bars} == {"butt"}  # none is drawn longer
        texts = [text.get_text() for text in left_box.get_yticklabels()]
        assert texts[0] == "9 networks of one hidden layer"
        assert len(texts) == len(drawn) / 2 + len({row[0] for row in chart.table.rows})
