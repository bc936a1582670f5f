import json

import pytest
import torch

from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import ARCHITECTURES, Architecture, build, rebuild
from posterior_collapse.specs import ChainSpec, CVAESpec, HVAESpec, VAESpec

VAE = VAESpec(latent_dim=3)
CVAE = CVAESpec(latent_dim=3)
HVAE = HVAESpec(latent_dims=(3, 2))
CHAIN = ChainSpec(latent_dims=(3, 2, 2), betas=(1, 1, 1), eta_decs=(0.3, 0.4, 0.5))


@pytest.mark.parametrize(
    ("spec", "architecture", "options", "argument"),
    [
        (VAE, "mpl", {"x_dim": 4}, "architecture"),
        (VAE, "hvae-relu", {"x_dim": 4}, "architecture"),
        (CHAIN, "hvae-relu", {"x_dim": 4}, "architecture"),
        (VAE, "mlp", {"x_dim": 4, "widths": (3,)}, "widths"),
        (VAE, "linear", {"x_dim": 4, "hidden": (3,)}, "hidden"),
        (VAE, "mlp", {"x_dim": 4, "hidden": ()}, "hidden"),
        (VAE, "mlp", {"x_dim": 4, "hidden": (0,)}, "hidden of layer 1"),
        (VAE, "mlp", {"x_dim": 4, "activation": "rleu"}, "activation"),
        (VAE, "mlp", {"x_dim": 4, "std_head": "abs"}, "std_head"),
        (VAE, "mlp", {"x_dim": 4, "dropout": 1.0}, "dropout"),
        (VAE, "linear", {"x_dim": 4, "initial_std": 0.0}, "initial_std"),
        (VAE, "linear", {"x_dim": 4, "initial_sigma": -1.0}, "initial_sigma"),
        (VAE, "linear", {"x_dim": 4, "initial_eta_dec": "learned"}, "initial_eta_dec"),
        (VAE, "mlp", {}, "x_dim"),
        (CVAE, "mlp", {"x_dim": 4}, "y_dim"),
        (VAE, "cnn", {"x_dim": 64}, "image_shape"),
        (VAE, "cnn", {"image_shape": (64,)}, "y_image"),
        (VAE, "cnn", {"image_shape": (28, 28, 1)}, "y_image"),
        (VAE, "cnn", {"image_shape": (9, 8, 3)}, "y_image"),
        (VAE, "cnn", {"image_shape": (8, 8), "x_dim": 63}, "x_dim"),
        (CVAE, "cvae-cnn", {"x_dim": 784}, "x_dim"),
        (VAE, Architecture.named("mlp"), {"x_dim": 4, "hidden": (3,)}, "options"),
    ],
)
def test_misfits_are_refused(spec, architecture, options, argument):
    with pytest.raises(InvalidArgumentError) as caught:
        build(spec, architecture, **options)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("name", "options", "argument"),
    [
        ("perceptron", {}, "architecture"),
        ("hvae-cnn", {"hidden": (64,)}, "channels"),
        ("hvae-cnn", {"hidden": (64,), "channels": (64, 32)}, "latent"),
        ("mlp", {}, "hidden"),
        ("linear", {"activation": "identity", "hidden": (4,)}, "hidden"),
    ],
)
def test_an_architecture_that_is_not_what_it_is_called_is_refused(name, options, argument):
    with pytest.raises(InvalidArgumentError) as caught:
        Architecture(name, **options)
    assert caught.value.argument == argument


def shapes_for(name, spec):
    if name == "cnn":
        return {"image_shape": (5, 6)}
    if name in ("cvae-cnn", "hvae-cnn"):
        return {}
    return {"x_dim": 7, "y_dim": 5} if spec.model == "cvae" else {"x_dim": 7}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_rebuilt_from_json_and_its_state(name):
    for spec in (VAE, CVAE, HVAE, CHAIN):
        if spec.model not in ARCHITECTURES[name].models:
            continue
        generator = torch.Generator().manual_seed(5)
        model = build(spec, name, generator=generator, **shapes_for(name, spec))
        again = rebuild(json.loads(json.dumps(model.config)))
        again.load_state_dict(model.state_dict())
        assert again.config == model.config
        x = torch.rand(2, model.shapes.x_dim)
        y = torch.rand(2, model.shapes.y_dim) if model.conditional else None
        torch.testing.assert_close(again.reconstruct(x, y), model.reconstruct(x, y), rtol=0, atol=0)


def test_rebuild_keeps_options_and_dtype():
    options = {"hidden": (9, 4), "activation": "gelu", "dropout": 0.2, "output": "sigmoid"}
    model = build(VAE, "mlp", x_dim=6, dtype=torch.float64, **options)
    again = rebuild(json.loads(json.dumps(model.config)))
    assert again.architecture == model.architecture
    assert again.eta_enc.dtype == torch.float64
    assert next(again.parameters()).dtype == torch.float64


@pytest.mark.parametrize("key", ["spec", "architecture", "shapes", "dtype"])
def test_rebuild_refuses_a_config_with_a_hole(key):
    config = build(VAE, "mlp", x_dim=6).config
    del config[key]
    with pytest.raises(InvalidArgumentError, match=key):
        rebuild(config)
    with pytest.raises(InvalidArgumentError, match="dtype"):
        rebuild({**build(VAE, "mlp", x_dim=6).config, "dtype": "float31"})


def test_initialisation_depends_on_its_generator_alone():
    before = torch.random.get_rng_state()
    a, b, c = (
        build(VAE, "mlp", x_dim=20, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    states = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, b, c)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_default_initialisation_is_torchs():
    model = build(VAE, "mlp", x_dim=400, hidden=(300,))
    layer = model.encoders[0].features["x"].layers[0]
    bound = 400**-0.5
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= bound
        assert values.abs().max() > 0.95 * bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    transposed = build(VAE, "cnn", image_shape=(8, 8)).decoders[0].heads["z"].layers[0]
    bound = (transposed.out_channels * 9) ** -0.5
    assert 0.95 * bound < transposed.weight.abs().max() <= bound


def test_normal_initialisation_and_starting_stds():
    spec = HVAESpec(latent_dims=(40, 50), sigma_1="shared", eta_dec="learned")
    model = build(
        spec, "linear", x_dim=400, initial_std=0.1, initial_sigma=0.3, initial_eta_dec=0.7
    )
    weight = model.encoders[0].mean["x"].weight
    assert weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert torch.equal(model.encoders[0].mean["x"].bias, torch.zeros(40))
    torch.testing.assert_close(model.encoders[0].std(), torch.tensor(0.3))
    torch.testing.assert_close(model.encoders[1].std(), torch.full((50,), 0.3))
    torch.testing.assert_close(model.eta_dec(), torch.tensor(0.7))
    uniform = build(spec, "linear", x_dim=4, initial_sigma="uniform").encoders[1].std()
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert uniform.std() > 0.2


def test_fixed_numbers_are_buffers_of_full_precision():
    model = build(CHAIN.replace(sigmas=[0.1, 0.2, 0.7]), "linear", x_dim=4, dtype=torch.float64)
    assert model.eta_dec.value.tolist() == [0.3, 0.4, 0.5]
    assert model.encoders[1].std.value.tolist() == [0.2, 0.2]
    assert set(dict(model.named_buffers())) == {
        "eta_enc",
        "eta_dec.value",
        "encoders.0.std.value",
        "encoders.1.std.value",
        "encoders.2.std.value",
    }


def test_runs_that_differ_in_numbers_have_the_same_state_names():
    specs = [VAE.replace(sigma=0.5), VAE.replace(sigma=[0.1, 0.2, 0.3], eta_enc=2.0, eta_dec=0.3)]
    states = [build(spec, "mlp", x_dim=4).state_dict() for spec in specs]
    assert [(k, v.shape) for k, v in states[0].items()] == [
        (k, v.shape) for k, v in states[1].items()
    ]
