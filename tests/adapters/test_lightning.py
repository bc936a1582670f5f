"""`CollapseMonitor` in real Lightning runs."""

from __future__ import annotations

import csv
import itertools
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import posterior_collapse as pc
from posterior_collapse import HVAESpec, InvalidArgumentError, VAESpec
from posterior_collapse.adapters import from_callable

lightning = pytest.importorskip("lightning.pytorch")
from monitored import DIGITS, LIVE, TOP, Module, kl_of, loader, quiet, train  # noqa: E402
from posterior_collapse.adapters.lightning import CollapseMonitor  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*treespec"
)


def test_dead_and_live_units_are_seen() -> None:
    monitor = CollapseMonitor()
    module = train(monitor).eval()
    last = monitor.history[-1]
    assert last.step == 8 * 8
    assert last.active == 3
    with torch.no_grad():
        mean, log_var = module.encode(DIGITS)
    kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean(0)
    torch.testing.assert_close(torch.tensor(last.kl), kl, rtol=1e-5, atol=1e-7)
    assert [value > 0.1 for value in last.kl] == LIVE.bool().tolist()


def test_the_trained_module_is_diagnosed() -> None:
    spec = VAESpec(latent_dim=5, beta=0.01, eta_enc=2.0, sigma="input")
    monitor = CollapseMonitor(spec=spec)
    module = train(monitor)
    model = from_callable(module.encode, module.decoder, latent_dim=5, spec=spec)
    found = pc.diagnose(model, loader())
    assert [status == "active" for status in found.levels[0].status] == LIVE.bool().tolist()
    assert found.levels[0].kl.tolist() == pytest.approx(monitor.history[-1].kl, rel=1e-5)
    assert found.loss is not None


def test_dense_then_sparse() -> None:
    monitor = CollapseMonitor(every=10)
    train(monitor)
    steps = [found.step for found in monitor.history]
    assert steps[:12] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15]
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert max(gaps) == 10
    assert steps[-1] == 64


class Hiding(Module):
    """Its encoder ends in batch norm that Lightning does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = {"norm": (nn.BatchNorm1d(len(LIVE)),)}

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = super().encode(x)
        return self.hidden["norm"][0](mean), log_var


def numbers(module: Module) -> list[Tensor]:
    hidden = getattr(module, "hidden", {"norm": ()})["norm"]
    return [value for part in (module, *hidden) for value in part.state_dict().values()]


@pytest.mark.parametrize("kind", [Module, Hiding])
def test_the_run_is_as_it_would_be_without(kind: type[Module]) -> None:
    runs = []
    for monitor in (CollapseMonitor(), None):
        torch.manual_seed(0)
        runs.append(numbers(train(monitor, kind())))
    for with_monitor, without in zip(*runs, strict=True):
        assert torch.equal(with_monitor, without)


def test_transforms_of_the_data_draw_in_the_run_what_they_would_without() -> None:
    def noisy(rows: list[tuple[Tensor]]) -> tuple[Tensor]:
        return (torch.stack([x for (x,) in rows]) + float(np.random.rand()) + random.random(),)

    data = DataLoader(TensorDataset(DIGITS), 50, collate_fn=noisy)
    runs = []
    for monitor in (CollapseMonitor(data=data), None):
        np.random.seed(0)
        random.seed(0)
        runs.append(train(monitor, data=data, max_epochs=2))
    assert torch.equal(runs[0].heads.weight, runs[1].heads.weight)


class Augmenting(Module):
    """Batches are changed on the device while the trainer trains, as Lightning's docs do it."""

    def on_after_batch_transfer(self, batch: Any, index: int) -> Any:
        (x,) = batch
        return (x + torch.rand(()) if self.trainer.training else x,)


def test_batches_that_are_looked_at_are_not_augmented() -> None:
    monitor = CollapseMonitor()
    module = train(monitor, Augmenting(), max_epochs=1).eval()
    with torch.no_grad():
        mean, log_var = module.encode(DIGITS)
    kl = kl_of(mean, log_var)
    torch.testing.assert_close(torch.tensor(monitor.history[-1].kl), kl, rtol=1e-5, atol=1e-7)


def test_a_loader_that_is_also_trained_on_keeps_its_order() -> None:
    def shuffled() -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(1)
        return DataLoader(TensorDataset(DIGITS), 50, shuffle=True, generator=generator)

    watched, other = shuffled(), shuffled()
    monitored = train(CollapseMonitor(data=watched), data=watched)
    assert torch.equal(monitored.heads.weight, train(None, data=other).heads.weight)


def test_values_go_to_the_trainers_own_logger(tmp_path: Path) -> None:
    monitor = CollapseMonitor(every=20)
    logger = lightning.loggers.CSVLogger(tmp_path)
    train(monitor, logger=logger)
    with open(Path(logger.log_dir) / "metrics.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["collapse/active_units"]]
    assert [int(row["step"]) for row in rows] == [found.step for found in monitor.history]
    for row, found in zip(rows, monitor.history, strict=True):
        assert float(row["collapse/active_units"]) == found.active
        assert [float(row[f"collapse/kl_{unit}"]) for unit in range(5)] == list(found.kl)
        assert float(row["collapse/kl"]) == pytest.approx(sum(found.kl))


@pytest.mark.parametrize(
    ("spec", "beta", "message"),
    [
        (None, 100.0, "lower beta or eta_dec: .*If not, lengthen the KL warm-up"),
        (
            VAESpec(latent_dim=5, beta=100.0),
            100.0,
            "By the linear forecast the objective asks for it.*Lower beta",
        ),
        (VAESpec(latent_dim=5, beta=0.01), 0.01, "5 could be: the optimiser lost them"),
        (VAESpec(latent_dim=5, beta=TOP), TOP, "undecided: 400 rows do not tell.*lower beta or"),
        (
            VAESpec(latent_dim=5, beta=100.0, likelihood="bernoulli"),
            100.0,
            "By the linear forecast the objective asks for it.*Lower beta",
        ),
        (
            VAESpec(latent_dim=5, beta=0.3, likelihood="bernoulli"),
            0.3,
            "5 could be: the optimiser lost them",
        ),
    ],
)
def test_the_warning_names_the_action(spec: VAESpec | None, beta: float, message: str) -> None:
    dead = Module(beta, torch.zeros(5))
    monitor = CollapseMonitor(spec=spec, warn_after=20)
    with pytest.warns(UserWarning, match=f"0 of 5 units are active after .*{message}") as caught:
        train(monitor, dead)
    assert sum("units are active" in str(one.message) for one in caught) == 1


def test_noise_of_few_rows_is_not_taken_for_modes_that_could_live() -> None:
    """White noise of variance 0.5 in 64 features: the largest eigenvalue of 100 rows is 1.6."""
    noise = 0.5**0.5 * torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    monitor = CollapseMonitor(data=[[noise]], spec=VAESpec(latent_dim=5), warn_after=1)
    with pytest.warns(UserWarning, match="undecided: 100 rows do not tell") as caught:
        train(monitor, Module(live=torch.zeros(5)), max_epochs=1)
    assert not [one for one in caught if "lost them" in str(one.message)]
    few = CollapseMonitor(data=[[DIGITS[:9]]], spec=VAESpec(latent_dim=5), warn_after=1)
    with pytest.warns(UserWarning, match="undecided: 9 rows do not tell"):
        train(few, Module(live=torch.zeros(5)), max_epochs=1)


def test_no_warning_before_its_time_or_without_reason() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(CollapseMonitor(), Module(live=torch.zeros(5)))  # 64 steps: too early
        train(CollapseMonitor(warn_after=None), Module(live=torch.zeros(5)))
        train(CollapseMonitor(warn_after=40, least_active=3))
    assert not [one for one in caught if "units are active" in str(one.message)]


def test_a_run_that_diverges_is_left_to_end_by_itself() -> None:
    def broken(module: Module, batch: Any) -> Any:
        mean, log_var = module.encode(batch[0])
        return mean * torch.tensor([1.0, 1.0, 1.0, 1.0, torch.nan]), log_var - 800

    monitor = CollapseMonitor(broken, warn_after=1, least_active=5, spec=VAESpec(latent_dim=5))
    with pytest.warns(UserWarning, match="of 5 units are active .* has diverged: clamp log_var"):
        train(monitor, max_epochs=1)
    assert monitor.history[-1].step == 8
    assert str(monitor.history[-1].kl[:1] + monitor.history[-1].kl[-1:]) == "(inf, nan)"


def test_data_without_a_forecast_get_the_general_action() -> None:
    same = [[torch.ones(30, 64)]]
    spec = VAESpec(latent_dim=5)
    monitor = CollapseMonitor(data=same, spec=spec, warn_after=1)
    with pytest.warns(UserWarning, match="If the objective asks for it"):
        train(monitor, Module(live=torch.zeros(5)), max_epochs=1)


def test_several_validation_loaders_and_accumulated_gradients() -> None:
    monitor = CollapseMonitor()
    module = Module()
    trainer = quiet(
        max_epochs=2, callbacks=[monitor], accumulate_grad_batches=4, precision="bf16-mixed"
    )
    module.validation_step = lambda batch, index, dataloader_idx: None
    trainer.fit(module, loader(shuffle=True), [loader(), loader(x=DIGITS[:50])])
    assert [found.step for found in monitor.history] == [0, 1, 2, 3, 4]


def test_processes_are_merged(tmp_path: Path) -> None:
    """Two processes see half of the digits each and log what one sees of all."""
    one = CollapseMonitor()
    train(one, max_epochs=1, max_steps=1)
    logger = lightning.loggers.CSVLogger(tmp_path, version=0)
    train(CollapseMonitor(), logger=logger, devices=2, strategy="ddp_fork", max_steps=1)
    with open(Path(logger.log_dir) / "metrics.csv", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    kl = [float(first[f"collapse/kl_{unit}"]) for unit in range(5)]
    assert kl == pytest.approx(one.history[0].kl, rel=1e-6)
    assert float(first["collapse/active_units"]) == one.history[0].active


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_other_callbacks_monitor_what_it_sees(tmp_path: Path) -> None:
    """`ModelCheckpoint` and `EarlyStopping` raised: they read what the module logs."""
    callbacks = lightning.callbacks
    keep = callbacks.ModelCheckpoint(tmp_path, monitor="collapse/kl", mode="max")
    stop = callbacks.EarlyStopping("collapse/active_units", patience=2, mode="max")
    monitor = CollapseMonitor(every=1000)
    train(
        monitor,
        Module(live=torch.zeros(5)),
        max_epochs=20,
        callbacks=[monitor, keep, stop],
        enable_checkpointing=True,
    )
    assert monitor.history[-1].step == 3 * 8  # no unit came alive in two more epochs
    assert keep.best_model_score is not None
    module = Module()
    again = CollapseMonitor()
    state = torch.load(keep.best_model_path, weights_only=False)
    (name,) = (key for key in state["callbacks"] if "CollapseMonitor" in key)
    again.load_state_dict(state["callbacks"][name])
    assert again.history[0] == monitor.history[0]
    trainer = quiet(max_epochs=4, callbacks=[again])
    trainer.fit(module, loader(shuffle=True), loader(), ckpt_path=keep.best_model_path)
    steps = [found.step for found in again.history]
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert steps[-1] == 4 * 8


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_without_validation_it_looks_at_training_batches() -> None:
    monitor = CollapseMonitor()
    trainer = quiet(max_epochs=1, callbacks=[monitor])
    with pytest.warns(UserWarning, match="looks at training batches"):
        trainer.fit(Module(), loader(shuffle=True))
    assert monitor.history[-1].step == 8


def test_batches_are_those_of_a_validation_that_comes_epochs_later() -> None:
    monitor = CollapseMonitor()
    rarely = {"check_val_every_n_epoch": 5, "num_sanity_val_steps": 0}  # as when it is resumed
    trainer = quiet(max_epochs=1, callbacks=[monitor], **rarely)
    trainer.fit(Module(), loader(shuffle=True), loader(x=DIGITS[:70]))
    assert [len(x) for (x,) in monitor._batches] == [50, 20]


class Labelled(Module):
    def training_step(self, batch: Any, index: int) -> Tensor:
        return super().training_step([batch[1]], index)


def test_labels_before_the_data_and_steps_of_two_optimisers() -> None:
    labels = torch.arange(len(DIGITS)) % 10
    pairs = DataLoader(TensorDataset(labels, DIGITS), batch_size=50)
    monitor = CollapseMonitor(data=pairs)
    train(monitor, Labelled(), data=pairs)
    assert monitor.history[-1].active == 3

    class Two(Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, index: int) -> Any:
            loss = super().training_step(batch, index)
            self.zero_grad()
            self.manual_backward(loss)
            for optimiser in self.optimizers():
                optimiser.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(part.parameters()) for part in (self.encoder, self.decoder)]

    monitor = CollapseMonitor()
    train(monitor, Two(), max_epochs=2)
    assert monitor.history[-1].step == 2 * 8


def test_many_units_are_not_logged_one_by_one(tmp_path: Path) -> None:
    for units, single in ((64, True), (65, False)):
        logger = lightning.loggers.CSVLogger(tmp_path, version=units)
        train(CollapseMonitor(), Module(live=torch.ones(units)), max_epochs=1, logger=logger)
        with open(Path(logger.log_dir) / "metrics.csv", encoding="utf-8") as file:
            assert ("collapse/kl_0" in next(csv.DictReader(file))) == single


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples"),
        ({"every": 0}, "every"),
        ({"warn_after": -1}, "warn_after"),
        ({"least_active": 0}, "least_active"),
        ({"prior_std": 0.0}, "prior_std"),
        (
            {"spec": HVAESpec(latent_dims=(2, 2), betas=(1.0, 1.0))},
            "a HVAESpec; expected a VAESpec",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        CollapseMonitor(**options)
