"""Results that the document is not written from: none, damaged, edited, of another row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from left_results import leave, result
from planted_results import planted
from posterior_collapse.errors import (
    CorruptFileError,
    InvalidArgumentError,
    MissingFileError,
    OutputError,
)
from posterior_collapse.experiments import (
    Executor,
    Plan,
    Reproduced,
    chosen,
    document,
    measuring,
    reproduce,
)
from posterior_collapse.experiments.figures import Chart
from posterior_collapse.experiments.reproducing import _lost
from posterior_collapse.experiments.tables import Table
from posterior_collapse.files import claim, write_json


def raises(error: type[BaseException]) -> Callable[..., None]:
    def fails(*_: object) -> None:
        raise error

    return fails


def test_no_results_are_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(MissingFileError, match=r"no folder with a result\.json"):
            document.render(folder, tmp_path)


def test_nothing_that_is_finished_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="none of these runs"):
        reproduce(chosen("E5"), tmp_path / "none", Plan(quick=True), finished=True)
    assert not (tmp_path / "none").exists()


def test_options_that_together_do_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"runs_only: got True beside `finished`"):
        reproduce(chosen("E5"), tmp_path, Plan(quick=True), finished=True, runs_only=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [("convention", "elb"), ("seeds", 0), ("epochs", 0), ("rows", 1.5), ("cnn_epochs", "9")],
)
def test_a_plan_that_cannot_be_run_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field}: got {value!r}"):
        Plan(**{field: value})


def test_a_row_whose_writing_was_interrupted_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old result is not that of the new tables and figures."""

    def run() -> list[Reproduced]:
        return reproduce(chosen("E8"), tmp_path, Plan(quick=True))

    (before,) = run()
    with monkeypatch.context() as patch:
        patch.setattr(Chart, "save", raises(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    with pytest.raises(MissingFileError, match=r"E8/result\.json: got nothing, beside tables"):
        document.render(tmp_path, tmp_path)
    (tmp_path / "E8" / ".convergence.pdf.1.partial").touch()  # of a process that was killed
    assert run() == [before]
    assert not list(tmp_path.glob("E8/.*"))
    assert f"## {before.id}" in document.render(tmp_path, tmp_path)


def test_what_only_the_last_result_names_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    def run() -> Path:
        reproduce(chosen("E8"), tmp_path, Plan(quick=True))
        return tmp_path / "E8"

    kept = {path.name for path in run().iterdir()}
    values = json.loads((tmp_path / "E8" / "result.json").read_text())
    values["tables"]["old"] = Table(["a"], [[1]]).to_dict()
    values["figures"].append({"file": "old.pdf", "caption": "A figure"})
    write_json(tmp_path / "E8" / "result.json", values)
    others = ["notes.csv", "table-mine.csv"]
    for name in ("table-old.csv", "old.pdf", "old.png", "old.csv", *others):
        (tmp_path / "E8" / name).write_text("a\n1\n")
    assert {path.name for path in run().iterdir()} == {*kept, *others}


def test_a_row_is_written_by_one_process_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: list[bool] = []
    save = Chart.save

    def watched(chart: Chart, folder: Path, name: str) -> Any:
        with claim(folder, wait=False) as own:
            free.append(own)
        return save(chart, folder, name)

    monkeypatch.setattr(Chart, "save", watched)
    reproduce(chosen("E8"), tmp_path, Plan(quick=True))
    assert free
    assert not any(free)


def test_runs_that_diverged_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_rows = measuring.on_rows

    def second_lost(model: Any, spec: Any, data: Any, evaluation: Any, seed: int) -> Any:
        if seed == 2:
            return measuring.diverged(model), {}
        return on_rows(model, spec, data, evaluation, seed)

    monkeypatch.setattr(measuring, "on_rows", second_lost)
    (found,) = reproduce(chosen("E6"), tmp_path, Plan(quick=True, seeds=2))
    said = [text for _, text in found.agreement["checks"] if "diverged" in text]
    assert [text.removeprefix("Barely trained: ") for text in said] == [
        f"{grid}: 1 of 2 runs diverged." for grid in ("learned", "fixed at 0.5")
    ]
    for row in found.tables["likelihood"].records():
        assert row["NLL (nats)"]["std"] is None  # of the first seed alone


def test_runs_that_diverged_are_no_comparison_where_they_count_as_failures() -> None:
    runs = [planted({"beta": 1.0}, {}, stopped=f"non-finite loss at {n}") for n in (1, 2)]
    for row, told in (("X3d", "notes"), ("E6", "checks")):
        part = _lost(chosen(row)[0], runs)
        (said,) = getattr(part, told)
        assert getattr(said, "text", said) == "grid: 2 of 2 runs diverged."
        assert (part.checks == ()) == (told == "notes")


def test_a_linear_model_that_diverged_ends_as_one(tmp_path: Path) -> None:
    (member, *_) = (m for m in chosen("E7")[0].members(Plan(quick=True)) if m.grid[0] == "m")
    fast = member.run.settings.replace(learning_rate=1e9, clip=None)
    (outcome,) = Executor()([member.run.replace(settings=fast)])
    assert outcome.stopped.startswith("non-finite")
    assert outcome.measured["conclusion"] == "diverged"


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


def test_a_broken_result_of_another_processor_is_named(tmp_path: Path) -> None:
    leave(tmp_path, "E1")
    leave(tmp_path / "older-processor", "E1", agreement={})
    with pytest.raises(CorruptFileError, match=r"older-processor/E1/result\.json: got values"):
        document.render(tmp_path, tmp_path)


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
