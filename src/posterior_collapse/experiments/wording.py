"""Text and settings of the rows as Markdown, each said once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from posterior_collapse.experiments.tables import format_cell

MOST_VALUES = 10
"""Values of a setting up to which all are named."""
Leaves: TypeAlias = dict[tuple[str, ...], Any]
"""Plain values of nested settings by the keys that lead to them."""


def prose(text: str) -> str:
    r"""Return plain text such that Markdown shows it as it is: no emphasis, no tags.

    Example:
        >>> print(prose("(s)_+ and (t)_+ < beta_1 * 2"))
        (s)\_+ and (t)\_+ &lt; beta_1 \* 2
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("*", r"\*")
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", text)


def listed(values: Any) -> str:
    """Return text as it is, and plain values as a list, a line for those that stand together."""
    if isinstance(values, str):
        return prose(values)
    return "\n\n" + "\n".join(f"- {prose(line)}" for line in _lines(_leaves(values)))


def _leaves(values: Mapping[str, Any]) -> Leaves:
    """Return nested settings flattened.

    Example:
        >>> _leaves({"epochs": 3, "network": {"name": "relu"}})
        {('epochs',): 3, ('network', 'name'): 'relu'}
    """
    found: Leaves = {}
    for key, value in values.items():
        inner = _leaves(value) if isinstance(value, Mapping) else {(): value}
        found |= {(key, *at): leaf for at, leaf in inner.items()}
    return found


def _lines(leaves: Leaves, *above: str) -> Iterator[str]:
    """Yield a line for the values that stand together, named by the keys above them.

    Example:
        >>> list(_lines({("epochs",): 3, ("net", "name"): "relu", ("net", "hidden"): [16, 8]}))
        ['epochs 3', 'net: name relu; hidden 16, 8']
    """
    together: dict[str, list[str]] = {}
    for (*path, key), value in leaves.items():
        together.setdefault(", ".join([*above, *path]), []).append(f"{key} {_plain(value)}")
    for name, words in together.items():
        yield f"{name}: {'; '.join(words)}" if name else "; ".join(words)


def _plain(value: Any) -> str:
    """Return a value in words, long lists by their ends.

    Example:
        >>> _plain([i / 10 for i in range(1, 51)])
        '0.1, 0.2, ..., 5 (50 values)'
    """
    if not isinstance(value, list):
        return format_cell(value)
    words = [format_cell(item) for item in value]
    if len(words) > MOST_VALUES:
        words[2:-1] = ["..."]
        words[-1] += f" ({len(value)} values)"
    return ", ".join(words)


def told(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield settings line by line: what all grids share, then of each grid what is left.

    Of a grid that is much like one before it is told only what differs.

    Example:
        >>> net = {"net": {"name": "relu", "h": 8, "act": "tanh"}, "data": {"name": "digits"}}
        >>> list(told({"a": net, "b": {**net, "data": {"name": "mnist"}}}))
        ['all, net: name relu; h 8; act tanh', 'a, data: name digits', 'b, data: name mnist']
        >>> list(told({"a": net, "b": {**net, "seeds": 3}, "c": {"seeds": 2}}))[-2:]
        ['b: as a, but seeds 3', 'c: seeds 2']
    """
    if not all(isinstance(grid, Mapping) for grid in settings.values()):
        settings = {"": settings}
    grids = {title: _leaves(grid) for title, grid in settings.items()}
    first, *others = grids.values()
    shared = {at: v for at, v in first.items() if others and all(o.get(at) == v for o in others)}
    yield from _lines(shared, "all")
    before: dict[str, Leaves] = {}
    for title, grid in grids.items():
        own = {at: value for at, value in grid.items() if at not in shared}
        like, (changed, gone) = min(
            ((name, _change(leaves, own)) for name, leaves in before.items()),
            key=lambda found: len(found[1][0]) + len(found[1][1]),
            default=("", (own, [])),
        )
        before[title] = own
        if like and 2 * (len(changed) + len(gone)) <= len(own):
            changes = "; ".join([*_lines(changed), *(f"no {key}" for key in gone)])
            yield f"{title}: as {like}" + (f", but {changes}" if changes else "")
        else:
            yield from _lines(own, *filter(None, [title]))


def _change(before: Leaves, after: Leaves) -> tuple[Leaves, list[str]]:
    """Return what differs from settings before, and the keys that are there no more."""
    changed = {at: value for at, value in after.items() if before.get(at) != value}
    return changed, [at[-1] for at in sorted(before.keys() - after)]
