"""`collapse reproduce all --quick`, once: every deliverable against the runs it was made of."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posterior_collapse.cli import main
from posterior_collapse.data import Dataset
from posterior_collapse.experiments import ROWS, Member, Plan, Reproduced, chosen
from posterior_collapse.experiments.data import read_samples
from posterior_collapse.experiments.measuring import panel
from posterior_collapse.models import build, read_parameters
from posterior_collapse.runs import Record, Store
from posterior_collapse.specs import HVAESpec

PLAN = Plan(quick=True, seeds=2)
FIGURES = {
    "E1": ["collapse-curves", "reconstructions-beta", "reconstructions-eta-dec"],
    "E2": ["collapse-curves", "order", "spectra"],
    "E3": ["collapse-curves"],
    "E4": ["panel", "samples"],
    "E5": ["matrices"],
    "E6": [],  # four numbers, which its table says
    "E7": ["reconstructions", "sweep"],
    "E8": ["convergence"],
    "E9": ["likelihood"],
    "E10": ["collapse-curves", "likelihood"],
    "E11": ["panel", "samples"],
    "E12": ["sweep"],
    "E13": ["convergence"],
    "E14": ["convergence"],
    "E15": ["likelihood"],
    "X1": ["both-learned"],
    "X2": ["phase"],
    "X3a": ["onset"],
    "X3b": ["units"],
    "X3c": ["gain"],
    "X3d": ["failures"],
    "X3e": ["onset", "units"],
    "X3f": ["onset", "units"],
    "X3g": ["onset", "units"],
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "all", "--quick", "--seeds", "2", "--out", str(folder)])
    assert end.value.code == 0
    return folder


def result(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / name / "result.json").read_text())
    return found


def runs(out: Path, name: str) -> list[tuple[Member, Record]]:
    """The runs of a row as they are stored, read without the code that makes deliverables."""
    (row,) = chosen(name)
    found = []
    for member in row.members(PLAN):
        record = Store(out / "runs").get(member.run.key)
        assert record is not None
        found.append((member, record))
    return found


def by_setting(out: Path, row: str) -> dict[tuple[str, str], list[Record]]:
    """The runs of each setting, one per seed."""
    found: dict[tuple[str, str], list[Record]] = {}
    for member, record in runs(out, row):
        key = (member.grid, str(tuple(member.labels.items())))
        found.setdefault(key, []).append(record)
    return found


def points(out: Path, row: str, name: str) -> list[dict[str, str]]:
    with (out / row / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def table(out: Path, row: str, name: str) -> Iterator[dict[str, Any]]:
    values = result(out, row)["tables"][name]
    for cells in values["rows"]:
        yield dict(zip(values["columns"], cells, strict=True))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_file_of_a_row_is_there(out: Path, row: Any) -> None:
    found = result(out, row.id)
    kept = Reproduced.read(out / row.id / "result.json")
    assert list(found) == [field.name for field in fields(kept)]
    assert kept.to_dict() == found
    frame = Reproduced.read(str(out / row.id / "result.json")).to_frame()
    told = [list(pair) for pair in zip(frame["verdict"], frame["check"], strict=True)]
    assert told == found["agreement"]["checks"]
    assert found["command"].startswith(f"collapse reproduce {row.id} --quick")
    assert found["profile"] == "quick"
    assert found["seeds"] == sorted({member.run.settings.seed for member in row.members(PLAN)})
    assert found["wall_s"] > 0
    assert sorted(Path(figure["file"]).stem for figure in found["figures"]) == FIGURES[row.id]
    for name in FIGURES[row.id]:
        folder = out / row.id
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len(points(out, row.id, name)) > 0
    for name, values in found["tables"].items():
        assert len(points(out, row.id, f"table-{name}")) == len(values["rows"]) > 0
    told = found["agreement"]
    assert told["verdict"] in ("agrees", "partly", "differs", "not measured")
    assert told["checks"]
    assert told["text"] == " ".join(said for _, said in told["checks"])
    if {word for word, _ in told["checks"]} == {"not measured"}:
        assert told["verdict"] == "not measured"
    text = json.dumps([found["data"], told, found["tables"], found["settings"]])
    for name in ("MNIST", "single cells"):
        instead = f"(digits|drawn clusters) in place of (Fashion-)?{name}"
        assert name not in re.sub(instead, "", text)


def test_rows_share_their_runs(out: Path) -> None:
    every = {member.run.key for row in ROWS for member in row.members(PLAN)}
    kept = {path.name for path in (out / "runs").iterdir() if not path.name.startswith(".")}
    assert kept == every


@pytest.mark.parametrize("name", ["E1", "E2", "E3", "E10"])
def test_a_collapse_curve_per_value_is_the_runs_share_of_collapsed_units(
    out: Path, name: str
) -> None:
    curves: dict[tuple[str, str], list[float]] = {}
    for point in points(out, name, "collapse-curves"):
        share = float(point["share of collapsed units"])
        curves.setdefault((point["panel"], point["curve"]), []).append(share)
    settings = by_setting(out, name)
    assert len(curves) == len(settings)
    found = list(settings.items())
    if name == "E2":  # its curves stand in the order of theory's KL
        labels = {f"digit {m.labels['label']}": m.labels["label"] for m, _ in runs(out, name)}
        keys = [(panel, str((("label", labels[curve]),))) for panel, curve in curves]
        found = [(key, settings[key]) for key in keys]
    for shares, (_, records) in zip(curves.values(), found, strict=True):
        level = len(records[0].run.spec.dims)
        expected = np.mean([record.arrays[f"collapse_{level}"] for record in records], axis=0)
        assert shares == pytest.approx(expected)
        assert np.all(np.diff(shares) >= -1e-12)
        assert shares[-1] == 1 or name != "E1"


@pytest.mark.parametrize("name", ["E6", "E9", "E10", "E15"])
def test_likelihood_tables_are_means_and_stds_over_the_runs(out: Path, name: str) -> None:
    rows, settings = list(table(out, name, "likelihood")), by_setting(out, name)
    assert len(rows) == len(settings)
    for row, seeds in zip(rows, settings.values(), strict=True):
        nll = [record.measured["nll"] for record in seeds]
        assert len(nll) == (1 if "hidden units" in row["varying"] else 2)
        assert row["NLL (nats)"]["mean"] == pytest.approx(np.mean(nll))
        if len(nll) > 1:
            assert row["NLL (nats)"]["std"] == pytest.approx(np.std(nll, ddof=1))
        for level in range(len(seeds[0].measured["levels"])):
            of = f" of z{level + 1}" if len(seeds[0].measured["levels"]) > 1 else ""
            parts = [record.measured["levels"][level] for record in seeds]
            kl = np.mean([np.sum(part["kl"]) for part in parts])
            burda = np.mean([np.sum(np.array(part["mean_variance"]) > 0.01) for part in parts])
            share = np.mean([part["kl_active_share"] for part in parts])
            assert row[f"KL{of} (nats)"]["mean"] == pytest.approx(kl)
            assert row[f"active units{of}"]["mean"] == pytest.approx(burda)
            assert row[f"kl_active_share{of}"]["mean"] == pytest.approx(share)


@pytest.mark.parametrize(("name", "variable"), [("E7", "beta"), ("E12", "beta_2")])
def test_exact_training_meets_theory_over_the_sweep(out: Path, name: str, variable: str) -> None:
    assert result(out, name)["agreement"]["verdict"] == "agrees"
    found = points(out, name, "sweep")
    lines = {(p["source"], p["quantity"], p["curve"]): [] for p in found}
    for point in found:
        key = (point["source"], point["quantity"], point["curve"])
        lines[key].append((float(point[variable]), float(point["value"])))
    for (source, quantity, curve), line in lines.items():
        if source == "exact training":
            theory = lines["theory", quantity, curve]
            close = 0 if quantity == "active modes" else 1e-4
            assert [x for x, _ in line] == [x for x, _ in theory]
            assert [y for _, y in line] == pytest.approx([y for _, y in theory], abs=close, rel=0)
    assert {source for source, _, _ in lines} == {"theory", "exact training", "minibatches"}


@pytest.mark.parametrize("name", ["E8", "E13", "E14"])
def test_matrix_problems_end_at_the_theorem(out: Path, name: str) -> None:
    matrix = [row for row in table(out, name, "errors") if row["problem"] == "matrix"]
    assert {row["seed"] for row in matrix} == {2, 3}
    assert max(row["mean absolute error"] for row in matrix) <= 1e-4
    curve = [p for p in points(out, name, "convergence") if p["panel"] == "matrix"]
    assert {p["iteration"] for p in curve} == {f"{float(i)}" for i in range(1, 201)}
    ends = [row["mean absolute error"] for row in matrix if row["seed"] == 2]
    last = [float(p["mean absolute error"]) for p in curve if p["iteration"] == "200.0"]
    assert last == pytest.approx(ends)


@pytest.mark.parametrize("name", ["E8", "E13", "E14"])
def test_every_curve_is_held_to_a_goal_at_its_end(out: Path, name: str) -> None:
    rows = list(table(out, name, "errors"))
    assert {row["problem"] for row in rows} == {
        *("matrix", "second matrix", "digits in place of MNIST"),
        "digits in place of MNIST, exact",
    }
    assert all(row["mean absolute error"] <= row["goal"] <= 1e-2 for row in rows)
    drawn = {(p["panel"], p["curve"]) for p in points(out, name, "convergence")}
    assert drawn == {
        (row["problem"], row["quantity"]) for row in rows if row["least on the way"] is not None
    }
    assert result(out, name)["agreement"]["verdict"] == "agrees"


@pytest.mark.parametrize("name", ["E4", "E11"])
def test_a_beta_panel_has_an_image_per_pair(out: Path, name: str) -> None:
    members = [member for member, _ in runs(out, name)]
    images = points(out, name, "panel")
    keys = {
        tuple(f"{value:g}" for value in member.labels.values()): member.run.key
        for member in members
    }
    for block in ("image 1", "image 2", "image 3"):
        labelled = [image for image in images if image["block"] == block]
        assert {(i["row label"], i["column label"]): i["run"] for i in labelled} == keys
    rows = list(table(out, name, "panel"))
    assert len(rows) == len(members)
    for row, (member, record) in zip(rows, runs(out, name), strict=True):
        assert (row["beta_1"], row["beta_2"]) == tuple(member.labels.values())
        difference = record.arrays["original"].astype(float) - record.arrays["through_2"]
        expected = np.mean(np.sum(difference**2, axis=1))
        assert row["squared error through z2"] == pytest.approx(expected)


def test_reconstructions_are_square_panels_of_whole_images(out: Path) -> None:
    values = {member.labels["beta"] for member, _ in runs(out, "E1") if "beta" in member.labels}
    images = points(out, "E1", "reconstructions-beta")
    blocks = {image["block"] for image in images}
    assert blocks == {"original", *(f"beta = {value:g}" for value in values)}
    assert len(images) == 100 * len(blocks)
    # The bottom-left quarter is given: there reconstruction and original are the same.
    with np.load(out / "E1" / "reconstructions-beta.npz") as file:
        kept = dict(file)
    assert set(kept) == blocks
    for place in (0, 9):
        original = kept["original"][place, place]
        assert original.shape == (8, 8)
        for block in blocks - {"original"}:
            image = kept[block][place, place]
            assert np.array_equal(image[4:, :4], original[4:, :4])
            assert not np.array_equal(image[:4], original[:4])


def test_spectra_are_those_of_each_digit_s_residuals(out: Path) -> None:
    (member, _), *_ = runs(out, "E2")
    rows = read_samples(member.run.data)
    assert rows.y is not None
    x, y = rows.x - rows.x.mean(0), rows.y - rows.y.mean(0)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    expected = np.linalg.eigvalsh(residual.T @ residual / len(x))[::-1]
    label = f"digit {member.labels['label']}"
    found = [float(p["variance"]) for p in points(out, "E2", "spectra") if p["spectrum"] == label]
    assert found[:10] == pytest.approx(expected[:10], rel=1e-3)


def test_matrices_are_the_model_s(out: Path) -> None:
    for member, record in runs(out, "E5"):
        model = record.model
        U = model.decoders[0].heads["z"].weight.detach().numpy()  # type: ignore[union-attr, index]
        units = [row for row in table(out, "E5", "units") if row["Sigma"] == member.grid]
        norms = [row["norm of U's column"] for row in units]
        assert norms == pytest.approx(np.linalg.norm(U, axis=0), abs=1e-6)
        sigmas = read_parameters(model)["sigma_1"]  # each unit's own, not sorted
        assert [row["sigma"] for row in units] == pytest.approx(sigmas, abs=1e-6)
        own = [row for row in table(out, "E5", "matrices") if row["Sigma"] == member.grid]
        far = max(
            abs(row[f"singular value of {side}"] - row[f"of {side} by theory"])
            for row in own
            for side in "UV"
        )
        said = [text for _, text in result(out, "E5")["agreement"]["checks"]]
        assert f"{member.grid}: singular values of U and V within {far:.1e} of theory." in said


def test_a_second_call_trains_nothing_and_says_the_same(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = result(out, "E9")
    kept = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("run.json")}
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "E9", "--quick", "--seeds", "2", "--out", str(out)])
    assert end.value.code == 0
    assert result(out, "E9") == before
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("run.json")} == kept
    assert before["agreement"]["verdict"] in capsys.readouterr().out


def test_rows_train_together_and_may_be_kept_without_results(tmp_path: Path) -> None:
    options = ["--quick", "--runs-only", "--no-models", "--together", "5", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "E3", "E4", *options])
    assert end.value.code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    records = {}
    for name in ("E3", "E4"):
        (row,) = chosen(name)
        for member in row.members(Plan(quick=True)):
            record = Store(tmp_path / "runs").get(member.run.key)
            assert record is not None
            records[member.run.key] = record
    sizes = [len(record.retrained_together) for record in records.values()]
    assert max(sizes) == 5
    shared = {key for r in records.values() for key in r.retrained_together}
    assert shared == set(records)


def test_what_is_finished_is_drawn_and_says_so(out: Path, tmp_path: Path) -> None:
    members = [member for member, _ in runs(out, "E3")]
    (tmp_path / "runs").mkdir()
    for key in dict.fromkeys(member.run.key for member in members[1:]):  # grids may share runs
        if key != members[0].run.key:
            shutil.copytree(out / "runs" / key, tmp_path / "runs" / key)
    options = ["--finished", "--quick", "--seeds", "2", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "E3", "E6", *options])
    assert end.value.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["E3", "runs"]
    whole = sum(member.grid == "beta_1" for member in members)
    assert f"beta_1: {whole - 1} of {whole} runs" in result(tmp_path, "E3")["profile"]


def test_hierarchies_are_measured_on_both_splits_and_drawn_from(out: Path) -> None:
    for member, record in runs(out, "E3"):
        train = read_samples(member.run.data, "train")
        assert record.measured["on_train"]["rows"] == len(train)
        assert record.measured["rows"] == len(read_samples(member.run.data, "test"))
        assert record.arrays["train_collapse_2"].shape == record.arrays["collapse_2"].shape
        assert record.arrays["original"] == pytest.approx(train.x[:10], abs=1e-3)
        drawn, mean = (record.arrays[name].astype(float) for name in ("drawn", "through_2"))
        assert drawn.shape == mean.shape
        assert np.isfinite(drawn).all()


def test_what_is_drawn_is_drawn_level_by_level() -> None:
    """Of a linear model the drawn images have the moments that its matrices give them."""
    spec = HVAESpec((2, 2), eta_dec=0.5, eta_enc=0.8, sigma_1=0.4, sigma_2=0.3)
    model = build(spec, "linear", x_dim=3, bias=False, dtype=torch.float64)
    rows = np.tile([[1.0, -2.0, 0.5]], (40_000, 1))
    found = panel(model, Dataset("rows", rows), len(rows), drawn=1)["drawn"].astype(float)
    W1, W2, U1, U2 = (read_parameters(model)[name] for name in ("W1", "W2", "U1", "U2"))
    path = U1 @ U2
    spread = path @ (W2 @ W2.T * 0.4**2 + np.eye(2) * 0.3**2) @ path.T + U1 @ U1.T * 0.5**2
    error = 5 * np.sqrt(np.diag(spread) / len(rows))
    assert np.all(np.abs(found.mean(0) - path @ W2 @ W1 @ rows[0]) < error + 1e-3)
    assert np.cov(found.T) == pytest.approx(spread, abs=0.05 * spread.max())


@pytest.mark.parametrize(
    "words",
    [["trust", "--to", "x.md"], ["document", "--seeds", "3"], ["E5", "--quick", "--to", "x.md"]],
)
def test_options_without_effect_are_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["reproduce", *words, "--out", str(tmp_path)])
    assert end.value.code == 2
    assert f"error: {words[-2]}: got a value; expected none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_document_has_a_section_per_row(out: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "document", "--out", str(out), "--to", str(tmp_path / "r.md")])
    assert end.value.code == 0
    text = (tmp_path / "r.md").read_text()
    for row in ROWS:
        assert f"\n## {row.id}: {row.name}\n" in text
        assert result(out, row.id)["agreement"]["verdict"].capitalize() in text
