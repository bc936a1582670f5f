"""A Lightning module some of whose units are dead, and its training with a `CollapseMonitor`."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import posterior_collapse as pc
from posterior_collapse.adapters.lightning import CollapseMonitor

LIVE = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
DIGITS = torch.tensor(pc.load("digits").x, dtype=torch.float32)[:400]
TOP = 0.98 * float(torch.linalg.eigvalsh(DIGITS.T.cov(correction=0))[-1])
"""A beta at which the strongest mode of these rows is just above the threshold."""


class Module(lightning.LightningModule):
    """Units where `LIVE` is 0 return the prior, whatever they are trained to."""

    def __init__(self, beta: float = 0.01, live: Tensor = LIVE) -> None:
        super().__init__()
        self.beta, self.live = beta, live
        self.encoder = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1))
        self.heads = nn.Linear(16, 2 * len(live))
        self.decoder = nn.Linear(len(live), 64)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.heads(self.encoder(x)).chunk(2, 1)
        return self.live * mean, self.live * log_var

    def training_step(self, batch: Any, index: int) -> Tensor:
        (x,) = batch
        mean, log_var = self.encode(x)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        return (0.5 * (x - self.decoder(z)).square().sum(1) + self.beta * kl).mean()

    def validation_step(self, batch: Any, index: int) -> None:
        assert not self.training

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 3e-3)


def loader(shuffle: bool = False, x: Tensor = DIGITS) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x), batch_size=50, shuffle=shuffle)


def quiet(**options: Any) -> lightning.Trainer:
    """A trainer on the CPU that writes and shows nothing unless it is told to."""
    return lightning.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )


def train(
    monitor: CollapseMonitor | None,
    module: Module | None = None,
    data: DataLoader[Any] | None = None,
    **options: Any,
) -> Module:
    torch.manual_seed(0)
    module = Module() if module is None else module
    callbacks = [] if monitor is None else [monitor]
    trainer = quiet(**{"max_epochs": 8, "log_every_n_steps": 1, "callbacks": callbacks, **options})
    trainer.fit(module, loader(shuffle=True) if data is None else data, loader())
    return module


def kl_of(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL of each unit, averaged over rows."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean(0)
