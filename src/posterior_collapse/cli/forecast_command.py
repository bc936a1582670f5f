"""`collapse forecast`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from posterior_collapse.cli import options
from posterior_collapse.cli.groups import (
    DataOptions,
    Dispersion,
    Likelihood,
    Model,
    NumberOptions,
    Scheduler,
    Source,
    grouped,
)
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.files import json_text

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.specs import Spec
    from posterior_collapse.theory import Advice, Forecast

PLOT = typer.Option(None, help="Write spectrum and active units to a .png, .pdf or .svg.")
HTML = typer.Option(None, help="Write a page with sliders to an .html file.")


@dataclass(frozen=True)
class SpecOptions(NumberOptions):
    """The hyperparameters."""

    panel: ClassVar = "Model (commas part runs, colons levels)"
    model: Model = None
    latents: Annotated[str, typer.Option(help="Latent units; for hvae of z1:z2.")] = "16"
    beta: Annotated[
        str | None,
        typer.Option(help="Weight of the KL, or several: 0.5,1,2; for hvae of z1:z2."),
    ] = "1"
    eta_enc: Annotated[str, typer.Option(help="Prior std.")] = "1.0"
    likelihood: Likelihood = "gaussian"
    dispersion: Dispersion = "learned"
    biases: Annotated[
        bool, typer.Option(help="Whether the model has biases (central moments).")
    ] = True

    def law(self) -> dict[str, str]:
        """Return what the data's likelihood is."""
        return {"likelihood": self.likelihood, "dispersion": self.dispersion}


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
    """Say from the data alone which latent units will collapse, why, and what to change.

    Of several values of beta, eta_dec, ... each is forecast, a row for each.
    """
    kind = named.kind(hyperparameters.model)
    found = options.swept(
        kind, hyperparameters.latents, hyperparameters.texts(), **hyperparameters.law()
    )
    specs = {name: spec for name, (spec, _) in found.items()}
    if len(specs) > 1:
        single = {"--network": network, "--active": active, "--plot": plot, "--html": html}
        _refuse_beside_several(single)
        with _loaded(data, kind, named, scheduler) as dataset:
            _print_several(dataset, specs, hyperparameters.biases, cross_fit, as_json)
        return
    (spec,) = specs.values()
    options.check_outputs(plot, html)
    biases = hyperparameters.biases
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
                "a folder of .parquet files", "Leave it out.",
            )  # fmt: skip
        yield dataset


def _refuse_beside_several(single: dict[str, Any]) -> None:
    for option, value in single.items():
        if value not in (None, False):
            raise InvalidArgumentError(
                option, "given with several values", "one value with it", "Pass e.g. --beta 1."
            )


def _print_several(
    dataset: Dataset, specs: dict[str, Spec], biases: bool, cross_fit: int | None, as_json: bool
) -> None:
    """Forecast each spec from data that are measured once, and print a row for each."""
    from rich.console import Console

    from posterior_collapse import report, theory

    measured = measure(dataset, next(iter(specs.values())), biases, cross_fit)[0]
    of = spec_of_residuals if cross_fit is not None else lambda spec: spec
    results = {name: theory.forecast(measured, of(spec)) for name, spec in specs.items()}
    if as_json:
        about = {"name": dataset.name, "note": dataset.note, "samples": len(dataset.x)}
        every = [found.to_dict() for found in results.values()]
        typer.echo(json_text({"data": about, "forecasts": every}))
        return
    typer.echo(f"{dataset.name}: {dataset.note}")
    Console(width=options.LEAST_WIDTH).print(report.forecasts_table(results))
    typer.echo("possible: units that would live, were there enough.")


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
    result = of_dataset(result, dataset)
    advice = result.advice(active)
    if plot is not None:
        report.save_figure(report.plot(result), plot)
    if html is not None:
        report.write_page(result, html)
    if as_json:
        about = {"name": dataset.name, "note": dataset.note, "samples": len(dataset.x)}
        typer.echo(
            json_text(extra | {"data": about} | result.to_dict() | {"advice": advice.to_dict()})
        )
        return
    _print(dataset, result, advice)
    options.say_where(figure=plot, page=html)


def of_dataset(result: Forecast, dataset: Dataset) -> Forecast:
    """Return a forecast that knows what its data are called, although it had but moments."""
    from posterior_collapse.data.about import about

    return result.replace(_about=about(dataset, conditional=dataset.y is not None))


def measure(dataset: Dataset, spec: Spec, biases: bool, cross_fit: int | None) -> tuple[Any, Spec]:
    """Return what to forecast from: moments, or the rows where a likelihood needs them.

    Those of float32 data are float64 too: below the rounding of products in float32 lie modes that
    are shown and counted here. 8-bit integers are summed exactly, and as fast.
    """
    from posterior_collapse.moments import Moments, cross_fitted_residuals
    from posterior_collapse.theory.reading import require_gaussian

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
    return Moments.from_arrays(residuals, center=biases), spec_of_residuals(spec)


def spec_of_residuals(spec: Spec) -> Spec:
    """Return the spec that models what a condition leaves of y."""
    from posterior_collapse.specs import VAESpec

    return VAESpec(**{name: v for name, v in spec.to_dict().items() if name != "model"})


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
    from posterior_collapse import report

    console = options.wide_console()
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
    console.print(report.verdict(result), style="bold", highlight=False, markup=False)
    console.print(f"Advice: {advice}", highlight=False, markup=False)
    for note in result.notes:
        console.print(f"Note: {note}.", style="dim", highlight=False, markup=False)
