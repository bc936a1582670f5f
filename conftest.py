"""Doctests of adapters are collected where the library that they adapt is installed."""

from importlib.util import find_spec

import posterior_collapse  # noqa: F401  first, else pytest makes its lowest modules a second time

ADAPTERS = {"lightning": "lightning.py", "torchmetrics": "metrics.py"}

collect_ignore = [
    # They make a device that stays for as long as a process lives: `test_pretend_device.py` starts
    # one of its own.
    "tests/pretend_device.py",
    "tests/pretend_device_cases.py",
    # It trains where it is imported.
    "tests/cluster_warm.py",
    *(
        f"src/posterior_collapse/adapters/{module}"
        for library, module in ADAPTERS.items()
        if find_spec(library) is None
    ),
]
