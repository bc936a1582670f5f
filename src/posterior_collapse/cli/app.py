"""The command line application, and how it reports errors: one line, exit status 2."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from posterior_collapse.cli import (
    audit_command,
    diagnose_command,
    forecast_command,
    reproduce_command,
    train_command,
    tune_command,
)
from posterior_collapse.cli.groups import DataDir
from posterior_collapse.errors import (
    InvalidArgumentError,
    NotSolvedError,
    OutputError,
    PosteriorCollapseError,
    UnboundedObjectiveError,
    first_line,
    needing_torch,
)

SPELLINGS = {
    "lr": "learning-rate",
    "optimizer": "optimiser",
    "standardise": "standardize",
}
"""What options are called as well, by those who come from other libraries."""

OPTIONS = {"latent_dim": "latents", "latent_dims": "latents", "betas": "beta"}
"""Options that are not called as Python's arguments are."""
SWITCHES = {"log_var=False": "std"}
"""Options without a value that turn off what Python calls otherwise."""
PYTHON = re.compile(r"(?<![\w-])(?:--)?([a-z][a-z_0-9]*)=('[^']*'|\([^)]*\)|[^\s,;)]*[^\s,;).])")
"""An argument with a value, as Python writes it."""

USAGE = {
    "No such command": "See collapse --help.",
    "Missing argument 'data'": "Pass a data set's name or a file, e.g. digits.",
    "Got unexpected extra argument": "Values of one option have commas between them and no spaces: "
    "--beta 0.1,0.2.",
}
"""What to do about a command line that cannot be read, by how the parser's sentence begins."""

app = typer.Typer(
    name="collapse",
    help="Say which latent units of a VAE will collapse, and what to change.",
    no_args_is_help=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: SPELLINGS.get(str(name), str(name)).replace("_", "-"),
    },
    pretty_exceptions_enable=False,
)
app.command("forecast")(forecast_command.forecast)
app.command("explore")(forecast_command.explore)
app.command("audit")(audit_command.audit)
app.command("effective-beta")(audit_command.effective_beta)
app.command("train")(train_command.train)
app.command("tune")(tune_command.tune)
app.command("diagnose")(diagnose_command.diagnose)
app.command("reproduce")(reproduce_command.reproduce)
app.command("verify")(reproduce_command.verify)
data = typer.Typer(help="List and fetch the data sets known by name.", no_args_is_help=True)
app.add_typer(data, name="data")

# Typer's usage errors are click's, whichever copy of click it carries: BadParameter's base's base.
ClickException: Any = typer.BadParameter.__mro__[2]
INTERRUPTED = 130
"""Exit status after Ctrl-C, which is also what typer makes of it."""

UNREAD = 141
"""Exit status where nobody reads on, as in `collapse forecast DATA | head -1`."""


@app.callback(invoke_without_command=True)
def version(
    show: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Say which latent units of a VAE will collapse, and what to change."""
    if show:
        from importlib.metadata import version as installed

        typer.echo(installed("posterior-collapse"))
        raise typer.Exit


@data.command("list")
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


@data.command("fetch")
def fetch_dataset(name: str, data_dir: DataDir = None) -> None:
    """Download a data set, check its checksums and keep it."""
    from posterior_collapse.data import fetch

    files = fetch(name, data_dir, progress=True)
    for file in files:
        typer.echo(file)
    if not files:
        typer.echo(f"{name} is drawn when it is loaded: nothing to fetch")


def run(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; every foreseen error is one line on stderr."""
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        with needing_torch():
            status = app(args=arguments, prog_name="collapse", standalone_mode=False)
        sys.stdout.flush()
    except PosteriorCollapseError as error:
        return _refused(_in_options(error, sys.argv[1:] if arguments is None else arguments))
    except MemoryError as error:
        reason = first_line(error) or "no more"
        return _refused(
            f"memory: got '{reason}'; expected room for the data and what is made of them. "
            "Take fewer rows or features, fewer units, or a smaller batch."
        )
    except OSError as error:
        return _unusable(error)
    except ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed: nothing is wrong
            return 0
        return _refused(_advised(" ".join(error.format_message().split())))
    except typer.Abort:
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def _in_options(error: PosteriorCollapseError, line: Sequence[str]) -> str:
    """Return what is wrong and what to do in the words of the command that was given."""
    commands: Any = typer.main.get_command(app)
    command = commands.commands.get(next(iter(line), ""))
    known = {flag for option in getattr(command, "params", ()) for flag in option.opts}

    def flag(argument: str) -> str | None:
        for name in (argument, argument.rstrip("_0123456789")):  # latent_dim_2 is of --latents
            if (option := f"--{OPTIONS.get(name, name).replace('_', '-')}") in known:
                return option
        return None

    def written(found: re.Match[str]) -> str:
        if (switch := f"--{SWITCHES.get(found[0])}") in known:
            return switch
        name, value = flag(found[1]), found[2]
        if name is None or value in ("False", "None"):
            return found[0]
        text = value.strip("'()").replace(", ", ":")
        return name if value == "True" else f"{name} {text}"

    if isinstance(error, (InvalidArgumentError, NotSolvedError, UnboundedObjectiveError)):
        name, *which = error.argument.partition(" of ")  # "hidden of layer 1"
        error.argument = "".join((flag(name) or name, *which))
    for part in ("got", "expected", "action"):
        text = str(getattr(error, part))
        text = re.sub("`([a-z_0-9]+)`", lambda found: flag(found[1]) or found[0], text)
        setattr(error, part, text)
    error.action = PYTHON.sub(written, error.action)
    return str(error)


def _advised(usage: str) -> str:
    """Return what is wrong with a command line, and what to do about it."""
    for start, remedy in USAGE.items():
        if usage.casefold().startswith(start.casefold()):  # older parsers shout a name
            return f"{usage.removesuffix('.')}. {remedy}"
    return usage or "Missing command; see --help."


def _unusable(error: OSError) -> int:
    """Say what the system refused, and let nothing try to write it again at exit."""
    if error.filename is None:  # standard output: a full disk, or a reader that has gone
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return UNREAD
    where = "output" if error.filename is None else str(error.filename)
    reason = f"'{error.strerror or error}'"
    return _refused(str(OutputError(where, reason, "what can be used", "Choose another path.")))


def _refused(message: str) -> int:
    typer.echo(f"error: {message}", err=True)
    return 2


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"warning: {message}", err=True)
