"""`collapse tune`: the beta, or the number of latents, with which a network keeps its units."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from posterior_collapse.cli import options
from posterior_collapse.cli.groups import DataOptions, EtaDec, Scheduler, Source, grouped
from posterior_collapse.cli.train_command import NetworkOptions
from posterior_collapse.files import json_text
from posterior_collapse.progress import Display

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.runs import Tuned

option = typer.Option
OUT = option(
    None, help="Folder that keeps the runs; the same command again goes on where it stopped."
)
PLOT = option(None, help="Write the curve to a .png, .pdf or .svg.")


@dataclass(frozen=True)
class NumberOptions:
    """The hyperparameters that stay, and beta where the number of latents is tuned."""

    panel: ClassVar = "Numbers"
    beta: Annotated[str, option(help="Weight of the KL, for --tune latents.")] = "1"
    eta_dec: EtaDec = "1"
    eta_enc: Annotated[float, option(help="Prior std.")] = 1.0
    sigma: Annotated[
        str | None,
        option(help="Posterior std: learned (default), shared, input, a number, or one per unit."),
    ] = None


@dataclass(frozen=True)
class TrainingOptions:
    """Fields of `Settings`, where they are given."""

    panel: ClassVar = "Training"
    steps: Annotated[int | None, option(help="Steps of each run (default: 6000).")] = None
    epochs: Annotated[int | None, option(help="Passes over the data, instead of steps.")] = None
    learning_rate: Annotated[float | None, option(help="Of the optimiser (default: 0.003).")] = None
    batch_size: Annotated[int | None, option(help="Samples per step (default: 128).")] = None
    clip: Annotated[float | None, option(help="Bound of the gradient's norm.")] = None
    seed: Annotated[int | None, option(help="The first of the seeds (default: 0).")] = None
    device: Annotated[str | None, option(help="cpu, cuda or cuda:N (default: cpu).")] = None


@grouped
def tune(
    data: Source,
    named: DataOptions,
    network: NetworkOptions,
    numbers: NumberOptions,
    training: TrainingOptions,
    active: int | None = typer.Option(None, help="Units to keep (default: all)."),
    tuned: str = typer.Option(
        "beta", "--tune", help="beta, or latents: the most of which none collapses."
    ),
    seeds: int = typer.Option(3, help="Seeds that have to agree."),
    exact: bool = typer.Option(False, "--exact", help="Linear models: integrate the noise out."),
    out: Path | None = OUT,
    scheduler: Scheduler = None,
    plot: Path | None = PLOT,
    as_json: bool = typer.Option(False, "--json", help="Print JSON (null: no finite value)."),
) -> None:
    """Find the beta with which this network keeps so many units, by training it.

    collapse forecast counts what a linear model keeps; a network keeps fewer.
    So networks of many betas train together, placed by theory, on several
    seeds, and their units are counted, at the end and at half of training.
    """
    if plot is not None:
        from posterior_collapse.report import check_figure_path

        check_figure_path(plot)
    kind = named.kind(network.model)
    latents = network.latents.replace(":", ",")
    given_numbers = asdict(numbers) | network.law()
    spec = options.build_spec(kind, latents=latents, sigma_1=None, sigma_2=None, **given_numbers)
    from posterior_collapse import runs
    from posterior_collapse.clusters import connected
    from posterior_collapse.training.course import describe

    dataset = options.load_data(data, kind, named)
    given = {name: value for name, value in asdict(training).items() if value is not None}
    try:
        with connected(scheduler) as client, Display("training") as display:
            found = runs.tune(
                dataset,
                spec,
                network.architecture,
                active=active,
                tune=tuned,  # type: ignore[arg-type]
                seeds=seeds,
                folder=out,
                client=client,
                progress=lambda now: display.update(now.step, total=now.steps, text=describe(now)),
                exact=exact,
                **network.chosen(),
                **given,
            )
    except KeyboardInterrupt:
        if out is not None:
            typer.echo("Go on with the same command again.", err=True)
        raise
    if plot is not None:
        from posterior_collapse import report

        report.save_figure(report.plot(found), plot)
    if as_json:
        about = {"name": dataset.name, "note": dataset.note, "samples": len(dataset.x)}
        typer.echo(json_text({"data": about} | found.to_dict()))
        return
    _print(dataset, found, exact)
    if plot is not None:
        typer.echo(f"Figure: {plot}")


def _print(dataset: Dataset, found: Tuned, exact: bool) -> None:
    from rich.console import Console

    from posterior_collapse.report.tuned import tuned_page

    console = Console()
    console.print(f"{dataset.name}: {dataset.note}", highlight=False, markup=False)
    console.print(repr(found.spec), highlight=False, markup=False)
    for part in tuned_page(found):
        console.print(part, highlight=False, markup=False)
    if not exact:
        console.print(
            f"Counts depend on how a network is trained: here at learning rate "
            f"{found.settings.learning_rate:g} in batches of {found.settings.batch_size}.",
            style="dim",
            highlight=False,
        )
