"""How a run is trained, and how beta and the capacity change as it goes on."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError, nearest
from posterior_collapse.models import capacity, check_warm_up, cyclical, warm_up
from posterior_collapse.records import Record
from posterior_collapse.specs import Spec

PRECISIONS = ("float32", "float64", "tf32", "bf16")
OPTIMISERS = ("adam", "sgd", "lbfgs")
WHOLE = {
    "epochs": 1, "steps": 1, "batch_size": 1, "warm_up": 0, "cycles": 1, "capacity_warm_up": 0,
    "patience": 1, "seed": 0, "order_seed": 0, "checkpoint_every": 1, "checkpoint_steps": 1,
    "history_every": 1,
}  # fmt: skip
"""Settings that are whole numbers, and the least of each."""


@dataclass(frozen=True)
class Settings(Record):
    """Numbers of one training run, validated and JSON-able.

    Args:
        epochs: Passes over the data; `fit(..., exact=True, epochs=...)` takes as many iterations
            at most, as if they were `steps`.
        steps: Optimiser steps, instead of `epochs`; of exact training the most iterations.
        batch_size: Rows per step, all of them if it is more; a DataLoader keeps its own.
        optimiser: `"adam"`, `"sgd"`, or `"lbfgs"` for exact training. None: the usual one, Adam
            for minibatches and L-BFGS for exact training.
        learning_rate: Of Adam and SGD.
        momentum: Of SGD.
        clip: Bound of a run's global gradient norm; None: no clipping.
        convention: Of the loss, `"elbo"`, `"reference"` or `"twice"`; see `models.CONVENTIONS`.
        warm_up: Epochs over which beta rises linearly from 0.
        cycles: Cycles of annealing of beta, instead of `warm_up`.
        free_bits: KL in nats that each unit has for free.
        capacity: Target KL in nats, one for every level or one per level.
        capacity_warm_up: Epochs over which `capacity` rises linearly from 0.
        patience: Stop after so many epochs without a better loss (on the validation data where
            given), and return to the best parameters. Epochs in which beta or the capacity is not
            yet what it is to be have another loss, and do not count.
        precision: `"float32"`, `"float64"`, or on float32 parameters `"bf16"`, matrix products in
            bfloat16, or `"tf32"`, which on a GPU lets tensor cores round their factors to 10 bits.
        device: `"cpu"`, `"cuda"` or `"cuda:N"`.
        cuda_graphs: Launch a GPU's steps as CUDA graphs, where they can be captured.
        seed: Source of initialisation, data order and noise, each with a generator of its own.
        order_seed: Seed of the data order alone; None: `seed`.
        checkpoint_every: Epochs between checkpoints, where there is a folder.
        checkpoint_steps: Steps between further checkpoints.
        checkpoint_share: Share of the time that checkpoints at the end of epochs may take, so that
            short epochs have fewer; None: however long they take.
        history_every: Epochs between rows of the history: each row costs a count of active units,
            which for small data takes longer than the steps of an epoch.

    Raises:
        InvalidArgumentError: A value is out of its domain; the message says which.

    Example:
        >>> Settings(epochs=10, clip=0.1).learning_rate
        0.001
    """

    epochs: int = 100
    steps: int | None = None
    batch_size: int = 128
    optimiser: Literal["adam", "sgd", "lbfgs"] | None = None
    learning_rate: float = 1e-3
    momentum: float = 0.9
    clip: float | None = None
    convention: str = "elbo"
    warm_up: int = 0
    cycles: int | None = None
    free_bits: float | None = None
    capacity: float | tuple[float, ...] | None = None
    capacity_warm_up: int = 0
    patience: int | None = None
    precision: Literal["float32", "float64", "tf32", "bf16"] = "float32"
    device: str = "cpu"
    cuda_graphs: bool = True
    seed: int = 0
    order_seed: int | None = None
    checkpoint_every: int = 1
    checkpoint_steps: int | None = None
    checkpoint_share: float | None = None
    history_every: int = 1

    def __post_init__(self) -> None:
        for name, least in WHOLE.items():
            if not self._is_left_out(name):
                self._set(name, checks.whole(name, getattr(self, name), least=least))
        for name in ("learning_rate", "clip", "free_bits", "checkpoint_share"):
            if not self._is_left_out(name):
                self._set(name, checks.positive(name, getattr(self, name)))
        self._set("momentum", checks.rate("momentum", self.momentum, 0.9))
        self._set("device", str(self.device))
        checks.flag("cuda_graphs", self.cuda_graphs)
        self._check_names()
        self._check_schedules()

    def _check_names(self) -> None:
        checks.one_of("precision", self.precision, PRECISIONS)
        if self.optimiser is not None:
            checks.one_of("optimiser", self.optimiser, OPTIMISERS)
        if re.fullmatch(r"cpu|cuda(:\d+)?", self.device) is None:
            raise InvalidArgumentError(
                "device", repr(self.device), "'cpu', 'cuda' or 'cuda:N'", "Pass device='cpu'."
            )

    def _check_schedules(self) -> None:
        if self.warm_up and self.cycles:
            raise InvalidArgumentError(
                "cycles", f"{self.cycles} beside `warm_up`", "one of the two", "Leave one out."
            )
        if isinstance(self.capacity, (tuple, list)) or getattr(self.capacity, "ndim", 0) == 1:
            values = checks.each("capacity", self.capacity, None, "one per level", checks.positive)
            self._set("capacity", values)
        elif self.capacity is not None:
            self._set("capacity", checks.positive("capacity", self.capacity))
        elif self.capacity_warm_up:
            raise InvalidArgumentError(
                "capacity_warm_up", self.capacity_warm_up, "a capacity beside it", "Pass capacity."
            )
        if self.patience is not None and self.history_every > 1:
            raise InvalidArgumentError(
                "history_every", f"{self.history_every} beside `patience`",
                "1: early stopping looks at every epoch", "Leave one out.",
            )  # fmt: skip

    @property
    def data_order(self) -> int:
        """Seed of the order in which the data are seen: `order_seed`, or else `seed`."""
        return self.seed if self.order_seed is None else self.order_seed

    @property
    def floor(self) -> str | None:
        """What holds the KL up beside the spec's betas, so that no closed form has the optimum.

        Example:
            >>> Settings(free_bits=0.5).floor, Settings().floor
            ('free bits', None)
        """
        floors = {"free bits": self.free_bits, "a capacity": self.capacity}
        return next((name for name, value in floors.items() if value is not None), None)

    def _is_left_out(self, name: str) -> bool:
        """Whether a setting that may be None is."""
        return getattr(self, name) is None and getattr(Settings, name) is None

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> Settings:
        """Return a copy with some fields changed (validated anew).

        Raises:
            InvalidArgumentError: An unknown field, or a value out of its domain.

        Example:
            >>> Settings().replace(seed=3).seed
            3
        """
        _known(changes)
        return super().replace(**changes)

    def lengthened(self, times: float) -> Settings:
        """Train for some times as long; a shorter run has shorter warm-ups, to end within it.

        Example:
            >>> half = Settings(epochs=10, warm_up=7).lengthened(1 / 2)
            >>> half.epochs, half.warm_up
            (5, 3)
        """
        name = "epochs" if self.steps is None else "steps"
        length = max(1, round(times * getattr(self, name)))
        warm_ups = ("warm_up", "capacity_warm_up") if times < 1 else ()
        shorter = {warm: getattr(self, warm) * length // getattr(self, name) for warm in warm_ups}
        return self.replace(**{name: length}, **shorter)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Settings:
        """Return the settings that `to_dict` described.

        Raises:
            InvalidArgumentError: An unknown key, or a value out of its domain.

        Example:
            >>> one = Settings(capacity=(1.0, 2.0))
            >>> Settings.from_dict(one.to_dict()) == one
            True
        """
        _known(values)
        return Settings(**values)


FIELDS = tuple(field.name for field in dataclasses.fields(Settings))


def _known(values: Mapping[str, Any]) -> None:
    for name in values:
        if name not in FIELDS:
            raise InvalidArgumentError(
                name, "a training setting", f"one of {sorted(FIELDS)}",
                f"Remove it.{nearest(name, FIELDS)}",
            )  # fmt: skip


class Annealing:
    """The schedules of a run whose length is known.

    Args:
        settings: With `warm_up`, `cycles`, `capacity` (one, or one per level) and so on.
        steps_per_epoch: Steps per epoch; None: unknown, which only a constant schedule allows.

    Raises:
        InvalidArgumentError: A warm-up longer than the run, or one in epochs of unknown length;
            schedules that leave early stopping no epoch to look at.
    """

    def __init__(
        self, settings: Settings, levels: int, steps_per_epoch: int | None, total_steps: int | None
    ) -> None:
        scheduled = settings.warm_up or settings.cycles or settings.capacity_warm_up
        if scheduled and (steps_per_epoch is None or total_steps is None):
            raise InvalidArgumentError(
                "data", "a DataLoader of unknown length", "one that has a length, for a schedule",
                "Leave warm_up, cycles and capacity_warm_up away.",
            )  # fmt: skip
        self.total, per_epoch = total_steps or 0, steps_per_epoch or 0
        self.warm_up = settings.warm_up * per_epoch
        self.capacity_warm_up = settings.capacity_warm_up * per_epoch
        self.cycles = settings.cycles
        self.moves_beta = bool(self.warm_up or self.cycles)
        for name in ("warm_up", "capacity_warm_up") if scheduled else ():
            length = getattr(settings, name)
            check_warm_up(length, self.total / per_epoch, name, unit="epochs")
        if self.cycles:
            cyclical(0, self.total, cycles=self.cycles)
        value = settings.capacity
        self.targets = (value,) * levels if isinstance(value, float) else value
        epochs = (
            range(first, min(first + per_epoch, self.total))
            for first in range(0, self.total, per_epoch or 1)
        )
        if scheduled and settings.patience is not None and not any(map(self.in_full, epochs)):
            rising = settings.warm_up or settings.capacity_warm_up
            schedule = f"{self.cycles} cycles" if self.cycles else f"a warm-up of {rising}"
            raise InvalidArgumentError(
                "patience",
                f"{settings.patience} beside {schedule} in {self.total / per_epoch:g} epochs",
                f"an epoch with {'beta' if self.moves_beta else 'the capacity'} in full "
                "throughout: early stopping compares only those",
                f"Train longer, pass {'fewer cycles' if self.cycles else 'a shorter warm-up'}, or "
                "leave patience away.",
            )  # fmt: skip

    def factor(self, step: int) -> float:
        """Return the factor of every beta at a step."""
        if self.cycles:
            return float(cyclical(step, self.total, cycles=self.cycles))
        return float(warm_up(step, self.warm_up))

    def capacity(self, step: int) -> tuple[float, ...] | None:
        """Return the KL target of each level, in nats; None: no target."""
        if self.targets is None:
            return None
        return tuple(float(capacity(step, self.capacity_warm_up, t)) for t in self.targets)

    def in_full(self, steps: range) -> bool:
        """Whether beta and capacity were at all these steps what they are to be in the end."""
        return all(self.factor(i) == 1 and self.capacity(i) == self.targets for i in steps)


def effective_spec(spec: Spec, convention: str) -> Spec:
    """Return the spec whose `elbo` loss has the optimum of `spec` under another convention.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> effective_spec(VAESpec(latent_dim=2, beta=1.0), "reference").beta
        0.5
    """
    from posterior_collapse.models import CONVENTIONS

    weights = CONVENTIONS[convention]
    factor = weights.kl / weights.squared_error / 2
    if factor == 1:
        return spec
    betas = tuple(beta * factor for beta in spec.beta_levels)
    return spec.replace(beta=betas[0]) if hasattr(spec, "beta") else spec.replace(betas=betas)
