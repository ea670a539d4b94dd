"""Where in the user's code an error comes from."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path

_PACKAGE, _STANDARD_LIBRARY = str(Path(__file__).parents[1]), os.path.dirname(os.__file__)
_IN_TEXT = re.compile(r'File "([^"]+)", line (\d+), in .*\n +(.*)')


def line_of(error: BaseException) -> str:
    """`` (file, line: text)`` of the innermost line outside of Python's own and installed packages; or nothing."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno}: {(error.text or '').strip()})"
    found = [(f.filename, f.lineno, f.line or "") for f in traceback.extract_tb(error.__traceback__)]
    found += _IN_TEXT.findall(str(error))  # a DataLoader's worker passes its traceback on as text
    own = [frame for frame in found if _is_users(frame[0])]
    return f" ({Path(own[-1][0]).name}, line {own[-1][1]}: {own[-1][2].strip()})" if own else ""


def _is_users(file: str) -> bool:
    return not (any(p in file for p in ("site-packages", "<frozen", _PACKAGE)) or file.startswith(_STANDARD_LIBRARY))
