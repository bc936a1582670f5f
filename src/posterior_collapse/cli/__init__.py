"""The command `collapse`: parses options, calls the package, prints what comes back."""

from __future__ import annotations

import signal
import sys
import threading

__all__ = ["main"]

ENDED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""What is said of a command that was told to end; its exit status is 128 and the signal's number,
as shells have it."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command, and end in one line whatever ends it, while it still imports too."""
    ended_by = signal.SIGINT

    def terminate(number: int, _: object) -> None:
        nonlocal ended_by
        ended_by = signal.Signals(number)
        raise KeyboardInterrupt

    # Only the main thread may listen to signals; whoever calls from another one does so himself.
    listens = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if listens else None
    try:
        from posterior_collapse.cli.app import INTERRUPTED, run

        status = run(arguments)
    except KeyboardInterrupt:
        status = INTERRUPTED = 128 + signal.SIGINT
    finally:
        if listens:
            signal.signal(signal.SIGTERM, before)
    if status == INTERRUPTED:
        print(ENDED[ended_by], file=sys.stderr)
        status = 128 + ended_by
    sys.exit(status)
