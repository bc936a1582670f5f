"""Runs in one vmap against runs one by one, with and without the supplied shared products."""

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from families import FAMILIES, built
from posterior_collapse.models import build, loss
from posterior_collapse.specs import CVAESpec, VAESpec

F64 = torch.float64
N = 5
RUNS = {**FAMILIES, "linear": [CVAESpec(latent_dim=3, beta=b, eta_dec="learned") for b in (0.5, 2)]}


def runs(name, **more):
    return built(name, RUNS[name], N, **more)


def stacked(noises):
    return tuple(torch.stack(level) for level in zip(*noises, strict=True))


def shared_products(model, params, x, y):
    """What a vectorised trainer supplies: one product with the data for all runs."""
    data = {"x": x, "y": y}
    supplied = {}
    for name, key in model.data_layers.items():
        product = torch.einsum("nd,rhd->rnh", data[key], params[f"{name}.weight"])
        bias = params.get(f"{name}.bias")
        supplied[name] = product if bias is None else product + bias[:, None]
    return supplied


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("share", [False, True])
def test_stacked_runs_equal_single_runs(name, share):
    models, x, y, noises = runs(name)
    model = models[0]
    params, buffers = stack_module_state(models)
    betas = torch.tensor([spec.beta_levels for spec in RUNS[name]], dtype=F64)
    supplied = shared_products(model, params, x, y) if share else {}
    assert bool(supplied) == (share and name != "cnn")

    def one(params, buffers, supplied, noise, betas):
        terms = functional_call(model, (params, buffers), (x, y, noise, supplied))
        return loss(terms, betas), terms

    losses, terms = vmap(one)(params, buffers, supplied, stacked(noises), betas)
    gradients = torch.autograd.grad(losses.sum(), list(params.values()))
    for run, (single, noise) in enumerate(zip(models, noises, strict=True)):
        alone = single(x, y, noise)
        torch.testing.assert_close(terms.squared_error[run], alone.squared_error)
        for together, kl in zip(terms.kl, alone.kl, strict=True):
            torch.testing.assert_close(together[run], kl)
        value = loss(alone, single.spec.beta_levels)
        torch.testing.assert_close(losses[run], value)
        own = torch.autograd.grad(value, list(single.parameters()))
        for together, gradient in zip(gradients, own, strict=True):
            torch.testing.assert_close(together[run], gradient)


@pytest.mark.parametrize(
    ("name", "data_layers", "heads"),
    [
        (
            "cvae-relu",
            {
                "encoders.0.features.x.layers.0": "x",
                "encoders.0.features.y.layers.0": "y",
                "decoders.0.features.x.layers.0": "x",
            },
            {"decoders.0.heads.z", "decoders.0.heads.x"},
        ),
        (
            "linear",
            {"encoders.0.mean.x": "x", "encoders.0.mean.y": "y"},
            {"decoders.0.heads.z", "decoders.0.heads.x"},
        ),
        ("hvae-relu", {"encoders.0.features.x.layers.0": "x"}, set()),
        ("vae-relu", {"encoders.0.features.x.layers.0": "x"}, {"decoders.0.heads.z"}),
        ("cnn", {}, set()),
    ],
)
def test_what_can_be_shared_is_named(name, data_layers, heads):
    model = runs(name)[0][0]
    assert model.data_layers == data_layers
    assert set(model.heads) == heads


def test_supplied_outputs_replace_the_product_with_the_data():
    (model, _), x, y, (noise, _) = runs("cvae-relu")
    data_layers = {name: v[0] for name, v in shared_products(
        model, {k: p[None] for k, p in model.named_parameters()}, x, y
    ).items()}  # fmt: skip
    poisoned = torch.full_like(x, torch.nan)
    terms = model(poisoned, y, noise, data_layers)
    torch.testing.assert_close(terms.squared_error, model(x, y, noise).squared_error)


def test_dropout_comes_through_masks_alone():
    models, x, y, noises = runs("cvae-relu", input_dropout=0.5)
    model = models[0]
    assert model.data_layers == {"encoders.0.features.y.layers.0": "y"}
    assert list(model.masks) == ["input_mask"]
    masks = model.draw_masks(N, torch.Generator().manual_seed(3), F64)
    assert set(masks["input_mask"].unique().tolist()) == {0.0, 2.0}
    masked = model(x, y, noises[0], masks)
    torch.testing.assert_close(
        masked.squared_error, model(x * masks["input_mask"], y, noises[0]).squared_error
    )
    assert not torch.allclose(masked.kl[0], model(x, y, noises[0]).kl[0])
    model.train()
    assert torch.equal(model(x, y, noises[0]).kl[0], model.eval()(x, y, noises[0]).kl[0])


def test_hidden_dropout_masks_each_hidden_layer_and_vectorises():
    models, x, y, noises = runs("mlp", dropout=0.4)
    model = models[0]
    assert len(model.masks) == 6  # up and down, three levels
    masks = [m.draw_masks(N, torch.Generator().manual_seed(i), F64) for i, m in enumerate(models)]
    together = {name: torch.stack([m[name] for m in masks]) for name in model.masks}
    params, buffers = stack_module_state(models)
    terms = vmap(lambda p, b, e, s: functional_call(model, (p, b), (x, y, e, s)))(
        params, buffers, stacked(noises), together
    )
    for run in range(2):
        alone = models[run](x, y, noises[run], masks[run])
        torch.testing.assert_close(terms.kl[2][run], alone.kl[2])
        assert not torch.allclose(alone.kl[2], models[run](x, y, noises[run]).kl[2])


def test_masks_keep_the_mean():
    model = build(VAESpec(latent_dim=2), "mlp", x_dim=4, hidden=(500,), dropout=0.3)
    for mask in model.draw_masks(400, torch.Generator().manual_seed(0)).values():
        assert mask.mean().item() == pytest.approx(1, abs=0.01)
        assert (mask == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
