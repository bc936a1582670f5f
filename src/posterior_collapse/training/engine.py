"""The loop: R runs, one data order, each run's own noise, clipping, stopping and checkpoints."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posterior_collapse.arrays import refuse_non_finite
from posterior_collapse.errors import NonFiniteLossError
from posterior_collapse.models import MarkovVAE, loss
from posterior_collapse.models.global_state import arithmetic
from posterior_collapse.specs import Spec
from posterior_collapse.theory.minimum import FINISHED
from posterior_collapse.training import seeds
from posterior_collapse.training.batches import Batch, Batches
from posterior_collapse.training.course import Course, Pause, Progress, kl_of_units
from posterior_collapse.training.seeds import BLOCK, Draws, draw, first_rows
from posterior_collapse.training.settings import Annealing, Settings
from posterior_collapse.training.stacking import Stack, Step, needs_residuals
from posterior_collapse.training.states import LOADER, NO_VALIDATION, TrainState, save
from posterior_collapse.training.steps import Ahead, Graphs, Measured, Optimiser, clip_
from posterior_collapse.training.units import Counting, some_rows

CHUNK = 1_000
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""What `mallopt` calls the free bytes that are returned, and the bytes of a piece of its own."""
MIB = 2**20


def action_if_not_finite(spec: Spec, *, started: bool) -> str:
    """Return what to do where a loss is not finite.

    Args:
        spec: Only the data of a Gaussian may be scaled, and have an eta_dec.
        started: Whether a step was taken: else no learning rate is to blame.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> action_if_not_finite(VAESpec(2, likelihood="bernoulli"), started=True)
        'Lower learning_rate, or bound the gradients with clip.'
        >>> action_if_not_finite(VAESpec(2), started=False)
        'Start from smaller weights (initial_std=0.05), scale the data, or raise eta_dec.'
    """
    gaussian = spec.likelihood == "gaussian"
    if started:
        ways = ["Lower learning_rate", "bound the gradients with clip"]
    else:
        ways = ["Start from smaller weights (initial_std=0.05)"]
        if gaussian:
            ways.append("scale the data")
        elif spec.likelihood in ("poisson", "negative-binomial") and spec.model != "cvae":
            ways.append("encode logarithms of the counts x, as the pair (log(1 + x), x) does")
        else:
            ways.append("scale what is encoded")
    ways += ["raise eta_dec"] * gaussian
    return f"{', '.join(ways[:-1])}, or {ways[-1]}."


class Engine:
    """Trains a stack of models; a single run is a stack of one.

    Args:
        settings: One per run, different in seed, learning rate and clip only.
        validation: For early stopping, or none.
        folders: Of the checkpoints, one per run or none.
        alone: Raise when the loss is not finite, instead of freezing that run.
    """

    def __init__(
        self,
        models: Sequence[MarkovVAE],
        settings: Sequence[Settings],
        feed: Batches,
        *,
        validation: Batches | None,
        folders: Sequence[str | Path] | None,
        report: Callable[[Progress], None] | None,
        alone: bool,
    ) -> None:
        self.settings = common = settings[0]
        self.feed, self.validation = feed, validation
        self.folders, self.report, self.alone = folders, report, alone
        self.device = torch.device(common.device)
        graphed = self.device.type == "cuda" and common.cuda_graphs
        some = some_rows(feed)
        target = some.x if some.y is None else some.y
        self.stack = Stack(
            models,
            self.device,
            feed.batch_size,
            half=common.precision == "bf16",
            residuals=common.precision == "tf32"
            or needs_residuals(target, [model.spec for model in models]),
            graphed=graphed,
        )
        self.dtype = next(iter(self.stack.leaves.values())).dtype
        self.runs = [Course(one) for one in settings]
        per_epoch = feed.steps_per_epoch
        judged = NO_VALIDATION
        if validation is not None and folders is not None:
            judged = validation.fingerprint() or LOADER
        planned = None if per_epoch is None else common.epochs * per_epoch
        measures = 2 + sum(self.stack.model.units)
        self.state = TrainState(
            list(models),
            self.stack,
            Optimiser(common, self.stack.leaves, [one.learning_rate for one in settings]),
            self.runs,
            None if folders is None else feed.fingerprint(),
            judged,
            planned if common.steps is None else common.steps,
            torch.zeros(len(models), measures, dtype=torch.float64, device=self.device),
        )
        self.bounds = self._clip_bounds()
        self.annealing = Annealing(common, len(models[0].units), per_epoch, self.state.total_steps)
        self.betas = self._tensor([model.spec.beta_levels for model in models])
        self.count = Counting(self.stack, models, some)
        self._capacity: tuple[Any, Tensor | None] = None, None
        self.ahead: Ahead | None = None
        if self.device.type != "cpu":
            graphs = Graphs(enabled=graphed)
            self.ahead = Ahead(self._measure, self.state.optimiser, self.state.sums, graphs)
        # Whether the epoch has batches left where the run ends.
        self.cut_short = False
        self.ticked = self.saved = time.perf_counter()
        self.saving = 0.0

    def train(self) -> None:
        """Train until every run has stopped, from wherever the engine stands."""
        with arithmetic(rounded=self.settings.precision == "tf32"), keeping_memory():
            while any(run.stopped is None for run in self.runs):
                self._epoch()
        self._tick()
        if self.ahead is not None:
            self.ahead.close()

    def _epoch(self) -> None:
        state, every = self.state, self.settings.checkpoint_steps
        stretches = self._stretches()
        now = next(stretches, None)
        while now is not None:
            if self.ahead is not None:
                self.ahead.launch(now, state.alive)
            # What comes next is drawn while a device still works on this.
            steps, now = now, next(stretches, None)
            self._settle(steps)
            if not state.alive:
                break
            if every and state.step % every == 0 and state.step != state.total_steps:
                self._save()
        self._close_epoch()

    def _stretches(self) -> Iterator[list[Step]]:
        """Yield the rest of the epoch's steps, as many at once as are taken without a look."""
        state, every = self.state, self.settings.checkpoint_steps
        batches = self.feed.epoch(state.settings.data_order, state.epoch, state.step_in_epoch)
        drawn = draw(
            self.stack.model,
            [run.settings.seed for run in self.runs],
            state.epoch,
            self.feed.batch_size,
            self.betas,
            block=min(BLOCK, self.feed.steps_per_epoch or BLOCK),
            skip=state.step_in_epoch,
        )
        number, most = state.step, 1 if self.ahead is None else BLOCK
        stretch: list[Step] = []
        for batch, draws in zip(batches, drawn, strict=False):
            betas, capacity = self._weights(number)
            stretch.append(Step(batch, first_rows(draws, len(batch.x)), betas, capacity))
            number += 1
            over = number == state.total_steps
            if over or len(stretch) == most or (every and number % every == 0):
                yield stretch
                stretch = []
            if over:
                self.cut_short = next(batches, None) is not None
                return
        if stretch:
            yield stretch

    def _weights(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return the betas of a step, (runs, levels), and its capacity, (levels,) or none."""
        factor, capacity = self.annealing.factor(step), self.annealing.capacity(step)
        betas = self.betas if factor == 1 else self.betas * factor
        if capacity != self._capacity[0]:
            self._capacity = capacity, None if capacity is None else self._tensor(capacity)
        return betas, self._capacity[1]

    @torch.inference_mode()
    def _settle(self, steps: Sequence[Step]) -> None:
        """Take steps, looking at each, unless they were taken ahead and went well."""
        if self.ahead is not None:
            if self.ahead.succeeded():
                self.state.optimiser.steps += len(steps)
                for step in steps:
                    self._count(step)
                return
            self.ahead.take_back()
        for step in steps:
            self._one_step(step)
            if not self.state.alive:
                return

    def _one_step(self, step: Step) -> None:
        found = self._measure(step)
        if not math.isfinite(float(found.values.sum() + found.norms.sum())):
            for name, rows in zip("xy", step.batch, strict=True):
                if rows is not None:  # of a loader, whose batches are looked at where it matters
                    refuse_non_finite(f"{name} at step {self.state.step}", rows.cpu().numpy())
            self._freeze(found.values, found.finite().tolist())
        self.state.optimiser.step(found.gradients, self.state.alive)
        self.state.sums.add_(found.values, alpha=len(step.batch.x))
        self._count(step)

    def _measure(self, step: Step) -> Measured:
        gradients, values = self.stack.gradients(
            step, convention=self.settings.convention, free_bits=self.settings.free_bits
        )
        return Measured(gradients, values, clip_(gradients, self.bounds))

    def _count(self, step: Step) -> None:
        self.state.rows_in_epoch += len(step.batch.x)
        self.state.step += 1
        self.state.step_in_epoch += 1

    def _freeze(self, measured: Tensor, finite: list[bool]) -> None:
        for index in [i for i in self.state.alive if not finite[i]]:
            term = self._culprit(measured[index])
            if self.alone:
                raise NonFiniteLossError(
                    f"{term} at step {self.state.step}", "NaN or inf", "a finite loss",
                    action_if_not_finite(self.stack.model.spec, started=self.state.step > 0),
                )  # fmt: skip
            self.runs[index].stopped = f"non-finite: {term} at step {self.state.step}"

    def _culprit(self, measured: Tensor) -> str:
        """What is not finite of a run's loss, reconstruction part and KLs; else the gradient."""
        kls = torch.split(measured[2:], list(self.stack.model.units))
        terms = {"reconstruction": measured[1]}
        terms |= {f"kl of level {level}": kl for level, kl in enumerate(kls, start=1)}
        terms["loss"] = measured[0]
        return next((n for n, v in terms.items() if not bool(v.isfinite().all())), "gradient")

    def _close_epoch(self) -> None:
        state = self.state
        due = (state.epoch + 1) % self.settings.history_every == 0
        if not due and state.alive and not self._is_last_epoch():
            state.epoch, state.step_in_epoch = state.epoch + 1, 0
            if self._is_save_due():
                self._save()
            return
        # A run that froze in this epoch has no row for it.
        alive, rows = state.alive, self._rows()
        taken = range(state.step - state.step_in_epoch, state.step)
        judged = self.settings.patience is not None and self.annealing.in_full(taken)
        for i in alive:
            self.runs[i].record(rows[i])
            if judged:
                key = "loss" if self.validation is None else "validation_loss"
                if self.runs[i].judge(rows[i][key]):
                    self._remember(i)
        # A run that ends before its next row is due keeps what it needs for it, to be made longer.
        epoch, within = state.epoch + 1, self._ends_within()
        state.epoch += not within
        for i in state.alive if state.over else ():
            self.runs[i].stopped = FINISHED
        for i in alive:
            ended = self.runs[i].stopped in (FINISHED, "early")
            # Where no loss that was judged is a number, there is no best to return to.
            if state.bests is not None and ended and self.runs[i].best < math.inf:
                for name, best in state.bests.items():
                    self.stack.leaves[name][i] = best[i]
        if not within:
            state.step_in_epoch = 0
        if due and not within:
            state.sums.zero_()
            state.rows_in_epoch = 0
        is_saved = not state.alive or self._is_save_due()
        if is_saved:
            self._save()
        if self.report is not None:
            shown = [rows[i] if i in alive else None for i in range(len(self.runs))]
            try:
                self.report(Progress(state.step, state.total_steps, epoch, shown))
            except BaseException as reason:  # such as Ctrl-C: there is time for it now
                seldom = self.settings.checkpoint_share is not None
                if not is_saved and (seldom or isinstance(reason, Pause)):
                    self._save()
                raise

    def _is_save_due(self) -> bool:
        if self.state.epoch % self.settings.checkpoint_every:
            return False
        share = self.settings.checkpoint_share
        return share is None or self.saving <= share * (time.perf_counter() - self.saved)

    def _ends_within(self) -> bool:
        """Whether the run has its last step, and its epoch not."""
        return self.state.settings.steps is not None and self.state.over and self.cut_short

    def _is_last_epoch(self) -> bool:
        if self.state.total_steps is not None:
            return self.state.over
        return self.state.epoch + 1 >= self.settings.epochs

    def _remember(self, run: int) -> None:
        if self.state.bests is None:
            self.state.bests = {name: p.clone() for name, p in self.stack.leaves.items()}
        for name, best in self.state.bests.items():
            best[run] = self.stack.leaves[name][run]

    def _rows(self) -> list[dict[str, float]]:
        """The epoch's row of every run."""
        if not self.state.rows_in_epoch:
            return [{} for _ in self.runs]
        means = (self.state.sums / self.state.rows_in_epoch).tolist()
        validation = self._validation_loss()
        rows: list[dict[str, float]] = [{} for _ in self.runs]
        alive = self.state.alive
        for i, counts in zip(alive, self.count(alive), strict=True):
            mean, units = means[i], self.stack.model.units
            rows[i] = {
                "epoch": self.state.epoch + 1, "step": self.state.step,
                "loss": mean[0], "reconstruction": mean[1],
            }  # fmt: skip
            if self.annealing.moves_beta:
                rows[i]["beta_factor"] = self.annealing.factor(self.state.step - 1)
            if self.annealing.capacity_warm_up:
                targets = self.annealing.capacity(self.state.step - 1) or ()
                rows[i] |= {f"capacity_{n}": target for n, target in enumerate(targets, 1)}
            kls = iter(mean[2:])
            of_units: dict[str, float] = {}
            for level, (n, active) in enumerate(zip(units, counts, strict=True), start=1):
                kl = list(itertools.islice(kls, n))
                rows[i][f"kl_{level}"] = math.fsum(kl)
                rows[i][f"active_{level}"] = active
                of_units |= kl_of_units(level, kl)
            if validation is not None:
                rows[i]["validation_loss"] = validation[i]
            rows[i] |= of_units
        return rows

    def _validation_loss(self) -> list[float] | None:
        if self.validation is None:
            return None
        rows = self.validation.rows(10**12 if self.validation.sized else 10 * CHUNK)
        parts = []
        for start in range(0, len(rows.x), CHUNK):
            x = rows.x[start : start + CHUNK]
            batch = Batch(x, None if rows.y is None else rows.y[start : start + CHUNK])
            parts.append(self.stack.terms(batch, Draws(self._noise(x), {})))
        # Free bits and a capacity are of means over all rows, not of means of each part.
        errors, _, _, kls, _ = zip(*parts, strict=True)
        terms = parts[0]._replace(
            squared_error=torch.cat(errors, 1).double(),
            kl=tuple(torch.cat(level, 1).double() for level in zip(*kls, strict=True)),
        )
        values = torch.func.vmap(
            lambda t, b: loss(
                t,
                b,
                convention=self.settings.convention,
                free_bits=self.settings.free_bits,
                capacity=self.annealing.targets,
            )
        )(terms._replace(means=()), self.betas)
        found: list[float] = values.tolist()
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
            begun = self._tick()
            save(self.state, self.folders)
            self.saved = time.perf_counter()
            self.saving = self.saved - begun

    def _tick(self) -> float:
        """Count the seconds since the last time as those of the runs; return the time."""
        now = time.perf_counter()
        for run in self.runs:
            run.seconds += (now - self.ticked) / len(self.runs)
        self.ticked = now
        return now

    def _clip_bounds(self) -> Tensor | None:
        clips = [run.settings.clip for run in self.runs]
        if all(clip is None for clip in clips):
            return None
        return self._tensor([math.inf if clip is None else clip for clip in clips])

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)


@contextlib.contextmanager
def keeping_memory() -> Iterator[None]:
    """Have free memory stay with the process, up to 1 GiB, until the context is left.

    glibc returns large pieces to the system as soon as they are free, and the system clears each
    page anew when it is asked again: of a convolutional network that is a quarter of a step. Where
    the C library is another than glibc, nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    # Of 32 MiB, the most that glibc allows: it comes to that by itself as large pieces are freed.
    library.mallopt(MMAP_THRESHOLD, 32 * MIB)
    library.mallopt(TRIM_THRESHOLD, 1024 * MIB)
    try:
        yield
    finally:
        library.mallopt(TRIM_THRESHOLD, 64 * MIB)
        library.malloc_trim(0)
