"""A loss function, called on made-up tensors: with roles in any order, targets of any kind.

What a loss draws from a Gaussian is replaced by +1 and -1 in turn, and the two results are
averaged: the exact mean of anything quadratic in the noise, as a KL by sampling is.
"""

from __future__ import annotations

import contextlib
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from posterior_collapse.adapters.spreads import LOGGED, Spread
from posterior_collapse.adapters.totals import parts_of, total_of
from posterior_collapse.arrays import Float
from posterior_collapse.diagnosis.rows import device_of, is_of_dtype
from posterior_collapse.errors import InvalidArgumentError, first_line
from posterior_collapse.models.global_state import undisturbed

ROLES = ("reconstruction", "target", "mean", "log_var")
MOST_DIFFERENCES = 4096
"""Numbers of a reconstruction that are moved one by one, where autograd cannot follow the loss."""
STEP = 0.02
"""Of a difference: wide enough for losses in single precision."""
ASKED = ((0.9, 0.5), (20.0, 0.5))
"""Posteriors (mean, log-variance) at which a loss is asked twice: one that probabilities may be
taken for, as in another order, and one beyond any floor of the KL."""


class Sizes(NamedTuple):
    """What the loss is called with: samples, the shape of a reconstruction, and latent units."""

    batch: int
    features: tuple[int, ...]
    latents: int


class Target(NamedTuple):
    """A kind of target that losses take.

    Attributes:
        values: "soft" (in (0, 1)), "binary", "counts", "one-hot" or "classes" (their numbers).
        axis: Of the reconstruction's classes, counted from the features' first; None: none.
    """

    values: str
    axis: int | None = None


TARGETS = (
    Target("soft"),
    Target("binary"),
    Target("counts"),
    Target("classes", -1),
    Target("classes", 0),
    Target("one-hot", -1),
    Target("one-hot", 0),
)
"""In the order in which they are tried."""


def along(axis: int) -> int:
    """Return an axis of the features, counted from their first or last, as one of their rows."""
    return axis if axis < 0 else axis + 1


@dataclass
class Probe:
    """A loss `loss(reconstruction, target, mean, log_var)`, called with made-up tensors.

    Attributes:
        loss: The function. It may return a number, a sequence or mapping with the total first or
            under `"loss"`, or an object that has it so.
        sizes: Of the tensors.
        spread: What its last argument is.
        ignored: Class numbers that count nothing, as that of padding: none is made up.
        order: Position of each of `ROLES` among its arguments.
        parts: What was returned, in words, if it was no single number.
        drew: Whether it drew from a Gaussian.
        mixed: Whether the numbers drawn at once differ from each other, in sign.
        beside: At which of some pairs of output and target its KL is read, 0 being those made up:
            beside a large error single precision loses a small one (see `precision`).
    """

    loss: Callable[..., Any]
    sizes: Sizes
    spread: Spread = LOGGED[0]
    target: Target = TARGETS[0]
    ignored: tuple[int, ...] = ()
    order: tuple[int, ...] = (0, 1, 2, 3)
    parts: str | None = None
    drew: bool = False
    beside: int = 0
    mixed: bool = False

    @cached_property
    def device(self) -> torch.device:
        """Where the loss is called."""
        return device_of(self.loss)

    def made_up(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return a reconstruction in (0.1, 0.9) and a target of this kind, of rows that differ."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.sizes.batch, *self.sizes.features)
        uniform = torch.rand((2, *shape), generator=generator, dtype=torch.float64, device="cpu")
        values, axis = self.target
        y = 0.3 + 0.4 * uniform[1]
        if values == "binary":
            y = (uniform[1] < 0.5).double()
        elif values == "counts":
            y = (6 * uniform[1]).floor()
        elif axis is not None:
            counted = uniform[1].index_fill(along(axis), torch.tensor(self.ignored).long(), -1.0)
            y = counted.argmax(dim=along(axis))
            y = self.one_hot(y) if values == "one-hot" else y
        return 0.1 + 0.8 * uniform[0], y

    def one_hot(self, classes: Tensor) -> Tensor:
        """Return class numbers in the reconstruction's shape, 1 for the class and 0 for others.

        Of what counts nothing all are 0.
        """
        axis = self.target.axis
        assert axis is not None
        most = self.sizes.features[axis]
        hot = torch.nn.functional.one_hot(classes.clamp(0, most - 1), most).double()
        hot *= self.counts(classes)[..., None]
        return hot.movedim(-1, along(axis))

    def counts(self, classes: Tensor) -> Tensor:
        """Whether each of some class numbers counts: none of no class, nor the ignored."""
        axis = self.target.axis
        most = math.inf if axis is None else self.sizes.features[axis]
        ignored = torch.isin(classes, torch.tensor(self.ignored).to(classes))
        return (classes >= 0) & (classes < most) & ~ignored

    def value(self, y_hat: Tensor, y: Tensor, mean: Any = 0.0, log_var: Any = 0.0) -> float:
        """Return the loss, where the posterior of all rows is the same: a number, or one per unit.

        Raises:
            InvalidArgumentError: The loss raises, is not finite, or gives no single number.
        """
        return _number(self._mean(y_hat, y, mean, log_var), self)

    def gradient(self, y_hat: Tensor, y: Tensor) -> Float:
        """Return the gradient with respect to the reconstruction, where posterior and prior agree.

        Where autograd cannot follow the loss, from differences.
        """
        moved = y_hat.detach().to(self.device, copy=True).requires_grad_()
        try:
            total = self._called(self._roles(moved, y, 0.0, 0.0), 1.0)
        except InvalidArgumentError as error:
            if "require" not in str(error) or "grad" not in str(error):
                raise
            return self._differences(y_hat, y)  # numpy and others take no such tensor
        _number(total, self)
        if not (isinstance(total, Tensor) and total.requires_grad):
            return self._differences(y_hat, y)
        slope = _slope(total, moved)
        if self.drew:
            turned = self._called(self._roles(moved, y, 0.0, 0.0), -1.0)
            if not np.array_equal(slope, _slope(turned, moved)):
                raise random_numbers()
        return slope

    def slopes(self, mean: float, log_var: float) -> dict[str, Float]:
        """Return by role the total's gradient.

        Of draws from a Gaussian it is the mean, as a long training feels it. Empty where autograd
        cannot follow the loss at all.
        """
        roles = self._roles(*self.made_up(), mean, log_var)
        leaves = {r: roles[ROLES.index(r)].requires_grad_() for r in ROLES if r != "target"}
        try:
            totals = [self._called(roles, sign) for sign in (1.0, -1.0)]
        except InvalidArgumentError:
            return {}  # numpy and others take no such tensor
        followed = [one for one in totals if isinstance(one, Tensor) and one.requires_grad]
        if len(followed) < len(totals):
            return {}
        total = torch.stack(followed).mean()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        return {
            role: np.zeros(leaf.shape) if one is None else one.double().cpu().numpy()
            for (role, leaf), one in zip(leaves.items(), found, strict=True)
        }

    def own_slopes(self, y_hat: Tensor, y: Tensor, *posterior: float) -> list[Float]:
        """Return the gradient with respect to each parameter of the loss's own that may train."""
        total = self._called(self._roles(y_hat, y, *(posterior or (0.0, 0.0))), 1.0)
        own = _leaves(total) if isinstance(total, Tensor) else []
        return (
            [one.double().cpu().numpy() for one in torch.autograd.grad(total, own)] if own else []
        )

    def _differences(self, y_hat: Tensor, y: Tensor) -> Float:
        """Return the gradient from values, which may be in single precision."""
        # Most losses that autograd cannot follow to here do not look here: three calls say so. By
        # numbers drawn, as slopes of even steps may cancel, and to both sides, as one may be flat.
        generator = torch.Generator().manual_seed(0)
        drawn = torch.rand((2, *y_hat.shape), generator=generator, device="cpu").to(y_hat)
        up, down = STEP * (1 + drawn) / 2
        if len({self.value(at, y) for at in (y_hat, y_hat + up, y_hat - down)}) == 1:
            return np.zeros(y_hat.shape)
        if y_hat.numel() > MOST_DIFFERENCES:
            raise InvalidArgumentError(
                "loss",
                "a result that autograd cannot follow",
                f"one of torch, or at most {MOST_DIFFERENCES} numbers of a reconstruction",
                "Pass fewer features=, or a smaller batch_size=.",
            )
        flat = np.zeros(y_hat.numel())

        def slope(i: int, step: float) -> float:
            ends = []
            for side in (step, -step):
                moved = y_hat.flatten().clone()
                moved[i] += side
                ends.append(self.value(moved.reshape(y_hat.shape), y))
            return (ends[0] - ends[1]) / (2 * step)

        for i in range(len(flat)):
            # Of two steps the third derivative drops out, so that they can be wide.
            flat[i] = (4 * slope(i, STEP / 2) - slope(i, STEP)) / 3
        return flat.reshape(y_hat.shape)

    def total(self, y_hat: Tensor, y: Tensor) -> Any:
        """Return what the loss gives where posterior and prior agree, for autograd to follow.

        What the loss raises is raised as it is: a search that steps out of its domain steps back.
        """
        try:
            return self._mean(y_hat, y, 0.0, 0.0)
        except InvalidArgumentError as refusal:
            raise refusal.__cause__ or refusal from None

    def _mean(self, y_hat: Tensor, y: Tensor, mean: Any, log_var: Any) -> Any:
        """Return the total, averaged over noise of either sign if the loss draws any."""
        first = self._called(self._roles(y_hat, y, mean, log_var), 1.0)
        if not self.drew:
            return first
        return (first + self._called(self._roles(y_hat, y, mean, log_var), -1.0)) / 2

    def _roles(self, y_hat: Tensor, y: Tensor, mean: Any, log_var: Any) -> tuple[Tensor, ...]:
        shape = (len(y_hat), self.sizes.latents)
        means = np.broadcast_to(np.asarray(mean, dtype=np.float64), shape)
        spreads = [self.spread.argument(float(one)) for one in np.ravel(log_var)]
        posterior = (means, np.broadcast_to(spreads, shape))
        moved, spread = (torch.from_numpy(part.copy()).to(self.device) for part in posterior)
        return y_hat.to(self.device), y.to(self.device), moved, spread

    def _called(self, roles: tuple[Tensor, ...], sign: float) -> Any:
        arguments: list[Any] = [None] * len(roles)
        for role, place in zip(roles, self.order, strict=True):
            arguments[place] = role.clone()  # losses may write into what they are given
        noise = _Noise(sign, self.mixed)
        try:
            # Of wrong shapes, which are only tried, losses warn.
            with warnings.catch_warnings(), noise:
                warnings.simplefilter("ignore")
                output = self.loss(*arguments)
        except Exception as error:
            raise self._refusal(error, arguments) from error
        self.drew |= noise.drew
        self.parts = parts_of(output) or self.parts
        return total_of(output)

    def _refusal(self, error: Exception, arguments: Sequence[Tensor]) -> InvalidArgumentError:
        line = first_line(error)
        action = (
            "Check features=, latents=, the order of the arguments and the device of tensors of "
            "its own, or wrap it: lambda y_hat, y, mean, log_var: ..."
        )
        if len(self.sizes.features) == 1:
            action += " For classes, as of tokens, give positions and classes as features."
        if "positional argument" in line and " given" in line:
            action = (
                "Wrap it, to be called as in training: lambda y_hat, y, mean, log_var: "
                "loss((y_hat, y, mean, log_var)), say. A plain or vector-quantised autoencoder has "
                "no KL, and none of its units collapses to a prior."
            )
        elif "() missing " in line or "tuple index" in line or isinstance(error, KeyError):
            action = (
                "Wrap it, with what else it takes as at the end of training (a step, a weight), or "
                "z = mean + (log_var / 2).exp() * torch.randn_like(mean): "
                "lambda y_hat, y, mean, log_var: loss(y_hat, y, mean, log_var, step=99_999)."
            )
        elif isinstance(error, IndexError) or "not enough values" in line:
            action += " Its latents are rows: of an image, pass it mean.reshape(-1, 4, 8, 8), say."
        if "Inference tensors" in line:
            action = "Make its own tensors outside of torch.inference_mode()."
        if is_of_dtype(line):
            action = "Its own tensors have another dtype: wrap it, lambda y_hat, y, mean, log_var: "
            action += "loss(y_hat.float(), y.float(), mean.float(), log_var.float())."
        return InvalidArgumentError(
            "loss",
            f"{type(error).__name__} ({line})",
            f"a number for arguments of shapes {[tuple(a.shape) for a in arguments]}",
            action,
        )


class _Noise(TorchFunctionMode):
    """Has every number that is drawn from a Gaussian be its mean plus or minus its std."""

    def __init__(self, sign: float, mixed: bool = False) -> None:
        super().__init__()
        self.drew, self._sign, self._mixed = False, sign, mixed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in ("randn", "randn_like", "normal", "normal_"):
            return found
        self.drew = True
        mean, std = 0.0, 1.0
        if name.startswith("normal"):
            given = dict(zip(("mean", "std"), args[name == "normal_" :], strict=False))
            mean, std = ({**given, **(kwargs or {})}.get(key, least)
                         for key, least in (("mean", 0.0), ("std", 1.0)))  # fmt: skip
        sign: Any = self._sign
        if self._mixed:
            drawn = np.random.default_rng(0).integers(0, 2, found.shape)
            sign = torch.from_numpy(sign * (2.0 * drawn - 1)).to(found.device)
        value = torch.as_tensor(mean + sign * std, device=found.device).to(found)
        return found.copy_(value) if name == "normal_" else value.expand_as(found).clone()


@contextlib.contextmanager
def steady(loss: Callable[..., Any], sizes: Sizes, spread: Spread) -> Iterator[None]:
    """Refuse a loss that has changed meanwhile, whatever else was made of it."""
    before = _answers(loss, sizes, spread)
    try:
        yield
    finally:
        # Twice, as a cycle may be where it was.
        if any(_answers(loss, sizes, spread) != before for _ in range(2)):
            raise InvalidArgumentError(
                "loss",
                "other values at later calls, for the same arguments",
                "a loss that stays what it is; it changes from call to call, as with a schedule "
                "that counts them, or random numbers of a generator of its own",
                "Freeze its counter at the end of training (set it beyond the warm-up), and audit "
                "that; draw z outside of the loss.",
            ) from None


def _answers(loss: Callable[..., Any], sizes: Sizes, spread: Spread) -> list[float]:
    """Return what it gives on the first kind of target that it takes, whatever it draws."""
    for target in TARGETS:
        found = []
        for posterior in ASKED:
            probe = Probe(loss, sizes, spread, target)
            with contextlib.suppress(InvalidArgumentError), _seeded(probe.device):
                found.append(probe.value(*probe.made_up(), *posterior))
        if found:
            return found
    return []


@contextlib.contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """Have the global generators start alike, and leave them as they were."""
    with undisturbed(device):
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        yield


def random_numbers() -> InvalidArgumentError:
    """Return what to say of a loss that is random in more than a KL by sampling."""
    return InvalidArgumentError(
        "loss",
        "two values for the same arguments",
        "a loss without random numbers, but for those of a KL by sampling",
        "Sample z outside, and pass the reconstruction; switch off dropout in networks of its own.",
    )


def _slope(total: Tensor, at: Tensor) -> Float:
    (found,) = torch.autograd.grad(total, at, allow_unused=True)
    slope = np.zeros(at.shape) if found is None else found.cpu().numpy()
    if np.isfinite(slope).all():
        return slope
    raise InvalidArgumentError(
        "loss",
        "a gradient that is not finite",
        "a finite one at reconstructions and targets in (0, 1)",
        "Check the order of the arguments.",
    )


def _leaves(total: Tensor) -> list[Tensor]:
    """Return the tensors that autograd would give a gradient of this number."""
    nodes = dict.fromkeys([total.grad_fn] if total.grad_fn else [])
    queue = list(nodes)
    for node in queue:  # which grows meanwhile
        new = [one for one, _ in node.next_functions if one is not None and one not in nodes]
        nodes.update(dict.fromkeys(new))
        queue += dict.fromkeys(new)
    return [node.variable for node in queue if hasattr(node, "variable")]


def _number(total: Any, probe: Probe) -> float:
    value = float(total.detach() if isinstance(total, Tensor) else total)
    if not math.isfinite(value):
        logged = probe.spread.logged
        other = "log_var=False, if it takes a std" if logged else "log_var=True"
        raise InvalidArgumentError(
            "loss", value, f"a finite number at every {probe.spread}", f"Pass {other}."
        )
    return value
