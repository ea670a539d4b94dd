"""What a user must be told once, whatever trainer runs."""

from __future__ import annotations

import sys

import torch


def announce(text: str) -> None:
    """Print ``text`` to stderr, on the main process only."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_rank() != 0:
        return
    print(text, file=sys.stderr, flush=True)
