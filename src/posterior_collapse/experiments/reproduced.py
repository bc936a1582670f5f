"""What is left of a row: its claim, what was measured beside theory, and whether they agree."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from posterior_collapse import checks
from posterior_collapse.errors import CorruptFileError, MissingFileError, count_of
from posterior_collapse.experiments.tables import Table
from posterior_collapse.files import read_json
from posterior_collapse.records import Record

RESULT = "result.json"
"""The file in a row's folder that says everything, beside its tables and figures."""
ENDINGS = (".png", ".pdf", ".csv", ".npz")
"""Of the files of a table or a figure."""
UNKNOWN: Mapping[str, Any] = {"command": "", "whole": "", "takes": "", "runs": {}}
"""What results of an early version do not say."""


@dataclass(frozen=True, repr=False)
class Reproduced(Record):
    """A row as `reproduce` returns it and as its `result.json` keeps it.

    Attributes:
        id: Of the row, such as "E3".
        name: What it varies.
        claim: What it sets out to show.
        theory: What theory predicts.
        data: What its runs were trained on.
        settings: Per grid of its runs what they share, and the values of what varies.
        convention: Of the loss: "elbo", or "reference" as published.
        profile: "full", "quick", or "smaller: " and by how much.
        command: Which ran it.
        whole: The command that runs it at full size.
        takes: How long that takes, in words; "" of a minute or less.
        version: Of the package.
        hardware: On which its runs were trained.
        wall_s: Seconds that its runs took, by the clock.
        runs: Those seconds, by the key of the run.
        seeds: Of its runs.
        tables: By name.
        figures: The `file` of each, in the row's folder, and its `caption`.
        agreement: What its checks say; see `checks.agreement`.
        published: What is known of the published script.

    Example:
        >>> import tempfile
        >>> from posterior_collapse.experiments import Plan, chosen, reproduce
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (result,) = reproduce(chosen("E8"), folder, Plan(quick=True))
        ...     again = Reproduced.read(Path(folder, "E8", RESULT))
        >>> result
        Reproduced(E8, quick: agrees, 1 of 1 check)
        >>> again.to_dict() == result.to_dict()
        True
    """

    id: str
    name: str
    claim: str
    theory: Any
    data: Sequence[str]
    settings: Mapping[str, Any]
    convention: str
    profile: str
    command: str
    whole: str
    takes: str
    version: str
    hardware: str
    wall_s: float
    runs: Mapping[str, float]
    seeds: Sequence[int]
    tables: Mapping[str, Table]
    figures: Sequence[Mapping[str, str]]
    agreement: Mapping[str, Any]
    published: str

    @property
    def verdict(self) -> str:
        """Of all checks: "agrees", "partly", "differs" or "not measured"."""
        return str(self.agreement["verdict"])

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Reproduced:
        """Return what a row's `result.json` holds.

        Raises:
            MissingFileError: There is none; says whether tables are there, as of a row that is
                being written.
            CorruptFileError: It is not what a row leaves, or of another row, or differs from a
                table beside it.
        """
        path = Path(path)
        check_whole(path.parent)
        if not path.is_file():
            raise MissingFileError(
                str(path), "nothing", f"the result of {path.parent.name}",
                f"Run collapse reproduce {path.parent.name} first, or name its folder with --out.",
            )  # fmt: skip
        values = {**UNKNOWN, **read_json(path)}
        names = [field.name for field in fields(cls)]
        with shown(path):
            if lacking := [name for name in names if name not in values]:
                raise KeyError(", ".join(lacking))
            values["tables"] = {t: Table.from_dict(of) for t, of in values["tables"].items()}
            result = cls(**{name: values[name] for name in names})
            result._check(path.parent)
        return result

    @property
    def files(self) -> list[str]:
        """The files of its tables and figures, in the row's folder; not each need be there."""
        stems = [f"table-{name}" for name in self.tables]
        stems += [Path(figure["file"]).stem for figure in self.figures]
        return [f"{stem}{ending}" for stem in stems for ending in ENDINGS]

    def _check(self, home: Path) -> None:
        """Refuse what was put into another row's folder, or differs from what else lies there."""
        if self.id != home.name:
            raise ValueError(f"the row {self.id} in the folder {home.name}")
        for figure in self.figures:
            checks.file_name("figure", figure["file"])
        for name, table in self.tables.items():
            path = home / checks.file_name("table", f"table-{name}.csv")
            if path.is_file() and _finite(path.read_text("utf-8")) != _finite(table.csv()):
                raise ValueError(f"another table {name} than {path.name}")

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield the checks, for `to_frame`."""
        checked = self.agreement["checks"]
        kinds = self.agreement.get("kinds") or [None] * len(checked)  # None: an early version
        for (verdict, text), kind in zip(checked, kinds, strict=True):
            yield {"kind": kind, "verdict": verdict, "check": text}

    def __repr__(self) -> str:
        found = [verdict for verdict, _ in self.agreement["checks"]]
        agree = f"{found.count('agrees')} of {count_of(len(found), 'check')}"
        return f"Reproduced({self.id}, {self.profile}: {self.verdict}, {agree})"


def check_whole(home: Path) -> None:
    """Refuse a row's folder in which tables lie and, as it is written last, no result.

    Raises:
        MissingFileError: So it is.
    """
    path = home / RESULT
    if any(home.glob("table-*.csv")) and not path.is_file():
        raise MissingFileError(
            str(path), "nothing, beside tables", "the result that is written after them",
            f"Wait for the process that writes it, or reproduce {home.name} again.",
        )  # fmt: skip


@contextlib.contextmanager
def shown(path: Path) -> Iterator[None]:
    """Say which row's result has values that cannot be shown.

    Raises:
        CorruptFileError: Whatever is raised within, of them.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        raise CorruptFileError(
            str(path),
            f"values that cannot be shown ({type(error).__name__}: {error})",
            "the result of a row",
            "Remove the file and reproduce the row again.",
        ) from error


def _finite(text: str) -> str:
    r"""Return CSV with nothing in the cells that JSON has no number for.

    Example:
        >>> _finite("beta,information\n1,nan\ninf,-inf\n")
        'beta,information\n1,\n,\n'
    """
    return re.sub(r"(?<![^,\n])(nan|-?inf)(?=[,\n])", "", text)
