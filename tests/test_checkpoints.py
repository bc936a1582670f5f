"""States on disk: what comes back, what is refused, what a broken write leaves."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from posterior_collapse.errors import CheckpointError, InvalidArgumentError, OutputError
from posterior_collapse.training import checkpoints

META = {"epoch": 1, "history": {"loss": [0.1 + 0.2, float("inf"), 1e-320]}, "spec": {"beta": 1.0}}


def tensors(fill: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    stack = torch.full((4, 3), fill, dtype=torch.float64)
    return {
        "weight": torch.randn(3, 2, generator=generator) * fill,
        "first run": stack[0],
        "second run": stack[1],
        "view": stack.t(),
        "expanded": stack[:, :1].expand(4, 5),
        "half": torch.ones(3, dtype=torch.bfloat16, requires_grad=True),
        "step": torch.tensor(7),
        "empty": torch.empty(0, 2),
        "generator": generator.get_state(),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of the steps 10 and 20."""
    for step in (10, 20):
        checkpoints.save(tmp_path / "run", tensors(step), {**META, "epoch": step}, step=step)
    return tmp_path / "run"


def commit(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step:010d}.json"


def data(folder: Path, step: int) -> Path:
    (path,) = folder.glob(f"checkpoint-{step:010d}-*.safetensors")
    return path


def assert_step(folder: Path, step: int) -> None:
    found = checkpoints.load(folder)
    assert found.step == found.meta["epoch"] == step
    for name, tensor in tensors(step).items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_what_was_saved_comes_back_bit_for_bit(folder: Path) -> None:
    assert_step(folder, 20)
    assert checkpoints.load(folder).meta == {**META, "epoch": 20}


def test_a_step_can_be_asked_for(folder: Path) -> None:
    assert checkpoints.load(folder, step=10).meta["epoch"] == 10
    with pytest.raises(CheckpointError, match="no checkpoint; expected a good checkpoint of step"):
        checkpoints.load(folder, step=15)
    cut(data(folder, 10))
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        checkpoints.load(folder, step=10)


def test_a_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    torch.rand(5, generator=generator)
    checkpoints.save(tmp_path, {"noise": generator.get_state()}, {}, step=1)
    expected = torch.rand(5, generator=generator)
    again = torch.Generator()
    again.set_state(checkpoints.load(tmp_path).tensors["noise"])
    assert torch.equal(torch.rand(5, generator=again), expected)


def test_older_and_abandoned_checkpoints_go(folder: Path) -> None:
    checkpoints.save(folder, tensors(30), META, step=30)
    assert sorted(int(p.stem[11:]) for p in folder.glob("*.json")) == [20, 30]
    checkpoints.save(folder, tensors(25), META, step=25)
    assert sorted(int(p.stem[11:]) for p in folder.glob("*.json")) == [20, 25]
    checkpoints.save(folder, tensors(40), META, step=40, keep=1)
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(InvalidArgumentError, match="keep"):
        checkpoints.save(folder, {}, {}, step=50, keep=0)


def test_other_files_of_the_run_stay(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "checkpoint-notes.txt").write_text("mine")
    checkpoints.save(folder, tensors(30), META, step=30, keep=1)
    assert (folder / "config.json").exists()
    assert (folder / "checkpoint-notes.txt").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(path: Path) -> None:
    text = path.read_text()
    assert '"beta": 1.0' in text
    path.write_text(text.replace('"beta": 1.0', '"beta": 2.0'))


def change_step(path: Path) -> None:
    path.write_text(path.read_text().replace('"step": 20', '"step": 21'))


def swap_tensors(folder: Path) -> None:
    shutil.copy(data(folder, 10), data(folder, 20))


def rename_commit(folder: Path) -> None:
    commit(folder, 20).unlink()
    shutil.copy(commit(folder, 10), commit(folder, 20))


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": 1}))


DAMAGE = {
    "tensors truncated": (lambda f: cut(data(f, 20)), "SHA-256 differs"),
    "tensors edited": (lambda f: flip(data(f, 20)), "SHA-256 differs"),
    "tensors empty": (lambda f: data(f, 20).write_bytes(b""), "SHA-256 differs"),
    "tensors swapped": (swap_tensors, "SHA-256 differs"),
    "tensors missing": (lambda f: data(f, 20).unlink(), "lacks its tensors"),
    "tensors pickled": (lambda f: pickled(data(f, 20)), "SHA-256 differs"),
    "record truncated": (lambda f: cut(commit(f, 20)), "truncated or not JSON"),
    "record edited": (lambda f: edit(commit(f, 20)), "was edited"),
    "record of another step": (lambda f: change_step(commit(f, 20)), "was edited"),
    "record empty": (lambda f: commit(f, 20).write_bytes(b""), "truncated or not JSON"),
    "record renamed": (rename_commit, "was renamed: it holds step 10"),
    "record foreign": (lambda f: commit(f, 20).write_text('{"epoch": 3}'), "not a checkpoint"),
    "record a list": (lambda f: commit(f, 20).write_text("[1]"), "not a checkpoint"),
    "record binary": (lambda f: pickled(commit(f, 20)), "truncated or not JSON"),
    "record a folder": (lambda f: (commit(f, 20).unlink(), commit(f, 20).mkdir()), "be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_checkpoint_is_refused_and_the_previous_one_used(folder: Path, damage: str) -> None:
    harm, reason = DAMAGE[damage]
    harm(folder)
    with pytest.warns(checkpoints.CheckpointWarning, match=reason) as caught:
        assert_step(folder, 10)
    (warning,) = caught
    assert "checkpoint-0000000020.json" in str(warning.message)
    assert "step 10 is used" in str(warning.message)


def test_none_good_is_an_error_with_every_reason(folder: Path) -> None:
    cut(data(folder, 20))
    edit(commit(folder, 10))
    with pytest.raises(CheckpointError, match=r"SHA-256 differs.*was edited") as caught:
        checkpoints.load(folder)
    assert "\n" not in str(caught.value)
    assert checkpoints.exists(folder)


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / "nothing"):
        assert not checkpoints.exists(missing)
        with pytest.raises(CheckpointError, match="no checkpoint"):
            checkpoints.load(missing)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def forge(folder: Path, **changes: object) -> None:
    """Rewrite the record of step 20 with a valid hash, as somebody who wants to be believed."""
    record = {**json.loads(commit(folder, 20).read_text()), **changes}
    record.pop("record_sha256")
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    record["record_sha256"] = hashlib.sha256(canonical).hexdigest()
    commit(folder, 20).write_text(json.dumps(record))


def test_loading_runs_no_code(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    content = pickle.dumps(Trap(trap))
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / f"checkpoint-0000000020-{sha256[:16]}.safetensors").write_bytes(content)
    forge(folder, tensors_sha256=sha256)
    with pytest.warns(checkpoints.CheckpointWarning, match="not safetensors"):
        assert_step(folder, 10)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.exists(), "the trap works, so the test can fail"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "version 2"),
        ({"step": "20"}, "malformed"),
        ({"meta": None}, "malformed"),
        ({"tensors_sha256": "../../elsewhere"}, "malformed"),
    ],
)
def test_a_forged_record_is_refused(folder: Path, changes: dict, reason: str) -> None:
    forge(folder, **changes)
    with pytest.warns(checkpoints.CheckpointWarning, match=reason):
        assert_step(folder, 10)


class KilledError(BaseException):
    """Stands for the end of the process."""


class KillAt:
    """Count calls that change the disk and stop at the n-th and after it."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def before(self, function):
        def counted(*args, **kwargs):
            self.left -= 1
            if self.left <= 0:
                raise KilledError
            return function(*args, **kwargs)

        return counted


@pytest.mark.parametrize("step", [20, 30])
def test_a_write_broken_anywhere_leaves_a_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Step 20 is there already and is then saved for the second time, with other values."""
    outcomes = []
    for moment in itertools.count(1):
        folder = tmp_path / str(moment)
        checkpoints.save(folder, tensors(20), {"new": False, "epoch": 20}, step=20)
        killer = KillAt(moment)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", killer.before(os.fsync))
            for name in ("replace", "unlink", "open"):
                patch.setattr(Path, name, killer.before(getattr(Path, name)))
            with contextlib.suppress(KilledError):
                checkpoints.save(folder, tensors(-step), {"new": True, "epoch": step}, step=step)
        found = checkpoints.load(folder)  # a warning here would be an error
        outcomes.append(found.meta["new"])
        assert found.step == (step if found.meta["new"] else 20)
        fill = -step if found.meta["new"] else 20
        assert torch.equal(found.tensors["view"], tensors(fill)["view"])
        checkpoints.save(folder, tensors(40), {**META, "epoch": 40}, step=40, keep=1)
        assert_step(folder, 40)
        assert len(list(folder.iterdir())) == 2, "rubbish is cleared by the next save"
        if killer.left > 0:
            break
    assert outcomes == sorted(outcomes), "the old state, from some moment on the new one"
    assert set(outcomes) == {False, True}
    assert len(outcomes) > 8


def test_a_full_disk_is_one_line_and_harms_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in folder.iterdir())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        checkpoints.save(folder, tensors(30), META, step=30)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert_step(folder, 20)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputError, match="File exists"):
        checkpoints.save(tmp_path / "run", {}, {}, step=1)


def test_what_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="JSON"):
        checkpoints.save(tmp_path / "run", {}, {"spec": object()}, step=1)
    assert not (tmp_path / "run").exists()
