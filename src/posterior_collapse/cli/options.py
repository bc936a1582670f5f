"""From command line text to specs and data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError, nearest
from posterior_collapse.specs import CVAESpec, HVAESpec, Spec, VAESpec

if TYPE_CHECKING:
    from posterior_collapse.cli.groups import DataOptions
    from posterior_collapse.data import Dataset

MODELS = ("vae", "cvae", "hvae")
NUMBERS = {"learning_rate": float, "clip": float, "seed": int}
"""Options of the training that take several values."""
SWEPT = (
    "beta", "beta_1", "beta_2", "eta_dec", "eta_enc", "sigma", "sigma_1", "sigma_2", *NUMBERS,
)  # fmt: skip
"""Options that take several values, in the order in which they appear in a run's name."""


def numbers(option: str, text: str, kind: Callable[[str], Any] = float) -> tuple[Any, ...]:
    """Return the comma-separated numbers of an option.

    Raises:
        InvalidArgumentError: Not numbers.
    """
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise InvalidArgumentError(
            option, repr(text), f"{what}, separated by commas", f"Pass e.g. {option} 1."
        ) from None


def number_or_word(option: str, text: str) -> Any:
    """Return a word such as "learned", a number, or a tuple of numbers."""
    if text.strip().isalpha() and text.strip().lower() not in ("nan", "inf", "infinity"):
        return text.strip()
    values = numbers(option, text)
    return values[0] if len(values) == 1 else values


def build_spec(
    model: str,
    *,
    latents: str,
    beta: str,
    eta_dec: str,
    eta_enc: float,
    sigma: str | None,
    sigma_1: str | None,
    sigma_2: str | None,
    likelihood: str = "gaussian",
    dispersion: str = "learned",
) -> Spec:
    """Return the spec that the options describe.

    Raises:
        InvalidArgumentError: An option is out of its domain or belongs to another model.
    """
    if model not in MODELS:
        raise InvalidArgumentError(
            "--model", repr(model), f"one of {MODELS}", f"Pass --model vae.{nearest(model, MODELS)}"
        )
    units, betas = numbers("--latents", latents, int), numbers("--beta", beta)
    eta = number_or_word("--eta-dec", eta_dec)
    law: dict[str, Any] = {
        "likelihood": checks.likelihood("--likelihood", likelihood),
        "dispersion": number_or_word("--dispersion", dispersion),
    }
    if model == "hvae" and sigma is not None:
        raise InvalidArgumentError(
            "--sigma", "a value for a hvae", "--sigma-1 and --sigma-2", "Name the level."
        )
    if model == "hvae":
        return HVAESpec(
            latent_dims=_twice("--latents", units),
            betas=_twice("--beta", betas),
            eta_dec=eta,
            eta_enc=eta_enc,
            sigma_1=number_or_word("--sigma-1", sigma_1 or "1"),
            sigma_2=number_or_word("--sigma-2", sigma_2 or "learned"),
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
    std = number_or_word("--sigma", sigma or "learned")
    return cls(units[0], betas[0], eta, eta_enc, std, **law)


def _twice(option: str, values: tuple[Any, ...]) -> tuple[Any, Any]:
    """One value serves both levels of a hierarchy."""
    if len(values) > 2:
        raise InvalidArgumentError(
            option, f"{len(values)} values", "one or two", f"Pass e.g. {option} 1,2."
        )
    return values[0], values[-1]


def swept(
    model: str, latents: str, given: Mapping[str, str | None], **law: str
) -> dict[str, tuple[Spec, dict[str, Any]]]:
    """Return spec and numbers of the training of all combinations of values, by name.

    The name says what varies, the last option fastest; it is "" where nothing does.

    Args:
        model: vae, cvae or hvae.
        latents: Units, per level for a hvae.
        given: Text of each option of `SWEPT`; commas part values, colons the levels (or units) of
            one value.
        **law: Likelihood and dispersion of all runs, as `build_spec` takes them.

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
        parts = {k: None if text is None else text.replace(":", ",") for k, text in texts.items()}
        beta = parts["beta"] or "1"
        if parts["beta_1"] or parts["beta_2"]:
            beta = f"{parts['beta_1'] or '1'},{parts['beta_2'] or '1'}"
        spec = build_spec(
            model,
            latents=latents.replace(":", ","),
            beta=beta,
            eta_dec=parts["eta_dec"] or "1",
            eta_enc=_number("eta_enc", parts["eta_enc"], float),
            sigma=parts["sigma"],
            sigma_1=parts["sigma_1"],
            sigma_2=parts["sigma_2"],
            **law,
        )
        found[name] = spec, {n: _number(n, texts[n], kind) for n, kind in NUMBERS.items()}
    return found


def _number(name: str, text: str | None, kind: Any) -> Any:
    return None if text is None else numbers(f"--{_flag(name)}", text, kind)[0]


def _values(name: str, text: str | None) -> tuple[str | None, ...]:
    if text is None:
        return (None,)
    values = tuple(part.strip() for part in text.split(","))
    for value in values:
        if not value or values.count(value) > 1:
            raise InvalidArgumentError(
                f"--{_flag(name)}",
                repr(text),
                "different values, separated by commas",
                f"Pass e.g. --{_flag(name)} 1,2.",
            )
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


def load_data(source: str, model: str, named: DataOptions) -> Dataset:
    """Load what the options name, for the model they name; see `posterior_collapse.data.load`.

    Raises:
        InvalidArgumentError: A conditional model without a condition.
        DataError: The data cannot be used.
    """
    from posterior_collapse.data import load

    dataset = load(source, progress=True, **asdict(named))
    check_condition(model, dataset)
    return dataset


def check_condition(model: str, dataset: Dataset) -> None:
    """Refuse a conditional model without a condition.

    Raises:
        InvalidArgumentError: There is none.
    """
    if model == "cvae" and dataset.y is None:
        raise InvalidArgumentError(
            "--model",
            "'cvae' without a condition",
            "--task quarter, --task half or --given FILE",
            "Add one of them.",
        )
