"""Many runs, each described by plain values, trained once and kept; `sweep`, `tune`.

Names are imported when first used, so that what describes a run needs no torch.
"""

from posterior_collapse.errors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
