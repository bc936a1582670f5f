"""A process that has imported everything and forks a child per command, so that each starts fast.

A line with the JSON arguments of a `collapse` command and the file for its output is answered with
the child's process id; an empty line next, once it has ended, with its exit status (minus the
signal's number if it was killed). Until then the id stays taken: a kill cannot hit another process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path


class Nursery:
    """The test's end of the pipe."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, arguments: list[str], output: Path) -> int:
        """Start a command and return its process id."""
        return self._ask(json.dumps([arguments, str(output)]))

    def wait(self) -> int:
        """Return the exit status of the command once it has ended."""
        return self._ask("")

    def close(self) -> None:
        """End the nursery."""
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.stdout
        self.process.stdout.close()
        self.process.wait()

    def _ask(self, line: str) -> int:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def run(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Run a command and end without the clearing up that takes torch a second."""
    status: object = 1
    # A shell's background jobs, and so tests run as one, ignore Ctrl-C: the command must not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(arguments)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0)


def serve() -> None:
    """Fork a child per line of stdin."""
    import numpy as np
    import torch

    from posterior_collapse.cli import main

    # Threads do not survive a fork.
    torch.set_num_threads(1)
    # One command here, so that its imports are done once and for all.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        np.save(f"{folder}/data.npy", np.eye(3))
        warm = ["train", f"{folder}/data.npy", "--epochs", "1", "--out", f"{folder}/run"]
        with contextlib.suppress(SystemExit):
            main(warm)
    for line in sys.stdin:
        arguments, output = json.loads(line)
        child = os.fork()
        if child == 0:
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            run(main, arguments)
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
