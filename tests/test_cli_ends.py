"""How a command ends that is told to, or whose folder is another's or gone: one line, no zero."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nursery import Nursery
from posterior_collapse import files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((40, 3)))
    return tmp_path / "x.npy"


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("module", ["typer", "torch"])
def test_a_command_that_still_imports_ends_in_one_line(
    data: Path, number: signal.Signals, module: str
) -> None:
    (data.parent / f"{module}.py").write_text("import time; print(1, flush=True); time.sleep(60)")
    path = os.pathsep.join([str(data.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "posterior_collapse", "train", str(data)],
        cwd=data.parent,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs, and so tests run as one, ignore Ctrl-C: the command must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stdout
    process.stdout.readline()  # it is importing
    process.send_signal(number)
    _, said = process.communicate()
    assert (process.returncode, said) == (128 + number, SIGNALS[number] + "\n")


def begun(nursery: Nursery, data: Path, out: Path) -> int:
    """Start a run that would take for ever and return its process once it has a checkpoint."""
    command = ["train", str(data), "--latents", "2", "--hidden", "4", "--epochs", "1000000"]
    pid = nursery.start([*command, "--out", str(out)], out.with_suffix(".txt"))
    while not list(out.glob("checkpoint-*.json")):
        time.sleep(0.01)
    return pid


@pytest.fixture
def resume(run: Callable[..., tuple[int, str, str]]) -> Callable[[Path], str]:
    """Resume a run that is refused and return what is said."""

    def command(out: Path) -> str:
        status, _, err = run("train", "--resume", out)
        assert status == 2
        return err

    return command


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_belongs_to_one_process_and_says_how_to_go_on(
    nursery: Nursery, data: Path, resume: Callable[[Path], str], number: signal.Signals
) -> None:
    out = data.parent / "run"
    pid = begun(nursery, data, out)
    said = resume(out)
    assert said.startswith(f"error: {out}: got a folder in which another process trains; ")
    assert said.count("\n") == 1
    os.kill(pid, number)
    assert nursery.wait() == 128 + number
    assert out.with_suffix(".txt").read_text().splitlines()[-2:] == [
        f"Go on with: collapse train --resume {out}",
        SIGNALS[number],
    ]
    with files.claim(out, wait=False) as free:
        assert free


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_deleted_or_replaced_meanwhile_is_told(
    nursery: Nursery, data: Path, again: bool
) -> None:
    out = data.parent / "run"
    begun(nursery, data, out)
    out.rename(data.parent / "aside")
    if again:
        other = data.parent / "other"
        shutil.copytree(data.parent / "aside", other)
        # What is saved at this moment is there until it is seen to be in another folder.
        while other.exists():
            shutil.rmtree(out, ignore_errors=True)
            with contextlib.suppress(OSError):  # something was saved in between
                other.rename(out)
    assert nursery.wait() == 2
    said = out.with_suffix(".txt").read_text()
    assert said.startswith(f"error: {out}: got a folder that was deleted or replaced while its ")
    assert said.count("\n") == 1
    assert (out / "config.json").exists() == again
    assert again or not list(out.glob("*"))
