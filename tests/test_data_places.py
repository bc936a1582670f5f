"""Names and places of files, and outputs that cannot be written: commands end in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import posterior_collapse as pc
from commands import collapse, ends
from posterior_collapse.data import load
from posterior_collapse.errors import DataError

X = np.random.default_rng(0).standard_normal((30, 4))

LONG = "x" * 300
PLACES = {
    "a long name": f"{LONG}.npy",
    "in a folder of a long name": f"{LONG}/x.csv",
    "the home of nobody": "~nobody-of-this-name/x.npy",
    "a device": "/dev/zero",
    "a folder": ".",
    "a file as a folder": "good.npy/x.npy",
    "several lines": "a\nb.npy",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("command", ["forecast", "train", "effective-beta", "diagnose"])
def test_places_where_no_data_are(tmp_path: Path, capsys, monkeypatch, place, command) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("good.npy", X)
    ends(capsys, command, place)
    if command in ("forecast", "train"):
        ends(capsys, command, "good.npy", "--given", place)
    if command in ("forecast", "train") and place != ".":
        ends(capsys, command, "mnist", "--data-dir", place)


def test_a_file_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(DataError, match="no regular file"):
        load(tmp_path / "x.npy")


def test_a_name_with_a_zero_byte() -> None:
    with pytest.raises(DataError, match=r"null (byte|character)"):
        load("x\0.npy")


@pytest.mark.filterwarnings("ignore::posterior_collapse.theory.FewSamplesWarning")
@pytest.mark.parametrize("name", ["s].npy", "[red].npy", "[bold]b[", os.fsdecode(b"\xff.npy")])
def test_names_that_look_like_markup(tmp_path: Path, capsys, monkeypatch, name: str) -> None:
    """Together with its folder, q[/s] reads as the end of a style."""
    monkeypatch.chdir(tmp_path)
    home = Path("q[")
    home.mkdir()
    data = home / (name if name.endswith(".npy") else f"{name}.npy")
    np.save(data, X)
    np.savez(home / "q].npz", mean=X, std=np.abs(X), data=X)
    for arguments in (
        ("forecast", data),
        ("effective-beta", data),
        ("forecast", data, "--given", data),
        ("forecast", data, "--plot", home / "p].png"),
        ("train", data, "--latents", 2, "--epochs", 1, "--beta", "1,2", "--out", home / "r]"),
        ("diagnose", home / "r]"),
        ("diagnose", home / "r]" / "beta=1"),
        ("diagnose", home / "q].npz", "--beta", 1),
    ):
        assert collapse(*arguments) == 0, (arguments, capsys.readouterr().err)
    for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (home / "e]" / "mnist").mkdir(parents=True, exist_ok=True)
        (home / "e]" / "mnist" / f"{file}-ubyte").touch()
    assert collapse("data", "list", "--data-dir", home / "e]") == 0
    assert "q[/e]" in capsys.readouterr().out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["forecast", "digits", "--json"], ["data", "list"]])
def test_an_output_that_is_full(arguments) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "posterior_collapse", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ran.returncode == 2
    assert ran.stderr == (
        "error: output: got 'No space left on device'; expected what can be used. "
        "Choose another path.\n"
    )


def test_memory_that_runs_out_is_told_in_one_line(capsys, monkeypatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 8. TiB for an array")

    monkeypatch.setattr(pc.Moments, "of", exhausted)
    assert "Unable to allocate 8. TiB" in ends(capsys, "forecast", "digits")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("forecast no/folder", "a data file, or a folder of pictures or of .parquet files"),
        ("train no/x.npy", "a data file, or a folder of pictures or of .parquet files"),
        ("diagnose no", "the folder of a run or a sweep, or a file with mean and std"),
    ],
)
def test_what_is_missing_is_said_with_all_that_it_may_be(
    tmp_path: Path, capsys, monkeypatch, words: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"got no such file or folder; expected {expected}." in ends(capsys, *words.split())
