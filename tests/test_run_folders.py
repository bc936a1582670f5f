"""The files of a run that people read."""

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

from posterior_collapse import atomic
from posterior_collapse.errors import (
    CorruptFileError,
    MissingDependencyError,
    MissingFileError,
    OutputError,
)
from posterior_collapse.training import run_folders

HISTORY = {
    "epoch": [1, 2, 3],
    "loss": [0.1 + 0.2, 1e-320, -2.5e300],
    "kl": [[0.5, 1 / 3], [0.25, 0.0], [0.1, 2.0]],
    "validation": [None, 1.5, float("nan")],
}


def test_history_reads_back_exactly(tmp_path: Path) -> None:
    path = run_folders.write_history(tmp_path / "run", HISTORY)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0]) == ["epoch", "loss", "kl_1", "kl_2", "validation"]
    assert [float(row["loss"]) for row in rows] == HISTORY["loss"]
    assert [float(row["kl_2"]) for row in rows] == [1 / 3, 0.0, 2.0]
    assert [row["validation"] for row in rows] == ["", "1.5", "nan"]


def test_an_empty_history_has_its_header(tmp_path: Path) -> None:
    path = run_folders.write_history(tmp_path, {"epoch": [], "loss": []})
    assert path.read_text() == "epoch,loss\n"


def test_columns_of_unequal_length_are_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        run_folders.write_history(tmp_path, {"epoch": [1, 2], "loss": [1.0]})
    assert not list(tmp_path.iterdir())


def test_json_is_strict_and_reads_back(tmp_path: Path) -> None:
    values = {"loss": float("inf"), "levels": [{"kl": [0.1, float("nan")], "n_active": 2}]}
    path = run_folders.write_json(tmp_path / "new" / "summary.json", values)
    json.loads(path.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert run_folders.read_json(path) == {
        "loss": None,
        "levels": [{"kl": [0.1, None], "n_active": 2}],
    }


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="No such file"):
        run_folders.read_json(tmp_path / "config.json")
    for text in ("", '{"a": 1', "[1, 2]", "\x80"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CorruptFileError, match=r"config\.json"):
            run_folders.read_json(tmp_path / "config.json")


def test_only_a_new_or_empty_folder_is_free(tmp_path: Path) -> None:
    run_folders.check_free(tmp_path)
    run_folders.check_free(tmp_path / "new")
    (tmp_path / f".config.json.123{atomic.PARTIAL}").write_text("{")  # left by a killed process
    run_folders.check_free(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="folder with files"):
        run_folders.check_free(tmp_path)
    with pytest.raises(OutputError, match="a file"):
        run_folders.check_free(tmp_path / "file")


def test_fingerprint_tells_data_apart() -> None:
    x = np.arange(6.0)
    data = [
        [x, None],
        [x, x],
        [x.reshape(2, 3), None],
        [x.reshape(3, 2), None],
        [x.astype(np.float32), None],
        [x + np.eye(6)[5] * 1e-15, None],
    ]
    assert len({run_folders.fingerprint(arrays) for arrays in data}) == len(data)
    strided = np.arange(12.0)[::2] / 2
    assert run_folders.fingerprint([strided]) == run_folders.fingerprint([x])


class Recorder:
    """Stands for TensorBoard's writer, which is not among the tested libraries."""

    made: ClassVar[list["Recorder"]] = []

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.log_dir, self.purge_step = log_dir, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.closed = False
        Recorder.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


def test_tensorboard_gets_a_scalar_per_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Recorder
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    scalars = run_folders.Scalars(tmp_path, start=4)
    scalars.write({"epoch": 4, "loss": 1.5, "kl": [0.1, 0.2], "validation": None})
    scalars.close()
    (writer,) = Recorder.made
    assert (writer.log_dir, writer.purge_step) == (str(tmp_path / "tensorboard"), 4)
    assert writer.scalars == [("loss", 1.5, 4), ("kl_1", 0.1, 4), ("kl_2", 0.2, 4)]
    assert writer.closed


def test_without_tensorboard_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        run_folders.Scalars(tmp_path)
    assert not list(tmp_path.iterdir())
