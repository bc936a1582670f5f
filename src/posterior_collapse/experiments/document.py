"""The document of the reproduction, written from what the rows' runs left: no number by hand."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from posterior_collapse import checks
from posterior_collapse.errors import CorruptFileError, MissingFileError, enumerated
from posterior_collapse.experiments.machines import (
    RESULT,
    hours,
    named,
    processor,
    processors,
    smaller,
)
from posterior_collapse.experiments.tables import Table, format_cell
from posterior_collapse.files import read_json, write_text

KEYS = (
    *("id", "name", "claim", "theory", "data", "settings", "convention", "profile", "version"),
    *("hardware", "wall_s", "seeds", "tables", "figures", "agreement", "published"),
)
"""What a row's result holds, of any version; of this one the commands that run it too."""
MOST_VALUES = 10
"""Values of a setting up to which all are named."""
MOST_ROWS = 16
"""Rows of a table up to which it is not folded."""
SEVERAL = 3
"""Notes that rows share from which a later one names the earlier in their place."""
REFERENCE = "reference"
"""Folder within the results for rows trained as published: their names say so."""
SAID = {
    "agrees": ("agrees", "agree"),
    "partly": ("agrees partly", "agree partly"),
    "differs": ("differs", "differ"),
    "not measured": ("did not measure what was expected",) * 2,
}
"""Verdicts of one row and of several, as a sentence has them."""
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
    return rendered(
        "reproduction.md.jinja",
        folder=_relative(Path(results), Path(folder)),
        verdicts=_verdicts(rows),
        overview=_overview(rows),
        hours=hours(rows),
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
    result = read_json(path)
    lacking = [key for key in KEYS if key not in result]
    try:
        if lacking:
            raise KeyError(", ".join(lacking))
        _check(result, path.parent)
        return result | _section(result, path.parent, folder)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise CorruptFileError(
            str(path),
            f"values that cannot be shown ({type(error).__name__}: {error})",
            "the result of a row",
            "Remove the file and reproduce the row again.",
        ) from error


def _check(result: Mapping[str, Any], home: Path) -> None:
    """Refuse what was put into another row's folder, or differs from what else lies there."""
    if result["id"] != home.name:
        raise ValueError(f"the row {result['id']} in the folder {home.name}")
    for figure in result["figures"]:
        checks.file_name("figure", figure["file"])
    for name, values in result["tables"].items():
        path = home / checks.file_name("table", f"table-{name}.csv")
        shown = Table.from_dict(values).csv()
        if path.is_file() and _finite(path.read_text("utf-8")) != _finite(shown):
            raise ValueError(f"another table {name} than {path.name}")


def _finite(text: str) -> str:
    r"""Return CSV with nothing in the cells that JSON has no number for.

    Example:
        >>> _finite("beta,information\n1,nan\ninf,-inf\n")
        'beta,information\n1,\n,\n'
    """
    return re.sub(r"(?<![^,\n])(nan|-?inf)(?=[,\n])", "", text)


def _section(result: Mapping[str, Any], home: Path, folder: Path) -> dict[str, Any]:
    about = {key: result[key] for key in ("version", "convention", "seeds")}
    about["hardware"] = named(result["hardware"])
    figures = [_figure(figure, home, folder) for figure in result["figures"]]
    published = " (reference convention)" if result["convention"] == REFERENCE else ""
    name = result["name"] + published
    return {
        "name": name,
        "anchor": _anchor(f"{result['id']}: {name}"),
        "claim": _prose(result["claim"]),
        "theory": _values(result["theory"]),
        "published": _prose(result["published"]),
        "tables": [
            {"name": name, "text": table.markdown(), "long": len(table.rows) > MOST_ROWS}
            for name, values in result["tables"].items()
            for table in [Table.from_dict(values)]
        ],
        "figures": [figure for figure in figures if figure["image"] or figure["links"]],
        "data": " and ".join(result["data"]),
        "agreement": _agreement(result["agreement"]),
        "smaller": smaller(result["profile"]),
        "how": _how(result),
        "home": _relative(home, folder),
        "provenance": _values({**about, "wall time": duration(result["wall_s"])}).strip(),
        "grids": result["settings"],
        "settings": _values(_once(result["settings"])).strip(),
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
            told.setdefault(note, f"[{row['id']}](#{row['anchor']})")


def _how(result: Mapping[str, Any]) -> str:
    """Return by which command a row was run, and, of a smaller one, which runs it whole.

    Example:
        >>> run = {"command": "collapse reproduce E2 --epochs 9", "whole": "collapse reproduce E2"}
        >>> _how({**run, "profile": "smaller: 9 of 100 epochs", "takes": "a night"})
        'by `collapse reproduce E2 --epochs 9`; at full size by `collapse reproduce E2` (a night)'
        >>> _how({"profile": "full", "id": "E6", "seeds": [1, 2]})  # of an earlier version
        'by `collapse reproduce E6 --seeds 2`'
    """
    if "command" not in result:
        seeds = f" --seeds {len(result['seeds'])}" if len(result["seeds"]) > 1 else ""
        known = result["profile"] == "full"
        return f"by `collapse reproduce {result['id']}{seeds}`" if known else ""
    text = f"by `{result['command']}`"
    if result["profile"] != "full" and result["whole"] != result["command"]:
        takes = f" ({result['takes']})" if result["takes"] else ""
        text += f"; at full size by `{result['whole']}`{takes}"
    return text


def _agreement(agreement: Mapping[str, Any]) -> dict[str, Any]:
    """Return verdict, sentences and notes; the sentences have their own verdicts where mixed."""
    mixed = len({verdict for verdict, _ in agreement["checks"]}) > 1
    kinds = {kind: agreement.get(kind) for kind in KINDS}
    told = _prose("; ".join(f"{kind}: {verdict}" for kind, verdict in kinds.items() if verdict))
    return {
        "verdict": _prose(agreement["verdict"]),
        "told": told,
        "parted": told if all(kinds.values()) else "",
        **kinds,
        "checks": [_prose(f"{v}: {said}" if mixed else said) for v, said in agreement["checks"]],
        "notes": [_prose(note) for note in agreement["notes"]],
    }


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in one line how many rows agree with what was expected."""
    count = Counter(row["agreement"]["verdict"] for row in rows)
    told = [
        f"{count[verdict]} {words[count[verdict] != 1]}"
        for verdict, words in SAID.items()
        if count[verdict]
    ]
    said = f"Of {len(rows)} rows, {enumerated(told)}."
    for kind in KINDS:
        count = Counter(filter(None, (row["agreement"][kind] for row in rows)))
        if judged := count.total():
            said += (
                f" By {kind} alone, {count['agrees']} of {judged} agree and {count['partly']} "
                "agree partly."
            )
    return said


def _overview(rows: Sequence[Mapping[str, Any]]) -> str:
    records = [
        {
            "row": f"[{row['id']}](#{row['anchor']})",
            "experiment": row["name"],
            "size": row["smaller"] or "full",
            "seeds": _seeds(row),
            "hours": f"{row['wall_s'] / 3600:.2g}",
            "on": processor(row["hardware"]),
            "verdict": row["agreement"]["told"] or row["agreement"]["verdict"],
        }
        for row in rows
    ]
    return Table.of(records).markdown()


def _figure(figure: Mapping[str, str], home: Path, folder: Path) -> dict[str, Any]:
    endings = (".png", ".pdf", ".csv", ".npz")
    files = [(home / figure["file"]).with_suffix(ending) for ending in endings]
    links = {f.suffix[1:].upper(): _relative(f, folder) for f in files if f.is_file()}
    return {"caption": _prose(figure["caption"]), "image": links.pop("PNG", ""), "links": links}


def _values(values: Any) -> str:
    """Return text as it is, and plain values as a list, a line for those that stand together."""
    if isinstance(values, str):
        return _prose(values)
    return "\n\n" + "\n".join(f"- {_prose(line)}" for line in _lines("", values))


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


def _once(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings with what all grids share said once.

    Example:
        >>> _once({"a": {"net": {"name": "relu", "h": 1}}, "b": {"net": {"name": "relu", "h": 2}}})
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


def _prose(text: str) -> str:
    r"""Return plain text such that Markdown shows it as it is: no emphasis, no tags.

    Example:
        >>> print(_prose("(s)_+ and (t)_+ < beta_1 * 2"))
        (s)\_+ and (t)\_+ &lt; beta_1 \* 2
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("*", r"\*")
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", text)


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
