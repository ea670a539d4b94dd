"""Files of one JSON object a line, only ever appended to, so that a killed process tears at most the last line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The objects of a file in their order, ``None`` for a line that is no whole object."""
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            line = None
        yield line if isinstance(line, dict) else None


def drop_torn_line(path: Path) -> None:
    """Cut off the line a killed process was writing, so that the next one does not become part of it."""
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        path.write_bytes(text[: text.rfind(b"\n") + 1])
