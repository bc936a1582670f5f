"""Folders of pictures, and values that look like bytes of pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import command
from libraries import without
from posterior_collapse.data import load
from posterior_collapse.errors import (
    CorruptFileError,
    DataError,
    InvalidArgumentError,
    MissingDependencyError,
)

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((6, 3))
GREY = RANDOM.integers(0, 256, (5, 4, 6), np.uint8)
COLOUR = RANDOM.integers(0, 256, (5, 4, 6, 3), np.uint8)


def pictures(folder: Path, pixels: Any, ending: str = ".png", mode: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, one in enumerate(pixels):
        image = Image.fromarray(one)
        (image if mode is None else image.convert(mode)).save(folder / f"{i:02}{ending}")
    return folder


@pytest.mark.parametrize("ending", [".png", ".PNG"])
def test_a_folder_of_pictures(tmp_path: Path, ending: str) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    found = load(pictures(tmp_path, GREY, ending))
    np.testing.assert_array_equal(found.x, GREY.reshape(5, 24))
    assert (found.x.dtype, found.image_shape, found.labels) == (np.uint8, (4, 6), None)
    assert "5 pictures of 6 x 4 pixels" in found.note
    assert load(tmp_path, task="half").x.shape == (5, 12)


def test_pictures_in_colour_have_their_channels_first(tmp_path: Path) -> None:
    found = load(pictures(tmp_path, COLOUR))
    np.testing.assert_array_equal(found.x.reshape(5, 3, 4, 6), np.moveaxis(COLOUR, -1, 1))
    assert found.image_shape == (3, 4, 6)
    clear = load(pictures(tmp_path / "clear", COLOUR, mode="RGBA"))
    np.testing.assert_array_equal(clear.x, found.x)
    assert "transparency left out" in clear.note
    assert "in colour" in found.note
    assert "alike" not in found.note
    pictures(tmp_path, GREY[:1])  # now one of them is grey
    np.testing.assert_array_equal(load(tmp_path).x[0], np.tile(GREY[0].ravel(), 3))


def test_pictures_of_two_bytes_and_of_one_bit(tmp_path: Path) -> None:
    fine = (GREY.astype(np.uint16) << 8) + 7
    np.testing.assert_array_equal(load(pictures(tmp_path / "fine", fine)).x, fine.reshape(5, 24))
    bits = load(pictures(tmp_path / "bits", np.where(GREY > 99, 255, 0).astype("u1"), mode="1"))
    np.testing.assert_array_equal(bits.x, np.where(GREY > 99, 255, 0).reshape(5, 24))


@pytest.mark.parametrize("mode", ["LA", "P"])
def test_grey_is_one_channel_however_it_is_saved(tmp_path: Path, mode: str) -> None:
    found = load(pictures(tmp_path, GREY, mode=mode))
    np.testing.assert_array_equal(found.x, GREY.reshape(5, 24))
    assert ("transparency left out" in found.note) == (mode == "LA")


def test_grey_pictures_saved_in_colour_are_spoken_of(tmp_path: Path) -> None:
    found = load(pictures(tmp_path, GREY, mode="RGB"))
    np.testing.assert_array_equal(found.x.reshape(5, 3, 24)[:, 1], GREY.reshape(5, 24))
    assert "all three channels alike, as of grey pictures saved in colour" in found.note
    shades = Image.fromarray(COLOUR[0]).quantize(4)
    shades.save(tmp_path / "00.png")
    assert "alike" not in load(tmp_path).note


def test_pictures_of_two_depths_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, GREY.astype(np.uint16) * 257)
    pictures(tmp_path, GREY[:1])
    with pytest.raises(DataError, match=r"01\.png: got pixels of 16 bits; expected 8 bits"):
        load(tmp_path)


def test_pictures_below_others_are_not_left_out_silently(tmp_path: Path) -> None:
    pictures(tmp_path, GREY)
    assert "left out" not in load(tmp_path).note
    pictures(tmp_path / "cats", GREY)
    found = load(tmp_path)
    assert len(found.x) == 5
    assert "pictures in folders below left out" in found.note
    pictures(tmp_path / "cats" / "old", GREY)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert "pictures in folders below left out" in load(tmp_path).note


def test_a_folder_below_that_may_not_be_read_is_no_reason_to_fail(tmp_path, monkeypatch) -> None:
    pictures(tmp_path, GREY)
    (tmp_path / "lost+found").mkdir()
    names = os.listdir

    def listdir(path: Path) -> list[str]:
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return names(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert len(load(tmp_path).x) == 5


def test_jpeg(tmp_path: Path) -> None:
    flat = np.full((3, 8, 8), 1, np.uint8) * np.array([[[10]], [[120]], [[240]]], np.uint8)
    found = load(pictures(tmp_path, flat, ".jpg"))
    np.testing.assert_allclose(found.x.astype(float), flat.reshape(3, 64), atol=2)


def test_folders_of_pictures_are_classes(tmp_path: Path) -> None:
    pictures(tmp_path / "dog", GREY[:2])
    pictures(tmp_path / "cat", GREY[2:])
    found = load(tmp_path)
    assert found.labels is not None
    assert found.labels.tolist() == ["cat"] * 3 + ["dog"] * 2
    np.testing.assert_array_equal(load(tmp_path, label="dog").x, GREY[:2].reshape(2, 24))


def test_pictures_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, GREY)
    (tmp_path / "02.png").write_bytes((tmp_path / "02.png").read_bytes()[:-30])
    with pytest.raises(CorruptFileError, match=r"02\.png"):
        load(tmp_path)
    (tmp_path / "02.png").write_bytes(b"no picture")
    with pytest.raises(CorruptFileError, match=r"02\.png"):
        load(tmp_path)
    Image.fromarray(GREY[0].T.copy()).save(tmp_path / "02.png")
    with pytest.raises(DataError, match=r"02\.png: got 4 x 6 pixels; expected 6 x 4, as 00\.png"):
        load(tmp_path)
    with pytest.raises(InvalidArgumentError, match="key: got 'a'"):
        load(tmp_path, key="a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="a folder without pictures"):
        load(tmp_path / "empty")
    without(monkeypatch, "PIL")
    with pytest.raises(MissingDependencyError, match="pip install pillow"):
        load(tmp_path)


def test_many_large_pictures_of_nothing_are_refused_before_they_are_unpacked(tmp_path: Path):
    image = Image.new("L", (5_000, 5_000))
    for i in range(40):  # a gigabyte, in a megabyte
        image.save(tmp_path / f"{i}.png") if i == 0 else (tmp_path / f"{i}.png").write_bytes(
            (tmp_path / "0.png").read_bytes()
        )
    with pytest.raises(CorruptFileError, match=r"that unpacks to 1\.0 GB"):
        load(tmp_path)


def test_the_commands_take_folders(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "faces", GREY)
    assert "5 pictures" in command(capsys, "forecast", "faces", "--latents", 2)[1]
    command(capsys, "train", "faces", "--latents", 2, "--epochs", 1, "--out", "run")
    assert "5 pictures" in command(capsys, "diagnose", "run")[1]


# Values that look like bytes of pixels.

HINT = "scale them by 0.00392 (--scale, scale=) to [0, 1], or give eta_dec in grey levels"


@pytest.mark.parametrize("dtype", ["u1", "i8", "f4"])
def test_grey_levels_are_spoken_of(dtype: str) -> None:
    grey = GREY.astype(dtype)
    grey[0, 0, :2] = 0, 255
    assert load(grey).note.endswith(f"values from 0 to 255: {HINT}")
    assert HINT in load(grey.reshape(5, 24)).note
    assert load(load(grey)).note.count(HINT) == 1
    assert HINT in load(grey, given=X[:5]).note
    assert HINT not in load(grey, scale=0.1).note
    assert HINT not in load(grey, standardize=True).note
    assert HINT not in load(X, given=grey[[0] * 6]).note


def test_other_numbers_are_no_grey_levels() -> None:
    for x in (GREY % 2, GREY / 255, GREY + 0.5, GREY.astype(int) - 99, GREY.astype(int) * 9):
        assert HINT not in load(x).note
    assert HINT not in load(GREY.reshape(-1, 4).astype(int)).note  # a table of ages and the like
    assert HINT not in load("digits").note
