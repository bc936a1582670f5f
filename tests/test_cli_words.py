"""What the commands understand and how they say it: one grammar, no torch where none is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import posterior_collapse as pc
from fresh import NO_TORCH, python
from posterior_collapse import theory

X = np.random.default_rng(3).standard_normal((60, 5)) * [3, 2, 1, 0.5, 0.1]


@pytest.fixture
def run(run):
    """Run the command in a folder with data; return status and all it said, spaces collapsed."""
    np.save("x.npy", X)

    def command(line: str) -> tuple[int, str]:
        status, out, err = run(*line.split())
        return status, " ".join((out + err).split())

    return command


def read(path: str) -> dict:
    return json.loads(Path(path).read_text())


# Commas part runs, colons part levels.


def test_levels_are_parted_by_colons_and_runs_by_commas_in_forecast_as_in_train(run) -> None:
    hierarchy = "x.npy --model hvae --latents 4:2 --beta 1:2,1:4 --eta-dec 0.5 --sigma-1 0.3"
    status, said = run(f"forecast {hierarchy} --json")
    specs = [pc.HVAESpec((4, 2), (1.0, b), 0.5, sigma_1=0.3) for b in (2.0, 4.0)]
    assert status == 0
    assert [pc.Spec.from_dict(one["spec"]) for one in json.loads(said)["forecasts"]] == specs
    assert run(f"train {hierarchy} --epochs 1 --hidden 4 --out runs")[0] == 0
    for name, spec in zip(("1_2", "1_4"), specs, strict=True):
        assert pc.Spec.from_dict(read(f"runs/beta={name}/config.json")["spec"]) == spec
    for beta in ("--beta-2 2,4", "--beta-1 1 --beta-2 2,4"):
        _, said = run(f"forecast {hierarchy.replace('--beta 1:2,1:4', beta)} --json")
        assert [pc.Spec.from_dict(one["spec"]) for one in json.loads(said)["forecasts"]] == specs


def test_every_number_may_have_several_values(run) -> None:
    _, said = run("forecast x.npy --latents 3 --beta 1,2 --eta-dec 0.5,1 --sigma learned,0.4")
    for row in ("1 0.5 learned", "1 1 0.4", "2 1 learned"):
        assert f" {row} " in said
    _, said = run("forecast x.npy --model hvae --latents 2:2 --beta 1:2,3 --sigma-1 0.5")
    assert " 1:2 2 of 2 0 of 2 " in said
    assert " active z1 active z2 " in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("forecast x.npy --model hvae --latents 4,2", "one per level, parted by colons"),
        ("train x.npy --model hvae --latents 4,2", "one per level, parted by colons"),
        ("forecast x.npy --latents 2,3", "--latents: got 2 values; expected one number of units."),
        ("forecast x.npy --beta 1:2", "--beta: got 2 values; expected one for a vae"),
        ("forecast x.npy --sigma 1,1,1", "units are parted by colons"),
        ("explore x.npy --beta 1,2", "--beta: got '1,2'; expected one value for explore"),
        ("tune x.npy --eta-dec 1,2", "--eta-dec: got '1,2'; expected one value for tune"),
        ("train x.npy --capacity 1,2", "parted by colons"),
        ("forecast x.npy --model hvae --latents 2:0", "--latents: got 0"),
        (
            "forecast x.npy --beta 0",
            "--beta: got 0.0; expected a positive, finite number. Pass e.g. --beta 1.0.",
        ),
        (
            "tune x.npy --active 9 --latents 4",
            "--active: got 9; expected at most 4, the latent units"
            " of the spec. Give it --latents 9 or more.",
        ),
        (
            "forecast x.npy --latents 3 --sigma 1:1:-1",
            "--sigma of unit 3: got -1.0; expected a positive, finite number. Pass e.g. 1.0",
        ),
        (
            "train x.npy --hidden 9,0",
            "--hidden of layer 2: got 0; expected a whole number of units, at least 1."
            " Pass e.g. 8 instead.",
        ),
        ("train x.npy --cycles 2 --warm-up 3", "--cycles: got 2 beside --warm-up; expected one"),
        ("forecast x.npy --standardize --scale 2", "--standardize: got True beside --scale"),
        ("reproduce E8 --finished --runs-only", "--runs-only: got True beside --finished"),
        ("forecast x.npy --model hvae --beta 2:1 --sigma-1 learned", "Raise beta_2 to 2.0"),
        (
            "forecast x.npy --latents 5 --beta 0.5 --eta-dec learned",
            "error: --eta-dec: got 'learned' with",
        ),
        (
            "forecast x.npy --latents 5 --beta 0.5 --eta-dec learned",
            "Pass --eta-dec as a number, or use",
        ),
        (
            "forecast x.npy --likelihood mse",
            "one of gaussian, bernoulli, categorical, poisson, negative-binomial, other. Pass"
            " --likelihood gaussian for a squared error, 'bernoulli' for binary cross-entropy.",
        ),
    ],
)
def test_another_grammar_is_told_the_right_one(run, line, words) -> None:
    status, said = run(line)
    assert status == 2
    assert words in said


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("two.npz", "Say which is meant: --key NAME."),
        (
            "text.csv",
            "out by --drop NAME, or take it for the label by --label-column NAME.",
        ),
    ],
)
def test_what_to_do_is_spelled_once_and_in_options(run, file, words) -> None:
    """`--key NAME, --key NAME`: it named Python's spelling beside the option."""
    np.savez("two.npz", a=X, b=X)
    Path("text.csv").write_text("a,b\n" + "1.5,one\n2.5,two\n" * 9)
    status, said = run(f"forecast {file}")
    assert status == 2
    assert said.endswith(words)


def test_a_loss_of_a_std_is_told_the_option(run) -> None:
    """It named `log_var=False`, which no command takes."""
    Path("loss.py").write_text(
        "def loss(y_hat, y, mean, std):\n"
        "    kl = (0.5 * (mean**2 + std**2 - 1) - std.log()).sum(1)\n"
        "    return (((y_hat - y) ** 2).sum(1) / 2 + kl).mean()\n"
    )
    status, said = run("audit loss.py:loss x.npy --latents 2")
    assert status == 2
    assert "Pass --std, if it takes a std." in said
    assert "beta * eta_dec^2 = 1:" in run("audit loss.py:loss x.npy --latents 2 --std")[1]


def test_the_batch_size_that_a_beta_depends_on_can_be_given(run) -> None:
    """At another than that of training the count of units is that of another loss."""
    Path("loss.py").write_text(
        "def loss(y_hat, y, mean, log_var):\n"
        "    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum()\n"
        "    return ((y_hat - y) ** 2).sum(1).mean() / 2 + kl\n"
    )
    _, said = run("audit loss.py:loss x.npy --latents 2")
    assert "here 8." in said
    assert "the batch size that you train with (batch_size=, --batch-size)" in said
    assert "beta = 128 at" in run("audit loss.py:loss x.npy --latents 2 --batch-size 128")[1]


@pytest.mark.parametrize(
    ("file", "how"),
    [("x.feather", "numpy.save('x.npy', x)"), ("x.mtx.gz", "scipy.io.mmread(path)")],
)
def test_how_to_convert_a_file_is_said(run, file, how) -> None:
    Path(file).write_text("numbers")
    status, said = run(f"forecast {file}")
    assert status == 2
    assert how in said


def test_levels_count_from_1_in_advice_too(run) -> None:
    _, said = run("forecast x.npy --model hvae --latents 3:3 --beta 1:9 --sigma-1 0.5 --active 3")
    assert "beta_2 from 9 to" in said
    assert "betas[" not in said


def test_columns_say_what_they_mean_and_rounding_is_none(run) -> None:
    np.save("twice.npy", np.hstack([X[:, :3], X[:, :3]]))
    _, said = run("forecast twice.npy --model hvae --latents 6:6 --eta-dec 1 --sigma-1 1")
    assert "e-1" not in said
    assert "always" in said
    assert " any" not in said
    _, said = run("forecast x.npy --latents 2")
    lines = said.split("status")[0]
    assert all(word in lines for word in ("lives", "while", "or"))
    assert "beta<" not in said


# What people call things elsewhere.


def test_other_spellings(run) -> None:
    line = "train x.npy --latents 2 --hidden 4 --epochs 1 --optimizer sgd --lr 0.01 --standardise"
    assert run(f"{line} --out run")[0] == 0
    config = read("run/config.json")
    assert (config["settings"]["optimiser"], config["settings"]["learning_rate"]) == ("sgd", 0.01)
    assert config["data"]["standardize"] is True
    assert run("tune x.npy --lr 0 --active 1")[1].startswith("error: --learning-rate: got 0.0")


def test_other_spellings_in_the_library() -> None:
    one, other = (
        pc.fit(pc.VAESpec(2), X, "linear", epochs=1, **options)
        for options in (
            {"optimizer": "sgd", "lr": 0.01},
            {"optimiser": "sgd", "learning_rate": 0.01},
        )
    )
    assert one.settings == other.settings
    assert theory.minimize is theory.minimise


@pytest.mark.parametrize("flag", ["--exact", "--from-forecast"])
def test_what_only_linear_models_can_do_implies_one(run, flag: str) -> None:
    assert run(f"train x.npy --latents 2 {flag} --epochs 2 --out run")[0] == 0
    assert read("run/config.json")["architecture"]["name"] == "linear"
    status, said = run(f"train x.npy --latents 2 {flag} --architecture mlp --out other")
    assert status == 2
    assert "architecture: got 'mlp'" in said


def test_a_class_is_named_by_its_name_or_number(run) -> None:
    rows = [f"{a},{b},{'cat' if i % 3 else 'dog'}" for i, (a, b) in enumerate(X[:, :2].tolist())]
    Path("x.csv").write_text("a,b,label\n" + "\n".join(rows))
    assert "40 x 2 float64, label cat only" in run("forecast x.csv --label cat --latents 2")[1]
    assert run("train x.csv --label dog --latents 2 --exact --out run")[0] == 0
    assert read("run/config.json")["data"]["label"] == "dog"
    assert "20 x 2 float64, label dog only" in run("diagnose run")[1]
    assert "40 x 2 float64, label cat only" in run("diagnose run --label cat")[1]
    status, said = run("forecast x.csv --label cta")
    assert status == 2
    assert "one of cat, dog" in said


# How data are read, wherever a command takes some.


def test_a_run_is_diagnosed_on_other_data_read_as_its_own(run) -> None:
    names = "a,b,c,d,e"
    for name, x in (("train", X), ("test", X[:50] * 2 + 1)):
        rows = "\n".join(",".join(map(str, row)) for row in x.tolist())
        Path(f"{name}.csv").write_text(f"{names}\n{rows}\n")
    assert run("train train.csv --drop e --standardize --latents 2 --exact --out run")[0] == 0
    _, said = run("diagnose run --data test.csv --json")
    found = json.loads(said)
    assert found["data"]["note"] == "50 x 4 float64, column 'e' dropped, standardized"
    held_out = pc.load("test.csv", drop="e").standardized(pc.load("train.csv", drop="e"))
    fitted = pc.fit(pc.VAESpec(2), pc.load("train.csv", drop="e", standardize=True), "linear",
                    exact=True)  # fmt: skip
    expected = pc.diagnose(fitted, held_out)
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-6)
    status, said = run("diagnose run --columns a,b,c,x")
    assert status == 2
    assert "columns: got 'x'" in said
    # Whatever says which numbers are meant is understood by all who read some.
    Path("loss.py").write_text(
        "def loss(y_hat, y, mean, log_var):\n"
        "    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1)\n"
        "    return (((y_hat - y) ** 2).sum(1) / 2 + kl).mean()\n"
    )
    for command in ("audit loss.py:loss", "effective-beta", "forecast"):
        end = "" if command == "forecast" else " --latents 2"
        _, said = run(f"{command} train.csv --columns a,b,c --standardize{end}")
        assert "60 x 3 float64, columns 'a', 'b', 'c' only, standardized" in said


def test_arrays_of_a_posterior_beside_a_table_of_data(run) -> None:
    np.savez("q.npz", mean=X[:, :2], std=np.full((60, 2), 0.5))
    rows = "\n".join(",".join(map(str, row)) for row in X.tolist())
    Path("x.csv").write_text(f"a,b,c,d,e\n{rows}\n")
    status, said = run("diagnose q.npz --data x.csv --drop e --beta 1 --eta-dec 1")
    assert status == 0
    assert "linear optimum" in said
    assert "pass a matching" not in said


# Sweeps of the library.


@pytest.mark.parametrize("named", [False, True])
def test_a_folder_of_sweep_is_diagnosed(run, named: bool) -> None:
    data = pc.load("digits", label=3) if named else X
    pc.sweep([pc.VAESpec(2, beta=b) for b in (0.1, 2.0)], data, "linear", exact=True, folder="kept")
    if not named:
        status, said = run("diagnose kept")
        assert status == 2
        assert "values that were passed, which are not kept" in said
        assert "--data FILE" in said
    status, said = run("diagnose kept" + " --data x.npy" * (not named))
    assert status == 0, said
    for beta in ("beta=0.1", "beta=2"):
        assert f" {beta} " in said
    assert "other values than" not in said
    folder = next(Path("kept").glob("*/run.json")).parent
    (folder / "history.csv").write_text("changed")
    status, said = run("diagnose kept" + " --data x.npy" * (not named))
    assert "SHA-256 differs" in said


# Before torch is loaded.


@pytest.mark.parametrize(
    "line",
    [
        "train nosuch.csv",
        "train nosuch",
        "train x.npy --architecture foo",
        "train x.npy --architecture linear --hidden 3",
        "train x.npy --activation foo",
        "train x.npy --precision half",
        "train x.npy --epochs 0",
        "train x.npy --convention foo",
        "train x.npy --convention reference --eta-dec learned",
        "train x.npy --model cvae",
        "train x.npy --label 3",
        "train x.npy --out .",
        "train --resume nosuch",
        "diagnose nosuch",
        "diagnose .",
        "diagnose x.npy",
        "diagnose q.npz",
        "diagnose . --plot x.gif",
        "tune nosuch.csv",
        "tune x.npy --active 99",
        "tune x.npy --tune foo",
        "tune x.npy --architecture foo",
        "tune x.npy --lr 0",
        "tune x.npy --active 6 --latents 9",
        "tune x.npy --model hvae --level 3",
        "tune x.npy --out x.npy --active 1",
        "tune x.npy --exact --architecture mlp --active 1",
        "tune x.npy --tune latents --beta 1e6",
        "train x.npy --exact --architecture mlp",
        "train x.npy --exact --likelihood bernoulli",
        "train x.npy --exact --warm-up 3",
        "train x.npy --optimiser lbfgs",
        "train x.npy --likelihood poisson",
        "train x.npy --from-forecast --architecture mlp",
        "train x.npy --warm-up 300",
        "train x.npy --capacity 1:2:3",
        "train x.npy --eta-enc 1:2",
        "train x.npy --seed 1:2",
        "audit nosuch.py:loss --features 3",
        "audit x.py:loss",
        "forecast nosuch.csv",
        "reproduce E99",
        "reproduce E1 --convention foo",
    ],
)
def test_a_refusal_that_needs_no_torch_does_not_load_it(tmp_path: Path, line: str) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "q.npz", mena=X)
    script = (
        "import sys\nfrom posterior_collapse.cli import main\n"
        "try: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    )
    done = python(script, *line.split(), folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


FREE = {
    "data_dir", "out", "to", "resume", "given", "data", "label", "scale", "header", "columns",
    "drop", "label_column", "key", "standardize", "task", "split",
}  # fmt: skip
"""Options whose value is a path, or what `data.load` is told: other tests are of these."""

EACH = """
import typer
from posterior_collapse.cli import app, main
group = typer.main.get_command(app.app)
for line in {lines}:
    command = group.commands[line.split()[0]]
    for one in command.params:
        if one.param_type_name != "option" or one.is_flag or one.name in {free}:
            continue
        for value in ("-1", "nope", "1:2:3:4"):
            print("\\n>>>", line, one.opts[0], value, file=sys.stderr)
            try:
                main([*line.split(), one.opts[0], value])
            except SystemExit as end:
                print("<<<", end.code, file=sys.stderr)
"""


def test_no_wrong_value_of_any_option_waits_for_torch(tmp_path: Path) -> None:
    """It is refused in one line, in words of the command line, and torch is not loaded."""
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "q.npz", mean=X, std=np.ones_like(X))
    (tmp_path / "loss.py").write_text("def loss(y_hat, y, mean, log_var): ...")
    lines = [
        "forecast x.npy", "explore x.npy", "audit loss.py:loss x.npy", "effective-beta x.npy",
        "train x.npy", "tune x.npy --active 2", "diagnose q.npz", "reproduce E1", "verify E8",
    ]  # fmt: skip
    done = python(NO_TORCH + EACH.format(lines=lines, free=FREE), folder=tmp_path)
    cases = done.stderr.split("\n>>> ")[1:]
    assert len(cases) > 300
    told = re.compile(r"[^\n]+\nerror: (?!torch)[^\n]+\n<<< 2\s*")
    assert [case for case in cases if not told.fullmatch(case)] == []
    argument = re.compile(r"\nerror: (?!nope:)[a-z_]+:|\b[a-z_]+=")  # nope: a file of that name
    assert [case for case in cases if argument.search(case)] == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("forecast x.npy --beta 0.1,", "with a comma between any two. Pass --beta 0.1, or e.g."),
        ("forecast x.npy --beta 1,1", "--beta: got 1 twice in '1,1'; expected different values."),
        ("forecast x.npy --beta 0.1 0.2", "commas between them and no spaces: --beta 0.1,0.2."),
        ("forecast x.npy --eta-dec 1:2", "--eta-dec: got '1:2'; expected one number"),
        ("train x.npy --seed 1:2", "--seed: got '1:2'; expected one number"),
        ("forecast", "Missing argument 'data'. Pass a data set's name or a file, e.g. digits."),
        ("forcast x.npy", "See collapse --help."),
        ("reproduce nope", "X1, X2, X3, X3a, X3b, X3c, X3d, X3e, X3f, X3g."),
        ("effective-beta x.npy --batch-size -1", "--batch-size: got -1; expected a whole number"),
    ],
)
def test_a_slip_is_told_with_what_to_type(run, line: str, said: str) -> None:
    status, told = run(line)
    assert status == 2
    assert told.startswith("error: ")
    assert said.casefold() in told.casefold()  # older parsers shout names


def test_options_are_understood_with_underscores(run) -> None:
    assert run("forecast x.npy --eta_dec 0.5")[1] == run("forecast x.npy --eta-dec 0.5")[1]
