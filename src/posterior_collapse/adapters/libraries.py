"""What to say when another library is not there."""

from __future__ import annotations

from posterior_collapse.errors import MissingDependencyError

__all__ = ["missing"]


def missing(library: str, purpose: str, error: ImportError) -> MissingDependencyError:
    """Return the error to raise from a failed import.

    Args:
        library: What pip calls it.
        purpose: What it is needed for.
        error: The failure; a library that is there but broken says so itself.

    Example:
        >>> print(missing("pythae", "run", ImportError("No module named 'pythae'")))
        pythae: got "No module named 'pythae'"; expected it to run. Run pip install pythae.
    """
    return MissingDependencyError(
        library, f'"{error}"', f"it to {purpose}", f"Run pip install {library}."
    )
