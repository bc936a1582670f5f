"""What README and docs show must hold on any processor: their examples run as older ones compute.

Processors round differently, and training carries that to the third digit of what is measured.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    "README": "tests/test_readme.py::test_python_examples",
    "docs": "tests/adapters/test_docs.py",
}
# What torch and OpenBLAS are told; they choose their code when they are loaded.
PROCESSORS = {"default": "Prescott", "avx2": "Haswell"}
SCRIPT = """
import sys, pytest, torch
print(torch.backends.cpu.get_cpu_capability())
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="these are x86's")
@pytest.mark.parametrize("instructions", PROCESSORS)
@pytest.mark.parametrize("document", EXAMPLES)
def test_examples_hold_on_another_processor(document: str, instructions: str) -> None:
    another = {
        "ATEN_CPU_CAPABILITY": instructions,
        "OPENBLAS_CORETYPE": PROCESSORS[instructions],
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "-p", "no:cacheprovider", EXAMPLES[document]],
        cwd=ROOT,
        env={**os.environ, **another},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"{instructions.upper()}\n"), done.stderr
    assert done.returncode == 0, done.stdout
