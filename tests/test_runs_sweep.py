"""`pc.sweep`: its runs are those of `fit_many`, kept, resumed and shown beside their forecasts."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

import posterior_collapse as pc
from posterior_collapse.errors import CorruptFileError, DataError, InvalidArgumentError
from posterior_collapse.files import fingerprint
from posterior_collapse.report.comparison import (
    comparison_cells,
    comparison_kind,
    comparison_verdict,
)
from posterior_collapse.report.text import diagnoses_table
from posterior_collapse.runs import complete
from posterior_collapse.runs.completing import CHECKPOINT_SHARE
from posterior_collapse.runs.kept import members
from posterior_collapse.training import Progress

X = np.random.default_rng(0).standard_normal((90, 5)) * [3, 2, 1, 0.3, 0.1]
SPECS = [pc.VAESpec(3, beta=beta) for beta in (0.5, 0.5, 2.0, 2.0)]
HOW: dict[str, Any] = {"hidden": (6,), "epochs": 4, "batch_size": 32, "seeds": [0, 1, 0, 1]}
ROOM = sys.modules[complete.__module__]


def swept(folder: Path | None = None, data: Any = X, **changes: Any) -> pc.Sweep:
    return pc.sweep(SPECS, data, "mlp", folder=folder, **{**HOW, **changes})


@pytest.fixture(scope="module")
def once() -> pc.Sweep:
    return swept()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    swept(folder)
    return folder


@pytest.fixture
def kept(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "kept"))


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("trained")


def losses(found: pc.Sweep) -> list[list[float]]:
    return [list(run.history["loss"]) for run in found.runs]


def test_runs_of_a_seed_are_those_of_fit_many_and_seeds_have_their_own_orders(
    once: pc.Sweep,
) -> None:
    for seed in (0, 1):
        options = {**HOW, "seeds": None, "seed": seed}
        alone = pc.fit_many(SPECS[::2], X, "mlp", **options)
        for run, one in zip(once.runs[seed::2], alone, strict=True):
            assert (run.run.spec, run.run.settings.seed) == (one.spec, seed)
            assert dict(run.history) == one.history
            assert run.measured == one.summary()["measured"]
            for a, b in zip(run.model.parameters(), one.model.parameters(), strict=True):
                assert torch.equal(a, b)
    one_order = swept(order_seed=0)
    np.testing.assert_allclose(losses(one_order)[::2], losses(once)[::2], rtol=1e-5)
    assert losses(one_order)[1] != pytest.approx(losses(once)[1], rel=1e-4)


class TestFolder:
    def test_what_is_kept_is_what_was_trained_and_is_not_trained_again(
        self, kept: Path, once: pc.Sweep, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ROOM, "fit_many", refuse)
        again = swept(kept)
        assert again.to_dict() == once.to_dict()
        assert losses(again) == losses(once)
        for run, one in zip(again.runs, once.runs, strict=True):
            for a, b in zip(run.model.parameters(), one.model.parameters(), strict=True):
                assert torch.equal(a, b)
        assert not list(kept.glob(".work*"))

    @pytest.mark.parametrize(
        "changed",
        [
            {"data": X + np.eye(90, 5)},
            {"data": X[:-1]},
            {"validation": X[:20]},
            {"epochs": 3},
            {"hidden": (5,)},
            {"seeds": [0, 1, 0, 2]},
            {"order_seed": 0},
        ],
    )
    def test_other_runs_and_other_data_are_trained(
        self, kept: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
    ) -> None:
        monkeypatch.setattr(ROOM, "fit_many", refuse)
        with pytest.raises(AssertionError, match="trained"):
            swept(kept, **changed)

    def test_equal_values_are_the_same_data_whatever_holds_them(
        self, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ROOM, "fit_many", refuse)
        for data in (X.copy(order="F"), torch.from_numpy(X), X.astype(np.float32)):
            swept(kept, data=data)

    def test_convolutions_tell_images_of_other_sides_apart(self, tmp_path: Path) -> None:
        wide = np.random.default_rng(1).random((40, 4, 16))
        how: dict[str, Any] = {"hidden": (4,), "channels": (2, 2), "epochs": 1, "folder": tmp_path}
        kept = [
            pc.sweep(SPECS[:1], images, "cnn", **how).runs[0]
            for images in (wide, wide.reshape(40, 8, 8), wide.reshape(40, 1, 8, 8))
        ]
        assert kept[0].measured["loss"] != kept[1].measured["loss"]
        assert len({one.run.key for one in kept}) == 2
        # Of squares the key is that of their values alone, as it always was.
        assert kept[1].run.data.sha256 == fingerprint([wide.reshape(40, 64).astype("f4"), None])
        flat = [
            pc.sweep(SPECS[:1], images, "mlp", hidden=(4,), epochs=1).runs[0].run.key
            for images in (wide, wide.reshape(40, 64))
        ]
        assert flat[0] == flat[1]

    @pytest.mark.parametrize("convention", ["elbo", "reference"])
    def test_a_run_is_diagnosed_as_what_fit_returns(self, tmp_path: Path, convention: str) -> None:
        """Held-out rows cost more than those trained on, so that these are asked for as well."""
        how: dict[str, Any] = {
            "epochs": 60, "learning_rate": 0.02, "convention": convention, "batch_size": 32,
        }  # fmt: skip
        fitted = pc.fit(SPECS[0], X, "linear", **how)
        for folder in (None, tmp_path):
            run = pc.sweep(SPECS[:1], X, "linear", folder=folder, **how).runs[0]
            for data in (X, 3 * X[:40]):
                found, expected = pc.diagnose(run, data), pc.diagnose(fitted, data)
                assert json.dumps(found.to_dict()) == json.dumps(expected.to_dict())
                assert found.spec == fitted.objective

    def test_validation_data_are_not_taken_for_others_that_were_trained_on(
        self, tmp_path: Path
    ) -> None:
        """They are part of the hash of the data, so that of these alone is another."""
        digits = pc.load("digits")
        for name, held_out in (("with", digits.x[:9]), ("without", None)):
            how: dict[str, Any] = {"hidden": (4,), "epochs": 1, "validation": held_out}
            pc.sweep(SPECS[:1], digits, "mlp", folder=tmp_path / name, **how)
            _, found = next(iter(members(tmp_path / name).values())).diagnosed()
            assert not any("other values" in note for note in found.notes)

    def test_a_share_of_the_time_for_checkpoints_is_as_it_was_asked_for(self) -> None:
        asked: tuple[dict[str, Any], ...] = ({}, {"checkpoint_share": 0.5}, {"checkpoint_every": 2})
        found = [pc.sweep(SPECS[:1], X, "linear", epochs=1, **how).runs[0] for how in asked]
        shares = [one.run.settings.checkpoint_share for one in found]
        assert shares == [CHECKPOINT_SHARE, 0.5, None]

    def test_a_changed_run_is_refused(self, kept: Path) -> None:
        history = next(kept.glob("*/history.csv"))
        history.write_text(history.read_text().replace("1,", "2,", 1))
        with pytest.raises(CorruptFileError, match=r"history\.csv: got a changed file"):
            swept(kept)

    @pytest.mark.parametrize("damaged", [False, True])
    def test_an_interrupted_group_goes_on_from_its_last_epoch(
        self, tmp_path: Path, once: pc.Sweep, damaged: bool
    ) -> None:
        seen: list[int] = []

        def killed(now: Progress) -> None:
            seen.append(now.epoch)
            if len(seen) == 6:  # in the second seed's group
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            swept(tmp_path, progress=killed)
        assert seen == [1, 2, 3, 4, 1, 2]
        for path in tmp_path.rglob("*.safetensors") if damaged else ():
            if ".work" in path.parts:
                path.write_bytes(b"")
        seen = [0] * 10
        found = swept(tmp_path, progress=killed)
        assert seen[10:] == ([1, 2, 3, 4] if damaged else [3, 4])
        assert losses(found) == losses(once)
        assert not list(tmp_path.glob(".work*"))


def test_a_table_has_what_varies_and_each_number_beside_its_forecast(once: pc.Sweep) -> None:
    frame = once.to_frame()
    assert list(frame) == [
        "beta", "seed", "loss", "loss_forecast", "active_1", "active_1_forecast", "stopped",
    ]  # fmt: skip
    assert frame["beta"].tolist() == [0.5, 0.5, 2.0, 2.0]
    assert frame["seed"].tolist() == [0, 1, 0, 1]
    for row, run in zip(frame.to_dict("records"), once.runs, strict=True):
        assert row["loss"] == run.measured["loss"]
        best = pc.forecast(X, run.run.spec)
        assert row["loss_forecast"] == pytest.approx(best.loss)
        assert row["active_1_forecast"] == best.levels[0].n_active
        assert row["stopped"] == "finished"
    assert repr(once).startswith("Sweep(4 runs; beta, seed vary; ")
    last = once.runs[-1]
    assert repr(last) == (
        f"Outcome({last.run.spec!r}, mlp, seed 1; loss {last.measured['loss']:.6g}; finished)"
    )


def test_models_of_several_kinds_are_one_sweep() -> None:
    specs = [*(pc.HVAESpec((3, 2), (1, beta)) for beta in (1, 4)), pc.VAESpec(2), pc.VAESpec(3)]
    found = pc.sweep(specs, X, "linear", exact=True)
    assert [run.run.spec for run in found.runs] == specs
    rows = found.to_frame().to_dict("records")
    assert [row["beta_2"] for row in rows[:2]] == [1, 4]
    for row, spec in zip(rows, specs, strict=True):
        best = pc.forecast(X, spec)
        assert row["loss"] == pytest.approx(best.loss, rel=1e-6)
        for number, level in enumerate(best.levels, 1):
            assert row[f"active_{number}"] == row[f"active_{number}_forecast"] == level.n_active
    assert repr(found).endswith("4 of 4 with as many active units as forecast)")
    assert found._repr_html_().count("measured/forecast") == 2


def test_other_labels_are_other_data_to_those_that_see_them(tmp_path: Path) -> None:
    # The first spec, which sees no labels, named the data of all.
    specs, labels = [pc.VAESpec(2), pc.CVAESpec(2)], np.arange(len(X)) % 3
    options: dict[str, Any] = {"hidden": (4,), "epochs": 1, "folder": tmp_path}
    before = pc.sweep(specs, (X, labels), "mlp", **options)
    after = pc.sweep(specs, (X, labels[::-1].copy()), "mlp", **options)
    same = [a.run.key == b.run.key for a, b in zip(before.runs, after.runs, strict=True)]
    assert same == [True, False]
    alone = pc.sweep(specs[1:], (X, labels), "mlp", **options)
    assert alone.runs[0].run.key == before.runs[1].run.key


def test_a_figure_shows_measured_beside_forecast(once: pc.Sweep) -> None:
    left, right = once.plot().axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("\u03b2", "\u03b2")
    assert (left.get_ylabel(), right.get_ylabel()) == ("loss (nats)", "active units")
    frame = once.to_frame()
    for axes, column in ((left, "loss"), (right, "active_1")):
        forecast, *measured = axes.lines
        marked = [tuple(point) for line in measured for point in line.get_xydata()]
        # A marker for each seed; those of seeds that agree are moved aside, as they are drawn.
        assert sorted(marked) == sorted(zip(frame["beta"], frame[column], strict=True))
        assert list(forecast.get_xdata()) == [0.5, 2.0]
        assert list(forecast.get_ydata()) == frame[f"{column}_forecast"].tolist()[::2]
        assert measured[0].get_label() == "measured"
    assert "\u03b2 = 0.5, seed = 0" in once._repr_html_()


def test_words_and_nothing_that_varies_are_drawn_too() -> None:
    for sigmas in (("learned", "shared"), ("learned", "learned")):
        found = pc.sweep([pc.VAESpec(2, sigma=s) for s in sigmas], X, "linear", exact=True)
        axes = found.plot().axes[0]
        assert axes.get_xlabel() == "run"
        assert list(axes.lines[1].get_xdata()) == [1, 2]
        assert "2 of 2 runs have as many active units" in found._repr_html_()


@pytest.mark.parametrize(
    ("specs", "options", "error", "said"),
    [
        (
            SPECS,
            {"client": object()},
            InvalidArgumentError,
            "client: got object; expected a Client of dask.distributed",
        ),
        (SPECS[0], {}, InvalidArgumentError, "specs: got one VAESpec; .* use fit"),
        ([], {}, InvalidArgumentError, "specs: got none"),
        ([SPECS[0], "vae"], {}, InvalidArgumentError, "spec: got str"),
        (
            SPECS,
            {"seeds": (1, 2)},
            InvalidArgumentError,
            "seeds: got 2 values; expected 4: one per spec",
        ),
        (SPECS, {"epochz": 3}, InvalidArgumentError, "Did you mean 'epochs'"),
        (SPECS, {"exact": True}, InvalidArgumentError, "architecture: got 'mlp'"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    tmp_path: Path, specs: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        pc.sweep(specs, X, "mlp", folder=tmp_path / "runs", **options)
    assert not list(tmp_path.rglob("run.json"))


def test_a_loader_trains_but_is_not_kept(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=30, shuffle=True)
    found = pc.sweep(SPECS[:1], loader, "mlp", epochs=1)
    assert found.runs[0].stopped == "finished"
    with pytest.raises(DataError, match="a DataLoader, whose values have no hash"):
        pc.sweep(SPECS[:1], loader, "mlp", epochs=1, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_counts_that_the_optimum_leaves_open_are_not_compared() -> None:
    specs = [pc.HVAESpec((2, 2), (1, beta), 0.3, sigma_1="learned") for beta in (1, 2)]
    found = pc.sweep(specs, X, "linear", exact=True)
    told = "2 of 2 with as many active units as forecast"  # of z1, and of z2 where it is told
    assert repr(found) == f"Sweep(2 runs; beta_2 varies; {told})"
    open_, decided = (run.summary() for run in found.runs)
    open_["measured"]["levels"][1]["n_active"] = 1
    assert comparison_kind(open_) == "as forecast"
    said = comparison_verdict(open_)
    assert "keeps 2 and 0, or other numbers of z2 at the same loss; loss as f" in said
    open_["measured"]["levels"][0]["n_active"] = 1
    assert comparison_kind(open_) == "fewer units"
    decided["measured"]["levels"][1]["n_active"] = 1
    assert comparison_kind(decided) == "more units"
    assert "where the linear optimum keeps 2 and 0; loss as f" in comparison_verdict(decided)


def test_no_command_counts_a_unit_of_almost_no_nats_on_one_side_only() -> None:
    """At its optimum a model has the units of its forecast, one of 0.004 nats among them."""
    x = np.random.default_rng(0).standard_normal((400, 3)) * [3, 1, 0.1]
    beta = float(np.linalg.eigvalsh(np.cov(x.T, bias=True))[1]) / np.exp(2 * 0.004)
    swept = pc.sweep([pc.VAESpec(2, beta=beta)], x, "linear", exact=True)
    assert "1 of 1 with as many active units as forecast" in repr(swept)
    assert swept.to_frame()["active_1_forecast"].tolist() == [1]
    (run,) = swept.runs
    summary = {"measured": run.measured, "forecast": run.forecast}
    assert comparison_verdict(summary) == "As forecast: 1 of 2 units active; loss as forecast."
    assert comparison_kind(summary) == "as forecast"
    assert list(comparison_cells(summary, 1))[2] == "1/1"
    found = pc.diagnose(run.model, x, spec=run.run.spec)
    console = Console(file=io.StringIO(), width=200)
    console.print(diagnoses_table({"run": found}))
    assert " 1/1 " in console.file.getvalue()
