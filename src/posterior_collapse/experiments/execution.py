"""From the description of a run to what it leaves: its training and its measurements."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from posterior_collapse.data import Dataset
from posterior_collapse.errors import DataError, NotSolvedError, UnboundedObjectiveError
from posterior_collapse.experiments import measuring
from posterior_collapse.experiments.data import read_moments, read_samples
from posterior_collapse.models import CONVENTIONS, MarkovVAE, build, widened
from posterior_collapse.moments import Moments
from posterior_collapse.runs import Outcome, Record, Run, RunData, Store, complete
from posterior_collapse.runs.completing import CHECKPOINT_SHARE, trained_together
from posterior_collapse.runs.run import BY_MINIBATCHES
from posterior_collapse.specs import Spec
from posterior_collapse.theory import ExactObjective, FewSamplesWarning, Forecast, forecast
from posterior_collapse.training import Fitted, Progress, Settings, checkpoints, exact, seeds
from posterior_collapse.training.fitted import History
from posterior_collapse.training.settings import effective_spec
from posterior_collapse.training.units import is_no_number


@dataclass(frozen=True)
class Executor:
    """Trains and measures groups of runs; what `runs.complete` calls for each.

    Args:
        data_dir: As for `posterior_collapse.data.load`.
        device: Where minibatches are trained and measured; linear models on moments stay on the
            CPU.
        report: Called with a `training.Progress` after each epoch.
        store: Where the runs are that others go on from; None: those are trained for each.
    """

    data_dir: str | None = None
    device: str = "cpu"
    report: Callable[[Progress], None] | bool = False
    store: Store | None = None

    def __call__(
        self, runs: Sequence[Run], folders: Sequence[Path] | None = None
    ) -> Iterator[Outcome]:
        """Train runs, all of one family, and yield what each leaves behind once it is measured.

        A likelihood by many samples may take as long to measure as the run to train: those that
        are in the store, by a process that was killed while it measured, are left out. Runs go on
        from the checkpoints in their folders; None: none are written.
        """
        if runs[0].method not in BY_MINIBATCHES:
            return map(self._on_moments, runs)
        trained: Iterable[tuple[MarkovVAE, History, str, float]]
        if runs[0].method == "dead":
            trained = ((model.eval(), {}, "not trained", 0.0) for model in self._start(runs))
        else:
            trained = (
                (one.model.to(self.device), one.history, one.stopped, one.seconds)
                for one in self._by_minibatches(runs, folders)
            )
        return (
            self._outcome(run, *of)
            for run, of in zip(runs, trained, strict=True)
            if self.store is None or run.key not in self.store
        )

    def _by_minibatches(
        self, runs: Sequence[Run], folders: Sequence[Path] | None
    ) -> Sequence[Fitted]:
        return trained_together(
            runs,
            read_samples(runs[0].data, "train", self.data_dir),
            folders,
            device=self.device,
            checkpoint_share=CHECKPOINT_SHARE,
            progress=self.report,
            start=self._start(runs) if runs[0].method == "widened" else None,
        )

    def _start(self, runs: Sequence[Run]) -> list[MarkovVAE]:
        """Return the models of one unit less, trained, with one more unit, dead or not."""
        narrower = [run.narrower for run in runs]
        found: Sequence[Record] = ()
        if self.store is not None and self.store.models:
            found = complete(narrower, self.store, self, device=self.device)
        if found and all(checkpoints.exists(record.folder) for record in found):
            trained = [record.model for record in found]
        else:  # of a store without models, as it is or was
            trained = [one.model.cpu() for one in self._by_minibatches(narrower, None)]
        return [
            widened(
                model,
                seeds.generator(run.settings.seed, seeds.INITIALISATION),
                dead=run.method == "dead",
            )
            for run, model in zip(runs, trained, strict=True)
        ]

    def _on_moments(self, run: Run) -> Outcome:
        start = time.perf_counter()
        moments = self._moments(run)
        model = build(
            run.spec,
            run.architecture,
            x_dim=moments.features[0],
            y_dim=moments.features[1],
            generator=seeds.generator(run.settings.seed, seeds.INITIALISATION),
            dtype=torch.float64,
        )
        if run.method == "exact":
            course, _ = exact.train(model, run.settings, moments, alone=True, fresh=False)
            history, stopped = course.history, course.stopped or ""
        else:
            closed = forecast(moments, effective_spec(run.spec, run.settings.convention))
            decays = run.method == "decayed"
            history = record_training(model, run.settings, moments, closed, decays=decays)
            stopped = "finished"
        return self._outcome(run, model, history, stopped, time.perf_counter() - start)

    def _outcome(
        self, run: Run, model: MarkovVAE, history: History, stopped: str, trained_s: float
    ) -> Outcome:
        """Measure a trained model as its run says, beside the closed form."""
        start = time.perf_counter()
        spec = effective_spec(run.spec, run.settings.convention)
        moments = self._moments(run)
        closed = _forecast(moments, spec)
        measured: dict[str, Any] = {}
        arrays: measuring.Arrays = {}
        evaluation = run.evaluation
        if run.method in BY_MINIBATCHES or evaluation.panel:
            measured, arrays = self._on_rows(run, model, spec)
        model = model.cpu()
        if stopped.startswith("non-finite") or measured.get("conclusion") == "diverged":
            measured = measured or measuring.diverged(model)
        elif run.architecture.name == "linear":
            model = model.double()
            measured["exact"], matrices = measuring.exactly(model, spec, moments, closed)
            arrays |= matrices if evaluation.matrices else {}
        return Outcome(
            run, measured, measuring.expected(closed, moments.features[-1]), stopped, history,
            arrays, model, trained_s + time.perf_counter() - start,
        )  # fmt: skip

    def _on_rows(
        self, run: Run, model: MarkovVAE, spec: Spec
    ) -> tuple[dict[str, Any], measuring.Arrays]:
        evaluation, seed = run.evaluation, run.settings.seed
        measured: dict[str, Any] = {}
        arrays: measuring.Arrays = {}

        def rows(split: Literal["train", "test"]) -> Dataset:
            return read_samples(run.data, split, self.data_dir)

        if run.method in BY_MINIBATCHES:
            here = rows(evaluation.split)
            try:
                measured, arrays = measuring.on_rows(model, spec, here, evaluation, seed)
                if evaluation.also:
                    there, other = rows(evaluation.also), evaluation.replace(samples=0)
                    found, curves = measuring.on_rows(model, spec, there, other, seed)
                    measured[f"on_{evaluation.also}"] = found
                    arrays |= {f"{evaluation.also}_{name}": curves[name] for name in curves}
            except DataError as error:
                if not is_no_number(error):
                    raise
                return measuring.diverged(model), {}
        if evaluation.bracket:
            measured["bracket"] = _bracket(run.data, spec, self.data_dir)
        if evaluation.panel:
            of = rows(evaluation.panel_split or evaluation.split)
            drawn = seed if evaluation.drawn else None
            arrays |= measuring.panel(model.cpu(), of, evaluation.panel, drawn=drawn)
        return measured, arrays

    def _moments(self, run: Run) -> Moments:
        return read_moments(run.data, run.architecture.centred, self.data_dir)


@lru_cache(maxsize=256)  # seeds share one
def _bracket(data: RunData, spec: Spec, data_dir: str | None) -> list[float] | None:
    """Return the fewest and the most units that a network keeps, as forecast."""
    found = _forecast(read_samples(data, "train", data_dir).x, spec, network=True)
    return None if found is None or found.bracket is None else list(found.bracket)


def _forecast(data: Any, spec: Spec, *, network: bool = False) -> Forecast | None:
    """Return what theory says; None where there is no closed form."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewSamplesWarning)  # kept among the notes
            return forecast(data, spec, network=network)
    except (NotSolvedError, UnboundedObjectiveError):
        return None


EVERY_STEP, EVERY = 200, 50
"""So many first steps are all recorded, of later ones every 50th."""


def record_training(
    model: MarkovVAE,
    settings: Settings,
    moments: Moments,
    closed: Forecast,
    *,
    decays: bool = False,
) -> History:
    """Train a linear model in place by Adam on moments; return loss and distances by step.

    Args:
        model: Of architecture `linear`, without biases.
        settings: `steps`, `optimiser`, `learning_rate`, `clip` and `convention` count.
        moments: Raw moments.
        closed: The closed form to measure the distance to.
        decays: Whether the learning rate falls to 0 along half a cosine. At a constant rate Adam
            comes near the optimum and, now and then, leaves it again; which iteration finds it
            where is left to rounding.
    """
    objective = ExactObjective(moments, model.spec, CONVENTIONS[settings.convention])
    history: History = {}
    steps = settings.steps or settings.epochs
    moves = exact.first_order(model, objective, settings, decays_over=steps if decays else None)
    for step, loss in itertools.islice(moves, steps):
        if step <= EVERY_STEP or step % EVERY == 0 or step == steps:
            far = measuring.distances(model, objective, closed)
            for name, entry in {"step": step, "loss": loss, **far}.items():
                history.setdefault(name, []).append(entry)
    return history
