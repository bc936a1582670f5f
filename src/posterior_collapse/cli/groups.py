"""Options that several commands share, each declared once, and commands that take them by groups.

A group is a dataclass whose fields are options. A command has a parameter per group; in its place
typer sees the group's fields, in a panel of the help that the group names.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

__all__ = [
    "SOURCE_HELP",
    "DataDir",
    "DataOptions",
    "Dispersion",
    "EtaDec",
    "Header",
    "Likelihood",
    "Model",
    "Scheduler",
    "Sigma1",
    "Sigma2",
    "Source",
    "grouped",
]

option = typer.Option
SOURCE_HELP = "Data set name (collapse data list), a file, or a folder of pictures."
Source = Annotated[str, typer.Argument(help=SOURCE_HELP)]
DataDir = Annotated[
    Path | None,
    option(help="Folder with data set files (else $POSTERIOR_COLLAPSE_DATA, then the user cache)."),
]
Header = Annotated[
    bool | None,
    option(
        "--header/--no-header",
        help="Whether the first row of a .csv or .tsv is a header (default: told from the rows).",
    ),
]
Model = Annotated[
    str | None,
    option(help="vae, cvae or hvae (default: cvae with --task or --given, else vae)."),
]
EtaDec = Annotated[str, option(help="Decoder std in data units, or 'learned'.")]
Likelihood = Annotated[
    str, option(help="gaussian, bernoulli, poisson, negative-binomial or categorical.")
]
Dispersion = Annotated[str, option(help="r of a negative binomial, of variance m + m^2/r.")]
Scheduler = Annotated[
    str | None,
    option(help="ADDRESS of a Dask scheduler, whose workers compute; local:N: N processes here."),
]
Sigma1 = Annotated[str | None, option(help="For hvae: of z1 (default: 1).")]
Sigma2 = Annotated[str | None, option(help="For hvae: of z2 (default: learned).")]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What `posterior_collapse.data.load` is told besides the source."""

    panel: ClassVar = "Data"
    given: Annotated[str | None, option(help="File with the condition x; DATA is then y.")] = None
    task: Annotated[
        str | None, option(help="Conditional task on images: quarter or half (what is given).")
    ] = None
    label: Annotated[int | None, option(help="Only samples of this class.")] = None
    scale: Annotated[float | None, option(help="Factor for the values of a file.")] = None
    split: Annotated[str, option(help="train or test, for named image sets.")] = "train"
    header: Header = None
    columns: Annotated[
        str | None, option(help="Features of a table, by name: a,b (default: all columns).")
    ] = None
    drop: Annotated[str | None, option(help="Columns of a table to leave out: a,b.")] = None
    label_column: Annotated[
        str | None, option(help="Column of a table's labels (default: label, if there is one).")
    ] = None
    key: Annotated[str | None, option(help="The array that is meant, of a file with several.")] = (
        None
    )
    standardize: Annotated[
        bool,
        option("--standardize", help="Bring every column to mean 0, std 1 (eta_dec is in stds)."),
    ] = False
    data_dir: DataDir = None

    def kind(self, model: str | None) -> str:
        """Return the model that is meant: without a name, what the data ask for."""
        return model or ("cvae" if self.task or self.given else "vae")


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that typer gives single options, and that takes them by groups.

    Example:
        >>> def forecast(model: str, data: DataOptions) -> None: ...
        >>> list(inspect.signature(grouped(forecast)).parameters)[:3]
        ['model', 'given', 'task']
    """
    hints = typing.get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters
    groups = {name: hints[name] for name in parameters if dataclasses.is_dataclass(hints[name])}

    @functools.wraps(command)
    def called(**values: Any) -> None:
        for name, group in groups.items():
            fields = dataclasses.fields(group)
            values[name] = group(**{field.name: values.pop(field.name) for field in fields})
        command(**values)

    options: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        own = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        options += _options(groups[name]) if name in groups else [own]
    called.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in options}
    return called


def _options(group: Any) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        kind, declared = typing.get_args(hints[field.name])
        declared = copy.copy(declared)
        declared.rich_help_panel = group.panel
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[kind, declared],
        )
