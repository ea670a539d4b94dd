"""Networks out of files: ours, bare state dicts, and the usual wrappers around them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrscope.tasks import Task

NESTED = ("model", "state_dict", "model_state_dict", "net", "module", "weights")
"""Keys under which programs keep the network in a checkpoint, ours first."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before every name."""


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a file.

    Only tensors and plain values are read (``weights_only=True``): anything else in a file can run code of whoever
    wrote it.

    Args:
        path: A checkpoint of :func:`lrscope.train`, a bare state dict, or a mapping with one under ``model``,
            ``state_dict`` or ``model_state_dict``.

    Raises:
        ValueError: There is no such file, it holds more than weights and plain values, or no network.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a checkpoint that torch.save or `lrscope train` wrote")
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: it holds more than tensors and plain values{_culprit(error)}, and reading that could run code "
            "of whoever wrote the file; save model.state_dict() and give that"
        ) from None
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: torch cannot read it as a checkpoint ({first}); is it whole?") from None
    return _network(found, path)


def _network(found: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(found, Mapping):
        if found and all(isinstance(value, Tensor) for value in found.values()):
            return dict(found)
        for key in NESTED:
            inner = found.get(key)
            if isinstance(inner, Mapping) and inner and all(isinstance(value, Tensor) for value in inner.values()):
                return dict(inner)
        if {"state", "param_groups"} <= set(found):
            raise ValueError(
                f"{path}: it holds an optimizer's state and no weights; give the file with model.state_dict()"
            )
        keys = ", ".join(repr(key) for key in list(found)[:4]) or "nothing"
        raise ValueError(
            f"{path}: no network found in it (it holds {keys}); give a state dict, or one under "
            f"{', '.join(map(repr, NESTED[:3]))}"
        )
    raise ValueError(f"{path}: it holds a {type(found).__name__}, no network; give a file with model.state_dict()")


def fitted(state: Mapping[str, Tensor], task: Task, name: str) -> dict[str, Tensor]:
    """``state`` as the task's model names things, without what wrappers put before every name.

    Raises:
        ValueError: It is of another network; the first keys and shapes that differ are named.
    """
    model = task.model(0)
    expected = model.state_dict()
    state = _bare(state, expected.keys())
    missing = [f"{key!r} is missing" for key in expected if key not in state]
    unknown = [f"{key!r} is not of it" for key in state if key not in expected]
    shapes = [
        f"{key!r} has shape {tuple(value.shape)}, not {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    differ = missing + unknown + shapes
    if differ:
        shown = [*missing[:2], *unknown[:2], *shapes[:2]]
        more = f" and {len(differ) - len(shown)} more" if len(differ) > len(shown) else ""
        raise ValueError(
            f"{name}: not a network of task {task.name!r}: {', '.join(shown)}{more}; give the task and the settings "
            "it was trained with"
        )
    for key, _ in model.named_parameters():
        if state[key].is_floating_point() != expected[key].is_floating_point():
            raise ValueError(
                f"{name}: {key!r} is {state[key].dtype}, not {expected[key].dtype}; give the weights as trained"
            )
        if not bool(torch.isfinite(state[key]).all()):
            raise ValueError(f"{name}: {key!r} holds values that are not finite; it is of a run that diverged")
    return {key: state[key].to(expected[key]) for key in expected}


def _bare(state: Mapping[str, Tensor], wanted: Set[str]) -> Mapping[str, Tensor]:
    """``state`` without the prefixes of wrappers, one inside another, if that gives the wanted names."""
    bare = state
    while bare.keys() != wanted:
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in bare)), None)
        if prefix is None or not bare:
            return state
        bare = {key.removeprefix(prefix): value for key, value in bare.items()}
    return bare


def _culprit(error: pickle.UnpicklingError) -> str:
    """The class that torch refuses, if it names one."""
    words = str(error).split()
    names = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "GLOBAL"]
    return f" ({names[0].strip('`')})" if names else ""
