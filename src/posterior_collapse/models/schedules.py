"""How beta or a KL target moves with the step: warm-up, cycles, capacity.

Each is a pure function of the step; numbers give a float, tensors a tensor (one value per run).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard, cast

from posterior_collapse.errors import InvalidArgumentError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["capacity", "check_warm_up", "cyclical", "warm_up"]


def warm_up(step: int | Tensor, steps: int | Tensor) -> float | Tensor:
    """Return the factor of beta in a linear warm-up: 0 at step 0, 1 from `steps` on.

    Source: Bowman et al. 2016, arXiv:1511.06349.

    Example:
        >>> [warm_up(step, 4) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
        >>> warm_up(0, 0)
        1.0
    """
    if _is_tensor(step) or _is_tensor(steps):
        import torch

        device = next(v.device for v in (step, steps) if _is_tensor(v))
        length = torch.as_tensor(steps, device=device)
        return torch.where(length > 0, (step / length.clamp(min=1)).clamp(max=1.0), 1.0)
    return min(step / steps, 1.0) if steps > 0 else 1.0


def cyclical(
    step: int | Tensor, total_steps: int, *, cycles: int = 4, ramp: float = 0.5
) -> float | Tensor:
    """Return the factor of beta in cyclical annealing.

    The run is cut into `cycles` equal cycles; each rises linearly from 0 to 1 over its first
    `ramp` share and stays at 1 for the rest; after the run it stays at 1.

    Source: Fu et al. 2019, arXiv:1903.10145.

    Raises:
        InvalidArgumentError: `cycles` or `total_steps` below 1, or `ramp` outside (0, 1].

    Example:
        >>> [cyclical(step, 8, cycles=2) for step in range(9)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    """
    if cycles < 1 or total_steps < cycles:
        raise InvalidArgumentError(
            "cycles",
            f"{cycles} cycles in {total_steps} steps",
            "at least one step per cycle",
            "Lower cycles or train longer.",
        )
    if not 0 < ramp <= 1:
        raise InvalidArgumentError("ramp", ramp, "a share in (0, 1]", "Pass e.g. ramp=0.5.")
    # Whole numbers until the last division: a cycle starts at exactly 0.
    position = (step * cycles % total_steps) / total_steps / ramp
    if _is_tensor(position):
        import torch

        within = cast("Tensor", step) < total_steps
        return torch.where(within, position.clamp(max=1.0), 1.0)
    return min(position, 1.0) if step < total_steps else 1.0


def capacity(step: int | Tensor, steps: int | Tensor, target: float | Tensor) -> float | Tensor:
    """Return the KL target in nats: rises linearly from 0 to `target` over `steps`.

    Source: Burgess et al. 2018, arXiv:1804.03599.

    Example:
        >>> [capacity(step, 10, target=20.0) for step in (0, 5, 10, 11)]
        [0.0, 10.0, 20.0, 20.0]
    """
    return warm_up(step, steps) * target


def check_warm_up(length: int, total: float, name: str = "warm_up", *, unit: str = "steps") -> None:
    """Refuse a warm-up that ends after the run: it would never be over.

    Args:
        length: Of the warm-up, in `unit`.
        total: Length of the run, in `unit`.
        name: What to call it.
        unit: What is counted.

    Raises:
        InvalidArgumentError: `length` is negative or more than `total`.

    Example:
        >>> check_warm_up(500, 400)
        Traceback (most recent call last):
        ...
        posterior_collapse.errors.InvalidArgumentError: warm_up: got 500 steps in a run of 400; ...
    """
    if length < 0:
        raise InvalidArgumentError(name, f"{length} {unit}", "0 or more", f"Pass {name}=0.")
    if length > total:
        raise InvalidArgumentError(
            name,
            f"{length} {unit} in a run of {total:g}",
            "a warm-up that ends within the run, or its target never applies in full",
            f"Pass at most {name}={int(total)}, or train longer.",
        )


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Told without torch, which settings are checked without."""
    return hasattr(value, "clamp")
