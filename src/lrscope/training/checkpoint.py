"""A training run's state on disk: plain types and tensors, loaded under ``weights_only=True``."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write whole or not at all: a killed process leaves the previous checkpoint in place."""
    partial = path.with_suffix(path.suffix + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True, map_location="cpu")


def random_state() -> dict[str, Any]:
    """The global generators' states as plain types and tensors."""
    numpy = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "python": list(random.getstate()[1]),
        "numpy": [numpy[0], numpy[1].tolist(), *(int(x) for x in numpy[2:4]), float(numpy[4])],  # type: ignore[index]
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]) -> None:
    random.setstate((3, tuple(state["python"]), None))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
