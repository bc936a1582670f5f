"""What rows leave in their folders, made up."""

import json
from pathlib import Path
from typing import Any

from planted_results import RUNS
from posterior_collapse.experiments.tables import Table


def verdict(word: str, *checks: list[str], notes: tuple[str, ...] = ()) -> dict[str, Any]:
    text = " ".join(said for _, said in checks)
    return {"verdict": word, "text": text, "checks": list(checks), "notes": list(notes)}


def result(row: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": row,
        "name": f"name of {row}: beta, eta_dec",
        "claim": "Larger beta_2 < 3 collapses (more)_+ and (more)_+.",
        "theory": "A unit lives while theta > beta.",
        "data": ["MNIST"],
        "settings": {"epochs": 123, "architecture": {"name": "cvae-relu", "hidden": [17, 18]}},
        "convention": "elbo",
        "profile": "full",
        "version": "9.8.7",
        "hardware": "a slow core, 2 threads",
        "wall_s": 3723.4,
        "seeds": [1, 2, 3],
        "tables": {
            "Measures": Table.over_seeds(RUNS, ["beta"], ["NLL (nats)", "active units"]).to_dict()
        },
        "figures": [],
        "agreement": verdict("agrees", ["agrees", "5 of 5 as predicted."]),
        "published": "",
        **changes,
    }


def leave(results: Path, row: str, **changes: Any) -> Path:
    folder = results / row
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result(row, **changes)))
    return folder
