"""Many runs, each described by plain values, trained once and kept; `sweep`, `tune`."""

from posterior_collapse.errors import needing_torch

with needing_torch():
    from posterior_collapse.runs.completing import Progress, complete, groups
    from posterior_collapse.runs.run import Evaluation, Run, RunData
    from posterior_collapse.runs.search import Trial
    from posterior_collapse.runs.store import Outcome, Record, Store
    from posterior_collapse.runs.sweep import Sweep, sweep
    from posterior_collapse.runs.tune import Tuned, tune

__all__ = [
    "Evaluation",
    "Outcome",
    "Progress",
    "Record",
    "Run",
    "RunData",
    "Store",
    "Sweep",
    "Trial",
    "Tuned",
    "complete",
    "groups",
    "sweep",
    "tune",
]
