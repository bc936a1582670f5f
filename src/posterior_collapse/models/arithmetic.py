"""One arithmetic for all that is trained and measured, whatever a program has asked of torch.

`torch.set_float32_matmul_precision("high")`, which Lightning advises, makes products keep 10 bits
of each factor. A squared error taken as a difference of large numbers is then wrong altogether.
cuDNN by itself rounds convolutions like that too, and may take another algorithm at each call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["arithmetic"]


@contextlib.contextmanager
def arithmetic(*, rounded: bool = False) -> Iterator[None]:
    """Compute float32 products and convolutions in float32, the same at every call.

    What was set before is set again after; it is read when the context is entered.

    Args:
        rounded: Let a GPU's tensor cores round the factors to 10 bits (TF32).

    Example:
        >>> torch.set_float32_matmul_precision("high")
        >>> with arithmetic():
        ...     torch.get_float32_matmul_precision()
        'highest'
        >>> torch.get_float32_matmul_precision()
        'high'
        >>> torch.set_float32_matmul_precision("highest")
    """
    with (
        torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=rounded
        ),
        _products("high" if rounded else "highest"),
    ):
        yield


@contextlib.contextmanager
def _products(wanted: str) -> Iterator[None]:
    """Set the precision of products by the one of torch's two interfaces that a program uses."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer one was used, and the older one refuses to be asked
        newer = torch.backends.cuda.matmul
        kept = newer.fp32_precision
        newer.fp32_precision = "ieee"
        try:
            yield
        finally:
            newer.fp32_precision = kept
        return
    if before == wanted:
        yield
        return
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
