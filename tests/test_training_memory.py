"""Memory that steps give back stays with the process, so that no page is cleared anew."""

import platform
import resource

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.training.engine import keeping_memory

PAGES = 8 * 2**20 // resource.getpagesize()


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def step() -> None:
    """Write to 64 MiB, in pieces of 8, and give them back."""
    pieces = [torch.empty(2 * 2**20) for _ in range(8)]
    for piece in pieces:
        piece.fill_(1.0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_pages_are_not_cleared_again() -> None:
    with keeping_memory():
        for _ in range(4):  # until the pieces have found their places
            step()
        before = faults()
        for _ in range(4):
            step()
        assert faults() - before < PAGES  # one piece of the 32


def test_training_keeps_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = []

    class Told:
        def __enter__(self) -> None:
            inside.append(True)

        def __exit__(self, *_: object) -> None:
            inside.append(False)

    monkeypatch.setattr("posterior_collapse.training.engine.keeping_memory", Told)
    x = np.random.default_rng(0).standard_normal((64, 4))
    seen = []
    pc.fit(
        pc.VAESpec(latent_dim=2), x, "mlp", hidden=(4,), epochs=1,
        progress=lambda _: seen.append(inside[-1]),
    )  # fmt: skip
    assert seen == [True]
    assert inside == [True, False]
