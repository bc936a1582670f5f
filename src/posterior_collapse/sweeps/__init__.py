"""Many runs, each described by plain values, trained once and kept: plan, store, sweep."""

from posterior_collapse.sweeps.grouping import MOST_TOGETHER, groups
from posterior_collapse.sweeps.runs import Choice, Evaluation, Run
from posterior_collapse.sweeps.store import Outcome, Record, Store
from posterior_collapse.sweeps.sweeping import Progress, sweep

__all__ = [
    "MOST_TOGETHER",
    "Choice",
    "Evaluation",
    "Outcome",
    "Progress",
    "Record",
    "Run",
    "Store",
    "groups",
    "sweep",
]
