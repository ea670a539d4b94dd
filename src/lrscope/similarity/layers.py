"""Which modules to listen to, and what to call the tensors they return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from lrscope.similarity.recording import no_layer

_SILENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
"""In eval mode their output is their input."""
_WHOLE = (nn.MultiheadAttention,)
"""Modules that use their children's parameters without running them."""


def find_layers(model: nn.Module, layers: str | Sequence[str] | None) -> tuple[dict[str, nn.Module], set[str]]:
    """Modules by name, in the order of the model, and which of them were named in full.

    Raises:
        ValueError: A name or pattern that matches nothing, with the nearest name.
    """
    if layers is None:
        return _innermost(model), set()
    wanted = [layers] if isinstance(layers, str) else list(layers)
    every = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, nn.Module] = {}
    explicit = set()
    for pattern in wanted:
        if not isinstance(pattern, str):
            raise TypeError(
                f"layers: expected names, got {type(pattern).__name__}; take them from model.named_modules()"
            )
        if pattern in every:
            found[pattern] = every[pattern]
            explicit.add(pattern)
            continue
        matches = {name: module for name, module in every.items() if name and fnmatchcase(name, pattern)}
        if not matches:
            raise ValueError(f"layers: {no_layer(pattern, every)}")
        found.update(matches)
    if not found:
        raise ValueError("layers: got an empty list; None records every innermost module")
    order = {name: place for place, name in enumerate(every)}
    return dict(sorted(found.items(), key=lambda item: order[item[0]])), explicit


def _innermost(model: nn.Module) -> dict[str, nn.Module]:
    whole = [name for name, module in model.named_modules() if isinstance(module, _WHOLE)]
    found = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{w}.") if w else bool(name) for w in whole)
        leaf = not any(True for _ in module.children()) or isinstance(module, _WHOLE)
        if leaf and not inside and not isinstance(module, _SILENT):
            found[name] = module
    return found


def named_outputs(module: nn.Module, output: Any) -> Iterator[tuple[str, Tensor]]:
    """``(suffix, tensor)`` of everything floating in an output, examples first where torch's layers say otherwise."""
    if isinstance(module, nn.RNNBase) and isinstance(output, tuple) and isinstance(output[0], Tensor):
        sequence, state = output
        yield ".output", sequence if module.batch_first else sequence.movedim(1, 0)
        hidden = state if isinstance(state, tuple) else (state,)
        for name, value in zip((".hidden", ".cell"), hidden, strict=False):
            yield name, value.movedim(1, 0).flatten(1)
        return
    if isinstance(module, nn.MultiheadAttention):  # the second output is attention weights, not activations
        answer = output[0]
        yield "", answer if module.batch_first or answer.ndim < 3 else answer.movedim(1, 0)
        return
    yield from _parts(output, "")


def _parts(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _parts(part, f"{name}.{key}")
    elif isinstance(value, tuple) and (fields := getattr(value, "_fields", None)):
        for key in fields:
            yield from _parts(getattr(value, key), f"{name}.{key}")
    elif isinstance(value, (tuple, list)):
        several = len(value) > 1
        for index, part in enumerate(value):
            yield from _parts(part, f"{name}[{index}]" if several else name)
