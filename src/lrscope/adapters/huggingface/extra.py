"""The optional package behind this adapter."""

from __future__ import annotations

from typing import Any

from lrscope.errors import MissingExtraError


def require_trainer(value: Any) -> None:
    """Refuse what is not a Trainer.

    Raises:
        MissingExtraError: transformers, or what its Trainer needs, is not installed.
        TypeError: What came instead.
    """
    try:
        from transformers import Trainer
    except ImportError as error:
        raise MissingExtraError(
            f'Hugging Face: the Trainer of transformers cannot be imported ({error}); pip install "lrscope[hf]"'
        ) from error
    if not isinstance(value, Trainer):
        raise TypeError(f"trainer: expected a transformers.Trainer, got {type(value).__name__}")
