"""Other libraries: what to say when one is not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from posterior_collapse import errors


@contextlib.contextmanager
def needing(library: str, purpose: str) -> Iterator[None]:
    """Turn a failed import of a library, as pip calls it, into an error that says what to do.

    A library that is there and broken says so itself.

    Example:
        >>> with needing("pythae", "run"):
        ...     raise ImportError("No module named 'pythae'")
        Traceback (most recent call last):
        posterior_collapse.errors.MissingDependencyError: pythae: got "No module named 'pythae'...
    """
    action = f"Run pip install {library}."
    with errors.needing(library, f"it to {purpose}", action, perhaps_broken=True):
        yield
