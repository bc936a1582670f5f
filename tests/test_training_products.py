"""What a processor does faster: products and functions but for the last bits, and kept memory."""

from __future__ import annotations

import functools
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import posterior_collapse as pc
from posterior_collapse.models.activations import ACTIVATIONS
from posterior_collapse.models.global_state import arithmetic
from posterior_collapse.models.layers import STD_HEADS
from posterior_collapse.training import tracing
from posterior_collapse.training.tracing import trace

PAGES = 8 * 2**20 // resource.getpagesize()
X = np.random.default_rng(0).standard_normal((96, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


def test_the_other_library_is_taken_only_where_it_is_exact() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 300, 300, generator=generator)
    exact = a.double() @ b.double()
    taken = tracing.wide(torch.mm) if tracing.library() == "onednn" else torch.mm
    assert (taken(a, b) - exact).abs().max() < tracing.ERROR * exact.abs().max()


@pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul"), reason="torch has had the setting since 2.9"
)
def test_the_setting_is_as_before_after_each_product() -> None:
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    seen = []

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append(setting.fp32_precision)
        return a @ b

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        tracing.wide(product)(torch.ones(2, 3), torch.ones(2, 3))
    assert seen == ["bf16"]
    assert setting.fp32_precision == before


def test_large_products_of_a_trace_go_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []

    def spy(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        taken.append(tuple(a.shape))
        return torch.mm(a, b)

    monkeypatch.setattr(tracing, "library", lambda: "onednn")
    monkeypatch.setitem(tracing.WIDE, torch.ops.aten.mm.default, spy)
    large, small = torch.ones(200, 200), torch.ones(20, 20)
    traced = trace(lambda a, b: [a @ a, b @ b], large, small)
    taken.clear()
    found = traced(large, small)
    assert taken == [(200, 200)]
    assert torch.equal(found[0], large @ large)
    monkeypatch.setattr(tracing, "library", lambda: "mkl")
    taken.clear()
    trace(lambda a, b: [a @ a, b @ b], large, small)(large, small)
    assert taken == []


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_training_and_measuring_are_the_same_whatever_a_program_has_asked_for(
    precision: str,
) -> None:
    def run() -> tuple[pc.Fitted, float]:
        fitted = pc.fit(pc.VAESpec(2, sigma="input"), X, "mlp", hidden=(64,), epochs=2)
        return fitted, pc.diagnose(fitted, X).loss

    expected = run()
    torch.set_float32_matmul_precision(precision)
    found = run()
    assert torch.get_float32_matmul_precision() == precision
    assert found[0].history == expected[0].history
    assert found[1] == expected[1]


def test_what_was_set_is_set_again_after_an_error() -> None:
    torch.set_float32_matmul_precision("high")
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32

    def computing() -> None:
        with arithmetic():
            assert torch.backends.cudnn.deterministic
            assert not torch.backends.cudnn.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        computing()
    assert torch.get_float32_matmul_precision() == "high"
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32) == before


NEWER = pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has it since 2.9"
)


@NEWER
@pytest.mark.parametrize("where", [(), ("cudnn", "conv"), ("cudnn", "rnn"), ("cuda", "matmul")])
@pytest.mark.parametrize("value", ["tf32", "ieee"])
def test_newer_settings_hold_after_and_not_within(where: tuple[str, ...], value: str) -> None:
    backends = torch.backends
    settings = backends, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn
    told = functools.reduce(getattr, where, backends)
    before = told.fp32_precision
    told.fp32_precision = value
    try:
        asked = [setting.fp32_precision for setting in settings]
        with arithmetic():
            assert "tf32" not in [setting.fp32_precision for setting in settings]
        assert [setting.fp32_precision for setting in settings] == asked
    finally:
        told.fp32_precision = before


@NEWER
def test_what_was_left_open_is_left_open() -> None:
    products = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = [setting.fp32_precision for setting in products]
    for setting in products:
        setting.fp32_precision = "none"
    try:
        with arithmetic():
            pass
        # A program that sets torch.backends.fp32_precision later decides of these as well.
        assert [setting.fp32_precision for setting in products] == ["none", "none"]
    finally:
        for setting, value in zip(products, before, strict=True):
            setting.fp32_precision = value


def test_the_fast_tanh_is_one_and_stds_have_the_exact_one() -> None:
    value = torch.cat([torch.linspace(-20, 20, 4001), torch.logspace(-6, -1, 60)])
    value.requires_grad_()
    found = ACTIVATIONS["tanh"](value)
    exact = torch.tanh(value.double())
    assert (found - exact).abs().max() < 2e-7
    (slope,) = torch.autograd.grad(found.sum(), value)
    assert (slope - (1 - exact.square())).abs().max() < 5e-7
    # The log of a std near 0 is as good as the tanh is relative to itself.
    std = STD_HEADS["tanh"](value)
    (slope,) = torch.autograd.grad(std.log().sum(), value)
    expected = value.detach().double().requires_grad_()
    (reference,) = torch.autograd.grad(STD_HEADS["tanh"](expected).log().sum(), expected)
    torch.testing.assert_close(slope.double(), reference, rtol=1e-3, atol=1e-4)


CLEARED = """
import contextlib, ctypes, json, resource
from posterior_collapse.training.engine import keeping_memory

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def cleared():
    "Write to eight pieces of 8 MiB, give them back, and return how many pages were cleared."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [library.malloc(8 * 2**20) for _ in range(8)]
    for piece in pieces:
        ctypes.memset(piece, 1, 8 * 2**20)
    for piece in pieces:
        library.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for context in (contextlib.nullcontext, keeping_memory, contextlib.nullcontext):
    with context():
        print(json.dumps([cleared() for _ in range(4)]))
"""
"""In a process of its own: what others have left of the heap decides where a piece lies."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_pages_are_not_cleared_again() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    told = subprocess.run(
        [sys.executable, "-c", CLEARED], env=environment, capture_output=True, text=True, check=True
    )
    before, within, after = (json.loads(line) for line in told.stdout.splitlines())
    assert min(before + after) > 7 * PAGES  # of the 8 pieces
    assert max(within[1:]) < PAGES


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
