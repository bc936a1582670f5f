"""`collapse data`: what data sets there are, and fetching them."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(help="List and fetch the data sets known by name.", no_args_is_help=True)

DATA_DIR = typer.Option(
    None,
    "--data-dir",
    help="Folder with data set files (else $POSTERIOR_COLLAPSE_DATA, then the user cache).",
)


@app.command("list")
def list_datasets(data_dir: Path | None = DATA_DIR) -> None:
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
def fetch_dataset(name: str, data_dir: Path | None = DATA_DIR) -> None:
    """Download a data set, check its checksums and keep it."""
    from posterior_collapse.data import fetch

    files = fetch(name, data_dir, progress=True)
    for file in files:
        typer.echo(file)
    if not files:
        typer.echo(f"{name} is drawn when it is loaded: nothing to fetch")
