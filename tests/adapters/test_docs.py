"""The examples of docs/adapters.md do what it says."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

for library in ("diffusers", "lightning", "pythae", "torchmetrics"):
    pytest.importorskip(library)

DOCUMENT = Path(__file__).parents[2] / "docs" / "adapters.md"


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
def test_examples() -> None:
    found = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert found.attempted > 30
    assert found.failed == 0
