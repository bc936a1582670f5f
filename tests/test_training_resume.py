"""Runs that stop and go on against runs left alone, and what happens to damaged checkpoints."""

import json
import time
import types

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.errors import (
    CheckpointError,
    DataError,
    InvalidArgumentError,
    NonFiniteLossError,
)
from posterior_collapse.training import checkpoints
from posterior_collapse.training.checkpoints import CheckpointWarning
from posterior_collapse.training.course import Pause
from posterior_collapse.training.states import save

G = np.random.default_rng(2)
X = G.standard_normal((128, 5)) * [2, 1.5, 1, 0.5, 0.2] + 1
SPEC = pc.VAESpec(3, eta_dec=0.5)


class BreakError(Exception):
    """What a run is broken off with."""


def broken_off(after, call, *args, **options):
    """Break a run off after some epochs, then resume it."""

    def stop(now):
        if now.epoch == after:
            raise BreakError

    with pytest.raises(BreakError):
        call(*args, progress=stop, **options)
    return call(*args, resume=True, **options)


def assert_same(one, other):
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.history == other.history
    assert one.stopped == other.stopped
    assert one.summary() == other.summary()


WAYS = {
    "sgd, dropout": {"optimiser": "sgd", "dropout": 0.3},
    "warm-up, free bits": {"warm_up": 6, "free_bits": 0.1, "checkpoint_every": 3},
    "cycles, capacity, bf16": {
        "cycles": 2, "capacity": 1.0, "capacity_warm_up": 5, "precision": "bf16",
    },
    "early stopping": {"patience": 3, "learning_rate": 0.05, "epochs": 60},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, way):
    options = {"hidden": (6,), "epochs": 8, "batch_size": 32, **WAYS[way]}
    if "patience" in options:
        options["validation"] = X[:40] * 1.1
    alone = pc.fit(SPEC, X, "mlp", **options)
    if way == "early stopping":
        assert alone.stopped == "early"
    resumed = broken_off(5, pc.fit, SPEC, X, "mlp", folder=tmp_path, **options)
    assert_same(resumed, alone)
    # A run that has ended is loaded as it is.
    assert_same(pc.fit(SPEC, X, "mlp", folder=tmp_path, resume=True, **options), alone)


def test_a_resumed_sweep_goes_back_to_the_last_common_step(tmp_path):
    specs = [SPEC, SPEC.replace(beta=3.0)]
    folders = [tmp_path / "a", tmp_path / "b"]
    options = {"seeds": (1, 2), "epochs": 6, "batch_size": 64, "hidden": (6,)}
    alone = pc.fit_many(specs, X, "mlp", **options)

    def stop(now):
        if now.epoch == 4:
            raise BreakError

    with pytest.raises(BreakError):
        pc.fit_many(specs, X, "mlp", folders=folders, progress=stop, **options)
    newest = max(folders[1].glob("checkpoint-*.json"))
    newest.unlink()  # as if killed between the two
    resumed = pc.fit_many(specs, X, "mlp", folders=folders, resume=True, **options)
    for one, other in zip(resumed, alone, strict=True):
        assert_same(one, other)


def test_a_checkpoint_within_an_epoch_is_exact_too(tmp_path):
    options = {"hidden": (6,), "steps": 18, "batch_size": 32, "checkpoint_every": 100}
    alone = pc.fit(SPEC, X, "mlp", **options)
    short = {**options, "steps": 15, "checkpoint_steps": 14}
    pc.fit(SPEC, X, "mlp", folder=tmp_path, **short)
    for path in tmp_path.glob("checkpoint-*15.json"):
        path.unlink()  # leaves step 14, the second of an epoch of four
    assert checkpoints.load(tmp_path).step == 14
    resumed = pc.fit(SPEC, X, "mlp", folder=tmp_path, resume=True, **options)
    for a, b in zip(resumed.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.history == alone.history


@pytest.mark.parametrize(("share", "most"), [(None, 20), (0.05, 4)])
def test_checkpoints_of_short_epochs_take_no_more_than_their_share(
    tmp_path, monkeypatch, share, most
):
    saved = []

    def slow(state, folders):
        save(state, folders)
        time.sleep(0.2)
        saved.append(state.step)

    monkeypatch.setattr("posterior_collapse.training.engine.save", slow)
    options = {"hidden": (6,), "epochs": 20, "batch_size": 128, "checkpoint_share": share}
    began = time.perf_counter()
    pc.fit(SPEC, X, "mlp", folder=tmp_path, **options)
    took = time.perf_counter() - began
    assert (saved[0], saved[-1]) == (1, 20)  # of the first epoch, and of the end
    assert len(saved) <= most + took * 0.05 / 0.2
    assert (share is None) == (len(saved) == 20)


def test_who_is_told_of_an_epoch_may_go_on_from_it_another_time(tmp_path):
    options = {"hidden": (6,), "epochs": 6, "batch_size": 64}
    alone = pc.fit(SPEC, X, "mlp", **options)
    told = []

    def pause(now):
        told.append(now.epoch)
        if now.epoch in (2, 5):
            raise Pause

    for _ in range(2):
        with pytest.raises(Pause):
            pc.fit(
                SPEC, X, "mlp", folder=tmp_path, resume=True, checkpoint_every=100,
                progress=pause, **options,
            )  # fmt: skip
    # To another folder, as to another machine; the other one has been there already.
    elsewhere = [tmp_path / "elsewhere"]
    checkpoints.unpack(checkpoints.pack([tmp_path]), elsewhere)
    resumed = pc.fit(SPEC, X, "mlp", folder=elsewhere[0], resume=True, progress=pause, **options)
    assert told == [1, 2, 3, 4, 5, 6]
    assert_same(resumed, alone)


def test_a_run_can_be_made_longer(tmp_path):
    options = {"hidden": (6,), "batch_size": 32}
    alone = pc.fit(SPEC, X, "mlp", epochs=7, **options)
    pc.fit(SPEC, X, "mlp", epochs=3, folder=tmp_path, **options)
    assert_same(pc.fit(SPEC, X, "mlp", epochs=7, folder=tmp_path, resume=True, **options), alone)


def test_the_seconds_before_a_run_was_resumed_count(tmp_path, monkeypatch):
    now = [100.0]
    clock = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("posterior_collapse.training.engine.time", clock)

    def ten_seconds(_):
        now[0] += 10

    options = {
        "hidden": (6,), "progress": ten_seconds, "checkpoint_share": 1.0, "resume": True,
        "folders": [tmp_path / "a", tmp_path / "b"],
    }  # fmt: skip
    for epochs, expected in ((3, 30), (7, 20 + 40)):  # the last checkpoint came 20 seconds on
        two = pc.fit_many([SPEC, SPEC], X, "mlp", epochs=epochs, **options)
        assert [one.seconds for one in two] == [expected / 2] * 2


@pytest.mark.parametrize(("options", "said"), [({"epochs": 2}, "epochs"), ({"steps": 9}, "steps")])
def test_a_run_cannot_be_made_shorter(tmp_path, options, said):
    network = {"hidden": (6,), "batch_size": 32, "folder": tmp_path}
    pc.fit(SPEC, X, "mlp", epochs=3, **network)
    with pytest.raises(InvalidArgumentError, match=f"{said}: got .*the run to resume has"):
        pc.fit(SPEC, X, "mlp", resume=True, **network, **options)


@pytest.mark.parametrize("options", [{"epochs": 2}, {"exact": True}])
def test_other_data_are_not_resumed(tmp_path, options):
    pc.fit(SPEC, X, "linear", folder=tmp_path / "a", **options)
    with pytest.raises(CheckpointError, match="other values of the data"):
        pc.fit(SPEC, X + 1e-3, "linear", folder=tmp_path / "a", resume=True, **options)
    # The same values held otherwise are the same data.
    same = torch.tensor(X[::-1].copy()).flip(0)
    pc.fit(SPEC, same, "linear", folder=tmp_path / "a", resume=True, **options)
    folders = [tmp_path / "b", tmp_path / "c"]
    pc.fit_many([SPEC, SPEC], X, "linear", folders=folders, **options)
    with pytest.raises(CheckpointError, match="other values of the data"):
        pc.fit_many([SPEC, SPEC], X[::-1], "linear", folders=folders, resume=True, **options)


@pytest.mark.parametrize(("before", "after"), [(X, 0.1 * X), (X, None), (None, X)])
def test_other_validation_data_are_not_resumed(tmp_path, before, after):
    """Their losses would be compared with the best of the others, and stop the run early."""
    options = {"epochs": 4, "patience": 3, "folder": tmp_path, "learning_rate": 0.01}
    pc.fit(SPEC, X, "linear", validation=before, **options)
    with pytest.raises(CheckpointError, match="other validation data"):
        pc.fit(SPEC, X, "linear", validation=after, resume=True, **options)
    pc.fit(SPEC, X, "linear", validation=before, resume=True, **options)


def test_a_checkpoint_that_does_not_say_its_validation_goes_on_with_whole_columns(tmp_path):
    pc.fit(SPEC, X, "linear", epochs=2, folder=tmp_path / "new", validation=X)
    kept = checkpoints.load(tmp_path / "new")
    older = {name: value for name, value in kept.meta.items() if name != "validation"}
    assert older != kept.meta
    checkpoints.save(tmp_path / "old", kept.tensors, older, step=kept.step)
    found = pc.fit(SPEC, X, "linear", epochs=4, folder=tmp_path / "old", resume=True)
    losses = found.history["validation_loss"]
    assert np.isnan(losses).tolist() == [False, False, True, True]


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("length", ["steps", "epochs"])
def test_a_run_made_longer_is_the_long_run(tmp_path, length, every):
    options = {"hidden": (6,), "batch_size": 32, "warm_up": 1, "history_every": every}
    short = pc.fit(SPEC, X, "mlp", folder=tmp_path, **options, **{length: 6})
    assert short.history["step"][-1] == (6 if length == "steps" else 24)
    longer = {**options, length: 11}
    alone = pc.fit(SPEC, X, "mlp", **longer)
    assert_same(pc.fit(SPEC, X, "mlp", folder=tmp_path, resume=True, **longer), alone)
    assert_same(pc.fit(SPEC, X, "mlp", folder=tmp_path, resume=True, **longer), alone)


class Passing(torch.utils.data.IterableDataset):
    """Rows one after the other, of which nobody says how many there are."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


@pytest.mark.parametrize("steps", [3, 4, 6])  # of epochs of 4
def test_of_a_loader_of_unknown_length_too(tmp_path, steps):
    loader = torch.utils.data.DataLoader(Passing(torch.tensor(X, dtype=torch.float32)), 32)
    options = {"hidden": (6,)}
    alone = pc.fit(SPEC, loader, "mlp", steps=11, **options)
    assert alone.history["epoch"] == [1, 2, 3]
    assert alone.history["step"] == [4, 8, 11]
    pc.fit(SPEC, loader, "mlp", folder=tmp_path, steps=steps, **options)
    longer = pc.fit(SPEC, loader, "mlp", folder=tmp_path, resume=True, steps=11, **options)
    for a, b in zip(longer.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert longer.history == alone.history


def test_a_loader_that_ends_for_good_is_refused():
    rows = iter(torch.tensor(X, dtype=torch.float32))
    loader = torch.utils.data.DataLoader(Passing(rows), 32)
    with pytest.raises(DataError, match="without batches in epoch 1; expected batches each time"):
        pc.fit(SPEC, loader, "mlp", hidden=(6,), epochs=5)


def test_a_sweep_that_is_over_is_returned_whatever_the_patience(tmp_path):
    """One run learned to the end, the other nothing and stopped early: none is made longer."""
    options = {"hidden": (6,), "epochs": 15, "learning_rates": (3e-3, 1e-9)}
    options["folders"] = [tmp_path / "a", tmp_path / "b"]
    ended = pc.fit_many([SPEC, SPEC], X, "mlp", patience=3, **options)
    assert [one.stopped for one in ended] == ["finished", "early"]
    for again, before in zip(
        pc.fit_many([SPEC, SPEC], X, "mlp", resume=True, patience=9, **options), ended, strict=True
    ):
        assert_same(again, before)


@pytest.mark.parametrize("change", [{"patience": 9}, {"patience": None}, {"epochs": 70}])
def test_a_run_that_went_back_to_its_best_does_not_go_on(tmp_path, change):
    options = {"hidden": (6,), "folder": tmp_path, "patience": 3, "learning_rate": 0.05}
    options["epochs"] = 5 if "epochs" in change else 60
    ended = pc.fit(SPEC, X, "mlp", **options)
    assert ended.stopped == ("finished" if "epochs" in change else "early")
    with pytest.raises(CheckpointError, match="went back to its best parameters"):
        pc.fit(SPEC, X, "mlp", resume=True, **{**options, **change})
    assert_same(pc.fit(SPEC, X, "mlp", resume=True, **options), ended)


def test_a_run_resumed_without_patience_ends_with_its_last_parameters(tmp_path):
    options = {"hidden": (6,), "epochs": 8, "learning_rate": 0.05, "validation": X[:40] * 1.1}

    def stop(now):
        if now.epoch == 5:
            raise BreakError

    with pytest.raises(BreakError):
        pc.fit(SPEC, X, "mlp", folder=tmp_path, progress=stop, patience=5, **options)
    # It went back to the best of the epochs that early stopping had looked at, before all others.
    resumed = pc.fit(SPEC, X, "mlp", folder=tmp_path, resume=True, **options)
    assert_same(resumed, pc.fit(SPEC, X, "mlp", **options))


def test_a_checkpoint_whose_heads_were_one_leaf_goes_on(tmp_path, monkeypatch):
    far, options = X + 3000, {"hidden": (6,), "epochs": 6}
    alone = pc.fit(SPEC, far, "mlp", **options)
    with monkeypatch.context() as earlier:
        earlier.setattr("posterior_collapse.training.engine.needs_residuals", lambda *_: False)
        pc.fit(SPEC, far, "mlp", folder=tmp_path, **{**options, "epochs": 3})
    resumed = pc.fit(SPEC, far, "mlp", folder=tmp_path, resume=True, **options)
    for a, b in zip(resumed.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_exact_training_that_was_cut_short_goes_on_and_never_back(tmp_path):
    options = {"exact": True, "folder": tmp_path}
    short = pc.fit(SPEC, X, "linear", steps=3, **options)
    assert short.stopped == "iteration limit"
    long = pc.fit(SPEC, X, "linear", steps=500, resume=True, **options)
    assert_same(long, pc.fit(SPEC, X, "linear", steps=500, exact=True))
    assert long.stopped == "finished"
    warm = {"exact": True, "from_forecast": True, "folder": tmp_path / "warm"}
    first = pc.fit(SPEC, X, "linear", **warm)
    assert first.history["step"] == [0]
    assert_same(pc.fit(SPEC, X, "linear", resume=True, **warm), first)
    with pytest.raises(InvalidArgumentError, match="steps: got 3, but the run to resume has"):
        pc.fit(SPEC, X, "linear", steps=3, resume=True, **options)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_exact_training_at_a_rate_is_made_longer(tmp_path, optimiser):
    options = {"exact": True, "optimiser": optimiser, "learning_rate": 1e-3}
    pc.fit(SPEC, X, "linear", steps=12, folder=tmp_path, **options)
    longer = pc.fit(SPEC, X, "linear", steps=25, folder=tmp_path, resume=True, **options)
    assert longer.history["step"] == [10, 20, 25]
    assert_same(longer, pc.fit(SPEC, X, "linear", steps=25, **options))


def test_exact_training_is_resumed_as_its_result(tmp_path):
    alone = pc.fit(SPEC, X, "linear", exact=True, folder=tmp_path)
    assert_same(pc.fit(SPEC, X, "linear", exact=True, folder=tmp_path, resume=True), alone)
    with pytest.raises(CheckpointError, match="exact or by minibatches"):
        pc.fit(SPEC, X, "linear", folder=tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["truncated", "edited", "flipped", "tensors gone"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_goes_on(tmp_path, damage):
    options = {"hidden": (6,), "epochs": 5, "batch_size": 32, "folder": tmp_path}
    alone = pc.fit(SPEC, X, "mlp", **options)
    record = max(tmp_path.glob("checkpoint-*.json"))
    (tensors,) = tmp_path.glob(f"{record.stem}-*.safetensors")
    if damage == "truncated":
        record.write_text(record.read_text()[:-40])
    elif damage == "edited":
        changed = json.loads(record.read_text())
        changed["meta"]["run"]["history"]["loss"][-1] = 0.0
        record.write_text(json.dumps(changed))
    elif damage == "flipped":
        content = bytearray(tensors.read_bytes())
        content[-3] ^= 1
        tensors.write_bytes(bytes(content))
    else:
        tensors.unlink()
    with pytest.warns(CheckpointWarning, match="step 16 is used instead"):
        resumed = pc.fit(SPEC, X, "mlp", resume=True, **options)
    assert_same(resumed, alone)


def test_no_good_checkpoint_is_an_error(tmp_path):
    options = {"hidden": (6,), "epochs": 2, "folder": tmp_path}
    pc.fit(SPEC, X, "mlp", **options)
    for path in tmp_path.glob("checkpoint-*.json"):
        path.write_text("{")
    with pytest.raises(CheckpointError, match="truncated"):
        pc.fit(SPEC, X, "mlp", resume=True, **options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 0.01}, "learning_rate"),
        ({"seed": 1}, "seed"),
        ({"hidden": (7,)}, "spec, architecture or data shape"),
        ({"batch_size": 16}, "batch_size"),
        ({"epochs": 4, "cycles": 1}, "epochs"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, change, said):
    options = {"hidden": (6,), "epochs": 2, "batch_size": 32, "folder": tmp_path}
    pc.fit(SPEC, X, "mlp", **options, cycles=change.get("cycles"))
    with pytest.raises(CheckpointError, match=f"a run with another {said}"):
        pc.fit(SPEC, X, "mlp", resume=True, **{**options, **change})


def test_a_run_is_not_overwritten_and_none_is_a_new_one(tmp_path):
    options = {"hidden": (6,), "epochs": 2, "folder": tmp_path}
    started = pc.fit(SPEC, X, "mlp", resume=True, **options)
    assert started.stopped == "finished"
    with pytest.raises(InvalidArgumentError, match="Pass resume=True to go on"):
        pc.fit(SPEC, X, "mlp", **options)


def test_a_run_that_becomes_infinite_keeps_its_last_good_checkpoint(tmp_path):
    options = {"optimiser": "sgd", "learning_rate": 0.35, "batch_size": 65, "bias": False}
    with pytest.raises(NonFiniteLossError, match=r"at step (\d+)") as told:
        pc.fit(pc.VAESpec(3), X, "linear", epochs=400, folder=tmp_path, **options)
    step = int(str(told.value).split("at step ")[1].split(":")[0])
    kept = checkpoints.load(tmp_path)
    assert 0 < kept.step <= step
    assert all(bool(value.isfinite().all()) for value in kept.tensors.values())
    assert np.isfinite(kept.meta["run"]["history"]["loss"]).all()
