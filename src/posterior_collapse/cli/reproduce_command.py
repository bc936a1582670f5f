"""`collapse reproduce` and `collapse verify`: the paper's experiments and its theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from posterior_collapse import checks
from posterior_collapse.cli import options
from posterior_collapse.cli.groups import AsJson, DataDir, Scheduler, among
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.files import json_text
from posterior_collapse.progress import Display

if TYPE_CHECKING:
    from rich.table import Table

    from posterior_collapse.experiments import Plan, Reproduced, Row, State

CONVENTIONS = ("elbo", "reference")


def _rows() -> list[str]:
    from posterior_collapse.experiments import ROWS

    return [*(row.id for row in ROWS), "all", "document", "trust"]


def reproduce(
    context: typer.Context,
    row: list[str] | None = typer.Argument(
        None,
        help="E1 to E15, X1, X2, X3 or one of X3a to X3g, several, all; or document, to write it "
        "from the results; or trust, to write docs/trust.md and the README's table from those of "
        "X3.",
        autocompletion=among(_rows),
    ),
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
    out: Path = typer.Option(Path("results"), help="Folder of runs and results."),
    to: Path = typer.Option(Path("docs/reproduction.md"), help="File that `document` writes."),
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
    if row in (["document"], ["trust"]):
        used = {"row", "out", *["to"] * (row == ["document"])}
        idle = [name for name in context.params if name not in used]
        options.refuse_given(context, idle, "a value", f"none: `{row[0]}` reads results alone")
    if row == ["document"]:
        from posterior_collapse.experiments import document

        typer.echo(document.write(out, to))
        return
    if row == ["trust"]:
        from posterior_collapse.experiments import trust

        for path in trust.write(out):
            typer.echo(path)
        return
    options.refuse_given(context, ["to"], "a value", "none: only `document` writes a file there")
    checks.one_of("--convention", convention, CONVENTIONS, "Pass --convention elbo.")
    from posterior_collapse.experiments import Plan, chosen
    from posterior_collapse.training import Settings

    Settings(device="cpu" if scheduler else device)  # a worker has devices of its own
    plan = Plan(quick, convention, seeds, epochs, rows, cnn_epochs)  # type: ignore[arg-type]
    named = list({one.id: one for name in row for one in chosen(name)}.values())
    results = _reproduced(
        named, plan, out, scheduler, data_dir=data_dir, device=device, together=together,
        models=not no_models, runs_only=runs_only, finished=finished,
    )  # fmt: skip
    for result in results:
        typer.echo(f"{result.id}: {result.verdict}")
        for verdict, text in result.agreement["checks"]:
            if verdict != "agrees":
                typer.echo(f"  {verdict}: {text}")
    typer.echo(f"Results: {out}")


def _reproduced(
    rows: Sequence[Row], plan: Plan, out: Path, scheduler: str | None, **how: Any
) -> list[Reproduced]:
    from posterior_collapse.clusters import connected

    # What is not there is refused before torch is loaded.
    with connected(scheduler) as client:
        from posterior_collapse.experiments import reproduce
        from posterior_collapse.training.arguments import check_device

        if not scheduler:
            check_device(how["device"])
        runs = {row.id: len({member.run.key for member in row.members(plan)}) for row in rows}
        with RowsTable({row.id: row.name for row in rows}, runs) as table:
            return reproduce(rows, out, plan, client=client, report=table.show, **how)


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


class RowsTable(Display):
    """How many runs of each row of the paper, by id, are done, what trains, and the time left.

    Runs that rows share count in each.
    """

    def __init__(self, names: Mapping[str, str], runs: Mapping[str, int]) -> None:
        super().__init__("runs", sum(runs.values()), above=self.table)
        self.names, self.runs = names, runs
        self.finished = dict.fromkeys(runs, 0)
        self.now = dict.fromkeys(runs, "")

    def show(self, state: State) -> None:
        """Show how far a row is."""
        name = state.row.id
        if state.progress is None:
            self.finished[name], self.now[name] = self.runs[name], state.verdict
        else:
            self.finished[name] = state.progress.done
            training = state.progress.training
            self.now[name] = f"{training} training" if training else ""
        if state.epoch is not None:
            self.now[name] += f", epoch {state.epoch.epoch}"
        self.update(sum(self.finished.values()))

    def table(self) -> Table:
        """Return a line per row."""
        from posterior_collapse.report import new_table

        table = new_table()
        table.add_column("row")
        table.add_column("experiment", overflow="fold")
        table.add_column("runs", justify="right")
        table.add_column("now", overflow="fold")
        for name, title in self.names.items():
            done = f"{self.finished[name]}/{self.runs[name]}"
            table.add_row(name, title, done, self.now[name])
        return table


def verify(
    case: str = typer.Argument("all", help="E8, E13, E14, a branch, or all."),
    problems: int = typer.Option(3, min=1, help="Random problems per branch."),
    restarts: int = typer.Option(8, min=1, help="Random starts per problem."),
    seed: int = typer.Option(0, min=0, help="Seed of problems and starts."),
    as_json: AsJson = False,
) -> None:
    """Minimise the exact objective from random starts and compare the minimum with theory.

    Exit status 1 if any problem differs.
    """
    from posterior_collapse import report
    from posterior_collapse.report.text import add_numbers
    from posterior_collapse.theory import verification

    table = report.new_table()
    table.add_column("case", no_wrap=True)
    add_numbers(table, ("loss", "loss gap", "s.v. error", "on", "found on"))
    table.add_column("", no_wrap=True)
    results = []
    total = len(verification.plan(case, problems)) * restarts
    with Display("minimising", total) as display:
        for result in verification.verify(
            case,
            problems=problems,
            restarts=restarts,
            seed=seed,
            after_restart=display.advance,
        ):
            results.append(result)
            table.add_row(*report.verification_row(result))
    good = sum(r.agrees for r in results)
    if as_json:
        typer.echo(json_text([r.to_dict() for r in results]))
    else:
        console = options.wide_console()
        console.print(table)
        console.print(
            "loss: of the closed form; gap: lowest found less that; s.v. error: of the\n"
            "singular values (-: the optimum leaves them free); on: units not collapsed.\n"
            f"{good} of {len(results)} problems agree: loss to {verification.LOSS_TOLERANCE:g} "
            f"relative, singular values to {verification.SINGULAR_VALUE_TOLERANCE:g}, and counts.",
            highlight=False,
        )
    if good < len(results):
        raise typer.Exit(1)
