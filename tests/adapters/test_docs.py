"""The examples of docs/adapters.md do what it says."""

from __future__ import annotations

import doctest
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

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


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_examples() -> None:
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
        runner.run(test, clear_globs=False)
        names = test.globs  # one section goes on where the one before ended
    assert titles > LIBRARIES
    assert runner.tries > (15 if MISSING else 30)
    assert runner.failures == 0
