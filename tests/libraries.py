"""Libraries that are as if they were not installed."""

import builtins
from typing import Any

import pytest


def without(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Let every import of it fail."""
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == library:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
