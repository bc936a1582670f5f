"""Large products of matrices by the faster of the two libraries that torch brings for a processor.

Intel's MKL leaves AMD processors to instructions of half the width. oneDNN does not, and torch
calls it for float32 products where it may round them to bfloat16: without instructions for such
products, it does not round. That is tested, once; by which library a processor multiplies follows
from what it is and not from a stopwatch, so that two processes give the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LARGE", "library", "wide"]

LARGE = 8e6
"""Floating-point operations per matrix from which a product is worth the change of library."""
ERROR = 4e-6
"""Of a product of random matrices, relative to its largest entry; bfloat16 has 4e-3."""


@functools.cache
def library() -> str:
    """Return by which library large float32 products are taken: `"onednn"` or `"mkl"`.

    Example:
        >>> library() in ("onednn", "mkl")
        True
    """
    backends: Any = torch.backends
    # torch has the setting since 2.9.
    settable = backends.mkldnn.is_available() and hasattr(backends.mkldnn, "matmul")
    if not (settable and backends.mkl.is_available()):
        return "mkl"
    if _vendor() != "AuthenticAMD" or backends.cpu.get_cpu_capability() != "AVX512":
        return "mkl"
    generator = torch.Generator("cpu").manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator, device="cpu")
    exact = a.double() @ b.double()
    error = (wide(torch.mm)(a, b) - exact).abs().max() / exact.abs().max()
    return "onednn" if float(error) < ERROR else "mkl"


def wide(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a product of torch as oneDNN takes it; the setting is as before after each call."""

    @functools.wraps(product)
    def taken(*arguments: Tensor) -> Tensor:
        backends: Any = torch.backends
        setting = backends.mkldnn.matmul
        before = setting.fp32_precision
        setting.fp32_precision = "bf16"
        try:
            return product(*arguments)
        finally:
            setting.fp32_precision = before

    return taken


def _vendor() -> str:
    """The maker of the processor, which Linux keeps in a file."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                (line.split(":")[1].strip() for line in file if line.startswith("vendor_id")), ""
            )
    except OSError:
        return ""
