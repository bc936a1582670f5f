"""`collapse tune`: the beta, or the number of latents, with which a network keeps its units."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import typer
from typer import Option

from posterior_collapse import files
from posterior_collapse.cli import options
from posterior_collapse.cli.groups import (
    AsJson,
    DataOptions,
    Device,
    NetworkOptions,
    NumberOptions,
    Scheduler,
    Source,
    ViewOptions,
    among,
    grouped,
)
from posterior_collapse.errors import OutputError
from posterior_collapse.progress import Display

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.runs import Tuned


@dataclass(frozen=True)
class KeptOptions(NumberOptions):
    """The hyperparameters that stay, and beta where the number of latents is tuned."""

    panel: ClassVar = "Numbers"
    beta: str | None = Option("1", help="Weight of the KL, for --tune latents; for hvae z1:z2.")
    eta_enc: str = Option("1.0", help="Prior std.")


@dataclass(frozen=True)
class TrainingOptions:
    """Fields of `Settings`, where they are given."""

    panel: ClassVar = "Training"
    steps: int | None = Option(None, help="Steps of each run (default: 6000).")
    epochs: int | None = Option(None, help="Passes over the data, instead of steps.")
    learning_rate: float | None = Option(None, help="Of the optimiser, or --lr (default: 0.003).")
    batch_size: int | None = Option(None, help="Samples per step (default: 128).")
    clip: float | None = Option(None, help="Largest norm of the gradient.")
    seed: int | None = Option(None, help="The first of the seeds (default: 0).")
    device: Device = None


@grouped
def tune(
    context: typer.Context,
    data: Source,
    named: DataOptions,
    network: NetworkOptions,
    numbers: KeptOptions,
    training: TrainingOptions,
    views: ViewOptions,
    active: int | None = Option(None, help="Units to keep (default: all)."),
    level: int | None = Option(
        None,
        help="For hvae: level to keep, 1 or 2, by its beta (default: 2, which collapses first).",
    ),
    tuned: str = Option(
        "beta",
        "--tune",
        help="What to tune: beta, or latents (the most of which none collapses).",
        autocompletion=among(lambda: ("beta", "latents")),
    ),
    seeds: int = Option(3, min=1, help="Number of seeds that have to agree."),
    exact: bool = Option(False, "--exact", help="Linear models: integrate the noise out."),
    out: Path | None = Option(
        None, help="Folder that keeps the runs; the same command resumes there."
    ),
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Find the beta with which your network keeps as many units as you want, by training it.

    collapse forecast counts what a linear model keeps; a network keeps fewer.
    So this trains networks together, at betas chosen by theory and from
    several seeds, and counts their units at the end and halfway.
    """
    from posterior_collapse.data.samples import read
    from posterior_collapse.runs.goal import Goal, Theory

    views.check()
    kind = named.kind(network.model)
    spec = options.one_spec("tune", kind, numbers.texts() | network.of_all_runs())
    # Mistakes that need no torch to be seen are told before it is loaded, which takes seconds.
    goal = Goal(spec, tuned, active, level)
    net = network.networks(context, exact)
    net.check_model(spec)
    from posterior_collapse.training import Settings
    from posterior_collapse.training.arguments import check_together

    given = {name: value for name, value in asdict(training).items() if value is not None}
    if exact:
        options.check_exact(context, None)
    options.check_length(training.steps, training.epochs)
    settings = Settings(**given)
    check_together([spec], net, settings, exact)
    if out is not None and out.is_file():
        raise OutputError(str(out), "a file", "a folder", "Choose another one with --out.")
    dataset = options.load_data(data, kind, named)
    Theory(read(dataset, kind == "cvae"), goal, net, settings.convention).check()
    from posterior_collapse import runs
    from posterior_collapse.clusters import connected
    from posterior_collapse.training.course import describe

    try:
        with connected(scheduler) as client, Display("training") as display:
            found = runs.tune(
                dataset,
                spec,
                net,
                active=active,
                tune=tuned,  # type: ignore[arg-type]
                level=level,
                seeds=seeds,
                folder=out,
                client=client,
                progress=lambda now: display.update(now.step, total=now.steps, text=describe(now)),
                exact=exact,
                **given,
            )
    except KeyboardInterrupt:
        if out is not None:
            typer.echo("Go on with the same command again.", err=True)
        raise
    views.write(found)
    if as_json:
        typer.echo(files.json_text({"data": options.about(dataset)} | found.to_dict()))
        return
    _print(dataset, found, exact)
    typer.echo(f"As options: {_as_options(found, apart=bool(numbers.beta_1 or numbers.beta_2))}")
    views.say_where()


def _as_options(found: Tuned, apart: bool) -> str:
    """Return what was tuned as the user says it: both levels in one option, or each in its own."""
    if not found.parameter.startswith("beta"):
        return f"--latents {':'.join(map(str, found.spec.dims))}"
    betas = [f"{beta:g}" for beta in found.spec.beta_levels]
    if apart:
        return " ".join(f"--beta-{i} {beta}" for i, beta in enumerate(betas, 1))
    return f"--beta {':'.join(betas)}"


def _print(dataset: Dataset, found: Tuned, exact: bool) -> None:
    from posterior_collapse.report.comparison import tuned_page

    console = options.wide_console(options.OF_RUNS)
    console.print(f"{dataset.name}: {dataset.note}", markup=False)
    console.print(repr(found.spec), markup=False)
    for part in tuned_page(found):
        console.print(part, markup=False)
    if not exact:
        console.print(
            f"Counts depend on how a network is trained: here at learning rate "
            f"{found.settings.learning_rate:g} in batches of {found.settings.batch_size}.",
            style="dim",
        )
