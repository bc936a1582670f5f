"""Every error this package raises on purpose.

* PosteriorCollapseError
    * InvalidArgumentError (ValueError): a hyperparameter or option is out of its domain.
    * DataError (ValueError): the data cannot be used as they are.
        * UnknownDatasetError: no dataset and no file has that name.
        * MissingFileError (FileNotFoundError): a named file is not there.
        * CorruptFileError: a file is there but is not what its name says.
        * DownloadError: no mirror delivered the file with the right checksum.
    * NotSolvedError (NotImplementedError): the global optimum has no known closed form.
    * UnboundedObjectiveError (ArithmeticError): the objective has no minimum.
    * TrainingError (RuntimeError): a run cannot go on.
        * NonFiniteLossError (ArithmeticError): the loss became NaN or infinite.
        * CheckpointError: no checkpoint of the run can be used.
    * OutputError (OSError): a result cannot be written.
    * MissingDependencyError (ImportError): an optional library is needed.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import lazy_loader


class PosteriorCollapseError(Exception):
    """Base of all errors: what was wrong, what it was, what it must be, what to do.

    Args:
        argument: The argument, column or file that is wrong.
        got: What it was.
        expected: What it must be.
        action: What to do about it, as a full sentence.

    Example:
        >>> print(InvalidArgumentError("beta", -1.0, "a positive number", "Pass beta=1.0."))
        beta: got -1.0; expected a positive number. Pass beta=1.0.
    """

    def __init__(self, argument: str, got: object, expected: str, action: str) -> None:
        super().__init__(argument, got, expected, action)
        self.argument = argument
        self.got = got
        self.expected = expected
        self.action = action

    def __reduce__(self) -> tuple[object, ...]:
        # Pickled whole, to reach another process: OSError's own way would drop our fields.
        return type(self), (self.argument, self.got, self.expected, self.action)

    def __str__(self) -> str:
        text = f"{self.argument}: got {self.got}; expected {self.expected}. {self.action}"
        return "\\n".join(text.splitlines())  # a name may hold line breaks


class InvalidArgumentError(PosteriorCollapseError, ValueError):
    """A hyperparameter or option is out of its domain."""


class DataError(PosteriorCollapseError, ValueError):
    """The data cannot be used as they are."""


class UnknownDatasetError(DataError):
    """No dataset and no file has that name."""


class MissingFileError(DataError, FileNotFoundError):
    """A named file is not there."""


class CorruptFileError(DataError):
    """A file is there but is not what its name says."""


class DownloadError(DataError):
    """No mirror delivered the file with the right checksum."""


class NotSolvedError(PosteriorCollapseError, NotImplementedError):
    """The global optimum of this case has no known closed form."""


class UnboundedObjectiveError(PosteriorCollapseError, ArithmeticError):
    """The objective has no minimum: some path lowers the loss for ever."""


class TrainingError(PosteriorCollapseError, RuntimeError):
    """A training run cannot go on."""


class NonFiniteLossError(TrainingError, ArithmeticError):
    """The loss became NaN or infinite."""


class CheckpointError(TrainingError):
    """No checkpoint of the run can be used."""


class OutputError(PosteriorCollapseError, OSError):
    """A result cannot be written where it was asked for."""


class MissingDependencyError(PosteriorCollapseError, ImportError):
    """An optional library is needed and not installed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name nearest to ``name``, or nothing.

    Example:
        >>> nearest("minst", ["mnist", "digits"])
        " Did you mean 'mnist'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def first_line(error: BaseException) -> str:
    r"""Return the first line of what an error says, or nothing if it says nothing.

    Example:
        >>> first_line(ValueError("no number\nat byte 7")), first_line(ValueError())
        ('no number', '')
    """
    return next(iter(str(error).splitlines()), "")


def listed(names: Sequence[object], most: int = 12) -> str:
    """Return names as a list in words, cut where it gets long.

    Example:
        >>> listed(["a", "b"]), listed(range(1000), most=3)
        ("['a', 'b']", '[0, 1, 2, ... (1,000 in all)]')
    """
    shown = [repr(name) for name in names[:most]]
    if len(names) > most:
        shown.append(f"... ({len(names):,} in all)")
    return f"[{', '.join(shown)}]"


def enumerated(words: Sequence[str]) -> str:
    """Return words as a sentence has them.

    Example:
        >>> enumerated(["E1", "E2", "E3"]), enumerated(["E1"])
        ('E1, E2 and E3', 'E1')
    """
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def count_of(count: int, name: str) -> str:
    """Return a number of things in words.

    Example:
        >>> count_of(1, "unit"), count_of(2_000, "unit")
        ('1 unit', '2,000 units')
    """
    return f"{count:,} {name}{'s' * (count != 1)}"


def of_level(number: int, levels: int) -> str:
    """Return which of several levels something is of; nothing of a single one.

    Example:
        >>> f"KL{of_level(2, 2)}", f"KL{of_level(1, 1)}"
        ('KL of z2', 'KL')
    """
    return f" of z{number}" if levels > 1 else ""


def at_level(number: int, levels: int) -> str:
    """Return how a sentence about one of several levels begins.

    Example:
        >>> f"{at_level(2, 2)}3 of 8 units active", f"{at_level(1, 1)}3 of 8 units active"
        ('z2: 3 of 8 units active', '3 of 8 units active')
    """
    return f"z{number}: " if levels > 1 else ""


@contextlib.contextmanager
def needing(
    library: str, purpose: str, action: str, *, perhaps_broken: bool = False
) -> Iterator[None]:
    """Turn a failed import into a `MissingDependencyError`.

    Args:
        library: What is imported.
        purpose: What it is for, such as "h5py, to read such files".
        action: How to install it, as a full sentence.
        perhaps_broken: Whether it may be there and fail: then its own words are told.

    Example:
        >>> with needing("pandas", "pandas for a table", "Run pip install pandas."):
        ...     raise ImportError("No module named 'pandas'")
        Traceback (most recent call last):
        posterior_collapse.errors.MissingDependencyError: pandas: got no such library; expected ...
    """
    try:
        yield
    except ImportError as error:
        got = f'"{error}"' if perhaps_broken else "no such library"
        raise MissingDependencyError(library, got, purpose, action) from error


@contextlib.contextmanager
def needing_torch() -> Iterator[None]:
    """Turn a failed import of torch into a `MissingDependencyError` that says what to do."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise MissingDependencyError(
            "torch",
            "no such library",
            "torch to build, train and diagnose models",
            "Run pip install 'posterior-collapse[torch]'.",
        ) from error


def lazily(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__`, `__all__` of a package whose names load when first used.

    What is refused before anything is trained needs no torch, and does not wait for it.

    Args:
        package: Its `__name__`.
        file: Its `__file__`; the stub beside it says which module each name is from.
    """
    load, names, every = lazy_loader.attach_stub(package, file)
    sys.modules[package].__class__ = _Lazy

    def named(name: str) -> Any:
        if name not in every:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with needing_torch():
            return load(name)

    return named, names, every


class _Lazy(ModuleType):
    """A package in which a name means what is in the module of that name, not the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in self.__dict__.get("__all__", ())):
            super().__setattr__(name, value)


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn an operating-system refusal to write ``path`` into an `OutputError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            str(path), f"'{reason}'", "a path that can be written", "Choose another output path."
        ) from error
