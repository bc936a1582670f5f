"""A run's whole state at a step, as tensors and JSON-able values, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posterior_collapse.errors import CheckpointError, InvalidArgumentError
from posterior_collapse.models import MarkovVAE, rebuild
from posterior_collapse.training import checkpoints
from posterior_collapse.training.checkpoints import Checkpoint
from posterior_collapse.training.course import Course
from posterior_collapse.training.layout import Layout
from posterior_collapse.training.settings import Settings

if TYPE_CHECKING:
    from posterior_collapse.training.engine import Engine

__all__ = ["load_exact", "load_model", "restore", "save", "save_exact"]

EXTENDABLE = ("epochs", "steps", "patience", "checkpoint_every", "checkpoint_steps", "device")
"""Settings that a resumed run may change: they do not decide the steps before."""


def save(engine: Engine, folders: Sequence[str | Path]) -> None:
    """Write one checkpoint per run."""
    for run, folder in enumerate(folders):
        checkpoints.save(folder, _tensors(engine, run), _meta(engine, run), step=engine.step)


def restore(engine: Engine, folders: Sequence[str | Path]) -> None:
    """Put the engine where its checkpoints are; a sweep goes back to the last common step.

    Raises:
        CheckpointError: No good checkpoint, no common step, or one of another run.
    """
    found = _common([checkpoints.load(folder) for folder in folders], folders)
    for run, (checkpoint, folder) in enumerate(zip(found, folders, strict=True)):
        settings = engine.runs[run].settings
        _check_same(
            engine.models[run], settings, engine.order_seed, engine.fingerprint, checkpoint, folder
        )
    meta = found[0].meta
    engine.step, engine.epoch = found[0].step, meta["epoch"]
    engine.step_in_epoch, engine.rows_in_epoch = meta["step_in_epoch"], meta["rows_in_epoch"]
    _check_not_over(engine)
    engine.optimiser.steps = meta["optimiser_steps"]
    for run, checkpoint in enumerate(found):
        engine.runs[run].restore(checkpoint.meta["run"])
        if engine.runs[run].stopped == "finished" and _goes_on(engine):
            engine.runs[run].stopped = None
        _take(engine, run, checkpoint.tensors)
        checkpoints.prune(folders[run], checkpoint.step)


def save_exact(
    model: MarkovVAE, run: Course, steps: int, data: str | None, folder: str | Path
) -> None:
    """Write the result of exact training: a run killed before is repeated, equal bit for bit."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    meta = {
        "exact": True,
        "config": model.config,
        "settings": run.settings.to_dict(),
        "order_seed": run.settings.order_seed,
        "data": data,
        "torch": torch.__version__,
        "run": run.to_dict(),
    }
    checkpoints.save(folder, tensors, meta, step=steps)


def load_model(checkpoint: Checkpoint) -> MarkovVAE:
    """Return the trained model of a checkpoint."""
    model = rebuild(checkpoint.meta["config"])
    model.load_state_dict(_of_model(checkpoint.tensors))
    return model


def load_exact(model: MarkovVAE, run: Course, data: str | None, folder: str | Path) -> int:
    """Take over the result of exact training; return its iterations.

    Raises:
        CheckpointError: No good checkpoint, or one of another run.
        InvalidArgumentError: It has more iterations than the settings allow.
    """
    checkpoint = checkpoints.load(folder)
    order_seed = run.settings.order_seed
    _check_same(model, run.settings, order_seed, data, checkpoint, folder, exact=True)
    if run.settings.steps is not None and checkpoint.step > run.settings.steps:
        raise _over("steps", run.settings.steps, checkpoint.step)
    checkpoints.prune(folder, checkpoint.step)
    model.load_state_dict(_of_model(checkpoint.tensors))
    run.restore(checkpoint.meta["run"])
    return checkpoint.step


def _tensors(engine: Engine, run: int) -> dict[str, Tensor]:
    found = {f"model.{name}": value for name, value in engine.stack.state(run).items()}
    for kind, slot in engine.optimiser.slots.items():
        found.update({f"optimiser.{kind}.{name}": value[run] for name, value in slot.items()})
    if engine.bests is not None:
        found.update({f"best.{name}": value[run] for name, value in engine.bests.items()})
    if engine.sums is not None:
        found["epoch.sums"] = engine.sums[run]
    return found


def _meta(engine: Engine, run: int) -> dict[str, Any]:
    return {
        "exact": False,
        "config": engine.models[run].config,
        "settings": engine.runs[run].settings.to_dict(),
        "order_seed": engine.order_seed,
        "data": engine.fingerprint,
        "torch": torch.__version__,
        "epoch": engine.epoch,
        "step_in_epoch": engine.step_in_epoch,
        "rows_in_epoch": engine.rows_in_epoch,
        "optimiser_steps": engine.optimiser.steps,
        "run": engine.runs[run].to_dict(),
    }


def _take(engine: Engine, run: int, tensors: dict[str, Tensor]) -> None:
    def put(target: dict[str, Tensor], prefix: str) -> None:
        saved = {
            name.removeprefix(f"{prefix}."): value[None]
            for name, value in tensors.items()
            if name.startswith(f"{prefix}.")
        }
        if saved.keys() != target.keys():
            # Written when the layout went by a batch size of more rows than there are.
            stack, rows = engine.stack, engine.runs[run].settings.batch_size
            before = Layout(engine.models[run], rows, share_heads=not stack.half)
            saved = stack.layout.gather(before.scatter(saved))
        for name, value in target.items():
            value[run].copy_(saved[name][0])

    engine.stack.load(run, _of_model(tensors))
    for kind, slot in engine.optimiser.slots.items():
        put(slot, f"optimiser.{kind}")
    if any(name.startswith("best.") for name in tensors):
        if engine.bests is None:
            engine.bests = {name: p.clone() for name, p in engine.stack.leaves.items()}
        put(engine.bests, "best")
    if "epoch.sums" in tensors:
        if engine.sums is None:
            width = len(tensors["epoch.sums"])
            engine.sums = torch.zeros(
                len(engine.runs), width, dtype=torch.float64, device=engine.device
            )
        engine.sums[run] = tensors["epoch.sums"].to(engine.device)


def _of_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")}


def _goes_on(engine: Engine) -> bool:
    if engine.total_steps is not None:
        return engine.step < engine.total_steps
    return engine.epoch < engine.settings.epochs


def _check_not_over(engine: Engine) -> None:
    """Refuse to end a run before where it is: its later steps cannot be taken back."""
    if engine.settings.steps is not None and engine.step > engine.settings.steps:
        raise _over("steps", engine.settings.steps, engine.step)
    begun = engine.epoch + (engine.step_in_epoch > 0)
    if engine.settings.steps is None and begun > engine.settings.epochs:
        raise _over("epochs", engine.settings.epochs, begun)


def _over(name: str, asked: int, done: int) -> InvalidArgumentError:
    return InvalidArgumentError(
        name, f"{asked}, but the run to resume has {done}", f"at least {done}",
        f"Pass {name}={done} or more, or train into another folder.",
    )  # fmt: skip


def _common(found: list[Checkpoint], folders: Sequence[str | Path]) -> list[Checkpoint]:
    """A sweep killed between two folders' checkpoints goes back to the step before."""
    step = min(one.step for one in found)
    return [
        one if one.step == step else checkpoints.load(folder, step=step)
        for one, folder in zip(found, folders, strict=True)
    ]


def _check_same(
    model: MarkovVAE,
    settings: Settings,
    order_seed: int | None,
    data: str | None,
    checkpoint: Checkpoint,
    folder: str | Path,
    *,
    exact: bool = False,
) -> None:
    meta = checkpoint.meta
    differing = [
        name
        for name, value in settings.to_dict().items()
        if name not in EXTENDABLE and meta["settings"].get(name) != value
    ]
    if meta["config"] != model.config:
        differing.append("spec, architecture or data shape")
    if meta["order_seed"] != order_seed:
        differing.append("order_seed")
    if meta["exact"] != exact:
        differing.append("way of training (exact or by minibatches)")
    # Older checkpoints, and those of DataLoaders, do not say which data they had.
    if None not in (data, meta.get("data")) and meta["data"] != data:
        differing.append("values of the data")
    if differing:
        raise CheckpointError(
            str(folder),
            f"a run with another {', '.join(differing)}",
            "the checkpoint of the same run",
            "Resume with the settings and data of the run, or train into a new folder.",
        )
