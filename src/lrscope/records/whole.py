"""Files that are whole or absent: written under another name, synced, then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lrscope.records.strict import strict_json

PARTIAL = ".partial"
"""Ends the names of files that are being written; whoever finds one after a crash may delete it."""


def write_whole(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``; whatever interrupts it, the name holds the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (strict_json(value, indent=1) + "\n").encode())
