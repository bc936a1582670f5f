"""The folder of `collapse train`: whom it lets in, what it says, and how it comes to an end."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from posterior_collapse import files
from posterior_collapse.cli import live
from posterior_collapse.errors import MissingDependencyError, OutputError
from posterior_collapse.runs import folder


def test_only_a_new_or_empty_folder_is_free(tmp_path: Path) -> None:
    folder.check_free(tmp_path)
    folder.check_free(tmp_path / "new")
    (tmp_path / f".config.json.123{files.PARTIAL}").write_text("{")  # left by a killed process
    folder.check_free(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="folder with files"):
        folder.check_free(tmp_path)
    with pytest.raises(OutputError, match="a file"):
        folder.check_free(tmp_path / "file")


class Recorder:
    """Stands for TensorBoard's writer, which is not among the tested libraries."""

    made: ClassVar[list[Recorder]] = []

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
    scalars = live.Scalars(tmp_path, start=4)
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
        live.Scalars(tmp_path)
    assert not list(tmp_path.iterdir())
