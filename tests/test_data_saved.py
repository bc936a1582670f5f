"""Files of torch.save and HDF5: their numbers, and columns of arrays by number."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posterior_collapse.cli import main
from posterior_collapse.data import load
from posterior_collapse.data.saved import Saved
from posterior_collapse.errors import (
    CorruptFileError,
    DataError,
    InvalidArgumentError,
    MissingDependencyError,
)

torch = pytest.importorskip("torch")
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((30, 4)).astype("f4")
TENSOR = torch.from_numpy(X)


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "x.pt")
    return folder / "x.pt"


KINDS = {
    "plain": TENSOR,
    "a view": torch.from_numpy(np.hstack([X[:, ::2], X, X])).reshape(30, 10)[:, 2:6],
    "transposed": torch.from_numpy(np.ascontiguousarray(X.T)).T,
    "a parameter": torch.nn.Parameter(TENSOR),
    "doubles": TENSOR.double(),
    "in a dict": {"data": TENSOR, "epoch": 3, "lr": 1e-3, "name": "run", "done": False},
    "in a list": [TENSOR],
    "in a dict in a dict": {"state": {"data": TENSOR, "big": 1 << 70}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_torch_save_are_data(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, KINDS[kind])
    found = load(path)
    np.testing.assert_array_equal(found.x, X)
    assert found.x.dtype == ("f8" if kind == "doubles" else "f4")
    assert load(path.rename(tmp_path / "x.pth")).x.shape == (30, 4)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "int32", "int64", "bool", "float16", "uint16", "bfloat16"]
)
def test_every_kind_of_number(tmp_path: Path, dtype: str) -> None:
    tensor = torch.arange(12).reshape(3, 4).remainder(2).to(getattr(torch, dtype))
    found = load(saved(tmp_path, tensor))
    np.testing.assert_array_equal(found.x, np.arange(12).reshape(3, 4) % 2)


def test_pairs_labels_and_images(tmp_path: Path) -> None:
    images, classes = torch.ones(6, 1, 2, 3), torch.arange(6) % 3
    found = load(saved(tmp_path, (images, classes)), label=2)  # as older copies of MNIST
    assert (found.x.shape, found.image_shape) == ((2, 6), (1, 2, 3))
    found = load(saved(tmp_path, [TENSOR, TENSOR[:, :1]]))
    assert found.y is not None
    assert (found.x.shape, found.y.shape) == ((30, 4), (30, 1))
    path = saved(tmp_path, {"train": TENSOR, "test": TENSOR[:5]})
    with pytest.raises(DataError, match=r"the arrays \['test', 'train'\].*key='NAME'"):
        load(path)
    assert load(path, key="test").x.shape == (5, 4)


def test_without_torch_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch) -> None:
    path = saved(tmp_path, TENSOR)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'posterior-collapse\[torch\]'"):
        load(path)


def test_a_posterior_may_be_saved_so_and_weights_are_none(tmp_path: Path, capsys) -> None:
    path = saved(tmp_path, {"mu": TENSOR, "logvar": torch.zeros(30, 4) - 1})
    with pytest.raises(SystemExit) as end:
        main(["diagnose", str(path)])
    assert end.value.code == 0
    assert "mu as mean, logvar as log_var" in " ".join(capsys.readouterr().out.split())
    saved(tmp_path, torch.nn.Linear(3, 4).state_dict())
    with pytest.raises(SystemExit):
        main(["diagnose", str(path)])
    assert "a model's weights: build it, and call pc.diagnose" in capsys.readouterr().err


# What is refused.


def archive(pickled: bytes, *members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        file.writestr("x/version", b"3\n")
        file.writestr("x/data.pkl", pickled)
        for name, body in members:
            file.writestr(f"x/{name}", body)
    return content.getvalue()


def tensor(
    shape: str, steps: str, start: str = "K\x00", storage: str = "X\x01\x00\x00\x000"
) -> bytes:
    """The pickle of a tensor, whose parts are instructions of any kind."""
    text = (
        "\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        f"ctorch\nFloatStorage\n{storage}X\x03\x00\x00\x00cpuK\x0ctQ{start}({shape}t({steps}t"
        "\x89ccollections\nOrderedDict\n)RtR."
    )
    return text.encode("latin1")


def names(number: int) -> bytes:
    """Dicts within dicts, all under one name of the greatest length."""
    name = b"X" + struct.pack("<I", 1000) + b"a" * 1000 + b"q\x00"
    return b"\x80\x02}" + name + b"}h\x00" * (number - 1) + b"}" + b"s" * number + b"."


BODY = ("data/0", bytes(48))
GOOD = archive(tensor("K\x03K\x04", "K\x04K\x01"), BODY)
WRITTEN = "tensors that torch.save wrote"
UNREAD = r"a pickle that torch\.load\(weights_only=True\) does not read"
BAD: dict[str, tuple[bytes, str]] = {
    "another function": (archive(b"cos\nsystem\n(X\x02\x00\x00\x00lstR."), r"it names os\.system"),
    "eval": (archive(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."), UNREAD),
    "an object": (archive(b"(cos\nsystem\no."), UNREAD),
    "an instance": (archive(b"(ios\nsystem\n."), UNREAD),
    "a long bytearray": (
        archive(b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R."), "it names b.*array",
    ),
    "more than is stored": (archive(tensor("K\x03K\x05", "K\x05K\x01"), BODY), WRITTEN),
    "beyond its start": (archive(tensor("K\x03K\x04", "K\x04K\x01", "K\x01"), BODY), WRITTEN),
    "numbers before it": (
        archive(tensor("K\x03K\x04", "K\x04J\xff\xff\xff\xff"), BODY), WRITTEN,
    ),
    "a row repeated": (
        archive(tensor("J\xff\xff\xff\x7fK\x04", "K\x00K\x01"), BODY), "that unpacks to 34.4 GB",
    ),
    "no storage": (archive(tensor("K\x03K\x04", "K\x04K\x01")), "data/0"),
    "a memory of billions": (archive(b"\x80\x02Nr\xff\xff\xff\x7f."), r"the arrays \[\]"),
    "a text that is not there": (archive(b"\x80\x02X\xff\xff\xff\x7fabc."), "x.pt"),
    "very many dicts": (archive(b"}" * (1 << 20) + b"."), "bytes of names"),
    "many dicts": (archive(b"}" * (1 << 17) + b"."), r"the arrays \[\]"),
    "names within names": (archive(names(20_000)), "within each other"),
    "a name of lists in lists": (
        archive(
            b"\x80\x04]q\x00"
            + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 60))
            + b"h;h;\x93."
        ),
        UNREAD,
    ),
    "itself": (archive(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."), r"the arrays \[\]"),
    "no end": (archive(b"\x80\x02}"), "EOFError"),
    "nothing": (archive(b""), "EOFError"),
    "noise": (archive(bytes(range(255, 0, -1))), "x.pt"),
    "no pickle": (archive(b".", BODY).replace(b"data.pkl", b"data.pki"), "x.pt"),
    "cut short": (GOOD[:-30], "not a zip file"),
    "noise alone": (bytes(range(256)), "not a zip file"),
    "text": (b"hello, world\n", "not a zip file"),
    "a pickle": (pickle.dumps([1, 2]), "a pickle, which may run code"),
    "damaged": (GOOD.replace(bytes(48), b"\1" * 48), "CRC"),
    "another archive": (b"PK\x05\x06" + bytes(18), "x.pt"),
    "an old file": (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02M\xe9\x03.", "a pickle"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_or_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=words) as caught:
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = archive(tensor("K\x03K\x04", "K\x04K\x01"), ("data/0", bytes(400 << 20)), method=8)
    (tmp_path / "x.pt").write_bytes(bomb)
    with pytest.raises(CorruptFileError, match="a compressed archive"):
        load(tmp_path / "x.pt")


def test_the_good_one_of_them_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(GOOD)
    assert load(path).x.tolist() == [[0.0] * 4] * 3
    big = archive(
        tensor("K\x03K\x04", "K\x04K\x01"), ("data/0", X[:3].astype(">f4").tobytes()),
        ("byteorder", b"big"),
    )  # fmt: skip
    path.write_bytes(big)
    np.testing.assert_array_equal(load(path).x, X[:3])
    assert list(Saved(path)) == ["x"]


# HDF5.


def test_arrays_of_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["labels"] = X, np.arange(30) % 2
        file["other/deep"] = X[:, :2]
        file["far"] = h5py.ExternalLink("/etc/passwd", "/")
    assert load(path, label=1).x.shape == (15, 4)
    np.testing.assert_array_equal(load(path, key="other/deep", drop=1).x, X[:, 1:2])
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (9, 9), "u1", external=[("/dev/zero", 0, 81)])
    with pytest.raises(CorruptFileError, match="lie in other files"):
        load(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10**7, 9), "f8", compression="gzip", chunks=(10**4, 9))
    with pytest.raises(DataError, match="that unpacks to"):
        load(path)
    path.write_bytes(bytes(range(256)) * 9)
    with pytest.raises(CorruptFileError, match=r"x\.h5.*HDF5"):
        load(path)


# Columns of arrays.


@pytest.mark.parametrize("kind", ["npy", "npz", "pt", "array", "tensor"])
def test_columns_of_arrays_are_numbered_from_1(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, X)
    elif kind == "npz":
        np.savez(path, x=X)
    elif kind == "pt":
        torch.save(TENSOR, path)
    source = {"array": X, "tensor": TENSOR}.get(kind, path)
    found = load(source, columns="1,3")
    np.testing.assert_array_equal(found.x, X[:, [0, 2]])
    assert "columns '1', '3' only" in found.note
    np.testing.assert_array_equal(load(source, drop=[1, 3]).x, X[:, [1, 3]])
    labelled = load(source, label_column=4)
    np.testing.assert_array_equal(labelled.x, X[:, :3])
    np.testing.assert_array_equal(labelled.labels, X[:, 3])
    with pytest.raises(InvalidArgumentError, match=r"columns: got '0'.*\['1', '2', '3', '4'\]"):
        load(source, columns="0")
    with pytest.raises(DataError, match="no column that is kept"):
        load(source, drop="1,2,3,4")


def test_columns_of_pixels_and_of_sparse_rows(tmp_path: Path, capsys) -> None:
    from scipy import sparse

    found = load(np.ones((5, 2, 3), "u1"), columns="2")
    assert (found.x.shape, found.image_shape) == ((5, 1), None)
    found = load(sparse.csr_matrix(X), drop="2")
    np.testing.assert_array_equal(np.asarray(found.x), X[:, [0, 2, 3]])
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(SystemExit) as end:
        main(["forecast", str(tmp_path / "x.npy"), "--columns", "1,2", "--latents", "2"])
    assert end.value.code == 0
    assert "30 x 2 float32" in capsys.readouterr().out
