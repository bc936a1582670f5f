"""Tables of the experiments: means over seeds, and how they are written."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planted_results import RUNS
from posterior_collapse.errors import InvalidArgumentError, OutputError
from posterior_collapse.experiments.tables import Table, format_cell


def test_over_seeds_has_mean_and_sample_std() -> None:
    table = Table.over_seeds(RUNS, ["beta"], ["NLL (nats)", "active units", "lacking"])
    assert table.columns == ["beta", "NLL (nats)", "active units", "lacking"]
    assert [row[0] for row in table.rows] == [0.5, 2.0]
    values = np.array([run["NLL (nats)"] for run in RUNS]).reshape(2, 3)
    for row, nll in zip(table.rows, values, strict=True):
        assert row[1] == pytest.approx({"mean": nll.mean(), "std": nll.std(ddof=1)}, rel=1e-12)
        assert row[2] == {"mean": 7.0, "std": 1.0}
        assert row[3] is None
    told = [run | {"KL by theory": 2.5} for run in RUNS]
    assert Table.over_seeds(told, ["beta"], ["KL by theory"]).rows == [[0.5, 2.5], [2.0, 2.5]]
    alone = Table.over_seeds(RUNS[:1], ["beta"], ["active units"])
    assert alone.rows == [[0.5, {"mean": 8.0, "std": None}]]


def test_csv_reads_back_to_the_last_bit() -> None:
    table = Table(
        ["name", "x"], [["a,b", {"mean": 0.1 + 0.2, "std": 1 / 3}], ['"', None], ["c", 2]]
    )
    rows = list(csv.reader(table.csv().splitlines()))
    assert rows[0] == ["name", "x", "x std"]
    assert rows[1][0] == "a,b"
    assert [float(cell) for cell in rows[1][1:]] == [0.1 + 0.2, 1 / 3]
    assert rows[2:] == [['"', "", ""], ["c", "2", ""]]


@given(st.floats(-1e6, 1e6), st.floats(1e-4, 1e3))
def test_a_mean_is_shown_to_two_digits_of_its_std(mean: float, std: float) -> None:
    shown, spread = format_cell({"mean": mean, "std": std}).split(" ± ")
    assert abs(float(spread) - std) <= 0.051 * std
    assert abs(float(shown) - mean) <= max(0.051 * std, 0.0005 * abs(mean) * (std >= 100))


def test_rows_must_fit_the_columns() -> None:
    with pytest.raises(InvalidArgumentError, match=r"rows\[1\]: got 1 cells"):
        Table(["a", "b"], [[1, 2], [3]])


def test_tables_are_saved_whole(tmp_path: Path) -> None:
    assert Table(["a"], [[1]]).save(tmp_path, "t").read_text() == "a\n1\n"
    with pytest.raises(OutputError):
        Table(["a"], [[1]]).save(tmp_path / "none", "t")
