"""What every test shares: no display, and property tests that give the same verdict each run."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from nursery import Nursery

if TYPE_CHECKING:
    from browser import Browser

os.environ["MPLBACKEND"] = "Agg"

# Wall-clock limits fail on a busy machine, and CI must not draw new examples at each run.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    process = Nursery()
    yield process
    process.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Browser"]:
    from browser import Browser  # which needs a library that only pages do

    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()
