"""Many runs beside their forecasts: `sweep`, and the table it returns."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from posterior_collapse.arrays import ImageShape, is_lazy
from posterior_collapse.data import Dataset
from posterior_collapse.data.about import About, columns_of
from posterior_collapse.diagnosis.conclusions import kept_of
from posterior_collapse.errors import DataError, InvalidArgumentError, count_of
from posterior_collapse.files import digest
from posterior_collapse.models import Architecture
from posterior_collapse.progress import Display
from posterior_collapse.records import Viewed, plain
from posterior_collapse.report.comparison import undetermined
from posterior_collapse.runs.completing import (
    CHECKPOINT_SHARE,
    Job,
    Training,
    complete,
    groups,
    here,
)
from posterior_collapse.runs.run import NUMBERS, Evaluation, Method, Run, RunData
from posterior_collapse.runs.spreading import spread_over
from posterior_collapse.runs.store import Outcome, Record, Store
from posterior_collapse.specs import Spec, in_order
from posterior_collapse.training import Progress as Epoch
from posterior_collapse.training import Settings
from posterior_collapse.training.arguments import per_run, several, split
from posterior_collapse.training.batches import feed
from posterior_collapse.training.course import describe
from posterior_collapse.training.fitting import dtype_of

Finished: TypeAlias = Outcome | Record


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Viewed):
    """Trained runs beside their forecasts; `sweep` makes it.

    Attributes:
        runs: One per spec, in the order given, each with `run` (spec, settings and all),
            `measured`, `forecast` (None where there is no closed form), `stopped`, `history` and
            `model`; of a sweep with a folder, the last two are read when asked for.
    """

    runs: tuple[Finished, ...]
    view: ClassVar[str] = "sweep"

    @cached_property
    def labels(self) -> tuple[dict[str, Any], ...]:
        """Per run the hyperparameters, rates and seeds that are not the same for all."""
        described = [_described(one.run) for one in self.runs]
        names = dict.fromkeys(name for values in described for name in values)
        varying = [n for n in names if any(v.get(n) != described[0].get(n) for v in described)]
        return tuple({name: values.get(name) for name in varying} for values in described)

    @property
    def _about(self) -> About:
        name = self.runs[0].run.data.name
        return About("" if name == "array" else name)

    def to_dict(self) -> dict[str, Any]:
        """Return per run its description, what was measured and forecast, and why it ended."""
        names = ("run", "measured", "forecast", "stopped")
        return {"runs": [{name: plain(getattr(one, name)) for name in names} for one in self.runs]}

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield per run what varies, loss and active units beside their forecasts, `stopped`."""
        for label, one in zip(self.labels, self.runs, strict=True):
            sides = {"": one.measured, "_forecast": one.forecast}
            row = {f"loss{end}": side and side["loss"] for end, side in sides.items()}
            for number in range(1, len(one.run.spec.dims) + 1):
                measured, optimum = (side and side["levels"][number - 1] for side in sides.values())
                row[f"active_{number}"] = measured and measured["n_active"]
                row[f"active_{number}_forecast"] = optimum and kept_of(optimum)
            yield {**label, **row, "stopped": one.stopped}

    def __repr__(self) -> str:
        varying = ", ".join(self.labels[0]) or "nothing"
        rows: list[list[bool]] = []
        for row, one in zip(self._rows(), self.runs, strict=True):
            free = undetermined(one.forecast) if one.forecast else [True]
            told = [f"active_{number}" for number, open_ in enumerate(free, 1) if not open_]
            rows += [[row[name] == row[f"{name}_forecast"] for name in told]] * bool(told)
        same = sum(map(all, rows))
        said = f"{same} of {len(rows)} with as many active units as forecast"
        found = said if rows else "no count is known to compare with"
        verb = "vary" if len(self.labels[0]) > 1 else "varies"
        return f"Sweep({count_of(len(self.runs), 'run')}; {varying} {verb}; {found})"


def _described(run: Run) -> dict[str, Any]:
    """The numbers of a run by name, those of the levels (or units) by number: beta_1, beta_2."""
    settings = {name: getattr(run.settings, name) for name in NUMBERS}
    found: dict[str, Any] = {}
    for name, value in {**run.spec.to_dict(), **settings}.items():
        several = isinstance(value, (list, tuple))
        each = enumerate(value, 1) if several else ()
        found |= {f"{name.removesuffix('s')}_{i}": v for i, v in each} or {name: value}
    return found


def sweep(
    specs: Sequence[Spec] | Any,
    data: Any,
    architecture: str | Architecture = "mlp",
    *,
    folder: str | Path | None = None,
    client: Any = None,
    settings: Settings | None = None,
    seeds: int | Sequence[int] | None = None,
    learning_rates: float | Sequence[float] | None = None,
    clips: float | Sequence[float | None] | None = None,
    validation: Any = None,
    progress: bool | Callable[[Epoch], None] = False,
    exact: bool = False,
    from_forecast: bool = False,
    **options: Any,
) -> Sweep:
    """Train a model per spec and compare what came out with the forecasts.

    Runs that differ in numbers only train together, at most 12 of a seed at a time: within one
    seed they share the order of the data, different seeds have different orders.

    Args:
        specs: One per run; they may be of several sizes and models.
        data: As in `fit`.
        architecture: As in `fit`.
        folder: Where finished runs are kept, each under a hash of all that decides its result, the
            values of the data included. Kept runs are checked and not trained again;
            interrupted ones go on. None: nothing is written.
        client: A Client of dask.distributed: groups of runs train on the workers of its cluster,
            which need not see the folder. None: they train in this process. Processes that sweep
            on one folder share them.
        settings: What the runs share.
        seeds: One for all or one per run; None: that of the settings. For every spec from each of
            several seeds, repeat the specs: `[spec for spec in specs for _ in seeds]`, and the
            seeds: `seeds * len(specs)`.
        learning_rates: Likewise.
        clips: Likewise.
        validation: As in `fit`.
        progress: As in `fit`, told per group.
        exact: As in `fit`.
        from_forecast: As in `fit`.
        **options: As in `fit`.

    Raises:
        InvalidArgumentError: As in `fit_many`; a `client` that is none.
        DataError: The data cannot be used; with a folder, a DataLoader, whose values have no hash.
        CorruptFileError: A kept run was damaged or changed; says what to delete.
        OutputError: The folder cannot be written, or was deleted meanwhile.
        TrainingError: A run cannot be trained on any worker, or the cluster is gone.

    Example:
        >>> import numpy as np
        >>> from posterior_collapse.specs import VAESpec
        >>> x = np.random.default_rng(0).standard_normal((500, 4)) * [3, 2, 1, 0.1]
        >>> sweep([VAESpec(3, beta=beta) for beta in (0.5, 2, 6)], x, "linear", exact=True)
        Sweep(3 runs; beta varies; 3 of 3 with as many active units as forecast)
    """
    spread = here if client is None else spread_over(client)
    data, specs = in_order(data, specs)
    data, validation = map(_readable_again, (data, validation))
    specs = several(specs)
    given = {"seed": seeds, "learning_rate": learning_rates, "clip": clips}
    common, networks = split(settings, options, exact, sweep)
    often = common.checkpoint_every == 1 and common.checkpoint_steps is None
    if often and common.checkpoint_share is None:
        common = common.replace(checkpoint_share=CHECKPOINT_SHARE)
    each = [common.replace(**changes) for changes in per_run(given, len(specs))]
    net = Architecture.of(architecture, **networks)
    # A conditional model may see labels that others do not.
    kinds = {spec.model == "cvae": spec for spec in specs}
    choices = {
        kind: _choice(data, validation, spec, net, common, exact) for kind, spec in kinds.items()
    }
    if folder is not None and any(choice.sha256 is None for choice in choices.values()):
        raise DataError(
            "data", "a DataLoader, whose values have no hash", "data in memory beside a folder",
            "Pass an array or a torch Dataset, or leave the folder away.",
        )  # fmt: skip
    method: Method = "exact" if exact else "minibatch"
    seen = Evaluation("train")
    runs = [
        Run(choices[spec.model == "cvae"], spec, net, own, method, seen, from_forecast)
        for spec, own in zip(specs, each, strict=True)
    ]

    with Display("runs", len(runs), show=progress is True and client is not None) as display:
        report = progress
        if client is not None and progress is True:
            report = lambda now: display.update(display.done, text=describe(now))  # noqa: E731
        training = Training(data, validation, report=report)
        if folder is not None:
            store = Store(folder, data=_again(data), columns=columns_of(data))
            found = complete(
                runs, store, training, device=common.device, spread=spread,
                report=lambda now: display.update(now.done, total=now.runs),
            )  # fmt: skip
            return Sweep(tuple(found))
        done: dict[str, Outcome] = {}
        with tempfile.TemporaryDirectory() if client else contextlib.nullcontext() as scratch:
            jobs = (
                Job(group, None if scratch is None else [Path(scratch) / run.key for run in group])
                for group in groups(runs)
            )
            for _, left in spread(jobs, training, common.device):
                done |= {one.run.key: one for one in left.outcomes}
                display.update(len(done))
        return Sweep(tuple(done[run.key] for run in runs))


class _Batches:
    """What an iterator yielded, which can be read once: each group of runs reads all of it."""

    def __init__(self, source: Iterator[Any]) -> None:
        self.batches = list(source)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def _readable_again(data: Any) -> Any:
    """Return data that each group can read, without computing them anew each time."""
    if isinstance(data, Dataset):
        return data.at_hand()
    if isinstance(data, tuple):
        return tuple(map(_readable_again, data))
    if is_lazy(data):
        return np.asarray(data)
    return _Batches(data) if isinstance(data, Iterator) else data


def _choice(
    data: Any, validation: Any, spec: Spec, net: Architecture, settings: Settings, exact: bool
) -> RunData:
    """Name data by their values."""
    passed = [one for one in (data, validation) if one is not None]
    hashes = [hashed(one, spec, net, settings, exact) for one in passed]
    known = None not in hashes
    together = hashes[0] if len(hashes) == 1 else digest({"data": hashes})
    name = data.name if isinstance(data, Dataset) else "array"
    return RunData(name, sha256=together if known else None)


def _again(data: Any) -> dict[str, Any] | None:
    """Return how data are read again as fields of `RunData`; None: that cannot be said."""
    asked = data.asked if isinstance(data, Dataset) else None
    with contextlib.suppress(InvalidArgumentError):  # a label or a column that is no text
        return None if asked is None else RunData(**asked).to_dict()
    return None


def hashed(
    data: Any, spec: Spec, net: Architecture | None, settings: Settings, exact: bool
) -> str | None:
    """Return the hash of data in the precision they are trained on in; None: of a DataLoader.

    Convolutions see more than rows: the sides of images count too. Squares of one channel are
    hashed as all images were before they did, so that their kept runs are found.
    """
    fed = feed(data, spec, settings.batch_size, dtype_of(settings, exact), "cpu")
    found = fed.fingerprint()
    sides = (fed.image_shape, fed.condition_shape) if net is not None and net.channels else ()
    if found is None or all(one is None or _is_square(one) for one in sides):
        return found
    return digest({"rows": found, "sides": plain(sides)})


def _is_square(sides: ImageShape) -> bool:
    return sides[-2] == sides[-1] and sides[:-2] in ((), (1,))
