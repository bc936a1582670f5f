"""X3f: what longer training and a lower rate change, and what rows held out of training show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from posterior_collapse.errors import count_of
from posterior_collapse.experiments.checks import ONE_UNIT, Check, Part, Result, Setting
from posterior_collapse.experiments.deliverables.trust_units import (
    LONG,
    LONGER,
    MOST,
    RIGHT,
    alive_over,
    error_of,
    fewest_units,
    last_alive,
    linear_units,
    named,
    of_onset,
    outside,
    share_of_onset,
    usable,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.experiments.trust_columns import (
    COSTS,
    ERROR,
    FIRST,
    HOW,
    LAST,
    is_near,
    trained_long,
)

ALIVE = 0.5
"""Mean number of units from which a setting counts as alive: half of its runs have one."""


def trust_longer(results: Sequence[Result]) -> Part:
    """Set runs that trained on beside those of the same beta that did not."""
    before, records, checks = usable(results), list[dict[str, Any]](), list[Check]()
    for place, settings in _trained_on(results).items():
        same = {s.labels["beta"]: s for s in before.get(place, ())}
        pairs = [(same[s.labels["beta"]], s) for s in settings if s.labels["beta"] in same]
        if pairs:
            at = {"network": place[0], "warm-up": place[1]}
            own = [{**at, **_beside(*pair)} for pair in pairs]
            records += own
            checks.append(_unmoved(own))
    if not records:
        return Part(checks=[Check(None, "No run can be compared with one that trained on.")])
    note = (
        "Longer: the same network, seed and order of the data, trained on. The gain is what living "
        "units bring: the loss of total collapse less a run's own."
    )
    return Part({"longer": Table.of(records)}, checks=checks, notes=[note])


def _beside(short: Setting, long: Setting) -> dict[str, Any]:
    """Return what a longer training changed at a beta, means over the seeds."""
    each = {"": short, ", longer": long}
    counts = {f"units{of}": s.mean(lambda r: r.active(1)) for of, s in each.items()}
    kls = {f"KL (nats){of}": s.mean(lambda r: float(r.measured["kl"])) for of, s in each.items()}
    gains = {f"gain (nats){of}": s.mean(lambda r: r.gain) for of, s in each.items()}
    return {
        "beta / onset": round(share_of_onset(short.first), 3),
        "epochs": _epochs(short),
        "epochs, longer": _epochs(long),
        **counts,
        "units of the linear optimum": linear_units(short.first),
        **kls,
        "KL of the linear optimum (nats)": float(short.first.theory["kl"]),
        **gains,
    }


def _trained_on(results: Sequence[Result]) -> dict[tuple[str, str], list[Setting]]:
    """Return the settings that trained longer than those beside; a plan may bound both alike."""
    before = usable(results)
    return {
        place: settings
        for place, settings in usable(results, LONGER).items()
        if place not in before or _epochs(before[place][0]) < _epochs(settings[0])
    }


def _epochs(setting: Setting) -> int:
    return setting.first.run.settings.epochs


def _unmoved(records: Sequence[dict[str, Any]]) -> Check:
    """Hold the counts after longer training against those before."""
    moved = [r["units, longer"] - r["units"] for r in records]
    kls = [r["KL (nats), longer"] / r["KL (nats)"] for r in records if r["units"] >= ALIVE]
    gains = [r["gain (nats), longer"] - r["gain (nats)"] for r in records]
    times = records[0]["epochs, longer"] / records[0]["epochs"]
    text = f"{named(records[0])}: {times:g} times the training "
    text += f"changes the number of units by {min(moved):+.2g} to {max(moved):+.2g}"
    text += f", and what they bring by {min(gains):+.2g} to {max(gains):+.2g} nats"
    if kls:
        text += f"; their KL becomes {min(kls):.2f} to {max(kls):.2f} times what it was, where most"
        text += " runs had units"
    alive = [(r["units"] >= ALIVE, r["units, longer"] >= ALIVE) for r in records]
    revived, died = alive.count((False, True)), alive.count((True, False))
    betas = count_of(len(records), "beta")
    text += f"; in most runs units come to life at {revived} of {betas}, the last dies at {died}."
    return Check(max(map(abs, moved)) <= ONE_UNIT, text, "numbers")


def trust_long(results: Sequence[Result]) -> Part:
    """Set where the last unit dies after long training, at two rates, beside where it dies else."""
    before, records = usable(results), list[dict[str, Any]]()
    for kind, warm_up in LONG.items():
        for place, settings in usable(results, {kind: warm_up}).items():
            short = before.get(place)
            if short and _epochs(short[0]) < _epochs(settings[0]):  # a plan may bound both alike
                was, now = _trained(short), _trained(settings)
                at = {"network": place[0], "warm-up": place[1], HOW: _how(was, now)}
                long = {f"{column}, long": value for column, value in now.items()}
                records.append({**at, **was, **long})
    if not records:
        return Part(checks=[Check(None, "No run can be compared with one that trained long.")])
    note = (
        "Long: more steps; and as many at a lower learning rate, at which the noise of Adam's "
        "steps costs less. If only that noise kills units below the onset, the last one dies "
        "nearer to it at the lower rate alone; if training was too short, at either."
    )
    return Part({"long": Table.of(records)}, checks=[*map(_died, records)], notes=[note])


def _trained(settings: Sequence[Setting]) -> dict[str, Any]:
    """Return how runs trained, and what became of the onset."""
    found = of_onset(settings, *alive_over(settings))
    rate = settings[0].first.run.settings.learning_rate
    how = {"learning rate": rate, "epochs": _epochs(settings[0])}
    return how | {column: found[column] for column in (LAST, FIRST, ERROR, COSTS)}


def _how(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what sets the training of runs apart from that of others, in words."""
    lower = was["learning rate"] / now["learning rate"]
    rate = "the same learning rate" if lower == 1 else f"a learning rate {lower:g} times lower"
    return f"{rate}, {now['epochs'] / was['epochs']:g} times as long"


def _died(record: Mapping[str, Any]) -> Check:
    """Hold the onset after long training against the predicted one."""
    now, how = trained_long(record), f"{named(record)}: at {record[HOW]}"
    if now[ERROR] is None:
        lives = "units live at all betas" if now[LAST] else "no unit lives at any beta"
        return Check(None, f"{how}, {lives}.", "numbers")
    text = f"the error of the onset is {now[ERROR]} (else {record[ERROR] or 'not found'})"
    return Check(is_near(now), f"{how}, {text}.", "numbers")


def trust_held_out(results: Sequence[Result]) -> Part:
    """Set what rows that were not trained on say beside what those say that were."""
    each = [(usable(results), ""), (_trained_on(results), ", longer")]
    records = [
        {"network": name + how, "warm-up": warm_up, **_held_out(settings)}
        for found, how in each
        for (name, warm_up), settings in found.items()
        if any(share_of_onset(s.first) < MOST for s in settings)
    ]
    if not records:
        return Part(checks=[Check(None, f"No run was trained below {MOST} of the onset.")])
    note = (
        "Held out: every fifth row. The forecast, bracket and onset are those of the training "
        "rows; units are counted on either by the information they carry there, and the gain is "
        "that of these rows over total collapse fitted to the same rows."
    )
    return Part({"held-out": Table.of(records)}, checks=[*_held(records)], notes=[note])


def _held_out(settings: Sequence[Setting]) -> dict[str, Any]:
    below = [r for s in settings if share_of_onset(s.first) < MOST for r in s.results]
    off = np.array([outside(_there(r), fewest_units(r), linear_units(r)) for r in below])
    apart = np.array([_there(r) - r.active(1) for r in below])
    living = [r for r in below if r.active(1)]
    return {
        "runs": len(below),
        "as many units on both": float((apart == 0).mean()),
        "within a unit": float((np.abs(apart) <= ONE_UNIT).mean()),
        "in the bracket, held out": float((off == 0).mean()),
        "within a unit of it, held out": float((np.abs(off) <= ONE_UNIT).mean()),
        "KL held out / trained on": _ratio(living, lambda of: float(of["kl"])),
        "gain held out / trained on": _ratio(
            living, lambda of: float(of["collapsed_loss"]) - float(of["loss"])
        ),
        ERROR: error_of(*last_alive(*alive_over(settings))),
        f"{ERROR}, held out": error_of(*last_alive(*alive_over(settings, _there))),
    }


def _there(result: Result) -> int:
    """Return how many units know of the rows that were held out."""
    return int(result.measured["on_test"]["levels"][0]["n_active"])


def _ratio(runs: Sequence[Result], measure: Callable[[Mapping[str, Any]], float]) -> float | None:
    """Return a measure on held-out rows over that on training rows, of the means over runs."""
    there, here = (
        sum(measure(of) for of in each)
        for each in ([r.measured["on_test"] for r in runs], [r.measured for r in runs])
    )
    return round(there / here, 3) if here else None


def _held(records: Sequence[dict[str, Any]]) -> Iterator[Check]:
    """Hold held-out rows against the bracket, and against where the last unit dies in training."""
    least = min(records, key=lambda r: r["within a unit of it, held out"])
    right = sum(r["within a unit of it, held out"] >= RIGHT for r in records)
    share = least["within a unit of it, held out"]
    yield Check(
        right == len(records),
        f"Held-out rows: of {right} of {count_of(len(records), 'kind')} of runs {RIGHT:.0%} or "
        "more keep as many units as the bracket of the training rows says, within a unit "
        f"(the least: {share:.0%}; {named(least)}).",
        "numbers",
    )
    found = [r for r in records if r[ERROR] is not None]
    if found:
        other = [r for r in found if r[f"{ERROR}, held out"] != r[ERROR]]
        text = "Held-out rows: the last unit dies between the same betas as on training rows in "
        text += f"{len(found) - len(other)} of {count_of(len(found), 'kind')} of runs"
        text += "".join(
            f"; {r[f'{ERROR}, held out'] or 'nowhere'} for {r[ERROR]} from the predicted beta in "
            + named(r)
            for r in other
        )
        yield Check(not other, f"{text}.", "numbers")
