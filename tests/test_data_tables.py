"""Tables as pandas, R and spreadsheets write them: what is an index, a header, a sample."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands import printed
from posterior_collapse.data import load
from posterior_collapse.errors import CorruptFileError, DataError, InvalidArgumentError
from posterior_collapse.runs import Run, folder

X = np.random.default_rng(0).standard_normal((6, 3)).round(6)
BODY = [",".join(map(repr, row)) for row in X.tolist()]


def written(path: Path, header: str | None, first: list[object] | None = None) -> Path:
    """The rows of X below a header, with a column before them."""
    rows = BODY if first is None else [f"{i},{row}" for i, row in zip(first, BODY, strict=True)]
    path.write_text("\n".join([header, *rows] if header is not None else rows) + "\n")
    return path


COUNT = list(range(6))
INDICES = {
    "pandas": (",a,b,c", COUNT),
    "pandas, shuffled rows": (",a,b,c", [5, 2, 11, 3, 0, 7]),
    "pandas, tables put below each other": (",a,b,c", [0, 1, 2, 0, 1, 2]),
    "pandas, names": (",a,b,c", list("uvwxyz")),
    "pandas, names that repeat": (",a,b,c", list("uuvvww")),
    "pandas, times": (",a,b,c", [0.5, 0.75, 1.5, 2.25, 3.5, 9.0]),
    "pandas, unnamed columns": (",0,1,2", COUNT),
    "read and written again": ("Unnamed: 0,a,b,c", COUNT),
    "reset": ("index,a,b,c", COUNT),
    "reset twice": ("level_0,a,b,c", COUNT),
    "R": ('"","a","b","c"', [f'"{i}"' for i in range(1, 7)]),
    "R, one name less than cells": ('"a","b","c"', [f'"{i}"' for i in range(1, 7)]),
    "R, names of rows": ("a,b,c", list("uvwxyz")),
}


@pytest.mark.parametrize(("header", "first"), INDICES.values(), ids=INDICES)
def test_what_numbers_or_names_the_rows_is_no_feature(tmp_path: Path, header, first) -> None:
    dataset = load(written(tmp_path / "x.csv", header, first))
    np.testing.assert_array_equal(dataset.x, X)
    assert "left out, an index" in dataset.note
    assert "to keep it" in dataset.note


def test_an_index_written_twice(tmp_path: Path) -> None:
    rows = [f"{i},{row}" for i, row in enumerate(BODY)]
    path = written(tmp_path / "x.csv", ",Unnamed: 0,a,b,c")
    path.write_text("\n".join([",Unnamed: 0,a,b,c", *(f"{i},{r}" for i, r in enumerate(rows))]))
    dataset = load(path)
    np.testing.assert_array_equal(dataset.x, X)
    assert dataset.note.count("left out, an index") == 2


FEATURES = {
    "no name, numbers in no order": (",a,b,c", [0.3, -1.5, 0.2, 2.0, 1.5, 0.7], True),
    "no name, whole numbers that repeat": (",a,b,c", [3, 1, 3, 0, 1, 3], True),
    "a refractive index": ("index,a,b,c", [1.33, 1.5, 1.0, 2.4, 1.2, 1.7], False),
    "whole numbers called index": ("index,a,b,c", [1, 2, 3, 4, 5, 6], False),
    "a number of rows with a name": ("id,a,b,c", COUNT, False),
}


@pytest.mark.parametrize(("header", "first", "said"), FEATURES.values(), ids=FEATURES)
def test_what_measures_the_rows_is_a_feature(tmp_path: Path, header, first, said) -> None:
    dataset = load(written(tmp_path / "x.csv", header, first))
    np.testing.assert_array_equal(dataset.x, np.column_stack([first, X]))
    expected = "column 1 has no name and does not number the rows: kept as a feature"
    assert (expected in dataset.note) == said


def test_an_index_beside_labels_and_an_empty_column(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(",a,label,b,\n0,1.5,u,2.5,\n1,3.5,v,4.5,\n")
    dataset = load(path)
    assert dataset.x.tolist() == [[1.5, 2.5], [3.5, 4.5]]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == ["u", "v"]
    assert "column 5, which is empty, left out" in dataset.note


def test_an_index_alone_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(",label\n0,u\n1,v\n")
    with pytest.raises(DataError, match="no column but the label"):
        load(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("Unnamed: 0\n0\n1\n")
    with pytest.raises(DataError, match="an index alone"):
        load(tmp_path / "x.csv")


def test_two_columns_of_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,label,label\n1,u,v\n2,u,v\n")
    with pytest.raises(DataError, match="2 columns named 'label'"):
        load(tmp_path / "x.csv")


def test_too_long_rows_are_still_seen_beside_an_index(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(",a\n0,1.5\n1,2.5,9\n")
    with pytest.raises(CorruptFileError, match="3 cells in row 3; expected 2"):
        load(tmp_path / "x.csv")


# Headers of numbers: pandas writes 0 to d - 1 for columns without names, R and people 1 to d.


def digits(width: int, rows: int = 9) -> list[list[int]]:
    return np.random.default_rng(1).integers(0, 17, (rows, width)).tolist()


def table(path: Path, rows: list[list[object]]) -> Path:
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return path


REAL = np.random.default_rng(2).standard_normal((9, 64)).tolist()
HEADERS = {
    "0 to 63 above integers": [list(range(64)), *digits(64)],
    "1 to 64 above integers": [list(range(1, 65)), *digits(64)],
    "0 to 63 above reals": [list(range(64)), *REAL],
    "0 to 2 above integers": [[0, 1, 2], *digits(3)],
    "0 and 1 above reals": [[0, 1], *[row[:2] for row in REAL]],
    "0 above reals": [[0], *[row[:1] for row in REAL]],
    "years": [list(range(2000, 2012)), *digits(12)],
    "wavelengths": [[400 + 2.5 * i for i in range(16)], *[row[:16] for row in REAL]],
    "masses": [[112.04, 118.09, 130.5, 322.05], *[row[:4] for row in REAL]],
    "three years": [[2001, 2002, 2003], *digits(3)],
}
SAMPLES = {
    "0 and 1 above integers": [[0, 1], *digits(2)],
    "1 above integers": [[1], [5], [3]],
    "orders of three": [[0, 1, 2], [2, 0, 1], [1, 2, 0]],
    "ramps": [[k * i for i in range(8)] for k in (1, 2, 3)],
    "a burst": [[300, 900, 150, 300], *digits(4)],
    "a burst where all rows rise": [[300, 400, 900], *map(sorted, digits(3))],
    "two years": [[2001, 2002], *digits(2)],
}
PLAIN = {
    "reals": REAL,
    "integers": digits(5),
    "three that rise": [[1, 2, 4], *digits(3)],
    "four evenly spaced": [[2, 4, 6, 8], *digits(4)],
    "0 to 2 as reals": [["0.0", "1.0", "2.0"], [0.5, 1.5, 2.5], [3.0, 1.0, 7.0]],
    "three far from one other row": [[2001, 2002, 2003], [1, 3, 2]],
    "counts above nothing": [[3, 5, 9], *[[0, 0, 0]] * 9],
}


@pytest.mark.parametrize("rows", HEADERS.values(), ids=HEADERS)
def test_a_header_of_numbers_is_no_sample(tmp_path: Path, rows) -> None:
    path = table(tmp_path / "x.csv", rows)
    dataset = load(path)
    np.testing.assert_array_equal(dataset.x, rows[1:])
    assert "taken for a header (--no-header or header=False if it is a sample)" in dataset.note
    np.testing.assert_array_equal(load(path, header=False).x, rows)
    assert "taken" not in load(path, header=False).note


@pytest.mark.parametrize("rows", SAMPLES.values(), ids=SAMPLES)
def test_a_sample_that_might_be_a_header_is_spoken_of(tmp_path: Path, rows) -> None:
    path = table(tmp_path / "x.csv", rows)
    dataset = load(path)
    np.testing.assert_array_equal(dataset.x, rows)
    assert "taken for a sample (--header or header=True if it is a header)" in dataset.note
    np.testing.assert_array_equal(load(path, header=True).x, rows[1:])


@pytest.mark.parametrize("rows", PLAIN.values(), ids=PLAIN)
def test_other_numbers_are_samples_without_a_word(tmp_path: Path, rows) -> None:
    dataset = load(table(tmp_path / "x.csv", rows))
    np.testing.assert_array_equal(dataset.x, np.array(rows, float))
    assert dataset.note.endswith("used as they are")


@pytest.mark.parametrize("name", ["{}", "cell {}"])
def test_an_empty_corner_is_above_the_index_of_a_data_frame(tmp_path: Path, name: str) -> None:
    masses = [118.09, 112.04, 130.5]
    rows = [[name.format(i), *row[:3]] for i, row in enumerate(REAL)]
    dataset = load(table(tmp_path / "x.csv", [["", *masses], *rows]))
    np.testing.assert_array_equal(dataset.x, np.array(REAL)[:, :3])
    for corner in (["", ""], [1], [""]):
        below = [[one, 0.4, 0.2] for one in corner]
        with pytest.raises(DataError, match="an empty cell in row 1"):
            load(table(tmp_path / "z.csv", [["", 0.3, 0.5], *below]))
    missing = table(tmp_path / "y.csv", [["", *REAL[0][:3]], *[row[:4] for row in REAL]])
    with pytest.raises(DataError, match="an empty cell in row 1"):
        load(missing)


def test_a_header_of_names_and_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "height,2020,2021")
    dataset = load(path)
    np.testing.assert_array_equal(dataset.x, X)
    assert "the first row, height to 2021, taken for a header" in dataset.note
    with pytest.raises(DataError, match="got 'height' in row 1"):
        load(path, header=False)


def test_a_header_is_asked_for_of_csv_files_only(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    for source in (tmp_path / "x.npy", X, "digits"):
        with pytest.raises(InvalidArgumentError, match="header: got True"):
            load(source, header=True)
    path = table(tmp_path / "y.csv", [[0, 1], *digits(2, 6)])
    dataset = load(tmp_path / "x.npy", given=path, header=True)
    assert dataset.x.shape == (6, 2)


def test_the_commands_say_what_was_left_out(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "x.csv", ",0,1,2", COUNT)
    for name in ("forecast", "effective-beta"):
        said = printed(capsys, name, "x.csv", "--latents", 2)
        assert "x.csv: 6 x 3 float64, column 1 left out, an index (name it to keep it)" in said
    about = json.loads(printed(capsys, "forecast", "x.csv", "--json"))["data"]
    assert "left out, an index" in about["note"]
    said = printed(capsys, "train", "x.csv", "--latents", 2, "--epochs", 1, "--out", "run")
    assert "left out, an index" in said
    assert "left out, an index" in printed(capsys, "diagnose", "run")


def test_a_run_keeps_what_was_said_of_the_header(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "x.csv", [[0, 1, 2], *digits(3)])
    for option, rows in (("--header", 9), ("--no-header", 10)):
        sizes = ("--latents", 2, "--epochs", 1, "--out", f"run{option}")
        assert f"{rows} x 3" in printed(capsys, "train", "x.csv", option, *sizes)
        assert f"{rows} rows" in printed(capsys, "diagnose", f"run{option}")
        assert f"{rows} x 3" in printed(capsys, "forecast", "x.csv", option)
        kept = json.loads((tmp_path / f"run{option}" / "config.json").read_text())
        assert kept["data"]["header"] == (option == "--header")
    printed(capsys, "train", "x.csv", "--latents", 2, "--epochs", 1, "--out", "run")
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "header" not in kept["data"]
    assert all(isinstance(run, Run) for run in folder.read(tmp_path / "run").values())


# Parquet: pandas says in the file which columns were its index.


def parquet(path: Path, columns: dict[str, object], index: list[object] | None = None) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    table = pyarrow.table(columns)
    if index is not None:
        pandas = {"index_columns": index, "columns": [], "column_indexes": []}
        table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
    write_table(table, path)
    return path


COLUMNS = {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]}
SHUFFLED = np.array([0.4, 0.1, 0.3, 0.2, 0.6, 0.5])
RANGE = {"kind": "range", "name": None, "start": 0, "stop": 6, "step": 1}
PARQUET = {
    "an index without a name": ({**COLUMNS, "__index_level_0__": SHUFFLED}, ["__index_level_0__"]),
    "one with a name": ({"time": SHUFFLED, **COLUMNS}, ["time"]),
    "several": ({"u": list("aabbcc"), "v": COUNT, **COLUMNS}, ["u", "v"]),
    "text": ({**COLUMNS, "who": list("abcdef")}, ["who"]),
    "without metadata": ({**COLUMNS, "__index_level_0__": COUNT}, None),
    "read from a csv": ({"Unnamed: 0": COUNT, **COLUMNS}, [RANGE]),
    "reset": ({"index": COUNT, **COLUMNS}, [RANGE]),
}


@pytest.mark.parametrize(("columns", "index"), PARQUET.values(), ids=PARQUET)
def test_the_index_of_a_parquet_file_is_no_feature(tmp_path: Path, columns, index) -> None:
    dataset = load(parquet(tmp_path / "x.parquet", columns, index))
    np.testing.assert_array_equal(dataset.x, X)
    assert "left out" in dataset.note
    assert "index" in dataset.note


def test_a_parquet_file_without_an_index_is_used_as_it_is(tmp_path: Path) -> None:
    dataset = load(parquet(tmp_path / "x.parquet", COLUMNS, [RANGE]))
    assert dataset.note == "6 x 3 float64, used as they are"
    labelled = load(
        parquet(tmp_path / "x.parquet", {**COLUMNS, "label": list("uvuvuv")}, ["label"])
    )
    assert labelled.labels is not None
    assert labelled.labels.tolist() == list("uvuvuv")


def test_what_pandas_writes_itself(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(X)
    named = pandas.DataFrame(X, columns=list("abc"), index=pandas.Index(SHUFFLED, name="time"))
    for table in (frame, frame.sample(frac=1, random_state=0).sort_values(0), named):
        table.to_csv(tmp_path / "x.csv")
        if table is not named:
            np.testing.assert_array_equal(load(tmp_path / "x.csv").x, table.to_numpy())
        table.to_csv(tmp_path / "x.csv", index=False)
        np.testing.assert_array_equal(load(tmp_path / "x.csv").x, table.to_numpy())
        table.rename(columns=str).to_parquet(tmp_path / "x.parquet")
        np.testing.assert_array_equal(load(tmp_path / "x.parquet").x, table.to_numpy())
    read = pandas.read_csv(written(tmp_path / "x.csv", ",a,b,c", COUNT))
    np.testing.assert_array_equal(load(read).x, X)
