"""Say which latent units of a VAE will collapse, show which did, and say what to change.

Names are imported when first used, so that importing the package is fast and never needs an
optional library; `__init__.pyi` says which room each of them lives in.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import lazy_loader

from posterior_collapse.errors import needing_torch
from posterior_collapse.records import Seen

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needing_torch():
        return _load(name)


def _views() -> ModuleType:
    from posterior_collapse import report

    return report


Seen.views = staticmethod(_views)
