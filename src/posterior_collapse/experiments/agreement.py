"""From the checks of a row to its verdict, and what a reader has to know besides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from posterior_collapse.experiments.parts import NOT_MEASURED, Part, Result

__all__ = ["agreement"]

NUMBERS = r"\d+\.\d+(e-?\d+)?|\d\d+"
"""Those that differ from run to run, not the number of a level."""


def agreement(parts: Sequence[Part], results: Sequence[Result]) -> dict[str, Any]:
    """Return `verdict`, `text`, `checks` (verdict and sentence of each) and `notes` of a row.

    The verdict is that of all checks where they have one in common, else "partly"; but what
    differs or was not measured alone does not agree in part.
    """
    checks = [check for part in parts for check in part.checks]
    verdicts = {check.verdict for check in checks}
    if "agrees" in verdicts:
        verdict = "agrees" if len(verdicts) == 1 else "partly"
    else:
        verdict = "differs" if "differs" in verdicts else NOT_MEASURED
    return {
        "verdict": verdict,
        "text": " ".join(check.text for check in checks),
        "checks": [[check.verdict, check.text] for check in checks],
        "notes": [*(note for part in parts for note in part.notes), *_cautions(results)],
    }


def _cautions(results: Sequence[Result]) -> Iterator[str]:
    """What limits the theory's numbers, each caution once."""
    if any(result.record.run.settings.convention == "reference" for result in results):
        yield (
            "In the published loss of non-linear models every beta counts half. Betas are named as "
            "published; theory's numbers are those of half the beta."
        )
    told: dict[str, list[str]] = {}
    for note in dict.fromkeys(n for r in results for n in r.theory.get("notes", ())):
        told.setdefault(re.sub(NUMBERS, "#", note), []).append(note)
    for first, *others in told.values():
        elsewhere = " (other runs: other numbers)" if others else ""
        yield f"{first[0].upper()}{first[1:]}{elsewhere}."
