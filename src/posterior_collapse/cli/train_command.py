"""`collapse train`: one run, or a sweep as one vectorised run."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from posterior_collapse import files
from posterior_collapse.cli import options
from posterior_collapse.cli.groups import (
    SOURCE,
    DataOptions,
    Device,
    Dispersion,
    Likelihood,
    Model,
    NumberOptions,
    Scheduler,
    absolute,
    among,
    grouped,
)
from posterior_collapse.errors import InvalidArgumentError

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.models import Architecture
    from posterior_collapse.runs import Run
    from posterior_collapse.training import Progress

PAPER = "vae-relu, cvae-relu, cvae-linear-net, cvae-cnn, hvae-relu, hvae-cnn"
RESUMED_WITH = ("resume", "tensorboard", "html", "as_json", "scheduler")
option = typer.Option


def _architectures() -> Iterable[str]:
    from posterior_collapse.models.architecture import ARCHITECTURES

    return ARCHITECTURES


def _activations() -> Iterable[str]:
    from posterior_collapse.models.architecture import ACTIVATIONS

    return ACTIVATIONS


@dataclass(frozen=True)
class NetworkOptions:
    """The model and its networks."""

    panel: ClassVar = "Model"
    model: Model = None
    latents: Annotated[str, option(help="Latent units; for hvae of z1:z2.")] = "16"
    architecture: Annotated[
        str,
        option(
            help=f"linear (as --exact implies), mlp, cnn, or a net of the paper: {PAPER}.",
            autocompletion=among(_architectures),
        ),
    ] = "mlp"
    hidden: Annotated[str | None, option(help="Widths of the hidden layers, e.g. 256,128.")] = None
    channels: Annotated[str | None, option(help="Channels of the convolutions, e.g. 32,16.")] = None
    activation: Annotated[
        str | None,
        option(help="Between layers, e.g. relu, tanh, silu.", autocompletion=among(_activations)),
    ] = None
    dropout: Annotated[float | None, option(help="Rate after each hidden layer.")] = None
    biases: Annotated[bool, option(help="Whether a linear model has biases.")] = True
    likelihood: Likelihood = "gaussian"
    dispersion: Dispersion = "learned"

    def law(self) -> dict[str, str]:
        """Return what the data's likelihood is."""
        return {"likelihood": self.likelihood, "dispersion": self.dispersion}

    def chosen(self) -> dict[str, Any]:
        """Return the options of the architecture that are given."""
        texts = {"hidden": self.hidden, "channels": self.channels}
        widths = {
            name: options.numbers(f"--{name}", text, int, parted=",")
            for name, text in texts.items()
            if text
        }
        others = {"activation": self.activation, "dropout": self.dropout}
        given = {name: value for name, value in others.items() if value is not None}
        return widths | given | ({} if self.biases else {"bias": False})

    def networks(self, context: typer.Context, is_linear: bool) -> Architecture:
        """Return the architecture; what only linear models can do implies a linear one.

        Raises:
            InvalidArgumentError: There is none of that name, or an option is not one of its own.
        """
        from posterior_collapse.models import Architecture

        origin = context.get_parameter_source("architecture")
        implied = is_linear and origin is not None and origin.name == "DEFAULT"
        return Architecture.named("linear" if implied else self.architecture, **self.chosen())


@dataclass(frozen=True)
class SweptOptions(NumberOptions):
    """All that can be swept over."""

    panel: ClassVar = "Numbers to sweep over"
    learning_rate: Annotated[str, option(help="Of the optimiser (or --lr).")] = "0.001"
    clip: Annotated[str | None, option(help="Bound of the gradient's norm.")] = None
    seed: Annotated[str, option(help="Of initialisation, data order and noise.")] = "0"


@dataclass(frozen=True)
class TrainingOptions:
    """Fields of `Settings`, but those swept over, and how to train."""

    panel: ClassVar = "Training"
    epochs: Annotated[
        int | None,
        option(help="Passes over the data (default: 100); with --exact the most iterations."),
    ] = None
    batch_size: Annotated[int, option(help="Samples per step.")] = 128
    optimiser: Annotated[
        str | None,
        option(
            help="adam or sgd; with --exact also lbfgs (default: adam; with --exact lbfgs).",
            autocompletion=among(lambda: ("adam", "sgd", "lbfgs")),
        ),
    ] = None
    convention: Annotated[
        str,
        option(
            help="Of the loss: elbo, reference or twice.",
            autocompletion=among(lambda: ("elbo", "reference", "twice")),
        ),
    ] = "elbo"
    patience: Annotated[int | None, option(help="Stop after so many epochs without gain.")] = None
    exact: Annotated[bool, option("--exact", help="Linear models: integrate the noise out.")] = (
        False
    )
    from_forecast: Annotated[
        bool, option("--from-forecast", help="Linear models: start at the closed-form optimum.")
    ] = False
    precision: Annotated[
        str,
        option(
            help="float32, float64, tf32 or bf16.",
            autocompletion=among(lambda: ("float32", "float64", "tf32", "bf16")),
        ),
    ] = "float32"
    device: Device = "cpu"


@dataclass(frozen=True)
class RemedyOptions:
    """Fields of `Settings` that are said to help."""

    panel: ClassVar = "Against collapse"
    warm_up: Annotated[int, option(help="Epochs over which beta rises from 0.")] = 0
    cycles: Annotated[int | None, option(help="Cycles of annealing of beta.")] = None
    free_bits: Annotated[float | None, option(help="KL in nats that each unit has for free.")] = (
        None
    )
    capacity: Annotated[str | None, option(help="Target KL in nats; for hvae of z1:z2.")] = None


@dataclass(frozen=True)
class OutputOptions:
    """Where to keep the runs, and what to write."""

    panel: ClassVar = "Output"
    out: Annotated[
        Path | None, option(help="New folder for the run or sweep (default: runs/ and a name).")
    ] = None
    resume: Annotated[Path | None, option(help="Go on with the run or sweep in this folder.")] = (
        None
    )
    checkpoint_every: Annotated[int, option(help="Epochs between checkpoints.")] = 1
    tensorboard: Annotated[bool, option("--tensorboard", help="Write TensorBoard events too.")] = (
        False
    )
    html: Annotated[
        Path | None, option(help="Write a page on the run or sweep to an .html file.")
    ] = None
    as_json: Annotated[bool, option("--json", help="Print the summaries as JSON.")] = False
    scheduler: Scheduler = None


@grouped
def train(
    context: typer.Context,
    named: DataOptions,
    network: NetworkOptions,
    numbers: SweptOptions,
    how: TrainingOptions,
    remedies: RemedyOptions,
    output: OutputOptions,
    data: Annotated[str | None, SOURCE] = None,
) -> None:
    """Train a model, or several at once, and set what came out beside the forecast.

    Commas part the values of what can be swept over: all their combinations
    train, each with a folder of its own, those of one seed together as one
    vectorised run that sees the data in one order.
    Colons part the levels (or units) of one value: --model hvae
    --beta 1:2,1:4 are two runs, as are --beta-1 1 --beta-2 2,4.

    A killed command goes on exactly with collapse train --resume FOLDER.
    """
    from posterior_collapse.clusters import connected

    resume, out = output.resume, output.out
    options.check_outputs(None, output.html)
    if resume is not None:
        _check_alone(context)
        files.check_described(resume, "the folder of a run or a sweep")
        from posterior_collapse.runs import folder

        runs, out = folder.read(resume), resume
        if anew := folder.beginning(runs, out):
            of = f"{len(anew)} of {len(runs)} runs" if len(runs) > 1 else "the run"
            typer.echo(f"{of} from the start, for want of checkpoints", err=True)
        dataset = folder.load(runs)
        options.check_condition(next(iter(runs.values())).spec.model, dataset)
    else:
        # Mistakes that need no torch to be seen are told before it is loaded, which takes seconds.
        runs = _asked(context, data, named, network, numbers, how, remedies, output)
        out = out or Path("runs") / _readable(runs, str(data), named.task, numbers)
        files.check_free(out)
        dataset = options.load_data(str(data), next(iter(runs.values())).spec.model, named)
        options.check_targets(next(iter(runs.values())).spec, dataset)
    if output.tensorboard:
        from posterior_collapse.cli.live import require_tensorboard

        require_tensorboard()
    try:
        with connected(output.scheduler) as client:
            from posterior_collapse.runs import folder

            with _watched(runs, out, output.tensorboard) as report:
                summaries = folder.train(
                    runs, dataset, out, resume=resume is not None, report=report, client=client
                )
    except KeyboardInterrupt:
        if out.exists():  # else not even torch was loaded
            typer.echo(f"Go on with: collapse train --resume {shlex.quote(str(out))}", err=True)
        raise
    if output.html is not None:
        _write_page(out, dataset, output.html, single=len(runs) == 1)
    if output.as_json:
        typer.echo(json.dumps(summaries, indent=2))
    else:
        _print(dataset, out, summaries)
        options.say_where(page=output.html)
    if any(summary["stopped"].startswith("non-finite") for summary in summaries):
        raise typer.Exit(1)


def _write_page(out: Path, dataset: Dataset, path: Path, *, single: bool) -> None:
    """Write the diagnosis of a single run, or the page of a sweep."""
    from posterior_collapse import report
    from posterior_collapse.runs import kept

    if not single:
        write_sweep_page(out, dataset, path)
        return
    (run,) = kept.members(out).values()
    _, found = run.diagnosed()
    report.write_page(found, path)


def write_sweep_page(out: Path, dataset: Dataset, path: Path) -> None:
    """Write the page of a sweep.

    Args:
        out: Its folder.
        dataset: What it was trained on.
        path: Where the page goes.
    """
    from posterior_collapse import report
    from posterior_collapse.runs.kept import swept

    rows = dataset.x if dataset.y is None else (dataset.x, dataset.y)
    shape = dataset.decoded_shape
    report.write_page(swept(out), path, name=dataset.name, image_shape=shape, data=rows)


def _check_alone(context: typer.Context) -> None:
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in RESUMED_WITH and source is not None and source.name == "COMMANDLINE":
            raise InvalidArgumentError(
                "DATA" if name == "data" else f"--{name.replace('_', '-')}",
                "given beside --resume",
                "nothing that the run's folder says already",
                "Remove it.",
            )


def _asked(
    context: typer.Context,
    data: str | None,
    named: DataOptions,
    network: NetworkOptions,
    numbers: SweptOptions,
    how: TrainingOptions,
    remedies: RemedyOptions,
    output: OutputOptions,
) -> dict[str, Run]:
    """Return what the options ask for, by name, all of it checked but the data."""
    if data is None:
        raise InvalidArgumentError(
            "DATA", "nothing", "a data set's name or a file", "Pass e.g. collapse train digits."
        )
    found = options.swept(
        named.kind(network.model), network.latents, asdict(numbers), **network.law()
    )

    from posterior_collapse.runs.run import RunData, asked
    from posterior_collapse.training import Settings

    settings = asdict(how) | asdict(remedies) | {"checkpoint_every": output.checkpoint_every}
    settings["capacity"] = _capacity(remedies.capacity)
    epochs, exact = settings.pop("epochs"), settings.pop("exact")
    from_forecast = settings.pop("from_forecast")
    if epochs is not None:
        settings["steps" if exact else "epochs"] = epochs
    return asked(
        RunData(absolute(data), **_data_options(named)),
        network.networks(context, exact or from_forecast),
        Settings.from_dict(settings),
        found,
        exact=exact,
        from_forecast=from_forecast,
    )


def _capacity(text: str | None) -> Any:
    if text is None:
        return None
    values = options.numbers("--capacity", text)
    return values[0] if len(values) == 1 else values


def _data_options(given: DataOptions) -> dict[str, Any]:
    named = given.chosen()
    for name in ("given", "data_dir"):
        named[name] = None if named[name] is None else absolute(str(named[name]))
    return named


def _readable(runs: Mapping[str, Run], data: str, task: str | None, numbers: SweptOptions) -> str:
    """Name a folder by the data, the model, the networks and the numbers that were given."""
    first = next(iter(runs.values()))
    start = "".join(c if c.isprintable() and c not in ":/\\" else "-" for c in Path(data).stem)
    parts = [start, *([task] if task else []), first.spec.model, first.architecture.name]
    for name in options.SWEPT:
        text = getattr(numbers, name)
        if text not in (None, getattr(SweptOptions, name)):
            parts.append(f"{name.replace('_', '-')}={text.replace(':', '_')}")
    return "-".join(parts)


@contextlib.contextmanager
def _watched(
    runs: Mapping[str, Run], out: Path, tensorboard: bool
) -> Iterator[Callable[[Progress], None]]:
    """Yield a function to call after each epoch: it shows it, and writes it for TensorBoard."""
    from posterior_collapse.cli.live import RunsTable, Scalars

    first = next(iter(runs.values()))
    exact = first.method == "exact"
    table = RunsTable(
        [name or run.spec.model for name, run in runs.items()],
        len(first.spec.dims),
        first.settings.steps if exact else first.settings.epochs,
        "iteration" if exact else "epoch",
    )
    scalars: dict[str, Scalars] = {}

    def report(now: Progress) -> None:
        table.show(now.epoch, now.rows)
        for name, row in zip(runs, now.rows, strict=True):
            if tensorboard and row is not None:
                if name not in scalars:
                    scalars[name] = Scalars(out / name, start=now.epoch)
                scalars[name].write(row)

    try:
        with table:
            yield report
    finally:
        for writer in scalars.values():
            writer.close()


def _print(dataset: Dataset, out: Path, summaries: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape

    from posterior_collapse.report.comparison import comparison_sentences, comparison_table

    named = [(summary["run"], summary) for summary in summaries]
    console = Console()
    console.print(f"[bold]{escape(dataset.name)}[/]: {escape(dataset.note)}", highlight=False)
    console.print(comparison_table(named))
    for sentence in comparison_sentences(named):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Folder: {out}", style="dim", highlight=False, markup=False, soft_wrap=True)
