"""What one takes all take: forecast, fit, diagnose and moments read every kind of data alike."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.utils import Bunch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import posterior_collapse as pc
from fresh import output
from posterior_collapse.data import Dataset
from posterior_collapse.data.dataset import TASKS

X = (np.random.default_rng(0).standard_normal((60, 6)) * [3, 2, 1, 0.5, 0.2, 0.1]).round(3)
LABELS = np.arange(60) % 3
TENSOR = torch.from_numpy(X)
SPEC = pc.VAESpec(2)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(TENSOR)


class Rows:
    """A Hugging Face dataset, as far as it is looked at."""

    def __init__(self, **columns):
        self.columns = columns

    def with_format(self, kind):
        assert kind == "numpy"
        return self

    def iter(self, batch_size):
        for start in range(0, 60, batch_size):
            yield {name: v[start : start + batch_size] for name, v in self.columns.items()}


class Annotated:
    """An AnnData, as far as it is looked at; NumPy would ask for its items without end."""

    def __init__(self, x):
        self.X, self.obs = x, None

    def __getitem__(self, index):
        raise AssertionError("asked for items")


def frame(**more):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(X, columns=list("abcdef"), index=np.arange(60) * 7).assign(**more)


def hot():
    return frame(**{name: i == LABELS for i, name in enumerate("abc")})[["a", "b", "c"]]


def polars():
    return pytest.importorskip("polars").DataFrame(X)


def dask():
    return pytest.importorskip("dask.array").from_array(X, chunks=(25, 4))


def hugging_face():
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"image": X.reshape(60, 2, 3), "label": LABELS})


def memory_map(path):
    np.save(path / "x.npy", X)
    return np.load(path / "x.npy", mmap_mode="r")


def lazy():
    return pytest.importorskip("polars").DataFrame(X).lazy()


class Lazy:
    """A lazy frame of polars, as far as it is looked at."""

    def lazy(self):
        return self

    def collect(self):
        return frame()


class Column:
    """A column of polars or Arrow, as far as it is looked at: it counts no dimensions."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)

    def to_numpy(self):
        return self.values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


def table():
    return {name: Column(values) for name, values in zip("abcdef", X.T, strict=True)}


def records():
    return np.rec.fromarrays(X.T, names=list("abcdef"))


KINDS = {
    "list": lambda _: X.tolist(),
    "images": lambda _: X.reshape(60, 1, 2, 3),
    "memory map": memory_map,
    "backwards": lambda _: X[::-1].copy()[::-1],
    "big-endian": lambda _: X.astype(">f8"),
    "tensor": lambda _: TENSOR.clone().requires_grad_(),
    "data frame": lambda _: frame(),
    "data frame with labels": lambda _: frame(label=[*"xyz"] * 20),
    "data frame that was numbered": lambda _: frame(index=np.arange(60)),
    "polars": lambda _: polars(),
    "lazy polars": lambda _: lazy(),
    "as lazy polars": lambda _: Lazy(),
    "records": lambda _: records(),
    "dict of columns": lambda _: {**dict(zip("abcdef", X.T, strict=True)), "label": LABELS},
    "dict of columns of polars": lambda _: {**table(), "label": Column(LABELS)},
    "with a column of polars": lambda _: (X, Column(LABELS)),
    "Bunch": lambda _: Bunch(data=X, images=X.reshape(60, 2, 3), target=LABELS, DESCR="toy"),
    "Bunch of frames": lambda _: Bunch(data=frame(), frame=frame(t=1), target=LABELS),
    "dask": lambda _: dask(),
    "csr": lambda _: sparse.csr_array(X),
    "coo matrix": lambda _: sparse.coo_matrix(X),
    "AnnData": lambda _: Annotated(sparse.csc_matrix(X)),
    "Dataset": lambda _: Dataset("toy", X, labels=LABELS),
    "loaded": lambda _: pc.load(X.reshape(60, 2, 3)),
    "dict": lambda _: {"image": X, "label": LABELS},
    "with labels": lambda _: (X, LABELS),
    "with a column of labels": lambda _: (X, LABELS[:, None]),
    "with names": lambda _: (X, ["cat", "dog", "cow"] * 20),
    "torch Dataset": lambda _: TensorDataset(TENSOR),
    "torch Dataset with labels": lambda _: TensorDataset(TENSOR, torch.from_numpy(LABELS)),
    "torch Dataset with a column of labels": lambda _: TensorDataset(
        TENSOR, torch.from_numpy(LABELS)[:, None]
    ),
    "torch stream": lambda _: Stream(),
    "loader": lambda _: DataLoader(TensorDataset(TENSOR.reshape(60, 2, 3)), batch_size=7),
    "loader with labels": lambda _: DataLoader(TensorDataset(TENSOR, TENSOR[:, 0]), batch_size=7),
    "loader of dicts": lambda _: DataLoader(
        [{"image": x, "label": y} for x, y in zip(TENSOR, LABELS, strict=True)], batch_size=60
    ),
    "Hugging Face": lambda _: hugging_face(),
    "as Hugging Face": lambda _: Rows(image=X.reshape(60, 2, 3), label=LABELS),
    "as a table of Hugging Face": lambda _: Rows(**dict(zip("abcdef", X.T, strict=True))),
    "batches": lambda _: [X[:20], X[20:21], X[21:]],
    "batches with labels": lambda _: [(X[:20], LABELS[:20]), (X[20:], LABELS[20:])],
    "generator": lambda _: (TENSOR[i : i + 9] for i in range(0, 60, 9)),
}


@pytest.fixture(scope="module")
def plain():
    return pc.fit(SPEC, X, "linear", epochs=1, batch_size=60)


@pytest.mark.parametrize("kind", KINDS)
def test_all_read_the_rows_of_every_kind(kind, plain, tmp_path):
    def make():
        return KINDS[kind](tmp_path)

    exactly = {"rel": 1e-12}
    assert pc.forecast(make(), SPEC).loss == pytest.approx(pc.forecast(X, SPEC).loss, **exactly)
    moments = pc.Moments.from_arrays(make())
    np.testing.assert_allclose(moments.cov, pc.Moments.from_arrays(X).cov, rtol=0, atol=1e-12)
    fitted = pc.fit(SPEC, make(), "linear", epochs=1, batch_size=60)
    found = pc.diagnose(plain, make())
    assert found.n == 60
    assert found.loss == pytest.approx(pc.diagnose(plain, X).loss, rel=1e-6)
    assert fitted.forecast.loss == pytest.approx(plain.forecast.loss, rel=1e-6)
    # Two groups, which both read all the data.
    swept = pc.sweep([SPEC, pc.VAESpec(3)], make(), "linear", epochs=1, batch_size=60)
    assert swept.runs[0].forecast["loss"] == pytest.approx(plain.forecast.loss, rel=1e-6)
    if not kind.startswith("loader"):  # which trains in batches, and an order, of its own
        assert fitted.history == plain.history


CONDITION = np.eye(3)[LABELS]
PAIRS = {
    "arrays": lambda: (CONDITION, X),
    "list": lambda: [CONDITION, X],
    "images": lambda: (CONDITION, X.reshape(60, 2, 3)),
    "sparse": lambda: (sparse.csr_array(CONDITION), X),
    "data frames": lambda: (hot(), frame()),
    "Dataset": lambda: Dataset("toy", CONDITION, X),
    "dict": lambda: {"x": CONDITION, "y": X},
    "torch Dataset": lambda: TensorDataset(torch.from_numpy(CONDITION), TENSOR),
    "loader": lambda: DataLoader(TensorDataset(torch.from_numpy(CONDITION), TENSOR), batch_size=7),
    "batches": lambda: [(CONDITION[:9], X[:9]), (CONDITION[9:], X[9:])],
    "generator": lambda: ((CONDITION[i : i + 9], X[i : i + 9]) for i in range(0, 60, 9)),
    "labels": lambda: (X.reshape(60, 2, 3), LABELS),
    "labels of polars": lambda: (X, Column(LABELS)),
    "names": lambda: (X, np.array(["cat", "dog", "fox"])[LABELS]),
    "labels of a Dataset": lambda: Dataset("toy", X, labels=LABELS),
    "labels of a data frame": lambda: frame(label=LABELS),
    "labels of a torch Dataset": lambda: TensorDataset(TENSOR, torch.from_numpy(LABELS)),
    "labels of a loader": lambda: DataLoader(
        TensorDataset(TENSOR, torch.from_numpy(LABELS)), batch_size=2
    ),
    "labels of as Hugging Face": lambda: Rows(image=X.reshape(60, 2, 3), label=LABELS),
    "labels of a Bunch": lambda: Bunch(data=X, images=X.reshape(60, 2, 3), target=LABELS),
    "labels of batches": lambda: [(X[:1], LABELS[:1]), (X[1:], LABELS[1:])],
}


@pytest.mark.parametrize("kind", PAIRS)
def test_all_read_conditions_and_targets_of_every_kind(kind):
    spec = pc.CVAESpec(2)
    plain = pc.fit(spec, (CONDITION, X), "linear", epochs=1, batch_size=60)
    assert pc.forecast(PAIRS[kind](), spec).loss == pytest.approx(plain.forecast.loss, rel=1e-9)
    fitted = pc.fit(spec, PAIRS[kind](), "linear", epochs=1, batch_size=60)
    assert fitted.forecast.loss == pytest.approx(plain.forecast.loss, rel=1e-6)
    found = pc.diagnose(plain, PAIRS[kind]())
    assert found.loss == pytest.approx(pc.diagnose(plain, (CONDITION, X)).loss, rel=1e-6)
    if "loader" not in kind:
        assert fitted.history == plain.history


def test_classes_are_those_of_the_model_though_the_rows_lack_one():
    spec = pc.CVAESpec(2)
    fitted = pc.fit(spec, (X, LABELS), "linear", epochs=1)
    some = LABELS < 2
    found = pc.diagnose(fitted, (X[some], LABELS[some]))
    assert found.loss == pc.diagnose(fitted, (CONDITION[some], X[some])).loss


def test_wide_sparse_matrices_are_measured_as_dense_ones():
    x = sparse.random_array((40, 9000), density=0.01, random_state=np.random.default_rng(0))
    spec = pc.VAESpec(3, eta_dec=0.1)
    expected = pc.forecast(x.toarray(), spec)
    assert pc.forecast(x, spec).loss == pytest.approx(expected.loss, rel=1e-12)


def test_images_with_attributes_are_for_an_autoencoder_images():
    attributes = torch.from_numpy(np.stack([LABELS, LABELS], 1))
    loader = DataLoader(TensorDataset(TENSOR, attributes), batch_size=7)
    assert pc.forecast(loader, SPEC).loss == pytest.approx(pc.forecast(X, SPEC).loss)
    assert not pc.Moments.from_arrays(loader).paired
    assert pc.Moments.from_batches([(X, attributes.numpy())]).paired  # as it says


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("digits", r"x: got 'digits'; expected numbers. Pass e\.g\. pc\.load"),
        (pc.VAESpec(2), "x: got a VAESpec; expected numbers"),
        ([pc.VAESpec(2)], r"x: got \[VAESpec.*expected numbers"),
        ({"train": X, "test": X}, r"a dict of \['test', 'train'\]"),
        ({"train": Rows(x=X), "test": Rows(x=X)}, r"Keep one of them, e\.g\. data\['train'\]"),
        ({str(i): "text" for i in range(99)}, r"a dict of \[.{,90}\.\.\. \(99 in all\)\];"),
        (X * 1j, "complex"),
        (sparse.csr_array(X * 1j), "complex"),
        (np.ma.masked_greater(X, 0), "masked values"),
        (sparse.csr_array(np.where(X[7, 2] == X, np.nan, X)), "nan at row 7, column 2"),
        (X[0], r"a 1-D array of shape \(6,\)"),
        (Column(X[0]), r"x: got a 1-D array of shape \(6,\).*np\.asarray\(x\)\.reshape"),
        ((Column(X[:, 0]), X), "x: got one number or name per row, beside y"),
        ((X, X[:9]), "x and y: got 60 and 9 samples"),
        ((X, LABELS[:9]), r"y: got a 1-D array of shape \(9,\)"),
        (object(), "x: got dtype object"),
        (None, r"x: got None; expected numbers. Pass e\.g\. pc\.load"),
        (TENSOR.to_sparse(), r"a sparse tensor of torch.*Pass tensor\.to_dense\(\)"),
        (
            [{"a": X, "b": X}],
            r"a dict of \['a', 'b'\].*Keep one of them, e\.g\. data\['a'\]",
        ),
        (iter([X, X[:, :3]]), r"batch starting at row 60: got features \[3\]"),
    ],
)
def test_all_refuse_alike(data, said, plain):
    words = []
    for take in (
        lambda: pc.forecast(data, SPEC),
        lambda: pc.fit(SPEC, data, epochs=1),
        lambda: pc.diagnose(plain, data),
    ):
        with pytest.raises(pc.DataError, match=said) as told:
            take()
        words.append(str(told.value))
        if hasattr(data, "__next__"):
            break  # it can be read once
    assert len(set(words)) == 1


def test_moments_are_enough_for_a_forecast_alone(plain):
    moments = pc.Moments.from_arrays(X)
    for take in (
        lambda: pc.fit(SPEC, moments),
        lambda: pc.sweep([SPEC], moments),
        lambda: pc.diagnose(plain, moments),
    ):
        with pytest.raises(pc.DataError, match=r"x: got Moments.*Pass the data that were measured"):
            take()


@pytest.mark.parametrize("architecture", ["linear", "mlp"])
def test_rows_of_another_width_than_the_model_s_are_refused(architecture):
    for spec, data, wrong in (
        (SPEC, X, X[:, :4]),
        (pc.CVAESpec(2), (X, X[:, :2]), (X, X[:, :3])),
        (pc.CVAESpec(2), (X, X[:, :2]), (X[:, 1:], X[:, :2])),
    ):
        fitted = pc.fit(spec, data, architecture, epochs=1)
        with pytest.raises(pc.InvalidArgumentError, match=r"[xy]: got shape .*\(\.\.\., \d\)"):
            pc.diagnose(fitted, wrong)


@pytest.mark.parametrize("labels", [LABELS - 1, LABELS + 0.5, LABELS * 10**6])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(pc.DataError, match=r"labels: got .*whole numbers from 0"):
        pc.forecast((X, labels), pc.CVAESpec(2))


@pytest.mark.parametrize("labels", [LABELS, LABELS.tolist(), LABELS / 2, LABELS.astype(str)])
@pytest.mark.parametrize("spec", [SPEC, pc.CVAESpec(2)])
def test_labels_before_the_array_are_told_how_to_be_passed(spec, labels):
    with pytest.raises(
        pc.DataError, match=r"^x: got one number or name per row.*reshape\(-1, 1\).*one-hot"
    ) as refused:
        pc.forecast((labels, X), spec)
    assert "\n" not in str(refused.value)


def test_an_iterator_does_not_tell_how_many_classes_there_are():
    with pytest.raises(pc.DataError, match="an iterator, which can be read once"):
        pc.forecast(iter([(X, LABELS)]), pc.CVAESpec(2))
    assert pc.fit(pc.CVAESpec(2), iter([(X, LABELS)]), "linear", epochs=1).model.shapes.x_dim == 3


def test_data_and_spec_are_taken_in_either_order(plain):
    assert pc.forecast(SPEC, X).loss == pc.forecast(X, SPEC).loss
    assert pc.phase_diagram(SPEC, X, [1.0], [1.0]).active.tolist() == [[2]]
    one, other = (pc.minimise(*pair, restarts=1).loss for pair in ((X, SPEC), (SPEC, X)))
    assert one == other
    assert pc.fit(X, SPEC, "linear", epochs=1, batch_size=60).history == plain.history
    many = pc.fit_many(X, [SPEC], "linear", epochs=1, batch_size=60)
    assert many[0].history == plain.history
    swept = pc.sweep(X, [SPEC], "linear", epochs=1, batch_size=60)
    assert swept.runs[0].history == plain.history
    assert pc.diagnose(X, plain).loss == pc.diagnose(plain, X).loss


def test_two_specs_or_none_are_said():
    with pytest.raises(
        pc.DataError, match=r"x: got a CVAESpec; expected numbers\. Pass data, then"
    ):
        pc.forecast(pc.CVAESpec(2), SPEC)
    with pytest.raises(pc.DataError, match="x: got a VAESpec; expected numbers"):
        pc.fit(SPEC, SPEC)
    with pytest.raises(pc.InvalidArgumentError, match="spec: got ndarray"):
        pc.forecast(X, X)
    with pytest.raises(pc.InvalidArgumentError, match="spec: got ndarray"):
        pc.fit(X, X)


def test_a_forecast_of_what_is_not_torch_s_leaves_it_unimported():
    output("""
import sys
import numpy as np, scipy.sparse
import posterior_collapse as pc
x = np.random.default_rng(0).standard_normal((50, 4))
labels = np.arange(50) % 2
kinds = [x, x.tolist(), x.reshape(50, 2, 2), pc.load("digits"), scipy.sparse.csr_array(x),
         (x, labels), [x[:9], x[9:]], iter([x]), {"image": x, "label": labels}]
try:
    import pandas
    kinds.append(pandas.DataFrame(x))
except ImportError:
    pass
for kind in kinds:
    pc.forecast(kind, pc.VAESpec(2))
pc.forecast((x, labels), pc.CVAESpec(2))
sys.exit("torch" in sys.modules)
""")


@pytest.mark.parametrize("number", [float, Decimal, np.float32])
def test_numbers_kept_as_objects_or_in_lists_are_numbers(number):
    objects = frame().map(number).astype(object)
    assert pc.forecast(objects, SPEC).loss == pytest.approx(pc.forecast(X, SPEC).loss, abs=1e-5)
    lists = {name: list(column) for name, column in frame().items()}
    assert pc.forecast(lists, SPEC).loss == pytest.approx(pc.forecast(X, SPEC).loss, abs=1e-9)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (np.where(LABELS == 2, np.nan, 1.0), "'new' of x: got nan at row 2; expected finite"),
        ([None, 2.0] * 30, "'new' of x: got nan at row 0; expected finite"),
        ([1, "a"] * 30, "'new' of x: got text; expected numbers"),
        ([datetime.date(2026, 1, 1)] * 60, "'new' of x: got date values; expected numbers"),
    ],
)
def test_of_a_frame_the_column_is_named_that_cannot_be_used(column, said):
    values = np.array(column, dtype=object if isinstance(column, list) else float)
    with pytest.raises(pc.DataError, match=said):
        pc.forecast(frame(new=values), SPEC)


def test_columns_of_unlike_length_are_no_table():
    with pytest.raises(pc.DataError, match="a and b: got 3 and 2 samples"):
        pc.forecast({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0]}, SPEC)


def test_data_say_how_they_are_read_again_until_they_are_changed() -> None:
    for options in ({}, {"standardize": True}, {"task": "half", "label": 3}):
        found = pc.load("digits", **options)
        again = pc.load(found.asked.pop("name"), **found.asked)
        assert (again.x == found.x).all()
    digits = pc.load("digits")
    changed = (
        digits.select(3), digits.scaled(2), digits.divided(2), digits.standardized(),
        TASKS["half"](digits), TASKS["quarter"](digits), pc.load(digits, scale=2),
        pc.load(digits, standardize=True), pc.load(digits.x),
    )  # fmt: skip
    assert [one.asked for one in changed] == [None] * len(changed)
