"""Runs and moments on a Dask cluster of processes: equal to one machine's, whatever dies."""

from __future__ import annotations

import contextlib
import doctest
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import posterior_collapse as pc
from commands import collapse
from posterior_collapse.clusters import connected
from posterior_collapse.errors import InvalidArgumentError, OutputError, TrainingError
from posterior_collapse.runs import Store, spreading
from posterior_collapse.training import Progress
from posterior_collapse.training.arguments import UnboundedObjectiveWarning

pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")

X = np.random.default_rng(0).standard_normal((90, 5)) * [3, 2, 1, 0.3, 0.1]
SPECS = [pc.VAESpec(3, beta=beta) for beta in (0.5, 0.5, 2.0)]
HOW: dict[str, Any] = {"hidden": (6,), "epochs": 2, "batch_size": 64}
EPOCHS = [(1, 1), (1, 2), (2, 1), (2, 2)]
"""What is told of: the runs of a group, and the epoch."""


def swept(client: Any = None, **changes: Any) -> pc.Sweep:
    """Train two groups, of one run and of two."""
    return pc.sweep(SPECS, X, "mlp", client=client, **{**HOW, "seeds": [0, 1, 0], **changes})


def assert_same(found: pc.Sweep, expected: pc.Sweep) -> None:
    assert found.to_dict() == expected.to_dict()
    for one, other in zip(found.runs, expected.runs, strict=True):
        assert dict(one.history) == dict(other.history)
        pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
        assert all(a.equal(b) for a, b in pairs)


@pytest.fixture(scope="module")
def alone() -> pc.Sweep:
    return swept()


@pytest.fixture(scope="module")
def forks() -> Iterator[Any]:
    """Start processes from one that has imported everything: a worker is there at once."""
    import dask
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        context = get_mp_context()
        context.set_forkserver_preload(["distributed", "cluster_warm"])
        with pytest.MonkeyPatch.context() as patch:
            # Where its helpers are found, and it itself, by whichever name pytest imported it.
            patch.syspath_prepend(Path(__file__).parent)
            patch.syspath_prepend(Path(__file__).parent.parent)
            patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
            forkserver.ensure_running()
            yield context


@pytest.fixture(scope="module")
def cluster(forks: Any) -> Iterator[Any]:
    from distributed import LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**options, silence_logs=50) as found:
        yield found


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    from distributed import Client

    with Client(cluster, set_as_default=False) as found:
        found.wait_for_workers(2)
        yield found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is an epoch."""
    monkeypatch.setattr(spreading, "PATIENCE", 0.0)


def kill_the_busy(client: Any) -> int:
    """Kill the workers that train now; return how many."""
    pids = client.run(os.getpid)
    busy = [worker for worker, tasks in client.processing().items() if tasks]
    for worker in busy:
        os.kill(pids[worker], signal.SIGKILL)
    return len(busy)


class TestSweep:
    def test_the_table_is_that_of_one_machine(self, client: Any, alone: pc.Sweep) -> None:
        assert_same(swept(client), alone)
        options: dict[str, Any] = {"exact": True, "seeds": None}
        specs = [pc.VAESpec(2), pc.HVAESpec((3, 2), (1, 4))]
        both = [pc.sweep(specs, X, "linear", client=c, **options) for c in (client, None)]
        assert_same(*both)

    def test_a_worker_killed_mid_run_loses_and_doubles_nothing(
        self, client: Any, alone: pc.Sweep, impatient: None, tmp_path: Path
    ) -> None:
        told: list[tuple[int, int]] = []
        killed = []

        def kill(now: Progress) -> None:
            told.append((len(now.rows), now.epoch))
            if now.epoch == 1:
                killed.append(kill_the_busy(client))

        found = swept(client, progress=kill, folder=tmp_path)
        assert sum(killed) > 0
        assert_same(found, alone)
        assert sorted(told) == EPOCHS
        keys = {run.run.key for run in found.runs}
        assert {path.name for path in tmp_path.iterdir()} == {*keys, ".claims"}
        again = swept(client, folder=tmp_path, progress=lambda now: pytest.fail("trained"))
        assert_same(again, alone)

    def test_a_call_that_was_stopped_goes_on_here_or_there(
        self, client: Any, impatient: None, tmp_path: Path
    ) -> None:
        told: list[int] = []

        def stop(now: Progress) -> None:
            told.append(now.epoch)
            if len(told) < 3:
                raise KeyboardInterrupt

        options: dict[str, Any] = {**HOW, "epochs": 3}
        for where in (client, None):
            with pytest.raises(KeyboardInterrupt):
                pc.sweep(SPECS, X, client=where, folder=tmp_path, progress=stop, **options)
        found = pc.sweep(SPECS, X, client=client, folder=tmp_path, progress=stop, **options)
        assert_same(found, pc.sweep(SPECS, X, **options))
        assert told == [1, 2, 3]

    @pytest.mark.parametrize("lost", ["deleted", "a file"])
    def test_a_store_whose_disk_is_lost_is_told(
        self, client: Any, tmp_path: Path, lost: str
    ) -> None:
        store = tmp_path / "store"

        def lose(now: Progress) -> None:
            if store.is_dir() and list(store.glob("*/run.json")):
                shutil.rmtree(store)
                if lost == "a file":
                    store.write_text("")

        with pytest.raises(OutputError, match=str(store)) as told:
            pc.sweep(SPECS, X, "linear", exact=True, folder=store, client=client, progress=lose)
        assert "\n" not in str(told.value)

    def test_what_a_worker_refuses_names_the_run(self, client: Any) -> None:
        with pytest.raises(InvalidArgumentError, match=r"^device \(of the run VAESpec.*'cuda'"):
            swept(client, device="cuda")

    def test_a_run_that_kills_its_workers_is_told(self, client: Any) -> None:
        here = os.getpid()

        class Deadly(list[Any]):
            """Batches that can be read in this process alone."""

            def __iter__(self) -> Iterator[Any]:
                if os.getpid() != here:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().__iter__()

        with pytest.raises(TrainingError, match=r"the run VAESpec.*workers that died") as told:
            pc.sweep(SPECS[:1], Deadly([X[:50], X[50:]]), client=client, **{**HOW, "seeds": 0})
        assert "\n" not in str(told.value)

    def test_warnings_come_through(self, client: Any) -> None:
        spec = pc.VAESpec(5, beta=0.5, eta_dec="learned")
        x = np.random.default_rng(0).standard_normal((20, 2))
        with pytest.warns(UnboundedObjectiveWarning):
            pc.sweep([spec], x, "mlp", hidden=(4,), epochs=1, client=client)

    def test_who_is_no_client_is_refused(self, cluster: Any) -> None:
        from distributed import Client

        closed = Client(cluster, set_as_default=False)
        closed.close()
        for one, said in ((closed, "a Client that is closed"), ("tcp://here", "got str")):
            with pytest.raises(InvalidArgumentError, match=f"client: .*{said}"):
                swept(one)


def scheduler(port: int) -> None:
    import asyncio

    from distributed import Scheduler

    async def run() -> None:
        async with Scheduler(port=port, dashboard_address=":0") as found:
            await found.finished()

    asyncio.run(run())


def worker(port: int) -> None:
    import asyncio

    from distributed import Worker

    async def run() -> None:
        async with Worker(f"tcp://127.0.0.1:{port}", nthreads=1, dashboard_address=":0") as found:
            await found.finished()

    asyncio.run(run())


class Machines:
    """A scheduler and a worker, each a process that can be killed."""

    def __init__(self, context: Any, port: int) -> None:
        self.context, self.port = context, port
        self.processes: list[Any] = []
        self.start()

    def start(self) -> None:
        for target in (scheduler, worker):
            process = self.context.Process(target=target, args=(self.port,), daemon=True)
            process.start()
            self.processes.append(process)
        until = time.monotonic() + 60  # a busy machine takes its time
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.1)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.processes.clear()


def test_a_scheduler_that_is_started_anew_goes_on_and_one_that_is_gone_is_told(
    forks: Any, alone: pc.Sweep, impatient: None, tmp_path: Path
) -> None:
    from distributed import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = Machines(forks, port)
    told: list[tuple[int, int]] = []

    def restart(now: Progress) -> None:
        told.append((len(now.rows), now.epoch))
        if len(told) == 2:
            machines.kill()
            machines.start()

    def end(now: Progress) -> None:
        machines.kill()

    with Client(f"tcp://127.0.0.1:{port}", timeout=5, set_as_default=False) as client:
        assert_same(swept(client, progress=restart), alone)
        assert sorted(told) == EPOCHS
        lost = rf"scheduler: got no connection to .*{port}"
        with pytest.raises(TrainingError, match=lost) as gone:
            swept(client, progress=end, folder=tmp_path)
        assert "\n" not in str(gone.value)


class TestMoments:
    def test_those_of_dask_arrays_are_measured_on_the_cluster(self, client: Any) -> None:
        import dask.array as da

        here = os.getpid()

        def block(values: Any) -> Any:
            assert os.getpid() != here
            return values

        lazy = da.from_array(X, chunks=(20, 3)).map_blocks(block, meta=X[:0])
        with client.as_current():
            found = pc.Moments.from_arrays(lazy)
        expected = pc.Moments.from_arrays(X)
        assert found.n == expected.n
        np.testing.assert_allclose(found.cov, expected.cov, rtol=1e-12, atol=1e-14)

    def test_a_folder_of_parquet_files_is_one_table(self, tmp_path: Path) -> None:
        folder = parquet(tmp_path / "rows")
        dataset = pc.load(folder)
        assert repr(dataset) == "<Dataset 'rows': 90 x 5 float64, 3 files>"
        np.testing.assert_array_equal(dataset.at_hand().x, X)
        assert pc.load(folder, columns="c,a").x.shape == (90, 2)
        with pytest.raises(pc.DataError, match="labels in 'rows'"):
            pc.load(folder, label=1)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda table: table.rename(columns={"a": "z"}), r"part-1\.parquet: got other columns"),
            (lambda table: table[["b", "a", "c", "d", "e"]], "another order"),
            (lambda table: None, r"part-1\.parquet: got .*; expected a \.parquet file"),
        ],
    )
    def test_a_file_that_does_not_belong_is_named(
        self, tmp_path: Path, change: Any, said: str
    ) -> None:
        import pandas as pd

        folder = parquet(tmp_path / "rows")
        path = folder / "part-1.parquet"
        changed = change(pd.read_parquet(path))
        path.write_text("no table") if changed is None else changed.to_parquet(path)
        with pytest.raises(pc.DataError, match=said):
            pc.load(folder)

    def test_a_number_that_is_none_is_named_with_its_file(self, tmp_path: Path) -> None:
        import pandas as pd

        folder = parquet(tmp_path / "rows")
        path = folder / "part-2.parquet"
        pd.read_parquet(path).assign(b=np.inf).to_parquet(path)
        with pytest.raises(pc.DataError, match="inf at row 60, column 1"):
            pc.forecast(pc.load(folder), pc.VAESpec(2))


def parquet(folder: Path) -> Path:
    import pandas as pd

    folder.mkdir()
    for i, rows in enumerate(np.split(X, 3)):
        table = pd.DataFrame(rows, columns=list("abcde"))
        table.to_parquet(folder / f"part-{i}.parquet")
    return folder


class TestCommands:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        np.save("data.npy", X)

    def test_train_leaves_the_folder_that_one_machine_leaves(
        self, cluster: Any, impatient: None
    ) -> None:
        options = ["--latents", 3, "--hidden", 6, "--epochs", 2, "--beta", "0.5,2", "--seed", "0,1"]
        there = ["--scheduler", cluster.scheduler_address]
        assert collapse("train", "data.npy", *options, "--out", "one") == 0
        assert collapse("train", "data.npy", *options, "--out", "many", *there) == 0
        files = {path.relative_to("one") for path in Path("one").rglob("*") if path.is_file()}
        assert files == {p.relative_to("many") for p in Path("many").rglob("*") if p.is_file()}
        for name in files:
            assert ("one" / name).read_bytes() == ("many" / name).read_bytes(), name

    def test_tune_and_reproduce_say_the_same(self, cluster: Any, capsys: Any) -> None:
        there = ["--scheduler", cluster.scheduler_address]
        tune = ["tune", "data.npy", "--latents", 3, "--architecture", "linear", "--exact"]
        row = ["reproduce", "E9", "--quick", "--out"]
        said = []
        for where in ([], there):
            assert collapse(*tune, "--active", 2, "--seeds", 2, "--json", *where) == 0
            said.append(json.loads(capsys.readouterr().out))
            out = "many" if where else "one"
            assert collapse(*row, out, *where) == 0
            capsys.readouterr()
            said[-1]["E9"] = json.loads(Path(out, "E9", "result.json").read_text())["tables"]
        assert said[0] == said[1]
        key = next(Path("many/runs").glob("*/run.json")).parent.name
        assert key in Store("many/runs")

    def test_forecast_of_a_folder(self, cluster: Any, capsys: Any) -> None:
        parquet(Path("rows"))
        spec = ["--latents", 3, "--json"]
        found = []
        for where in ([], ["--scheduler", cluster.scheduler_address]):
            assert collapse("forecast", "rows", *spec, *where) == 0
            found.append(json.loads(capsys.readouterr().out))
        assert found[0] == found[1]
        assert found[0]["loss"] == pytest.approx(pc.forecast(X, pc.VAESpec(3)).loss, rel=1e-9)
        assert collapse("forecast", "data.npy", "--scheduler", cluster.scheduler_address) == 2
        assert "expected a folder of .parquet files" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("scheduler", "said"),
        [
            ("nowhere", "missing port"),
            ("tcp://127.0.0.1:1", "Timed out"),
            ("local:0", "a number of processes"),
            ("local:99999999", "a number of processes, 1 to 1024"),
        ],
    )
    def test_what_is_no_cluster_is_refused(
        self, capsys: Any, scheduler: str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("posterior_collapse.clusters.SECONDS", 0.5)
        assert collapse("forecast", "data.npy", "--scheduler", scheduler) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1

    def test_processes_of_ones_own_end_with_the_block(self, forks: Any) -> None:
        with connected("local:1") as client:
            (pid,) = client.run(os.getpid).values()
            os.kill(pid, 0)
        assert pid not in {child.pid for child in multiprocessing.active_children()}


PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"


class TestPage:
    def test_examples(self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        found = doctest.testfile(str(PAGE), module_relative=False, extraglobs={"client": client})
        assert found.attempted > 10
        assert found.failed == 0

    def test_commands_have_such_options(self, cluster: Any, tmp_path: Path) -> None:
        """What is shown in lines of its own, but for the address and for how long it takes."""
        shown = re.findall(r"^    collapse (.+)$", PAGE.read_text(), flags=re.MULTILINE)
        parquet(tmp_path / "rows")
        assert len(shown) == 2
        for line in shown:
            words = line.replace("tcp://10.0.0.1:8786", cluster.scheduler_address).split()
            words = [str(tmp_path / word) if word == "rows/" else word for word in words]
            small = {"train": ["--out", tmp_path / "run", "--exact", "--architecture", "linear"]}
            assert collapse(*words, *small.get(words[0], [])) == 0

    @pytest.mark.parametrize("library", ["dask_jobqueue", "dask_kubernetes.operator"])
    def test_scripts_run_with_a_stand_in(
        self, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
    ) -> None:
        class StandIn:
            """The cluster that is there, scaled as those libraries scale theirs."""

            def adapt(self, *, minimum: int, maximum: int) -> None: ...
            def scale(self, n: int | None = None, *, jobs: int) -> None: ...

            def __getattr__(self, name: str) -> Any:
                return getattr(cluster, name)

        def slurm(
            *, queue: str, cores: int, processes: int, memory: str, walltime: str,
            job_script_prologue: list[str], worker_extra_args: list[str],
        ) -> StandIn:  # fmt: skip
            return StandIn()

        def kube(
            *, name: str, image: str, resources: dict[str, Any], env: dict[str, str],
            worker_command: list[str],
        ) -> StandIn:  # fmt: skip
            return StandIn()

        module: Any = ModuleType(library)
        module.SLURMCluster, module.KubeCluster = slurm, kube
        monkeypatch.setitem(sys.modules, library, module)
        monkeypatch.setitem(sys.modules, library.partition(".")[0], module)
        monkeypatch.chdir(tmp_path)
        blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
        (script,) = (block for block in blocks if f"from {library} import" in block)
        exec(compile(script, library, "exec"), {"__name__": "__main__"})
        assert len(list(Path("sweep").glob("*/run.json"))) == 4


def test_neither_the_package_nor_a_forecast_loads_dask() -> None:
    check = (
        "import sys, numpy as np, posterior_collapse as pc\n"
        "pc.forecast(np.eye(3), pc.VAESpec(1))\n"
        "assert not {'dask', 'distributed'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
