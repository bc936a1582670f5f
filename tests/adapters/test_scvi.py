"""scvi-tools models, trained by their own trainer on counts, against their own loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse import CVAESpec, InvalidArgumentError, VAESpec
from posterior_collapse.adapters import from_scvi
from posterior_collapse.testing import check_latent_model

# It takes minutes to install, so that `make test-adapters` does without it.
scvi = pytest.importorskip("scvi", reason="scvi-tools is not installed: pip install scvi-tools")
anndata = pytest.importorskip("anndata")

# What its training loop says of itself, and of libraries of its own.
pytestmark = pytest.mark.filterwarnings("ignore")
N, GENES, K = 300, 30, 4
SLACK = 1e-4  # scvi adds 1e-8 to means and dispersions before it takes logarithms, in float32


def cells() -> Any:
    """Counts of two factors, of cells of unlike size, in two batches."""
    rng = np.random.default_rng(0)
    share = np.exp(rng.standard_normal((N, 2)) @ rng.standard_normal((2, GENES)))
    batch = np.arange(N) % 2
    share *= np.where(batch[:, None] == 1, np.exp(rng.standard_normal(GENES)), 1.0)
    share /= share.sum(1, keepdims=True)
    mean = rng.lognormal(5, 0.5, (N, 1)) * share
    counts = rng.poisson(mean * rng.gamma(3.0, 1 / 3, mean.shape)).astype(np.float32)
    obs = {
        "batch": np.array(["first", "second"], object)[batch],
        "donor": np.array(["a", "b", "c"], object)[np.arange(N) % 3],
        "kind": np.array(["u", "v"], object)[np.arange(N) // 150],
        "stress": rng.standard_normal(N),
        "size": counts.sum(1) / 100,
    }
    found = anndata.AnnData(counts, obs=obs)
    found.obs_names = found.obs_names.astype(object)
    found.var_names = found.var_names.astype(object)
    return found


def trained(
    kind: str = "SCVI",
    setup: dict[str, Any] | None = None,
    *,
    epochs: int = 3,
    plan: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    scvi.settings.seed = 0
    family = getattr(scvi.model, kind)
    adata = cells()
    family.setup_anndata(adata, **(setup or {}))
    model = family(adata, n_latent=K, n_hidden=16, **options)
    if epochs:
        model.train(
            max_epochs=epochs,
            accelerator="cpu",
            batch_size=50,
            enable_progress_bar=False,
            plan_kwargs={"n_epochs_kl_warmup": None} if plan is None else plan,
        )
    return model


COVARIATES = {
    "batch_key": "batch",
    "labels_key": "kind",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["stress"],
}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "nb": ("SCVI", {}, {"gene_likelihood": "nb"}),
    "zinb": ("SCVI", {"batch_key": "batch"}, {"gene_likelihood": "zinb"}),
    "poisson": ("SCVI", {"batch_key": "batch"}, {"gene_likelihood": "poisson"}),
    "normal": ("SCVI", {}, {"gene_likelihood": "normal"}),
    "covariates": (
        "SCVI",
        COVARIATES,
        {"gene_likelihood": "nb", "encode_covariates": True, "dispersion": "gene-batch"},
    ),
    "labels": ("SCVI", COVARIATES, {"gene_likelihood": "nb", "dispersion": "gene-label"}),
    "size factors": ("SCVI", {"size_factor_key": "size"}, {"gene_likelihood": "nb"}),
    "logistic": ("SCVI", {}, {"gene_likelihood": "nb", "latent_distribution": "ln"}),
    "inferred library": (
        "SCVI",
        {"batch_key": "batch"},
        {"gene_likelihood": "nb", "use_observed_lib_size": False, "dispersion": "gene-cell"},
    ),
    "linear": ("LinearSCVI", {}, {}),
}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    kind, setup, options = MODELS[request.param]
    return trained(kind, setup, **options)


def test_it_keeps_the_contract(model: Any) -> None:
    wrapped = from_scvi(model)
    check_latent_model(wrapped, *next(iter(wrapped.data(batch_size=50))))


def test_the_spec_is_the_loss_that_scvi_trains(model: Any) -> None:
    """By scvi's own loss function, at its own sample of z."""
    wrapped = from_scvi(model)
    module = model.module.eval()
    wrapped.spec = wrapped.spec.replace(beta=0.7)
    loader = model._make_data_loader(model.adata, batch_size=N)
    tensors = next(iter(loader))
    x, y = next(iter(wrapped.data(batch_size=N)))
    torch.testing.assert_close(y, tensors["X"])
    with torch.no_grad():
        inferred = module.inference(**module._get_inference_input(tensors))
        q = wrapped.posterior(1, x, y)
        z = q.mean + 0.3 * q.stddev
        if not module.use_observed_lib_size:
            inferred["library"] = inferred["ql"].loc  # as the condition holds it
        given = {**inferred, "z": module.z_encoder.z_transformation(z)}
        generated = module.generative(**module._get_generative_input(tensors, given))
        theirs = module.loss(tensors, inferred, generated, kl_weight=0.7)
        error = -wrapped.decode(z, x).log_prob(y).sum(1)
        kl = torch.distributions.kl_divergence(q, wrapped.prior(1)).sum(1)
    ours = float(
        (error + wrapped.spec.beta * kl).mean() + theirs.kl_local["kl_divergence_l"].mean()
    )
    assert ours == pytest.approx(float(theirs.loss), rel=SLACK)
    np.testing.assert_allclose(error, theirs.reconstruction_loss["reconstruction_loss"], rtol=SLACK)


def test_the_likelihood_is_the_models(model: Any) -> None:
    wrapped = from_scvi(model)
    expected = {
        "nb": "negative-binomial", "poisson": "poisson", "normal": "gaussian", "zinb": "other",
    }[model.module.gene_likelihood]  # fmt: skip
    eta_dec = "learned" if expected == "gaussian" else 1.0
    assert wrapped.spec == CVAESpec(K, eta_dec=eta_dec, sigma="input", likelihood=expected)
    assert not wrapped.spec_assumed
    found = pc.diagnose(wrapped, wrapped.data())
    assert (found.n, found.likelihood) == (N, expected)
    latents = np.concatenate([q.mean for q in _posteriors(wrapped)])
    np.testing.assert_allclose(found.levels[0].mean_variance, latents.var(0), rtol=1e-4)


def _posteriors(wrapped: Any) -> list[Any]:
    with torch.no_grad():
        return [wrapped.posterior(1, x, y) for x, y in wrapped.data(batch_size=70)]


def test_latents_are_those_that_scvi_returns() -> None:
    model = trained(gene_likelihood="nb")
    mean, variance = model.get_latent_representation(return_dist=True)
    wrapped = from_scvi(model)
    found = _posteriors(wrapped)
    np.testing.assert_allclose(np.concatenate([q.mean for q in found]), mean, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([q.variance for q in found]), variance, rtol=1e-4)
    some = wrapped.data(indices=model.train_indices)
    assert sum(len(x) for x, _ in some) == len(model.train_indices)
    other = cells()[:50].copy()
    _, y = next(iter(wrapped.data(other)))
    np.testing.assert_allclose(y, other.X)
    # What it trained with, which stays in training mode, is not what is diagnosed.
    assert not [note for note in pc.diagnose(wrapped, some).notes if "training mode" in note]


def test_the_condition_holds_what_the_decoder_is_told() -> None:
    model = trained("SCVI", COVARIATES, gene_likelihood="nb", dispersion="gene-label")
    x, y = next(iter(from_scvi(model).data(batch_size=N)))
    adata = model.adata
    names = [("batch", ["first", "second"]), ("kind", ["u", "v"]), ("donor", ["a", "b", "c"])]
    flags = [(adata.obs[key] == value).to_numpy() for key, values in names for value in values]
    library = np.log(adata.X.sum(1))
    expected = np.column_stack([library, *flags, adata.obs["stress"]]).astype(float)
    np.testing.assert_allclose(x, expected, rtol=1e-6)
    np.testing.assert_allclose(y, adata.X)


def test_library_sizes_and_batches_are_no_signal() -> None:
    """What the decoder is told explains all: a forecast of such cells finds nothing to encode."""
    model = trained("SCVI", {"batch_key": "batch"}, gene_likelihood="poisson")
    wrapped = from_scvi(model)
    # At beta 1 the counts' own noise is at the threshold: 300 cells have too much or too little.
    spec = wrapped.spec.replace(beta=3.0)
    rng = np.random.default_rng(1)
    share = rng.dirichlet(np.full(GENES, 5.0), 2)
    x = torch.cat([x for x, _ in wrapped.data()]).numpy()
    y = rng.poisson(np.exp(x[:, :1]) * (x[:, 1:] @ share)).astype(float)
    given = pc.forecast((x, y), spec)
    assert given.levels[0].n_active == 0
    alone = VAESpec(K, beta=3.0, sigma="input", likelihood="poisson")
    assert pc.forecast(y, alone).levels[0].n_active == 2


@pytest.mark.parametrize("steps", [False, True])
def test_an_unfinished_warm_up_is_warned_of(steps: bool, tmp_path: Path) -> None:
    """300 cells, 270 of them for training, are 6 batches of 50 an epoch."""
    plan = {"n_epochs_kl_warmup": None, "n_steps_kl_warmup": 60} if steps else {
        "n_epochs_kl_warmup": 10
    }  # fmt: skip
    model = trained(epochs=5, plan=plan, gene_likelihood="nb")
    used = 29 / 60 if steps else 0.4
    with pytest.warns(UserWarning, match=f"KL's weight was {used:.3g} where.*its way to 1") as seen:
        wrapped = from_scvi(model)
    assert wrapped.spec.beta == pytest.approx(used, rel=1e-6)
    assert wrapped.notes == [str(seen[-1].message)]
    model.save(str(tmp_path / "model"))
    loaded = scvi.model.SCVI.load(str(tmp_path / "model"), adata=model.adata, accelerator="cpu")
    with pytest.warns(UserWarning, match="KL's weight was"):
        again = from_scvi(loaded)
    assert again.spec.beta == pytest.approx(model.history["kl_weight"].iloc[-1, 0])


def test_a_finished_warm_up_is_not(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    plan = {"n_epochs_kl_warmup": 2, "max_kl_weight": 0.5}
    model = trained(epochs=8, plan=plan, gene_likelihood="nb")
    recwarn.clear()
    wrapped = from_scvi(model)
    assert (wrapped.spec.beta, wrapped.notes) == (0.5, [])
    model.save(str(tmp_path / "model"))
    loaded = scvi.model.SCVI.load(str(tmp_path / "model"), adata=model.adata, accelerator="cpu")
    recwarn.clear()
    assert from_scvi(loaded).spec.beta == 0.5
    assert not [one for one in recwarn if "KL's weight" in str(one.message)]


def test_a_model_that_was_not_trained_has_no_known_beta() -> None:
    wrapped = from_scvi(trained(epochs=0, gene_likelihood="nb"))
    assert wrapped.spec_assumed
    assert wrapped.spec.likelihood == "negative-binomial"
    given = from_scvi(trained(epochs=0, gene_likelihood="nb"), spec=VAESpec(K, beta=2.0))
    assert (given.spec.beta, given.spec.model, given.spec_assumed) == (2.0, "cvae", False)


def test_a_strong_weight_collapses_all() -> None:
    model = trained(
        epochs=60, plan={"n_epochs_kl_warmup": None, "max_kl_weight": 3000.0}, gene_likelihood="nb"
    )
    wrapped = from_scvi(model)
    found = pc.diagnose(wrapped, wrapped.data())
    assert wrapped.spec.beta == 3000
    assert found.n_active == 0
    assert pc.forecast(wrapped.data(), wrapped.spec).levels[0].n_active == 0


def test_other_models_are_refused() -> None:
    adata = cells()
    scvi.model.SCANVI.setup_anndata(adata, labels_key="kind", unlabeled_category="u")
    other = scvi.model.SCANVI(adata, n_latent=K)
    for one in (other, object()):
        with pytest.raises(InvalidArgumentError, match="expected an SCVI or LinearSCVI"):
            from_scvi(one)
    wrapped = from_scvi(trained(epochs=1, gene_likelihood="nb"))
    x, y = next(iter(wrapped.data(batch_size=10)))
    with pytest.raises(InvalidArgumentError, match="y: got nothing"):
        wrapped.posterior(1, x)
    with pytest.raises(InvalidArgumentError, match="x: got nothing"):
        wrapped.decode(torch.zeros(2, K))
    with pytest.raises(InvalidArgumentError, match="spec: got latent dims"):
        from_scvi(trained(epochs=0), spec=VAESpec(K + 1))
    assert math.isfinite(float(wrapped.decode(torch.zeros(10, K), x).log_prob(y).sum()))
