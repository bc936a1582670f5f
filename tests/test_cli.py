"""The command: what it prints, its exit status, and one line for every mistake."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import posterior_collapse as pc
from posterior_collapse.cli.app import app

RNG = np.random.default_rng(5)


def test_forecast_of_digits_says_it_all(run) -> None:
    status, out, err = run("forecast", "digits", "--latents", "16", "--eta-dec", "0.3")
    assert (status, err) == (0, "")
    assert "pixels divided by 16" in out
    assert "z1: 12 of 16 units active" in out
    assert out.count("active") > 12
    assert out.count("collapsed") == 4
    assert "12 of 16 units survive; 4 collapse" in out
    assert "Lower beta from 1 to 0.735" in " ".join(out.split())


def test_json_is_the_forecast_of_the_library(run) -> None:
    arguments = ["--model", "hvae", "--latents", "6:4", "--beta", "1:2", "--eta-dec", "0.3"]
    status, out, _ = run("forecast", "digits", *arguments, "--sigma-1", "0.4", "--json")
    found = json.loads(out, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    spec = pc.HVAESpec((6, 4), (1.0, 2.0), 0.3, sigma_1=0.4)
    f = pc.forecast(pc.load("digits").x, spec)
    assert status == 0
    assert found["loss"] == f.loss
    assert pc.Spec.from_dict(found["spec"]) == spec
    assert [level["n_active"] for level in found["levels"]] == [
        level.n_active for level in f.levels
    ]
    assert found["levels"][1]["kl"] == f.levels[1].kl.tolist()
    assert found["data"]["samples"] == 1797
    assert found["advice"]["text"]


def test_several_betas_make_a_table(run, tmp_path: Path) -> None:
    x = pc.load("digits").x
    numbers = ["--latents", "16", "--eta-dec", "0.3", "--beta", "0.5,1,2,8"]
    status, out, err = run("forecast", "digits", *numbers)
    rows = [line.split() for line in out.splitlines() if " of 16 " in line]
    expected = [pc.forecast(x, pc.VAESpec(16, b, 0.3)) for b in (0.5, 1.0, 2.0, 8.0)]
    assert (status, err) == (0, "")
    assert [(row[0], int(row[1]), int(row[4])) for row in rows] == [
        (f"{f.spec.beta:g}", f.n_active, f.n_possible) for f in expected
    ]
    assert {row[-1] for row in rows} == {f"{expected[0].onset:.3g}"}
    assert "none above beta" in out
    status, out, _ = run("forecast", "digits", *numbers, "--json")
    assert [found["loss"] for found in json.loads(out)["forecasts"]] == [f.loss for f in expected]
    status, _, err = run("forecast", "digits", *numbers, "--plot", "a.png")
    assert status == 2
    assert "--plot: got given with several values" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
@pytest.mark.parametrize("model", ["vae", "hvae"])
def test_plot_is_written_whole(run, tmp_path: Path, ending: str, model: str) -> None:
    status, out, _ = run("forecast", "digits", "--model", model, "--plot", f"out.{ending}")
    assert status == 0
    assert f"out.{ending}" in out
    head = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert (tmp_path / f"out.{ending}").read_bytes().startswith(head)
    assert [p.name for p in tmp_path.iterdir()] == [f"out.{ending}"]


def test_figure_shows_the_forecast() -> None:
    f = pc.forecast(pc.load("digits").x, pc.VAESpec(16, eta_dec=0.3))
    spectrum, stairs = pc.plot(f).axes
    lines = {line.get_label(): line for line in spectrum.get_lines()}
    np.testing.assert_allclose(lines["active unit"].get_ydata(), f.spectrum[:12])
    np.testing.assert_allclose(lines["collapsed unit"].get_ydata(), f.spectrum[12:16])
    np.testing.assert_allclose(lines["threshold"].get_ydata(), 0.09)
    assert len(lines["threshold"].get_ydata()) > len(f.spec.dims) + 16  # through modes without unit
    drawn = {line.get_label(): line for line in stairs.get_lines()}
    here = drawn["you are here"]
    assert (here.get_xdata()[0], here.get_ydata()[0]) == pytest.approx((0.09, 12))
    steps = drawn["active units"]
    for product, count in zip(steps.get_xdata(), steps.get_ydata(), strict=True):
        # Just beyond an edge, where the unit that dies there has died.
        beta = 1.0001 * product / 0.09
        assert pc.forecast(pc.load("digits").x, f.spec.replace(beta=beta)).n_active == count
    assert steps.get_ydata()[0] == 16
    assert steps.get_ydata()[-1] == 0


def digits(**options) -> pc.Dataset:
    return pc.load("digits", **options)


def pair(dataset: pc.Dataset) -> pc.Moments:
    return pc.Moments.from_arrays(dataset.x, dataset.y)


@pytest.mark.parametrize(
    ("arguments", "data", "spec"),
    [
        ("--task half --latents 8", lambda: pair(digits(task="half")), pc.CVAESpec(8)),
        (
            "--task quarter --model cvae --latents 8 --sigma 0.5",
            lambda: pair(digits(task="quarter")),
            pc.CVAESpec(8, sigma=0.5),
        ),
        (
            "--label 3 --eta-dec learned",
            lambda: digits(label=3).x,
            pc.VAESpec(16, eta_dec="learned"),
        ),
        (
            "--no-biases --sigma shared --eta-enc 2",
            lambda: pc.Moments.from_arrays(digits().x, center=False),
            pc.VAESpec(16, eta_enc=2.0, sigma="shared"),
        ),
        (
            "--latents 3 --sigma 0.3:0.4:0.5 --beta 0.5",
            lambda: digits().x,
            pc.VAESpec(3, 0.5, sigma=(0.3, 0.4, 0.5)),
        ),
        (
            "--model hvae --sigma-1 learned --latents 4:3 --beta 1:2",
            lambda: digits().x,
            pc.HVAESpec((4, 3), (1.0, 2.0), sigma_1="learned", sigma_2="learned"),
        ),
        (
            "--task half --cross-fit 3 --latents 4",
            lambda: pc.cross_fitted_residuals(
                digits(task="half").x, digits(task="half").y, folds=3
            ),
            pc.VAESpec(4),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_mean_what_the_library_means(run, arguments: str, data, spec: pc.Spec) -> None:
    status, out, err = run("forecast", "digits", *arguments.split(), "--json")
    assert status == 0, err
    found, expected = json.loads(out), pc.forecast(data(), spec)
    assert pc.Spec.from_dict(found["spec"]) == spec
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-9)


def test_active_asks_for_that_many(run) -> None:
    _, out, _ = run("forecast", "digits", "--latents", "4", "--active", "2")
    assert "2 wanted" in out


def test_fixed_sigma_keeps_a_kl_that_says_nothing(run) -> None:
    _, out, _ = run("forecast", "digits", "--latents", "4", "--sigma", "2", "--json")
    found = json.loads(out)
    assert found["levels"][0]["status"] == ["collapsed"] * 4
    constant = 0.5 * (4 - 1 - np.log(4))
    np.testing.assert_allclose(found["levels"][0]["kl"], constant)
    assert f"keep a KL of up to {constant:.3g} nats" in found["notes"][-1]


def test_files_and_conditions(run) -> None:
    x, y = RNG.standard_normal((300, 3)), RNG.standard_normal((300, 2))
    np.save("y.npy", y)
    np.save("x.npy", x)
    np.savez("both.npz", x=x, y=y)
    _, given, _ = run("forecast", "y.npy", "--given", "x.npy", "--latents", "2", "--json")
    _, both, _ = run("forecast", "both.npz", "--model", "cvae", "--latents", "2", "--json")
    expected = pc.forecast(pc.Moments.from_arrays(x, y), pc.CVAESpec(2)).loss
    assert json.loads(given)["loss"] == pytest.approx(expected)
    assert json.loads(both)["loss"] == pytest.approx(expected)


def test_scale_is_explicit(run) -> None:
    pixels = RNG.integers(0, 256, (50, 4)).astype(np.uint8)
    np.save("pixels.npy", pixels)
    _, out, _ = run("forecast", "pixels.npy", "--latents", "2", "--scale", str(1 / 255), "--json")
    expected = pc.forecast(pixels / 255, pc.VAESpec(2)).loss
    assert json.loads(out)["loss"] == pytest.approx(expected)


def test_effective_beta_and_straight_into_a_forecast(run) -> None:
    status, out, _ = run("effective-beta", "--reconstruction", "mean", "--features", "784")
    assert status == 0
    assert "beta * eta_dec^2 = 392" in out
    _, out, _ = run("effective-beta", "digits", "--reconstruction", "mean", "--json")
    found = json.loads(out)
    assert found["effective_beta"]["beta_eta_dec_squared"] == 32
    assert found["levels"][0]["n_active"] == 0


def test_verify(run) -> None:
    status, out, _ = run("verify", "E14", "--restarts", "2")
    assert status == 0
    assert "agrees" in out
    assert "1 of 1 problems agree" in out
    _, out, _ = run("verify", "vae-learned", "--problems", "2", "--restarts", "3", "--json")
    results = json.loads(out)
    assert [r["agrees"] for r in results] == [True, True]
    assert all(abs(r["loss_gap"]) < 1e-9 for r in results)


def test_data_list_and_fetch(run) -> None:
    status, out, _ = run("data", "list")
    assert status == 0
    assert all(name in out for name in ("digits", "mnist", "fashion-mnist", "pairs"))
    status, out, _ = run("data", "fetch", "pairs:random")
    assert status == 0
    assert "nothing to fetch" in out


def bad_files() -> None:
    bad = RNG.standard_normal((6, 3))
    bad[4, 1] = np.nan
    np.save("nan.npy", bad)
    np.save("empty.npy", np.empty((0, 3)))
    np.save("flat.npy", np.arange(5.0))
    np.save("complex.npy", np.ones((4, 2), complex))
    np.save("one.npy", np.ones((1, 3)))
    np.save("constant.npy", np.ones((5, 3)))
    np.save("good.npy", RNG.standard_normal((6, 3)))
    np.save("short.npy", RNG.standard_normal((5, 2)))
    Path("text.csv").write_text("a,b\n1,2\n3,dog\n")
    Path("void.csv").write_text("")
    Path("folder").mkdir()
    Path("file").write_text("x")
    packed = gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 100) + bytes(100))
    for folder, content in (
        ("cut", packed[:-20]),
        ("magic", gzip.compress(b"\x01\x02\x03\x04" + bytes(50))),
        ("html", b"<!DOCTYPE html><html>moved</html>"),
    ):
        Path(folder).mkdir()
        for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
            (Path(folder) / name).write_bytes(content)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("forecast nan.npy", "x: got nan at row 4, column 1 (counted from 0)"),
        ("forecast empty.npy", "empty"),
        ("forecast flat.npy", "reshape"),
        ("forecast complex.npy", "complex"),
        ("forecast one.npy", "a single sample"),
        ("forecast constant.npy", "constant"),
        ("forecast text.csv", "'b'"),
        ("forecast void.csv", "void.csv"),
        ("forecast good.npy --given short.npy", "6"),
        ("forecast good.npy --given nothing.npy", "nothing.npy"),
        ("forecast missing.npy", "missing.npy"),
        ("forecast minst", "Did you mean 'mnist'"),
        ("forecast folder", "folder: got a folder"),
        ("forecast mnist --data-dir cut", "train-images-idx3-ubyte.gz"),
        ("forecast mnist --data-dir magic", "train-images-idx3-ubyte.gz"),
        ("forecast mnist --data-dir html", "HTML"),
        ("forecast digits --latents 0", "--latents: got 0"),
        ("forecast digits --latents x", "--latents: got 'x'"),
        ("forecast digits --latents 2,3", "--latents: got 2 values"),
        ("forecast digits --beta 0", "beta: got 0.0"),
        ("forecast digits --beta nan", "beta: got nan"),
        ("forecast digits --eta-dec -1", "--eta-dec: got -1.0"),
        ("forecast digits --eta-dec inf", "--eta-dec: got"),
        ("forecast digits --eta-dec guess", "'learned'"),
        ("forecast digits --eta-enc 0", "--eta-enc: got 0.0"),
        ("forecast digits --sigma 1:2", "sigma: got 2 values; expected 16"),
        ("forecast digits --sigma lerned", "Did you mean 'learned'"),
        ("forecast digits --model hvae --sigma 0.5", "--sigma-1 and --sigma-2"),
        ("forecast digits --eta-dec 1e200", "--eta-dec: got 1e+200"),
        ("effective-beta digits --reconstruction mean --features 10", "--features: got 10"),
        ("forecast digits --model vea", "Did you mean 'vae'"),
        ("forecast digits --model cvae", "--task quarter"),
        ("forecast digits --task third", "third"),
        ("forecast digits --sigma-1 0.5", "--model hvae"),
        (
            "forecast digits --model hvae --beta 2:1 --sigma-1 learned",
            "--beta-2: got 1.0, below beta_1 = 2.0",
        ),
        ("forecast digits --model hvae --latents 2:2 --sigma-1 1:2 --sigma-2 1:2", "known"),
        ("forecast digits --latents 70 --beta 0.5 --eta-dec learned", "falls without end"),
        ("forecast digits --label 12", "12"),
        ("forecast digits --active 0", "active: got 0"),
        ("forecast digits --cross-fit 5", "--cross-fit"),
        ("forecast good.npy --scale 0", "scale"),
        ("forecast digits --plot out.gif", ".png"),
        ("forecast digits --plot nowhere/out.png", "no such folder"),
        ("forecast digits --plot file/out.png", "file/out.png"),
        ("forecast digits --no-such-option", "No such option"),
        ("forecast", "Missing argument"),
        ("effective-beta --reconstruction mean", "features: got nothing"),
        ("effective-beta --weight -1", "weight: got -1.0"),
        ("verify E9", "case: got 'E9'"),
        ("verify --problems 0", "problems"),
        ("data fetch minst", "Did you mean 'mnist'"),
        ("nonsense", "No such command"),
    ],
)
@pytest.mark.filterwarnings("ignore::posterior_collapse.data.ChecksumWarning")
def test_mistakes_are_one_line_and_exit_status_two(run, tmp_path: Path, arguments, said) -> None:
    bad_files()
    before = sorted(p.name for p in tmp_path.rglob("*"))
    status, out, err = run(*arguments.split())
    assert status == 2, out
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_version_and_help(run) -> None:
    assert run("--version")[1].strip()
    _, out, _ = run("--help")
    assert all(name in out for name in ("forecast", "effective-beta", "verify", "data"))


def options_of(command: Any, name: str = "") -> dict[str, dict[str, str | None]]:
    """Default of each option by its names, by command."""
    if hasattr(command, "commands"):
        each = [options_of(one, f"{name} {part}") for part, one in command.commands.items()]
        return {key: found for one in each for key, found in one.items()}
    options = {
        " ".join([*one.opts, *one.secondary_opts]): (
            None if one.default is None else str(one.default)
        )
        for one in command.params
    }
    return {name.strip(): options}


def test_every_option_stays() -> None:
    """Scripts name them: one may be added, and then added here, but none goes or changes."""
    known = json.loads((Path(__file__).parent / "cli_options.json").read_text())
    found = options_of(typer.main.get_command(app))
    for command, options in known.items():
        assert {name: found[command].get(name, "gone") for name in options} == options


@pytest.mark.parametrize("task", [[], ["--task", "half"]])
def test_long_data_are_read_in_pieces_to_the_same_end(run, monkeypatch, task) -> None:
    from posterior_collapse.cli import forecast_command

    _, whole, _ = run("forecast", "digits", "--json", *task)
    monkeypatch.setattr(forecast_command, "_is_long", lambda dataset: True)
    _, pieces, _ = run("forecast", "digits", "--json", *task)
    assert json.loads(pieces)["loss"] == pytest.approx(json.loads(whole)["loss"], rel=1e-12)
