"""What the study of trust needs of training: models that get one more unit, and short histories."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posterior_collapse import VAESpec, fit_many
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.experiments import Executor
from posterior_collapse.models import Architecture, build, widened
from posterior_collapse.runs import Evaluation, Run, RunData, Store, complete
from posterior_collapse.training import Settings


class TestWidened:
    def narrow(self) -> Any:
        generator = torch.Generator().manual_seed(3)
        spec = VAESpec(2, sigma="input")
        return build(spec, "mlp", x_dim=5, hidden=(8,), generator=generator)

    def test_a_dead_unit_changes_nothing(self) -> None:
        model = self.narrow()
        wider, x = widened(model, dead=True), torch.randn(7, 5)
        assert wider.spec.dims == (3,)
        noise = torch.randn(7, 3)
        with torch.no_grad():
            one, other = (m(x, None, [noise[:, : m.units[0]]]) for m in (model, wider))
        assert torch.allclose(other.squared_error, one.squared_error)
        assert torch.allclose(other.kl[0][:, :2], one.kl[0])
        assert other.kl[0][:, 2].abs().max() < 1e-12

    def test_a_new_unit_is_heard_faintly(self) -> None:
        model = self.narrow()
        wider = widened(model, torch.Generator().manual_seed(1))
        old, new = (m.state_dict() for m in (model, wider))
        for name, value in old.items():
            assert torch.equal(new[name][tuple(slice(n) for n in value.shape)], value)
        (column,) = [new[n][:, 2] for n in new if new[n].dim() == 2 and new[n].shape[1] == 3]
        assert 0 < column.abs().max() <= 0.1 / math.sqrt(3)

    def test_a_hierarchy_is_refused(self) -> None:
        from posterior_collapse import HVAESpec

        with pytest.raises(InvalidArgumentError, match="one level"):
            widened(build(HVAESpec((2, 2)), "linear", x_dim=5))

    def test_training_goes_on_from_what_is_given(self) -> None:
        x = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
        wider = widened(self.narrow())
        before = {name: value.clone() for name, value in wider.state_dict().items()}
        options = {"hidden": (8,), "epochs": 1, "learning_rate": 1e-9}
        (found,) = fit_many([wider.spec], x, "mlp", start=[wider], **options)
        for name, value in found.model.state_dict().items():
            assert torch.allclose(value, before[name], atol=1e-6)
        assert all(torch.equal(v, before[n]) for n, v in wider.state_dict().items())
        with pytest.raises(InvalidArgumentError, match="start: got 2 values"):
            fit_many([wider.spec], x, "mlp", start=[wider, wider], **options)
        with pytest.raises(InvalidArgumentError, match="start: got a model"):
            fit_many([VAESpec(2, sigma="input")], x, "mlp", start=[wider], **options)

    def test_wider_runs_go_on_from_the_kept_ones(self, tmp_path: Path) -> None:
        spec = VAESpec(3, beta=0.1, sigma="input")
        net, how = Architecture.named("mlp", hidden=(8,)), Settings(epochs=2, seed=1)
        run = Run(
            RunData("clusters", rows=128), spec, net, how, "widened",
            Evaluation("train", weights=False),
        )  # fmt: skip
        store = Store(tmp_path)
        record, dead = complete([run, run.replace(method="dead")], store, Executor(store=store))
        assert record.history["epoch"] == [1, 2]
        assert dead.measured["levels"][0]["status"][2] == "collapsed"
        narrower = store.get(run.narrower.key)
        assert narrower is not None
        assert narrower.model.spec.latent_dim == 2
        assert not list(record.folder.glob("*.safetensors"))

    def test_kept_runs_without_models_are_trained_again(self, tmp_path: Path) -> None:
        run = Run(
            RunData("clusters", rows=128), VAESpec(3, beta=0.1, sigma="input"),
            Architecture.named("mlp", hidden=(8,)), Settings(epochs=2, seed=1), "dead",
            Evaluation("train", weights=False),
        )  # fmt: skip
        small, whole = Store(tmp_path / "small", models=False), Store(tmp_path / "whole")
        complete([run.narrower], small, Executor(store=small))
        small = Store(small.folder)
        (found,) = complete([run], small, Executor(store=small))
        (expected,) = complete([run], whole, Executor(store=whole))
        assert found.measured["loss"] == expected.measured["loss"]


class TestHistoryEvery:
    def test_rows_are_means_over_the_epochs_since_the_last(self) -> None:
        x = np.random.default_rng(0).standard_normal((96, 4)).astype(np.float32)
        specs, options = [VAESpec(2)], {"hidden": (4,), "batch_size": 32, "seeds": 1}
        (each,) = fit_many(specs, x, "mlp", epochs=7, **options)
        (some,) = fit_many(specs, x, "mlp", epochs=7, history_every=3, **options)
        assert some.history["epoch"] == [3, 6, 7]
        losses = each.history["loss"]
        expected = [np.mean(losses[:3]), np.mean(losses[3:6]), losses[6]]
        assert some.history["loss"] == pytest.approx(expected)
        for one, other in zip(each.model.parameters(), some.model.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_early_stopping_needs_every_epoch(self) -> None:
        with pytest.raises(InvalidArgumentError, match="history_every"):
            Settings(patience=3, history_every=2)
