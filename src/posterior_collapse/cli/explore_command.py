"""`collapse explore`: a forecast as a page with sliders."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

import typer

from posterior_collapse.cli import options
from posterior_collapse.cli.forecast_command import SpecOptions, measure, of_dataset
from posterior_collapse.cli.groups import DataOptions, Source, grouped

HTML = typer.Option(Path("explore.html"), help="Where the page goes.")


@grouped
def explore(
    data: Source,
    named: DataOptions,
    hyperparameters: SpecOptions,
    html: Path = HTML,
) -> None:
    """Write a page whose sliders say which units live at every beta, eta_dec and size.

    It starts from the hyperparameters given, and needs neither network nor package to be looked at.
    """
    from posterior_collapse import report, theory

    given, kind = hyperparameters, named.kind(hyperparameters.model)
    spec = options.one_spec("explore", kind, given.latents, given.texts(), **given.law())
    report.check_page_path(html)
    dataset = options.load_data(data, kind, named)
    measured, spec = measure(dataset, spec, given.biases, None)
    found = of_dataset(theory.forecast(measured, spec), dataset)
    report.write_page(found, html, source=_words(data, named))
    typer.echo(f"Page: {html}")


def _words(data: str, named: DataOptions) -> str:
    """The data and their options as another command takes them, wherever they lie."""
    words = [data]
    for field in fields(named):
        value, name = getattr(named, field.name), field.name.replace("_", "-")
        if value == field.default or field.name == "data_dir":
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", str(value)]
    return shlex.join(words)
