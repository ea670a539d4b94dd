"""Record what layers of any module answer, by forward hooks, and leave no trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lrscope.errors import MeasurementError
from lrscope.isolation import generators_of, isolated_rng, mode_of, without_dropout
from lrscope.records import Cost
from lrscope.similarity.layers import find_layers, named_outputs
from lrscope.similarity.recording import Recording
from lrscope.similarity.shapes import Channels, positions_first, reduced
from lrscope.wrapping import eagerly, unwrapped

Forward = Callable[[nn.Module, Any], Any]
Layers = str | Sequence[str] | None


@overload
def record(
    models: nn.Module,
    batches: Any,
    layers: Layers = None,
    *,
    spatial: Literal["average", "flatten"] | None = None,
    channels: Channels | None = None,
    max_examples: int | None = None,
    forward: Forward | None = None,
    device: str | torch.device | None = None,
) -> Recording: ...
@overload
def record(
    models: Mapping[str, nn.Module],
    batches: Any,
    layers: Layers = None,
    *,
    spatial: Literal["average", "flatten"] | None = None,
    channels: Channels | None = None,
    max_examples: int | None = None,
    forward: Forward | None = None,
    device: str | torch.device | None = None,
) -> dict[str, Recording]: ...
def record(
    models: nn.Module | Mapping[str, nn.Module],
    batches: Any,
    layers: Layers = None,
    *,
    spatial: Literal["average", "flatten"] | None = None,
    channels: Channels | None = None,
    max_examples: int | None = None,
    forward: Forward | None = None,
    device: str | torch.device | None = None,
) -> Recording | dict[str, Recording]:
    """Activations of named layers on the examples of some batches.

    Works on any ``nn.Module``, by forward hooks that are gone afterwards, also when a pass raises. Models run in eval
    mode, without dropout and without gradients; modes, buffers and random states are put back.

    Args:
        models: One model, or several by name, which see each batch in turn, so that all answer the same examples.
        batches: Batches to iterate over, or a :class:`~lrscope.tasks.Task`: then its evaluation batches (training
            batches if there are none), through its ``loss_fn``.
        layers: Names as in ``model.named_modules()``, or patterns such as ``"blocks.*.mlp"`` (a star crosses dots).
            ``None``: every innermost module that ran, except dropout and identity, which change nothing here.
        spatial: ``"average"`` or ``"flatten"`` turns maps and sequences into (N, D) while recording, which saves
            memory (means are float32 at least). ``None`` keeps them as they are.
        channels: For ``"average"``, as for :func:`cca`.
        max_examples: Stop after this many.
        forward: ``forward(model, batch)`` runs the model. By default a tensor is the model's argument, of a tuple or
            list the first element is, and a mapping gives keyword arguments.
        device: Where activations are kept; ``None``: where they are made.

    Returns:
        A :class:`Recording`, or a dict of them by model name. Modules that run several times in a pass are all there,
        as ``name#1``, ``name#2``. Outputs of several tensors are ``name.key`` or ``name[0]``; a recurrent layer's are
        ``name.output`` (N, T, D), ``name.hidden`` and, for an LSTM, ``name.cell`` (N, layers x D).

    Raises:
        ValueError: A layer that does not exist (with the nearest name), no batch, or a way of handling positions that
            belongs to the measures.
        MeasurementError: A layer named in full never ran, ran a varying number of times, or gave no tensor of one row
            per example.

    Cost: one forward pass per batch and model, a hash of the inputs, and memory for the activations.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
        >>> found = record(net, [torch.randn(5, 4), torch.randn(5, 4)])
        >>> {layer: tuple(found[layer].shape) for layer in found}
        {'0': (10, 8), '1': (10, 8), '2': (10, 2)}
    """
    began = time.perf_counter()
    if spatial not in (None, "average", "flatten"):
        raise ValueError(
            f"record(spatial=): expected 'average', 'flatten' or None, got {spatial!r}; 'samples' and 'dft' need the "
            "examples kept apart: record maps as they are, and give spatial= to the measure"
        )
    if max_examples is not None and (not isinstance(max_examples, int) or max_examples < 1):
        raise ValueError(f"max_examples: expected a positive integer or None, got {max_examples!r}")
    if not isinstance(models, (nn.Module, Mapping)):
        raise TypeError(f"models: expected a module, or a dict of them by name, got {type(models).__name__}")
    named = {"": models} if isinstance(models, nn.Module) else dict(models)
    for name, model in named.items():
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"models: expected modules, got {type(model).__name__}" + (f" as {name!r}" if name else "")
            )
    if not named:
        raise ValueError("models: got none")
    source, run = _source(batches, forward, max_examples)
    captures = {name: _Capture(_bare(model), layers) for name, model in named.items()}
    digest, examples, passes = blake2b(digest_size=12), 0, 0
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(isolated_rng(generators=generators_of(source)))
        stack.enter_context(eagerly())
        for capture in captures.values():
            stack.enter_context(capture.attached())
        for batch in source:
            size = _examples_in(batch)
            _add_to(digest, batch)
            keep = size if max_examples is None else min(size, max_examples - examples)
            for capture in captures.values():
                capture.run(lambda model, batch=batch: run(model, batch), size, keep, spatial, channels, device)
                passes += 1
            examples += keep
            if examples == max_examples:
                break
    if not examples:
        raise ValueError("batches: got no batch; is this an iterator that was read before?")
    cost = Cost(forwards=passes / len(captures), seconds=(time.perf_counter() - began) / len(captures))
    found = {name: c.recording(examples, f"{digest.hexdigest()}:{examples}", cost) for name, c in captures.items()}
    return found[""] if isinstance(models, nn.Module) else found


class _Capture:
    """The hooks on one model and what they have seen."""

    def __init__(self, model: nn.Module, layers: Layers) -> None:
        self.model = model
        self.modules, self.explicit = find_layers(model, layers)
        self.kept: dict[str, list[Tensor]] = {}
        self.skipped: dict[str, str] = {}
        self.calls: dict[str, int] = {}
        self._pass: list[tuple[str, list[tuple[str, Tensor]]]] | None = None
        self._outside: tuple[Any, ...] = ()

    @contextmanager
    def attached(self) -> Iterator[None]:
        buffers = [(b, b.clone()) for b in self.model.buffers()]
        handles = []
        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_hook(self._hook(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for buffer, before in buffers:
                buffer.copy_(before)

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if self._pass is None:  # the module belongs to another model, too, and that one is running
                return
            size, keep, spatial, channels, device = self._outside
            found = []
            for part, value in named_outputs(module, output):
                if value.ndim < 2 or len(value) != size:
                    self.skipped.setdefault(
                        name + part, f"its output {tuple(value.shape)} has no row for each of the {size} examples"
                    )
                    continue
                value = value[:keep]
                if spatial is not None and value.ndim > 2:
                    low = value.dtype.itemsize < 4
                    mapped = reduced(positions_first(value, name, spatial, channels), spatial)[:, 0]
                    value = mapped.to(torch.float32 if low and spatial == "average" else value.dtype)
                # A copy: the next layer may work in place.
                found.append((part, value.detach().to(device, copy=True) if device else value.detach().clone()))
            self._pass.append((name, found))

        return hook

    def run(self, call: Callable[[nn.Module], Any], size: int, keep: int, *how: Any) -> None:
        """One pass over one batch, sorted into layers by how often each ran."""
        self._pass, self._outside = [], (size, keep, *how)
        try:
            with mode_of(self.model, training=False), without_dropout(self.model):
                call(self.model)
            seen = self._pass
        finally:
            self._pass = None
        count = dict.fromkeys(self.modules, 0)
        for name, _ in seen:
            count[name] += 1
        for name in self.modules:
            before = self.calls.setdefault(name, count[name])
            if before != count[name]:
                raise MeasurementError(
                    f"layer {name!r} ran {before} times in one batch and {count[name]} times in another, so its "
                    "calls cannot be told apart; record batches of one shape, or other layers"
                )
        turn = dict.fromkeys(self.modules, 0)
        for name, found in seen:
            turn[name] += 1
            call_name = name if count[name] == 1 else f"{name}#{turn[name]}"
            for part, value in found:
                self.kept.setdefault(call_name + part, []).append(value)

    def recording(self, examples: int, inputs: str, cost: Cost) -> Recording:
        for name in self.explicit:
            reason = self.skipped.get(name)
            if not self.calls.get(name):
                reason = "it never ran in the forward pass (its parent may call a function instead)"
            elif not any(key == name or key.startswith((f"{name}#", f"{name}.", f"{name}[")) for key in self.kept):
                reason = reason or "it gave no floating-point tensor"
            else:
                continue
            raise MeasurementError(f"layer {name!r} cannot be recorded: {reason}; name another layer")
        activations = {}
        for key in list(self.kept):
            parts = self.kept.pop(key)
            shapes = {tuple(p.shape[1:]) for p in parts}
            if len(shapes) > 1:
                self.skipped[key] = (
                    f"its shape changes from batch to batch: {sorted(shapes)}; spatial='average' may help"
                )
                continue
            activations[key] = parts[0] if len(parts) == 1 else torch.cat(parts)
        for name, count in self.calls.items():
            if not count:
                self.skipped.setdefault(name, "it never ran in the forward pass")
        if not activations:
            raise MeasurementError(
                "no layer gave a floating-point tensor with one row per example; name layers= whose output has them"
            )
        return Recording(activations, examples, self.skipped, inputs, cost)


def _bare(model: nn.Module) -> nn.Module:
    model = unwrapped(model)
    return getattr(model, "_orig_mod", model)


def _source(batches: Any, forward: Forward | None, max_examples: int | None) -> tuple[Iterable[Any], Forward]:
    """Batches and how they are run; a task is known by its face, since this room must not enter that of tasks."""
    if callable(getattr(batches, "loss_fn", None)) and callable(getattr(batches, "batches", None)):
        of = "train" if batches.evaluate is None else "evaluate"
        if max_examples is None:
            return batches.batches(of=of), forward or batches.loss_fn
        first = batches.batches(1, of=of)
        num = -(-max_examples // _examples_in(first[0])) if first else 1
        return batches.batches(num, of=of), forward or batches.loss_fn
    if isinstance(batches, (Tensor, Mapping)) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches: expected an iterable of batches or a Task, got {type(batches).__name__}; put a batch in a list"
        )
    return batches, forward or _default_forward


def _default_forward(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _examples_in(batch: Any) -> int:
    tensor = next((leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), None)
    if tensor is None or not len(tensor):
        raise ValueError(f"batches: a batch of type {type(batch).__name__} holds no tensor with examples in it")
    return len(tensor)


def _add_to(digest: Any, batch: Any) -> None:
    for tensor in (leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)):
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(np.ascontiguousarray(flat.view(torch.uint8).numpy()))
