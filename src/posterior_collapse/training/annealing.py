"""Beta and the KL target at each step of a run."""

from __future__ import annotations

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import capacity, check_warm_up, cyclical, warm_up
from posterior_collapse.specs import Spec
from posterior_collapse.training.settings import Settings

__all__ = ["Annealing"]


class Annealing:
    """The schedules of a run whose length is known.

    Args:
        settings: With `warm_up`, `cycles`, `capacity` and so on.
        levels: Number of latent levels.
        steps_per_epoch: Steps per epoch; None: unknown, which only a constant schedule allows.
        total_steps: Steps of the run.

    Raises:
        InvalidArgumentError: A warm-up longer than the run, or one in epochs of unknown length.
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
        for name in ("warm_up", "capacity_warm_up") if scheduled else ():
            length = getattr(settings, name)
            check_warm_up(length, self.total / per_epoch, name, unit="epochs")
        if self.cycles:
            cyclical(0, self.total, cycles=self.cycles)
        self.targets = _targets(settings, levels)

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


def _targets(settings: Settings, levels: int) -> tuple[float, ...] | None:
    value = settings.capacity
    if value is None or isinstance(value, float):
        return None if value is None else (value,) * levels
    return checks.sequence("capacity", value, levels, "one target per level")
