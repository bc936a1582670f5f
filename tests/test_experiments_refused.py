"""Results that the document is not written from: none, damaged, edited, of another row."""

import json
from pathlib import Path
from typing import Any

import pytest

from left_results import leave, result
from posterior_collapse.errors import CorruptFileError, MissingFileError, OutputError
from posterior_collapse.experiments import Plan, chosen, document, reproduce
from posterior_collapse.experiments.tables import Table
from posterior_collapse.files import write_json


def test_no_results_are_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(MissingFileError, match=r"no folder with a result\.json"):
            document.render(folder, tmp_path)


def test_nothing_that_is_finished_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="none of these runs"):
        reproduce(chosen("E5"), tmp_path / "none", Plan(quick=True), finished=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tables": {"t": {"columns": ["a"], "rows": [[1, 2]]}}}, "2 cells"),
        ({"tables": {"t": {"rows": []}}}, "columns"),
        ({"agreement": "agrees"}, "TypeError"),
        ({"agreement": {"verdict": "agrees", "text": "."}}, "checks"),
        ({"wall_s": None}, "TypeError"),
        ({"figures": [{"caption": "no file"}]}, "file"),
        ({"profile": None}, "AttributeError"),
        ({"claim": 3}, "AttributeError"),
    ],
)
def test_a_broken_result_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    leave(tmp_path, "E1", **changes)
    with pytest.raises(CorruptFileError, match=named) as caught:
        document.render(tmp_path, tmp_path)
    assert str(tmp_path / "E1" / "result.json") in str(caught.value)


def test_a_result_in_the_folder_of_another_row_is_refused(tmp_path: Path) -> None:
    leave(tmp_path, "E1").rename(tmp_path / "E2")
    with pytest.raises(CorruptFileError, match="the row E1 in the folder E2"):
        document.render(tmp_path, tmp_path)


def test_numbers_edited_beside_their_csv_are_refused(tmp_path: Path) -> None:
    folder = leave(tmp_path, "E1")
    Table.from_dict(result("E1")["tables"]["Measures"]).save(folder, "table-Measures")
    document.render(tmp_path, tmp_path)
    text = (folder / "result.json").read_text()
    assert "50.66" in text
    (folder / "result.json").write_text(text.replace("50.66", "40.66"))
    with pytest.raises(CorruptFileError, match=r"another table Measures than table-Measures\.csv"):
        document.render(tmp_path, tmp_path)


def test_numbers_that_json_does_not_know_are_not_taken_for_edited(tmp_path: Path) -> None:
    rows = [[float("nan"), 1.5], [2.5, float("-inf")], [float("inf"), "nan"]]
    folder = leave(tmp_path, "E1", tables={})
    Table(["a", "b"], rows).save(folder, "table-t")
    kept = result("E1", tables={"t": Table(["a", "b"], rows).to_dict()})
    write_json(folder / "result.json", kept)
    assert json.loads((folder / "result.json").read_text())["tables"]["t"]["rows"][0][0] is None
    document.render(tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["../E2/curves.pdf", "/etc/passwd", "..", ""])
def test_a_figure_elsewhere_is_not_linked(tmp_path: Path, name: str) -> None:
    leave(tmp_path, "E1", figures=[{"file": name, "caption": "A figure"}])
    with pytest.raises(CorruptFileError, match=r"figure: got .*expected a plain name"):
        document.render(tmp_path, tmp_path)


def test_a_result_that_lacks_keys_is_named(tmp_path: Path) -> None:
    folder = leave(tmp_path, "E1")
    values = result("E1")
    del values["claim"], values["seeds"]
    (folder / "result.json").write_text(json.dumps(values))
    with pytest.raises(CorruptFileError, match="claim, seeds"):
        document.render(tmp_path, tmp_path)


def test_nothing_is_left_of_a_document_that_cannot_be_written(tmp_path: Path) -> None:
    leave(tmp_path / "results", "E1")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        document.write(tmp_path / "results", tmp_path / "file" / "reproduction.md")
