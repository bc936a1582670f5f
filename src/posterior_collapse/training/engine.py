"""The loop: R runs, one data order, each run's own noise, clipping, stopping and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posterior_collapse.errors import NonFiniteLossError
from posterior_collapse.models import MarkovVAE, loss
from posterior_collapse.training import seeds, states
from posterior_collapse.training.annealing import Annealing
from posterior_collapse.training.course import FINISHED, Course
from posterior_collapse.training.drawing import BLOCK, draw, first_rows
from posterior_collapse.training.feeding import Batch, Feed
from posterior_collapse.training.information import active_units, information
from posterior_collapse.training.optimisers import SGD, Adam, Optimiser, clip_
from posterior_collapse.training.progress import Progress
from posterior_collapse.training.settings import Settings
from posterior_collapse.training.stacking import Draws, Stack

__all__ = ["Engine"]

ACTIVE_ROWS = 512
"""Rows on which active units are counted after each epoch."""
CHUNK = 1_000
REMEDY = "Lower learning_rate, bound the gradients with clip, or raise eta_dec."


class Engine:
    """Trains a stack of models; a single run is a stack of one.

    Args:
        models: One per run.
        settings: One per run, different in seed, learning rate and clip only.
        feed: The data.
        validation: For early stopping, or none.
        folders: Of the checkpoints, one per run or none.
        report: Called after each epoch.
        alone: Raise when the loss is not finite, instead of freezing that run.
    """

    def __init__(
        self,
        models: Sequence[MarkovVAE],
        settings: Sequence[Settings],
        feed: Feed,
        *,
        validation: Feed | None = None,
        folders: Sequence[str | Path] | None = None,
        report: Callable[[Progress], None] | None = None,
        alone: bool = False,
    ) -> None:
        self.settings = common = settings[0]
        self.models, self.feed, self.validation = list(models), feed, validation
        self.folders, self.report, self.alone = folders, report, alone
        self.device = torch.device(common.device)
        half = common.precision == "bf16"
        self.stack = Stack(models, self.device, feed.batch_size, half=half)
        self.dtype = next(iter(self.stack.leaves.values())).dtype
        self.runs = [Course(one) for one in settings]
        self.optimiser = self._optimiser()
        self.bounds = self._clip_bounds()
        per_epoch = feed.steps_per_epoch
        planned = None if per_epoch is None else common.epochs * per_epoch
        self.total_steps = planned if common.steps is None else common.steps
        levels = len(models[0].units)
        self.annealing = Annealing(common, levels, per_epoch, self.total_steps)
        self.betas = self._tensor([model.spec.beta_levels for model in models])
        self.step = self.epoch = self.step_in_epoch = self.rows_in_epoch = 0
        self.some = feed.rows(ACTIVE_ROWS)
        self.sums: Tensor | None = None
        self.bests: dict[str, Tensor] | None = None
        self.fingerprint = None if folders is None else feed.fingerprint()

    def train(self) -> None:
        """Train until every run has stopped, from wherever the engine stands."""
        while any(run.stopped is None for run in self.runs):
            self._epoch()

    @property
    def order_seed(self) -> int:
        """Seed of the data order that all runs share."""
        own = self.settings.order_seed
        return self.settings.seed if own is None else own

    @property
    def alive(self) -> list[int]:
        """Runs that go on."""
        return [i for i, run in enumerate(self.runs) if run.stopped is None]

    def _epoch(self) -> None:
        batches = self.feed.epoch(self.order_seed, self.epoch, self.step_in_epoch)
        for batch, draws in zip(batches, self._draws(), strict=False):
            self._one_step(batch, first_rows(draws, len(batch.x)))
            if self.step == self.total_steps or not self.alive:
                break
            every = self.settings.checkpoint_steps
            if every and self.step % every == 0:
                self._save()
        self._close_epoch()

    def _draws(self) -> Any:
        run_seeds = [run.settings.seed for run in self.runs]
        return draw(
            self.stack.model,
            run_seeds,
            self.epoch,
            self.feed.batch_size,
            self.betas,
            block=min(BLOCK, self.feed.steps_per_epoch or BLOCK),
            skip=self.step_in_epoch,
        )

    @torch.inference_mode()
    def _one_step(self, batch: Batch, draws: Draws) -> None:
        capacity = self.annealing.capacity(self.step)
        gradients, measured = self.stack.gradients(
            batch,
            draws,
            self.betas * self.annealing.factor(self.step),
            None if capacity is None else self._tensor(capacity),
            convention=self.settings.convention,
            free_bits=self.settings.free_bits,
        )
        norms = clip_(gradients, self.bounds)
        if not math.isfinite(float(measured.sum() + norms.sum())):
            self._freeze(measured, (measured.sum(1) + norms).isfinite().tolist())
        self.optimiser.step(gradients, self.alive)
        if self.sums is None:
            self.sums = torch.zeros_like(measured, dtype=torch.float64)
        self.sums.add_(measured, alpha=len(batch.x))
        self.rows_in_epoch += len(batch.x)
        self.step += 1
        self.step_in_epoch += 1

    def _freeze(self, measured: Tensor, finite: list[bool]) -> None:
        for index in [i for i in self.alive if not finite[i]]:
            term = self._culprit(measured[index])
            if self.alone:
                raise NonFiniteLossError(
                    f"{term} at step {self.step}", "NaN or inf", "a finite loss", REMEDY
                )
            self.runs[index].stopped = f"non-finite: {term} at step {self.step}"

    def _culprit(self, measured: Tensor) -> str:
        parts = torch.split(measured[2:], list(self.stack.model.units))
        if not bool(measured[1].isfinite()):
            return "reconstruction"
        for level, kl in enumerate(parts, start=1):
            if not bool(kl.isfinite().all()):
                return f"kl of level {level}"
        return "loss" if not bool(measured[0].isfinite()) else "gradient"

    def _close_epoch(self) -> None:
        # A run that froze in this epoch has no row for it.
        alive, rows = self.alive, self._rows()
        self.epoch += 1
        for i in alive:
            self.runs[i].record(rows[i])
            if self.settings.patience is not None:
                key = "loss" if self.validation is None else "validation_loss"
                if self.runs[i].judge(rows[i][key]):
                    self._remember(i)
        ended = self.step == self.total_steps if self.total_steps else (
            self.epoch >= self.settings.epochs
        )  # fmt: skip
        for i in self.alive if ended else ():
            self.runs[i].stopped = FINISHED
        for i in alive:
            if self.bests is not None and self.runs[i].stopped in (FINISHED, "early"):
                for name, best in self.bests.items():
                    self.stack.leaves[name][i] = best[i]
        self.sums, self.rows_in_epoch, self.step_in_epoch = None, 0, 0
        if not self.alive or self.epoch % self.settings.checkpoint_every == 0:
            self._save()
        if self.report is not None:
            shown = [rows[i] if i in alive else None for i in range(len(self.runs))]
            self.report(Progress(self.step, self.total_steps, self.epoch, shown))

    def _remember(self, run: int) -> None:
        if self.bests is None:
            self.bests = {name: p.clone() for name, p in self.stack.leaves.items()}
        for name, best in self.bests.items():
            best[run] = self.stack.leaves[name][run]

    def _rows(self) -> list[dict[str, float]]:
        """The epoch's row of every run."""
        if self.sums is None:
            return [{} for _ in self.runs]
        means = (self.sums / self.rows_in_epoch).tolist()
        units = self.stack.model.units
        counts = active_units(information(self.stack, self.some, self._noise(self.some.x)))
        validation = self._validation_loss()
        rows = []
        for i, mean in enumerate(means):
            row = {
                "epoch": self.epoch + 1, "step": self.step,
                "loss": mean[0], "reconstruction": mean[1],
            }  # fmt: skip
            start = 2
            for level, n in enumerate(units, start=1):
                row[f"kl_{level}"] = math.fsum(mean[start : start + n])
                row[f"active_{level}"] = int(counts[level - 1][i])
                start += n
            if validation is not None:
                row["validation_loss"] = validation[i]
            rows.append(row)
        return rows

    def _validation_loss(self) -> list[float] | None:
        if self.validation is None:
            return None
        rows = self.validation.rows(10**12 if self.validation.sized else 10 * CHUNK)
        total = torch.zeros(len(self.runs), dtype=torch.float64, device="cpu")
        for start in range(0, len(rows.x), CHUNK):
            x = rows.x[start : start + CHUNK]
            batch = Batch(x, None if rows.y is None else rows.y[start : start + CHUNK])
            terms = self.stack.terms(batch, Draws(self._noise(x), {}))
            values = torch.func.vmap(
                lambda t, b: loss(t, b, convention=self.settings.convention)
            )(terms, self.betas)  # fmt: skip
            total += values.double().cpu() * len(x) / len(rows.x)
        found: list[float] = total.tolist()
        return found

    def _noise(self, like: Tensor) -> tuple[Tensor, ...]:
        """The same noise at every call, each run's own."""
        drawn = [
            self.stack.model.draw_noise(
                len(like),
                seeds.generator(run.settings.seed, seeds.MEASURE, device=like.device),
                like.dtype,
            )
            for run in self.runs
        ]
        return tuple(torch.stack(level) for level in zip(*drawn, strict=True))

    def _save(self) -> None:
        if self.folders is not None:
            states.save(self, self.folders)

    def _optimiser(self) -> Optimiser:
        rates = [run.settings.learning_rate for run in self.runs]
        if self.settings.optimiser == "sgd":
            return SGD(self.stack.leaves, rates, self.settings.momentum)
        return Adam(self.stack.leaves, rates)

    def _clip_bounds(self) -> Tensor | None:
        clips = [run.settings.clip for run in self.runs]
        if all(clip is None for clip in clips):
            return None
        return self._tensor([math.inf if clip is None else clip for clip in clips])

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)
