"""On what the rows of the document were run: hours, processors, verdicts of a second one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posterior_collapse.errors import count_of, enumerated
from posterior_collapse.experiments.reproduced import RESULT, Reproduced, shown
from posterior_collapse.experiments.tables import Table

OLDER = "older-processor"
"""Folder within the results for rows computed as a processor without AVX computes them."""


def named(hardware: str) -> str:
    """Return hardware as a sentence has it.

    Example:
        >>> named("AMD EPYC, AVX512, 1 threads, Intel(R) Xeon(R) Processor, 8 threads")
        'AMD EPYC, AVX512, 1 thread; Intel(R) Xeon(R) Processor, 8 threads'
    """
    return "; ".join(_machines(hardware))


def _machines(hardware: str) -> list[str]:
    each = re.split(r"(?<=threads), |(?<=thread), ", hardware)
    return [re.sub(r"\b1 threads\b", "1 thread", machine) for machine in each]


def processor(hardware: str) -> str:
    """Return on what kind of processor the runs of a row were trained.

    Example:
        >>> processor("Tesla T4"), processor("AMD EPYC, AVX512, 1 threads, NVIDIA H100 80GB HBM3")
        ('GPU', 'GPU and CPU')
    """
    threads = ["thread" in machine for machine in _machines(hardware)]
    return " and ".join(["GPU"] * (not all(threads)) + ["CPU"] * any(threads))


def hours(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what all rows on each kind of processor took, and on which ones.

    A run that several rows share counts once, in the first of them; of rows of an earlier version
    it is not known which runs they have.
    """
    counted: set[str] = set()
    took: dict[str, float] = {}
    for row in rows:
        own: Mapping[str, float] = row["runs"]
        shared = sum(seconds for key, seconds in own.items() if key in counted)
        counted |= own.keys()
        kind = processor(row["hardware"])
        took[kind] = took.get(kind, 0.0) + max(0.0, row["wall_s"] - shared) / 3600
    told = []
    for kind, spent in took.items():
        own_rows = [row for row in rows if processor(row["hardware"]) == kind]
        machines = sorted({m for row in own_rows for m in _machines(row["hardware"])})
        count = count_of(len(own_rows), "row")
        told.append(f"{kind}: {spent:.1f} hours for {count} ({'; '.join(machines)})")
    return told


def processors(results: Path) -> dict[str, str] | None:
    """Compare the verdicts of rows that were run again as another processor computes."""
    records = []
    for path in sorted(results.glob(f"{OLDER}/*/{RESULT}"), key=lambda p: (len(p.parent.name), p)):
        own = results / path.parent.name / RESULT
        if not own.is_file():
            continue
        here, there = Reproduced.read(own), Reproduced.read(path)
        with shown(path):
            verdicts = [[v for v, _ in one.agreement["checks"]] for one in (here, there)]
            size = smaller(there.profile)
            if not size and len(there.seeds) < len(here.seeds):
                size = "fewer seeds"
            records.append(
                {
                    "row": here.id,
                    "checks": max(map(len, verdicts)),
                    "same verdict": sum(a == b for a, b in zip(*verdicts, strict=False)),
                    "verdict here": here.verdict,
                    "verdict there": there.verdict,
                    "size there": size or "as here",
                    "here": named(here.hardware),
                    "there": named(there.hardware),
                }
            )
    if not records:
        return None
    same, checked = (sum(r[name] for r in records) for name in ("same verdict", "checks"))
    told = f"{same} of {checked} checks {'has' if same == 1 else 'have'} the same verdict."
    rows = enumerated([str(record["row"]) for record in records])
    return {"table": Table.of(records).markdown(), "told": told, "rows": rows}


def smaller(profile: str) -> str:
    """Return what to say of a row that was not run at full size.

    Example:
        >>> [smaller(profile) for profile in ("full", "quick", "smaller: 20 epochs")]
        ['', 'smaller: quick profile', 'smaller: 20 epochs']
    """
    return {"full": "", "quick": "smaller: quick profile"}.get(profile, profile.strip())
