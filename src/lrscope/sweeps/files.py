"""Records with a digest of themselves, so that any damage shows."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lrscope.records import strict_json


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
