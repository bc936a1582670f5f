"""`collapse audit` and `collapse effective-beta`: what a loss asks for."""

from __future__ import annotations

import contextlib
import sys
from inspect import getattr_static, isfunction
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posterior_collapse import checks
from posterior_collapse.cli import options
from posterior_collapse.cli.forecast_command import print_forecast
from posterior_collapse.cli.groups import (
    OF_ROWS,
    SOURCE,
    AsJson,
    ReadingOptions,
    among,
    choice,
    grouped,
    likelihoods,
)
from posterior_collapse.errors import InvalidArgumentError, MissingFileError, first_line, nearest
from posterior_collapse.files import json_text

if TYPE_CHECKING:
    from posterior_collapse.adapters import LossAudit
    from posterior_collapse.data import Dataset

COUNTS = ("all-collapse", "some-collapse")
"""Findings that the lines on the data say too."""
REDUCTIONS = ("sum", "mean")
OF_DATA = "data that it is for"


@grouped
def audit(
    context: typer.Context,
    named: ReadingOptions,
    function: str = typer.Argument(
        metavar="FILE.py:FUNCTION",
        help="A Python file, which is run, and the function loss(y_hat, y, mean, log_var) in it; "
        "model.loss for a method.",
    ),
    data: Annotated[str | None, SOURCE] = None,
    features: str | None = typer.Option(
        None, help="Features, or the shape of a reconstruction: 784 or 1,28,28."
    ),
    latents: int = typer.Option(16, help="Latent units."),
    batch_size: int = typer.Option(8, help="Samples per batch, if reductions differ."),
    std: bool = typer.Option(False, "--std", help="The last argument is a std or a variance."),
    beta: float | None = typer.Option(None, help="Beta that you expect, to compare."),
    eta_dec: float = typer.Option(1.0, help="Decoder std that you expect."),
    active: int | None = typer.Option(None, help="Advise how to keep this many units."),
    as_json: AsJson = False,
) -> None:
    """Say what beta a loss function really has, by calling it; with data, how many units live."""
    if data is None:
        options.refuse_given(context, (*OF_ROWS, "active"), "a value without DATA", OF_DATA)
    if beta is None:
        options.refuse_given(context, ["eta_dec"], "a value without --beta", "both, or none")
    dataset = None if data is None else options.load_data(data, "vae", named)
    if features is not None:
        shape = options.numbers("--features", features, int, parted=",")
    elif dataset is not None:
        shape = (dataset.x.shape[1],)
    else:
        raise InvalidArgumentError(
            "--features", "nothing", "the features of a sample, or data", "Pass --features 784."
        )
    # Before the file is run, which loads torch as a rule.
    for size in shape:
        checks.whole("features", size, least=1)
    checks.units("latents", latents)
    checks.whole("batch_size", batch_size, least=1)
    checks.positive("eta_dec", eta_dec)
    if beta is not None:
        checks.positive("beta", beta)
    if active is not None:
        checks.count("active", active)
    # What the file prints is not what was asked for.
    with contextlib.redirect_stdout(sys.stderr):
        loss = _function(function)
        from posterior_collapse.adapters import audit_loss

        found = audit_loss(
            loss,
            features=shape,
            latents=latents,
            data=None if dataset is None else dataset.x,
            batch_size=batch_size,
            log_var=not std,
            beta=beta,
            eta_dec=eta_dec,
        )
    advice = None if found.forecast is None else found.advice(active)
    if as_json:
        typer.echo(json_text(found.to_dict() | {"text": found.text, "advice": advice}))
        return
    _print(found, dataset, advice)


@grouped
def effective_beta(
    context: typer.Context,
    named: ReadingOptions,
    data: Annotated[str | None, SOURCE] = None,
    weight: float = typer.Option(1.0, help="Factor of the KL term in your loss."),
    likelihood: str = typer.Option(
        "gaussian",
        help="What the error is: gaussian (squared), bernoulli (binary cross-entropy), "
        "categorical (cross-entropy), poisson or negative-binomial.",
        autocompletion=among(likelihoods),
    ),
    reconstruction: str = choice("sum", REDUCTIONS, "Error: {} over features."),
    features: int | None = typer.Option(
        None, help="Features per sample (of a categorical: positions), for a mean over them."
    ),
    half: bool = typer.Option(False, "--half", help="The squared error has a factor 1/2."),
    gaussian_std: float | None = typer.Option(
        None, help="The reconstruction is a Gaussian negative log-likelihood with this std."
    ),
    kl: str = choice("sum", REDUCTIONS, "KL: {} over latent units."),
    latents: int = typer.Option(16, help="Latent units."),
    batch_size: int | None = typer.Option(None, help="Samples per batch, if reductions differ."),
    reconstruction_batch: str = choice("mean", REDUCTIONS, "Reconstruction: {} over the batch."),
    kl_batch: str = choice("mean", REDUCTIONS, "KL: {} over the batch."),
    as_json: AsJson = False,
) -> None:
    """Say what beta a loss has, from a description of it; with data, forecast with it."""
    from posterior_collapse import theory
    from posterior_collapse.specs import VAESpec

    if data is None:
        options.refuse_given(context, OF_ROWS, "a value without DATA", OF_DATA)
    checks.units("latents", latents)
    if batch_size is not None:
        checks.whole("batch_size", batch_size, least=1)
    dataset = None if data is None else options.load_data(data, "vae", named)
    if dataset is not None:
        known = _features(dataset, likelihood)
        if features not in (None, known):
            raise InvalidArgumentError(
                "--features", features, f"{known}, as in {data}", "Leave it out."
            )
        features = known
    result = theory.effective_beta(
        weight,
        features=features,
        latents=latents,
        reconstruction=reconstruction,  # type: ignore[arg-type]
        kl=kl,  # type: ignore[arg-type]
        half=half,
        gaussian_std=gaussian_std,
        batch_size=batch_size,
        reconstruction_batch=reconstruction_batch,  # type: ignore[arg-type]
        kl_batch=kl_batch,  # type: ignore[arg-type]
        likelihood=likelihood,  # type: ignore[arg-type]
    )
    gaussian = result.likelihood == "gaussian"
    effective = {
        "beta_eta_dec_squared" if gaussian else "beta": result.value,
        "squared_error_weight" if gaussian else "error_weight": result.squared_error_weight,
        "kl_weight": result.kl_weight,
        **({} if gaussian else {"likelihood": result.likelihood}),
    }
    if not as_json:
        typer.echo(result.text)
    elif dataset is None:
        typer.echo(json_text({"effective_beta": effective}))
    if dataset is not None:
        spec = VAESpec(latents, beta=result.value, likelihood=result.likelihood)
        print_forecast(dataset, spec, as_json=as_json, effective_beta=effective)


def _features(dataset: Dataset, likelihood: str) -> int:
    """Return what a mean over features is over: of one-hot rows the positions, one class each."""
    if likelihood != "categorical":
        return int(dataset.x.shape[1])
    return max(1, round(float(dataset.x[:1].sum())))


def _function(text: str) -> Any:
    """Return the function that `FILE.py:FUNCTION` names; the file is run."""
    import runpy

    name, _, attribute = text.rpartition(":")
    path = Path(name)
    if not name or not all(map(str.isidentifier, attribute.split("."))) or path.suffix != ".py":
        raise InvalidArgumentError(
            "FILE.py:FUNCTION", repr(text), "a Python file and a name in it", "Pass train.py:loss."
        )
    if not path.is_file():
        raise MissingFileError(str(path), "no such file", "a Python file", "Check the path.")
    sys.path.insert(0, str(path.parent.resolve()))  # for what it imports from beside it
    try:
        found: Any = SimpleNamespace(**runpy.run_path(str(path)))
    except (Exception, SystemExit) as error:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "torch":
            raise  # which is not the file's fault
        raise InvalidArgumentError(
            str(path),
            f"{type(error).__name__} ({first_line(error)}) when run",
            "a file that can be imported",
            "Move the loss to a file of its own, or training under if __name__ == '__main__'.",
        ) from error
    finally:
        sys.path.pop(0)
    reached = str(path)
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [name for name in dir(found) if callable(getattr_static(found, name, None))]
            raise InvalidArgumentError(
                reached,
                f"nothing named {part!r} in it",
                "the name of the loss function",
                f"Check the name.{nearest(part, known)}",
            )
        if isinstance(found, type) and isfunction(getattr_static(found, part)):
            raise InvalidArgumentError(
                attribute,
                f"a method of the class {found.__name__}",
                "a function, or the method of an instance",
                f"Put model = {found.__name__}() into the file, and pass {path}:model.{part}.",
            )
        found, reached = getattr(found, part), part
    return found


def _print(found: LossAudit, dataset: Dataset | None, advice: str | None) -> None:
    typer.echo(found.headline)
    for finding in found.findings:
        if finding.code not in COUNTS:
            typer.echo(f"- {finding}")
    if dataset is None or found.forecast is None:
        return
    typer.echo(f"{dataset.name}: {dataset.note}")
    typer.echo(found.units_kept)
    typer.echo(f"Advice: {advice}")
