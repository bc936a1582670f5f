"""`collapse train` and `collapse reproduce` killed with SIGKILL at random moments and repeated.

What they end with is compared with what they give when they are left alone.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nursery import Nursery
from posterior_collapse import files
from posterior_collapse.experiments import Plan, Reproduced, State, chosen, measuring, reproduce
from posterior_collapse.training import checkpoints

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")

CASES = {
    "one run": (20, ["--epochs", "20", "--patience", "15", "--clip", "1"]),
    "sweep": (10, ["--epochs", "10", "--beta", "0.5,2", "--dropout", "0.2"]),
}
"""Kills, and options."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).standard_normal((150, 6)) * [3, 2, 1, 0.5, 0.1, 0.1]
    np.save(tmp_path / "data.npy", x)
    return tmp_path / "data.npy"


def begun(out: Path) -> bool:
    return (out / "config.json").exists() or (out / "sweep.json").exists()


def newest_step(out: Path) -> int:
    steps = [int(path.stem[11:]) for path in out.rglob("checkpoint-*.json")]
    return max(steps, default=0)


class Story:
    """A command that is killed and resumed until it ends by itself."""

    def __init__(self, nursery: Nursery, command: list[str], out: Path) -> None:
        self.nursery, self.command, self.out = nursery, command, out
        self.output = out.with_suffix(".txt")
        self.kills = 0
        self.steps: list[int] = []

    def tell(self, moments: random.Random, longest: float) -> None:
        """Kill half the time at any moment, half the time soon after the run has got further."""
        while not self._once(
            moments.uniform(0, longest) if moments.random() < 0.5 else longest,
            moments.uniform(0, longest / 20),
        ):
            self.kills += 1
            self.steps.append(newest_step(self.out))
            # On a machine that grew slow a run would else be killed before each checkpoint.
            if self.steps[-1] in self.steps[:-1]:
                longest *= 1.2

    def _once(self, patience: float, delay: float) -> bool:
        """Kill after a new checkpoint or so many seconds; return whether it had ended before."""
        resume = ["train", "--resume", str(self.out)]
        before, began = newest_step(self.out), time.perf_counter()
        pid = self.nursery.start(resume if begun(self.out) else self.command, self.output)
        while newest_step(self.out) == before and time.perf_counter() < began + patience:
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        status = self.nursery.wait()
        assert status in (0, -signal.SIGKILL), self.output.read_text()
        return status == 0


def names(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def assert_same(out: Path, expected: Path) -> None:
    """Every file is the same to the last bit, so are parameters, moments and history."""
    assert names(out) == names(expected)
    for name in names(expected):
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name
    for folder in {path.parent for path in expected.rglob("summary.json")}:
        one = checkpoints.load(folder)
        other = checkpoints.load(out / folder.relative_to(expected))
        assert one.meta == other.meta
        assert one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize("case", CASES)
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(
    nursery: Nursery, data: Path, tmp_path: Path, case: str
) -> None:
    kills, options = CASES[case]
    command = ["train", str(data), "--latents", "4", "--eta-dec", "0.5", "--hidden", "8"]
    command += ["--batch-size", "50", *options]
    alone = tmp_path / "alone"
    nursery.start([*command, "--out", str(alone)], tmp_path / "alone.txt")
    began = time.perf_counter()
    assert nursery.wait() == 0, (tmp_path / "alone.txt").read_text()
    longest = time.perf_counter() - began

    moments = random.Random(0)
    stories: list[Story] = []
    while sum(story.kills for story in stories) < kills:
        out = tmp_path / f"story {len(stories)}"
        stories.append(Story(nursery, [*command, "--out", str(out)], out))
        stories[-1].tell(moments, 0.7 * longest)
        assert_same(out, alone)
    steps = {step for story in stories for step in story.steps}
    assert len(steps - {0, newest_step(alone)}) >= 3, f"kills came at the same steps: {steps}"


ROWS = ("E9", "E7")
KILLS, MOST, STORIES = 8, 4, 8
"""Kills in all, and of one row before it may end; stories until kills came at various moments."""


def command(row: str, out: Path) -> list[str]:
    return ["reproduce", row, "--quick", "--seeds", "2", "--out", str(out)]


def tables(out: Path) -> dict[str, Any]:
    """All that a row says, but how long it took."""
    found = {row: json.loads((out / row / "result.json").read_text()) for row in ROWS}
    for values in found.values():
        del values["wall_s"]
        values["runs"] = sorted(values["runs"])  # without their seconds
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
        assert not list((out / "runs").glob(".work"))
    assert len(kept) >= 3, f"kills came at the same moments: {kept}"


def test_a_killed_group_of_experiments_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    told: list[int] = []

    def killed(state: State) -> None:
        if state.epoch is not None:
            told.append(state.epoch.epoch)
            if len(told) == 3:
                raise KeyboardInterrupt

    rows, plan = chosen("E9"), Plan(quick=True)
    with pytest.raises(KeyboardInterrupt):
        reproduce(rows, tmp_path / "killed", plan, report=killed)
    (again,) = reproduce(rows, tmp_path / "killed", plan, report=killed)
    assert told[:4] == [1, 2, 3, 4]
    (alone,) = reproduce(rows, tmp_path / "alone", plan)
    assert again.tables == alone.tables


def test_of_a_group_killed_while_it_was_measured_the_measured_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    on_rows = measuring.on_rows

    def slow(*args: Any) -> Any:
        measured.append(args[-1])
        if len(measured) == 2:
            raise KeyboardInterrupt
        return on_rows(*args)

    rows, plan = chosen("E9"), Plan(quick=True)
    runs = len({member.run.key for member in rows[0].members(plan)})
    epochs: Counter[str] = Counter()

    def reproduced(name: str) -> Reproduced:
        def told(state: State) -> None:
            epochs[name] += state.epoch is not None

        return reproduce(rows, tmp_path / name, plan, report=told)[0]

    alone = reproduced("alone")
    monkeypatch.setattr(measuring, "on_rows", slow)
    with pytest.raises(KeyboardInterrupt):
        reproduced("killed")
    assert len(list((tmp_path / "killed").glob("runs/*/run.json"))) == 1
    assert reproduced("killed").tables == alone.tables
    assert len(measured) == runs + 1  # the second was measured again, the first was not
    assert epochs["killed"] == epochs["alone"]  # no epoch was trained twice
