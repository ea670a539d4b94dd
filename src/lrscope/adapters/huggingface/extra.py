"""The optional package behind this adapter."""

from __future__ import annotations

from typing import Any

from lrscope.errors import MissingExtraError


def is_trainer(value: Any) -> bool:
    """Whether ``value`` is a Trainer.

    Raises:
        MissingExtraError: transformers, or what its Trainer needs, is not installed.
    """
    try:
        from transformers import Trainer
    except ImportError as error:
        raise MissingExtraError(
            f'Hugging Face: transformers\' Trainer cannot be imported ({error}); pip install "lrscope[hf]"'
        ) from error
    return isinstance(value, Trainer)
