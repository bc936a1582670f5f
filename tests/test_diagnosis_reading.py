"""Data of any kind, models in any mode, and what is refused."""

import contextlib
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import posterior_collapse as pc
from planted import Opaque, PlantedHierarchy, planted_data
from posterior_collapse.adapters import from_callable
from posterior_collapse.errors import DataError, InvalidArgumentError, PosteriorCollapseError
from posterior_collapse.models import build
from posterior_collapse.models.batches import batches
from posterior_collapse.models.modules import evaluating

X = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((50, 2)).astype(np.float32)
VAE = build(pc.VAESpec(2), "mlp", x_dim=3, hidden=(4,))
CVAE = build(pc.CVAESpec(2), "mlp", x_dim=3, y_dim=2, hidden=(4,))
TENSOR, LABELS = torch.from_numpy(X), torch.arange(50)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(TENSOR)


def read(model, data, **options):
    pairs = list(batches(model, data, **options))
    x = torch.cat([x for x, _ in pairs]).numpy()
    ys = [y for _, y in pairs if y is not None]
    return x, torch.cat(ys).numpy() if ys else None


SINGLE = {
    "array": X,
    "float64": X.astype(np.float64),
    "list": X.tolist(),
    "tensor": TENSOR,
    "with gradient": TENSOR.clone().requires_grad_(),
    "images": X.reshape(50, 1, 3),
    "data set": pc.Dataset("toy", X),
    "torch data set": TensorDataset(TENSOR),
    "stream": Stream(),
    "loader": DataLoader(TensorDataset(TENSOR), batch_size=7),
    "loader of single rows": DataLoader(TensorDataset(TENSOR), batch_size=1),
    "loader with labels": DataLoader(TensorDataset(TENSOR, LABELS), batch_size=7),
    "batches": [TENSOR[:20], TENSOR[20:45], TENSOR[45:]],
    "batches of arrays": [X[:1], X[1:40], X[40:]],
    "generator": (X[i : i + 9] for i in range(0, 50, 9)),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_rows_of_any_kind_are_read(kind) -> None:
    x, y = read(VAE, SINGLE[kind])
    assert x == pytest.approx(X)
    assert x.dtype == np.float32
    assert y is None


PAIRS = {
    "arrays": (X, Y),
    "list of tensors": [TENSOR, torch.from_numpy(Y)],
    "data set": pc.Dataset("toy", X, Y),
    "torch data set": TensorDataset(TENSOR, torch.from_numpy(Y)),
    "loader": DataLoader(TensorDataset(TENSOR, torch.from_numpy(Y)), batch_size=7),
    "batches": [(X[:30], Y[:30]), (X[30:], Y[30:]), (X[:0], Y[:0])],
}


@pytest.mark.parametrize("kind", PAIRS)
def test_conditions_and_targets_of_any_kind_are_read(kind) -> None:
    x, y = read(CVAE, PAIRS[kind])
    assert x == pytest.approx(X)
    assert y == pytest.approx(Y)


def test_batches_have_the_size_asked_for() -> None:
    assert [len(x) for x, _ in batches(VAE, X, batch_size=20)] == [20, 20, 10]
    single = DataLoader(TensorDataset(TENSOR), batch_size=1)
    assert [len(x) for x, _ in batches(VAE, single, batch_size=20)] == [20, 20, 10]


def test_a_memory_map_is_read_and_left_as_it_was(tmp_path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, (X * 10).astype(np.int16))
    mapped = np.load(path, mmap_mode="r")
    x, _ = read(VAE, mapped)
    assert x == pytest.approx((X * 10).astype(np.int16))


def test_a_model_that_writes_over_its_input_leaves_the_data_alone() -> None:
    own = TENSOR.clone()
    for data in (own, [own], DataLoader([own], batch_size=None)):
        for x, _ in batches(VAE, data, batch_size=len(own)):
            x.zero_()
        assert torch.equal(own, TENSOR)


def test_a_loader_that_shuffles_is_read_in_an_order_of_the_seed() -> None:
    def orders(loader):
        return [read(VAE, loader, seed=seed)[0] for seed in (0, 0, 1)]

    generator = torch.Generator().manual_seed(5)
    for given in (None, generator):
        loader = DataLoader(TensorDataset(TENSOR), batch_size=7, shuffle=True, generator=given)
        state = torch.get_rng_state(), generator.get_state()
        first, same, other = orders(loader)
        assert (first == same).all()
        assert (first != other).any()
        assert torch.equal(torch.get_rng_state(), state[0])
        assert torch.equal(generator.get_state(), state[1])


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        (VAE, np.zeros((0, 3)), "empty array"),
        (VAE, [], "empty array|dimension"),
        (VAE, iter([]), "no rows"),
        (VAE, DataLoader(TensorDataset(TENSOR[:0])), "no rows"),
        (VAE, torch.zeros(5), r"x: got a 1-D array of shape \(5,\)"),
        (VAE, np.zeros(5), "x: got a 1-D array"),
        (VAE, "mnist", "x: got"),
        (VAE, {"a": X, "b": X}, "a dict of"),
        (VAE, [{"a": TENSOR, "b": TENSOR}] * 3, "a dict of"),
        (VAE, iter([{"label": LABELS}]), "a dict of"),
        (VAE, iter([TENSOR[0]]), r"x: got a 1-D array of shape \(3,\)"),
        (
            VAE,
            iter([TENSOR, TENSOR[:, :2]]),
            r"row 50: got features \[2\]; expected",
        ),
        (VAE, np.where(np.arange(150).reshape(50, 3) == 100, np.nan, X), "nan at row 33, column 1"),
        (VAE, np.where(np.arange(150).reshape(50, 3) == 100, np.inf, X), "inf at row 33, column 1"),
        (CVAE, X, "no target y"),
        (CVAE, (X, Y[:49]), "49 samples"),
        (CVAE, DataLoader(TensorDataset(TENSOR, LABELS)), "labels: got 3; expected whole numbers"),
        (CVAE, iter([(TENSOR, torch.from_numpy(Y[:9]))]), "9 samples"),
    ],
)
def test_data_that_cannot_be_used_are_refused(model, data, said) -> None:
    with pytest.raises(DataError, match=said):
        list(batches(model, data, batch_size=10))


def test_data_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(\.\.\., 3\)"):
        pc.diagnose(VAE, np.zeros((10, 4)))


def test_a_single_row_is_refused() -> None:
    with pytest.raises(DataError, match="at least two rows"):
        pc.diagnose(VAE, X[:1])


class Dropping(Opaque):
    """Not a module itself, but made of one that draws while it is trained."""

    def __init__(self):
        super().__init__(build(pc.VAESpec(2), "mlp", x_dim=3, hidden=(4,)))
        self.dropout = nn.Dropout(0.5)

    def posterior(self, level, given, y=None):
        return super().posterior(level, self.dropout(given), y)


def test_a_model_in_training_mode_is_diagnosed_out_of_it_and_put_back() -> None:
    model = Dropping()
    model.inner.train()
    model.inner.encoders[0].eval()
    modes = [part.training for part in model.inner.modules()]
    found = pc.diagnose(model, X)
    assert model.dropout.training
    assert [part.training for part in model.inner.modules()] == modes
    assert "training mode" in found.notes[0]
    model.dropout.eval()
    model.inner.eval()
    still = pc.diagnose(model, X)
    assert still.loss == found.loss
    assert still.notes == found.notes[1:]


def test_the_mode_comes_back_after_an_error() -> None:
    model = build(pc.VAESpec(2), "mlp", x_dim=3, hidden=(4,))
    with contextlib.suppress(RuntimeError), evaluating(model):
        assert not model.training
        raise RuntimeError
    assert model.training


def test_no_global_random_number_is_drawn_and_no_gradient_kept() -> None:
    state = torch.get_rng_state()
    pc.diagnose(VAE, X)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in VAE.parameters())


class Broken(PlantedHierarchy):
    """A hierarchy that gives one wrong number at one level."""

    def __init__(self, level, mean=None, std=None):
        super().__init__()
        self.level, self.mean, self.std = level, mean, std

    def posterior(self, level, given, y=None):
        q = super().posterior(level, given, y)
        mean, std = q.mean.clone(), q.stddev.clone()
        if level == self.level:
            for values, wrong in ((mean, self.mean), (std, self.std)):
                if wrong is not None:
                    values[..., -1, 3] = wrong
        return Normal(mean, std, validate_args=False)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Broken(1, mean=float("nan")), "posterior mean of z1: got nan at row 29, unit 4"),
        (Broken(2, mean=float("inf")), "posterior mean of z2: got inf at row 29, unit 4"),
        (Broken(1, std=-0.5), "posterior std of z1: got -0.5 at row 29, unit 4"),
        (Broken(2, std=0.0), "posterior std of z2: got 0.0 at row 29, unit 4"),
    ],
)
def test_a_wrong_posterior_is_said_with_its_place(model, said) -> None:
    with pytest.raises(DataError, match=said):
        pc.diagnose(model, planted_data(70), batch_size=30)


class Transposed(PlantedHierarchy):
    def posterior(self, level, given, y=None):
        q = super().posterior(level, given, y)
        return Normal(q.mean[..., :4], q.stddev[..., :4])


class Narrow(PlantedHierarchy):
    def decode(self, z, x=None):
        return Normal(z[..., :4], torch.ones_like(z[..., :4]))


@pytest.mark.parametrize(
    ("model", "said"),
    [(Transposed(), "a posterior of z1 of shape"), (Narrow(), "a decoder output of shape")],
)
def test_outputs_of_the_wrong_shape_are_refused(model, said) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        pc.diagnose(model, planted_data(20))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 3}, "samples: got 3; expected a whole number of at least 4"),
        ({"samples": 2}, "samples: got 2"),
        ({"samples": 7}, "samples: got 7; expected an even number"),
        ({"samples": True}, "samples: got True"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 0.5}, "seed: got 0.5"),
        ({"delta": 2.0}, "delta: got 2.0"),
        ({"delta": 0}, r"delta: got 0; .* above 0 and below 1\. Pass delta=0\.05\.$"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"importance_samples": -1}, "importance_samples: got -1"),
        ({"spec": pc.VAESpec(3)}, r"spec: got latent dims \(3,\)"),
        ({"spec": "vae"}, "spec: got str"),
        ({"spec": pc.CVAESpec(2)}, "spec: got that of a cvae; expected one of the model's kind"),
    ],
)
def test_options_out_of_their_domain_are_refused(options, said) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        pc.diagnose(VAE, X, **options)


def test_what_is_no_latent_model_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidArgumentError, match=r"a Linear; .*from_callable"):
        pc.diagnose(nn.Linear(3, 2), X)
    with pytest.raises(InvalidArgumentError, match="can be read once"):
        pc.diagnose(VAE, iter([TENSOR]), importance_samples=10)


@pytest.mark.parametrize("convention", ["elbo", "reference"])
def test_what_fit_returned_is_diagnosed_as_it_was_trained(convention) -> None:
    fitted = pc.fit(pc.VAESpec(2, beta=2.0), X, "mlp", epochs=1, convention=convention)
    found = pc.diagnose(fitted, X)
    assert found.spec == pc.VAESpec(2, beta=2.0 if convention == "elbo" else 1.0)
    by_hand = pc.diagnose(fitted.model, X, spec=found.spec)
    assert found.loss == pytest.approx(by_hand.loss, rel=1e-6)  # at a std of single precision
    assert found.levels[0].status == by_hand.levels[0].status
    measured = fitted.measured()
    assert measured["loss"] == pytest.approx(found.loss, abs=6 * found.loss_error)
    assert measured["levels"][0]["n_active"] == found.levels[0].n_active


def test_a_model_whose_objective_is_unknown_gets_no_loss_and_no_certificate() -> None:
    model = Opaque(VAE)
    model.spec_assumed = True
    found = pc.diagnose(model, X)
    assert found.spec is None
    assert found.loss is None
    assert found.elbo is None
    assert found.squared_error > 0
    assert found.signal == ()
    assert found.conclusion == "undecided"
    assert all("pass the spec" in f.action for f in found.advice if f.code == "undecided")
    told = pc.diagnose(model, X, spec=pc.VAESpec(2, beta=2.0))
    assert told.spec.beta == 2.0
    assert told.loss is not None
    assert len(told.signal) == 1


def test_a_model_without_decoder_is_diagnosed_as_far_as_it_goes() -> None:
    model = Opaque(VAE)
    model.decodes = False
    model.decode = None
    found = pc.diagnose(model, X)
    assert found.squared_error is None
    assert found.loss is None
    assert found.signal == ()
    assert np.isnan(found.levels[0].decoder_effect).all()
    assert found.levels[0].kl == pytest.approx(pc.diagnose(VAE, X).levels[0].kl)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_data_go_to_the_models_device(device) -> None:
    model = build(pc.VAESpec(2), "mlp", x_dim=3, hidden=(4,)).to("cuda")
    found = pc.diagnose(model, TENSOR.to(device))
    assert found.levels[0].kl == pytest.approx(pc.diagnose(VAE, X).levels[0].kl, rel=1e-4)


def test_a_list_of_two_arrays_is_two_batches_and_a_tuple_a_pair():
    model = build(pc.VAESpec(2), "linear", x_dim=3)
    x = np.random.default_rng(0).standard_normal((10, 3))
    assert pc.diagnose(model, [x[:6], x[6:]]).n == 10
    assert pc.diagnose(model, (x, x)).n == 10
    with pytest.raises(DataError, match=r"6 samples|4 samples"):
        pc.diagnose(model, (x[:6], x[6:]))
    conditional = build(pc.CVAESpec(2), "linear", x_dim=3, y_dim=3)
    assert pc.diagnose(conditional, [x, x]).n == 10


@pytest.mark.parametrize(
    ("encode", "decode", "scale", "said"),
    [
        ("unit", "nan", 1.0, "decoder mean: got NaN or inf"),
        ("unit", "bernoulli", 1.0, "decode: got a Bernoulli; .* Return its .mean"),
        ("narrow", "zero", 1.0, "posterior std of z1: got 3.7.*e-44 at row 0"),
        ("unit", "zero", 1e25, "data: got values up to .*Rescale the data"),
    ],
)
def test_numbers_that_cannot_be_diagnosed_are_named(encode, decode, scale, said):
    encoders = {
        "unit": lambda x: (torch.tanh(x[:, :2]), torch.zeros(len(x), 2)),
        "narrow": lambda x: (x[:, :2], torch.full((len(x), 2), -200.0)),
    }
    decoders = {
        "nan": lambda z: torch.full((len(z), 3), math.nan),
        "bernoulli": lambda z: Bernoulli(logits=torch.zeros(len(z), 3)),
        "zero": lambda z: torch.zeros(len(z), 3),
    }
    model = from_callable(encoders[encode], decoders[decode], latent_dim=2, spec=pc.VAESpec(2))
    x = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32) * scale
    with pytest.raises(PosteriorCollapseError, match=said):
        pc.diagnose(model, torch.tensor(x))


def test_masked_values_are_refused_and_long_doubles_read():
    model = build(pc.VAESpec(2), "linear", x_dim=3)
    x = np.random.default_rng(0).standard_normal((10, 3))
    with pytest.raises(DataError, match="x: got masked values"):
        pc.diagnose(model, np.ma.masked_array(x, x > 1))
    with pytest.raises(DataError, match="mean: got masked values"):
        pc.diagnose_arrays(np.ma.masked_array(x, x > 1), 1.0)
    long = pc.diagnose(model, x.astype(np.longdouble))
    assert long.loss == pytest.approx(pc.diagnose(model, x).loss, rel=1e-12)


def test_a_decoder_std_that_is_not_the_spec_s_is_said():
    x = np.random.default_rng(0).standard_normal((50, 3))
    model = build(pc.VAESpec(2, eta_dec=1.0), "linear", x_dim=3)
    assert not any("eta_dec" in note for note in pc.diagnose(model, x).notes)
    found = pc.diagnose(model, x, spec=pc.VAESpec(2, eta_dec=0.5))
    assert any("is 1, the spec's eta_dec 0.5" in note for note in found.notes)
    # The bound holds: both are at the same std.
    assert found.nll <= -found.elbo
    own = from_callable(
        lambda v: (v[:, :2], torch.zeros(len(v), 2)),
        lambda z: torch.distributions.Normal(torch.zeros(len(z), 3), 0.7),
        latent_dim=2,
        spec=pc.VAESpec(2, eta_dec=0.5),
    )
    notes = pc.diagnose(own, x).notes
    assert any(
        "std is 0.7, the spec's eta_dec 0.5: loss and NLL are at its own" in n for n in notes
    )
