"""Which runs train together: the same whether a sweep was interrupted or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from posterior_collapse.sweeps.runs import Run

__all__ = ["MOST_TOGETHER", "company", "groups"]

MOST_TOGETHER = 12
"""Runs per group. A group is kept when it ends: more would gain little speed and risk more."""


def groups(runs: Sequence[Run], most: int = MOST_TOGETHER) -> list[tuple[Run, ...]]:
    """Cut runs into groups that one vectorised training serves, in the order given.

    Args:
        runs: Equal ones count once.
        most: Largest group of runs trained by minibatches; others train one by one.

    Example:
        >>> from posterior_collapse.models import Architecture
        >>> from posterior_collapse.specs import VAESpec
        >>> from posterior_collapse.sweeps.runs import Choice
        >>> from posterior_collapse.training import Settings
        >>> net, how = Architecture.named("mlp"), Settings()
        >>> specs = [VAESpec(units, beta=beta) for beta in (1, 2) for units in (3, 4)]
        >>> runs = [Run(Choice("digits"), spec, net, how) for spec in specs]
        >>> [[run.spec.beta for run in group] for group in groups(runs)]
        [[1.0, 2.0], [1.0, 2.0]]
    """
    families: dict[str, dict[str, Run]] = {}
    for run in runs:
        families.setdefault(run.family, {}).setdefault(run.key, run)
    found = []
    for family in families.values():
        members = list(family.values())
        size = most if members[0].method == "minibatch" else 1
        found += [tuple(members[i : i + size]) for i in range(0, len(members), size)]
    return found


def company(
    group: Sequence[Run], trained_with: Callable[[Run], Sequence[str] | None]
) -> tuple[Run, ...]:
    """Return the runs of a group that have to train, together as they would have at first.

    Rounding depends on who trains together. So a group of which some members were kept before the
    process died trains as a whole again; members that came from elsewhere stay away.

    Args:
        group: All its runs.
        trained_with: For a run that is kept the keys of its company, else None.
    """
    known = {run.key: trained_with(run) for run in group}
    missing = {run.key for run in group if known[run.key] is None}
    if not missing:
        return ()
    by_key = {run.key: run for run in group}
    for keys in known.values():
        if keys is not None and missing & set(keys) and set(keys) <= set(by_key):
            missing |= set(keys)
    return tuple(run for run in group if run.key in missing)
