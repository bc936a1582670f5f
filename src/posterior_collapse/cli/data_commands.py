"""`collapse data`: what data sets there are, and fetching them."""

from __future__ import annotations

import typer

from posterior_collapse.cli.groups import DataDir

app = typer.Typer(help="List and fetch the data sets known by name.", no_args_is_help=True)


@app.command("list")
def list_datasets(data_dir: DataDir = None) -> None:
    """List the data sets known by name, and where each would be read from."""
    from rich.console import Console
    from rich.markup import escape

    from posterior_collapse.data import available
    from posterior_collapse.report import new_table

    table = new_table()
    for column in ("name", "what it is", "samples", "features", "read from"):
        table.add_column(column, overflow="fold")
    for entry in available(data_dir):
        samples = f"{entry.samples:,}" + (
            f" + {entry.test_samples:,}" if entry.test_samples else ""
        )
        where = entry.where if entry.ready else "to be downloaded"
        table.add_row(entry.name, entry.about, samples, str(entry.features), escape(where))
    Console().print(table)


@app.command("fetch")
def fetch_dataset(name: str, data_dir: DataDir = None) -> None:
    """Download a data set, check its checksums and keep it."""
    from posterior_collapse.data import fetch

    files = fetch(name, data_dir, progress=True)
    for file in files:
        typer.echo(file)
    if not files:
        typer.echo(f"{name} is drawn when it is loaded: nothing to fetch")
