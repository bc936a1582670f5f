"""A run as plain values: its data, its model, how it is trained and on what it is measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from posterior_collapse import checks
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.files import digest
from posterior_collapse.models import ARCHITECTURES, Architecture
from posterior_collapse.records import Record, plain
from posterior_collapse.specs import Spec, VAESpec
from posterior_collapse.training import Settings
from posterior_collapse.training.arguments import check_together

BY_MINIBATCHES = ("minibatch", "widened", "dead")
"""Those of which many runs train together."""
Method = Literal["minibatch", "widened", "dead", "exact", "recorded", "decayed"]
NUMBERS = ("seed", "learning_rate", "clip")
"""Settings in which runs that train together may differ."""
KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,), "label": (int, str), "rows": (int,), "size": (int,), "scale": (int, float),
    "header": (bool,), "standardize": (bool,),
}  # fmt: skip
"""Types of the fields of `RunData` that hold no text."""


@dataclass(frozen=True)
class RunData(Record):
    """The data of a run: by name, or by the hash of values that were passed.

    Args:
        name: A registry name, a file, `"matrix:CASE"` for the matrix problem of a verification
            case, or what to call data that were passed.
        task: `"quarter"` or `"half"`, for conditional models.
        rows: At most so many of the first rows.
        size: Side in pixels that images are resized to.
        given: File with the condition.
        scale: Factor for the values of a file.
        split: `"train"` or `"test"`; None: as the data set has it.
        header: Whether the first row of a .csv file is a header; None: told from the rows.
        columns: Of a table, the features by name, separated by commas; None: all columns.
        drop: Of a table, the columns to leave out, separated by commas.
        label_column: Of a table, the column of labels.
        key: Of a file of several arrays, the one that is meant.
        standardize: Whether every column is brought to mean 0 and std 1.

    Raises:
        InvalidArgumentError: A field is of another kind.
    """

    name: str
    task: str | None = None
    label: int | str | None = None
    rows: int | None = None
    size: int | None = None
    given: str | None = None
    scale: float | None = None
    split: str | None = None
    data_dir: str | None = None
    sha256: str | None = None
    header: bool | None = None
    columns: str | None = None
    drop: str | None = None
    label_column: str | None = None
    key: str | None = None
    standardize: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(RunData):
            value, kinds = getattr(self, field.name), KINDS.get(field.name, (str,))
            if not (isinstance(value, kinds) or (value is None and field.name != "name")):
                raise InvalidArgumentError(
                    field.name, repr(value), " or ".join(kind.__name__ for kind in kinds),
                    "Say which data are meant.",
                )  # fmt: skip
        if self.scale is not None:
            object.__setattr__(self, "scale", float(self.scale))

    @property
    def title(self) -> str:
        """What to call the data.

        Example:
            >>> [RunData(name).title for name in ("mnist", "digits", "matrix:E8", "pairs:1/2")]
            ['MNIST', 'digits', 'matrix problem', 'drawn pairs']
        """
        kind = self.name.split(":")[0]
        named = {
            "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "matrix": "matrix problem",
            "pairs": "drawn pairs", "cells": "single cells", "clusters": "drawn clusters",
        }  # fmt: skip
        return named.get(kind, self.name)


@dataclass(frozen=True)
class Evaluation(Record):
    """On what a run is measured, and how much of it is kept for figures.

    Args:
        rows: Rows to measure on, at most; None: all.
        samples: Importance samples per row for the log-likelihood; 0: none.
        likelihood_rows: Rows that the log-likelihood is measured on, at most.
        panel: Rows kept beside their reconstructions.
        bracket: Beside the forecast say between how many units a network keeps.
        also: A second split to measure on, without a likelihood; None: none.
        panel_split: That of the panel's rows; None: `split`.
        drawn: Keep beside reconstructions by means those with every latent drawn.
    """

    split: Literal["train", "test"] = "test"
    rows: int | None = None
    samples: int = 0
    likelihood_rows: int | None = None
    panel: int = 0
    matrices: bool = False
    bracket: bool = False
    weights: bool = True
    also: Literal["train", "test"] | None = None
    panel_split: Literal["train", "test"] | None = None
    drawn: bool = False


@dataclass(frozen=True)
class Run(Record):
    """One training run, fully described.

    Args:
        settings: How it is trained, seed and convention included.
        method: `"minibatch"`; `"widened"`: a model of one unit less that was trained so gets one
            more and trains as long again; `"dead"`: it gets one that is dead, and is not trained
            any more; `"exact"`: a linear model on moments; `"recorded"`: the same by
            Adam at a constant rate, its distance to the closed form kept after every step;
            `"decayed"`: the same at a rate that falls to 0.
        from_forecast: Start a linear model at the closed-form optimum.

    Raises:
        InvalidArgumentError: A field is none of its values.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> one = Run(RunData("digits"), VAESpec(4), Architecture.named("mlp"), Settings(epochs=2))
        >>> Run.from_dict(one.to_dict()) == one, len(one.key)
        (True, 20)
    """

    data: RunData
    spec: Spec
    architecture: Architecture
    settings: Settings
    method: Method = "minibatch"
    evaluation: Evaluation = Evaluation()
    from_forecast: bool = False

    def __post_init__(self) -> None:
        checks.one_of("method", self.method, get_args(Method))
        if not isinstance(self.from_forecast, bool):
            raise InvalidArgumentError(
                "from_forecast", repr(self.from_forecast), "True or False", "Leave it out."
            )

    @property
    def key(self) -> str:
        """Hash of everything that decides what comes out; the same anywhere, in any version."""
        return self.key_of(self.to_dict())

    def key_of(self, values: Mapping[str, Any]) -> str:
        """Return the key by values as they were written: earlier versions told 1 from 1.0."""
        return digest(_hashed(self, values))[:20]

    @property
    def narrower(self) -> Run:
        """The run of one unit less from which a `"widened"` or `"dead"` one goes on."""
        assert isinstance(self.spec, VAESpec)
        return self.replace(
            spec=self.spec.replace(latent_dim=self.spec.latent_dim - 1),
            method="minibatch",
            evaluation=self.evaluation.replace(weights=True),
        )

    @property
    def family(self) -> str:
        """The same for runs that can train together: one data order, different numbers only."""
        values = self.to_dict()
        spec = {name: _kind(value) for name, value in values.pop("spec").items()}
        for name in NUMBERS:
            del values["settings"][name]
        values["settings"]["order_seed"] = self.settings.data_order
        del values["evaluation"]
        return json.dumps({**values, "spec": spec, "dims": self.spec.dims}, sort_keys=True)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Run:
        """Return the run that `to_dict` described."""
        return Run(
            RunData(**values["data"]),
            Spec.from_dict(values["spec"]),
            Architecture.from_dict(values["architecture"]),
            Settings.from_dict(values["settings"]),
            values["method"],
            Evaluation(**values["evaluation"]),
            values.get("from_forecast", False),
        )


def asked(
    data: RunData,
    architecture: Architecture,
    settings: Settings,
    runs: Mapping[str, tuple[Spec, Mapping[str, Any]]],
    *,
    exact: bool = False,
    from_forecast: bool = False,
) -> dict[str, Run]:
    """Return runs that differ in their specs and own settings (`NUMBERS`) only, checked."""
    specs = [spec for spec, _ in runs.values()]
    for spec in specs:
        architecture.check_model(spec)
    check_together(specs, architecture, settings, exact, from_forecast)
    return {
        name: Run(
            data, spec, architecture, settings.replace(**numbers),
            "exact" if exact else "minibatch", Evaluation("train"), from_forecast,
        )
        for name, (spec, numbers) in runs.items()
    }  # fmt: skip


def fit_options(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what `fit_many` is told of the settings of runs that share an order of the data."""
    return {
        "settings": runs[0].settings.replace(order_seed=runs[0].settings.data_order),
        **{f"{name}s": [getattr(run.settings, name) for run in runs] for name in NUMBERS},
    }


def _kind(value: Any) -> Any:
    """Replace numbers by the word "number", so that runs that differ in numbers only look alike."""
    if isinstance(value, list):
        return [_kind(item) for item in value]
    return "number" if isinstance(value, (int, float)) else value


# A run is found again by its key, which is a hash of what describes it. A later version must come
# to the same key for the same run, though it may describe runs by more entries. So two kinds of
# entries are hashed: those of the first version (`ALWAYS`), whatever their value, and later ones
# only where they differ from their default. The default of a later entry therefore has to mean
# "trained as before there was this entry", and must never change.

INCIDENTAL = {
    "settings": (
        "device", "cuda_graphs", "checkpoint_every", "checkpoint_steps", "checkpoint_share",
    ),
    "data": ("data_dir",),
}  # fmt: skip
"""Entries that say where and how often, not what is trained."""
_VAE = "model latent_dim beta eta_dec eta_enc sigma"
_START = "initial_std initial_sigma initial_eta_dec"
_NETWORK = f"name hidden activation dropout latent output std_head {_START}"
ALWAYS = {
    kind: frozenset(names.split())
    for kind, names in {
        "run": "data spec architecture settings method evaluation",
        "data": "name task label rows size",
        "settings": "epochs steps batch_size optimiser learning_rate momentum clip convention "
        "warm_up cycles free_bits capacity capacity_warm_up patience precision seed order_seed",
        "evaluation": "split rows samples likelihood_rows panel matrices",
        "vae": _VAE,
        "cvae": _VAE,
        "hvae": "model latent_dims betas eta_dec eta_enc sigma_1 sigma_2",
        "chain": "model latent_dims betas eta_decs eta_enc sigmas",
        "linear": f"name bias {_START}",
        "mlp": f"{_NETWORK} input_dropout",
        "cnn": f"{_NETWORK} channels",
        "vae-relu": f"name hidden {_START}",
        "cvae-relu": f"name hidden input_dropout {_START}",
        "cvae-linear-net": f"name hidden input_dropout {_START}",
        "cvae-cnn": f"name {_START}",
        "hvae-relu": f"name hidden {_START}",
        "hvae-cnn": f"name hidden {_START}",
    }.items()
}
"""What is hashed whatever its value: by part of a run, by model and by architecture. Never add a
name to these; of models and architectures that came later all entries count as later ones."""


def _hashed(run: Run, written: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a run's `to_dict`, as it was written, what its key hashes."""
    values = {name: dict(v) if isinstance(v, Mapping) else v for name, v in written.items()}
    for part, names in INCIDENTAL.items():
        for name in names:
            values[part].pop(name, None)
    preset = ARCHITECTURES[run.architecture.name].defaults
    kinds = {"spec": run.spec.model, "architecture": run.architecture.name}
    for part in ("data", "spec", "architecture", "settings", "evaluation"):
        defaults = _defaults(getattr(run, part)) | dict(preset if part == "architecture" else {})
        values[part] = _counting(kinds.get(part, part), values[part], defaults)
    return _counting("run", values, _defaults(run))


def _counting(kind: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    always = ALWAYS.get(kind, frozenset())
    return {
        name: value
        for name, value in values.items()
        if name in always or name not in defaults or plain(value) != plain(defaults[name])
    }


def _defaults(part: Any) -> dict[str, Any]:
    return {
        field.name: field.default
        for field in dataclasses.fields(part)
        if field.default is not dataclasses.MISSING
    }
