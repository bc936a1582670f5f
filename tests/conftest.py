"""What every test shares: no display, and property tests that give the same verdict each run."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from commands import collapse
from nursery import Nursery

if TYPE_CHECKING:
    from browser import Browser

os.environ["MPLBACKEND"] = "Agg"

# Wall-clock limits fail on a busy machine, and CI must not draw new examples at each run.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in an empty folder; return status, stdout and stderr."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, str, str]:
        status = collapse(*arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return command


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


@pytest.fixture(scope="module")
def forks() -> Iterator[Any]:
    """Start processes from one that has imported everything: a worker is there at once."""
    from multiprocessing import forkserver

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
    monkeypatch.setattr("posterior_collapse.runs.spreading.PATIENCE", 0.0)
