"""The two verbs of this room: `fit` one model, `fit_many` in one vectorised run."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from posterior_collapse import checks
from posterior_collapse.data.about import refuse_reordered
from posterior_collapse.errors import DataError, InvalidArgumentError
from posterior_collapse.models import (
    Architecture,
    MarkovVAE,
    build,
    load_parameters,
)
from posterior_collapse.specs import Spec, in_order
from posterior_collapse.theory import forecast
from posterior_collapse.theory.minimum import FINISHED, ITERATIONS, LIMIT
from posterior_collapse.training import checkpoints, exact, states
from posterior_collapse.training import seeds as seeding
from posterior_collapse.training.arguments import (
    Folder,
    check_device,
    check_folders,
    check_one_each,
    check_together,
    described,
    per_run,
    several,
    split,
    warn_unbounded,
)
from posterior_collapse.training.batches import Batches, feed
from posterior_collapse.training.course import Bar, Course, Progress
from posterior_collapse.training.engine import Engine
from posterior_collapse.training.fitted import Fitted
from posterior_collapse.training.settings import Settings, effective_spec
from posterior_collapse.training.states import TrainState
from posterior_collapse.training.units import some_rows

Report = bool | Callable[[Progress], None]


def fit(
    spec: Spec | Any,
    data: Spec | Any,
    architecture: str | Architecture = "mlp",
    *,
    settings: Settings | None = None,
    validation: Any = None,
    folder: Folder | None = None,
    resume: bool = False,
    progress: Report = False,
    exact: bool = False,
    from_forecast: bool = False,
    **options: Any,
) -> Fitted:
    """Train one model.

    Args:
        spec: The hyperparameters; `fit(data, spec)` works too.
        data: Array (samples, features) or (samples, ...) for images, data frame, sparse matrix,
            pair (x, y), `Dataset`, torch Dataset or DataLoader, Hugging Face dataset, or batches;
            labels beside x are not a target, but the condition of a conditional model. All but a
            DataLoader are read into memory. Of a categorical, one-hot: (samples, positions,
            classes), or the positions side by side in flat rows.
        architecture: A key of `models.ARCHITECTURES`, or an `Architecture`.
        settings: How to train; None: the defaults.
        validation: Data for `validation_loss` and early stopping, of the same kinds, of a
            DataLoader the first 10,000 rows; not for `exact`.
        folder: Where to keep checkpoints.
        resume: Go on from the folder's newest good checkpoint, bit for bit as if the run had not
            stopped; start anew where there is none.
        progress: Show a bar, or a function called with a `Progress` after each epoch.
        exact: Train a linear model on the data's moments: full batch, the noise integrated out.
        from_forecast: Start a linear model at the closed-form optimum.
        **options: Fields of `Settings` to change, and options of the architecture.

    Raises:
        InvalidArgumentError: An argument is out of its domain, or they contradict each other.
        DataError: The data cannot be used, or not with the spec's likelihood.
        NonFiniteLossError: The loss became NaN or infinite; the last good checkpoint is kept.
        UnboundedObjectiveError: The loss has no minimum, with `exact`; minibatches only warn.
        CheckpointError: There is none to resume from that is good and of this run and these data.

    Example:
        >>> import numpy as np
        >>> from posterior_collapse.specs import VAESpec
        >>> x = np.random.default_rng(0).standard_normal((200, 4)) * [3, 2, 0.1, 0.1]
        >>> fitted = fit(VAESpec(latent_dim=3), x, "linear", exact=True)
        >>> fitted.measured()["levels"][0]["n_active"], fitted.forecast.levels[0].n_active
        (2, 2)
    """
    data, spec = in_order(data, spec)
    folders = None if folder is None else [folder]
    (fitted,) = _fit(
        several([spec]), data, architecture, [{}], settings, options, validation=validation,
        folders=folders, resume=resume, progress=progress, is_exact=exact,
        from_forecast=from_forecast, alone=True,
    )  # fmt: skip
    return fitted


def fit_many(
    specs: Sequence[Spec] | Any,
    data: Any,
    architecture: str | Architecture = "mlp",
    *,
    settings: Settings | None = None,
    seeds: int | Sequence[int] | None = None,
    learning_rates: float | Sequence[float] | None = None,
    clips: float | Sequence[float | None] | None = None,
    validation: Any = None,
    folders: Sequence[Folder] | None = None,
    resume: bool = False,
    progress: Report = False,
    exact: bool = False,
    from_forecast: bool = False,
    start: Sequence[MarkovVAE] | None = None,
    **options: Any,
) -> tuple[Fitted, ...]:
    """Train models whose specs differ in numbers only, in one vectorised run.

    Every run has its own initialisation, noise, clipping and early stopping, from its own seed.
    One vectorised run sees its data in one order, that of `order_seed` (None: the seed of the
    settings), whatever `seeds` says: to vary the order too, call it once per seed, as `sweep`
    and `collapse train --seed` do. `fit(fitted.spec, data, settings=fitted.settings)`
    gives any of them alone, up to floating-point order (which the paper's nets with
    `sigma="input"` amplify: where a signed std crosses 0, runs that differ in rounding go
    apart). A run whose loss is not finite is frozen at its last finite step, and says so in
    `stopped`; the others go on.

    Args:
        specs: One per run.
        data: As in `fit`.
        architecture: As in `fit`.
        settings: What the runs share.
        seeds: One for all or one per run; None: that of the settings.
        learning_rates: Likewise.
        clips: Likewise.
        validation: As in `fit`.
        folders: One per run, for its checkpoints.
        resume: As in `fit`; goes back to the last step that all folders have.
        progress: As in `fit`.
        exact: As in `fit`.
        from_forecast: As in `fit`.
        start: Models to go on from, one per run and not changed, instead of new ones; not beside
            `from_forecast`.
        **options: As in `fit`.

    Raises:
        InvalidArgumentError: As in `fit`; specs that differ in more than numbers; a model of
            another spec.
        DataError: The data cannot be used.
        CheckpointError: As in `fit`.

    Example:
        >>> import numpy as np
        >>> from posterior_collapse.specs import VAESpec
        >>> x = np.random.default_rng(0).standard_normal((64, 4))
        >>> specs = [VAESpec(latent_dim=2, beta=beta) for beta in (0.5, 2.0)]
        >>> [f.spec.beta for f in fit_many(specs, x, "mlp", epochs=2, hidden=(8,))]
        [0.5, 2.0]
    """
    data, specs = in_order(data, specs)
    specs = several(specs)
    given = {"seed": seeds, "learning_rate": learning_rates, "clip": clips}
    changes = per_run(given, len(specs))
    if folders is not None:
        check_one_each(folders, len(specs))
    return _fit(
        specs, data, architecture, changes, settings, options, validation=validation,
        folders=folders, resume=resume, progress=progress, is_exact=exact,
        from_forecast=from_forecast, alone=False, start=start,
    )  # fmt: skip


def _fit(
    specs: Sequence[Spec],
    data: Any,
    architecture: str | Architecture,
    changed: Sequence[dict[str, Any]],
    settings: Settings | None,
    options: dict[str, Any],
    *,
    validation: Any,
    folders: Sequence[Folder] | None,
    resume: bool,
    progress: Report,
    is_exact: bool,
    from_forecast: bool,
    alone: bool,
    start: Sequence[MarkovVAE] | None = None,
) -> tuple[Fitted, ...]:
    common, networks = split(settings, options, is_exact, fit if alone else fit_many)
    for name, value in (("resume", resume), ("from_forecast", from_forecast)):
        checks.flag(name, value)
    check_device(common.device)
    if is_exact and validation is not None:
        raise InvalidArgumentError(
            "validation", "data", "nothing in exact training, which goes to a minimum",
            "Leave it out, or diagnose the model on them.",
        )  # fmt: skip
    own = [common.replace(order_seed=common.data_order, **changes) for changes in changed]
    net = Architecture.of(architecture, **networks)
    check_together(specs, net, common, is_exact, from_forecast)
    dtype = dtype_of(common, is_exact)
    fed = feed(data, specs[0], common.batch_size, dtype, common.device)
    fed.check_spread()
    fed.check_targets(specs[0].likelihood)
    checked = None
    if validation is not None:
        # Labels of the rarest class need not occur in a few rows.
        checked = feed(
            validation, specs[0], common.batch_size, dtype, common.device, classes=fed.dims[0]
        )
        if checked.dims != fed.dims:
            raise DataError(
                "validation", described(checked.dims), f"{described(fed.dims)}, as in the data",
                "Pass data of the same kind.",
            )  # fmt: skip
        refuse_reordered("validation", validation, fed.columns)
        checked.check_targets(specs[0].likelihood)
    models = [
        _start(spec, net, one, fed, dtype, from_forecast)
        for spec, one in zip(specs, own, strict=True)
    ]
    if start is not None:
        _check_start(start, len(models), from_forecast)
        models = [_taken_over(*pair) for pair in zip(models, start, strict=True)]
    check_folders(folders, resume)
    warn_unbounded(specs, common, net, fed, is_exact)
    if is_exact:
        with Bar(progress, common.steps) as shown:
            fresh = not from_forecast and start is None
            return _exactly(models, own, fed, folders, resume, shown.report, alone, fresh)
    with Bar(progress, common.epochs) as shown:
        engine = Engine(
            models, own, fed, validation=checked, folders=folders, report=shown.report, alone=alone
        )
        if resume and folders is not None and all(map(checkpoints.exists, folders)):
            states.restore(engine.state, folders)
        engine.train()
    fed.release()
    return _finish(engine.state, fed)


def dtype_of(settings: Settings, is_exact: bool) -> torch.dtype:
    """Return the precision of parameters and rows."""
    double = is_exact or settings.precision == "float64"
    return torch.float64 if double else torch.float32


def _exactly(
    models: Sequence[MarkovVAE],
    settings: Sequence[Settings],
    fed: Batches,
    folders: Sequence[Folder] | None,
    resume: bool,
    report: Callable[[Progress], None] | None,
    alone: bool,
    fresh: bool,
) -> tuple[Fitted, ...]:
    moments, some = fed.moments(models[0].centred), some_rows(fed)
    data = None if folders is None else fed.fingerprint()
    fitted = []
    for i, (model, own) in enumerate(zip(models, settings, strict=True)):
        folder = None if folders is None else folders[i]
        run = Course(own)
        done: int | None = None
        initial = copy.deepcopy(model.state_dict())
        if resume and folder is not None and checkpoints.exists(folder):
            done = states.load_exact(model, run, data, folder)
        cut_short = LIMIT if exact.goes_to_a_minimum(own) else FINISHED
        if run.stopped == cut_short and (done or 0) < (own.steps or ITERATIONS):
            # It may now go further: anew, since no state of an optimiser is kept.
            model.load_state_dict(initial)
            done = None
        if done is None:
            begun = time.perf_counter()
            show = report and _shown(report, i, len(models), own.steps)
            run, steps = exact.train(
                model, own, moments, alone=alone, fresh=fresh, some=some, report=show
            )
            run.seconds = time.perf_counter() - begun
            if folder is not None:
                states.save_exact(model, run, steps, data, folder)
        fitted.append(Fitted.of(model.eval(), run, fed))
    return tuple(fitted)


def _shown(
    report: Callable[[Progress], None], run: int, runs: int, steps: int | None
) -> Callable[[dict[str, float]], None]:
    """Report iterations of one run after another as the epochs of a sweep."""

    def show(row: dict[str, float]) -> None:
        done = int(row["step"])
        report(Progress(done, steps, done, [row if i == run else None for i in range(runs)]))

    return show


def _start(
    spec: Spec,
    architecture: Architecture,
    settings: Settings,
    fed: Batches,
    dtype: torch.dtype,
    from_forecast: bool,
) -> MarkovVAE:
    x_dim, y_dim = fed.dims
    convolves = architecture.name in ("cnn", "hvae-cnn")  # others see flat rows or MNIST's quarters
    model = build(
        spec,
        architecture,
        x_dim=x_dim,
        y_dim=y_dim,
        classes=fed.classes() if spec.likelihood == "categorical" else None,
        image_shape=fed.image_shape if convolves else None,
        condition_shape=fed.condition_shape if convolves else None,
        generator=seeding.generator(settings.seed, seeding.INITIALISATION),
        dtype=dtype,
    )
    if from_forecast:
        objective = effective_spec(spec, settings.convention)
        best = forecast(fed.evidence(objective, model.centred), objective)
        load_parameters(model, best.parameters())
    return model


def _check_start(start: Sequence[MarkovVAE], runs: int, from_forecast: bool) -> None:
    if from_forecast:
        raise InvalidArgumentError(
            "from_forecast", "True beside `start`", "one of the two", "Leave one out."
        )
    for one in checks.sequence("start", start, runs, "one trained model per spec"):
        if not isinstance(one, MarkovVAE):
            raise InvalidArgumentError(
                "start", f"a {type(one).__name__}", "a list of trained models",
                "Pass [fitted.model for fitted in ...].",
            )  # fmt: skip


def _taken_over(model: MarkovVAE, start: MarkovVAE) -> MarkovVAE:
    """Return the new model with the parameters of one that is there."""
    for name in ("spec", "architecture", "shapes"):
        got, expected = getattr(start, name), getattr(model, name)
        if got != expected:
            raise InvalidArgumentError(
                "start", f"a model of {got!r}", f"one of {expected!r}",
                "Pass the models in the order of the specs, trained on such data.",
            )  # fmt: skip
    model.load_state_dict(start.state_dict())
    return model


def _finish(state: TrainState, fed: Batches) -> tuple[Fitted, ...]:
    fitted = []
    runs = range(len(state.runs))
    for model, run, own in zip(state.models, state.runs, state.stack.states(runs), strict=True):
        model.load_state_dict(own)
        fitted.append(Fitted.of(model.eval(), run, fed))
    return tuple(fitted)
