"""`collapse train --resume` of a folder whose files were edited: one line, nothing outside it."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import collapse
from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError

Command = Callable[..., tuple[int, str]]

OUTSIDE = [
    "../victim",
    "..",
    ".",
    "",
    "a/b",
    "a/../../victim",
    "a\\b",
    "..\\victim",
    "C:",
    "C:victim",
    "C:\\victim",
    "\\\\host\\share",
    "a\nb",
    "a\x00b",
    "\x7f",
    "\u202ebeta",
    "\ud800",
    "b" * 256,
    "ä" * 128,
]
WRONG = [None, True, -1, "x", [], {}]
"""What may stand where something else was."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, the folders `run` and `sweep`, and another's folder beside them."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((40, 3)))
    options = ["--architecture", "linear", "--exact", "--latents", "2", "--out"]
    for name, betas in (("run", "1"), ("sweep", "1,2")):
        arguments = [str(folder / "x.npy"), "--beta", betas, *options, str(folder / name)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(warnings, "showwarning", warnings.showwarning)
            assert collapse("train", *arguments) == 0
    (folder / "victim").mkdir()
    (folder / "victim/config.json").write_text("mine")
    return folder


@pytest.fixture
def folders(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path, dirs_exist_ok=True))


@pytest.fixture
def command(run: Callable[..., tuple[int, str, str]], folders: Path) -> Command:
    """Run `collapse` in a folder with data; return status and stderr."""
    return lambda *arguments: run(*arguments)[::2]


def everything() -> dict[str, bytes]:
    files = (path for path in Path().rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def refused(command: Command, folder: str) -> str:
    """What is said of a folder, whoever reads it; nothing is written."""
    before = everything()
    said = ""
    for arguments in (["train", "--resume", folder], ["diagnose", folder]):
        status, said = command(*arguments)
        assert status == 2
        assert said.startswith(f"error: {folder}/")
        assert said.count("\n") == 1
    assert everything() == before
    return said


@pytest.mark.parametrize("name", [*OUTSIDE, "absolute"])
def test_a_name_in_sweep_json_stays_within_the_sweep(
    command: Command, folders: Path, name: str, tmp_path: Path
) -> None:
    name = str(tmp_path / "victim") if name == "absolute" else name
    path = folders / "sweep" / "sweep.json"
    runs = json.loads(path.read_text())["runs"]
    path.write_text(json.dumps({"runs": {name: runs["beta=1"], "beta=2": runs["beta=2"]}}))
    said = refused(command, "sweep")
    assert "name of a run: got " in said
    assert "expected a plain name of at most 255 bytes" in said


@pytest.mark.parametrize("name", [*OUTSIDE, "/abs", None, 3, ["a"]])
def test_only_plain_names_are_plain(name: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"got .*; expected a plain name") as caught:
        checks.file_name("file", name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", ["beta=1_2,seed=0", "a b", "..a", ".a", "é" * 127, "table-x.csv"])
def test_names_that_stay_are_taken(name: str) -> None:
    assert checks.file_name("file", name) == name


def test_a_sweep_whose_names_would_be_too_long_is_refused(command: Command) -> None:
    units = 60
    sigmas = ",".join(":".join(f"0.{u}{number}1" for u in range(units)) for number in (1, 2))
    status, said = command("train", "x.npy", "--latents", str(units), "--sigma", sigmas)
    assert status == 2
    assert said.startswith("error: name of a run: got 'sigma=0.011_")
    assert not Path("runs").exists()


def places(values: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(values, dict):
        for key, value in values.items():
            yield from places(value, (*at, key))


def edited(values: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    values = copy.deepcopy(values)
    inner = values
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return values


@pytest.mark.parametrize("file", ["run/config.json", "sweep/sweep.json"])
def test_whatever_stands_in_the_file_nothing_but_a_line_is_said(
    command: Command, folders: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Every value replaced by values of every other kind, and taken away."""
    path = folders / file
    values = json.loads(path.read_text())
    tried = 0
    for at in places(values):
        if at[:1] == ("runs",) and (at[1:2] == ("beta=2",) or len(at) > 3):
            continue  # as for the first run, or for a run alone
        for value in WRONG:
            path.write_text(json.dumps(edited(values, at, value)))
            status, said = command("train", "--resume", path.parent.name)
            assert status in (0, 2), (at, value)
            lines = [line for line in said.splitlines() if not line.startswith("warning: ")]
            assert [line[:7] for line in lines] == ["error: "] * (status == 2), (at, value, said)
            tried += status == 2
    assert tried > 50
    assert Path("victim/config.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "at", "value"),
    [
        ("run/config.json", ("data",), []),
        ("run/config.json", ("data",), {"source": "x.npy"}),
        ("run/config.json", ("data", "more"), 1),
        ("run/config.json", ("data", "source"), None),
        ("run/config.json", ("data", "split"), ["train"]),
        ("run/config.json", ("data", "task"), {}),
        ("run/config.json", ("data", "data_dir"), 5),
        ("run/config.json", ("settings", "momentum"), "x"),
        ("run/config.json", ("settings", "convention"), []),
        ("run/config.json", ("settings", "convention"), "other"),
        ("run/config.json", ("architecture", "name"), []),
        ("run/config.json", ("architecture",), None),
        ("run/config.json", ("exact",), "yes"),
        ("run/config.json", ("spec",), 3),
        ("sweep/sweep.json", (), []),
        ("sweep/sweep.json", ("runs",), []),
        ("sweep/sweep.json", ("runs",), {}),
        ("sweep/sweep.json", ("runs", "beta=1"), None),
        ("sweep/sweep.json", ("runs", "beta=1", "exact"), False),
    ],
)
def test_what_was_never_written_is_refused_by_name(
    command: Command, folders: Path, file: str, at: tuple[Any, ...], value: Any
) -> None:
    path = folders / file
    path.write_text(json.dumps(edited(json.loads(path.read_text()), at, value)))
    assert f"error: {file}: got " in refused(command, path.parent.name)


@pytest.mark.parametrize("file", ["run/config.json", "sweep/sweep.json"])
@pytest.mark.parametrize("content", [b"", b"\x80", b"null", b"[" * 10_000, None])
def test_a_file_that_is_no_json(
    command: Command, folders: Path, file: str, content: bytes | None
) -> None:
    path = folders / file
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert f"error: {file}: got " in refused(command, path.parent.name)


def test_swapped_folders_of_a_sweep_are_not_diagnosed_under_each_other_s_names(
    command: Command, folders: Path
) -> None:
    assert command("diagnose", "sweep")[0] == 0
    Path("sweep/beta=1").rename("aside")
    Path("sweep/beta=2").rename("sweep/beta=1")
    Path("aside").rename("sweep/beta=2")
    status, said = command("diagnose", "sweep")
    assert status == 2
    assert "error: sweep/beta=1/config.json: got another run; expected that of beta=1," in said
    status, said = command("train", "--resume", "sweep")
    assert status == 2
    assert "got a run with another spec" in said


def test_a_sweep_that_lacks_a_run_says_how_to_mend_it_and_is_mended(
    command: Command, folders: Path
) -> None:
    shutil.rmtree("sweep/beta=2")
    status, said = command("diagnose", "sweep")
    assert status == 2
    assert said.startswith("error: sweep/beta=2/config.json: got no such file")
    assert "Go on with collapse train --resume sweep, which mends it." in said
    status, said = command("train", "--resume", "sweep")
    assert status == 0
    assert "1 of 2 runs from the start, for want of checkpoints" in said
    assert command("diagnose", "sweep")[0] == 0
    status, said = command("train", "--resume", "sweep")
    assert (status, "from the start" in said) == (0, False)


def test_a_damaged_checkpoint_says_how_to_train_its_run_again(
    command: Command, folders: Path
) -> None:
    for path in Path("sweep/beta=2").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    for arguments in (["diagnose", "sweep/beta=2"], ["train", "--resume", "sweep"]):
        status, said = command(*arguments)
        assert status == 2
        assert "Delete its checkpoints to start anew with resume" in said
    for path in Path("sweep/beta=2").glob("checkpoint-*"):
        path.unlink()
    assert command("train", "--resume", "sweep")[0] == 0
    assert command("diagnose", "sweep")[0] == 0


@pytest.mark.parametrize("place", ["spec", "seed"])
def test_a_description_that_is_not_the_checkpoint_s(
    command: Command, folders: Path, place: str
) -> None:
    path = folders / "run" / "config.json"
    at, value = {"spec": (("spec", "beta"), 3.0), "seed": (("settings", "seed"), 5)}[place]
    path.write_text(json.dumps(edited(json.loads(path.read_text()), at, value)))
    status, said = command("diagnose", "run")
    assert status == 2
    assert said.startswith("error: run/config.json: got another run; expected that of its check")
    assert said.count("\n") == 1


def test_a_folder_of_an_impossible_name(command: Command) -> None:
    status, said = command("train", "--resume", "r" * 300)
    assert status == 2
    assert "config.json: got no such file" in said
    for arguments in (["train", "x.npy", "--out", "r" * 300], ["diagnose", "r" * 300]):
        status, said = command(*arguments)
        assert (status, said.count("\n")) == (2, 1)
