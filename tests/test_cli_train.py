"""`collapse train`: its folders and numbers, resuming, and one line for every mistake."""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import posterior_collapse as pc
from commands import collapse, printed
from posterior_collapse.cli import train_command
from posterior_collapse.models import ARCHITECTURES
from posterior_collapse.training import checkpoints

G = np.random.default_rng(7)
X = G.standard_normal((120, 5)) * [2, 1.5, 1, 0.3, 0.1]


@pytest.fixture
def run(run, monkeypatch):
    """Run `collapse train` in a folder with data; return status, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    np.save("x.npy", X)
    np.save("given.npy", X[:, :2] + 0.5 * G.standard_normal((120, 2)))
    return lambda line: run("train", *shlex.split(line))


def read(path: str | Path) -> dict:
    return json.loads(Path(path).read_text())


def test_several_values_are_a_sweep_with_a_folder_each(run) -> None:
    status, out, err = run(
        "x.npy --model hvae --architecture mlp --hidden 8 --latents 3:2 --beta 0.5,1:2,4"
        " --eta-dec 0.5 --epochs 3 --batch-size 60"
    )
    assert (status, err) == (0, "")
    folder = Path("runs/x-hvae-mlp-beta=0.5,1_2,4-eta-dec=0.5")
    assert f"Folder: {folder}" in out
    names = {"beta=0.5": (0.5, 0.5), "beta=1_2": (1, 2), "beta=4": (4, 4)}
    assert {path.name for path in folder.iterdir()} == {*names, "sweep.json"}
    for name, betas in names.items():
        config, summary = (read(folder / name / f"{f}.json") for f in ("config", "summary"))
        assert tuple(config["spec"]["betas"]) == tuple(summary["spec"]["betas"]) == betas
        assert config["settings"]["epochs"] == 3
        best = pc.forecast(X, pc.Spec.from_dict(config["spec"]))
        assert summary["forecast"]["loss"] == pytest.approx(best.loss)
        for level, measured, forecast in zip(
            best.levels, summary["measured"]["levels"], summary["forecast"]["levels"], strict=True
        ):
            assert forecast["n_active"] == level.n_active
            assert 0 <= measured["n_active"] <= len(measured["kl"]) == len(level.kl)
        rows = list(csv.DictReader(io.StringIO((folder / name / "history.csv").read_text())))
        assert [int(row["step"]) for row in rows] == [2, 4, 6]
        assert {"loss", "reconstruction", "kl_1", "active_2"} <= rows[0].keys()
        assert checkpoints.load(folder / name).step == 6
        assert f" {name} " in out


def test_the_numbers_are_those_of_the_library(run) -> None:
    status, out, _ = run("x.npy --latents 3 --seed 4 --hidden 6 --epochs 2 --clip 1 --json")
    fitted = pc.fit(pc.VAESpec(3), X, "mlp", hidden=(6,), epochs=2, clip=1, seed=4)
    (summary,) = json.loads(out)
    expected = json.loads(json.dumps(fitted.summary()))
    assert status == 0
    assert {key: summary[key] for key in expected} == expected
    assert summary == read("runs/x-vae-mlp-clip=1-seed=4/summary.json")


def test_a_run_of_so_many_steps_is_the_library_s_and_goes_on(run, monkeypatch) -> None:
    told = []
    monkeypatch.setattr(
        train_command.RunsTable, "show", lambda self, done, _: told.append((done, self.total))
    )
    line = "x.npy --latents 3 --hidden 6 --batch-size 50 --out run"
    assert run(f"{line} --steps 7")[0] == 0  # ends within the third epoch of three steps
    assert told == [(3, 7), (6, 7), (7, 7)]
    history = pc.fit(X, pc.VAESpec(3), "mlp", hidden=(6,), batch_size=50, steps=7).history
    rows = list(csv.DictReader(Path("run/history.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [3, 6, 7]
    assert [float(row["loss"]) for row in rows] == history["loss"]
    assert run("--resume run")[0] == 0


@pytest.mark.parametrize("betas", ["1", "1,9"])
def test_its_figure_is_that_of_its_diagnosis(run, betas) -> None:
    line = f"x.npy --latents 2 --exact --beta {betas} --out out --plot one.png"
    status, out, _ = run(line)
    assert status == 0
    assert "Figure: one.png\n" in out
    assert collapse("diagnose", "out", "--plot", "other.png") == 0
    assert Path("one.png").read_bytes() == Path("other.png").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        "--latents 4 --eta-dec 0.5",
        "--latents 4 --eta-dec 0.5 --sigma 0.7",
        "--latents 2 --eta-dec learned",
        "--latents 3 --given given.npy --eta-dec 0.5",
        "--model hvae --latents 4:3 --beta 1:2 --eta-dec 0.6 --sigma-1 0.4",
    ],
)
def test_exact_training_is_as_forecast(run, options) -> None:
    status, out, _ = run(f"x.npy {options} --architecture linear --exact --out run")
    assert status == 0
    summary = read("run/summary.json")
    assert summary["measured"]["loss"] == pytest.approx(summary["forecast"]["loss"], rel=1e-6)
    for measured, forecast in zip(
        summary["measured"]["levels"], summary["forecast"]["levels"], strict=True
    ):
        assert measured["n_active"] == forecast["n_active"]
    assert "As forecast: " in out
    assert "loss as forecast." in out


def test_a_resumed_sweep_is_the_sweep(run, monkeypatch) -> None:
    line = "x.npy --latents 2 --hidden 6 --beta 1,2 --epochs 4 --batch-size 60 --out"
    assert run(f"{line} alone")[0] == 0

    def broken(self, done):
        if done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_command.RunsTable, "update", broken)
        status, out, err = run(f"{line} other")
        assert (status, out) == (130, "")
        assert err.splitlines()[-1] == "interrupted"
        assert "Go on with: collapse train --resume other\n" in err
    assert not Path("other/beta=1/summary.json").exists()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")  # the data are found from anywhere
    assert run("--resume ../other")[0] == 0
    for path in Path("../alone").rglob("*.*"):
        if path.is_file():
            twin = Path("../other") / path.relative_to("../alone")
            assert path.read_bytes() == twin.read_bytes(), path


def test_seeds_have_orders_of_their_own_that_their_runs_share(run) -> None:
    line = "x.npy --latents 2 --hidden 6 --epochs 2 --batch-size 30 --beta 1,2"
    assert run(f"{line} --seed 0,1 --out both")[0] == 0
    for seed in (0, 1):
        assert run(f"{line} --seed {seed} --out seed{seed}")[0] == 0
        for beta in (1, 2):
            one, other = Path(f"seed{seed}/beta={beta}"), Path(f"both/beta={beta},seed={seed}")
            for name in ("history.csv", "summary.json"):
                texts = [(folder / name).read_text() for folder in (one, other)]
                assert texts[0] == texts[1].replace(f"beta={beta},seed={seed}", f"beta={beta}")
            orders = [checkpoints.load(folder).meta["order_seed"] for folder in (one, other)]
            assert orders == [seed, seed]


def test_a_folder_from_when_seeds_shared_one_order_keeps_it(run) -> None:
    line = "x.npy --latents 2 --hidden 6 --epochs 2 --batch-size 30 --seed 0,1 --out old"
    assert run(line)[0] == 0
    for path in [Path("old/sweep.json"), *Path("old").glob("*/config.json")]:
        path.write_text(path.read_text().replace('"order_seed": null', '"order_seed": 0'))
    for path in Path("old").glob("*/checkpoint-*"):
        path.unlink()
    assert run("--resume old")[0] == 0
    specs = [pc.VAESpec(2)] * 2
    options = {"hidden": (6,), "epochs": 2, "batch_size": 30, "seeds": (0, 1), "order_seed": 0}
    for seed, fitted in enumerate(pc.fit_many(specs, X, "mlp", **options)):
        rows = list(csv.DictReader(Path(f"old/seed={seed}/history.csv").read_text().splitlines()))
        assert [float(row["loss"]) for row in rows] == fitted.history["loss"]


def test_a_folder_of_that_name_is_not_taken_for_the_data(run, capsys) -> None:
    Path("digits").mkdir()
    assert run("digits --latents 2 --exact --out run")[0] == 0
    assert "on digits: 1,797 x 64" in printed(capsys, "diagnose", "run")


@pytest.mark.filterwarnings("default")
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(run) -> None:
    run("x.npy --latents 2 --hidden 6 --epochs 3 --batch-size 60 --out run")
    before = Path("run/summary.json").read_bytes()
    newest = max(Path("run").glob("checkpoint-*.json"))
    newest.write_text(newest.read_text().replace("finished", "fineshed"))
    status, _, err = run("--resume run")
    assert status == 0
    assert err.startswith(f"warning: run: {newest.name} was edited (SHA-256 differs); step 4 is")
    assert Path("run/summary.json").read_bytes() == before


def test_other_data_are_not_what_the_run_began_with(run) -> None:
    run("x.npy --latents 2 --hidden 6 --epochs 1 --out run")
    np.save("x.npy", X + 1)
    status, _, err = run("--resume run")
    assert status == 2
    assert "other values than when the run began" in err


def test_a_run_that_is_not_finite_is_told_from_the_others(run) -> None:
    options = "--hidden 6 --optimiser sgd --epochs 4 --batch-size 60"
    status, out, _ = run(f"x.npy {options} --learning-rate 1e6,0.001 --out sweep")
    assert status == 1
    assert "learning-rate=1e6: Stopped, non-finite: " in " ".join(out.split())
    assert read("sweep/learning-rate=1e6/summary.json")["stopped"].startswith("non-finite: ")
    assert read("sweep/learning-rate=0.001/summary.json")["stopped"] == "finished"
    status, out, err = run(f"x.npy {options} --learning-rate 1e6 --out single")
    assert (status, out) == (2, "")
    assert "at step " in err
    assert "Lower learning_rate" in err
    assert not Path("single").exists()


def test_what_is_printed_of_a_run_that_is_not_finite_is_json(run) -> None:
    options = "--hidden 6 --optimiser sgd --epochs 4 --batch-size 60"
    _, out, _ = run(f"x.npy {options} --learning-rate 1e6,0.001 --json")
    diverged, finished = json.loads(out, parse_constant=pytest.fail)
    assert diverged["stopped"].startswith("non-finite: ")
    assert finished["stopped"] == "finished"
    assert "null" in out


def test_what_the_forecasts_say_of_the_data_stands_below_the_verdicts(run) -> None:
    np.save("unlike.npy", X * [500, 1, 1, 1, 1])
    for betas in ("1", "1,2", "1,2,3,4,5"):
        line = f"unlike.npy --latents 2 --beta {betas} --architecture linear --epochs 1"
        status, out, err = run(line)
        assert status == 0, err
        told = " ".join(out.split()).split("Note: ")
        assert told[1].startswith("features have standard deviations up to ")
        assert len(told) == 2
    assert "Note: " not in run("x.npy --latents 2 --architecture linear --epochs 1")[1]


@pytest.mark.parametrize("columns", ["40", "80"])
def test_many_runs_are_told_in_80_columns(run, monkeypatch, columns) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    line = "x.npy --hidden 6 --optimiser sgd --epochs 2 --latents 2 --eta-dec 9"
    status, out, _ = run(f"{line} --learning-rate 0.0001,0.0002,1e9 --seed 0,1")
    assert status == 1
    assert max(map(len, out.splitlines()[:-1])) <= 80
    text = " ".join(out.split())
    assert "…" not in text
    assert text.count("Stopped, non-finite") == 2
    assert " of 6 runs have as many active units as their forecasts." in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "DATA: got nothing"),
        ("missing.npy", "missing.npy"),
        ("minst", "Did you mean 'mnist'"),
        ("x.npy --model vea", "Did you mean 'vae'"),
        ("x.npy --model cvae", "--task quarter"),
        ("x.npy --architecture lienar", "Did you mean 'linear'"),
        ("x.npy --architecture cvae-relu", "architecture: got 'cvae-relu' for a vae spec"),
        ("x.npy --architecture cnn", "image_shape"),
        ("x.npy --architecture linear --hidden 3", "hidden: got given for 'linear'"),
        ("x.npy --beta 1,1", "different values"),
        ("x.npy --beta 1,x", "--beta: got 'x'"),
        ("x.npy --beta 1,-1", "beta: got -1.0"),
        ("x.npy --beta-1 1", "--model hvae"),
        ("x.npy --model hvae --sigma 0.5", "--sigma-1 and --sigma-2"),
        ("x.npy --model hvae --beta 1 --beta-2 2", "Remove --beta"),
        ("x.npy --latents 0", "--latents: got 0"),
        ("x.npy --epochs 0", "epochs: got 0"),
        ("x.npy --epochs 5 --steps 6", "--steps: got 6 beside --epochs; expected one of the two"),
        ("x.npy --epochs 5 --warm-up 6", "--warm-up: got 6 epochs in a run of 5"),
        ("x.npy --learning-rate 0", "--learning-rate: got 0.0"),
        ("x.npy --seed 1.5", "--seed: got '1.5'; expected whole numbers"),
        ("x.npy --clip 0", "clip: got 0.0"),
        ("x.npy --dropout 1", "dropout: got 1.0"),
        ("x.npy --initial-std 0", "--initial-std: got 0.0"),
        ("x.npy --device cuda:77", "device: got 'cuda:77'"),
        ("x.npy --device gpu", "device: got 'gpu'"),
        ("x.npy --precision half", "precision: got 'half'"),
        ("x.npy --exact --architecture mlp", "architecture: got 'mlp'"),
        ("x.npy --architecture linear --exact --warm-up 3", "--warm-up: got 3"),
        ("x.npy --exact --batch-size 8", "--batch-size: got a value beside --exact"),
        ("x.npy --exact --clip 1", "--clip: got a value beside --exact; expected nothing in exact"),
        ("x.npy --exact --learning-rate 1", "nothing in exact training by L-BFGS. Remove it."),
        ("x.npy --exact --optimiser adam --batch-size 8", "nothing in exact training. Remove it."),
        ("x.npy --from-forecast --architecture mlp", "architecture: got 'mlp'"),
        ("x.npy --out full", "full: got a folder with files in it"),
        ("x.npy --out x.npy", "x.npy: got a file"),
        ("x.npy --out x.npy/run", "x.npy/run"),
        ("--resume nowhere", "nowhere/config.json: got no such file"),
        ("--resume full", "full/config.json"),
        ("--resume broken", "broken/config.json: got text that is not JSON"),
        ("--resume edited", "edited/config.json: got other values"),
        ("--resume full --beta 2", "--beta: got given beside --resume"),
        ("x.npy --resume full", "DATA: got given beside --resume"),
        ("x.npy --no-such-option", "No such option"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, tmp_path, line, said) -> None:
    for name, text in (
        ("full/a.txt", ""),
        ("broken/config.json", "{"),
        ("edited/config.json", "{}"),
    ):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(text)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(line)
    assert (status, out) == (2, "")
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_without_tensorboard_nothing_is_begun(run, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    status, _, err = run("x.npy --tensorboard --out run")
    assert status == 2
    assert "Run pip install tensorboard, or leave it out" in err
    assert not Path("run").exists()


def test_help_names_every_architecture_in_80_columns(run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert all(name in out for name in ARCHITECTURES)
    assert max(map(len, out.splitlines())) <= 80
    for panel in ("Data", "Model", "Numbers to sweep over", "Against collapse", "Output"):
        assert f"─ {panel} ─" in out


@pytest.mark.parametrize(("levels", "runs"), [(1, 1), (2, 4), (2, 40)])
def test_live_progress_fits_a_narrow_terminal(monkeypatch, levels, runs) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80, height=24, force_terminal=True, color_system=None)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    row = {"loss": -1234.5678}
    for level in range(1, levels + 1):
        row |= {f"kl_{level}": 12.3456, f"active_{level}": 16}
    names = [f"beta={0.1 * i:.3g},learning-rate=0.001" for i in range(runs)]
    with train_command.RunsTable(names, levels, total=9) as table:
        table.show(3, [row] * runs)
        console.print(table.table())
        table.show(4, [None] * runs)  # stopped: the last numbers stay
    lines = shown.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines if "\x1b" not in line) <= 80
    text = shown.getvalue()
    assert "-1234.6" in text
    assert "3/9" in text
    assert ("more" in text) == (runs > 16)
