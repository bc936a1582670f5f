"""`from_callable`: functions of any kind as a `LatentModel`."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.utils.data import DataLoader

from posterior_collapse import CVAESpec, HVAESpec, InvalidArgumentError, VAESpec, diagnose
from posterior_collapse.adapters import WrappedModel, from_callable
from posterior_collapse.adapters.outputs import posterior_of
from posterior_collapse.models.modules import evaluating

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LOG_VAR = torch.tensor([0.2, -1.0, -3.0])


def mean_of(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0], x.sum(1), torch.zeros(len(x))], 1)


def encode(x: Tensor) -> tuple[Tensor, Tensor]:
    return mean_of(x), LOG_VAR.expand(len(x), 3)


def decode(z: Tensor) -> Tensor:
    return torch.cat([z, z[:, :1] - 1], 1)


@pytest.mark.parametrize(
    ("function", "log_var"),
    [
        (encode, True),
        (lambda x: list(encode(x)), True),
        (lambda x: (mean_of(x), (0.5 * LOG_VAR).exp().expand(len(x), 3)), False),
        (lambda x: Normal(mean_of(x), (0.5 * LOG_VAR).exp()), True),
        (lambda x: Independent(Normal(mean_of(x), (0.5 * LOG_VAR).exp()), 1), True),
    ],
)
def test_every_way_to_give_a_posterior(function: Any, log_var: bool) -> None:
    q = from_callable(function, latent_dim=3, log_var=log_var).posterior(1, ROWS)
    torch.testing.assert_close(q.mean, mean_of(ROWS))
    torch.testing.assert_close(q.variance, LOG_VAR.exp().expand(6, 3))


def test_decoder_mean_and_std_of_the_spec() -> None:
    spec = VAESpec(latent_dim=3, eta_dec=0.3, eta_enc=2.0)
    model = from_callable(encode, decode, latent_dim=3, spec=spec)
    z = ROWS[:, :3]
    p = model.decode(z)
    torch.testing.assert_close(p.mean, decode(z))
    torch.testing.assert_close(p.stddev, torch.full((6, 4), 0.3))
    torch.testing.assert_close(model.prior(1).stddev, torch.full((3,), 2.0))
    assert not model.spec_assumed


def test_a_decoder_with_a_std_of_its_own() -> None:
    spec = VAESpec(latent_dim=3, eta_dec="learned")
    model = from_callable(encode, lambda z: Normal(decode(z), 0.7), latent_dim=3, spec=spec)
    torch.testing.assert_close(model.decode(ROWS[:, :3]).stddev, torch.full((6, 4), 0.7))
    with pytest.raises(InvalidArgumentError, match=r"Return Normal\(mean, std\)"):
        from_callable(encode, decode, latent_dim=3, spec=spec).decode(ROWS[:, :3])


def test_samples_in_front_of_the_batch() -> None:
    model = from_callable(encode, decode, latent_dim=3)
    z = torch.stack([ROWS[:, :3], ROWS[:, 1:]])
    torch.testing.assert_close(model.decode(z).mean[1], decode(ROWS[:, 1:]))
    assert model.posterior(1, ROWS.expand(5, 6, 4)).mean.shape == (5, 6, 3)


def test_images_come_as_rows_or_as_images() -> None:
    seen = []

    def encode_image(x: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(x.shape))
        return encode(x.flatten(1))

    def decode_image(z: Tensor) -> Tensor:
        return decode(z).reshape(-1, 1, 2, 2)

    model = from_callable(encode_image, decode_image, latent_dim=3, shape=(1, 2, 2))
    by_row = model.posterior(1, ROWS).mean
    by_image = model.posterior(1, ROWS.reshape(6, 1, 2, 2)).mean
    assert seen == [(6, 1, 2, 2)] * 2
    torch.testing.assert_close(by_row, by_image)
    torch.testing.assert_close(model.decode(by_row).mean, decode(by_row))
    with pytest.raises(InvalidArgumentError, match="shape="):
        model.posterior(1, torch.zeros(6, 9))


def test_conditional_models_get_condition_and_target() -> None:
    model = from_callable(
        lambda x, y: encode(torch.cat([x, y], 1)),
        lambda z, x: z[:, :2] + x,
        latent_dim=3,
        spec=CVAESpec(latent_dim=3),
    )
    x, y = ROWS[:, :2], ROWS[:, 2:]
    z = torch.stack([mean_of(ROWS), ROWS[:, :3]])
    torch.testing.assert_close(model.posterior(1, x, y).mean, mean_of(ROWS))
    torch.testing.assert_close(model.decode(z, x).mean, z[:, :, :2] + x)
    for missing in (lambda: model.posterior(1, x), lambda: model.decode(z)):
        with pytest.raises(InvalidArgumentError, match="nothing"):
            missing()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.BatchNorm1d(6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.layer(x).chunk(2, 1)

    encode = forward


class Holder:
    def __init__(self, net: Net) -> None:
        self.net = net

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.net(x)

    encode = __call__


def call(net: Net, x: Tensor) -> tuple[Tensor, ...]:
    return net(x)


GLOBAL = Net()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        lambda net: net.encode,
        lambda net: lambda x: net(1 * x),
        lambda net: functools.partial(call, net),
        Holder,
        lambda net: Holder(net).encode,
    ],
    ids=["module", "method", "closure", "partial", "object", "method of an object"],
)
def test_modules_are_found_wherever_they_hide(wrap: Any) -> None:
    net = Net()
    net.layer[1].eval()  # a mode of its own, to be kept
    before = [part.training for part in net.modules()]
    model = from_callable(wrap(net), latent_dim=3)
    assert list(model.wrapped) == [net]
    with evaluating(model) as seen:
        first, second = (model.posterior(1, ROWS).mean for _ in range(2))
    assert seen.training
    assert torch.equal(first, second)
    assert [part.training for part in net.modules()] == before


def test_global_modules_are_found_and_each_once() -> None:
    model = from_callable(lambda x: GLOBAL(1 * x), lambda z: GLOBAL.layer[0](1 * z), latent_dim=3)
    assert list(model.wrapped) == [GLOBAL]


def test_data_are_moved_to_the_model() -> None:
    net = Net().eval()
    model = from_callable(net, nn.Linear(3, 4), latent_dim=3)
    assert model.posterior(1, ROWS.double()).mean.dtype is torch.float32
    assert model.decode(ROWS[:, :3].double()).mean.dtype is torch.float32
    assert model.prior(1).mean.dtype is torch.float32
    layer = nn.Linear(4, 6, device="meta")
    elsewhere = from_callable(lambda x: layer(x).chunk(2, 1), latent_dim=3)
    assert elsewhere.posterior(1, ROWS).mean.device.type == "meta"
    assert elsewhere.prior(1).mean.device.type == "meta"


def test_an_unknown_objective_is_called_assumed() -> None:
    model = from_callable(encode, latent_dim=3)
    assert model.spec_assumed
    assert not model.decodes
    with pytest.raises(InvalidArgumentError, match="decode: got nothing"):
        model.decode(ROWS[:, :3])


def test_log_variances_in_place_of_a_std_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="pass log_var=True"):
        from_callable(encode, latent_dim=3, log_var=False).posterior(1, ROWS)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (mean_of, "a Tensor; expected two.*chunk"),
        (lambda x: dict(zip("mv", encode(x), strict=True)), "a dict; .* two of its m, v"),
        (lambda x: (*encode(x), 1), "3 things; expected two"),
        (lambda x: (mean_of(x), LOG_VAR), "one shape"),
        (lambda x: (x, x), "latent_dim=3"),
        (lambda x: [encode(x), encode(x)], "a tuple and a tuple; .*torch.cat"),
        (lambda x: tuple(v[:2] for v in encode(x)), "6 rows"),
    ],
)
def test_what_is_no_posterior(output: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        from_callable(output, latent_dim=3).posterior(1, ROWS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encode": 3}, "encode: got int"),
        ({"decode": "no"}, "decode: got str"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"spec": VAESpec(latent_dim=4)}, r"latent dims \(4,\)"),
        ({"spec": HVAESpec(latent_dims=(3, 3), betas=(1.0, 1.0))}, "Derive a class"),
        ({"shape": (3, 0)}, "shape: got 0"),
        ({"shape": ()}, r"shape: got \(\)"),
        ({"shape": 4}, "shape: got 4; expected a sequence"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        WrappedModel(**{"encode": encode, "latent_dim": 3, **arguments})


def test_decoder_of_another_batch_and_other_levels() -> None:
    model = from_callable(encode, lambda z: decode(z)[:2], latent_dim=3)
    with pytest.raises(InvalidArgumentError, match="one row per latent"):
        model.decode(ROWS[:, :3])
    for call_level in (lambda: model.posterior(2, ROWS), lambda: model.prior(2)):
        with pytest.raises(InvalidArgumentError, match="one latent level"):
            call_level()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: (decode(z), z), "decode: got a tuple of 2; expected one tensor"),
        (lambda z: [decode(z)], "decode: got a list of 1"),
        (lambda z: (decode(z), None), "decode: got a tuple of 2"),
        (lambda z: {"recon": decode(z)}, "decode: got a dict"),
        (lambda z: None, "decode: got a NoneType"),
    ],
)
def test_what_is_no_output_of_a_decoder(function: Any, message: str) -> None:
    model = from_callable(encode, function, latent_dim=3, spec=VAESpec(latent_dim=3))
    for batch_size in (1, 1000):  # a part of the rows is not what is wrong
        with pytest.raises(InvalidArgumentError, match=message):
            diagnose(model, ROWS, batch_size=batch_size)


def test_a_sample_in_front_of_the_posterior_is_not_taken_for_its_mean() -> None:
    rows = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(500, 3, generator=torch.Generator().manual_seed(2))
    mean, log_var = encode(rows)
    z = mean + (log_var / 2).exp() * noise
    std = (log_var / 2).exp()
    for sample in (z, mean):  # in evaluation many draw none
        for spread, logged in ((log_var, True), (std, False)):
            with pytest.raises(InvalidArgumentError, match="of which the first is a sample"):
                posterior_of((sample, mean, spread), log_var=logged)
            assert posterior_of((mean, spread, sample), log_var=logged).mean is mean
    zero = torch.zeros(500, 3)  # an encoder that starts at the prior
    assert posterior_of((zero, zero, noise), log_var=True).mean is zero


@pytest.mark.parametrize("latent", [(2, 2, 2), (4, 2), 8])
def test_latents_that_are_images_or_sequences(latent: Any) -> None:
    """Encoders give and decoders take them in their own shape."""
    shape = (2, 2, 2) if latent == 8 else latent
    seen = []

    def encode_image(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.cat([x, x], 1).reshape(-1, *shape)
        return mean, torch.zeros_like(mean)

    def decode_image(z: Tensor) -> Tensor:
        seen.append(tuple(z.shape[1:]))
        return z.flatten(1)[:, :4]

    spec = VAESpec(latent_dim=8)
    model = from_callable(encode_image, decode_image, latent_dim=latent, spec=spec)
    found = diagnose(model, ROWS)
    assert set(seen) == {shape}
    assert found.levels[0].kl.shape == (8,)
    channels = model.per_channel(found.levels[0].kl)
    assert channels.shape == (2,)
    assert channels.sum() == pytest.approx(found.kl)
    grid = found.levels[0].kl.reshape(shape)
    expected = grid.sum(0) if len(shape) == 2 else grid.sum((1, 2))
    assert channels == pytest.approx(expected)
    assert from_callable(encode, latent_dim=3).per_channel(channels) is channels


def test_a_posterior_with_its_sample_or_of_many_units_at_once() -> None:
    def sampled(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return *encode(x), mean_of(x)

    def joint(x: Tensor) -> MultivariateNormal:
        return MultivariateNormal(mean_of(x), torch.diag(LOG_VAR.exp()))

    for function in (sampled, joint):
        q = from_callable(function, latent_dim=3).posterior(1, ROWS)
        torch.testing.assert_close(q.mean, mean_of(ROWS))
        torch.testing.assert_close(q.variance, LOG_VAR.exp().expand(6, 3))
    tied = torch.eye(3) + 0.1
    with pytest.raises(InvalidArgumentError, match="units depend on each other"):
        from_callable(lambda x: MultivariateNormal(mean_of(x), tied), latent_dim=3).posterior(
            1, ROWS
        )


def test_a_model_that_sees_all_rows_at_once() -> None:
    """Batches of 1,000 broke a graph's adjacency with an error of torch's."""
    nodes = torch.randn(2500, 4, generator=torch.Generator().manual_seed(0))
    adjacency = torch.eye(2500)
    model = from_callable(
        lambda x: encode(adjacency @ x), decode, latent_dim=3, spec=VAESpec(latent_dim=3)
    )
    with pytest.raises(InvalidArgumentError, match="Pass batch_size=2500 for a model that sees"):
        diagnose(model, nodes)
    found = diagnose(model, nodes, batch_size=2500)
    assert found.n == 2500
    assert found.loss is not None
    assert any("it takes no part of the rows" in note for note in found.notes)


def test_effects_can_be_left_out() -> None:
    calls = []

    def counted(z: Tensor) -> Tensor:
        calls.append(len(z))
        return decode(z)

    model = from_callable(encode, counted, latent_dim=3, spec=VAESpec(latent_dim=3))
    whole = diagnose(model, ROWS)
    many = len(calls)
    calls.clear()
    none = diagnose(model, ROWS, effects=0)
    assert len(calls) < many
    assert not none.levels[0].decoder_effect_error[0] >= 0
    assert (whole.levels[0].decoder_effect >= 0).all()
    assert none.loss == pytest.approx(whole.loss)
    with pytest.raises(InvalidArgumentError, match="effects: got -1"):
        diagnose(model, ROWS, effects=-1)


def test_one_flat_row_of_a_shape_with_a_single_side() -> None:
    """A batch of one row (1, 6) of samples (1, 6): it looks like a sample, and is a row."""
    model = from_callable(
        lambda x: (x.flatten(1)[:, :2], x.flatten(1)[:, :2]), latent_dim=2, shape=(1, 6)
    )
    x = torch.arange(6.0)[None]
    assert model.posterior(1, x).mean.shape == (1, 2)
    assert model.posterior(1, x[None]).mean.shape == (1, 2)
    assert model.posterior(1, x.expand(3, 6)).mean.shape == (3, 2)


def test_tokens_reach_an_embedding_as_whole_numbers() -> None:
    tokens = torch.randint(50, (40, 12), generator=torch.Generator().manual_seed(0))
    embedding = nn.Embedding(50, 4)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = embedding(x).mean(1)
        return mean[:, :2], mean[:, 2:]

    found = diagnose(from_callable(encode, latent_dim=2, tokens=True), tokens)
    mean, log_var = encode(tokens)
    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).mean(0)
    assert found.levels[0].kl.tolist() == pytest.approx(kl.tolist(), rel=1e-5)


IMAGES = torch.rand(1200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CONVOLVED = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.Flatten(), nn.Linear(32, 4))


@pytest.mark.parametrize(
    ("data", "argument", "action"),
    [
        (IMAGES, "shape", "If it takes images, pass shape=(1, 8, 8) to from_callable."),
        (IMAGES[:, 0], "shape", "If it takes images, pass shape=(1, 8, 8) to from_callable."),
        (
            DataLoader(IMAGES, 100),
            "shape",
            "If it takes images, pass shape=(1, 8, 8) to from_callable.",
        ),
        (IMAGES.flatten(1), "batch_size", "If it takes images, pass shape= to from_callable."),
        (IMAGES[:9].flatten(1), "model", "If it takes images, pass shape= to from_callable."),
    ],
)
def test_a_model_of_images_that_is_given_rows_is_told_its_shape(data, argument, action) -> None:
    def make(**shape: Any) -> WrappedModel:
        return from_callable(lambda x: CONVOLVED(x).chunk(2, -1), latent_dim=2, **shape)

    with pytest.raises(InvalidArgumentError, match=r"Expected 3D .* or 4D") as failed:
        diagnose(make(), data)
    assert failed.value.argument == argument
    assert failed.value.action.endswith(action)
    assert len(diagnose(make(shape=(1, 8, 8)), data).levels[0].kl) == 2


def test_a_condition_and_a_target_that_are_swapped_are_told_apart() -> None:
    layer = nn.Linear(6, 4)
    model = from_callable(
        lambda x, y: layer(torch.cat([x, y], 1)).chunk(2, -1),
        lambda z, x: torch.cat([z[:, :1] + x[:, :1], x], 1)[:, :4] @ torch.ones(3, 4),
        latent_dim=2,
        spec=CVAESpec(2, sigma="input"),
    )
    assert diagnose(model, (ROWS[:, :2], ROWS)).loss is not None
    with pytest.raises(InvalidArgumentError, match="x is the condition and y what is decoded"):
        diagnose(model, (ROWS, ROWS[:, :2]))


@pytest.mark.parametrize("log_var", [True, False])
def test_an_encoder_that_draws_is_told_unless_it_draws_a_sample_beside(log_var: bool) -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 6)

    def posterior(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = net(x).chunk(2, -1)
        return mean, spread if log_var else spread.exp()

    def sampled(x: Tensor) -> tuple[Tensor, ...]:
        mean, spread = posterior(x)
        return mean, spread, torch.normal(mean, (spread / 2).exp() if log_var else spread)

    def dropped(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = posterior(x)
        return nn.functional.dropout(mean), spread  # as if it were always training

    for function, draws in ((posterior, False), (sampled, False), (dropped, True)):
        model = from_callable(function, latent_dim=3, log_var=log_var)
        found = diagnose(model, torch.randn(100, 4, generator=torch.Generator().manual_seed(0)))
        assert any("another posterior at each call" in note for note in found.notes) == draws


def test_a_prior_of_independent_units_written_as_one_of_many() -> None:
    mean, std = torch.tensor([0.3, 0.0, -1.0]), torch.tensor([0.7, 1.0, 2.0])
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    many = MultivariateNormal(mean, torch.diag(std.square()))
    found = diagnose(from_callable(encode, latent_dim=3, prior=many), rows)
    q = Normal(mean_of(rows), (0.5 * LOG_VAR).exp())
    expected = torch.distributions.kl_divergence(q, Normal(mean, std)).mean(0)
    torch.testing.assert_close(torch.tensor(found.levels[0].kl), expected.double())
