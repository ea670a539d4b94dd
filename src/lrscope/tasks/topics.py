"""Real English text that ships with Python: the language reference behind ``help()``."""

from __future__ import annotations

import re
import string
from functools import cache

from lrscope.tasks.task import Task
from lrscope.tasks.text import Size, text_task

# Fixed, so that parameter counts do not depend on the Python version: printable ASCII and the newline.
ALPHABET = "\n" + string.printable[:95]


def topics(
    *, size: Size = "small", batch_size: int = 16, context: int = 64, steps: int = 400, dropout: float = 0.0
) -> Task:
    """A character-level GPT on the topics of Python's own ``help()``; the last tenth is the evaluation set.

    The text comes from ``pydoc_data.topics`` of the running interpreter, so its exact letters, and with them losses,
    differ a little between Python versions; compare numbers from one version only.

    Args:
        size: ``"tiny"`` (56,032 parameters), ``"small"`` (210,368) or ``"base"`` (813,952): four blocks of width 32,
            64 or 128, head tied to the embedding. One step of the defaults takes about 9, 18 and 37 ms on one or two
            CPU cores.
        batch_size: Windows in a batch.
        context: Characters in a window.
        steps: Updates of one ordinary run.
        dropout: Of the model.
    """
    return text_task(
        topics_text(),
        alphabet=ALPHABET,
        name=f"topics-{size}",
        size=size,
        batch_size=batch_size,
        context=context,
        steps=steps,
        dropout=dropout,
    )


@cache
def topics_text() -> str:
    """All topics in the order of their names, each paragraph once, without underlines below headings."""
    from pydoc_data.topics import topics as found

    joined = "\n\n".join(found[name] for name in sorted(found))
    joined = re.sub(r"\n[*=~^-]{3,}(?=\n|$)", "", joined)
    # Several topics contain others whole; a paragraph seen in training must not come again in the evaluation part.
    return "\n\n".join(dict.fromkeys(part.strip("\n") for part in re.split(r"\n\s*\n", joined)))
