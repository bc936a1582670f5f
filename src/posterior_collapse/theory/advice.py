"""What to change so that a wanted number of units survives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from posterior_collapse.errors import InvalidArgumentError, PosteriorCollapseError
from posterior_collapse.specs import Spec
from posterior_collapse.theory.solve import Problem, solve
from posterior_collapse.theory.spectrum import Modes

__all__ = ["Advice", "Change"]

SEARCH_DECADES = 8


@dataclass(frozen=True)
class Change:
    """One change that alone reaches the goal, as small as possible.

    Attributes:
        parameter: Field of the spec, with its level where it has several, e.g. "betas[1]".
        current: Its value now.
        value: The nearest value that reaches the goal, rounded to three digits.
        active: Active units of the top level with that value.
    """

    parameter: str
    current: float
    value: float
    active: int

    @property
    def text(self) -> str:
        """The change as a sentence."""
        if self.parameter == "latent_dims":
            return f"Give every level at least {self.value:.0f} units ({self.active} active)."
        verb = "Lower" if self.value < self.current else "Raise"
        return (
            f"{verb} {self.parameter} from {self.current:.4g} to {self.value:.4g} "
            f"({self.active} units active)."
        )


@dataclass(frozen=True)
class Advice:
    """What keeps a wanted number of units active at the top level.

    Attributes:
        wanted: Units wanted.
        active: Units active now.
        units: Units the top level has.
        possible: Most units that any setting can keep on these data.
        changes: Single changes, each sufficient; empty if none is needed or possible.
        text: All of it in words.
    """

    wanted: int
    active: int
    units: int
    possible: int
    changes: tuple[Change, ...]
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return dataclasses.asdict(self) | {
            "changes": [dataclasses.asdict(c) | {"text": c.text} for c in self.changes]
        }

    def __str__(self) -> str:
        return self.text


def advise(modes: Modes, spec: Spec, wanted: int | None) -> Advice:
    """Return the smallest changes of single parameters that keep `wanted` units.

    Raises:
        InvalidArgumentError: `wanted` is not a number of units.
    """
    units = spec.dims[-1]
    goal = units if wanted is None else wanted
    if isinstance(goal, bool) or not isinstance(goal, (int, np.integer)) or goal < 1:
        raise InvalidArgumentError(
            "active", repr(goal), "a number of units, at least 1", "Pass e.g. active=8."
        )
    possible = int(np.count_nonzero(modes.theta))
    now = _active(modes, spec) or 0
    # A level too narrow for the goal is widened first; the rest is sought for the wider spec.
    goal = min(int(goal), possible)
    wide = _widened(spec, goal)
    changes: list[Change] = []
    if wide is not spec and (_active(modes, wide) or 0) >= goal:
        name = "latent_dim" if len(spec.dims) == 1 else "latent_dims"
        changes.append(Change(name, min(spec.dims), goal, _active(modes, wide) or 0))
    elif now < goal:
        changes = [c for name in _tunable(wide) if (c := _nearest(modes, wide, name, goal))]
    return Advice(
        goal, now, units, possible, tuple(changes), _words(spec, wide, goal, now, possible, changes)
    )


def _words(
    spec: Spec, wide: Spec, goal: int, now: int, possible: int, changes: list[Change]
) -> str:
    lines = []
    units = spec.dims[-1]
    if now >= goal:
        lines.append(f"{now} of {units} units are active: nothing needs to change.")
        if now < units:
            lines.append(f"{units - now} units carry nothing; {now} units would do as well.")
        if now < possible and now == units:
            lines.append(f"The data have {possible} modes in all; more units may pay.")
        return " ".join(lines)
    lines.append(f"{now} of {units} units are active; {goal} wanted.")
    if wide is not spec and changes and not changes[0].parameter.startswith("latent_dim"):
        lines.append(f"First give every level at least {goal} units.")
    if not changes:
        lines.append(
            f"No single parameter keeps {goal} units: change several, or use fewer units ({now})."
        )
    else:
        lines.append("Any one of these is enough:" if len(changes) > 1 else "This is enough:")
        lines += [c.text for c in changes]
        if now:
            lines.append(f"Or use {now} units: the others carry nothing.")
    return " ".join(lines)


def _widened(spec: Spec, units: int) -> Spec:
    """Give every level at least `units` units, where the sigmas allow it."""
    if min(spec.dims) >= units:
        return spec
    if any(isinstance(s, tuple) for s in spec.sigma_levels):
        return spec
    if len(spec.dims) == 1:
        return spec.replace(latent_dim=units)
    return spec.replace(latent_dims=tuple(max(d, units) for d in spec.dims))


def _active(modes: Modes, spec: Spec) -> int | None:
    """Active units of the top level, or None where the optimum is not known."""
    try:
        state = solve(Problem.of(modes, spec)).state
    except PosteriorCollapseError:
        return None
    return int(np.count_nonzero(state.shared[-1] > 0))


def _tunable(spec: Spec) -> Iterator[str]:
    """Names of the positive numbers that a user may turn: betas, decoder stds, fixed sigmas."""
    for name, value in spec.to_dict().items():
        if name in ("model", "latent_dim", "latent_dims", "eta_enc"):
            continue
        if isinstance(value, float):
            yield name
        elif isinstance(value, list) and name in ("betas", "eta_decs"):
            yield from (f"{name}[{i}]" for i in range(len(value)))


def _get(spec: Spec, name: str) -> float:
    field, _, index = name.partition("[")
    value = getattr(spec, field)
    return float(value[int(index[:-1])] if index else value)


def _set(spec: Spec, name: str, value: float) -> Spec:
    field, _, index = name.partition("[")
    if not index:
        return spec.replace(**{field: value})
    values = list(getattr(spec, field))
    values[int(index[:-1])] = value
    return spec.replace(**{field: values})


def _nearest(modes: Modes, spec: Spec, name: str, goal: int) -> Change | None:
    """The value of one parameter nearest (in ratio) to the present one that reaches the goal."""
    current = _get(spec, name)
    reached = {}

    def reaches(exponent: float) -> bool:
        count = _active(modes, _set(spec, name, current * math.exp(exponent)))
        reached[exponent] = count
        return count is not None and count >= goal

    steps = np.geomspace(1e-3, SEARCH_DECADES * math.log(10), 30)
    found = None
    for step in steps:
        found = next((e for e in (-step, step) if reaches(e)), None)
        if found is not None:
            break
    if found is None:
        return None
    near, far = 0.0, found
    for _ in range(40):
        middle = (near + far) / 2
        near, far = (near, middle) if reaches(middle) else (middle, far)
    value = _round_away(current * math.exp(far), far)
    count = _active(modes, _set(spec, name, value))
    if count is None or count < goal:
        value = current * math.exp(far)
        count = _active(modes, _set(spec, name, value))
    return Change(name, current, value, int(count or goal))


def _round_away(value: float, direction: float) -> float:
    """Round to three digits, away from the present value so that the goal is still reached."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    steps = value / unit
    return (math.floor(steps) if direction < 0 else math.ceil(steps)) * unit
