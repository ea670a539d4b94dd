"""A traced step as a list of kernel calls over memory that stays: planned once, played at every step.

Most of a small step is not arithmetic but finding out which kernels to call, and making and dropping tensors. Here
all of that happens once: views are taken of memory that does not move, every kernel writes where the next one
reads, and buffers are used again as soon as nobody needs what they hold, so that they stay in the cache.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from lrscope.training.kernels import WRITERS, Call, Unplayable, gives, out_variants, tensors
from lrscope.training.players import looped
from lrscope.training.precision import current


class Tape:
    """The operations of ``graph`` over fixed memory.

    Args:
        graph: A traced function of tensors alone, without data-dependent shapes.
        inputs: Where its arguments will lie at every step, the parameters first; they may be filled anew in between.
        placed: Results that are to be written into given memory, by their place among the graph's outputs: an
            ``(N, P)`` tensor for an output that is a concatenation along the second dimension.

    Attributes:
        play: Makes the calls: one step from what lies in ``inputs`` now, for each of the (empty) lists it is given.
        outputs: Where the results lie after a step, until the next one.
        calls: What a step is made of.
        num_bytes: Memory for intermediate results.

    Raises:
        Unplayable: An operation's results differ in shape from step to step.
    """

    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Tensor], placed: dict[int, Tensor]) -> None:
        plan = _Plan(graph, inputs)
        self.calls: list[Call] = []
        self.inputs = inputs
        self.outputs = plan.write(self.calls, placed)
        self.num_bytes = plan.num_bytes
        self.play = looped(self.calls)  # once in a while; whole updates are played by others


class _Plan:
    """Who holds which memory when. Values are known by the storage that one run of the graph gave them."""

    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        self.nodes = list(graph.graph.nodes)
        self.parameters, self.inputs = inputs[0], iter(inputs)
        self.seen = _run_once(graph, inputs)
        # "Bases" are storages: all views of one value share it, and while all values live none is used twice.
        self.bases = {n: {_base(t) for t in tensors(self.seen[n])} for n in self.nodes[:-1]}
        self.mutated = {b for n in self.nodes for m in written(n) for b in self.bases[m]}
        self.last: dict[int, int] = {}
        for i, node in enumerate(self.nodes):
            for used in node.all_input_nodes:
                self.last |= dict.fromkeys(self.bases[used], i)
        self.last |= {b: len(self.nodes) for n in self.nodes[-1].all_input_nodes for b in self.bases[n]}
        self.buffers: dict[int, Tensor] = {}  # base -> the memory that stands for it now
        self.free: dict[int, list[Tensor]] = {}
        self.num_bytes = 0
        self.dense: dict[int, Tensor] = {}  # address of a parameter -> where its copy lies
        self.values: dict[fx.Node, Any] = {}
        self.constant: set[fx.Node] = set()

    def write(self, calls: list[Call], placed: dict[int, Tensor]) -> list[Tensor]:
        """Append the calls of a step, and return where its results will lie."""
        outputs: list[fx.Node] = list(self.nodes[-1].args[0])
        slots, copies, skipped = self._slots(outputs, placed)
        for i, node in enumerate(self.nodes[:-1]):
            if node in skipped:
                continue
            args, kwargs = self._given(node.args), self._given(node.kwargs)
            if node.op == "placeholder":
                self.values[node] = next(self.inputs)
            elif node.op == "get_attr" or self._is_constant(node):
                self.values[node] = self.seen[node]
                self.constant.add(node)
            elif self._is_view(node):
                self.values[node] = node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
            else:
                if node.target is _aten.bmm.default and current() != "highest":
                    args = tuple(self._dense(value, calls) for value in args)
                outs = self._memory(i, node, slots)
                self.values[node] = self._results(node, outs)
                calls += self._calls(node, args, kwargs, outs)
                self._release(i, self.bases[node])
            self._release(i, {b for m in node.all_input_nodes for b in self.bases[m]})
        calls += [Call.copy(out, self.values[node]) for node, out in copies]
        return [placed.get(place, self.values.get(node)) for place, node in enumerate(outputs)]  # pyright: ignore

    def _dense(self, factor: Tensor, calls: list[Call]) -> Tensor:
        """Matrices of parameters side by side, or whatever else ``factor`` is.

        In less precision torch multiplies three times as fast, but not by matrices with gaps between them.
        """
        turned = factor.stride(1) < factor.stride(2)
        matrices = factor.transpose(1, 2) if turned else factor
        mine = factor.dtype == torch.float32 and _base(factor) == _base(self.parameters)
        if not mine or matrices.is_contiguous() or not matrices[0].is_contiguous():
            return factor
        found = self.dense.get(factor.data_ptr())
        if found is None or found.shape != matrices.shape:
            found = self.dense[factor.data_ptr()] = torch.empty_like(matrices, memory_format=torch.contiguous_format)
            self.num_bytes += found.nbytes
            calls.append(Call.copy(found, matrices))
        return found.transpose(1, 2) if turned else found

    def _slots(
        self, outputs: Sequence[fx.Node], placed: dict[int, Tensor]
    ) -> tuple[dict[fx.Node, Tensor], list[tuple[fx.Node, Tensor]], set[fx.Node]]:
        """How to fill ``placed``: what is written there, what is copied at the end, and what is then not needed."""
        slots: dict[fx.Node, Tensor] = {}
        copies: list[tuple[fx.Node, Tensor]] = []
        skipped: set[fx.Node] = set()
        for place, whole in placed.items():
            node = outputs[place]
            joined = node.target is torch.ops.aten.cat.default and node.args[1:] == (1,) and len(node.users) == 1
            parts: Any = node.args[0] if joined else [node]
            if joined:
                skipped.add(node)
            for part, out in zip(parts, whole.split([self.seen[p].shape[1] for p in parts], 1), strict=True):
                source = self._source(part) if joined else None
                if source is None or source in slots or self.seen[source].shape[0] != len(whole):
                    copies.append((part, out))
                else:
                    slots[source] = out.view(self.seen[source].shape)
        return slots, copies, skipped

    def _source(self, node: fx.Node) -> fx.Node | None:
        """The operation that computes what ``node`` is a view of, if both hold the same numbers in the same order."""
        numel = self.seen[node].numel()
        while self._is_view(node):
            node = node.all_input_nodes[0]
        value = self.seen[node]
        whole = isinstance(value, Tensor) and value.is_contiguous() and value.numel() == numel
        if node.op != "call_function" or not whole or mutates(node) or self._is_constant(node):
            return None
        return None if self.bases[node] & self.mutated else node

    def _memory(self, i: int, node: fx.Node, slots: dict[fx.Node, Tensor]) -> list[Tensor]:
        """Where the results of ``node`` go: their slot, the memory of an input that ends here, or a free buffer."""
        if node in slots:
            return [slots[node]]
        inputs = {b for m in node.all_input_nodes for b in self.bases[m]}
        results = [t for t in tensors(self.seen[node]) if _base(t) not in inputs]  # but for what it writes into
        if torch.Tag.pointwise in node.target.tags and len(results) == 1:  # pyright: ignore
            for used in node.all_input_nodes:
                if self._may_hold(i, used, results[0]):
                    (base,) = self.bases[used]
                    self.buffers[_base(results[0])] = self.buffers.pop(base)
                    return [self.values[used]]
        return [self._buffer(result) for result in results]

    def _buffer(self, result: Tensor) -> Tensor:
        """Memory for a tensor like ``result``, used again where there is some."""
        size = result.untyped_storage().nbytes()
        pool = self.free.get(size)
        if not pool:
            self.num_bytes += size
        buffer = pool.pop() if pool else torch.zeros(size, dtype=torch.uint8, device=result.device)
        self.buffers[_base(result)] = buffer
        out = torch.empty(0, dtype=result.dtype, device=result.device)
        return out.set_(buffer.untyped_storage(), result.storage_offset(), result.shape, result.stride())

    def _results(self, node: fx.Node, outs: list[Tensor]) -> Any:
        """What the graph sees as the value of ``node``: ``outs``, and inputs it wrote into, as it returned them."""
        seen, fresh = self.seen[node], iter(outs)
        inputs = {b: m for m in node.all_input_nodes for b in self.bases[m]}
        found = []
        for value in seen if isinstance(seen, (tuple, list)) else (seen,):
            if not isinstance(value, Tensor):
                found.append(value)
            elif _base(value) in inputs:
                found.append(self.values[inputs[_base(value)]])
            else:
                found.append(next(fresh))
        return tuple(found) if isinstance(seen, (tuple, list)) else found[0]

    def _calls(self, node: fx.Node, args: Any, kwargs: Any, outs: list[Tensor]) -> list[Call]:
        """The operation writing into ``outs``: by a variant of its own where there is one, else by a copy."""
        op: Any = node.target
        if not isinstance(op, torch._ops.OpOverload):
            raise Unplayable(f"{op} is no operation on tensors")
        if mutates(node) and not outs:
            return [Call(op, args, kwargs)]
        if op in WRITERS and len(outs) == 1:
            return WRITERS[op](outs[0], *args, **kwargs)
        if not mutates(node) and not is_random(node):
            seen_args, seen_kwargs = map_arg((node.args, node.kwargs), lambda n: self.seen[n])
            for variant in out_variants(op):
                if gives(variant, seen_args, seen_kwargs, tensors(self.seen[node]), outs):
                    writes, names, dropped = variant
                    kept = {k: v for k, v in kwargs.items() if k not in dropped}
                    return [Call(writes, args, kept | dict(zip(names, outs, strict=True)))]
        places = [i for i, t in enumerate(tensors(self.seen[node])) if _base(t) in self.buffers or not mutates(node)]
        return [Call(op, args, kwargs, tuple(zip(places, outs, strict=True)))]

    def _may_hold(self, i: int, used: fx.Node, result: Tensor) -> bool:
        """Whether a pointwise result may overwrite the value of ``used``, which nobody reads after step ``i``."""
        value = self.values[used]
        if not isinstance(value, Tensor) or len(self.bases[used]) != 1:
            return False
        (base,) = self.bases[used]
        alike = (value.shape, value.stride(), value.dtype) == (result.shape, result.stride(), result.dtype)
        alone = sum(base in self.bases[m] for m in self.nodes[i].all_input_nodes) == 1
        dense = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return alike and alone and dense and base in self.buffers and self.last[base] == i

    def _release(self, i: int, bases: set[int]) -> None:
        for base in bases:
            if self.last.get(base, -1) <= i and base in self.buffers:
                buffer = self.buffers.pop(base)
                self.free.setdefault(buffer.numel(), []).append(buffer)

    def _given(self, args: Any) -> Any:
        return map_arg(args, lambda node: self.values[node])

    def _is_view(self, node: fx.Node) -> bool:
        """Whether the node computes nothing: its result lies where its inputs do."""
        if node.op != "call_function" or mutates(node):
            return False
        inputs = {b for m in node.all_input_nodes for b in self.bases[m]}
        return node.target is operator.getitem or (bool(self.bases[node]) and self.bases[node] <= inputs)

    def _is_constant(self, node: fx.Node) -> bool:
        if node.op != "call_function" or is_random(node) or mutates(node) or self.bases[node] & self.mutated:
            return False
        return node.target in _OF_SHAPE_ALONE or all(m in self.constant for m in node.all_input_nodes)


def is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def written(node: fx.Node) -> list[fx.Node]:
    """Inputs that a mutating operation writes into."""
    if not mutates(node):
        return []
    schema: Any = node.target._schema  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    given = {**dict(zip((a.name for a in schema.arguments), node.args, strict=False)), **node.kwargs}
    written = [given.get(a.name) for a in schema.arguments if a.is_write]
    return [n for n in pytree.tree_leaves(written) if isinstance(n, fx.Node)]


def _run_once(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[fx.Node, Any]:
    """Every value of one run on copies of ``inputs``, all kept."""
    copies = iter([t.clone() for t in inputs])
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in list(graph.graph.nodes)[:-1]:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: values[n])
            if node.op == "placeholder":
                values[node] = next(copies)
            elif node.op == "get_attr":
                values[node] = getattr(graph, str(node.target)).clone()
            else:
                _refuse_changing_shapes(node, args)
                values[node] = node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
    return values


def _refuse_changing_shapes(node: fx.Node, args: Any) -> None:
    tags = getattr(node.target, "tags", ())
    by_mask = any(t.dtype in (torch.bool, torch.uint8) for t in tensors(args[1:2]))
    indexing = node.target in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default)
    if torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags or (indexing and by_mask):
        raise Unplayable(f"{node.target} gives results whose shape depends on the data")


def _base(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


_aten = torch.ops.aten
_OF_SHAPE_ALONE = {
    _aten.ones_like.default,
    _aten.zeros_like.default,
    _aten.full_like.default,
    _aten.empty_like.default,
    _aten.scalar_tensor.default,
    _aten.full.default,
    _aten.zeros.default,
    _aten.ones.default,
    _aten.arange.default,
    _aten.eye.default,
    _aten.arange.start,
    _aten.new_zeros.default,
    _aten.new_ones.default,
    _aten.new_full.default,
}
