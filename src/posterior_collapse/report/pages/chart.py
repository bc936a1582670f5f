"""Figures of a page as SVG that needs no script: axes and marks, in words too."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from posterior_collapse.report.names import GREEK
from posterior_collapse.report.pages.rendering import number

LEAST_PLAIN, MOST_PLAIN = 1e-4, 1e5
"""Between which numbers on an axis have no power of ten."""
Scale = Callable[[float], float]
Point = tuple[float, float]


class Chart:
    """An SVG that grows by marks; a mark's look is a class of `style.css`.

    Args:
        label: What it shows, for those who do not see it.
        size: Width and height in pixels.
        margins: Left, right, top and bottom of the plot; above and below is room for the names
            of the axes.

    Example:
        >>> chart = Chart("nothing", (100, 50))
        >>> chart.line([(0, 0), (10, 5)], "pc-stairs")
        >>> print(chart.svg())
        <svg class="pc-plot" viewBox="0 0 100 50" ... aria-label="nothing"><path .../></svg>
    """

    def __init__(
        self,
        label: str,
        size: tuple[int, int] = (520, 250),
        margins: tuple[int, int, int, int] = (48, 14, 28, 40),
    ) -> None:
        width, height = size
        left, right, top, bottom = margins
        self.left, self.right = left, width - right
        self.top, self.bottom = top, height - bottom
        self._root = ElementTree.Element(
            "svg",
            {
                "class": "pc-plot", "viewBox": f"0 0 {width} {height}",
                "width": str(width), "height": str(height), "role": "img", "aria-label": label,
            },
        )  # fmt: skip
        self._place = self._root

    def add(self, tag: str, title: str = "", text: str = "", **attributes: object) -> None:
        """Add a mark, of this tag of SVG; a pointer that rests on it reads the title.

        Attributes have names as Python has them: `class_`, `text_anchor`.
        """
        named = {name.rstrip("_").replace("_", "-"): v for name, v in attributes.items()}
        shown = {n: _short(v) if isinstance(v, float) else str(v) for n, v in named.items()}
        element = ElementTree.SubElement(self._place, tag, shown)
        element.text = text or None
        if title:
            ElementTree.SubElement(element, "title").text = title

    @contextlib.contextmanager
    def link(self, run: int, name: str) -> Iterator[None]:
        """Let the marks that are added within lead to the card of a run, counted from 0."""
        to = {"href": f"#run-{run + 1}", "aria-label": name}
        self._place = ElementTree.SubElement(self._root, "a", to)
        self._root.set("role", "group")  # what can be pressed is no part of a picture
        yield
        self._place = self._root

    def line(self, points: Iterable[Point], class_: str, title: str = "") -> None:
        """Add a line through points; NaN interrupts it."""
        path, pen = [], "M"
        for x, y in points:
            if math.isfinite(x) and math.isfinite(y):
                path.append(f"{pen}{_short(x)} {_short(y)}")
            pen = "L" if math.isfinite(x) and math.isfinite(y) else "M"
        if path:
            self.add("path", title, d="".join(path), class_=class_)

    def area(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], class_: str,
             title: str = "") -> None:  # fmt: skip
        """Add what lies between two lines over the same places."""
        there = [*zip(x, high, strict=True), *reversed([*zip(x, low, strict=True)])]
        if there:
            path = "L".join(f"{_short(a)} {_short(b)}" for a, b in there)
            self.add("path", title, d=f"M{path}Z", class_=class_)

    def text(self, x: float, y: float, words: str, anchor: str = "start") -> None:
        """Add words."""
        before, low, after = _indexed(words)
        self.add("text", text=before, x=x, y=y, text_anchor=anchor)
        if low:
            element = self._place[-1]
            ElementTree.SubElement(element, "tspan", {"dy": "3", "class": "pc-low"}).text = low
            if after:
                ElementTree.SubElement(element, "tspan", {"dy": "-3"}).text = after

    def across(self, y: float, class_: str, title: str = "") -> None:
        """Add a line through the whole plot, at a height."""
        self.line([(self.left, y), (self.right, y)], class_, title)

    def here(self, x: float, y: float, title: str) -> None:
        """Add a diamond: where one is."""
        at = f"M{_short(x)} {_short(y - 8)}l8 8l-8 8l-8 -8Z"
        self.add("path", title, d=at, class_="pc-here")

    def dot(self, status: str, x: float, y: float, radius: float = 4.5) -> None:
        """Add a mark whose shape, not its colour alone, says the status of a forecast's unit."""
        if status == "noise":
            side = 2 * radius - 1
            self.add("rect", x=x - side / 2, y=y - side / 2, width=side, height=side,
                     class_="pc-noise")  # fmt: skip
        else:
            self.add("circle", cx=x, cy=y, r=radius, class_=f"pc-{status}")

    def rows(self, y: Scale, ticks: Iterable[float], name: str = "") -> None:
        """Add the vertical axis: a line and a number for each tick."""
        for tick in ticks:
            at = y(tick)
            self.add("path", d=f"M{self.left} {_short(at)}H{self.right}", class_="pc-grid")
            self.text(self.left - 6, at + 4, tick_text(tick), "end")
        if name:
            self.text(2, 14, name)

    def columns(self, x: Scale, ticks: Iterable[float], name: str = "") -> None:
        """Add the horizontal axis: numbers below the plot, and what they count."""
        for tick in ticks:
            self.text(x(tick), self.bottom + 18, tick_text(tick), "middle")
        if name:
            self.text(self.right, self.bottom + 34, name, "end")

    def svg(self) -> Markup:
        """Return the figure as markup."""
        return Markup(ElementTree.tostring(self._root, encoding="unicode"))


def tick_text(value: float) -> str:
    """Return a round number with all its digits: of neighbours on an axis the last ones differ.

    Example:
        >>> tick_text(4.1002), tick_text(0.1), tick_text(2e-9), tick_text(30_000.0)
        ('4.1002', '0.1', '2e-9', '30000')
    """
    rounded = float(f"{value:.7g}")
    if rounded and not LEAST_PLAIN <= abs(rounded) < MOST_PLAIN:
        return number(value)
    return np.format_float_positional(rounded, trim="-")


def _indexed(words: str) -> tuple[str, str, str]:
    """Words around the index of a Greek letter, which is set low."""
    found = GREEK.search(words)
    if found is None:
        return words, "", ""
    return words[: found.end(1)], found[2], words[found.end() :]


def _short(value: float) -> str:
    """A pixel to a tenth: nobody sees less, and pages stay small."""
    return f"{value:.1f}".removesuffix(".0")


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Return the scale that takes low to the pixel `start` and high to `end`."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """Return the like scale of the logarithms; what is below `low` is at the start."""
    across = linear(math.log(low), math.log(high), start, end)
    return lambda value: across(math.log(min(max(value, low), high)))


def scale_over(values: Sequence[float], start: float, end: float, *, wide: bool) -> Scale:
    """Return the scale that has all values between two pixels, of logarithms where it is wide."""
    low, high = float(min(values)), float(max(values))
    if low == high:
        return lambda _: (start + end) / 2
    return (logarithmic if wide else linear)(low, high, start, end)


def room_for(low: float, high: float) -> tuple[float, float]:
    """Return the ends of an axis of losses, with some room beyond the lowest and the highest.

    Less than the digits of an axis is rounding, of losses that are alike.
    """
    span = high - low if high - low > 1e-5 * abs(high) else abs(high)
    room = 0.06 * (span or 1.0)
    return low - room, high + room


MOST_DECADES = 6
"""Powers of ten on an axis up to which each has a tick."""


def decades(low: float, high: float) -> list[float]:
    """Return round numbers for ticks of a logarithmic axis.

    Example:
        >>> decades(0.02, 300.0), decades(0.4, 3.0)
        ([0.1, 1.0, 10.0, 100.0], [0.5, 1.0, 2.0])
    """
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, math.ceil((last - first + 1) / MOST_DECADES))
    ticks = [10.0**d for d in range(first, last + 1, every)]
    if len(ticks) > 2:
        return ticks
    fine = [float(f"{n}e{d}") for d in range(first - 1, last + 1) for n in (1, 2, 5)]
    found = [tick for tick in fine if low * 0.999 <= tick <= high * 1.001]
    return found if len(found) > 1 else ticks_of(low, high)


def ticks_of(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`.

    Example:
        >>> ticks_of(0.0, 1.3), ticks_of(-3.0, 11.0)
        ([0.0, 0.5, 1.0], [0.0, 5.0, 10.0])
    """
    span = (high - low) or 1.0
    step = 10.0 ** math.floor(math.log10(span / most))
    step = next(step * n for n in (1, 2, 5, 10) if span / (step * n) <= most)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{step * i:.12g}") for i in range(first, math.floor(high / step + 1e-9) + 1)]


def whole_ticks(high: float, most: int = 6) -> list[float]:
    """Return round whole numbers from 0 on.

    Example:
        >>> whole_ticks(3), whole_ticks(16)
        ([0.0, 1.0, 2.0, 3.0], [0.0, 5.0, 10.0, 15.0])
    """
    return [tick for tick in ticks_of(0, max(high, 1), most) if tick == np.floor(tick)]
