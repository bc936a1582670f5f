"""A batch of more rows than there are is a batch of all rows, in every respect."""

import json

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.training import batches, seeds
from test_training_many import ARCHITECTURES

ROWS = 40
MORE = (ROWS + 1, 128, 10**9, 10**30)


def some(data):
    return tuple(part[:ROWS] for part in data) if isinstance(data, tuple) else data[:ROWS]


def assert_same_course(one, other):
    assert one.history == other.history
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("rows", MORE)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fit_in_batches_of_more_rows_than_there_are(name, rows):
    specs, data, options = ARCHITECTURES[name]
    options = {**options, "epochs": 3, "seed": 1, "warm_up": 0}
    all_rows = pc.fit(specs[0], some(data), name, batch_size=ROWS, **options)
    more = pc.fit(specs[0], some(data), name, batch_size=rows, **options)
    assert_same_course(more, all_rows)
    assert more.settings.batch_size == rows  # what was asked for is what is kept


@pytest.mark.parametrize("name", ["mlp", "cvae-relu"])
def test_fit_many_in_batches_of_more_rows_than_there_are(name):
    specs, data, options = ARCHITECTURES[name]
    options = {**options, "epochs": 2, "seeds": (1, 2, 3), "warm_up": 0}
    sweeps = [
        pc.fit_many(specs, some(data), name, batch_size=rows, **options) for rows in (ROWS, 10**9)
    ]
    for one, other in zip(*sweeps, strict=True):
        assert_same_course(one, other)


def test_noise_is_drawn_for_the_rows_at_hand_only(monkeypatch):
    drawn = []
    original = seeds._block

    def block(generators, shape, *rest):
        drawn.append(shape)
        return original(generators, shape, *rest)

    monkeypatch.setattr(seeds, "_block", block)
    pc.fit(pc.VAESpec(2), np.random.default_rng(0).standard_normal((200, 3)), batch_size=10**9)
    assert drawn
    assert max(rows for _, rows, _ in drawn) == 200


@pytest.mark.parametrize("rows", [200, 201, 10**9])
def test_diagnose_in_batches_of_more_rows_than_there_are(rows):
    x = np.random.default_rng(0).standard_normal((200, 4)) * [3, 2, 1, 0.5]
    model = pc.fit(pc.VAESpec(3), x, "mlp", epochs=2, hidden=(6,)).model
    found = pc.diagnose(model, x, batch_size=rows, importance_samples=8)
    assert found.to_dict() == pc.diagnose(model, x, batch_size=200, importance_samples=8).to_dict()
    tensors = torch.utils.data.TensorDataset(torch.tensor(x, dtype=torch.float32))
    assert pc.diagnose(model, tensors, batch_size=rows).n == 200


def test_a_run_kept_when_batches_counted_more_rows_goes_on(tmp_path, monkeypatch):
    """Its optimiser's state lies as batches of 128 rows made it, with one leaf for the heads."""
    x = np.random.default_rng(0).standard_normal((30, 4))
    options = {"hidden": (20,), "batch_size": 128, "folder": tmp_path}

    def as_before(self, rows, batch_size, arrays, clipped=batches.ArrayBatches.__init__):
        clipped(self, rows, batch_size, arrays)
        self.batch_size = batch_size

    with monkeypatch.context() as context:
        context.setattr(batches.ArrayBatches, "__init__", as_before)
        old = pc.fit(pc.VAESpec(2), x, "mlp", epochs=3, **options)
    again = pc.fit(pc.VAESpec(2), x, "mlp", epochs=3, resume=True, **options)
    assert_same_course(again, old)
    longer = pc.fit(pc.VAESpec(2), x, "mlp", epochs=5, resume=True, **options)
    assert longer.history["loss"][:3] == old.history["loss"]
    assert len(longer.history["loss"]) == 5


def test_the_command_takes_any_batch_size(tmp_path, capsys):
    from posterior_collapse.cli import main

    data = tmp_path / "x.npy"
    np.save(data, np.random.default_rng(0).standard_normal((50, 3)))
    for rows in (50, 10**12):
        sizes = ["--latents", "2", "--epochs", "2", "--batch-size", str(rows)]
        with pytest.raises(SystemExit) as end:
            main(["train", str(data), *sizes, "--out", str(tmp_path / str(rows))])
        assert end.value.code == 0, capsys.readouterr().err
    histories = [
        next((tmp_path / str(rows)).rglob("history.csv")).read_text() for rows in (50, 10**12)
    ]
    assert histories[0] == histories[1]
    assert json.dumps(10**12) in next((tmp_path / str(10**12)).rglob("*.json")).read_text()


@pytest.mark.parametrize("column", ["x", "y"])
def test_numbers_beyond_float32_are_named_in_whatever_batch_they_come(column):
    """Not as an infinity, which the data do not hold."""
    rows = np.random.default_rng(0).standard_normal((2500, 4))
    rows[2400, {"x": 0, "y": 3}[column]] = -1e100
    pair = rows[:, :2], rows[:, 2:]
    spec, said = pc.CVAESpec(2), rf"{column}: got values up to 1e\+100; .* as float32 holds"
    model = pc.fit(spec, tuple(part[:50] for part in pair), epochs=1).model
    tensors = torch.utils.data.TensorDataset(*map(torch.tensor, pair))
    loader = torch.utils.data.DataLoader(tensors, batch_size=100)
    for data in (pair, loader):
        with pytest.raises(pc.DataError, match=said):
            pc.diagnose(model, data)
        with pytest.raises(pc.DataError, match=said):
            pc.fit(spec, data, epochs=1)


def test_a_large_number_beside_a_nan_is_no_matter_of_a_warning(recwarn):
    with pytest.raises(pc.DataError, match="x: "):
        pc.fit(pc.VAESpec(1), np.array([[np.nan, 1e300], [0.0, 1.0]]), epochs=1)
    assert not [one for one in recwarn if "overflow" in str(one.message)]


def test_columns_in_another_order_than_those_trained_on_are_refused():
    pandas = pytest.importorskip("pandas")
    x = np.random.default_rng(0).standard_normal((40, 3)) * [3, 2, 1]
    train = pandas.DataFrame(x, columns=["a", "b", "c"])
    other = train[["a", "c", "b"]]
    options = {"hidden": (4,), "epochs": 1}
    said = "column 'c' in place 2; expected 'b' there"
    with pytest.raises(pc.DataError, match=f"validation: got {said}"):
        pc.fit(train, pc.VAESpec(2), "mlp", validation=other, **options)
    labelled = train.assign(label=0)[["label", "a", "b", "c"]]  # no feature, wherever it stands
    fitted = pc.fit(train, pc.VAESpec(2), "mlp", validation=labelled, **options)
    assert pc.diagnose(fitted, labelled).n == 40
    with pytest.raises(pc.DataError, match=f"data: got {said}"):
        pc.diagnose(fitted, other)
    pair = pc.fit((train, x), pc.CVAESpec(2), "mlp", validation=(train, x), **options)
    with pytest.raises(pc.DataError, match=f"validation: got {said}"):
        pc.fit((train, x), pc.CVAESpec(2), "mlp", validation=(other, x), **options)
    assert pc.diagnose(pair, (train.to_numpy(), x)).n == 40


def test_validation_data_may_lack_the_last_class():
    x, labels = np.random.default_rng(0).standard_normal((60, 3)), np.arange(60) % 3
    options = {"hidden": (4,), "epochs": 2}
    few = labels[:30] < 2
    found = [
        pc.fit((x, labels), pc.CVAESpec(2), "mlp", validation=rows, **options).history
        for rows in ((x[:30][few], labels[:30][few]), (np.eye(3)[labels[:30][few]], x[:30][few]))
    ]
    assert found[0] == found[1]
