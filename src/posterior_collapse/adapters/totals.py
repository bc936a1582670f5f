"""The one number of what a loss returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from posterior_collapse.errors import InvalidArgumentError

TOTALS = ("loss", "total_loss", "total")
"""Names under which a total is returned."""


def parts_of(output: Any) -> str | None:
    """Return what several things are that a loss returned, in words; None: it is no such."""
    if isinstance(output, Mapping):
        return f"a dict of {sorted(map(str, output))}"
    if isinstance(output, Sequence):
        return f"a {type(output).__name__} of {len(output)}"
    return None


def total_of(output: Any) -> Any:
    """Return the total of what a loss returned, a tensor or a float: by its name, or the first.

    Raises:
        InvalidArgumentError: It is no single number, or one in half precision.

    Example:
        >>> total_of({"kl": 1.0, "total_loss": 3.0}), total_of((3.0, 2.0, 1.0))
        (3.0, 3.0)
    """
    action = "Reduce it as your training does."
    if isinstance(output, Mapping):
        named = [output[name] for name in TOTALS if name in output]
        output = next(iter([*named, *output.values()]), None)
    elif named := [getattr(output, name) for name in TOTALS if hasattr(output, name)]:
        output = named[0]  # of a dataclass or a named tuple
    elif isinstance(output, Sequence):
        output = output[0] if output else None
    elif names := ", ".join(getattr(output, "__dict__", {})):
        action = f"Return which of its {names} training minimises: lambda *args: loss(*args).name."
    shape = tuple(getattr(output, "shape", ()))
    try:
        float(output.detach() if isinstance(output, Tensor) else output)
    except (TypeError, ValueError, RuntimeError):
        got = f"a result of shape {shape}" if shape else type(output).__name__
        raise InvalidArgumentError("loss", got, "one number", action) from None
    if str(kind := getattr(output, "dtype", "")).endswith("float16"):  # or bfloat16
        raise InvalidArgumentError(
            "loss",
            f"a total in {kind}, of some three digits",
            "one in float32 or float64",
            "Audit it without autocast and without casts to half precision.",
        )
    return output if isinstance(output, Tensor) else float(output)
