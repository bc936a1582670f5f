"""The errors of all rows of the study in one table, and in a short one that the README shows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posterior_collapse.errors import CorruptFileError, MissingFileError, enumerated
from posterior_collapse.experiments.document import rendered
from posterior_collapse.experiments.machines import named, smaller
from posterior_collapse.experiments.reproduced import RESULT, Reproduced, check_whole, shown
from posterior_collapse.experiments.trust_table import (
    BESIDE,
    CONVOLUTIONAL,
    OTHERS,
    ROWS,
    headlines,
    picture,
    summary,
)
from posterior_collapse.files import write_text

BEGIN = "<!-- written by `collapse reproduce trust`: begin -->"
END = "<!-- written by `collapse reproduce trust`: end -->"
"""Between these lines of the README stands what `block` returns."""
FIGURE = "trust"
"""Name of the figure beside the document."""


def write(
    results: str | os.PathLike[str],
    readme: str | os.PathLike[str] = "README.md",
    document: str | os.PathLike[str] = "docs/trust.md",
) -> tuple[Path, Path]:
    """Write what the study found: all of it into a document, a short table into the README.

    Args:
        results: Folder with the results of the rows X3a to X3d, and of those beside if there.
        readme: Has the two lines `BEGIN` and `END`; what is between them is replaced.
        document: Markdown file that is written anew, and beside it the figure of all networks;
            those of the rows are linked, not copied.

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
    write_text(target, text)
    picture(_found(Path(results))).save(target.parent, FIGURE)
    write_text(home, changed)
    return home, target


def block(results: str | os.PathLike[str]) -> str:
    """Return the short table of the README, from the results alone."""
    found = _found(Path(results))
    with shown(Path(results)):
        return f"{headlines(found).markdown()}\n{_otherwise(found)}"


def table(results: str | os.PathLike[str]) -> str:
    """Return the table with every error, from the results alone."""
    return f"{summary(_found(Path(results))).markdown()}\n"


def _found(results: Path) -> dict[str, Reproduced]:
    """Return the results of the rows, of those beside the study where they are there."""
    for row in (CONVOLUTIONAL, BESIDE, OTHERS):
        check_whole(results / row)
    beside = [row for row in (CONVOLUTIONAL, BESIDE, OTHERS) if (results / row / RESULT).is_file()]
    return {row: Reproduced.read(results / row / RESULT) for row in (*ROWS, *beside)}


def _otherwise(found: Mapping[str, Reproduced]) -> str:
    """Say which rows were not run as the study is, and how; "" of none."""
    how = {
        row: [smaller(result.profile), "reference convention" * (result.convention != "elbo")]
        for row, result in found.items()
    }
    told = [f"{row} ({', '.join(filter(None, words))})" for row, words in how.items() if any(words)]
    return f"\nNot run as the study is: {enumerated(told)}.\n" if told else ""


def render(results: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return the document as Markdown, with links that lead to the figures from `folder`."""
    found = _found(Path(results))
    with shown(Path(results)):
        return _page(found, Path(os.path.relpath(results, folder)).as_posix())


def _page(found: Mapping[str, Reproduced], home: str) -> str:
    on = [named(result.hardware).split("; ") for result in found.values()]
    machines = dict.fromkeys(machine for each in on for machine in each)
    notes = [note for result in found.values() for note in result.agreement["notes"]]
    return rendered(
        "trust.md.jinja",
        figure=FIGURE,
        summary=f"{summary(found).markdown()}\n{_otherwise(found)}".rstrip(),
        rows=[_section(result, f"{home}/{row}", notes) for row, result in found.items()],
        convolutional=CONVOLUTIONAL in found,
        beside=BESIDE in found,
        long=BESIDE in found and "long" in found[BESIDE].tables,
        others=OTHERS in found,
        hardware="; ".join(machines),
    )


def _between(text: str, inner: str, name: str) -> str:
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", text)
    if [parts[i] for i in range(1, len(parts), 2)] != [BEGIN, END]:
        raise CorruptFileError(
            name, "no place for the table", f"one line {BEGIN!r} and, after it, one {END!r}",
            "Put the lines where the table is to stand.",
        )  # fmt: skip
    return f"{parts[0]}{BEGIN}\n{inner}{END}{parts[4]}"


def _section(result: Reproduced, home: str, notes: list[str]) -> dict[str, Any]:
    """Return what the document says of a row; what is noted of several, once."""
    own = [note for note in result.agreement["notes"] if note in notes]
    notes[:] = [note for note in notes if note not in own]
    return result.to_dict() | {
        "name": result.name.removeprefix("Trust: "),
        "verdict": result.verdict,
        "tables": {
            name: table.markdown() for name, table in result.tables.items() if name != "pairs"
        },
        "checks": result.agreement["checks"],
        "notes": own,
        "figures": [
            {"caption": f["caption"], "file": f"{home}/{Path(f['file']).with_suffix('.png')}"}
            for f in result.figures
        ],
        "seeds": len(result.seeds),
    }
