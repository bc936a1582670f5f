"""`collapse reproduce` killed with SIGKILL at random moments, against one left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nursery import Nursery
from posterior_collapse import files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")

ROWS = ("E9", "E7")
KILLS, MOST, STORIES = 8, 4, 8
"""Kills in all, and of one row before it may end; stories until kills came at various moments."""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    process = Nursery()
    yield process
    process.close()


def command(row: str, out: Path) -> list[str]:
    return ["reproduce", row, "--quick", "--seeds", "2", "--out", str(out)]


def tables(out: Path) -> dict[str, Any]:
    """All that a row says, but how long it took."""
    found = {row: json.loads((out / row / "result.json").read_text()) for row in ROWS}
    for values in found.values():
        del values["wall_s"]
    return found


def test_killed_and_repeated_commands_end_with_the_same_tables(
    nursery: Nursery, tmp_path: Path
) -> None:
    longest = {}
    for row in ROWS:
        began = time.perf_counter()
        nursery.start(command(row, tmp_path / "alone"), tmp_path / "alone.txt")
        assert nursery.wait() == 0, (tmp_path / "alone.txt").read_text()
        longest[row] = time.perf_counter() - began

    moments = random.Random(0)
    output, stories, kills, kept = tmp_path / "killed.txt", 0, 0, set()
    while kills < KILLS or (len(kept) < 3 and stories < STORIES):
        out = tmp_path / f"story {stories}"
        stories += 1
        for row in ROWS:
            ended, left = False, MOST
            while not ended:
                pid = nursery.start(command(row, out), output)
                if left:
                    time.sleep(moments.uniform(0, 0.9 * longest[row]))
                    os.kill(pid, signal.SIGKILL)
                status = nursery.wait()
                assert status in (0, -signal.SIGKILL), output.read_text()
                ended, left = status == 0, max(0, left - 1)
                kills += not ended
                kept.add(len(list(out.glob("runs/*/run.json"))))
        assert tables(out) == tables(tmp_path / "alone")
        assert not list((out / "runs").glob(f"*{files.PARTIAL}"))
    assert len(kept) >= 3, f"kills came at the same moments: {kept}"
