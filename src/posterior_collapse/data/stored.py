"""Files of several arrays: each is read and checked when it is asked for by its name."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from posterior_collapse.data.checking import reading

__all__ = ["StoredArrays"]


class StoredArrays(Mapping[str, Any]):
    """The arrays of a file by name.

    Args:
        path: The file.

    Attributes:
        expected: What the file must be, for errors.
        action: What to do about one that is not.

    Raises:
        CorruptFileError: It is no such file.
        MissingDependencyError: The library that reads such files is not installed.
    """

    expected: ClassVar[str]
    action: ClassVar[str] = "Write it again."

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._reading():
            self._places = self._found()

    def __getitem__(self, name: str) -> Any:
        """Return an array.

        Raises:
            CorruptFileError: It is damaged, or what it holds are no numbers.
            DataError: It takes too much memory.
        """
        place = self._places[name]
        with self._reading():
            return self._read(place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @abc.abstractmethod
    def _found(self) -> Mapping[str, Any]:
        """Return where in the file each array is, by its name."""

    @abc.abstractmethod
    def _read(self, place: Any) -> Any:
        """Return the array at a place, once it is known to fit the memory."""

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        return reading(self._path, self.expected, self.action)
