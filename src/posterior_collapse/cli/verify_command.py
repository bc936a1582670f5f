"""`collapse verify`: theory against numerical minima."""

from __future__ import annotations

import json

import typer


def verify(
    case: str = typer.Argument("all", help="E8, E13, E14, a branch, or all."),
    problems: int = typer.Option(3, min=1, help="Random problems per branch."),
    restarts: int = typer.Option(8, min=1, help="Random starts per problem."),
    seed: int = typer.Option(0, min=0, help="Seed of problems and starts."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Minimise the exact objective from random starts and set theory beside what is found.

    Exit status 1 if any problem differs.
    """
    from rich.console import Console

    from posterior_collapse import report
    from posterior_collapse.progress import Display
    from posterior_collapse.theory import verification

    table = report.new_table()
    table.add_column("case", no_wrap=True)
    for column in ("loss", "loss gap", "s.v. error", "on", "found on"):
        table.add_column(column, justify="right", no_wrap=True)
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
        typer.echo(json.dumps([r.to_dict() for r in results], indent=2))
    else:
        console = Console()
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
