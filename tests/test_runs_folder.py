"""The folder of `collapse train`: whom it lets in, what it says, and how it comes to an end."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from posterior_collapse import files
from posterior_collapse.cli import train_command
from posterior_collapse.errors import MissingDependencyError, OutputError
from posterior_collapse.models import Architecture
from posterior_collapse.runs import RunData, folder
from posterior_collapse.specs import VAESpec
from posterior_collapse.training import Settings


def test_only_a_new_or_empty_folder_is_free(tmp_path: Path) -> None:
    files.check_free(tmp_path)
    files.check_free(tmp_path / "new")
    (tmp_path / f".config.json.123{files.PARTIAL}").write_text("{")  # left by a killed process
    files.check_free(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="folder with files"):
        files.check_free(tmp_path)
    with pytest.raises(OutputError, match="a file"):
        files.check_free(tmp_path / "file")


def test_who_begins_anew_are_those_without_a_checkpoint_and_who_train_with_them(
    tmp_path: Path,
) -> None:
    found = RunData("digits"), Architecture.named("mlp"), Settings()
    runs = {
        f"beta={beta},seed={seed}": (VAESpec(2, beta=beta), {"seed": seed})
        for beta in (1, 2)
        for seed in (0, 1)
    }
    asked = folder.asked(*found, runs)
    assert folder.beginning(asked, tmp_path) == list(asked)
    for name in list(asked)[1:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint-0000000001.json").write_text("{}")
    assert folder.beginning(asked, tmp_path) == ["beta=1,seed=0", "beta=2,seed=0"]


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
    scalars = train_command.Scalars(tmp_path, start=4)
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
        train_command.Scalars(tmp_path)
    assert not list(tmp_path.iterdir())
