"""Code run in an interpreter of its own, where nothing is loaded yet."""

import subprocess
import sys
from pathlib import Path

NO_TORCH = "import sys; sys.modules['torch'] = None\n"
"""Before code that shall run as if torch were not installed."""


def python(
    code: str, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the code to its end, with these arguments, in this folder."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def output(code: str, *arguments: str) -> str:
    """Run the code, to a good end, and return what it prints."""
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout
