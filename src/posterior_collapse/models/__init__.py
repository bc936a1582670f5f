"""Models that can be trained and diagnosed, behind one small interface, `LatentModel`.

Names are imported when first used, so that what describes a model needs no torch.
"""

from posterior_collapse.errors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
