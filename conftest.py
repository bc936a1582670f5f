"""Doctests are collected where the library that a module needs is installed."""

from importlib.util import find_spec

import posterior_collapse  # noqa: F401  first, else pytest makes its lowest modules a second time

NEEDS = {
    "src/posterior_collapse/adapters/lightning.py": "lightning",
    "src/posterior_collapse/adapters/metrics.py": "torchmetrics",
    "tests/monitored.py": "lightning",
}

collect_ignore = [
    # They make a device that stays for as long as a process lives: `test_pretend_device.py` starts
    # one of its own.
    "tests/pretend_device.py",
    "tests/pretend_device_cases.py",
    # It trains where it is imported.
    "tests/cluster_warm.py",
    *(module for module, library in NEEDS.items() if find_spec(library) is None),
]
