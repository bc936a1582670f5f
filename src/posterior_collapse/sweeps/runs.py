"""A run as plain values: its data, its model, how it is trained and on what it is measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import Architecture
from posterior_collapse.specs import Spec
from posterior_collapse.training import Settings

__all__ = ["Choice", "Evaluation", "Run"]

METHODS = ("minibatch", "exact", "recorded", "decayed")
INCIDENTAL = ("device", "checkpoint_every", "checkpoint_steps")
"""Settings that say where and how often, not what is trained."""


@dataclass(frozen=True)
class Choice:
    """The data of a run, by name.

    Args:
        name: A registry name, or `"matrix:CASE"` for the matrix problem of a verification case.
        task: `"quarter"` or `"half"`, for conditional models.
        label: One class only.
        rows: At most so many of the first rows.
        size: Side in pixels that images are resized to.
    """

    name: str
    task: str | None = None
    label: int | None = None
    rows: int | None = None
    size: int | None = None

    @property
    def title(self) -> str:
        """What to call the data.

        Example:
            >>> [Choice(name).title for name in ("mnist", "digits", "matrix:E8", "pairs:1/2")]
            ['MNIST', 'digits', 'matrix problem', 'drawn pairs']
        """
        kind = self.name.split(":")[0]
        named = {"mnist": "MNIST", "matrix": "matrix problem", "pairs": "drawn pairs"}
        return named.get(kind, self.name)


@dataclass(frozen=True)
class Evaluation:
    """On what a run is measured, and how much of it is kept for figures.

    Args:
        split: `"test"` or `"train"`.
        rows: Rows to measure on, at most; None: all.
        samples: Importance samples per row for the log-likelihood; 0: none.
        likelihood_rows: Rows that the log-likelihood is measured on, at most.
        panel: Rows kept beside their reconstructions.
        matrices: Keep a linear model's matrices.
    """

    split: Literal["train", "test"] = "test"
    rows: int | None = None
    samples: int = 0
    likelihood_rows: int | None = None
    panel: int = 0
    matrices: bool = False


@dataclass(frozen=True)
class Run:
    """One training run, fully described.

    Args:
        data: The data.
        spec: The hyperparameters.
        architecture: The networks.
        settings: How it is trained, seed and convention included.
        method: `"minibatch"`; `"exact"`: a linear model on moments; `"recorded"`: the same by
            Adam at a constant rate, its distance to the closed form kept after every step;
            `"decayed"`: the same at a rate that falls to 0.
        evaluation: What is measured.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> one = Run(Choice("digits"), VAESpec(4), Architecture.named("mlp"), Settings(epochs=2))
        >>> Run.from_dict(one.to_dict()) == one, len(one.key)
        (True, 20)
    """

    data: Choice
    spec: Spec
    architecture: Architecture
    settings: Settings
    method: Literal["minibatch", "exact", "recorded", "decayed"] = "minibatch"
    evaluation: Evaluation = Evaluation()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidArgumentError(
                "method", repr(self.method), f"one of {METHODS}", "Pass method='minibatch'."
            )

    @property
    def key(self) -> str:
        """Hash of everything that decides what comes out; the same for the same run anywhere."""
        values = self.to_dict()
        for name in INCIDENTAL:
            del values["settings"][name]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def family(self) -> str:
        """The same for runs that can train together: those that differ in numbers only."""
        values = self.to_dict()
        spec = {name: _kind(value) for name, value in values.pop("spec").items()}
        for name in ("seed", "learning_rate", "clip"):
            del values["settings"][name]
        del values["evaluation"]
        return json.dumps({**values, "spec": spec, "dims": self.spec.dims}, sort_keys=True)

    def replace(self, **changes: Any) -> Run:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return {
            "data": dataclasses.asdict(self.data),
            "spec": self.spec.to_dict(),
            "architecture": self.architecture.to_dict(),
            "settings": self.settings.to_dict(),
            "method": self.method,
            "evaluation": dataclasses.asdict(self.evaluation),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Run:
        """Return the run that `to_dict` described."""
        return Run(
            Choice(**values["data"]),
            Spec.from_dict(values["spec"]),
            Architecture.from_dict(values["architecture"]),
            Settings.from_dict(values["settings"]),
            values["method"],
            Evaluation(**values["evaluation"]),
        )


def _kind(value: Any) -> Any:
    """Numbers may differ within a family; words (and how many numbers there are) may not."""
    if isinstance(value, list):
        return [_kind(item) for item in value]
    return "number" if isinstance(value, (int, float)) else value
