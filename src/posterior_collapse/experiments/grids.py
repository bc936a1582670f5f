"""Rows as plain data: what each sets out to show, which runs show it, what is made of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from posterior_collapse import checks
from posterior_collapse.data.published import SOURCES
from posterior_collapse.errors import count_of
from posterior_collapse.models import Architecture
from posterior_collapse.runs import Evaluation, Run, RunData
from posterior_collapse.runs.run import BY_MINIBATCHES, Method
from posterior_collapse.specs import Spec
from posterior_collapse.training import Settings

Values = tuple[Any, ...]
Convention = Literal["elbo", "reference"]
QUICK_EPOCHS = 4
QUICK_STEPS = 4000
QUICK_ROWS = 128
QUICK_UNITS = 16
QUICK_SAMPLES = 50
DATA_FIELDS = tuple(field.name for field in fields(RunData))


@dataclass(frozen=True)
class Plan:
    """How rows are run.

    Args:
        quick: Data of the size of `digits`, few epochs, few values of each grid.
        convention: `"elbo"`, or `"reference"`: the losses of the published scripts.
        seeds: Runs of each setting, where its spread is shown.
        epochs: Passes over the data at most, for a machine on which the row does not fit.
        rows: Rows to train minibatches on at most, likewise.
        cnn_epochs: Passes at most where nets are convolutional.

    Raises:
        InvalidArgumentError: A field is out of its domain.
    """

    quick: bool = False
    convention: Convention = "elbo"
    seeds: int = 1
    epochs: int | None = None
    rows: int | None = None
    cnn_epochs: int | None = None

    def __post_init__(self) -> None:
        checks.flag("quick", self.quick)
        checks.one_of("convention", self.convention, get_args(Convention))
        for name in ("seeds", "epochs", "rows", "cnn_epochs"):
            value = getattr(self, name)
            if value is not None or name == "seeds":
                object.__setattr__(self, name, checks.whole(name, value, 1))

    @property
    def whole(self) -> Plan:
        """The same at full size."""
        return Plan(convention=self.convention, seeds=self.seeds)

    def command(self, row: Row) -> str:
        """Return the command that runs a row so.

        Example:
            >>> from posterior_collapse.experiments.rows import chosen
            >>> Plan(seeds=5, cnn_epochs=60).command(*chosen("X2"))
            'collapse reproduce X2 --seeds 5 --cnn-epochs 60'
            >>> Plan(quick=True, seeds=5).command(*chosen("E2"))  # which shows no spread
            'collapse reproduce E2 --quick'
        """
        words, spread = [f"collapse reproduce {row.id}"], any(grid.spread for grid in row.grids)
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default and (spread or each.name != "seeds"):
                option = f"--{each.name.replace('_', '-')}"
                words.append(option if value is True else f"{option} {value}")
        return " ".join(words)

    def most_epochs(self, grid: Grid) -> int:
        """Return the passes over the data of a grid's runs."""
        convolutional = str(grid.network["name"]).endswith("cnn")  # slow on a CPU
        bounds = [grid.settings.epochs, self.epochs, self.cnn_epochs if convolutional else None]
        return min(bound for bound in bounds if bound is not None)


class Member(NamedTuple):
    """One run of a row: the title of its grid, and the values that it has there."""

    grid: str
    labels: Mapping[str, Any]
    run: Run


@dataclass(frozen=True)
class Grid:
    """Runs that differ in the values of a few fields.

    Args:
        title: What varies, in words; `{data}` stands for the name of the data, in the quick profile
            that of those in their place, `{warm_up}` for the epochs of the warm-up.
        spec: What all share, as the fields of a spec.
        network: Name of the architecture, and its options.
        vary: Fields of the spec (`beta_1` and `beta_2` for those of `betas`) or of the data, with
            their values; all combinations run.
        spread: Whether to repeat the runs with several seeds.
        quick: Most values per field in the quick profile.
        quick_vary: Values in the quick profile, where those of `vary` suit MNIST only.
    """

    title: str
    data: RunData
    spec: Mapping[str, Any]
    network: Mapping[str, Any]
    settings: Settings
    vary: Mapping[str, Values] = field(default_factory=dict)
    method: Method = "minibatch"
    evaluation: Evaluation = field(default_factory=Evaluation)
    spread: bool = False
    quick: int = 3
    quick_vary: Mapping[str, Values] | None = None

    def members(self, plan: Plan) -> Iterator[Member]:
        """Yield the runs, the last field varying fastest, then the seed."""
        vary = self.vary
        if plan.quick:
            vary = self.quick_vary or {k: _thinned(v, self.quick) for k, v in vary.items()}
        for values in itertools.product(*vary.values()):
            labels = dict(zip(self.vary, values, strict=True))
            for number in range(plan.seeds if self.spread else 1):
                run = self._run(labels, plan, number)
                yield Member(self.titled(run.data, run.settings), labels, run)

    def titled(self, data: RunData, settings: Settings) -> str:
        """Return the title of runs on these data with these settings."""
        warm_up = count_of(settings.warm_up, "epoch")
        return self.title.format(data=_named(data, self.data), warm_up=warm_up)

    def _run(self, labels: Mapping[str, Any], plan: Plan, number: int) -> Run:
        """Return the run that has these values, `number` seeds after the first."""
        of_data = {name: value for name, value in labels.items() if name in DATA_FIELDS}
        of_spec = {name: value for name, value in labels.items() if name not in DATA_FIELDS}
        data, convention = self.data.replace(**of_data), "elbo"
        if plan.convention == "reference":
            convention = "twice" if self.network["name"] == "linear" else "reference"
        settings = self.settings.replace(
            convention=convention,
            seed=self.settings.seed + number,
            order_seed=self.settings.seed,
        )
        if self.method in BY_MINIBATCHES:
            epochs = plan.most_epochs(self)
            settings = settings.replace(
                epochs=epochs,
                warm_up=min(settings.warm_up, epochs // 2),
                order_seed=settings.seed,  # a seed's runs share an order, other seeds have others
            )
            if plan.rows is not None:
                data = data.replace(rows=min(data.rows or plan.rows, plan.rows))
        spec, network = _spec(self.spec, of_spec), Architecture.from_dict(self.network)
        run = Run(data, spec, network, settings, self.method, self.evaluation)
        return _quick(run) if plan.quick else run


@dataclass(frozen=True)
class Row:
    """One row of the paper's experiments.

    Args:
        id: E1 to E15, or X and a number for what goes beyond the paper.
        name: As in the README of the published code.
        claim: What the row sets out to show, in our words.
        theory: What the theory of linear models says of it.
        deliverables: Keys of `DELIVERABLES`.
        networks: Names of the architectures in the paper's words.
        published: Where the published scripts could not produce the row, or differ.
        takes: What a row that is long at full size takes there, in words.
    """

    id: str
    name: str
    claim: str
    theory: str
    grids: tuple[Grid, ...]
    deliverables: tuple[str, ...]
    networks: str
    published: str = ""
    takes: str = ""

    @property
    def trained(self) -> list[Grid]:
        """Its grids whose nets are trained by minibatches."""
        return [grid for grid in self.grids if grid.method in BY_MINIBATCHES]

    def members(self, plan: Plan) -> list[Member]:
        """Return the runs of all grids."""
        return [member for grid in self.grids for member in grid.members(plan)]


def _named(data: RunData, planned: RunData) -> str:
    """Return what to call data that may stand in place of others.

    Example:
        >>> small = RunData("mnist", size=14)
        >>> _named(small, small), _named(RunData("digits"), small)
        ('MNIST 14 x 14', 'digits in place of MNIST 14 x 14')
    """
    size = f" {planned.size} x {planned.size}" if planned.size else ""
    name = f"{planned.title}{size}"
    return name if data.name == planned.name else f"{data.title} in place of {name}"


def _spec(fields: Mapping[str, Any], labels: Mapping[str, Any]) -> Spec:
    betas = {name: beta for name, beta in labels.items() if name in ("beta_1", "beta_2")}
    spec = Spec.from_dict({**fields, **{n: of for n, of in labels.items() if n not in betas}})
    for name, beta in betas.items():
        spec = spec.with_level("beta", int(name[-1]), beta)
    return spec


def _quick(run: Run) -> Run:
    """The same kind of run in a second: digits, few epochs, few rows."""
    data, spec, settings, evaluation = run.data, run.spec, run.settings, run.evaluation
    convolutional = bool(run.architecture.channels)
    if run.method in BY_MINIBATCHES:
        # Whole batches: a smaller last one would have to be traced for itself.
        few = convolutional or data.name not in SOURCES or data.label is not None
        most = QUICK_ROWS if few else 10 * QUICK_ROWS
        data = data.replace(rows=min(data.rows or most, most))
        epochs = min(settings.epochs, QUICK_EPOCHS)
        settings = settings.replace(epochs=epochs, warm_up=min(settings.warm_up, epochs // 2))
    elif run.method == "decayed":
        settings = settings.replace(steps=min(settings.steps or QUICK_STEPS, QUICK_STEPS))
    if data.name in SOURCES:
        known = run.architecture.name == "cvae-cnn"  # it serves images of MNIST's size only
        data = data.replace(name="digits", size=28 if known else None)
    if data.name.startswith("cells"):
        drawn = spec.likelihood == "poisson"
        data = data.replace(name="clusters:counts" if drawn else "digits")
    if data.name.startswith("pairs:"):
        spec = spec.replace(latent_dim=QUICK_UNITS)
    if convolutional:
        evaluation = evaluation.replace(rows=QUICK_ROWS)
    if evaluation.samples:
        evaluation = evaluation.replace(samples=QUICK_SAMPLES, likelihood_rows=QUICK_ROWS)
    return run.replace(data=data, spec=spec, settings=settings, evaluation=evaluation)


def _thinned(values: Sequence[Any], most: int) -> Values:
    """At most so many of the values, at even distances, the ends among them."""
    if len(values) <= most:
        return tuple(values)
    places = np.linspace(0, len(values) - 1, most).round().astype(int)
    return tuple(values[i] for i in places)
