"""A diagnosis as a page: what became of the units, why, and what to do first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup

from posterior_collapse.arrays import ImageShape
from posterior_collapse.diagnosis.conclusions import excess_loss, verdict_parts
from posterior_collapse.diagnosis.levels import Histogram
from posterior_collapse.errors import at_level, count_of, of_level
from posterior_collapse.report.names import theory
from posterior_collapse.report.pages.chart import Chart, linear, ticks_of
from posterior_collapse.report.pages.pictures import (
    check_image_shape,
    feature_name,
    patterns,
    signed,
    size_of,
    strip,
)
from posterior_collapse.report.pages.rendering import ICONS, number, render, words
from posterior_collapse.report.pages.timeline import timeline
from posterior_collapse.report.runs import expected
from posterior_collapse.report.text import (
    by_kl,
    has_effects,
    level_counts,
    loss_columns,
    loss_rows,
    unit_cells,
    unit_columns,
    with_error,
)

if TYPE_CHECKING:
    from posterior_collapse.diagnosis import Diagnosis, LevelDiagnosis
    from posterior_collapse.diagnosis.effects import Shown, Traversal

MOST_CARDS, MOST_DEAD = 32, 8
"""Cards of a level, and those of collapsed units among them: they all look alike."""
MOST_FEATURES = 2048
"""Features up to which the data's modes are worked out for a page: a second or so."""
NAMED_FEATURES = 4
ALIKE = 0.7
"""Cosine from which on a unit is said to stand for a data mode: with no other has it more."""
ROWS_HEIGHT = 56
"""Pixels that a picture of a row is high, about."""


class Light(NamedTuple):
    """A traffic light that does without its colours: its shape, and a word for what it says."""

    name: str
    icon: str
    word: str


GO = Light("go", "✓", "Nothing is wrong")
WAIT = Light("wait", "!", "There is something to gain")
STOP = Light("stop", "✕", "This is a failure")
UNKNOWN = Light("unknown", "?", "That cannot be told yet")


def light(found: Diagnosis) -> Light:
    """Return the traffic light of a diagnosis."""
    if found.conclusion in ("signal-unclaimed", "diverged"):
        return STOP
    if found.conclusion in ("undecided", "cannot-tell-yet"):
        return UNKNOWN
    if found.conclusion == "more-units-pay" or excess_loss(found):
        return WAIT
    unfinished = {"still-settling", "not-at-optimum"} & {one.code for one in found.advice}
    return WAIT if unfinished else GO


def diagnosis_html(
    found: Diagnosis,
    *,
    name: str = "",
    image_shape: ImageShape | None = None,
    feature_names: Sequence[str] | None = None,
    **_: Any,
) -> str:
    """Return a self-contained page of a diagnosis.

    Of an image it has pictures, of other data what the features are called.
    """
    shown = found._shown
    shape = image_shape or (None if shown is None else shown.image_shape)
    if shape is not None and shown is not None:
        check_image_shape(shape, shown.targets.shape[1])
    pictures = _Pictures(found, shape, feature_names)
    parts = diagnosis_parts(found)
    levels = [_level(found, i, table, pictures) for i, table in enumerate(parts["levels"])]
    kind = "Diagnosis" if found.spec is None else found.spec.model.upper()
    return render(
        "diagnosis.html.jinja",
        title="What collapsed",
        name=name,
        about=f"{kind}{f' on {name}' if name else ''}, {found.n:,} rows",
        timeline=list(timeline(found._history or {}, expected(found.forecast))),
        rows=pictures.rows(),
        **parts | {"levels": levels},
    )


def diagnosis_parts(found: Diagnosis) -> dict[str, Any]:
    """Return what page and notebook both show."""
    headline, reason = verdict_parts(found)
    statuses = [s for s in ICONS if any(s in level.status for level in found.levels)]
    named = [] if found.forecast is None else [theory(found.forecast.spec)]
    effects = any(map(has_effects, found.levels))
    terms = [
        *statuses, *["effect"] * effects, *named, *["t"] * bool(found.signal),
        "KL", "I(x;z)", "Var E[z|x]", "std", "q(z)",
    ]  # fmt: skip
    if found._shown is not None:
        terms += ["traversal", *["data mode"] * bool(named)]
    return {
        "light": light(found),
        "headline": headline,
        "reason": reason,
        "advice": found.advice,
        "levels": [_table(found, i) for i in range(len(found.levels))],
        "bars": [(_kl_title(found, i), kl_chart(found, i)) for i in range(len(found.levels))],
        "statuses": statuses,
        "theory": " or ".join(named),
        "loss_columns": loss_columns(found),
        "losses": [
            {"head": name, "cells": [measured, *[expected] * bool(named)]}
            for name, measured, expected in loss_rows(found)
        ],
        "rows_read": f"{found.n:,} rows",
        "notes": found.notes,
        "words": words(terms),
    }


def _table(found: Diagnosis, index: int) -> dict[str, Any]:
    level, name = found.levels[index], f"z{index + 1}"
    return {
        "name": name,
        "caption": f"{name}: every unit, the most KL first",
        "columns": [*unit_columns(level), "status"],
        "rows": [
            {"cells": unit_cells(level, i), "status": _status(level.status[i])}
            for i in by_kl(level)
        ],
        "said": level_counts(level),
    }


def _status(status: str) -> tuple[str, str, str]:
    """The class, the icon and the word of a status."""
    return f"pc-{status}", ICONS[status], status


def _level(
    found: Diagnosis, index: int, table: dict[str, Any], pictures: _Pictures
) -> dict[str, Any]:
    """What a page shows of a level besides its table: cards of units, and how many of each kind."""
    level = found.levels[index]
    cards = [_card(level, i, pictures, index) for i in _carded(level)]
    counts, carded = Counter[str](level.status), {card["status"] for card in cards}
    left_out = len(level.status) - len(cards)
    said = (
        f"{count_of(left_out, 'more unit')} {'is' if left_out == 1 else 'are'} in the table below."
    )
    units = count_of(len(level.status), "unit")
    return table | {
        "title": f"{at_level(index + 1, len(found.levels))}{level.n_active} of {units} active",
        "cards": cards,
        "kinds": [(*_status(s), counts[s]) for s in ICONS if s in carded],
        "left_out": said if left_out else "",
    }


def _carded(level: LevelDiagnosis) -> list[int]:
    """Units with a card: those with the most KL, and of collapsed ones a few."""
    order = by_kl(level)
    dead = [i for i in order if level.status[i] == "collapsed"][:MOST_DEAD]
    alive = [i for i in order if level.status[i] != "collapsed"][: MOST_CARDS - len(dead)]
    return [i for i in order if i in {*alive, *dead}]


def _card(level: LevelDiagnosis, i: int, pictures: _Pictures, index: int) -> dict[str, Any]:
    histogram = level._histogram
    has_prior = histogram is not None and not np.isnan(histogram.prior[i]).any()
    drawn = None if histogram is None else _histogram(histogram, i, level.status[i])
    return {
        "number": i + 1,
        "status": level.status[i],
        "kl": with_error(level.kl[i], level.kl_error[i]),
        "histogram": drawn,
        "has_prior": has_prior,
        **pictures.of(index, i, dead=level.status[i] == "collapsed"),
    }


def _kl_title(found: Diagnosis, index: int) -> str:
    now = "KL now" if found._history else "KL"
    return f"{now}, units of z{index + 1}" if len(found.levels) > 1 else now


def _histogram(histogram: Histogram, i: int, status: str) -> Markup | None:
    """q(z_i) as a filled outline, and the prior as a line."""
    edges, share, prior = histogram.edges[i], histogram.share[i], histogram.prior[i]
    if not np.isfinite(edges).all() or status == "diverged":
        return None
    centres = (edges[:-1] + edges[1:]) / 2
    total = float(share.sum()) or 1.0
    middle = float(share @ centres) / total
    spread = float(np.sqrt(share @ (centres - middle) ** 2 / total))
    chart = Chart(
        f"Unit {i + 1}: z has mean {number(middle)} and std {number(spread)} over the rows",
        (230, 84), (10, 10, 4, 16),
    )  # fmt: skip
    high = float(max(share.max(), np.nan_to_num(prior).max()))
    x = linear(float(edges[0]), float(edges[-1]), chart.left, chart.right)
    y = linear(0.0, high, chart.bottom, chart.top)
    outline = [(x(edge), y(value)) for j, value in enumerate(share) for edge in edges[j : j + 2]]
    places = [point[0] for point in outline]
    chart.area(places, [chart.bottom] * len(places), [point[1] for point in outline],
               f"pc-q pc-q-{status}")  # fmt: skip
    chart.line([(x(c), y(p)) for c, p in zip(centres, prior, strict=True)], "pc-threshold")
    chart.across(chart.bottom, "pc-grid")
    for tick in ticks_of(float(edges[0]), float(edges[-1]), 4):
        chart.text(x(tick), chart.bottom + 13, number(tick), "middle")
    return chart.svg()


def kl_chart(found: Diagnosis, index: int) -> Markup:
    """Return the KL of a level's units as bars with errors, beside those of theory."""
    level = found.levels[index]
    order = by_kl(level)
    optimum = None
    if found.forecast is not None:
        optimum = np.sort(found.forecast.levels[index].kl)[::-1]
    kl = np.where(np.isfinite(level.kl), level.kl, 0.0)
    high = max(float(kl.max()), 0.0 if optimum is None else float(optimum.max())) or 1.0
    low = min(0.0, float(kl.min()), 0.0 if optimum is None else float(optimum.min()))
    name = at_level(index + 1, len(found.levels))
    chart = Chart(f"{name}KL of each unit, {number(float(kl.sum()))} nats in all; the numbers are "
                  "in the table", (520, 220), (48, 10, 28, 40))  # fmt: skip
    width = (chart.right - chart.left) / len(order)
    y = linear(low, high * 1.05, chart.bottom, chart.top)
    chart.rows(y, ticks_of(low, high * 1.05, 4), "nats")
    for place, i in enumerate(order):
        left, value = chart.left + place * width, float(kl[i])
        title = f"unit {i + 1}: {with_error(level.kl[i], level.kl_error[i])} nats"
        top = min(y(max(value, 0.0)), y(0.0) - 2.0)  # of nothing there is a line to point at
        tall, look = y(min(value, 0.0)) - top, f"pc-bar pc-{level.status[i]}"
        chart.add("rect", title, x=left + 0.1 * width, y=top, width=0.8 * width, height=tall,
                  class_=look)  # fmt: skip
        error = float(np.nan_to_num(level.kl_error[i]))
        if y(value - error) - y(value + error) > 2:
            middle = left + width / 2
            chart.line([(middle, y(value - error)), (middle, y(value + error))], "pc-axis")
    if found.forecast is not None and optimum is not None:
        edges = [(chart.left + (place + side) * width, y(float(value)))
                 for place, value in enumerate(optimum) for side in (0, 1)]  # fmt: skip
        chart.line(edges, "pc-threshold", theory(found.forecast.spec))
    middles = {i + 1: chart.left + (place + 0.5) * width for place, i in enumerate(order)}
    what = f"unit{of_level(index + 1, len(found.levels))}"
    every = int(np.ceil(15 / width))
    chart.columns(
        lambda unit: middles[int(unit)], [*middles][::every], f"{what}, the most KL first"
    )
    return chart.svg()


class _Pictures:
    """Pictures of the units of a diagnosis, where there are any; other outputs have names."""

    def __init__(
        self, found: Diagnosis, shape: ImageShape | None, feature_names: Sequence[str] | None
    ) -> None:
        self.shown: Shown | None = found._shown
        own = None if found._shown is None else found._shown.names
        self.shape, self.names = shape, feature_names or own
        self.by_unit: dict[tuple[int, int], Traversal] = {}
        self.modes: Any = None
        if self.shown is None:
            return
        for level, traversals in enumerate(self.shown.traversals):
            self.by_unit |= {(level, one.unit): one for one in traversals}
        targets = self.shown.targets
        self.limits = float(targets.min()), float(targets.max())
        if found.forecast is not None and targets.shape[1] <= MOST_FEATURES:
            self.modes = patterns(found.forecast._modes)

    def of(self, level: int, unit: int, *, dead: bool) -> dict[str, Any]:
        """Return what a unit moves: as pictures, as the nearest mode, and by the features.

        A dead one moves nothing, and the little that it does is like some mode by chance.
        """
        said: dict[str, Any] = dict.fromkeys(
            ("strip", "move", "mode", "alike", "mixed", "mode_image", "features")
        )
        one = self.by_unit.get((level, unit))
        if self.shown is None or one is None or not np.isfinite(one.outputs).all():
            return said
        move, size = one.move, float(np.linalg.norm(one.move))
        if self.shape is not None:
            said["strip"] = strip(one.outputs, self.shape, self.limits)
        # A size that nobody sees, beside how far the outputs vary.
        if dead or size <= 1e-3 * float(np.linalg.norm(self.shown.targets.std(axis=0))):
            return said
        if self.shape is not None:
            said["move"] = signed(move, self.shape)
        else:
            most = np.argsort(-np.abs(move), kind="stable")[:NAMED_FEATURES].tolist()
            # By how much for one std of the unit.
            said["features"] = [(feature_name(self.names, i), f"{move[i]:+.2g}") for i in most]
        if self.modes is not None and len(self.modes):
            lengths = np.linalg.norm(self.modes, axis=1)
            cosines = self.modes @ move / np.where(lengths > 0, lengths, 1.0) / size
            best = int(np.argmax(np.abs(cosines)))
            alike = abs(float(cosines[best]))
            said |= {"mode": best + 1, "alike": f"{alike:.2f}", "mixed": alike < ALIKE}
            if self.shape is not None and alike >= ALIKE:
                sign = np.sign(cosines[best]) or 1.0
                said["mode_image"] = signed(sign * self.modes[best], self.shape)
        return said

    def rows(self) -> dict[str, Any] | None:
        """Return some rows and what is made of them, if they are images."""
        shown, shape = self.shown, self.shape
        if shown is None or shape is None:
            return None
        limits = self.limits
        targets, outputs = (strip(r, shape, limits) for r in (shown.targets, shown.outputs))
        height, width = size_of(shape)
        scale = max(1, round(ROWS_HEIGHT / height))
        count = len(shown.targets)
        return {
            "targets": targets, "outputs": outputs, "count": count,
            "width": scale * (count * width + count - 1), "height": scale * height,
        }  # fmt: skip
