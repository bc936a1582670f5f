"""Trained runs in words: each beside its forecast, and what `tune` found among them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from operator import not_
from typing import TYPE_CHECKING, Any

from posterior_collapse.diagnosis.conclusions import kept_of
from posterior_collapse.errors import count_of, enumerated, of_level
from posterior_collapse.report.names import theory
from posterior_collapse.report.text import NOTHING, add_numbers, new_table
from posterior_collapse.theory.forecasting import FEW_ROWS, UNLIKE_FEATURES
from posterior_collapse.theory.solve import or_others
from posterior_collapse.theory.thresholds import excess_loss

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Summary = Mapping[str, Any]
FEW = 4
"""Runs that are commented on one by one."""
SAME_LOSS = 1e-4
"""Relative difference up to which two losses count as equal in a sentence."""
FAR_LOSS = 0.25
"""Nats by which a loss is far from the optimum, per nat that this spends on its KL, and one more:
of runs that were kept before what units can bring was kept with them."""


def comparison_verdict(summary: Summary) -> str:
    """Return in one sentence how a run compares with its forecast.

    Args:
        summary: What `Fitted.summary()` returned: `measured`, `forecast` (or None), `stopped`, and
            `approximate` where the forecast's loss is none to be reached.

    Example:
        >>> def side(loss, active):
        ...     return {"loss": loss, "levels": [{"n_active": active, "kl": [0.0] * 16}]}
        >>> print(comparison_verdict({"measured": side(2.5, 9), "forecast": side(3.0, 8)}))
        9 of 16 units active where the linear optimum keeps 8; loss 0.5 nats below it.
    """
    stopped, measured = str(summary.get("stopped", "finished")), summary["measured"]
    if _is_nothing(measured):
        ended = "Diverged" if stopped == "finished" else f"Stopped, {stopped}"
        lower = "so nothing was measured: lower the learning rate."
        return f"{ended}: its posterior is no longer finite, {lower}"
    if stopped.startswith("non-finite"):
        return f"Stopped, {stopped}: the numbers are those of the last finite step."
    counts, forecast = f"{_counts(measured)} active", summary.get("forecast")
    if forecast is None:
        return f"{counts}; no closed form is known to compare with."
    pairs = list(zip(_active(measured), _kept(forecast), strict=True))
    free = undetermined(forecast)
    as_many = all(found == expected for found, expected in pairs)
    lacks = any(found < expected for found, expected in itertools.compress(pairs, map(not_, free)))
    rough = bool(summary.get("approximate"))
    optimum = "quadratic approximation" if rough else "linear optimum"
    kept = enumerated([str(expected) for _, expected in pairs])
    kept += or_others(free)
    gap = measured["loss"] - forecast["loss"]
    longer = "train longer, or with a longer warm-up of beta" if lacks else "train longer"
    if excess := _excess(summary):
        far = f"Undertrained: loss {excess:.3g} nats above the linear optimum"
        if rough:
            far = f"Undertrained: loss {excess:.3g} nats above that of the best constant output, "
            far, longer = f"{far}which needs no unit", "train longer"
        beside = ", as many as forecast" if as_many else f" where the {optimum} keeps {kept}"
        return f"{far}; {counts}{beside}: {longer}."
    text = f"As forecast: {counts}" if as_many else f"{counts} where the {optimum} keeps {kept}"
    if rough:  # a good model may be above its loss
        return f"{text}; losses are not compared, as that of the forecast is an approximation."
    if abs(gap) <= SAME_LOSS * max(1.0, abs(forecast["loss"])):
        return f"{text}; loss as forecast."
    text += f"; loss {abs(gap):.3g} nats {'above' if gap > 0 else 'below'} "
    text += "the linear optimum" if as_many else "it"
    return text + (f": {longer}." if gap > 0 and lacks else ".")


def _excess(summary: Summary) -> float:
    """By how many nats the loss is too high, as a diagnosis finds it; 0 where it is not."""
    measured, forecast = summary["measured"], summary["forecast"]
    if "collapsed_loss" not in measured:
        gap = float(measured["loss"] - forecast["loss"])
        carried = sum(max(float(sum(level["kl"])), 0.0) for level in forecast["levels"])
        far = not summary.get("approximate") and gap > FAR_LOSS * (1 + carried)
        return gap if far else 0.0
    return excess_loss(
        measured["loss"],
        measured.get("loss_error") or 0.0,
        forecast["loss"],
        measured["collapsed_loss"],
        attainable=not summary.get("approximate"),
    )


def comparison_kind(summary: Summary) -> str:
    """Return in a word or two how a run's counts compare with its forecast.

    Example:
        >>> side = {"loss": 2.5, "levels": [{"n_active": 9, "kl": [0.0] * 16}]}
        >>> comparison_kind({"measured": side, "forecast": side})
        'as forecast'
    """
    if _is_nothing(summary["measured"]) or str(summary.get("stopped")).startswith("non-finite"):
        return "stopped"
    if summary.get("forecast") is None:
        return "no forecast"
    if _excess(summary):
        return "undertrained"
    told = list(map(not_, undetermined(summary["forecast"])))
    found, expected = (
        list(itertools.compress(counts, told))
        for counts in (_active(summary["measured"]), _kept(summary["forecast"]))
    )
    if found == expected:
        return "as forecast"
    return "fewer units" if sum(found) < sum(expected) else "more units"


def comparison_sentences(
    summaries: Sequence[tuple[str, Summary]],
    where: str = "Each run's summary.json has its verdict.",
    few: int = FEW,
) -> list[str]:
    """Return what to say below the table: a verdict per run, of many runs how many are as forecast.

    Of more than `few` it is said `where` to read about each. Last is what forecasts caution of the
    data: of each kind once, as numbers differ from run to run, in those of the first that has it.
    """
    notes = list(_notes(summaries))
    if len(summaries) == 1:
        return [comparison_verdict(summaries[0][1]), *notes]
    verdicts = [f"{name}: {comparison_verdict(summary)}" for name, summary in summaries]
    if len(summaries) <= few:
        return [*verdicts, *notes]
    kinds = [comparison_kind(summary) for _, summary in summaries]
    stopped = [text for text, kind in zip(verdicts, kinds, strict=True) if kind == "stopped"]
    same = sum(
        kind not in ("stopped", "no forecast")
        and _active(run["measured"]) == _kept(run["forecast"])
        for (_, run), kind in zip(summaries, kinds, strict=True)
    )
    as_theirs = "has as many active units as its forecast"
    if same != 1:
        as_theirs = "have as many active units as their forecasts"
    lacking = sum(summary.get("forecast") is None for _, summary in summaries)
    runs = count_of(len(summaries) - lacking, "run") + " with a forecast" * bool(lacking)
    counts = f"{same} of {runs} {as_theirs}."
    if lacking == len(summaries):
        counts = f"No closed form is known to compare these {lacking} runs with."
    if far := kinds.count("undertrained"):
        counts = f"Undertrained, with a loss far above: {far} of {len(summaries)} runs. {counts}"
    return [*stopped, counts, where, *notes]


def _notes(summaries: Sequence[tuple[str, Summary]]) -> Iterator[str]:
    cautions = [
        (name, caution)
        for name, summary in summaries
        for caution in (summary.get("forecast") or {}).get("cautions", ())
    ]
    for kind in (FEW_ROWS, UNLIKE_FEATURES):
        own = [(name, caution) for name, caution in cautions if caution.startswith(kind)]
        if not own:
            continue
        first, caution = own[0]
        whose = ""
        if len(own) < len(summaries) or len({text for _, text in own}) > 1:
            whose = f" on {first}"
            if len(own) > 1:
                whose += f", and alike on {count_of(len(own) - 1, 'other run')}"
        yield f"Note{whose}: {caution}."


def comparison_table(summaries: Sequence[tuple[str, Summary]]) -> Table:
    """Return measured against forecast, a row per run of the same levels, columns per level."""
    from rich.markup import escape

    table = new_table("measured/forecast")
    levels = len(summaries[0][1]["measured"]["levels"])
    table.add_column("run", overflow="fold")
    add_numbers(table, comparison_columns(levels))
    for run, summary in summaries:
        # A long name breaks between its values.
        table.add_row(escape(run.replace(",", ", ")), *comparison_cells(summary, levels))
    return table


def comparison_columns(levels: int) -> list[str]:
    """Return what `comparison_cells` yields, for so many levels."""
    names = [""] if levels == 1 else [f" z{number}" for number in range(1, levels + 1)]
    return ["loss", *(f"{what}{name}" for name in names for what in ("KL", "active"))]


def comparison_cells(summary: Summary, levels: int) -> Iterator[str]:
    """Yield loss, and per level KL and active units, each measured over forecast."""
    measured = None if _is_nothing(summary["measured"]) else summary["measured"]
    sides = (measured, summary.get("forecast"))
    yield _pair(*(None if side is None else side["loss"] for side in sides))
    for level in range(levels):
        here = [None if side is None else side["levels"][level] for side in sides]
        yield _pair(*(None if side is None else float(sum(side["kl"])) for side in here))
        own, optimum = here
        yield _pair(own and own["n_active"], None if optimum is None else kept_of(optimum))


def _pair(measured: float | None, forecast: float | None) -> str:
    return f"{_number(measured)}/{_number(forecast)}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return "0" if abs(value) < NOTHING else f"{value:.4g}"


def _is_nothing(measured: Mapping[str, Any]) -> bool:
    """Whether a run's posterior could not be measured; JSON has null for NaN."""
    return measured["loss"] is None or math.isnan(measured["loss"])


def undetermined(forecast: Mapping[str, Any]) -> list[bool]:
    """Return per level whether a forecast leaves its count open; an older one says it of all.

    Example:
        >>> undetermined({"levels": [{}, {}], "undetermined": True})
        [True, True]
    """
    of_all = [bool(forecast.get("undetermined"))] * len(forecast["levels"])
    return list(forecast.get("undetermined_levels", of_all))


def _active(side: Mapping[str, Any]) -> list[int]:
    return [level["n_active"] for level in side["levels"]]


def _kept(forecast: Mapping[str, Any]) -> list[int]:
    return [kept_of(level) for level in forecast["levels"]]


def _counts(side: Mapping[str, Any]) -> str:
    levels = side["levels"]
    names = [f"z{number} " if len(levels) > 1 else "" for number in range(1, len(levels) + 1)]
    parts = [
        f"{name}{level['n_active']} of {len(level['kl'])}"
        for name, level in zip(names, levels, strict=True)
    ]
    return f"{', '.join(parts)} unit{'s' * (len(levels[-1]['kl']) != 1)}"


def tuned_table(found: Any) -> Table:
    """Return a row per trial: active units of each seed, and those of theory."""
    table = new_table()
    table.add_column("", width=1)
    table.add_column(tuned_name(found)[0], justify="right")
    table.add_column("steps", justify="right")
    table.add_column("active, per seed")
    table.add_column("at half", overflow="fold")
    table.add_column(theory(found.spec).split()[0], justify="right")
    for trial in found.curve:
        chosen = ">" if trial is found.chosen else ""
        table.add_row(chosen, f"{trial.value:g}", *trial_cells(trial))
    return table


def trial_cells(trial: Any) -> list[str]:
    """Return steps, counts of each seed at the end and at half, and that of theory."""
    counts, half = (
        " ".join("-" if n is None else str(n) for n in each)
        for each in (trial.active, trial.halfway)
    )
    return [f"{trial.steps:,}", counts, half, "-" if trial.linear is None else str(trial.linear)]


def tuned_verdict(found: Any) -> str:
    """Return in one sentence what was found, and whether it has settled."""
    trial, (name, of) = found.chosen, tuned_name(found)
    seeds = len(trial.active)
    kept = sorted(set(trial.active))
    counts = str(kept[0]) if len(kept) == 1 else f"{kept[0]} to {kept[-1]}"
    tuned = f"{name} {trial.value:g}" if name.startswith("beta") else f"{trial.value:g} {name}"
    text = f"With {tuned} this network keeps {counts} of {count_of(found.units, 'unit')}{of}"
    text += f", from {count_of(seeds, 'seed')}"
    if trial.linear is not None:
        gaussian = found.spec.likelihood == "gaussian"
        keeps = "a linear model would keep" if gaussian else f"the {theory(found.spec)} keeps"
        text += f"; {keeps} {trial.linear}"
    if found.settled:
        return f"{text}. The count has stood since half of {trial.steps:,} steps."
    why = "see the notes" if trial.still else f"it still changed within {trial.steps:,} steps"
    return f"Not settled ({why}): {text[0].lower()}{text[1:]}."


def tuned_name(found: Any) -> tuple[str, str]:
    """Return what to call the parameter, and whose the units are: beta_2, of z2."""
    of = of_level(found.level, len(found.spec.dims))
    return (found.parameter if found.parameter.startswith("beta") else f"latent units{of}"), of


def tuned_page(found: Any) -> Iterator[RenderableType]:
    """Yield the table, the verdict and the notes."""
    yield tuned_table(found)
    yield tuned_verdict(found)
    yield from (f"Note: {note}." for note in found.notes)
