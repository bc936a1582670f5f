"""The torchmetrics: against NumPy, batch by batch, merged, and across two real processes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, distributed

import posterior_collapse as pc
from posterior_collapse import InvalidArgumentError

torchmetrics = pytest.importorskip("torchmetrics")
from posterior_collapse.adapters.metrics import (  # noqa: E402
    ActiveUnits,
    EpsilonDeltaCollapse,
    InformationPerUnit,
    KLPerUnit,
)

UNITS = 4
NAMES = ["kl", "information", "active", "collapse"]


def posteriors(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit 0 is live, 1 dead, 2 has a KL but no mean, 3 is dead but for every tenth row."""
    rng = np.random.default_rng(seed)
    mean = np.zeros((rows, UNITS))
    std = np.ones((rows, UNITS))
    mean[:, 0], std[:, 0] = rng.standard_normal(rows), 0.3
    std[:, 2] = 0.5
    mean[::10, 3] = 1.0
    return torch.tensor(mean), torch.tensor(std)


def made(name: str) -> Any:
    return {
        "kl": lambda: KLPerUnit(UNITS, prior_std=1.5),
        "information": lambda: InformationPerUnit(UNITS),
        "active": lambda: ActiveUnits(UNITS),
        "collapse": lambda: EpsilonDeltaCollapse(UNITS, epsilon=0.01, delta=0.1),
    }[name]()


def test_kl_is_the_integral() -> None:
    metric = KLPerUnit(1, prior_std=1.5)
    metric.update(
        torch.full((1, 1), 0.7, dtype=torch.float64), torch.full((1, 1), 0.4, dtype=torch.float64)
    )
    q, p = stats.norm(0.7, 0.4), stats.norm(0, 1.5)
    kl, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -5, 6)
    assert metric.compute().item() == pytest.approx(kl, abs=1e-9)


def test_active_units_are_those_whose_mean_varies() -> None:
    mean, std = posteriors(200)
    metric = ActiveUnits(UNITS)
    metric.update(mean, std)
    np.testing.assert_allclose(metric.variance(), mean.numpy().var(0), atol=1e-14)
    assert metric.compute().item() == 2  # units 0 and 3; unit 2 has a KL but tells nothing
    above = ActiveUnits(UNITS, threshold=0.5)
    above.update(mean)
    assert above.compute().item() == 1


def test_information_is_that_of_a_gaussian_channel() -> None:
    mean, std = posteriors(200)
    metric = InformationPerUnit(UNITS)
    metric.update(mean, std)
    variance = mean.numpy().var(0)
    expected = 0.5 * np.log((variance + std.numpy()[0] ** 2) / std.numpy()[0] ** 2)
    np.testing.assert_allclose(metric.compute(), expected, rtol=1e-12, atol=1e-14)
    assert metric.compute()[2] == 0  # a KL, and no information


def test_information_does_not_depend_on_the_scale_as_active_units_do() -> None:
    mean, std = posteriors(200)
    information, active = InformationPerUnit(UNITS), ActiveUnits(UNITS)
    information.update(0.01 * mean, 0.01 * std)
    active.update(0.01 * mean)
    whole = InformationPerUnit(UNITS)
    whole.update(mean, std)
    torch.testing.assert_close(information.compute(), whole.compute())
    assert active.compute().item() == 0


@pytest.mark.parametrize(
    ("delta", "collapsed"),
    [(0.1, [False, True, False, True]), (0.0999, [False, True, False, False])],
)
def test_epsilon_delta_counts_rows(delta: float, collapsed: list[bool]) -> None:
    metric = EpsilonDeltaCollapse(UNITS, epsilon=0.01, delta=delta)
    metric.update(*posteriors(100))
    assert metric.collapsed().tolist() == collapsed
    assert metric.compute().item() == sum(collapsed) / UNITS


def test_a_share_of_exactly_delta_counts_whatever_its_rounding() -> None:
    metric = EpsilonDeltaCollapse(1, delta=0.29)
    assert 0.29 * 100 < 29
    metric.update(torch.where(torch.arange(100) < 29, 1.0, 0.0)[:, None], torch.ones(100, 1))
    assert metric.collapsed().tolist() == [True]


@pytest.mark.parametrize("name", NAMES)
def test_batches_and_merging_do_not_matter(name: str) -> None:
    mean, std = posteriors(101)
    whole, batched, part, other = (made(name) for _ in range(4))
    whole.update(mean, std)
    for m, s in zip(mean.split(20), std.split(20), strict=True):  # the last batch has one row
        batched(m, s)
    part.update(mean[:30], std[:30])
    other.update(mean[30:], std[30:])
    part.merge_state(other)
    for metric in (batched, part, pickle.loads(pickle.dumps(whole))):
        torch.testing.assert_close(metric.compute(), whole.compute(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (EpsilonDeltaCollapse, {"epsilon": 0.5}),
        (EpsilonDeltaCollapse, {"prior_std": 1.5}),
        (EpsilonDeltaCollapse, {"epsilon": 1e-9}),
        (KLPerUnit, {"prior_std": 2.0}),
    ],
)
def test_those_of_a_collection_are_what_they_are_alone(kind: Any, changes: Any) -> None:
    """A first batch on which two of them agree does not make them one."""
    prior = changes.get("prior_std", 1.0)
    # Of this mean both of `KLPerUnit` sum the same at first.
    square = 2 * np.log(prior) / (1 - prior**-2) - 1 if kind is KLPerUnit else 9.0
    first, small = torch.full((2, UNITS), square).sqrt(), torch.full((50, UNITS), 1e-3)
    batches = [(first, torch.ones(2, UNITS)), posteriors(100), (small, torch.ones(50, UNITS))]
    alone = {"one": kind(UNITS), "other": kind(UNITS, **changes)}
    collection = torchmetrics.MetricCollection({n: one.clone() for n, one in alone.items()})
    for batch in batches:
        for metric in (collection, *alone.values()):
            metric.update(*batch)
    found = collection.compute()
    for name, metric in alone.items():
        torch.testing.assert_close(found[name], metric.compute(), msg=name)
    assert not torch.equal(found["one"], found["other"])


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_posteriors_are_summed_in_double(name: str) -> None:
    metric = made(name)
    metric.update(*(v.float() for v in posteriors(50)))
    assert all(value.dtype == torch.float64 for value in metric.metric_state.values())


def test_degenerate_posteriors_show_in_the_result() -> None:
    kl, information = KLPerUnit(3), InformationPerUnit(3)
    mean = torch.tensor([[1.0, 0.0, torch.nan], [-1.0, 0.0, 0.0]])
    std = torch.tensor([[0.0, 1.0, 1.0]] * 2)
    for metric in (kl, information):
        metric.update(mean, std)
        first, second, third = metric.compute().tolist()
        assert (first, second) == (torch.inf, 0.0)
        assert third != third


def run_process(rank: int, folder: str) -> None:
    store = distributed.FileStore(f"{folder}/store", 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    mean, std = posteriors(101)
    part = slice(0, 30) if rank == 0 else slice(30, None)
    found = {}
    for name in NAMES:
        metric = made(name)
        metric.update(mean[part], std[part])
        found[name] = metric.compute()
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(
        run_process, args=(str(tmp_path),), nprocs=2, start_method="fork"
    )
    mean, std = posteriors(101)
    for rank in (0, 1):
        for name, value in torch.load(tmp_path / f"{rank}.pt").items():
            metric = made(name)
            metric.update(mean, std)
            torch.testing.assert_close(value, metric.compute(), rtol=1e-13, atol=1e-13)


def test_they_live_in_a_collection() -> None:
    collection = torchmetrics.MetricCollection([KLPerUnit(UNITS), ActiveUnits(UNITS)])
    collection.update(*posteriors(50))
    assert set(collection.compute()) == {"KLPerUnit", "ActiveUnits"}


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (torch.zeros(3, 5), torch.ones(3, 5), r"shape \(3, 5\); expected \(batch, 4\)"),
        (torch.zeros(4), torch.ones(4), r"shape \(4,\)"),
        (torch.zeros(3, 4), torch.full((3, 4), -2.0), r"a negative value \(-2\).*exp()"),
        (torch.zeros(3, 4), torch.ones(3), "std: got shape"),
    ],
)
def test_bad_posteriors(mean: Tensor, std: Tensor, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        KLPerUnit(UNITS).update(mean, std)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KLPerUnit(0), "latent_dim"),
        (lambda: KLPerUnit(2, prior_std=0.0), "prior_std"),
        (lambda: ActiveUnits(2, threshold=-1.0), "threshold"),
        (lambda: EpsilonDeltaCollapse(2, epsilon=0.0), "epsilon"),
        (lambda: EpsilonDeltaCollapse(2, delta=1.0), "delta"),
    ],
)
def test_bad_options(make: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        make()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_to_compute_from() -> None:
    with pytest.raises(InvalidArgumentError, match="no samples"):
        KLPerUnit(UNITS).compute()


@pytest.mark.parametrize("architecture", ["linear", "mlp"])
def test_they_say_of_a_model_what_diagnose_says_of_it(architecture: str) -> None:
    """Burda's active units are not those that `n_active` counts, and both find their own."""
    scales = np.array([3, 2, 1.3, 1.1, 0.3])
    x = np.random.default_rng(5).standard_normal((240, 5)) * scales
    fitted = pc.fit(
        pc.VAESpec(4, beta=1.5), x, architecture, epochs=40, learning_rate=0.01, batch_size=60
    )
    (level,) = pc.diagnose(fitted, x).levels
    posterior = fitted.model.posterior(1, torch.tensor(x, dtype=torch.float32))
    mean, std = posterior.mean, posterior.stddev
    collection = torchmetrics.MetricCollection(
        [KLPerUnit(4), InformationPerUnit(4), ActiveUnits(4), EpsilonDeltaCollapse(4)]
    )
    for m, s in zip(mean.split(50), std.split(50), strict=True):
        collection.update(m, s)
    found = collection.compute()
    np.testing.assert_allclose(found["KLPerUnit"], level.kl, rtol=1e-4, atol=1e-6)
    information = found["InformationPerUnit"].numpy()
    np.testing.assert_allclose(information, level.gaussian_information, rtol=1e-4, atol=1e-6)
    assert (level.information <= information + 1e-6).all()
    variance = collection["ActiveUnits"].variance()
    np.testing.assert_allclose(variance, level.mean_variance, rtol=1e-4, atol=1e-9)
    assert found["ActiveUnits"] == level.active_units.sum() == (mean.var(0) > 0.01).sum()
    assert found["EpsilonDeltaCollapse"] == level.epsilon_delta_collapsed.mean()


def test_information_told_by_the_width_alone_is_bounded_too() -> None:
    """Rows whose posteriors differ in std only, beside the integral over their mixture."""
    std = torch.tensor([0.2, 2.0], dtype=torch.float64).repeat(50)[:, None]
    metric = InformationPerUnit(1)
    metric.update(torch.zeros_like(std), std)

    def of(z: float) -> float:
        parts = [stats.norm(0, s).pdf(z) for s in (0.2, 2.0)]
        q = sum(parts) / 2
        return sum(p * np.log(p / q) for p in parts if p > 0) / 2

    exact, _ = integrate.quad(of, -20, 20, points=[0.0], limit=200)
    assert exact > 0.2
    assert exact <= metric.compute().item() == pytest.approx(0.5 * np.log(2.02 / 0.4), rel=1e-12)
