"""The traced gradient of stacked runs against autograd on each model alone."""

import pytest
import torch
from torch.fx import GraphModule
from torch.fx.experimental import proxy_tensor

from families import FAMILIES, built
from posterior_collapse.errors import InvalidArgumentError
from posterior_collapse.models import build, loss
from posterior_collapse.specs import ChainSpec, CVAESpec, VAESpec
from posterior_collapse.training.batches import Batch
from posterior_collapse.training.layout import HEADS
from posterior_collapse.training.seeds import Draws
from posterior_collapse.training.stacking import Stack, Step
from posterior_collapse.training.tracing import TracingWarning, trace

F64 = torch.float64
N = 40
RUNS = {
    **FAMILIES,
    "cvae-linear-net": [CVAESpec(latent_dim=3, eta_dec="learned", beta=b) for b in (0.5, 2)],
    "linear": [VAESpec(latent_dim=3, beta=b, sigma="shared") for b in (0.5, 2)],
}


def runs(name, **more):
    models, x, y, noises = built(name, RUNS[name], N, **more)
    masks = [m.draw_masks(N, torch.Generator().manual_seed(i), F64) for i, m in enumerate(models)]
    draws = Draws(
        tuple(torch.stack(level) for level in zip(*noises, strict=True)),
        {name: torch.stack([mask[name] for mask in masks]) for name in masks[0]},
    )
    return models, Batch(x, y), draws


def alone(model, batch, draws, run, betas, **options):
    noise = tuple(level[run] for level in draws.noise)
    masks = {name: mask[run] for name, mask in draws.masks.items()}
    terms = model(batch.x, batch.y, noise, masks)
    value = loss(terms, betas, **options)
    return value, terms, torch.autograd.grad(value, list(model.parameters()))


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    "options",
    [
        {"convention": "elbo", "free_bits": None},
        {"convention": "elbo", "free_bits": 0.2},
    ],
)
def test_gradients_are_those_of_each_model_alone(name, options):
    models, batch, draws = runs(name)
    stack = Stack(models, torch.device("cpu"), N)
    betas = torch.tensor([spec.beta_levels for spec in RUNS[name]], dtype=F64)
    capacity = torch.full((len(models[0].units),), 0.3, dtype=F64)
    for _ in range(2):  # the trace and its replay
        gradients, measured = stack.gradients(Step(batch, draws, betas, capacity), **options)
    by_name = stack.layout.scatter(dict(zip(stack.leaves, gradients, strict=True)))
    for run, model in enumerate(models):
        value, terms, own = alone(model, batch, draws, run, betas[run], capacity=0.3, **options)
        torch.testing.assert_close(measured[run, 0], value)
        kl = torch.cat([level.mean(0) for level in terms.kl])
        torch.testing.assert_close(measured[run, 2:], kl)
        for (key, _), gradient in zip(model.named_parameters(), own, strict=True):
            torch.testing.assert_close(
                by_name[key][run], gradient, msg=lambda m, k=key: f"{k}: {m}"
            )


def test_replay_follows_its_arguments():
    models, batch, draws = runs("cvae-relu")
    stack = Stack(models, torch.device("cpu"), N)
    betas = torch.ones(2, 1, dtype=F64)
    options = {"convention": "reference", "free_bits": None}
    stack.gradients(Step(batch, draws, betas, None), **options)
    other = Batch(batch.x.flip(0) * 2, batch.y + 1)
    with torch.no_grad():
        for model in models:
            for p in model.parameters():
                p.mul_(1.3)
    for run, model in enumerate(models):
        stack.load(run, model.state_dict())
    noise = Draws(tuple(level * 0.5 for level in draws.noise), {})
    _, measured = stack.gradients(Step(other, noise, 3 * betas, None), **options)
    for run, model in enumerate(models):
        value, *_ = alone(model, other, noise, run, [3.0], convention="reference")
        torch.testing.assert_close(measured[run, 0], value)


def test_heads_without_residuals_only_where_they_pay():
    models, batch, draws = runs("cvae-relu")
    many, few = (Stack(models, torch.device("cpu"), rows) for rows in (N, 10))
    assert HEADS in many.leaves
    assert HEADS not in few.leaves
    for a, b in zip(many.terms(batch, draws).kl, few.terms(batch, draws).kl, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(
        many.terms(batch, draws).squared_error, few.terms(batch, draws).squared_error
    )
    # The 8 bits of bfloat16 are too few for a difference of large numbers.
    assert HEADS not in Stack(models, torch.device("cpu"), N, half=True).leaves


@pytest.mark.parametrize("name", RUNS)
def test_a_state_comes_back_bit_for_bit(name):
    models, _, _ = runs(name)
    stack = Stack(models, torch.device("cpu"), N)
    for run, model in enumerate(models):
        (state,) = stack.states([run])
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[key], v) for key, v in model.state_dict().items())
    stack.load(0, models[1].state_dict())
    (first,) = stack.states([0])
    assert all(torch.equal(first[key], v) for key, v in models[1].state_dict().items())


def test_dropout_masks_reach_their_layers():
    models, batch, draws = runs("mlp", dropout=0.4)
    stack = Stack(models, torch.device("cpu"), N)
    betas = torch.ones(2, 3, dtype=F64)
    _, measured = stack.gradients(
        Step(batch, draws, betas, None), convention="elbo", free_bits=None
    )
    value, *_ = alone(models[1], batch, draws, 1, betas[1])
    torch.testing.assert_close(measured[1, 0], value)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (VAESpec(latent_dim=2), VAESpec(latent_dim=3)),
        (VAESpec(latent_dim=2), VAESpec(latent_dim=2, sigma=0.5)),
        (VAESpec(latent_dim=2), ChainSpec(latent_dims=(2,), betas=(1,), eta_decs=(1,))),
    ],
)
def test_runs_must_differ_in_numbers_only(a, b):
    models = [build(spec, "mlp", x_dim=4, hidden=(3,)) for spec in (a, b)]
    with pytest.raises(InvalidArgumentError, match=r"specs\[1\]: got another model"):
        Stack(models, torch.device("cpu"))


def test_results_of_a_trace_share_no_memory():
    held = torch.ones(3)

    def function(x):
        return [x, x + x, x + x, (x + x).view(3, 1), held, held * 2]

    x = torch.arange(3.0)
    results = trace(function, x)(x)
    places = {r.untyped_storage().data_ptr() for r in (*results, x, held)}
    assert len(places) == 8
    for result, expected in zip(results, function(x), strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_a_trace_keeps_operations_apart_that_differ_in_a_type():
    def function(x):
        return [x.sum(0, dtype=torch.float32), x.sum(0, dtype=torch.float64), x / 2, x * 1.0]

    x = torch.arange(4, dtype=torch.float32)
    for result, expected in zip(trace(function, x)(x), function(x), strict=True):
        assert result.dtype == expected.dtype
        assert torch.equal(result, expected)


def test_sums_of_products_leave_what_others_look_at_alone():
    def function(a, b, c):
        ab, ac, cb = a @ b, a @ c, c @ b
        return [ab + ac, cb, cb + (a @ a), a, ab.mT + (b @ c).mT, (b @ a) + (c @ c)]

    g = torch.Generator().manual_seed(0)
    arguments = [torch.randn(4, 3, 3, generator=g, dtype=F64) for _ in range(3)]
    kept = [argument.clone() for argument in arguments]
    traced = trace(function, *arguments)
    assert isinstance(traced, GraphModule)
    assert traced.code.count(".baddbmm_(") == 1
    for _ in range(2):
        for result, expected in zip(traced(*arguments), function(*kept), strict=True):
            torch.testing.assert_close(result, expected)
    assert all(torch.equal(a, b) for a, b in zip(arguments, kept, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_depends_on_shapes_alone_is_computed_once(dtype):
    def function(x):
        ones = torch.ones_like(x).expand(2, 3) / 3
        return [x * (x.new_zeros(3) + ones)]

    x = torch.arange(3, dtype=dtype)
    traced = trace(function, x)
    assert isinstance(traced, GraphModule)
    for name in ("ones", "zeros", "div", "add"):
        assert f".{name}" not in traced.code
    (found,) = traced(x + 1)
    assert found.dtype == dtype
    assert torch.equal(found, function(x + 1)[0])


def test_numbers_that_are_not_finite_are_traced_too():
    x = torch.tensor([1.0, 0.0, -1.0])
    traced = trace(lambda x: [x.log(), 1 / x], x)
    assert isinstance(traced, GraphModule)
    assert traced(x.abs())[0].tolist() == [0.0, -torch.inf, 0.0]


def broken(function):
    raise RuntimeError("no such interface")


@pytest.mark.parametrize(
    ("make_fx", "reason"),
    [
        (broken, "no such interface"),
        (lambda f, make=proxy_tensor.make_fx: make(lambda *a: [2 * v for v in f(*a)]), "other"),
    ],
)
def test_a_torch_that_cannot_trace_trains_without(monkeypatch, make_fx, reason):
    monkeypatch.setattr(proxy_tensor, "make_fx", make_fx)
    models, batch, draws = runs("vae-relu")
    stack = Stack(models, torch.device("cpu"), N)
    betas = torch.ones(2, 1, dtype=F64)
    with pytest.warns(TracingWarning, match=reason):
        gradients, measured = stack.gradients(
            Step(batch, draws, betas, None), convention="elbo", free_bits=None
        )
    value, _, own = alone(models[1], batch, draws, 1, betas[1])
    torch.testing.assert_close(measured[1, 0], value)
    by_name = stack.layout.scatter(dict(zip(stack.leaves, gradients, strict=True)))
    for (key, _), gradient in zip(models[1].named_parameters(), own, strict=True):
        torch.testing.assert_close(by_name[key][1], gradient)


def test_what_a_trace_takes_for_a_constant_is_noticed():
    def by_a_number(x):
        return [x * float(x.detach().numpy().sum())]

    def by_a_branch(x):
        return [2 * x if bool(x[0] > 0) else 3 * x]

    for function in (by_a_number, by_a_branch):
        with pytest.warns(TracingWarning, match="cannot trace"):
            traced = trace(function, torch.tensor([1.0, -2.0]))
        other = torch.tensor([-3.0, 5.0])
        assert torch.equal(traced(other)[0], function(other)[0])
