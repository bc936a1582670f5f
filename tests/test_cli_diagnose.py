"""`collapse diagnose`: what it prints of a run and of arrays, and one line for every mistake."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import posterior_collapse as pc
from commands import collapse
from posterior_collapse.diagnosis import diagnose, diagnose_arrays
from posterior_collapse.experiments import Executor
from posterior_collapse.experiments.data import clusters
from posterior_collapse.models import Architecture, rebuild
from posterior_collapse.report import save_figure
from posterior_collapse.runs import Run, RunData, Store, complete
from posterior_collapse.runs.kept import swept
from posterior_collapse.training import Settings, checkpoints

TRAIN = ("train", "digits", "--architecture", "linear", "--exact", "--eta-dec", "0.3")
SCALE = np.array([1.0, 0.0, 0.6, 0.0])


def call(capsys, *arguments):
    status = collapse(*arguments)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A linear model of 16 units at its optimum, of which 12 live, as `collapse train` left it."""
    folder = tmp_path_factory.mktemp("runs") / "linear"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        collapse(*TRAIN, "--latents", "16", "--out", str(folder), "--json")
    return folder


@pytest.fixture
def arrays():
    """A posterior of which units 0 and 2 live."""
    mean = np.random.default_rng(0).standard_normal((1000, 4)) * SCALE
    return {"mean": mean, "std": np.sqrt(1.01 - SCALE**2)}


def test_a_run_is_diagnosed_on_its_own_data(run, trained):
    status, out, err = run("diagnose", trained)
    assert (status, err) == (0, "")
    assert "on digits: 1,797 x 64 float64, pixels divided by 16" in " ".join(out.split())
    assert "z1: 12 of 16 units active" in out
    words = " ".join(out.split())
    assert "12 of 16 units active, 4 collapsed: this collapse is optimal" in words
    assert "lower beta from 1 to" in words
    assert "the linear optimum keeps 12" in words
    assert "Note" not in out
    assert "\u2026" not in out  # nothing was cut


def test_json_is_the_diagnosis_of_the_library(run, trained):
    status, out, _ = run("diagnose", trained, "--json", "--epsilon", "0.2", "--seed", "3")
    found = json.loads(out, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    saved = checkpoints.load(trained)
    model = rebuild(saved.meta["config"])
    own = {n: v for n, v in saved.tensors.items() if n.startswith("model.")}
    model.load_state_dict({n.removeprefix("model."): v for n, v in own.items()})
    expected = diagnose(model.eval(), pc.load("digits"), epsilon=0.2, seed=3)
    assert status == 0
    assert found["data"]["samples"] == 1797
    assert found["nll"] == expected.nll
    assert found["levels"][0]["status"] == list(expected.levels[0].status)
    assert found["levels"][0]["kl"] == expected.levels[0].kl.tolist()
    assert found["verdict"] == expected.verdict
    assert found["conclusion"] == "collapse-optimal"
    assert [finding["code"] for finding in found["advice"]] == [f.code for f in expected.advice]
    assert pc.Spec.from_dict(found["spec"]) == pc.VAESpec(16, eta_dec=0.3)


def test_a_run_that_overfits_is_told_so_on_other_rows(run):
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((2, 8))
    for name, rows in (("seen", 60), ("others", 1000)):
        noise = 0.3 * rng.standard_normal((rows, 8))
        np.save(f"{name}.npy", np.tanh(rng.standard_normal((rows, 2)) @ mixing) + noise)
    net = ["--latents", "3", "--eta-dec", "0.3", "--epochs", "400", "--batch-size", "60"]
    assert run("train", "seen.npy", *net, "--lr", "0.01", "--out", "run")[0] == 0
    for rows, told in ((["--data", "others.npy"], True), ([], False)):
        status, out, _ = run("diagnose", "run", *rows)
        assert status == 0
        assert ("The model overfits: " in out) is told
    summary = json.loads(Path("run/summary.json").read_text())
    for measured in ({}, {"loss": None, "loss_error": 0.1}, {"loss": "1", "loss_error": 1.0}, [1]):
        Path("run/summary.json").write_text(json.dumps({**summary, "measured": measured}))
        status, out, _ = run("diagnose", "run", "--data", "others.npy")
        assert status == 0
        assert "overfits" not in out


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_figure_is_written_whole(run, trained, tmp_path, ending):
    status, out, _ = run("diagnose", trained, "--plot", f"out.{ending}")
    head = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert status == 0
    assert f"Figure: out.{ending}" in out
    assert (tmp_path / f"out.{ending}").read_bytes().startswith(head)
    assert [path.name for path in tmp_path.iterdir()] == [f"out.{ending}"]


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "hvae", "--latents", "4", "--beta", "1:2"),
        ("--task", "half", "--latents", "4", "--convention", "reference"),
    ],
    ids=["hvae", "cvae"],
)
def test_networks_of_every_model(run, options):
    training = ("train", "digits", "--hidden", "16", "--epochs", "2", "--out", "run")
    run(*training, *options)
    status, out, err = run("diagnose", "run", "--importance-samples", "20", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["nll"] > 0
    assert 1 <= found["effective_sample_size"] <= 20
    assert len(found["levels"]) == (2 if "hvae" in options else 1)
    if "reference" in options:  # the KL counts half of what beta says
        assert found["spec"]["beta"] == 0.5
        assert any("under the convention" in note for note in found["notes"])


def test_what_is_not_as_one_expects_is_noted(run, trained, tmp_path):
    data, new = tmp_path / "data.npy", tmp_path / "run"
    x = np.random.default_rng(0).standard_normal((200, 5))
    np.save(data, x)
    run("train", data, "--epochs", "2", "--latents", "2", "--out", new)
    checkpoint = checkpoints.load(new)
    checkpoint.meta["run"]["stopped"] = None
    checkpoints.save(new, checkpoint.tensors, checkpoint.meta, step=checkpoint.step)
    np.save(data, 2 * x)
    status, out, _ = run("diagnose", new)
    words = " ".join(out.split())
    assert status == 0
    assert "Note: the run has not ended; this is its state at step 4." in words
    assert "Note: the data have other values than those the run was trained on." in words


def test_arrays_are_diagnosed_without_a_model(run, arrays):
    np.savez("posterior.npz", **arrays)
    status, out, err = run("diagnose", "posterior.npz")
    assert (status, err) == (0, "")
    assert out.startswith("posterior.npz: arrays mean, std\n")
    assert "2 of 4 units active, 2 collapsed" in out
    _, out, _ = run("diagnose", "posterior.npz", "--json")
    expected = diagnose_arrays(**arrays)
    assert json.loads(out)["levels"][0]["information"] == expected.levels[0].information.tolist()


def test_a_log_variance_and_a_prior_say_the_same(run, arrays):
    np.savez("a.npz", **arrays)
    log_var = 2 * np.log(3 * arrays["std"])
    np.savez("b.npz", mean=3 * arrays["mean"] + 1, log_var=log_var, prior_mean=1.0, prior_std=3.0)
    a, b = (json.loads(run("diagnose", f"{name}.npz", "--json")[1]) for name in "ab")
    np.testing.assert_allclose(a["levels"][0]["kl"], b["levels"][0]["kl"], atol=1e-12)
    assert a["levels"][0]["status"] == b["levels"][0]["status"]


def test_arrays_with_data_and_spec_have_a_forecast(run, arrays):
    rng = np.random.default_rng(1)
    x = arrays["mean"] @ rng.standard_normal((4, 6)) + rng.standard_normal((1000, 6)) / 3
    np.savez("posterior.npz", **arrays, data=x)
    _, out, _ = run("diagnose", "posterior.npz", "--beta", "2", "--eta-dec", "0.4", "--json")
    spec = pc.VAESpec(4, beta=2.0, eta_dec=0.4)
    found = json.loads(out)
    assert pc.Spec.from_dict(found["spec"]) == spec
    assert found["forecast"]["loss"] == pytest.approx(pc.forecast(x, spec).loss, rel=1e-12)
    _, out, _ = run("diagnose", "posterior.npz")
    assert "pass --beta and --eta-dec" in " ".join(out.split())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": None, "centre": np.zeros((5, 4))}, "mean, and one of std and log_var"),
        ({"std": None, "sigma": np.zeros(4)}, "Rename sigma to std, if it is no variance."),
        ({"mean": None, "mu": np.full((5, 4), np.nan)}, "mean: got nan at row 0"),
        ({"log_var": np.zeros(4)}, "mean, and one of std and log_var"),
        ({"std": -np.ones(4)}, "pass log_var="),
        ({"std": np.ones(3)}, "std: got shape (3,)"),
        ({"mean": np.zeros(4)}, "mean: got shape (4,)"),
        ({"mean": np.array(1.0)}, "mean: got shape ()"),
        ({"mean": np.full((5, 4), np.nan)}, "mean: got nan at row 0"),
        ({"mean": np.array([["a"]])}, "mean: got"),
        ({"mean": np.array([{}])}, "never loaded"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(run, arrays, change, words):
    kept = {k: v for k, v in {**arrays, **change}.items() if v is not None}
    np.savez("posterior.npz", **kept)
    status, out, err = run("diagnose", "posterior.npz", "--plot", "out.png", "--beta", "1")
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not Path("out.png").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npz", b"", "an empty file"),
        ("a.npz", b"<!doctype html>", "an HTML page"),
        ("a.npz", b"\x93NUMPY no archive", "not a zip file"),
        ("a.npz", None, "no such file"),
    ],
)
def test_files_that_are_no_archive_are_refused(run, name, content, words):
    if content is not None:
        Path(name).write_bytes(content)
    status, out, err = run("diagnose", name)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--beta", "1"], "--beta: got a value; expected none: the option is for arrays"),
        (["--epsilon", "0"], "epsilon: got 0"),
        (["--delta", "1.5"], "delta: got 1.5"),
        (["--importance-samples", "-1"], "--importance-samples"),
        (["--split", "tset"], "split"),
        (["--split", "test"], "digits"),
        (["--device", "cuda:77"], "device: got 'cuda:77'"),
        (["--plot", "out.gif"], "out.gif: got the ending '.gif'"),
        (["--plot", "no/out.png"], "no such folder"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_options_that_make_no_sense_are_named(run, trained, options, words):
    status, out, err = run("diagnose", trained, *options)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not list(Path().iterdir())


def test_options_of_a_run_are_not_for_arrays(run, arrays):
    np.savez("posterior.npz", **arrays)
    for option in ("--split", "--data-dir", "--importance-samples", "--device"):
        status, _, err = run("diagnose", "posterior.npz", option, "1")
        assert status == 2
        assert f"{option}: got a value; expected none: the option is for a run's folder" in err


def test_folders_that_are_no_run_are_refused(run, trained, tmp_path):
    status, _, err = run("diagnose", tmp_path)
    assert status == 2
    assert "expected the folder of a run" in err


def test_a_sweep_is_diagnosed_as_a_whole(run, tmp_path):
    sweep = tmp_path / "sweep"
    run(*TRAIN, "--latents", "2", "--beta", "1,200", "--out", sweep)
    status, out, _ = run("diagnose", sweep)
    assert status == 0
    told = json.loads(run("diagnose", sweep, "--json")[1])
    assert [one["run"] for one in told["runs"]] == ["beta=1", "beta=200"]
    for one in told["runs"]:
        alone = json.loads(run("diagnose", sweep / one["run"], "--json")[1])
        assert alone["levels"] == one["levels"]
        assert alone["verdict"] == one["verdict"]
        (row,) = (line.split() for line in out.splitlines() if line.split()[:1] == [one["run"]])
        assert row[3].split("/")[0] == str(one["levels"][0]["n_active"])
        assert row[1] == f"{one['loss']:.6g}"
        assert f"{one['run']}: " in out
    status, out, _ = run("diagnose", sweep, "--plot", "a.png")
    assert status == 0
    assert "Figure: a.png\n" in out
    save_figure(swept(sweep).plot(), "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    status, out, err = run("diagnose", sweep, "--split", "train", "--html", "a.html")
    assert (status, out) == (2, "")
    assert "--plot, --html: got given for several runs on other data" in err
    assert not Path("a.html").exists()


@pytest.mark.parametrize(
    ("name", "spread", "renamed"),
    [
        ("prior_log_var", lambda log_var: log_var, True),
        ("prior_logvar", lambda log_var: log_var, True),
        ("prior_var", np.exp, True),
        ("prior_std", lambda log_var: np.exp(log_var / 2), False),
    ],
)
def test_the_spread_of_a_prior_goes_by_its_usual_names(run, arrays, name, spread, renamed):
    log_var = 2 * np.log(np.asarray(arrays["std"]))
    given = {"mean": arrays["mean"], "log_var": log_var, "prior_mean": arrays["mean"]}
    np.savez("prior.npz", **given, **{name: spread(log_var)})
    status, out, err = run("diagnose", "prior.npz", "--json")
    assert status == 0, err
    (level,) = json.loads(out)["levels"]
    assert max(level["kl"]) < 1e-12
    assert ("as prior_std" in json.loads(out)["data"]["note"]) == renamed


@pytest.mark.parametrize(
    ("name", "what"), [("prior_log_var", "log-variances"), ("prior_var", "variances")]
)
def test_the_spread_of_a_prior_that_is_no_number_is_refused(run, arrays, name, what):
    given = {"mean": arrays["mean"], "std": arrays["std"], "prior_mean": arrays["mean"]}
    np.savez("prior.npz", **given, **{name: np.full(np.shape(arrays["std"]), "-1.5")})
    status, _, err = run("diagnose", "prior.npz")
    assert status == 2
    assert f"{name} of prior.npz: got dtype <U4; expected {what}. Write numbers." in err
    np.savez("prior.npz", **given, **{name: np.full(np.shape(arrays["std"]), 1e5)})
    assert "Warning" not in run("diagnose", "prior.npz")[2]


@pytest.mark.parametrize(
    ("mean", "spread", "of"),
    [
        ("mu", "logvar", "log_var"),
        ("mu", "log_var", "log_var"),
        ("z_mean", "z_log_var", "log_var"),
        ("Mu", "LogVar", "log_var"),
        ("loc", "var", "variance"),
        ("mean", "variance", "variance"),
        ("mean", "std", "std"),
    ],
)
def test_arrays_go_by_their_usual_names(run, arrays, mean, spread, of):
    std = np.asarray(arrays["std"])
    values = {"std": std, "variance": std**2, "log_var": 2 * np.log(std)}[of]
    np.savez("plain.npz", mean=arrays["mean"], std=std)
    np.savez("other.npz", **{mean: arrays["mean"], spread: values})
    status, plain, err = run("diagnose", "plain.npz", "--json")
    assert status == 0, err
    status, other, err = run("diagnose", "other.npz", "--json")
    assert status == 0, err
    plain, other = json.loads(plain), json.loads(other)
    assert other["levels"][0]["status"] == plain["levels"][0]["status"]
    np.testing.assert_allclose(other["levels"][0]["kl"], plain["levels"][0]["kl"], rtol=1e-9)
    if mean == "mu":
        assert other["data"]["note"].startswith("arrays mu as mean, ")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("mu", "sigma"), "Rename sigma to std, if it is no variance."),
        (("mu", "loc", "std"), "got mu and loc; expected one mean"),
        (("mean", "std", "log_var"), "expected mean, and one of std and log_var (or var)"),
        (("mean", "z_std", "var"), "expected mean, and one of std and log_var (or var)"),
        (("mean", "var"), "var of other.npz: got negative values; expected variances"),
        (("mean", "x"), "Rename x to data"),
    ],
)
def test_arrays_whose_names_are_unclear_are_refused(run, arrays, names, words):
    np.savez("other.npz", **dict.fromkeys(names, np.asarray(arrays["mean"])))
    status, _, err = run("diagnose", "other.npz")
    assert status == 2
    assert words in err
    assert err.count("\n") == 1


def test_a_damaged_checkpoint_is_told(run, trained, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in trained.iterdir():
        content = path.read_bytes()
        (copy / path.name).write_bytes(
            content[: len(content) // 2 if "safe" in path.name else None]
        )
    status, _, err = run("diagnose", copy)
    assert status == 2
    assert "SHA-256 differs" in err
    assert err.count("\n") == 1


def test_a_run_that_diverged_does_not_hide_the_others(run, tmp_path):
    options = "--latents 2 --eta-dec 0.3 --epochs 2 --learning-rate 0.001,1e9 --out div"
    status, out, _ = run("train", "digits", *options.split())
    assert status == 1
    said = " ".join(out.split())
    assert "posterior is no longer finite, so nothing was measured: lower the learning" in said
    assert "finished" not in said
    assert "-/2" in out  # no count is made up
    status, out, _ = run("diagnose", "div")
    assert status == 0
    assert "learning-rate=1e9: cannot be diagnosed. posterior std of z1" in " ".join(out.split())
    assert "learning-rate=0.001: " in out
    runs = json.loads(run("diagnose", "div", "--json")[1])["runs"]
    assert [sorted({"error", "verdict"} & set(one)) for one in runs] == [["verdict"], ["error"]]


def experiment(folder, data, *, models=True, **how):
    """Keep a run as `collapse reproduce` does, and return its record."""
    net = Architecture.named(how.pop("network", "linear"))
    one = Run(data, pc.VAESpec(2, eta_dec=1.0), net, Settings(epochs=1, steps=2, seed=1), **how)
    store = Store(folder, models=models)
    complete([one], store, Executor())
    return store.get(one.key)


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (RunData("clusters", rows=64), clusters()[:64]),
        (RunData("digits", label=3, rows=9), None),
    ],
)
def test_a_run_of_an_experiment_is_diagnosed_on_the_rows_that_it_had(run, tmp_path, data, rows):
    record = experiment(tmp_path, data)
    if rows is None:
        digits = pc.load("digits")
        trained_on = np.arange(len(digits)) % 5 != 0
        rows = digits.x[trained_on & (digits.labels == 3)][:9]
    found = json.loads(run("diagnose", record.folder, "--json")[1])
    expected = diagnose(record.model.float(), rows.astype(np.float32), spec=record.run.spec)
    assert (found["data"]["samples"], found["n"]) == (len(rows), len(rows))
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-6)
    status, out, _ = run("diagnose", record.folder, "--data", "digits", "--json")
    assert status == (0 if data.name == "digits" else 2)  # of 32 features and 64
    assert data.name != "digits" or json.loads(out)["n"] == len(pc.load("digits", label=3))
    status, _, err = run("diagnose", record.folder, "--scale", "2")
    assert status == 2
    assert "got scale for the data of an experiment" in err


def test_what_is_kept_without_rows_or_models_is_refused(run, tmp_path):
    matrix = experiment(tmp_path, RunData("matrix:E8"), method="exact")
    for named, words in (
        (matrix.folder, "which has moments and no rows; expected data of rows. Look at it with"),
        (
            experiment(tmp_path, RunData("clusters", rows=64), models=False).folder,
            "got a run that was kept without its model; expected one with it. Delete the folder",
        ),
    ):
        status, _, err = run("diagnose", named)
        assert status == 2
        assert words in " ".join(err.split())
    experiment(tmp_path, RunData("clusters", rows=32))
    status, out, _ = run("diagnose", tmp_path)  # what can be diagnosed is
    assert status == 0
    assert out.count("cannot be diagnosed. ") == 2
