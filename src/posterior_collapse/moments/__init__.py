"""Second moments of the data: all that the theory needs to know of them."""

from posterior_collapse.moments.core import Moments
from posterior_collapse.moments.residuals import cross_fitted_residuals

__all__ = ["Moments", "cross_fitted_residuals"]
