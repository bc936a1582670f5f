"""What a program has set globally, put aside while the package computes.

One arithmetic for all that is trained and measured, random numbers that are given back, and
autograd that records where a slope is needed.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def arithmetic(*, rounded: bool = False) -> Iterator[None]:
    """Compute float32 products and convolutions in float32, the same at every call.

    `torch.set_float32_matmul_precision("high")`, which Lightning advises, makes products keep 10
    bits of each factor. A squared error taken as a difference of large numbers is then wrong
    altogether. cuDNN by itself rounds convolutions like that too, and may take another algorithm at
    each call.

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
        _newer_settings_aside(),
        torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=rounded
        ),
        _products("high" if rounded else "highest"),
    ):
        yield


@contextlib.contextmanager
def _newer_settings_aside() -> Iterator[None]:
    """Take back for a while what a program set by torch's newer interface (since 2.9).

    What it set for all products and convolutions would hold below as well; and where convolutions
    and recurrent networks differ, cuDNN's older setting refuses to be read.
    """
    backends: Any = torch.backends
    newer = hasattr(backends, "fp32_precision")
    settings = [backends.cudnn.conv, backends.cudnn.rnn, backends] if newer else []
    before = [setting.fp32_precision for setting in settings]
    if newer and before[-1] != "none":
        backends.fp32_precision = "none"
    for wanted in ("tf32", "ieee"):
        try:
            backends.cudnn.allow_tf32  # noqa: B018
            break
        except RuntimeError:
            for setting in settings[:-1]:
                setting.fp32_precision = wanted
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            if setting.fp32_precision != value:
                setting.fp32_precision = value


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
    if before == wanted:  # to set it all the same would decide what a program left open
        yield
        return
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Give random numbers back as they were: torch's on the CPU and a device, NumPy's, Python's.

    Models of other libraries draw from the global generators where only a distribution is wanted,
    and so do losses that are called, and loaders and transforms of data that are looked at.

    Example:
        >>> state = torch.get_rng_state()
        >>> with undisturbed(torch.device("cpu")):
        ...     _ = torch.randn(3)
        >>> torch.equal(state, torch.get_rng_state())
        True
    """
    states = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Let autograd record, although a program has turned it off around this.

    Lightning validates in inference mode. What was made in it outside has to be copied here before
    a gradient is taken through it.

    Example:
        >>> with torch.inference_mode(), recording():
        ...     torch.ones(1, requires_grad=True).exp().requires_grad
        True
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield
