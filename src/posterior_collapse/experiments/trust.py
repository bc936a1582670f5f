"""The errors of all rows of the study in one table, and in a short one that the README shows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posterior_collapse import files
from posterior_collapse.errors import CorruptFileError, MissingFileError, writing
from posterior_collapse.experiments.document import RESULT, template
from posterior_collapse.experiments.tables import Table
from posterior_collapse.files import read_json

__all__ = ["BEGIN", "END", "NEAR", "block", "render", "table", "write"]

BEGIN = "<!-- written by `collapse reproduce trust`: begin -->"
END = "<!-- written by `collapse reproduce trust`: end -->"
"""Between these lines of the README stands what `block` returns."""
ROWS = ("X3a", "X3b", "X3c", "X3d")
CONVOLUTIONAL = "X3e"
"""The row that is shown if it was run: a convolutional network takes long without a GPU."""
WARM_UPS = {
    "no": "without a warm-up",
    "yes": "after a warm-up",
}
"""Ways to train towards the onset."""
NEAR = 0.05
"""Share by which a measured onset may miss the predicted one and still agree."""
TEMPLATE = "trust.md.jinja"
Records = list[dict[str, Any]]


def write(
    results: str | os.PathLike[str],
    readme: str | os.PathLike[str] = "README.md",
    document: str | os.PathLike[str] = "docs/trust.md",
) -> tuple[Path, Path]:
    """Write what the study found: all of it into a document, a short table into the README.

    Args:
        results: Folder with the results of the rows X3a to X3d, and X3e if it is there.
        readme: Has the two lines `BEGIN` and `END`; what is between them is replaced.
        document: Markdown file that is written anew; figures are linked, not copied.

    Raises:
        MissingFileError: A row has no result there, or there is no such README.
        CorruptFileError: A result is not what a row leaves, or the README lacks the lines.
        OutputError: A file cannot be written.
    """
    home, target = Path(readme), Path(document)
    text = render(results, target.parent)
    try:
        before = home.read_text("utf-8")
    except OSError as error:
        raise MissingFileError(
            str(home), f"'{error.strerror}'", "the README to write the table into",
            "Run the command in a clone of the repository.",
        ) from error  # fmt: skip
    changed = _between(before, block(results), str(home))
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    files.write(target, text.encode())
    files.write(home, changed.encode())
    return home, target


def block(results: str | os.PathLike[str]) -> str:
    """Return the short table of the README, from the results alone.

    Args:
        results: Folder with the results of the rows X3a to X3d, and X3e if it is there.
    """
    return f"{_headlines(_found(Path(results))).markdown()}\n"


def table(results: str | os.PathLike[str]) -> str:
    """Return the table with every error, from the results alone.

    Args:
        results: Folder with the results of the rows X3a to X3d, and X3e if it is there.
    """
    return f"{_summary(_found(Path(results))).markdown()}\n"


def _found(results: Path) -> dict[str, dict[str, Any]]:
    there = (results / CONVOLUTIONAL / RESULT).is_file()
    return {row: _read(results, row) for row in (*ROWS, *[CONVOLUTIONAL] * there)}


def render(results: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return the document as Markdown.

    Args:
        results: Folder with the results of the rows X3a to X3d, and X3e if it is there.
        folder: Where the document will stand, so that its links lead to the figures.
    """
    found = _found(Path(results))
    home = Path(os.path.relpath(results, folder)).as_posix()
    machines = list(dict.fromkeys(result["hardware"] for result in found.values()))
    machines = [one for one in machines if not any(one in o and one != o for o in machines)]
    notes = [note for result in found.values() for note in result["agreement"]["notes"]]
    text = template(TEMPLATE).render(
        summary=_summary(found).markdown(),
        rows=[_section(result, f"{home}/{row}", notes) for row, result in found.items()],
        convolutional=CONVOLUTIONAL in found,
        hardware=" and ".join(machines),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _between(text: str, inner: str, name: str) -> str:
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", text)
    if [parts[i] for i in range(1, len(parts), 2)] != [BEGIN, END]:
        raise CorruptFileError(
            name, "no place for the table", f"one line {BEGIN!r} and, after it, one {END!r}",
            "Put the lines where the table is to stand.",
        )  # fmt: skip
    return f"{parts[0]}{BEGIN}\n{inner}{END}{parts[4]}"


def _read(results: Path, row: str) -> dict[str, Any]:
    path = results / row / RESULT
    if not path.is_file():
        raise MissingFileError(
            str(path), "nothing", f"the result of {row}",
            f"Run collapse reproduce {row} first, or name its folder with --out.",
        )  # fmt: skip
    found: dict[str, Any] = read_json(path)
    lacking = {"tables", "agreement", "figures", "hardware"} - set(found)
    if lacking:
        raise CorruptFileError(
            str(path), f"no {', '.join(sorted(lacking))}", "the result of a row",
            "Remove the file and reproduce the row again.",
        )  # fmt: skip
    return found


def _records(result: Mapping[str, Any], table: str) -> Records:
    """Return the rows of a table by column; none of a table that is not there."""
    if table not in result["tables"]:
        return []
    one = Table.from_dict(result["tables"][table])
    return [dict(zip(one.columns, row, strict=True)) for row in one.rows]


def _summary(found: Mapping[str, Mapping[str, Any]]) -> Table:
    convolutional = found.get(CONVOLUTIONAL, {"tables": {}})
    rows = [
        *_of_onset(_records(found["X3a"], "onset")),
        *_onset_of_one(_records(convolutional, "onset"), "a convolutional network"),
        *_of_units(_records(found["X3b"], "units")),
        *_units_of_one(_records(convolutional, "units"), "a convolutional network"),
        *_of_gain(_records(found["X3c"], "confusion"), _records(found["X3c"], "gains")),
        *_of_failures(_records(found["X3d"], "failures")),
    ]
    return Table(["what is said", "of what", "as measured"], rows)


def _headlines(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return for each thing that is said how often it held, in a line."""
    told = [
        ("the beta above which all collapses", _onsets_in_a_line(_records(found["X3a"], "onset"))),
        (
            "between how many units a network keeps (`--network`)",
            _units_in_a_line(_records(found["X3b"], "units")),
        ),
        ("one more unit pays, or does not", _gain_in_a_line(_records(found["X3c"], "confusion"))),
        ("the optimiser failed", _failures_in_a_line(_records(found["X3d"], "failures"))),
    ]
    return Table(["what is said", "how often it held"], [list(line) for line in told if line[1]])


def _by_warm_up(records: Records) -> list[tuple[str, Records]]:
    """Return what was measured of networks after a warm-up, then of those without."""
    nets = [r for r in records if not _is_linear(r)]
    ways = [(words, [r for r in nets if r["warm-up"] == way]) for way, words in WARM_UPS.items()]
    return [(words, own) for words, own in reversed(ways) if own]


def _onsets_in_a_line(records: Records) -> str:
    parts = []
    for words, own in _by_warm_up(records):
        errors = [abs(e) for r in own if (e := r["error of the onset"]) is not None]
        if errors:
            near = sum(error <= NEAR for error in errors)
            worst = f"at most {max(errors):.0%} off"
            parts.append(f"{words}: within 5% in {near} of {len(own)} networks, {worst}")
    return "; ".join(parts)


def _units_in_a_line(records: Records) -> str:
    return "; ".join(
        f"{words}: within a unit in {_mean(own, 'within a unit of it'):.0%} of "
        f"{sum(r['runs'] for r in own)} runs"
        for words, own in _by_warm_up(records)
    )


def _gain_in_a_line(records: Records) -> str:
    said = {
        r["the diagnosis says: one more unit"]: (r["it paid"], r["it did not"]) for r in records
    }
    if not said:
        return ""
    (pays, wrong), (missed, right) = said["pays"], said["does not pay"]
    return (
        f"of {pays + wrong} said to pay, {pays} did; of {right + missed} said not to, "
        f"{right} did not"
    )


def _failures_in_a_line(records: Records) -> str:
    return "; ".join(
        f"seen in {r['recognised']} of {r['failed']} failures, {r['undecided']} undecided; wrongly "
        f"said of {r['false alarms']} of {r['good']} good runs"
        for r in records
        if r["runs that"] == "all"
    )


def _is_linear(record: Mapping[str, Any]) -> bool:
    return ", linear, " in record["network"]


def _of_onset(records: Records) -> Iterator[list[str]]:
    nets, linear = ([r for r in records if _is_linear(r) == is_one] for is_one in (False, True))
    yield from _of_onsets(nets)
    yield from _onset_of_one(linear, "a linear model, trained so", ALONE)


ALONE = ": what training alone does, theory being exact"


def _onset_of_one(records: Records, name: str, why: str = "") -> Iterator[list[str]]:
    for record in records:
        if (error := record["error of the onset"]) is not None:
            failed = ", its verdict there being signal-unclaimed" if _has_failed(record) else ""
            who = f"{name}; {WARM_UPS[record['warm-up']]}"
            yield ["the same", who, f"error {_percent(error)}{why or failed}"]


def _of_onsets(records: Records) -> Iterator[list[str]]:
    for warm_up, words in WARM_UPS.items():
        own = [r for r in records if r["warm-up"] == warm_up]
        found = [r for r in own if r["error of the onset"] is not None]
        if not found:
            continue
        found.sort(key=lambda r: r["error of the onset"])
        errors = [r["error of the onset"] for r in found]
        near = sum(abs(error) <= NEAR for error in errors)
        ends = " to ".join(
            f"{_percent(r['error of the onset'])} ({_about(r)})" for r in (found[0], found[-1])
        )
        text = (
            f"median error {_percent(np.median(errors))}, {ends}; within 5% in {near} of "
            f"{len(errors)}"
        )
        lower = [r["their loss below the collapsed (nats, most)"] for r in own]
        alive = sum(r["runs alive above the onset"] for r in own)
        if alive:
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


def _about(record: Mapping[str, Any]) -> str:
    """Return which network it was, and that its optimiser failed if the verdict there says so."""
    failed = ", whose verdict there is signal-unclaimed" if _has_failed(record) else ""
    return f"{record['network']}{failed}"


def _has_failed(record: Mapping[str, Any]) -> bool:
    return bool(record["verdict there"] == "signal-unclaimed")


def _percent(share: float) -> str:
    """Return a signed share in percent; no minus where it rounds to nothing.

    Example:
        >>> _percent(-0.0652), _percent(-0.0001)
        ('-6.5%', '0.0%')
    """
    text = f"{share:+.1%}"
    return "0.0%" if float(text[:-1]) == 0 else text


def _of_units(records: Records) -> Iterator[list[str]]:
    records = [r for r in records if not _is_linear(r)]
    for warm_up, words in WARM_UPS.items():
        own = [r for r in records if r["warm-up"] == warm_up]
        if not own:
            continue
        yield [
            "between how many units a network keeps (`--network`)",
            f"{sum(r['runs'] for r in own)} runs of {len(own)} networks; {words}",
            _in_brackets(own),
        ]
    if records:
        kept, linear = (_mean(records, name) for name in ("kept", "kept by the linear optimum"))
        ratios = [r["KL / linear KL, median"] for r in records]
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


def _mean(records: Records, name: str) -> float:
    """Return the mean of a column over the runs."""
    return float(np.average([r[name] for r in records], weights=[r["runs"] for r in records]))


def _of_gain(confusion: Records, gains: Records) -> Iterator[list[str]]:
    if not confusion:
        return
    said = {r["the diagnosis says: one more unit"]: r for r in confusion}
    close = sum(r["too close to tell"] for r in confusion)
    pairs = sum(r["it paid"] + r["it did not"] for r in confusion) + close
    text = "; ".join(
        f"of {told} {words}, {r[right]} {did}"
        for answer, words, right, did in (
            ("pays", "said to pay", "it paid", "did"),
            ("does not pay", "said not to pay", "it did not", "did not"),
            ("undecided", "undecided", "it paid", "did"),
        )
        for r in [said[answer]]
        if (told := r["it paid"] + r["it did not"])
    )
    if close:
        text += f" ({close} others too close to tell)"
    yield ["one more unit pays, or does not", f"{pairs} networks of 1 to 6 units", text]
    known = [r for r in gains if r["brought / said, median"] is not None]
    if known:
        middle = np.median([r["brought / said, median"] for r in known])
        least, most = min(r["10%"] for r in known), max(r["90%"] for r in known)
        yield [
            "by how many nats",
            "those said to pay that did",
            f"brought {middle:.1f} times what was said (median; mostly {least:.1f} to {most:.1f})",
        ]
    absurd = sum(r["said more than all units brought"] for r in gains)
    if absurd:
        yield [
            "the same",
            f"all {pairs}",
            f"{absurd} times it was more than all units together brought: a number that says "
            "nothing but that a unit pays",
        ]


def _of_failures(records: Records) -> Iterator[list[str]]:
    for record in records:
        if record["runs that"] == "all":
            failed, good = record["failed"], record["good"]
            yield [
                "the optimiser failed, or did not",
                f"{failed} planted or found failures, {good} good runs",
                f"{record['recognised']} failures recognised, {record['undecided']} undecided, "
                f"{record['called fine']} called fine; of the good runs {record['false alarms']} "
                f"called failed and {record['good, undecided']} undecided; of "
                f"{record['worse, as many units']} runs that do worse with as many units, "
                f"{record['of these, alarms']} called failed",
            ]


def _section(result: Mapping[str, Any], home: str, notes: list[str]) -> dict[str, Any]:
    """Return what the document says of a row; what is noted of several, once."""
    own = [note for note in result["agreement"]["notes"] if note in notes]
    notes[:] = [note for note in notes if note not in own]
    return {
        "id": result["id"],
        "name": result["name"].removeprefix("Trust: "),
        "claim": result["claim"],
        "verdict": result["agreement"]["verdict"],
        "theory": result["theory"],
        "tables": {
            name: Table.from_dict(values).markdown()
            for name, values in result["tables"].items()
            if name != "pairs"
        },
        "checks": result["agreement"]["checks"],
        "notes": own,
        "figures": [
            {"caption": f["caption"], "file": f"{home}/{Path(f['file']).with_suffix('.png')}"}
            for f in result["figures"]
        ],
        "seeds": len(result["seeds"]),
        "profile": result["profile"],
    }
