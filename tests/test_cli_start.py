"""What starting a command loads: no torch where none is needed, and a sentence where it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fresh import NO_TORCH, output, python

COMMAND = "import sys; from posterior_collapse.cli import main\n"


@pytest.mark.parametrize("arguments", [["--help"], ["forecast", "digits"]])
def test_torch_is_never_imported(arguments: list[str]) -> None:
    output(f"{NO_TORCH}{COMMAND}main()", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "digits"],
        ["train", "--resume", "."],
        ["diagnose", "."],
        ["reproduce", "E8", "--quick"],
        ["reproduce", "--list"],
    ],
)
def test_what_needs_torch_says_so(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = python(f"{NO_TORCH}{COMMAND}main()", *arguments, folder=tmp_path)
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or len(done.stderr.splitlines()) == 1
    if arguments[0] == "train" and "digits" in arguments:
        assert "torch: got no such library" in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "pc.fit",
        "pc.fit_many",
        "pc.diagnose",
        "pc.log_likelihood",
        "from posterior_collapse.adapters import from_callable",
        "from posterior_collapse.training import fit",
        "from posterior_collapse.diagnosis import diagnose",
    ],
)
def test_a_name_that_needs_torch_says_so(code: str) -> None:
    done = python(f"{NO_TORCH}import posterior_collapse as pc; {code}")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("posterior_collapse.errors.MissingDependencyError: torch: got no such")
    assert "pip install 'posterior-collapse[torch]'" in last


def test_what_describes_a_run_needs_no_torch() -> None:
    code = (
        "import posterior_collapse as pc; "
        "from posterior_collapse.models import Architecture; "
        "from posterior_collapse.runs.run import Run, RunData; "
        "print(Run(RunData('digits'), pc.VAESpec(2), Architecture.named('mlp'), pc.Settings()).key)"
    )
    assert len(output(NO_TORCH + code).strip()) == 20


def test_start_up_loads_nothing_heavy() -> None:
    """Not a timing: what `--help` must not load, since that is what makes it slow."""
    check = (
        f"{COMMAND}try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'sklearn', 'matplotlib', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    start = time.perf_counter()
    output(check)
    assert time.perf_counter() - start < 30
