"""Files that are whole or absent: written under another name, synced, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from lrscope.records import strict_json

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


def sealed(record: Any) -> bytes:
    """``record`` as a JSON object beside a digest of it, so that any damage shows."""
    return _seal(strict_json(record).encode())


def unsealed(data: bytes) -> Any:
    """The inverse of :func:`sealed`.

    Raises:
        ValueError: The file is damaged, or none of these.
    """
    body = data[len(_seal(b"")) - len(_END) : -len(_END)]
    if _seal(body) != data:
        raise ValueError("its digest does not match what it holds")
    return json.loads(body)


_END = b"}\n"


def _seal(body: bytes) -> bytes:
    return b'{"sha256": "%s", "record": %s%s' % (hashlib.sha256(body).hexdigest()[:32].encode(), body, _END)
