"""Text and settings of the rows as Markdown, each said once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posterior_collapse.experiments.tables import format_cell

MOST_VALUES = 10
"""Values of a setting up to which all are named."""


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
    return "\n\n" + "\n".join(f"- {prose(line)}" for line in _lines("", values))


def _lines(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line per mapping.

    Example:
        >>> list(_lines("", {"epochs": 3, "network": {"name": "relu", "hidden": [16, 8]}}))
        ['epochs 3', 'network: name relu; hidden 16, 8']
    """
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    plain = [f"{key} {_plain(value)}" for key, value in values.items() if key not in inner]
    if plain:
        yield f"{name}: {'; '.join(plain)}" if name else "; ".join(plain)
    for key, value in inner.items():
        yield from _lines(f"{name}, {key}" if name else key, value)


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


def once(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings with what all grids share said once.

    Example:
        >>> once({"a": {"net": {"name": "relu", "h": 1}}, "b": {"net": {"name": "relu", "h": 2}}})
        {'all': {'net': {'name': 'relu'}}, 'a': {'net': {'h': 1}}, 'b': {'net': {'h': 2}}}
    """
    grids = list(settings.values())
    if len(grids) < 2 or not all(isinstance(grid, Mapping) for grid in grids):
        return settings
    shared = _shared(grids)
    return {"all": shared} | {title: _rest(grid, shared) for title, grid in settings.items()}


def _shared(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, first in values[0].items():
        each = [value.get(key) for value in values]
        if all(isinstance(value, Mapping) for value in each):
            found[key] = _shared(each)  # type: ignore[arg-type]
        elif all(value == first for value in each):
            found[key] = first
    return found


def _rest(values: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _rest(value, shared.get(key, {})) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if isinstance(value, Mapping) or key not in shared
    }


def told(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield settings line by line; of a grid that is much like one before, what is other.

    Example:
        >>> net = {"net": {"name": "relu", "h": 8}, "training": {"epochs": 9}}
        >>> warm = {**net, "training": {"epochs": 9, "warm_up": 2}}
        >>> list(told({"a": net, "b": warm}))
        ['a, net: name relu; h 8', 'a, training: epochs 9', 'b: as a, but training: warm_up 2']
    """
    leaves: dict[str, dict[tuple[str, ...], Any]] = {}
    for title, grid in settings.items():
        if not isinstance(grid, Mapping):
            yield from _lines("", {title: grid})
            continue
        own = dict(_leaves(grid))
        others = [
            ({at: v for at, v in own.items() if before.get(at) != v}, before.keys() - own, name)
            for name, before in leaves.items()
        ]
        leaves[title] = own
        other, gone, name = min(
            others, key=lambda each: len(each[0]) + len(each[1]), default=(own, {}, "")
        )
        if name and 2 * (len(other) + len(gone)) <= len(own):
            changes = [*_lines("", _nested(other)), *(f"no {at[-1]}" for at in sorted(gone))]
            yield f"{title}: as {name}" + (f", but {'; '.join(changes)}" if changes else "")
        else:
            yield from _lines(title, grid)


def _leaves(values: Mapping[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*at, key))
        else:
            yield (*at, key), value


def _nested(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return the mapping whose leaves these are."""
    found: dict[str, Any] = {}
    for (*path, last), value in leaves.items():
        inner = found
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return found
