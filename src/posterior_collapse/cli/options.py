"""From command line text to specs and data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import CVAESpec, HVAESpec, Spec, VAESpec

if TYPE_CHECKING:
    from rich.console import Console

    from posterior_collapse.cli.groups import ReadingOptions
    from posterior_collapse.data import Dataset

LEAST_WIDTH, OF_RUNS = 82, 80
"""Columns that tables take at least; and those of runs, whose names break."""
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


def number_or_word(option: str, text: str) -> Any:
    """Return a number, or a word such as "learned"."""
    if text.strip().isalpha() and text.strip().lower() not in ("nan", "inf", "infinity"):
        return text.strip()
    return number(option, text)


def _std(option: str, text: str) -> Any:
    """Return the posterior std of a level: a word, a number, or a number per unit."""
    return numbers(option, text) if ":" in text else number_or_word(option, text)


READ: dict[str, Callable[[str, str], Any]] = {
    "eta_dec": number_or_word,
    "eta_enc": number,
    **dict.fromkeys(("sigma", "sigma_1", "sigma_2"), _std),
    "likelihood": checks.likelihood,
    "dispersion": number_or_word,
}
"""From the text of an option to the field of a spec that has its name."""


def build_spec(model: str, given: Mapping[str, str | None]) -> Spec:
    """Return the spec that the options of one run describe; colons part levels (or units).

    Those that are None, or left out, are the spec's own defaults.

    Example:
        >>> build_spec("hvae", {"latents": "5:3", "beta": "1:2", "sigma_1": "0.5"})
        HVAESpec(latent_dims=(5, 3), betas=(1.0, 2.0), ..., sigma_1=0.5, sigma_2='learned')
    """
    checks.one_of("--model", model, MODELS, "Pass --model vae.")
    hierarchy = model == "hvae"
    texts = {name: text for name, text in given.items() if text is not None}
    latents = texts["latents"]
    if latents.count(",") and all(part.strip().isdigit() for part in latents.split(",")):
        raise InvalidArgumentError(
            "--latents",
            f"{latents.count(',') + 1} values",
            "one number of units" + ", or one per level, parted by colons" * hierarchy,
            "Pass e.g. --latents 8:4." if hierarchy else "Or pass --model hvae --latents 8:4.",
        )
    units, betas = numbers("--latents", latents, int), (1.0,)
    if "beta_1" in texts or "beta_2" in texts:
        betas = tuple(number(f"--beta-{n}", texts.get(f"beta_{n}", "1")) for n in (1, 2))
    elif "beta" in texts:
        betas = numbers("--beta", texts["beta"])
    values = {
        name: read(f"--{_flag(name)}", texts[name]) for name, read in READ.items() if name in texts
    }
    if hierarchy and "sigma" in values:
        raise InvalidArgumentError(
            "--sigma", "a value for a hvae", "--sigma-1 and --sigma-2", "Name the level."
        )
    if hierarchy:
        return HVAESpec(_twice("--latents", units), _twice("--beta", betas), **values)
    for option, levels in (("--latents", units), ("--beta", betas)):
        if len(levels) != 1:
            raise InvalidArgumentError(
                option, f"{len(levels)} values", f"one for a {model}", "Or pass --model hvae."
            )
    if "sigma_1" in values or "sigma_2" in values:
        raise InvalidArgumentError(
            "--sigma-1, --sigma-2", f"a value for a {model}", "--sigma", "Or pass --model hvae."
        )
    return (CVAESpec if model == "cvae" else VAESpec)(units[0], betas[0], **values)


def _twice(option: str, values: tuple[Any, ...]) -> tuple[Any, Any]:
    """One value serves both levels of a hierarchy."""
    if len(values) > 2:
        raise InvalidArgumentError(
            option, f"{len(values)} values", "one or two", f"Pass e.g. {option} 1:2."
        )
    return values[0], values[-1]


def swept(model: str, given: Mapping[str, str | None]) -> dict[str, tuple[Spec, dict[str, Any]]]:
    """Return spec and numbers of the training of all combinations of values, by name.

    The name says what varies, the last option fastest; it is "" where nothing does. Commas part the
    values of an option of `SWEPT`; the others are those of all runs.

    Example:
        >>> list(swept("vae", {"latents": "4", "beta": "0.5,2", "seed": "0,1"}))
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
        training = {
            n: None if (text := texts[n]) is None else number(f"--{_flag(n)}", text, kind)
            for n, kind in NUMBERS.items()
        }
        spec = build_spec(model, {**given, **texts})
        found[name] = spec, training
    return found


def one_spec(command: str, model: str, given: Mapping[str, str | None]) -> Spec:
    """Return the spec of a command that takes one value of each option."""
    found = swept(model, given)
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


def check_exact(context: typer.Context, optimiser: str | None) -> None:
    """Refuse options that exact training, on all rows at once, has no use for."""
    lbfgs = optimiser in (None, "lbfgs")
    idle = ("batch_size", *("learning_rate", "clip") * lbfgs)
    expected = "nothing in exact training" + " by L-BFGS" * lbfgs
    refuse_given(context, idle, "a value beside --exact", expected)


def check_length(steps: int | None, epochs: int | None) -> None:
    """Refuse a run that is to be so many steps and so many epochs long."""
    if None not in (steps, epochs):
        raise InvalidArgumentError(
            "--steps", f"{steps} beside --epochs", "one of the two", "Leave one out."
        )


def about(dataset: Dataset) -> dict[str, Any]:
    """Return what JSON says of the data."""
    return {"name": dataset.name, "note": dataset.note, "samples": len(dataset.x)}


def wide_console(least: int = LEAST_WIDTH) -> Console:
    """Return a console for tables: cut to a narrow terminal they would lose numbers."""
    from rich.console import Console

    return Console(width=max(Console().width, least), highlight=False)


def load_data(source: str, model: str, named: ReadingOptions) -> Dataset:
    """Load what the options name, for the model they name; see `posterior_collapse.data.load`."""
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
