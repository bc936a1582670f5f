"""The closed-form optimum of a linear VAE as a scikit-learn transformer.

It is fitted without training: the second moments of the data decide all of it. With `beta=1` and a
learned `eta_dec` it is probabilistic PCA (Tipping and Bishop 1999) by maximum likelihood; a larger
beta, or a decoder std that is given, says how much variance a component must have to be kept.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from posterior_collapse import checks
from posterior_collapse.arrays import Float, refuse_masked
from posterior_collapse.checks import EtaDec, Sigma
from posterior_collapse.errors import DataError, PosteriorCollapseError, count_of
from posterior_collapse.moments import Moments
from posterior_collapse.moments.accumulate import Accumulator
from posterior_collapse.moments.wide import MAX_FEATURES
from posterior_collapse.specs import VAESpec
from posterior_collapse.theory import Forecast, Level, forecast
from posterior_collapse.theory.spectrum import Modes

__all__ = ["LinearVAE"]

E = TypeVar("E", bound="LinearVAE")

DTYPES = (np.float64, np.float32)


class LinearVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Linear VAE at its global optimum: components that the objective keeps, and those it drops.

    The model is `p(z) = N(0, eta_enc^2 I)`, `p(x|z) = N(U z + mean, eta_dec^2 I)`; its loss
    `|x - U z - mean|^2 / (2 eta_dec^2) + beta KL`. Only this Gaussian likelihood is served: the
    others' optima are approximations, which `posterior_collapse.forecast` gives.

    Args:
        n_components: Number of latent units; None: one for each direction in which the data vary,
            or one fewer where the loss would have no minimum (learned `eta_dec`, all variance
            explained).
        beta: Weight of the KL.
        eta_dec: Decoder std in units of the data, or `"learned"`.
        eta_enc: Prior std of the latent units.
        sigma: Posterior std: `"learned"` per unit, `"shared"`, a float, or one float per unit.

    Attributes:
        n_components_: Number of latent units.
        n_active_: Number of those that carry something.
        status_: Of each unit "active" or "collapsed", shape (n_components_,).
        components_: Decoder's weights U', shape (n_components_, n_features_in_), strongest first
            (of a sigma per unit, in its order); 0 where collapsed. The largest entry of each is
            positive.
        mean_: Of the features, shape (n_features_in_,).
        noise_variance_: `eta_dec^2`, as given or as learned.
        explained_variance_: Variance of the direction of the data that each unit carries, or
            would, normalised by the number of samples, shape (n_components_,).
        threshold_: Variance above which a unit is active, shape (n_components_,).
        kl_: KL of each unit in nats, averaged over the samples, shape (n_components_,).
        posterior_std_: Std of `q(z|x)`, shape (n_components_,).
        moments_: Mean and covariance of the samples seen.
        forecast_: The optimum with all that is known of it, e.g. its loss and notes.
        n_features_in_: Number of features.
        feature_names_in_: Their names, of data that have some.

    Source:
        Lucas et al. (2019) and Dang et al. (2024), theorem 1.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> X = load_digits().data / 16
        >>> model = LinearVAE(n_components=16, eta_dec=0.3).fit(X)
        >>> model.n_active_, model.transform(X).shape
        (12, (1797, 16))
        >>> [int(LinearVAE(16, eta_dec=0.3, beta=beta).fit(X).n_active_) for beta in (0.5, 2, 9)]
        [16, 7, 0]
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        beta: float = 1.0,
        eta_dec: EtaDec = "learned",
        eta_enc: float = 1.0,
        sigma: Sigma = "learned",
    ) -> None:
        self.n_components = n_components
        self.beta = beta
        self.eta_dec = eta_dec
        self.eta_enc = eta_enc
        self.sigma = sigma

    def fit(self: E, X: Any, y: object = None) -> E:
        """Find the optimum on samples.

        Args:
            X: Shape (samples, features).
            y: Ignored.

        Raises:
            InvalidArgumentError: A parameter is out of its domain.
            DataError: The samples are all equal.
            UnboundedObjectiveError: The units explain all variance, so that a learned `eta_dec`
                falls without end.
        """
        refuse_masked("X", X)
        X = validate_data(self, X, dtype=DTYPES, ensure_min_samples=2)
        self._take(Moments.from_arrays(X))
        try:
            _ = self._weights  # a parameter that will not do is refused here, not when it is used
        except PosteriorCollapseError:
            for name in ("moments_", "forecast_"):  # it is not fitted
                self.__dict__.pop(name, None)
            raise
        return self

    def partial_fit(self: E, X: Any, y: object = None) -> E:
        """Add samples to those seen; in batches of any size they give what `fit` gives of all.

        The optimum is found when it is first asked for, and errors of the parameters come then.

        Args:
            X: Shape (samples, features), at most 8,192 features.
            y: Ignored.

        Raises:
            DataError: Too many features.
        """
        refuse_masked("X", X)
        first = not hasattr(self, "moments_")
        X = validate_data(self, X, dtype=DTYPES, reset=first)
        seen = _of_a_batch(X)
        self._take(seen if first else self.moments_ + seen)
        return self

    def transform(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the means of `q(z|x)`, shape (samples, n_components_), in the dtype of X.

        Args:
            X: Shape (samples, features).
        """
        X = self._checked(X)
        encoder, _ = self._weights
        means = (X - self.mean_) @ encoder.T
        return np.asarray(means, dtype=X.dtype)

    def inverse_transform(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the decoder's means, shape (samples, n_features_in_), in the dtype of X.

        Args:
            X: Values of the latent units, shape (samples, n_components_).

        Raises:
            DataError: Another number of units.
        """
        check_is_fitted(self)
        X = check_array(X, dtype=DTYPES)
        if X.shape[1] != self.n_components_:
            raise DataError(
                "X", count_of(X.shape[1], "column"), f"{self.n_components_}, one per latent unit",
                "Pass what transform returned.",
            )  # fmt: skip
        return np.asarray(X @ self.components_ + self.mean_, dtype=X.dtype)

    def score_samples(self, X: Any) -> Float:
        """Return `log p(x)` of each sample in nats, shape (samples,).

        It is the marginal likelihood of the decoder and the prior, `N(mean, get_covariance())`;
        with `beta=1` and a learned sigma the ELBO attains it.

        Args:
            X: Shape (samples, features).
        """
        X = self._checked(X)
        features, noise = X.shape[1], self.noise_variance_
        strength = np.linalg.norm(self.components_, axis=1)
        alive = strength > 0
        # The components are orthogonal, so that along each the samples are independent.
        axes = self.components_[alive] / strength[alive, None]
        variance = np.square(self._prior_std * strength[alive]) + noise
        rows = X - self.mean_
        along = rows @ axes.T
        rest = np.square(rows - along @ axes).sum(axis=1) / noise
        log_det = np.log(variance).sum() + (features - len(variance)) * np.log(noise)
        squares = (np.square(along) / variance).sum(axis=1) + rest
        return np.asarray(-0.5 * (features * np.log(2 * np.pi) + log_det + squares), np.float64)

    def score(self, X: Any, y: object = None) -> float:
        """Return the average `log p(x)` in nats per sample.

        Args:
            X: Shape (samples, features).
            y: Ignored.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Float:
        """Draw samples from the model, shape (n_samples, n_features_in_).

        Args:
            n_samples: How many.
            random_state: A seed or a `numpy.random.RandomState`; None: numpy's own.

        Raises:
            InvalidArgumentError: Not a number of samples.
        """
        check_is_fitted(self)
        number = checks.whole("n_samples", n_samples, least=1)
        random = check_random_state(random_state)
        latents = self._prior_std * random.standard_normal((number, self.n_components_))
        noise = np.sqrt(self.noise_variance_) * random.standard_normal((number, len(self.mean_)))
        return np.asarray(latents @ self.components_ + self.mean_ + noise)

    def get_covariance(self) -> Float:
        """Return the model's covariance, shape (n_features_in_, n_features_in_)."""
        scaled = self._prior_std * self.components_
        return np.asarray(scaled.T @ scaled + self.noise_variance_ * np.eye(scaled.shape[1]))

    @cached_property
    def forecast_(self) -> Forecast:
        """The optimum with all that is known of it."""
        if not hasattr(self, "moments_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet. Call fit first.")
        units = self.n_components
        units = self._most_units() if units is None else checks.units("n_components", units)
        spec = VAESpec(units, self.beta, self.eta_dec, self.eta_enc, self.sigma)
        return forecast(self.moments_, spec)

    @property
    def n_components_(self) -> int:
        """Number of latent units."""
        return self.forecast_.spec.dims[0]

    @property
    def n_active_(self) -> int:
        """Number of latent units that carry something."""
        return self._level.n_active

    @property
    def status_(self) -> NDArray[np.str_]:
        """Of each unit "active" or "collapsed"."""
        return np.array(self._level.status)

    @property
    def components_(self) -> Float:
        """The decoder's weights, a row per unit."""
        return self._weights[1]

    @property
    def mean_(self) -> Float:
        """Mean of the features."""
        return self.moments_.feature_means

    @property
    def noise_variance_(self) -> float:
        """Variance of `p(x|z)`, per feature."""
        return self.forecast_.eta_dec**2

    @property
    def explained_variance_(self) -> Float:
        """Variance of the direction of the data that each unit carries, or would."""
        return self._level.data_variance

    @property
    def threshold_(self) -> Float:
        """Variance above which each unit is active."""
        return self._level.threshold

    @property
    def kl_(self) -> Float:
        """KL of each unit in nats."""
        return self._level.kl

    @property
    def posterior_std_(self) -> Float:
        """Std of the posterior of each unit."""
        return self._level.posterior_std

    @property
    def _prior_std(self) -> float:
        """That it was fitted with, whatever the parameter is set to since."""
        return self.forecast_.spec.eta_enc

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    @property
    def _level(self) -> Level:
        return self.forecast_.levels[0]

    @cached_property
    def _weights(self) -> tuple[Float, Float]:
        """Encoder and decoder, a row per unit, with signs that do not depend on the solver."""
        found = self.forecast_.parameters()
        encoder, decoder = found["W1"], found["U1"].T
        largest = np.abs(decoder).argmax(axis=1)[:, None]
        sign = np.where(np.take_along_axis(decoder, largest, axis=1) < 0, -1.0, 1.0)
        # Adding 0 makes the -0.0 of a dead unit the 0.0 that it reads as.
        return sign * encoder + 0.0, sign * decoder + 0.0

    def _most_units(self) -> int:
        rank = int(np.count_nonzero(Modes(self.moments_).theta))
        falls = self.eta_dec == "learned" and isinstance(self.sigma, str)
        unbounded = falls and self.beta * rank < self.moments_.features[1]
        return max(rank - unbounded, 1)

    def _take(self, moments: Moments) -> None:
        self.moments_ = moments
        for name in ("forecast_", "_weights"):
            self.__dict__.pop(name, None)

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self)
        refuse_masked("X", X)
        return validate_data(self, X, dtype=DTYPES, reset=False)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "moments_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _of_a_batch(X: Any) -> Moments:
    """Return moments that need not make sense alone: a last batch may be a single row."""
    features = X.shape[1]
    if features > MAX_FEATURES:
        raise DataError(
            "X", f"{features} features", f"at most {MAX_FEATURES} in batches", "Call fit instead."
        )
    joint = Accumulator.empty(features)
    joint.update(("X",), [X])
    return Moments.of_joint(joint, [features], center=True)
