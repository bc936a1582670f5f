"""A Dask cluster that is there, by its address, or one of processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from posterior_collapse.errors import InvalidArgumentError, first_line, needing

LOCAL = "local:"
SECONDS = 10.0
"""That a scheduler has to answer in."""
MOST_PROCESSES = 1024
"""Of one machine: more would fill its memory before they compute anything."""


@contextlib.contextmanager
def connected(scheduler: str | None) -> Iterator[Any]:
    """Yield a client of a cluster, on which dask collections are computed meanwhile.

    Args:
        scheduler: The scheduler's address, such as "tcp://10.0.0.1:8786"; "local:N" for N
            processes on this machine, which end with the block; None: yield None.

    Raises:
        InvalidArgumentError: No scheduler is there.
        MissingDependencyError: Dask is not installed.

    Example:
        >>> with connected(None) as client:
        ...     client is None
        True
    """
    if scheduler is None:
        yield None
        return
    how = "Run pip install 'posterior-collapse[dask]'."
    with needing("distributed", "dask.distributed, to compute on a cluster", how):
        import distributed
        from distributed.comm.addressing import parse_address, parse_host_port
    # What goes wrong is said in one line, by whoever waits for it.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        address: Any = scheduler
        if scheduler.startswith(LOCAL):
            address = distributed.LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=_processes(scheduler),
                threads_per_worker=1,
                dashboard_address=":0",  # at any port: others may have a cluster here too
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(address)
        try:
            if address is scheduler:
                # Asked before there is a client: one that cannot connect logs errors when closed.
                parse_host_port(parse_address(scheduler)[1])
                asyncio.run(_greet(scheduler))
            client = distributed.Client(address, timeout=SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
        except Exception as error:  # of any kind, by what answers in place of a scheduler
            said = "" if isinstance(error, MemoryError) else first_line(error)
            reason = said or "something else answers there"
            raise InvalidArgumentError(
                "scheduler",
                f"{scheduler!r} ({reason})",
                "the address of a Dask scheduler, or local:N",
                "Start one with `dask scheduler`, and workers with `dask worker ADDRESS`.",
            ) from error
        stack.enter_context(client)
        stack.enter_context(client.as_current())
        yield client


async def _greet(address: str) -> None:
    """Shake hands with a scheduler, for which a client would wait for ever."""
    from distributed import Security
    from distributed.comm.core import connect

    how = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
    connection = connect(address, timeout=SECONDS, **how)  # type: ignore[no-untyped-call]
    comm = await asyncio.wait_for(connection, 2 * SECONDS)
    await comm.close()


def _processes(scheduler: str) -> int:
    number = scheduler.removeprefix(LOCAL)
    if not (number.isdecimal() and 0 < int(number[:9]) <= MOST_PROCESSES):
        raise InvalidArgumentError(
            "scheduler",
            repr(scheduler),
            f"a number of processes, 1 to {MOST_PROCESSES}",
            "Pass e.g. local:2.",
        )
    return int(number)
