"""Training: one model or a sweep in one vectorised run, by minibatches or exactly.

Names are imported when first used, so that what describes a run needs no torch.
"""

from posterior_collapse.errors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
