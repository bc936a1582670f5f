"""`collapse forecast`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from posterior_collapse.cli import options
from posterior_collapse.cli.groups import (
    DataOptions,
    Dispersion,
    EtaDec,
    Likelihood,
    Model,
    Scheduler,
    Sigma1,
    Sigma2,
    Source,
    grouped,
)
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.files import json_text

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.specs import Spec
    from posterior_collapse.theory import Advice, Forecast

LEAST_WIDTH = 82
PLOT = typer.Option(None, help="Write spectrum and phase diagram to a .png, .pdf or .svg.")
HTML = typer.Option(None, help="Write a page with sliders to an .html file.")


@dataclass(frozen=True)
class SpecOptions:
    """The hyperparameters, one value each."""

    panel: ClassVar = "Model"
    model: Model = None
    latents: Annotated[str, typer.Option(help="Latent units; for hvae of z1,z2.")] = "16"
    beta: Annotated[
        str, typer.Option(help="Weight of the KL, or several: 0.5,1,2; for hvae of z1,z2.")
    ] = "1"
    eta_dec: EtaDec = "1"
    eta_enc: Annotated[float, typer.Option(help="Prior std.")] = 1.0
    sigma: Annotated[
        str | None,
        typer.Option(help="Posterior std: learned (default), shared, a number, or one per unit."),
    ] = None
    sigma_1: Sigma1 = None
    sigma_2: Sigma2 = None
    likelihood: Likelihood = "gaussian"
    dispersion: Dispersion = "learned"
    biases: Annotated[
        bool, typer.Option(help="Whether the model has biases (central moments).")
    ] = True


@grouped
def forecast(
    data: Source,
    named: DataOptions,
    hyperparameters: SpecOptions,
    network: bool = typer.Option(
        False, "--network", help="Say as well how few units a network keeps (takes seconds)."
    ),
    active: int | None = typer.Option(None, help="Advise on keeping this many units."),
    cross_fit: int | None = typer.Option(
        None, help="Measure what x explains of y out of sample, with this many folds."
    ),
    plot: Path | None = PLOT,
    html: Path | None = HTML,
    scheduler: Scheduler = None,
    as_json: bool = typer.Option(False, "--json", help="Print JSON (null: no finite value)."),
) -> None:
    """Say from the data alone which latent units will collapse, why, and what to change."""
    given = asdict(hyperparameters)
    biases, kind = given.pop("biases"), named.kind(given.pop("model"))
    betas = [given["beta"]] if kind == "hvae" else given["beta"].split(",")
    specs = [options.build_spec(kind, **given | {"beta": beta}) for beta in betas]
    if len(specs) > 1:
        single = {"--network": network, "--active": active, "--plot": plot, "--html": html}
        _refuse_beside_several(single)
        with _loaded(data, kind, named, scheduler) as dataset:
            _print_several(dataset, specs, biases, cross_fit, as_json)
        return
    (spec,) = specs
    if plot is not None:
        _check_plot(plot)
    if html is not None:
        _check_page(html)
    with _loaded(data, kind, named, scheduler) as dataset:
        print_forecast(dataset, spec, active, biases, cross_fit, plot, as_json, network, html)


@contextlib.contextmanager
def _loaded(data: str, model: str, named: DataOptions, scheduler: str | None) -> Iterator[Dataset]:
    """Yield the data, connected with the cluster that is to read them if there is one."""
    from posterior_collapse.arrays import is_lazy
    from posterior_collapse.clusters import connected

    with connected(scheduler):
        dataset = options.load_data(data, model, named)
        if scheduler is not None and not is_lazy(dataset.x):
            raise InvalidArgumentError(
                "--scheduler", f"{data!r}, which one process reads",
                "a folder of .parquet files", "Leave it away.",
            )  # fmt: skip
        yield dataset


def _refuse_beside_several(single: dict[str, Any]) -> None:
    for option, value in single.items():
        if value not in (None, False):
            raise InvalidArgumentError(
                option, "given with several betas", "one beta with it", "Pass --beta 1."
            )


def _print_several(
    dataset: Dataset, specs: list[Spec], biases: bool, cross_fit: int | None, as_json: bool
) -> None:
    """Forecast each beta from data that are measured once, and print a row for each."""
    from rich.console import Console

    from posterior_collapse import report, theory

    measured, first = measure(dataset, specs[0], biases, cross_fit)
    betas = [spec.beta_levels[0] for spec in specs]
    results = [theory.forecast(measured, first.replace(beta=beta)) for beta in betas]
    if as_json:
        about = {"name": dataset.name, "note": dataset.note, "samples": len(dataset.x)}
        typer.echo(json_text({"data": about, "forecasts": [found.to_dict() for found in results]}))
        return
    typer.echo(f"{dataset.name}: {dataset.note}")
    table = report.new_table()
    for column in ("beta", "active", "possible", "KL nats", "loss nats"):
        table.add_column(column, justify="right", no_wrap=True)
    for found in results:
        units = len(found.levels[0].status)
        table.add_row(
            f"{found.spec.beta_levels[0]:g}",
            f"{found.n_active} of {units}",
            str(found.n_possible),
            f"{found.levels[0].kl.sum():.4g}",
            f"{found.loss:.6g}",
        )
    Console(width=LEAST_WIDTH).print(table)
    typer.echo(f"possible: modes above the threshold. Above beta {results[0].onset:.4g} none is.")


def print_forecast(
    dataset: Dataset,
    spec: Spec,
    active: int | None,
    biases: bool,
    cross_fit: int | None,
    plot: Path | None,
    as_json: bool,
    network: bool = False,
    html: Path | None = None,
    **extra: Any,
) -> None:
    """Forecast and print, as tables and advice or as JSON with `extra` beside."""
    from posterior_collapse import report, theory

    if network and cross_fit is not None:
        raise InvalidArgumentError(
            "--network", "given with --cross-fit", "one of the two", "Leave --cross-fit out."
        )
    if network:
        rows = dataset.x if dataset.y is None else (dataset.x, dataset.y)
        bias = "both" if biases else "none"
        result = theory.forecast(rows, spec, bias=bias, network=True)  # type: ignore[arg-type]
    else:
        measured, spec = measure(dataset, spec, biases, cross_fit)
        result = theory.forecast(measured, spec)
    advice = result.advice(active)
    if plot is not None:
        report.save_figure(report.plot(result), plot)
    if html is not None:
        write_page(result, dataset, html)
    if as_json:
        about = {"name": dataset.name, "note": dataset.note, "samples": len(dataset.x)}
        typer.echo(
            json_text(extra | {"data": about} | result.to_dict() | {"advice": advice.to_dict()})
        )
        return
    _print(dataset, result, advice)
    if plot is not None:
        typer.echo(f"Figure: {plot}")
    if html is not None:
        typer.echo(f"Page: {html}")


def write_page(result: Forecast, dataset: Dataset, path: Path, source: str | None = None) -> None:
    """Write the page of a forecast.

    Args:
        result: The forecast.
        dataset: What it is of.
        path: Where the page goes.
        source: The data as a command takes them; None: their name.
    """
    from posterior_collapse import report

    shape = _decoded_shape(dataset)
    report.write_page(result, path, name=dataset.name, image_shape=shape, source=source)


def _decoded_shape(dataset: Dataset) -> tuple[int, ...] | None:
    """Shape of what is decoded, if it is an image: three quarters of one are none."""
    shape = dataset.image_shape
    if shape is None or (dataset.y is not None and dataset.task != "half"):
        return None
    if dataset.task == "half":  # of images with one channel, first or last
        height, width = shape[-2:] if len(shape) == 2 or shape[0] == 1 else shape[:2]
        return height // 2, width
    return shape


def measure(dataset: Dataset, spec: Spec, biases: bool, cross_fit: int | None) -> tuple[Any, Spec]:
    """Return what to forecast from: moments, or the rows where a likelihood needs them."""
    from posterior_collapse.moments import Moments, cross_fitted_residuals
    from posterior_collapse.specs import VAESpec, require_gaussian

    if cross_fit is not None:
        require_gaussian(spec)
    if spec.likelihood != "gaussian" and biases:
        return (dataset.x if dataset.y is None else (dataset.x, dataset.y)), spec
    if cross_fit is None and _is_long(dataset):
        return Moments.from_batches(_tracked_rows(dataset), center=biases), spec
    if cross_fit is None:
        return Moments.from_arrays(dataset.x, dataset.y, center=biases), spec
    if dataset.y is None:
        raise InvalidArgumentError(
            "--cross-fit",
            "data without a condition",
            "a conditional task",
            "Add --task or --given.",
        )
    residuals = cross_fitted_residuals(dataset.x, dataset.y, folds=cross_fit)
    fields = {k: v for k, v in spec.to_dict().items() if k != "model"}
    return Moments.from_arrays(residuals, center=biases), VAESpec(**fields)


def _is_long(dataset: Dataset) -> bool:
    """Whether reading takes more than about a second, and one pass over the rows will do."""
    from posterior_collapse.arrays import is_lazy
    from posterior_collapse.moments.wide import MAX_FEATURES

    if is_lazy(dataset.x):
        return False  # its blocks are measured side by side
    arrays = [dataset.x] if dataset.y is None else [dataset.x, dataset.y]
    return sum(a.size for a in arrays) > 5e7 and max(a.shape[1] for a in arrays) <= MAX_FEATURES


def _tracked_rows(dataset: Dataset) -> Iterator[Any]:
    """Yield the data in pieces of rows under a progress bar on standard error."""
    from posterior_collapse.progress import Display

    step = max(1, int(1e6 // dataset.x.shape[1]))
    with Display("measuring the data", len(dataset.x)) as display:
        for start in range(0, len(dataset.x), step):
            rows = slice(start, start + step)
            yield dataset.x[rows] if dataset.y is None else (dataset.x[rows], dataset.y[rows])
            display.update(min(start + step, len(dataset.x)))


def _print(dataset: Dataset, result: Forecast, advice: Advice) -> None:
    from rich.console import Console

    from posterior_collapse import report

    # A table cut to a narrow terminal loses numbers; wrapped by the terminal it does not.
    console = Console(width=max(Console().width, LEAST_WIDTH))
    console.print(f"{dataset.name}: {dataset.note}", highlight=False, markup=False)
    explained = sum(result.spectrum[: result.levels[0].n_active]) / (result.total_variance or 1)
    std = "" if math.isnan(result.eta_dec) else f"eta_dec {result.eta_dec:.4g}; "
    console.print(
        f"{result.spec!r}\n"
        f"{std}loss {result.loss:.6g} nats per sample; "
        f"total variance {result.total_variance:.4g}, {100 * explained:.0f}% in active modes\n",
        highlight=False,
        markup=False,
    )
    for table in report.forecast_tables(result):
        console.print(table)
    has_std = not all(math.isnan(v) for level in result.levels for v in level.critical_eta_dec)
    console.print(
        f"beta<{', eta_dec<' * has_std}: the unit lives while below it (any: always).\n",
        style="dim",
        highlight=False,
    )
    console.print(report.verdict(result), style="bold", highlight=False, markup=False)
    console.print(f"Advice: {advice}", highlight=False, markup=False)
    for note in result.notes:
        console.print(f"Note: {note}.", style="dim", highlight=False, markup=False)


def _check_plot(path: Path) -> None:
    from posterior_collapse.report import check_figure_path

    check_figure_path(path)


def _check_page(path: Path) -> None:
    from posterior_collapse.report import check_page_path

    check_page_path(path)
