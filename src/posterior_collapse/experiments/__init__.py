"""The rows of the paper as data, and what turns their runs into tables, figures and a document.

Names are imported when first used, so that the document is written without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
