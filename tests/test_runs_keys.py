"""Keys of runs stay what they were, so that the runs that are kept are found again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import posterior_collapse as pc
from posterior_collapse import files
from posterior_collapse.errors import CorruptFileError
from posterior_collapse.models import ARCHITECTURES, Architecture
from posterior_collapse.runs import Evaluation, Run, RunData
from posterior_collapse.runs.store import SEAL, Store
from posterior_collapse.specs import ChainSpec, CVAESpec, HVAESpec, VAESpec
from posterior_collapse.training import Settings

module = import_module("posterior_collapse.runs.tune")
X = np.random.default_rng(0).standard_normal((100, 4)) * [3, 2, 1, 0.1]

PINNED = {
    "dacca7a56369a1c7429f": Run(
        RunData("digits"), VAESpec(4), Architecture.named("mlp"), Settings()
    ),
    "eef04fc3933522bcc748": Run(
        RunData("digits", label=3, rows=100),
        VAESpec(2, beta=0.5, sigma=(0.5, 1.0)),
        Architecture.named("linear", bias=False),
        Settings(steps=200, seed=7),
        "exact",
        Evaluation(matrices=True),
    ),
    "a03d1431ccc91a825a7b": Run(
        RunData("mnist", task="quarter"),
        CVAESpec(16, eta_dec="learned"),
        Architecture.named("cvae-relu", hidden=(32,)),
        Settings(epochs=20, clip=1.0, convention="reference", order_seed=1),
        evaluation=Evaluation(samples=100, likelihood_rows=500, panel=9),
    ),
    "ebf626f0e56e90dc850a": Run(
        RunData("matrix:E14"),
        HVAESpec((5, 3), (1.0, 2.0), 0.5, sigma_1=0.5),
        Architecture.named("hvae-cnn"),
        Settings(capacity=(1.0, 2.0), patience=3),
        "recorded",
    ),
    "e8d3cc5c5201dcd1c367": Run(
        RunData("pairs:1/2"),
        ChainSpec((3, 2, 1), (1, 2, 3), (0.5, 0.6, 0.7)),
        Architecture.named("cnn", channels=(8,), dropout=0.1, initial_sigma="uniform"),
        Settings(optimiser="sgd", precision="bf16", warm_up=2),
        evaluation=Evaluation("train", rows=10),
    ),
}
"""Keys as the version 0.1.0 made them. Another key would orphan every run that is kept."""


class TestFrozenKeys:
    @pytest.mark.parametrize("key", PINNED)
    def test_a_key_is_what_it_was(self, key: str) -> None:
        assert PINNED[key].key == key

    def test_a_later_entry_counts_only_where_it_differs_from_its_default(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @dataclass(frozen=True)
        class WiderChoice(RunData):
            shift: float = 0.0

        @dataclass(frozen=True)
        class WiderSpec(VAESpec):
            floor: tuple[float, ...] = (1.0, 2.0)

        @dataclass(frozen=True)
        class WiderNetworks(Architecture):
            norm: str = "none"

        @dataclass(frozen=True)
        class WiderSettings(Settings):
            decay: float | None = None

        @dataclass(frozen=True)
        class WiderEvaluation(Evaluation):
            bins: int = 10

        @dataclass(frozen=True)
        class WiderRun(Run):
            tag: str = ""

        mlp = ARCHITECTURES["mlp"]
        monkeypatch.setitem(ARCHITECTURES, "mlp", mlp._replace(free=(*mlp.free, "norm")))

        def wider(**later: Any) -> Run:
            def of(kind: type, name: str, *given: Any, **fields: Any) -> Any:
                return kind(*given, **fields, **{name: later[name]} if name in later else {})

            return WiderRun(
                of(WiderChoice, "shift", "digits"),
                of(WiderSpec, "floor", 4),
                of(WiderNetworks, "norm", "mlp", hidden=(256,)),
                of(WiderSettings, "decay"),
                "minibatch",
                of(WiderEvaluation, "bins"),
                **{name: value for name, value in later.items() if name == "tag"},
            )

        plain = next(iter(PINNED))
        assert "shift" in json.dumps({**wider().to_dict(), "tag": ""})
        assert wider().key == plain
        others: list[dict[str, Any]] = [
            {"shift": 1.0}, {"floor": (1.0, 3.0)}, {"norm": "batch"}, {"decay": 0.1}, {"bins": 11},
        ]  # fmt: skip
        assert len({plain, *(wider(**other).key for other in others)}) == 1 + len(others)

    def test_a_whole_number_is_the_number_it_is(self) -> None:
        """0 and 0.0, 255 and 255.0 train the same, so they are one run."""

        def run(name: str, zero: Any, one: Any, **options: Any) -> Run:
            start = dict.fromkeys(("initial_std", "initial_sigma", "initial_eta_dec"), one)
            return Run(
                RunData("file.npy", scale=one),
                VAESpec(2, one, one, one, (one, one)),
                Architecture.named(name, **start, **options),
                Settings(learning_rate=one, momentum=zero, clip=one, free_bits=one, capacity=one),
            )

        for whole, real in (
            (run("mlp", 0, 1, dropout=0), run("mlp", 0.0, 1.0, dropout=0.0)),
            (run("mlp", 0, 1, input_dropout=0), run("mlp", 0.0, 1.0, input_dropout=0.0)),
            (run("linear", 0, 1, bias=0), run("linear", 0.0, 1.0, bias=False)),
        ):
            assert (whole.key, whole.family) == (real.key, real.family)

    def test_a_kept_default_that_moves_does_not_move_keys(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was hashed from the start is hashed whatever its default is."""
        mlp = ARCHITECTURES["mlp"]
        monkeypatch.setitem(ARCHITECTURES, "mlp", mlp._replace(defaults={"hidden": (8,)}))
        assert next(iter(PINNED.values())).key == next(iter(PINNED))


def test_a_run_kept_under_the_key_of_whole_numbers_is_still_read(tmp_path: Path) -> None:
    (run,) = pc.sweep([VAESpec(2)], X, "linear", epochs=1, momentum=0.0, folder=tmp_path).runs
    path = tmp_path / run.run.key / files.RUN
    values = json.loads(path.read_text())
    del values[SEAL]
    values["run"]["settings"]["momentum"] = 0  # as earlier versions wrote it
    values[SEAL] = files.digest(values)
    path.write_text(json.dumps(values))
    earlier = run.run.key_of(values["run"])
    assert earlier != run.run.key
    path.parent.rename(tmp_path / earlier)
    found = Store(tmp_path).get(earlier)
    assert found is not None
    assert found.run == run.run
    (tmp_path / earlier).rename(tmp_path / "another")
    with pytest.raises(CorruptFileError, match="as its folder is named"):
        Store(tmp_path).get("another")


@pytest.mark.parametrize("active", [(0, 3), (1, 4)])
def test_tune_says_so_if_nothing_kept_what_was_wanted(active: tuple[int, ...]) -> None:
    tuned = pc.tune(X, VAESpec(4), "linear", active=1, seeds=1, steps=9)
    linear = active[0] + 2
    chosen = tuned.chosen.replace(active=active, halfway=active, linear=linear)
    tuned = tuned.replace(chosen=chosen, wanted=active[0] + 1)
    assert any("that was tried keeps" in note for note in module._notes(tuned))


@pytest.mark.parametrize("name", ["initial_std", "initial_sigma", "initial_eta_dec"])
def test_several_numbers_to_start_from_are_refused_as_such(name: str) -> None:
    with pytest.raises(pc.InvalidArgumentError, match=f"{name}: got array"):
        Architecture.named("mlp", **{name: np.array([1.0, 2.0])})
