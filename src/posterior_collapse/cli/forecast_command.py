"""`collapse forecast` and `collapse effective-beta`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from posterior_collapse.cli import explore_command, options
from posterior_collapse.cli.data_commands import DATA_DIR
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.files import json_text

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.specs import Spec
    from posterior_collapse.theory import Advice, Forecast

LEAST_WIDTH = 82
PLOT = typer.Option(None, help="Write spectrum and phase diagram to a .png, .pdf or .svg.")
HTML = typer.Option(None, help="Write a page with sliders to an .html file.")
HEADER = typer.Option(None, "--header/--no-header", help=options.HEADER_HELP)


def forecast(
    data: str = typer.Argument(help="Data set name (collapse data list), or a file."),
    given: str | None = typer.Option(None, help="File with the condition x; DATA is then y."),
    task: str | None = typer.Option(
        None, help="Conditional task on images: quarter or half (what is given)."
    ),
    model: str | None = typer.Option(
        None, help="vae, cvae or hvae (default: cvae with --task or --given, else vae)."
    ),
    latents: str = typer.Option("16", help="Latent units; for hvae of z1,z2."),
    beta: str = typer.Option("1", help="Weight of the KL; for hvae of z1,z2."),
    eta_dec: str = typer.Option("1", help="Decoder std in data units, or 'learned'."),
    eta_enc: float = typer.Option(1.0, help="Prior std."),
    sigma: str | None = typer.Option(
        None, help="Posterior std: learned (default), shared, a number, or one per unit."
    ),
    sigma_1: str | None = typer.Option(None, help="For hvae: of z1 (default: 1)."),
    sigma_2: str | None = typer.Option(None, help="For hvae: of z2 (default: learned)."),
    likelihood: str = typer.Option(
        "gaussian", help="gaussian, bernoulli, poisson, negative-binomial or categorical."
    ),
    dispersion: str = typer.Option(
        "learned", help="r of a negative binomial, of variance m + m^2/r."
    ),
    network: bool = typer.Option(
        False, "--network", help="Say as well how few units a network keeps (takes seconds)."
    ),
    active: int | None = typer.Option(None, help="Advise on keeping this many units."),
    biases: bool = typer.Option(True, help="Whether the model has biases (central moments)."),
    cross_fit: int | None = typer.Option(
        None, help="Measure what x explains of y out of sample, with this many folds."
    ),
    label: int | None = typer.Option(None, help="Only samples of this class."),
    scale: float | None = typer.Option(None, help="Factor for the values of a file."),
    split: str = typer.Option("train", help="train or test, for named image sets."),
    header: bool | None = HEADER,
    data_dir: Path | None = DATA_DIR,
    plot: Path | None = PLOT,
    html: Path | None = HTML,
    as_json: bool = typer.Option(False, "--json", help="Print JSON (null: no finite value)."),
) -> None:
    """Say from the data alone which latent units will collapse, why, and what to change."""
    kind = model or ("cvae" if task or given else "vae")
    spec = options.build_spec(
        kind,
        latents=latents,
        beta=beta,
        eta_dec=eta_dec,
        eta_enc=eta_enc,
        sigma=sigma,
        sigma_1=sigma_1,
        sigma_2=sigma_2,
        likelihood=likelihood,
        dispersion=dispersion,
    )
    if plot is not None:
        _check_plot(plot)
    if html is not None:
        _check_page(html)
    dataset = options.load_data(
        data,
        model=kind,
        task=task,
        given=given,
        label=label,
        scale=scale,
        split=split,
        data_dir=data_dir,
        header=header,
    )
    _forecast(dataset, spec, active, biases, cross_fit, plot, as_json, network, html)


def effective_beta(
    data: str | None = typer.Argument(None, help="Data to forecast with that beta, if any."),
    weight: float = typer.Option(1.0, help="Factor of the KL term in your loss."),
    reconstruction: str = typer.Option("sum", help="Squared error: sum or mean over features."),
    features: int | None = typer.Option(None, help="Features per sample, for a mean over them."),
    half: bool = typer.Option(False, "--half", help="The squared error has a factor 1/2."),
    gaussian_std: float | None = typer.Option(
        None, help="The reconstruction is a Gaussian negative log-likelihood with this std."
    ),
    kl: str = typer.Option("sum", help="KL: sum or mean over latent units."),
    latents: int = typer.Option(16, help="Latent units."),
    batch_size: int | None = typer.Option(None, help="Samples per batch, if reductions differ."),
    reconstruction_batch: str = typer.Option("mean", help="Reconstruction over the batch."),
    kl_batch: str = typer.Option("mean", help="KL over the batch."),
    header: bool | None = HEADER,
    data_dir: Path | None = DATA_DIR,
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say what beta * eta_dec^2 a loss has, from how it is written; then forecast with it.

    Of squared errors only: for cross-entropies and other errors no law is given yet.
    """
    from posterior_collapse import theory
    from posterior_collapse.specs import VAESpec

    dataset = None
    if data is not None:
        dataset = options.load_data(
            data,
            model="vae",
            task=None,
            given=None,
            label=None,
            scale=None,
            split="train",
            data_dir=data_dir,
            header=header,
        )
        if features not in (None, dataset.x.shape[1]):
            raise InvalidArgumentError(
                "--features", features, f"{dataset.x.shape[1]}, as in {data}", "Leave it out."
            )
        features = dataset.x.shape[1]
    result = theory.effective_beta(
        weight,
        features=features,
        latents=latents,
        reconstruction=reconstruction,  # type: ignore[arg-type]
        kl=kl,  # type: ignore[arg-type]
        half=half,
        gaussian_std=gaussian_std,
        batch_size=batch_size,
        reconstruction_batch=reconstruction_batch,  # type: ignore[arg-type]
        kl_batch=kl_batch,  # type: ignore[arg-type]
    )
    effective = {
        "beta_eta_dec_squared": result.value,
        "squared_error_weight": result.squared_error_weight,
        "kl_weight": result.kl_weight,
    }
    if not as_json:
        typer.echo(result.text)
    elif dataset is None:
        typer.echo(json_text({"effective_beta": effective}))
    if dataset is not None:
        spec = VAESpec(latents, beta=result.value)
        _forecast(dataset, spec, None, True, None, None, as_json, effective_beta=effective)


def _forecast(
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
        measured, spec = _measure(dataset, spec, biases, cross_fit)
        result = theory.forecast(measured, spec)
    advice = result.advice(active)
    if plot is not None:
        report.save_figure(report.plot(result), plot)
    if html is not None:
        explore_command.write(result, dataset, html)
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


def _measure(dataset: Dataset, spec: Spec, biases: bool, cross_fit: int | None) -> tuple[Any, Spec]:
    """Return what to forecast from: moments, or the rows where a likelihood needs them."""
    from posterior_collapse.moments import Moments, cross_fitted_residuals
    from posterior_collapse.specs import VAESpec, require_gaussian

    if cross_fit is not None:
        require_gaussian(spec)
    if spec.model == "cvae" and spec.likelihood != "gaussian":
        return (dataset.x, dataset.y), spec
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
    from posterior_collapse.moments.wide import MAX_FEATURES

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
    console.print(
        "beta<, eta_dec<: the unit collapses once these values are reached (any: never).\n",
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
