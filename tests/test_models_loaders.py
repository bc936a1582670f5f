"""Loaders are read in an order of the seed, and every generator goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
)

import posterior_collapse as pc
from posterior_collapse.data.samples import seeded
from posterior_collapse.models import build
from posterior_collapse.models.batches import batches, rows_at_hand

ROWS = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(ROWS)


class Augmented(TensorDataset):
    """Draws from torch's global generator for each row, as a transform does."""

    def __getitem__(self, index: int) -> Any:
        (row,) = super().__getitem__(index)
        return (row + 0.1 * torch.randn(3),)


def by_sampler(generator: torch.Generator) -> DataLoader[Any]:
    return DataLoader(DATA, 7, sampler=RandomSampler(DATA, generator=generator))


def by_batches(generator: torch.Generator) -> DataLoader[Any]:
    groups = BatchSampler(RandomSampler(DATA, generator=generator), 7, drop_last=False)
    return DataLoader(DATA, batch_sampler=groups)


LOADERS: dict[str, Callable[[torch.Generator], DataLoader[Any]]] = {
    "global": lambda generator: DataLoader(DATA, 7, shuffle=True),
    "own": lambda generator: DataLoader(DATA, 7, shuffle=True, generator=generator),
    "sampler's": by_sampler,
    "batch sampler's": by_batches,
    "augmented": lambda generator: DataLoader(Augmented(ROWS), 7, shuffle=True),
    "augmented, own": lambda g: DataLoader(Augmented(ROWS), 7, shuffle=True, generator=g),
    "workers": lambda generator: DataLoader(Augmented(ROWS), 7, shuffle=True, num_workers=2),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_the_seed_decides_and_generators_go_on(kind: str) -> None:
    generator = torch.Generator().manual_seed(5)
    loader = LOADERS[kind](generator)
    for _ in range(2):
        torch.manual_seed(9)
        before = torch.get_rng_state(), generator.get_state()
        first, same, other = (torch.cat([x for (x,) in seeded(loader, seed)]) for seed in (0, 0, 1))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert torch.equal(generator.get_state(), before[1])


def test_whoever_uses_a_batch_draws_from_his_own_state() -> None:
    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    batches = seeded(LOADERS["augmented"](torch.Generator()), 0)
    drawn = [torch.randn(()) for _, _ in zip(batches, range(3), strict=False)]
    assert torch.equal(torch.stack(drawn), expected)
    # One that is left unfinished takes nothing back later.
    state = torch.get_rng_state()
    del batches
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def seedings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the devices whose global generators are seeded."""
    seeded_here: list[str] = []
    for name in ("cuda", "mps", "xpu"):
        device = getattr(torch, name)
        for function in ("manual_seed", "manual_seed_all", "set_rng_state", "set_rng_state_all"):
            if hasattr(device, function):
                record = lambda *args, where=f"{name}.{function}": seeded_here.append(where)  # noqa: E731
                monkeypatch.setattr(device, function, record)
    torch.manual_seed(0)
    assert {name.partition(".")[0] for name in seeded_here} >= {"cuda"}
    seeded_here.clear()
    return seeded_here


@pytest.mark.parametrize("kind", ["global", "own"])
def test_no_device_is_seeded(kind: str, seedings: list[str]) -> None:
    """Its global generator is the one that a user's training draws from."""
    loader = LOADERS[kind](torch.Generator())
    model = pc.fit(pc.VAESpec(2), loader, "mlp", epochs=2, hidden=(3,)).model
    pc.diagnose(model, loader, importance_samples=2)
    build(pc.VAESpec(2), "linear", x_dim=3)
    assert seedings == []


@pytest.mark.parametrize("kind", LOADERS)
def test_the_order_is_that_of_a_seeded_generator(kind: str) -> None:
    """What a resumed run and kept results rely on."""
    generator = torch.Generator()
    loader = LOADERS[kind](generator)
    found = torch.cat([x for (x,) in seeded(loader, 4)])
    torch.manual_seed(4)
    generator.manual_seed(4)
    assert torch.equal(found, torch.cat([x for (x,) in loader]))


class Guessed(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(ROWS)

    def __len__(self) -> int:
        return 10**9


class Uncounted(Sampler[int]):
    def __iter__(self) -> Any:
        return iter(range(10))

    def __len__(self) -> int:
        raise NotImplementedError


def of_unknown_chunks() -> Any:
    da = pytest.importorskip("dask.array")
    rows = da.from_array(ROWS.numpy(), chunks=(20, 3))
    return rows[rows[:, 0] > 0]


COUNTED: dict[str, tuple[Callable[[], Any], bool]] = {
    "array": (ROWS.numpy, True),
    "data set": (lambda: DATA, True),
    "loader": (lambda: DataLoader(DATA, 7), True),
    "drops the last": (lambda: DataLoader(DATA, 40, drop_last=True), True),
    "draws some": (lambda: DataLoader(DATA, 7, sampler=RandomSampler(DATA, num_samples=9)), True),
    "groups of some": (
        lambda: DataLoader(
            DATA, batch_sampler=BatchSampler(SubsetRandomSampler(range(11)), 4, drop_last=True)
        ),
        True,
    ),
    "batches": (lambda: [ROWS[:9], ROWS[9:]], False),
    "data set read to its end": (Guessed, False),
    "its loader": (lambda: DataLoader(Guessed(), 7), False),
    "sampler that cannot say": (lambda: DataLoader(DATA, 7, sampler=Uncounted()), False),
    "dask of unknown chunks": (of_unknown_chunks, False),
}


@pytest.mark.parametrize("name", COUNTED)
def test_rows_are_counted_beforehand_right_or_not_at_all(name: str) -> None:
    make, counted = COUNTED[name]
    model = build(pc.VAESpec(2), "linear", x_dim=3)
    come = sum(len(x) for x, _ in batches(model, make()))
    assert rows_at_hand(make()) == (come if counted else None)
    assert pc.diagnose(model, make()).n == come
