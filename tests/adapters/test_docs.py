"""The examples of docs/adapters.md do what it says."""

from __future__ import annotations

import doctest
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "adapters.md"
SECTIONS = re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
# `make test` is without these: the sections under their names wait for `make test-adapters`.
LIBRARIES = {"diffusers", "lightning", "pythae", "torchmetrics"}


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_examples() -> None:
    names: dict[str, object] = {}
    runner = doctest.DocTestRunner()
    libraries = set()
    for section in SECTIONS:
        title = section.splitlines()[0]
        if title.lower() in LIBRARIES:
            libraries.add(title.lower())
            if find_spec(title.lower()) is None:
                continue
        test = doctest.DocTestParser().get_doctest(section, names, title, str(DOCUMENT), 0)
        runner.run(test, clear_globs=False)
        names = test.globs  # one section goes on where the one before ended
    assert libraries == LIBRARIES
    assert runner.tries > 15
    assert runner.failures == 0
