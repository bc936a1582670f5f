"""What `fit` and `fit_many` are given, checked before anything is trained or written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_collapse import checks
from posterior_collapse.errors import (
    InvalidArgumentError,
    NotSolvedError,
    UnboundedObjectiveError,
    count_of,
    nearest,
)
from posterior_collapse.models import (
    ARCHITECTURES,
    Architecture,
    check_convention,
    check_warm_up,
)
from posterior_collapse.specs import ChainSpec, HVAESpec, Spec, VAESpec
from posterior_collapse.theory import forecast
from posterior_collapse.training.settings import FIELDS, Settings, effective_spec

if TYPE_CHECKING:
    from posterior_collapse.training.batches import Batches

Folder = str | Path
SPELLINGS = {"lr": "learning_rate", "optimizer": "optimiser"}
"""What settings are called as well, by those who come from other libraries."""
OF_SPEC = {one.name for kind in (VAESpec, HVAESpec, ChainSpec) for one in fields(kind)}
NETWORK_OPTIONS = sorted(set().union(*(preset.free for preset in ARCHITECTURES.values())))


class UnboundedObjectiveWarning(UserWarning):
    """A loss that linear models can lower for ever is trained by minibatches."""


def split(
    settings: Settings | None,
    options: dict[str, Any],
    is_exact: bool,
    caller: Callable[..., Any],
) -> tuple[Settings, dict[str, Any]]:
    """Return the settings with the options that are settings, and those of the architecture.

    One that is neither may be a misspelled argument of the caller, whose options these are.
    """
    options = {SPELLINGS.get(name, name): value for name, value in options.items()}
    own = [one.name for one in signature(caller).parameters.values() if one.kind != one.VAR_KEYWORD]
    for name in options:
        if name in OF_SPEC and name not in FIELDS:
            raise InvalidArgumentError(
                name, "beside the spec", "a field of the spec", f"Pass spec.replace({name}=...)."
            )
        meant = nearest(name, (*FIELDS, *own)) if name not in FIELDS else ""
        if meant and not nearest(name, NETWORK_OPTIONS):
            raise InvalidArgumentError(
                name, "no setting and no option of a network", "a setting", f"Remove it.{meant}"
            )
    if is_exact and options.get("steps") is None and "epochs" in options:
        # Its iterations are passes over the data, of which there are as many as it takes.
        options["steps"] = checks.whole("epochs", options.pop("epochs"), least=1)
    changes = {name: value for name, value in options.items() if name in FIELDS}
    networks = {name: value for name, value in options.items() if name not in FIELDS}
    checks.flag("exact", is_exact)
    common = (settings or Settings()).replace(**changes)
    check_optimiser(common, is_exact)
    return common, networks


def check_together(
    specs: Sequence[Spec],
    architecture: Architecture,
    settings: Settings,
    is_exact: bool,
    from_forecast: bool = False,
) -> None:
    """Refuse what no data could be trained with; without torch, which takes seconds to load."""
    for spec in specs:
        check_convention(settings.convention, spec)
        if is_exact and spec.likelihood != "gaussian":
            raise InvalidArgumentError(
                "exact", f"True with likelihood {spec.likelihood!r}",
                "a Gaussian decoder, of which alone the noise can be integrated out",
                "Leave exact away, to train by minibatches.",
            )  # fmt: skip
        for name in ("model", "likelihood"):
            first, own = getattr(specs[0], name), getattr(spec, name)
            if own != first:
                raise InvalidArgumentError(
                    "specs", f"a {first} and a {own}", f"specs of one {name}",
                    f"Train each {name} by a call of its own.",
                )  # fmt: skip
    check_optimiser(settings, is_exact)
    for name in ("warm_up", "cycles", "free_bits", "capacity", "patience") if is_exact else ():
        if getattr(settings, name):
            raise InvalidArgumentError(
                name, getattr(settings, name), "nothing in exact training", "Leave it out."
            )
    if (is_exact or from_forecast) and architecture.name != "linear":
        what = "exact" if is_exact else "from_forecast"
        raise InvalidArgumentError(
            "architecture", repr(architecture.name), f"'linear' with {what}=True",
            f"Pass architecture='linear', or leave {what} out.",
        )  # fmt: skip
    if isinstance(settings.capacity, tuple):
        levels = len(specs[0].dims)
        checks.sequence("capacity", settings.capacity, levels, "one target per level")
    if settings.steps is None and settings.warm_up:
        check_warm_up(settings.warm_up, settings.epochs, "warm_up", unit="epochs")


def check_optimiser(settings: Settings, is_exact: bool) -> None:
    """Refuse an optimiser that minibatches cannot have."""
    if settings.optimiser == "lbfgs" and not is_exact:
        raise InvalidArgumentError(
            "optimiser", "'lbfgs'", "'adam' or 'sgd' for minibatches", "Pass exact=True."
        )


def described(dims: tuple[int, int | None]) -> str:
    """Return what rows hold, in words."""
    of = "" if dims[1] is None else f" and targets of {dims[1]}"
    return f"rows of {count_of(dims[0], 'number')}{of}"


def check_device(name: str) -> None:
    """Refuse a device that is none, or is not here."""
    Settings(device=name)
    import torch

    device = torch.device(name)
    found = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= found:
        devices = [repr(f"cuda:{index}") for index in range(found if device.type == "cuda" else 0)]
        raise InvalidArgumentError(
            "device", repr(name), " or ".join(["'cpu'", *devices]) + ", which this torch has here",
            "Pass device='cpu'.",
        )  # fmt: skip


def several(specs: Sequence[Spec]) -> tuple[Spec, ...]:
    """Return the specs of several runs.

    Raises:
        InvalidArgumentError: One spec alone, none, or something else.
    """
    if isinstance(specs, Spec):
        raise InvalidArgumentError(
            "specs", f"one {type(specs).__name__}", "a list of specs", "Pass [spec], or use fit."
        )
    if not (found := tuple(specs)):
        raise InvalidArgumentError("specs", "none", "at least one spec", "Pass some specs.")
    for spec in found:
        if not isinstance(spec, Spec):
            raise InvalidArgumentError("spec", type(spec).__name__, "a Spec", "Pass a VAESpec.")
    return found


def per_run(given: dict[str, Any], runs: int) -> list[dict[str, Any]]:
    """Return each run's own settings, from one value for all or one per run."""
    changes: list[dict[str, Any]] = [{} for _ in range(runs)]
    for name, values in given.items():
        if values is None:
            continue
        one = not isinstance(values, Sequence) and getattr(values, "ndim", 0) != 1
        each = (values,) * runs if one else values
        each = checks.sequence(f"{name}s", each, runs, "one per spec, or one for all")
        for own, value in zip(changes, each, strict=True):
            own[name] = value
    return changes


def check_one_each(folders: Sequence[Folder], runs: int) -> None:
    """Refuse folders that are not one for each run."""
    checks.sequence("folders", folders, runs, "one folder per spec")
    places = [Path(folder).resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise InvalidArgumentError(
                "folders", f"{str(folder)!r} twice", "a folder of its own for each run",
                "Name them apart.",
            )  # fmt: skip


def warn_unbounded(
    specs: Sequence[Spec],
    settings: Settings,
    architecture: Architecture,
    fed: Batches,
    is_exact: bool,
) -> None:
    """Say so before a loss is followed down without end; exact training refuses."""
    for spec in specs:
        fixed = "learned" not in (*spec.eta_levels, *spec.sigma_levels[:-1])
        if fixed or not fed.sized:
            continue  # there is a minimum, or to find out would take a pass over the data
        try:
            objective = effective_spec(spec, settings.convention)
            forecast(fed.evidence(objective, architecture.centred), objective)
        except UnboundedObjectiveError as error:
            if is_exact:
                raise
            warnings.warn(
                f"the loss of linear models of {spec!r} falls without end on these data: {error}",
                UnboundedObjectiveWarning,
                stacklevel=4,
            )
            return  # one of a sweep tells enough
        except NotSolvedError:
            continue


def check_folders(folders: Sequence[Folder] | None, resume: bool) -> None:
    """Refuse to resume from nowhere, and to train over a run that is there."""
    from posterior_collapse.training import checkpoints

    if resume and folders is None:
        raise InvalidArgumentError("resume", "True", "a folder to resume from", "Pass folder.")
    for folder in folders or () if not resume else ():
        if checkpoints.exists(folder):
            raise InvalidArgumentError(
                "folder", f"{str(folder)!r}, which holds a checkpoint", "a folder without one",
                "Pass resume=True to go on, or another folder.",
            )  # fmt: skip
