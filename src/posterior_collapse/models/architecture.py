"""Networks as plain data: a name, its options, and the shapes of the data they meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from posterior_collapse import checks
from posterior_collapse.data.about import MOST_CHANNELS
from posterior_collapse.errors import InvalidArgumentError, nearest
from posterior_collapse.records import Record, plain
from posterior_collapse.specs import Spec

ACTIVATIONS = (
    *("identity", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh"),
)
STD_HEADS = ("log", "signed", "tanh")
"""Names of what `models.layers` has, which needs torch."""


class Preset(NamedTuple):
    """An architecture's name in data: the models it serves, its options and their defaults."""

    models: tuple[str, ...]
    defaults: Mapping[str, Any]
    free: tuple[str, ...]


_ANY = ("vae", "cvae", "hvae", "chain")
_NETWORK = ("hidden", "activation", "dropout", "latent", "output", "std_head")
_START = ("initial_std", "initial_sigma", "initial_eta_dec")
WORDS = (("initial_std", None), ("initial_sigma", "uniform"))
"""What these may be instead of a number."""
_PAPER_HVAE = {"latent": "tanh", "output": "tanh", "std_head": "tanh"}

ARCHITECTURES: Mapping[str, Preset] = {
    "linear": Preset(_ANY, {"activation": "identity"}, ("bias", *_START)),
    "mlp": Preset(_ANY, {"hidden": (256,)}, (*_NETWORK, "input_dropout", *_START)),
    "cnn": Preset(_ANY, {"hidden": (64,), "channels": (32, 16)}, (*_NETWORK, "channels", *_START)),
    "vae-relu": Preset(
        ("vae",), {"hidden": (256,), "latent": "relu", "std_head": "signed"}, ("hidden", *_START)
    ),
    "cvae-relu": Preset(
        ("cvae",), {"hidden": (16,), "std_head": "signed"}, ("hidden", "input_dropout", *_START)
    ),
    "cvae-linear-net": Preset(
        ("cvae",),
        {"hidden": (16,), "activation": "identity", "std_head": "signed"},
        ("hidden", "input_dropout", *_START),
    ),
    "cvae-cnn": Preset(("cvae",), {"channels": (32, 16), "std_head": "signed"}, _START),
    "hvae-relu": Preset(("hvae",), {"hidden": (256,), **_PAPER_HVAE}, ("hidden", *_START)),
    "hvae-cnn": Preset(
        ("hvae",), {"hidden": (64,), "channels": (64, 32), **_PAPER_HVAE}, ("hidden", *_START)
    ),
}
"""Every architecture by name. The paper's (all but the first three) take the std of the posterior
from the spec like the others: its own setting is `sigma="input"`, for `hvae-*` on z2."""


@dataclass(frozen=True)
class Architecture(Record):
    """The networks of a model; make one by name with `Architecture.named`.

    Args:
        name: A key of `ARCHITECTURES`; options that it does not leave free are its own.
        hidden: Widths of the hidden layers; with `channels`, of those between latent levels.
        channels: Channels of the stride-2 convolutions.
        dropout: Rate after each hidden layer.
        input_dropout: Rate on x.
        latent: Activation of the means of every latent level.
        output: Activation of the decoder mean.
        std_head: How an input-dependent std is read from its network, one of `STD_HEADS`.
        bias: Of a linear model: encoder and decoder biases.
        initial_std: Weights start as `N(0, initial_std^2)`, biases at 0; none: torch's default.
        initial_sigma: Start of learned posterior stds, or `"uniform"` for `U(0, 1)`.
        initial_eta_dec: Start of a learned decoder std.

    Example:
        >>> Architecture.named("mlp", hidden=(64, 32)).hidden
        (64, 32)
    """

    name: str
    hidden: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float = 0.0
    input_dropout: float = 0.0
    latent: str = "identity"
    output: str = "identity"
    std_head: str = "log"
    bias: bool = True
    initial_std: float | None = None
    initial_sigma: float | Literal["uniform"] = 1.0
    initial_eta_dec: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of("architecture", self.name, sorted(ARCHITECTURES))
        for name in ("hidden", "channels"):
            widths = checks.each(name, getattr(self, name), None, "widths", checks.units)
            object.__setattr__(self, name, widths)
        for name in ("activation", "latent", "output"):
            checks.one_of(name, getattr(self, name), sorted(ACTIVATIONS))
        checks.one_of("std_head", self.std_head, sorted(STD_HEADS))
        object.__setattr__(self, "bias", checks.flag("bias", self.bias))
        for name in ("dropout", "input_dropout"):
            object.__setattr__(self, name, checks.rate(name, getattr(self, name), 0.1))
        for name in _START:
            value = getattr(self, name)
            is_word = value is None or isinstance(value, str)
            if not is_word or (name, value) not in WORDS:
                object.__setattr__(self, name, checks.positive(name, value))
        self._check_name()

    def _check_name(self) -> None:
        """Refuse options that are not those of the name, which files keep without them."""
        preset = ARCHITECTURES[self.name]
        for required in ("hidden", "channels"):
            if required in preset.defaults and not getattr(self, required):
                raise InvalidArgumentError(
                    required,
                    "none",
                    f"at least one layer of {self.name!r}",
                    f"Architecture.named({self.name!r}) has some; 'linear' is for none.",
                )
        for option in fields(self)[1:]:
            given = getattr(self, option.name)
            own = preset.defaults.get(option.name, option.default)
            if option.name not in preset.free and given != own:
                raise InvalidArgumentError(
                    option.name,
                    repr(given),
                    f"{own!r} for {self.name!r}",
                    f"Make it by Architecture.named({self.name!r}), or choose another name.",
                )

    @property
    def centred(self) -> bool:
        """Whether biases take up the data's means, so that variances are about these; else 0."""
        return self.bias or self.name != "linear"

    def rotatable(self, spec: Spec) -> tuple[bool, ...]:
        """Return per level whether its units can be rotated into each other at no cost.

        They can where all share one std; then no single unit is determined, only their directions
        are.
        """
        return tuple(same and self.latent == "identity" for same in spec.one_sigma_levels)

    @staticmethod
    def named(name: str, **options: Any) -> Architecture:
        """Return an architecture by name, some of its options changed.

        Example:
            >>> Architecture.named("hvae-relu").output
            'tanh'
        """
        checks.one_of("architecture", name, sorted(ARCHITECTURES))
        preset = ARCHITECTURES[name]
        for option in options:
            if option not in preset.free:
                raise InvalidArgumentError(
                    option,
                    f"given for {name!r}",
                    f"one of its options {sorted(preset.free)}",
                    f"Remove it.{nearest(option, preset.free)}",
                )
        return Architecture(name, **{**preset.defaults, **options})

    @staticmethod
    def of(architecture: str | Architecture, **options: Any) -> Architecture:
        """Return what a name and its options, or an `Architecture` alone, stand for.

        Raises:
            InvalidArgumentError: As in `named`; options beside an `Architecture`.
        """
        if isinstance(architecture, str):
            return Architecture.named(architecture, **options)
        if options:
            raise InvalidArgumentError(
                "options",
                sorted(options),
                "none beside an Architecture",
                "Set them in the Architecture, or name it by a string.",
            )
        return architecture

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the options as plain JSON-able values."""
        free = ARCHITECTURES[self.name].free
        return {"name": self.name, **{name: plain(getattr(self, name)) for name in free}}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Architecture:
        """Return the architecture that `to_dict` described.

        Example:
            >>> one = Architecture.named("mlp", dropout=0.1)
            >>> Architecture.from_dict(one.to_dict()) == one
            True
        """
        options = dict(values)
        return Architecture.named(options.pop("name", None), **options)

    def check_model(self, spec: Spec) -> None:
        """Refuse a spec whose model these networks do not serve.

        Raises:
            InvalidArgumentError: It is another model's, or the output of a likelihood that takes
                any number is bounded.
        """
        models = ARCHITECTURES[self.name].models
        if spec.model not in models:
            others = [name for name, preset in ARCHITECTURES.items() if spec.model in preset.models]
            raise InvalidArgumentError(
                "architecture",
                f"{self.name!r} for a {spec.model} spec",
                f"one of {others}",
                "Choose another architecture or model.",
            )
        if spec.likelihood != "gaussian" and self.output != "identity":
            raise InvalidArgumentError(
                "output",
                f"{self.output!r} with likelihood {spec.likelihood!r}",
                "'identity', since the decoder gives logits, or logs of rates or means",
                "Leave it out, or choose architecture='mlp' or 'cnn'.",
            )


@dataclass(frozen=True)
class Shapes(Record):
    """Shapes of the data: numbers per row, and the images that rows are, if any."""

    x_dim: int
    y_dim: int
    x_image: tuple[int, int, int] | None = None
    y_image: tuple[int, int, int] | None = None

    @staticmethod
    def of(
        architecture: Architecture,
        spec: Spec,
        x_dim: int | None = None,
        y_dim: int | None = None,
        x_image: Sequence[int] | None = None,
        y_image: Sequence[int] | None = None,
    ) -> Shapes:
        """Return the shapes, what is not given filled in from what is.

        Args:
            architecture: The networks; `cvae-cnn` and `hvae-cnn` know their MNIST shapes.
            spec: The hyperparameters.
            x_dim: Numbers per row of x.
            y_dim: Numbers per row of y; none: x's, except for a conditional model.
            x_image: (height, width) or (channels, height, width) of x; none: y's.
            y_image: The same of y; none: x's.

        Raises:
            InvalidArgumentError: Something needed is missing, or the shapes contradict each other.
        """
        x_shape, y_shape = _image("x_image", x_image), _image("y_image", y_image)
        if architecture.name == "cvae-cnn":
            x_dim, y_dim, x_shape = x_dim or 196, y_dim or 588, x_shape or (1, 14, 14)
            _exactly("x_dim", x_dim, 196, "a 14x14 quarter")
            _exactly("y_dim", y_dim, 588, "three 14x14 quarters")
            return Shapes(x_dim, y_dim, x_shape, None)
        if architecture.name == "hvae-cnn" and x_shape is None and y_shape is None:
            x_shape = (1, 28, 28)
        x_shape, y_shape = x_shape or y_shape, y_shape or x_shape
        if x_shape is None or y_shape is None:
            if architecture.channels:
                raise InvalidArgumentError(
                    "image_shape", "nothing", "the shape of an image",
                    "Pass images as data, e.g. x.reshape(-1, 28, 28), not flat rows; to build, "
                    "image_shape=(28, 28).",
                )  # fmt: skip
            return _flat(spec, x_dim, y_dim)
        x_pixels, y_pixels = math.prod(x_shape), math.prod(y_shape)
        _exactly("x_dim", x_pixels if x_dim is None else x_dim, x_pixels, f"{x_shape} images")
        _exactly("y_dim", y_pixels if y_dim is None else y_dim, y_pixels, f"{y_shape} images")
        return Shapes(x_pixels, y_pixels, x_shape, y_shape)

    def check(self, x: Any, y: Any) -> None:
        """Refuse tensors of rows, (..., numbers) or None, that are of another width.

        Raises:
            InvalidArgumentError: One is.
        """
        for name, values, dim in (("x", x, self.x_dim), ("y", y, self.y_dim)):
            if values is not None and values.shape[-1:] != (dim,):
                raise InvalidArgumentError(
                    name, f"shape {tuple(values.shape)}", f"(..., {dim})",
                    "Pass rows of as many numbers as the model was built for, images flattened.",
                )  # fmt: skip


def _flat(spec: Spec, x_dim: int | None, y_dim: int | None) -> Shapes:
    if x_dim is None:
        raise InvalidArgumentError("x_dim", "nothing", "numbers per row of x", "Pass x_dim.")
    if y_dim is None and spec.model == "cvae":
        raise InvalidArgumentError("y_dim", "nothing", "numbers per row of y", "Pass y_dim.")
    x_dim = checks.count("x_dim", x_dim)
    return Shapes(x_dim, x_dim if y_dim is None else checks.count("y_dim", y_dim))


def _image(name: str, shape: Sequence[int] | None) -> tuple[int, int, int] | None:
    if shape is None:
        return None
    sizes = checks.each(name, shape, None, "height and width, or channels first", checks.count)
    if len(sizes) not in (2, 3):
        raise InvalidArgumentError(
            name, sizes, "(height, width) or (channels, height, width)", f"Pass {name}=(28, 28)."
        )
    if len(sizes) == 3 and sizes[2] <= MOST_CHANNELS < min(sizes[:2]):
        raise InvalidArgumentError(
            name, f"{sizes}, channels last", "(channels, height, width)",
            "Put the channels first: x.transpose(0, 3, 1, 2), of a tensor x.permute(0, 3, 1, 2).",
        )  # fmt: skip
    channels, height, width = sizes if len(sizes) == 3 else (1, *sizes)
    return channels, height, width


def _exactly(name: str, got: int, expected: int, what: str) -> None:
    if got != expected:
        raise InvalidArgumentError(
            name, got, f"{expected}, the size of {what}",
            "Pass data of that shape, or choose architecture='mlp', which takes any.",
        )  # fmt: skip
