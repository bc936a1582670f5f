"""`diagnose` through `from_callable`: units planted dead and live are found to be so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import posterior_collapse as pc
from posterior_collapse.adapters import from_callable

LIVE = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
STATUS = ("active", "collapsed", "active", "collapsed", "active")
ROWS = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))


class Planted(nn.Module):
    """Dead units return the prior; the decoder ignores the last unit, although it is live."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(6, 5, generator=generator))
        self.drop = nn.Dropout(0.5)
        self.decoder = nn.Linear(5, 6)
        with torch.no_grad():
            self.decoder.weight[:, 4] = 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.drop(x) @ self.weight
        return LIVE * mean, LIVE * torch.full_like(mean, -2.0)


@pytest.mark.parametrize("failure", [IndexError, AssertionError, ValueError])
@pytest.mark.parametrize("rows", [60, 2500])
def test_a_model_that_needs_all_rows_may_say_so_by_any_error(
    failure: type[Exception], rows: int
) -> None:
    """That of an edge out of range is no RuntimeError, and ended a diagnosis that was done."""
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))

    def encode(some: Tensor) -> tuple[Tensor, Tensor]:
        if len(some) != rows:
            raise failure("index 59 is out of bounds")
        return some, torch.full_like(some, -1.0)

    found = pc.diagnose(from_callable(encode, lambda z: z, latent_dim=3), x, batch_size=rows)
    assert found.n_active == 3
    assert found.squared_error is not None
    assert found._shown is None
    with pytest.raises(pc.InvalidArgumentError, match=f"batch_size={rows}"):
        pc.diagnose(from_callable(encode, lambda z: z, latent_dim=3), x, batch_size=50)


@pytest.mark.parametrize("kind", ["loader", "pair", "sparse"])
def test_rows_at_which_a_model_fails_are_counted_as_rows(kind: str) -> None:
    """Of a loader its batches were: "10 of 100 rows: pass batch_size=100", of 200 rows.

    A sparse matrix, which has no len(), ended in scipy's own error.
    """

    def fails(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("all nodes are needed")

    x = torch.ones(200, 3)
    data: Any = {"loader": DataLoader(TensorDataset(x), batch_size=2), "pair": (x, x)}.get(kind)
    if kind == "sparse":
        data = sparse.csr_matrix(x.numpy())
    spec = pc.CVAESpec(2) if kind == "pair" else pc.VAESpec(2)
    model = from_callable(fails, lambda z, *given: z, latent_dim=2, spec=spec)
    said = r"got 10 of 200 rows, .* batch_size=200 " if kind != "sparse" else "nodes are needed"
    with pytest.raises(pc.InvalidArgumentError, match=said):
        pc.diagnose(model, data, batch_size=10)


def test_a_class_that_is_ruled_out_costs_nothing_where_it_is_not_there() -> None:
    """As masked logits have it; 0 times minus infinity made it NaN."""
    x = nn.functional.one_hot(torch.arange(12) % 3, 4).float()  # never the last
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for classes in (3, 4):

        def decode(z: Tensor, classes: int = classes) -> Tensor:
            return nn.functional.pad(z @ weight, (0, classes - 3), value=-torch.inf)

        spec = pc.VAESpec(2, sigma="input", likelihood="categorical")
        model = from_callable(
            lambda x: (x[:, :2], torch.zeros(len(x), 2)), decode, latent_dim=2, spec=spec
        )
        found.append(pc.log_likelihood(model, x[:, :classes], samples=200).nll)
    assert found[1] == pytest.approx(found[0])


def expected_kl() -> Tensor:
    mean = ROWS @ Planted().weight.detach()
    return LIVE * 0.5 * (mean.square() + np.exp(-2) - 1 + 2).mean(0)


def test_encoder_alone() -> None:
    found = pc.diagnose(from_callable(Planted().encode, latent_dim=5), ROWS)
    (level,) = found.levels
    assert level.status == STATUS
    np.testing.assert_allclose(level.kl, expected_kl(), rtol=1e-5)
    assert found.loss is None
    assert found.spec is None
    assert np.isnan(level.decoder_effect).all()


def test_with_decoder_and_spec() -> None:
    model = Planted()
    spec = pc.VAESpec(latent_dim=5, beta=0.5, eta_dec=0.7, sigma="input")
    wrapped = from_callable(model.encode, model.decoder, latent_dim=5, spec=spec)
    found = pc.diagnose(wrapped, ROWS, importance_samples=20)
    (level,) = found.levels
    assert level.status == STATUS
    used = level.decoder_effect > 0
    assert used.tolist() == [True, True, True, True, False]
    assert found.spec == spec
    kl = float(expected_kl().sum())
    assert found.loss == pytest.approx(found.reconstruction + 0.5 * kl, rel=1e-5)
    assert found.nll is not None


def test_training_mode_is_noted_and_given_back() -> None:
    model = Planted()
    found = pc.diagnose(from_callable(model.encode, model.decoder, latent_dim=5), ROWS)
    assert any("training mode" in note for note in found.notes)
    assert model.training
    assert model.drop.training
    model.eval()
    found = pc.diagnose(from_callable(model.encode, model.decoder, latent_dim=5), ROWS)
    assert not any("training mode" in note for note in found.notes)


def test_conditional() -> None:
    model = Planted().eval()
    x, y = ROWS[:, :2], ROWS[:, 2:]
    wrapped = from_callable(
        lambda x, y: model.encode(torch.cat([x, y], 1)),
        lambda z, x: model.decoder(z)[:, 2:],
        latent_dim=5,
        spec=pc.CVAESpec(latent_dim=5, sigma="input"),
    )
    assert pc.diagnose(wrapped, (x, y)).levels[0].status == STATUS


@pytest.mark.parametrize("mistake", [lambda v: v.exp(), lambda v: (0.5 * v).exp()])
def test_a_variance_in_place_of_its_log_is_suspected(mistake: Any) -> None:
    model = Planted().eval()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = model.encode(x)
        return mean, mistake(log_var)

    found = pc.diagnose(from_callable(encode, latent_dim=5), ROWS)
    assert found.advice[0].code == "variance-for-log-variance"


def test_images_in_a_loader_of_single_rows() -> None:
    model = Planted().eval()
    images = torch.utils.data.TensorDataset(ROWS.reshape(400, 1, 2, 3))
    wrapped = from_callable(
        lambda x: model.encode(x.flatten(1)),
        lambda z: model.decoder(z).reshape(-1, 1, 2, 3),
        latent_dim=5,
        shape=(1, 2, 3),
    )
    found = pc.diagnose(wrapped, torch.utils.data.DataLoader(images, batch_size=1))
    assert found.levels[0].status == STATUS
    np.testing.assert_allclose(found.levels[0].kl, expected_kl(), rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "negative-binomial", "gaussian"])
@pytest.mark.parametrize("kind", ["Normal", "Poisson", "ContinuousBernoulli", "StudentT"])
def test_a_decoder_of_another_distribution_than_the_specs_is_refused(
    likelihood: Any, kind: str
) -> None:
    """Its loss would be its own, and the forecast that of the spec."""
    model = Planted()
    decoders = {
        "Normal": lambda z: torch.distributions.Normal(model.decoder(z), 1.0),
        "Poisson": lambda z: torch.distributions.Poisson(model.decoder(z).exp()),
        "ContinuousBernoulli": lambda z: torch.distributions.ContinuousBernoulli(
            logits=model.decoder(z)
        ),
        "StudentT": lambda z: torch.distributions.StudentT(4.0, model.decoder(z)),
    }
    rows = (ROWS > 0).float()
    own = {"Normal": "gaussian", "Poisson": "poisson"}.get(kind)
    for spec in (pc.VAESpec(5, likelihood=likelihood), pc.VAESpec(5, likelihood="other")):
        wrapped = from_callable(model.encode, decoders[kind], latent_dim=5, spec=spec)
        if spec.likelihood in (own, "other"):
            assert pc.diagnose(wrapped, rows).loss is not None
            continue
        with pytest.raises(pc.InvalidArgumentError, match=f"got a {kind}; .*{likelihood!r}"):
            pc.diagnose(wrapped, rows)


@pytest.mark.parametrize("double", ["encoder", "decoder"])
def test_parts_of_two_dtypes_are_told_so_and_what_is_advised_works(double: str) -> None:
    """Images were thought of; a shape= does not help."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(6, 6), nn.Linear(3, 6)
    (encoder if double == "encoder" else decoder).double()

    def of(decode: Any, encode: Any) -> Any:
        spec = pc.VAESpec(3, sigma="input")
        return from_callable(lambda x: encode(x).chunk(2, -1), decode, latent_dim=3, spec=spec)

    with pytest.raises(
        pc.InvalidArgumentError, match=r"^model: .* of one dtype\. Bring all to one"
    ):
        pc.diagnose(of(decoder, encoder), ROWS)
    wrapped = of(
        lambda z: decoder(z.to(decoder.weight.dtype)), lambda x: encoder(x.to(encoder.weight.dtype))
    )
    found = pc.diagnose(wrapped, ROWS)
    encoder.float(), decoder.float()
    expected = pc.diagnose(of(decoder, encoder), ROWS)
    assert found.levels[0].kl == pytest.approx(expected.levels[0].kl, rel=1e-4)
    assert found.loss == pytest.approx(expected.loss, rel=0.05)  # the noise is drawn in its dtype


def test_a_log_std_in_place_of_a_log_variance_is_suspected() -> None:
    """Its std reads as the root of what it is: the KL of 2.3 nats at a std of 0.1 as 1.2."""
    rows = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    stds = torch.tensor([0.1, 0.2, 0.4])

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        return x * (1 - stds.square()).sqrt(), stds.log().expand(len(x), 3)

    wrong = pc.diagnose(from_callable(encode, latent_dim=3), rows)
    assert [one.code for one in wrong.advice] == ["std-for-variance"]
    assert wrong.levels[0].kl[0] == pytest.approx(1.2, abs=0.02)
    with pytest.raises(pc.InvalidArgumentError, match="of a log-std return its exp"):
        pc.diagnose(from_callable(encode, latent_dim=3, log_var=False), rows)

    def as_told(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = encode(x)
        return mean, log_std.exp()

    right = pc.diagnose(from_callable(as_told, latent_dim=3, log_var=False), rows)
    assert right.advice == ()
    assert right.levels[0].kl == pytest.approx(-stds.log().numpy(), abs=1e-5)


def test_means_that_are_normalised_are_no_mistake() -> None:
    rows = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    log_var = torch.tensor([0.1, 0.12, 0.15]).log()
    found = pc.diagnose(from_callable(lambda x: (x, log_var.expand(len(x), 3)), latent_dim=3), rows)
    assert "std-for-variance" not in [one.code for one in found.advice]


def test_functions_that_write_into_their_input_change_nothing_else() -> None:
    model, spec = Planted().eval(), pc.VAESpec(5, sigma="input")

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        return model.encode(x.sub_(1.0).div_(2.0).mul(2.0).add(1.0))

    def decode(z: Tensor) -> Tensor:
        return model.decoder(z.mul_(2.0).div(2.0))

    rows = ROWS.clone()
    plain = from_callable(model.encode, model.decoder, latent_dim=5, spec=spec)
    writing = from_callable(encode, decode, latent_dim=5, spec=spec)
    found, expected = (pc.diagnose(one, rows, importance_samples=4) for one in (writing, plain))
    assert torch.equal(rows, ROWS)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.nll == pytest.approx(expected.nll, rel=1e-5)
    x, y = ROWS[:, :2].clone(), ROWS[:, 2:].clone()
    conditional = from_callable(
        lambda x, y: model.encode(torch.cat([x.mul_(2.0) / 2, y.mul_(2.0) / 2], 1)),
        lambda z, x: model.decoder(z)[:, 2:] + 0 * x.mul_(2.0).sum(),
        latent_dim=5,
        spec=pc.CVAESpec(5, sigma="input"),
    )
    losses = [pc.diagnose(conditional, (x, y)).loss for _ in range(2)]
    assert losses[0] == losses[1]
    assert torch.equal(torch.cat([x, y], 1), ROWS)


def sides(x: Tensor) -> Any:
    _, _, height, width = x.shape
    return Planted().encode(x.reshape(-1, height * width))


def asserting(x: Tensor) -> Any:
    assert x.ndim == 4, "want images"
    return sides(x)


@pytest.mark.parametrize(
    ("encode", "argument", "said"),
    [
        (sides, "shape", r"ValueError: not enough values.*pass shape=\(1, 2, 3\)"),
        (asserting, "shape", r"AssertionError: want images.*pass shape=\(1, 2, 3\)"),
        (lambda x: sides(x.mean((2, 3))), "shape", r"IndexError: Dimension.*pass shape=\(1, 2, 3"),
        (lambda x, label: sides(x), "model", r"required positional.*encode=lambda x: net\.encode"),
        (lambda x: {}["label"], "shape", "KeyError: 'label'"),
    ],
)
def test_whatever_a_function_raises_is_told_with_what_to_do(
    encode: Any, argument: str, said: str
) -> None:
    net = Planted()
    before = net.training
    with pytest.raises(pc.InvalidArgumentError, match=said) as failed:
        pc.diagnose(from_callable(encode, latent_dim=5, modules=[net]), ROWS.reshape(400, 1, 2, 3))
    assert failed.value.argument == argument
    assert failed.value.__cause__ is not None
    assert net.training == before


@pytest.mark.parametrize(
    "encode",
    [
        lambda x: nn.Embedding(9, 4)(x).mean(1).chunk(2, -1),
        lambda x: nn.functional.one_hot(x, 4).double().mean(1).chunk(2, -1),
        lambda x: torch.ones(9, 4)[x].mean(1).chunk(2, -1),
    ],
)
def test_functions_of_whole_numbers_are_told_of_tokens(encode: Any) -> None:
    tokens = torch.randint(4, (40, 6), generator=torch.Generator().manual_seed(0))
    with pytest.raises(pc.InvalidArgumentError, match="Pass tokens=True to from_callable"):
        pc.diagnose(from_callable(encode, latent_dim=2), tokens)
    assert pc.diagnose(from_callable(encode, latent_dim=2, tokens=True), tokens).n == 40


def test_an_encoder_that_wants_the_target_before_the_condition_is_told() -> None:
    """Side by side both orders are as wide, and nothing fails."""
    torch.manual_seed(0)
    z, x = torch.randn(300, 2), nn.functional.one_hot(torch.arange(300) % 3, 3).float()
    of_z, of_x = torch.randn(2, 4), 3 * torch.randn(3, 4)
    y, back = z @ of_z + x @ of_x, torch.linalg.pinv(of_z)
    encoder = nn.Linear(7, 4)
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([torch.cat([back, -of_x @ back]), torch.zeros(7, 2)], 1).T)
        encoder.bias.copy_(torch.tensor([0.0, 0.0, -4.0, -4.0]))

    def encode(image: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        return encoder(torch.cat([image, label], 1)).chunk(2, 1)

    def found(encode: Any) -> Any:
        model = from_callable(
            encode, lambda z, x: z @ of_z + x @ of_x, latent_dim=2, spec=pc.CVAESpec(2, eta_dec=0.1)
        )
        return pc.diagnose(model, (x, y))

    with pytest.raises(pc.InvalidArgumentError, match=r"Pass encode=lambda x, y: net\.encode\(y"):
        found(encode)
    right = found(lambda x, y: encode(y, x))
    assert right.levels[0].mean_variance == pytest.approx(z.var(0, correction=0).numpy(), rel=1e-3)


def test_an_encoder_that_has_hardly_learned_is_not_told_that_its_order_is_wrong() -> None:
    """The other order is a little better (0.82 times the error), and both are bad."""
    x, y = torch.randn(2, 2000, 2, generator=torch.Generator().manual_seed(0))

    def encode(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return 0.2 * x + 0.13 * y, torch.zeros_like(y)

    model = from_callable(encode, lambda z, x: z, latent_dim=2, spec=pc.CVAESpec(2))
    assert model.infer(x, y)[0].shape == (2000, 2)


def labelled(numbers: bool) -> tuple[Any, Any, Any]:
    """An encoder, a decoder and a prior that look class numbers up, or one-hot columns."""
    generator = torch.Generator().manual_seed(0)
    table, of_y, of_z, of_prior = (
        torch.randn(shape, generator=generator) for shape in ((3, 4), (8, 4), (2, 4), (3, 2))
    )

    def row(c: Any, of: Any = table) -> Any:
        return torch.nn.functional.embedding(c, of) if numbers else c @ of

    def encode(c: Any, y: Any) -> Any:
        return torch.cat([y, row(c)], dim=1).matmul(of_y).chunk(2, dim=1)

    def decode(z: Any, c: Any) -> Any:
        return torch.cat([z, row(c)], dim=1)[:, :4] + z @ of_z

    return encode, decode, lambda c: (row(c, of_prior), torch.ones(len(c), 2))


@pytest.mark.parametrize("with_prior", [False, True])
def test_functions_that_take_class_numbers_alone_get_these(with_prior: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    y, classes = torch.randn(60, 4, generator=generator), torch.arange(60) % 3
    loader = DataLoader(TensorDataset(y, classes), batch_size=7)
    found = []
    for numbers in (True, False):
        encode, decode, prior = labelled(numbers)
        spec = pc.CVAESpec(2, sigma="input")
        given = {"prior": prior} if with_prior else {}
        model = from_callable(encode, decode, latent_dim=2, spec=spec, **given)
        found.append(pc.diagnose(model, loader))
    by_number, one_hot = found
    assert by_number.levels[0].kl == pytest.approx(one_hot.levels[0].kl, rel=1e-5)
    assert by_number.loss == pytest.approx(one_hot.loss, rel=1e-5)
    names = "decode and encode and prior" if with_prior else "decode and encode"
    assert any(note.startswith(f"labels went to {names} as class") for note in by_number.notes)
    assert not any(note.startswith("labels went") for note in one_hot.notes)


def test_what_takes_neither_one_hot_labels_nor_numbers_says_what_it_said() -> None:
    def encode(c: Any, y: Any) -> Any:
        raise ValueError(f"no {c.dim()} sides")

    model = from_callable(encode, latent_dim=2, spec=pc.CVAESpec(2))
    with pytest.raises(ValueError, match="no 2 sides"):
        model.posterior(1, torch.eye(3), torch.zeros(3, 4))
    unconditional = from_callable(
        lambda x: torch.nn.functional.embedding(x, torch.ones(3, 4)).chunk(2, 1), latent_dim=2
    )
    with pytest.raises(RuntimeError, match="indices"):
        unconditional.posterior(1, torch.eye(3))
