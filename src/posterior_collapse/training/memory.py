"""Memory that a training step gives back and the next one takes again, kept meanwhile.

glibc returns large pieces to the system as soon as they are free, and the system clears each page
anew when it is asked again: of a convolutional network that is a quarter of a step.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

__all__ = ["keeping_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""What `mallopt` calls the free bytes that are returned, and the bytes of a piece of its own."""
MIB = 2**20


@contextlib.contextmanager
def keeping_memory() -> Iterator[None]:
    """Have free memory stay with the process, up to 1 GiB, until the context is left.

    Where the C library is another than glibc, nothing is done.

    Example:
        >>> with keeping_memory():
        ...     sum([1, 2])
        3
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    # Of 32 MiB, the most that glibc allows: it comes to that by itself as large pieces are freed.
    library.mallopt(MMAP_THRESHOLD, 32 * MIB)
    library.mallopt(TRIM_THRESHOLD, 1024 * MIB)
    try:
        yield
    finally:
        library.mallopt(TRIM_THRESHOLD, 64 * MIB)
        library.malloc_trim(0)
