"""Which encoders `CollapseMonitor` takes, and what it looks at with them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from posterior_collapse import DataError, InvalidArgumentError

pytest.importorskip("lightning.pytorch")
from monitored import DIGITS, Module, kl_of, train
from posterior_collapse.adapters.lightning import CollapseMonitor

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*treespec"
)


def test_an_encode_of_more_than_a_batch_is_refused_by_name() -> None:
    module = Module()
    module.encode = lambda x, y: (x, y)
    with pytest.raises(InvalidArgumentError, match=r"missing a required argument: 'y'.*batch"):
        train(CollapseMonitor(), module)


class Halves(Module):
    """It encodes by a function of torch's, of whose arguments Python knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = partial(torch.chunk, chunks=2, dim=1)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.decoder(self.encode(batch[0])[0][:, :5]).square().mean()


def test_an_encode_whose_arguments_are_not_known_is_called() -> None:
    monitor = CollapseMonitor()
    train(monitor, Halves(), max_epochs=1)
    mean, log_var = DIGITS.chunk(2, dim=1)
    kl = kl_of(mean, log_var)
    torch.testing.assert_close(torch.tensor(monitor.history[-1].kl), kl, rtol=1e-5, atol=1e-7)


def test_own_encoder_data_and_few_samples() -> None:
    seen = []

    def encode(module: Module, batch: Any) -> Any:
        seen.append(len(batch["x"]))
        mean, log_var = module.encode(batch["x"])
        return torch.distributions.Normal(mean, (0.5 * log_var).exp())

    batches = [{"name": ["a"], "x": part} for part in DIGITS.split(30)]
    monitor = CollapseMonitor(encode, data=batches, samples=70, per_unit=False)
    train(monitor, max_epochs=1)
    assert seen[:3] == [30, 30, 30]
    assert len(seen) == 3 * len(monitor.history)
    one = CollapseMonitor(data=DIGITS)
    train(one, max_epochs=1)
    assert one.history[0].step == 0


@pytest.mark.parametrize("kind", ["sample too", "MultivariateNormal", "image"])
def test_posteriors_as_encoders_return_them(kind: str) -> None:
    def encode(module: Module, batch: Any) -> Any:
        mean, log_var = module.encode(batch[0])
        if kind == "sample too":
            return mean, log_var, mean + (log_var / 2).exp() * torch.randn_like(mean)
        if kind == "image":
            return mean[:, :, None, None], log_var[:, :, None, None]
        return torch.distributions.MultivariateNormal(mean, torch.diag_embed(log_var.exp()))

    monitor, plain = CollapseMonitor(encode), CollapseMonitor()
    train(monitor, max_epochs=1)
    train(plain, max_epochs=1)
    assert monitor.history[-1].kl == pytest.approx(plain.history[-1].kl, rel=1e-4, abs=1e-6)


def test_nothing_to_look_at_and_no_encoder() -> None:
    for data in ([], [["no tensor"]]):
        with pytest.raises(DataError, match="data: got"):
            train(CollapseMonitor(data=data))
    with pytest.raises(InvalidArgumentError, match="without a method encode"):
        train(CollapseMonitor(), type("Plain", (Module,), {"encode": None})())


def test_an_encode_that_writes_into_its_batch_sees_the_same_rows_again() -> None:
    rows, histories = DIGITS.clone(), []
    for encode in (
        lambda module, x: module.encode(x - 0.5),
        lambda module, x: module.encode(x.sub_(0.5)),
    ):
        torch.manual_seed(0)
        monitor = CollapseMonitor(encode, data=rows)
        train(monitor, Module(), max_epochs=1)
        histories.append(monitor.history)
    assert len(histories[0]) > 1
    assert histories[0] == histories[1]
    assert torch.equal(rows, DIGITS)
