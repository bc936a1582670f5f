"""What the tables of the study of trust call what they hold; those who fill them and read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posterior_collapse.experiments.checks import near_onset
from posterior_collapse.experiments.figures.lines import UNTOLD

ERROR, WHY = "error of the onset", "cause of the error"
LAST, FIRST = "last beta alive / onset", "first beta dead / onset"
GAIN = "a linear model would gain there (nats)"
COSTS, HOW = "collapsed runs miss their optimum by (nats)", "trained"
ABOVE = "the least of their losses less the collapsed (nats)"
"""Columns of the tables of onsets."""
WHAT = "runs that"
UNPLANTED = {"": "without warm-up", "warm-up": "with warm-up"}
"""Kinds of runs of plain training, and what the table of failures calls them."""
SAYS = "the diagnosis says: one more unit"
PAID = {"paid": "it paid", UNTOLD: UNTOLD, "did not": "it did not"}
"""What became of one more unit, and the columns that count it."""


def trained_long(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what long training measured, in the columns of a table of onsets."""
    return {**record, **{column: record[f"{column}, long"] for column in (ERROR, LAST, FIRST)}}


def is_near(record: Mapping[str, Any]) -> bool:
    """Whether an onset is where it was predicted."""
    return record[ERROR] is not None and near_onset(record[LAST], record[FIRST])
