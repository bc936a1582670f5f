"""Runs as values, how they are grouped, kept, shared among processes and resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posterior_collapse import files
from posterior_collapse.errors import CheckpointError, CorruptFileError, OutputError
from posterior_collapse.models import Architecture, build
from posterior_collapse.runs import Evaluation, Outcome, Run, RunData, Store, complete, groups
from posterior_collapse.runs.completing import retrained_together
from posterior_collapse.runs.store import WORK
from posterior_collapse.specs import CVAESpec, HVAESpec, VAESpec
from posterior_collapse.training import Settings

LINEAR = Architecture.named("linear")
MODEL = build(VAESpec(2), "linear", x_dim=3)


def run(beta: float = 1.0, seed: int = 0, **changes: Any) -> Run:
    fields = {
        "data": RunData("digits"),
        "spec": VAESpec(2, beta=beta),
        "architecture": LINEAR,
        "settings": Settings(seed=seed),
    }
    return Run(**{**fields, **changes})


def outcome(one: Run, number: float = 0.0) -> Outcome:
    return Outcome(
        one,
        measured={"loss": number, "nan": float("nan")},
        forecast=None,
        stopped="finished",
        history={"step": [1, 2], "loss": [2.0, number]},
        arrays={"numbers": np.arange(3.0)},
        model=MODEL,
        wall_s=0.5,
    )


def executed(runs: Sequence[Run], folders: Any = None) -> list[Outcome]:
    """Stands for training: what comes out depends on who trains together, as rounding does."""
    return [outcome(one, one.spec.beta_levels[0] + 1e-9 * len(runs)) for one in runs]


class TestRun:
    def test_survives_json(self) -> None:
        one = run(
            data=RunData("mnist", task="quarter", label=3),
            spec=CVAESpec(4, sigma="input"),
            architecture=Architecture.named("cvae-relu", hidden=(7,)),
            evaluation=Evaluation(samples=10, panel=4),
        )
        again = Run.from_dict(json.loads(json.dumps(one.to_dict())))
        assert again == one
        assert again.key == one.key

    def test_the_key_tells_apart_all_that_matters(self) -> None:
        different = [
            run(),
            run(beta=2.0),
            run(seed=1),
            run(data=RunData("digits", label=1)),
            run(settings=Settings(convention="reference")),
            run(architecture=Architecture.named("linear", bias=False)),
            run(method="exact"),
            run(evaluation=Evaluation(samples=10)),
        ]
        assert len({one.key for one in different}) == len(different)

    def test_settings_are_plain_whatever_they_are_made_of(self) -> None:
        odd = Settings(
            device=torch.device("cpu"),  # type: ignore[arg-type]
            momentum=np.array(0.5),  # type: ignore[arg-type]
            capacity=np.array([1.0, 2.0]),  # type: ignore[arg-type]
        )
        plain = Settings(momentum=0.5, capacity=(1.0, 2.0))
        assert (odd, hash(odd), json.dumps(odd.to_dict())) == (
            plain, hash(plain), json.dumps(plain.to_dict()),
        )  # fmt: skip

    def test_the_key_is_blind_to_where_it_runs(self) -> None:
        elsewhere = run(settings=Settings(device="cuda", checkpoint_every=5))
        assert elsewhere.key == run().key


class TestGroups:
    def test_numbers_train_together_and_kinds_do_not(self) -> None:
        fixed = run(spec=VAESpec(2, sigma=0.5))
        wider = run(spec=VAESpec(3))
        hierarchy = run(spec=HVAESpec((2, 2)))
        longer = run(settings=Settings(epochs=7))
        faster = run(settings=Settings(learning_rate=0.1, clip=1.0))
        elsewhere = run(2.0, settings=Settings(seed=3, order_seed=0))
        other = run(seed=3)  # which sees the data in another order
        runs = [run(1.0), fixed, elsewhere, wider, faster, hierarchy, longer, other]
        assert groups(runs) == [
            (runs[0], runs[2], faster),
            (fixed,),
            (wider,),
            (hierarchy,),
            (longer,),
            (other,),
        ]

    def test_are_no_larger_than_said_and_hold_each_run_once(self) -> None:
        runs = [run(beta) for beta in (1.0, 2.0, 3.0, 1.0, 4.0, 5.0)]
        found = groups(runs, most=2)
        assert [len(group) for group in found] == [2, 2, 1]
        assert {one.key for group in found for one in group} == {one.key for one in runs}

    def test_exact_runs_train_one_by_one(self) -> None:
        assert [len(g) for g in groups([run(b, method="exact") for b in (1.0, 2.0)])] == [1, 1]

    def test_a_group_that_was_interrupted_trains_as_a_whole_again(self) -> None:
        group = [run(beta) for beta in (1.0, 2.0, 3.0)]
        keys = [one.key for one in group]
        kept = {keys[0]: keys}
        assert retrained_together(group, lambda one: kept.get(one.key)) == tuple(group)

    def test_members_from_elsewhere_stay_away(self) -> None:
        group = [run(beta) for beta in (1.0, 2.0, 3.0)]
        elsewhere = {group[1].key: [group[1].key, "another"]}
        assert retrained_together(group, lambda one: elsewhere.get(one.key)) == (group[0], group[2])
        assert retrained_together(group, lambda one: [one.key]) == ()


class TestStore:
    def test_gives_back_what_was_put_in(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "runs")
        one = run()
        store.put(outcome(one, 2.5), [one.key], {"version": "0", "hardware": "h"})
        found = store.get(one.key)
        assert found is not None
        assert found.run == one
        assert found.measured == {"loss": 2.5, "nan": None}
        assert found.history == {"step": [1.0, 2.0], "loss": [2.0, 2.5]}
        assert found.arrays["numbers"].tolist() == [0, 1, 2]
        assert found.origin == {"version": "0", "hardware": "h", "wall_s": 0.5}
        assert found.retrained_together == (one.key,)
        for name, value in found.model.state_dict().items():
            assert torch.equal(value, MODEL.state_dict()[name])

    def test_keeps_the_first_of_two(self, tmp_path: Path) -> None:
        store, one = Store(tmp_path), run()
        store.put(outcome(one, 1.0), [one.key], {})
        store.put(outcome(one, 2.0), [one.key], {})
        found = store.get(one.key)
        assert found is not None
        assert found.measured["loss"] == 1.0
        assert [path.name for path in tmp_path.iterdir()] == [one.key]

    def test_a_run_cut_short_does_not_count(self, tmp_path: Path) -> None:
        store, one = Store(tmp_path), run()
        (tmp_path / one.key).mkdir()
        (tmp_path / one.key / "history.csv").write_text("step\n")
        assert store.get(one.key) is None

    def test_what_does_not_count_makes_way(self, tmp_path: Path) -> None:
        store, one = Store(tmp_path), run()
        (tmp_path / one.key).mkdir()
        (tmp_path / one.key / "history.csv").write_text("step\n")
        store.put(outcome(one, 1.5), [one.key], {})
        found = store.get(one.key)
        assert found is not None
        assert found.history["loss"] == [2.0, 1.5]

    def test_names_what_is_damaged(self, tmp_path: Path) -> None:
        store, one = Store(tmp_path), run()
        store.put(outcome(one), [one.key], {})
        (tmp_path / one.key / "arrays.npz").write_bytes(b"PK")
        found = store.get(one.key)
        assert found is not None
        with pytest.raises(CorruptFileError, match=r"arrays\.npz"):
            _ = found.arrays
        (tmp_path / one.key / "run.json").write_text("{}")
        with pytest.raises(CorruptFileError, match=r"run\.json"):
            store.get(one.key)

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="file"):
            Store(tmp_path / "file").put(outcome(run()), [], {})


class TestSweep:
    def test_trains_what_is_missing_and_nothing_else(self, tmp_path: Path) -> None:
        asked: list[int] = []

        def execute(runs: Sequence[Run], folders: Any) -> list[Outcome]:
            asked.append(len(runs))
            return executed(runs)

        store = Store(tmp_path)
        complete([run(1.0), run(2.0)], store, execute)
        (tmp_path / f".{run(3.0).key}.1.ab.partial").mkdir()  # of a process that was killed
        records = complete([run(3.0), run(1.0), run(1.0), run(2.0)], store, execute)
        assert not list(tmp_path.glob("*.partial"))
        assert asked == [2, 1]
        assert [r.run.spec.beta_levels[0] for r in records] == [3.0, 1.0, 1.0, 2.0]

    def test_a_changed_run_is_refused_before_anything_is_trained(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        complete([run(1.0)], store, executed)
        (tmp_path / run(1.0).key / "history.csv").write_text("step,loss\n1,0.0\n")

        def execute(runs: Sequence[Run], folders: Any) -> list[Outcome]:
            raise AssertionError("trained")

        with pytest.raises(CorruptFileError, match=r"history\.csv: got a changed file"):
            complete([run(2.0), run(1.0)], store, execute)

    def test_a_run_deleted_as_soon_as_it_is_kept_is_told(self, tmp_path: Path) -> None:
        class Losing(Store):
            def put(self, one: Outcome, *rest: Any) -> None:
                super().put(one, *rest)
                shutil.rmtree(tmp_path / one.run.key)

        with pytest.raises(OutputError, match="right after a run was kept"):
            complete([run(1.0)], Losing(tmp_path), executed)

    def test_tells_what_it_does(self, tmp_path: Path) -> None:
        told: list[tuple[int, ...]] = []
        complete(
            [run(1.0), run(2.0)], Store(tmp_path), executed, report=lambda p: told.append((*p,))
        )
        # As each run is kept, and once more when their group has ended.
        assert told == [(2, 0, 0), (2, 0, 2), (2, 1, 1), (2, 2, 0), (2, 2, 0)]

    def test_groups_are_as_large_as_asked_and_records_are_told_as_they_come(
        self, tmp_path: Path
    ) -> None:
        there: list[int] = []
        asked: list[int] = []

        def execute(runs: Sequence[Run], folders: Any) -> list[Outcome]:
            asked.append(len(runs))
            return executed(runs)

        runs = [run(float(beta)) for beta in range(1, 6)]
        complete(runs, Store(tmp_path), execute, most=2, kept=lambda r: there.append(len(r)))
        assert (asked, there) == ([2, 2, 1], [0, 2, 4, 5])

    def test_hardware_is_that_on_which_a_run_ran(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")
        runs = [run(1.0), run(2.0, method="exact")]
        records = complete(runs, Store(tmp_path), executed, device="cuda")
        names = [record.origin["hardware"] for record in records]
        assert names[0] == "a GPU"
        assert names[1].endswith("threads")

    def test_what_another_process_writes_is_not_taken_for_rubbish(self, tmp_path: Path) -> None:
        """Groups may differ from process to process, and so the claims that they hold."""

        class Tidied(Store):
            def _fill(self, folder: Path, outcome: Outcome, *how: Any) -> None:
                super()._fill(folder, outcome, *how)
                Store(self.folder).tidy([outcome.run.key])

        (record,) = complete([run(1.0)], Tidied(tmp_path), executed)
        left = tmp_path / f".{record.run.key}.1.abc.partial"  # by a process that was killed
        left.mkdir()
        Store(tmp_path).tidy([record.run.key])
        assert not left.exists()
        with pytest.raises(OutputError), files.claim(left, wait=False):
            pass  # such as a folder that was renamed meanwhile: no file is put in its place
        assert not left.exists()

    def test_runs_may_be_kept_without_their_models(self, tmp_path: Path) -> None:
        complete([run(1.0)], Store(tmp_path, models=False), executed)
        (record,) = complete([run(1.0)], Store(tmp_path), executed)
        assert record.history["loss"]
        assert not list(tmp_path.rglob("*.safetensors"))
        with pytest.raises(CheckpointError, match=r"kept without its model.*Delete the folder"):
            _ = record.model

    @pytest.mark.parametrize("kept", [0, 1, 2])
    def test_an_interrupted_group_ends_as_if_it_had_not_been(
        self, tmp_path: Path, kept: int
    ) -> None:
        runs = [run(beta) for beta in (1.0, 2.0, 3.0)]
        alone = complete(runs, Store(tmp_path / "alone"), executed)

        class Dying(Store):
            left = kept

            def put(self, *arguments: Any) -> None:
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                super().put(*arguments)

        with pytest.raises(KeyboardInterrupt):
            complete(runs, Dying(tmp_path / "dying"), executed)
        again = complete(runs, Store(tmp_path / "dying"), executed)
        assert [r.measured for r in again] == [r.measured for r in alone]

    @pytest.mark.parametrize("removed", [None, 0, 1], ids=["no", "whole", "half"])
    def test_a_process_killed_after_its_last_run_leaves_no_checkpoints(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: int | None
    ) -> None:
        runs, store = [run(1.0), run(2.0)], Store(tmp_path)

        def execute(group: Sequence[Run], folders: Any) -> list[Outcome]:
            for folder in store.work(group):
                folder.mkdir(parents=True)
            return executed(group)

        def killed(self: Store, keys: Collection[str]) -> None:
            if not keys:
                return  # nothing is kept yet
            with monkeypatch.context() as patch:
                patch.setattr(shutil, "rmtree", killed_while_removing)
                if removed is not None:
                    worked(self, keys)
            raise KeyboardInterrupt

        def killed_while_removing(folder: Path) -> None:
            for path in list(folder.iterdir())[removed:]:
                path.rmdir()
            raise KeyboardInterrupt

        worked = Store.worked
        with monkeypatch.context() as patch:
            patch.setattr(Store, "worked", killed)
            with pytest.raises(KeyboardInterrupt):
                complete(runs, store, execute)
        assert len(list((tmp_path / WORK).glob("*"))) == 1
        (tmp_path / WORK / "of another process" / run(3.0).key).mkdir(parents=True)
        complete(runs, store, execute)
        assert [path.name for path in (tmp_path / WORK).glob("*")] == ["of another process"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
    def test_two_processes_share_the_work(self, tmp_path: Path) -> None:
        fork = multiprocessing.get_context("fork")
        runs = [run(beta, method="exact") for beta in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)]
        workers = [fork.Process(target=_work, args=(tmp_path, runs, name)) for name in "ab"]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        done = [line for name in "ab" for line in (tmp_path / name).read_text().split()]
        assert sorted(done) == sorted(one.key for one in runs)  # each once, by one of the two
        assert all(Store(tmp_path / "runs").get(one.key) for one in runs)


def _work(folder: Path, runs: Sequence[Run], name: str) -> None:
    def execute(group: Sequence[Run], folders: Any) -> list[Outcome]:
        time.sleep(0.05)
        with (folder / name).open("a") as file:
            file.writelines(f"{one.key}\n" for one in group)
        return executed(group)

    (folder / name).touch()
    complete(runs, Store(folder / "runs"), execute)
