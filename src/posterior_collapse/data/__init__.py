"""A name, a file or an array -> arrays: the datasets, the files and the conditional tasks."""

from posterior_collapse.data.correlated import pairs
from posterior_collapse.data.dataset import Dataset
from posterior_collapse.data.loading import load
from posterior_collapse.data.locate import ChecksumWarning
from posterior_collapse.data.registry import Entry, available, fetch
from posterior_collapse.data.tasks import half, quarter

__all__ = [
    "ChecksumWarning",
    "Dataset",
    "Entry",
    "available",
    "fetch",
    "half",
    "load",
    "pairs",
    "quarter",
]
