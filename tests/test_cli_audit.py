"""`collapse audit` and `collapse effective-beta`: what a loss asks for, from the shell."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import posterior_collapse as pc
from fresh import NO_TORCH, output, python

LOSSES = '''
"""Two losses, in a file that says things when it is run."""
import torch
from beside import half

print("imported")

def loss(y_hat, y, mean, log_var):
    kl = half * (mean**2 + log_var.exp() - 1 - log_var).sum(1)
    return ((y - y_hat) ** 2).mean() + 0.01 * kl.mean()

def bernoulli(y_hat, y, mean, log_var):
    kl = half * (mean**2 + log_var.exp() - 1 - log_var).sum()
    return torch.nn.functional.binary_cross_entropy_with_logits(y_hat, y, reduction="sum") + 4 * kl

weight = 3

class Model(torch.nn.Module):
    beta = 4.0

    def loss(self, y_hat, y, mean, log_var):
        return loss(y_hat, y, mean, log_var) * self.beta

model = Model()
model.inner = Model()
'''


@pytest.fixture
def run(run, tmp_path: Path):
    (tmp_path / "losses.py").write_text(LOSSES)
    (tmp_path / "beside.py").write_text("half = 0.5\n")
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "wrong.py").write_text("def f(:\n")

    def command(*arguments: str) -> tuple[int, str, str]:
        found = run(*arguments)
        sys.modules.pop("beside", None)
        return found

    return command


def test_a_loss_alone(run) -> None:
    status, out, err = run("audit", "losses.py:loss", "--features", "64", "--latents", "8")
    assert (status, err) == (0, "imported\n")  # its own prints are not the answer
    lines = out.splitlines()
    assert lines[0].startswith("beta * eta_dec^2 = 0.32: this loss has beta = 0.32")
    assert lines[1].startswith("- The squared error is a mean over 64 features")
    assert len(lines) == 2


@pytest.mark.parametrize("name", ["model.loss", "model.inner.loss", "model.forward.__self__.loss"])
def test_a_method_of_a_model(run, name: str) -> None:
    status, out, _ = run("audit", f"losses.py:{name}", "--features", "64")
    assert (status, out[:23]) == (0, "beta * eta_dec^2 = 0.32")


def test_a_file_whose_annotations_are_text_has_data_classes(run, tmp_path: Path) -> None:
    lines = ["from __future__ import annotations", "import dataclasses", "@dataclasses.dataclass"]
    lines += ["class Weights:", "    kl: float = 4.0", LOSSES]
    (tmp_path / "dated.py").write_text("\n".join(lines))
    status, out, _ = run("audit", "dated.py:loss", "--features", "64")
    assert (status, out[:23]) == (0, "beta * eta_dec^2 = 0.32")


def test_more_units_than_the_model_has(run) -> None:
    _, out, _ = run("audit", "losses.py:loss", "digits", "--latents", "8", "--active", "20")
    assert "Give the model at least 20 latent units. Lower your weight from 0.01 to " in out


def test_a_loss_on_data(run) -> None:
    status, out, _ = run("audit", "losses.py:loss", "digits", "--latents", "8", "--active", "6")
    assert status == 0
    assert "pixels divided by 16" in out
    assert "a linear model keeps 4 of 8 units" in out
    assert "above 2.18 times the weight total collapse is stable" in out
    assert out.splitlines()[-1].startswith("Advice: Lower your weight from 0.01 to 0.00721 ")


def test_json_is_whole(run) -> None:
    _, out, _ = run("audit", "losses.py:bernoulli", "digits", "--latents", "8", "--json")
    found = json.loads(out)
    assert (found["likelihood"], found["link"], found["value"]) == ("bernoulli", "logits", 4.0)
    assert found["forecast"]["onset"] / found["beta"] == pytest.approx(0.838, abs=1e-3)
    assert found["findings"][-1]["code"] == "all-collapse"
    assert found["advice"].startswith("Lower your weight from 4 to 0.954 ")


def test_images_and_what_the_author_thinks(run) -> None:
    _, out, _ = run(
        "audit", "losses.py:loss", "--features", "1,8,8", "--beta", "0.01", "--batch-size", "32"
    )
    assert "32 times the 0.01 you expect" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("losses.py:los --features 64", "Did you mean 'loss'?"),
        ("losses.py:model.los --features 64", "model: got nothing named 'los' in it"),
        ("losses.py:Model.loss --features 64", "and pass losses.py:model.loss."),
        ("losses.py:model. --features 64", "Pass train.py:loss."),
        ("losses.py --features 64", "Pass train.py:loss."),
        ("losses.txt:loss --features 64", "Pass train.py:loss."),
        ("nowhere.py:loss --features 64", "nowhere.py: got no such file"),
        ("losses.py:loss", "Pass --features 784."),
        ("losses.py:weight --features 64", "loss: got int"),
        ("losses.py:loss --features x", "--features: got 'x'"),
        ("losses.py:loss --features 64 --std", "Pass log_var=True"),
        ("broken.py:loss --features 64", "ModuleNotFoundError"),
        ("exits.py:loss --features 64", "SystemExit (3) when run"),
        ("wrong.py:f --features 64", "SyntaxError"),
        ("losses.py:loss digits --features 784", "data: got 64 features; expected 784"),
        ("losses.py:loss digits --active 0", "active: got 0"),
        ("losses.py:loss --features 64 --active 3", "--active: got a value without DATA"),
        ("losses.py:loss --features 64 --scale 2", "--scale: got a value without DATA"),
        ("losses.py:loss --features 64 --eta-dec 2", "--eta-dec: got a value without --beta"),
    ],
)
def test_mistakes_are_one_line(run, arguments: str, said: str) -> None:
    status, out, err = run("audit", *arguments.split())
    assert (status, out) == (2, "")
    (line,) = (line for line in err.splitlines() if line != "imported")
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "negative-binomial"])
def test_effective_beta_and_straight_into_a_forecast_of_that_likelihood(run, likelihood) -> None:
    options = ("--likelihood", likelihood, "--reconstruction", "mean", "--weight", "0.05")
    status, out, _ = run("effective-beta", "digits", *options, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["effective_beta"] == {
        "beta": pytest.approx(3.2),
        "error_weight": 1 / 64,
        "kl_weight": 0.05,
        "likelihood": likelihood,
    }
    spec = pc.VAESpec(16, beta=3.2, likelihood=likelihood)
    assert found["onset"] == pytest.approx(pc.forecast(pc.load("digits").x, spec).onset)
    _, out, _ = run("effective-beta", *options, "--features", "64")
    assert out.startswith("beta = 3.2: your loss is -log p(y|z) + 3.2 KL")


def test_a_mean_over_positions(run, tmp_path: Path) -> None:
    rows = ["1,0,0,1", "0,1,0,1", "1,0,1,0", "0,1,0,1"]
    (tmp_path / "tokens.csv").write_text("\n".join(rows))
    options = ("--likelihood", "categorical", "--reconstruction", "mean", "--latents", "1")
    _, out, _ = run("effective-beta", "tokens.csv", "--no-header", *options, "--json")
    assert json.loads(out)["effective_beta"]["beta"] == 2


def test_effective_beta_never_imports_torch() -> None:
    check = (
        "from posterior_collapse.cli import main; "
        "main(['effective-beta', 'digits', '--likelihood', 'bernoulli', '--latents', '2'])"
    )
    output(NO_TORCH + check)


def test_audit_without_torch_says_so(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(LOSSES)
    check = (
        "from posterior_collapse.cli import main; "
        "main(['audit', 'losses.py:loss', '--features', '64'])"
    )
    done = python(NO_TORCH + check, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: torch: got no such library")
