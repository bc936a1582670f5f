"""What parts the cells of a text, and which of its columns are wanted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from commands import printed
from posterior_collapse.data import Dataset, load
from posterior_collapse.errors import CorruptFileError, DataError, InvalidArgumentError

X = np.random.default_rng(0).standard_normal((6, 3)).round(6)


def text(delimiter: str, comma: bool = False, quoted: bool = False, x: np.ndarray = X) -> str:
    """X below the header a, b, c."""
    cells = [[repr(value).replace(".", "," if comma else ".") for value in r] for r in x.tolist()]
    rows = [[f'"{cell}"' if quoted else cell for cell in row] for row in cells]
    return "\n".join(delimiter.join(row) for row in [list("abc"), *rows]) + "\n"


TEXTS = {
    "tsv": ("x.tsv", text("\t"), ""),
    "tsv with decimal commas": ("x.tsv", text("\t", comma=True), "decimal commas"),
    "tabs in a csv": ("x.csv", text("\t"), "separated by tabs"),
    "semicolons": ("x.csv", text(";"), "separated by semicolons"),
    "commas in a tsv": ("x.tsv", text(","), "separated by commas"),
    "a spreadsheet's": ("x.csv", text(";", comma=True), "separated by semicolons, decimal commas"),
    "a spreadsheet's, quoted": ("x.csv", text(";", comma=True, quoted=True), "decimal commas"),
    "quoted commas between commas": ("x.csv", text(",", comma=True, quoted=True), "decimal commas"),
    "quoted numbers": ("x.csv", text(",", quoted=True), ""),
    "a mark and blank lines": ("x.csv", "\ufeff" + text(",").replace("\n", "\n\n  \n"), ""),
    "ends of lines of Windows": ("x.csv", text(";", comma=True).replace("\n", "\r\n"), "decimal"),
    "no header": ("x.csv", text(";", comma=True).split("\n", 1)[1], "decimal commas"),
    "semicolons in a name": ("x.csv", text(",").replace("a,", '"a;1;2;3",', 1), ""),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("name", "content", "said"), TEXTS.values(), ids=TEXTS)
def test_what_parts_the_cells_is_told_from_the_file(
    tmp_path: Path, name: str, content: str, said: str, zipped: bool
) -> None:
    raw = content.encode()
    path = tmp_path / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(raw) if zipped else raw)
    dataset = load(path)
    np.testing.assert_array_equal(dataset.x, X)
    assert said in dataset.note
    assert said or dataset.note == "6 x 3 float64, used as they are"


@pytest.mark.parametrize(
    "content",
    [
        "a,True,c\n1.5,True,False\n2.5,False,False\n3.5,False,True\n",  # pandas' get_dummies
        "a;b;c\n1,5;TRUE;FALSE\n2,5;FALSE;FALSE\n3,5; FALSE;TRUE\n",  # a spreadsheet's
        '"",a,b,c\n0,1.5,"true",false\n1,2.5,false,false\n2,3.5,false,true\n',
        "1.5,true,false\n2.5,false,false\n3.5,false,true\n",
    ],
)
def test_true_and_false_are_1_and_0_as_in_a_data_frame(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    np.testing.assert_array_equal(
        load(tmp_path / "x.csv").x, [[1.5, 1, 0], [2.5, 0, 0], [3.5, 0, 1]]
    )


def test_true_and_false_may_first_stand_far_down(tmp_path: Path) -> None:
    """Below the rows that are looked at first they were refused as words."""
    rows = [f"{i}.5,{i % 2}" for i in range(1500)]
    (tmp_path / "x.csv").write_text("\n".join(["a,b", *rows, "0.5,True", "1.5,FALSE"]))
    assert load(tmp_path / "x.csv").x[-3:].tolist() == [[1499.5, 1], [0.5, 1], [1.5, 0]]
    (tmp_path / "x.csv").write_text("\n".join(["a,b", *rows, "0.5,True", "1.5,perhaps"]))
    with pytest.raises(DataError, match=r"column 'b' of x[.]csv: got 'perhaps' in row 1503"):
        load(tmp_path / "x.csv")


def test_labels_of_true_and_false_stay_words_and_other_words_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,label\n1.5,True\n2.5,False\n")
    assert load(tmp_path / "x.csv").labels.tolist() == ["True", "False"]
    (tmp_path / "x.csv").write_text("a,b\n1.5,True\n2.5,perhaps\n")
    with pytest.raises(DataError, match=r"column 'b' of x[.]csv: got 'perhaps' in row 3"):
        load(tmp_path / "x.csv")


def test_labels_that_begin_with_0_stay_words_so_that_007_is_not_7(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,label\n1.5,7\n2.5,007\n3.5,7\n")
    found = load(tmp_path / "x.csv")
    assert found.labels.tolist() == ["7", "007", "7"]
    assert found.select("007").x.tolist() == [[2.5]]
    assert found.select(7).x.tolist() == [[1.5], [3.5]]
    (tmp_path / "x.csv").write_text("a,label\n1.5,0\n2.5,0.5\n3.5,10\n")
    found = load(tmp_path / "x.csv")
    assert found.labels.tolist() == [0, 0.5, 10]
    assert found.select("10").x.tolist() == [[3.5]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a;b\n1,5;2.5\n", "column 'a' of x.csv: got '1,5' in row 2"),
        ('a,b\n"1,234","5,678"\n', "column 'a' of x.csv: got '1,234' in row 2"),
        ("a;b\n1,5;2,5\n1.00,5;2\n", "got '1.00,5' in row 3; expected a number"),
        ("a;b\n1,5;2,5\n1;2;3\n", "3 cells in row 3; expected 2"),
        ("a;b\n1,5;2,5\n1,5\n", "1 cells in row 3; expected 2"),
        ("a;b\n1,5;\n", "an empty cell in row 2; expected a number. Impute it, drop the row"),
        ("a,b\n1.5,2\n2,N/A\n", "got 'N/A' in row 3; expected a number. Impute it, drop the row"),
        ("a,b\n1.5,2\n2,no\n", "got 'no' in row 3; expected a number. Encode the column"),
        ("a;b\n", "a header alone"),
        ("a b\n1 2\n", "got '1 2' in row 2; expected a number. Separate cells by commas, semi"),
        ("a\tb\n1,234\t1\n999\t2\n", "got '1,234' in row 2; expected a number. Write it without"),
        ("a\tb\n1,234\t1\n999\t2\n".replace("\n", "\r\n"), "got '1,234' in row 2"),
        ('a,b\n"1,234,567",1\n', "Write it without commas between thousands."),
        ("a;b\n1,234;1.764\n", "got '1,234' in row 2; expected a number. Write it without commas"),
        ("a|b\n1|2\n", "got '1|2' in row 2; expected a number. Separate cells by commas, semi"),
    ],
)
def test_what_is_uncertain_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("sure", ["0,500", "12,5", "-,25", "0012,345"])
def test_a_comma_that_may_part_thousands_is_a_decimal_one_beside_one_that_is(tmp_path, sure):
    (tmp_path / "x.tsv").write_text(f"a\tb\n1,234\t{sure}\n999\t2\n")
    found = load(tmp_path / "x.tsv")
    assert found.x.tolist() == [[1.234, float(sure.replace(",", "."))], [999, 2]]
    assert "decimal commas" in found.note


UNCLEAR = "1.764 and the like taken for decimals (write them without points if they are thousands)"


@pytest.mark.parametrize(
    ("rows", "x", "said"),
    [
        # Ordinary decimals: not three digits behind each point, or a zero before one.
        ("1.5;2.25\n3;4\n", [[1.5, 2.25], [3, 4]], ""),
        ("1.764;2.25\n12.500;4\n", [[1.764, 2.25], [12.5, 4]], ""),
        ("0.123;0.456\n1.764;2\n", [[0.123, 0.456], [1.764, 2]], ""),
        ("1.764;1234.567\n1;2\n", [[1.764, 1234.567], [1, 2]], ""),
        # Either.
        ("764;1.764\n12;999\n", [[764, 1.764], [12, 999]], UNCLEAR),
        ("1.764;-2.031\n12.500;3.000\n", [[1.764, -2.031], [12.5, 3]], UNCLEAR),
        # Thousands, by what stands beside them.
        ("0,5;1.764\n12;999\n", [[0.5, 1764], [12, 999]], "points between thousands"),
        ("1,5;2,5\n1.000,5;2\n", [[1.5, 2.5], [1000.5, 2]], "points between thousands"),
        ("7;1.764,25\n12;-12.031\n", [[7, 1764.25], [12, -12031]], "points between thousands"),
        ("7;1.764.000\n12;1.000\n", [[7, 1764000], [12, 1000]], "points between thousands"),
        ('7;"1.764.000,5"\n12;"3,25"\n', [[7, 1764000.5], [12, 3.25]], "points between thousands"),
    ],
)
def test_points_that_may_part_thousands_between_semicolons(tmp_path, rows, x, said) -> None:
    for name, mark in (("x.csv", ""), ("y.csv", "a;b\n")):
        (tmp_path / name).write_text(mark + rows)
        found = load(tmp_path / name, header=bool(mark))
        assert found.x.tolist() == x
        assert said in found.note
        assert said or "thousands" not in found.note
        assert ("decimal commas" in found.note) == ("," in rows)


def test_points_between_commas_or_tabs_are_decimal(tmp_path: Path) -> None:
    for mark in ",\t":
        (tmp_path / "x.csv").write_text(f"a{mark}b\n764{mark}1.764\n12{mark}999\n")
        found = load(tmp_path / "x.csv")
        assert found.x.tolist() == [[764, 1.764], [12, 999]]
        assert "thousands" not in found.note
        (tmp_path / "x.csv").write_text(f"a{mark}b\n764{mark}1.764.000\n")
        with pytest.raises(DataError, match=r"'1.764.000' in row 2.* without points between thous"):
            load(tmp_path / "x.csv")


def test_a_comma_after_many_whole_numbers_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a;b\n" + "1;2\n" * 2_000 + "1,5;2\n")
    with pytest.raises(DataError, match="got '1,5' in row 2002"):
        load(tmp_path / "x.csv")


def test_a_gzipped_text_that_is_none_or_a_bomb(tmp_path: Path) -> None:
    path, packed = tmp_path / "x.csv.gz", gzip.compress(text(",").encode() * 50)
    for content in (packed[:-20], text(",").encode(), packed[:40] + b"\xff" * 40 + packed[80:]):
        path.write_bytes(content)
        with pytest.raises(CorruptFileError, match="an intact text"):
            load(path)
    with gzip.open(path, "wb") as file:
        for _ in range(300):
            file.write(b"1,2\n" * (1 << 18))
    with pytest.raises(CorruptFileError, match="that unpacks to"):
        load(path)


# Columns by name.

MIXED = "id,age,height,kind,note\n7,1.5,2.5,u,hello\n9,3.5,4.5,v,\n11,5.5,6.5,u,x\n"
ASKED = {
    "columns": ({"columns": "age,height"}, [1, 2], None, "columns 'age', 'height' only"),
    "a list": ({"columns": ["height"]}, [2], None, "column 'height' only"),
    "spaces": ({"columns": "age, height"}, [1, 2], None, "only"),
    "drop": ({"drop": "kind,note"}, [0, 1, 2], None, "columns 'kind', 'note' dropped"),
    "labels": ({"drop": ["note"], "label_column": "kind"}, [0, 1, 2], "uvu", "column 'kind'"),
    "all": ({"columns": "id,age", "drop": "id", "label_column": "kind"}, [1], "uvu", "dropped"),
}
NUMBERS = np.array([[7, 1.5, 2.5], [9, 3.5, 4.5], [11, 5.5, 6.5]])


def source(kind: str, folder: Path, content: str = MIXED) -> object:
    """A table as a file or as a data frame."""
    path = folder / "x.csv"
    path.write_text(content)
    if kind == "csv":
        return path
    frame = pytest.importorskip("pandas").read_csv(path)
    if kind == "frame":
        return frame
    pytest.importorskip("pyarrow")
    frame.to_parquet(folder / "x.parquet")
    return folder / "x.parquet"


@pytest.mark.parametrize("kind", ["csv", "frame", "parquet"])
@pytest.mark.parametrize(("options", "columns", "labels", "said"), ASKED.values(), ids=ASKED)
def test_columns_are_chosen_by_name(tmp_path, kind, options, columns, labels, said) -> None:
    dataset = load(source(kind, tmp_path), **options)
    np.testing.assert_array_equal(dataset.x, NUMBERS[:, columns])
    found = dataset.labels
    assert (None if found is None else "".join(found)) == labels
    assert said in dataset.note
    if labels:
        one = load(source(kind, tmp_path), **options, label="v")
        np.testing.assert_array_equal(one.x, NUMBERS[1:2, columns])


@pytest.mark.parametrize("kind", ["csv", "frame", "parquet"])
def test_columns_that_are_not_there(tmp_path, kind) -> None:
    for option in ("columns", "drop", "label_column"):
        with pytest.raises(InvalidArgumentError) as caught:
            load(source(kind, tmp_path), **{option: "heigth"})
        assert f"{option}: got 'heigth'; expected a column of" in str(caught.value)
        assert "Did you mean 'height'?" in str(caught.value)
    with pytest.raises(InvalidArgumentError, match="columns: got 'a,,b'"):
        load(source(kind, tmp_path), columns="a,,b")
    with pytest.raises(DataError, match="Encode the column, leave it out"):
        load(source(kind, tmp_path))


@pytest.mark.parametrize(
    ("name", "written", "x"),
    [
        ("x.csv", "height\n10,5\n12,1\n9,3\n", [[10.5], [12.1], [9.3]]),
        ("x.csv", "height\n1,5\n2\n3,7\n", [[1.5], [2], [3.7]]),
        ("x.csv", "price\n1.234,5\n2.048,25\n1.007,0\n", [[1234.5], [2048.25], [1007]]),
        ("x.csv", "price\n12,5\n1.234,5\n999\n1.024\n", [[12.5], [1234.5], [999], [1024]]),
        ("x.csv", "4\n2,5\n3,7\n", [[4], [2.5], [3.7]]),
        ("x.csv", "1,05\n2,5\n", [[1.05], [2.5]]),
        ("x.tsv", "1,5\n2,5\n", [[1.5], [2.5]]),
        ("x.csv", "1,5\n2,6\n", [[1, 5], [2, 6]]),
        ("x.csv", "height\n1,5\n2,6\n", [[5], [6]]),  # as R numbers the rows
        ("x.csv", "height\na,5\nb,6\n", [[5], [6]]),
    ],
)
def test_one_column_of_decimal_commas(tmp_path: Path, name, written, x) -> None:
    (tmp_path / name).write_text(written)
    found = load(tmp_path / name)
    assert found.x.tolist() == x
    assert ("decimal commas" in found.note) == (float(x[0][0]) != int(x[0][0]) or x[0] == [4])
    assert "separated by" not in found.note


@pytest.mark.parametrize("kind", ["csv", "frame", "parquet"])
def test_an_index_that_is_asked_for_is_a_feature(tmp_path, kind) -> None:
    found = load(source(kind, tmp_path, "index,a\n0,1.5\n1,2.5\n"), columns="index,a")
    np.testing.assert_array_equal(found.x, [[0, 1.5], [1, 2.5]])
    assert "left out" not in found.note


@pytest.mark.parametrize("kind", ["csv", "frame", "parquet"])
def test_labels_that_are_asked_for_as_a_feature_are_one(tmp_path, kind) -> None:
    there = source(kind, tmp_path, "a,label\n0.5,1.5\n1,2.5\n")
    found = load(there, columns="a,label,a")
    np.testing.assert_array_equal(found.x, [[0.5, 1.5], [1, 2.5]])
    assert found.labels is None
    assert "columns 'a', 'label' only" in found.note
    named = load(there, columns="a,label", label_column="label")
    np.testing.assert_array_equal(named.x, [[0.5], [1]])
    assert "column 'a' only, labels from column 'label'" in named.note


def test_columns_without_names_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "iris.data.csv").write_text("5.1,3.5,setosa\n4.9,3.0,other\n")
    found = load(tmp_path / "iris.data.csv", label_column=3)
    assert found.x.tolist() == [[5.1, 3.5], [4.9, 3.0]]
    assert found.labels is not None
    assert found.labels.tolist() == ["setosa", "other"]
    for one in (2, "2", [2]):
        assert load(tmp_path / "iris.data.csv", columns=one).x.tolist() == [[3.5], [3.0]]


def test_an_array_of_several_is_chosen_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, train=X, test=X[:2])
    with pytest.raises(DataError, match=r"Say which is meant: key='NAME'"):
        load(path)
    found = load(path, key="test")
    np.testing.assert_array_equal(found.x, X[:2])
    assert "array 'test' of 2" in found.note
    with pytest.raises(InvalidArgumentError, match=r"key: got 'tset'.*Did you mean 'test'"):
        load(path, key="tset")


def test_options_of_another_kind_of_source_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    for name in ("columns", "drop", "label_column", "key"):
        for other in (tmp_path / "x.npy", X, "digits", load(X)):
            numbered = name != "key" and not isinstance(other, (str, Dataset))
            action = "Pass one of its columns" if numbered else "Leave it out"
            with pytest.raises(InvalidArgumentError, match=f"{name}: got .*a.*{action}"):
                load(other, **{name: "a"})
    with pytest.raises(InvalidArgumentError, match="key: got 'a'"):
        load(source("csv", tmp_path), key="a")


# Columns of one std.


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_columns_are_standardized(tmp_path: Path, dtype: str, on_disk: bool) -> None:
    x = (np.random.default_rng(1).random((700, 4)) * [200, 3, 1, 90] + 7).astype(dtype)
    x[:, 2] = 9
    np.save(tmp_path / "x.npy", x)
    found = load(tmp_path / "x.npy" if on_disk else x, standardize=True)
    plain = x.astype(float)
    expected = (plain - plain.mean(0)) / np.where(plain.std(0) > 0, plain.std(0), 1)
    np.testing.assert_allclose(found.x, expected, atol=1e-6)
    assert found.x.dtype == ("f8" if dtype == "f8" else "f4")
    assert found.note.endswith("standardized, but for 1 constant column")


def test_a_wide_range_is_standardized_exactly() -> None:
    """Stds 1e8 apart, and means far from 0 beside a small std."""
    x = np.random.default_rng(2).standard_normal((500, 3)) * [1e8, 1, 1e-3] + [0, 1e5, 1e3]
    found = load(x, standardize=True).x
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(0), 1, rtol=1e-9)


def test_conditions_are_standardized_too_and_labels_first() -> None:
    found = load(X * 5, given=X[:, :1] + 3, standardize=True)
    assert found.y is not None
    np.testing.assert_allclose([*found.x.std(0), *found.y.std(0)], 1, rtol=1e-12)
    one = load("digits", label=3, standardize=True)
    np.testing.assert_allclose(one.x.mean(0), 0, atol=1e-12)


def test_a_test_split_is_standardized_by_the_training_data(tmp_path: Path) -> None:
    train, other = np.full((6, 2), 10.0), np.full((4, 2), 30.0)
    train[3:] = 20
    found = load(other, standardize=False).standardized(load(train))
    np.testing.assert_allclose(found.x, 3)


def test_what_cannot_be_standardized() -> None:
    with pytest.raises(InvalidArgumentError, match="standardize: got True beside `scale`"):
        load(X, scale=2, standardize=True)
    with pytest.raises(DataError, match="x: got nan at row 4, column 1"):
        load(np.where(np.arange(18).reshape(6, 3) == 13, np.nan, X), standardize=True)


def test_the_commands_take_columns_and_runs_keep_them(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    source("csv", tmp_path)
    chosen = ("--drop", "note", "--label-column", "kind", "--latents", "2")
    assert "3 x 3 float64" in printed(capsys, "forecast", "x.csv", *chosen)
    printed(capsys, "explore", "x.csv", *chosen)
    assert "--drop note --label-column kind" in (tmp_path / "explore.html").read_text()
    printed(capsys, "train", "x.csv", *chosen, "--epochs", 1, "--out", "run")
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (kept["drop"], kept["label_column"]) == ("note", "kind")
    assert not {"columns", "key", "header", "standardize"} & set(kept)
    assert "column 'note' dropped" in printed(capsys, "diagnose", "run")
    printed(capsys, "train", "x.csv", *chosen, "--standardize", "--epochs", 1, "--out", "run2")
    assert json.loads(Path("run2/config.json").read_text())["data"]["standardize"] is True
    assert "standardized" in printed(capsys, "diagnose", "run2")
    np.savez("x.npz", a=X, b=X[:2])
    assert "6 x 3" in printed(capsys, "forecast", "x.npz", "--key", "a", "--latents", "2")
