"""`collapse reproduce`: the paper's experiments by name, and the document made of their results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from posterior_collapse.cli.groups import DataDir, Scheduler, among
from posterior_collapse.errors import InvalidArgumentError, nearest

if TYPE_CHECKING:
    from posterior_collapse.experiments import Plan

DOCUMENT = Path("docs/reproduction.md")
CONVENTIONS = ("elbo", "reference")


def _rows() -> list[str]:
    from posterior_collapse.experiments import ROWS

    return [*(row.id for row in ROWS), "all", "document", "trust"]


ROW = typer.Argument(
    None,
    help="E1 to E15, X1, X2, X3 or one of X3a to X3e, several, all; or document, to write it from "
    "the results; or trust, to write docs/trust.md and the README's table from those of X3.",
    autocompletion=among(_rows),
)
OUT = typer.Option(Path("results"), help="Folder of runs and results.")
TO = typer.Option(DOCUMENT, help="File that `document` writes.")


def reproduce(
    row: list[str] | None = ROW,
    show: bool = typer.Option(False, "--list", help="List the rows and exit."),
    quick: bool = typer.Option(False, "--quick", help="On digits, in seconds per row."),
    convention: str = typer.Option(
        "elbo",
        help="Of the loss: elbo or reference (as published; with --out results/reference the "
        "document shows both).",
    ),
    seeds: int = typer.Option(1, min=1, help="Runs of each setting, where spread is shown."),
    epochs: int | None = typer.Option(None, min=1, help="At most so many; the results say so."),
    rows: int | None = typer.Option(
        None, min=1, help="Train minibatches on at most so many rows; the results say so."
    ),
    cnn_epochs: int | None = typer.Option(
        None, min=1, help="At most so many where nets are convolutional; the results say so."
    ),
    device: str = typer.Option(
        "cpu", help="Where minibatches are trained and measured: cpu, cuda, cuda:N."
    ),
    together: int | None = typer.Option(
        None, min=1, help="Runs that train together at most (default: 12; 64 on a GPU)."
    ),
    no_models: bool = typer.Option(False, "--no-models", help="Keep runs without their weights."),
    runs_only: bool = typer.Option(False, "--runs-only", help="Train, and write no results."),
    finished: bool = typer.Option(
        False, "--finished", help="Train nothing: results from the runs that are there."
    ),
    out: Path = OUT,
    to: Path = TO,
    data_dir: DataDir = None,
    scheduler: Scheduler = None,
) -> None:
    """Repeat the paper's experiments, each beside what theory predicts.

    Finished runs are kept in OUT/runs and never repeated: an interrupted command goes on where it
    was, from the last checkpoint of the runs that trained, up to 12 together. The same command in
    several processes shares the runs among them. Results are written to OUT/ROW.
    """
    if show:
        _list()
        return
    if not row:
        raise InvalidArgumentError(
            "ROW", "nothing", "a row, all or document, or trust", "See --list."
        )
    if row == ["document"]:
        _document(out, to)
        return
    if row == ["trust"]:
        _trust(out)
        return
    from posterior_collapse.experiments import Plan

    _check(convention, "cpu" if scheduler else device)  # a worker has devices of its own
    plan = Plan(quick, convention, seeds, epochs, rows, cnn_epochs)  # type: ignore[arg-type]
    options: dict[str, Any] = {
        "data_dir": data_dir, "device": device, "together": together, "models": not no_models,
        "runs_only": runs_only, "finished": finished,
        "scheduler": scheduler,
    }  # fmt: skip
    _reproduce(row, plan, out, **options)


def _reproduce(
    names: list[str], plan: Plan, out: Path, *, scheduler: str | None, **options: Any
) -> None:
    from posterior_collapse.clusters import connected
    from posterior_collapse.experiments import chosen

    rows = list({row.id: row for name in names for row in chosen(name)}.values())
    titles = {row.id: row.name for row in rows}
    # What is not there is refused before torch is loaded.
    with connected(scheduler) as client:
        from posterior_collapse.cli.live import RowsTable
        from posterior_collapse.experiments import reproduce
        from posterior_collapse.training.arguments import check_device

        if not scheduler:  # a worker has devices of its own
            check_device(options["device"])
        runs = {row.id: len({member.run.key for member in row.members(plan)}) for row in rows}
        with RowsTable(titles, runs) as table:
            results = reproduce(rows, out, plan, client=client, report=table.show, **options)
    for result in results:
        typer.echo(f"{result['id']}: {result['agreement']['verdict']}")
        for verdict, text in result["agreement"]["checks"]:
            if verdict != "agrees":
                typer.echo(f"  {verdict}: {text}")
    typer.echo(f"Results: {out}")


def _document(out: Path, to: Path) -> None:
    from posterior_collapse.experiments import document

    typer.echo(document.write(out, to))


def _trust(out: Path) -> None:
    from posterior_collapse.experiments import trust

    for path in trust.write(out):
        typer.echo(path)


def _list() -> None:
    from rich.console import Console

    from posterior_collapse.experiments import ROWS, Plan
    from posterior_collapse.report import new_table

    table = new_table()
    for column in ("row", "experiment", "networks", "runs", "command"):
        table.add_column(column, overflow="fold", justify="right" if column == "runs" else "left")
    for row in ROWS:
        runs = len({member.run.key for member in row.members(Plan())})
        command = f"collapse reproduce {row.id}"
        table.add_row(row.id, row.name, row.networks, str(runs), command)
    Console().print(table)


def _check(convention: str, device: str) -> None:
    if convention not in CONVENTIONS:
        raise InvalidArgumentError(
            "--convention",
            repr(convention),
            f"one of {list(CONVENTIONS)}",
            f"Pass --convention elbo.{nearest(convention, CONVENTIONS)}",
        )
    from posterior_collapse.training import Settings

    Settings(device=device)
