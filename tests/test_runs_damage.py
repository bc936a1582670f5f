"""Kept runs that were swapped, renamed, edited or damaged: refused in one line, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import collapse
from posterior_collapse.errors import CorruptFileError, MissingFileError
from posterior_collapse.models import Architecture, build
from posterior_collapse.runs import Outcome, Record, Run, RunData, Store
from posterior_collapse.runs.kept import members
from posterior_collapse.specs import VAESpec
from posterior_collapse.training import Settings

MODEL = build(VAESpec(2), "linear", x_dim=3)
FIRST, SECOND = (
    Run(RunData("digits"), VAESpec(2, beta=beta), Architecture.named("linear"), Settings())
    for beta in (1.0, 2.0)
)
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs."""
    found = Store(tmp_path / "runs")
    for number, run in enumerate((FIRST, SECOND)):
        outcome = Outcome(
            run,
            measured={"loss": 1.0 + number, "levels": [{"n_active": 2}]},
            forecast={"loss": 0.5},
            stopped="finished",
            history={"step": [1, 2], "loss": [2.0, 1.0 + number]},
            arrays={"numbers": np.arange(3.0) + number},
            model=MODEL,
            wall_s=0.5,
        )
        found.put(outcome, [run.key], {"version": "0", "hardware": "h"})
    return found


def folder(store: Store, run: Run = FIRST) -> Path:
    return store.folder / run.key


def rewrite(path: Path, edit: Edit) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def made_old(store: Store) -> Path:
    """Make the first run one that an earlier version kept: without hashes."""
    rewrite(folder(store) / "run.json", lambda v: (v.pop("files"), v.pop("sha256")))
    return folder(store)


def read_whole(record: Record | None) -> None:
    assert record is not None
    record.check()
    assert record.arrays
    assert record.history
    _ = record.model


def refused(store: Store, named: str = "") -> str:
    """The one line that says which folder to delete."""
    with pytest.raises(CorruptFileError) as caught:
        read_whole(store.get(FIRST.key))
    said = str(caught.value)
    assert "\n" not in said
    assert str(folder(store) / named) in said
    assert said.endswith(f"Delete the folder {folder(store)} to train the run again.")
    return said


def test_whole_runs_are_read(store: Store) -> None:
    for run in (FIRST, SECOND):
        read_whole(store.get(run.key))


def test_what_a_killed_process_was_writing_is_no_run(store: Store) -> None:
    """It may hold all files, and only its last name not yet."""
    folder(store).rename(store.folder / f".{FIRST.key}.1.ab.partial")
    assert [one.run for one in members(store.folder).values()] == [SECOND]
    shutil.rmtree(folder(store, SECOND))
    with pytest.raises(MissingFileError):
        members(store.folder)


def test_swapped_folders(store: Store) -> None:
    aside = store.folder / "aside"
    folder(store).rename(aside)
    folder(store, SECOND).rename(folder(store))
    aside.rename(folder(store, SECOND))
    assert f"got the run {SECOND.key}; expected the run {FIRST.key}" in refused(store, "run.json")


def test_a_folder_renamed_to_another_run(store: Store) -> None:
    shutil.rmtree(folder(store))
    folder(store, SECOND).rename(folder(store))
    assert f"got the run {SECOND.key}" in refused(store, "run.json")
    assert store.get(SECOND.key) is None


EDITS: dict[str, Edit] = {
    "a number": lambda v: v["measured"].update(loss=0.0),
    "a number of theory": lambda v: v["forecast"].update(loss=0.0),
    "theory taken away": lambda v: v.update(forecast=None),
    "why it ended": lambda v: v.update(stopped="early"),
    "who trained with it": lambda v: v.update(company=[]),
    "where it came from": lambda v: v["origin"].update(hardware="a faster one"),
    "its description": lambda v: v["run"]["spec"].update(beta=2.0),
    "an incidental of its description": lambda v: v["run"]["settings"].update(device="cuda"),
    "its measures a list": lambda v: v.update(measured=[1]),
    "not a number": lambda v: v["measured"].update(loss=float("nan")),
    "a key taken away": lambda v: v["measured"].pop("levels"),
    "the run taken away": lambda v: v.pop("run"),
    "the hash of a file": lambda v: v["files"].update({"arrays.npz": "0" * 64}),
    "the hash of it all": lambda v: v.update(sha256="0" * 64),
    "the hash of it all a list": lambda v: v.update(sha256=[]),
    "the hash of it all taken away": lambda v: v.pop("sha256"),
    "the hashes of files taken away": lambda v: v.pop("files"),
    "something added": lambda v: v.update(more=1),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_values(store: Store, edit: str) -> None:
    rewrite(folder(store) / "run.json", EDITS[edit])
    assert "changed values (SHA-256 differs)" in refused(store, "run.json")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\x80", b'{"a":' * 10_000, b"\x00" * 50])
@pytest.mark.parametrize("old", [False, True])
def test_a_description_that_is_none(store: Store, text: bytes, old: bool) -> None:
    if old:
        made_old(store)
    (folder(store) / "run.json").write_bytes(text)
    refused(store, "run.json")


def files(store: Store) -> list[str]:
    return sorted(path.name for path in folder(store).iterdir())


def test_every_file_of_a_run_is_watched(store: Store) -> None:
    """Truncated, one bit changed, empty, missing, a folder, or another run's: always refused."""
    whole = store.folder.with_name("whole")
    shutil.copytree(store.folder, whole)
    harms: list[Callable[[Path], object]] = [
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    ]
    assert len(files(store)) == 5
    for name in files(store):
        for number, harm in enumerate(harms):
            shutil.rmtree(store.folder)
            shutil.copytree(whole, store.folder)
            harm(folder(store) / name)
            if name == "run.json" and number == 3:
                assert store.get(FIRST.key) is None  # without its description it does not count
            elif name == "run.json" and number == 5:
                read_whole(store.get(FIRST.key))  # a line break says nothing else
            else:
                refused(store, name)


def test_swapped_files(store: Store) -> None:
    for name in ("history.csv", "arrays.npz"):
        shutil.copy(folder(store, SECOND) / name, folder(store) / name)
        assert "changed file (SHA-256 differs)" in refused(store, name)


def test_a_file_in_place_of_the_folder(store: Store) -> None:
    shutil.rmtree(folder(store))
    folder(store).write_text("")
    with pytest.raises(CorruptFileError, match=r"got a file; expected the folder of a run\. Del"):
        store.get(FIRST.key)


class TestOldRuns:
    def test_are_read(self, store: Store) -> None:
        made_old(store)
        read_whole(store.get(FIRST.key))

    def test_are_refused_under_another_name(self, store: Store) -> None:
        made_old(store).rename(store.folder / "aside")
        folder(store, SECOND).rename(folder(store))
        (store.folder / "aside").rename(folder(store, SECOND))
        with pytest.raises(CorruptFileError, match=f"got the run {FIRST.key}"):
            store.get(SECOND.key)

    @pytest.mark.parametrize(
        "edit",
        [
            lambda v: v["run"]["spec"].update(beta=2.0),
            lambda v: v["run"]["spec"].update(beta="x"),
            lambda v: v["run"]["spec"].update(beta=[]),
            lambda v: v["run"]["settings"].update(epochs=3),
            lambda v: v["run"]["settings"].update(momentum="x"),
            lambda v: v["run"]["settings"].update(epochs=float("inf")),
            lambda v: v["run"]["data"].update(name="../digits"),
            lambda v: v["run"]["data"].update(more=1),
            lambda v: v["run"]["architecture"].update(name=[]),
            lambda v: v["run"].update(architecture=[]),
            lambda v: v["run"].update(evaluation=None),
            lambda v: v["run"].update(method={}),
            lambda v: v["run"].pop("data"),
            lambda v: v.update(run=[]),
            lambda v: v.update(measured=[1]),
            lambda v: v.update(measured=None),
            lambda v: v.update(forecast=1.0),
            lambda v: v.update(stopped=None),
            lambda v: v.update(company=None),
            lambda v: v.update(origin="here"),
            lambda v: v.pop("measured"),
            lambda v: v.clear(),
        ],
    )
    def test_are_refused_where_damaged(self, store: Store, edit: Edit) -> None:
        rewrite(made_old(store) / "run.json", edit)
        refused(store, "run.json")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("history.csv", b""),
            ("history.csv", b"step,loss\n1\n"),
            ("history.csv", b"step,loss\n1,x\n"),
            ("history.csv", b"step,loss\n1,\n"),
            ("history.csv", b"\xff\xfe"),
            ("history.csv", b'step,"loss\n1,2'),
            ("arrays.npz", b""),
            ("arrays.npz", b"PK"),
            ("arrays.npz", b"\x80\x04."),
            ("arrays.npz", b"\x93NUMPY\x01\x00"),
        ],
    )
    def test_say_which_file_cannot_be_read(self, store: Store, name: str, content: bytes) -> None:
        (made_old(store) / name).write_bytes(content)
        refused(store, name)

    def test_say_where_one_of_their_arrays_ends(self, store: Store) -> None:
        path = made_old(store) / "arrays.npz"
        whole = path.read_bytes()
        for cut in range(0, len(whole), 7):
            path.write_bytes(whole[:cut])
            refused(store, "arrays.npz")
        for place in range(0, len(whole), 3):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            try:
                assert store.get(FIRST.key).arrays is not None  # type: ignore[union-attr]
            except CorruptFileError:
                refused(store, "arrays.npz")

    def test_without_a_model(self, store: Store) -> None:
        for path in made_old(store).glob("checkpoint-*.safetensors"):
            path.unlink()
        assert "lacks its tensors" in refused(store)


def reproduce(out: Path) -> int:
    return collapse("reproduce", "E8", "--quick", "--out", out)


def kept(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.glob("runs/*/run.json"))


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "made"
    assert reproduce(out) == 0
    return out


class TestReproduce:
    """`collapse reproduce` never ends in a traceback and never puts such a run into a table."""

    @pytest.fixture
    def out(self, reproduced: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(reproduced, tmp_path / "out"))

    def test_names_the_folder_and_goes_on_without_it(
        self, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = json.loads((out / "E8" / "result.json").read_text())
        bad, *_ = kept(out)
        rewrite(bad / "run.json", lambda v: v["measured"]["exact"].update(loss=0.0))
        assert reproduce(out) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {bad / 'run.json'}: got changed values (SHA-256 differs)")
        assert f"Delete the folder {bad} to train the run again.\n" in said
        assert said.count("\n") == 1
        assert json.loads((out / "E8" / "result.json").read_text()) == before
        shutil.rmtree(bad)
        assert reproduce(out) == 0
        after = json.loads((out / "E8" / "result.json").read_text())
        assert after["tables"] == before["tables"]

    @pytest.mark.parametrize(
        "edit",
        [
            lambda v: v["measured"].clear(),
            lambda v: v["measured"].update(exact=None),
            lambda v: v["measured"]["exact"].update(distances={"U1": None}),
            lambda v: v["origin"].clear(),
            lambda v: v["origin"].update(wall_s="long"),
        ],
    )
    def test_names_old_runs_that_lack_what_a_table_needs(
        self, out: Path, edit: Edit, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad, *_ = kept(out)
        rewrite(bad / "run.json", lambda v: (v.pop("files"), v.pop("sha256"), edit(v)))
        assert reproduce(out) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {out / 'runs'}: got a run without what its table needs")
        assert said.endswith(f"Delete the damaged folder, one of {bad.name}.\n")
        assert said.count("\n") == 1
