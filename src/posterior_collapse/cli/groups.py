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
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import typer
from typer import Option

from posterior_collapse.cli import options
from posterior_collapse.cli.options import SWEPT

if TYPE_CHECKING:
    from posterior_collapse.models import Architecture
    from posterior_collapse.records import Viewed
    from posterior_collapse.theory.reading import Bias

PAPER = "vae-relu, cvae-relu, cvae-linear-net, cvae-cnn, hvae-relu, hvae-cnn"


def among(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what completes an option in the shell, the last of its values if commas part several.

    The values are asked for when completing, so that nothing is loaded for them before.

    Example:
        >>> among(lambda: ["linear", "mlp"])("li"), among(lambda: ["relu", "elu"])("relu,e")
        (['linear'], ['relu,elu'])
    """

    def complete(incomplete: str) -> list[str]:
        *before, last = incomplete.split(",")
        return [",".join([*before, one]) for one in known() if one.startswith(last)]

    return complete


def choice(default: str | None, known: Sequence[str], about: str) -> Any:
    """Return an option of few words, which stand in place of `{}` in what it is about.

    Example:
        >>> choice("mean", ("sum", "mean"), "{} over the batch.").help
        'sum or mean over the batch.'
    """
    words = f"{', '.join(known[:-1])} or {known[-1]}"
    return Option(default, help=about.format(words), autocompletion=among(lambda: known))


def _data(incomplete: str) -> list[str]:
    """Complete the name of a data set, or that of a file."""
    from posterior_collapse.data.registry import NAMES

    folder, _, start = incomplete.rpartition("/")
    found = [one for one in NAMES if one.startswith(incomplete)]
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


def _architectures() -> Iterable[str]:
    from posterior_collapse.models.architecture import ARCHITECTURES

    return ARCHITECTURES


def _activations() -> Iterable[str]:
    from posterior_collapse.models.architecture import ACTIVATIONS

    return ACTIVATIONS


SOURCE = typer.Argument(
    help="Data set name (collapse data list), a file, or a folder of pictures or .parquet files.",
    autocompletion=_data,
)
Source = Annotated[str, SOURCE]
DataDir = Annotated[
    Path | None,
    Option(help="Folder with data set files (else $POSTERIOR_COLLAPSE_DATA, then the user cache)."),
]
DEVICES = ("cpu", "cuda")
Device = Annotated[
    str | None,
    Option(help="cpu, cuda or cuda:N (default: cpu).", autocompletion=among(lambda: DEVICES)),
]
Scheduler = Annotated[
    str | None,
    Option(
        help="Address of a Dask scheduler whose workers compute; local:N starts N processes here."
    ),
]
AsJson = Annotated[bool, Option("--json", help="Print JSON (null: no finite value).")]
STD = among(lambda: ("learned", "shared", "input"))


@dataclasses.dataclass(frozen=True)
class ReadingOptions:
    """How the file of the data is read, as `posterior_collapse.data.load` is told."""

    panel: ClassVar = "Data"
    label: str | None = Option(None, help="Only samples of this class, by its number or name.")
    scale: float | None = Option(None, help="Factor for the values of a file.")
    header: bool | None = Option(
        None,
        "--header/--no-header",
        help="Whether the first row of a .csv or .tsv is a header (default: detected).",
    )
    columns: str | None = Option(
        None, help="Columns to use: a,b; of an array 1,2,... (default: all)."
    )
    drop: str | None = Option(None, help="Columns to leave out: a,b.")
    label_column: str | None = Option(
        None, help="Column of a table's labels (default: label, if there is one)."
    )
    key: str | None = Option(None, help="Which array to read, of a file with several.")
    standardize: bool = Option(
        False, "--standardize", help="Bring every column to mean 0, std 1 (eta_dec is in stds)."
    )
    data_dir: DataDir = None

    def chosen(self) -> dict[str, Any]:
        """Return what `posterior_collapse.data.load` is told; a class by number is a number."""
        named = dataclasses.asdict(self)
        label = (self.label or "").strip()
        if label.removeprefix("-").isdecimal():
            named["label"] = int(label)
        return named


OF_ROWS = tuple(field.name for field in dataclasses.fields(ReadingOptions))
"""Options that mean nothing without data to read."""


@dataclasses.dataclass(frozen=True)
class DataOptions(ReadingOptions):
    """What `posterior_collapse.data.load` is told besides the source."""

    given: str | None = Option(
        None, help="File with the condition x; DATA is then y.", autocompletion=_data
    )
    task: str | None = choice(
        None, ("quarter", "half"), "Conditional task on images: {} (what is given)."
    )
    split: str = choice("train", ("train", "test"), "{}, for named image sets.")

    def kind(self, model: str | None) -> str:
        """Return the model that is meant: without a name, what the data ask for."""
        return model or ("cvae" if self.task or self.given else "vae")


@dataclasses.dataclass(frozen=True)
class NumberOptions:
    """Hyperparameters as text: commas part the values of runs, colons the levels of one value."""

    panel: ClassVar = "Numbers (commas part runs, colons the levels or units of one)"
    beta: str | None = Option(None, help="Weight of the KL: 0.5,1,2; for hvae z1:z2 (default: 1).")
    beta_1: str | None = Option(None, help="For hvae: beta of z1 alone.")
    beta_2: str | None = Option(None, help="For hvae: beta of z2 alone.")
    eta_dec: str = Option("1", help="Decoder std in data units, or 'learned'.", autocompletion=STD)
    eta_enc: str = Option("1", help="Prior std.")
    sigma: str | None = Option(
        None,
        help="Posterior std: learned (default), shared, input, a number, or one per unit: 0.5:1:1.",
        autocompletion=STD,
    )
    sigma_1: str | None = Option(
        None, help="For hvae: posterior std of z1 (default: 1).", autocompletion=STD
    )
    sigma_2: str | None = Option(
        None, help="For hvae: posterior std of z2 (default: learned).", autocompletion=STD
    )

    def texts(self) -> dict[str, str | None]:
        """Return what can be swept over; beta is 1 unless it is given, of each level or both."""
        found = {name: getattr(self, name, None) for name in SWEPT}
        if self.beta == "1" and (self.beta_1 or self.beta_2):
            found["beta"] = None
        return found


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The model, its units, and the data's likelihood."""

    model: str | None = choice(
        None, options.MODELS, "{} (default: cvae with --task or --given, else vae)."
    )
    latents: str = Option("16", help="Latent units; for hvae z1:z2.")
    likelihood: str = Option(
        "gaussian",
        help="gaussian, bernoulli, poisson, negative-binomial or categorical.",
        autocompletion=among(likelihoods),
    )
    dispersion: str = Option(
        "learned", help="r of a negative binomial (variance m + m^2/r).", autocompletion=STD
    )

    def of_all_runs(self) -> dict[str, str]:
        """Return what cannot be swept over, as `options.swept` takes it."""
        return {name: getattr(self, name) for name in ("latents", "likelihood", "dispersion")}


@dataclasses.dataclass(frozen=True)
class SpecOptions(NumberOptions, ModelOptions):
    """The hyperparameters."""

    panel: ClassVar = "Model (commas separate runs, colons levels)"
    beta: str | None = Option("1", help="Weight of the KL, or several: 0.5,1,2; for hvae z1:z2.")
    eta_enc: str = Option("1.0", help="Prior std.")
    biases: bool = Option(True, help="Whether the model has biases (central moments).")

    @property
    def bias(self) -> Bias:
        """Which of its layers have biases, as `theory.forecast` is told."""
        return "both" if self.biases else "none"


@dataclasses.dataclass(frozen=True)
class NetworkOptions(ModelOptions):
    """The model and its networks."""

    panel: ClassVar = "Model"
    architecture: str = Option(
        "mlp",
        help=f"linear (as --exact implies), mlp, cnn, or a net of the paper: {PAPER}.",
        autocompletion=among(_architectures),
    )
    hidden: str | None = Option(None, help="Widths of the hidden layers, e.g. 256,128.")
    channels: str | None = Option(None, help="Channels of the convolutions, e.g. 32,16.")
    activation: str | None = Option(
        None,
        help="Activation between layers, e.g. relu, tanh, silu.",
        autocompletion=among(_activations),
    )
    dropout: float | None = Option(None, help="Dropout rate after each hidden layer.")
    initial_std: float | None = Option(None, help="Std of initial weights (default: torch's).")
    biases: bool = Option(True, help="Whether a linear model has biases.")

    def networks(self, context: typer.Context, is_linear: bool) -> Architecture:
        """Return the architecture; what only linear models can do implies a linear one."""
        from posterior_collapse.models import Architecture

        chosen: dict[str, Any] = {
            name: options.numbers(f"--{name}", text, int, parted=",")
            for name, text in (("hidden", self.hidden), ("channels", self.channels))
            if text
        }
        for name in ("activation", "dropout", "initial_std"):
            if getattr(self, name) is not None:
                chosen[name] = getattr(self, name)
        if not self.biases:
            chosen["bias"] = False
        implied = is_linear and not options.is_given(context, "architecture")
        return Architecture.named("linear" if implied else self.architecture, **chosen)


@dataclasses.dataclass(frozen=True)
class ViewOptions:
    """Files in which a result is to be seen."""

    panel: ClassVar = "Output"
    plot: Path | None = Option(
        None, help="Write a figure to a .png, .pdf or .svg; of several runs, one of all."
    )
    html: Path | None = Option(
        None, help="Write a page of figures and tables to an .html file; likewise one of all."
    )

    def check(self) -> None:
        """Refuse files that cannot be written, before anything is computed."""
        if not self.asked:
            return
        from posterior_collapse import report

        if self.plot is not None:
            report.check_figure_path(self.plot)
        if self.html is not None:
            report.check_page_path(self.html)

    @property
    def asked(self) -> bool:
        """Whether there is one."""
        return self.plot is not None or self.html is not None

    def write(self, found: Viewed, **said: Any) -> None:
        """Write those asked for; what is said of the data is for `report.write_page`."""
        from posterior_collapse import report

        if self.plot is not None:
            report.save_figure(report.plot(found), self.plot)
        if self.html is not None:
            report.write_page(found, self.html, **said)

    def say_where(self) -> None:
        """Print where they lie."""
        for what, path in (("Figure", self.plot), ("Page", self.html)):
            if path is not None:
                typer.echo(f"{what}: {path}")


NO_VIEWS = ViewOptions(None, None)


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

    single: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        own = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        single += _options(groups[name]) if name in groups else [own]
    called.__signature__ = inspect.Signature(single)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in single}
    return called


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return what an option of a group is if it is not given."""
    return getattr(field.default, "default", field.default)


def _options(group: Any) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        kind, declared = hints[field.name], cast(Any, field.default)
        if typing.get_origin(kind) is Annotated:  # as several commands take it
            kind, declared = typing.get_args(kind)
        declared = copy.copy(declared)
        declared.default, declared.rich_help_panel = default_of(field), group.panel
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=kind
        )
