"""The lines of the table of trust: what every row of the study measured, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from posterior_collapse.experiments.tables import Table

ROWS = ("X3a", "X3b", "X3c", "X3d")
CONVOLUTIONAL, BESIDE, OTHERS = "X3e", "X3f", "X3g"
"""Rows that are shown if they were run: a convolutional network, which takes long without a GPU;
deeper networks, longer training and held-out rows; other data and networks deeper still."""
WARM_UPS = {"no": "without a warm-up", "yes": "after a warm-up"}
"""Ways to train towards the onset."""
ERROR = "error of the onset"
DEEP = "hidden layers"
"""In the names of networks of several."""
BRACKET = "between how many units a network keeps (`--network`)"
SAYS = "the diagnosis says: one more unit"
NEAR = 0.05
"""Share by which a measured onset may miss the predicted one and still agree."""
Records = list[dict[str, Any]]
Results = Mapping[str, Mapping[str, Any]]
"""What the rows left, by row."""


def _records(found: Results, row: str, table: str) -> Records:
    """Return the rows of a table by column; none of a table that is not there."""
    values = found.get(row, {"tables": {}})["tables"].get(table)
    if values is None:
        return []
    one = Table.from_dict(values)
    return [dict(zip(one.columns, cells, strict=True)) for cells in one.rows]


def headlines(found: Results) -> Table:
    """Return for each thing that is said how often it held, in a line."""
    onsets = []
    for words, own in reversed(_by_warm_up(_records(found, "X3a", "onset"))):
        errors = [abs(record[ERROR]) for record in own if record[ERROR] is not None]
        if errors:
            near, worst = sum(error <= NEAR for error in errors), f"at most {max(errors):.0%} off"
            onsets.append(f"{words}: within 5% in {near} of {len(own)} networks, {worst}")
    units = [
        f"{words}: within a unit in {_mean(own, 'within a unit of it'):.0%} of "
        f"{sum(r['runs'] for r in own)} runs"
        for words, own in reversed(_by_warm_up(_records(found, "X3b", "units")))
    ]
    gain = []
    if said := {r[SAYS]: r for r in _records(found, "X3c", "confusion")}:
        pays, not_ = said["pays"], said["does not pay"]
        gain.append(
            f"of {_told(pays)} said to pay, {pays['it paid']} did; "
            f"of {_told(not_)} said not to, {not_['it did not']} did not"
        )
    failures = [
        f"seen in {r['recognised']} of {r['failed']} failures, {r['undecided']} undecided; wrongly "
        f"said of {r['false alarms']} of {r['good']} good runs"
        for r in _of_all_kinds(found)
    ]
    told = {
        "the beta above which all collapses": onsets,
        BRACKET: units,
        "one more unit pays, or does not": gain,
        "the optimiser failed": failures,
    }
    rows = [[what, "; ".join(parts)] for what, parts in told.items() if parts]
    return Table(["what is said", "how often it held"], rows)


def summary(found: Results) -> Table:
    """Return every error."""
    onsets, units = _records(found, "X3a", "onset"), _records(found, "X3b", "units")
    linear = [record for record in onsets if _is_linear(record)]
    cnn = "a convolutional network"
    deep_onsets, deep_units = (
        [r for row in (BESIDE, OTHERS) for r in _records(found, row, name) if DEEP in r["network"]]
        for name in ("onset", "units")
    )
    other_onsets, other_units = (
        [r for r in _records(found, OTHERS, name) if DEEP not in r["network"]]
        for name in ("onset", "units")
    )
    why = ": what training alone does, theory being exact"
    rows = [
        *_of_onsets(onsets),
        *_onset_of_one(linear, "a linear model, trained so", why),
        *_onset_of_one(_records(found, CONVOLUTIONAL, "onset"), cnn),
        *_onsets_of_each(deep_onsets, "deeper networks"),
        *_onsets_of_each(other_onsets, "networks of other data"),
        *_of_units(units),
        *_units_of_one(_records(found, CONVOLUTIONAL, "units"), cnn),
        *_units_of_each(deep_units, "deeper networks"),
        *_units_of_each(other_units, "networks of other data"),
        *_of_longer(_records(found, BESIDE, "longer")),
        *_of_held_out(_records(found, BESIDE, "held-out")),
        *_of_gain(_records(found, "X3c", "confusion"), _records(found, "X3c", "gains")),
        *_of_failures(_of_all_kinds(found)),
    ]
    return Table(["what is said", "of what", "as measured"], rows)


def _is_linear(record: Mapping[str, Any]) -> bool:
    return ", linear, " in record["network"]


def _by_warm_up(records: Records) -> list[tuple[str, Records]]:
    """Return what was measured of networks without a warm-up, then of those after one."""
    nets = [r for r in records if not _is_linear(r)]
    ways = [(words, [r for r in nets if r["warm-up"] == way]) for way, words in WARM_UPS.items()]
    return [(words, own) for words, own in ways if own]


def _mean(records: Records, name: str) -> float:
    """Return the mean of a column over the runs."""
    return float(np.average([r[name] for r in records], weights=[r["runs"] for r in records]))


def _told(record: Mapping[str, Any]) -> int:
    """Return how many networks of an answer could be told to be right or wrong."""
    return int(record["it paid"] + record["it did not"])


def _of_all_kinds(found: Results) -> Records:
    return [r for r in _records(found, "X3d", "failures") if r["runs that"] == "all"]


def _has_failed(record: Mapping[str, Any]) -> bool:
    return bool(record["verdict there"] == "signal-unclaimed")


def _of_onsets(records: Records) -> Iterator[list[str]]:
    for words, own in _by_warm_up(records):
        found = sorted((r for r in own if r[ERROR] is not None), key=lambda r: r[ERROR])
        if not found:
            continue
        near = sum(abs(r[ERROR]) <= NEAR for r in found)
        ends = " to ".join(
            f"{_percent(r[ERROR])} ({r['network']}"
            f"{', whose verdict there is signal-unclaimed' if _has_failed(r) else ''})"
            for r in (found[0], found[-1])
        )
        text = (
            f"median error {_percent(np.median([r[ERROR] for r in found]))}, {ends}; within 5% in "
            f"{near} of {len(found)}"
        )
        if alive := sum(r["runs alive above the onset"] for r in own):
            lower = [r["their loss below the collapsed (nats, most)"] for r in own]
            text += f"; {alive} runs live on above it, at losses {_beside(lower)} than collapsed"
        if len(found) < len(own):
            text += f"; {len(own) - len(found)} never or always collapsed"
        yield ["the beta of total collapse", f"{len(own)} networks; {words}", text]


def _beside(lower: Sequence[float | None]) -> str:
    """Return how far losses lie below another, from the lowest to the highest.

    Example:
        >>> _beside([0.058, None, -0.017]), _beside([0.058, 0.01])
        ('from 0.058 nats lower to 0.017 higher', 'up to 0.058 nats lower')
    """
    found = [value for value in lower if value is not None]
    least, most = min(found), max(found)
    if least < 0 < most:
        return f"from {most:.2g} nats lower to {-least:.2g} higher"
    return f"up to {most:.2g} nats lower" if most > 0 else f"up to {-least:.2g} nats higher"


def _percent(share: float) -> str:
    """Return a signed share in percent; no minus where it rounds to nothing.

    Example:
        >>> _percent(-0.0652), _percent(-0.0001)
        ('-6.5%', '0.0%')
    """
    text = f"{share:+.1%}"
    return "0.0%" if float(text[:-1]) == 0 else text


def _onset_of_one(records: Records, name: str, why: str = "") -> Iterator[list[str]]:
    for record in records:
        if record[ERROR] is not None:
            failed = ", its verdict there being signal-unclaimed" if _has_failed(record) else ""
            who = f"{name}; {WARM_UPS[record['warm-up']]}"
            yield ["the same", who, f"error {_percent(record[ERROR])}{why or failed}"]


def _of_units(records: Records) -> Iterator[list[str]]:
    for words, own in _by_warm_up(records):
        of = f"{sum(r['runs'] for r in own)} runs of {len(own)} networks; {words}"
        yield [BRACKET, of, _in_brackets(own)]
    if nets := [r for r in records if not _is_linear(r)]:
        kept, linear = (_mean(nets, name) for name in ("kept", "kept by the linear optimum"))
        ratios = [r["KL / linear KL, median"] for r in nets]
        yield [
            "how many units the linear optimum keeps, and its KL",
            "both",
            f"it keeps {linear:.1f} on average where networks kept {kept:.1f}; networks have "
            f"{np.median(ratios):.1f} times its KL (median; {min(ratios):.1f} to "
            f"{max(ratios):.1f} by network)",
        ]


def _in_brackets(records: Records) -> str:
    inside, near = (_mean(records, name) for name in ("in the bracket", "within a unit of it"))
    above, below = max(r["most above"] for r in records), max(r["most below"] for r in records)
    return (
        f"in the bracket in {inside:.0%}, within a unit of it in {near:.0%}; at most {above} above "
        f"and {below} below"
    )


def _units_of_one(records: Records, name: str) -> Iterator[list[str]]:
    for record in records:
        yield [
            "the same, and its KL",
            f"{record['runs']} runs of {name}; {WARM_UPS[record['warm-up']]}",
            f"{_in_brackets([record])}; {record['KL / linear KL, median']:.1f} times the linear "
            "optimum's KL (median)",
        ]


def _onsets_of_each(records: Records, who: str) -> Iterator[list[str]]:
    for words, own in _by_warm_up(records):
        errors = "; ".join(
            f"{_percent(r[ERROR])} ({r['network']})"
            if r[ERROR] is not None
            else f"none, never or always collapsed ({r['network']})"
            for r in own
        )
        yield ["the same", f"{who}; {words}", f"error {errors}"]


def _units_of_each(records: Records, who: str) -> Iterator[list[str]]:
    for words, own in _by_warm_up(records):
        ratios = ", ".join(f"{r['KL / linear KL, median']:.1f}" for r in own)
        yield [
            "the same, and its KL",
            f"{sum(r['runs'] for r in own)} runs of {who}; {words}",
            f"{_in_brackets(own)}; {ratios} times the linear optimum's KL (medians)",
        ]


def _of_longer(records: Records) -> Iterator[list[str]]:
    for words, own in _by_warm_up(records):
        times = own[0]["epochs, longer"] / own[0]["epochs"]
        units, kls, gains = (
            _range([r[f"{column}, longer"] - r[column] for r in own])
            for column in ("units", "KL (nats)", "gain (nats)")
        )
        yield [
            f"what {times:g} times the training changes",
            f"{len(own)} settings of networks of one hidden layer; {words}",
            f"units by {units} (means over seeds), their KL by {kls} nats, what they bring by "
            f"{gains} nats",
        ]


def _range(values: Sequence[float], form: str = ".2g") -> str:
    """Return the ends of some signed values, one where they are the same.

    Example:
        >>> _range([0.25, -0.1, 0.0], ".0%"), _range([1.0])
        ('-10% to +25%', '+1')
    """
    ends = dict.fromkeys(f"{value:+{form}}" for value in (min(values), max(values)))
    return " to ".join(ends)


def _of_held_out(records: Records) -> Iterator[list[str]]:
    for words, own in _by_warm_up(records):
        kl, gain = ([r[f"{name} held out / trained on"] for r in own] for name in ("KL", "gain"))
        moved = [
            r[f"{ERROR}, held out"] - r[ERROR]
            for r in own
            if r[ERROR] is not None and r[f"{ERROR}, held out"] is not None
        ]
        text = (
            f"as many units as on training rows in {_mean(own, 'as many units on both'):.0%}, "
            f"within a unit in {_mean(own, 'within a unit'):.0%}; within a unit of the training "
            f"rows' bracket in {_mean(own, 'within a unit of it, held out'):.0%}; "
            f"{min(kl):.2f} to {max(kl):.2f} times the KL, {min(gain):.2f} to {max(gain):.2f} "
            "times what units bring"
        )
        if moved:
            far = (
                f"moves by {_range(moved, '.1%')} of the predicted" if any(moved) else "is the same"
            )
            text += f"; the onset {far}"
        runs = sum(r["runs"] for r in own)
        yield ["the same of rows held out", f"{runs} runs; {words}", text]


def _of_gain(confusion: Records, gains: Records) -> Iterator[list[str]]:
    if not confusion:
        return
    said = {record[SAYS]: record for record in confusion}
    close = sum(record["too close to tell"] for record in confusion)
    pairs = sum(map(_told, confusion)) + close
    text = "; ".join(
        f"of {_told(said[answer])} {words}, {said[answer][right]} {did}"
        for answer, words, right, did in (
            ("pays", "said to pay", "it paid", "did"),
            ("does not pay", "said not to pay", "it did not", "did not"),
            ("undecided", "undecided", "it paid", "did"),
        )
        if _told(said[answer])
    )
    if close:
        text += f" ({close} others too close to tell)"
    yield ["one more unit pays, or does not", f"{pairs} networks of 1 to 6 units", text]
    if known := [r for r in gains if r["brought / said, median"] is not None]:
        middle = np.median([r["brought / said, median"] for r in known])
        least, most = min(r["10%"] for r in known), max(r["90%"] for r in known)
        yield [
            "by how many nats",
            "those said to pay that did",
            f"brought {middle:.1f} times what was said (median; mostly {least:.1f} to {most:.1f})",
        ]
    if absurd := sum(r["said more than all units brought"] for r in gains):
        yield [
            "the same",
            f"all {pairs}",
            f"{absurd} times it was more than all units together brought: a number that says "
            "nothing but that a unit pays",
        ]


def _of_failures(records: Records) -> Iterator[list[str]]:
    for r in records:
        yield [
            "the optimiser failed, or did not",
            f"{r['failed']} planted or found failures, {r['good']} good runs",
            f"{r['recognised']} failures recognised, {r['undecided']} undecided, "
            f"{r['called fine']} called fine; of the good runs {r['false alarms']} called failed "
            f"and {r['good, undecided']} undecided; of {r['worse, as many units']} runs that do "
            f"worse with as many units, {r['of these, alarms']} called failed",
        ]
