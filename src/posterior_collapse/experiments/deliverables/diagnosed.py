"""What the package's own diagnosis says of runs that keep fewer units than the linear optimum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from posterior_collapse.experiments.checks import Result, Setting

__all__ = ["diagnosed"]


def diagnosed(results: Sequence[Result], top: int) -> Iterator[str]:
    """Say what `diagnose` concludes of the runs that keep fewer units than the linear optimum."""
    fewer = [
        result
        for result in results
        if result.has_conclusion and result.active(top) < (result.active_by_theory(top) or 0)
    ]
    if not fewer:
        return
    counts = Counter(str(result.measured["conclusion"]) for result in fewer)
    named = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    worst = max(fewer, key=lambda r: (-r.active(top), r.active_by_theory(top) or 0))
    text = Setting([worst]).text
    where = f"{worst.grid}, {text}" if text else worst.grid
    yield (
        f"What `diagnose` concludes of the {len(fewer)} runs that keep fewer units than the best "
        f"linear model: {named}. Of one that keeps fewest ({where}, seed {worst.seed}) it says: "
        f"{worst.measured['verdict']}"
    )
    warm = [r for r in results if r.run.settings.warm_up]
    cold = [r for r in results if not r.run.settings.warm_up]
    if warm and cold:
        yield _warmed_up(cold, warm, top)


def _warmed_up(cold: Sequence[Result], warm: Sequence[Result], top: int) -> str:
    """Say what a warm-up of beta changes, at each value that is trained with and without it."""
    words = []
    for name, value in dict.fromkeys((n, v) for r in warm for n, v in r.labels.items()):
        pair = [[r for r in of if r.labels == {name: value}] for of in (cold, warm)]
        if all(pair):
            without, with_it = (float(np.mean([r.active(top) for r in of])) for of in pair)
            theory = pair[0][0].active_by_theory(top)
            words.append(f"{name} = {value:g}: {without:.3g} and {with_it:.3g} of {theory}")
    return (
        f"Active units without and with a warm-up of {warm[0].run.settings.warm_up} epochs, of "
        f"those by theory: {'; '.join(words)}."
    )
