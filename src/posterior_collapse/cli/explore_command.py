"""`collapse explore`: a forecast as a page with sliders."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from posterior_collapse.cli import options
from posterior_collapse.cli.data_commands import DATA_DIR

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset
    from posterior_collapse.theory import Forecast

HEADER = typer.Option(None, "--header/--no-header", help=options.HEADER_HELP)
HTML = typer.Option(Path("explore.html"), "--html", help="Where the page goes.")


def explore(
    data: str = typer.Argument(help="Data set name (collapse data list), or a file."),
    given: str | None = typer.Option(None, help="File with the condition x; DATA is then y."),
    task: str | None = typer.Option(
        None, help="Conditional task on images: quarter or half (what is given)."
    ),
    model: str | None = typer.Option(
        None, help="vae, cvae or hvae (default: cvae with --task or --given, else vae)."
    ),
    latents: str = typer.Option("16", help="Latent units to start from; for hvae of z1,z2."),
    beta: str = typer.Option("1", help="Weight of the KL to start from; for hvae of z1,z2."),
    eta_dec: str = typer.Option("1", help="Decoder std to start from, or 'learned'."),
    eta_enc: float = typer.Option(1.0, help="Prior std."),
    sigma: str | None = typer.Option(
        None, help="Posterior std: learned (default), shared, a number, or one per unit."
    ),
    sigma_1: str | None = typer.Option(None, help="For hvae: of z1 (default: 1)."),
    sigma_2: str | None = typer.Option(None, help="For hvae: of z2 (default: learned)."),
    likelihood: str = typer.Option(
        "gaussian", help="gaussian, bernoulli, poisson, negative-binomial or categorical."
    ),
    label: int | None = typer.Option(None, help="Only samples of this class."),
    scale: float | None = typer.Option(None, help="Factor for the values of a file."),
    split: str = typer.Option("train", help="train or test, for named image sets."),
    header: bool | None = HEADER,
    data_dir: Path | None = DATA_DIR,
    html: Path = HTML,
) -> None:
    """Write a page whose sliders say which units live at every beta, eta_dec and size.

    It needs no network and nothing installed to be looked at.
    """
    from posterior_collapse import report, theory

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
    )
    report.check_page_path(html)
    named = {"given": given, "task": task, "label": label, "scale": scale, "header": header}
    split_of = {"split": split, "data_dir": data_dir}
    dataset = options.load_data(data, model=kind, **named, **split_of)
    rows = dataset.x if dataset.y is None else (dataset.x, dataset.y)
    result = theory.forecast(rows, spec)
    if split != "train":
        named["split"] = split
    write(result, dataset, html, source=_source(data, named))
    typer.echo(f"Page: {html}")


def write(result: Forecast, dataset: Dataset, path: Path, source: str | None = None) -> None:
    """Write a forecast's page.

    Args:
        result: The forecast.
        dataset: What it is of.
        path: Where the page goes.
        source: The data as `collapse forecast` takes them; None: their name.
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


def _source(data: str, named: Mapping[str, object]) -> str:
    """The data and their options as another command takes them."""
    words = [data]
    for name, value in named.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words += [f"--{name}", str(value)]
    return shlex.join(words)
