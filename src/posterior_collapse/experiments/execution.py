"""Train and measure runs of one family; what `runs.complete` calls for each group."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from posterior_collapse.errors import NotSolvedError, UnboundedObjectiveError
from posterior_collapse.experiments import measuring, recorded
from posterior_collapse.experiments.datasets import Data
from posterior_collapse.models import MarkovVAE, build
from posterior_collapse.moments import Moments
from posterior_collapse.runs import Outcome, Run
from posterior_collapse.runs.run import fit_options
from posterior_collapse.specs import Spec
from posterior_collapse.theory import FewSamplesWarning, Forecast, forecast
from posterior_collapse.training import Progress, exact, fit_many
from posterior_collapse.training import seeds as seeding
from posterior_collapse.training.annealing import effective_spec

__all__ = ["Executor"]


class Executor:
    """Trains groups of runs.

    Args:
        data: Where data come from.
        device: Where minibatches are trained; all else stays on the CPU.
        report: Called with a `training.Progress` after each epoch.
    """

    def __init__(
        self,
        data: Data,
        device: str = "cpu",
        report: Callable[[Progress], None] | bool = False,
    ) -> None:
        self.data, self.device, self.report = data, device, report

    def __call__(self, runs: Sequence[Run], folders: Sequence[Path] | None = None) -> list[Outcome]:
        """Return what the runs, all of one family, leave behind.

        Args:
            runs: What to train.
            folders: Of their checkpoints, from which they go on; None: none are written.
        """
        if runs[0].method == "minibatch":
            return self._fitted(runs, folders)
        return [self._on_moments(run) for run in runs]

    def _fitted(self, runs: Sequence[Run], folders: Sequence[Path] | None) -> list[Outcome]:
        start = time.perf_counter()
        first = runs[0]
        fitted = fit_many(
            [run.spec for run in runs],
            self.data.read(first.data),
            first.architecture,
            device=self.device,
            **fit_options(runs),
            folders=folders,
            resume=folders is not None,
            progress=self.report,
        )
        share = (time.perf_counter() - start) / len(runs)
        return [
            self._outcome(run, one.model.cpu(), one.history, one.stopped, share)
            for run, one in zip(runs, fitted, strict=True)
        ]

    def _on_moments(self, run: Run) -> Outcome:
        start = time.perf_counter()
        moments = self._moments(run)
        model = build(
            run.spec,
            run.architecture,
            x_dim=moments.features[0],
            y_dim=moments.features[1],
            generator=seeding.generator(run.settings.seed, seeding.INITIALISATION),
            dtype=torch.float64,
        )
        if run.method == "exact":
            course, _ = exact.train(model, run.settings, moments, alone=True, fresh=False)
            history, stopped = course.history, course.stopped or ""
        else:
            closed = forecast(moments, effective_spec(run.spec, run.settings.convention))
            decays = run.method == "decayed"
            history = recorded.train(model, run.settings, moments, closed, decays=decays)
            stopped = "finished"
        wall = time.perf_counter() - start
        return self._outcome(run, model, history, stopped, wall)

    def _outcome(
        self, run: Run, model: MarkovVAE, history: dict[str, list[float]], stopped: str, wall: float
    ) -> Outcome:
        start = time.perf_counter()
        spec = effective_spec(run.spec, run.settings.convention)
        moments = self._moments(run)
        closed = _forecast(moments, spec)
        measured: dict[str, Any] = {}
        arrays: measuring.Arrays = {}
        seen = run.evaluation
        if run.method == "minibatch":
            rows = self.data.read(run.data, seen.split)
            measured, arrays = measuring.on_rows(model, spec, rows, seen, run.settings.seed)
        if seen.panel:
            rows = self.data.read(run.data, seen.split)
            arrays |= measuring.panel(model, rows, seen.panel)
        if run.architecture.name == "linear":
            model = model.double()
            measured["exact"], matrices = measuring.exactly(model, spec, moments, closed)
            arrays |= matrices if seen.matrices else {}
        return Outcome(
            run, measured, measuring.expected(closed), stopped, history, arrays, model,
            wall + time.perf_counter() - start,
        )  # fmt: skip

    def _moments(self, run: Run) -> Moments:
        return self.data.moments(run.data, run.architecture.centred)


def _forecast(moments: Moments, spec: Spec) -> Forecast | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewSamplesWarning)  # kept among the notes
            return forecast(moments, spec)
    except (NotSolvedError, UnboundedObjectiveError):
        return None
