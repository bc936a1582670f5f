"""Without the other library, an adapter says what to install."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fresh import output
from posterior_collapse.adapters import from_diffusers, from_pyro, from_pythae, from_scvi
from posterior_collapse.errors import MissingDependencyError


def load(module: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(f"posterior_collapse.adapters.{module}")


@pytest.mark.parametrize(
    ("use", "imported", "library"),
    [
        (lambda: from_pythae(object()), ["pythae.models"], "pythae"),
        (lambda: from_diffusers(object()), ["diffusers"], "diffusers"),
        (lambda: from_pyro(print, print, object()), ["pyro"], "pyro-ppl"),
        (lambda: from_scvi(object()), ["scvi", "scvi.module"], "scvi-tools"),
        (load("metrics"), ["torchmetrics"], "torchmetrics"),
        (load("lightning"), ["lightning.pytorch", "pytorch_lightning"], "lightning"),
    ],
)
def test_a_missing_library_is_named(
    use: Callable[[], Any], imported: list[str], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in imported:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    for name in ("metrics", "lightning"):
        monkeypatch.delitem(sys.modules, f"posterior_collapse.adapters.{name}", False)
    with pytest.raises(MissingDependencyError, match=f"Run pip install {library}") as caught:
        use()
    assert isinstance(caught.value.__cause__, ImportError)


def test_nothing_is_imported_before_it_is_needed() -> None:
    output(
        "import sys, posterior_collapse.adapters\n"
        "libraries = {'diffusers', 'lightning', 'pyro', 'pythae', 'scvi', 'torchmetrics'}\n"
        "sys.exit(bool(libraries & set(sys.modules)))"
    )
