"""The table of rows against the facts of the paper's experiments."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from posterior_collapse.cli import main
from posterior_collapse.data import available, load
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.experiments import DELIVERABLES, ROWS, Member, Plan, chosen
from posterior_collapse.experiments.data import read_moments, read_samples, training_rows
from posterior_collapse.experiments.reproducing import profile
from posterior_collapse.files import digest
from posterior_collapse.runs import RunData
from posterior_collapse.runs.run import BY_MINIBATCHES
from posterior_collapse.theory import forecast
from posterior_collapse.theory.verification import CASES


def members(name: str, **plan: object) -> list[Member]:
    (row,) = chosen(name)
    return row.members(Plan(**plan))  # type: ignore[arg-type]


def keys(name: str, **plan: object) -> set[str]:
    return {member.run.key for member in members(name, **plan)}


def test_every_row_of_the_paper_is_there_in_order() -> None:
    assert [row.id for row in ROWS] == [
        *(f"E{i}" for i in range(1, 16)),
        *("X1", "X2", "X3a", "X3b", "X3c", "X3d", "X3e", "X3f", "X3g"),
    ]
    assert all(set(row.deliverables) <= set(DELIVERABLES) for row in ROWS)
    assert {name for row in ROWS for name in row.deliverables} == set(DELIVERABLES)


@pytest.mark.parametrize(
    ("name", "runs", "settings"),
    [
        ("E1", 14 + 2, {"learning_rate": 1e-3, "clip": 0.01, "epochs": 100, "batch_size": 128}),
        ("E4", 25, {"learning_rate": 1e-3, "clip": 0.1, "epochs": 100}),
        ("E6", 2, {"learning_rate": 1e-4, "clip": None}),
        ("E10", 8, {"batch_size": 16, "epochs": 1000, "clip": 0.01, "seed": 4}),
        ("E11", 25, {"learning_rate": 1e-3, "clip": 0.1, "seed": 3}),
    ],
)
def test_settings_are_the_paper_s(name: str, runs: int, settings: dict[str, object]) -> None:
    found = [member.run for member in members(name)]
    assert len({run.key for run in found}) == runs
    for run in found:
        assert run.settings.to_dict().items() >= settings.items()


THEOREMS = {
    "E8": {
        "matrix": {"latent_dim": 5, "beta": 2.0, "eta_dec": 1.0, "eta_enc": 1.0},
        "MNIST": {"latent_dim": 64, "beta": 1.0, "eta_dec": 1.0, "eta_enc": 1.0},
    },
    "E13": {
        "matrix": {"betas": (1.0, 2.0), "sigma_1": 1.0, "eta_dec": 1.0, "sigma_2": "learned"},
        "MNIST": {"betas": (1.0, 1.0), "sigma_1": 0.5, "eta_dec": 0.5, "sigma_2": "learned"},
    },
    "E14": {
        "matrix": {"betas": (1.0, 2.0), "sigma_1": 1.0, "eta_dec": 1.0, "sigma_2": 1.0},
        "MNIST": {"betas": (1.0, 2.0), "sigma_1": 0.5, "eta_dec": 0.5, "sigma_2": 0.5},
    },
}


@pytest.mark.parametrize("name", THEOREMS)
def test_theorems_are_verified_on_the_paper_s_problems(name: str) -> None:
    for member in members(name):
        problem = member.grid.removesuffix(", exact")
        if problem in THEOREMS[name]:
            found = {key: getattr(member.run.spec, key) for key in THEOREMS[name][problem]}
            assert found == THEOREMS[name][problem], member.grid


@pytest.mark.parametrize("name", THEOREMS)
def test_theorems_are_verified_by_the_published_training_where_it_settles(name: str) -> None:
    runs = {member.grid: member.run for member in members(name)}
    matrix, images = runs["matrix"].settings, runs["MNIST"].settings
    assert runs["matrix"].method == "recorded"  # at a constant rate
    assert (matrix.learning_rate, matrix.steps, matrix.clip, matrix.seed) == (0.1, 200, None, 2)
    start = runs["matrix"].architecture
    assert (start.initial_std, start.initial_sigma, start.bias) == (0.1, "uniform", False)
    assert runs["MNIST"].method == runs["second matrix"].method == "decayed"
    assert images.clip == {"E8": 0.1, "E13": 0.1, "E14": None}[name]


@pytest.mark.parametrize("name", THEOREMS)
def test_each_theorem_has_a_matrix_problem_on_which_it_says_something(name: str) -> None:
    (run,) = (member.run for member in members(name) if member.grid == "second matrix")
    found = forecast(read_moments(run.data, False), run.spec)
    for level in found.levels:
        assert "active" in level.status
    assert {"active", "collapsed"} <= {status for level in found.levels for status in level.status}
    assert run.spec.eta_levels[0] != run.spec.eta_enc  # a wrong c would show
    assert len(found.levels) == 1 or run.spec.beta_levels[0] != 1  # and a wrong power of beta_1


def test_the_linear_vae_is_trained_at_the_scripts_beta_too() -> None:
    betas = {(m.run.spec.sigma, m.run.spec.beta) for m in members("E5")}  # type: ignore[attr-defined]
    assert {("learned", 4.0), (1.0, 4.0), ("learned", 1.0), (1.0, 1.0)} <= betas


def test_sweeps_have_all_their_values() -> None:
    for name, count, key in (("E7", 50, "beta"), ("E12", 70, "beta_2")):
        exact = [m.labels[key] for m in members(name) if m.run.method == "exact"]
        assert exact == pytest.approx(np.arange(1, count + 1) / 10)
        assert [m.labels[key] for m in members(name) if m.grid == "minibatches"] == exact


def test_published_runs_have_no_warm_up_and_others_stand_beside_them() -> None:
    for name in ("E1", "E9"):
        found = members(name)
        assert {m.run.settings.warm_up for m in found if "warm-up" not in m.grid} == {0}
        warm = [m for m in found if m.run.settings.warm_up]
        cold = [m for m in found if m.run.architecture.hidden == (16,) and m not in warm]
        assert [m.labels for m in warm] == [m.labels for m in cold]
    short = [m.run.settings for m in members("E1", epochs=6) if m.run.settings.warm_up]
    assert {settings.warm_up for settings in short} == {3}  # of a short run it is half


def test_the_flags_of_the_readme_vary_eta_enc() -> None:
    values = {m.run.spec.eta_enc for m in members("E15") if m.grid.startswith("eta_enc")}
    assert values == {0.25, 0.5, 0.7, 1.0, 2.0}


def test_collapse_is_measured_on_both_splits_where_the_scripts_measure_on_training_rows() -> None:
    for name in ("E2", "E3"):
        seen = {(m.run.evaluation.split, m.run.evaluation.also) for m in members(name)}
        assert seen == {("test", "train")}


def test_panels_of_hierarchies_are_samples_of_training_images() -> None:
    for name in ("E4", "E11"):
        seen = {(m.run.evaluation.panel_split, m.run.evaluation.drawn) for m in members(name)}
        assert seen == {("train", True)}


def test_likelihoods_are_measured_on_all_rows() -> None:
    for name in ("E6", "E9", "E10", "E15"):
        for member in members(name):
            evaluation = member.run.evaluation
            assert (evaluation.rows, evaluation.likelihood_rows) == (None, None)
            assert evaluation.samples >= 2000  # the published script takes 1,000


def test_keys_of_kept_runs_stay() -> None:
    """Those of runs that are as they were before seeds had orders of their own."""
    before = {
        "E5": "b08fe0cc3b3d",
        "E8": "544a3a0332d5",
        "X1": "1c8410c4fbfc",
        "E12": "8a47adc32a9c",
    }
    for name, expected in before.items():
        exact = [m.run.key for m in members(name, seeds=2) if m.run.method != "minibatch"]
        assert digest({"keys": exact})[:12] == expected, name
    (first, *_) = (m.run for m in members("E11", seeds=2))
    assert first.settings.order_seed == first.settings.seed


def test_what_varies_is_what_its_label_says() -> None:
    for member in members("E3"):
        (name, value) = next(iter(member.labels.items()))
        spec = member.run.spec
        found = {"beta_1": spec.beta_levels[0], "beta_2": spec.beta_levels[1]}
        assert found.get(name, getattr(spec, name, None)) == value
    assert {m.run.data.label for m in members("E2")} == set(range(10))
    assert {m.run.data.name for m in members("E10")} >= {"pairs:1/8", "pairs:quadratic"}


def test_shared_runs_are_the_same_runs() -> None:
    wider = {m.run.key for m in members("E1") if m.run.architecture.hidden == (64,)}
    assert len(wider) == 2
    assert keys("E1", seeds=3) == keys("E9", seeds=3) | wider
    assert len(keys("E3") & keys("E15")) == 11
    assert len(keys("E3") & keys("E4")) == 5
    assert len(keys("E7") & keys("E8")) == len(keys("E12") & keys("E13")) == 1


def test_seeds_are_many_only_where_spread_is_shown() -> None:
    assert len(keys("E9", seeds=3)) == 3 * len(keys("E9"))
    assert len(keys("E1", seeds=3)) == 3 * len(keys("E9")) + 2  # one run each of a wider network
    assert len(keys("E7", seeds=3)) == len(keys("E7"))
    seeds = [member.run.settings.seed for member in members("E6", seeds=3)]
    assert seeds == [1, 2, 3] * 2
    orders = [member.run.settings.order_seed for member in members("E6", seeds=3)]
    assert orders == seeds  # the runs of a seed share an order


def test_each_seed_has_its_own_order_of_the_data_in_every_row() -> None:
    runs = [
        m.run for row in ROWS for m in row.members(Plan(seeds=3)) if m.run.method in BY_MINIBATCHES
    ]
    assert {run.settings.seed for run in runs if run.settings.seed > 1}
    assert all(run.settings.data_order == run.settings.seed for run in runs)


def test_the_published_loss_is_that_of_each_script() -> None:
    for row in ROWS:
        for member in row.members(Plan(convention="reference")):
            linear = member.run.architecture.name == "linear"
            assert member.run.settings.convention == ("twice" if linear else "reference")


def test_the_quick_profile_has_every_grid_and_needs_no_files() -> None:
    for row in ROWS:
        quick = row.members(Plan(quick=True))
        titles = dict.fromkeys(m.grid for m in quick)
        for title, grid in zip(titles, row.grids, strict=True):
            end = grid.title.removeprefix("{data}").replace("{warm_up}", "2 epochs")
            assert title.endswith(end)
        for member in quick:
            kind = member.run.data.name.split(":")[0]
            assert kind in ("digits", "pairs", "matrix", "clusters")


def test_the_quick_profile_names_the_data_that_it_trains_on() -> None:
    grids = {m.grid for m in members("X3b", quick=True)}
    assert "digits in place of MNIST 14 x 14, mlp, gaussian, warm-up" in grids
    assert {name for name in grids if name.startswith("digits, ")} == {
        name for m in members("X3b") if (name := m.grid).startswith("digits, ")
    }
    for row in ROWS:
        for member in row.members(Plan(quick=True)):
            for name in ("MNIST", "single cells"):
                assert name not in re.sub(f"in place of (Fashion-)?{name}", "", member.grid)


def test_a_smaller_row_is_smaller_where_it_trains_by_minibatches() -> None:
    for member in members("E7", epochs=3, rows=500):
        batches = member.run.method == "minibatch"
        assert (member.run.settings.epochs == 3) == batches
        assert member.run.data.rows == (500 if batches else None)


def test_convolutional_nets_alone_can_be_trained_less() -> None:
    for member in members("E2", cnn_epochs=3):
        assert member.run.settings.epochs == (3 if member.grid == "cvae-cnn" else 100)
    for member in members("E2", epochs=7, cnn_epochs=9):
        assert member.run.settings.epochs == 7
    assert profile(chosen("E2")[0], Plan(cnn_epochs=3)) == "smaller: cvae-cnn 3 of 100 epochs"
    assert profile(chosen("E2")[0], Plan(epochs=7, cnn_epochs=9)) == "smaller: 7 of 100 epochs"
    assert profile(chosen("E1")[0], Plan(cnn_epochs=3)) == "full"


def test_a_row_that_trains_on_all_its_rows_and_epochs_is_no_smaller() -> None:
    assert profile(chosen("X2")[0], Plan(rows=20_000, epochs=500)) == "full"
    assert profile(chosen("X2")[0], Plan(rows=9_000)) == "smaller: trained on at most 9,000 rows"
    assert keys("X2", rows=20_000, epochs=500) == keys("X2")
    for row, all_of_them in (("E1", 60_000), ("E10", 1000), ("X3a", 10_000)):
        assert profile(chosen(row)[0], Plan(rows=all_of_them)) == "full"
        assert "trained on at most" in profile(chosen(row)[0], Plan(rows=all_of_them - 1))


@pytest.mark.parametrize("name", ["digits", "pairs:random", "clusters", "clusters:counts"])
def test_there_are_as_many_rows_to_train_on_as_are_said(name) -> None:
    assert training_rows(RunData(name)) == len(read_samples(RunData(name)))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_there_are_as_many_published_rows_as_the_registry_says(name) -> None:
    assert [training_rows(RunData(name))] == [e.samples for e in available() if e.name == name]


def test_a_title_says_the_warm_up_that_the_runs_have() -> None:
    for epochs, said in ((None, "10 epochs"), (8, "4 epochs"), (2, "1 epoch")):
        found = {
            (m.grid, m.run.settings.warm_up)
            for m in members("E9", epochs=epochs)
            if "warm-up" in m.grid
        }
        expected = {(f"{name}, warm-up of {said}", int(said[:2])) for name in ("beta", "eta_dec")}
        assert found == expected


def test_an_unknown_row_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match=r"E16.*E1, E2.*--list"):
        chosen("E16")


class TestData:
    def test_digits_are_held_out_once(self) -> None:
        train, test = (read_samples(RunData("digits"), split).x for split in ("train", "test"))
        whole = load("digits").x.astype(np.float32)
        assert np.array_equal(np.sort(np.vstack([train, test]), axis=0), np.sort(whole, axis=0))

    def test_a_label_is_cut_before_rows_and_task(self) -> None:
        found = read_samples(RunData("digits", task="quarter", label=3, rows=5))
        assert found.x.shape == (5, 16)
        assert found.y is not None
        assert found.y.shape == (5, 48)
        assert set(found.labels.tolist()) == {3}  # type: ignore[union-attr]

    def test_images_are_resized(self) -> None:
        small = read_samples(RunData("digits", rows=3)).x.reshape(-1, 8, 8)
        large = read_samples(RunData("digits", rows=3, size=28)).x.reshape(-1, 28, 28)
        places = np.linspace(0, 7, 28)
        rows = np.array([[np.interp(places, range(8), line) for line in image] for image in small])
        both = [[np.interp(places, range(8), line) for line in image.T] for image in rows]
        assert large == pytest.approx(np.array(both).swapaxes(1, 2), abs=1e-6)

    def test_a_matrix_problem_is_that_of_verify(self) -> None:
        index = [case.name for case in CASES].index("E13")
        expected, _ = CASES[index].draw(np.random.default_rng([0, index, 0]))
        assert np.array_equal(read_moments(RunData("matrix:E13"), False).xx, expected.xx)


class TestCommand:
    def test_the_list_has_a_command_per_row(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            main(["reproduce", "--list"])
        assert end.value.code == 0
        lines = capsys.readouterr().out.splitlines()
        for row in ROWS:
            (line,) = [line for line in lines if line.split()[:1] == [row.id]]
            assert row.name in line
            assert f"collapse reproduce {row.id}" in line

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "a row, all or document"),
            (["E77"], "'E77'"),
            (["E1", "--convention", "twice"], "--convention"),
            (["E1", "--seeds", "0"], "--seeds"),
            (["E1", "--epochs", "0"], "--epochs"),
            (["E1", "--device", "tpu"], "device"),
            (["E1", "--device", "cuda:"], "device: got 'cuda:'"),
            (["E1", "--device", "cuda:77"], "device: got 'cuda:77'"),
            (["E1", "--data-dir", "no/such/folder"], "no/such/folder"),
            (["document", "--out", "no/such/folder"], "no/such/folder"),
        ],
    )
    def test_errors_are_one_line(
        self,
        arguments: list[str],
        said: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            main(["reproduce", *arguments])
        assert end.value.code == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert said in error
        assert len(error.splitlines()) == 1


def test_rows_bound_the_quick_profile_too() -> None:
    for row in ROWS:
        each = zip(
            row.members(Plan(quick=True, rows=50)), row.members(Plan(quick=True)), strict=True
        )
        for bounded, member in each:
            if member.run.method in BY_MINIBATCHES:
                assert bounded.run.data.rows == 50
                assert member.run.data.rows in (128, 1280)
            else:
                assert bounded.run == member.run
