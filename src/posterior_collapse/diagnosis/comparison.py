"""The forecast that a diagnosis is compared with."""

from __future__ import annotations

import warnings

from posterior_collapse.errors import DataError, NotSolvedError, UnboundedObjectiveError
from posterior_collapse.moments import Moments
from posterior_collapse.specs import Spec
from posterior_collapse.theory import ACTIVE_INFORMATION, FewSamplesWarning, Forecast, forecast

__all__ = ["kept_units", "linear_forecast"]


def linear_forecast(
    moments: Moments | None, spec: Spec | None
) -> tuple[Forecast | None, tuple[str, ...]]:
    """Return the forecast of the linear model of this spec, or a note that says why there is none.

    Example:
        >>> linear_forecast(None, None)
        (None, ())
    """
    if moments is None or spec is None:
        return None, ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewSamplesWarning)  # it stays in the forecast's notes
            return forecast(moments, spec), ()
    except (NotSolvedError, UnboundedObjectiveError, DataError) as error:
        return None, (f"no forecast of the linear model: {error}",)


def kept_units(found: Forecast) -> tuple[int, ...]:
    """Return per level how many units the forecast gives as much information as active ones have.

    The forecast calls a unit active from 0 nats on, a diagnosis from `ACTIVE_INFORMATION`.

    Example:
        >>> from posterior_collapse.specs import VAESpec
        >>> kept_units(forecast(Moments.from_matrices([[4.0, 0.0], [0.0, 1.001]]), VAESpec(2)))
        (1,)
    """
    return tuple(int((level.information > ACTIVE_INFORMATION).sum()) for level in found.levels)
