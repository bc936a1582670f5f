"""The document of the reproduction, written from what the rows' runs left: no number by hand."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from posterior_collapse.errors import MissingFileError, count_of, enumerated
from posterior_collapse.experiments import wording
from posterior_collapse.experiments.checks import NOT_MEASURED
from posterior_collapse.experiments.machines import hours, named, processor, processors, smaller
from posterior_collapse.experiments.reproduced import (
    ENDINGS,
    RESULT,
    Reproduced,
    check_whole,
    shown,
)
from posterior_collapse.experiments.tables import Table
from posterior_collapse.files import write_text

MOST_ROWS = 16
"""Rows of a table, and comparisons of a row, up to which they are not folded."""
TOO_MANY, EVERY = 60, 5
"""Rows of a table from which on only some are shown, beside its CSV with all; and which."""
SEVERAL = 3
"""Notes that rows share from which a later one names the earlier in their place."""
REFERENCE = "reference"
"""Folder within the results for rows trained as published: their names say so."""
MOST_NAMED = 6
"""Rows of a verdict up to which all are named, if there are more than these."""
SAID = {
    "agrees": ("agrees", "agree"),
    "partly": ("agrees partly", "agree partly"),
    "differs": ("differs", "differ"),
    "not measured": ("did not measure what was expected",) * 2,
}
"""Verdicts of one row and of several, as a sentence has them."""
AT_SETTINGS = r"of theory at (\d+) of (\d+) settings?"
"""What comparisons with theory say (`checks.near_count`, `near_kl`)."""
KINDS = ("direction", "numbers")
"""Kinds of checks, each with a verdict of its own."""


def write(results: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Write the document; nothing half-written is left.

    Args:
        results: Folder with one folder per row, each with its `result.json`; those in its folder
            `reference` stand beside them.
        target: Markdown file; its folder is made if needed. Figures are linked, not copied.

    Raises:
        MissingFileError: No row has a result there.
        CorruptFileError: A result is not what a row leaves.
        OutputError: The target cannot be written.
    """
    path = Path(target)
    return write_text(path, render(results, path.parent))


def render(results: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return the document as Markdown, with links that lead to the figures from `folder`."""
    paths = _paths(Path(results))
    rows = [_row(path, Path(folder)) for path in paths]
    _tell_once(rows)
    _claim_once(rows)
    return rendered(
        "reproduction.md.jinja",
        folder=_relative(Path(results), Path(folder)),
        verdicts=_verdicts(rows),
        overview=_overview(rows),
        sizes=_sizes(rows),
        hours=hours(rows),
        unknown=enumerated([row["id"] for row in rows if not row["runs"]]),
        processors=processors(Path(results)),
        rows=rows,
    )


def duration(seconds: float) -> str:
    """Return a wall time for reading.

    Example:
        >>> [duration(s) for s in (0.25, 42, 190, 7261)]
        ['0.2 s', '42 s', '3 min 10 s', '2 h 1 min']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _paths(results: Path) -> list[Path]:
    def order(path: Path) -> tuple[bool, int, str, bool]:
        name, aside = path.parent.name, path.parent.parent != results
        number = re.fullmatch(r"E(\d+)", name)
        return (number is None, int(number[1]) if number else 0, name, aside)

    for table in [*results.glob("*/table-*.csv"), *results.glob(f"{REFERENCE}/*/table-*.csv")]:
        check_whole(table.parent)
    found = [*results.glob(f"*/{RESULT}"), *results.glob(f"{REFERENCE}/*/{RESULT}")]
    paths = sorted(found, key=order)
    if not paths:
        raise MissingFileError(
            str(results),
            f"no folder with a {RESULT}",
            "results of finished rows",
            "Run collapse reproduce first, or name its folder with --out.",
        )
    return paths


def _row(path: Path, folder: Path) -> dict[str, Any]:
    """Return a row's result with its values as Markdown, to be shown in `folder`."""
    result = Reproduced.read(path)
    with shown(path):
        return result.to_dict() | _section(result, path.parent, folder)


def _section(result: Reproduced, home: Path, folder: Path) -> dict[str, Any]:
    about = {key: getattr(result, key) for key in ("version", "convention", "seeds")}
    about["hardware"] = named(result.hardware)
    figures = [_figure(figure, home, folder) for figure in result.figures]
    published = " (reference convention)" if result.convention == REFERENCE else ""
    name = result.name + published
    anchor = _anchor(f"{result.id}: {name}")
    return {
        "name": name,
        "anchor": anchor,
        "link": f"[{result.id}](#{anchor})",
        "claim": wording.prose(result.claim),
        "theory": wording.listed(result.theory),
        "published": wording.prose(result.published),
        "tables": [_table(name, table, home, folder) for name, table in result.tables.items()],
        "figures": [figure for figure in figures if figure["image"] or figure["links"]],
        "data": " and ".join(result.data),
        "agreement": _agreement(result.agreement),
        "smaller": smaller(result.profile),
        "how": _how(result, home.parent),
        "home": _relative(home, folder),
        "provenance": wording.listed({**about, "wall time": duration(result.wall_s)}).strip(),
        "grids": result.settings,
        "settings": "\n".join(f"- {wording.prose(line)}" for line in wording.told(result.settings)),
    }


def _tell_once(rows: Sequence[Mapping[str, Any]]) -> None:
    """Leave out notes where an earlier row has several of them, and say which row that is."""
    told: dict[str, str] = {}
    for row in rows:
        notes = row["agreement"]["notes"]
        for other, count in Counter(told[note] for note in notes if note in told).items():
            if count >= SEVERAL:
                notes[:] = [note for note in notes if told.get(note) != other]
                notes.append(f"{count} notes of {other} hold here too.")
        for note in notes:
            told.setdefault(note, row["link"])


def _claim_once(rows: Sequence[dict[str, Any]]) -> None:
    """Name the row before in place of claim and theory where it has the same."""
    rows[0]["as_before"] = ""
    for before, row in pairwise(rows):
        same = all(before[name] == row[name] for name in ("id", "claim", "theory"))
        row["as_before"] = f"[{before['name']}](#{before['anchor']})" if same else ""


def _table(name: str, table: Table, home: Path, folder: Path) -> dict[str, Any]:
    """Return a table to be shown; of a very long one some rows, and where all of them are."""
    file, count = home / f"table-{name}.csv", len(table.rows)
    some = count > TOO_MANY and file.is_file()
    if some:
        table = Table(table.columns, table.rows[::EVERY])
    return {
        "name": name,
        "text": table.markdown(),
        "long": len(table.rows) > MOST_ROWS,
        "shown": f"One row in {EVERY} of {count} is shown",
        "all": _relative(file, folder) if some else "",
    }


def _how(result: Reproduced, results: Path) -> str:
    """Return by which command a row was run, and, of a smaller one, which runs it whole."""
    # Next to the other convention's results, not in their place.
    into = f" --out {results.parent.name}/{REFERENCE}" * (results.name == REFERENCE)
    if not result.command:  # of an early version
        seeds = f" --seeds {len(result.seeds)}" if len(result.seeds) > 1 else ""
        known = result.profile == "full"
        return f"by `collapse reproduce {result.id}{seeds}`" if known else ""
    text = f"by `{result.command}{into}`"
    if result.profile != "full" and result.whole != result.command:
        takes = f" ({result.takes})" if result.takes else ""
        text += f"; at full size by `{result.whole}{into}`{takes}"
    return text


def _agreement(agreement: Mapping[str, Any]) -> dict[str, Any]:
    """Return verdict, sentences and notes; the sentences have their own verdicts where mixed."""
    mixed = len({verdict for verdict, _ in agreement["checks"]}) > 1
    counts = {kind: _counted(agreement, kind) for kind in KINDS}
    return {
        "verdict": wording.prose(agreement["verdict"]),
        "counts": counts,
        "parted": "; ".join(f"{kind}: {count}" for kind, count in counts.items() if count),
        **{kind: agreement.get(kind) for kind in KINDS},
        "long": len(agreement["checks"]) > MOST_ROWS,
        "checks": [
            wording.prose(f"{v}: {said}" if mixed else said) for v, said in agreement["checks"]
        ],
        "notes": [wording.prose(note) for note in agreement["notes"]],
    }


def _counted(agreement: Mapping[str, Any], kind: str) -> str:
    """Return the verdict of a kind of checks, how many of them agree, and in how many cases.

    A case is a count or a KL at a setting, so a setting where both are compared is two cases.

    Example:
        >>> near = "KL: within 10% (or 0.1 nats) of theory at 3 of 4 settings; farthest at ..."
        >>> checks = [["agrees", "A."], ["differs", near], ["agrees", "B."]]
        >>> kinds = ["direction", "numbers", "numbers"]
        >>> told = {"checks": checks, "kinds": kinds, "direction": "agrees", "numbers": "partly"}
        >>> [_counted(told, kind) for kind in ("direction", "numbers")]
        ['agrees, 1 of 1', 'partly, 1 of 2, near in 3 of 4 cases']
        >>> told = {"checks": [*checks, ["not measured", "C."]], "kinds": [*kinds, "direction"]}
        >>> _counted({**told, "direction": "partly"}, "direction")
        'partly, 1 of 2, 1 not measured'
    """
    if not (verdict := agreement.get(kind)):
        return ""
    each = zip(agreement["checks"], agreement.get("kinds", ()), strict=False)
    own = [check for check, of in each if of == kind]
    if not own:
        return str(verdict)
    number = Counter(found for found, _ in own)
    said = f"{verdict}, {number['agrees']} of {len(own)}"
    if verdict != NOT_MEASURED and (unknown := number[NOT_MEASURED]):
        said += f", {unknown} not measured"
    at = [(int(n), int(of)) for _, text in own for n, of in re.findall(AT_SETTINGS, text)]
    good, cases = (sum(column) for column in zip(*at, strict=True)) if at else (0, 0)
    return f"{said}, near in {good} of {count_of(cases, 'case')}" if cases else said


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in one line how many rows agree with what was expected."""
    told = []
    for verdict, words in SAID.items():
        if own := [_which(row) for row in rows if row["agreement"]["verdict"] == verdict]:
            named = f" ({enumerated(own)})" if len(own) <= MOST_NAMED < len(rows) else ""
            told.append(f"{len(own)} {words[len(own) != 1]}{named}")
    said = f"Of {count_of(len(rows), 'row')}, {enumerated(told)}."
    for kind in KINDS:
        count = Counter(filter(None, (row["agreement"][kind] for row in rows)))
        if judged := count.total():
            (agree, wholly), (some, partly) = (
                (count[found], SAID[found][count[found] != 1]) for found in ("agrees", "partly")
            )
            said += f" By {kind} alone, {agree} of {judged} {wholly} and {some} {partly}."
    return said


def _which(row: Mapping[str, Any]) -> str:
    """Return the row's id, and of one that was trained on the published loss its convention."""
    return f"{row['id']}{' in the reference convention' * (row['convention'] == REFERENCE)}"


def _overview(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what each row claims, and whether it was found so."""
    records = []
    for row in rows:
        told = row["agreement"]
        verdicts = {kind: told["counts"][kind] for kind in KINDS}
        if not any(verdicts.values()):  # of an earlier version
            verdicts[KINDS[0]] = told["verdict"]
        name, claim = row["name"], row["claim"]
        if row["as_before"]:
            name, claim = f"in the {row['convention']} convention", "the same"
        records.append({"row": row["link"], "experiment": name, "claim": claim, **verdicts})
    return Table.of(records).markdown()


def _sizes(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return at which size each row was run, and how long that took."""
    records = [
        {
            "row": row["link"],
            "convention": row["convention"],
            "size": row["smaller"] or "full",
            "seeds": _seeds(row),
            "hours": f"{row['wall_s'] / 3600:.2g}",
            "on": processor(row["hardware"]),
        }
        for row in rows
    ]
    return Table.of(records).markdown()


def _figure(figure: Mapping[str, str], home: Path, folder: Path) -> dict[str, Any]:
    files = [(home / figure["file"]).with_suffix(ending) for ending in ENDINGS]
    links = {f.suffix[1:].upper(): _relative(f, folder) for f in files if f.is_file()}
    return {
        "caption": wording.prose(figure["caption"]),
        "image": links.pop("PNG", ""),
        "links": links,
    }


def _seeds(row: Mapping[str, Any]) -> str:
    """Return of how many seeds most of a row's grids are, and which have fewer.

    Example:
        >>> grids = {"matrix": {"seeds": 5}, "MNIST": {"seeds": 1}, "MNIST, exact": {"seeds": 1}}
        >>> _seeds({"grids": grids, "seeds": [1, 2, 3, 4, 5, 6]})
        '5 (MNIST: 1)'
        >>> wide = {"random pairs: 256 hidden units": {"seeds": 1}}
        >>> _seeds({"grids": {"pairs": {"seeds": 5}, **wide}, "seeds": [4, 5, 6, 7, 8]})
        '5 (256 hidden units: 1)'
        >>> _seeds({"grids": {"beta": {}}, "seeds": [1, 2]})  # of an earlier version
        '2'
    """
    grids = {t: grid for t, grid in row["grids"].items() if isinstance(grid, Mapping)}
    if not grids or any("seeds" not in grid for grid in grids.values()):
        return str(len(row["seeds"]))
    counts = {title: int(grid["seeds"]) for title, grid in grids.items()}
    most = max(counts.values())
    fewer: dict[int, dict[str, None]] = {}
    for title, count in counts.items():
        if count < most:
            fewer.setdefault(count, {})[title.rpartition(": ")[2].removesuffix(", exact")] = None
    rest = "; ".join(f"{', '.join(titles)}: {count}" for count, titles in fewer.items())
    return f"{most} ({rest})" if rest else str(most)


def _relative(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def _anchor(heading: str) -> str:
    """Return the fragment GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def rendered(template: str, **values: Any) -> str:
    """Return a document in Markdown, from a template and what it names."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("posterior_collapse.experiments"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, from the package's own results
    )
    return re.sub(r"\n{3,}", "\n\n", environment.get_template(template).render(values))
