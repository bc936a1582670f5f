"""The document of the reproduction, written from what the rows' runs left: no number by hand."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from posterior_collapse import atomic
from posterior_collapse.errors import CorruptFileError, MissingFileError, writing
from posterior_collapse.experiments.tables import Table
from posterior_collapse.training.run_folders import read_json

__all__ = ["KEYS", "RESULT", "duration", "render", "write"]

RESULT = "result.json"
KEYS = (
    *("id", "name", "claim", "theory", "settings", "convention", "profile", "version", "hardware"),
    *("wall_s", "seeds", "tables", "figures", "agreement", "published"),
)
"""What a row's result holds."""
TEMPLATE = "reproduction.md.jinja"


def write(results: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Write the document; nothing half-written is left.

    Args:
        results: Folder with one folder per row, each with its `result.json`.
        target: Markdown file; its folder is made if needed. Figures are linked, not copied.

    Raises:
        MissingFileError: No row has a result there.
        CorruptFileError: A result is not what a row leaves.
        OutputError: The target cannot be written.
    """
    path = Path(target)
    text = render(results, path.parent)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, text.encode())
    return path


def render(results: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return the document as Markdown.

    Args:
        results: Folder with one folder per row.
        folder: Where the document will stand, so that its links lead to the figures.

    Raises:
        MissingFileError: No row has a result there.
        CorruptFileError: A result is not what a row leaves.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = [(path.parent, _result(path)) for path in _paths(Path(results))]
    environment = Environment(
        loader=PackageLoader("posterior_collapse.experiments"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, from the package's own results
    )
    text = environment.get_template(TEMPLATE).render(
        folder=_relative(Path(results), Path(folder)),
        overview=_overview([result for _, result in found]),
        rows=[_section(result, home, Path(folder)) for home, result in found],
    )
    return re.sub(r"\n{3,}", "\n\n", text)


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
    def order(path: Path) -> tuple[bool, int, str]:
        number = re.fullmatch(r"E(\d+)", path.parent.name)
        return (number is None, int(number[1]) if number else 0, path.parent.name)

    paths = sorted(results.glob(f"*/{RESULT}"), key=order)
    if not paths:
        raise MissingFileError(
            str(results),
            f"no folder with a {RESULT}",
            "results of finished rows",
            "Run collapse reproduce first, or name its folder with --out.",
        )
    return paths


def _result(path: Path) -> dict[str, Any]:
    result = read_json(path)
    lacking = [key for key in KEYS if key not in result]
    if lacking:
        raise CorruptFileError(
            str(path),
            f"no {', '.join(lacking)}",
            "the result of a row",
            "Remove the file and reproduce the row again.",
        )
    return result


def _overview(results: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"[{result['id']}](#{_anchor(result['id'] + ': ' + result['name'])})",
            result["name"],
            result["profile"],
            len(result["seeds"]),
            duration(result["wall_s"]),
            result["agreement"]["verdict"],
        ]
        for result in results
    ]
    return Table(["row", "experiment", "size", "seeds", "wall time", "theory"], rows).markdown()


def _section(result: Mapping[str, Any], home: Path, folder: Path) -> dict[str, Any]:
    return {
        **result,
        "theory": _values(result["theory"]),
        "tables": {k: Table.from_dict(v).markdown() for k, v in result["tables"].items()},
        "figures": [_figure(figure, home, folder) for figure in result["figures"]],
        "smaller": result["profile"].removeprefix("full").removeprefix("smaller: "),
        "provenance": _values(
            {
                "version": result["version"],
                "convention": result["convention"],
                "seeds": result["seeds"],
                "wall time": duration(result["wall_s"]),
                "hardware": result["hardware"],
            }
        ),
        "settings": _values(result["settings"]),
    }


def _figure(figure: Mapping[str, str], home: Path, folder: Path) -> dict[str, Any]:
    files = [(home / figure["file"]).with_suffix(ending) for ending in (".png", ".pdf", ".csv")]
    links = {f.suffix[1:].upper(): _relative(f, folder) for f in files if f.is_file()}
    return {"caption": figure["caption"], "image": links.pop("PNG", ""), "links": links}


def _values(values: Any) -> str:
    """Return text as it is, and plain values as a list, nested ones with dotted names."""
    if isinstance(values, str):
        return values
    return "\n".join(f"- {name}: {value}" for name, value in _flat("", values))


def _flat(name: str, values: Any) -> Iterator[tuple[str, str]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(f"{name}.{key}" if name else str(key), value)
    elif isinstance(values, (list, tuple)):
        yield name, ", ".join(str(value) for value in values)
    else:
        yield name, str(values)


def _relative(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def _anchor(heading: str) -> str:
    """Return the fragment GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
