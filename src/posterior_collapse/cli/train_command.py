"""`collapse train`: one run, or a sweep as one vectorised run."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from posterior_collapse.cli import options
from posterior_collapse.errors import InvalidArgumentError

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.runs import Run
    from posterior_collapse.training import Progress

SETTINGS = (
    "batch_size",
    "optimiser",
    "convention",
    "warm_up",
    "cycles",
    "free_bits",
    "capacity",
    "patience",
    "precision",
    "device",
    "checkpoint_every",
)
DATA = ("given", "task", "label", "scale", "split", "data_dir")
PAPER = "vae-relu, cvae-relu, cvae-linear-net, cvae-cnn, hvae-relu, hvae-cnn"
RESUMED_WITH = ("resume", "tensorboard", "as_json")


def _option(panel: str) -> Callable[..., Any]:
    """Return `typer.Option` for one panel of the help."""
    return partial(typer.Option, rich_help_panel=panel)


_data, _model, _swept, _training, _remedy, _output = map(
    _option,
    ("Data", "Model", "Numbers to sweep over", "Training", "Against collapse", "Output"),
)
OUT = _output(None, help="New folder for the run or sweep (default: runs/ and a name).")
RESUME = _output(None, help="Go on with the run or sweep in this folder.")
HEADER = _data(None, "--header/--no-header", help=options.HEADER_HELP)
DATA_DIR = _data(None, help="Folder with data set files (see collapse data list --help).")


def train(
    context: typer.Context,
    data: str | None = typer.Argument(None, help="Data set name (collapse data list), or a file."),
    given: str | None = _data(None, help="File with the condition x; DATA is then y."),
    task: str | None = _data(
        None, help="Conditional task on images: quarter or half (what is given)."
    ),
    label: int | None = _data(None, help="Only samples of this class."),
    scale: float | None = _data(None, help="Factor for the values of a file."),
    split: str = _data("train", help="train or test, for named image sets."),
    header: bool | None = HEADER,
    data_dir: Path | None = DATA_DIR,
    model: str | None = _model(
        None, help="vae, cvae or hvae (default: cvae with --task or --given, else vae)."
    ),
    latents: str = _model("16", help="Latent units; for hvae of z1:z2."),
    architecture: str = _model("mlp", help=f"linear, mlp, cnn, or a net of the paper: {PAPER}."),
    hidden: str | None = _model(None, help="Widths of the hidden layers, e.g. 256,128."),
    channels: str | None = _model(None, help="Channels of the convolutions, e.g. 32,16."),
    activation: str | None = _model(None, help="Between layers, e.g. relu, tanh, silu."),
    dropout: float | None = _model(None, help="Rate after each hidden layer."),
    biases: bool = _model(True, help="Whether a linear model has biases."),
    beta: str | None = _swept(None, help="Weight of the KL; for hvae of z1:z2 (default: 1)."),
    beta_1: str | None = _swept(None, help="For hvae: of z1 alone."),
    beta_2: str | None = _swept(None, help="For hvae: of z2 alone."),
    eta_dec: str = _swept("1", help="Decoder std in data units, or 'learned'."),
    eta_enc: str = _swept("1", help="Prior std."),
    sigma: str | None = _swept(
        None,
        help="Posterior std: learned (default), shared, input, a number, or one per unit: 0.5:1:1.",
    ),
    sigma_1: str | None = _swept(None, help="For hvae: of z1 (default: 1)."),
    sigma_2: str | None = _swept(None, help="For hvae: of z2 (default: learned)."),
    learning_rate: str = _swept("0.001", help="Of the optimiser."),
    clip: str | None = _swept(None, help="Bound of the gradient's norm."),
    seed: str = _swept("0", help="Of initialisation, data order and noise."),
    epochs: int | None = _training(
        None, help="Passes over the data (default: 100); with --exact the most iterations."
    ),
    batch_size: int = _training(128, help="Samples per step."),
    optimiser: str | None = _training(
        None, help="adam or sgd; with --exact also lbfgs (default: adam; with --exact lbfgs)."
    ),
    convention: str = _training("elbo", help="Of the loss: elbo, reference or twice."),
    patience: int | None = _training(None, help="Stop after so many epochs without gain."),
    exact: bool = _training(False, "--exact", help="Linear models: integrate the noise out."),
    from_forecast: bool = _training(
        False, "--from-forecast", help="Linear models: start at the closed-form optimum."
    ),
    precision: str = _training("float32", help="float32, float64 or bf16."),
    device: str = _training("cpu", help="cpu, cuda or cuda:N."),
    warm_up: int = _remedy(0, help="Epochs over which beta rises from 0."),
    cycles: int | None = _remedy(None, help="Cycles of annealing of beta."),
    free_bits: float | None = _remedy(None, help="KL in nats that each unit has for free."),
    capacity: str | None = _remedy(None, help="Target KL in nats; for hvae of z1:z2."),
    out: Path | None = OUT,
    resume: Path | None = RESUME,
    checkpoint_every: int = _output(1, help="Epochs between checkpoints."),
    tensorboard: bool = _output(False, "--tensorboard", help="Write TensorBoard events too."),
    as_json: bool = _output(False, "--json", help="Print the summaries as JSON."),
) -> None:
    """Train a model, or several at once, and set what came out beside the forecast.

    Commas part the values of what can be swept over: all their combinations
    train, each with a folder of its own, those of one seed together as one
    vectorised run that sees the data in one order.
    Colons part the levels (or units) of one value: --model hvae
    --beta 1:2,1:4 are two runs, as are --beta-1 1 --beta-2 2,4.

    A killed command goes on exactly with collapse train --resume FOLDER.
    """
    if resume is not None:
        _check_alone(context)
        from posterior_collapse.runs import folder

        runs, out = folder.read(resume), resume
    else:
        runs = _asked(context.params)
        from posterior_collapse.runs import folder

        out = out or Path("runs") / _readable(runs, context.params)
        folder.check_free(out)
    if tensorboard:
        folder.require_tensorboard()
    dataset = folder.load(runs)
    options.check_condition(next(iter(runs.values())).spec.model, dataset)
    try:
        with _watched(runs, out, tensorboard) as report:
            summaries = folder.train(runs, dataset, out, resume=resume is not None, report=report)
    except KeyboardInterrupt:
        typer.echo(f"Go on with: collapse train --resume {shlex.quote(str(out))}", err=True)
        raise
    if as_json:
        typer.echo(json.dumps(summaries, indent=2))
    else:
        _print(dataset, out, summaries)
    if any(summary["stopped"].startswith("non-finite") for summary in summaries):
        raise typer.Exit(1)


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


def _asked(given: Mapping[str, Any]) -> dict[str, Run]:
    """Return what the options ask for, by name, all of it checked but the data."""
    if given["data"] is None:
        raise InvalidArgumentError(
            "DATA", "nothing", "a data set's name or a file", "Pass e.g. collapse train digits."
        )
    model = given["model"] or ("cvae" if given["task"] or given["given"] else "vae")
    found = options.swept(model, given["latents"], {n: given[n] for n in options.SWEPT})

    from posterior_collapse.models import Architecture
    from posterior_collapse.runs import Choice, folder
    from posterior_collapse.training import Settings

    shared = {name: given[name] for name in SETTINGS} | {"capacity": _capacity(given["capacity"])}
    if given["epochs"] is not None:
        shared["steps" if given["exact"] else "epochs"] = given["epochs"]
    return folder.asked(
        Choice(_absolute(given["data"]), **_data_options(given)),
        Architecture.named(given["architecture"], **_networks(given)),
        Settings.from_dict(shared),
        found,
        exact=given["exact"],
        from_forecast=given["from_forecast"],
    )


def _networks(given: Mapping[str, Any]) -> dict[str, Any]:
    texts = {"hidden": given["hidden"], "channels": given["channels"]}
    widths = {name: options.numbers(f"--{name}", text, int) for name, text in texts.items() if text}
    others = {name: given[name] for name in ("activation", "dropout") if given[name] is not None}
    return widths | others | ({} if given["biases"] else {"bias": False})


def _capacity(text: str | None) -> Any:
    if text is None:
        return None
    values = options.numbers("--capacity", text.replace(":", ","))
    return values[0] if len(values) == 1 else values


def _data_options(given: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: given[name] for name in DATA}
    for name in ("given", "data_dir"):
        named[name] = None if named[name] is None else _absolute(str(named[name]))
    return {**named, "header": given["header"]}


def _absolute(source: str) -> str:
    """A resumed command may run elsewhere; the name of a data set stays as it is."""
    return str(Path(source).resolve()) if os.path.exists(source) else source


def _readable(runs: Mapping[str, Run], given: Mapping[str, Any]) -> str:
    """Name a folder by the data, the model, the networks and the numbers that were given."""
    first = next(iter(runs.values()))
    stem = Path(str(given["data"])).stem
    parts = ["".join(c if c.isprintable() and c not in ":/\\" else "-" for c in stem)]
    parts += [given["task"]] if given["task"] else []
    parts += [first.spec.model, first.architecture.name]
    defaults = {"eta_dec": "1", "eta_enc": "1"}
    defaults |= {"learning_rate": "0.001", "seed": "0"}
    for name in options.SWEPT:
        text = given[name]
        if text not in (None, defaults.get(name)):
            parts.append(f"{name.replace('_', '-')}={text.replace(':', '_')}")
    return "-".join(parts)


@contextlib.contextmanager
def _watched(
    runs: Mapping[str, Run], out: Path, tensorboard: bool
) -> Iterator[Callable[[Progress], None]]:
    """Give the function that shows an epoch, and writes it for TensorBoard if asked."""
    from posterior_collapse.cli.live import RunsTable
    from posterior_collapse.runs.folder import Scalars

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
