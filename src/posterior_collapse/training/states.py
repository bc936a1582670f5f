"""A run's whole state at a step, as tensors and JSON-able values, and back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posterior_collapse.errors import CheckpointError, InvalidArgumentError
from posterior_collapse.models import MarkovVAE, rebuild
from posterior_collapse.theory.minimum import FINISHED
from posterior_collapse.training import checkpoints
from posterior_collapse.training.checkpoints import Checkpoint
from posterior_collapse.training.course import Course
from posterior_collapse.training.layout import HEADS, Layout
from posterior_collapse.training.settings import Settings
from posterior_collapse.training.stacking import Stack
from posterior_collapse.training.steps import Optimiser

EXTENDABLE = (
    "epochs", "steps", "patience", "checkpoint_every", "checkpoint_steps", "checkpoint_share",
    "device", "cuda_graphs",
)  # fmt: skip
"""Settings that a resumed run may change: they do not decide the steps before.

But where there are cycles, the length of the run does.
"""
HISTORY = "history."
DATA = "values of the data", "validation data"
NO_VALIDATION, LOADER = "none", "a loader"
"""What stands in the place of the fingerprint of validation data that have none."""


class DeviceWarning(UserWarning):
    """A run is resumed on a device that draws other noise."""


@dataclass
class TrainState:
    """A stack of runs in training: what the loop carries along and checkpoints keep.

    Attributes:
        models: One per run, as they were initialised.
        data: Fingerprint of the data; None: not known.
        validation: That of the validation data, or in a word what there is instead.
        total_steps: Steps of the whole run; None: not known.
        sums: What its steps measured, summed over rows, (runs, measures): the loss, its
            reconstruction part and each unit's KL. Always the same tensor: a graph knows no other.
        bests: The parameters to which early stopping returns, as the leaves of the stack.
    """

    models: list[MarkovVAE]
    stack: Stack
    optimiser: Optimiser
    runs: list[Course]
    data: str | None
    validation: str
    total_steps: int | None
    sums: Tensor
    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    rows_in_epoch: int = 0
    bests: dict[str, Tensor] | None = None

    @property
    def settings(self) -> Settings:
        """What the runs share, and the first run's own."""
        return self.runs[0].settings

    @property
    def alive(self) -> list[int]:
        """Runs that go on."""
        return [i for i, run in enumerate(self.runs) if run.stopped is None]

    @property
    def over(self) -> bool:
        """Whether the runs are as long as they were to be."""
        if self.total_steps is not None:
            return self.step >= self.total_steps
        return self.epoch >= self.settings.epochs


def save(state: TrainState, folders: Sequence[str | Path]) -> None:
    """Write one checkpoint per run."""
    stacked = {
        f"optimiser.{kind}.{name}": value.cpu()
        for kind, slot in state.optimiser.slots.items()
        for name, value in slot.items()
    }
    stacked |= {f"best.{name}": value.cpu() for name, value in (state.bests or {}).items()}
    if state.rows_in_epoch:
        stacked["epoch.sums"] = state.sums.cpu()
    states = state.stack.states(range(len(folders)))
    for run, (folder, own) in enumerate(zip(folders, states, strict=True)):
        tensors = {f"model.{name}": value for name, value in own.items()}
        tensors |= {name: value[run] for name, value in stacked.items()}
        tensors |= _history_tensors(state.runs[run])
        checkpoints.save(folder, tensors, _meta(state, run), step=state.step)


def restore(state: TrainState, folders: Sequence[str | Path]) -> None:
    """Put the runs where their checkpoints are; a sweep goes back to the last common step.

    Raises:
        CheckpointError: No good checkpoint, no common step, or one of another run.
    """
    found = [checkpoints.load(folder) for folder in folders]
    # A sweep killed between two folders' checkpoints goes back to the step before.
    state.step = min(checkpoint.step for checkpoint in found)
    found = [
        one if one.step == state.step else checkpoints.load(folder, step=state.step)
        for one, folder in zip(found, folders, strict=True)
    ]
    for model, course, checkpoint, folder in zip(
        state.models, state.runs, found, folders, strict=True
    ):
        _check_same(model, course.settings, state.data, checkpoint, folder, state.validation)
    meta = found[0].meta
    _warn_of_other_noise(meta.get("noise"), state.stack.device)
    state.epoch, state.step_in_epoch = meta["epoch"], meta["step_in_epoch"]
    state.rows_in_epoch = meta["rows_in_epoch"]
    epochs = state.epoch + (state.step_in_epoch > 0)
    _check_not_over(state.settings, state.step, epochs)
    state.optimiser.resume(meta["optimiser_steps"])
    for run, checkpoint in enumerate(found):
        state.runs[run].restore(checkpoint.meta["run"], _per_unit(checkpoint.tensors))
        state.runs[run].seconds = checkpoint.meta.get("seconds", 0.0)
        _take(state, run, checkpoint.tensors)
        _reopen(state, state.runs[run], folders[run])
        checkpoints.prune(folders[run], checkpoint.step)
    if state.settings.patience is None and state.alive:
        # Nothing compares epochs any more: the runs end with their last parameters.
        state.bests = None
        for course in state.runs:
            course.best, course.waited = math.inf, 0


def save_exact(
    model: MarkovVAE, run: Course, steps: int, data: str | None, folder: str | Path
) -> None:
    """Write the result of exact training: a run killed before is repeated, equal bit for bit."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= _history_tensors(run)
    meta = {"exact": True, **_identity(model, run, data, NO_VALIDATION)}
    checkpoints.save(folder, tensors, meta, step=steps)


def load_model(checkpoint: Checkpoint) -> MarkovVAE:
    """Return the trained model of a checkpoint."""
    model = rebuild(checkpoint.meta["config"])
    model.load_state_dict(_of_model(checkpoint.tensors))
    return model.eval()  # as what `fit` returns


def load_exact(model: MarkovVAE, run: Course, data: str | None, folder: str | Path) -> int:
    """Take over the result of exact training; return its iterations."""
    checkpoint = checkpoints.load(folder)
    _check_same(model, run.settings, data, checkpoint, folder, exact=True)
    _check_not_over(run.settings, checkpoint.step, epochs=0)
    checkpoints.prune(folder, checkpoint.step)
    model.load_state_dict(_of_model(checkpoint.tensors))
    run.restore(checkpoint.meta["run"], _per_unit(checkpoint.tensors))
    return checkpoint.step


def _history_tensors(run: Course) -> dict[str, Tensor]:
    """KL by units and epochs, per level: as JSON it might take longer to write than an epoch."""
    levels: dict[str, list[list[float]]] = {}
    for name, column in run.per_unit.items():
        levels.setdefault(name.rpartition("_")[0], []).append(column)
    return {
        f"{HISTORY}{level}": torch.tensor(columns, dtype=torch.float64, device="cpu")
        for level, columns in levels.items()
    }


def _per_unit(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
    """The columns of a history with the KL of single units; older checkpoints have none."""
    return {
        f"{name.removeprefix(HISTORY)}_{unit}": column
        for name, values in tensors.items()
        if name.startswith(HISTORY)
        for unit, column in enumerate(values.tolist(), start=1)
    }


def _meta(state: TrainState, run: int) -> dict[str, Any]:
    # Checkpoints that come by the clock say what it showed. Others say nothing that would make
    # those of two equal runs differ.
    by_the_clock = state.settings.checkpoint_share is not None
    return {
        "exact": False,
        **_identity(state.models[run], state.runs[run], state.data, state.validation),
        "epoch": state.epoch,
        "step_in_epoch": state.step_in_epoch,
        "rows_in_epoch": state.rows_in_epoch,
        "optimiser_steps": state.optimiser.steps,
        "noise": _source_of_noise(state.stack.device),
        **({"seconds": state.runs[run].seconds} if by_the_clock else {}),
    }


def _identity(model: MarkovVAE, run: Course, data: str | None, validation: str) -> dict[str, Any]:
    """What `_check_same` compares, and how far the run has come."""
    return {
        "config": model.config,
        "settings": run.settings.to_dict(),
        "order_seed": run.settings.data_order,
        "data": data,
        "validation": validation,
        "torch": torch.__version__,
        "run": run.to_dict(),
    }


def _take(state: TrainState, run: int, tensors: dict[str, Tensor]) -> None:
    def put(target: dict[str, Tensor], prefix: str) -> None:
        saved = {
            name.removeprefix(f"{prefix}."): value[None]
            for name, value in tensors.items()
            if name.startswith(f"{prefix}.")
        }
        if saved.keys() != target.keys():
            # Written when the layout went by a batch size of more rows than there are, or heads
            # were one leaf of whatever data.
            rows = state.runs[run].settings.batch_size
            before = Layout(state.models[run], rows, share_heads=HEADS in saved)
            saved = state.stack.layout.gather(before.scatter(saved))
        for name, value in target.items():
            value[run].copy_(saved[name][0])

    state.stack.load(run, _of_model(tensors))
    for kind, slot in state.optimiser.slots.items():
        put(slot, f"optimiser.{kind}")
    if any(name.startswith("best.") for name in tensors):
        if state.bests is None:
            state.bests = {name: p.clone() for name, p in state.stack.leaves.items()}
        put(state.bests, "best")
    if "epoch.sums" in tensors:
        state.sums[run] = tensors["epoch.sums"].to(state.stack.device)


def _source_of_noise(device: torch.device) -> str:
    """What draws the noise: the CPU, wherever, or a GPU, whose numbers its model decides."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _warn_of_other_noise(before: str | None, device: torch.device) -> None:
    now = _source_of_noise(device)
    if before not in (None, now):  # older checkpoints do not say
        warnings.warn(
            f"this run had its noise from {before}, and goes on with that of {now}: it is as good, "
            "but not bit for bit the run that had not stopped.",
            DeviceWarning,
            stacklevel=4,
        )


def _of_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")}


def _check_not_over(settings: Settings, step: int, epochs: int) -> None:
    """Refuse to end a run before where it is: its later steps cannot be taken back."""
    name, asked, done = "steps", settings.steps, step
    if asked is None:
        name, asked, done = "epochs", settings.epochs, epochs
    if done > asked:
        raise InvalidArgumentError(
            name, f"{asked}, but the run to resume has {done}", f"at least {done}",
            f"Pass {name}={done} or more, or train into another folder.",
        )  # fmt: skip


def _reopen(state: TrainState, run: Course, folder: str | Path) -> None:
    """Let a run that has ended go on, if it is to be longer than it was."""
    patience = run.settings.patience
    waits = run.stopped == "early" and (patience is None or run.waited < patience)
    if not state.over and (run.stopped == FINISHED or waits):
        if state.bests is not None:
            raise CheckpointError(
                str(folder), "a run that ended and went back to its best parameters",
                "one without patience, to make it longer",
                "Train into a new folder.",
            )  # fmt: skip
        run.stopped = None
        if state.rows_in_epoch:  # of which there is a row already
            run.take_back()


def _check_same(
    model: MarkovVAE,
    settings: Settings,
    data: str | None,
    checkpoint: Checkpoint,
    folder: str | Path,
    validation: str = NO_VALIDATION,
    *,
    exact: bool = False,
) -> None:
    meta = checkpoint.meta
    decided = ("epochs", "steps") if settings.cycles else ()
    differing = [
        name
        for name, value in settings.to_dict().items()
        if (name not in EXTENDABLE or name in decided) and meta["settings"].get(name) != value
    ]
    if meta["config"] != model.config:
        differing.append("spec, architecture or data shape")
    if meta["order_seed"] != settings.data_order and "order_seed" not in differing:
        differing.append("order_seed")
    if meta["exact"] != exact:
        differing.append("way of training (exact or by minibatches)")
    # Older checkpoints, and those of DataLoaders, do not say which data they had.
    if None not in (data, meta.get("data")) and meta["data"] != data:
        differing.append(DATA[0])
    if meta.get("validation", validation) != validation:  # which judges epochs
        differing.append(DATA[1])
    if differing:
        raise CheckpointError(
            str(folder),
            f"a run with {'other' if differing[0] in DATA else 'another'} {', '.join(differing)}",
            "the checkpoint of the same run",
            "Resume with the settings and data of the run, or train into a new folder.",
        )
