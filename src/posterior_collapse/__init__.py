"""Say which latent units of a VAE will collapse, show which did, and say what to change.

Names are imported when first used, so that importing the package is fast and never needs an
optional library; `__init__.pyi` says which room each of them lives in.
"""

from __future__ import annotations

from types import ModuleType

from posterior_collapse.errors import lazily
from posterior_collapse.records import Seen

__getattr__, __dir__, __all__ = lazily(__name__, __file__)


def _views() -> ModuleType:
    from posterior_collapse import report

    return report


Seen.views = staticmethod(_views)
