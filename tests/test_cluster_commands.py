"""Tables and commands on a Dask cluster of processes, and the examples of the page on it."""

from __future__ import annotations

import contextlib
import doctest
import json
import math
import multiprocessing
import os
import re
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import posterior_collapse as pc
from commands import collapse
from posterior_collapse.clusters import connected
from posterior_collapse.runs import Store

pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")

X = np.random.default_rng(0).standard_normal((90, 5)) * [3, 2, 1, 0.3, 0.1]


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
        note = pc.load(folder, label_column="e").note
        assert note == "90 x 4 float64, 3 files"  # without labels, which are not read

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
        with pytest.raises(
            pc.DataError, match=r"^column 'b' of \S+rows.part-2\.parquet: got inf at row 0"
        ):
            pc.forecast(pc.load(folder), pc.VAESpec(2))


def parquet(folder: Path) -> Path:
    import pandas as pd

    folder.mkdir()
    for i, rows in enumerate(np.split(X, 3)):
        table = pd.DataFrame(rows, columns=list("abcde"))
        table.to_parquet(folder / f"part-{i}.parquet")
    return folder


@contextlib.contextmanager
def answering(content: bytes) -> Iterator[str]:
    """The address of a server that is no scheduler: a dashboard, or what waits to be spoken to."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):  # closed
                while True:
                    held.append(server.accept()[0])
                    held[-1].sendall(content)

        held: list[socket.socket] = []
        threading.Thread(target=answer, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        for one in held:
            one.close()


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
            ("tls://127.0.0.1:1", "TLS expects"),
            ("HTTP/1.1 400 Bad Request", "something else answers there"),
            ("", "something else answers there"),
            ("local:0", "a number of processes"),
            ("local:99999999", "a number of processes, 1 to 1024"),
        ],
    )
    def test_what_is_no_cluster_is_refused(
        self, capsys: Any, scheduler: str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("posterior_collapse.clusters.SECONDS", 0.5)
        with contextlib.ExitStack() as stack:
            if not scheduler or "HTTP" in scheduler:
                scheduler = stack.enter_context(answering(scheduler.encode()))
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

    def test_the_seconds_are_those_of_the_row_that_is_named(self) -> None:
        row = json.loads((PAGE.parents[1] / "results/reference/E4/result.json").read_text())
        (grid,) = row["settings"].values()
        assert grid["training"]["epochs"] == 100
        runs = math.prod(len(values) for values in grid["varies"].values())
        text = " ".join(PAGE.read_text().split())
        assert f"{runs} runs of the paper's hierarchical network, 100 epochs" in text
        assert f"trained and measured in {row['wall_s']:,.0f} seconds" in text
        assert f"{row['wall_s']:_.0f} / {runs}" in text

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
