"""Several values of an option: the runs of their product, each with a name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posterior_collapse import checks
from posterior_collapse.cli import options
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.specs import Spec

__all__ = ["SWEPT", "Run", "runs"]

SWEPT = (
    "beta",
    "beta_1",
    "beta_2",
    "eta_dec",
    "eta_enc",
    "sigma",
    "sigma_1",
    "sigma_2",
    "learning_rate",
    "clip",
    "seed",
)
"""Options that take several values, in the order in which they appear in a run's name."""


@dataclass(frozen=True)
class Run:
    """One run: its name within the sweep ("" if it is the only one) and its numbers.

    Raises:
        InvalidArgumentError: The name cannot be that of a folder within the sweep's.
    """

    name: str
    spec: Spec
    learning_rate: float
    clip: float | None
    seed: int

    def __post_init__(self) -> None:
        if self.name:
            checks.file_name("name of a run", self.name)

    def numbers(self) -> dict[str, Any]:
        """Return those that are settings of the training."""
        return {"learning_rate": self.learning_rate, "clip": self.clip, "seed": self.seed}


def runs(model: str, latents: str, given: Mapping[str, str | None]) -> tuple[Run, ...]:
    """Return the runs of the product of all values, the last option varying fastest.

    Args:
        model: vae, cvae or hvae.
        latents: Units, per level for a hvae.
        given: Text of each option of `SWEPT`; commas part values, colons the levels (or units) of
            one value.

    Raises:
        InvalidArgumentError: A value is out of its domain, occurs twice, or is another model's.

    Example:
        >>> texts = dict(beta="0.5,2", eta_dec="1", eta_enc="1", seed="0,1")
        >>> texts |= dict(learning_rate="0.001")
        >>> [run.name for run in runs("vae", "4", texts)]
        ['beta=0.5,seed=0', 'beta=0.5,seed=1', 'beta=2,seed=0', 'beta=2,seed=1']
    """
    _check_betas(model, given)
    values = {name: _values(name, given.get(name)) for name in SWEPT}
    several = [name for name in SWEPT if len(values[name]) > 1]
    found = []
    for choice in itertools.product(*values.values()):
        texts = dict(zip(SWEPT, choice, strict=True))
        name = ",".join(f"{_flag(n)}={_file_part(texts[n])}" for n in several)
        found.append(_run(name, model, latents, texts))
    return tuple(found)


def _run(name: str, model: str, latents: str, texts: Mapping[str, str | None]) -> Run:
    spec_texts = {k: None if v is None else v.replace(":", ",") for k, v in texts.items()}
    beta = spec_texts["beta"] or "1"
    if spec_texts["beta_1"] or spec_texts["beta_2"]:
        beta = f"{spec_texts['beta_1'] or '1'},{spec_texts['beta_2'] or '1'}"
    spec = options.build_spec(
        model,
        latents=latents.replace(":", ","),
        beta=beta,
        eta_dec=spec_texts["eta_dec"] or "1",
        eta_enc=_number("eta_enc", spec_texts["eta_enc"], float),
        sigma=spec_texts["sigma"],
        sigma_1=spec_texts["sigma_1"],
        sigma_2=spec_texts["sigma_2"],
    )
    return Run(
        name,
        spec,
        _number("learning_rate", texts["learning_rate"], float),
        _number("clip", texts["clip"], float),
        _number("seed", texts["seed"], int),
    )


def _number(name: str, text: str | None, kind: Any) -> Any:
    return None if text is None else options.numbers(f"--{_flag(name)}", text, kind)[0]


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


def _file_part(text: str | None) -> str:
    return (text or "").replace(":", "_")
