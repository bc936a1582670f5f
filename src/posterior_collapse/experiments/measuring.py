"""From a trained model to the numbers that tables hold and the arrays that figures need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posterior_collapse.arrays import Float
from posterior_collapse.data import Dataset
from posterior_collapse.diagnosis import diagnose, log_likelihood
from posterior_collapse.models import MarkovVAE, read_parameters
from posterior_collapse.moments import Moments
from posterior_collapse.records import plain
from posterior_collapse.runs import Evaluation
from posterior_collapse.specs import Spec
from posterior_collapse.theory import ExactObjective, Forecast
from posterior_collapse.training import seeds

DELTA = 0.05
"""Share of rows whose KL may exceed epsilon in a unit that counts as (epsilon, delta)-collapsed."""
ACTIVE_MODE = 1e-5
"""Nats of information from which a mode of an exactly trained linear model counts as active."""
SPECTRUM = 64
"""Eigenvalues kept of each forecast."""
Arrays = dict[str, NDArray[Any]]


def on_rows(
    model: MarkovVAE, spec: Spec, dataset: Dataset, evaluation: Evaluation, seed: int
) -> tuple[dict[str, Any], Arrays]:
    """Diagnose a model on rows of data; the spec's betas are as under the convention `elbo`.

    Returns:
        Numbers: those of `Diagnosis` that are one number, and per level those of `LevelDiagnosis`,
        `active_units` as a count; `nll` with its errors where asked for. Arrays: `epsilon` and
        per level `collapse_1`.
    """
    found = diagnose(model, _data(dataset, evaluation.rows), spec=spec, delta=DELTA, seed=seed)
    measured = _chosen(
        found, "loss", "loss_error", "reconstruction", "squared_error", "kl", "verdict",
        "conclusion", "signal", "signal_error",
    )  # fmt: skip
    of_units = ("kl", "information", "information_error", "mean_variance", "posterior_std")
    measured |= {"rows": found.n, "levels": [], "collapsed_loss": found.collapsed_loss}
    measured["gains"] = [gain.to_dict() for gain in found.gains]
    for level in found.levels:
        own = _chosen(level, *of_units, "status", "n_active", "directions", "kl_active_share")
        measured["levels"].append(own | {"active_units": int(level.active_units.sum())})
    curves = [level.collapse_curve for level in found.levels]
    arrays: Arrays = {"epsilon": curves[0].epsilon}
    arrays |= {f"collapse_{number}": curve.share for number, curve in enumerate(curves, start=1)}
    if evaluation.samples:
        measured |= _likelihood(model, dataset, evaluation, seed)
    return measured, arrays


def diverged(model: MarkovVAE) -> dict[str, Any]:
    """Return what is said of a model whose outputs are no numbers any more."""
    units = [{"status": ["diverged"] * n, "n_active": 0} for n in model.units]
    return {"loss": None, "conclusion": "diverged", "levels": units, "gains": []}


def _likelihood(
    model: MarkovVAE, dataset: Dataset, evaluation: Evaluation, seed: int
) -> dict[str, Any]:
    data = _data(dataset, evaluation.likelihood_rows)
    found = log_likelihood(model, data, samples=evaluation.samples, seed=seed, exact=False)
    sizes = found.effective_sample_size
    return {
        "nll": found.nll,
        "nll_error": found.nll_error,
        "nll_rows": len(found.per_row),
        "effective_sample_size": None if sizes is None else float(np.median(sizes)),
    }


def _data(dataset: Dataset, rows: int | None) -> Any:
    x, y = dataset.x[:rows], dataset.y
    return x if y is None else (x, y[:rows])


def panel(model: MarkovVAE, dataset: Dataset, rows: int, *, drawn: int | None) -> Arrays:
    """Return the first rows and their reconstructions: `original`, `through_1`, and so on.

    A conditional model's `given` is the condition.

    Args:
        model: On the CPU.
        dataset: The rows.
        rows: How many.
        drawn: Seed for `drawn`, one reconstruction through the top level with every latent drawn,
            on the way up and on the way down; None: none.
    """
    dtype = next(model.parameters()).dtype
    x = torch.tensor(dataset.x[:rows], dtype=dtype)
    y = None if dataset.y is None else torch.tensor(dataset.y[:rows], dtype=dtype)
    arrays = {"original": (x if y is None else y).numpy()}
    if model.conditional:
        arrays["given"] = x.numpy()
    with torch.no_grad():
        for level in range(1, len(model.units) + 1):
            arrays[f"through_{level}"] = model.reconstruct(x, y, through=level).numpy()
        if drawn is not None:
            generator = seeds.generator(drawn, seeds.MEASURE)
            drawn_too = model.reconstruct(x, y, through=len(model.units), generator=generator)
            arrays["drawn"] = drawn_too.numpy()
    return {name: values.astype(np.float16) for name, values in arrays.items()}


def exactly(
    model: MarkovVAE, spec: Spec, moments: Moments, forecast: Forecast | None
) -> tuple[dict[str, Any], Arrays]:
    """Measure a linear model on moments, the noise integrated out; beside the closed form.

    Returns:
        Numbers: `loss`, `reconstruction`, and per level `kl` (summed), `n_active`,
        `information`, singular values and stds; `distances` to the closed form. Arrays: the
        matrices `U1`, `V1` = W1 P Phi^(1/2) and so on.
    """
    found, objective = read_parameters(model), ExactObjective(moments, spec)
    terms = objective.terms(found)
    each = zip(terms.kl, objective.information(found), _spectra(found, objective), strict=True)
    levels = [
        {
            "kl": float(kl.sum()),
            "n_active": int((known > ACTIVE_MODE).sum()),
            "information": known.tolist(),
            **plain(values),
        }
        for kl, known, values in each
    ]
    loss, kl = objective.weighed(terms), [level["kl"] for level in levels]
    measured: dict[str, Any] = {
        "loss": loss,
        "reconstruction": loss - float(np.dot(spec.beta_levels, kl)),
        "squared_error": terms.squared_error,
        "kl": sum(kl),
        "levels": levels,
    }
    if forecast is not None:
        measured["distances"] = distances(model, objective, forecast)
    return measured, _matrices(found, moments)


def distances(model: MarkovVAE, objective: ExactObjective, expected: Forecast) -> dict[str, float]:
    """Return the mean absolute errors of a linear model's singular values and stds, by name.

    `V1` is `W1 P Phi^(1/2)` of arXiv:2306.05023 (of a conditional model, W2 on what x leaves of
    y), `U1` the decoder, `sigma_1` the posterior stds, each sorted; and so on per level.
    """
    errors: dict[str, float] = {}
    each = zip(expected.levels, _spectra(read_parameters(model), objective), strict=True)
    for number, (level, found) in enumerate(each, start=1):
        V, U, std = found.values()
        errors |= {
            f"V{number}": float(np.abs(V - level.encoder_singular_values).mean()),
            f"U{number}": float(np.abs(U - level.decoder_singular_values).mean()),
            f"sigma_{number}": float(np.abs(std - np.sort(level.posterior_std)).mean()),
        }
    return errors


def _spectra(found: Mapping[str, Float], objective: ExactObjective) -> list[dict[str, Float]]:
    """Return per level singular values and sorted stds, under the names that a forecast gives."""
    return [
        {
            "encoder_singular_values": encoder,
            "decoder_singular_values": decoder,
            "posterior_std": np.sort(found[f"sigma_{number}"]),
        }
        for number, (encoder, decoder) in enumerate(objective.singular_values(found), start=1)
    ]


def expected(forecast: Forecast | None, features: int) -> dict[str, Any] | None:
    """Return what theory says of the same numbers; None where there is no closed form.

    `features` are those of what is decoded.
    """
    if forecast is None:
        return None
    names = (
        "n_active", "status", "information", "encoder_singular_values", "decoder_singular_values",
        "posterior_std", "threshold", "critical_beta",
    )  # fmt: skip
    levels = [
        {**_chosen(level, *names), "unit_kl": level.kl.tolist(), "kl": float(level.kl.sum())}
        for level in forecast.levels
    ]
    kl = [level["kl"] for level in levels]
    return {
        "loss": forecast.loss,
        "reconstruction": forecast.loss - float(np.dot(forecast.spec.beta_levels, kl)),
        "kl": sum(kl),
        "nll": _nll(forecast, features),
        "spectrum": forecast.spectrum[:SPECTRUM].tolist(),
        "total_variance": forecast.total_variance,
        "notes": list(forecast.notes),
        "levels": levels,
    }


def _nll(forecast: Forecast, features: int) -> float:
    """Return -log p(y|x) per sample of the linear optimum, on the data of the forecast.

    y is Gaussian there; along the mode of unit i its variance by the model is
    `eta_dec^2 + |U_1i|^2 S_i`, S_i that of the unit under the prior of its level. The parameters
    have the units' order, singular values their own.
    """
    spec, found, noise = forecast.spec, forecast.parameters(), forecast.eta_dec**2
    prior = np.full(spec.dims[-1], spec.eta_enc**2)
    for level in range(len(spec.dims), 1, -1):  # from the top down to z1
        eta = spec.eta_levels[level - 1]
        own = noise if eta == "learned" else eta**2
        prior = own + np.square(found[f"U{level}"]) @ prior
    along = noise + np.square(found["U1"]).sum(0) * prior
    carried = forecast.levels[0].data_variance
    rest = (features - len(along)) * np.log(noise)
    rest += (forecast.total_variance - carried.sum()) / noise
    constant = features * np.log(2 * np.pi)
    return float(constant + rest + (np.log(along) + carried / along).sum()) / 2


def _matrices(found: Mapping[str, Float], moments: Moments) -> Arrays:
    """`U1` (features, units), `V1` = W1 P Phi^(1/2) (units, modes) of the strongest modes, stds."""
    if "U2" in found:
        return {}
    values, vectors = np.linalg.eigh(moments.xx)
    strongest = slice(None, -len(found["W1"]) - 1, -1)
    scaled = vectors[:, strongest] * np.sqrt(np.clip(values[strongest], 0, None))
    U = vectors[:, strongest].T @ found["U1"] if not moments.paired else found["U1"]
    return {"U1": U, "V1": found["W1"] @ scaled, "sigma_1": found["sigma_1"]}


def _chosen(result: Any, *names: str) -> dict[str, Any]:
    """Return some attributes of a result as plain values."""
    return {name: plain(getattr(result, name)) for name in names}
