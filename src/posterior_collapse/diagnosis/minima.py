"""The output that a loss likes best: the least of its minima, not the one next to where one starts.

A loss that grips weakly far away (Student's t, Cauchy) has a minimum near every cluster of the
data. So the loss is looked at from end to end of the data. Where that shows it to be convex, one
descent is enough; else the other minima are descended to as well. Of a loss in which every output
stands for itself the gradient at one place is that of each output's own loss, which adds up along a
line: so all outputs are looked at together, and each is chosen for itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posterior_collapse.diagnosis.descent import descended
from posterior_collapse.diagnosis.rows import SAME, RowLoss, curvature_scale

GLANCE = 300
"""Rows that tell whether a loss is convex."""
SEARCHED = 10_000
"""Rows that the least minimum is searched with."""
COARSE, FINE = 17, 49
"""Quantiles along a line, and as many places between its ends."""
MOST_STARTS = 6
"""Minima descended to; of one output the best by a look along the data."""
ROUGH = 1e-4
"""Relative: a loss may compute in float32."""
GROUPS = 20
"""Of rows, between which a difference of losses varies."""


class Best(NamedTuple):
    """Weights of the least mean loss.

    Attributes:
        weights: (inputs, outputs).
        settled: Whether the gradient vanishes there.
        notes: What is to be said of other minima.
    """

    weights: Tensor
    settled: bool
    notes: list[str]


class _Look(NamedTuple):
    """The mean loss at several constant outputs, (places, outputs), and its gradients there."""

    at: Tensor
    value: Tensor
    slope: Tensor


def least_weights(
    rows: RowLoss, start: Tensor, kept: Tensor, scale: Tensor, generator: torch.Generator
) -> Best:
    """Return the weights of the least mean loss, as far as a look over the data finds them.

    It starts at weights that the loss is finite at, (inputs, outputs), with the roots of the
    curvature there, (outputs,), and looks at the outputs that are kept.
    """
    if not kept.any():
        return Best(start, True, [])
    glance, few = (rows.drawn(most, generator) for most in (GLANCE, SEARCHED))
    apart = _apart(glance, start, kept, scale)
    weights, settled = descended(rows, start, kept, scale, apart)
    if apart:
        if settled and not _several(glance, weights, start, kept, scale):
            return Best(weights, settled, [])
        lines = list(_lines(few, start, kept, scale, FINE))
        places = torch.cat(lines)
        starts = _by_output(few, weights, kept, lines)
    else:
        places = torch.cat(list(_places(glance, start, kept, scale, generator)))
        seen = _look(glance, weights, kept, places)
        if _convex(seen):
            return Best(weights, settled, [])
        starts = _without_hills(few, weights, kept, seen)
    width = places.amax(dim=0) - places.amin(dim=0)

    def next_to(loss: RowLoss, starts: Sequence[Tensor]) -> list[Tensor]:
        """Return the minima that are next to the starts."""
        ends = [
            descended(loss, one, kept, _curved(few, one, scale, generator), apart) for one in starts
        ]
        return [there for there, well in ends if well]

    def apart_from(least: Tensor, found: Sequence[Tensor]) -> list[Tensor]:
        return [one for one in found if bool((_elsewhere(one, least, width) & kept).any())]

    def full(one: Tensor) -> float:
        return rows.value(one)[0]

    if settled and few is not rows:
        starts = [weights, *starts]
    here = [weights] if settled else []
    found = (here if few is rows else []) + next_to(few, starts)
    if not found:
        return Best(weights, settled, [])
    if apart:
        found += _mixed(few, found, kept, width)
    least = min(found, key=full)
    rivals = sorted(apart_from(least, found), key=full)[:1]
    ends = here + next_to(rows, [least, *rivals])
    if not ends:
        return Best(weights, settled, [])
    best = min(ends, key=full)
    others = apart_from(best, ends)
    notes = _notes(rows, best, min(others, key=full), kept, width) if others else []
    return Best(best, True, notes)


def _lines(
    rows: RowLoss, start: Tensor, kept: Tensor, scale: Tensor, number: int
) -> Iterator[Tensor]:
    """Yield lines of constant outputs, (places, outputs), ascending from end to end of the data.

    Half of the places are quantiles, through each usual link, and half are evenly spaced.
    """
    if rows.y.shape[1:] != rows.shape:
        steps = start.new_tensor(np.sinh(np.linspace(-4, 4, 2 * number)))
        yield start[0] + steps[:, None] / torch.where(scale > 0, scale, 1.0)
        return
    flat = rows.targets()
    some = np.linspace(0, rows.n - 1, number).round().astype(np.int64)
    for quantiles in _linked(flat.sort(dim=0).values[some], flat, start, kept):
        share = start.new_tensor(np.linspace(0, 1, number))[:, None]
        even = torch.lerp(quantiles[:1], quantiles[-1:], share)
        yield torch.cat([quantiles, even]).sort(dim=0).values


def _linked(values: Tensor, flat: Tensor, start: Tensor, kept: Tensor) -> Iterator[Tensor]:
    """Yield values of targets as outputs through each usual link that they are in the domain of."""
    # A little towards the mean: where a domain ends there may be no loss.
    inside = torch.lerp(values, flat.mean(dim=0), 1e-3)[:, kept]
    linked = [inside]
    # Of the rows at hand some outputs' may all be 0: these stay at the start.
    if bool((inside >= 0).all()):
        linked.append(torch.where(inside > 0, inside.log(), start[0, kept]))
        if bool((inside <= 1).all()):
            within = (inside > 0) & (inside < 1)
            linked.append(torch.where(within, inside.logit(), start[0, kept]))
    for part in linked:
        found = start[0].repeat(len(values), 1)
        found[:, kept] = part
        yield found


def _places(
    rows: RowLoss, start: Tensor, kept: Tensor, scale: Tensor, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield constant outputs that may lie near a minimum: what single rows would like best."""
    yield from _lines(rows, start, kept, scale, 5)
    if rows.y.shape[1:] == rows.shape:
        flat = rows.targets()
        yield from _linked(flat[rows.some(24)], flat, start, kept)
        return
    size = torch.where(scale > 0, scale, 1.0)
    for far in (0.5, 2.0, 8.0):
        draws = torch.randn((12, rows.m), generator=generator, dtype=torch.float64, device="cpu")
        yield start[0] + far * draws.to(start) / size


def _moved(weights: Tensor, kept: Tensor, place: Tensor) -> Tensor:
    """Return the weights with a constant in place of theirs."""
    found = weights.clone()
    found[0, kept] = place[kept]
    return found


def _look(rows: RowLoss, weights: Tensor, kept: Tensor, places: Tensor) -> _Look:
    """Return the loss at those of the places that are in its domain."""
    seen = []
    for place in places:
        value, slope = rows.value(_moved(weights, kept, place))
        if math.isfinite(value):
            seen.append((place, place.new_tensor(value), slope[0]))
    if not seen:
        return _Look(places[:0], places[:0, 0], places[:0])
    return _Look(*(torch.stack(part) for part in zip(*seen, strict=True)))


def _apart(rows: RowLoss, start: Tensor, kept: Tensor, scale: Tensor) -> bool:
    """Whether every output stands for itself: none changes the gradient of another.

    Any two outputs have numbers that differ in a binary digit: one of them is then moved alone.
    """
    some = rows.some(32)
    left = start[0].expand(len(some), -1)
    line = next(_lines(rows, start, kept, scale, 2))
    low, high = line[:1], line[-1:]
    away = torch.where((left - low).abs() > (high - left).abs(), low, high)
    right = torch.lerp(left, away, 0.5)  # where a loss has its domain, too
    at_left, at_right = rows.gradients(left, some), rows.gradients(right, some)
    typical = (at_left.abs() + at_right.abs()).mean(dim=0)
    number = torch.arange(rows.m, device=start.device)
    for digit in range((rows.m - 1).bit_length()):
        first = (number >> digit) & 1 == 0
        mixed = rows.gradients(torch.where(first, left, right), some)
        change = (mixed - torch.where(first, at_left, at_right)).abs().amax(dim=0)
        if not bool((change <= ROUGH * typical)[kept].all()):
            return False
    return True


def _several(rows: RowLoss, weights: Tensor, start: Tensor, kept: Tensor, scale: Tensor) -> bool:
    """Whether some output that stands for itself has more than one minimum on its lines."""
    for number in (COARSE, FINE):
        falls = torch.zeros_like(kept)
        lowest, highest = (torch.full_like(weights[0], end) for end in (-math.inf, math.inf))
        for line in _lines(rows, start, kept, scale, number):
            look = _look(rows, weights, kept, line)
            if len(look.at) < 2:
                continue
            fall = -look.slope.diff(dim=0).amin(dim=0)
            falls |= fall > ROUGH * look.slope.abs().median(dim=0).values
            turns = _turns(look)
            lowest = lowest.maximum(look.at[:-1].where(turns, -math.inf).amax(dim=0))
            highest = highest.minimum(look.at[1:].where(turns, math.inf).amin(dim=0))
        if not bool(falls[kept].any()):  # convex
            return False
        if bool((lowest > highest)[kept].any()):
            return True
    return False


def _turns(line: _Look) -> Tensor:
    """Return between which neighbours on a line there is a minimum, (places - 1, outputs)."""
    return (line.slope[:-1] < 0) & (line.slope[1:] >= 0)


def _convex(seen: _Look) -> bool:
    """Whether no tangent at one place lies above the loss at another."""
    along = seen.slope @ seen.at.T
    here = seen.value[:, None]
    rise = along - along.diagonal()[:, None]
    rough = ROUGH * (here.abs() + seen.value.abs() + rise.abs())
    return bool((here + rise <= seen.value + rough).all())


def _by_output(
    rows: RowLoss, weights: Tensor, kept: Tensor, lines: Sequence[Tensor]
) -> list[Tensor]:
    """Return starts: the best minimum of each output along the lines, the second best, ..."""
    looks = [look for line in lines if len((look := _look(rows, weights, kept, line)).at) > 1]
    depths, places = [], []
    for look in looks:
        step = look.at.diff(dim=0)
        low, high = look.slope[:-1], look.slope[1:]
        turns = _turns(look)
        share = torch.where(turns, low / (low - high), 0.0)
        risen = ((low + high) / 2 * step).cumsum(dim=0) - (low + high) / 2 * step
        # Lines of different links begin elsewhere: each is measured from where it is least.
        depth = risen + share * step * low / 2
        depth = torch.where(turns, depth, math.inf)
        depths.append(depth - torch.nan_to_num(depth.amin(dim=0), posinf=0.0))
        places.append(look.at[:-1] + share * step)
    if not depths:
        return []
    depth, order = torch.cat(depths).sort(dim=0)
    place = torch.cat(places).gather(0, order)
    starts = []
    for best, there in zip(depth[:MOST_STARTS], place[:MOST_STARTS], strict=True):
        some = kept & best.isfinite()
        if not some.any():
            break
        starts.append(_moved(weights, some, there))
    return starts


def _without_hills(rows: RowLoss, weights: Tensor, kept: Tensor, seen: _Look) -> list[Tensor]:
    """Return starts: the best places, save those that only go uphill from a better one."""
    starts = [(weights, rows.value(weights)[0])]
    for number in seen.value.argsort().tolist():
        here = _moved(weights, kept, seen.at[number])
        value, _ = rows.value(here)
        if math.isfinite(value) and all(
            least > value
            or any(rows.value(torch.lerp(here, there, way))[0] > value for way in (0.25, 0.5, 0.75))
            for there, least in starts
        ):
            starts.append((here, value))
        if len(starts) > MOST_STARTS:
            break
    return [there for there, _ in starts[1:]]


def _curved(rows: RowLoss, weights: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    here = curvature_scale(rows.drawn(GLANCE, generator), weights, generator)
    return here if here.any() else scale


def _mixed(rows: RowLoss, found: Sequence[Tensor], kept: Tensor, width: Tensor) -> list[Tensor]:
    """Return the best of what was found for each output, and that with its nearest rival in."""
    stacked = torch.stack(list(found))
    rise = torch.stack([_rise(rows, found[0], other) for other in found])
    best = rise.argmin(dim=0)
    joint = stacked[best, :, torch.arange(rows.m, device=best.device)].T
    behind = (rise - rise.amin(dim=0)).where(kept & _elsewhere(stacked, joint, width), math.inf)
    which, output = divmod(int(behind.argmin()), rows.m)
    rival = joint.clone()
    rival[:, output] = stacked[which, :, output]
    return [joint, rival]


def _rise(rows: RowLoss, first: Tensor, last: Tensor) -> Tensor:
    """Return by how much each output's own loss rises from one place to another, by its slope."""
    found = torch.zeros_like(first[0])
    nodes, shares = np.polynomial.legendre.leggauss(8)
    for piece in range(8):
        for node, share in zip(nodes, shares, strict=True):
            slope = rows.value(torch.lerp(first, last, (piece + (1 + node) / 2) / 8))[1]
            found += share / 16 * (slope * (last - first)).sum(dim=0)
    return found


def _elsewhere(found: Tensor, least: Tensor, width: Tensor) -> Tensor:
    """Return which outputs are not at the same minimum, (..., outputs)."""
    return (width > 0) & ((found - least).abs().amax(dim=-2) > 1e-3 * width)


def _notes(rows: RowLoss, weights: Tensor, other: Tensor, kept: Tensor, width: Tensor) -> list[str]:
    """Say that there is another minimum, and how surely it is worse."""
    gap = rows.value(other)[0] - rows.value(weights)[0]
    gap = 0.0 if abs(gap) <= SAME * abs(rows.value(weights)[0]) else gap
    number, gaps = min(GROUPS, rows.n), []
    for group in range(number):
        some = rows.only(torch.arange(group, rows.n, number, device=rows.y.device))
        gaps.append(some.value(other)[0] - some.value(weights)[0])
    error = float(np.std(gaps, ddof=1)) / math.sqrt(number)
    shift = ((other - weights)[0].abs() / width.clamp(min=1e-300)).where(kept, 0.0)
    output = int(shift.argmax())
    there = (
        f"(e.g. output {output + 1} at {float(other[0, output]):.4g} "
        f"instead of {float(weights[0, output]):.4g})"
    )
    if gap > 2 * error:
        return [
            f"the mean loss has several minima; the least that was found is taken, and the next "
            f"{there} is {gap:.2g} ± {error:.1g} higher"
        ]
    return [
        f"the mean loss has several minima, and these rows do not tell which is least: another "
        f"{there} is {gap:.2g} ± {error:.1g} higher, and its onset may be another"
    ]
