"""`collapse train`: one run, or a sweep as one vectorised run."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from typer import Option

from posterior_collapse import files
from posterior_collapse.cli import options
from posterior_collapse.cli.forecast_command import rows_of
from posterior_collapse.cli.groups import (
    SOURCE,
    DataOptions,
    Device,
    NetworkOptions,
    NumberOptions,
    Scheduler,
    ViewOptions,
    among,
    choice,
    default_of,
    grouped,
)
from posterior_collapse.errors import InvalidArgumentError, needing, writing
from posterior_collapse.progress import Display

if TYPE_CHECKING:
    from rich.table import Table

    from posterior_collapse.data import Dataset
    from posterior_collapse.runs import Run
    from posterior_collapse.specs import Spec
    from posterior_collapse.training import Progress

RESUMED_WITH = ("resume", "tensorboard", "plot", "html", "as_json", "scheduler")
MOST_ROWS = 16
"""Of the table that is shown while runs train."""


@dataclass(frozen=True)
class SweptOptions(NumberOptions):
    """All that can be swept over."""

    panel: ClassVar = "Numbers to sweep over"
    learning_rate: str = Option("0.001", help="Learning rate (or --lr).")
    clip: str | None = Option(None, help="Largest norm of the gradient.")
    seed: str = Option("0", help="Seed of initialisation, data order and noise.")


@dataclass(frozen=True)
class TrainingOptions:
    """Fields of `Settings`, but those swept over, and how to train."""

    panel: ClassVar = "Training"
    epochs: int | None = Option(
        None, help="Passes over the data (default: 100); with --exact the most iterations."
    )
    steps: int | None = Option(None, help="Steps of the optimiser, instead of epochs.")
    batch_size: int = Option(128, help="Samples per step.")
    optimiser: str | None = Option(
        None,
        help="adam or sgd; with --exact also lbfgs (default: adam; with --exact lbfgs).",
        autocompletion=among(lambda: ("adam", "sgd", "lbfgs")),
    )
    convention: str = choice("elbo", ("elbo", "reference", "twice"), "Convention of the loss: {}.")
    patience: int | None = Option(None, help="Stop after this many epochs without improvement.")
    exact: bool = Option(False, "--exact", help="Linear models: integrate the noise out.")
    from_forecast: bool = Option(
        False, "--from-forecast", help="Linear models: start at the closed-form optimum."
    )
    precision: str = choice("float32", ("float32", "float64", "tf32", "bf16"), "{}.")
    device: Device = "cpu"


@dataclass(frozen=True)
class RemedyOptions:
    """Fields of `Settings` that are said to help."""

    panel: ClassVar = "Against collapse"
    warm_up: int = Option(0, help="Epochs over which beta rises from 0.")
    cycles: int | None = Option(None, help="Number of cycles of beta annealing.")
    free_bits: float | None = Option(None, help="KL in nats that is free for each unit.")
    capacity: str | None = Option(None, help="Target KL in nats; for hvae z1:z2.")


@dataclass(frozen=True)
class OutputOptions(ViewOptions):
    """Where to keep the runs, and what to write."""

    out: Path | None = Option(
        None, help="New folder for the run or sweep (default: runs/ and a name)."
    )
    resume: Path | None = Option(None, help="Resume the run or sweep in this folder.")
    checkpoint_every: int = Option(1, help="Epochs between checkpoints.")
    tensorboard: bool = Option(False, "--tensorboard", help="Write TensorBoard events too.")
    as_json: bool = Option(
        False, "--json", help="Print the summaries as JSON (null: no finite value)."
    )
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
    """Train a model, or several at once, and compare what came out with the forecast.

    Commas separate the values of a sweep. All combinations are trained, each
    in its own folder; those of one seed train together, as one vectorised run
    that sees the data in one order.
    Colons separate the levels (or units) of one value: --model hvae
    --beta 1:2,1:4 are two runs, as are --beta-1 1 --beta-2 2,4.

    collapse train --resume FOLDER resumes a killed command exactly.
    """
    from posterior_collapse.clusters import connected

    resume, out = output.resume, output.out
    output.check()
    if resume is not None:
        idle = (name for name in context.params if name not in RESUMED_WITH)
        said = "nothing that the run's folder says already"
        options.refuse_given(context, idle, "given beside --resume", said)
        files.check_described(resume)
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
        _check_targets(next(iter(runs.values())).spec, dataset)
    if output.tensorboard:
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
    if output.asked and len(runs) > 1:
        write_sweep_views(out, dataset, output)
    elif output.asked:
        from posterior_collapse.runs import kept

        output.write(kept.members(out)[""].diagnosed()[1])
    if output.as_json:
        typer.echo(files.json_text(summaries))
    else:
        _print(dataset, out, summaries)
        output.say_where()
    if any(summary["stopped"].startswith("non-finite") for summary in summaries):
        raise typer.Exit(1)


def write_sweep_views(out: Path, dataset: Dataset, views: ViewOptions) -> None:
    """Write figure and page of a sweep, from its folder and what it was trained on."""
    from posterior_collapse.runs.kept import swept

    shape, rows = dataset.decoded_shape, rows_of(dataset)
    views.write(swept(out), name=dataset.name, image_shape=shape, data=rows)


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
    if how.exact:
        options.check_exact(context, how.optimiser)
    options.check_length(how.steps, how.epochs)
    found = options.swept(named.kind(network.model), asdict(numbers) | network.of_all_runs())

    from posterior_collapse.data.registry import absolute
    from posterior_collapse.runs.run import RunData, asked
    from posterior_collapse.training import Settings

    settings = asdict(how) | asdict(remedies) | {"checkpoint_every": output.checkpoint_every}
    if remedies.capacity is not None:
        values = options.numbers("--capacity", remedies.capacity)
        settings["capacity"] = values[0] if len(values) == 1 else values
    epochs, exact = settings.pop("epochs"), settings.pop("exact")
    from_forecast = settings.pop("from_forecast")
    if epochs is not None:
        settings["steps" if exact else "epochs"] = epochs
    read = named.chosen()
    for name in ("given", "data_dir"):
        read[name] = None if read[name] is None else absolute(str(read[name]))
    return asked(
        RunData(absolute(data), **read),
        network.networks(context, exact or from_forecast),
        Settings.from_dict(settings),
        found,
        exact=exact,
        from_forecast=from_forecast,
    )


def _check_targets(spec: Spec, dataset: Dataset) -> None:
    """Refuse data that the likelihood gives no probability, where they are at hand."""
    from posterior_collapse import likelihoods
    from posterior_collapse.arrays import is_lazy

    targets = dataset.x if dataset.y is None else dataset.y
    if not is_lazy(targets):
        likelihoods.check_targets(spec.likelihood, targets)


def _readable(runs: Mapping[str, Run], data: str, task: str | None, numbers: SweptOptions) -> str:
    """Name a folder by the data, the model, the networks and the numbers that were given."""
    first = next(iter(runs.values()))
    start = "".join(c if c.isprintable() and c not in ":/\\" else "-" for c in Path(data).stem)
    parts = [start, *([task] if task else []), first.spec.model, first.architecture.name]
    defaults = {field.name: default_of(field) for field in fields(numbers)}
    for name in options.SWEPT:
        text = getattr(numbers, name)
        if text not in (None, defaults[name]):
            parts.append(f"{name.replace('_', '-')}={text.replace(':', '_')}")
    return "-".join(parts)


@contextlib.contextmanager
def _watched(
    runs: Mapping[str, Run], out: Path, tensorboard: bool
) -> Iterator[Callable[[Progress], None]]:
    """Yield a function to call after each epoch: it shows it, and writes it for TensorBoard."""
    first = next(iter(runs.values()))
    exact, steps = first.method == "exact", first.settings.steps
    counted = "iteration" if exact else "epoch" if steps is None else "step"
    table = RunsTable(
        [name or run.spec.model for name, run in runs.items()],
        len(first.spec.dims),
        first.settings.epochs if counted == "epoch" else steps,
        counted,
    )
    scalars: dict[str, Scalars] = {}

    def report(now: Progress) -> None:
        table.show(now.epoch if counted == "epoch" else now.step, now.rows)
        for name, row in zip(runs, now.rows, strict=True):
            if tensorboard and row is not None:
                if name not in scalars:
                    scalars[name] = Scalars(out / name, start=now.epoch)
                    stack.callback(scalars[name].close)
                scalars[name].write(row)

    with table, contextlib.ExitStack() as stack:
        yield report


def _print(dataset: Dataset, out: Path, summaries: Sequence[dict[str, Any]]) -> None:
    from rich.markup import escape

    from posterior_collapse.report.comparison import comparison_sentences, comparison_table

    named = [(summary["run"], summary) for summary in summaries]
    console = options.wide_console(options.OF_RUNS)
    console.print(f"[bold]{escape(dataset.name)}[/]: {escape(dataset.note)}")
    console.print(comparison_table(named))
    for sentence in comparison_sentences(named):
        console.print(sentence, markup=False)
    console.print(f"Folder: {out}", style="dim", markup=False, soft_wrap=True)


class RunsTable(Display):
    """The last epoch (or iteration) of each run, of so many latent levels, and the time left.

    The total counts what was done before a resume too; None: it is unknown.
    """

    def __init__(
        self, names: Sequence[str], levels: int, total: int | None, unit: str = "epoch"
    ) -> None:
        super().__init__(unit, total, above=self.table)
        self.names, self.levels = tuple(names), levels
        self.rows: list[Mapping[str, Any] | None] = [None] * len(self.names)

    def show(self, done: int, rows: Sequence[Mapping[str, Any] | None]) -> None:
        """Show the numbers of the last epoch, a row per run; None: the run has stopped."""
        self.rows = [new or old for new, old in zip(rows, self.rows, strict=True)]
        self.update(done)

    def table(self) -> Table:
        """Return the numbers of the last epoch."""
        from rich.markup import escape

        from posterior_collapse.report import new_table
        from posterior_collapse.report.comparison import comparison_columns

        table = new_table()
        table.add_column("run", overflow="fold")
        for column in comparison_columns(self.levels):
            table.add_column(column, justify="right")
        for name, row in list(zip(self.names, self.rows, strict=True))[:MOST_ROWS]:
            table.add_row(escape(name), *(["-"] if row is None else self._cells(row)))
        if len(self.rows) > MOST_ROWS:
            table.add_row(f"... {len(self.rows) - MOST_ROWS} more")
        return table

    def _cells(self, row: Mapping[str, Any]) -> list[str]:
        cells = [f"{row['loss']:.5g}"]
        for level in range(1, self.levels + 1):
            cells += [f"{row[f'kl_{level}']:.4g}", f"{row[f'active_{level}']:g}"]
        return cells


def require_tensorboard() -> Any:
    """Return TensorBoard's writer class, or refuse if it is not installed."""
    how = "Run pip install tensorboard, or leave it out: history.csv has the same numbers."
    with needing("tensorboard", "tensorboard to write its event files", how):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter


class Scalars:
    """A run's history as TensorBoard shows it, written epoch by epoch below the run's folder.

    Events from the epoch `start` on, left by a run that was killed, are hidden.
    """

    def __init__(self, folder: str | Path, start: int = 1) -> None:
        writer = require_tensorboard()
        with writing(folder):
            self._writer: Any = writer(str(Path(folder) / "tensorboard"), purge_step=start)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of one epoch but those of single units; `row["epoch"]` is the step."""
        from posterior_collapse.training.course import is_of_unit

        for name, (value,) in files.columns({name: [value] for name, value in row.items()}):
            if name != "epoch" and not is_of_unit(name) and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, row["epoch"])

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()
