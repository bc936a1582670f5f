"""A trained run against its forecast: tables and one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["comparison_table", "comparison_verdict"]

Summary = Mapping[str, Any]


def comparison_verdict(summary: Summary) -> str:
    """Return in one sentence how a run compares with its forecast.

    Args:
        summary: What `Fitted.summary()` returned: `measured`, `forecast` (or None), `stopped`.

    Example:
        >>> side = {"loss": 3.0, "levels": [{"n_active": 2, "units": 5}]}
        >>> print(comparison_verdict({"measured": side, "forecast": side}))
        As forecast: 2 of 5 units active; the loss is the forecast's.
    """
    stopped = str(summary.get("stopped", "finished"))
    if stopped.startswith("non-finite"):
        return f"Stopped ({stopped}); the numbers are those of the last finite state."
    measured, forecast = summary["measured"], summary.get("forecast")
    if forecast is None:
        return f"{_counts(measured)}; no closed form is known to compare with."
    pairs = list(zip(measured["levels"], forecast["levels"], strict=True))
    changes = [m["n_active"] - f["n_active"] for m, f in pairs]
    if not any(changes):
        text = f"As forecast: {_counts(measured)}"
    else:
        text = "; ".join(_change(number, *pair) for number, pair in _numbered(pairs))
    text += f"; {_loss(measured['loss'], forecast['loss'])}"
    if any(change < 0 for change in changes) and measured["loss"] > forecast["loss"]:
        text += "; what is missing is training (more epochs, a warm-up), not capacity"
    return text[0].upper() + text[1:] + "."


def comparison_table(summaries: Sequence[tuple[str, Summary]]) -> Table:
    """Return measured against forecast, a row per run, columns per level.

    Args:
        summaries: Name and summary of each run; all have the same levels.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title="measured / forecast",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    levels = len(summaries[0][1]["measured"]["levels"])
    names = [""] if levels == 1 else [f" z{number}" for number in range(1, levels + 1)]
    table.add_column("run", overflow="fold")
    for column in ("loss", *(f"{w}{name}" for name in names for w in ("KL", "active"))):
        table.add_column(column, justify="right", no_wrap=True)
    for run, summary in summaries:
        table.add_row(run, *_cells(summary, levels))
    return table


def _cells(summary: Summary, levels: int) -> Iterator[str]:
    sides = (summary["measured"], summary.get("forecast"))
    yield _pair(*(None if side is None else side["loss"] for side in sides))
    for level in range(levels):
        here = [None if side is None else side["levels"][level] for side in sides]
        yield _pair(*(None if side is None else _total(side["kl"]) for side in here))
        yield _pair(*(None if side is None else side["n_active"] for side in here))


def _pair(measured: float | None, forecast: float | None) -> str:
    return f"{_number(measured)} / {_number(forecast)}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _total(values: Any) -> float:
    return float(sum(values)) if isinstance(values, (list, tuple)) else float(values)


def _numbered(pairs: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for number, pair in enumerate(pairs, 1):
        yield (f"z{number}: " if len(pairs) > 1 else ""), pair


def _counts(side: Mapping[str, Any]) -> str:
    parts = [
        f"{name}{level['n_active']} of {_units(level)} units active"
        for name, level in _numbered(side["levels"])
    ]
    return ", ".join(parts)


def _units(level: Mapping[str, Any]) -> int:
    return int(level["units"]) if "units" in level else len(level["kl"])


def _change(name: str, measured: Mapping[str, Any], forecast: Mapping[str, Any]) -> str:
    active, expected = measured["n_active"], forecast["n_active"]
    of = f"{name}{active} of {_units(measured)} units active"
    if active == expected:
        return f"{of} as forecast"
    if active > expected:
        return f"{of}, {active - expected} more than a linear model's optimum keeps ({expected})"
    return f"{of}, {expected - active} fewer than a linear model's optimum keeps ({expected})"


def _loss(measured: float, forecast: float) -> str:
    gap = measured - forecast
    if abs(gap) <= 1e-4 * max(1.0, abs(forecast)):
        return "the loss is the forecast's"
    side = "above" if gap > 0 else "below"
    return f"the loss is {abs(gap):.3g} nats {side} the linear optimum's"
