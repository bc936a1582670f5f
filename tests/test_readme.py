"""The README's commands and examples do what the README says."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
SHELL = [
    [line.strip().removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines()]
    for language, block in BLOCKS
    if language in {"sh", "bash", "console"}
]
LINES = [line for block in SHELL for line in block]
MAKE = [line for line in LINES if line.startswith("make ")]
SESSIONS = [block for block in SHELL if block[0].startswith("collapse ")]
FORECASTS = [line for session in SESSIONS for line in session if " forecast " in line]
INSTALL = next(block for block in SHELL if block[0].startswith("python3 -m venv "))


def test_the_two_commands_are_shown() -> None:
    assert {line.split("#")[0].strip() for line in MAKE} >= {"make demo", "make test"}
    assert SESSIONS


@pytest.mark.parametrize("line", MAKE)
def test_make_target_exists(line: str) -> None:
    command = shlex.split(line, comments=True)
    done = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_lines_that_install_work_as_typed(tmp_path: Path) -> None:
    """In a copy, as of a clone; what the package needs is taken from here, not from an index."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    # Nothing that was built here: a clone has none of it.
    built = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=built)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's word for: do not isolate
    }
    script = "\n".join([*INSTALL, "command -v collapse"])
    done = subprocess.run(
        ["sh", "-e"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / ".venv" / "bin" / "collapse")


def needs_mnist(line: str) -> bool:
    return "mnist" in line and "POSTERIOR_COLLAPSE_DATA" not in os.environ


def run(line: str, folder: Path) -> str:
    script = "import sys; from posterior_collapse.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, *shlex.split(line, comments=True)[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("session", SESSIONS, ids=lambda lines: lines[0])
def test_commands_of_a_block_run_one_after_the_other(session: list[str], tmp_path: Path) -> None:
    for line in session:
        if not needs_mnist(line):
            assert run(line, tmp_path)


def test_the_output_shown_is_the_output(tmp_path: Path) -> None:
    """Words only: a terminal wraps them where it likes."""
    shown = re.search(r"^(?: {4}\S.*\n)+", README, flags=re.MULTILINE)
    assert shown is not None
    assert " ".join(shown[0].split()) in " ".join(run(FORECASTS[0], tmp_path).split())


@pytest.mark.parametrize("document", ["README.md", "docs/likelihoods.md"])
def test_python_examples(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(
        str(ROOT / document), module_relative=False, optionflags=doctest.ELLIPSIS
    )
    assert found.attempted > 5
    assert found.failed == 0
