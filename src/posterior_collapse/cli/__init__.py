"""The command `collapse`: parses options, calls the package, prints what comes back."""

from posterior_collapse.cli.app import main

__all__ = ["main"]
