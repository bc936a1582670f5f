"""A name, a file or an array -> arrays: the datasets, the files and the conditional tasks."""

from posterior_collapse.data.dataset import Dataset, half, pairs, quarter
from posterior_collapse.data.loading import load
from posterior_collapse.data.published import ChecksumWarning
from posterior_collapse.data.registry import Entry, available, fetch

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
