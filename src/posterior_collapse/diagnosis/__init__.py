"""Diagnosis: what collapsed in a trained model, why, and what to change.

Names are imported when first used, as the numbers of a posterior need no torch.
"""

from posterior_collapse.errors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
