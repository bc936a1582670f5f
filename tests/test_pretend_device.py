"""The package on a device that is not the CPU, without one: see `pretend_device.py`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = Path(__file__).parent / "pretend_device_cases.py"


@pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="made of private names of torch 2.13"
)
def test_all_works_on_a_device() -> None:
    # What pretends to be a device stays for as long as the process lives.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CASES.parents[1])
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
