"""What a condition leaves unexplained of a target, measured on samples it was not fitted to."""

from __future__ import annotations

from typing import Any

import numpy as np

from posterior_collapse import checks
from posterior_collapse.arrays import Float, check_shape, refuse_non_finite
from posterior_collapse.data.samples import as_pair
from posterior_collapse.errors import DataError


def cross_fitted_residuals(x: Any, y: Any, folds: int = 5) -> Float:
    """Return `y` minus its out-of-fold ridge prediction from `x`.

    With few samples per feature of the condition, least squares "explains" noise and the
    residual covariance of theory section 2 comes out too small. Here each sample is predicted
    by a ridge regression (penalty by leave-one-out error) that never saw it. Forecast with
    ``VAESpec`` on ``Moments.from_arrays(residuals)``.

    Args:
        x: Condition, shape (samples, d_x).
        y: Target, shape (samples, d_y).
        folds: Number of folds, at least 2.

    Returns:
        Residuals, shape (samples, d_y), in the units of `y`.

    Raises:
        DataError: Not finite matrices, different sample counts, or fewer samples than folds.
        InvalidArgumentError: Fewer than two folds.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.standard_normal((40, 30)), rng.standard_normal((40, 2))
        >>> bool(cross_fitted_residuals(x, y).var() > 0.8)  # y is noise: nothing is explained
        True
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = as_pair(x, y, None)
    x, y = np.asarray(found.x), np.asarray(found.y)
    for name, values in (("x", x), ("y", y)):
        check_shape(name, values.shape)
        refuse_non_finite(name, values)
    folds = checks.whole("folds", folds, 2, example=5)
    if len(x) < folds:
        raise DataError(
            "x and y",
            f"{len(x)} and {len(y)} samples",
            f"the same number, at least {folds}",
            "Pass matching rows.",
        )
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-3, 6, 19)))
    order = KFold(folds, shuffle=True, random_state=0)
    target = y.astype(np.float64)
    predicted = cross_val_predict(model, x, target, cv=order)
    return np.asarray(target - predicted.reshape(target.shape), dtype=np.float64)
