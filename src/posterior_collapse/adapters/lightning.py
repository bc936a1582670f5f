"""`CollapseMonitor`: watches the latent units of a Lightning module while it trains."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from posterior_collapse import checks
from posterior_collapse.adapters.libraries import needing
from posterior_collapse.adapters.outputs import posterior_of
from posterior_collapse.data.loaders import seeded
from posterior_collapse.diagnosis.certificate import Residual, Residuals
from posterior_collapse.diagnosis.levels import DIVERGED_KL
from posterior_collapse.diagnosis.statistics import row_chooser
from posterior_collapse.errors import (
    DataError,
    InvalidArgumentError,
    PosteriorCollapseError,
    count_of,
)
from posterior_collapse.models.modules import evaluating, unwatched
from posterior_collapse.specs import VAESpec
from posterior_collapse.theory import ACTIVE_INFORMATION, forecast
from posterior_collapse.theory.thresholds import LEAST_ROWS, side_of_threshold

with needing("lightning", "call back while it trains"):
    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
        from lightning.pytorch.trainer.states import RunningStage
    except ImportError:
        from pytorch_lightning import Callback, LightningModule, Trainer
        from pytorch_lightning.trainer.states import RunningStage

from posterior_collapse.adapters.metrics import InformationPerUnit, KLPerUnit

__all__ = ["CollapseMonitor", "Measured"]


MOST_LOGGED = 64
"""Units up to which each one's KL is logged, unless asked for."""


class Measured(NamedTuple):
    """The units at one moment of training.

    Attributes:
        step: Optimiser steps done.
        kl: Mean KL of each unit in nats.
        active: Number of active units: those that tell more than `ACTIVE_INFORMATION` nats of x, as
            in a forecast or a diagnosis, if they are Gaussian.
    """

    step: int
    kl: tuple[float, ...]
    active: int


class CollapseMonitor(Callback):
    """Logs the KL of each unit in nats and the number of active units, and warns of collapse.

    It looks at the same validation batches each time: at the start, then ever more rarely as
    training goes on (after a quarter more steps, at most `every`), and at the end. Values go to
    the trainer's loggers as `collapse/active_units`, `collapse/kl` and `collapse/kl_{unit}`, and to
    `history`. Sums are merged over all processes. The run itself stays as it would be without:
    evaluation mode is undone and no random number of the run is used.

    At the end of each validation epoch `collapse/kl` and `collapse/active_units` are logged by the
    module too, so that `ModelCheckpoint` and `EarlyStopping` can monitor them. What was seen is
    part of the trainer's checkpoints. Of `ddp_spawn` the history stays in the processes.

    Args:
        encode: From the Lightning module and a batch to `(mean, log_var)`, (batch, units) each or
            of images and sequences (batch, ...), or to a `Normal`. None: the module's `encode`,
            called with the batch's first floating tensor of two or more dimensions.
        data: Batches to look at, such as a DataLoader. None: the validation batches, or the
            training's where there are none.
        samples: Rows to look at, per process, rounded up to whole batches.
        every: Most optimiser steps between two looks.
        log_var: Whether `encode` returns a log-variance; False: a std.
        prior_std: Std of the prior; None: the spec's eta_enc, 1 without one.
        least_active: Fewer active units than this are warned of, once.
        warn_after: Optimiser steps before a warning, beyond the KL warm-up; None: no warning.
        spec: The objective, so that the warning can say whether it asks for collapse, as far as the
            rows decide that.
        per_unit: Whether to log each unit's KL, not only their sum; None: of up to 64 units.

    Attributes:
        history: What was measured, a `Measured` each time.

    Raises:
        InvalidArgumentError: An option is out of its domain, or `encode` gives no posterior.
        DataError: There is nothing to look at.
    """

    def __init__(
        self,
        encode: Callable[[Any, Any], Any] | None = None,
        *,
        data: Iterable[Any] | None = None,
        samples: int = 1000,
        every: int = 500,
        log_var: bool = True,
        prior_std: float | None = None,
        least_active: int = 1,
        warn_after: int | None = 1000,
        spec: VAESpec | None = None,
        per_unit: bool | None = None,
    ) -> None:
        if not (spec is None or isinstance(spec, VAESpec)):
            raise InvalidArgumentError(
                "spec", f"a {type(spec).__name__}", "a VAESpec", "Pass spec=None for other models."
            )
        self.encode = _encode if encode is None else encode
        self.data = data
        self.samples = checks.whole("samples", samples, least=1)
        self.every = checks.whole("every", every, least=1)
        self.log_var = log_var
        if prior_std is None:
            prior_std = 1.0 if spec is None else spec.eta_enc
        self.prior_std = checks.positive("prior_std", prior_std)
        self.least_active = checks.whole("least_active", least_active, least=1)
        self.warn_after = (
            None if warn_after is None else checks.whole("warn_after", warn_after, least=1)
        )
        self.spec = spec
        self.per_unit = per_unit
        self.history: list[Measured] = []
        self._batches: list[Any] = []
        self._next = 0
        self._warned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the batches to look at, and look at the untrained model."""
        # What transforms the data is no part of the model.
        with _aside(trainer, pl_module, self.encode), unwatched():
            self._batches = self._read(trainer)
        self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Look, if it is time."""
        if _steps(trainer) >= self._next:
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the trained model."""
        self._look(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was seen last, or what is now where a callback monitors it."""
        if trainer.sanity_checking or not self._batches:
            return
        watched = [str(getattr(one, "monitor", "")) for one in trainer.callbacks]
        if any(name.startswith("collapse/") for name in watched):
            self._look(trainer, pl_module)
        last = self.history[-1]
        values = {"collapse/kl": sum(last.kl), "collapse/active_units": float(last.active)}
        # The trainer's loggers have had them.
        pl_module.log_dict(values, logger=False)

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen, for the trainer's checkpoint."""
        history = [tuple(found) for found in self.history]
        return {"history": history, "next": self._next, "warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint has seen."""
        self.history = [Measured(*found) for found in state_dict["history"]]
        self._next, self._warned = state_dict["next"], state_dict["warned"]

    def _read(self, trainer: Trainer) -> list[Any]:
        later = trainer.val_dataloaders is None and trainer.enable_validation
        if self.data is None and later:
            # The trainer makes them when it first validates, perhaps epochs from now.
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
        source: Any = trainer.val_dataloaders if self.data is None else self.data
        nothing = isinstance(source, (list, tuple, Mapping)) and not source
        if self.data is None and (source is None or nothing):
            source = trainer.train_dataloader
            warnings.warn(
                "Validation is off or has no loader: CollapseMonitor looks at training batches.",
                stacklevel=2,
            )
        if isinstance(source, Tensor):
            return [source]
        if self.data is None and isinstance(source, (list, tuple, Mapping)):
            source = next(iter(source.values() if isinstance(source, Mapping) else source), None)
        if isinstance(source, DataLoader):
            # Its own generator may be that of the training's order.
            source = seeded(source, 0)
        rows, batches = 0, []
        for batch in () if source is None else source:
            batches.append(batch)
            rows += len(_first_tensor(batch))
            if rows >= self.samples:
                break
        if not rows:
            raise DataError(
                "data",
                "no batch",
                "batches to look at",
                "Give the trainer a loader, or pass data=a_loader.",
            )
        return batches

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, unless the model was seen as it is, in a run that goes on too."""
        step = _steps(trainer)
        if self.history and self.history[-1].step == step:
            return
        self._next = step + max(1, min(self.every, step // 4))
        with _aside(trainer, pl_module, self.encode):
            kl, active = self._measure(trainer, pl_module)
        found = Measured(step, tuple(kl.tolist()), int(active))
        self.history.append(found)
        values = {"collapse/active_units": float(active), "collapse/kl": float(kl.sum())}
        many = len(found.kl) > MOST_LOGGED
        if self.per_unit or (self.per_unit is None and not many):
            values |= {f"collapse/kl_{unit}": value for unit, value in enumerate(found.kl)}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        if trainer.is_global_zero:
            self._warn(found)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Tensor, Tensor]:
        kl: KLPerUnit | None = None
        for batch in self._batches:
            # A copy, which functions may write into: it is looked at again.
            converted = trainer.precision_plugin.convert_input(copy.deepcopy(batch))
            moved = trainer.strategy.batch_to_device(converted)
            with trainer.precision_plugin.val_step_context():
                q = posterior_of(self.encode(pl_module, moved), log_var=self.log_var)
            # Apple's MPS has no float64, and no processes to merge.
            mean, std = (v.cpu() if v.device.type == "mps" else v for v in q)
            mean, std = mean.flatten(1), std.flatten(1)
            if kl is None:
                units = mean.shape[-1]
                kl = KLPerUnit(units, self.prior_std).to(mean.device)
                information = InformationPerUnit(units).to(mean.device)
            kl.update(mean, std)
            information.update(mean, std)
        assert kl is not None
        return kl.compute(), (information.compute() > ACTIVE_INFORMATION).sum()

    def _warn(self, found: Measured) -> None:
        late = self.warn_after is not None and found.step >= self.warn_after
        if self._warned or not late or found.active >= self.least_active:
            return
        self._warned = True
        are = "is" if 1 in (found.active, len(found.kl)) else "are"
        warnings.warn(
            f"{found.active} of {count_of(len(found.kl), 'unit')} {are} active after "
            f"{count_of(found.step, 'step')} (KL {sum(found.kl):.3g} nats). {self._action(found)}",
            stacklevel=2,
        )

    def _action(self, found: Measured) -> str:
        """What to do about collapse, by whether the objective asks for it."""
        if not all(kl <= DIVERGED_KL for kl in found.kl):  # NaN too
            return "The posterior has diverged: clamp log_var, or lower the learning rate."
        optimiser = "lengthen the KL warm-up, lower the learning rate or restart from another seed"
        # What the theory does not solve must not end a training run.
        with contextlib.suppress(PosteriorCollapseError):
            if self.spec is not None:
                return self._by_forecast(self.spec, optimiser)
        return (
            "If the objective asks for it, lower beta or eta_dec: pass spec= to be told how far. "
            f"If not, {optimiser}."
        )

    def _by_forecast(self, spec: VAESpec, optimiser: str) -> str:
        """What to do, by how many modes of the data surely exceed the threshold."""
        x = torch.cat([_first_tensor(batch).flatten(1) for batch in self._batches])
        rows = x.double().cpu().numpy()
        linear = forecast(rows, spec)
        noise = linear._modes.noise
        if noise is not None and noise.divisor is not None:
            rows = (rows - rows.mean(0)) / noise.divisor
        sides = _sides(rows, linear.levels[0].threshold)
        possible = sides.count("above")
        if possible >= self.least_active:
            return (
                f"By the linear forecast for these data {possible} could be: the optimiser "
                f"lost {'it' if possible == 1 else 'them'}. So {optimiser}."
            )
        if possible + sides.count("undecided") < self.least_active:
            advice = linear.advice(active=self.least_active)
            return f"By the linear forecast the objective asks for it. {advice.text}"
        return (
            f"Whether the objective asks for it is undecided: {len(rows):,} rows do not tell, and "
            f"samples= of more might. If it does, lower beta or eta_dec; if not, {optimiser}."
        )


def _sides(rows: NDArray[np.float64], threshold: NDArray[np.float64]) -> list[str]:
    """On which side of its threshold the data's mode of each unit is, the strongest first."""
    if len(rows) < LEAST_ROWS:
        return ["undecided"] * len(threshold)
    residuals = Residuals(row_chooser(0))
    residuals.add(Residual(rows[:, None], np.zeros_like(rows[:, None])), rows)
    found = residuals.signal()
    relative = found.error / found.variances[0]
    ratios = [
        float(v / limit) for v, limit in zip(found.variances, np.sort(threshold), strict=False)
    ]
    sides = [side_of_threshold(t, t * relative) for t in ratios]
    # Of very many features only the strongest modes are found.
    return [*sides, *["undecided"] * (min(len(threshold), rows.shape[1]) - len(sides))]


@contextlib.contextmanager
def _aside(
    trainer: Trainer, module: LightningModule, encode: Callable[[Any, Any], Any]
) -> Iterator[None]:
    """Keep a look at a module from changing its modes, gradients and random numbers.

    Meanwhile the trainer validates, for the hooks that change batches if it trains.
    """
    stage, trainer.state.stage = trainer.state.stage, RunningStage.VALIDATING
    try:
        with evaluating(module, encode), torch.no_grad():
            yield
    finally:
        trainer.state.stage = stage


def _encode(module: Any, batch: Any) -> Any:
    if not callable(getattr(module, "encode", None)):
        raise InvalidArgumentError(
            "encode",
            f"a {type(module).__name__} without a method encode",
            "a way to the posterior",
            "Pass encode=lambda module, batch: (mean, log_var).",
        )
    x = _first_tensor(batch)
    try:
        with contextlib.suppress(ValueError):  # of what is no Python there is no signature
            inspect.signature(module.encode).bind(x)
    except TypeError as error:
        raise InvalidArgumentError(
            "encode",
            f"a method of {type(module).__name__} that takes other than one batch ({error})",
            "encode(x)",
            "Pass encode=lambda module, batch: module.encode(*batch), say.",
        ) from error
    return module.encode(x)


def _first_tensor(batch: Any) -> Tensor:
    """Return the first tensor of nested lists and mappings that is no label, if there is one."""
    tensors = list(_tensors(batch))
    if not tensors:
        raise DataError("data", f"a {type(batch).__name__}", "a batch with a tensor", "Pass data=.")
    data = (one for one in tensors if one.is_floating_point() and one.ndim >= 2)
    return next(data, tensors[0])


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
        return
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(parts, Iterable) and not isinstance(parts, str):
        for part in parts:
            yield from _tensors(part)


def _steps(trainer: Trainer) -> int:
    """Steps of training done, which the trainer counts once for each optimiser."""
    return int(trainer.global_step) // max(1, len(trainer.optimizers))
