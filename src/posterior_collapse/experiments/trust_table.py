"""The lines of the table of trust: what every row of the study measured, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from posterior_collapse.errors import count_of
from posterior_collapse.experiments.checks import NEAR
from posterior_collapse.experiments.figures import Chart
from posterior_collapse.experiments.figures.lines import UNTOLD
from posterior_collapse.experiments.figures.trusted import Held, trusted
from posterior_collapse.experiments.reproduced import Reproduced
from posterior_collapse.experiments.tables import Table
from posterior_collapse.experiments.trust_columns import (
    ABOVE,
    ERROR,
    FIRST,
    HOW,
    LAST,
    PAID,
    SAYS,
    UNPLANTED,
    WHAT,
    WHY,
    is_near,
    trained_long,
)

ROWS = ("X3a", "X3b", "X3c", "X3d")
CONVOLUTIONAL, BESIDE, OTHERS = "X3e", "X3f", "X3g"
"""Rows that are shown if they were run: convolutional networks, which take long without a GPU;
deeper networks, longer training and held-out rows; other data and networks deeper still."""
WARM_UPS = {"no": "without a warm-up", "yes": "after a warm-up"}
"""Ways to train towards the onset."""
DEEP = "hidden layers"
"""In the names of networks of several."""
ONSET = "the beta of total collapse"
BRACKET = "how many units a network keeps: the bracket of `--network`"
PAYS, WORTH = "one more unit pays, or does not", "by how many nats one more unit pays"
FEW = 4
"""Networks up to which each is named."""
Records = list[dict[str, Any]]
Results = Mapping[str, Reproduced]
"""What the rows left, by row."""


def _records(found: Results, row: str, table: str) -> Records:
    """Return the rows of a table by column; none of a table that is not there."""
    there = row in found and table in found[row].tables
    return found[row].tables[table].records() if there else []


def _of_all(found: Results, row: str, table: str) -> Records:
    """Return the row of a table that sums up the others, if it is there."""
    return [r for r in _records(found, row, table) if "all" in (r.get("network"), r.get(WHAT))]


def _groups(found: Results, table: str) -> dict[str, Records]:
    """Return what was measured of onsets or of units, by kind of network."""
    study = _records(found, "X3a" if table == "onset" else "X3b", table)
    beside, others = (_records(found, row, table) for row in (BESIDE, OTHERS))
    groups = {
        "networks of one hidden layer": [r for r in study if not _is_linear(r)],
        "of them again, at fewer betas": [r for r in beside if DEEP not in r["network"]],
        "networks of other data": [r for r in others if DEEP not in r["network"]],
        "deeper networks": [r for r in (*beside, *others) if DEEP in r["network"]],
        "convolutional networks": _records(found, CONVOLUTIONAL, table),
        "a linear model, for which theory is exact": [r for r in study if _is_linear(r)],
    }
    return {name: records for name, records in groups.items() if records}


IN_SHORT = (
    {"networks of one hidden layer": "", "networks of other data": ""},
    {"deeper networks": "deeper networks", "convolutional networks": "cnns"},
)
"""Kinds of networks that share a line of the short table, and what each adds to a prediction."""


def headlines(found: Results) -> Table:
    """Return for each thing that is said how often it held, in a line."""
    rows = list[list[str]]()
    for table, what, held in (
        ("onset", "the beta above which all units collapse", _onsets_held),
        ("units", BRACKET, _units_held),
    ):
        groups = _groups(found, table)
        for kinds in IN_SHORT:
            if own := [record for kind in kinds for record in groups.get(kind, ())]:
                who = ", ".join(word for kind, word in kinds.items() if word and kind in groups)
                who = f"; {who}" * bool(who)
                rows.append([f"{what}{who}{_only(own)}", held(own)])
        if table == "onset":
            for how, own in _by_training(_records(found, BESIDE, "long")):
                rows.append([f"{what}; at {how}{_only(own)}", held(list(map(trained_long, own)))])
    if said := {r[SAYS]: r for r in _records(found, "X3c", "confusion")}:
        told = [_told_of(said[answer]) for answer in ("pays", "does not pay")]
        rows.append([PAYS, "; ".join(told)])
    for r in _of_all(found, "X3c", "gains"):
        if sure := r["both told from 0"]:
            right = f"within a factor of 2 in {r['within a factor of 2']} of the "
            right += f"{count_of(sure, 'case')} where that can be told{_sizes_by_network(found)}"
            rows.append(["by how many nats it pays", right])
    for r in _of_all(found, "X3d", "failures"):
        text = (
            "recognised in {recognised} of {failed} failures{by}, {undecided} undecided; an alarm "
            "in {false alarms} of {good} runs as good as the best, {good, undecided} undecided"
        )
        rows.append(["the optimiser failed", text.format_map({**r, "by": _known_by_kind(found)})])
    return Table(["prediction", "how often it held"], rows)


def _only(records: Records) -> str:
    data = {record["network"].partition(", ")[0] for record in records}
    return f" ({data.pop()} only)" if len(data) == 1 else ""


def _by_training(records: Records) -> Iterator[tuple[str, Records]]:
    """Yield how networks trained long, and those that did so."""
    for how in dict.fromkeys(r[HOW] for r in records):
        yield how, [r for r in records if r[HOW] == how]


def _onsets_held(records: Records) -> str:
    parts = []
    for words, own in reversed(_by_warm_up(records)):
        near, networks = sum(map(is_near, own)), count_of(len(own), "network")
        text = f"{words}: within {NEAR:.0%} in {near} of {networks}"
        if found := [r for r in own if r[ERROR] is not None]:
            worst = max(found, key=lambda r: max(abs(r[LAST] - 1), abs(r[FIRST] - 1)))
            text += f", at worst {worst[ERROR]}"
        parts.append(text)
    return "; ".join(parts)


def _units_held(records: Records) -> str:
    parts = [
        f"{words}: in its bracket in {_mean(own, 'in the bracket'):.0%} of "
        f"{sum(r['runs'] for r in own)} runs, within a unit of it in {_near(own)}"
        for words, own in reversed(_by_warm_up(records))
    ]
    return "; ".join([*parts, f"the bracket spans {_width(records):.1f} units on average"])


CAUSES = {
    "start": "units do live there after a warm-up",
    "noise": "a unit would bring less there than the noise of training costs",
    "kept up by noise": "units live on at higher losses than total collapse at its optimum",
    "another optimum": "units live on at a lower loss than total collapse at its optimum",
    "not known": "the cause is not known",
}
"""Of errors of an onset: what is seen, which need not be all of the cause."""


def _width(records: Records) -> float:
    """Return how many units lie between the ends of a bracket, on average."""
    return _mean(records, "kept by the linear optimum") - _mean(records, "fewest, mean")


def _near(records: Records) -> str:
    """Return in how many runs a count is within a unit of its bracket, and how networks differ.

    Example:
        >>> each = [{"runs": 9, "within a unit of it": 1.0}, {"runs": 3, "within a unit of it": 0}]
        >>> _near(each), _near(each[:1])
        ('75% (by network 0% to 100%)', '100%')
    """
    shares = sorted(r["within a unit of it"] for r in records)
    ends = list(dict.fromkeys(f"{share:.0%}" for share in (shares[0], shares[-1])))
    by = f" (by network {' to '.join(ends)})" if len(ends) > 1 else ""
    return f"{_mean(records, 'within a unit of it'):.0%}{by}"


def _sizes_by_network(found: Results) -> str:
    gains = _records(found, "X3c", "gains")
    by = _by_network(gains, "within a factor of 2", "both told from 0")
    return f" ({by})" if by else ""


def _known_by_kind(found: Results) -> str:
    """Return which failures are recognised, by network, and of those of plain training."""
    by = _by_network(_records(found, "X3d", "by-network"), "recognised", "failed")
    own = [r for r in _records(found, "X3d", "failures") if r[WHAT] in UNPLANTED.values()]
    known, failed = (sum(r[column] for r in own) for column in ("recognised", "failed"))
    planted = f"{known} of the {failed} that nobody planted" if failed else ""
    return f" ({'; '.join(filter(None, (by, planted)))})" if by or planted else ""


def _by_network(records: Records, part: str, whole: str) -> str:
    """Return between which shares networks lie: what is true of all together need not be of each.

    Example:
        >>> rights = {"a": 1, "b": 3, "all": 4}
        >>> each = [{"network": name, "right": right, "of": 4} for name, right in rights.items()]
        >>> _by_network(each, "right", "of")
        'by network 1 of 4 to 3 of 4'
    """
    own = [r for r in records if r["network"] != "all" and r[whole]]
    ends = [f"{r[part]} of {r[whole]}" for r in sorted(own, key=lambda r: r[part] / r[whole])]
    return f"by network {ends[0]} to {ends[-1]}" if len(ends) > 1 else ""


def _told_of(answer: Mapping[str, Any]) -> str:
    """Return what became of the networks of an answer.

    Example:
        >>> _told_of({SAYS: "pays", "it paid": 3, "it did not": 1, "cannot be told": 2})
        'of 6 said to pay, 3 did, 1 did not, and for 2 it cannot be told'
    """
    paid, close, not_ = (answer[of] for of in PAID.values())
    words = {"pays": "said to pay", "does not pay": "said not to pay"}.get(
        answer[SAYS], "undecided"
    )
    parts = [f"{paid} did", f"{not_} did not"]
    first, second = parts[::-1] if answer[SAYS] == "does not pay" else parts
    number = paid + not_ + close
    return f"of {number} {words}, {first}, {second}, and for {close} it {UNTOLD}"


def summary(found: Results) -> Table:
    """Return every error."""
    rows = [
        *(row for who, own in _groups(found, "onset").items() for row in _of_onsets(who, own)),
        *(row for who, own in _groups(found, "units").items() for row in _of_units(who, own)),
        *_of_longer(_records(found, BESIDE, "longer")),
        *_of_long(_records(found, BESIDE, "long")),
        *_of_held_out(_records(found, BESIDE, "held-out")),
        *_of_gain(found),
        *_of_failures(found),
    ]
    return Table(["prediction", "tested on", "as measured"], rows)


def picture(found: Results) -> Chart:
    """Return the figure of how far onsets and counts held, network by network."""
    units = _groups(found, "units")
    kinds: dict[str, dict[str, dict[str, Held]]] = {}
    for who, records in _groups(found, "onset").items():
        near = {(r["network"], r["warm-up"]): r["within a unit of it"] for r in units.get(who, ())}
        networks: dict[str, dict[str, Held]] = {}
        for r in records:
            ends = None if r[ERROR] is None else (r[LAST], r[FIRST])
            held = Held(ends, near.get((r["network"], r["warm-up"])))
            networks.setdefault(r["network"], {})[WARM_UPS[r["warm-up"]]] = held
        kinds[_counted(who.partition(",")[0], len(networks))] = networks
    return trusted(kinds, NEAR)


def _is_linear(record: Mapping[str, Any]) -> bool:
    return ", linear, " in record["network"]


def _by_warm_up(records: Records) -> list[tuple[str, Records]]:
    """Return what was measured without a warm-up, then after one."""
    ways = [(words, [r for r in records if r["warm-up"] == w]) for w, words in WARM_UPS.items()]
    return [(words, own) for words, own in ways if own]


def _mean(records: Records, name: str) -> float:
    """Return the mean of a column over the runs."""
    return float(np.average([r[name] for r in records], weights=[r["runs"] for r in records]))


def _of_onsets(who: str, records: Records) -> Iterator[list[str]]:
    for words, own in _by_warm_up(records):
        found = sorted((r for r in own if r[ERROR] is not None), key=lambda r: r[LAST] * r[FIRST])
        named = [f"{r[ERROR]} ({r['network']})" for r in found]
        if len(named) > FEW:
            middle = found[len(found) // 2][ERROR]
            named = [f"from {named[0]} to {named[-1]}, {middle} in the middle"]
        parts = [
            *named,
            *[f"within {NEAR:.0%} in {sum(map(is_near, own))} of {len(own)}"] * (len(own) > 1),
        ]
        causes = Counter(r[WHY] for r in found if r[WHY])
        parts += [
            f"{f'in {count}: ' if len(own) > 1 else ''}{CAUSES[why]}"
            for why, count in causes.most_common()
        ]
        if alive := sum(r["runs alive above the onset"] for r in own):
            higher = [r[ABOVE] for r in own if r[ABOVE] is not None]
            of = " of a network" if len(own) > 1 else ""
            runs = f"{alive} runs live on above it, the best{of}"
            runs = "1 run lives on above it, its loss" if alive == 1 else runs
            parts.append(f"{runs} {_beside(higher)}")
        if len(found) < len(own):
            parts.append(f"{len(own) - len(found)} never or always collapsed")
        yield [ONSET, f"{_counted(who, len(own))}; {words}", "; ".join(parts)]


def _counted(who: str, count: int) -> str:
    if who.startswith("a "):
        return who
    return f"{count} {who if count > 1 else who.replace('networks', 'network')}"


def _beside(higher: Sequence[float]) -> str:
    """Return how far losses lie beside that of total collapse, from the lowest to the highest.

    Example:
        >>> _beside([-0.058, 0.017]), _beside([-0.058])
        ('from 0.058 nats lower to 0.017 higher than collapsed', '0.058 nats lower than collapsed')
    """
    ends = (min(higher), max(higher))
    told = [*dict.fromkeys(f"{abs(end):.2g} {'lower' if end < 0 else 'higher'}" for end in ends)]
    first = told[0].replace(" ", " nats ", 1)
    return f"{f'from {first} to {told[1]}' if told[1:] else first} than collapsed"


def _of_units(who: str, records: Records) -> Iterator[list[str]]:
    for words, own in _by_warm_up(records):
        inside, near = _mean(own, "in the bracket"), _near(own)
        above, below = max(r["most above"] for r in own), max(r["most below"] for r in own)
        kept, linear = (_mean(own, name) for name in ("kept", "kept by the linear optimum"))
        ratios = [r["KL / linear KL, median"] for r in own]
        what, held = BRACKET, f"in the bracket in {inside:.0%}, within a unit of it in {near}"
        spans = f"; the bracket spans {_width(own):.1f} units on average"
        if all(map(_is_linear, own)) and not _width(own):
            what = "how many units a linear model keeps: as many as theory says"
            held, spans = f"as many in {inside:.0%}, within a unit in {near}", ""
        text = (
            f"{held}; at most {above} above and {below} below{spans}. They keep {kept:.1f} units "
            f"on average, the linear optimum {linear:.1f}"
        )
        more = [r for r in own if r["kept"] > r["kept by the linear optimum"]]
        if more and len(own) > 1:
            far = max(more, key=lambda r: r["kept"] - r["kept by the linear optimum"])
            text += f" (more than it in {len(more)} of {len(own)} networks, most in "
            text += f"{far['network']}: {far['kept']:.1f} against "
            text += f"{far['kept by the linear optimum']:.1f})"
        text += f"; their KL is {np.median(ratios):.1f} times the optimum's"
        if len(own) > 1:
            text += f" (median of the networks' medians, {min(ratios):.1f} to {max(ratios):.1f})"
        yield [
            what,
            f"{count_of(sum(r['runs'] for r in own), 'run')} of {_counted(who, len(own))}; {words}",
            text,
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
            f"{count_of(len(own), 'setting')} of networks of one hidden layer; {words}",
            f"units by {units} (means over seeds), their KL by {kls} nats, what they bring by "
            f"{gains} nats",
        ]


def _of_long(records: Records) -> Iterator[list[str]]:
    both = ((how, *of) for how, each in _by_training(records) for of in _by_warm_up(each))
    for how, words, own in both:
        after = [trained_long(r) for r in own]
        parts = [
            f"{r['network']}: {now[ERROR] or 'not found'} (before: {r[ERROR] or 'not found'})"
            for r, now in zip(own, after, strict=True)
        ]
        near, before = (sum(map(is_near, records)) for records in (after, own))
        yield [
            f"what changes at {how}",
            f"the beta of total collapse of {count_of(len(own), 'network')}; {words}",
            f"{'; '.join(parts)}; within {NEAR:.0%} in {near} of {len(own)} (before: {before})",
        ]


def _range(values: Sequence[float]) -> str:
    """Return the ends of some signed values, one where they are the same.

    Example:
        >>> _range([0.25, -0.1, 0.0]), _range([1.0])
        ('-0.1 to +0.25', '+1')
    """
    ends = dict.fromkeys(f"{value:+.2g}" for value in (min(values), max(values)))
    return " to ".join(ends)


def _of_held_out(records: Records) -> Iterator[list[str]]:
    for words, own in _by_warm_up(records):
        # None where no unit lives.
        kl, gain = (
            [r[column] for r in own if r[column] is not None]
            for column in ("KL held out / trained on", "gain held out / trained on")
        )
        text = (
            f"as many units as on training rows in {_mean(own, 'as many units on both'):.0%}, "
            f"within a unit in {_mean(own, 'within a unit'):.0%}; within a unit of the training "
            f"rows' bracket in {_mean(own, 'within a unit of it, held out'):.0%}"
        )
        if kl and gain:
            text += f"; {min(kl):.2f} to {max(kl):.2f} times the KL, {min(gain):.2f} to "
            text += f"{max(gain):.2f} times what units bring"
        found = [r for r in own if r[ERROR] is not None]
        same = sum(r[ERROR] == r[f"{ERROR}, held out"] for r in found)
        if found:
            text += f"; the last unit dies between the same betas in {same} of {len(found)}"
        runs = count_of(sum(r["runs"] for r in own), "run")
        yield ["what rows that were held out show", f"{runs} on the digits; {words}", text]


def _of_gain(found: Results) -> Iterator[list[str]]:
    gains = _of_all(found, "X3c", "gains")
    networks = count_of(len(_records(found, "X3c", "gains")) - 1, "network")
    if confusion := _records(found, "X3c", "confusion"):
        said = [_told_of(answer) for answer in confusion]
        pairs = count_of(gains[-1]["pairs"], "pair")
        tested = f"{pairs} of k and k + 1 units, k up to 6, in {networks}"
        yield [PAYS, tested, "; ".join(said)]
    for r in gains:
        if r["both told from 0"]:
            tested = (
                "{both told from 0} of the {pairs} pairs, where what was said and what the unit "
                "brought both exceed 0 by two standard errors"
            )
            measured = (
                "within a factor of 2 in {within a factor of 2}{by}; it brought "
                "{brought / said, median:.1f} times what was said (median; in 10% less than "
                "{10%:.1g} times, in 10% more than {90%:.2g} times)"
            )
            absurd = (
                "in {said more than all units brought} what was said is more than all units "
                "together brought: such a number only says that a unit pays"
            )
            by = _sizes_by_network(found)
            yield [WORTH, tested.format_map(r), measured.format_map({**r, "by": by})]
            yield [WORTH, f"all {r['pairs']} pairs", absurd.format_map(r)]


def _of_failures(found: Results) -> Iterator[list[str]]:
    tested = "{failed} planted or found failures, {good} runs as good as the best"
    measured = (
        "{recognised} failures recognised{by}, {undecided} undecided, {called fine} called fine; "
        "of the good runs {false alarms} raise an alarm and {good, undecided} are undecided; of "
        "{worse, as many units} runs that do worse with as many units, {of these, alarms} raise "
        "an alarm"
    )
    for r in _of_all(found, "X3d", "failures"):
        text = measured.format_map({**r, "by": _known_by_kind(found)})
        yield ["the optimiser failed, or did not", tested.format_map(r), text]
