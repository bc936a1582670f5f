"""`collapse forecast`, and `collapse explore`: a forecast as a page with sliders."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from posterior_collapse.cli import options
from posterior_collapse.cli.groups import (
    NO_VIEWS,
    AsJson,
    DataOptions,
    Scheduler,
    Source,
    SpecOptions,
    ViewOptions,
    default_of,
    grouped,
)
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.files import json_text

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.specs import Spec
    from posterior_collapse.theory import Advice, Forecast
    from posterior_collapse.theory.reading import Bias


@grouped
def forecast(
    data: Source,
    named: DataOptions,
    hyperparameters: SpecOptions,
    views: ViewOptions,
    network: bool = typer.Option(
        False, "--network", help="Say also how few units a network keeps (takes seconds)."
    ),
    active: int | None = typer.Option(None, help="Advise how to keep this many units."),
    cross_fit: int | None = typer.Option(
        None, help="Measure what x explains of y out of sample, with this many folds."
    ),
    scheduler: Scheduler = None,
    as_json: AsJson = False,
) -> None:
    """Say from the data alone which latent units will collapse, why, and what to change.

    Several values of beta, eta_dec, ... are forecast one by one, a row for each.
    """
    kind = named.kind(hyperparameters.model)
    found = options.swept(kind, hyperparameters.texts() | hyperparameters.of_all_runs())
    specs = {name: spec for name, (spec, _) in found.items()}
    if len(specs) > 1:
        single = (network, active, views.plot, views.html)
        for option, value in zip(
            ("--network", "--active", "--plot", "--html"), single, strict=True
        ):
            if value not in (None, False):
                raise InvalidArgumentError(
                    option, "given with several values", "one value with it", "Pass e.g. --beta 1."
                )
        with _loaded(data, kind, named, scheduler) as dataset:
            _print_several(dataset, specs, hyperparameters.bias, cross_fit, as_json)
        return
    (spec,) = specs.values()
    views.check()
    with _loaded(data, kind, named, scheduler) as dataset:
        print_forecast(
            dataset, spec, active=active, bias=hyperparameters.bias, cross_fit=cross_fit,
            network=network, views=views, source=_words(data, named, kind, cross_fit),
            as_json=as_json,
        )  # fmt: skip


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


def _print_several(
    dataset: Dataset, specs: dict[str, Spec], bias: Bias, cross_fit: int | None, as_json: bool
) -> None:
    """Forecast each spec from data that are measured once, and print a row for each."""
    from posterior_collapse import report, theory

    measured = measure(dataset, next(iter(specs.values())), cross_fit)[0]
    of = spec_of_residuals if cross_fit is not None else lambda spec: spec
    results = {name: theory.forecast(measured, of(spec), bias=bias) for name, spec in specs.items()}
    if as_json:
        every = [found.to_dict() for found in results.values()]
        typer.echo(json_text({"data": options.about(dataset), "forecasts": every}))
        return
    typer.echo(f"{dataset.name}: {dataset.note}")
    options.wide_console().print(report.forecasts_table(results))
    typer.echo("possible: units that would live if there were enough.")


def print_forecast(
    dataset: Dataset,
    spec: Spec,
    *,
    as_json: bool,
    active: int | None = None,
    bias: Bias = "both",
    cross_fit: int | None = None,
    network: bool = False,
    views: ViewOptions = NO_VIEWS,
    source: str | None = None,
    **extra: Any,
) -> None:
    """Forecast and print, as tables and advice or as JSON with `extra` beside.

    `source` are the data as the command of the page takes them.
    """
    from posterior_collapse import theory

    if network and cross_fit is not None:
        raise InvalidArgumentError(
            "--network", "given with --cross-fit", "one of the two", "Leave --cross-fit out."
        )
    if network:
        result = theory.forecast(rows_of(dataset), spec, bias=bias, network=True)
    else:
        measured, spec = measure(dataset, spec, cross_fit, every_mode=views.asked)
        result = theory.forecast(measured, spec, bias=bias)
    result = of_dataset(result, dataset)
    advice = result.advice(active)
    views.write(result, source=source)
    if as_json:
        told = {"data": options.about(dataset)} | result.to_dict() | {"advice": advice.to_dict()}
        typer.echo(json_text(extra | told))
        return
    _print(dataset, result, advice)
    views.say_where()


def of_dataset(result: Forecast, dataset: Dataset) -> Forecast:
    """Return a forecast that knows what its data are called, although it had but moments."""
    from posterior_collapse.data.about import about

    return result.replace(_about=about(dataset, conditional=dataset.y is not None))


def measure(
    dataset: Dataset, spec: Spec, cross_fit: int | None, *, every_mode: bool = False
) -> tuple[Any, Spec]:
    """Return what `theory.forecast` is to take, and the spec of it.

    With a number of folds to `cross_fit`, that is of the residuals. Products in float32 serve what
    is only counted: they hide the weakest modes, unless every one is to be shown.
    """
    from posterior_collapse.data.samples import Samples, Stream
    from posterior_collapse.moments import Moments, cross_fitted_residuals
    from posterior_collapse.theory.reading import MeasuredOnce, require_gaussian

    if cross_fit is not None:
        require_gaussian(spec)
        if dataset.y is None:
            raise InvalidArgumentError(
                "--cross-fit",
                "data without a condition",
                "a conditional task",
                "Add --task or --given.",
            )
        residuals = cross_fitted_residuals(dataset.x, dataset.y, folds=cross_fit)
        return Moments.from_arrays(residuals), spec_of_residuals(spec)
    if spec.likelihood != "gaussian":
        return rows_of(dataset), spec
    data: Samples | Stream = Samples(dataset.x, dataset.y)
    if _is_long(dataset):
        data = Stream(dataset, lambda size, seed: _tracked_rows(dataset), dataset.y is not None)
    measured = MeasuredOnce(data)
    return measured.moments("float64") if every_mode else measured, spec


def rows_of(dataset: Dataset) -> Any:
    """Return the rows of data, in pairs if there is a condition."""
    return dataset.x if dataset.y is None else (dataset.x, dataset.y)


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
    from posterior_collapse.data.samples import Samples
    from posterior_collapse.progress import Display

    step = max(1, int(1e6 // dataset.x.shape[1]))
    with Display("measuring the data", len(dataset.x)) as display:
        for x, y in Samples(dataset.x, dataset.y).batches(step):
            yield x if y is None else (x, y)
            display.advance(len(x))


def _print(dataset: Dataset, result: Forecast, advice: Advice) -> None:
    from posterior_collapse import report

    console = options.wide_console()
    console.print(f"{dataset.name}: {dataset.note}", markup=False)
    explained = sum(result.spectrum[: result.levels[0].n_active]) / (result.total_variance or 1)
    std = "" if math.isnan(result.eta_dec) else f"eta_dec {result.eta_dec:.4g}; "
    console.print(
        f"{result.spec!r}\n"
        f"{std}loss {result.loss:.6g} nats per sample; "
        f"total variance {result.total_variance:.4g}, {100 * explained:.0f}% in active modes\n",
        markup=False,
    )
    for table in report.forecast_tables(result):
        console.print(table)
    console.print(report.verdict(result), style="bold", markup=False)
    console.print(f"Advice: {advice}", markup=False)
    for note in result.notes:
        console.print(f"Note: {note}.", style="dim", markup=False)


@grouped
def explore(
    data: Source,
    named: DataOptions,
    hyperparameters: SpecOptions,
    html: Path = typer.Option(Path("explore.html"), help="Where the page goes."),
) -> None:
    """Write a page whose sliders say which units live at every beta, eta_dec and size.

    The page starts from the hyperparameters given. It opens in any browser, offline.
    """
    from posterior_collapse import report, theory

    given, kind = hyperparameters, named.kind(hyperparameters.model)
    spec = options.one_spec("explore", kind, given.texts() | given.of_all_runs())
    report.check_page_path(html)
    dataset = options.load_data(data, kind, named)
    measured, spec = measure(dataset, spec, None, every_mode=True)
    found = of_dataset(theory.forecast(measured, spec, bias=given.bias), dataset)
    report.write_page(found, html, source=_words(data, named, kind))
    typer.echo(f"Page: {html}")


def _words(data: str, named: DataOptions, kind: str, cross_fit: int | None = None) -> str:
    """The data and their options as another command takes them, wherever they lie.

    A page names a model that is no plain vae; that a plain one is meant although there is a
    condition, only the command knows.
    """
    words = [data]
    for field in fields(named):
        value, name = getattr(named, field.name), field.name.replace("_", "-")
        if value == default_of(field) or field.name == "data_dir":
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", str(value)]
    if kind == "vae" != named.kind(None):
        words += ["--model", kind]
    if cross_fit is not None:
        words += ["--cross-fit", str(cross_fit)]
    return shlex.join(words)
