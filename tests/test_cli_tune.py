"""`collapse tune`: what it prints, its JSON, its folder, and one line for every mistake."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest

import posterior_collapse as pc
from commands import ends, printed
from posterior_collapse.runs.store import Store

G = np.random.default_rng(7)
X = G.standard_normal((300, 5)) * [4, 2, 1, 0.3, 0.1]


@pytest.fixture
def run(run, monkeypatch):
    """Run `collapse tune` in a folder with data; return status, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    np.save("x.npy", X)
    np.save("given.npy", X[:, :1] + 2 * G.standard_normal((300, 1)))
    return lambda line: run("tune", *shlex.split(line))


def test_of_a_network_it_says_how_it_was_trained(run) -> None:
    status, out, _ = run("x.npy --latents 3 --hidden 4 --active 2 --seeds 1 --steps 8")
    assert status == 0
    assert "at learning rate 0.003 in batches of 128" in " ".join(out.split())
    assert "Note: " in out


LINEAR = "x.npy --latents 4 --architecture linear --exact --seeds 2"


def test_it_says_which_beta_keeps_the_units_and_shows_the_curve(run, tmp_path) -> None:
    status, out, _ = run(f"{LINEAR} --active 2 --plot curve.png")
    assert status == 0
    assert "x.npy: 300 x 5 float64, used as they are" in out
    assert "this network keeps 2 of 4 units, from 2 seeds" in " ".join(out.split())
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_its_json_is_what_the_function_returns(run) -> None:
    status, out, _ = run(f"{LINEAR} --active 2 --json")
    assert status == 0
    found = json.loads(out)
    spec = pc.VAESpec(4)
    same = pc.tune(pc.load("x.npy"), spec, "linear", active=2, exact=True, seeds=2)
    assert found.pop("data") == {
        "name": "x.npy", "note": "300 x 5 float64, used as they are", "samples": 300,
    }  # fmt: skip
    assert found == same.to_dict()
    assert 1 < found["spec"]["beta"] < 4


def test_latents_and_conditions(run) -> None:
    status, out, _ = run(f"{LINEAR} --tune latents --beta 2 --given given.npy --json")
    assert status == 0
    found = json.loads(out)
    assert found["spec"]["model"] == "cvae"
    assert found["parameter"] == "latent_dim"
    assert found["spec"]["latent_dim"] == found["wanted"] == 2


HIERARCHY = f"{LINEAR} --model hvae --sigma-1 0.6 --eta-dec 0.7 --seeds 1"


def test_of_a_hierarchy_the_answer_is_in_the_options_that_were_used(run) -> None:
    status, out, _ = run(f"{HIERARCHY} --active 2 --beta 2:1")
    assert status == 0
    said = " ".join(out.split())
    assert "this network keeps 2 of 4 units of z2" in said
    beta = re.search(r"With beta_2 (\S+) this network", said)
    assert beta is not None
    assert f"As options: --beta 2:{beta[1]}" in said
    status, out, _ = run(f"{HIERARCHY} --active 2 --level 1 --beta-2 40")
    assert status == 0
    assert re.search(r"As options: --beta-1 \S+ --beta-2 40\n", out)


def test_a_folder_keeps_what_was_trained(run, tmp_path) -> None:
    line = f"{LINEAR} --active 2 --out kept --json"
    first = run(line)[1]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*/run.json")}
    assert before
    assert run(line)[1] == first
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_it_kept_is_diagnosed_on_its_data_read_as_they_were(
    run, capsys, monkeypatch, tmp_path
) -> None:
    np.savetxt("x.csv", X, delimiter=",", header="a,b,c,d,e", comments="")
    how = "--latents 2 --active 1 --exact --seeds 1 --drop e --standardize --out kept"
    assert run(f"x.csv {how}")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    line = re.search(r"collapse (diagnose \S+)$", printed(capsys, "diagnose", "../kept"))
    assert line is not None  # by which the first run is shown with its units
    one = json.loads(printed(capsys, *line[1].split(), "--json"))
    standardized = (X - X.mean(0))[:, :4] / X.std(0)[:4]
    key = line[1].split("/")[-1]
    same = pc.diagnose(Store(tmp_path / "kept").get(key).model, standardized)
    np.testing.assert_allclose(one["levels"][0]["kl"], same.levels[0].kl, rtol=1e-9)
    assert not any("other values" in note for note in one["notes"])
    np.savetxt("../x.csv", X**3, delimiter=",", header="a,b,c,d,e", comments="")
    assert "other values than those the run was trained on" in printed(capsys, *line[1].split())
    (tmp_path / "x.csv").unlink()
    assert "x.csv: got no such file" in ends(capsys, *line[1].split())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x.npy --latents 4 --active 5", "active: got 5; expected at most 4, the latent units"),
        ("x.npy --latents 9 --active 6", "active: got 6; expected at most 5, the modes"),
        ("x.npy --steps 6 --epochs 5", "--steps: got 6 beside --epochs; expected one of the two"),
        ("x.npy --tune sigma", "tune: got 'sigma'"),
        ("x.npy --model hvae --latents 3:2 --active 3", "at most 2, the latent units of z2"),
        ("x.npy --model hvae --latents 3:2 --level 3", "level: got 3; expected at most 2"),
        ("x.npy --latents 4 --active 2 --plot curve.txt", "curve.txt"),
        ("nowhere.npy --active 2", "nowhere.npy"),
        ("x.npy --active 2 --exact --clip 1", "--clip: got a value beside --exact"),
        ("x.npy --architecture mpl", "mpl"),
        ("x.npy --active 2 --hidden wide", "--hidden: got 'wide'"),
    ],
)
def test_every_mistake_is_one_line(run, line: str, words: str) -> None:
    status, out, err = run(line)
    assert status == 2
    assert out == ""
    assert words in err
    assert len(err.strip().splitlines()) == 1
