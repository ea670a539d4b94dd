"""Character-level language modelling on text from the user's file; the windows, alphabet and models of text tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lrscope.errors import TaskError
from lrscope.tasks.batches import Batches
from lrscope.tasks.losses import cross_entropy
from lrscope.tasks.models import GPT
from lrscope.tasks.task import Task

Size = Literal["tiny", "small", "base"]
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 32, "depth": 4, "heads": 2},
    "small": {"width": 64, "depth": 4, "heads": 4},
    "base": {"width": 128, "depth": 4, "heads": 4},
}
MAX_ALPHABET = 256
NUM_EVAL = 64
EVAL_SHARE = 0.1


def text(
    path: str | Path,
    *,
    size: Size = "small",
    batch_size: int = 16,
    context: int = 64,
    steps: int = 400,
    dropout: float = 0.0,
) -> Task:
    """A character-level GPT on the text of a UTF-8 file; its last tenth is the evaluation set.

    The alphabet is the file's characters; of more than 256 kinds, the rarest share one symbol.

    Args:
        path: The file.
        size: ``"tiny"``, ``"small"`` or ``"base"``: four blocks of width 32, 64 or 128.
        batch_size: Windows in a batch.
        context: Characters in a window.
        steps: Updates of one ordinary run.
        dropout: Of the model.

    Raises:
        TaskError: The file is missing, is no UTF-8 text, or is too short for one batch.
    """
    path = Path(path)
    try:
        found = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(
            f"text(path=): {path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it, for example "
            "with iconv -t UTF-8"
        ) from None
    except OSError as error:
        raise TaskError(
            f"text(path=): cannot read {path} ({error.strerror}); give the path of a UTF-8 text file"
        ) from None
    common = [char for char, _ in Counter(found).most_common(MAX_ALPHABET - 1)]
    return text_task(
        found,
        alphabet="".join(sorted(common)),
        name=f"text-{path.stem}-{size}",
        size=size,
        batch_size=batch_size,
        context=context,
        steps=steps,
        dropout=dropout,
    )


def text_task(
    found: str, *, alphabet: str, name: str, size: Size, batch_size: int, context: int, steps: int, dropout: float
) -> Task:
    """A task of predicting the next character of ``found``; the vocabulary is ``alphabet`` and one unknown symbol."""
    if size not in SIZES:
        raise ValueError(f"size: expected one of {', '.join(SIZES)}, got {size!r}")
    tokens = encode(found, alphabet)
    cut = len(tokens) - int(len(tokens) * EVAL_SHARE)
    needed = max(batch_size * context + context, int((context + 1) / EVAL_SHARE) + 10)
    if len(tokens) < needed:
        raise TaskError(
            f"{name}: {len(tokens)} characters are too few for batch_size={batch_size} and context={context}, which "
            f"need about {int(needed / (1 - EVAL_SHARE)) + 1}; give more text, or a smaller batch_size or context"
        )
    return Task(
        build=partial(build, vocab=len(alphabet) + 1, context=context, dropout=dropout, **SIZES[size]),
        loss_fn=cross_entropy,
        train=Windows(tokens[:cut], context=context, batch_size=batch_size),
        evaluate=eval_batches(tokens[cut:], context),
        name=name,
        steps=steps,
    )


def build(
    seed: int,  # noqa: ARG001 - the global generator is seeded already
    *,
    vocab: int,
    context: int,
    width: int,
    depth: int,
    heads: int,
    dropout: float,
) -> nn.Module:
    return GPT(vocab, context=context, width=width, depth=depth, heads=heads, dropout=dropout, tied=True)


def encode(found: str, alphabet: str) -> Tensor:
    """Token per character, shape ``(len(found),)``: its place in ``alphabet``, or ``len(alphabet)`` if not there."""
    # A table over code points: a dict look-up per character would take seconds on a large file.
    table = np.full(0x110000, len(alphabet), dtype=np.int64)
    table[[ord(char) for char in alphabet]] = np.arange(len(alphabet))
    return torch.from_numpy(table[np.frombuffer(found.encode("utf-32-le", "surrogatepass"), dtype="<u4")])


class Windows:
    """Batches ``(inputs, targets)``, each ``(batch_size, context)``, the targets one character ahead.

    An epoch cuts the text into adjacent windows, starting at a random offset, and takes them in random order; both
    are drawn when the epoch starts. A last batch that is not full is left out.
    """

    draws_only_at_start = True

    def __init__(self, tokens: Tensor, *, context: int, batch_size: int) -> None:
        self.tokens, self.context, self.batch_size = tokens, context, batch_size
        self.num_windows = (len(tokens) - context) // context

    def __len__(self) -> int:
        return self.num_windows // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Not a generator function: draws must be made here, at iter(), and not at the first next().
        offset = int(torch.randint(self.context, ()))
        starts = offset + self.context * torch.randperm(self.num_windows)
        return (
            windows_at(self.tokens, starts[i * self.batch_size : (i + 1) * self.batch_size], self.context)
            for i in range(len(self))
        )


def windows_at(tokens: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    window = tokens[starts[:, None] + torch.arange(context + 1)]
    return window[:, :-1], window[:, 1:]


def eval_batches(tokens: Tensor, context: int) -> Batches:
    """One fixed batch of up to 64 windows, spread evenly over ``tokens``."""
    last = len(tokens) - context - 1
    num = min(NUM_EVAL, max(1, len(tokens) // context))
    inputs, targets = windows_at(tokens, torch.linspace(0, last, num).long(), context)
    return Batches(inputs.contiguous(), targets.contiguous(), batch_size=num)
