"""The examples of docs/adapters.md do what it says, in a process of their own.

JAX starts threads when it is imported, and a process with threads must not fork, as other tests do.
"""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "adapters.md"
SECTIONS = re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
# `make test` is without these: the sections under their names wait for `make test-adapters`, and
# of those that take long to install even it goes without.
LIBRARIES = {
    "diffusers", "flax", "jax", "keras", "lightning", "pyro", "pythae", "scvi-tools",
    "torchmetrics",
}  # fmt: skip
MODULES = {"scvi-tools": "scvi"}
MISSING = {library for library in LIBRARIES if find_spec(MODULES.get(library, library)) is None}
# What training loops say of small examples.
SAID = (".*does not have many workers", ".*LeafSpec", ".*smaller than the logging interval")


def run_examples() -> int:
    """Run the sections whose libraries are there, and return how many examples failed."""
    warnings.simplefilter("error")
    names: dict[str, object] = {}
    runner = doctest.DocTestRunner()
    titles = set()
    line = 0
    for section in SECTIONS:
        title = section.splitlines()[0].lower()
        titles.add(title)
        start, line = line, line + section.count("\n")
        if title in MISSING:
            continue
        test = doctest.DocTestParser().get_doctest(section, names, title, str(DOCUMENT), start)
        with warnings.catch_warnings():
            if title == "scvi-tools":  # of its own libraries
                warnings.simplefilter("ignore")
            for text in SAID:
                warnings.filterwarnings("ignore", text)
            runner.run(test, clear_globs=False)
        names = test.globs  # one section goes on where the one before ended
    assert titles > LIBRARIES
    assert runner.tries > (15 if MISSING else 30)
    return int(runner.failures)


def test_examples() -> None:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(run_examples())
