"""What the shell completes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def completed(line: str, folder: Path) -> list[str]:
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "posterior_collapse"],
        env={
            **os.environ,
            "_COLLAPSE_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        cwd=folder,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("collapse fore", {"forecast"}),
        ("collapse train --architecture hvae", {"hvae-relu", "hvae-cnn"}),
        ("collapse train --likelihood p", {"poisson"}),
        ("collapse tune --tune l", {"latents"}),
        ("collapse train --optimiser a", {"adam"}),
        ("collapse forecast dig", {"digits"}),
        ("collapse forecast x", {"x.npy"}),
        ("collapse forecast inner/", {"inner/y.npy"}),
        ("collapse forecast digits --eta-dec le", {"learned"}),
        ("collapse effective-beta --kl m", {"mean"}),
        ("collapse reproduce E1", {"E1", "E10", "E11", "E12", "E13", "E14", "E15"}),
    ],
)
def test_values_are_completed(tmp_path: Path, line: str, expected: set[str]) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "x.npy").touch()
    (tmp_path / "inner" / "y.npy").touch()
    assert set(completed(line, tmp_path)) == expected


def test_completion_can_be_shown(run) -> None:
    assert "--install-completion" in run("--help")[1]
