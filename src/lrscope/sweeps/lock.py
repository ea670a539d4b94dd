"""One driver per directory: a second one is refused, a dead one's place is free."""

from __future__ import annotations

import json
import os
import socket
import time
import warnings
from pathlib import Path
from typing import IO, Any

from lrscope.errors import LrscopeWarning

_HELD: set[Path] = set()
"""Locks of this process: the system's own tell processes apart, not two sweeps in one."""


class Lock:
    """Holds ``path`` until :meth:`release` or the end of the process, however it ends.

    The system's record lock on the file is what counts, so nothing stale can remain; its text only says who holds it.

    Raises:
        ValueError: Another driver holds it; the message names its process and host.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._file: IO[str] | None = None
        if self.path in _HELD:
            raise ValueError(_refusal(self.path.parent, {"pid": os.getpid(), "host": socket.gethostname()}))
        file = self.path.open("a+", encoding="utf-8")
        try:
            if not _locked(file):
                file.seek(0)
                raise ValueError(_refusal(self.path.parent, _owner(file.read())))
        except BaseException:
            file.close()
            raise
        self._file = file
        _HELD.add(self.path)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}) + "\n")
        file.flush()

    def release(self) -> None:
        """Let go; the file stays, as removing it would let two others lock two files of one name."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None
            _HELD.discard(self.path)


def _locked(file: IO[str]) -> bool:
    """Whether the system's lock on ``file`` is ours now."""
    try:
        import fcntl
    except ImportError:  # not on this system
        return True
    try:
        # A record lock rather than flock: children that the user's loaders fork must not inherit it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        warnings.warn(
            f"sweep: this file system cannot lock {file.name} ({error.strerror}); start no second sweep in it",
            LrscopeWarning,
            stacklevel=4,
        )
    return True


def _owner(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _refusal(directory: Path, owner: dict[str, Any]) -> str:
    return (
        f"out: another sweep (process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')}) is "
        f"writing to {directory}; wait for it, stop it, or give another directory"
    )
