"""Keys of another library's configuration that look meant for its schedule, and are not read."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Collection, Iterable

from lrscope.errors import LrscopeWarning


def warn_of_unread(given: Iterable[object], known: Collection[str], words: Collection[str]) -> None:
    """Warn of each key in ``given`` that is nearly one of ``known``, or has one of ``words`` in it.

    A configuration has many keys that are no business of the schedule, so an unknown one is no error; but a warmup
    under a name that nothing reads would be left out in silence.
    """
    for key in given:
        if not isinstance(key, str) or key in known:
            continue
        close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.8)
        if not close and any(word in key.lower() for word in words):
            close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.0)
        if close:
            warnings.warn(
                f"config: {key!r} is not read and has no effect; did you mean {close[0]!r}?",
                LrscopeWarning,
                stacklevel=4,
            )
