"""From command line text to specs and data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import CVAESpec, HVAESpec, Spec, VAESpec

if TYPE_CHECKING:
    from rich.console import Console

    from posterior_collapse.cli.groups import ReadingOptions
    from posterior_collapse.data import Dataset
    from posterior_collapse.records import Viewed

LEAST_WIDTH = 82
"""Columns that tables take at least."""
MODELS = ("vae", "cvae", "hvae")
NUMBERS = {"learning_rate": float, "clip": float, "seed": int}
"""Options of the training that take several values."""
SWEPT = (
    "beta", "beta_1", "beta_2", "eta_dec", "eta_enc", "sigma", "sigma_1", "sigma_2", *NUMBERS,
)  # fmt: skip
"""Options that take several values, in the order in which they appear in a run's name."""


def numbers(
    option: str, text: str, kind: Callable[[str], Any] = float, parted: str = ":"
) -> tuple[Any, ...]:
    """Return the numbers of an option: a colon parts the levels (or units) of one, a comma a list.

    Raises:
        InvalidArgumentError: Not numbers.

    Example:
        >>> numbers("--latents", "5:3", int), numbers("--hidden", "256,128", int, parted=",")
        ((5, 3), (256, 128))
    """
    try:
        return tuple(kind(part) for part in text.split(parted))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        how = "separated by commas" if parted == "," else "one per level (or unit) parted by colons"
        raise InvalidArgumentError(
            option, repr(text), f"{what}, {how}", f"Pass e.g. {option} 1."
        ) from None


def number(option: str, text: str, kind: Callable[[str], Any] = float) -> Any:
    """Return the one number of an option.

    Example:
        >>> number("--seed", "3", int)
        3
    """
    if ":" in text:
        raise InvalidArgumentError(
            option, repr(text), "one number: it has no levels", f"Pass e.g. {option} 1."
        )
    (value,) = numbers(option, text, kind)
    return value


def number_or_word(option: str, text: str, *, several: bool = False) -> Any:
    """Return a word such as "learned", a number, or if there may be several a tuple of them."""
    if text.strip().isalpha() and text.strip().lower() not in ("nan", "inf", "infinity"):
        return text.strip()
    if several and ":" in text:
        return numbers(option, text)
    return number(option, text)


def build_spec(
    model: str,
    *,
    latents: str,
    beta: str | None = None,
    beta_1: str | None = None,
    beta_2: str | None = None,
    eta_dec: str = "1",
    eta_enc: str = "1",
    sigma: str | None = None,
    sigma_1: str | None = None,
    sigma_2: str | None = None,
    likelihood: str = "gaussian",
    dispersion: str = "learned",
) -> Spec:
    """Return the spec that the options of one run describe; colons part levels (or units).

    Raises:
        InvalidArgumentError: An option is out of its domain or belongs to another model.

    Example:
        >>> build_spec("hvae", latents="5:3", beta="1:2").betas
        (1.0, 2.0)
    """
    checks.one_of("--model", model, MODELS, "Pass --model vae.")
    hierarchy = model == "hvae"
    if latents.count(",") and all(part.strip().isdigit() for part in latents.split(",")):
        raise InvalidArgumentError(
            "--latents",
            f"{latents.count(',') + 1} values",
            "one number of units" + ", or one per level, parted by colons" * hierarchy,
            "Pass e.g. --latents 8:4." if hierarchy else "Or pass --model hvae --latents 8:4.",
        )
    units = numbers("--latents", latents, int)
    weight = f"{beta_1 or '1'}:{beta_2 or '1'}" if beta_1 or beta_2 else beta or "1"
    betas = numbers("--beta", weight)
    eta, prior = number_or_word("--eta-dec", eta_dec), number("--eta-enc", eta_enc)
    law: dict[str, Any] = {
        "likelihood": checks.likelihood("--likelihood", likelihood),
        "dispersion": number_or_word("--dispersion", dispersion),
    }
    if hierarchy and sigma is not None:
        raise InvalidArgumentError(
            "--sigma", "a value for a hvae", "--sigma-1 and --sigma-2", "Name the level."
        )
    if hierarchy:
        return HVAESpec(
            latent_dims=_twice("--latents", units),
            betas=_twice("--beta", betas),
            eta_dec=eta,
            eta_enc=prior,
            sigma_1=number_or_word("--sigma-1", sigma_1 or "1", several=True),
            sigma_2=number_or_word("--sigma-2", sigma_2 or "learned", several=True),
            **law,
        )
    for option, values in (("--latents", units), ("--beta", betas)):
        if len(values) != 1:
            raise InvalidArgumentError(
                option, f"{len(values)} values", f"one for a {model}", "Or pass --model hvae."
            )
    if sigma_1 or sigma_2:
        raise InvalidArgumentError(
            "--sigma-1, --sigma-2", f"a value for a {model}", "--sigma", "Or pass --model hvae."
        )
    cls = CVAESpec if model == "cvae" else VAESpec
    std = number_or_word("--sigma", sigma or "learned", several=True)
    return cls(units[0], betas[0], eta, prior, std, **law)


def _twice(option: str, values: tuple[Any, ...]) -> tuple[Any, Any]:
    """One value serves both levels of a hierarchy."""
    if len(values) > 2:
        raise InvalidArgumentError(
            option, f"{len(values)} values", "one or two", f"Pass e.g. {option} 1:2."
        )
    return values[0], values[-1]


def swept(
    model: str, latents: str, given: Mapping[str, str | None], **law: str
) -> dict[str, tuple[Spec, dict[str, Any]]]:
    """Return spec and numbers of the training of all combinations of values, by name.

    The name says what varies, the last option fastest; it is "" where nothing does. Commas part the
    values of an option of `SWEPT`; the law, of all runs, is likelihood and dispersion.

    Raises:
        InvalidArgumentError: A value is out of its domain, occurs twice, or is another model's; a
            name cannot be that of a folder.

    Example:
        >>> texts = dict(beta="0.5,2", eta_dec="1", eta_enc="1", seed="0,1", learning_rate="0.001")
        >>> list(swept("vae", "4", texts))
        ['beta=0.5,seed=0', 'beta=0.5,seed=1', 'beta=2,seed=0', 'beta=2,seed=1']
    """
    _check_betas(model, given)
    values = {name: _values(name, given.get(name)) for name in SWEPT}
    several = [name for name in SWEPT if len(values[name]) > 1]
    found = {}
    for choice in itertools.product(*values.values()):
        texts = dict(zip(SWEPT, choice, strict=True))
        name = ",".join(f"{_flag(n)}={(texts[n] or '').replace(':', '_')}" for n in several)
        if name:
            checks.file_name("name of a run", name)
        own = {n: texts[n] for n in SWEPT if n not in NUMBERS and texts[n] is not None}
        training = {
            n: None if (text := texts[n]) is None else number(f"--{_flag(n)}", text, kind)
            for n, kind in NUMBERS.items()
        }
        spec = build_spec(model, latents=latents, **own, **law)  # type: ignore[arg-type]
        found[name] = spec, training
    return found


def one_spec(command: str, model: str, latents: str, given: Mapping[str, Any], **law: str) -> Spec:
    """Return the spec of a command that takes one value of each option."""
    found = swept(model, latents, given, **law)
    if len(found) > 1:
        option = next(name for name in SWEPT if "," in (given.get(name) or ""))
        raise InvalidArgumentError(
            f"--{_flag(option)}", repr(given[option]), f"one value for {command}",
            "Levels and units are parted by colons.",
        )  # fmt: skip
    ((spec, _),) = found.values()
    return spec


def _values(name: str, text: str | None) -> tuple[str | None, ...]:
    if text is None:
        return (None,)
    option, values = f"--{_flag(name)}", tuple(part.strip() for part in text.split(","))
    if not all(values):
        one = next(filter(None, values), "1")
        raise InvalidArgumentError(
            option, repr(text), "one value, or several with a comma between any two",
            f"Pass {option} {one}, or e.g. {option} 1,2.",
        )  # fmt: skip
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise InvalidArgumentError(
            option, f"{twice} twice in {text!r}", "different values",
            "Name each once; levels and units are parted by colons, 1:2.",
        )  # fmt: skip
    return values


def _check_betas(model: str, given: Mapping[str, str | None]) -> None:
    levels = given.get("beta_1") or given.get("beta_2")
    if levels and model != "hvae":
        raise InvalidArgumentError(
            "--beta-1, --beta-2", f"given for a {model}", "--beta", "Or pass --model hvae."
        )
    if levels and given.get("beta"):
        raise InvalidArgumentError(
            "--beta", "given beside --beta-1 or --beta-2", "one or the other", "Remove --beta."
        )


def _flag(name: str) -> str:
    return name.replace("_", "-")


def is_given(context: typer.Context, name: str) -> bool:
    """Return whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_given(context: typer.Context, names: Iterable[str], got: str, expected: str) -> None:
    """Refuse options that stand on the command line where they mean nothing."""
    for name in names:
        if is_given(context, name):
            argument = "DATA" if name == "data" else f"--{_flag(name)}"
            raise InvalidArgumentError(argument, got, expected, "Remove it.")


def check_length(steps: int | None, epochs: int | None) -> None:
    """Refuse a run that is to be so many steps and so many epochs long."""
    if None not in (steps, epochs):
        raise InvalidArgumentError(
            "--steps", f"{steps} beside --epochs", "one of the two", "Leave one out."
        )


def check_outputs(plot: Path | None, html: Path | None) -> None:
    """Refuse files that no figure or page can be written to, before anything is computed."""
    if plot is None and html is None:
        return
    from posterior_collapse import report

    if plot is not None:
        report.check_figure_path(plot)
    if html is not None:
        report.check_page_path(html)


def write_views(found: Viewed, plot: Path | None, html: Path | None, **said: Any) -> None:
    """Write the figure and the page of a result, as far as they are asked for.

    What is said of the data is for the page, as `report.write_page` takes it.
    """
    from posterior_collapse import report

    if plot is not None:
        report.save_figure(report.plot(found), plot)
    if html is not None:
        report.write_page(found, html, **said)


def say_where(**written: Path | None) -> None:
    """Print where what was asked for lies, e.g. `figure=path`."""
    for what, path in written.items():
        if path is not None:
            typer.echo(f"{what.capitalize()}: {path}")


def about(dataset: Dataset) -> dict[str, Any]:
    """Return what JSON says of the data."""
    return {"name": dataset.name, "note": dataset.note, "samples": len(dataset.x)}


def wide_console() -> Console:
    """Return a console for tables: cut to a narrow terminal they would lose numbers."""
    from rich.console import Console

    return Console(width=max(Console().width, LEAST_WIDTH), highlight=False)


def load_data(source: str, model: str, named: ReadingOptions) -> Dataset:
    """Load what the options name, for the model they name; see `posterior_collapse.data.load`.

    Raises:
        InvalidArgumentError: A conditional model without a condition.
        DataError: The data cannot be used.
    """
    from posterior_collapse.data import load

    dataset = load(source, progress=True, **named.chosen())
    check_condition(model, dataset)
    return dataset


def check_condition(model: str, dataset: Dataset) -> None:
    """Refuse a conditional model without a condition."""
    if model == "cvae" and dataset.y is None:
        raise InvalidArgumentError(
            "--model",
            "'cvae' without a condition",
            "--task quarter, --task half or --given FILE",
            "Add one of them.",
        )
