"""The numbers of a posterior in a file: which array is which, by the names people give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from posterior_collapse.data.files import read_arrays
from posterior_collapse.errors import DataError, listed, nearest

__all__ = ["read_posterior"]

ARRAYS = ("mean", "std", "log_var", "prior_mean", "prior_std", "data")
SPREADS = ("std", "log_var", "variance")
SYNONYMS = {
    **dict.fromkeys(
        ("mu", "mus", "loc", "means", "z_mean", "z_mu", "mean_z", "mu_z", "q_mean", "qz_mean"),
        "mean",
    ),
    **dict.fromkeys(("z_std", "stds", "q_std"), "std"),
    **dict.fromkeys(("var", "variance", "z_var", "q_var", "qz_var"), "variance"),
    **dict.fromkeys(
        ("logvar", "logvars", "log_variance", "z_log_var", "z_logvar", "logvar_z", "q_logvar"),
        "log_var",
    ),
}
"""What else the arrays of a posterior are called, where the name says which they are."""
UNCLEAR = {
    **dict.fromkeys(("sigma", "scale"), "std, if it is no variance"),
    **dict.fromkeys(("x", "inputs"), "data"),
}
"""Names that may mean something else, which are not taken."""


def read_posterior(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arrays of a file by the names of `ARRAYS`, and what they are called in it.

    Args:
        path: A file of several arrays: .npz, .safetensors, .pt, .h5.

    Raises:
        MissingFileError: The file is not there.
        DataError: It cannot be read, lacks an array, or it is not clear which is meant.
    """
    found = read_arrays(path, "the folder of a run or a sweep, or a file with mean and std")
    called = {name: name for name in ARRAYS if name in found}
    groups = [group for group in (("mean",), SPREADS) if not called.keys() & set(group)]
    for name in found:
        meant = SYNONYMS.get(name.lower(), "")
        if any(meant in group for group in groups):
            if meant in called:
                raise DataError(
                    str(path), f"{called[meant]} and {name}", f"one {meant}", "Leave one away."
                )
            called[meant] = name
    spreads = [name for name in SPREADS if name in called]
    if "mean" not in called or len(spreads) != 1:
        raise DataError(
            str(path),
            f"the arrays {listed(sorted(found))}",
            "mean, and one of std and log_var (or var)",
            _how_to_mend(list(found)),
        )
    arrays = {name: found[own] for name, own in called.items()}
    if "variance" in arrays:
        arrays["std"] = _root(path, called["variance"], arrays.pop("variance"))
    own_names = {name: called[name] for name in (*ARRAYS, "variance") if name in called}
    return {name: arrays[name] for name in ARRAYS if name in arrays}, own_names


def _how_to_mend(names: list[str]) -> str:
    if any(name.rpartition(".")[2] in ("weight", "bias") for name in names):
        return "These are a model's weights: build it, and call pc.diagnose(model, data)."
    unclear = [f"{name} to {UNCLEAR[name]}" for name in names if name in UNCLEAR]
    hint = f" Rename {', '.join(unclear)}." if unclear else ""
    others = [name for name in names if name not in (*ARRAYS, *SYNONYMS, *UNCLEAR)]
    hint += "".join(nearest(name, ARRAYS) for name in others)
    return f"Write it with numpy.savez(path, mean=..., std=...).{hint}"


def _root(path: Path, name: str, variance: Any) -> Any:
    """Return a std.

    Raises:
        DataError: The variance is none.
    """
    if variance.dtype.kind not in "biuf" or (variance < 0).any():
        got = "negative values" if variance.dtype.kind in "biuf" else f"dtype {variance.dtype}"
        raise DataError(f"{name} of {path}", got, "variances", "A log-variance is log_var.")
    return np.sqrt(variance)
