"""Options that several commands share, each declared once, and commands that take them by groups.

A group is a dataclass whose fields are options. A command has a parameter per group; in its place
typer sees the group's fields, in a panel of the help that the group names.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import os
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from posterior_collapse.cli.options import SWEPT

__all__ = [
    "SOURCE",
    "DataDir",
    "DataOptions",
    "Device",
    "Dispersion",
    "Likelihood",
    "Model",
    "NumberOptions",
    "ReadingOptions",
    "Scheduler",
    "Source",
    "absolute",
    "among",
    "grouped",
    "likelihoods",
]

option = typer.Option


def among(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what completes an option in the shell, the last of its values if commas part several.

    Args:
        known: Gives the values; called when completing, so that nothing is loaded for it before.

    Example:
        >>> among(lambda: ["linear", "mlp"])("li"), among(lambda: ["relu", "elu"])("relu,e")
        (['linear'], ['relu,elu'])
    """

    def complete(incomplete: str) -> list[str]:
        *before, last = incomplete.split(",")
        return [",".join([*before, one]) for one in known() if one.startswith(last)]

    return complete


def _sources() -> list[str]:
    from posterior_collapse.data.registry import NAMES

    return list(NAMES)


def _data(incomplete: str) -> list[str]:
    """Complete the name of a data set, or that of a file."""
    folder, _, start = incomplete.rpartition("/")
    found = [one for one in _sources() if one.startswith(incomplete)]
    with contextlib.suppress(OSError):
        for path in sorted(Path(folder or ("/" if incomplete.startswith("/") else ".")).iterdir()):
            if path.name.startswith(start) and not path.name.startswith("."):
                lead = incomplete[: len(incomplete) - len(start)]
                found.append(lead + path.name + "/" * path.is_dir())
    return found


def likelihoods() -> Iterable[str]:
    """Return the names of all likelihoods that have one."""
    from posterior_collapse.likelihoods import FAMILIES

    return ("gaussian", *FAMILIES)


SOURCE_HELP = (
    "Data set name (collapse data list), a file, or a folder of pictures or .parquet files."
)
SOURCE = typer.Argument(help=SOURCE_HELP, autocompletion=_data)
Source = Annotated[str, SOURCE]
DataDir = Annotated[
    Path | None,
    option(help="Folder with data set files (else $POSTERIOR_COLLAPSE_DATA, then the user cache)."),
]
Model = Annotated[
    str | None,
    option(
        help="vae, cvae or hvae (default: cvae with --task or --given, else vae).",
        autocompletion=among(lambda: ("vae", "cvae", "hvae")),
    ),
]
Std = among(lambda: ("learned", "shared", "input"))
EtaDec = Annotated[str, option(help="Decoder std in data units, or 'learned'.", autocompletion=Std)]
Likelihood = Annotated[
    str,
    option(
        help="gaussian, bernoulli, poisson, negative-binomial or categorical.",
        autocompletion=among(likelihoods),
    ),
]
Dispersion = Annotated[
    str, option(help="r of a negative binomial, of variance m + m^2/r.", autocompletion=Std)
]
Device = Annotated[
    str | None,
    option(help="cpu, cuda or cuda:N (default: cpu).", autocompletion=among(lambda: DEVICES)),
]
DEVICES = ("cpu", "cuda")
Scheduler = Annotated[
    str | None,
    option(help="ADDRESS of a Dask scheduler, whose workers compute; local:N: N processes here."),
]


@dataclasses.dataclass(frozen=True)
class ReadingOptions:
    """How the file of the data is read, as `posterior_collapse.data.load` is told."""

    panel: ClassVar = "Data"
    label: Annotated[
        str | None, option(help="Only samples of this class, by its number or name.")
    ] = None
    scale: Annotated[float | None, option(help="Factor for the values of a file.")] = None
    header: Annotated[
        bool | None,
        option(
            "--header/--no-header",
            help="Whether the first row of a .csv or .tsv is a header (default: told from rows).",
        ),
    ] = None
    columns: Annotated[
        str | None,
        option(help="Features by name: a,b; of an array 1,2,... (default: all columns)."),
    ] = None
    drop: Annotated[str | None, option(help="Columns to leave out: a,b.")] = None
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

    def chosen(self) -> dict[str, Any]:
        """Return what `posterior_collapse.data.load` is told; a class by number is a number."""
        named = dataclasses.asdict(self)
        label = (self.label or "").strip()
        if label.removeprefix("-").isdecimal():
            named["label"] = int(label)
        return named


@dataclasses.dataclass(frozen=True)
class DataOptions(ReadingOptions):
    """What `posterior_collapse.data.load` is told besides the source."""

    given: Annotated[
        str | None,
        option(help="File with the condition x; DATA is then y.", autocompletion=_data),
    ] = None
    task: Annotated[
        str | None,
        option(
            help="Conditional task on images: quarter or half (what is given).",
            autocompletion=among(lambda: ("quarter", "half")),
        ),
    ] = None
    split: Annotated[
        str,
        option(
            help="train or test, for named image sets.",
            autocompletion=among(lambda: ("train", "test")),
        ),
    ] = "train"

    def kind(self, model: str | None) -> str:
        """Return the model that is meant: without a name, what the data ask for."""
        return model or ("cvae" if self.task or self.given else "vae")


@dataclasses.dataclass(frozen=True)
class NumberOptions:
    """Hyperparameters as text: commas part the values of runs, colons the levels of one value."""

    panel: ClassVar = "Numbers (commas part runs, colons the levels or units of one)"
    beta: Annotated[
        str | None, option(help="Weight of the KL: 0.5,1,2; for hvae of z1:z2 (default: 1).")
    ] = None
    beta_1: Annotated[str | None, option(help="For hvae: of z1 alone.")] = None
    beta_2: Annotated[str | None, option(help="For hvae: of z2 alone.")] = None
    eta_dec: EtaDec = "1"
    eta_enc: Annotated[str, option(help="Prior std.")] = "1"
    sigma: Annotated[
        str | None,
        option(
            help="Posterior std: learned (default), shared, input, a number, or one per unit: "
            "0.5:1:1.",
            autocompletion=Std,
        ),
    ] = None
    sigma_1: Annotated[
        str | None, option(help="For hvae: of z1 (default: 1).", autocompletion=Std)
    ] = None
    sigma_2: Annotated[
        str | None, option(help="For hvae: of z2 (default: learned).", autocompletion=Std)
    ] = None

    def texts(self) -> dict[str, str | None]:
        """Return what can be swept over; beta is 1 unless it is given, of each level or both."""
        found = {name: getattr(self, name, None) for name in SWEPT}
        if self.beta == "1" and (self.beta_1 or self.beta_2):
            found["beta"] = None
        return found


def absolute(source: str) -> str:
    """Return the path of a file that is there, wherever a command is called from; else a name."""
    return str(Path(source).resolve()) if os.path.exists(source) else source


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that typer gives single options, and that takes them by groups.

    Example:
        >>> def forecast(model: str, data: DataOptions) -> None: ...
        >>> list(inspect.signature(grouped(forecast)).parameters)[:3]
        ['model', 'label', 'scale']
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
