"""One worker process of a sweep: ``python -m lrscope.sweeps.worker FD``.

It is a plain new interpreter rather than one of :mod:`multiprocessing`, so that it never runs the user's script again
and shares nothing with the driver but one socket: whoever dies, the other side reads the end of it.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TELL_EVERY = 0.2
"""Seconds between two messages about steps; a worker whose driver is gone notices at the next one."""


def main(fd: int) -> None:
    """Serve the driver at the other end of ``fd`` until it stops or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    connection = Connection(fd)
    try:
        connection.send(("here",))  # an order may be large, and the driver shall not wait for us to start
        order = connection.recv()
        sys.path[:] = order["path"]
        serve(connection, order)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(1)  # no driver: nobody waits for threads either
    except Exception as error:
        connection.send(("broken", type(error).__name__, str(error), traceback.format_exc()))


def serve(connection: Connection, order: dict[str, Any]) -> None:
    """Run the units that come, each cell to a file."""
    import torch

    from lrscope.sweeps.store import Store
    from lrscope.sweeps.work import Listener, WriteBehind, run_unit

    torch.set_num_threads(order["threads"])
    try:
        source = pickle.loads(order["source"])
        _ = source.maker
    except Exception as error:
        raise ImportError(
            f"the task cannot be loaded in a worker process ({type(error).__name__}: {error})"
        ) from error
    connection.send(("ready",))
    store = Store(Path(order["directory"]))
    steps, told = 0, time.monotonic()

    def on_steps(count: int) -> None:
        nonlocal steps, told
        steps += count
        if time.monotonic() - told > TELL_EVERY:
            connection.send(("steps", steps))
            steps, told = 0, time.monotonic()

    def on_rows(rows: list[Any]) -> None:
        if rows:
            connection.send(("rows", rows))

    with WriteBehind(store) as behind:
        listener = Listener(lambda record: on_rows(behind.put(record)), on_steps)
        while (cells := connection.recv()) is not None:
            # With one run after the other, only one of them can be what kills us.
            for unit in [[cell] for cell in cells] if order["within"] == "serial" else [cells]:
                connection.send(("started", [cell.hash for cell in unit]))
                run_unit(source, unit, listener, within=order["within"], threads=order["threads"])
            on_rows(behind.landed(wait=True))
            connection.send(("idle", steps))
            steps = 0


if __name__ == "__main__":
    main(int(sys.argv[1]))
