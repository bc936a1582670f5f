"""From command line text to specs and data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_collapse.errors import InvalidArgumentError, nearest
from posterior_collapse.specs import CVAESpec, HVAESpec, Spec, VAESpec

if TYPE_CHECKING:
    from posterior_collapse.data import Dataset

MODELS = ("vae", "cvae", "hvae")
HEADER_HELP = "Whether the first row of a .csv is a header (default: told from the rows)."


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
    return cls(units[0], betas[0], eta, eta_enc, number_or_word("--sigma", sigma or "learned"))


def _twice(option: str, values: tuple[Any, ...]) -> tuple[Any, Any]:
    """One value serves both levels of a hierarchy."""
    if len(values) > 2:
        raise InvalidArgumentError(
            option, f"{len(values)} values", "one or two", f"Pass e.g. {option} 1,2."
        )
    return values[0], values[-1]


def load_data(
    source: str,
    *,
    model: str,
    task: str | None,
    given: str | None,
    label: int | None,
    scale: float | None,
    split: str,
    data_dir: Path | None,
    header: bool | None = None,
) -> Dataset:
    """Load what the options name, for the model they name.

    Raises:
        InvalidArgumentError: A conditional model without a condition.
        DataError: The data cannot be used.
    """
    from posterior_collapse.data import load

    dataset = load(
        source,
        split=split,
        data_dir=data_dir,
        task=task,
        given=given,
        label=label,
        scale=scale,
        header=header,
        progress=True,
    )
    if model == "cvae" and dataset.y is None:
        raise InvalidArgumentError(
            "--model",
            "'cvae' without a condition",
            "--task quarter, --task half or --given FILE",
            "Add one of them.",
        )
    return dataset
