"""What to change so that a wanted number of units survives."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError, PosteriorCollapseError, count_of
from posterior_collapse.records import Record
from posterior_collapse.specs import Spec
from posterior_collapse.theory.solve import Problem, solve
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.state import weighted

Count = Callable[[Spec], "int | None"]
"""Says how many units of the top level a spec keeps, or None where that is not known."""
UNKNOWN, IN_VAIN = -2, -1
"""Fewer than none: where the count is not known; where units live at lower levels alone."""
SEARCH_DECADES = 40
STEPS = 60
HALVINGS = 45
"""Of a step: to about the last digit of its exponent."""
DIGITS = range(3, 13)
"""To which an advised value is rounded: as few as still reach the goal."""


@dataclass(frozen=True)
class Change(Record):
    """One change that alone reaches the goal, as small as possible.

    Attributes:
        parameter: Field of the spec, with its level where it has several, e.g. "betas[1]".
        current: Its value now.
        value: The nearest value that reaches the goal, rounded to three digits, or as many more as
            it takes.
        active: Active units of the top level with that value.
        units: Units every level must have besides, where it has fewer; else None.
        learned: Whether it is learned now; of a learned sigma `current` is that of a unit that has
            collapsed.
    """

    parameter: str
    current: float
    value: float
    active: int
    units: int | None = None
    learned: bool = False

    derived: ClassVar = ("text",)

    @property
    def name(self) -> str:
        """What to call the parameter: that of the second level is beta_2.

        Example:
            >>> Change("betas[1]", 1.0, 0.5, 2).name
            'beta_2'
        """
        field, _, index = self.parameter.partition("[")
        return checks.level(field, int(index[:-1]) + 1) if index else field

    @property
    def text(self) -> str:
        """The change as a sentence."""
        active = f"({self.active} active)"
        if self.parameter == "latent_dims":
            return f"Give every level at least {self.value:.0f} units {active}."
        verb = "Lower" if self.value < self.current else "Raise"
        also = f" and have {self.units} units" if self.units else ""
        value = f"{self.value:.{DIGITS[-1]}g}"
        if self.learned:
            return f"Fix {self.name} at {value} in place of learning it{also} {active}."
        return f"{verb} {self.name} from {self.current:.4g} to {value}{also} {active}."


@dataclass(frozen=True)
class Advice(Record):
    """What keeps a wanted number of units active at the top level.

    Attributes:
        wanted: Units wanted.
        active: Units active now.
        units: Units the top level has.
        possible: Most units that any setting can keep on these data: the number of data modes
            (of those that rounding does not hide, or that were resolved of data wide and long,
            where the text says so).
        changes: Changes, each sufficient for the lesser of `wanted` and `possible` units; empty
            if none is needed or known.
        text: All of it in words.
    """

    wanted: int
    active: int
    units: int
    possible: int
    changes: tuple[Change, ...]
    text: str

    def _rows(self) -> Iterator[dict[str, Any]]:
        return (change.to_dict() for change in self.changes)

    def __str__(self) -> str:
        return self.text


def advise(
    modes: Modes,
    spec: Spec,
    wanted: int | None,
    eta_dec: float,
    times: Sequence[float] | None = None,
) -> Advice:
    """Return the smallest changes of single parameters that keep `wanted` units.

    Args:
        modes: Of the data.
        spec: The hyperparameters.
        wanted: Units to keep; None: all.
        eta_dec: Decoder std, as given or as learned.
        times: What the KL of each unit weighs, in multiples of beta; None: all the same.

    Raises:
        InvalidArgumentError: `wanted` is not a number of units.
    """

    def count(spec: Spec) -> int | None:
        return _active(modes, spec) if times is None else weighted(modes.theta, spec, times)

    units = spec.dims[-1]
    goal = units if wanted is None else checks.count("active", wanted)
    possible = int(np.count_nonzero(modes.theta))
    now = max(count(spec) or 0, 0)
    reach = min(goal, possible)
    changes = _changes(count, spec, reach, eta_dec) if now < reach else ()
    found = Advice(goal, now, units, possible, changes, "")
    return found.replace(text=_words(found, modes, count, spec))


def _changes(count: Count, spec: Spec, goal: int, eta_dec: float) -> tuple[Change, ...]:
    """A level too narrow for the goal is widened; if that is not enough, one number is turned."""
    wide = _widened(spec, goal)
    needed = goal if wide is not spec else None
    widened = count(wide) or 0
    if needed and widened >= goal:
        name = "latent_dim" if hasattr(spec, "latent_dim") else "latent_dims"
        return (Change(name, min(spec.dims), goal, widened),)
    for tunable in (_tunable(wide, eta_dec), _learned_sigmas(wide)):  # a last resort
        found = [change for one in tunable if (change := _nearest(count, *one, goal))]
        if found:
            break
    return tuple(dataclasses.replace(change, units=needed) for change in found)


def _words(advice: Advice, modes: Modes, count: Count, spec: Spec) -> str:
    goal, now, units, possible = advice.wanted, advice.active, advice.units, advice.possible
    active = f"{now} of {count_of(units, 'unit')} {'is' if 1 in (now, units) else 'are'} active"
    if possible == 0:
        pair = "x tells nothing of y" if modes.moments.paired else "the data do not vary"
        why = "x explains all of y" if spec.model == "cvae" else pair
        return f"{active}: {why}, so no setting can keep a unit."
    reach = min(goal, possible)
    lines = [active]
    mode = count_of(possible, "mode") + " above rounding" * (modes.hidden > 0)
    mode += " that were resolved" * (modes.moments.unresolved > 0)
    if goal > possible:
        lines[0] += f"; {goal} wanted, but the data have only {mode}."
    elif now < goal:
        lines[0] += f"; {goal} wanted."
    else:
        lines[0] += ": nothing needs to change."
    if now >= reach:
        if now < units:
            lines.append(
                f"The other {units - now} carr{'ies' if units - now == 1 else 'y'} nothing."
            )
        elif now < possible:
            living = max(now, _most(lambda k: count(_widened(spec, k)), possible))
            # Of a fixed sigma a unit has its KL at any output, and may cost more than it gains.
            pay = ": more units pay" * all(isinstance(s, str) for s in spec.sigma_levels)
            lines.append(
                f"{living} of the data's {possible} modes would keep a unit{pay}."
                if living > now
                else "No other mode of the data would keep one."
            )
        return " ".join(lines)
    if advice.changes:
        several = len(advice.changes) > 1
        lines.append("Any one of these is enough:" if several else "This is enough:")
        lines += [change.text for change in advice.changes]
    elif min(spec.dims) < reach:
        lines.append(f"That takes {reach} units at every level, and as many sigmas.")
    elif any(count(turned(value)) is None for _, value, turned, _ in _learned_sigmas(spec)):
        lines.append(
            "Changing beta or eta_dec alone is not enough; whether fixing a sigma is, is not known."
        )
    else:
        lines.append("Changing beta, eta_dec or a sigma alone is not enough.")
    if 0 < now < units:
        others = "the others carry" if units - now > 1 else "the other carries"
        lines.append(f"Or use {now}: {others} nothing.")
    return " ".join(lines)


def most_living(modes: Modes, spec: Spec) -> int | None:
    """Return how many units of the first level would live, were there enough.

    Where eta_dec or a sigma is learned together with the others, more units change what each of
    them must beat: so units are counted, and not modes above the present threshold.

    Args:
        modes: Of the data.
        spec: The hyperparameters.

    Returns:
        The most units that all live; None where each has a sigma of its own, which says nothing
        of further ones.
    """
    if isinstance(spec.sigma_levels[0], tuple):
        return None

    def living(units: int) -> int | None:
        return _active(modes, _of_dims(spec, (units, *spec.dims[1:])), 0)

    return _most(living, int(np.count_nonzero(modes.theta)))


def _most(living: Callable[[int], int | None], limit: int) -> int:
    """The most units, up to a limit, that all live; beyond them none more does."""
    return bisect.bisect_left(
        range(1, limit + 1), True, key=lambda units: (living(units) or 0) < units
    )


def _widened(spec: Spec, units: int) -> Spec:
    """Give every level at least `units` units, where the sigmas allow it."""
    if min(spec.dims) >= units:
        return spec
    if any(isinstance(s, tuple) for s in spec.sigma_levels):
        return spec
    return _of_dims(spec, tuple(max(d, units) for d in spec.dims))


def _of_dims(spec: Spec, dims: tuple[int, ...]) -> Spec:
    if hasattr(spec, "latent_dim"):
        return spec.replace(latent_dim=dims[0])
    return spec.replace(latent_dims=dims)


def _active(modes: Modes, spec: Spec, level: int = -1) -> int | None:
    """Active units of a level, `IN_VAIN`, or None where the optimum is not known."""
    try:
        state = solve(Problem.of(modes, spec)).state
    except PosteriorCollapseError:
        return None
    found = int(np.count_nonzero(state.informed[level]))
    return found or IN_VAIN * any(one.any() for one in state.informed)


Tunable = tuple[str, float, Callable[[float], Spec], bool]
"""A number's name, its value, what gives the spec with another, and whether it is learned."""


def _tunable(spec: Spec, eta_dec: float) -> Iterator[Tunable]:
    """The positive numbers that a user may turn: betas, decoder stds, fixed sigmas."""
    untouched = {"model", "latent_dim", "latent_dims", "eta_enc", "dispersion"}
    for name, value in spec.to_dict().items():
        if name in untouched:
            continue
        if isinstance(value, float):
            yield name, value, partial(spec.with_level, name, 1), False
        elif name == "eta_dec":
            yield name, eta_dec, partial(spec.with_level, name, 1), True
        elif name in ("betas", "eta_decs", "sigmas"):
            for level, one in enumerate(value):
                turned = partial(spec.with_level, name.removesuffix("s"), level + 1)
                if isinstance(one, float):
                    yield f"{name}[{level}]", one, turned, False


def _learned_sigmas(spec: Spec) -> Iterator[Tunable]:
    """The stds of the levels that learn theirs, to be fixed: a unit that collapsed has the prior's.

    Of a smaller one a unit that is not worth its KL lives all the same.
    """
    priors = [*spec.eta_levels[1:], spec.eta_enc]
    for level, (sigma, prior) in enumerate(zip(spec.sigma_levels, priors, strict=True), 1):
        if isinstance(sigma, str) and not isinstance(prior, str):
            name = "sigma"
            if len(spec.dims) > 1:
                name = f"sigmas[{level - 1}]" if hasattr(spec, "sigmas") else f"sigma_{level}"
            yield name, prior, partial(spec.with_level, "sigma", level), True


def _nearest(
    count: Count,
    name: str,
    current: float,
    turned: Callable[[float], Spec],
    learned: bool,
    goal: int,
) -> Change | None:
    """The value of one parameter nearest (in ratio) to the present one that reaches the goal."""

    def active(value: float) -> int:
        try:
            found = count(turned(value))
        except InvalidArgumentError:  # beyond what a spec may hold
            found = None
        return UNKNOWN if found is None else found

    def kept(exponent: float) -> int:
        return active(current * math.exp(exponent))

    found = _reaching(kept, goal)
    if found is None:
        return None
    near, far = found
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        near, far = (near, middle) if kept(middle) >= goal else (middle, far)
    value = current * math.exp(far)
    rounded = (_round_away(value, far, digits) for digits in DIGITS)
    value = next((one for one in rounded if active(one) >= goal), value)
    return Change(name, current, value, active(value), learned=learned)


def _reaching(kept: Callable[[float], int], goal: int) -> tuple[float, float] | None:
    """Steps outwards from 0 to an exponent that reaches the goal, and the last that does not.

    Beside where no unit of the top level lives or the loss has no minimum, more may live than
    anywhere else, and over less than a step: so between a step here and one there the edge is
    looked for.
    """
    last = dict.fromkeys((-1, 1), (0.0, kept(0.0)))
    for step in np.geomspace(1e-3, SEARCH_DECADES * math.log(10), STEPS):
        for side, (near, before) in last.items():
            far = side * float(step)
            after = kept(far)
            last[side] = far, after
            if after >= goal:
                return near, far
            low = min(before, after)
            if before == after or low > 0:
                continue
            for _ in range(HALVINGS):
                middle = (near + far) / 2
                found = kept(middle)
                if found >= goal:
                    return near, middle
                beyond = (found <= low) == (before < after)
                near, far = (middle, far) if beyond else (near, middle)
    return None


def _round_away(value: float, direction: float, digits: int) -> float:
    """Round to some digits, away from the present value so that the goal is still reached."""
    unit = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    steps = value / unit
    return (math.floor(steps) if direction < 0 else math.ceil(steps)) * unit
