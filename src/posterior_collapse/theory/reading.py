"""Data of any kind and a spec, made into the moments or the modes that the theory asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from posterior_collapse.arrays import as_samples
from posterior_collapse.data.samples import Samples, Stream, read
from posterior_collapse.errors import DataError, InvalidArgumentError, NotSolvedError
from posterior_collapse.likelihoods import check_targets, fractions_in
from posterior_collapse.moments import Moments
from posterior_collapse.moments.accumulate import Precision
from posterior_collapse.specs import Spec, in_order
from posterior_collapse.theory.dispersion import Tally, is_learned
from posterior_collapse.theory.spectrum import Modes
from posterior_collapse.theory.whitening import Whitening, whiten, whiten_given

Bias = Literal["both", "encoder", "decoder", "none"]


@dataclass(frozen=True, eq=False)
class Counted:
    """Moments, and how often each value occurs, which a learned dispersion asks for."""

    moments: Moments
    counts: Tally


class MeasuredOnce:
    """Data whose moments are taken once in each precision, however many specs they are to serve.

    Args:
        data: Rows, or batches that can be read again.
    """

    def __init__(self, data: Samples | Stream) -> None:
        self._data = data
        self._known: dict[Precision, Moments] = {}

    def moments(self, precision: Precision) -> Moments:
        """Return the moments by products in this precision; see `Moments.of`."""
        if precision not in self._known:
            self._known[precision] = Moments.of(self._data, precision=precision, compact=True)
        return self._known[precision]


def as_moments(data: Any, spec: Any) -> tuple[Moments, Spec]:
    """Return the moments of the data and the spec, whichever of the two was passed first.

    Args:
        data: `Moments`, or data of any kind that `data.samples.read` knows.
        spec: What the data must serve.

    Raises:
        InvalidArgumentError: `spec` is not a spec.
        NotSolvedError: Its likelihood is not Gaussian.
        DataError: The data cannot be used, or a conditional model has no condition.
    """
    data, spec = _in_order(data, spec)
    require_gaussian(spec)
    return _measured(data, spec), spec


def require_gaussian(spec: Spec) -> None:
    """Refuse a spec whose objective is not a function of the data's second moments."""
    if spec.likelihood != "gaussian":
        raise NotSolvedError(
            "spec", f"likelihood {spec.likelihood!r}",
            "'gaussian', whose loss is a function of second moments alone",
            "Forecast it, or train it by minibatches with pc.fit.",
        )  # fmt: skip


def as_modes(
    data: Any, spec: Any, bias: Bias | None = None, precision: Precision = "float64"
) -> tuple[Modes, Spec]:
    """Return the modes of the data in the noise of the spec's likelihood, and the spec.

    Args:
        data: As of `as_moments`.
        spec: What the data must serve.
        bias: Which of encoder and decoder have biases; see `forecast`.
        precision: "float32" for the products of float32 data that can be read again, should
            `moments.rounding` turn out to decide something.

    Raises:
        InvalidArgumentError: `spec` is not a spec.
        NotSolvedError: A likelihood "other", or other than Gaussian where the rows are needed.
        DataError: The data cannot be used, or a conditional model has no condition.
    """
    data, spec = _in_order(data, spec)
    if spec.likelihood == "other":
        raise NotSolvedError(
            "spec",
            "likelihood 'other'",
            "a likelihood with a name",
            "Call pc.onset(loss, y) with the reconstruction loss itself.",
        )
    if spec.likelihood != "gaussian" and spec.model == "cvae":
        return _given(data, spec, bias), spec
    at_hand = isinstance(data, (Moments, Counted, MeasuredOnce))
    found = data if at_hand else read(data, spec.model == "cvae")
    counts = None
    if spec.likelihood != "gaussian":
        found, counts = _checked(found, spec)
    once = isinstance(found, Stream) and isinstance(found.data, Iterator)
    moments = _measured(
        found, spec, "float64" if once or spec.likelihood != "gaussian" else precision, compact=True
    )
    moments = _with_bias(moments, spec, bias)
    if spec.likelihood == "gaussian":
        return Modes(moments, spec.model == "cvae"), spec
    noise = _with_caution(whiten(moments, spec, counts), spec, found)
    return Modes(noise.moments, noise=noise), spec


def _checked(found: Any, spec: Spec) -> tuple[Any, Tally | None]:
    """Refuse rows that the likelihood gives no probability; moments hardly tell a single one.

    Returns:
        The rows, or the moments of those that pass by; and how often each of their values occurs,
        where a learned dispersion asks for it.
    """
    if isinstance(found, Counted):
        check_targets(spec.likelihood, found.counts.value[:, None])
        return found.moments, found.counts
    learned = is_learned(spec)
    if isinstance(found, Samples):
        rows = found.x if found.y is None else found.y
        check_targets(spec.likelihood, rows)
        return found, Tally.of(rows) if learned else None
    if not isinstance(found, Stream):
        return found, None
    counts: list[Tally] = []

    def batches() -> Iterator[Any]:
        for x, y in found.batches():
            rows, _ = as_samples("x" if y is None else "y", x if y is None else y)
            check_targets(spec.likelihood, rows)
            if learned:
                counts[:] = [sum(counts, Tally.of(rows))]
            yield x if y is None else (x, y)

    moments = Moments.from_batches(batches())
    return moments, counts[0] if counts else None


def _with_caution(noise: Whitening, spec: Spec, found: Any) -> Whitening:
    """Say of rows at hand if they are no counts although they should be."""
    if not isinstance(found, Samples):
        return noise
    said = fractions_in(spec.likelihood, found.x if found.y is None else found.y)
    return replace(noise, notes=(*noise.notes, *filter(None, [said])))


def _given(data: Any, spec: Spec, bias: Bias | None) -> Modes:
    """Modes of what a condition leaves unexplained, which moments do not tell."""
    if isinstance(data, Moments):
        raise NotSolvedError(
            "data",
            f"moments, for a conditional model of likelihood {spec.likelihood!r}",
            "the rows of x and y: what x explains is found by regression",
            "Pass the pair (x, y).",
        )
    if bias not in (None, "both"):
        raise NotSolvedError(
            "bias", repr(bias), f"'both' for likelihood {spec.likelihood!r}", "Leave it out."
        )
    found = read(data, True).collected()
    noise = _with_caution(whiten_given(found, spec), spec, found)
    return Modes(noise.moments, noise=noise)


def _in_order(data: Any, spec: Any) -> tuple[Any, Spec]:
    data, spec = in_order(data, spec)
    if not isinstance(spec, Spec):
        raise InvalidArgumentError(
            "spec", type(spec).__name__, "a VAESpec, CVAESpec, HVAESpec or ChainSpec", "Pass one."
        )
    return data, spec


def _measured(
    data: Any, spec: Spec, precision: Precision = "float64", compact: bool = False
) -> Moments:
    conditional = spec.model == "cvae"
    if isinstance(data, Moments):
        moments = data
    elif isinstance(data, MeasuredOnce):
        moments = data.moments(precision)
    else:
        moments = Moments.of(read(data, conditional), precision=precision, compact=compact)
    if conditional and not moments.paired:
        raise DataError(
            "data",
            "no target y",
            "a condition x and a target y for a conditional model",
            "Pass a pair (x, y), or Moments.from_arrays(x, y).",
        )
    return moments


def _with_bias(moments: Moments, spec: Spec, bias: Bias | None) -> Moments:
    if bias is None:
        return moments
    if bias in ("both", "none"):
        return moments.with_center(bias == "both")
    if bias == "encoder" and spec.model != "cvae":
        if moments.paired and not moments.measured:
            raise DataError(
                "data", "moments of matrices, which tell no means",
                "samples: what an encoder's bias does follows from the means",
                "Pass the pair (x, y), or Moments.from_arrays(x, y).",
            )  # fmt: skip
        return moments.with_constant_input() if moments.paired else moments.with_center(False)
    if bias in ("encoder", "decoder"):
        raise NotSolvedError(
            "bias",
            f"{bias!r} for a {spec.model} model",
            "'both' or 'none' (for unconditional models also 'encoder')",
            "Give both encoder and decoder a bias, or neither.",
        )
    raise InvalidArgumentError(
        "bias", repr(bias), "'both', 'encoder', 'decoder' or 'none'", "Pass bias='both'."
    )
