"""The files of a run that people read."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from posterior_collapse import files
from posterior_collapse.errors import (
    CorruptFileError,
    MissingFileError,
)

HISTORY = {
    "epoch": [1, 2, 3],
    "loss": [0.1 + 0.2, 1e-320, -2.5e300],
    "kl": [[0.5, 1 / 3], [0.25, 0.0], [0.1, 2.0]],
    "validation": [None, 1.5, float("nan")],
}


def test_history_reads_back_exactly(tmp_path: Path) -> None:
    path = files.write_history(tmp_path / "run", HISTORY)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0]) == ["epoch", "loss", "kl_1", "kl_2", "validation"]
    assert [float(row["loss"]) for row in rows] == HISTORY["loss"]
    assert [float(row["kl_2"]) for row in rows] == [1 / 3, 0.0, 2.0]
    assert [row["validation"] for row in rows] == ["", "1.5", "nan"]


def test_an_empty_history_has_its_header(tmp_path: Path) -> None:
    path = files.write_history(tmp_path, {"epoch": [], "loss": []})
    assert path.read_text() == "epoch,loss\n"


def test_columns_of_unequal_length_are_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        files.write_history(tmp_path, {"epoch": [1, 2], "loss": [1.0]})
    assert not list(tmp_path.iterdir())


def test_json_is_strict_and_reads_back(tmp_path: Path) -> None:
    values = {"loss": float("inf"), "levels": [{"kl": [0.1, float("nan")], "n_active": 2}]}
    path = files.write_json(tmp_path / "new" / "summary.json", values)
    json.loads(path.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert files.read_json(path) == {
        "loss": None,
        "levels": [{"kl": [0.1, None], "n_active": 2}],
    }


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="No such file"):
        files.read_json(tmp_path / "config.json")
    for text in ("", '{"a": 1', "[1, 2]", "\x80"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CorruptFileError, match=r"config\.json"):
            files.read_json(tmp_path / "config.json")


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
    assert len({files.fingerprint(arrays) for arrays in data}) == len(data)
    strided = np.arange(12.0)[::2] / 2
    assert files.fingerprint([strided]) == files.fingerprint([x])
