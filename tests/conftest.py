"""What every test shares: no display, and property tests that give the same verdict each run."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from nursery import Nursery

os.environ["MPLBACKEND"] = "Agg"

# Wall-clock limits fail on a busy machine, and CI must not draw new examples at each run.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    process = Nursery()
    yield process
    process.close()
