"""Modules are found wherever a model keeps them, and looking at a model leaves no trace in it."""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import posterior_collapse as pc
from planted import PlantedHierarchy, planted_data
from posterior_collapse import InvalidArgumentError
from posterior_collapse.adapters import audit_loss, from_callable
from posterior_collapse.models.modules import evaluating, modules_behind, tensor_behind
from posterior_collapse.testing import check_latent_model

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))

    def forward(self, x: Tensor) -> Any:
        return self.layers(x).chunk(2, 1)


class Outer(nn.Module):
    """Only its method is called, never itself, and only it knows its mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def encode(self, x: Tensor) -> Any:
        return self.net(functional.dropout(x, 0.5, self.training))


@dataclass
class Record:
    net: Any

    def encode(self, x: Tensor) -> Any:
        return self.net(x)


class Slots:
    __slots__ = ("nets",)

    def __init__(self, net: nn.Module) -> None:
        self.nets = (net,)

    def __call__(self, x: Tensor) -> Any:
        return self.nets[0](x)


def call(net: Callable[[Tensor], Any], x: Tensor) -> Any:
    return net(x)


HELD: dict[str, Any] = {}
FILE = types.ModuleType("a_file_of_the_user_s")


def helper(x: Tensor) -> Any:
    return HELD["net"](x)


def by_helper(net: nn.Module) -> Any:
    HELD["net"] = net
    return lambda x: helper(1 * x)


def by_another_file(net: nn.Module) -> Any:
    FILE.net = net
    return lambda x: FILE.net(1 * x)


def by_class(net: nn.Module) -> Any:
    class Holder:
        kept = net

        def __call__(self, x: Tensor) -> Any:
            return self.kept(x)

    return Holder()


def by_nested_functions(net: nn.Module) -> Any:
    def outer(x: Tensor) -> Any:
        def inner() -> Any:
            (found,) = [net(value) for value in (x,)]
            return found

        return inner()

    return outer


def by_decorator(net: nn.Module) -> Any:
    def encode(x: Tensor) -> Any:
        return net(1 * x)

    @functools.wraps(encode)
    def wrapped(*args: Any) -> Any:
        return encode(*args)

    return functools.lru_cache(wrapped)


def by_unregistered_attribute(net: nn.Module) -> Any:
    outer = nn.Module()
    outer.nets = [net]
    outer.forward = lambda x: outer.nets[0](1 * x)
    return outer


WAYS: dict[str, Callable[[Any], Any]] = {
    "module": lambda net: net,
    "method": lambda net: net.forward,
    "closure": lambda net: lambda x: net(1 * x),
    "nested functions": by_nested_functions,
    "dict": lambda net: lambda x, nets={"net": net}: nets["net"](x),
    "list of lists": lambda net: (lambda nets: lambda x: nets[0][0](1 * x))([[net]]),
    "dataclass": lambda net: (lambda record: lambda x: record.net(1 * x))(Record(net)),
    "method of an object": lambda net: Record({"net": net}["net"]).encode,
    "object with slots": Slots,
    "class attribute": by_class,
    "helper and global": by_helper,
    "another file": by_another_file,
    "default argument": lambda net: lambda x, net=net: net(x),
    "keyword default": lambda net: lambda x, *, net=net: net(x),
    "partial": lambda net: functools.partial(call, net),
    "partial of a method": lambda net: functools.partial(call, Record(net).encode),
    "decorator": by_decorator,
    "list in a module": by_unregistered_attribute,
    "method of an outer module in a dict": lambda net: (
        lambda nets: lambda x: nets["vae"].encode(1 * x)
    )({"vae": Outer(net)}),
}
AT_RUN_TIME: dict[str, Callable[[Any], Any]] = {
    "weak reference": lambda net: (lambda ref: lambda x: ref()(1 * x))(weakref.ref(net)),
    "looked up": lambda net: by_name(_hide(net)),
}


def by_name(name: str) -> Any:
    return lambda x: vars(sys.modules["builtins"])[name][0](1 * x)


def _hide(net: nn.Module) -> str:
    # Nothing that the function refers to leads to a library's globals.
    vars(sys.modules["builtins"])["_hidden_net"] = [net]
    return "_hidden_net"


@pytest.fixture(autouse=True)
def _nothing_stays_hidden() -> Any:
    yield
    vars(sys.modules["builtins"]).pop("_hidden_net", None)


def state(net: nn.Module) -> list[Any]:
    """Everything about a module that a look at it must not change, as plain values."""
    tensors = [value.tolist() for value in net.state_dict().values()]
    modes = [part.training for part in net.modules()]
    hooks = [
        {name: len(found) for name, found in vars(part).items() if name.endswith("_hooks")}
        for part in net.modules()
    ]
    of_torch = vars(torch.nn.modules.module)
    everywhere = [len(found) for name, found in of_torch.items() if name.endswith("_hooks")]
    gradients = [value.grad for value in net.parameters()]
    return [tensors, modes, hooks, everywhere, gradients, torch.get_rng_state().tolist()]


def was_training(found: Any) -> bool:
    return any("training mode" in note for note in found.notes)


@pytest.mark.parametrize("way", [*WAYS, *AT_RUN_TIME])
def test_a_look_at_a_model_in_training_leaves_no_trace(way: str) -> None:
    torch.manual_seed(0)
    net = Net()
    net.layers[0].eval()  # a mode of its own, to be kept
    decoder = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5))
    encode = (WAYS | AT_RUN_TIME)[way](net)
    model = from_callable(encode, lambda z: decoder(1 * z), latent_dim=2, spec=pc.VAESpec(2))
    before = state(net), state(decoder)
    found = pc.diagnose(model, ROWS, importance_samples=4)
    likelihood = pc.log_likelihood(model, ROWS, samples=4)
    check_latent_model(model, ROWS)
    assert (state(net), state(decoder)) == before
    assert was_training(found)
    assert was_training(likelihood)
    # It is the model without dropout that was looked at.
    plain = from_callable(net.eval(), decoder.eval(), latent_dim=2, spec=pc.VAESpec(2))
    assert found.loss == pc.diagnose(plain, ROWS).loss


@pytest.mark.parametrize("way", WAYS)
def test_modules_are_found_before_they_run(way: str) -> None:
    net = Net()
    assert net in {part for found in modules_behind(WAYS[way](net)) for part in found.modules()}
    model = from_callable(WAYS[way](net.double()), latent_dim=2)
    assert model.posterior(1, ROWS).mean.dtype is torch.float64


def test_what_a_model_draws_is_given_back() -> None:
    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        drawn = torch.rand(()) + np.random.random() + random.random()
        return x[:, :2] + drawn, torch.zeros(len(x), 2)

    model = from_callable(encode, lambda z: z.repeat(1, 2), latent_dim=2, spec=pc.VAESpec(2))
    looks: list[Callable[[], object]] = [
        lambda: pc.diagnose(model, ROWS),
        lambda: pc.log_likelihood(model, ROWS, samples=2),
        lambda: check_latent_model(model, ROWS),
    ]
    for look in looks:
        before = torch.get_rng_state(), np.random.get_state()[1:3], random.getstate()
        with contextlib.suppress(AssertionError):  # of what is to be the same at each call
            look()
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_equal(np.random.get_state()[1:3], before[1])
        assert random.getstate() == before[2]


def test_a_subclass_may_keep_its_modules_anywhere() -> None:
    class Hiding(PlantedHierarchy):
        def __init__(self) -> None:
            super().__init__()
            self.nets = {"norms": (nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5)),)}

        def posterior(self, level: int, given: Tensor, y: Tensor | None = None) -> Any:
            if level == 1:
                given = self.nets["norms"][0](given.reshape(-1, 5)).reshape(given.shape)
            return super().posterior(level, given, y)

    model = Hiding()
    before = state(model.nets["norms"][0])
    assert was_training(pc.diagnose(model, planted_data(50)))
    check_latent_model(model, planted_data(5))
    assert state(model.nets["norms"][0]) == before


def test_modes_that_a_function_sets_itself_are_given_back() -> None:
    net = Net().eval()
    model = from_callable(lambda x: net.train()(1 * x), latent_dim=2)
    with evaluating(model):
        model.posterior(1, ROWS)
        assert net.training
    assert not any(part.training for part in net.modules())


def test_a_network_made_at_each_call_is_let_go() -> None:
    made = []

    def encode(x: Tensor) -> Any:
        net = Net()
        made.append(weakref.ref(net))
        return net(x)

    with evaluating(encode) as seen:
        assert not seen.found
        encode(ROWS)
        assert seen.training
        assert made[0]() is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_script_modules() -> None:
    net = Net()
    script, frozen = torch.jit.script(net), torch.jit.freeze(torch.jit.script(Net().eval()))
    before = state(script)
    for module, note in ((script, True), (frozen, False)):
        found = pc.diagnose(from_callable(lambda x, m=module: m(1 * x), latent_dim=2), ROWS)
        assert was_training(found) is note
    assert state(script) == before
    hidden = weakref.ref(script)
    pc.diagnose(from_callable(lambda x: hidden()(1 * x), latent_dim=2), ROWS)
    assert state(script) == before


def test_compiled_modules_and_functions() -> None:
    net, compilations = Net(), []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    model = torch.compile(net, backend=backend)
    function = torch.compile(lambda x: net(1 * x), backend=backend)
    before = state(net)
    for encode in (model, lambda x: model(1 * x), function):
        found = [pc.diagnose(from_callable(encode, latent_dim=2), ROWS) for _ in range(3)]
        assert was_training(found[0])
        assert found[0].kl == found[2].kl
        assert state(net) == before
    # Once each: hooks do not make torch compile anew at every look.
    assert len(compilations) == 2


def test_what_other_threads_train_goes_on_training() -> None:
    other, seen = nn.Dropout(0.5), []

    def train() -> None:
        other(ROWS)
        seen.append(other.training)

    def encode(x: Tensor) -> Any:
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        return x[:, :2], x[:, 2:]

    # Not found by references either: of another thread, not of the model.
    with evaluating(), torch.no_grad():
        encode(ROWS)
    assert seen == [True]


class Flipping(TensorDataset):
    """Data made by a network, as those of torchvision's transforms are."""

    seen: list[bool] = []  # noqa: RUF012
    transform = nn.Dropout(0.5)

    def __getitem__(self, index: int) -> Any:
        self.transform(ROWS)
        self.seen.append(self.transform.training)
        return super().__getitem__(index)


def test_what_transforms_data_is_left_as_it_is() -> None:
    net = Net().eval()
    model = from_callable(net, nn.Linear(2, 4), latent_dim=2, spec=pc.VAESpec(2))
    found = pc.diagnose(model, DataLoader(Flipping(ROWS), batch_size=3), importance_samples=2)
    assert Flipping.seen == [True] * 12
    # The decoder was made in training mode.
    assert was_training(found)


def test_a_model_without_modules_is_noted() -> None:
    def encode(x: Tensor) -> Any:
        return x[:, :2], x[:, 2:]

    def noted(model: Any) -> bool:
        found = pc.diagnose(model, ROWS, importance_samples=2 * model.decodes)
        notes = [note for note in found.notes if "no torch module" in note]
        assert len(notes) < 2
        return bool(notes)

    assert noted(from_callable(encode, latent_dim=2))
    assert noted(from_callable(encode, lambda z: z.repeat(1, 2), latent_dim=2))
    net = Net()
    assert not noted(from_callable(encode, latent_dim=2, modules=[net]))
    assert not noted(from_callable(AT_RUN_TIME["weak reference"](net), latent_dim=2))


def test_modules_may_be_named() -> None:
    net = Net().double()
    ref = weakref.ref(net)
    for named in ([net], net, iter([net, nn.Linear(1, 1)])):
        model = from_callable(lambda x: ref()(1 * x), latent_dim=2, modules=named)
        assert model.wrapped[0] is net
        assert model.posterior(1, ROWS).mean.dtype is torch.float64
    with pytest.raises(InvalidArgumentError, match="modules: got a str; expected torch modules"):
        from_callable(net, latent_dim=2, modules=["net"])


def test_tensors_tell_where_data_are_needed() -> None:
    weight = torch.ones(4, 4, dtype=torch.float64)
    assert tensor_behind(lambda x: (x @ weight).chunk(2, 1)) is not None
    model = from_callable(lambda x: (x @ weight).chunk(2, 1), latent_dim=2)
    assert pc.diagnose(model, ROWS).n == 6
    assert tensor_behind(nn.ReLU(), {"step": torch.tensor(3)}) is None


def test_the_search_ends() -> None:
    loop: list[Any] = [np.ones(3), "text"]
    loop += [loop, {"again": loop}, *([[number]] for number in range(100_000)), nn.Linear(1, 1)]
    assert modules_behind(loop) == []


def test_an_audit_leaves_the_loss_as_it_was() -> None:
    perceptual = nn.BatchNorm1d(4, dtype=torch.float64)

    def loss(y_hat: Tensor, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        perceptual(y)
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1).mean()
        return 0.5 * (y_hat - y).square().sum(-1).mean() + kl

    before = state(perceptual)
    assert audit_loss(loss, features=4, latents=2).value == pytest.approx(1.0)
    assert state(perceptual) == before
