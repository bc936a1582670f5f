"""Runs on a Dask cluster of processes: equal to those of one machine, whatever dies."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import posterior_collapse as pc
from fresh import output
from posterior_collapse.errors import InvalidArgumentError, OutputError, TrainingError
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


def test_neither_the_package_nor_a_forecast_loads_dask() -> None:
    output(
        "import sys, numpy as np, posterior_collapse as pc\n"
        "pc.forecast(np.eye(3), pc.VAESpec(1))\n"
        "assert not {'dask', 'distributed'} & set(sys.modules)"
    )
